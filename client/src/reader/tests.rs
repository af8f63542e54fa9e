//! The reader against a broker that misbehaves.
