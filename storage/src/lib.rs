//! One partition's log on a disk: synchronous, with no network, no runtime and no idea who is asking.

pub mod disk;
mod mmap;
