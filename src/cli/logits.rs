//! `valve logits`: the logits after every token of a text, as a NumPy file.

use super::options::ModelArgs;
use clap::{ArgGroup, Args};
use cotvalve::error::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

#[derive(Args)]
#[command(group(ArgGroup::new("input").args(["file", "ids"]).required(true)))]
pub struct Logits {
    #[command(flatten)]
    model: ModelArgs,
    /// Text file, tokenized without a template
    #[arg(short, long, value_name = "TEXT")]
    file: Option<PathBuf>,
    /// File of token ids (a JSON array) in place of a text
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Where to write: .npy, f32 [positions, vocab]
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Logits {
    pub fn run(self) -> Result<()> {
        let loaded = self.model.load()?;
        let vocab = loaded.engine.model().config().vocab;
        let tokens = match (&self.file, &self.ids) {
            (Some(path), _) => loaded.engine.model().tokenizer().encode(&read(path)?, true, true)?,
            (None, Some(path)) => read_ids(path, vocab)?,
            (None, None) => Vec::new(),
        };
        let io = |source| Error::Io { path: self.out.clone(), source };
        let mut session = loaded.session()?;
        session.prompt(&tokens)?;
        let mut out = BufWriter::new(File::create(&self.out).map_err(io)?);
        out.write_all(&npy_header(tokens.len(), vocab)).map_err(io)?;
        session.score(|_, logits| logits.iter().try_for_each(|l| out.write_all(&l.to_le_bytes())).map_err(io))?;
        out.flush().map_err(io)
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })
}

/// The ids of a JSON file, each below `vocab`.
fn read_ids(path: &Path, vocab: usize) -> Result<Vec<u32>> {
    let malformed = |what| Error::Malformed { path: path.into(), what };
    let ids: Vec<u32> =
        serde_json::from_str(&read(path)?).map_err(|e| malformed(format!("not a JSON array of ids: {e}")))?;
    if ids.is_empty() {
        return Err(malformed("it holds no ids".into()));
    }
    match ids.iter().find(|id| **id as usize >= vocab) {
        Some(id) => Err(malformed(format!("id {id} is not one of the model's {vocab}"))),
        None => Ok(ids),
    }
}

/// The header of a NumPy 1.0 file of little-endian f32 `[rows, cols]`, padded to a multiple of 64 bytes.
fn npy_header(rows: usize, cols: usize) -> Vec<u8> {
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    let unpadded = 10 + text.len() + 1;
    text.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((text.len() as u16).to_le_bytes());
    header.extend(text.as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::npy_header;

    #[test]
    fn the_header_is_aligned_and_says_its_length() {
        for (rows, cols) in [(1, 1), (512, 49_152), (123_456, 128_256)] {
            let header = npy_header(rows, cols);
            assert!(header.len().is_multiple_of(64) && header.ends_with(b"\n"));
            assert_eq!(usize::from(u16::from_le_bytes([header[8], header[9]])) + 10, header.len());
        }
    }
}
