//! The llama forward pass in f64, written from the formulas and from nothing else: the truth the engine is judged by.
//!
//! No cache, no blocks, no kernels. It shares no code with `src/`. Weights come dequantized from a closure, one tensor
//! at a time, so that a model needs little memory.

use rayon::prelude::*;

/// What a llama model's GGUF metadata says about its shape.
#[derive(Clone, Debug)]
pub struct Hyper {
    /// `llama.block_count`
    pub n_layer: usize,
    /// `llama.attention.head_count`
    pub n_head: usize,
    /// `llama.attention.head_count_kv`: query head h reads key-value head h / (n_head / n_kv_head).
    pub n_kv_head: usize,
    /// Values a head; `embedding_length / head_count` where the file does not say.
    pub head_dim: usize,
    /// `llama.rope.freq_base`
    pub rope_base: f64,
    /// `llama.rope.dimension_count`: the first values of a head, which are rotated.
    pub rope_dims: usize,
    /// `llama.attention.layer_norm_rms_epsilon`
    pub eps: f64,
    /// `rope_freqs.weight`: divisors of the rope_dims/2 frequencies.
    pub rope_factors: Option<Vec<f64>>,
}

/// A low-rank delta of one weight: W·x + scale · B·(A·x).
#[derive(Clone, Debug)]
pub struct Delta {
    /// The base tensor, for example `blk.0.attn_q.weight`.
    pub name: String,
    /// [rank, n_in], row by row.
    pub a: Vec<f64>,
    /// [n_out, rank], row by row.
    pub b: Vec<f64>,
    /// α · lora_alpha / rank, or α alone where lora_alpha is 0.
    pub scale: f64,
}

/// A model to be computed slowly and exactly.
pub struct Reference<F> {
    hyper: Hyper,
    tensor: F,
    deltas: Vec<Delta>,
}

/// One vector a position.
type Rows = Vec<Vec<f64>>;

impl<F: Fn(&str) -> Option<Vec<f64>>> Reference<F> {
    /// `tensor` gives a tensor's values by its GGUF name, row by row, or `None` where the file has none.
    pub fn from_gguf_tensors(hyper: Hyper, tensor: F, deltas: Vec<Delta>) -> Self {
        Self { hyper, tensor, deltas }
    }

    /// The logits of every position of one sequence: `tokens.len()` rows of the vocabulary's size.
    ///
    /// # Panics
    /// If a tensor is missing, a shape does not fit, or a token is outside the vocabulary.
    pub fn logits(&self, tokens: &[u32]) -> Rows {
        let embedding = self.get("token_embd.weight");
        let n_embd = self.get("output_norm.weight").len();
        let mut h: Rows = tokens.iter().map(|&t| embedding[t as usize * n_embd..][..n_embd].to_vec()).collect();
        for layer in 0..self.hyper.n_layer {
            let attention = self.attention(layer, &h);
            add(&mut h, &attention);
            let ffn = self.feed_forward(layer, &h);
            add(&mut h, &ffn);
        }
        let h = self.norm("output_norm.weight", &h);
        match (self.tensor)("output.weight") {
            Some(_) => self.linear("output.weight", &h),
            None => matmul(&embedding, &h),
        }
    }

