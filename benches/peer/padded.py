#!/usr/bin/env python3
"""Makes a model that computes what another computes, with rows that super-blocks of 256 weights fit.

    padded.py --model SmolLM2-135M-Instruct.Q4_1.gguf

SmolLM2's rows have 576 weights, so that llama.cpp's quantizer puts other types in the place of most K and IQ ones. The
model made of its F32 weights has rows of 768: the residual stream gets zeros at its end, and as many heads of attention
more, of the same width, as keep heads and rows in proportion; their weights are all zero, and so are the rows that
write into the added part. A norm's mean of squares is then smaller by 576/768: so is the epsilon, and the norms'
weights are smaller by the root of it. In exact arithmetic it is the same function.
"""
import argparse
import math

import gguf
import numpy as np

import peer

SUPER_BLOCK = 256


def resized(values, *shape):
    """`values` with zeros after them in every dimension."""
    return np.pad(values, [(0, size - have) for size, have in zip(shape, values.shape, strict=True)])


class Sizes:
    """What the numbers of the model are, and what they become."""

    def __init__(self, reader):
        self.name = reader.fields["general.architecture"].contents()
        self.hidden = self.value(reader, "embedding_length")
        self.wide = math.ceil(self.hidden / SUPER_BLOCK) * SUPER_BLOCK
        heads, kv = (self.value(reader, f"attention.head_count{end}") for end in ("", "_kv"))
        more = [count * self.wide / self.hidden for count in (heads, kv)]
        if not all(count.is_integer() for count in more):
            raise SystemExit(f"{heads} and {kv} heads do not grow from {self.hidden} to {self.wide} in proportion")
        self.head = self.hidden // heads
        self.queries, self.keys = (int(count) * self.head for count in more)
        self.ffn = self.value(reader, "feed_forward_length")
        if self.ffn % SUPER_BLOCK:
            raise SystemExit(f"rows of {self.ffn} in the feed-forward part")
        epsilon = self.value(reader, "attention.layer_norm_rms_epsilon")
        self.metadata = {
            "embedding_length": self.wide,
            "attention.head_count": int(more[0]),
            "attention.head_count_kv": int(more[1]),
            "attention.layer_norm_rms_epsilon": epsilon * self.hidden / self.wide,
        }

    def value(self, reader, key):
        return reader.fields[f"{self.name}.{key}"].contents()

    def shapes(self):
        """Rows and columns of each kind of weight."""
        return {
            "token_embd": (None, self.wide), "output": (None, self.wide), "attn_q": (self.queries, self.wide),
            "attn_k": (self.keys, self.wide), "attn_v": (self.keys, self.wide),
            "attn_output": (self.wide, self.queries), "ffn_gate": (self.ffn, self.wide),
            "ffn_up": (self.ffn, self.wide), "ffn_down": (self.wide, self.ffn),
        }

    def tensor(self, name, values):
        kind = name.removesuffix(".weight").split(".")[-1]
        if kind.endswith("_norm"):
            return resized(values * np.float32(math.sqrt(self.hidden / self.wide)), self.wide)
        rows, columns = self.shapes()[kind]
        return resized(values, rows or values.shape[0], columns)


def padded_model(source):
    """`source`, a file of F32 weights, with longer rows."""
    target = peer.MODELS / "smollm2-padded-f32.gguf"
    if target.exists():
        return target
    reader = gguf.GGUFReader(source)
    sizes, part = Sizes(reader), target.with_suffix(".part")
    writer = gguf.GGUFWriter(part, sizes.name)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = sizes.metadata.get(name.removeprefix(f"{sizes.name}."), field.contents())
        items = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], sub_type=items)
    for tensor in reader.tensors:
        values = np.ascontiguousarray(sizes.tensor(tensor.name, tensor.data))
        writer.add_tensor(tensor.name, values.astype(np.float32, copy=False))
    peer.write(writer)
    part.rename(target)
    return target


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--model", required=True)
    args = args.parse_args()
    print(padded_model(peer.float_model(args.model, "q4_1")))


if __name__ == "__main__":
    main()
