//! The producer against a broker that misbehaves.
