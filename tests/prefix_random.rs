//! Random sessions of one engine against an oracle that has no engine and no cache of its own: every row of every
//! check is computed from the first position on, under the openings on record.

mod support;

use cotvalve::engine::{Engine, EngineOptions, Overflow, Session, Valve};
use cotvalve::error::{Error, Result};
use cotvalve::sampler::Sampling;
use cotvalve::valve::{Dial, Scope};
use std::path::PathBuf;
use support::Random;
use support::session::{adapter, attach, dial, engine_with, model, text};
use support::stage::{FLOAT, Row, Runner};

const CONTEXT: usize = 220;
const SESSIONS: usize = 4;
/// Few, so that sessions meet.
const ALPHAS: [f32; 5] = [0.0, -0.0, 0.5, 0.5, -1.0];

struct World {
    random: Random,
    engine: Engine,
    valves: Vec<Valve>,
    oracle: Runner,
    sessions: Vec<Session>,
    file: PathBuf,
    counts: Counts,
}

/// What happened, so that a run in which little did fails.
#[derive(Debug, Default)]
struct Counts {
    rows: usize,
    kept: usize,
    shared: usize,
    drawn: usize,
    full: usize,
    loaded: usize,
    shifted: usize,
}

impl World {
    fn new(seed: u64, file: PathBuf) -> Self {
        let setup = FLOAT();
        // Pages of three full sessions for four.
        let engine = engine_with(&EngineOptions {
            threads: 2,
            context: CONTEXT,
            sessions: 3,
            batch: 24,
            kv_type: setup.kv_type,
            precision: setup.precision,
            ..EngineOptions::default()
        });
        let oracle = Runner::new(model(), &[], setup);
        let (random, counts) = (Random(seed), Counts::default());
        let mut world = Self { random, engine, valves: Vec::new(), oracle, sessions: Vec::new(), file, counts };
        world.attach();
        world
    }

    fn attach(&mut self) {
        self.valves.push(attach(&self.engine, 1 + self.valves.len() as u64));
        let files: Vec<Vec<u8>> = (1..=self.valves.len() as u64).map(adapter).collect();
        self.oracle = Runner::new(model(), &files, FLOAT());
    }

    /// Bits of the logits at every computed position of a session, by the oracle.
    fn truth(&mut self, id: usize) -> Vec<Vec<u32>> {
        let session = &self.sessions[id];
        let openings: Vec<Vec<f32>> = self.valves.iter().map(|valve| session.openings(valve)).collect();
        let computed = openings[0].len();
        let row = |(position, token)| Row {
            sequence: 0,
            token,
            position: position as u32,
            openings: openings.iter().map(|of| of[position]).collect(),
        };
        let rows: Vec<Row> = session.tokens().into_iter().take(computed).enumerate().map(row).collect();
        let logits = rows.chunks(100).flat_map(|rows| self.oracle.step(rows));
        logits.map(|row| row.iter().map(|l| l.to_bits()).collect()).collect()
    }

    /// A prompt that starts like others do.
    fn text(&mut self) -> Vec<u32> {
        let cut = if self.random.below(3) == 0 { CONTEXT - 10 } else { 1 + self.random.below(CONTEXT - 20) };
        let mut text = text(cut, self.random.below(2) as u32);
        if self.random.below(5) == 0 {
            let at = self.random.below(text.len());
            text[at] = 3 + self.random.below(250) as u32;
        }
        text
    }

    fn turn(&mut self, id: usize) {
        let valve = self.valves[self.random.below(self.valves.len())].clone();
        let (a, b) = (ALPHAS[self.random.below(5)], ALPHAS[self.random.below(5)]);
        let since = self.random.below(CONTEXT) as u32;
        let dial = if self.random.below(8) == 0 { Dial::steps(vec![(0, a), (since + 1, b)]).unwrap() } else { dial(a) };
        let scope = if self.random.below(4) == 0 { Scope::Generation } else { Scope::All };
        self.sessions[id].set(&valve, dial, scope).unwrap();
    }

