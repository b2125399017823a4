//! Of `tests/support`, what the bodies use.

#[path = "../support/alphabet.rs"]
pub mod alphabet;
#[path = "../support/touch.rs"]
pub mod touch;
