//! Sessions in files: what is loaded goes on as if it had never been away, and what does not fit is refused.

mod support;

use cotvalve::backend::Precision;
use cotvalve::engine::{Engine, EngineOptions, Overflow, Session, Valve};
use cotvalve::error::Error;
use cotvalve::map::Bytes;
use cotvalve::model::Model;
use cotvalve::sampler::Sampling;
use cotvalve::tensor::TensorType;
use cotvalve::valve::Scope;
use std::path::{Path, PathBuf};
use support::gguf_fixture::tiny_llama;
use support::hostile::{byte_flips, every_truncation};
use support::session::{attach, dial, engine, engine_with, score, text, tokens};
use support::stage::parse;
use tempfile::TempDir;

const CONTEXT: usize = 150;

/// A chain that was turned on the way, with a drawn token that is not computed yet.
fn turned(engine: &Engine, valve: &Valve) -> Session {
    let mut session = engine.session();
    session.set(valve, dial(0.5), Scope::All).unwrap();
    session.prompt(&text(60, 1)).unwrap();
    let mut generation = session.generate(&Sampling::default(), 30).unwrap();
    generation.by_ref().take(8).for_each(|event| drop(event.unwrap()));
    generation.set(valve, dial(-0.25), Scope::All).unwrap();
    generation.by_ref().for_each(|event| drop(event.unwrap()));
    drop(generation);
    session
}

/// Bits of the logits of all that is pending.
fn pending(session: &mut Session) -> Vec<u32> {
    let mut bits = Vec::new();
    let add = |_, logits: &[f32]| {
        bits.extend(logits.iter().map(|l| l.to_bits()));
        Ok(())
    };
    session.score(add).unwrap();
    bits
}

/// A folder with a session of `n` tokens in it, under an adapter.
fn saved(n: usize) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session.gguf");
    let engine = engine(1, CONTEXT);
    let valve = attach(&engine, 1);
    let mut session = engine.session();
    session.set(&valve, dial(0.5), Scope::All).unwrap();
    session.prompt(&text(n, 1)).unwrap();
    pending(&mut session);
    session.save(&path, "a note").unwrap();
    (folder, path)
}

fn refused(engine: &Engine, path: &Path) -> String {
    engine.session().load(path).unwrap_err().to_string()
}

#[test]
fn what_is_loaded_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session.gguf");
    for kv_type in [TensorType::F16, TensorType::F32] {
        let options = EngineOptions { threads: 1, context: CONTEXT, batch: 16, kv_type, ..EngineOptions::default() };
        let here = engine_with(&options);
        let valve = attach(&here, 1);
        let mut session = turned(&here, &valve);
        session.save(&path, "the note").unwrap();
        let (timeline, openings) = (session.tokens(), session.openings(&valve));
        // Elsewhere another adapter stands first.
        let there = engine_with(&options);
        let (other, same) = (attach(&there, 2), attach(&there, 1));
        let mut loaded = there.session();
        assert_eq!(loaded.load(&path).unwrap(), "the note");
        assert_eq!((loaded.tokens(), loaded.openings(&same)), (timeline.clone(), openings.clone()));
        assert!(loaded.openings(&other).iter().all(|alpha| *alpha == 0.0));
        loaded.set(&same, dial(-0.25), Scope::All).unwrap();
        assert_eq!(openings.len() + 1, timeline.len(), "the last token is drawn and not computed");
        let (a, b) = (Sampling::default(), Sampling::default());
        let goes_on = tokens(&mut loaded.generate(&a, 20).unwrap()).unwrap();
        assert_eq!(goes_on, tokens(&mut session.generate(&b, 20).unwrap()).unwrap(), "{kv_type}");
        assert_eq!(pending(&mut loaded), pending(&mut session), "{kv_type}");
        there.check_cache().unwrap();
    }
}

