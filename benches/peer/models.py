#!/usr/bin/env python3
"""Makes the models that the comparisons use, and prints which types each file's tensors have.

    models.py --model SmolLM2-135M-Instruct.Q4_1.gguf

From the published Q4_1 file (seven linears Q4_1, tied embedding Q8_0, norms F32) come its weights as F32; from those a
Q4_0 and a Q8_0 file with the same embedding type and norms; and the weights of these two as F32 again.
"""
import argparse
from collections import Counter

import gguf

import peer


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--model", required=True)
    args = args.parse_args()
    for kind in peer.TYPES:
        for path in (peer.quantized_model(args.model, kind), peer.float_model(args.model, kind)):
            types = Counter(t.tensor_type.name for t in gguf.GGUFReader(path).tensors)
            print(path, ", ".join(f"{n} {name}" for name, n in sorted(types.items())))


if __name__ == "__main__":
    main()
