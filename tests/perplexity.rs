//! Perplexity and divergence on the tiny model: what they must equal, and files of log-probabilities that lie.

mod support;

use cotvalve::engine::{Engine, EngineOptions, Session};
use cotvalve::eval::{BaseFile, BaseRow, BaseWriter, Chunks, Cut, Divergence, Scorer, negative_log_likelihood};
use cotvalve::map::Bytes;
use cotvalve::valve::Scope;
use std::path::Path;
use support::session::{attach, dial, engine_with};

const CONTEXT: usize = 24;
const TEXT: &str = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of \
                    foolishness, it was the epoch of belief, it was the epoch of incredulity";

fn engine(sessions: usize, batch: usize) -> Engine {
    engine_with(&EngineOptions { threads: 2, context: CONTEXT, sessions, batch, ..EngineOptions::default() })
}

fn chunks(engine: &Engine) -> Chunks {
    Chunks::new(engine.model(), TEXT, Cut { context: CONTEXT, stride: None, chunks: None }).unwrap()
}

/// −ln p of every scored position, with so many chunks side by side in steps of so many rows.
fn likelihoods(beside: usize, batch: usize) -> Vec<u64> {
    let engine = engine(beside, batch);
    let chunks = chunks(&engine);
    let scorer = Scorer::new(&engine, &chunks, 2).unwrap();
    let mut sessions: Vec<Session> = (0..beside).map(|_| engine.session()).collect();
    let mut all = Vec::new();
    for first in (0..chunks.count() / beside * beside).step_by(beside) {
        let row = |i: usize, row: usize, logits: &[f32]| {
            negative_log_likelihood(logits, chunks.targets(first + i)[row]).to_bits()
        };
        all.extend(scorer.score(&mut sessions, |i| first + i, row).unwrap().concat());
    }
    all
}

#[test]
fn chunks_side_by_side_and_small_steps_change_no_bit() {
    let one = likelihoods(1, 512);
    assert!(one.len() >= 4 * (CONTEXT / 2 - 1));
    for (beside, batch) in [(2, 512), (3, 7), (1, 5)] {
        let other = likelihoods(beside, batch);
        assert_eq!(other, one[..other.len()], "{beside} beside each other, {batch} rows");
    }
}

/// A file of the tiny model's log-probabilities.
fn base_file() -> Vec<u8> {
    let engine = engine(1, 512);
    let chunks = chunks(&engine);
    let path = tempfile::tempdir().unwrap();
    let path = path.path().join("base");
    let mut out = BaseWriter::create(&path, &chunks, engine.model().config().vocab).unwrap();
    let scorer = Scorer::new(&engine, &chunks, 2).unwrap();
    for chunk in 0..chunks.count() {
        let rows = scorer.score(&mut [engine.session()], |_| chunk, |_, _, logits| BaseWriter::code(logits)).unwrap();
        rows.concat().iter().for_each(|row| out.row(row).unwrap());
    }
    assert!(!path.exists(), "it has its name before it is whole");
    out.finish().unwrap();
    std::fs::read(&path).unwrap()
}

fn parse(bytes: &[u8]) -> cotvalve::error::Result<BaseFile> {
    BaseFile::parse(Path::new("base"), Bytes::from(bytes.to_vec()))
}

#[test]
fn a_model_is_as_far_from_its_own_file_as_the_code_is_coarse() {
    let file = parse(&base_file()).unwrap();
    let engine = engine(1, 512);
    let chunks = Chunks::from_file(engine.model(), &file, None).unwrap();
    let scorer = Scorer::new(&engine, &chunks, 1).unwrap();
    let mut sums = Divergence::default();
    for chunk in 0..chunks.count() {
        let row = |_, row: usize, logits: &[f32]| {
            let base = BaseRow::Coded(file.row(chunk, row).unwrap());
            base.divergence(logits, chunks.targets(chunk)[row])
        };
        scorer.score(&mut [engine.session()], |_| chunk, row).unwrap().concat().iter().for_each(|row| sums.add(row));
    }
    // A code is at most half a step of 16 / 65535 away.
    assert!(sums.klds().at(0.0) > -2e-4 && sums.klds().at(1.0) < 2e-4, "{:?}", sums.kld());
    assert!(sums.ln_ppl_ratio().value.abs() < 2e-4 && sums.same_top().value > 0.9, "{sums:?}");
}

