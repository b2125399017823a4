//! Whole forward passes on a device: beside the CPU backend's, and by the laws of α.

use super::device;
use super::support::gguf_fixture::VOCAB;
use super::support::shaped::{Shape, shaped, shaped_adapter};
use super::support::stage::{Row, Runner, Setup, bits, parse, text_rows};
use cotvalve::cuda::Cuda;
use cotvalve::engine::{Device, Engine, EngineOptions, Event};
use cotvalve::model::{Logits, Model, Stage};
use cotvalve::sampler::Sampling;
use cotvalve::tensor::TensorType;

const SHAPE: Shape = Shape { layers: 2, heads: 4, kv_heads: 2, head_dim: 64, rotated: 64, embed: 128, ffn: 160 };
const TYPES: [TensorType; 3] = [TensorType::Q4_0, TensorType::Q8_0, TensorType::Q4_1];

/// The types that a backend has kernels for.
pub const ALL_TYPES: [TensorType; 16] = [
    TensorType::Q8_0,
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q2K,
    TensorType::Q3K,
    TensorType::Q4K,
    TensorType::Q5K,
    TensorType::Q6K,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Iq4Nl,
    TensorType::Iq4Xs,
    TensorType::Mxfp4,
    TensorType::F16,
    TensorType::BF16,
    TensorType::F32,
];

fn tokens(n: u32, seed: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 37 + seed * 101 + 11) % VOCAB as u32).collect()
}

/// Two adapters that turn what a text means, and one whose A·x is infinite for almost any x.
fn adapters() -> Vec<Vec<u8>> {
    vec![
        shaped_adapter(&SHAPE, 1, 8, TensorType::F16, 0.05),
        shaped_adapter(&SHAPE, 2, 3, TensorType::F32, 0.05),
        shaped_adapter(&SHAPE, 3, 2, TensorType::F32, 1e38),
    ]
}

fn runner(cuda: Cuda, ty: TensorType, adapters: &[Vec<u8>], kv_type: TensorType) -> Runner<Cuda> {
    Runner::on(cuda, shaped(&SHAPE, ty), adapters, kv_type)
}

/// Σ (x − y)² / Σ y².
fn nmse(x: &[Vec<f32>], y: &[Vec<f32>]) -> f64 {
    let pairs = || x.iter().flatten().zip(y.iter().flatten());
    let error: f64 = pairs().map(|(x, y)| f64::from(x - y).powi(2)).sum();
    error / pairs().map(|(_, y)| f64::from(*y).powi(2)).sum::<f64>()
}

fn best(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap()
}

/// How far the best is before the second, in units of the root mean square.
fn lead(logits: &[f32]) -> f32 {
    let first = best(logits);
    let second = (0..logits.len()).filter(|i| *i != first).map(|i| logits[i]).fold(f32::MIN, f32::max);
    let square: f32 = logits.iter().map(|v| v * v).sum();
    (logits[first] - second) / (square / logits.len() as f32).sqrt()
}

#[test]
fn on_a_device_a_forward_pass_is_that_of_the_cpu() {
    let text = tokens(70, 1);
    for (ty, kv_type) in TYPES.into_iter().zip([TensorType::F16, TensorType::Q8_0, TensorType::F32]) {
        let Some(cuda) = device() else { return };
        let openings = [0.8, -0.5, 0.0];
        let mut cuda = runner(cuda, ty, &adapters(), kv_type);
        let setup = Setup { kv_type, ..Setup::default() };
        let mut cpu = Runner::new(shaped(&SHAPE, ty), &adapters(), setup);
        for (sequence, openings) in [(0, [0.0; 3]), (1, openings)] {
            for chunk in [33, 1] {
                let want = cpu.text(sequence, &text, &openings, chunk);
                let got = cuda.text(sequence, &text, &openings, chunk);
                // Activations are rounded to 8 bits in both: a difference in the last place before turns some.
                let error = nmse(&got, &want);
                assert!(error < 1e-3, "{ty}, cache of {kv_type}, {openings:?}, chunks of {chunk}: NMSE {error:e}");
                let decided = || got.iter().zip(&want).filter(|(_, want)| lead(want) > 0.1);
                let agree = decided().filter(|(got, want)| best(got) == best(want)).count();
                let decided = decided().count();
                assert!(decided > 40 && agree == decided, "{ty}: {agree} of {decided} decided tokens agree");
            }
        }
    }
}

/// In batches of few rows and of many: the two classes differ in the last bits of their sums.
#[test]
fn on_a_device_weights_of_every_type_make_the_logits_of_the_cpu() {
    let shape = Shape { layers: 1, embed: 256, ffn: 256, ..SHAPE };
    let text = tokens(12, 6);
    for ty in ALL_TYPES {
        let Some(cuda) = device() else { return };
        let model = || shaped(&shape, ty);
        let want = Runner::new(model(), &[], Setup::default()).text(0, &text, &[], 12);
        let got = Runner::on(cuda, model(), &[], TensorType::F16).text(0, &text, &[], 12);
        let error = nmse(&got, &want);
        assert!(error < 1e-3, "{ty}: NMSE {error:e}");
    }
}

