//! Which type each tensor of a quantized model gets.

use super::file_type::{FileType, stored};
use super::mix::{Mix, Role};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, StoredType, Value};
use regex::bytes::{Regex, RegexBuilder};

/// What the choices depend on beside the tensors' names and shapes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `general.architecture`
    pub architecture: String,
    /// `block_count`
    pub layers: usize,
    /// `attention.head_count`, of the first layer where layers differ
    pub heads: usize,
    /// `attention.head_count_kv`, of the first layer where layers differ
    pub kv_heads: usize,
    /// `expert_count`; 0 without experts
    pub experts: usize,
}

impl Facts {
    /// Reads the keys of any architecture.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a key of the wrong type, and where the architecture or its number of layers is missing.
    pub fn read(gguf: &Gguf) -> Result<Self> {
        let architecture = gguf.require("general.architecture", Gguf::str)?.to_owned();
        let key = |name: &str| format!("{architecture}.{name}");
        let first = |key: String| match gguf.get(&key) {
            Some(Value::Array(_)) => Ok(gguf.u32s(&key)?.and_then(|items| items.first().copied())),
            _ => gguf.u32(&key),
        };
        let heads = first(key("attention.head_count"))?.unwrap_or(0) as usize;
        let kv_heads = first(key("attention.head_count_kv"))?.map_or(heads, |n| n as usize);
        let layers = gguf.require(&key("block_count"), Gguf::u32)? as usize;
        let experts = gguf.u32(&key("expert_count"))?.unwrap_or(0) as usize;
        Ok(Self { architecture, layers, heads, kv_heads, experts })
    }

    /// Query heads that share a key and value.
    pub(super) fn gqa(&self) -> usize {
        self.heads.checked_div(self.kv_heads).unwrap_or(0)
    }

    /// The shape of Llama 2 70B and its successors, whose `attn_v` is small beside the rest.
    pub(super) fn is_70b(&self) -> bool {
        self.architecture == "llama" && self.layers == 80 && self.heads != self.kv_heads
    }
}

/// A tensor as far as the choice of its type goes.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    pub name: &'a str,
    /// Fastest first.
    pub dims: &'a [usize],
    /// The type it has.
    pub ty: &'static StoredType,
}

impl Shape<'_> {
    /// Dimensions up to the last that is not 1.
    fn rank(&self) -> usize {
        self.dims.iter().rposition(|&d| d > 1).map_or(1, |last| last + 1)
    }
}

/// A tensor's name has a match for the pattern: it gets the type.
#[derive(Clone, Debug)]
pub struct Named {
    pattern: Regex,
    ty: &'static StoredType,
}

impl Named {
    /// Reads `PATTERN=TYPE`. The pattern is a regular expression that is searched for in a tensor's name; as in
    /// llama-quantize it is brought to lower case.
    ///
    /// # Errors
    /// [`Error::Argument`] for a text of another form, a pattern that is none and an unknown type.
    pub fn parse(text: &str) -> Result<Self> {
        let refused = |reason: String| Error::argument("--tensor-type", format!("{text:?}: {reason}"));
        let (pattern, ty) = text.split_once('=').ok_or_else(|| refused("is not of the form PATTERN=TYPE".into()))?;
        if pattern.is_empty() {
            return Err(refused("the pattern is empty".into()));
        }
        let ty = stored(ty).ok_or_else(|| refused(format!("{ty:?} is no tensor type")))?;
        // Names are bytes to llama-quantize too; so classes like \d need no tables of Unicode.
        let pattern = RegexBuilder::new(&pattern.to_ascii_lowercase()).unicode(false).build();
        Ok(Self { pattern: pattern.map_err(|e| refused(e.to_string()))?, ty })
    }

    fn matches(&self, name: &str) -> bool {
        self.pattern.is_match(name.as_bytes())
    }
}

/// How types are chosen.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    pub file_type: FileType,
    /// Every tensor keeps its type.
    pub copy: bool,
    /// No mix: all tensors that are quantized get the same type.
    pub pure: bool,
    /// `output.weight` keeps its type.
    pub leave_output: bool,
    /// Type of `output.weight`.
    pub output: Option<&'static StoredType>,
    /// Type of `token_embd.weight`.
    pub embedding: Option<&'static StoredType>,
    /// Types by name; the first match counts. They hold where the file type is a quantized one.
    pub named: Vec<Named>,
    /// Whether there is an importance matrix.
    pub importance: bool,
    /// Layers are counted in the order the tensors are listed, not by name: llama-quantize does so with `--keep-split`.
    pub as_listed: bool,
}

impl PlanOptions {
    /// The mix of `file_type` and nothing else.
    pub fn new(file_type: FileType) -> Self {
        Self {
            file_type,
            copy: false,
            pure: false,
            leave_output: false,
            output: None,
            embedding: None,
            named: Vec::new(),
            importance: false,
            as_listed: false,
        }
    }
}

/// What becomes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub ty: &'static StoredType,
    /// The type that its rows are no whole blocks of, where there was one.
    pub instead_of: Option<&'static StoredType>,
    /// The type is of no use without an importance matrix.
    pub needs_importance: bool,
}

/// The order in which llama.cpp walks a model's tensors: those of no layer, then layer by layer, by name.
pub fn walk_order(name: &str) -> (Option<usize>, &str) {
    (layer_of(name), name)
}