    fn get(&self, name: &str) -> Vec<f64> {
        (self.tensor)(name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// y = W·x + Σ scale · B·(A·x), for every position.
    fn linear(&self, name: &str, x: &Rows) -> Rows {
        let mut y = matmul(&self.get(name), x);
        for delta in self.deltas.iter().filter(|d| d.name == name) {
            let mut d = matmul(&delta.b, &matmul(&delta.a, x));
            d.iter_mut().flatten().for_each(|v| *v *= delta.scale);
            add(&mut y, &d);
        }
        y
    }

    /// yᵢ = wᵢ · xᵢ / √(mean(x²) + eps)
    fn norm(&self, name: &str, x: &Rows) -> Rows {
        let w = self.get(name);
        let row = |x: &Vec<f64>| {
            let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
            let scale = 1.0 / (mean + self.hyper.eps).sqrt();
            x.iter().zip(&w).map(|(v, w)| v * scale * w).collect()
        };
        x.iter().map(row).collect()
    }

    fn attention(&self, layer: usize, h: &Rows) -> Rows {
        let x = self.norm(&format!("blk.{layer}.attn_norm.weight"), h);
        let mut q = self.linear(&format!("blk.{layer}.attn_q.weight"), &x);
        let mut k = self.linear(&format!("blk.{layer}.attn_k.weight"), &x);
        let v = self.linear(&format!("blk.{layer}.attn_v.weight"), &x);
        for (position, (q, k)) in q.iter_mut().zip(&mut k).enumerate() {
            self.rope(position, q);
            self.rope(position, k);
        }
        let hyper = &self.hyper;
        let mixed = (0..h.len()).into_par_iter().map(|i| attend(hyper, &q[i], &k[..=i], &v[..=i])).collect();
        self.linear(&format!("blk.{layer}.attn_output.weight"), &mixed)
    }

    /// Rotates the pairs (x₂ᵢ, x₂ᵢ₊₁) of every head by position · base^(−2i/dims) / factorᵢ.
    fn rope(&self, position: usize, x: &mut [f64]) {
        let hyper = &self.hyper;
        for head in x.chunks_exact_mut(hyper.head_dim) {
            for i in 0..hyper.rope_dims / 2 {
                let factor = hyper.rope_factors.as_ref().map_or(1.0, |f| f[i]);
                let frequency = hyper.rope_base.powf(-2.0 * i as f64 / hyper.rope_dims as f64) / factor;
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                let (a, b) = (head[2 * i], head[2 * i + 1]);
                head[2 * i] = a * cos - b * sin;
                head[2 * i + 1] = a * sin + b * cos;
            }
        }
    }

    /// SwiGLU: down · (silu(gate · x) ∘ (up · x)), silu(z) = z / (1 + e⁻ᶻ).
    fn feed_forward(&self, layer: usize, h: &Rows) -> Rows {
        let x = self.norm(&format!("blk.{layer}.ffn_norm.weight"), h);
        let mut gate = self.linear(&format!("blk.{layer}.ffn_gate.weight"), &x);
        let up = self.linear(&format!("blk.{layer}.ffn_up.weight"), &x);
        for (gate, up) in gate.iter_mut().flatten().zip(up.iter().flatten()) {
            *gate = *gate / (1.0 + (-*gate).exp()) * up;
        }
        self.linear(&format!("blk.{layer}.ffn_down.weight"), &gate)
    }
}

/// One query over the keys and values up to its own position: Σ softmax(q·k / √head_dim) · v in every head.
fn attend(hyper: &Hyper, q: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>]) -> Vec<f64> {
    let (dim, group) = (hyper.head_dim, hyper.n_head / hyper.n_kv_head);
    let mut y = vec![0.0; hyper.n_head * dim];
    for (head, y) in y.chunks_exact_mut(dim).enumerate() {
        let q = &q[head * dim..][..dim];
        let at = head / group * dim;
        let mut weights: Vec<f64> = keys.iter().map(|k| dot(q, &k[at..][..dim]) / (dim as f64).sqrt()).collect();
        let max = weights.iter().fold(f64::NEG_INFINITY, |m, w| m.max(*w));
        weights.iter_mut().for_each(|w| *w = (*w - max).exp());
        let total: f64 = weights.iter().sum();
        for (w, v) in weights.iter().zip(values) {
            y.iter_mut().zip(&v[at..][..dim]).for_each(|(y, v)| *y += w / total * v);
        }
    }
    y
}

fn add(x: &mut Rows, y: &Rows) {
    x.iter_mut().flatten().zip(y.iter().flatten()).for_each(|(x, y)| *x += y);
}

/// The product of every row of `w` [n_out, n_in] with every position of `x`.
fn matmul(w: &[f64], x: &Rows) -> Rows {
    let n_in = x[0].len();
    assert!(w.len().is_multiple_of(n_in), "a weight of {} values does not take {n_in} inputs", w.len());
    let n_out = w.len() / n_in;
    let columns: Rows = w.par_chunks_exact(n_in).map(|w| x.iter().map(|x| dot(w, x)).collect()).collect();
    (0..x.len()).into_par_iter().map(|i| (0..n_out).map(|o| columns[o][i]).collect()).collect()
}

/// Σ aᵢ·bᵢ in eight partial sums, which lets the compiler use vectors.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a8.iter().zip(b8) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}
