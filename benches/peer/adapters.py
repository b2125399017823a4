#!/usr/bin/env python3
"""Gives llama.cpp the adapters and models that `valve convert` and `valve merge` write, and compares what it computes.

    adapters.py --valve target/release/valve [--write] [--model SmolLM2-135M-Instruct.Q4_1.gguf --adapter FILE.gguf]

tiny    every PEFT folder of tests/data/peft, converted, and one merged model: llama.cpp's logits against those of
        transformers and peft. With --write they go to tests/data/peft/llama-cpp.json, with the files' SHA-256.
real    with --model: its F32 weights and the adapter, to PEFT and back, and merged.
Exits with 1 if a bound is broken.
"""
import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import peer

FOLDER = peer.DATA / "peft"
NMSE = 1e-9
MERGED = ("patterns", 0.7)


def run(*command):
    subprocess.run([str(c) for c in command], check=True, stderr=subprocess.DEVNULL)


def peer_logits(model, ids, out, *loras):
    flags = [flag for lora in loras for flag in ("--lora", lora)]
    peer.run_peer("logits", "-m", model, *peer.TRUTH, "--ids", ids, "--out", out, *flags)
    return np.load(out).astype(np.float64)


def nmse(ours, truth):
    return float(((ours - truth) ** 2).sum() / (truth ** 2).sum())


def report(what, error):
    print(f"{what}: NMSE {error:.2e}", flush=True)
    return error <= NMSE


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def digits(rows):
    return [[float(f"{v:.8g}") for v in row] for row in rows]


def check_tiny(args, scratch):
    """llama.cpp against peft on every converted folder; returns whether all is well, and the cases for the fixture."""
    truth = json.loads((FOLDER / "logits.json").read_text())
    ids, model, good, cases = scratch / "ids.json", FOLDER / "model.gguf", True, []
    ids.write_text(json.dumps(truth["ids"]))
    for case in (c for c in truth["cases"] if len(c["adapters"]) == 1 and not c["merged"]):
        name, alpha = case["adapters"][0], case["alpha"]
        file = scratch / f"{name}.gguf"
        if not file.exists():
            run(args.valve, "convert", "-m", model, FOLDER / name, file)
        rows = peer_logits(model, ids, scratch / "peer.npy", f"{file}={alpha}")[truth["positions"]]
        good &= report(f"tiny, {name} at {alpha}", nmse(rows, np.array(case["logits"])))
        cases.append({"adapter": name, "alpha": alpha, "sha256": sha256(file), "logits": digits(rows)})
    name, alpha = MERGED
    run(args.valve, "merge", "-m", model, "--valve", f"{FOLDER / name}:{alpha}", "--type", "f32", scratch / "merged.gguf")
    merged = peer_logits(scratch / "merged.gguf", ids, scratch / "peer.npy")[truth["positions"]]
    beside = peer_logits(model, ids, scratch / "peer.npy", f"{scratch / name}.gguf={alpha}")[truth["positions"]]
    good &= report(f"tiny, merged {name} at {alpha}, against the adapter", nmse(merged, beside))
    merged = {"adapter": name, "alpha": alpha, "sha256": sha256(scratch / "merged.gguf"), "logits": digits(merged)}
    return good, cases, merged


def check_real(args, scratch):
    """The adapter by way of a PEFT folder, and merged, against the adapter as it was."""
    ids = peer.DATA / "llama-cpp" / "ids-512.json"
    model, adapter = peer.float_model(args.model, "q4_1"), peer.float_adapter(args.adapter)
    folder, back, merged = scratch / "peft", scratch / "back.gguf", scratch / "merged.gguf"
    run(args.valve, "convert", "-m", model, args.adapter, folder)
    run(args.valve, "convert", "-m", model, folder, back)
    good = True
    for alpha in (0.3, 1.7):
        truth = peer_logits(model, ids, scratch / "peer.npy", f"{adapter}={alpha}")
        converted = peer_logits(model, ids, scratch / "peer.npy", f"{back}={alpha}")
        good &= report(f"real, to PEFT and back, α {alpha}, in llama.cpp", nmse(converted, truth))
        run(args.valve, "logits", "-m", model, "--ids", ids, "--precision", "float", "--kv", "f32", "--valve", folder,
            f"--alpha={alpha}", "--out", scratch / "valve.npy")
        good &= report(f"real, the PEFT folder in valve, α {alpha}", nmse(np.load(scratch / "valve.npy"), truth))
        run(args.valve, "merge", "-m", model, "--valve", f"{args.adapter}:{alpha}", "--type", "f32", "--force", merged)
        merged_logits = peer_logits(merged, ids, scratch / "peer.npy")
        good &= report(f"real, merged as f32, α {alpha}, in llama.cpp", nmse(merged_logits, truth))
    return good


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--valve", required=True, type=Path)
    args.add_argument("--model", type=Path)
    args.add_argument("--adapter", type=Path)
    args.add_argument("--write", action="store_true")
    args = args.parse_args()
    if (args.model is None) != (args.adapter is None):
        sys.exit("--model and --adapter go together")
    with tempfile.TemporaryDirectory() as scratch:
        good, cases, merged = check_tiny(args, Path(scratch))
        if args.model:
            good &= check_real(args, Path(scratch))
    if args.write:
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
        text = '{"llama_cpp": %s,\n"merged": %s,\n"cases": [\n%s\n]}\n'
        text %= json.dumps(peer.version()), json.dumps(merged, separators=(",", ":")), lines
        (FOLDER / "llama-cpp.json").write_text(text)
    print("within bounds" if good else "OUT OF BOUNDS")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
