//! The inputs that fuzzing starts from: as small as an input can be that reaches everything.

use cotvalve::gguf::write::Writer;
use cotvalve::gguf::{Strings, Value};
use cotvalve::quant;
use cotvalve::tensor::TensorType;

use super::support::Random;
use super::support::gguf_fixture::encode_float;
use serde_json::json;

const EMBED: usize = 32;
const FFN: usize = 32;
const KV: usize = 16;
const TOKENS: [&str; 24] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "a",
    "b",
    "c",
    "d",
    "e",
    "h",
    "i",
    "n",
    "o",
    "r",
    "s",
    "t",
    "u",
    "Ġ",
    "Ċ",
    "1",
    "th",
    "the",
    "an",
    "and",
    "Ġa",
];
const MERGES: [&str; 5] = ["t h", "th e", "a n", "an d", "Ġ a"];
const TEMPLATE: &str = "\
    {% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Target, name, and bytes of every seed.
pub fn all() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut all = Vec::new();
    for (name, ty) in [("q4_1.gguf", TensorType::Q4_1), ("q8_0.gguf", TensorType::Q8_0), ("f16.gguf", TensorType::F16)]
    {
        all.push(("model", name, model(ty)));
    }
    for (name, ty) in [("f16.gguf", TensorType::F16), ("f32.gguf", TensorType::F32)] {
        all.push(("adapter", name, adapter(ty)));
    }
    all.push(("adapter", "peft", peft()));
    all.extend(tokenizers());
    all.extend(TEMPLATES.map(|(name, source)| ("template", name, source.as_bytes().to_vec())));
    all
}

fn values(ty: TensorType, dims: &[usize], random: &mut Random) -> Vec<u8> {
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| random.normal(0.0, 0.3)).collect();
    if !ty.is_quantized() {
        return encode_float(ty, &values);
    }
    let mut bytes = vec![0; ty.row_bytes(values.len()).unwrap()];
    quant::encode(ty, &values, &mut bytes);
    bytes
}

/// The smallest model, its matrices of type `ty`.
pub fn model(ty: TensorType) -> Vec<u8> {
    let mut writer = Writer::new();
    let mut set = |key: &str, value: Value| writer.set(key, value).unwrap();
    set("general.architecture", "llama".into());
    let counts = [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", EMBED),
        ("feed_forward_length", FFN),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ];
    counts.into_iter().for_each(|(key, count)| set(&format!("llama.{key}"), (count as u32).into()));
    set("llama.attention.layer_norm_rms_epsilon", 1e-5_f32.into());
    set("llama.rope.freq_base", 10_000.0_f32.into());
    set("tokenizer.ggml.model", "gpt2".into());
    set("tokenizer.ggml.pre", "smollm".into());
    set("tokenizer.ggml.tokens", TOKENS.iter().collect::<Strings>().into());
    set("tokenizer.ggml.token_type", (0..TOKENS.len()).map(|i| if i < 3 { 3 } else { 1 }).collect::<Vec<i32>>().into());
    set("tokenizer.ggml.merges", MERGES.iter().collect::<Strings>().into());
    set("tokenizer.ggml.bos_token_id", 1_u32.into());
    set("tokenizer.ggml.eos_token_id", 2_u32.into());
    set("tokenizer.chat_template", TEMPLATE.into());
    let mut random = Random(17);
    let matrices = [
        ("token_embd", [EMBED, TOKENS.len()]),
        ("blk.0.attn_q", [EMBED, EMBED]),
        ("blk.0.attn_k", [EMBED, KV]),
        ("blk.0.attn_v", [EMBED, KV]),
        ("blk.0.attn_output", [EMBED, EMBED]),
        ("blk.0.ffn_gate", [EMBED, FFN]),
        ("blk.0.ffn_up", [EMBED, FFN]),
        ("blk.0.ffn_down", [FFN, EMBED]),
    ];
    for (name, dims) in matrices {
        writer.tensor(&format!("{name}.weight"), ty as u32, &dims, values(ty, &dims, &mut random)).unwrap();
    }
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"] {
        let ones = encode_float(TensorType::F32, &[1.0; EMBED]);
        writer.tensor(&format!("{name}.weight"), TensorType::F32 as u32, &[EMBED], ones).unwrap();
    }
    writer.to_bytes().unwrap()
}

