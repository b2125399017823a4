//! The forward pass in Float precision against a reference in f64 that shares no code with it.

mod support;

use cotvalve::quant::encode;
use cotvalve::tensor::TensorType;
use support::gguf_fixture::{TinyLlama, tiny_adapter_encoded};
use support::shaped::{Shape, shaped};
use support::stage::{FLOAT, Runner, Setup, nmse};

fn encoded(ty: TensorType, values: &[f32]) -> Vec<u8> {
    let mut out = vec![0; values.len() / ty.block_len() * ty.block_bytes()];
    encode(ty, values, &mut out);
    out
}

fn tokens(n: u32, vocab: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 37 + 11) % vocab).collect()
}

#[test]
fn every_weight_type_and_option() {
    for ty in TensorType::ALL.into_iter().filter(|ty| ty.block_len() <= 32) {
        for (separate_output, rope_freqs) in [(false, false), (true, true)] {
            let model = TinyLlama { seed: 3, ty, separate_output, rope_freqs, encode: &encoded }.bytes();
            let mut runner = Runner::new(model, &[], FLOAT());
            let text = tokens(80, 279);
            let error = nmse(&runner.text(0, &text, &[], 33), &runner.reference(&text, &[]));
            assert!(error < 1e-9, "{ty}, own output {separate_output}, rope factors {rope_freqs}: NMSE {error:e}");
        }
    }
}

#[test]
fn several_adapters_at_once_with_an_output_of_their_own() {
    let model = TinyLlama { seed: 3, ty: TensorType::F32, separate_output: true, rope_freqs: false, encode: &encoded };
    let first = tiny_adapter_encoded(1, 6, TensorType::F32, &["blk.0.attn_v.weight", "output.weight"], &encoded);
    let second =
        tiny_adapter_encoded(2, 130, TensorType::F16, &["blk.0.attn_v.weight", "blk.1.ffn_up.weight"], &encoded);
    let mut runner = Runner::new(model.bytes(), &[first, second], FLOAT());
    let text = tokens(40, 279);
    for openings in [[1.0, 0.5], [0.0, -0.7], [1.7, 0.0]] {
        let error = nmse(&runner.text(0, &text, &openings, 16), &runner.reference(&text, &openings));
        assert!(error < 1e-9, "{openings:?}: NMSE {error:e}");
    }
}

/// Int8 activations are an approximation: bounded here, and compared with llama.cpp's own by `benches/peer`.
#[test]
fn int8_activations_stay_close() {
    for ty in [
        TensorType::Q4_0,
        TensorType::Q4_1,
        TensorType::Q5_0,
        TensorType::Q5_1,
        TensorType::Q8_0,
        TensorType::Iq4Nl,
        TensorType::Mxfp4,
    ] {
        let model = TinyLlama { seed: 3, ty, separate_output: false, rope_freqs: false, encode: &encoded }.bytes();
        let mut runner = Runner::new(model, &[], Setup::default());
        let text = tokens(40, 279);
        let error = nmse(&runner.text(0, &text, &[], 40), &runner.reference(&text, &[]));
        assert!(error < 1e-3, "{ty}: NMSE {error:e}");
        assert!(error > 1e-9, "{ty}: NMSE {error:e} is too good for 8 bits; does Int8 run at all?");
    }
}

/// Types whose blocks are wider than the small model's rows.
#[test]
fn super_blocks() {
    let shape = Shape { layers: 1, heads: 4, kv_heads: 2, head_dim: 64, rotated: 64, embed: 256, ffn: 512 };
    let text = tokens(70, 50);
    for ty in TensorType::ALL.into_iter().filter(|ty| ty.block_len() > 32) {
        let error = |setup| {
            let mut runner = Runner::new(shaped(&shape, ty), &[], setup);
            nmse(&runner.text(0, &text, &[], 33), &runner.reference(&text, &[]))
        };
        let (float, int8) = (error(FLOAT()), error(Setup::default()));
        assert!(float < 1e-9, "{ty}: NMSE {float:e}");
        assert!(int8 > 1e-9 && int8 < 1e-3, "{ty}: NMSE {int8:e} with 8-bit activations");
    }
}

#[test]
fn any_head_size_and_grouping() {
    let shapes = [
        Shape { layers: 1, heads: 4, kv_heads: 4, head_dim: 8, rotated: 8, embed: 32, ffn: 40 },
        Shape { layers: 1, heads: 6, kv_heads: 2, head_dim: 10, rotated: 6, embed: 33, ffn: 17 },
        Shape { layers: 1, heads: 3, kv_heads: 1, head_dim: 80, rotated: 80, embed: 48, ffn: 96 },
        Shape { layers: 1, heads: 2, kv_heads: 1, head_dim: 128, rotated: 64, embed: 64, ffn: 64 },
    ];
    for (i, shape) in shapes.iter().enumerate() {
        let mut runner = Runner::new(shaped(shape, TensorType::F32), &[], FLOAT());
        let text = tokens(100, 50);
        for chunk in [1, 100] {
            let error = nmse(&runner.text(0, &text, &[], chunk), &runner.reference(&text, &[]));
            assert!(error < 1e-9, "shape {i} in chunks of {chunk}: NMSE {error:e}");
        }
    }
}
