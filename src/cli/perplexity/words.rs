//! What is said of the numbers, in llama-perplexity's layout and as JSON.

use cotvalve::eval::{Divergence, Estimate, Moments};
use serde_json::{Value, json};
use std::fmt::Write;

/// What the numbers are of.
pub struct Facts {
    pub model: String,
    /// How the valves stand.
    pub alpha: Option<String>,
    /// Tokens of a chunk.
    pub context: usize,
    pub stride: Option<usize>,
    pub chunks: usize,
}

impl Facts {
    /// The facts, and then `more`.
    fn json(&self, more: Value) -> Value {
        let mut all = json!({ "model": self.model, "n_ctx": self.context, "chunks": self.chunks });
        if let Some(alpha) = &self.alpha {
            all["alpha"] = json!(alpha);
        }
        if let Some(stride) = self.stride {
            all["stride"] = json!(stride);
        }
        let fields = more.as_object().into_iter().flatten();
        fields.for_each(|(name, value)| all[name] = value.clone());
        all
    }
}

/// The estimate after a chunk: `nll` is the mean so far.
pub fn chunk(output_type: u8, chunk: usize, step: usize, nll: Estimate) -> String {
    let ppl = nll.value.exp();
    match output_type {
        0 => format!("[{}]{ppl:.4},", chunk + 1),
        _ => format!("{:8}  {ppl:.4}  {:.6}  {:.6}\n", chunk * step, nll.value, nll.error),
    }
}

/// The estimate after all.
pub fn estimate(output_type: u8, nll: Estimate) -> String {
    let Estimate { value, error } = nll.exp();
    let end = if output_type == 0 { "\n" } else { "" };
    format!("{end}Final estimate: PPL = {value:.4} +/- {error:.5}\n")
}

/// `estimates` are the means of −ln p after every chunk.
pub fn estimate_json(facts: &Facts, estimates: &[Estimate], nll: &Moments) -> Value {
    let running: Vec<f64> = estimates.iter().map(|nll| nll.value.exp()).collect();
    let (nll_json, ppl) = (both(nll.mean()), both(nll.mean().exp()));
    facts.json(json!({ "scored": nll.count, "running_ppl": running, "nll": nll_json, "ppl": ppl }))
}

fn both(estimate: Estimate) -> Value {
    json!({ "value": estimate.value, "error": estimate.error })
}

/// Titles of the lines of [`chunk_divergence`].
pub const DIVERGENCE_HEAD: &str = concat!(
    "chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS            ",
    "Same top p\n"
);

/// The estimates after a chunk.
pub fn chunk_divergence(chunk: usize, sums: &Divergence) -> String {
    let (ppl, ratio, kld) = (sums.ppl(), sums.ln_ppl_ratio(), sums.kld());
    let (rms, top) = (sums.p_diff_rms().scaled(100.0), sums.same_top().scaled(100.0));
    let mut line = format!("{:4}", chunk + 1);
    for (estimate, width, digits, unit) in
        [(ppl, 9, 4, ""), (ratio, 10, 5, ""), (kld, 10, 5, ""), (rms, 6, 3, " %"), (top, 6, 3, " %")]
    {
        let Estimate { value, error } = estimate;
        // Writing to a string cannot fail.
        let _ = write!(line, "    {value:width$.digits$} ± {error:width$.digits$}{unit}");
    }
    line.push('\n');
    line
}

pub fn chunk_divergence_json(sums: &Divergence) -> Value {
    json!({ "ppl": sums.ppl().value, "ln_ppl_ratio": sums.ln_ppl_ratio().value, "kld": sums.kld().value,
            "p_diff_rms": sums.p_diff_rms().value, "same_top": sums.same_top().value })
}

/// Shares below which divergences, and changes of probability, are told.
const KLD_SHARES: [(&str, f64); 11] = [
    ("Maximum", 1.0),
    ("99.9% ", 0.999),
    ("99.0% ", 0.99),
    ("95.0% ", 0.95),
    ("90.0% ", 0.9),
    ("Median ", 0.5),
    ("10.0% ", 0.1),
    (" 5.0% ", 0.05),
    (" 1.0% ", 0.01),
    (" 0.1% ", 0.001),
    ("Minimum", 0.0),
];
const P_DIFF_SHARES: [(&str, f64); 13] = [
    ("Maximum", 1.0),
    ("99.9% ", 0.999),
    ("99.0% ", 0.99),
    ("95.0% ", 0.95),
    ("90.0% ", 0.9),
    ("75.0% ", 0.75),
    ("Median ", 0.5),
    ("25.0% ", 0.25),
    ("10.0% ", 0.1),
    (" 5.0% ", 0.05),
    (" 1.0% ", 0.01),
    (" 0.1% ", 0.001),
    ("Minimum", 0.0),
];

