//! What can go wrong, as a caller can act on it.

use std::path::PathBuf;

/// The result of every fallible call of this library.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. Each message names the file, field or argument at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A file is damaged, cut short or lies about itself.
    #[error("{}: {what}", path.display())]
    Malformed { path: PathBuf, what: String },
    /// A file is well formed but asks for something this engine does not do.
    #[error("{}: not supported: {what}", path.display())]
    Unsupported { path: PathBuf, what: String },
    /// An adapter does not fit the model it is attached to.
    #[error("adapter {}: {what}", path.display())]
    Adapter { path: PathBuf, what: String },
    /// A saved session cannot be taken up by this engine; `what` starts with the field at fault.
    #[error("session {}: {what}", path.display())]
    Session { path: PathBuf, what: String },
    /// An argument is out of its range; `name` is the field or flag.
    #[error("{name}: {reason}")]
    Argument { name: &'static str, reason: String },
    /// The model's chat template failed or exceeded its limits.
    #[error("chat template: {0}")]
    Template(String),
    /// Text could not be turned into tokens, or tokens into text.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The conversation no longer fits the context.
    #[error("the context is full: {needed} tokens are needed and {capacity} fit")]
    ContextFull { needed: usize, capacity: usize },
    /// The sessions of an engine together hold more than its cache has room for.
    #[error("the cache is full: {needed} more tokens need a place and the other sessions leave {free}")]
    CacheFull { needed: usize, free: usize },
    /// The caller asked for the work to stop.
    #[error("cancelled")]
    Cancelled,
    /// A device (GPU driver, CUDA call) failed; `what` names the call, kernel and shape.
    #[error("{device}: {what}")]
    Device { device: String, what: String },
    /// A model could not be fetched.
    #[error("pull {name}: {what}")]
    Pull { name: String, what: String },
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    pub(crate) fn malformed(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Malformed { path: path.into(), what: what.into() }
    }

    pub(crate) fn unsupported(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.into(), what: what.into() }
    }

    pub(crate) fn adapter(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Adapter { path: path.into(), what: what.into() }
    }

    pub(crate) fn argument(name: &'static str, reason: impl Into<String>) -> Self {
        Self::Argument { name, reason: reason.into() }
    }
}
