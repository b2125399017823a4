//! What a model makes of a text: perplexity, and the distance of its predictions from those of another.
//!
//! A text is cut into chunks that are read on their own, each from an empty cache, and only the second half of a chunk
//! is scored, where the model has had some context. Numbers, words and the file of log-probabilities are those of
//! llama.cpp's `llama-perplexity`, so that either program goes on from what the other made.

mod base_file;
mod chunks;
mod divergence;
mod rows;
mod score;
mod statistics;

pub use base_file::{BaseFile, BaseWriter, CodedRow};
pub use chunks::{Chunks, Cut};
pub use divergence::{Divergence, Percentiles, RowDivergence};
pub use rows::{BaseRow, log_sum_exp, map_rows, negative_log_likelihood};
pub use score::{ChunkScores, Scorer};
pub use statistics::{Estimate, Moments};
