//! What is done with fuzzed bytes, by cargo-fuzz and, without it, by `tests/fuzz_seeds.rs`.
//!
//! A body takes any bytes. It must not panic, hang, or ask for memory that the size of its input does not explain;
//! that something is refused is as good as that it works.

// Each target compiles all of this and uses a part.
#![allow(dead_code)]

use super::support::{alphabet::byte_alphabet, touch::touch};
use arbitrary::{Arbitrary, Unstructured};
use cotvalve::chat::{Message, RenderOptions, Template, ToolCall};
use cotvalve::engine::{Engine, EngineOptions, Valve};
use cotvalve::error::Result;
use cotvalve::gguf::Gguf;
use cotvalve::map::Bytes;
use cotvalve::model::Model;
use cotvalve::sampler::Sampling;
use cotvalve::tokenizer::{Tokenizer, Vocab};
use cotvalve::valve::{Adapter, Dial, Scope};
use serde_json::json;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// A hostile template gets its error within this; code that checks and counts itself is some ten times slower.
const TEMPLATE_TIME: Duration = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 1 });

/// The model that fuzzed adapters are attached to: one of the seeds.
static BASE: LazyLock<Arc<Model>> = LazyLock::new(|| {
    let file = include_bytes!("seeds/model/q4_1.gguf").to_vec();
    parse(Bytes::from(file)).and_then(Model::new).expect("a seed is a sound model")
});

fn parse(bytes: Bytes) -> Result<Gguf> {
    Gguf::parse(Path::new("hostile.gguf"), bytes)
}

fn options() -> EngineOptions {
    EngineOptions { threads: 1, context: 64, batch: 16, ..EngineOptions::default() }
}

/// [`use_model`] of any bytes.
pub fn model(data: &[u8]) {
    let _ = use_model(Bytes::from(data.to_vec()));
}

/// A model file, taken as far as it goes: to two steps of decoding.
pub fn use_model(bytes: Bytes) -> Result<()> {
    let gguf = parse(bytes)?;
    touch(&gguf);
    let model = Model::new(gguf)?;
    let _ = model.tokenizer().encode("and the thing\n\n<|im_end|> 123 ἄλφα", true, true);
    let _ = model.render_chat(&[Message::new("user", "and the thing")]);
    think(&Engine::new(model, &options())?, None)
}

/// [`use_adapter`] of any bytes.
pub fn adapter(data: &[u8]) {
    let _ = use_adapter(&BASE, Bytes::from(data.to_vec()));
}

/// An adapter, taken as far as it goes: to two steps of decoding with it on `base`. What does not start as a GGUF file
/// is the two files of a folder that PEFT saved, with a NUL between them.
pub fn use_adapter(base: &Arc<Model>, bytes: Bytes) -> Result<()> {
    let adapter = if bytes.starts_with(b"GGUF") {
        Adapter::read(&parse(bytes)?, base.config(), base.has_output())?
    } else {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut files = bytes.splitn(2, |b| *b == 0);
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::write(folder.path().join(name), files.next().unwrap_or_default()).expect("a temporary file");
        }
        Adapter::open(folder.path(), base.config(), base.has_output())?
    };
    let engine = Engine::new(base.clone(), &options())?;
    let valve = engine.attach_adapter(adapter)?;
    think(&engine, Some(&valve))
}

/// A prompt of five tokens, one token drawn, one more decode step.
fn think(engine: &Engine, valve: Option<&Valve>) -> Result<()> {
    let vocab = engine.model().config().vocab as u32;
    let mut session = engine.session();
    if let Some(valve) = valve {
        session.set(valve, Dial::constant(1.0)?, Scope::All)?;
    }
    session.prompt(&[1, 2, 3, 4, 5].map(|id| id % vocab))?;
    for event in session.generate(&Sampling::default(), 1)? {
        event?;
    }
    session.extend(&[0])
}

