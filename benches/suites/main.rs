//! Criterion suites of every layer.
fn main() {}
