//! The laws over every type of the cache, and over an engine's own record of openings.

use super::*;
use crate::support::gguf_fixture::{LAYERS, wide_heads};
use cotvalve::backend::Precision;
use cotvalve::engine::{Engine, EngineOptions, Session, Valve};
use cotvalve::model::Model;
use cotvalve::sampler::Sampling;
use cotvalve::valve::{Dial, Group, Part, Scope, Selector, Setting};

const KV: [TensorType; 3] = [TensorType::F32, TensorType::F16, TensorType::Q8_0];

#[test]
fn law_2_every_type_of_cache_has_the_same_bits_everywhere() {
    let adapters = [adapter(1, 7, TensorType::F16)];
    let model = wide_heads(&model(TensorType::Q4_1));
    let text = tokens(150, 1);
    for kv_type in KV {
        let setup = Setup { level: Level::Scalar, threads: 1, kv_type, ..Setup::default() };
        let truth = bits(&Runner::new(model.clone(), &adapters, setup).text(0, &text, &[0.5], 1));
        for level in Level::ALL {
            for threads in [1, 2, 3] {
                let mut runner = Runner::new(model.clone(), &adapters, Setup { level, threads, ..setup });
                for chunk in [1, 3, 17, 64] {
                    let out = bits(&runner.text(1, &text, &[0.5], chunk));
                    assert!(out == truth, "{kv_type} at {}, {threads} threads, chunks of {chunk}", level.name());
                }
                let texts = [(2, tokens(150, 2), vec![0.0]), (3, text.clone(), vec![0.5])];
                assert!(bits(&mixed(&mut runner, &texts, 7)[1]) == truth, "{kv_type}, mixed");
            }
        }
    }
}

#[test]
fn law_1_holds_in_a_quantized_cache() {
    let model = wide_heads(&model(TensorType::Q4_1));
    let setup = Setup { kv_type: TensorType::Q8_0, ..Setup::default() };
    let text = tokens(90, 1);
    let base = bits(&Runner::new(model.clone(), &[], setup).text(0, &text, &[], 17));
    let mut runner = Runner::new(model, &[overflowing()], setup);
    let texts = [(0, text.clone(), vec![0.0]), (1, text.clone(), vec![1.0]), (2, text, vec![-0.0])];
    let out = mixed(&mut runner, &texts, 3);
    assert!(bits(&out[0]) == base && bits(&out[2]) == base);
    // Pages that held what is no number, given to another sequence, hold nothing of it.
    let reused = runner.text(1, &tokens(90, 1), &[0.0], 17);
    assert!(bits(&reused) == base);
}

#[test]
fn a_narrower_cache_stays_near_the_wide_one() {
    let model = wide_heads(&model(TensorType::F32));
    let text = tokens(200, 3);
    let logits = |kv_type| Runner::new(model.clone(), &[], Setup { kv_type, ..FLOAT() }).text(0, &text, &[], 64);
    let wide: Vec<Vec<f64>> =
        logits(TensorType::F32).iter().map(|l| l.iter().map(|v| f64::from(*v)).collect()).collect();
    for (kv_type, bound) in [(TensorType::F16, 1e-6), (TensorType::Q8_0, 1e-3)] {
        let error = nmse(&logits(kv_type), &wide);
        println!("{kv_type} cache against f32: NMSE {error:.2e}");
        assert!(error > 0.0 && error < bound, "{kv_type}: {error:e}");
    }
}

fn engine(kv_type: TensorType, batch: usize) -> Engine {
    let file = parse("m", wide_heads(&model(TensorType::Q4_1)));
    let options = EngineOptions { threads: 2, context: 200, sessions: 2, batch, kv_type, ..EngineOptions::default() };
    Engine::new(Model::new(file).unwrap(), &options).unwrap()
}

fn attach(engine: &Engine, seed: u64) -> Valve {
    let file = parse("a", adapter(seed, 8, TensorType::F16));
    engine.attach_adapter(Adapter::read(&file, engine.model().config(), false).unwrap()).unwrap()
}

/// A setting that moves at every token, by group and layer.
fn moving() -> Setting {
    Setting {
        dial: Dial::steps(vec![(0, 0.25), (9, 1.5), (30, 0.0)]).unwrap(),
        scope: Scope::All,
        parts: vec![
            (Selector::group(Group::Mlp), Dial::linear(1.0, -1.0, 25).unwrap()),
            (Selector::layers(1..2), Dial::constant(0.75).unwrap()),
        ],
    }
}

fn likeliest(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
}

