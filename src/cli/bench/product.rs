//! The product of all lists: every test, in the order in which they run.

use super::lists::Opening;
use cotvalve::tensor::TensorType;
use std::path::PathBuf;

/// An adapter, and its opening if it has one of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct ValveChoice {
    pub path: PathBuf,
    pub opening: Option<Opening>,
}

/// What every flag came to. No list is empty but those of tests.
pub struct Lists {
    pub models: Vec<PathBuf>,
    /// `None`: no adapter is attached.
    pub valves: Vec<Option<ValveChoice>>,
    pub openings: Vec<Opening>,
    pub n_batch: Vec<usize>,
    pub n_ubatch: Vec<usize>,
    pub kv_types: Vec<TensorType>,
    pub threads: Vec<usize>,
    /// Sequences at once.
    pub batches: Vec<usize>,
    pub depths: Vec<usize>,
    pub prompts: Vec<usize>,
    pub generated: Vec<usize>,
    pub pairs: Vec<(usize, usize)>,
}

/// What tests have in common that one load of the weights serves.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    pub model: PathBuf,
    pub valve: Option<PathBuf>,
    pub n_batch: usize,
    pub n_ubatch: usize,
    pub kv_type: TensorType,
    pub threads: usize,
}

impl Setup {
    /// Rows of a step: llama.cpp hands over `n_batch` tokens at a time and computes `n_ubatch` of them at once.
    pub fn rows(&self) -> usize {
        self.n_batch.min(self.n_ubatch)
    }
}

/// One test.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    pub setup: Setup,
    /// How the valve stands; of no meaning without one.
    pub opening: Opening,
    /// Sequences at once.
    pub batch: usize,
    /// Tokens of each sequence that are in the cache before the clock starts.
    pub depth: usize,
    /// Tokens computed as a prompt.
    pub prompt: usize,
    /// Tokens computed one a step.
    pub generated: usize,
}

impl Case {
    /// Tokens of a sequence when the test is over.
    pub fn tokens(&self) -> usize {
        self.depth + self.prompt + self.generated
    }

    /// llama-bench's name of the test.
    pub fn name(&self) -> String {
        test_name(self.prompt, self.generated, self.depth)
    }

    /// Why it cannot be run.
    fn refusal(&self) -> Option<String> {
        let rows = self.opening.rows();
        (self.setup.valve.is_some() && rows > self.batch).then(|| {
            let (alpha, batch) = (&self.opening, self.batch);
            format!("--alpha {alpha} is for {rows} sequences or more: not run with --batch {batch}")
        })
    }
}

/// `pp512`, `tg128`, `pp512+tg128`, with ` @ d1024` at a depth.
pub fn test_name(prompt: usize, generated: usize, depth: usize) -> String {
    let test = match (prompt, generated) {
        (prompt, 0) => format!("pp{prompt}"),
        (0, generated) => format!("tg{generated}"),
        (prompt, generated) => format!("pp{prompt}+tg{generated}"),
    };
    if depth > 0 { format!("{test} @ d{depth}") } else { test }
}

impl Lists {
    /// Every test, those of one load together and otherwise in llama-bench's order; and what is left out, in words.
    pub fn cases(&self) -> (Vec<Case>, Vec<String>) {
        let (mut cases, mut left_out) = (Vec::new(), Vec::new());
        for (setup, own) in self.setups() {
            let fixed = own.map(|opening| vec![opening]);
            // Without a valve there is nothing to turn.
            let closed = vec![Opening::constant(0.0)];
            let openings = match &setup.valve {
                Some(_) => fixed.as_ref().unwrap_or(&self.openings),
                None => &closed,
            };
            for opening in openings {
                for (batch, depth, (prompt, generated)) in self.tests() {
                    let (setup, opening) = (setup.clone(), opening.clone());
                    let case = Case { setup, opening, batch, depth, prompt, generated };
                    match case.refusal() {
                        Some(reason) if left_out.contains(&reason) => {}
                        Some(reason) => left_out.push(reason),
                        None => cases.push(case),
                    }
                }
            }
        }
        (cases, left_out)
    }

