use super::*;
use crate::tokenizer::Vocab;

/// A tokenizer of `n` tokens, the last of which ends a text.
fn tokenizer(n: usize) -> Tokenizer {
    let tokens: Vec<String> = (0..n).map(|i| format!("t{i}")).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    Tokenizer::new(&Vocab { model: "gpt2", pre: "gpt-2", tokens: &tokens, eos: Some(n as u32 - 1), ..Vocab::default() })
        .unwrap()
}

fn sampler(sampling: &Sampling, n: usize) -> Sampler {
    Sampler::new(sampling, &tokenizer(n), &Grammars::default()).unwrap()
}

/// One draw after nothing.
fn draw(sampler: &mut Sampler, logits: &[f32]) -> u32 {
    sampler.next(logits, &[]).unwrap().token
}

fn shares(sampling: &Sampling, logits: &[f32]) -> Vec<f32> {
    let mut sampler = sampler(sampling, logits.len());
    let mut counts = vec![0.0; logits.len()];
    let draws = 20_000;
    (0..draws).for_each(|_| counts[draw(&mut sampler, logits) as usize] += 1.0 / draws as f32);
    counts
}

/// No stage does anything.
fn open() -> Sampling {
    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 7, ..Sampling::default() }
}

#[test]
fn draws_follow_the_softmax() {
    let p = [0.5f32, 0.25, 0.15, 0.1];
    let logits = p.map(f32::ln);
    for (share, p) in shares(&open(), &logits).iter().zip(p) {
        assert!((share - p).abs() < 0.015, "{share} for {p}");
    }
}

#[test]
fn temperature_sharpens() {
    let logits = [0.8f32.ln(), 0.2f32.ln()];
    let share = shares(&Sampling { temperature: 0.5, ..open() }, &logits)[0];
    assert!((share - 0.64 / 0.68).abs() < 0.015, "{share}");
}

#[test]
fn each_filter_cuts_where_it_says() {
    let logits = [0.1f32, 0.5, 0.15, 0.25].map(f32::ln);
    let kept = |s| shares(&s, &logits).iter().map(|p| *p > 0.0).collect::<Vec<_>>();
    assert_eq!(kept(Sampling { top_k: 2, ..open() }), [false, true, false, true]);
    assert_eq!(kept(Sampling { top_p: 0.76, ..open() }), [false, true, true, true]);
    assert_eq!(kept(Sampling { top_p: 0.7, ..open() }), [false, true, false, true]);
    assert_eq!(kept(Sampling { min_p: 0.4, ..open() }), [false, true, false, true]);
    assert_eq!(kept(Sampling { min_p: 1.0, ..open() }), [false, true, false, false]);
    assert_eq!(kept(Sampling { top_p: 0.1, min_keep: 3, ..open() }), [false, true, true, true]);
    assert_eq!(kept(Sampling { min_p: 1.0, min_keep: 2, ..open() }), [false, true, false, true]);
    // The entropy is 1.21; the surprises are 2.30, 0.69, 1.90 and 1.39.
    assert_eq!(kept(Sampling { typical_p: 0.2, ..open() }), [false, false, false, true]);
    assert_eq!(kept(Sampling { typical_p: 0.3, ..open() }), [false, true, false, true]);
    assert_eq!(kept(Sampling { xtc_probability: 1.0, xtc_threshold: 0.2, ..open() }), [true, false, true, true]);
    assert_eq!(kept(Sampling { xtc_probability: 1.0, xtc_threshold: 0.3, ..open() }), [true; 4]);
    assert_eq!(kept(Sampling { top_n_sigma: 1.0, ..open() }), [false, true, false, false]);
    assert_eq!(kept(Sampling { ignore_eos: true, ..open() }), [true, true, true, false]);
    assert_eq!(kept(Sampling { logit_bias: vec![(1, f32::NEG_INFINITY)], ..open() }), [true, false, true, true]);
    assert_eq!(kept(Sampling { logit_bias: vec![(0, f32::INFINITY)], ..open() }), [true, false, false, false]);
}

#[test]
fn recent_tokens_are_penalized() {
    let logits = [1.0, 2.0, -1.0, 0.5];
    let timeline = [3, 0, 0, 2, 1];
    let penalized = |s: Sampling| {
        let mut work = logits;
        Penalties::new(&s).apply(&mut work, &timeline, &s);
        work
    };
    assert_eq!(penalized(Sampling { repeat_penalty: 2.0, ..open() }), [0.5, 1.0, -2.0, 0.25]);
    assert_eq!(penalized(Sampling { repeat_penalty: 2.0, repeat_last_n: 2, ..open() }), [1.0, 1.0, -2.0, 0.5]);
    assert_eq!(penalized(Sampling { frequency_penalty: 0.5, ..open() }), [0.0, 1.5, -1.5, 0.0]);
    assert_eq!(penalized(Sampling { presence_penalty: 0.5, ..open() }), [0.5, 1.5, -1.5, 0.0]);
    assert_eq!(penalized(Sampling { presence_penalty: 9.0, repeat_last_n: 0, ..open() }), logits);
}