/// All estimates after all chunks.
pub fn divergence(sums: &Divergence) -> String {
    let mut text = String::from("\n====== Perplexity statistics ======\n");
    let estimate = |name: &str, Estimate { value, error }| format!("{name:<30}: {value:10.6} ± {error:10.6}\n");
    text += &estimate("Mean PPL(Q)", sums.ppl());
    text += &estimate("Mean PPL(base)", sums.base_ppl());
    text += &format!("Cor(ln(PPL(Q)), ln(PPL(base))): {:6.2}%\n", 100.0 * sums.correlation());
    text += &estimate("Mean ln(PPL(Q)/PPL(base))", sums.ln_ppl_ratio());
    text += &estimate("Mean PPL(Q)/PPL(base)", sums.ln_ppl_ratio().exp());
    text += &estimate("Mean PPL(Q)-PPL(base)", sums.ppl_difference());
    text += "\n====== KL divergence statistics ======\n";
    let Estimate { value, error } = sums.kld();
    text += &format!("Mean    KLD: {value:10.6} ± {error:10.6}\n");
    let klds = sums.klds();
    for (name, share) in KLD_SHARES {
        text += &format!("{name:<7} KLD: {:10.6}\n", klds.at(share));
    }
    text += "\n====== Token probability statistics ======\n";
    let percent = |estimate: Estimate| {
        let Estimate { value, error } = estimate.scaled(100.0);
        format!("{value:6.3} ± {error:5.3} %\n")
    };
    text += &format!("Mean    Δp: {}", percent(sums.p_diff()));
    let p_diffs = sums.p_diffs();
    for (name, share) in P_DIFF_SHARES {
        text += &format!("{name:<7} Δp: {:6.3}%\n", 100.0 * p_diffs.at(share));
    }
    text += &format!("RMS Δp    : {}", percent(sums.p_diff_rms()));
    text += &format!("Same top p: {}", percent(sums.same_top()));
    text
}

pub fn divergence_json(facts: &Facts, estimates: Vec<Value>, sums: &Divergence) -> Value {
    let mut all = facts.json(sums_json(sums));
    all["running"] = estimates.into();
    all
}

/// Everything that [`divergence`] says.
fn sums_json(sums: &Divergence) -> Value {
    let (klds, p_diffs) = (sums.klds(), sums.p_diffs());
    let kld_shares: Vec<[f64; 2]> = KLD_SHARES.iter().map(|(_, share)| [*share, klds.at(*share)]).collect();
    let p_diff_shares: Vec<[f64; 2]> = P_DIFF_SHARES.iter().map(|(_, share)| [*share, p_diffs.at(*share)]).collect();
    json!({
        "scored": sums.count(),
        "ppl": both(sums.ppl()),
        "base_ppl": both(sums.base_ppl()),
        "ln_ppl_correlation": sums.correlation(),
        "ln_ppl_ratio": both(sums.ln_ppl_ratio()),
        "ppl_ratio": both(sums.ln_ppl_ratio().exp()),
        "ppl_difference": both(sums.ppl_difference()),
        "kld": both(sums.kld()),
        "kld_percentiles": kld_shares,
        "p_diff": both(sums.p_diff()),
        "p_diff_percentiles": p_diff_shares,
        "p_diff_rms": both(sums.p_diff_rms()),
        "same_top": both(sums.same_top()),
    })
}

/// One line an opening; the base is the closed valves.
pub fn sweep(alphas: &[f32], sums: &[Divergence]) -> String {
    let mut text = String::from("| α | PPL | ln(PPL(α)/PPL(0)) | KLD | KLD, median | Δp RMS | same top p |\n");
    text += "|---|---|---|---|---|---|---|\n";
    for (alpha, sums) in alphas.iter().zip(sums) {
        let (ppl, ratio, kld) = (sums.ppl(), sums.ln_ppl_ratio(), sums.kld());
        let (rms, top) = (sums.p_diff_rms().scaled(100.0), sums.same_top().scaled(100.0));
        text += &format!("| {alpha} | {:.4} ± {:.4} ", ppl.value, ppl.error);
        text += &format!("| {:.5} ± {:.5} | {:.5} ± {:.5} ", ratio.value, ratio.error, kld.value, kld.error);
        text += &format!("| {:.5} | {:.3} ± {:.3} % ", sums.klds().at(0.5), rms.value, rms.error);
        text += &format!("| {:.2} ± {:.2} % |\n", top.value, top.error);
    }
    text
}

pub fn sweep_json(facts: &Facts, alphas: &[f32], sums: &[Divergence]) -> Value {
    let one = |(alpha, sums): (&f32, &Divergence)| {
        let mut all = sums_json(sums);
        all["alpha"] = crate::cli::inspect::float(*alpha);
        all
    };
    facts.json(json!({ "alphas": alphas.iter().zip(sums).map(one).collect::<Vec<_>>() }))
}
