//! What a prefix that is found saves, on the real model that `COTVALVE_TEST_MODEL` names: time, and pages held
//! once for several sessions. The bits are those of a prompt that is computed.

use cotvalve::engine::{Engine, EngineOptions, Session};
use cotvalve::model::Model;
use cotvalve::sampler::Sampling;
use cotvalve::tensor::TensorType;
use std::time::{Duration, Instant};

const PROMPT: usize = 1000;
const SESSIONS: usize = 4;

/// Gives a prompt and draws a token; returns tokens kept, the time, and the bits of the logits it was drawn from.
fn ask(session: &mut Session, prompt: &[u32]) -> (usize, Duration, Vec<u32>) {
    let started = Instant::now();
    let kept = session.prompt(prompt).unwrap();
    session.generate(&Sampling::greedy(), 1).unwrap().next().unwrap().unwrap();
    let time = started.elapsed();
    // Outside the time: the last row again, on what is in the cache.
    session.prompt(prompt).unwrap();
    let mut last = Vec::new();
    session
        .score(|_, logits| {
            last.clear();
            last.extend(logits.iter().map(|l| l.to_bits()));
            Ok(())
        })
        .unwrap();
    (kept, time, last)
}

/// Bytes of the keys and values of a page of 64 positions, in f16.
fn page_bytes(engine: &Engine) -> usize {
    let config = engine.model().config();
    let row = TensorType::F16.row_bytes(config.heads.head_dim).unwrap();
    64 * 2 * config.layers * config.heads.kv_heads * row
}

fn engine(path: &str) -> Engine {
    let options = EngineOptions { context: 1024, sessions: SESSIONS, ..EngineOptions::default() };
    Engine::new(Model::open(path).unwrap(), &options).unwrap()
}

/// Ordinary text in tokens.
fn prompt(engine: &Engine) -> Vec<u32> {
    let sentence = "The tide came in over the flats, and the boats that had lain on their sides rose one by one. ";
    let text: String = (1..=60).map(|day| format!("Day {day}. {sentence}")).collect();
    let mut tokens = engine.model().tokenizer().encode(&text, true, true).unwrap();
    tokens.truncate(PROMPT);
    assert_eq!(tokens.len(), PROMPT);
    tokens
}

#[test]
fn a_prefix_that_is_found_costs_little_and_has_the_same_bits() {
    let Ok(path) = std::env::var("COTVALVE_TEST_MODEL") else {
        println!("skipped: COTVALVE_TEST_MODEL names no model");
        return;
    };
    let engine = engine(&path);
    let prompt = prompt(&engine);
    let mut sessions: Vec<Session> = (0..SESSIONS).map(|_| engine.session()).collect();
    let (kept, miss, bits) = ask(&mut sessions[0], &prompt);
    assert_eq!(kept, 0);
    let alone = engine.cache_use().held;
    let mut hits = Vec::new();
    for session in &mut sessions[1..] {
        let (kept, hit, found) = ask(session, &prompt);
        assert_eq!(kept, PROMPT / 64 * 64);
        assert!(found == bits, "a found prefix has the bits of a computed one");
        hits.push(hit);
    }
    let (kept, again, found) = ask(&mut sessions[0], &prompt);
    assert!(kept == PROMPT - 1 && found == bits);
    engine.check_cache().unwrap();
    let usage = engine.cache_use();
    // Inside a page that all of them hold: the session gets a copy.
    let started = Instant::now();
    assert_eq!(sessions[1].prompt(&prompt[..100]).unwrap(), 99);
    println!("cut inside a shared page: {:.2} ms", started.elapsed().as_secs_f64() * 1e3);
    let (hit, ms) = (hits.iter().min().unwrap(), |d: Duration| d.as_secs_f64() * 1e3);
    let page = page_bytes(&engine);
    let mib = |pages: usize| (pages * page) as f64 / f64::from(1 << 20);
    println!("{PROMPT} tokens: computed {:.1} ms, found {:.1} ms, given again {:.1} ms", ms(miss), ms(*hit), ms(again));
    println!("one session holds {alone} pages of {page} bytes, {:.1} MiB", mib(alone));
    println!(
        "{SESSIONS} sessions hold {} pages, {:.1} MiB, {} of them together; unshared {:.1} MiB",
        usage.held,
        mib(usage.held),
        usage.shared,
        mib(alone * SESSIONS)
    );
    assert_eq!(usage.held, PROMPT / 64 + SESSIONS, "each session has a last page of its own, and no more");
    assert!(*hit * 4 < miss, "{hit:?} against {miss:?}");
}

#[test]
fn a_saved_session_is_back_sooner_than_its_prompt() {
    let Ok(path) = std::env::var("COTVALVE_TEST_MODEL") else {
        println!("skipped: COTVALVE_TEST_MODEL names no model");
        return;
    };
    let engine = engine(&path);
    let prompt = prompt(&engine);
    let mut session = engine.session();
    let (_, computed, bits) = ask(&mut session, &prompt);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("session.gguf");
    let started = Instant::now();
    engine.model().fingerprint();
    let hashed = started.elapsed();
    session.save(&file, "").unwrap();
    let saved = started.elapsed() - hashed;
    let bytes = std::fs::metadata(&file).unwrap().len();
    let mut loaded = self::engine(&path).session();
    // The hash of the model's file is part of what a program pays once.
    loaded.engine().model().fingerprint();
    let started = Instant::now();
    loaded.load(&file).unwrap();
    let load = started.elapsed();
    let (kept, _, found) = ask(&mut loaded, &prompt);
    assert!(kept == PROMPT - 1 && found == bits, "what is loaded has the bits of what was saved");
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    println!(
        "{PROMPT} tokens: computed {:.1} ms; saved {:.1} ms, loaded {:.1} ms, {bytes} bytes",
        ms(computed),
        ms(saved),
        ms(load)
    );
    println!("hash of the model's file: {:.1} ms, once", ms(hashed));
    assert!(load < computed);
}