#[test]
fn on_a_device_a_closed_row_has_the_bits_of_the_base_whatever_stands_beside_it() {
    let text = tokens(20, 2);
    let texts = [(0, [0.0; 3]), (1, [1.0, 0.0, 0.0]), (2, [-0.0; 3]), (3, [0.0, 0.3, 1.0]), (4, [0.5, -1.0, 0.0])];
    for chunk in [1, 10] {
        let (Some(cuda), Some(other)) = (device(), device()) else { return };
        let base = bits(&runner(cuda, TensorType::Q4_0, &[], TensorType::F16).text(0, &text, &[], chunk));
        let mut open = runner(other, TensorType::Q4_0, &adapters(), TensorType::F16);
        let mut logits = vec![Vec::new(); texts.len()];
        for first in (0..20).step_by(chunk) {
            let rows = texts.iter().map(|(sequence, openings)| text_rows(*sequence, &text, openings));
            let step = open.step(&rows.flat_map(|rows| rows[first..first + chunk].to_vec()).collect::<Vec<Row>>());
            logits.iter_mut().zip(step.chunks(chunk)).for_each(|(all, new)| all.extend_from_slice(new));
        }
        assert_eq!([bits(&logits[0]), bits(&logits[2])], [base.clone(), base.clone()], "closed rows");
        assert!(logits[3].iter().flatten().any(|v| !v.is_finite()), "the overflow is felt where it is open");
        let alone = bits(&open.text(5, &text, &texts[1].1, chunk));
        assert_eq!(bits(&logits[1]), alone, "an open row is not moved by its neighbours");
        assert_ne!(alone, base, "the valve does something");
    }
}

/// Openings, tokens, positions and pages all differ from step to step of one graph.
#[test]
fn on_a_device_a_graph_replays_for_any_step_of_its_shape() {
    let (Some(a), Some(b)) = (device(), device()) else { return };
    let make = |cuda| runner(cuda, TensorType::Q4_0, &adapters()[..2], TensorType::F16);
    let (mut graphs, mut plain) = (make(a), make(b));
    let step = |position: u32| -> Vec<Row> {
        (0..2)
            .map(|s| Row {
                sequence: 3 * s + 1,
                token: (position * 7 + s * 3) % VOCAB as u32,
                position,
                openings: vec![position as f32 / 8.0 - 1.0, if s == 0 { 0.0 } else { 0.5 }],
            })
            .collect()
    };
    for position in 0..12 {
        let rows = step(position);
        let replayed = graphs.step(&rows);
        // A change of adapters drops the graphs: each step runs its verbs.
        plain.reattach();
        assert_eq!(bits(&replayed), bits(&plain.step(&rows)), "position {position}");
    }
    let replays = |runner: &mut Runner<Cuda>| runner.stage().backend().replays();
    assert_eq!((replays(&mut graphs), replays(&mut plain)), (10, 0), "steps replayed");
}

#[test]
fn on_a_device_only_wanted_rows_give_logits_and_they_are_the_same() {
    let Some(cuda) = device() else { return };
    let mut cuda = runner(cuda, TensorType::Q8_0, &adapters()[..2], TensorType::F16);
    let rows: Vec<Row> = [text_rows(0, &tokens(9, 3), &[0.5, 0.0]), text_rows(1, &tokens(4, 4), &[0.0, -0.7])].concat();
    let all = cuda.step(&rows);
    let outputs = [2, 8, 9, 12];
    let some = cuda.step_for(&rows, &outputs);
    let want: Vec<_> = outputs.iter().map(|row| all[*row as usize].clone()).collect();
    assert_eq!(bits(&some), bits(&want));
    assert!(cuda.step_for(&rows, &[]).is_empty());
}

#[test]
fn on_a_device_the_likeliest_tokens_are_those_of_all_logits() {
    let Some(cuda) = device() else { return };
    let mut cuda = runner(cuda, TensorType::Q8_0, &[], TensorType::F16);
    for (n, outputs) in [(5, &[1, 4][..]), (1, &[0]), (1, &[0]), (1, &[0]), (12, &[])] {
        let rows = text_rows(0, &tokens(n, 6), &[]);
        let all = cuda.step_for(&rows, outputs);
        for k in [1, 3, 40] {
            let mut logits = Logits { enough: k, ..Logits::every() };
            cuda.step_into(&rows, outputs, &mut logits);
            let sorted = |row: &Vec<f32>| {
                let mut tokens: Vec<u32> = (0..row.len() as u32).collect();
                tokens.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
                tokens.into_iter().take(k).map(|token| (token, row[token as usize])).collect::<Vec<_>>()
            };
            let want: Vec<(u32, f32)> = all.iter().flat_map(sorted).collect();
            let got: Vec<(u32, f32)> = logits.likeliest.iter().map(|l| (l.token, l.logit)).collect();
            assert_eq!(got, want, "{k} of {n} rows");
            assert!(logits.all.is_empty(), "no logit was copied");
        }
    }
    // More than there are tokens: whoever draws sees all.
    let rows = text_rows(0, &tokens(1, 6), &[]);
    let mut logits = Logits { enough: 100_000, ..Logits::every() };
    cuda.step_into(&rows, &[0], &mut logits);
    assert!(logits.likeliest.is_empty());
    assert_eq!(bits(&[logits.all]), bits(&cuda.step(&rows)));
}

