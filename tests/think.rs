//! A valve that acts on the thought alone.

mod support;

use cotvalve::backend::Precision;
use cotvalve::chat::{Part, ThoughtSplitter};
use cotvalve::engine::{Engine, EngineOptions, Session, Valve};
use cotvalve::gguf::{Gguf, Strings, Value};
use cotvalve::map::Bytes;
use cotvalve::model::Model;
use cotvalve::sampler::Sampling;
use cotvalve::tensor::TensorType;
use cotvalve::valve::{Adapter, Dial, Scope};
use std::path::Path;
use support::gguf_fixture::{tiny_adapter, tiny_llama, vocabulary, with_metadata};

/// So small that it changes no choice of the model.
const ALPHA: f32 = 1e-5;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

fn parse(bytes: Vec<u8>) -> Gguf {
    Gguf::parse(Path::new("tiny.gguf"), Bytes::from(bytes)).unwrap()
}

fn engine(changes: &[(&str, Value)]) -> Engine {
    let model = Model::new(parse(with_metadata(tiny_llama(3, TensorType::F32), changes))).unwrap();
    let options =
        EngineOptions { threads: 1, context: 100, batch: 8, precision: Precision::Float, ..EngineOptions::default() };
    Engine::new(model, &options).unwrap()
}

/// The tiny model whose template has tags; `tags` are the tokens that stand for them, of this type.
fn thinking(tags: Option<([u32; 2], i32)>) -> Engine {
    let template = "{{ messages[0].content }}{% if think %}<think>{% endif %}";
    let mut changes: Vec<(&str, Value)> = vec![("tokenizer.chat_template", template.into())];
    if let Some(([open, close], ty)) = tags {
        let mut tokens = vocabulary();
        let mut types: Vec<i32> = (0..tokens.len()).map(|i| if i < 3 { CONTROL } else { 1 }).collect();
        for (id, text) in [(open, "<think>"), (close, "</think>")] {
            tokens[id as usize] = text.into();
            types[id as usize] = ty;
        }
        changes.push(("tokenizer.ggml.tokens", tokens.iter().collect::<Strings>().into()));
        changes.push(("tokenizer.ggml.token_type", types.into()));
        // Some of them were of the two tokens.
        changes.push(("tokenizer.ggml.merges", Strings::default().into()));
    }
    engine(&changes)
}

fn attach(engine: &Engine) -> Valve {
    let file = parse(tiny_adapter(1, 4, TensorType::F32, &["blk.0.attn_q.weight", "blk.1.ffn_down.weight"]));
    engine.attach_adapter(Adapter::read(&file, engine.model().config(), false).unwrap()).unwrap()
}

fn session(engine: &Engine, valve: &Valve, alpha: f32) -> Session {
    let mut session = engine.session();
    session.set(valve, Dial::constant(alpha).unwrap(), Scope::Think).unwrap();
    session
}

fn encode(engine: &Engine, text: &str) -> Vec<u32> {
    engine.model().tokenizer().encode(text, true, false).unwrap()
}

/// `open` rows at `ALPHA` from row `from` on, of `rows`.
fn opened(rows: usize, from: usize, open: usize) -> Vec<f32> {
    (0..rows).map(|row| if (from..from + open).contains(&row) { ALPHA } else { 0.0 }).collect()
}

/// What the tiny model says after `prompt`, if the first token and the token `close` come up only there and none is
/// special.
fn said(prompt: &[u32], close: usize) -> Option<Vec<u32>> {
    let engine = thinking(None);
    let mut session = engine.session();
    session.prompt(prompt).unwrap();
    let said: Vec<u32> = session.generate(&Sampling::greedy(), 8).unwrap().map(|event| event.unwrap().token).collect();
    let once = |i: usize| said.iter().filter(|token| **token == said[i]).count() == 1;
    (said.len() == 8 && once(0) && once(close) && said.iter().all(|token| *token > 2)).then_some(said)
}

