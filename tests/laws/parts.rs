//! The laws of rows and slots, with a dial for each part of several valves.

use super::*;
use cotvalve::valve::{Group, Part};
use std::cell::Cell;

const RANKS: [(usize, TensorType); 4] =
    [(1, TensorType::F32), (7, TensorType::F16), (16, TensorType::BF16), (32, TensorType::Q8_0)];

/// Names of the projections of `group` in both layers.
fn of_group(group: Group) -> Vec<String> {
    let names = if group == Group::Attention { &EVERYWHERE[..4] } else { &EVERYWHERE[4..] };
    (0..2).flat_map(|l| names.iter().map(move |w| format!("blk.{l}.{w}.weight"))).collect()
}

/// An adapter on the attention and one that is the same there and overflows in the MLP.
fn sound_and_overflowing(rank: usize) -> [Vec<u8>; 2] {
    let [attn, mlp] = [Group::Attention, Group::Mlp].map(of_group);
    let all: Vec<&str> = attn.iter().chain(&mlp).map(String::as_str).collect();
    let halves = Cell::new(0);
    let encode = |ty: TensorType, values: &[f32]| {
        halves.set(halves.get() + 1);
        let huge = halves.get() > 2 * attn.len();
        let value = |v: &f32| if huge { v.signum() * 3e38 } else { *v };
        encoded(ty, &values.iter().map(value).collect::<Vec<_>>())
    };
    [&all[..attn.len()], &all[..]].map(|targets| {
        halves.set(0);
        tiny_adapter_encoded(5, rank, TensorType::F32, targets, &encode)
    })
}

/// One opening a slot: `attn` for attention, `mlp` for the MLP.
fn by_group(runner: &Runner, attn: f32, mlp: f32) -> Vec<f32> {
    let opening = |(_, part): (usize, Part)| if part.group == Group::Attention { attn } else { mlp };
    runner.slots().into_iter().map(opening).collect()
}

/// Openings of every slot that differ from slot to slot; a third of them is closed.
fn scattered(slots: usize, seed: usize) -> Vec<f32> {
    let opening = |i: usize| match (i * 7 + seed * 5) % 6 {
        0 => 0.0,
        1 => -0.0,
        k => (k as f32 - 3.5) * 0.5 + 0.01 * (i + seed) as f32,
    };
    (0..slots).map(opening).collect()
}

#[test]
fn law_1_a_closed_part_does_not_matter_whatever_it_holds() {
    for level in Level::ALL {
        for rank in [1, 7, 16] {
            let [sound, overflowing] = sound_and_overflowing(rank);
            let setup = Setup { level, ..Setup::default() };
            let text = tokens(20, 1);
            let mut truth = Runner::new(model(TensorType::Q4_1), &[sound], setup);
            let truth = bits(&truth.text(0, &text, &[0.7], 20));
            let mut runner = Runner::new(model(TensorType::Q4_1), &[overflowing], setup);
            let texts = [
                (0, text.clone(), by_group(&runner, 0.7, 0.0)),
                (1, text.clone(), by_group(&runner, 0.7, 0.5)),
                (2, text.clone(), by_group(&runner, 0.7, -0.0)),
                (3, text.clone(), by_group(&runner, 0.0, 1.0)),
            ];
            for chunk in [1, 4] {
                let out = mixed(&mut runner, &texts, chunk);
                let at = format!("{} at rank {rank}, chunks of {chunk}", level.name());
                assert!(bits(&out[0]) == truth && bits(&out[2]) == truth, "{at}");
                assert!(out[1].iter().flatten().any(|v| !v.is_finite()), "{at}: the open MLP does overflow");
            }
        }
    }
}

#[test]
fn law_2_a_row_does_not_depend_on_what_stands_beside_it() {
    for ty in TYPES {
        let adapters = RANKS.map(|(rank, ty)| adapter(rank as u64, rank, ty));
        let setup = Setup { level: Level::Scalar, threads: 1, ..Setup::default() };
        let mut alone = Runner::new(model(ty), &adapters, setup);
        let slots = alone.slots().len();
        assert_eq!(slots, 4 * 2 * 2);
        let (text, openings) = (tokens(70, 1), scattered(slots, 1));
        let truth = bits(&alone.text(0, &text, &openings, 70));
        for level in Level::ALL {
            for threads in [1, 2, 3] {
                let mut runner = Runner::new(model(ty), &adapters, Setup { level, threads, ..setup });
                for chunk in [1, 3, 17, 64] {
                    let out = bits(&runner.text(1, &text, &openings, chunk));
                    assert!(out == truth, "{ty} at {}, {threads} threads, chunks of {chunk}", level.name());
                }
                let beside = [
                    (0, tokens(50, 2), scattered(slots, 2)),
                    (2, text.clone(), openings.clone()),
                    (3, tokens(70, 3), vec![0.0; slots]),
                ];
                assert!(bits(&mixed(&mut runner, &beside, 9)[1]) == truth, "{ty} {threads} threads, mixed");
            }
        }
    }
}

