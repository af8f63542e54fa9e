//! The listener as its clients meet it: over a socket, against a broker in memory. What is sent and read is in the words
//! of the codec, so that it is the handlers that are under test, and every answer is held against what the codec would
//! have written.

mod client;
mod connections;
mod every_api;
mod old_versions;
mod records;

use client::{Client, batch, broker, create_topic, value};