const PRES: [&str; 12] = [
    "smollm",
    "gpt-2",
    "llama-bpe",
    "qwen2",
    "deepseek-r1-qwen",
    "smaug-bpe",
    "default",
    "gpt-4o",
    "tekken",
    "starcoder",
    "refact",
    "none such",
];
/// Token types of a sound vocabulary.
const NORMAL: i32 = 1;
const BYTE: i32 = 6;
const SPECIAL: [i32; 3] = [2, 3, 4];
/// Most merges, and most tokens that are neither bytes nor merged.
const MERGES_MAX: usize = 64;
const OTHERS_MAX: usize = 16;
/// What SentencePiece writes for a space.
const SPACE: char = '\u{2581}';

/// A vocabulary of byte-level BPE or of SentencePiece.
#[derive(Default)]
struct Words {
    sentence_piece: bool,
    pre: &'static str,
    tokens: Vec<String>,
    token_types: Vec<i32>,
    merges: Vec<String>,
    scores: Vec<f32>,
    /// bos, eos, eot, eom, unk, pad
    named: [Option<u32>; 6],
    add_bos: Option<bool>,
    add_eos: bool,
    add_space_prefix: Option<bool>,
    /// Whether every byte has a token, and every token the type it should have: then any text comes back.
    complete: bool,
}

/// A text of at most 7 bytes, before what is no UTF-8 in it is replaced.
fn short(u: &mut Unstructured<'_>) -> arbitrary::Result<String> {
    let len = u.int_in_range(0..=7)?;
    Ok(String::from_utf8_lossy(u.bytes(len)?).into_owned())
}

impl Words {
    /// Every byte, or the first of them.
    fn add_bytes(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        self.tokens = if self.sentence_piece {
            (0..256).map(|b| format!("<0x{b:02X}>")).collect()
        } else {
            byte_alphabet().into_iter().map(String::from).collect()
        };
        if !self.complete {
            self.tokens.truncate(u.int_in_range(1..=256)?);
        }
        self.token_types = vec![if self.sentence_piece { BYTE } else { NORMAL }; self.tokens.len()];
        if self.sentence_piece {
            for letter in [SPACE, 'a', 'b', 'é', '日'] {
                self.add(letter.into(), NORMAL);
            }
        }
        Ok(())
    }

    /// Adds a token, of a text that a complete vocabulary does not have yet.
    fn add(&mut self, text: String, ty: i32) {
        if !self.complete || !self.tokens.contains(&text) {
            self.tokens.push(text);
            self.token_types.push(ty);
        }
    }

    fn add_merges(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let first = if self.sentence_piece { self.tokens.len() - 5 } else { 0 };
        for _ in 0..u.int_in_range(0..=MERGES_MAX)? {
            let mut half = || u.choose_index(self.tokens.len() - first).map(|i| self.tokens[first + i].clone());
            let (left, right) = (half()?, half()?);
            self.add(format!("{left}{right}"), NORMAL);
            self.merges.push(format!("{left} {right}"));
        }
        Ok(())
    }

    fn add_others(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        for _ in 0..u.int_in_range(0..=OTHERS_MAX)? {
            let (text, ty) = (short(u)?, u.int_in_range(-1..=7)?);
            if !self.complete || SPECIAL.contains(&ty) {
                self.add(text, ty);
            }
        }
        Ok(())
    }
}

impl<'a> Arbitrary<'a> for Words {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let (sentence_piece, complete) = (u.arbitrary()?, u.ratio(3, 4)?);
        let pre = PRES[u.choose_index(PRES.len())?];
        let mut words = Self { sentence_piece, complete, pre, ..Self::default() };
        words.add_bytes(u)?;
        words.add_merges(u)?;
        words.add_others(u)?;
        for id in &mut words.named {
            if u.arbitrary()? {
                // One too many is one that does not exist.
                *id = Some(u.int_in_range(0..=words.tokens.len() as u32)?);
            }
        }
        (words.add_bos, words.add_eos, words.add_space_prefix) = u.arbitrary()?;
        if u.arbitrary()? {
            let score = |_: &String| u.arbitrary::<i8>().map(|score| f32::from(score) / 4.0);
            words.scores = words.tokens.iter().map(score).collect::<arbitrary::Result<_>>()?;
        }
        Ok(words)
    }
}

