//! Models: what a file says, its weights on a backend, and the forward pass over them.

mod config;
mod forward;
mod load;
mod vocab;

pub use config::{ARCHITECTURES, Architecture, Config};
pub use forward::{Forward, Stage, StageSpec};
pub use load::{FanKind, Layer, Site, Weights};

pub(crate) use config::floats;

use crate::error::Result;
use crate::gguf::Gguf;
use crate::tokenizer::Tokenizer;
use std::path::Path;
use std::sync::Arc;

/// A model file: mapped, checked, immutable. Engines share it by `Arc`.
pub struct Model {
    gguf: Gguf,
    config: Config,
    tokenizer: Tokenizer,
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
        let tokenizer = vocab::tokenizer(&gguf, config.vocab)?;
        Ok(Arc::new(Self { gguf, config, tokenizer }))
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

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Whether the output projection is a tensor of its own, not the embedding's.
    pub fn has_output(&self) -> bool {
        self.gguf.info("output.weight").is_some()
    }
}
