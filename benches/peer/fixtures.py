#!/usr/bin/env python3
"""Writes tests/data/llama-cpp: what llama.cpp computes from F32 weights, small enough to commit.

    fixtures.py --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter smollm2-valve-mix.gguf [--only ids|logits|greedy]
"""
import argparse
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np

import peer

ALPHAS = [None, -0.5, 0.0, 0.3, 1.0, 1.7]
POSITIONS = list(range(7, 512, 8))
TOP, SPREAD = 16, 16
N_GREEDY = 64
# An adapter at 0 is no adapter: llama.cpp leaves it out, so a case of its own would repeat the first.
GREEDY_ALPHAS = [alpha for alpha in ALPHAS if alpha != 0.0]
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def tokenize(model, text, *flags):
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as f:
        f.write(text)
        f.flush()
        return json.loads(peer.run_peer("tokenize", "-m", model, "--text", f.name, "--whole", *flags))


def write_ids(model, folder):
    """512 ids of running text, and 20 chat prompts."""
    text = "".join(f"{p['question']}\n{p['answer']}\n\n" for p in peer.gsm8k())
    (folder / "ids-512.json").write_text(json.dumps(tokenize(model, text)[:512]) + "\n")
    prompts = []
    for problem in peer.gsm8k():
        chat = (f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{problem['question']}<|im_end|>\n"
                "<|im_start|>assistant\n")
        prompts.append(json.dumps(tokenize(model, chat, "--special")))
    (folder / "prompts.jsonl").write_text("\n".join(prompts) + "\n")


def digits(values, n=7):
    return [float(f"{v:.{n}g}") for v in values]


def lora(adapter, alpha):
    return [] if alpha is None else ["--lora", f"{adapter}={alpha}"]


def logits_case(model, adapter, alpha, out):
    """One case: the top id and its margin everywhere; at POSITIONS the logits of 32 ids and the log-sum-exp."""
    ids = peer.DATA / "llama-cpp" / "ids-512.json"
    peer.run_peer("logits", "-m", model, *peer.TRUTH, "--ids", ids, "--out", out, *lora(adapter, alpha))
    logits = np.load(out, mmap_mode="r")
    spread = np.linspace(0, logits.shape[1] - 1, SPREAD).astype(int)
    top1, margin, rows = [], [], []
    for position, row in enumerate(logits):
        row = row.astype(np.float64)
        best = np.argsort(-row, kind="stable")[:TOP]
        top1.append(int(best[0]))
        margin.append(row[best[0]] - row[best[1]])
        if position in POSITIONS:
            tokens = np.concatenate([best, np.setdiff1d(spread, best)])
            total = row.max() + np.log(np.exp(row - row.max()).sum())
            rows.append({"position": position, "logsumexp": digits([total], 9)[0],
                         "tokens": tokens.tolist(), "logits": digits(row[tokens], 8)})
    return {"alpha": alpha, "top1": top1, "margin": digits(margin, 4), "rows": rows}


def greedy_case(model, adapter, alpha, folder):
    """One case: after each prompt N_GREEDY ids, with or without an end of text among them, and their margins."""
    lines = peer.run_peer("greedy", "-m", model, *peer.TRUTH, "--prompts", folder / "prompts.jsonl", "-n", N_GREEDY,
                          *lora(adapter, alpha))
    rows = [json.loads(line) for line in lines.splitlines()]
    return {"alpha": alpha, "outputs": [{"ids": r["ids"], "margins": digits(r["margins"], 4)} for r in rows]}


def write_cases(path, facts, cases):
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    path.write_text('{"facts": %s,\n"cases": [\n%s\n]}\n' % (json.dumps(facts), lines))


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--model", required=True, type=Path)
    args.add_argument("--adapter", required=True, type=Path)
    args.add_argument("--only", choices=["ids", "logits", "greedy"], help="write one part, leave the others")
    args = args.parse_args()
    folder = peer.DATA / "llama-cpp"
    model, adapter = peer.float_model(args.model, "q4_1"), peer.float_adapter(args.adapter)
    facts = {"llama_cpp": peer.version(), "model": args.model.name, "model_sha256": sha256(args.model),
             "adapter": args.adapter.name, "adapter_sha256": sha256(args.adapter), "weights": "dequantized to F32",
             "flash_attention": False, "kv": "f32"}
    if args.only in (None, "ids"):
        write_ids(model, folder)
    if args.only in (None, "logits"):
        with tempfile.TemporaryDirectory() as scratch:
            cases = [logits_case(model, adapter, alpha, f"{scratch}/logits.npy") for alpha in ALPHAS]
        write_cases(folder / "logits.json", facts, cases)
    if args.only in (None, "greedy"):
        cases = [greedy_case(model, adapter, alpha, folder) for alpha in GREEDY_ALPHAS]
        write_cases(folder / "greedy.json", facts, cases)


if __name__ == "__main__":
    main()
