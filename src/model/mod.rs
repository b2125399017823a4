//! Models: what a file says, its weights on a backend, and the forward pass over them.

mod config;
mod forward;
mod load;

pub use config::{ARCHITECTURES, Architecture, Config};
pub use forward::{Forward, Stage, StageSpec};
pub use load::{FanKind, Layer, Site, Weights};

pub(crate) use config::floats;

use crate::error::Result;
use crate::gguf::Gguf;
use std::path::Path;
use std::sync::Arc;

/// A model file: mapped, checked, immutable. Engines share it by `Arc`.
#[derive(Debug)]
pub struct Model {
    gguf: Gguf,
    config: Config,
}

impl Model {
    /// Maps a GGUF file and reads its keys. The weights stay in the file.
    ///
    /// # Errors
    /// [`Error::Io`](crate::error::Error::Io), [`Error::Malformed`](crate::error::Error::Malformed) or
    /// [`Error::Unsupported`](crate::error::Error::Unsupported), naming the file and what is wrong with it.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>> {
        Self::new(Gguf::open(path.as_ref())?)
    }

    /// The same, of a file already read.
    pub fn new(gguf: Gguf) -> Result<Arc<Self>> {
        let config = Config::read(&gguf)?;
        Ok(Arc::new(Self { gguf, config }))
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The file: its metadata and tensors.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    pub fn path(&self) -> &Path {
        self.gguf.path()
    }

    /// Whether `token` ends an answer.
    pub fn is_end(&self, token: u32) -> bool {
        self.gguf.u32("tokenizer.ggml.eos_token_id").ok().flatten() == Some(token)
    }

    /// Whether the output projection is a tensor of its own, not the embedding's.
    pub fn has_output(&self) -> bool {
        self.gguf.info("output.weight").is_some()
    }
}