impl Words {
    fn tokenizer(&self) -> Result<Tokenizer> {
        let tokens: Vec<&str> = self.tokens.iter().map(String::as_str).collect();
        let merges: Vec<&str> = self.merges.iter().map(String::as_str).collect();
        let [bos, eos, eot, eom, unk, pad] = self.named;
        Tokenizer::new(&Vocab {
            model: if self.sentence_piece { "llama" } else { "gpt2" },
            pre: self.pre,
            tokens: &tokens,
            token_types: &self.token_types,
            merges: &merges,
            scores: &self.scores,
            bos,
            eos,
            eot,
            eom,
            unk,
            pad,
            add_bos: self.add_bos,
            add_eos: self.add_eos,
            add_space_prefix: self.add_space_prefix,
            ..Vocab::default()
        })
    }

    /// Whether `text` comes back as `whole`. SentencePiece writes spaces as a character that then stands for them, and
    /// puts some behind special tokens.
    fn returns(&self, text: &str, whole: &str) -> bool {
        if !self.sentence_piece {
            return whole == text;
        }
        let adds = self.add_space_prefix != Some(false) && self.token_types.iter().any(|ty| SPECIAL.contains(ty));
        adds || whole.replace(SPACE, " ") == text.replace(SPACE, " ")
    }
}

/// A vocabulary, then a text: what is encoded is in the vocabulary, decodes the same at once and piece by piece, and
/// is the text again if the vocabulary can write any.
pub fn tokenizer(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(words) = Words::arbitrary(&mut u) else { return };
    let Ok(tokenizer) = words.tokenizer() else { return };
    let text = String::from_utf8_lossy(u.take_rest());
    for parse_special in [false, true] {
        tokenizer.encode(&text, parse_special, true).expect("a text that is not long is encoded");
        let ids = tokenizer.encode(&text, parse_special, false).expect("a text that is not long is encoded");
        assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
        let whole = tokenizer.decode(&ids).expect("the tokens are the vocabulary's");
        let mut decoder = tokenizer.decoder();
        let mut pieces = String::new();
        for id in &ids {
            pieces += &decoder.push(tokenizer.token_bytes(*id).expect("a token of the vocabulary"));
        }
        pieces += &decoder.flush();
        assert_eq!(pieces, whole);
        assert!(!words.complete || words.returns(&text, &whole), "{text:?} came back as {whole:?}");
    }
}

/// A template, then, behind a NUL, what a user says: text or an error, soon.
pub fn template(data: &[u8]) {
    let mut parts = data.splitn(2, |b| *b == 0).map(String::from_utf8_lossy);
    let (source, said) = (parts.next().unwrap_or_default(), parts.next().unwrap_or("How much is it?".into()));
    let call = ToolCall { id: Some("call12345".into()), name: "price".into(), arguments: json!({"of": ["tea", 2]}) };
    let messages = [
        Message::new("system", "Be brief."),
        Message::new("user", said.as_ref()),
        Message { tool_calls: vec![call], ..Message::assistant("Ask.", "") },
        Message { name: Some("price".into()), ..Message::new("tool", "{\"price\": 4}") },
        Message::assistant("Say so.", "It is 4."),
        Message::new("user", "Why?"),
    ];
    let tool = json!({"type": "function", "function": {"name": "price", "parameters": {"type": "object"}}});
    let options = RenderOptions { add_generation_prompt: true, tools: vec![tool], ..RenderOptions::default() };
    let render = || {
        let start = Instant::now();
        if let Ok(template) = Template::new(&source, "<s>", "</s>") {
            let _ = template.render_with(&messages, &options);
            let _ = template.render(&messages[..2], false);
        }
        start.elapsed()
    };
    // A machine that has other things to do is no fault of the template.
    assert!((0..3).any(|_| render() <= TEMPLATE_TIME), "the template takes more than {TEMPLATE_TIME:?}");
}