/// The model draws the tags itself: the rows of the tags and what is between them are open, and none else.
#[test]
fn a_thought_that_is_drawn_is_open_from_tag_to_tag() {
    const CLOSE: usize = 3;
    let prompts = (1..).map(|seed| (0..5).map(|i| 3 + (i * 37 + seed * 11) % 250).collect::<Vec<u32>>());
    let (prompt, said) = prompts.filter_map(|p| said(&p, CLOSE).map(|said| (p, said))).next().unwrap();
    for ty in [CONTROL, USER_DEFINED] {
        let engine = thinking(Some(([said[0], said[CLOSE]], ty)));
        let (model, valve) = (engine.model(), attach(&engine));
        let mut session = session(&engine, &valve, ALPHA);
        for kept in [0, prompt.len() - 1] {
            assert_eq!(session.prompt(&prompt).unwrap(), kept, "the prompt is the base's, so all of it is kept");
            let mut splitter = ThoughtSplitter::new(model.thought_tags().as_ref(), "");
            let (mut drawn, mut thought, mut answer) = (Vec::new(), String::new(), String::new());
            let mut add = |part, text: &str| if part == Part::Thought { thought += text } else { answer += text };
            for event in session.generate(&Sampling::greedy(), said.len()).unwrap() {
                let event = event.unwrap();
                drawn.push(event.token);
                splitter.token(model.tokenizer(), event.token, &event.text, &mut add);
            }
            splitter.finish(&mut add);
            assert_eq!(drawn, said);
            // The last token is drawn and not computed.
            let rows = prompt.len() + said.len() - 1;
            assert_eq!(session.openings(&valve), opened(rows, prompt.len(), CLOSE + 1));
            let text = |ids: &[u32]| model.tokenizer().decode(ids).unwrap();
            assert_eq!((thought, answer), (text(&said[1..CLOSE]), text(&said[CLOSE + 1..])));
        }
        // What was thought is prompt in the next turn, and prompts are closed.
        let longer: Vec<u32> = prompt.iter().chain(&said).copied().collect();
        assert_eq!(session.prompt(&longer).unwrap(), prompt.len());
    }
}

/// Tags of several tokens count by their text; the one that completes a tag is the first or last that is open.
#[test]
fn tags_of_several_tokens_are_found() {
    let engine = thinking(None);
    let valve = attach(&engine);
    let mut session = session(&engine, &valve, ALPHA);
    let prompt = encode(&engine, "why");
    let answer = encode(&engine, "<think>a b</think>c<think>d");
    let (open, close) = (encode(&engine, "<think>").len(), encode(&engine, "<think>a b</think>").len());
    assert!(open > 3, "the vocabulary has no such token");
    session.prompt(&prompt).unwrap();
    session.extend(&answer).unwrap();
    let rows = prompt.len() + answer.len();
    assert_eq!(session.openings(&valve), opened(rows, prompt.len() + open - 1, close - open + 1));
}

#[test]
fn a_prompt_may_open_the_thought() {
    let engine = thinking(None);
    let valve = attach(&engine);
    let mut session = session(&engine, &valve, ALPHA);
    let prompt = encode(&engine, "a <think> b <think>\n");
    let answer = encode(&engine, "c</think>d");
    session.prompt(&prompt).unwrap();
    session.extend(&answer).unwrap();
    let tag = encode(&engine, "a <think> b <think>").len() - 1;
    let end = prompt.len() + encode(&engine, "c</think>").len();
    let rows = prompt.len() + answer.len();
    assert_eq!(session.openings(&valve), opened(rows, tag, end - tag));
    // The next turn's prompt is closed up to its own tag.
    let next: Vec<u32> = prompt.iter().chain(&answer).copied().chain(encode(&engine, "<think>")).collect();
    assert_eq!(session.prompt(&next).unwrap(), tag);
    session.extend(&[]).unwrap();
    assert_eq!(session.openings(&valve), opened(next.len(), next.len() - 1, 1));
}

#[test]
fn a_saved_session_knows_where_it_is_in_its_thought() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session.gguf");
    let engine = thinking(None);
    let valve = attach(&engine);
    for (prompt, answer) in [("why", "<think>a b</think>c<think>d"), ("why<think>\n", "a</think>b")] {
        let (prompt, answer) = (encode(&engine, prompt), encode(&engine, answer));
        let mut whole = session(&engine, &valve, ALPHA);
        whole.prompt(&prompt).unwrap();
        whole.extend(&answer).unwrap();
        let expected = whole.openings(&valve);
        assert!(expected.contains(&ALPHA) && expected.contains(&0.0));
        drop(whole);
        for cut in 0..answer.len() {
            let mut saved = session(&engine, &valve, ALPHA);
            saved.prompt(&prompt).unwrap();
            saved.extend(&answer[..cut]).unwrap();
            saved.save(&path, "").unwrap();
            drop(saved);
            let mut loaded = session(&engine, &valve, ALPHA);
            loaded.load(&path).unwrap();
            loaded.extend(&answer[cut..]).unwrap();
            assert_eq!(loaded.openings(&valve), expected, "saved after {cut} tokens");
        }
    }
}

#[test]
fn a_thought_that_is_not_closed_stays_open() {
    let engine = thinking(None);
    let valve = attach(&engine);
    let mut session = session(&engine, &valve, ALPHA);
    let prompt = encode(&engine, "<think>");
    session.prompt(&prompt).unwrap();
    session.extend(&encode(&engine, "a b c")).unwrap();
    let rows = session.openings(&valve).len();
    assert_eq!(session.openings(&valve), opened(rows, prompt.len() - 1, rows));
}

#[test]
fn a_model_without_tags_cannot_be_asked_for_its_thought() {
    let engine = engine(&[]);
    let valve = attach(&engine);
    let error = engine.session().set(&valve, Dial::constant(0.5).unwrap(), Scope::Think).unwrap_err().to_string();
    assert_eq!(error, "scope: think: tiny.gguf: its chat template has no thought tag");
}
