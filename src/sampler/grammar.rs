//! Answers that follow a grammar: llguidance says which tokens may come next.

use super::gbnf;
use super::settings::{Grammar, Sampling};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{ParserFactory, TokenParser};
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};

/// A result of reading a grammar; an error says what is wrong with it.
type Read<T> = std::result::Result<T, String>;

/// Longest text of a schema or grammar, in bytes.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Stack of the thread that reads one: parsers recurse as deep as brackets nest.
const STACK_BYTES: usize = 256 << 20;
/// Deepest nesting of brackets in a Lark grammar, those in strings too; serde_json has a limit of its own for JSON.
const LARK_DEPTH_MAX: usize = 1000;
/// Longest token that an answer under a grammar may use, in bytes; the trie of tokens is as deep as they are long.
const TOKEN_BYTES_MAX: usize = 256;
/// What may stand between the parts of a JSON document.
const BLANKS: &str = r"\x20|\x0A[\x20\x09]{0,20}";
/// Earley items of one step. A grammar of single characters needs many where nearly all tokens are allowed.
const STEP_ITEMS_MAX: usize = 4_000_000;

/// What the samplers of one tokenizer share: its tokens as a trie, made when the first grammar is asked for.
#[derive(Default)]
pub struct Grammars(OnceLock<Read<Arc<ParserFactory>>>);

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl Grammars {
    /// # Errors
    /// [`Error::Argument`] for a grammar that is malformed or too large.
    pub(super) fn matcher(&self, sampling: &Sampling, tokenizer: &Tokenizer) -> Result<Option<Matcher>> {
        let Some(grammar) = &sampling.grammar else { return Ok(None) };
        let (name, text) = match grammar {
            Grammar::JsonSchema(text) => ("json_schema", text),
            Grammar::Gbnf(text) | Grammar::Lark(text) => ("grammar", text),
        };
        if text.len() > TEXT_BYTES_MAX {
            return Err(refused(name, format!("{} bytes; {TEXT_BYTES_MAX} can be read", text.len())));
        }
        let inner = on_deep_stack(|| {
            let factory = self.0.get_or_init(|| factory(tokenizer)).clone()?;
            parser(&factory, grammar)
        });
        let inner = llguidance::Matcher::new(Ok(inner.map_err(|reason| refused(name, reason))?));
        let after = sampling.grammar_after.as_bytes();
        let wait = (!after.is_empty()).then(|| Wait { after: after.into(), seen: Vec::new() });
        Ok(Some(Matcher { inner, name, wait }))
    }
}

/// The state of one answer.
pub(super) struct Matcher {
    inner: llguidance::Matcher,
    /// The field that the grammar came in.
    name: &'static str,
    /// What the grammar still waits for.
    wait: Option<Wait>,
}

/// Text after which a grammar begins to hold.
struct Wait {
    after: Vec<u8>,
    /// The end of the answer, no longer than needed.
    seen: Vec<u8>,
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Matcher {
    /// Makes the logits of tokens that may not come next −∞, and those of the others numbers. End tokens may come
    /// where the grammar is complete, and alone where nothing can follow.
    ///
    /// # Errors
    /// [`Error::Argument`] if the grammar is too complex to go on with.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        if self.wait.is_some() {
            let env = self.inner.tok_env().map_err(|e| failed(self.name, &e))?;
            env.tok_trie().eos_tokens().iter().for_each(|end| logits[*end as usize] = f32::NEG_INFINITY);
            return Ok(());
        }
        let allowed = self.inner.compute_mask_or_eos().map_err(|e| failed(self.name, &e))?;
        for (word, logits) in allowed.as_slice().iter().zip(logits.chunks_mut(u32::BITS as usize)) {
            for (bit, logit) in logits.iter_mut().enumerate() {
                // A token that the grammar asks for must not be lost to a model that finds it impossible.
                *logit = if word >> bit & 1 == 1 { logit.max(f32::MIN) } else { f32::NEG_INFINITY };
            }
        }
        Ok(())
    }

    /// Goes on by a token.
    ///
    /// # Errors
    /// Those of [`Matcher::mask`].
    pub fn accept(&mut self, token: u32) -> Result<()> {
        if let Some(wait) = &mut self.wait {
            let env = self.inner.tok_env().map_err(|e| failed(self.name, &e))?;
            wait.seen.extend_from_slice(&env.tok_trie().decode_raw(&[token]));
            if wait.seen.windows(wait.after.len()).any(|part| part == wait.after) {
                self.wait = None;
            } else {
                let old = wait.seen.len().saturating_sub(wait.after.len() - 1);
                wait.seen.drain(..old);
            }
            return Ok(());
        }
        if self.inner.is_stopped() {
            return Ok(());
        }
        self.inner.consume_token(token).map_err(|e| failed(self.name, &e))
    }
}