    /// Every setup, with the opening that its valve has of its own.
    fn setups(&self) -> Vec<(Setup, Option<Opening>)> {
        let any = Setup {
            model: PathBuf::new(),
            valve: None,
            n_batch: super::DEFAULT_BATCH,
            n_ubatch: super::DEFAULT_UBATCH,
            kv_type: super::DEFAULT_KV,
            threads: 1,
        };
        let setups = each(&[any], &self.models, |setup, model| setup.model = model);
        let setups = each(&setups, &self.n_batch, |setup, n_batch| setup.n_batch = n_batch);
        let setups = each(&setups, &self.n_ubatch, |setup, n_ubatch| setup.n_ubatch = n_ubatch);
        let setups = each(&setups, &self.kv_types, |setup, kv_type| setup.kv_type = kv_type);
        let setups = each(&setups, &self.threads, |setup, threads| setup.threads = threads);
        let setups: Vec<_> = setups.into_iter().map(|setup| (setup, None)).collect();
        each(&setups, &self.valves, |(setup, own), choice| {
            (setup.valve, *own) = choice.map_or((None, None), |choice| (Some(choice.path), choice.opening));
        })
    }

    /// Batch, depth, and tokens to compute.
    fn tests(&self) -> Vec<(usize, usize, (usize, usize))> {
        let alone = self.prompts.iter().map(|n| (*n, 0)).chain(self.generated.iter().map(|n| (0, *n)));
        let tests: Vec<_> = alone.chain(self.pairs.iter().copied()).filter(|test| *test != (0, 0)).collect();
        let depths = self.batches.iter().flat_map(|batch| self.depths.iter().map(move |depth| (*batch, *depth)));
        depths.flat_map(|(batch, depth)| tests.iter().map(move |test| (batch, depth, *test))).collect()
    }
}

/// Every one of `all` with every one of `values`; those of one of `all` stand together.
fn each<T: Clone, V: Clone>(all: &[T], values: &[V], set: impl Fn(&mut T, V)) -> Vec<T> {
    let with = |one: &T, value: &V| {
        let mut one = one.clone();
        set(&mut one, value.clone());
        one
    };
    all.iter().flat_map(|one| values.iter().map(|value| with(one, value)).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists() -> Lists {
        Lists {
            models: vec!["m".into()],
            valves: vec![None, Some(ValveChoice { path: "v".into(), opening: None })],
            openings: vec![Opening::constant(0.0), Opening::parse("0/1").unwrap()],
            n_batch: vec![2048],
            n_ubatch: vec![512, 4096],
            kv_types: vec![TensorType::F16],
            threads: vec![1],
            batches: vec![1, 2],
            depths: vec![0, 8],
            prompts: vec![16, 0],
            generated: vec![4],
            pairs: vec![(16, 4), (0, 0)],
        }
    }

    #[test]
    fn every_combination_that_means_something_is_there_once() {
        let (cases, left_out) = lists().cases();
        // A batch of 1 cannot be mixed; without a valve there is one opening.
        assert_eq!(cases.len(), 2 * 2 * 3 * (2 + 2 + 1));
        assert_eq!(left_out, ["--alpha 0/1 is for 2 sequences or more: not run with --batch 1"]);
        for (i, case) in cases.iter().enumerate() {
            assert!(!cases[..i].contains(case), "{case:?}");
        }
        let loads = cases.chunk_by(|a, b| a.setup == b.setup).count();
        assert_eq!(loads, 4, "tests of one load stand together");
        let names: Vec<_> = cases[..6].iter().map(Case::name).collect();
        assert_eq!(names, ["pp16", "tg4", "pp16+tg4", "pp16 @ d8", "tg4 @ d8", "pp16+tg4 @ d8"]);
        assert_eq!(cases.iter().map(|case| case.setup.rows()).max(), Some(2048));
    }

    #[test]
    fn an_opening_of_its_own_is_not_swept() {
        let own = ValveChoice { path: "v".into(), opening: Opening::parse("0.5") };
        let (cases, _) = Lists { valves: vec![Some(own)], ..lists() }.cases();
        assert!(cases.iter().all(|case| case.opening.to_string() == "0.5"));
        assert_eq!(cases.len(), 2 * 2 * 2 * 3);
    }
}
