#!/usr/bin/env python3
"""Writes tests/data/llama-cpp/quantize-plans.json: the types that llama-quantize gives the tensors of many models.

    quantize_plans.py --quantize LLAMA_QUANTIZE

The models are files of zeros without a vocabulary, which --dry-run does not mind.
"""
import argparse
import json
import re
import subprocess
import tempfile
from itertools import groupby
from pathlib import Path

import gguf
import numpy as np

import peer

TYPES = """F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q2_K_S Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K
    IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4_MOE Q1_0 Q2_0
    COPY""".split()
# Words on top of a type, for two of the models.
EXTRAS = [
    ("Q4_K_M", ["--pure"]),
    ("IQ4_XS", ["--pure"]),
    ("Q4_K_M", ["--leave-output-tensor"]),
    ("Q4_K_M", ["--output-tensor-type", "q5_0"]),
    ("Q4_K_M", ["--token-embedding-type", "q5_K"]),
    ("Q5_K_M", ["--output-tensor-type", "f16", "--token-embedding-type", "q8_0"]),
    ("F16", ["--tensor-type", "attn_v=q8_0"]),
    ("Q4_0", ["--tensor-type", "attn_v=q8_0", "--tensor-type", r"BLK\.(0|1[0-9])\.ffn_.*=q5_K"]),
    ("Q6_K", ["--tensor-type", "token_embd=q4_0", "--tensor-type", "output=q4_1", "--tensor-type", "norm=q8_0"]),
    ("Q3_K_M", ["--pure", "--tensor-type", "attn_(q|k)=iq4_nl"]),
]
LINE = re.compile(r"^\[ *\d+/ *\d+\] +(\S+) +- \[.*\], type = +(\S+), size = [^()\n]*(?:\((\S+)\))?$", re.M)


def llama(layers, heads, kv_heads, width, hidden, tied=False, experts=0, arch="llama"):
    """A model's facts and its tensors, dimensions fastest first."""
    kv = width // heads * kv_heads
    mats = {"attn_q": [width, width], "attn_k": [width, kv], "attn_v": [width, kv], "attn_output": [width, width]}
    if experts:
        mats |= {"ffn_gate_inp": [width, experts], "ffn_gate_exps": [width, hidden, experts]}
        mats |= {"ffn_up_exps": [width, hidden, experts], "ffn_down_exps": [hidden, width, experts]}
    else:
        mats |= {"ffn_gate": [width, hidden], "ffn_up": [width, hidden], "ffn_down": [hidden, width]}
    mats |= {"attn_norm": [width], "ffn_norm": [width]}
    model = {"token_embd": [width, 320], "output_norm": [width]} | ({} if tied else {"output": [width, 320]})
    return {"arch": arch, "layers": layers, "heads": heads, "kv_heads": kv_heads, "experts": experts,
            "model": {f"{name}.weight": dims for name, dims in model.items()},
            "layer": {f"{name}.weight": dims for name, dims in mats.items()}}


def fused(layers, heads, width, hidden, arch):
    """The same with query, key and value in one matrix and no gate, as Falcon has them."""
    made = llama(layers, heads, heads, width, hidden, arch=arch)
    gone = ["attn_q.weight", "attn_k.weight", "attn_v.weight", "ffn_gate.weight"]
    kept = {name: dims for name, dims in made["layer"].items() if name not in gone}
    return made | {"layer": {"attn_qkv.weight": [width, 3 * width]} | kept}


MODELS = {
    "smollm2": llama(30, 9, 3, 576, 1536, tied=True),
    "gqa8": llama(32, 32, 4, 512, 1024),
    "gqa8-tied": llama(32, 32, 4, 512, 1024, tied=True),
    "gqa2": llama(22, 8, 4, 256, 512, arch="qwen2"),
    "mha": llama(17, 4, 4, 256, 768),
    "70b": llama(80, 64, 8, 512, 512),
    "8-experts": llama(32, 32, 8, 512, 512, experts=8),
    "16-experts": llama(24, 16, 4, 256, 512, experts=16, arch="qwen3moe"),
    "falcon": fused(32, 8, 512, 1024, "falcon"),
    "odd-rows": llama(8, 4, 2, 144, 336),
}


