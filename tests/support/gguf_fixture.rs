//! Small, complete GGUF files made in memory: a llama model and LoRA adapters on it.

use super::Random;
use super::alphabet::byte_alphabet;
use cotvalve::gguf::write::Writer;
use cotvalve::gguf::{Gguf, Strings, Value};
use cotvalve::map::Bytes;
use cotvalve::tensor::TensorType;
use std::path::Path;

pub const LAYERS: usize = 2;
pub const CONTEXT: usize = 256;
pub const EMBED: usize = 64;
pub const FFN: usize = 96;
pub const HEADS: usize = 4;
pub const KV_HEADS: usize = 2;
pub const HEAD_DIM: usize = EMBED / HEADS;

const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// Pairs in the order in which a byte-level BPE joins them; each half is a byte or an earlier pair.
const MERGES: [(&str, &str); 20] = [
    ("t", "h"),
    ("th", "e"),
    ("Ġ", "the"),
    ("i", "n"),
    ("Ġ", "a"),
    ("a", "n"),
    ("an", "d"),
    ("Ġ", "and"),
    ("e", "r"),
    ("o", "n"),
    ("r", "e"),
    ("in", "g"),
    ("o", "u"),
    ("Ġ", "t"),
    ("Ġt", "o"),
    ("s", "t"),
    ("e", "n"),
    ("Ġ", "w"),
    ("h", "i"),
    ("Ċ", "Ċ"),
];

/// Tokens that a model knows.
pub const VOCAB: usize = SPECIAL.len() + 256 + MERGES.len();

const CHATML: &str = concat!(
    "{% for message in messages %}",
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}",
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
);

/// Turns values into the bytes of a type; `encode_float` knows the float types.
pub type Encode<'a> = &'a dyn Fn(TensorType, &[f32]) -> Vec<u8>;

/// What can vary in the tiny model.
pub struct TinyLlama<'a> {
    pub seed: u64,
    /// Type of all matrices; norms are f32.
    pub ty: TensorType,
    /// Adds `output.weight`; without it the output is tied to `token_embd`.
    pub separate_output: bool,
    /// Adds `rope_freqs.weight`, as Llama 3 has it.
    pub rope_freqs: bool,
    pub encode: Encode<'a>,
}

/// The tiny model with tied output and no RoPE factors; `ty` is a float type.
pub fn tiny_llama(seed: u64, ty: TensorType) -> Vec<u8> {
    TinyLlama { seed, ty, separate_output: false, rope_freqs: false, encode: &encode_float }.bytes()
}

/// The vocabulary: special tokens, the 256 bytes, the merged pairs.
pub fn vocabulary() -> Vec<String> {
    let special = SPECIAL.map(str::to_owned).into_iter();
    let bytes = byte_alphabet().into_iter().map(String::from);
    special.chain(bytes).chain(MERGES.map(|(a, b)| format!("{a}{b}"))).collect()
}

impl TinyLlama<'_> {
    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        set_architecture(&mut writer);
        set_tokenizer(&mut writer);
        let mut random = Random(self.seed);
        for (name, dims) in self.tensors() {
            let n = dims.iter().product();
            if name == "rope_freqs.weight" {
                let factors: Vec<f32> = (0..n).map(|i| 1.0 + i as f32).collect();
                writer.tensor(&name, TensorType::F32 as u32, &dims, encode_float(TensorType::F32, &factors)).unwrap();
            } else if name.ends_with("norm.weight") {
                let values: Vec<f32> = (0..n).map(|_| random.normal(1.0, 0.1)).collect();
                writer.tensor(&name, TensorType::F32 as u32, &dims, encode_float(TensorType::F32, &values)).unwrap();
            } else {
                let values: Vec<f32> = (0..n).map(|_| random.normal(0.0, 0.1)).collect();
                writer.tensor(&name, self.ty as u32, &dims, (self.encode)(self.ty, &values)).unwrap();
            }
        }
        writer.to_bytes().unwrap()
    }

    /// Names and shapes in the order of the file.
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut names = vec!["token_embd.weight".to_owned()];
        if self.rope_freqs {
            names.push("rope_freqs.weight".into());
        }
        for layer in 0..LAYERS {
            for part in ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"] {
                names.push(format!("blk.{layer}.{part}.weight"));
            }
            for part in ["ffn_norm", "ffn_gate", "ffn_up", "ffn_down"] {
                names.push(format!("blk.{layer}.{part}.weight"));
            }
        }
        names.push("output_norm.weight".into());
        if self.separate_output {
            names.push("output.weight".into());
        }
        names.into_iter().map(|name| (name.clone(), dims(&name))).collect()
    }
}

/// Shape of a tensor of the tiny model, fastest first.
pub fn dims(name: &str) -> Vec<usize> {
    let part = name.strip_suffix(".weight").unwrap().rsplit('.').next().unwrap();
    match part {
        "token_embd" | "output" => vec![EMBED, vocabulary().len()],
        "rope_freqs" => vec![HEAD_DIM / 2],
        "attn_q" | "attn_output" => vec![EMBED, EMBED],
        "attn_k" | "attn_v" => vec![EMBED, KV_HEADS * HEAD_DIM],
        "ffn_gate" | "ffn_up" => vec![EMBED, FFN],
        "ffn_down" => vec![FFN, EMBED],
        norm if norm.ends_with("norm") => vec![EMBED],
        other => panic!("the tiny model has no {other}"),
    }
}

