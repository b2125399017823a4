#!/usr/bin/env python3
"""Compares `valve logits` with llama.cpp, on full logits, too large to commit and so made on the spot.

    truth.py --valve target/release/valve --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter smollm2-valve-mix.gguf
             [--only float|greedy|quantized]

float      our Float precision against llama.cpp on the same weights as F32: without adapter, and at five openings
greedy     64 ids on 20 prompts against the committed greedy.json, without adapter and at four openings,
           equal up to the first place where llama.cpp's margin is below 1e-3
quantized  our Int8 precision and llama.cpp's own, each against F32 weights: ours may err 1.1 times as much
Exits with 1 if a bound is broken.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import peer
from fixtures import ALPHAS

IDS = peer.DATA / "llama-cpp" / "ids-512.json"
FLOAT_NMSE, GREEDY_MARGIN, QUANTIZED_RATIO = 1e-9, 1e-3, 1.1


def peer_logits(model, out, settings, adapter=None, alpha=None, ids=IDS):
    lora = [] if alpha is None else ["--lora", f"{adapter}={alpha}"]
    peer.run_peer("logits", "-m", model, *settings, "--ids", ids, "--out", out, *lora)
    return np.load(out)


def valve_logits(valve, model, out, precision, kv, adapter=None, alpha=None, ids=IDS):
    command = [valve, "logits", "-m", model, "--ids", ids, "--precision", precision, "--kv", kv, "--out", out]
    # "=" keeps a negative α from being read as a flag.
    command += [] if alpha is None else ["--valve", adapter, f"--alpha={alpha}"]
    subprocess.run([str(c) for c in command], check=True)
    return np.load(out)


def log_softmax(row):
    row = row.astype(np.float64)
    shifted = row - row.max()
    return shifted - np.log(np.exp(shifted).sum())


def distance(truth, other):
    """NMSE over all logits, mean KL(truth ‖ other) a position, and truth's margins where the top ids differ."""
    if truth.shape != other.shape:
        sys.exit(f"shapes differ: {truth.shape} and {other.shape}")
    error = power = divergence = 0.0
    margins = []
    for t, o in zip(truth, other):
        t64, o64 = t.astype(np.float64), o.astype(np.float64)
        error += ((t64 - o64) ** 2).sum()
        power += (t64 ** 2).sum()
        lt, lo = log_softmax(t), log_softmax(o)
        divergence += (np.exp(lt) * (lt - lo)).sum()
        if t.argmax() != o.argmax():
            second, best = np.partition(t64, -2)[-2:]
            margins.append(best - second)
    return {"nmse": error / power, "kl": divergence / len(truth), "margins": sorted(margins), "positions": len(truth)}


def describe(d):
    agreed = d["positions"] - len(d["margins"])
    where = ", ".join(f"{m:.2g}" for m in d["margins"])
    text = f"NMSE {d['nmse']:.3g}, KL {d['kl']:.3g}, top-1 {agreed}/{d['positions']}"
    return text + (f" (margins {where})" if where else "")


def check_float(args, scratch):
    model, adapter = peer.float_model(args.model, "q4_1"), peer.float_adapter(args.adapter)
    good = True
    for alpha in ALPHAS:
        truth = peer_logits(model, scratch / "peer.npy", peer.TRUTH, adapter, alpha)
        ours = valve_logits(args.valve, args.model, scratch / "valve.npy", "float", "f32", args.adapter, alpha)
        d = distance(truth, ours)
        good &= d["nmse"] <= FLOAT_NMSE
        print(f"float, α {alpha}: {describe(d)}", flush=True)
    return good


def valve_choices(args, alpha, prompt, chosen, scratch):
    """The id we would choose before each of `chosen`, given all that precede it."""
    (scratch / "ids.json").write_text(json.dumps(prompt + chosen))
    logits = valve_logits(args.valve, args.model, scratch / "valve.npy", "float", "f32", args.adapter, alpha,
                          scratch / "ids.json")
    return logits[len(prompt) - 1:-1].argmax(axis=1).tolist()


def check_greedy(args, scratch):
    """As long as our choices after llama.cpp's ids are its choices, ours would have been the same greedy ids."""
    folder = peer.DATA / "llama-cpp"
    prompts = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    cases = json.loads((folder / "greedy.json").read_text())["cases"]
    good = True
    for case in cases:
        alpha, total = case["alpha"], [0, 0, 0]
        for i, (prompt, theirs) in enumerate(zip(prompts, case["outputs"], strict=True)):
            ours = valve_choices(args, alpha, prompt, theirs["ids"], scratch)
            close = next((k for k, m in enumerate(theirs["margins"]) if m < GREEDY_MARGIN), len(ours))
            same = next((k for k, (a, b) in enumerate(zip(ours, theirs["ids"])) if a != b), len(ours))
            if same < close:
                print(f"greedy, α {alpha}, prompt {i}: equal for {same}, must be for {close}", flush=True)
            good &= same >= close
            total = [sum(pair) for pair in zip(total, (same, close, len(ours)))]
        print(f"greedy, α {alpha}: equal for {total[0]} of {total[2]} ids, must be for {total[1]}", flush=True)
    return good


def check_quantized(args, scratch):
    good = True
    settings = ["--fa", args.fa, "--kv", args.kv, "-t", "1"]
    for kind in peer.TYPES:
        quantized = peer.quantized_model(args.model, kind)
        truth = peer_logits(peer.float_model(args.model, kind), scratch / "truth.npy", peer.TRUTH)
        theirs = distance(truth, peer_logits(quantized, scratch / "peer.npy", settings))
        print(f"{kind}, llama.cpp: {describe(theirs)}", flush=True)
        ours = distance(truth, valve_logits(args.valve, quantized, scratch / "valve.npy", "int8", args.kv))
        ratios = ours["nmse"] / theirs["nmse"], ours["kl"] / theirs["kl"]
        good &= max(ratios) <= QUANTIZED_RATIO
        print(f"{kind}, ours: {describe(ours)}; ratio NMSE {ratios[0]:.3f}, KL {ratios[1]:.3f}", flush=True)
    return good


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--valve", required=True, type=Path)
    args.add_argument("--model", required=True, type=Path)
    args.add_argument("--adapter", required=True, type=Path)
    args.add_argument("--only", choices=["float", "greedy", "quantized"])
    args.add_argument("--fa", default="off", help="llama.cpp's flash attention in `quantized`")
    args.add_argument("--kv", default="f32", help="the cache of both in `quantized`")
    args = args.parse_args()
    checks = {"float": check_float, "greedy": check_greedy, "quantized": check_quantized}
    with tempfile.TemporaryDirectory() as scratch:
        results = [check(args, Path(scratch)) for name, check in checks.items() if args.only in (None, name)]
    print("within bounds" if all(results) else "OUT OF BOUNDS")
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
