//! Coordinators: state machines whose state is what was written to a partition of an internal topic, and nothing else.
//!
//! `machine.rs` is what a machine is; `groups.rs` is the one for consumer groups and committed offsets.

mod groups;
mod machine;
