//! Sessions of one engine, through its public face.

mod support;

use cotvalve::engine::{Engine, EngineOptions, Session};
use cotvalve::error::Error;
use cotvalve::gguf::Gguf;
use cotvalve::model::{Config, Model};
use cotvalve::sampler::Sampling;
use cotvalve::tensor::TensorType;
use cotvalve::valve::{Adapter, Dial, Group, Part, Scope, Selector, Setting};
use support::gguf_fixture::{tiny_adapter, tiny_llama, with_metadata};
use support::session::{self, attach, dial, score, text, tokens};
use support::stage;

/// Two pages of the cache, the second not full.
const CONTEXT: usize = 100;

fn engine(sessions: usize) -> Engine {
    session::engine(sessions, CONTEXT)
}

fn parse(bytes: Vec<u8>) -> Gguf {
    stage::parse("tiny.gguf", bytes)
}

#[test]
fn sessions_advanced_together_say_what_they_say_alone() {
    let engine = engine(3);
    let valve = attach(&engine, 1);
    let cases = [(text(5, 1), 0.0), (text(63, 2), 0.7), (text(30, 3), -1.5)];
    let open = |(prompt, alpha): &(Vec<u32>, f32)| {
        let mut session = engine.session();
        session.set(&valve, dial(*alpha), Scope::All).unwrap();
        session.prompt(prompt).unwrap();
        session
    };
    let alone: Vec<_> =
        cases.iter().map(|c| tokens(&mut open(c).generate(&Sampling::default(), 12).unwrap())).collect();
    let mut sessions: Vec<Session> = cases.iter().map(open).collect();
    let start = |s| Session::generate(s, &Sampling::default(), 12).unwrap();
    let mut generations: Vec<_> = sessions.iter_mut().map(start).collect();
    let mut together = vec![Vec::new(); cases.len()];
    // More rounds than tokens: what is over stays over.
    for _ in 0..15 {
        engine.advance(&mut generations).unwrap();
        for (generation, out) in generations.iter_mut().zip(&mut together) {
            out.extend(generation.next().map(|event| event.unwrap().token));
        }
    }
    for (together, alone) in together.iter().zip(&alone) {
        assert_eq!(together, alone.as_ref().unwrap());
    }
}

#[test]
fn sessions_extended_together_compute_what_they_compute_alone() {
    let engine = engine(3);
    let valve = attach(&engine, 1);
    // Of different lengths, also none; before the last token, whose logits are compared.
    let cases = [(text(5, 1), 30, 0.0), (text(63, 2), 2, 0.7), (text(30, 3), 0, -1.5)];
    let timeline = |(prompt, more, _): &(Vec<u32>, usize, f32)| [&prompt[..], &text(*more + 1, 9)].concat();
    let open = |case: &(Vec<u32>, usize, f32)| {
        let mut session = engine.session();
        session.set(&valve, dial(case.2), Scope::All).unwrap();
        session.prompt(&case.0).unwrap();
        session
    };
    let mut together: Vec<Session> = cases.iter().map(open).collect();
    let added: Vec<_> = cases.iter().map(|case| text(case.1, 9)).collect();
    engine.extend(together.iter_mut().zip(&added).map(|(session, tokens)| (session, &tokens[..]))).unwrap();
    for (case, mut session) in cases.iter().zip(together) {
        let tokens = timeline(case);
        assert_eq!(session.prompt(&tokens).unwrap(), tokens.len() - 1, "all but the last is in the cache");
        let mut alone = session::engine(1, CONTEXT).session();
        let valve = attach(alone.engine(), 1);
        alone.set(&valve, dial(case.2), Scope::All).unwrap();
        assert_eq!(score(&mut session, &tokens), score(&mut alone, &tokens));
    }
    let mut stranger = session::engine(1, CONTEXT).session();
    let error = engine.extend([(&mut stranger, &[][..])]).unwrap_err().to_string();
    assert!(error.starts_with("sessions: "), "{error}");
}