#[test]
fn greedy_honours_bias_and_penalties() {
    let logits = [1.0, 2.0, 3.0, 0.0];
    let pick = |s: Sampling, timeline: &[u32]| sampler(&s, 4).next(&logits, timeline).unwrap().token;
    assert_eq!(pick(Sampling::greedy(), &[2, 1]), 2);
    assert_eq!(pick(Sampling { presence_penalty: 5.0, ..Sampling::greedy() }, &[2, 1]), 0);
    assert_eq!(pick(Sampling { logit_bias: vec![(3, 4.0)], ..Sampling::greedy() }, &[]), 3);
    let dry = Sampling { dry_multiplier: 5.0, dry_allowed_length: 1, ..Sampling::greedy() };
    assert_eq!(pick(dry.clone(), &[0, 1, 2, 0, 1]), 1);
    let xtc = Sampling { xtc_probability: 1.0, ..Sampling::greedy() };
    assert_eq!(pick(xtc, &[]), 1, "of the two likely ones the less likely is kept");
}

#[test]
fn mirostat_brings_the_surprise_to_its_target() {
    let mut rng = Rng::new(1);
    let logits: Vec<f32> = (0..2000).map(|_| rng.normal() * 2.0).collect();
    let total: f32 = logits.iter().map(|l| l.exp()).sum();
    for tau in [2.0, 5.0] {
        let s = Sampling { mirostat: 2, mirostat_tau: tau, temperature: 1.0, top_k: 1, ..Sampling::default() };
        let mut sampler = sampler(&s, logits.len());
        let surprise = |token: u32| -(logits[token as usize].exp() / total).log2();
        let draws: Vec<f32> = (0..3000).map(|_| draw(&mut sampler, &logits)).map(surprise).collect();
        // What is aimed at is the surprise among the kept, which is less than that among all.
        let mean = draws[500..].iter().sum::<f32>() / 2500.0;
        assert!(mean > tau && mean < tau + 4.0, "{mean} for {tau}");
        let mu = sampler.mirostat.unwrap();
        assert!(format!("{mu:?}").contains("mu"), "{mu:?}");
    }
}

#[test]
fn the_seed_decides() {
    let logits: Vec<f32> = (0..100).map(|i| (i % 17) as f32 / 4.0).collect();
    let text = |seed| {
        let mut sampler = sampler(&Sampling { seed, ..Sampling::default() }, 100);
        (0..50).map(|_| draw(&mut sampler, &logits)).collect::<Vec<_>>()
    };
    assert_eq!(text(3), text(3));
    assert_ne!(text(3), text(4));
}

/// Every stage at once.
fn busy() -> Sampling {
    Sampling {
        dynatemp_range: 0.3,
        typical_p: 0.97,
        top_n_sigma: 2.0,
        xtc_probability: 0.5,
        repeat_penalty: 1.3,
        frequency_penalty: 0.1,
        dry_multiplier: 0.8,
        logit_bias: vec![(1, 2.0)],
        logprobs: Some(2),
        ..Sampling::default()
    }
}

#[test]
fn strange_logits_give_a_token() {
    let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0];
    let all = Sampling { top_k: 0, ..Sampling::default() };
    let mirostat = Sampling { mirostat: 2, ..Sampling::default() };
    for sampling in [Sampling::greedy(), Sampling::default(), all, mirostat, busy()] {
        let mut sampler = sampler(&sampling, 4);
        assert_eq!(draw(&mut sampler, &strange), 1);
        assert_eq!(draw(&mut sampler, &[f32::NAN; 4]), 0);
        assert_eq!(draw(&mut sampler, &[f32::NEG_INFINITY; 4]), 0);
        assert_eq!(draw(&mut sampler, &[f32::NEG_INFINITY, 2.0, f32::NAN, f32::NAN]), 1);
        assert!([0, 3].contains(&draw(&mut sampler, &[f32::MAX, f32::MIN, f32::MIN, f32::MAX])));
    }
    assert_eq!(draw(&mut sampler(&Sampling::greedy(), 4), &[1.0, 2.0, 2.0, f32::NAN]), 1);
}

/// The likeliest of some logits, as a device gives them.
fn likeliest(logits: &[f32], k: usize) -> Vec<Likely> {
    let mut all: Vec<Likely> = (0..).zip(logits).map(|(token, logit)| Likely { token, logit: *logit }).collect();
    all.sort_by(|a, b| b.logit.total_cmp(&a.logit));
    all.truncate(k);
    all
}

