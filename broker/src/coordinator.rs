//! Coordinators: state machines whose state is what was written to a partition of an internal topic, and nothing else.
//!
//! `machine.rs` is what a machine is.

mod machine;