#[test]
fn a_full_context_fails_alone() {
    let engine = engine(2);
    let (mut full, mut other) = (engine.session(), engine.session());
    full.prompt(&text(CONTEXT, 1)).unwrap();
    other.prompt(&text(4, 2)).unwrap();
    let mut full_answer = full.generate(&Sampling::greedy(), 50).unwrap();
    let mut other_answer = other.generate(&Sampling::default(), 20).unwrap();
    engine.advance([&mut full_answer, &mut other_answer]).unwrap();
    let last = full_answer.next().unwrap().unwrap();
    assert!(last.stop.is_none(), "the tiny model must not end here");
    other_answer.next().unwrap().unwrap();
    engine.advance([&mut full_answer, &mut other_answer]).unwrap();
    other_answer.next().unwrap().unwrap();
    let error = full_answer.next().unwrap().unwrap_err();
    assert!(matches!(error, Error::ContextFull { needed, capacity } if needed == 101 && capacity == 100), "{error}");
    assert!(full_answer.next().is_none());
    assert!(tokens(&mut other_answer).is_ok());
    drop((full_answer, other_answer));
    assert_eq!(full.tokens().len(), CONTEXT + 1);
    full.prompt(&text(4, 3)).unwrap();
    assert!(full.generate(&Sampling::greedy(), 1).unwrap().next().unwrap().is_ok());
}

#[test]
fn a_session_beyond_those_that_fit_fails_alone() {
    let engine = engine(1);
    let (mut first, mut second) = (engine.session(), engine.session());
    first.prompt(&text(90, 1)).unwrap();
    second.prompt(&text(90, 2)).unwrap();
    let mut first_answer = first.generate(&Sampling::greedy(), 1).unwrap();
    let mut second_answer = second.generate(&Sampling::greedy(), 1).unwrap();
    engine.advance([&mut first_answer, &mut second_answer]).unwrap();
    assert!(first_answer.next().unwrap().is_ok());
    assert!(matches!(second_answer.next().unwrap(), Err(Error::CacheFull { needed: 64, free: 0 })));
    drop((first_answer, second_answer));
    drop(first);
    // The pages of the closed session are free now.
    assert!(second.generate(&Sampling::greedy(), 1).unwrap().next().unwrap().is_ok());
}

#[test]
fn a_cancelled_generation_stops_alone() {
    let engine = engine(2);
    let (mut cancelled, mut other) = (engine.session(), engine.session());
    let prompt = text(60, 1);
    cancelled.prompt(&prompt).unwrap();
    other.prompt(&text(3, 2)).unwrap();
    let (handle, watched) = (cancelled.cancel_handle(), attach(&engine, 1));
    let mut answer = cancelled.generate(&Sampling::greedy(), 5).unwrap();
    let mut beside = other.generate(&Sampling::default(), 5).unwrap();
    handle.cancel();
    engine.advance([&mut answer, &mut beside]).unwrap();
    assert!(beside.next().unwrap().is_ok());
    assert!(answer.session().openings(&watched).len() < prompt.len(), "no more of the prompt than a step");
    assert!(matches!(answer.next().unwrap(), Err(Error::Cancelled)));
    assert!(answer.next().is_none());
    assert!(tokens(&mut beside).is_ok());
    drop((answer, beside));
    assert_eq!(cancelled.tokens(), prompt, "nothing was drawn");
    assert!(cancelled.generate(&Sampling::greedy(), 1).unwrap().next().unwrap().is_ok(), "the next one runs");
}

#[test]
fn a_turn_in_mid_answer_is_on_record() {
    let engine = engine(1);
    let valve = attach(&engine, 1);
    let mut session = engine.session();
    session.set(&valve, dial(0.25), Scope::Generation).unwrap();
    session.prompt(&text(4, 1)).unwrap();
    let mut generation = session.generate(&Sampling::default(), 6).unwrap();
    generation.by_ref().take(3).for_each(|event| drop(event.unwrap()));
    generation.set(&valve, dial(-0.5), Scope::Generation).unwrap();
    generation.by_ref().for_each(|event| drop(event.unwrap()));
    drop(generation);
    assert_eq!(session.openings(&valve), [0.0, 0.0, 0.0, 0.0, 0.25, 0.25, -0.5, -0.5, -0.5]);
}

