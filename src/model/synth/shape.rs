//! Shapes of models that people run.

/// The shape of a llama model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub name: &'static str,
    /// Whose shape it is.
    pub about: &'static str,
    pub layers: usize,
    /// Width of the residual stream: `heads * head_dim`.
    pub embed: usize,
    pub ffn: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    /// The embeddings are the output matrix too.
    pub tied: bool,
    pub rope_base: f32,
    /// Positions that the original was trained on.
    pub context: usize,
}

impl Shape {
    /// Every shape, smallest first. `tiny` is for tests.
    pub const ALL: [Shape; 6] = [
        shape("tiny", "two layers for tests", [2, 256, 512], [4, 2, 64], 512, true).rope(10_000.0, 512),
        shape("135M", "SmolLM2 135M", [30, 576, 1536], [9, 3, 64], 49_152, true).rope(100_000.0, 8192),
        shape("1B", "Llama 3.2 1B", [16, 2048, 8192], [32, 8, 64], 128_256, true).rope(500_000.0, 131_072),
        shape("3B", "Llama 3.2 3B", [28, 3072, 8192], [24, 8, 128], 128_256, true).rope(500_000.0, 131_072),
        shape("8B", "Llama 3 8B", [32, 4096, 14_336], [32, 8, 128], 128_256, false).rope(500_000.0, 8192),
        shape("32B", "Qwen2.5 32B, without its biases", [64, 5120, 27_648], [40, 8, 128], 152_064, false)
            .rope(1_000_000.0, 32_768),
    ];

    /// The shape of this name, in upper or lower case.
    pub fn named(name: &str) -> Option<Shape> {
        Self::ALL.into_iter().find(|shape| shape.name.eq_ignore_ascii_case(name))
    }

    /// Every matrix of layer `layer` that a LoRA adapter has a pair for.
    pub fn linears(&self, layer: usize) -> [Linear; 7] {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let linear = |part, n_in, n_out| Linear { name: format!("blk.{layer}.{part}.weight"), n_in, n_out };
        let [query, key, value, output, gate, up, down] = LINEARS;
        [
            linear(query, self.embed, q),
            linear(key, self.embed, kv),
            linear(value, self.embed, kv),
            linear(output, q, self.embed),
            linear(gate, self.embed, self.ffn),
            linear(up, self.embed, self.ffn),
            linear(down, self.ffn, self.embed),
        ]
    }

    const fn rope(self, rope_base: f32, context: usize) -> Self {
        Self { rope_base, context, ..self }
    }
}

/// The matrices of a layer, as tensors are named.
pub(super) const LINEARS: [&str; 7] = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];

/// A matrix that maps `n_in` values to `n_out`, and its tensor's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    pub name: String,
    pub n_in: usize,
    pub n_out: usize,
}

const fn shape(
    name: &'static str,
    about: &'static str,
    [layers, embed, ffn]: [usize; 3],
    [heads, kv_heads, head_dim]: [usize; 3],
    vocab: usize,
    tied: bool,
) -> Shape {
    let (rope_base, context) = (10_000.0, 0);
    Shape { name, about, layers, embed, ffn, heads, kv_heads, head_dim, vocab, tied, rope_base, context }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_fill_the_width_and_names_are_found() {
        for shape in Shape::ALL {
            assert_eq!(shape.heads * shape.head_dim, shape.embed, "{}", shape.name);
            assert!(shape.heads.is_multiple_of(shape.kv_heads) && shape.context > 0);
            assert_eq!(Shape::named(&shape.name.to_lowercase()), Some(shape));
        }
        assert_eq!(Shape::named("2B"), None);
    }

    #[test]
    fn parameters_are_those_of_the_originals() {
        let count = |shape: Shape| {
            let linears: usize = shape.linears(0).iter().map(|l| l.n_in * l.n_out).sum();
            let tables = if shape.tied { 1 } else { 2 };
            shape.layers * (linears + 2 * shape.embed) + tables * shape.vocab * shape.embed + shape.embed
        };
        // As counted by the originals' publishers; Qwen2.5 32B has 458,752 values of biases more.
        let want = [134_515_008, 1_235_814_400, 3_212_749_824, 8_030_261_248, 32_763_876_352 - 458_752];
        for (shape, want) in Shape::ALL[1..].iter().zip(want) {
            assert_eq!(count(*shape), want, "{}", shape.name);
        }
    }
}
