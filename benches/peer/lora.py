"""Random adapters of any rank, and what one costs a model at the least."""
from pathlib import Path

import peer

LINEARS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
BYTES_PER_FACTOR = 2


def linears(reader):
    """The weights that an adapter of ours acts on."""
    for tensor in reader.tensors:
        parts = tensor.name.split(".")
        if len(parts) == 4 and parts[2] in LINEARS and parts[3] == "weight":
            yield tensor


def random_adapter(model, rank):
    """A GGUF adapter for `model` with f16 factors of `rank` over its seven linears, made once."""
    import gguf
    import numpy as np
    folder = peer.CACHE / "adapters"
    folder.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(model)
    shapes = {t.name: (int(t.shape[0]), int(t.shape[1])) for t in linears(reader)}
    layers, width = len(shapes) // len(LINEARS), next(iter(shapes.values()))[0]
    # Files of one model share an adapter.
    target = folder / f"random-{layers}x{width}-r{rank}.gguf"
    if target.exists():
        return target
    random = np.random.default_rng(rank)
    part = target.with_suffix(".part")
    writer = gguf.GGUFWriter(part, reader.fields["general.architecture"].contents())
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for name, (inputs, outputs) in shapes.items():
        for end, shape in (("a", (rank, inputs)), ("b", (outputs, rank))):
            factor = 0.01 * random.standard_normal(shape, dtype=np.float32)
            writer.add_tensor(f"{name}.lora_{end}", factor.astype(np.float16))
    peer.write(writer)
    part.rename(target)
    return target


def bounds(weight_bytes, shapes, rank):
    """The share of its speed that a model keeps with an adapter if nothing but the added work counts: by the bytes
    that a decoded token reads, and by the multiply-adds of the linears, for a prompt. `shapes`: (inputs, outputs)."""
    factors = sum(rank * (inputs + outputs) for inputs, outputs in shapes)
    macs = sum(inputs * outputs for inputs, outputs in shapes)
    return {"bytes": weight_bytes / (weight_bytes + BYTES_PER_FACTOR * factors), "macs": macs / (macs + factors)}


def facts(model):
    """What a file holds: bytes of all, bytes of the weights that a decoded token reads, tensors by type, and the
    shapes of the linears."""
    import gguf
    from collections import Counter
    reader = gguf.GGUFReader(model)
    types = Counter(t.tensor_type.name for t in reader.tensors)
    tied = all(t.name != "output.weight" for t in reader.tensors)
    read = sum(int(t.n_bytes) for t in reader.tensors if tied or t.name != "token_embd.weight")
    return {"name": Path(model).name, "bytes": Path(model).stat().st_size, "weight_bytes": read,
            "tensors": ", ".join(f"{n} {name}" for name, n in sorted(types.items())),
            "linears": [[int(t.shape[0]), int(t.shape[1])] for t in linears(reader)]}