/// The openings on record at every computed token, one a slot of the valves.
fn record(session: &Session, valves: &[&Valve]) -> Vec<Vec<f32>> {
    let parts = (0..LAYERS).flat_map(|l| [Group::Attention, Group::Mlp].map(|group| Part { layer: Some(l), group }));
    let parts: Vec<Part> = parts.collect();
    let slots = valves.iter().flat_map(|valve| parts.iter().map(|part| session.openings_of(valve, *part)));
    let slots: Vec<Vec<f32>> = slots.collect();
    (0..slots[0].len()).map(|i| slots.iter().map(|slot| slot[i]).collect()).collect()
}

#[test]
fn law_6_what_is_on_record_is_what_was_computed() {
    for (kv_type, batch) in [(TensorType::F16, 5), (TensorType::Q8_0, 64)] {
        let engine = engine(kv_type, batch);
        let (a, b) = (attach(&engine, 1), attach(&engine, 2));
        let mut session = engine.session();
        session.set_with(&a, moving()).unwrap();
        session.set(&b, Dial::linear(0.0, 0.5, 10).unwrap(), Scope::Generation).unwrap();
        session.prompt(&tokens(11, 3)).unwrap();
        let mut generation = session.generate(&Sampling::greedy(), 24).unwrap();
        generation.by_ref().take(8).for_each(|event| drop(event.unwrap()));
        let turned = Setting { dial: Dial::constant(-0.5).unwrap(), ..moving() };
        generation.set_with(&a, turned).unwrap();
        generation.by_ref().for_each(|event| drop(event.unwrap()));
        drop(generation);
        let (timeline, used) = (session.tokens(), record(&session, &[&a, &b]));
        assert!(used.len() + 1 == timeline.len() && used.len() > 15, "the last token was not computed");
        let (prompt, turned) = (&used[10], &used[18]);
        assert!((prompt[0], turned[0], prompt[2], prompt[3]) == (1.5, -0.5, 0.75, 0.75), "{prompt:?} {turned:?}");
        assert!((prompt[1] - 0.2).abs() < 1e-6 && prompt[4..] == [0.0; 4] && used[12][4..] == [0.05; 4], "{prompt:?}");
        let adapters = [adapter(1, 8, TensorType::F16), adapter(2, 8, TensorType::F16)];
        let setup = Setup { kv_type, ..Setup::default() };
        let mut runner = Runner::new(wide_heads(&model(TensorType::Q4_1)), &adapters, setup);
        let row = |i: usize| Row { sequence: 0, token: timeline[i], position: i as u32, openings: used[i].clone() };
        for i in 0..used.len() {
            let logits = runner.step(&[row(i)]);
            assert!(i < 10 || likeliest(&logits[0]) == timeline[i + 1], "{kv_type}: token {}", i + 1);
        }
    }
}

#[test]
fn law_6_a_prompt_keeps_the_prefix_that_every_part_would_compute_alike() {
    let engine = engine(TensorType::F16, 16);
    let valve = attach(&engine, 1);
    let mut session = engine.session();
    let prompt = tokens(60, 3);
    let last = |session: &mut Session, setting: Setting| {
        session.set_with(&valve, setting).unwrap();
        let kept = session.prompt(&prompt).unwrap();
        let mut last = Vec::new();
        let each = |_, logits: &[f32]| {
            last = logits.iter().map(|l| l.to_bits()).collect::<Vec<u32>>();
            Ok(())
        };
        session.score(each).unwrap();
        (kept, last)
    };
    last(&mut session, moving());
    let later = Setting { dial: Dial::steps(vec![(0, 0.25), (9, 1.5), (40, 0.0)]).unwrap(), ..moving() };
    let mut layer = moving();
    layer.parts[1].1 = Dial::steps(vec![(0, 0.75), (33, 0.8)]).unwrap();
    let mut group = moving();
    group.parts[0].1 = Dial::linear(1.0, -1.0, 24).unwrap();
    for (name, setting, kept) in
        [("later", later, 30), ("layer", layer, 30), ("group", group, 1), ("same", moving(), 1)]
    {
        let (found, bits) = last(&mut session, setting.clone());
        assert_eq!(found, kept, "{name}");
        let mut fresh = engine.session();
        assert_eq!(last(&mut fresh, setting).1, bits, "{name}: as a fresh session says");
    }
}

#[test]
fn heads_that_are_no_whole_blocks_have_no_quantized_cache() {
    let file = parse("m", model(TensorType::Q4_1));
    let options = EngineOptions { kv_type: TensorType::Q8_0, precision: Precision::Int8, ..EngineOptions::default() };
    let error = Engine::new(Model::new(file).unwrap(), &options).err().unwrap().to_string();
    assert_eq!(error, "cache type: q8_0 has blocks of 32 values, heads have 16");
    let file = parse("m", wide_heads(&model(TensorType::Q4_1)));
    let options = EngineOptions { kv_type: TensorType::Q4_0, ..options };
    let error = Engine::new(Model::new(file).unwrap(), &options).err().unwrap().to_string();
    assert_eq!(error, "cache type: q4_0 is none of f32, f16 and q8_0");
}
