//! What a test reads and computes, counted from the shapes: the numerators of its rates.

use super::product::Case;
use cotvalve::engine::Valve;
use cotvalve::model::{Model, Site};
use cotvalve::valve::Dial;

/// What one repetition takes in all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Bytes of weights, of the open valve's A and B, and of keys and values, each read once a step by all rows
    /// that need it.
    pub bytes: f64,
    /// Multiplies and adds, a pair counting two: of the weights, of the open valve, and of attention.
    pub operations: f64,
}

/// Bytes, and values that each meet one activation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Size {
    bytes: usize,
    values: usize,
}

/// What steps are counted with.
#[derive(Clone, Debug)]
pub struct Costs {
    /// Weights and norms of all layers, and the last norm.
    layers: Size,
    head: Size,
    /// One row of the embedding.
    embed_row_bytes: usize,
    valve: Size,
    /// Keys and values of one position.
    kv_bytes: usize,
    /// Products of a query's heads with the keys, and of the weights with the values, at one position of all layers.
    attention: usize,
}

impl Costs {
    /// Of a model, a KV type that fits its heads, and the valve that is attached.
    pub fn new(model: &Model, case: &Case, valve: Option<&Valve>) -> Self {
        let config = model.config();
        let (mut layers, mut embed, mut output) = (Size::default(), Size::default(), None);
        for tensor in model.gguf().tensors() {
            let size = Size { bytes: tensor.data.len(), values: tensor.values() };
            match tensor.name.as_str() {
                "token_embd.weight" => embed = size,
                "output.weight" => output = Some(size),
                name => {
                    let weight = Site::of(name, config.layers).is_some();
                    layers.bytes += size.bytes;
                    layers.values += if weight { size.values } else { 0 };
                }
            }
        }
        let mut valve_size = Size::default();
        for half in valve.iter().flat_map(|valve| valve.adapter().pairs()).flat_map(|pair| [&pair.a, &pair.b]) {
            valve_size.bytes += half.data.len();
            valve_size.values += half.cols() * half.rows();
        }
        let heads = &config.heads;
        let kv_row = case.setup.kv_type.row_bytes(heads.kv_heads * heads.head_dim).unwrap_or(0);
        Self {
            layers,
            head: output.unwrap_or(embed),
            embed_row_bytes: embed.bytes / config.vocab,
            valve: valve_size,
            kv_bytes: 2 * config.layers * kv_row,
            attention: 2 * config.layers * heads.heads * heads.head_dim,
        }
    }

    /// Bytes of weights that a step of one token reads.
    pub fn weight_bytes(&self) -> usize {
        self.layers.bytes + self.head.bytes
    }

    /// What one repetition of `case` takes; `dials` has one for each sequence, none without a valve.
    pub fn of(&self, case: &Case, dials: &[Dial]) -> Work {
        let mut work = Work::default();
        let mut done = vec![case.depth; case.batch];
        let prompted = case.depth + case.prompt;
        // Prompts share the rows of a step in order, as the engine plans them.
        while done.iter().any(|done| *done < prompted) {
            let mut room = case.setup.rows().max(case.batch);
            let rows: Vec<usize> = done
                .iter()
                .map(|done| {
                    let rows = (prompted - done).min(room);
                    room -= rows;
                    rows
                })
                .collect();
            let outputs = done.iter().zip(&rows).filter(|(done, rows)| **rows > 0 && *done + *rows == prompted).count();
            self.add_step(&mut work, &mut done, &rows, outputs, dials);
        }
        for _ in 0..case.generated {
            self.add_step(&mut work, &mut done, &vec![1; case.batch], case.batch, dials);
        }
        work
    }

    fn add_step(&self, work: &mut Work, done: &mut [usize], rows: &[usize], outputs: usize, dials: &[Dial]) {
        let (mut bytes, mut pairs, mut open) = (self.layers.bytes, outputs * self.head.values, 0);
        bytes += if outputs > 0 { self.head.bytes } else { 0 };
        for (i, (done, rows)) in done.iter_mut().zip(rows).enumerate() {
            let positions = *done..*done + rows;
            *done = positions.end;
            if *rows > 0 {
                bytes += rows * self.embed_row_bytes + positions.end * self.kv_bytes;
            }
            pairs += rows * self.layers.values;
            pairs += positions.clone().map(|position| (position + 1) * self.attention).sum::<usize>();
            let is_open = |position: &usize| dials.get(i).is_some_and(|dial| dial.at(*position as u32) != 0.0);
            open += positions.filter(is_open).count();
        }
        pairs += open * self.valve.values;
        bytes += if open > 0 { self.valve.bytes } else { 0 };
        work.bytes += bytes as f64;
        work.operations += 2.0 * pairs as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::super::lists::Opening;
    use super::super::product::Setup;
    use super::*;
    use cotvalve::tensor::TensorType;

    const COSTS: Costs = Costs {
        layers: Size { bytes: 1000, values: 2000 },
        head: Size { bytes: 300, values: 600 },
        embed_row_bytes: 10,
        valve: Size { bytes: 70, values: 35 },
        kv_bytes: 4,
        attention: 3,
    };

    fn case(batch: usize, depth: usize, prompt: usize, generated: usize) -> Case {
        let (n_batch, n_ubatch, kv_type, threads) = (2048, 8, TensorType::F16, 1);
        let setup = Setup { model: "m".into(), valve: None, n_batch, n_ubatch, kv_type, threads };
        Case { setup, opening: Opening::constant(1.0), batch, depth, prompt, generated }
    }

    #[test]
    fn a_token_reads_everything_once() {
        let work = COSTS.of(&case(1, 0, 0, 1), &[]);
        assert_eq!(work, Work { bytes: 1314.0, operations: 2.0 * 2603.0 });
        let open = COSTS.of(&case(1, 0, 0, 1), &[Dial::Constant(1.0)]);
        assert_eq!(open, Work { bytes: 1384.0, operations: 2.0 * 2638.0 });
        assert_eq!(COSTS.of(&case(1, 0, 0, 1), &[Dial::Constant(0.0)]), work, "closed is base");
    }

    #[test]
    fn a_batch_reads_the_weights_once_and_the_caches_of_all() {
        let [one, four] = [1, 4].map(|batch| COSTS.of(&case(batch, 5, 0, 1), &[]));
        assert_eq!(four.operations, 4.0 * one.operations);
        assert_eq!(four.bytes - one.bytes, f64::from(3 * (10 + 6 * 4)));
    }

    #[test]
    fn a_prompt_takes_steps_of_the_batch_size() {
        let work = COSTS.of(&case(1, 0, 20, 0), &[]);
        assert_eq!(work.bytes, f64::from(3 * 1000 + 300 + 20 * 10 + 4 * (8 + 16 + 20)));
        assert_eq!(work.operations, f64::from(2 * (20 * 2000 + 600 + 3 * 210)));
        // Two prompts of 6 in steps of 8 rows: 8, then 4.
        let work = COSTS.of(&case(2, 0, 6, 0), &[]);
        assert_eq!(work.bytes, f64::from(2 * 1000 + 2 * 300 + 12 * 10 + 4 * (6 + 2 + 6)));
    }

    #[test]
    fn only_open_rows_turn_the_valve() {
        let dials = [Dial::Constant(0.0), Dial::Linear { from: 0.0, to: 1.0, over: 2 }];
        let closed = COSTS.of(&case(2, 0, 0, 3), &[]);
        let work = COSTS.of(&case(2, 0, 0, 3), &dials);
        assert_eq!((work.bytes - closed.bytes, work.operations - closed.operations), (140.0, 140.0));
    }
}
