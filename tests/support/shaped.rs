//! A llama of any shape.

use super::gguf_fixture::{VOCAB, set_tokenizer};
use cotvalve::gguf::write::Writer;
use cotvalve::quant::encode;
use cotvalve::rng::Rng;
use cotvalve::tensor::TensorType;

pub struct Shape {
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub rotated: usize,
    pub embed: usize,
    pub ffn: usize,
}

/// Its file: weights of type `ty`, norms in F32, the output tied to the embedding.
pub fn shaped(s: &Shape, ty: TensorType) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.set("general.architecture", "llama").unwrap();
    let counts = [
        ("block_count", s.layers),
        ("context_length", 256),
        ("embedding_length", s.embed),
        ("feed_forward_length", s.ffn),
        ("attention.head_count", s.heads),
        ("attention.head_count_kv", s.kv_heads),
        ("attention.key_length", s.head_dim),
        ("attention.value_length", s.head_dim),
        ("rope.dimension_count", s.rotated),
    ];
    counts.iter().for_each(|(key, n)| writer.set(&format!("llama.{key}"), *n as u32).unwrap());
    writer.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32).unwrap();
    writer.set("llama.rope.freq_base", 500_000.0f32).unwrap();
    set_tokenizer(&mut writer);
    let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let mut tensors = vec![("token_embd".to_string(), vec![s.embed, VOCAB])];
    for layer in 0..s.layers {
        let weights = [
            ("attn_norm", vec![s.embed]),
            ("attn_q", vec![s.embed, q]),
            ("attn_k", vec![s.embed, kv]),
            ("attn_v", vec![s.embed, kv]),
            ("attn_output", vec![q, s.embed]),
            ("ffn_norm", vec![s.embed]),
            ("ffn_gate", vec![s.embed, s.ffn]),
            ("ffn_up", vec![s.embed, s.ffn]),
            ("ffn_down", vec![s.ffn, s.embed]),
        ];
        tensors.extend(weights.into_iter().map(|(name, dims)| (format!("blk.{layer}.{name}"), dims)));
    }
    tensors.push(("output_norm".into(), vec![s.embed]));
    let mut rng = Rng::new(9);
    for (name, dims) in tensors {
        let values: Vec<f32> = (0..dims.iter().product()).map(|_| rng.normal() * 0.3).collect();
        let ty = if dims.len() == 1 { TensorType::F32 } else { ty };
        let mut bytes = vec![0; values.len() / ty.block_len() * ty.block_bytes()];
        encode(ty, &values, &mut bytes);
        writer.tensor(&format!("{name}.weight"), ty as u32, &dims, bytes).unwrap();
    }
    writer.to_bytes().unwrap()
}

/// An adapter on every projection of `s`, A and B of type `ty` and about `size` large.
pub fn shaped_adapter(s: &Shape, seed: u64, rank: usize, ty: TensorType, size: f32) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.set("general.type", "adapter").unwrap();
    writer.set("general.architecture", "llama").unwrap();
    writer.set("adapter.type", "lora").unwrap();
    writer.set("adapter.lora.alpha", 2.0 * rank as f32).unwrap();
    let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let targets = [
        ("attn_q", s.embed, q),
        ("attn_k", s.embed, kv),
        ("attn_v", s.embed, kv),
        ("attn_output", q, s.embed),
        ("ffn_gate", s.embed, s.ffn),
        ("ffn_up", s.embed, s.ffn),
        ("ffn_down", s.ffn, s.embed),
    ];
    let mut rng = Rng::new(seed);
    for layer in 0..s.layers {
        for (name, n_in, n_out) in targets {
            for (half, dims) in [("lora_a", [n_in, rank]), ("lora_b", [rank, n_out])] {
                let values: Vec<f32> = (0..dims[0] * dims[1]).map(|_| rng.normal() * size).collect();
                let mut bytes = vec![0; values.len() * ty.block_bytes()];
                encode(ty, &values, &mut bytes);
                writer.tensor(&format!("blk.{layer}.{name}.weight.{half}"), ty as u32, &dims, bytes).unwrap();
            }
        }
    }
    writer.to_bytes().unwrap()
}
