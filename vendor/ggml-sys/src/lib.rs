//! Bindings to ggml.