/// Runs `work` on a thread whose stack holds the recursion that a hostile text causes.
fn on_deep_stack<T: Send>(work: impl FnOnce() -> Read<T> + Send) -> Read<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let thread = thread.map_err(|e| format!("no thread to read it on: {e}"))?;
        thread.join().unwrap_or_else(|_| Err("it can not be read".into()))
    })
}

/// What makes parsers for the tokens of `tokenizer`.
fn factory(tokenizer: &Tokenizer) -> Read<Arc<ParserFactory>> {
    let ids = 0..tokenizer.vocab_size() as u32;
    let ends: Vec<u32> = ids.clone().filter(|id| tokenizer.is_end(*id)).collect();
    let Some(end) = ends.first() else { return Err("the model has no token that ends an answer".into()) };
    let words: Vec<Vec<u8>> = ids.map(|id| word(tokenizer, id)).collect();
    let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, *end), &words).with_eos_tokens(&ends);
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new_simple(&env).map_err(|e| first_line(&e))?;
    factory.quiet();
    factory.limits_mut().verbose_errors = false;
    factory.limits_mut().step_max_items = STEP_ITEMS_MAX;
    Ok(Arc::new(factory))
}

/// A token as the trie knows it: control tokens marked, and what no text of a grammar can hold left out.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    const MARK: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    match bytes {
        _ if bytes.len() > TOKEN_BYTES_MAX || bytes.first() == Some(&MARK) => Vec::new(),
        _ if tokenizer.is_control(id) || tokenizer.is_end(id) => [&[MARK], bytes].concat(),
        _ => bytes.to_vec(),
    }
}

fn parser(factory: &ParserFactory, grammar: &Grammar) -> Read<TokenParser> {
    let grammar = match grammar {
        Grammar::JsonSchema(text) => TopLevelGrammar::from_json_schema(schema(text)?),
        Grammar::Gbnf(text) => TopLevelGrammar::from_lark(gbnf::to_lark(text)?),
        Grammar::Lark(text) => {
            check_depth(text)?;
            TopLevelGrammar::from_lark(text.clone())
        }
    };
    factory.create_parser(grammar).map_err(|e| first_line(&e))
}

/// A schema, with llama.cpp's bound on blanks between its parts: a model that is lost goes on with them for ever.
fn schema(text: &str) -> Read<Value> {
    let mut schema: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if let Some(fields) = schema.as_object_mut() {
        fields.entry("x-guidance").or_insert_with(|| json!({ "whitespace_pattern": BLANKS }));
    }
    Ok(schema)
}

fn check_depth(text: &str) -> Read<()> {
    let mut depth = 0_usize;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth > LARK_DEPTH_MAX {
            return Err(format!("brackets nest deeper than {LARK_DEPTH_MAX}"));
        }
    }
    Ok(())
}

fn refused(name: &'static str, reason: String) -> Error {
    Error::argument(name, reason)
}

fn failed(name: &'static str, error: &impl ToString) -> Error {
    refused(name, first_line(error))
}

/// What an error says; the rest of llguidance's messages dumps its state.
fn first_line(error: &impl ToString) -> String {
    match error.to_string().lines().next() {
        Some("NoExtensionBias") | None => "no answer can follow it".into(),
        Some(line) => line.into(),
    }
}
