//! How PEFT and GGUF name the same projection, and how they order its rows.

use crate::backend::RopeLayout;
use crate::model::{Config, FanKind, Site};

/// What PEFT puts before the path of a module.
pub(super) const PREFIX: &str = "base_model.model.";

const HEAD: &str = "lm_head";

/// The modules of a layer in transformers' llama, beside their place in ours.
const MODULES: [(&str, FanKind, usize); 7] = [
    ("self_attn.q_proj", FanKind::Qkv, 0),
    ("self_attn.k_proj", FanKind::Qkv, 1),
    ("self_attn.v_proj", FanKind::Qkv, 2),
    ("self_attn.o_proj", FanKind::AttnOutput, 0),
    ("mlp.gate_proj", FanKind::GateUp, 0),
    ("mlp.up_proj", FanKind::GateUp, 1),
    ("mlp.down_proj", FanKind::Down, 0),
];

/// The projection at a module's path, `model.layers.3.self_attn.q_proj` or `lm_head`.
pub(super) fn site(module: &str, layers: usize) -> Option<Site> {
    if module == HEAD {
        return Some(Site { layer: None, fan: FanKind::Head, output: 0 });
    }
    let (layer, rest) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let layer = layer.parse::<usize>().ok().filter(|l| *l < layers && layer == l.to_string())?;
    let (_, fan, output) = MODULES.into_iter().find(|(name, _, _)| *name == rest)?;
    Some(Site { layer: Some(layer), fan, output })
}

/// The path of the module at `site`: what [`site`] reads.
pub(super) fn module(site: Site) -> String {
    match site.layer {
        Some(layer) => format!("model.layers.{layer}.{}", short(site)),
        None => HEAD.into(),
    }
}

/// The path of the module inside its layer.
pub(super) fn short(site: Site) -> &'static str {
    let found = MODULES.into_iter().find(|(_, fan, output)| (*fan, *output) == (site.fan, site.output));
    found.map_or(HEAD, |(name, _, _)| name)
}

/// Whether the rows of the projection at `site` stand in another order in GGUF. Transformers rotates pairs
/// (i, i + head_dim/2) of a head; GGUF files of architectures that rotate neighbours hold q and k with the halves
/// of every head interleaved.
pub(super) fn permuted(site: Site, config: &Config) -> bool {
    site.fan == FanKind::Qkv && site.output < 2 && config.architecture.rope == RopeLayout::Interleaved
}

/// Which way rows go.
#[derive(Clone, Copy)]
pub(super) enum Order {
    ToGguf,
    ToPeft,
}

/// Reorders the rows of q or k: row `j·head_dim/2 + i` of a head in PEFT is its row `2i + j` in GGUF, for j of
/// 0 and 1. Source: `LlamaModel.permute` of llama.cpp's converter.
///
/// `rows` holds whole heads of `head_dim` rows of `row_bytes` bytes; `head_dim` is even.
pub(super) fn reorder(rows: &[u8], row_bytes: usize, head_dim: usize, order: Order) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(head_dim * row_bytes) {
        for row in 0..head_dim {
            let from = match order {
                Order::ToGguf => row % 2 * (head_dim / 2) + row / 2,
                Order::ToPeft => row % (head_dim / 2) * 2 + row / (head_dim / 2),
            };
            out.extend_from_slice(&head[from * row_bytes..][..row_bytes]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_has_its_place_and_back() {
        for layer in 0..3 {
            for (name, _, _) in MODULES {
                let path = format!("model.layers.{layer}.{name}");
                assert_eq!(module(site(&path, 3).unwrap()), path);
            }
        }
        assert_eq!(module(site("lm_head", 3).unwrap()), "lm_head");
        for path in ["model.layers.3.mlp.up_proj", "model.layers.01.mlp.up_proj", "model.layers.0.mlp.fc1", "", "x"] {
            assert!(site(path, 3).is_none(), "{path}");
        }
    }

    #[test]
    fn names_agree_with_the_model_s() {
        for (short, name) in [("self_attn.k_proj", "attn_k"), ("mlp.down_proj", "ffn_down")] {
            let site = site(&format!("model.layers.1.{short}"), 2).unwrap();
            assert_eq!(site.name(), format!("blk.1.{name}.weight"));
            assert_eq!(Site::of(&site.name(), 2), Some(site));
        }
    }

    #[test]
    fn halves_of_a_head_interleave_and_come_apart_again() {
        let rows: Vec<u8> = (0..12).flat_map(|row| [row, row + 100]).collect();
        let gguf = reorder(&rows, 2, 6, Order::ToGguf);
        let order: Vec<u8> = gguf.chunks(2).map(|row| row[0]).collect();
        assert_eq!(order, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        assert_eq!(reorder(&gguf, 2, 6, Order::ToPeft), rows);
    }
}
