//! One row of logits: its log-probabilities, alone and beside another's.

use super::base_file::CodedRow;
use super::divergence::RowDivergence;

/// A log-probability, or a sum of some, in natural logarithms.
pub type Nats = f64;

/// The largest logit, its place, and ln Σ exp(logit − largest): what turns a logit into a log-probability. Of several
/// largest the first counts.
pub fn log_sum_exp(logits: &[f32]) -> (f32, usize, Nats) {
    let (mut best, mut place) = (f32::NEG_INFINITY, 0);
    for (i, logit) in logits.iter().enumerate() {
        if *logit > best {
            (best, place) = (*logit, i);
        }
    }
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - best).exp())).sum();
    (best, place, sum.ln())
}

/// −ln p(token).
pub fn negative_log_likelihood(logits: &[f32], token: u32) -> Nats {
    let (best, _, total) = log_sum_exp(logits);
    total - f64::from(logits[token as usize] - best)
}

/// The predictions that others are compared with, at one position.
#[derive(Clone, Copy, Debug)]
pub enum BaseRow<'a> {
    /// From a file.
    Coded(CodedRow<'a>),
    /// Just computed.
    Logits(&'a [f32]),
}

impl BaseRow<'_> {
    /// How far `logits` lies from it, where `token` is what the text goes on with.
    pub fn divergence(&self, logits: &[f32], token: u32) -> RowDivergence {
        match self {
            // What the file's code cannot tell from its smallest value is left out of the sum, as llama.cpp has it.
            Self::Coded(row) => compare(logits, token, |i| row.log_probability(i), -16.0),
            Self::Logits(base) => {
                let (best, _, total) = log_sum_exp(base);
                compare(logits, token, |i| f64::from(base[i] - best) - total, f64::NEG_INFINITY)
            }
        }
    }
}

/// KL(base ‖ ours) = Σ p (ln p − ln q) over the tokens whose ln p is above `floor`, and what else a row tells.
fn compare(logits: &[f32], token: u32, base: impl Fn(usize) -> Nats, floor: Nats) -> RowDivergence {
    let (best, top, total) = log_sum_exp(logits);
    let ours = |logit: f32| f64::from(logit - best) - total;
    let (mut divergence, mut base_top, mut base_best) = (0.0, 0, f64::NEG_INFINITY);
    for (i, logit) in logits.iter().enumerate() {
        let log_p = base(i);
        if log_p > base_best {
            (base_top, base_best) = (i, log_p);
        }
        if log_p > floor {
            divergence += f64::from((log_p as f32).exp()) * (log_p - ours(*logit));
        }
    }
    let (nll, base_nll) = (-ours(logits[token as usize]), -base(token as usize));
    RowDivergence { nll, base_nll, divergence, p_diff: (-nll).exp() - (-base_nll).exp(), same_top: top == base_top }
}

/// `f(row, logits)` for every row of `[rows, vocab]`, shared out over threads, in the order of the rows.
pub fn map_rows<T: Send>(
    threads: usize,
    logits: &[f32],
    vocab: usize,
    f: impl Fn(usize, &[f32]) -> T + Sync,
) -> Vec<T> {
    let each = (logits.len() / vocab).div_ceil(threads.max(1)).max(1);
    let part = |(index, rows): (usize, &[f32])| -> Vec<T> {
        rows.chunks_exact(vocab).enumerate().map(|(i, row)| f(index * each + i, row)).collect()
    };
    std::thread::scope(|scope| {
        let parts = logits.chunks(each * vocab).enumerate();
        let threads: Vec<_> = parts.map(|rows| scope.spawn(move || part(rows))).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_order_on_any_number_of_threads() {
        let logits: Vec<f32> = (0..21).map(|i| i as f32).collect();
        for threads in [0, 1, 2, 3, 8] {
            let found = map_rows(threads, &logits, 3, |i, row| (i, row[0]));
            assert_eq!(found, (0..7).map(|i| (i, 3.0 * i as f32)).collect::<Vec<_>>(), "{threads} threads");
        }
        assert_eq!(map_rows(2, &[], 3, |i, _| i), [0_usize; 0]);
    }

    #[test]
    fn a_row_is_as_far_from_another_as_the_definition_says() {
        let (p, q) = ([0.5_f32, 0.25, 0.125, 0.125], [0.125_f32, 0.5, 0.25, 0.125]);
        let base = p.map(|p| p.ln() + 2.0);
        let found = BaseRow::Logits(&base).divergence(&q.map(|q| q.ln() - 1.0), 2);
        let divergence: f32 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        assert!((found.divergence - f64::from(divergence)).abs() < 1e-6, "{found:?}");
        assert!((found.nll - 4_f64.ln()).abs() < 1e-6 && (found.base_nll - 8_f64.ln()).abs() < 1e-6, "{found:?}");
        assert!((found.p_diff - 0.125).abs() < 1e-6 && !found.same_top, "{found:?}");
        let same = BaseRow::Logits(&base).divergence(&base, 2);
        assert_eq!((same.divergence, same.p_diff, same.same_top), (0.0, 0.0, true));
    }
}
