//! How answers are drawn, through sessions: stop texts, log-probabilities, grammars, and one text from one seed.

mod support;

use cotvalve::backend::Precision;
use cotvalve::engine::{Engine, EngineOptions, Event, Session, Stop};
use cotvalve::gguf::Gguf;
use cotvalve::map::Bytes;
use cotvalve::model::Model;
use cotvalve::sampler::Sampling;
use cotvalve::tensor::TensorType;
use std::path::Path;
use std::sync::Arc;
use support::Random;
use support::gguf_fixture::tiny_llama;

fn model() -> Arc<Model> {
    let bytes = Bytes::from(tiny_llama(3, TensorType::F16));
    Model::new(Gguf::parse(Path::new("tiny.gguf"), bytes).unwrap()).unwrap()
}

fn engine(threads: usize, batch: usize, sessions: usize) -> Engine {
    let precision = Precision::Int8;
    let options = EngineOptions { threads, batch, sessions, context: 256, precision, ..EngineOptions::default() };
    Engine::new(model(), &options).unwrap()
}

fn prompt(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32).map(|i| 3 + (i * 37 + seed * 101) % 250).collect()
}

fn events(session: &mut Session, sampling: &Sampling, limit: usize) -> Vec<Event> {
    session.generate(sampling, limit).unwrap().collect::<Result<_, _>>().unwrap()
}

/// The tiny model's distribution is flat, so this draws from everything.
fn free(seed: u64) -> Sampling {
    Sampling { seed, temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ignore_eos: true, ..Sampling::default() }
}

fn join(events: &[Event]) -> String {
    events.iter().map(|e| e.text.as_str()).collect()
}

#[test]
fn a_stop_text_ends_the_answer_before_it() {
    let engine = engine(1, 64, 1);
    let mut session = engine.session();
    let start = prompt(9, 1);
    let mut random = Random(2);
    for seed in 0..12 {
        session.prompt(&start).unwrap();
        let whole = events(&mut session, &free(seed), 24);
        assert_eq!((whole.len(), whole[23].stop), (24, Some(Stop::Limit)));
        let (text, ids) = (join(&whole), whole.iter().map(|e| e.token).collect::<Vec<_>>());
        let places: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
        for _ in 0..8 {
            let first = random.below(places.len());
            let last = places.get(first + 1 + random.below(4)).copied().unwrap_or(text.len());
            let stop = text[places[first]..last].to_string();
            session.prompt(&start).unwrap();
            let sampling = Sampling { stop: vec!["never".into(), stop.clone()], ..free(seed) };
            let cut = events(&mut session, &sampling, 24);
            assert_eq!(join(&cut), text[..text.find(&stop).unwrap()], "{stop:?} in {text:?}");
            assert_eq!(cut.last().unwrap().stop, Some(Stop::Text));
            assert!(cut[..cut.len() - 1].iter().all(|e| e.stop.is_none()));
            // The tokens of the stop text are part of the timeline.
            assert_eq!(session.tokens()[start.len()..], ids[..cut.len()]);
        }
    }
}

#[test]
fn log_probabilities_are_the_models_own() {
    let engine = engine(1, 64, 1);
    let mut session = engine.session();
    let start = prompt(9, 4);
    session.prompt(&start).unwrap();
    // No stage changes what is reported.
    let sampling = Sampling { logprobs: Some(3), presence_penalty: 2.0, logit_bias: vec![(70, 5.0)], ..free(3) };
    let drawn = events(&mut session, &sampling, 10);
    let timeline = session.tokens();
    session.prompt(&[7]).unwrap();
    session.prompt(&timeline).unwrap();
    let mut truth = Vec::new();
    session
        .score(|_, logits| {
            let total = logits.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln();
            truth.push(logits.iter().map(|l| f64::from(*l) - total).collect::<Vec<f64>>());
            Ok(())
        })
        .unwrap();
    for (i, event) in drawn.iter().enumerate() {
        let row = &truth[start.len() - 1 + i];
        let found = event.logprobs.as_ref().unwrap();
        let near = |id: u32, logprob: f32| (row[id as usize] - f64::from(logprob)).abs() < 1e-5;
        assert!(near(event.token, found.token), "{event:?}");
        assert_eq!(found.top.len(), 3);
        assert!(found.top.iter().all(|(id, logprob)| near(*id, *logprob)), "{event:?}");
        let third = row[found.top[2].0 as usize];
        assert_eq!(row.iter().filter(|l| **l > third).count(), 2, "{event:?}");
    }
    session.prompt(&start).unwrap();
    assert!(events(&mut session, &free(3), 2).iter().all(|e| e.logprobs.is_none()));
}