#[test]
fn parts_of_a_valve_turn_by_themselves_and_are_on_record() {
    let engine = engine(1);
    let valve = attach(&engine, 1);
    let [attn, mlp] = [(0, Group::Attention), (1, Group::Mlp)].map(|(l, group)| Part { layer: Some(l), group });
    assert_eq!(valve.adapter().parts(), [attn, mlp]);
    let mut session = engine.session();
    let line = (Selector::layers(1..2), Dial::linear(1.0, 0.0, 4).unwrap());
    session.set_with(&valve, Setting { dial: dial(0.5), scope: Scope::All, parts: vec![line] }).unwrap();
    session.prompt(&text(4, 1)).unwrap();
    let mut generation = session.generate(&Sampling::default(), 4).unwrap();
    generation.by_ref().take(2).for_each(|event| drop(event.unwrap()));
    let closed = (Selector::group(Group::Attention), dial(0.0));
    generation.set_with(&valve, Setting { dial: dial(2.0), scope: Scope::All, parts: vec![closed] }).unwrap();
    generation.by_ref().for_each(|event| drop(event.unwrap()));
    drop(generation);
    assert_eq!(session.openings_of(&valve, attn), [0.5, 0.5, 0.5, 0.5, 0.5, 0.0, 0.0]);
    assert_eq!(session.openings_of(&valve, mlp), [1.0, 0.75, 0.5, 0.25, 0.0, 2.0, 2.0]);
    assert_eq!(session.openings(&valve), session.openings_of(&valve, attn), "the first part's");
    assert!(session.openings_of(&valve, Part { layer: Some(1), group: Group::Attention }).is_empty());
    let past = Setting { parts: vec![(Selector::layers(1..3), dial(1.0))], ..Setting::default() };
    let error = session.set_with(&valve, past).unwrap_err().to_string();
    assert_eq!(error, "layers: 2 is past the model's last, 1");
}

#[test]
fn adapters_are_known_by_what_they_apply() {
    let engine = engine(1);
    let hash = |seed, rank, target: &str| {
        let file = parse(tiny_adapter(seed, rank, TensorType::F32, &[target]));
        *Adapter::read(&file, engine.model().config(), false).unwrap().content_hash()
    };
    let one = hash(1, 4, "blk.0.attn_q.weight");
    assert_eq!(one, hash(1, 4, "blk.0.attn_q.weight"));
    for (seed, rank, target) in
        [(2, 4, "blk.0.attn_q.weight"), (1, 5, "blk.0.attn_q.weight"), (1, 4, "blk.1.attn_q.weight")]
    {
        assert_ne!(one, hash(seed, rank, target), "{seed} {rank} {target}");
    }
}

#[test]
fn a_kept_prefix_gives_the_bits_of_a_fresh_session() {
    let engine = engine(2);
    let valve = attach(&engine, 1);
    let mut kept = engine.session();
    for (n, alpha) in [(70, 0.5), (64, 0.5), (65, 0.5), (CONTEXT, 0.5), (80, 0.0), (1, 0.0)] {
        kept.set(&valve, dial(alpha), Scope::All).unwrap();
        let mut prompt = text(n, 1);
        *prompt.last_mut().unwrap() = 7;
        let mut fresh = engine.session();
        fresh.set(&valve, dial(alpha), Scope::All).unwrap();
        assert_eq!(score(&mut kept, &prompt), score(&mut fresh, &prompt), "{n} tokens at {alpha}");
    }
}

#[test]
fn what_a_dropped_generation_left_is_not_the_next_ones() {
    let engine = engine(1);
    let mut session = engine.session();
    session.prompt(&text(4, 1)).unwrap();
    let mut dropped = session.generate(&Sampling::greedy(), 5).unwrap();
    engine.advance([&mut dropped]).unwrap();
    drop(dropped);
    let before = session.tokens();
    let event = session.generate(&Sampling::greedy(), 1).unwrap().next().unwrap().unwrap();
    assert_eq!(session.tokens(), [&before[..], &[event.token]].concat(), "it was drawn after the timeline");
}

