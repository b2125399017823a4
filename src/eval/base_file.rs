//! The file of log-probabilities that divergence is measured against, as llama.cpp's `--save-all-logits` writes it.
//!
//! Little endian: `_logits_`, then as i32 the tokens of a chunk C, the vocabulary V, the number of chunks N, and the
//! N·C tokens of the text. Then for each chunk its scored rows but the last, C − 1 − C/2 of them, each with a scale and
//! a smallest log-probability as f32 and V codes as u16, one more where V is odd: ln p = smallest + scale · code. A row
//! reaches 16 nats down from its likeliest token; what lies below has code 0.

use super::chunks::Chunks;
use super::rows::log_sum_exp;
use crate::error::{Error, Result};
use crate::gguf::write::PartFile;
use crate::map::Bytes;
use std::io::Write;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"_logits_";
/// Bytes before the tokens.
const HEADER_BYTES: usize = MAGIC.len() + 3 * 4;
/// Bytes before the codes of a row.
const ROW_HEADER_BYTES: usize = 8;
/// How far below the likeliest token a row reaches.
const REACH: f32 = 16.0;

/// A file of log-probabilities, mapped.
pub struct BaseFile {
    path: PathBuf,
    bytes: Bytes,
    chunks: Chunks,
    vocab: usize,
}

/// The log-probabilities of one position.
#[derive(Clone, Copy, Debug)]
pub struct CodedRow<'a> {
    scale: f32,
    smallest: f32,
    codes: &'a [u8],
}

impl CodedRow<'_> {
    /// ln p of a token.
    pub fn log_probability(&self, token: usize) -> f64 {
        let code = u16::from_le_bytes([self.codes[2 * token], self.codes[2 * token + 1]]);
        f64::from(self.scale * f32::from(code) + self.smallest)
    }
}

/// Scored positions of a chunk of `context` tokens.
fn scored(context: usize) -> usize {
    context - 1 - context / 2
}

/// Bytes of a row over a vocabulary.
fn row_bytes(vocab: usize) -> Option<usize> {
    vocab.checked_next_multiple_of(2)?.checked_mul(2)?.checked_add(ROW_HEADER_BYTES)
}

/// Bytes of a whole file.
fn file_bytes(context: usize, vocab: usize, chunks: usize) -> Option<usize> {
    let tokens = context.checked_mul(4)?;
    let rows = row_bytes(vocab)?.checked_mul(scored(context))?;
    tokens.checked_add(rows)?.checked_mul(chunks)?.checked_add(HEADER_BYTES)
}

impl BaseFile {
    /// Maps a file and reads all of it but the rows.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for what is no such file, for sizes that do not agree with each other or
    /// with the file's, and for a token outside the vocabulary.
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(path, Bytes::map(path)?)
    }

    /// The same, of bytes at hand; `path` is for messages.
    ///
    /// # Errors
    /// Those of [`BaseFile::open`].
    pub fn parse(path: &Path, bytes: Bytes) -> Result<Self> {
        let malformed = |what: String| Err(Error::malformed(path, what));
        if !bytes.starts_with(MAGIC) {
            return malformed("is not a file of log-probabilities: it does not begin with _logits_".into());
        }
        let Some(header) = bytes.get(MAGIC.len()..HEADER_BYTES) else {
            return malformed(format!("ends in its header, after {} bytes", bytes.len()));
        };
        let mut sizes = [0; 3];
        let names = ["tokens of a chunk", "tokens of the vocabulary", "chunks"];
        for ((size, least), (name, field)) in sizes.iter_mut().zip([3, 1, 1]).zip(names.iter().zip(header.chunks(4))) {
            let value = i32::from_le_bytes([field[0], field[1], field[2], field[3]]);
            match usize::try_from(value) {
                Ok(value) if value >= least => *size = value,
                _ => return malformed(format!("{value} {name}; {least} is the least")),
            }
        }
        let [context, vocab, count] = sizes;
        if file_bytes(context, vocab, count) != Some(bytes.len()) {
            let what = format!("{count} chunks of {context} tokens over a vocabulary of {vocab}");
            let needed = file_bytes(context, vocab, count).map_or("more than can be".into(), |n| n.to_string());
            return malformed(format!("{what} take {needed} bytes and the file has {}", bytes.len()));
        }
        let tokens = bytes[HEADER_BYTES..HEADER_BYTES + 4 * context * count].chunks_exact(4);
        let tokens: Vec<u32> = tokens.map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        if let Some(token) = tokens.iter().find(|token| **token as usize >= vocab) {
            return malformed(format!("token {token} is not one of its {vocab}"));
        }
        Ok(Self { path: path.into(), chunks: Chunks::of_base(tokens, context), bytes, vocab })
    }

    /// Checks that the file was made with a vocabulary of this size.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming both sizes.
    pub fn check_vocab(&self, vocab: usize) -> Result<()> {
        if self.vocab == vocab {
            return Ok(());
        }
        Err(Error::malformed(&self.path, format!("was made with {} tokens; the model has {vocab}", self.vocab)))
    }

    /// Its text, in the chunks that it was read in.
    pub fn chunks(&self) -> &Chunks {
        &self.chunks
    }

    /// The `row`-th scored position of a chunk.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a scale or a smallest value that no row of probabilities has.
    pub fn row(&self, chunk: usize, row: usize) -> Result<CodedRow<'_>> {
        let context = self.chunks.context();
        let bytes = row_bytes(self.vocab).unwrap_or_default();
        let rows = HEADER_BYTES + 4 * context * self.chunks.count();
        let at = rows + (chunk * scored(context) + row) * bytes;
        let (header, codes) = self.bytes[at..at + bytes].split_at(ROW_HEADER_BYTES);
        let [scale, smallest] =
            [0, 4].map(|i| f32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]));
        let reaches = scale * f32::from(u16::MAX) + smallest;
        // Rounding can lift the likeliest token of a sure row by a little.
        if !(scale >= 0.0 && smallest.is_finite() && reaches <= 1e-3) {
            let what = format!("chunk {}, row {row}: scale {scale}, smallest {smallest}", chunk + 1);
            return Err(Error::malformed(&self.path, what));
        }
        Ok(CodedRow { scale, smallest, codes })
    }
}