/// N of `blk.N.`
pub(super) fn layer_of(name: &str) -> Option<usize> {
    let digits = name.strip_prefix("blk.")?;
    digits[..digits.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}

/// The type of each tensor, in the order given: what llama-quantize chooses.
///
/// # Errors
/// [`Error::Argument`] where a tensor's rows are no whole blocks of a type that has no other to fall back on, and for
/// an expert's tensor that names no layer.
pub fn plan(facts: &Facts, tensors: &[Shape<'_>], options: &PlanOptions) -> Result<Vec<Planned>> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    if !options.as_listed {
        order.sort_by_key(|&i| walk_order(tensors[i].name));
    }
    let mut mix = Mix::new(facts, options, tensors.iter().map(|tensor| tensor.name));
    let mut planned = vec![None; tensors.len()];
    for i in order {
        planned[i] = Some(choose(&mut mix, &tensors[i], options)?);
    }
    Ok(planned.into_iter().flatten().collect())
}

fn choose(mix: &mut Mix<'_>, tensor: &Shape<'_>, options: &PlanOptions) -> Result<Planned> {
    let as_is = |ty| Planned { ty, instead_of: None, needs_importance: needs_importance(tensor.name, ty, options) };
    if options.copy || !is_quantizable(tensor, options.leave_output) {
        return Ok(Planned { needs_importance: false, ..as_is(tensor.ty) });
    }
    let role = Role::of(tensor.name);
    let named = options.named.iter().find(|named| named.matches(tensor.name)).map(|named| named.ty);
    // The table of embeddings per layer is large, so that a type by name goes before that of embeddings.
    let per_layer = tensor.name == "per_layer_token_embd.weight" && named.is_some();
    if let (Role::Embedding, Some(ty), false) = (role, options.embedding, per_layer) {
        return Ok(as_is(ty));
    }
    if let (Role::Output, Some(ty)) = (role, options.output) {
        return Ok(as_is(ty));
    }
    let base = options.file_type.base();
    if base.block_len == 1 {
        return Ok(as_is(base));
    }
    let ty = match named {
        Some(ty) => ty,
        None if options.pure => base,
        None => mix.ty(role, tensor)?,
    };
    if tensor.dims[0].is_multiple_of(ty.block_len) {
        return Ok(as_is(ty));
    }
    Ok(Planned { instead_of: Some(ty), ..as_is(fallback(tensor, ty)?) })
}

/// The type of a tensor whose rows are no whole blocks of `ty`.
fn fallback(tensor: &Shape<'_>, ty: &'static StoredType) -> Result<&'static StoredType> {
    let name = match ty.name {
        "iq1_s" | "iq1_m" | "iq2_xxs" | "iq2_xs" | "iq2_s" | "iq3_xxs" | "iq3_s" | "iq4_xs" => "iq4_nl",
        "q2_0" | "q2_K" | "q3_K" | "tq1_0" | "tq2_0" => "q4_0",
        "q4_K" => "q5_0",
        "q5_K" => "q5_1",
        "q6_K" => "q8_0",
        _ if ty.block_len <= 32 => "f16",
        _ => {
            let reason = format!("{} has rows of {} values, no whole blocks of {ty}", tensor.name, tensor.dims[0]);
            return Err(Error::argument("type", reason));
        }
    };
    let smaller = stored(name).expect("a type of the format");
    let fits = tensor.dims[0].is_multiple_of(smaller.block_len);
    Ok(if fits { smaller } else { stored("f16").expect("a type of the format") })
}

/// Names of tensors that keep their type have one of these in them: they are small, or sensitive, or no matrices.
const KEPT: [&str; 35] = [
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// Whether a tensor is a matrix (or a matrix for each expert) that is quantized at all.
fn is_quantizable(tensor: &Shape<'_>, leave_output: bool) -> bool {
    let name = tensor.name;
    tensor.rank() >= 2
        && name.ends_with("weight")
        && !(leave_output && name == "output.weight")
        && !["position_embd.weight", "token_types.weight"].contains(&name)
        && !KEPT.iter().any(|kept| name.contains(kept))
}

/// Whether `ty` gives nothing of use for this tensor without an importance matrix.
fn needs_importance(name: &str, ty: &StoredType, options: &PlanOptions) -> bool {
    let low = match ty.name {
        "iq3_xxs" | "iq2_xxs" | "iq2_xs" | "iq2_s" | "iq1_m" | "iq1_s" => true,
        "q2_K" => options.file_type == FileType::Q2KS,
        _ => false,
    };
    low && !matches!(Role::of(name), Role::Embedding | Role::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_walked_without_a_layer_first_then_by_number() {
        let mut names = ["blk.10.a", "output.weight", "blk.2.b", "blk.2.a", "blk.x.a"];
        names.sort_by_key(|name| walk_order(name));
        assert_eq!(names, ["blk.x.a", "output.weight", "blk.2.a", "blk.2.b", "blk.10.a"]);
    }

    #[test]
    fn a_type_by_name_is_a_pattern_and_a_type() {
        let named = Named::parse(r"BLK\.\d+\.ffn_(up|gate)=Q8_0").unwrap();
        assert!(named.matches("blk.12.ffn_up.weight") && !named.matches("blk.12.ffn_down.weight"));
        assert_eq!(named.ty.name, "q8_0");
        for text in ["", "attn_v", "=q8_0", "attn_v=", "attn_v=q9", "attn_(=q8_0"] {
            let error = Named::parse(text).unwrap_err().to_string();
            assert!(error.starts_with("--tensor-type: "), "{error}");
        }
    }
}
