//! `valve tokenize`: the token ids of a text.

use super::options::DEFAULT_MODEL;
use super::{override_kv, pull};
use cotvalve::error::{Error, Result};
use cotvalve::model;
use cotvalve::tokenizer::Tokenizer;
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// Shows how a model sees a text: one token a line, id and piece.
#[derive(clap::Args, Debug)]
pub struct Tokenize {
    /// The text; without it and without -f, standard input is read.
    pub text: Option<String>,
    /// Reads the text from a file.
    #[arg(short, long, value_name = "FILE", conflicts_with = "text")]
    pub file: Option<PathBuf>,
    /// Model file, or one with a vocabulary alone (GGUF); without it the default model is pulled once.
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// Sets a key of the model file; TYPE is int, float, bool or str; repeatable.
    #[arg(long, value_name = "KEY=TYPE:VALUE")]
    pub override_kv: Vec<String>,
    /// Writes a JSON array of {"id", "piece"}.
    #[arg(long)]
    pub json: bool,
    /// Reads special tokens such as <|im_start|> in the text as themselves.
    #[arg(long)]
    pub special: bool,
}

impl Tokenize {
    /// Writes the tokens of the text to standard output.
    ///
    /// # Errors
    /// If the file has no vocabulary that is supported, the text can not be read or is not UTF-8, or the output can
    /// not be written.
    pub fn run(self) -> Result<()> {
        let path = match &self.model {
            Some(path) => path.clone(),
            None => pull::ensure(DEFAULT_MODEL, false)?.path,
        };
        let tokenizer = model::tokenizer(&override_kv::open(&path, &self.override_kv)?)?;
        let text = self.text()?;
        let ids = tokenizer.encode(&text, self.special, false)?;
        let out = io::BufWriter::new(io::stdout().lock());
        write_tokens(out, &tokenizer, &ids, self.json)
    }

    fn text(&self) -> Result<String> {
        if let Some(text) = &self.text {
            return Ok(text.clone());
        }
        let mut text = String::new();
        match &self.file {
            Some(path) => {
                text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.clone(), source })?
            }
            None => drop(io::stdin().read_to_string(&mut text).map_err(|e| io_error("standard input", e))?),
        }
        Ok(text)
    }
}

fn io_error(name: &str, source: io::Error) -> Error {
    Error::Io { path: name.into(), source }
}

fn write_tokens(mut out: impl Write, tokenizer: &Tokenizer, ids: &[u32], json: bool) -> Result<()> {
    let mut tokens = Vec::with_capacity(ids.len());
    for id in ids {
        tokens.push((*id, tokenizer.piece(*id)?));
    }
    let written = if json {
        let array: Vec<_> = tokens.iter().map(|(id, piece)| serde_json::json!({ "id": id, "piece": piece })).collect();
        writeln!(out, "{}", serde_json::Value::from(array))
    } else {
        // A piece stays on its line.
        tokens.iter().try_for_each(|(id, piece)| writeln!(out, "{id}\t{}", piece.escape_debug()))
    };
    match written.and_then(|()| out.flush()) {
        // The reader has had enough, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| io_error("standard output", e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cotvalve::tokenizer::Vocab;

    #[test]
    fn one_token_a_line_or_one_array() {
        let vocab = Vocab { model: "gpt2", pre: "gpt-2", tokens: &["a", "Ċ", "Ġ"], ..Vocab::default() };
        let tokenizer = Tokenizer::new(&vocab).unwrap();
        let ids = tokenizer.encode("a\n a", false, false).unwrap();
        let write = |json| {
            let mut out = Vec::new();
            write_tokens(&mut out, &tokenizer, &ids, json).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(write(false), "0\ta\n1\t\\n\n2\t \n0\ta\n");
        let array: Vec<serde_json::Value> = serde_json::from_str(&write(true)).unwrap();
        assert_eq!(array.len(), 4);
        assert_eq!(array[1], serde_json::json!({ "id": 1, "piece": "\n" }));
    }
}
