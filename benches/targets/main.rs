//! The figures that must be reached, each beside its base.
fn main() {}