def values(name, count):
    return [f"blk.{i}.{name}" for i in range(count)]


def write_model(model, path):
    """A file with a model's metadata and tensors, F16 matrices and F32 vectors, all zeros (a hole in the file)."""
    writer = gguf.GGUFWriter(path, model["arch"])
    width, hidden = model["model"]["token_embd.weight"][0], 512
    writer.add_block_count(model["layers"])
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_expert_feed_forward_length(hidden)
    writer.add_head_count(model["heads"])
    writer.add_head_count_kv(model["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(320)
    if model["experts"]:
        writer.add_expert_count(model["experts"])
        writer.add_expert_used_count(2)
    tensors = list(model["model"].items())
    tensors += [(f"blk.{i}.{name}", dims) for i in range(model["layers"]) for name, dims in model["layer"].items()]
    total = 0
    for name, dims in tensors:
        dtype = np.float32 if len(dims) == 1 else np.float16
        size = int(np.prod(dims)) * np.dtype(dtype).itemsize
        writer.add_tensor_info(name, list(reversed(dims)), np.dtype(dtype), size)
        total += -(-size // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    start = -(-path.stat().st_size // 32) * 32
    with open(path, "r+b") as file:
        file.truncate(start + total)


def write_importance(path):
    """A matrix with one entry: whether there is one matters to a mix, not what is in it."""
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_array("imatrix.datasets", ["none"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    writer.add_tensor("none.weight.in_sum2", np.ones((1, 32), np.float32))
    writer.add_tensor("none.weight.counts", np.ones((1, 1), np.float32))
    peer.write(writer)


def runs(types):
    """`q6_K*4 q4_K`, or the type alone where all are alike."""
    found = [(ty, len(list(group))) for ty, group in groupby(types)]
    return found[0][0] if len(found) == 1 else " ".join(ty if n == 1 else f"{ty}*{n}" for ty, n in found)


def choices(quantize, path, model, words):
    """Names without their layer, by the types that layer after layer gets; None where llama-quantize fails."""
    done = subprocess.run([quantize, "--dry-run", *words[1:], path, words[0]], capture_output=True, text=True)
    if done.returncode:
        return None
    found = {name: new or old for name, old, new in LINE.findall(done.stdout + done.stderr)}
    by_types = {}
    for name in model["model"]:
        by_types.setdefault(found.pop(name), []).append(name)
    for name in model["layer"]:
        types = [found.pop(full) for full in values(name, model["layers"])]
        by_types.setdefault(runs(types), []).append(f"*.{name}")
    assert not found, found
    return by_types


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--quantize", required=True, help="llama-quantize of the installed release")
    args = args.parse_args()
    plans = []
    with tempfile.TemporaryDirectory() as folder:
        importance = Path(folder) / "imatrix.gguf"
        write_importance(importance)
        for name, model in MODELS.items():
            path = Path(folder) / f"{name}.gguf"
            write_model(model, path)
            cases = [([ty], weighted) for ty in TYPES for weighted in (False, True)]
            if name in ("smollm2", "gqa8"):
                cases += [([ty, *extra], False) for ty, extra in EXTRAS]
            for words, weighted in cases:
                more = ["--imatrix", importance] if weighted else []
                types = choices(args.quantize, path, model, words + more)
                plans.append({"model": name, "words": words, "importance": weighted, "types": types})
    text = json.dumps({"llama.cpp": peer.version(), "models": "MODELS", "plans": "PLANS"}, indent=0)
    for key, items in (("MODELS", MODELS), ("PLANS", plans)):
        text = text.replace(json.dumps(key), lines(items))
    (peer.DATA / "llama-cpp" / "quantize-plans.json").write_text(text + "\n")


def lines(items):
    """JSON with a line an item."""
    if isinstance(items, dict):
        return "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in items.items()) + "\n}"
    return "[\n" + ",\n".join(json.dumps(item) for item in items) + "\n]"


if __name__ == "__main__":
    main()
