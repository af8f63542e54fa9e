//! The program `logweir`.
mod input;
mod time;
