#!/usr/bin/env python3
"""Quantizes a model by `valve quantize` and by llama-quantize, and compares the files: types, metadata, errors by type.

    quantize_real.py --valve BIN --quantize LLAMA_QUANTIZE --model FILE [--imatrix FILE] [--types q4_0,q4_k_m] [--write]

An error is the root mean square of what a tensor's values changed by, over all tensors that got the same type; with an
importance matrix a second one counts each column by its importance. --write keeps llama-quantize's errors, without a
matrix, in tests/data/llama-cpp/quantize-errors.json.
"""
import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

import peer

TINY = 1e-6
TYPES = "q4_0,q4_1,q5_0,q5_1,q8_0,q4_k_s,q4_k_m,q5_k_s,q5_k_m,q6_k"


def values(tensor):
    return gguf.dequantize(tensor.data, tensor.tensor_type).reshape(-1, tensor.shape[0])


def importances(path):
    """The mean square of what meets each column, by a weight's name."""
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors} if path else {}
    sums = {name.removesuffix(".in_sum2"): t for name, t in tensors.items() if name.endswith(".in_sum2")}
    return {name: t.data.reshape(-1) / tensors[f"{name}.counts"].data.reshape(-1)[0] for name, t in sums.items()}


def errors(before, after, weights):
    """By type: (root mean square error, the same by importance) of the tensors that changed their type."""
    old, sums = {t.name: t for t in before.tensors}, {}
    for tensor in after.tensors:
        source = old[tensor.name]
        if source.tensor_type == tensor.tensor_type:
            continue
        square = (values(source).astype(np.float64) - values(tensor)) ** 2
        weight = weights.get(tensor.name, np.ones(tensor.shape[0]))
        each = sums.setdefault(tensor.tensor_type.name, np.zeros(4))
        each += [square.sum(), square.size, (square * weight).sum(), weight.sum() * square.shape[0]]
    return {name: (float(np.sqrt(s[0] / s[1])), float(np.sqrt(s[2] / s[3]))) for name, s in sorted(sums.items())}


def compare(ours, theirs):
    """What differs beside the bytes of tensors."""
    found = []
    for name, of in (("names", lambda r: [t.name for t in r.tensors]),
                     ("types", lambda r: [t.tensor_type.name for t in r.tensors]),
                     ("keys", lambda r: sorted(k for k in r.fields if not k.startswith("GGUF."))),
                     ("key types", lambda r: [r.fields[k].types for k in sorted(r.fields)])):
        if of(ours) != of(theirs):
            found.append(name)
    return found


def run(words, **more):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **more)
    if done.returncode:
        sys.exit(f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--valve", required=True)
    args.add_argument("--quantize", required=True, help="llama-quantize of the installed release")
    args.add_argument("--model", required=True)
    args.add_argument("--imatrix")
    args.add_argument("--types", default=TYPES)
    args.add_argument("--write", action="store_true")
    args = args.parse_args()
    before, weights, kept = gguf.GGUFReader(args.model), importances(args.imatrix), {}
    matrix = ["--imatrix", args.imatrix] if args.imatrix else []
    print("| file | type | same bytes | ratio of errors | by importance |\n|---|---|---|---|---|")
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.gguf", Path(folder) / "theirs.gguf"
        for kind in args.types.split(","):
            run([args.valve, "quantize", "--allow-requantize", "--force", *matrix, args.model, ours, kind])
            run([args.quantize, "--allow-requantize", *matrix, args.model, theirs, kind])
            same = ours.read_bytes() == theirs.read_bytes()
            readers = gguf.GGUFReader(ours), gguf.GGUFReader(theirs)
            if differ := compare(*readers):
                print(f"{kind}: other {', '.join(differ)}", file=sys.stderr)
                worst = np.inf
            a, b = (errors(before, reader, weights) for reader in readers)
            kept[kind] = {name: plain for name, (plain, _) in b.items()}
            kept[kind]["sha256"] = hashlib.sha256(theirs.read_bytes()).hexdigest()
            for name in b:
                # What lies on a type's levels already has no error.
                plain, weighted = (x / max(y, TINY) if x > TINY else 1.0 for x, y in zip(a[name], b[name]))
                worst = max(worst, weighted if args.imatrix else plain)
                print(f"| {kind} | {name} | {same} | {plain:.4f} | {f'{weighted:.4f}' if args.imatrix else ''} |")
    if args.write:
        facts = {"llama.cpp": peer.version(), "model": Path(args.model).name, "errors": kept}
        text = json.dumps(facts).replace('"errors": {', '"errors": {\n').replace("}, ", "},\n")
        (peer.DATA / "llama-cpp" / "quantize-errors.json").write_text(text + "\n")
    print(f"worst ratio {worst:.4f}")
    sys.exit(worst > 1.02)


if __name__ == "__main__":
    main()
