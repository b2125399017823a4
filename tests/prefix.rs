//! Law 5: what of a prompt is taken from the cache, and that it is never another's.

mod support;

use cotvalve::engine::{CacheUse, Engine, Session};
use cotvalve::error::Error;
use cotvalve::sampler::Sampling;
use cotvalve::valve::{Dial, Scope};
use support::session::{attach, dial, engine, score, text, tokens};

/// Four pages, the last not full.
const CONTEXT: usize = 230;
const PAGE: usize = 64;

/// What an engine that has computed nothing before makes of a prompt under α of the adapters of these seeds.
fn anew(prompt: &[u32], valves: &[(u64, f32)]) -> Vec<u32> {
    let engine = engine(1, CONTEXT);
    let mut session = session(&engine, &[]);
    for (seed, alpha) in valves {
        let valve = attach(&engine, *seed);
        session.set(&valve, dial(*alpha), Scope::All).unwrap();
    }
    score(&mut session, prompt)
}

fn session(engine: &Engine, valves: &[(&cotvalve::engine::Valve, f32)]) -> Session {
    let mut session = engine.session();
    valves.iter().for_each(|(valve, alpha)| session.set(valve, dial(*alpha), Scope::All).unwrap());
    session
}

#[test]
fn a_prompt_is_taken_from_another_session_and_has_the_bits_of_its_own() {
    let engine = engine(2, CONTEXT);
    let mut first = engine.session();
    let prompt = text(200, 1);
    score(&mut first, &prompt);
    for (len, kept) in [(200, 192), (199, 192), (192, 191), (191, 128), (129, 128), (128, 127), (64, 63), (63, 0)] {
        let mut other = engine.session();
        let mut prompt = prompt[..len].to_vec();
        assert_eq!(other.prompt(&prompt).unwrap(), kept, "{len} tokens");
        assert_eq!(score(&mut other, &prompt), anew(&prompt, &[]), "{len} tokens");
        engine.check_cache().unwrap();
        // The end of a prompt is not the end of what is shared.
        *prompt.last_mut().unwrap() ^= 1;
        assert_eq!(score(&mut other, &prompt), anew(&prompt, &[]), "{len} tokens, the last another");
    }
    assert_eq!(first.prompt(&prompt).unwrap(), 199, "the first session still has its own");
}

#[test]
fn sessions_that_share_hold_their_pages_together() {
    let engine = engine(3, CONTEXT);
    let mut sessions: Vec<Session> = (0..3).map(|_| engine.session()).collect();
    for session in &mut sessions {
        score(session, &text(150, 1));
    }
    let expected = CacheUse { pages: 12, held: 2 + 3, shared: 2, cached: 0, free: 7 };
    assert_eq!(engine.cache_use(), expected);
    // Two that compute the same at the same time end with the same pages.
    let prompt = text(100, 2);
    let mut together: Vec<Session> = sessions.drain(..2).collect();
    together.iter_mut().for_each(|s| assert_eq!(s.prompt(&prompt).unwrap(), 0));
    let mut answers: Vec<_> = together.iter_mut().map(|s| s.generate(&Sampling::greedy(), 4).unwrap()).collect();
    engine.advance(&mut answers).unwrap();
    drop(answers);
    assert_eq!(engine.cache_use().shared, 1);
    engine.check_cache().unwrap();
}

