//! Timelines that outgrow the context and go on: what is left is what a fresh session would compute.

mod support;

use cotvalve::engine::{Overflow, Session, Valve};
use cotvalve::error::Error;
use cotvalve::sampler::Sampling;
use cotvalve::valve::{Dial, Scope};
use support::session::{attach, dial, engine, text};

const CONTEXT: usize = 150;

/// A fresh session under the openings that `session` has on record for its first `len` tokens.
fn likewise(session: &Session, valve: &Valve, len: usize) -> Session {
    let engine = engine(1, CONTEXT);
    let twin = attach(&engine, 1);
    let mut steps: Vec<(u32, f32)> = (0..).zip(session.openings(valve)).take(len).collect();
    steps.dedup_by_key(|(_, alpha)| *alpha);
    let mut fresh = engine.session();
    fresh.set(&twin, Dial::steps(steps).unwrap(), Scope::All).unwrap();
    fresh
}

/// The likeliest next token of a fresh session at every position of a prompt.
fn likeliest(session: &mut Session, prompt: &[u32]) -> Vec<u32> {
    session.prompt(prompt).unwrap();
    let mut out = Vec::new();
    let best = |logits: &[f32]| (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
    let add = |_, logits: &[f32]| {
        out.push(best(logits) as u32);
        Ok(())
    };
    session.score(add).unwrap();
    out
}

#[test]
fn what_is_generated_after_a_shift_is_what_a_fresh_session_would_say() {
    for (keep, prompt) in [(0, 40), (10, 40), (64, 70), (100, 110), (149, 150)] {
        let engine = engine(1, CONTEXT);
        let valve = attach(&engine, 1);
        let mut session = engine.session();
        session.set(&valve, dial(0.5), Scope::Generation).unwrap();
        session.set_overflow(Overflow::Shift { keep: Some(keep) }).unwrap();
        session.prompt(&text(prompt, 1)).unwrap();
        let mut left = 300;
        while left > 0 {
            // The tiny model may draw an end token; the timeline goes on behind it.
            let mut generation = session.generate(&Sampling::greedy(), left).unwrap();
            while let Some(event) = generation.next() {
                event.unwrap();
                left -= 1;
                if left == 150 {
                    generation.set(&valve, dial(-0.25), Scope::Generation).unwrap();
                }
            }
        }
        engine.check_cache().unwrap();
        let timeline = session.tokens();
        assert!(timeline.len() <= CONTEXT + 1 && timeline[..keep] == text(prompt, 1)[..keep], "keep {keep}");
        let computed = session.openings(&valve).len();
        let mut fresh = likewise(&session, &valve, computed);
        let said = likeliest(&mut fresh, &timeline[..computed]);
        // Since the last shift the answer has followed from the timeline as it is now. Of a keep that leaves one
        // token to forget, that is one token.
        let last = if keep == 149 { 1 } else { 8 };
        assert_eq!(said[computed - last..], timeline[timeline.len() - last..], "keep {keep}");
    }
}

#[test]
fn pages_after_a_shift_are_known_by_what_they_hold() {
    let engine = engine(2, CONTEXT);
    let valve = attach(&engine, 1);
    let mut session = engine.session();
    session.set(&valve, Dial::steps(vec![(0, 0.5), (90, 0.25)]).unwrap(), Scope::All).unwrap();
    session.set_overflow(Overflow::Shift { keep: Some(5) }).unwrap();
    session.prompt(&text(120, 1)).unwrap();
    session.extend(&text(60, 2)).unwrap();
    let (timeline, openings) = (session.tokens(), session.openings(&valve));
    // 151 tokens were there when it was full: 5 stay, 73 go, and 29 come after the last of them.
    assert_eq!(timeline, [&text(120, 1)[..5], &text(120, 1)[78..], &text(60, 2)[..]].concat());
    assert_eq!(openings[..17], [0.5; 17], "what was computed at 0.5 is computed again at 0.5");
    assert_eq!(openings[17..], vec![0.25; timeline.len() - 17], "and the dial does not start anew");
    let steps = Dial::steps(vec![(0, 0.5), (17, 0.25)]).unwrap();
    let mut other = engine.session();
    other.set(&valve, steps, Scope::All).unwrap();
    assert_eq!(other.prompt(&timeline).unwrap(), 64);
    let mut fresh = likewise(&session, &valve, timeline.len());
    assert_eq!(likeliest(&mut other, &timeline).last(), likeliest(&mut fresh, &timeline).last());
}

#[test]
fn two_runs_that_shift_say_the_same_whatever_runs_beside() {
    let run = |beside: bool| {
        let engine = engine(2, CONTEXT);
        let (mut session, mut other) = (engine.session(), engine.session());
        session.set_overflow(Overflow::Shift { keep: None }).unwrap();
        session.prompt(&text(30, 1)).unwrap();
        other.prompt(&text(90, 2)).unwrap();
        let mut generation = session.generate(&Sampling::default(), 260).unwrap();
        let mut noise = other.generate(&Sampling::default(), 50).unwrap();
        let mut out = Vec::new();
        loop {
            if beside {
                engine.advance([&mut generation, &mut noise]).unwrap();
                drop(noise.next());
            }
            let Some(event) = generation.next() else { return out };
            out.push(event.unwrap().token);
        }
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn without_a_shift_or_with_nothing_to_forget_the_context_is_full() {
    let engine = engine(1, CONTEXT);
    let mut session = engine.session();
    assert!(matches!(
        session.set_overflow(Overflow::Shift { keep: Some(CONTEXT) }),
        Err(Error::Argument { name: "keep", .. })
    ));
    for overflow in [Overflow::Fail, Overflow::Shift { keep: None }] {
        session.set_overflow(overflow).unwrap();
        session.prompt(&text(CONTEXT, 1)).unwrap();
        let mut generation = session.generate(&Sampling::greedy(), 2).unwrap();
        assert!(generation.next().unwrap().is_ok());
        assert!(matches!(generation.next(), Some(Err(Error::ContextFull { needed: 151, capacity: 150 }))));
        drop(generation);
        assert!(matches!(session.prompt(&text(CONTEXT + 1, 1)), Err(Error::ContextFull { .. })));
    }
}

#[test]
fn a_prompt_that_is_too_long_loses_its_middle() {
    let engine = engine(1, CONTEXT);
    let mut session = engine.session();
    session.set_overflow(Overflow::Shift { keep: Some(50) }).unwrap();
    let long = text(400, 1);
    session.prompt(&long).unwrap();
    assert_eq!(session.tokens(), [&long[..50], &long[350..]].concat());
}