#[test]
fn law_2_and_4_sixteen_rows_of_sixteen_settings_are_what_each_is_alone() {
    for ty in TYPES {
        let adapters = RANKS.map(|(rank, ty)| adapter(rank as u64, rank, ty));
        let setup = Setup { level: Level::Scalar, threads: 1, ..Setup::default() };
        let mut alone = Runner::new(model(ty), &adapters, setup);
        let slots = alone.slots().len();
        let texts: Vec<_> = (0..16).map(|i| (i, tokens(9, i), scattered(slots, i as usize))).collect();
        let truth: Vec<_> = texts.iter().map(|(s, t, o)| bits(&alone.text(*s, t, o, 9))).collect();
        assert!((1..16).all(|i| truth[i] != truth[0]));
        for level in Level::ALL {
            for (threads, rows) in [(1, 16), (2, 16), (3, 5), (2, 2)] {
                let mut runner = Runner::new(model(ty), &adapters, Setup { level, threads, ..setup });
                for (texts, truth) in texts.chunks(rows).zip(truth.chunks(rows)) {
                    let out = mixed(&mut runner, texts, 1);
                    let same = out.iter().zip(truth).all(|(out, truth)| bits(out) == *truth);
                    assert!(same, "{ty} at {}, {threads} threads, {rows} rows", level.name());
                }
            }
        }
    }
}

#[test]
fn law_3_alpha_means_the_dial_of_each_part() {
    let adapters = RANKS.map(|(rank, ty)| adapter(rank as u64, rank, ty));
    let mut runner = Runner::new(model(TensorType::F32), &adapters, FLOAT());
    let text = tokens(24, 4);
    for seed in 0..4 {
        let openings = scattered(runner.slots().len(), seed);
        let error = nmse(&runner.text(0, &text, &openings, 24), &runner.reference(&text, &openings));
        assert!(error < 1e-9, "NMSE {error:e}");
    }
    let mut openings = scattered(runner.slots().len(), 1);
    let reference = runner.reference(&text, &openings);
    for slot in 0..openings.len() {
        let right = std::mem::replace(&mut openings[slot], 0.9);
        let wrong = nmse(&runner.text(0, &text, &openings, 24), &reference);
        assert!(wrong > 1e-7, "the measure must see every slot: {wrong:e} at {slot}");
        openings[slot] = right;
    }
}

#[test]
fn law_4_a_part_is_a_part_of_the_whole() {
    // Parts all turned to one α are the adapter at α; the groups of one adapter are adapters on those groups.
    let whole = adapter(1, 8, TensorType::F16);
    let text = tokens(12, 5);
    let mut runner = Runner::new(model(TensorType::Q4_0), &[whole], Setup::default());
    let uniform = bits(&runner.text(0, &text, &[0.6], 12));
    let (both, attn) = (by_group(&runner, 0.6, 0.6), by_group(&runner, 0.6, 0.0));
    assert!(bits(&runner.text(1, &text, &both, 12)) == uniform);
    let mixed = bits(&runner.text(2, &text, &attn, 12));
    assert!(mixed != uniform && mixed != bits(&runner.text(3, &text, &[0.0], 12)));
    let before = runner.regions();
    runner.step(&text_rows(4, &text, &[0.6]));
    let uniform_regions = runner.regions() - before;
    let before = runner.regions();
    let openings = scattered(runner.slots().len(), 3);
    runner.step(&text_rows(5, &text, &openings));
    assert_eq!(runner.regions() - before, uniform_regions, "dials of parts take no further regions");
}

#[test]
fn law_6_a_turn_of_one_part_acts_from_the_next_row_and_keeps_the_cache() {
    let mut runner = Runner::new(model(TensorType::Q4_0), &[adapter(1, 8, TensorType::F16)], Setup::default());
    let (before, after) = (by_group(&runner, 0.5, 0.5), by_group(&runner, 0.5, -1.0));
    let text = tokens(30, 6);
    let mut rows = text_rows(0, &text, &before);
    rows[12..].iter_mut().for_each(|r| r.openings.clone_from(&after));
    let turned: Vec<_> = rows.chunks(4).flat_map(|r| runner.step(r)).collect();
    let (start, end) = (runner.text(1, &text, &before, 30), runner.text(2, &text, &after, 30));
    assert!(bits(&turned[..12]) == bits(&start[..12]));
    assert!((12..30).all(|i| turned[i] != start[i] && turned[i] != end[i]), "after it the chain is mixed");
}
