//! Models: what a file says, its weights on a backend, and the forward pass over them.

mod chain;
mod config;
mod forward;
mod load;
mod logits;
pub mod quantize;
pub mod synth;
mod vocab;

pub use chain::Chain;
pub use config::{ARCHITECTURES, Architecture, Config};
pub use forward::{Forward, Part, Stage, StageSpec};
pub use load::{FanKind, Layer, Portion, Site, Weights};
pub use logits::Logits;
pub use vocab::tokenizer;

use crate::chat::{Message, RenderOptions, Template, ThoughtTags};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::tokenizer::Tokenizer;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// A model file: mapped, checked, immutable. Engines share it by `Arc`.
pub struct Model {
    gguf: Gguf,
    config: Config,
    tokenizer: Tokenizer,
    fingerprint: OnceLock<[u8; 32]>,
}

impl Model {
    /// Maps a GGUF file and reads its keys. The weights stay in the file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`] or [`Error::Unsupported`], naming the file and what is wrong with it.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>> {
        Self::new(Gguf::open(path.as_ref())?)
    }

    /// The same, of a file already read.
    pub fn new(gguf: Gguf) -> Result<Arc<Self>> {
        let config = Config::read(&gguf)?;
        let tokenizer = tokenizer(&gguf)?;
        if tokenizer.vocab_size() != config.vocab {
            let what = format!("{} tokens for {} embeddings", tokenizer.vocab_size(), config.vocab);
            return Err(Error::malformed(gguf.path(), what));
        }
        Ok(Arc::new(Self { gguf, config, tokenizer, fingerprint: OnceLock::new() }))
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

    /// SHA-256 of the file, or of all shards in order. It reads the whole file when it is first asked for: keys and
    /// values are good for these weights alone, and no part of them says which they are.
    pub fn fingerprint(&self) -> [u8; 32] {
        *self.fingerprint.get_or_init(|| {
            let mut hash = Sha256::new();
            self.gguf.shards().iter().for_each(|shard| hash.update(&*shard.bytes));
            hash.finalize().into()
        })
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The file's chat template, compiled; `None` if it has none. A file whose template is broken can still be
    /// used without it.
    ///
    /// # Errors
    /// [`Error::Template`] if it does not compile.
    pub fn template(&self) -> Result<Option<Template>> {
        let Some(source) = self.gguf.str("tokenizer.chat_template")? else { return Ok(None) };
        let text = |id: Option<u32>| id.map_or(Ok("".into()), |id| self.tokenizer.piece(id));
        Template::new(source, &text(self.tokenizer.bos())?, &text(self.tokenizer.eos())?).map(Some)
    }

    /// What the model writes around its thought, as its chat template has it; `None` if that knows no thought.
    pub fn thought_tags(&self) -> Option<ThoughtTags> {
        // A template of the wrong type is an error where it is to be rendered.
        self.gguf.str("tokenizer.chat_template").ok().flatten().and_then(ThoughtTags::of)
    }

    /// A conversation as the model was trained to read it, up to where its answer starts.
    ///
    /// # Errors
    /// [`Error::Template`] if the file has no template, or it fails or exceeds its limits.
    pub fn render_chat(&self, messages: &[Message]) -> Result<String> {
        self.render_chat_with(messages, &RenderOptions::answer())
    }

    /// The same with tools, variables of the template, or without the start of an answer.
    ///
    /// # Errors
    /// Those of [`Model::render_chat`].
    pub fn render_chat_with(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        match self.template()? {
            Some(template) => template.render_with(messages, options),
            None => Err(Error::Template(format!("{} has none", self.path().display()))),
        }
    }

    /// Whether the output projection is a tensor of its own, not the embedding's.
    pub fn has_output(&self) -> bool {
        self.gguf.info("output.weight").is_some()
    }
}
