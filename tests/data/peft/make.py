#!/usr/bin/env python3
"""Makes what lies in this folder: a tiny llama with random weights, PEFT adapters on it, and the logits that
transformers and peft compute from them in f64.

    make.py [--check target/release/valve]

With --check it makes nothing: it converts every folder to GGUF and back by `valve convert`, and compares what peft
computes from the folders that we write.

Needs torch, transformers, peft and gguf; made with 2.15, 5.24, 0.21.2 and 0.19. The model's file is written here by the formulas of llama.cpp's
converter, the adapters by peft itself.
"""
import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).resolve().parent
LAYERS, EMBED, FFN, HEADS, KV_HEADS, CONTEXT = 2, 32, 48, 4, 2, 64
SPECIAL = ["<|endoftext|>"]
MERGES = [("t", "h"), ("th", "e")]
TOKENS, POSITIONS = 24, [4, 13, 23]
ALPHAS = [-0.5, 0.3, 1.0, 1.7]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

ADAPTERS = {
    "plain": dict(r=4, lora_alpha=8, target_modules=ALL),
    "rslora": dict(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj", "down_proj"], use_rslora=True),
    "patterns": dict(r=2, lora_alpha=4, target_modules=ALL,
                     # In the order in which peft will save them, since the first match counts.
                     rank_pattern={"k_proj": 3, "layers.1.mlp.up_proj": 7, r"model\.layers\.1\.mlp\..*": 5},
                     alpha_pattern={"1.self_attn.v_proj": 1.5, "q_proj": 7}),
    "head": dict(r=2, lora_alpha=2, target_modules=["k_proj", "lm_head"]),
    "half": dict(r=4, lora_alpha=16, target_modules=r"model\.layers\.\d+\.self_attn\.[qk]_proj"),
    "layers": dict(r=2, lora_alpha=4, target_modules=["q_proj", "up_proj"], layers_to_transform=[1]),
}
DTYPES = {"half": torch.float16, "layers": torch.bfloat16}


def alphabet():
    """GPT-2's letter for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = {}, 256
    for byte in range(256):
        if byte in printable:
            letters[byte] = chr(byte)
        else:
            letters[byte], extra = chr(extra), extra + 1
    return [letters[byte] for byte in range(256)]


VOCAB = SPECIAL + alphabet() + ["".join(m) for m in MERGES]


def model():
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=len(VOCAB), hidden_size=EMBED, intermediate_size=FFN, num_hidden_layers=LAYERS,
                         num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=CONTEXT,
                         rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False, initializer_range=0.1,
                         bos_token_id=0, eos_token_id=0, attn_implementation="eager")
    llama = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in llama.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.1 * torch.randn_like(parameter))
    return llama.eval()


def permuted(weight, heads):
    """Rows of q and k as GGUF files of this architecture have them."""
    n, rest = weight.shape[0], weight.shape[1:]
    return weight.reshape(heads, 2, n // heads // 2, *rest).swapaxes(1, 2).reshape(weight.shape)


def gguf_tensors(state):
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
             "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    for layer in range(LAYERS):
        names |= {f"model.layers.{layer}.{theirs}": f"blk.{layer}.{ours}" for theirs, ours in parts.items()}
    for theirs, ours in names.items():
        weight = state[f"{theirs}.weight"].numpy()
        if theirs.endswith("q_proj"):
            weight = permuted(weight, HEADS)
        if theirs.endswith("k_proj"):
            weight = permuted(weight, KV_HEADS)
        yield f"{ours}.weight", np.ascontiguousarray(weight, dtype=np.float32)


def write_gguf(llama, path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("tiny llama of transformers")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBED)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(EMBED // HEADS)
    writer.add_vocab_size(len(VOCAB))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(VOCAB)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(VOCAB) - len(SPECIAL)))
    writer.add_token_merges([" ".join(m) for m in MERGES])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, weight in gguf_tensors(llama.state_dict()):
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def save_adapter(name, fields, seed):
    """An adapter with random A and B (PEFT's own B starts at 0), as peft saves it."""
    peft = get_peft_model(model(), LoraConfig(task_type="CAUSAL_LM", base_model_name_or_path="tiny", **fields))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in peft.named_parameters():
            if "lora_" in parameter_name:
                parameter.copy_(0.15 * torch.randn_like(parameter))
    if name in DTYPES:
        peft = peft.to(DTYPES[name])
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    peft.save_pretrained(folder)
    (folder / "README.md").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")


def logits(llama, ids):
    with torch.no_grad():
        return llama(torch.tensor([ids])).logits[0].double().numpy()


def fixture(ids, names, alpha, merged=False, folder=HERE):
    """What peft computes with the adapters `names`, each at `alpha` times its own scale."""
    peft = PeftModel.from_pretrained(model(), folder / names[0], adapter_name="adapter-0")
    for i, name in enumerate(names[1:], 1):
        peft.load_adapter(folder / name, adapter_name=f"adapter-{i}")
    peft = peft.double().eval()
    peft.base_model.set_adapter([f"adapter-{i}" for i in range(len(names))])
    layers = [m for m in peft.modules() if isinstance(m, LoraLayer)]
    for layer in layers:
        layer.scale_layer(alpha)
    computed = logits(peft.merge_and_unload() if merged else peft, ids)
    return {"adapters": names, "alpha": alpha, "merged": merged, "logits": encoded(computed)}


def encoded(values):
    """Some positions, in eight digits: an error of 1e-8, whose square is far below the bound on the mean square."""
    return [[float(f"{v:.8g}") for v in values[position]] for position in POSITIONS]


def check(valve):
    """peft's logits from folders that `valve convert` wrote, against those from the folders that peft wrote."""
    truth = json.loads((HERE / "logits.json").read_text())
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for name in ADAPTERS:
            for source, target in ((HERE / name, scratch / "a.gguf"), (scratch / "a.gguf", scratch / name)):
                subprocess.run([valve, "convert", "--force", "-m", HERE / "model.gguf", source, target], check=True)
        for case in (c for c in truth["cases"] if c["adapters"]):
            again = fixture(truth["ids"], case["adapters"], case["alpha"], case["merged"], scratch)
            ours, theirs = np.array(again["logits"]), np.array(case["logits"])
            error = ((ours - theirs) ** 2).sum() / (theirs ** 2).sum()
            good &= error <= 1e-12
            print(f"{case['adapters']} at {case['alpha']}: NMSE {error:.2e}")
    sys.exit(0 if good else 1)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--check", metavar="VALVE")
    args = args.parse_args()
    if args.check:
        check(args.check)
    llama = model()
    write_gguf(llama, HERE / "model.gguf")
    for seed, (name, fields) in enumerate(ADAPTERS.items()):
        save_adapter(name, fields, 100 + seed)
    ids = [int(i) for i in np.random.default_rng(3).integers(0, len(VOCAB), TOKENS)]
    cases = [{"adapters": [], "alpha": 0.0, "merged": False, "logits": encoded(logits(llama.double(), ids))}]
    for name in ADAPTERS:
        cases += [fixture(ids, [name], alpha) for alpha in (ALPHAS if name == "plain" else [1.0, -0.5])]
    cases += [fixture(ids, ["plain"], 1.7, merged=True), fixture(ids, ["rslora", "patterns"], 0.3)]
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    text = '{"ids": %s, "positions": %s,\n"cases": [\n%s\n]}\n' % (json.dumps(ids), json.dumps(POSITIONS), lines)
    (HERE / "logits.json").write_text(text)


if __name__ == "__main__":
    main()
