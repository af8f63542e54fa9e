//! One partition.