fn set_architecture(writer: &mut Writer) {
    let mut set = |key: &str, value: Value| writer.set(key, value).unwrap();
    set("general.architecture", "llama".into());
    set("general.type", "model".into());
    set("general.name", "tiny llama".into());
    set("llama.block_count", (LAYERS as u32).into());
    set("llama.context_length", (CONTEXT as u32).into());
    set("llama.embedding_length", (EMBED as u32).into());
    set("llama.feed_forward_length", (FFN as u32).into());
    set("llama.attention.head_count", (HEADS as u32).into());
    set("llama.attention.head_count_kv", (KV_HEADS as u32).into());
    set("llama.attention.layer_norm_rms_epsilon", 1e-5_f32.into());
    set("llama.rope.freq_base", 10_000.0_f32.into());
    set("llama.rope.dimension_count", (HEAD_DIM as u32).into());
    set("llama.vocab_size", (vocabulary().len() as u32).into());
}

/// A byte-level BPE, special tokens and a chat template.
pub fn set_tokenizer(writer: &mut Writer) {
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    let tokens = vocabulary();
    let types: Vec<i32> = (0..tokens.len()).map(|i| if i < SPECIAL.len() { CONTROL } else { NORMAL }).collect();
    let mut set = |key: &str, value: Value| writer.set(key, value).unwrap();
    set("tokenizer.ggml.model", "gpt2".into());
    set("tokenizer.ggml.pre", "smollm".into());
    set("tokenizer.ggml.tokens", tokens.iter().collect::<Strings>().into());
    set("tokenizer.ggml.token_type", types.into());
    set("tokenizer.ggml.merges", MERGES.iter().map(|(a, b)| format!("{a} {b}")).collect::<Strings>().into());
    set("tokenizer.ggml.bos_token_id", 1_u32.into());
    set("tokenizer.ggml.eos_token_id", 2_u32.into());
    set("tokenizer.ggml.unknown_token_id", 0_u32.into());
    set("tokenizer.ggml.add_bos_token", false.into());
    set("tokenizer.chat_template", CHATML.into());
}

/// The tiny model with its widths shared out to half as many heads, of twice the size: 32 values, a whole block.
pub fn wide_heads(file: &[u8]) -> Vec<u8> {
    let gguf = Gguf::parse(Path::new("tiny.gguf"), Bytes::from(file.to_vec())).unwrap();
    let mut writer = Writer::new();
    gguf.metadata().iter().for_each(|(key, value)| writer.set(key, value.clone()).unwrap());
    writer.set("llama.attention.head_count", HEADS as u32 / 2).unwrap();
    writer.set("llama.attention.head_count_kv", KV_HEADS as u32 / 2).unwrap();
    writer.set("llama.rope.dimension_count", 2 * HEAD_DIM as u32).unwrap();
    for t in gguf.tensors() {
        writer.tensor(&t.name, t.ty.id, &t.dims, t.data.to_vec()).unwrap();
    }
    writer.to_bytes().unwrap()
}

/// A LoRA adapter on the tiny model: A and B of `ty` (a float type), alpha = 2 × rank. `targets` are names of
/// its tensors, for example `blk.0.attn_q.weight`.
pub fn tiny_adapter(seed: u64, rank: usize, ty: TensorType, targets: &[&str]) -> Vec<u8> {
    tiny_adapter_encoded(seed, rank, ty, targets, &encode_float)
}

/// [`tiny_adapter`] of any type that `encode` knows.
pub fn tiny_adapter_encoded(seed: u64, rank: usize, ty: TensorType, targets: &[&str], encode: Encode) -> Vec<u8> {
    let mut writer = Writer::new();
    let mut set = |key: &str, value: Value| writer.set(key, value).unwrap();
    set("general.type", "adapter".into());
    set("general.architecture", "llama".into());
    set("adapter.type", "lora".into());
    set("adapter.lora.alpha", (2.0 * rank as f32).into());
    set("valve.direction", "shorter".into());
    set("valve.curve.alpha", vec![0.0_f32, 0.5, 1.0].into());
    let mut random = Random(seed);
    for target in targets {
        let shape = dims(target);
        // llama.cpp stores the A of the embeddings transposed: a row for each token.
        let (a, b) = match *target {
            "token_embd.weight" => ([rank, shape[1]], [rank, shape[0]]),
            _ => ([shape[0], rank], [rank, shape[1]]),
        };
        for (half, dims) in [("lora_a", a), ("lora_b", b)] {
            let values: Vec<f32> = (0..dims[0] * dims[1]).map(|_| random.normal(0.0, 0.1)).collect();
            writer.tensor(&format!("{target}.{half}"), ty as u32, &dims, encode(ty, &values)).unwrap();
        }
    }
    writer.to_bytes().unwrap()
}

/// The file `bytes` with other metadata.
pub fn with_metadata(bytes: Vec<u8>, changes: &[(&str, Value)]) -> Vec<u8> {
    let file = Gguf::parse(Path::new("tiny.gguf"), Bytes::from(bytes)).unwrap();
    let mut writer = Writer::new();
    for (key, value) in file.metadata() {
        let change = changes.iter().find(|(changed, _)| changed == key);
        writer.set(key, change.map_or(value, |(_, value)| value).clone()).unwrap();
    }
    for (key, value) in changes.iter().filter(|(key, _)| file.metadata().iter().all(|(known, _)| known != key)) {
        writer.set(key, value.clone()).unwrap();
    }
    for t in file.tensors() {
        writer.tensor(&t.name, t.ty.id, &t.dims, t.data.to_vec()).unwrap();
    }
    writer.to_bytes().unwrap()
}

/// The bytes of `values` as f32, f16 or bf16.
pub fn encode_float(ty: TensorType, values: &[f32]) -> Vec<u8> {
    let values = values.iter();
    match ty {
        TensorType::F32 => values.flat_map(|v| v.to_le_bytes()).collect(),
        TensorType::F16 => values.flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
        TensorType::BF16 => values.flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
        other => panic!("{other} needs an encoder of its own"),
    }
}