#[test]
fn a_loaded_prefix_is_kept_by_its_own_session_and_shared_with_no_other() {
    let (_folder, path) = saved(70);
    let engine = engine(2, CONTEXT);
    let valve = attach(&engine, 1);
    let mut loaded = engine.session();
    loaded.set(&valve, dial(0.5), Scope::All).unwrap();
    loaded.load(&path).unwrap();
    let longer = [text(70, 1), text(70, 2)].concat();
    let mut other = engine.session();
    other.set(&valve, dial(0.5), Scope::All).unwrap();
    assert_eq!(loaded.prompt(&longer).unwrap(), 70);
    let bits = pending(&mut loaded);
    assert_eq!(other.prompt(&longer).unwrap(), 0, "a file may say what it likes");
    let bits_anew = pending(&mut other);
    assert!(bits_anew.ends_with(&bits));
    assert_eq!(loaded.prompt(&longer).unwrap(), 139, "its own reaches further than what can be found");
    loaded.set(&valve, dial(0.25), Scope::All).unwrap();
    assert_eq!(loaded.prompt(&longer).unwrap(), 0, "under another opening it is nothing");
    engine.check_cache().unwrap();
}

#[test]
fn what_was_to_be_computed_again_after_a_shift_still_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session.gguf");
    let here = engine(1, CONTEXT);
    let valve = attach(&here, 1);
    let mut session = here.session();
    session.set(&valve, dial(0.5), Scope::All).unwrap();
    session.set_overflow(Overflow::Shift { keep: Some(10) }).unwrap();
    session.prompt(&text(CONTEXT, 1)).unwrap();
    tokens(&mut session.generate(&Sampling::greedy(), 1).unwrap()).unwrap();
    session.cancel_handle().cancel();
    let stopped = session.generate(&Sampling::greedy(), 1).unwrap().next().unwrap();
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert_eq!((session.tokens().len(), session.openings(&valve).len()), (10 + 71, 10));
    session.save(&path, "").unwrap();
    let there = engine(1, CONTEXT);
    let same = attach(&there, 1);
    let mut loaded = there.session();
    loaded.load(&path).unwrap();
    loaded.set(&same, dial(2.0), Scope::All).unwrap();
    session.set(&valve, dial(2.0), Scope::All).unwrap();
    assert_eq!(pending(&mut loaded), pending(&mut session));
    assert_eq!(loaded.openings(&same), [vec![0.5; 80], vec![2.0]].concat(), "the drawn token alone is turned");
}

#[test]
fn another_engine_refuses_it_and_says_why() {
    let (_folder, path) = saved(70);
    let base = EngineOptions { threads: 1, context: CONTEXT, precision: Precision::Float, ..EngineOptions::default() };
    let with_valve = |options: &EngineOptions| {
        let engine = engine_with(options);
        attach(&engine, 1);
        engine
    };
    let f32 = with_valve(&EngineOptions { kv_type: TensorType::F32, ..base.clone() });
    assert!(refused(&f32, &path).ends_with("cache_type: saved with \"f16\", and this engine has \"f32\""));
    let int8 = with_valve(&EngineOptions { precision: Precision::Int8, ..base.clone() });
    assert!(refused(&int8, &path).ends_with("precision: saved with \"float\", and this engine has \"int8\""));
    let other = Model::new(parse("other.gguf", tiny_llama(4, TensorType::F32))).unwrap();
    let message = refused(&Engine::new(other, &base).unwrap(), &path);
    assert!(message.starts_with("session ") && message.contains("session.gguf: model: saved with"), "{message}");
    let none = engine_with(&base);
    let message = refused(&none, &path);
    assert!(message.contains("adapters: \"tiny.gguf\" (") && message.ends_with(") is not attached"), "{message}");
    attach(&none, 2);
    assert!(refused(&none, &path).ends_with("is not attached"));
    attach(&none, 1);
    none.session().load(&path).unwrap();
    let short = with_valve(&EngineOptions { context: 60, ..base.clone() });
    let error = short.session().load(&path).unwrap_err();
    assert!(matches!(error, Error::ContextFull { needed: 70, capacity: 60 }), "{error}");
    let model = parse("model.gguf", tiny_llama(3, TensorType::F32));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    std::fs::write(&file, &*model.shards()[0].bytes).unwrap();
    assert!(refused(&none, &file).ends_with("general.type: it is no saved session"));
    assert!(matches!(none.session().load(folder.path().join("none")), Err(Error::Io { .. })));
}