/// Writes such a file, chunk by chunk, under another name until it is whole.
pub struct BaseWriter {
    path: PathBuf,
    part: PartFile,
    /// Rows still to come.
    left: usize,
}

impl BaseWriter {
    /// Begins the file of the log-probabilities of `chunks`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Argument`] for strides, which the format has no place for, and for sizes beyond its
    /// 31 bits.
    pub fn create(path: &Path, chunks: &Chunks, vocab: usize) -> Result<Self> {
        if chunks.is_strided() {
            return Err(Error::argument("save-logits", "the file has no place for strides"));
        }
        let size = |value: usize| {
            i32::try_from(value).map_err(|_| Error::argument("save-logits", format!("{value} is beyond 31 bits")))
        };
        let mut header = MAGIC.to_vec();
        for value in [chunks.context(), vocab, chunks.count()] {
            header.extend(size(value)?.to_le_bytes());
        }
        header.extend(chunks.read_tokens().iter().flat_map(|token| token.to_le_bytes()));
        let mut part = PartFile::create(path)?;
        part.out.write_all(&header).map_err(|e| Error::io(path, e))?;
        Ok(Self { path: path.into(), part, left: chunks.count() * scored(chunks.context()) })
    }

    /// One scored position, as [`BaseWriter::code`] makes it of its logits, in order.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn row(&mut self, coded: &[u8]) -> Result<()> {
        self.left = self.left.saturating_sub(1);
        self.part.out.write_all(coded).map_err(|e| Error::io(&self.path, e))
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Argument`] if rows are missing: no file is then left.
    pub fn finish(self) -> Result<()> {
        if self.left > 0 {
            return Err(Error::argument("save-logits", format!("{} rows are missing", self.left)));
        }
        self.part.finish()
    }

    /// The bytes of one row of logits.
    pub fn code(logits: &[f32]) -> Vec<u8> {
        let (largest, _, total) = log_sum_exp(logits);
        let smallest = logits.iter().copied().fold(largest, f32::min).max(largest - REACH);
        let scale = (largest - smallest) / f32::from(u16::MAX);
        let mut bytes = Vec::with_capacity(row_bytes(logits.len()).unwrap_or_default());
        bytes.extend(scale.to_le_bytes());
        bytes.extend((smallest - largest - total as f32).to_le_bytes());
        let per_nat = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let code = |logit: &f32| (per_nat * (logit - smallest)).max(0.0).round_ties_even() as u16;
        bytes.extend(logits.iter().flat_map(|logit| code(logit).to_le_bytes()));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}