#[test]
fn a_closed_valve_is_nowhere_from_the_base_and_an_open_one_somewhere() {
    let engine = engine(3, 512);
    let valve = attach(&engine, 7);
    let chunks = chunks(&engine);
    let scorer = Scorer::new(&engine, &chunks, 2).unwrap();
    let base = scorer.score(&mut [engine.session()], |_| 0, |_, _, logits| logits.to_vec()).unwrap().concat();
    let mut sessions = [engine.session(), engine.session()];
    sessions[0].set(&valve, dial(0.0), Scope::All).unwrap();
    sessions[1].set(&valve, dial(1.0), Scope::Generation).unwrap();
    let row = |_, row: usize, logits: &[f32]| BaseRow::Logits(&base[row]).divergence(logits, chunks.targets(0)[row]);
    let [closed, open] = scorer.score(&mut sessions, |_| 0, row).unwrap().try_into().unwrap();
    assert!(closed.iter().all(|row| row.divergence == 0.0 && row.p_diff == 0.0 && row.same_top), "{closed:?}");
    // The first scored position is the first that the scope opens.
    assert!(open.iter().all(|row| row.divergence > 0.0), "{open:?}");
}

#[test]
fn files_that_lie_are_refused_with_what_is_wrong() {
    let good = base_file();
    assert!(parse(&good).unwrap().check_vocab(7).is_err());
    for len in 0..good.len() {
        assert!(parse(&good[..len]).is_err(), "cut to {len} bytes");
    }
    let long: Vec<u8> = good.iter().copied().chain([0]).collect();
    assert!(parse(&long).is_err());
    for (at, value, word) in [
        (0, i32::MAX, "_logits_"),
        (8, -1, "tokens of a chunk"),
        (8, 2, "tokens of a chunk"),
        (8, i32::MAX, "bytes"),
        (12, 0, "vocabulary"),
        (12, i32::MAX, "bytes"),
        (16, 0, "chunks"),
        (16, i32::MAX, "bytes"),
        (20, -1, "token 4294967295"),
    ] {
        let mut bad = good.clone();
        bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let error = parse(&bad).err().unwrap().to_string();
        assert!(error.starts_with("base: ") && error.contains(word), "{at} {value}: {error}");
    }
    let rows = 20 + 4 * parse(&good).unwrap().chunks().read_tokens().len();
    for (at, value) in [(0, f32::NAN), (0, -1.0), (0, f32::INFINITY), (4, f32::NEG_INFINITY), (4, 1.0)] {
        let mut bad = good.clone();
        bad[rows + at..rows + at + 4].copy_from_slice(&value.to_le_bytes());
        let error = parse(&bad).unwrap().row(0, 0).err().unwrap().to_string();
        assert!(error.contains("chunk 1, row 0"), "{at} {value}: {error}");
    }
}

#[test]
fn texts_and_cuts_out_of_range_are_refused() {
    let engine = engine(1, 512);
    let cut = |context, stride, chunks| Chunks::new(engine.model(), TEXT, Cut { context, stride, chunks });
    for (bad, name) in [
        (cut(2, None, None), "ctx-size"),
        (cut(1 << 20, None, None), "file"),
        (cut(24, Some(24), None), "ppl-stride"),
        (cut(24, None, Some(0)), "chunks"),
    ] {
        assert!(bad.unwrap_err().to_string().starts_with(name), "{name}");
    }
    let strided = cut(24, Some(8), Some(3)).unwrap();
    assert_eq!((strided.count(), strided.scored(), strided.targets(2).len()), (3, 15..23, 8));
    let long = cut(32, None, None).unwrap();
    assert!(Scorer::new(&engine, &long, 1).is_err(), "a chunk that no session holds");
}