#[test]
fn the_likeliest_draw_what_all_logits_do() {
    let mut rng = Rng::new(5);
    let default = Sampling::default;
    let settings = [
        (Sampling::greedy(), 1),
        (default(), default().top_k),
        (Sampling { top_k: 5, temperature: 1.5, typical_p: 0.9, ..default() }, 5),
        (Sampling { top_k: 30, xtc_probability: 0.5, dynatemp_range: 0.4, top_p: 0.7, ..default() }, 30),
        (Sampling { top_k: 7, temperature: 0.0, ..default() }, 1),
        (Sampling { top_k: 7, temperature: 0.0, xtc_probability: 1.0, ..default() }, 7),
    ];
    for (sampling, enough) in settings {
        let [mut all, mut few] = [0; 2].map(|_| sampler(&sampling, 100));
        assert_eq!(few.enough(), Some(enough), "{sampling:?}");
        for _ in 0..40 {
            // In steps, so that some are equal.
            let logits: Vec<f32> = (0..100).map(|_| (6.0 * rng.normal()).round() / 3.0).collect();
            // Another sequence may want more.
            for k in [enough, enough + 3] {
                let want = all.next(&logits, &[]).unwrap();
                assert_eq!(few.next_of(&likeliest(&logits, k)), want, "{sampling:?}");
                assert!(few.kept().eq(all.kept()), "{sampling:?}");
            }
        }
    }
}

#[test]
fn what_looks_at_all_logits_asks_for_them() {
    let asks = [
        Sampling { top_k: 0, ..Sampling::default() },
        Sampling { top_n_sigma: 1.0, ..Sampling::default() },
        Sampling { repeat_penalty: 1.1, ..Sampling::default() },
        Sampling { dry_multiplier: 0.5, ..Sampling::greedy() },
        Sampling { mirostat: 2, ..Sampling::greedy() },
        Sampling { logit_bias: vec![(1, 1.0)], ..Sampling::greedy() },
        Sampling { ignore_eos: true, ..Sampling::greedy() },
        Sampling { logprobs: Some(0), ..Sampling::greedy() },
    ];
    for sampling in asks {
        assert_eq!(sampler(&sampling, 9).enough(), None, "{sampling:?}");
    }
}

#[test]
fn any_settings_on_any_logits_draw_what_is_possible() {
    let mut rng = Rng::new(9);
    let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0, -0.0, 1e-40, 3.0, -700.0];
    for round in 0..3000 {
        let logits: Vec<f32> = (0..6).map(|_| values[rng.below(values.len())]).collect();
        let pick = |rng: &mut Rng, options: &[f32]| options[rng.below(options.len())];
        let s = Sampling {
            temperature: pick(&mut rng, &[0.0, 1e-6, 1.0, 1e6]),
            dynatemp_range: pick(&mut rng, &[0.0, 1.0]),
            top_k: rng.below(8),
            top_p: pick(&mut rng, &[0.0, 0.5, 1.0]),
            min_p: pick(&mut rng, &[0.0, 0.5, 1.0]),
            typical_p: pick(&mut rng, &[0.0, 0.5, 1.0]),
            top_n_sigma: pick(&mut rng, &[-1.0, 0.5, 1e6]),
            min_keep: rng.below(8),
            xtc_probability: pick(&mut rng, &[0.0, 1.0]),
            xtc_threshold: pick(&mut rng, &[0.0, 0.2]),
            repeat_penalty: pick(&mut rng, &[1e-6, 1.0, 1e6]),
            mirostat: [0, 2][rng.below(2)],
            logprobs: Some(rng.below(8)),
            seed: round,
            ..busy()
        };
        let mut sampler = sampler(&s, logits.len());
        for _ in 0..3 {
            let token = sampler.next(&logits, &[1, 2, 1, 2, 1, 5]).unwrap().token as usize;
            let possible = |l: &f32| *l > f32::NEG_INFINITY;
            assert!(possible(&logits[token]) || !logits.iter().any(possible), "{token} of {logits:?} with {s:?}");
            assert!(sampler.kept().all(|(_, p)| (0.0..=1.0).contains(&p)));
        }
    }
}

#[test]
fn out_of_range_settings_are_named() {
    let bad = Sampling { top_p: 1.5, ..Sampling::default() };
    assert_eq!(bad.check().unwrap_err().to_string(), "top_p: 1.5 is not between 0 and 1");
    assert!(Sampling { temperature: f32::NAN, ..Sampling::default() }.check().is_err());
    let bias = Sampling { logit_bias: vec![(4, 1.0)], ..Sampling::default() };
    let error = Sampler::new(&bias, &tokenizer(4), &Grammars::default()).unwrap_err();
    assert_eq!(error.to_string(), "logit_bias: token 4 is not in the vocabulary of 4");
}