#[test]
fn adapters_that_stand_in_another_order_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session.gguf");
    let here = engine(1, CONTEXT);
    let valves = [attach(&here, 1), attach(&here, 2)];
    let mut session = here.session();
    valves.iter().for_each(|valve| session.set(valve, dial(0.5), Scope::All).unwrap());
    score(&mut session, &text(20, 1));
    session.save(&path, "").unwrap();
    let there = engine(1, CONTEXT);
    for seed in [2, 1] {
        attach(&there, seed);
    }
    assert!(refused(&there, &path).ends_with("is attached in another order"));
}

#[test]
fn a_refused_load_leaves_the_session_as_it_is() {
    let (_folder, path) = saved(70);
    let engine = engine(1, CONTEXT);
    let valve = attach(&engine, 1);
    let mut session = engine.session();
    let prompt = text(40, 5);
    let bits = score(&mut session, &prompt);
    let mut hog = engine.session();
    score(&mut hog, &text(100, 6));
    let error = session.load(&path).unwrap_err();
    assert!(matches!(error, Error::CacheFull { needed: 70, free: 64 }), "{error}");
    std::fs::write(&path, b"GGUF").unwrap();
    assert!(session.load(&path).is_err());
    assert_eq!((session.tokens(), session.openings(&valve).len()), (prompt.clone(), 40));
    assert_eq!(session.prompt(&prompt).unwrap(), 39);
    assert_eq!(score(&mut session, &prompt), bits);
    engine.check_cache().unwrap();
}

#[test]
fn every_truncation_and_every_flipped_byte_is_an_error_or_means_nothing() {
    let (folder, path) = saved(5);
    let good = std::fs::read(&path).unwrap();
    let engine = engine(1, CONTEXT);
    attach(&engine, 1);
    let damaged = folder.path().join("damaged.gguf");
    let case = |bytes: Bytes| {
        std::fs::write(&damaged, &*bytes).unwrap();
        let mut session = engine.session();
        let note = session.load(&damaged);
        // What is taken all the same had its damage where nothing is: between the parts.
        if let Ok(note) = &note {
            assert_eq!((&note[..], session.tokens()), ("a note", text(5, 1)));
        } else {
            assert!(session.tokens().is_empty());
        }
        note.map(drop)
    };
    let truncated = every_truncation(good.clone(), case);
    // The last bytes are padding too.
    assert!(truncated.cases == good.len() && truncated.cases - truncated.refused <= 1, "{truncated:?}");
    let flipped = byte_flips(&good, 5, 1_000, case);
    assert!(flipped.refused > 950, "{flipped:?}");
    let mut taken = 0;
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x55;
        taken += usize::from(case(Bytes::from(bytes)).is_ok());
    }
    // Two gaps of less than an alignment each.
    assert!(taken < 2 * 32, "{taken} of {} flips were taken", good.len());
    engine.check_cache().unwrap();
}

#[test]
fn a_file_stays_as_it_was_when_there_is_nothing_to_save_or_nowhere() {
    let (folder, path) = saved(70);
    let before = std::fs::read(&path).unwrap();
    let mut empty = engine(1, CONTEXT).session();
    assert!(matches!(empty.save(&path, ""), Err(Error::Argument { name: "session", .. })));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    score(&mut empty, &text(3, 1));
    assert!(matches!(empty.save(folder.path().join("no/such/folder"), ""), Err(Error::Io { .. })));
    assert!(std::fs::read_dir(folder.path()).unwrap().count() == 1, "nothing is left behind");
}

#[test]
fn what_others_had_in_a_page_is_not_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let save = |warm: bool| {
        let path = folder.path().join("session.gguf");
        let engine = engine(1, CONTEXT);
        if warm {
            score(&mut engine.session(), &text(CONTEXT, 8));
        }
        let mut session = engine.session();
        score(&mut session, &text(5, 1));
        session.save(&path, "").unwrap();
        std::fs::read(&path).unwrap()
    };
    assert_eq!(save(false), save(true));
}
