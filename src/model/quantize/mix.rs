//! The mixes: tensors that matter more than others get more bits.
//!
//! The choices are llama-quantize's (`llama_tensor_get_type_impl`), so that a file of ours has the types that its file
//! of the same name has.

use super::file_type::{FileType, stored};
use super::plan::{Facts, PlanOptions, Shape, layer_of};
use crate::error::{Error, Result};
use crate::gguf::StoredType;
use FileType as F;

/// What a tensor does in a model, as far as its type depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Embedding,
    Output,
    /// `attn_v`, and matrices that it is a part of.
    Value,
    Key,
    Query,
    AttnOutput,
    Up,
    Gate,
    Down,
    Other,
}

impl Role {
    pub fn of(name: &str) -> Self {
        const PARTS: [(&str, Role); 9] = [
            ("attn_qkv.weight", Role::Value),
            ("attn_kv_b.weight", Role::Value),
            ("attn_v.weight", Role::Value),
            ("attn_k.weight", Role::Key),
            ("attn_q.weight", Role::Query),
            ("attn_output.weight", Role::AttnOutput),
            ("ffn_up", Role::Up),
            ("ffn_gate", Role::Gate),
            ("ffn_down", Role::Down),
        ];
        match name {
            "output.weight" => Self::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Self::Embedding,
            _ => PARTS.iter().find(|(part, _)| name.contains(part)).map_or(Self::Other, |(_, role)| *role),
        }
    }
}

/// The choice of types for one model, tensor by tensor in the order of its layers.
pub(super) struct Mix<'a> {
    facts: &'a Facts,
    options: &'a PlanOptions,
    /// Tensors with the role of a value: their number, and how many had their turn.
    values: usize,
    values_done: usize,
    downs_done: usize,
    gates_done: usize,
    ups_done: usize,
    /// No `output.weight`: the embedding is the output too.
    tied: bool,
}

/// Whether layer `i` of `n` is among the first or last eighth, or every third between.
fn is_favored(i: usize, n: usize) -> bool {
    i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2
}

fn next(count: &mut usize) -> usize {
    *count += 1;
    *count - 1
}