    /// Gives a prompt and checks every row that was computed for it.
    fn prompt(&mut self, id: usize) {
        let text = self.text();
        let before = self.sessions[id].openings(&self.valves[0]).len();
        let kept = self.sessions[id].prompt(&text).unwrap();
        let mut seen = Vec::new();
        let scored = self.sessions[id].score(|at, logits| {
            seen.push((at, logits.iter().map(|l| l.to_bits()).collect::<Vec<_>>()));
            Ok(())
        });
        self.room(&scored);
        let truth = self.truth(id);
        assert!(scored.is_err() || seen.len() + kept == text.len());
        for (at, bits) in seen {
            assert!(truth[at] == bits, "the row at {at} of {} after {kept} that were kept", text.len());
            self.counts.rows += 1;
        }
        self.counts.kept += kept;
        self.counts.shared += usize::from(kept > before);
    }

    /// A session that others leave no room gets its error and goes on later.
    fn room<T>(&mut self, result: &Result<T>) {
        match result {
            Ok(_) => {}
            Err(Error::CacheFull { .. } | Error::ContextFull { .. }) => self.counts.full += 1,
            Err(error) => panic!("{error}"),
        }
    }

    /// Generates, turning on the way, and checks that every token since the last shift is the likeliest.
    fn generate(&mut self, id: usize) {
        let text = self.text();
        self.sessions[id].prompt(&text).unwrap();
        let mut first = text.len();
        let turns = self.random.below(2);
        for _ in 0..=turns {
            let limit = 1 + self.random.below(30);
            let before = self.sessions[id].tokens().len();
            let mut drawn = 0;
            let all: Result<Vec<_>> = self.sessions[id].generate(&Sampling::greedy(), limit).unwrap().collect();
            self.room(&all);
            drawn += all.map_or(0, |events| events.len());
            if self.sessions[id].tokens().len() < before + drawn {
                self.counts.shifted += 1;
                first = self.sessions[id].tokens().len();
            }
            self.turn(id);
        }
        let (timeline, truth) = (self.sessions[id].tokens(), self.truth(id));
        for at in first..timeline.len().min(truth.len() + 1) {
            let logits: Vec<f32> = truth[at - 1].iter().map(|bits| f32::from_bits(*bits)).collect();
            let likeliest = logits.iter().copied().fold(f32::MIN, f32::max);
            assert_eq!(logits[timeline[at] as usize], likeliest, "token {at} of {}", timeline.len());
            self.counts.drawn += 1;
        }
    }

    fn file(&mut self, id: usize) {
        if self.sessions[id].openings(&self.valves[0]).is_empty() {
            return;
        }
        self.sessions[id].save(&self.file, "").unwrap();
        let to = self.random.below(self.sessions.len());
        let loaded = self.sessions[to].load(&self.file);
        self.room(&loaded);
        self.counts.loaded += usize::from(loaded.is_ok());
    }

    fn step(&mut self) {
        let n = self.sessions.len();
        let id = self.random.below(n.max(1));
        match self.random.below(12) {
            _ if n == 0 => self.sessions.push(self.engine.session()),
            0 if n < SESSIONS => self.sessions.push(self.engine.session()),
            1 if n > 1 => drop(self.sessions.swap_remove(id)),
            2 | 3 => self.turn(id),
            4 => self.file(id),
            5 => {
                let keep = Some(self.random.below(CONTEXT / 2));
                let overflow = [Overflow::Fail, Overflow::Shift { keep }, Overflow::Shift { keep: None }];
                self.sessions[id].set_overflow(overflow[self.random.below(3)]).unwrap();
            }
            6..9 => self.generate(id),
            _ => self.prompt(id),
        }
        self.engine.check_cache().unwrap();
    }
}

#[test]
fn random_sessions_never_see_a_stale_or_foreign_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(1, folder.path().join("session.gguf"));
    for step in 0..1_200 {
        if step == 600 {
            world.attach();
        }
        world.step();
    }
    let Counts { rows, kept, shared, drawn, full, loaded, shifted } = world.counts;
    println!("{:?}", world.counts);
    assert!(rows > 10_000 && kept > 10_000 && shared > 50 && drawn > 1_000, "{:?}", world.counts);
    assert!(full > 10 && loaded > 20 && shifted > 10, "{:?}", world.counts);
}
