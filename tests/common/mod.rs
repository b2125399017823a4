//! What several tests need.

pub mod metadata;