#[test]
fn scoring_may_use_the_engine() {
    let engine = engine(2);
    let (mut session, mut other) = (engine.session(), engine.session());
    session.prompt(&text(3, 1)).unwrap();
    let mut seen = Vec::new();
    session
        .score(|position, _| {
            seen.push(position);
            other.prompt(&text(2, 2)).map(drop)
        })
        .unwrap();
    assert_eq!(seen, [0, 1, 2]);
}

#[test]
fn what_is_of_another_engine_is_refused() {
    let (engine, stranger) = (engine(1), engine(1));
    let valve = attach(&stranger, 1);
    let mut session = engine.session();
    let error = session.set(&valve, dial(1.0), Scope::All).unwrap_err();
    assert_eq!(error.to_string(), "valve: it is attached to another engine");
    assert!(session.openings(&valve).is_empty());
    attach(&engine, 1);
    assert!(session.set(&valve, dial(1.0), Scope::All).is_err(), "the same file in the same slot is not the same");
    session.prompt(&text(2, 1)).unwrap();
    let mut generation = session.generate(&Sampling::greedy(), 1).unwrap();
    assert!(matches!(stranger.advance([&mut generation]), Err(Error::Argument { name: "generations", .. })));
}

#[test]
fn an_adapter_read_for_another_model_is_refused() {
    let engine = engine(1);
    let mut config = engine.model().config().clone();
    config.layers = 5;
    let file = parse(tiny_adapter(1, 4, TensorType::F32, &["blk.4.attn_q.weight"]));
    let error = engine.attach_adapter(Adapter::read(&file, &config, false).unwrap()).err().unwrap();
    assert!(matches!(error, Error::Adapter { .. }), "{error}");
    assert!(engine.adapters().is_empty());
}

#[test]
fn a_dial_that_was_not_checked_is_refused() {
    let engine = engine(1);
    let valve = attach(&engine, 1);
    let mut session = engine.session();
    let bad = [Dial::Constant(f32::NAN), Dial::Steps(vec![(0, f32::INFINITY)]), Dial::Steps(vec![(5, 1.0), (2, 0.0)])];
    for dial in bad {
        assert!(matches!(session.set(&valve, dial, Scope::All), Err(Error::Argument { name: "alpha", .. })));
    }
}

#[test]
fn everything_lives_as_long_as_its_last_handle() {
    let engine = engine(1);
    let (model, valve) = (engine.model().clone(), attach(&engine, 1));
    let mut session = engine.session();
    drop((engine, model));
    session.set(&valve, dial(0.5), Scope::All).unwrap();
    session.prompt(&text(3, 1)).unwrap();
    assert!(session.generate(&Sampling::greedy(), 1).unwrap().next().unwrap().is_ok());
    drop(session);
    assert_eq!(valve.adapter().pairs().len(), 2);
}

#[test]
fn a_rope_factor_needs_no_type() {
    let factor = |key: &str, ty: Option<&str>| {
        let mut changes = vec![(key, 4.0f32.into())];
        changes.extend(ty.map(|ty| ("llama.rope.scaling.type", ty.into())));
        let file = with_metadata(tiny_llama(3, TensorType::F32), &changes);
        1.0 / Config::read(&parse(file)).unwrap().rope.inv_freq[0]
    };
    assert_eq!(factor("llama.rope.scaling.factor", None), 4.0);
    assert_eq!(factor("llama.rope.scale_linear", None), 4.0);
    assert_eq!(factor("llama.rope.scaling.factor", Some("linear")), 4.0);
    assert_eq!(factor("llama.rope.scaling.factor", Some("none")), 1.0);
}

#[test]
fn loading_says_how_far_it_is_and_stops_when_told() {
    let model = Model::new(parse(tiny_llama(3, TensorType::F32))).unwrap();
    let options = EngineOptions { threads: 1, context: CONTEXT, ..EngineOptions::default() };
    let mut heard = Vec::new();
    let all = |fraction| {
        heard.push(fraction);
        true
    };
    Engine::with_progress(model.clone(), &options, &mut { all }).unwrap();
    assert!(heard.len() > 2 && heard.is_sorted_by(|a, b| a < b) && heard.last() == Some(&1.0), "{heard:?}");
    let stopped = Engine::with_progress(model, &options, &mut |fraction| fraction > 0.9);
    assert!(matches!(stopped.err(), Some(Error::Cancelled)));
}