/// What sessions with these samplings draw side by side, 20 tokens each or up to an end.
fn drawn(engine: &Engine, samplings: &[Sampling]) -> Vec<Vec<u32>> {
    let mut sessions: Vec<_> = samplings.iter().map(|_| engine.session()).collect();
    let mut seed = 0;
    for session in &mut sessions {
        seed += 1;
        session.prompt(&tokens(5 + seed, seed)).unwrap();
    }
    let each = sessions.iter_mut().zip(samplings);
    let mut generations: Vec<_> = each.map(|(session, sampling)| session.generate(sampling, 20).unwrap()).collect();
    let mut drawn = vec![Vec::new(); samplings.len()];
    for _ in 0..20 {
        engine.advance(&mut generations).unwrap();
        for (generation, tokens) in generations.iter_mut().zip(&mut drawn) {
            tokens.extend(generation.next().map(|event: Result<Event, _>| event.unwrap().token));
        }
    }
    drawn
}

#[test]
fn on_a_device_sessions_draw_what_all_logits_would_give() {
    let options = EngineOptions { device: Device::Cuda(vec![0]), sessions: 3, context: 64, ..EngineOptions::default() };
    let model = Model::new(parse("model.gguf", shaped(&SHAPE, TensorType::Q8_0))).unwrap();
    let engine = match Engine::new(model, &options) {
        Ok(engine) => engine,
        Err(e) => return println!("no CUDA device: {e}; skipped"),
    };
    println!("on {}", engine.device());
    let warm = Sampling { temperature: 1.5, ..Sampling::default() };
    let few = [Sampling::greedy(), warm.clone(), Sampling { seed: 2, top_k: 7, min_p: 0.0, top_p: 1.0, ..warm }];
    // Whoever wants log-probabilities has to see every logit, and so do all that draw beside it.
    let all = few.clone().map(|sampling| Sampling { logprobs: Some(1), ..sampling });
    let want = drawn(&engine, &all);
    assert_eq!(drawn(&engine, &few), want);
    assert_eq!(drawn(&engine, &[few[0].clone(), all[1].clone(), few[2].clone()]), want);
    assert!(want.iter().all(|tokens| tokens.iter().any(|t| *t != tokens[0])), "{want:?}");
}

#[test]
fn on_a_device_pages_are_read_written_and_copied() {
    for kv_type in [TensorType::F16, TensorType::F32, TensorType::Q8_0] {
        let Some(cuda) = device() else { return };
        let mut cuda = runner(cuda, TensorType::Q8_0, &[], kv_type);
        let mut cpu = Runner::new(shaped(&SHAPE, TensorType::Q8_0), &[], Setup { kv_type, ..Setup::default() });
        let text = tokens(10, 5);
        let first = cuda.text(0, &text[..9], &[], 9);
        cpu.text(0, &text[..9], &[], 9);
        let position = 2 * 2 * 2 * kv_type.row_bytes(64).unwrap();
        let (mut ours, mut theirs) = (vec![0; 9 * position], vec![0; 9 * position]);
        cuda.stage().read_page(0, &mut ours).unwrap();
        cpu.stage().read_page(0, &mut theirs).unwrap();
        let same = ours.iter().zip(&theirs).filter(|(a, b)| a == b).count();
        assert!(same * 10 > ours.len() * 6, "{kv_type}: {same} of {} bytes agree in the order of pages", ours.len());
        // Sequence 2 starts with page 8, sequence 3 with page 12.
        cuda.stage().write_page(8, &ours).unwrap();
        cuda.stage().copy_page(8, 12).unwrap();
        let next = |cuda: &mut Runner<Cuda>, sequence| {
            bits(&cuda.step(&[Row { sequence, token: text[9], position: 9, openings: vec![] }]))
        };
        let want = next(&mut cuda, 0);
        assert_eq!([next(&mut cuda, 2), next(&mut cuda, 3)], [want.clone(), want], "{kv_type}");
        assert_ne!(bits(&first[..1]), next(&mut cuda, 2));
        assert!(cuda.stage().read_page(64, &mut ours).is_err_and(|e| e.to_string().contains("page")));
        assert!(cuda.stage().write_page(0, &ours[1..]).is_err());
    }
}