impl<'a> Mix<'a> {
    /// `names`: all tensors.
    pub fn new<'n>(facts: &'a Facts, options: &'a PlanOptions, names: impl Iterator<Item = &'n str> + Clone) -> Self {
        let of = |role| names.clone().filter(move |name| Role::of(name) == role);
        let tied = of(Role::Output).next().is_none();
        let values = of(Role::Value).count();
        Self { facts, options, values, values_done: 0, downs_done: 0, gates_done: 0, ups_done: 0, tied }
    }

    /// The type of the next tensor.
    ///
    /// # Errors
    /// [`Error::Argument`] for a tensor of experts that names no layer of the model.
    pub fn ty(&mut self, role: Role, tensor: &Shape<'_>) -> Result<&'static StoredType> {
        let base = self.options.file_type.base();
        if role == Role::Output || self.tied && role == Role::Embedding {
            return Ok(self.options.output.unwrap_or_else(|| named(self.output(tensor), base)));
        }
        let name = match self.options.file_type {
            // llama-quantize holds a model of another layout of experts apart here, by its architecture.
            F::Mxfp4Moe => Some(if self.holds_experts(role, tensor) { "mxfp4" } else { "q8_0" }),
            _ if role == Role::Embedding => self.embedding(),
            F::Iq2Xxs | F::Iq2Xs | F::Iq1S | F::Iq2S | F::Iq2M | F::Iq1M => self.low(role),
            _ => match role {
                Role::Value => self.value(base),
                Role::Key if self.facts.experts == 8 => Some("q8_0"),
                Role::Key | Role::Query => match self.options.file_type {
                    F::Iq3Xs => Some("iq3_xxs"),
                    F::Iq3Xxs => Some("iq2_s"),
                    _ => None,
                },
                Role::Down => self.down(tensor)?,
                Role::AttnOutput => self.attn_output(),
                Role::Gate => {
                    let i = next(&mut self.gates_done);
                    self.wide(i, tensor)?
                }
                Role::Up => {
                    let i = next(&mut self.ups_done);
                    self.wide(i, tensor)?
                }
                _ => None,
            },
        };
        Ok(named(name, base))
    }

    fn is_falcon(&self) -> bool {
        self.facts.architecture == "falcon"
    }

    fn holds_experts(&self, role: Role, tensor: &Shape<'_>) -> bool {
        let several = tensor.dims.get(2).is_some_and(|&n| n > 1);
        several && (self.facts.architecture != "bailingmoe3" || matches!(role, Role::Up | Role::Gate | Role::Down))
    }

    fn output(&self, tensor: &Shape<'_>) -> Option<&'static str> {
        let base = self.options.file_type.base();
        match self.options.file_type {
            F::Mxfp4Moe => Some("q8_0"),
            _ if self.is_falcon() || !tensor.dims[0].is_multiple_of(base.block_len) => Some("q8_0"),
            F::Iq2Xxs | F::Iq2Xs | F::Iq3Xxs | F::Iq1S | F::Iq2S | F::Iq2M | F::Iq1M => Some("q5_K"),
            F::Q8_0 => None,
            _ => Some("q6_K"),
        }
    }

    /// The embedding where it is not the output too.
    fn embedding(&self) -> Option<&'static str> {
        match self.options.file_type {
            F::Iq2Xxs | F::Iq2Xs | F::Iq1S | F::Iq1M => Some("q2_K"),
            F::Iq2S | F::Iq2M | F::Iq3Xxs => Some("iq3_s"),
            F::Tq1_0 | F::Tq2_0 | F::Q2_0 => Some("q4_K"),
            _ => None,
        }
    }

    /// The types of less than three bits.
    fn low(&mut self, role: Role) -> Option<&'static str> {
        let (file_type, experts) = (self.options.file_type, self.facts.experts);
        let is_larger = matches!(file_type, F::Iq2S | F::Iq2M);
        let raised = Some(if is_larger { "iq3_s" } else { "q2_K" });
        match role {
            Role::Value if self.facts.gqa() >= 4 || experts >= 4 => Some("q4_K"),
            Role::Value => raised,
            Role::Key if experts == 8 => Some("q4_K"),
            Role::Down if next(&mut self.downs_done) < self.facts.layers / 8 => raised,
            Role::AttnOutput if experts == 8 => Some("q5_K"),
            Role::AttnOutput if matches!(file_type, F::Iq1S | F::Iq1M) => Some("iq2_xxs"),
            Role::AttnOutput if is_larger => Some("iq3_s"),
            _ => None,
        }
    }

    fn value(&mut self, base: &StoredType) -> Option<&'static str> {
        let (i, n, shared) = (next(&mut self.values_done), self.values, self.facts.gqa() >= 4);
        let name = match self.options.file_type {
            F::Q2K => Some(if shared { "q4_K" } else { "q3_K" }),
            F::Q2KS | F::Iq3Xs | F::Iq3S if shared => Some("q4_K"),
            F::Iq3Xxs if shared => Some("q4_K"),
            F::Iq3Xxs => Some(if self.options.importance { "iq3_xxs" } else { "iq3_s" }),
            F::Iq3M => Some("q4_K"),
            F::Q3KM => Some(if i < 2 { "q5_K" } else { "q4_K" }),
            F::Q3KL => Some("q5_K"),
            F::Iq4Nl | F::Iq4Xs if shared => Some("q5_K"),
            F::Q4KM | F::Q5KM if is_favored(i, n) => Some("q6_K"),
            F::Q4KS if i < 4 => Some("q5_K"),
            _ => None,
        };
        if self.facts.experts == 8 {
            return Some("q8_0");
        }
        // Eight heads share it, so that more bits cost next to nothing.
        let is_small = self.facts.is_70b() && ["q3_K", "q4_K"].contains(&name.unwrap_or(base.name));
        if is_small { Some("q5_K") } else { name }
    }

    /// The layer of a tensor that `done` others of its role came before. Those of experts may lie in any order in old
    /// files, which have a tensor an expert; so their names count.
    fn layer(&self, done: usize, tensor: &Shape<'_>) -> Result<usize> {
        if self.facts.experts <= 1 {
            return Ok(done);
        }
        let layer = layer_of(tensor.name).filter(|&layer| layer < self.facts.layers);
        layer.ok_or_else(|| {
            let reason = format!("{} is in none of the {} layers", tensor.name, self.facts.layers);
            Error::argument("tensor", reason)
        })
    }

    fn down(&mut self, tensor: &Shape<'_>) -> Result<Option<&'static str>> {
        let done = next(&mut self.downs_done);
        let (i, n) = (self.layer(done, tensor)?, self.facts.layers);
        let (first, falcon) = (i < n / 8, self.is_falcon());
        let weighted = self.options.importance;
        Ok(match self.options.file_type {
            F::Q2K => Some("q3_K"),
            F::Q2KS if first => Some("q4_K"),
            F::Iq3Xxs if !weighted => Some(if first { "q4_K" } else { "q3_K" }),
            F::Q3KM if i < n / 16 => Some("q5_K"),
            F::Q3KM => Some(if !falcon || is_favored(i, n) { "q4_K" } else { "q3_K" }),
            F::Iq3M if first || self.facts.experts == 8 && is_favored(i, n) => Some("q4_K"),
            F::Q3KL => Some(if falcon { "q4_K" } else { "q5_K" }),
            F::Q4KM if falcon && i < n / 16 => Some("q6_K"),
            F::Q4KM if falcon => Some(if is_favored(i, n) { "q5_K" } else { "q4_K" }),
            F::Q4KM | F::Q5KM if is_favored(i, n) => Some("q6_K"),
            F::Iq4Nl | F::Iq4Xs if first && !weighted => Some("q5_K"),
            F::Q4KS if first && !falcon => Some("q5_K"),
            F::Q4_0 if first && weighted => Some("q4_1"),
            F::Q5_0 if first && weighted => Some("q5_1"),
            _ => None,
        })
    }

    fn attn_output(&self) -> Option<&'static str> {
        let file_type = self.options.file_type;
        if self.is_falcon() {
            return (file_type == F::Q3KL).then_some("q4_K");
        }
        if self.facts.experts == 8 {
            let low =
                [F::Q2K, F::Iq3Xs, F::Iq3Xxs, F::Q3KS, F::Q3KM, F::Iq4Nl, F::Q4KS, F::Q4KM, F::Iq3S, F::Iq3M, F::Iq4Xs];
            return low.contains(&file_type).then_some("q5_K");
        }
        match file_type {
            F::Q2K => Some("q3_K"),
            F::Iq3Xxs => Some("iq3_s"),
            F::Q3KM | F::Iq3M => Some("q4_K"),
            F::Q3KL => Some("q5_K"),
            _ => None,
        }
    }

    /// Gate and up projections.
    fn wide(&self, done: usize, tensor: &Shape<'_>) -> Result<Option<&'static str>> {
        let (i, n) = (self.layer(done, tensor)?, self.facts.layers);
        let is_middle = (n / 8..7 * n / 8).contains(&i);
        Ok((self.options.file_type == F::Iq3Xs && is_middle).then_some("iq3_xxs"))
    }
}

fn named(name: Option<&str>, base: &'static StoredType) -> &'static StoredType {
    name.map_or(base, |name| stored(name).expect("a type of the format"))
}
