//! The coordinators' runtime: replayed state machines on partitions of internal topics.

mod groups;
pub(crate) mod machine;