fn adapter(ty: TensorType) -> Vec<u8> {
    let mut writer = Writer::new();
    let mut set = |key: &str, value: Value| writer.set(key, value).unwrap();
    set("general.type", "adapter".into());
    set("general.architecture", "llama".into());
    set("adapter.type", "lora".into());
    set("adapter.lora.alpha", 4.0_f32.into());
    let mut random = Random(18);
    for (name, n_in, n_out) in
        [("blk.0.attn_q", EMBED, EMBED), ("blk.0.attn_v", EMBED, KV), ("blk.0.ffn_down", FFN, EMBED)]
    {
        for (half, dims) in [("lora_a", [n_in, 2]), ("lora_b", [2, n_out])] {
            writer.tensor(&format!("{name}.weight.{half}"), ty as u32, &dims, values(ty, &dims, &mut random)).unwrap();
        }
    }
    writer.to_bytes().unwrap()
}

/// The files of a PEFT folder, a NUL between them.
fn peft() -> Vec<u8> {
    let config = json!({
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {},
        "alpha_pattern": {"layers.0.mlp.down_proj": 8},
        "use_rslora": true,
        "bias": "none",
    });
    let (mut header, mut data, mut random) = (serde_json::Map::new(), Vec::new(), Random(20));
    for (module, n_in, n_out) in [("self_attn.q_proj", EMBED, EMBED), ("mlp.down_proj", FFN, EMBED)] {
        for (half, shape) in [("lora_A", [2, n_in]), ("lora_B", [n_out, 2])] {
            let start = data.len();
            data.extend(values(TensorType::BF16, &shape, &mut random));
            let name = format!("base_model.model.model.layers.0.{module}.{half}.weight");
            header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()]}));
        }
    }
    let header = json!(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    [config.to_string().as_bytes(), &[0], &length, header.as_bytes(), &data].concat()
}

/// A vocabulary is described by what comes first, a text by what is left: so these are choices, and a text.
fn tokenizers() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let text = "Hello  world's 1234 ώ 日本語 \u{1F680}\u{200D}\u{1F469}\r\n\t <|im_end|> naïve".as_bytes();
    let with = |choices: &[u8]| [choices, text].concat();
    let mut random = Random(19);
    let noise: Vec<u8> = (0..400).map(|_| random.bits() as u8).collect();
    vec![
        ("tokenizer", "plain", with(&[0; 24])),
        ("tokenizer", "words", with(&[1; 200])),
        ("tokenizer", "gaps", with(&[&[255, 255, 255, 255], &noise[..200]].concat())),
        ("tokenizer", "noise", with(&noise)),
    ]
}

const THOUGHT: &str = "{{ bos_token }}\
    {%- for m in messages %}{%- if m['role'] == 'assistant' and '</think>' in m['content'] %}\
    {{- m['content'].split('</think>')[-1].lstrip('\\n') }}\
    {%- else %}{{- m['role'].title() ~ ': ' ~ m['content'] | trim }}\
    {%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<think>\\n' }}{%- endif %}";
const NAMESPACE: &str = "{%- set ns = namespace(n=0, last='') -%}{%- for m in messages if m.role != 'system' -%}\
    {%- set ns.n = ns.n + loop.index0 * 2 -%}{%- set ns.last = m.content[:10] -%}\
    {%- if loop.last %}{% break %}{% endif -%}{%- endfor -%}{{ ns.n }}{{ ns.last | tojson }}";
const MACRO: &str = "\
    {% macro say(m, n=0) %}{{ m.role | upper }}{% if n < 3 %}{{ say(m, n + 1) }}{% endif %}{% endmacro %}\
    {% for m in messages %}{{ say(m) }}{% if not loop.first %}{{ strftime_now('%Y') }}{% endif %}{% endfor %}";
const REFUSAL: &str = "\
    {% if messages[0].role == 'system' and messages | length > 2 %}{{ raise_exception('no system') }}{% endif %}\
    {{ [1, 2, [3, {'a': 'b'}]] | join(', ') }}\
    {{ messages | selectattr('role', 'equalto', 'user') | list | length }}";
const TOOLS: &str = "\
    {%- if tools %}{%- for tool in tools %}{{- tool | tojson(indent=2) ~ '\\n' }}{%- endfor %}{%- endif %}\
    {%- for m in messages %}{%- if m.tool_calls is defined %}{%- for call in m.tool_calls %}\
    {{- call.function.name }}{%- for key, value in call.function.arguments.items() %}{{- key ~ '=' ~ value }}\
    {%- endfor %}{%- endfor %}\
    {%- elif m.role == 'tool' %}{{- m.name ~ ': ' ~ m.content }}{%- else %}{{- m.reasoning_content }}\
    {%- endif %}{%- endfor %}";

const TEMPLATES: [(&str, &str); 6] = [
    ("chatml", TEMPLATE),
    ("thought", THOUGHT),
    ("namespace", NAMESPACE),
    ("macro", MACRO),
    ("refusal", REFUSAL),
    ("tools", TOOLS),
];