/// llama.cpp #26207: its prompt cache compares tokens alone, and a request that selects one adapter goes on from what
/// was computed under another. vLLM #42125: its key is an adapter's name, and another file of that name is taken for
/// the first; here both are read as one name.
#[test]
fn llama_cpp_26207_a_prefix_is_not_reused_at_another_scale_or_under_another_adapter() {
    let engine = engine(2, CONTEXT);
    let (a, b) = (attach(&engine, 1), attach(&engine, 2));
    let prompt = text(140, 1);
    let settings = [(0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (0.0, 0.5), (0.0, 1.0), (0.5, 0.5), (0.5, 1.0), (1.0, 0.5)];
    for (at_a, at_b) in settings {
        let mut session = session(&engine, &[(&a, at_a), (&b, at_b)]);
        assert_eq!(session.prompt(&prompt).unwrap(), 0, "no other's prefix at {at_a}, {at_b}");
        assert_eq!(score(&mut session, &prompt), anew(&prompt, &[(1, at_a), (2, at_b)]));
        let again = self::session(&engine, &[(&a, at_a), (&b, at_b)]).prompt(&prompt).unwrap();
        assert_eq!(again, 128, "its own at {at_a}, {at_b}");
    }
}

/// llama.cpp, again: POST /lora-adapters changes the scale that requests get which name none, and a slot goes on
/// from keys and values of the scale before.
#[test]
fn llama_cpp_default_scale_that_changes_between_requests_reuses_nothing_of_the_old_scale() {
    let engine = engine(2, CONTEXT);
    let valve = attach(&engine, 1);
    let mut slot = session(&engine, &[(&valve, 1.0)]);
    let prompt = text(140, 1);
    let open = score(&mut slot, &prompt);
    slot.set(&valve, dial(0.25), Scope::All).unwrap();
    assert_eq!(slot.prompt(&prompt).unwrap(), 0);
    assert_eq!(score(&mut slot, &prompt), anew(&prompt, &[(1, 0.25)]));
    slot.set(&valve, dial(1.0), Scope::All).unwrap();
    assert_eq!(slot.prompt(&prompt).unwrap(), 128, "turned back, the first one's pages are right again");
    assert_eq!(score(&mut slot, &prompt), open);
    engine.check_cache().unwrap();
}

#[test]
fn a_closed_valve_shares_with_the_base_and_one_attached_later_with_nobody() {
    let engine = engine(2, CONTEXT);
    let prompt = text(140, 1);
    let base = score(&mut engine.session(), &prompt);
    let first = attach(&engine, 1);
    for closed in [0.0, -0.0] {
        let mut session = session(&engine, &[(&first, closed)]);
        assert_eq!(session.prompt(&prompt).unwrap(), 128, "closed by {closed}");
        assert_eq!(score(&mut session, &prompt), base);
    }
    let mut open = session(&engine, &[(&first, 0.5)]);
    let bits = score(&mut open, &prompt);
    let second = attach(&engine, 2);
    assert_eq!(session(&engine, &[(&second, 0.5)]).prompt(&prompt).unwrap(), 0, "another adapter at the same α");
    let mut same = session(&engine, &[(&first, 0.5), (&second, -0.0)]);
    assert_eq!(same.prompt(&prompt).unwrap(), 128, "what is attached beside it and closed is nothing");
    assert_eq!(score(&mut same, &prompt), bits);
    // The same file again is the same adapter.
    let twin = attach(&engine, 1);
    let mut by_twin = session(&engine, &[(&twin, 0.5)]);
    assert_eq!(by_twin.prompt(&prompt).unwrap(), 128);
    assert_eq!(score(&mut by_twin, &prompt), bits);
}

#[test]
fn a_chain_that_was_turned_on_the_way_is_shared_by_who_would_turn_alike() {
    let engine = engine(2, CONTEXT);
    let valve = attach(&engine, 1);
    let mut turned = session(&engine, &[(&valve, 0.5)]);
    turned.prompt(&text(70, 1)).unwrap();
    let mut answer = turned.generate(&Sampling::default(), 80).unwrap();
    answer.by_ref().take(30).for_each(|event| drop(event.unwrap()));
    answer.set(&valve, dial(-0.25), Scope::All).unwrap();
    answer.by_ref().for_each(|event| drop(event.unwrap()));
    drop(answer);
    let (chain, openings) = (turned.tokens(), turned.openings(&valve));
    assert!(chain.len() > 2 * PAGE, "the tiny model ended too early: {}", chain.len());
    drop(turned);
    let at = openings.iter().position(|alpha| *alpha == -0.25).unwrap() as u32;
    for (dial, kept) in [
        (dial(0.5), PAGE),
        (dial(-0.25), 0),
        (Dial::steps(vec![(0, 0.5), (at, -0.25)]).unwrap(), 2 * PAGE),
        (Dial::steps(vec![(0, 0.5), (at + 1, -0.25)]).unwrap(), PAGE),
    ] {
        let mut other = engine.session();
        other.set(&valve, dial.clone(), Scope::All).unwrap();
        assert_eq!(other.prompt(&chain).unwrap(), kept, "{dial:?}");
        let mut alone = self::engine(1, CONTEXT).session();
        let valve = attach(alone.engine(), 1);
        alone.set(&valve, dial.clone(), Scope::All).unwrap();
        assert_eq!(score(&mut other, &chain), score(&mut alone, &chain), "{dial:?}");
    }
}

#[test]
fn under_scope_generation_every_alpha_shares_the_prompt() {
    let engine = engine(2, CONTEXT);
    let valve = attach(&engine, 1);
    let prompt = text(150, 1);
    for (i, alpha) in [0.0, 0.5, 1.0].into_iter().enumerate() {
        let mut session = engine.session();
        session.set(&valve, dial(alpha), Scope::Generation).unwrap();
        assert_eq!(session.prompt(&prompt).unwrap(), if i == 0 { 0 } else { 128 }, "α {alpha}");
        tokens(&mut session.generate(&Sampling::default(), 20).unwrap()).unwrap();
    }
}

#[test]
fn a_session_that_is_cut_inside_a_shared_page_leaves_it_to_the_others() {
    let engine = engine(2, CONTEXT);
    let prompt = text(140, 1);
    let mut kept = engine.session();
    let bits = score(&mut kept, &prompt);
    let mut cut = engine.session();
    assert_eq!(cut.prompt(&prompt).unwrap(), 128);
    for len in [100, 70, 30] {
        let shorter = [&prompt[..len], &text(20, 9)[..]].concat();
        assert_eq!(cut.prompt(&shorter).unwrap(), len);
        assert_eq!(score(&mut cut, &shorter), anew(&shorter, &[]), "cut at {len}");
        engine.check_cache().unwrap();
    }
    assert_eq!(score(&mut kept, &prompt), bits);
    assert_eq!(score(&mut engine.session(), &prompt), bits);
}

#[test]
fn what_closed_sessions_leave_stays_until_its_room_is_needed() {
    let engine = engine(1, CONTEXT);
    let (old, young) = (text(65, 1), text(70, 2));
    score(&mut engine.session(), &old);
    score(&mut engine.session(), &young);
    assert_eq!(engine.cache_use(), CacheUse { pages: 4, held: 0, shared: 0, cached: 2, free: 2 });
    assert_eq!(engine.session().prompt(&old).unwrap(), 64);
    // Touched, it is the younger now; three pages are needed and two are free.
    let mut large = engine.session();
    score(&mut large, &text(140, 3));
    assert_eq!(engine.cache_use(), CacheUse { pages: 4, held: 3, shared: 0, cached: 1, free: 0 });
    assert_eq!(engine.session().prompt(&young).unwrap(), 0);
    assert_eq!(engine.session().prompt(&old).unwrap(), 64);
    engine.check_cache().unwrap();
}

#[test]
fn a_cache_that_others_fill_is_an_error_of_its_own() {
    let engine = engine(1, CONTEXT);
    let (mut large, mut small) = (engine.session(), engine.session());
    score(&mut large, &text(200, 1));
    small.prompt(&text(5, 2)).unwrap();
    let error = small.generate(&Sampling::greedy(), 1).unwrap().next().unwrap().unwrap_err();
    assert!(matches!(error, Error::CacheFull { needed: 64, free: 0 }), "{error}");
    assert_eq!(error.to_string(), "the cache is full: 64 more tokens need a place and the other sessions leave 0");
    let error = large.prompt(&text(CONTEXT + 1, 1)).unwrap_err();
    assert!(matches!(error, Error::ContextFull { needed: 231, capacity: 230 }), "{error}");
    drop(large);
    assert!(small.generate(&Sampling::greedy(), 1).unwrap().next().unwrap().is_ok());
}

#[test]
fn a_prompt_that_is_given_again_keeps_all_but_its_last_token() {
    let engine = engine(1, CONTEXT);
    let mut session = engine.session();
    for len in [1, 63, 64, 65, 128, CONTEXT] {
        let prompt = text(len, len as u32);
        let first = score(&mut session, &prompt);
        assert_eq!(session.prompt(&prompt).unwrap(), len - 1);
        assert_eq!(score(&mut session, &prompt), first);
        engine.check_cache().unwrap();
    }
}
