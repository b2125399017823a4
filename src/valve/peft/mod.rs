//! Adapters as Hugging Face's PEFT saves them: a folder with `adapter_config.json` and
//! `adapter_model.safetensors`.

mod config;
mod json;
mod names;
mod read;
mod write;

pub(super) use read::{Notes, notes, open};
pub(super) use write::{Terms, write};

/// What describes the adapter.
const CONFIG_FILE: &str = "adapter_config.json";
/// Its tensors.
const TENSOR_FILE: &str = "adapter_model.safetensors";
/// Our own file beside these two: GGUF metadata that PEFT has no place for.
const NOTES_FILE: &str = "valve.json";