#[test]
fn penalties_see_the_prompt() {
    let engine = engine(1, 64, 1);
    let mut session = engine.session();
    let start = prompt(20, 5);
    session.prompt(&start).unwrap();
    let sampling = Sampling { presence_penalty: 1e6, ignore_eos: true, ..Sampling::greedy() };
    events(&mut session, &sampling, 40);
    let mut timeline = session.tokens();
    timeline.sort_unstable();
    timeline.dedup();
    assert_eq!(timeline.len(), 60, "a token of the last 64 came again");
}

#[test]
fn one_seed_gives_one_text_at_any_batch_thread_and_session_count() {
    let sampling = |seed| Sampling {
        seed,
        temperature: 1.2,
        top_k: 100,
        typical_p: 0.98,
        xtc_probability: 0.4,
        xtc_threshold: 0.01,
        repeat_penalty: 1.1,
        dry_multiplier: 0.5,
        ignore_eos: true,
        ..Sampling::default()
    };
    let set = |(session, prompt): (&mut Session, &Vec<u32>)| {
        session.prompt(prompt).unwrap();
    };
    let prompts: Vec<Vec<u32>> = (0..8).map(|i| prompt(3 + 11 * i, i as u32)).collect();
    let alone = engine(1, 64, 1);
    let truth: Vec<Vec<u32>> = (0..)
        .zip(&prompts)
        .map(|(seed, prompt)| {
            let mut session = alone.session();
            session.prompt(prompt).unwrap();
            events(&mut session, &sampling(seed), 16).iter().map(|e| e.token).collect()
        })
        .collect();
    for (threads, batch, sessions) in [(1, 1, 2), (2, 8, 8), (3, 64, 5), (2, 512, 8), (3, 3, 1), (1, 16, 3)] {
        let engine = engine(threads, batch, sessions);
        let mut open: Vec<Session> = (0..sessions).map(|_| engine.session()).collect();
        open.iter_mut().zip(&prompts).for_each(set);
        let seeds = 0..sessions as u64;
        let mut answers: Vec<_> =
            open.iter_mut().zip(seeds).map(|(session, seed)| session.generate(&sampling(seed), 16).unwrap()).collect();
        let mut found = vec![Vec::new(); sessions];
        for _ in 0..16 {
            engine.advance(&mut answers).unwrap();
            for (answer, found) in answers.iter_mut().zip(&mut found) {
                found.push(answer.next().unwrap().unwrap().token);
            }
        }
        assert_eq!(found, truth[..sessions], "{threads} threads, batches of {batch}");
    }
}

#[cfg(feature = "grammar")]
#[test]
fn a_schema_makes_every_answer_a_document_and_ends_it() {
    let engine = engine(1, 64, 2);
    let (mut session, mut beside) = (engine.session(), engine.session());
    let mut sampling = Sampling { temperature: 1.0, ..Sampling::default() };
    sampling.set("json-schema", r#"{"type":"array","items":{"enum":["a",1,true]},"minItems":2,"maxItems":4}"#).unwrap();
    for seed in 0..10 {
        session.prompt(&prompt(5, seed)).unwrap();
        beside.prompt(&prompt(6, seed)).unwrap();
        let sampling = Sampling { seed: seed.into(), ..sampling.clone() };
        let mut answer = session.generate(&sampling, 200).unwrap();
        let mut other = beside.generate(&free(seed.into()), 200).unwrap();
        let mut found = Vec::new();
        while found.last().is_none_or(|e: &Event| e.stop.is_none()) {
            engine.advance([&mut answer, &mut other]).unwrap();
            found.push(answer.next().unwrap().unwrap());
            other.next().unwrap().unwrap();
        }
        assert_eq!(found.last().unwrap().stop, Some(Stop::End));
        let document: serde_json::Value = serde_json::from_str(&join(&found)).unwrap();
        assert!((2..=4).contains(&document.as_array().unwrap().len()), "{document}");
    }
}
