#!/usr/bin/env python3
"""Writes tests/data/llama-cpp/sampling.json: what llama.cpp's samplers keep of random candidates.

    sampling.py --model SmolLM2-135M-Instruct.Q4_1.gguf

Logits and timelines come from seeds, by the generator of tests/support, so that only settings and results are stored.
The model is opened for its vocabulary alone: DRY's breakers are texts.
"""
import argparse
import ctypes as C
import json
import random
from pathlib import Path

import peer

MASK = (1 << 64) - 1
TOP = 12


class Random:
    """SplitMix64, as in tests/support."""

    def __init__(self, seed):
        self.state = seed

    def bits(self):
        self.state = (self.state + 0x9e3779b97f4a7c15) & MASK
        z = ((self.state ^ (self.state >> 30)) * 0xbf58476d1ce4e5b9) & MASK
        z = ((z ^ (z >> 27)) * 0x94d049bb133111eb) & MASK
        return z ^ (z >> 31)


class Data(C.Structure):
    _fields_ = [("id", C.c_int32), ("logit", C.c_float), ("p", C.c_float)]


class Array(C.Structure):
    _fields_ = [("data", C.POINTER(Data)), ("size", C.c_size_t), ("selected", C.c_int64), ("sorted", C.c_bool)]


class Bias(C.Structure):
    _fields_ = [("token", C.c_int32), ("bias", C.c_float)]


class ChainParams(C.Structure):
    _fields_ = [("no_perf", C.c_bool)]


class ModelParams(C.Structure):
    _fields_ = [("devices", C.c_void_p), ("overrides", C.c_void_p), ("n_gpu_layers", C.c_int32),
                ("split_mode", C.c_int), ("load_mode", C.c_int), ("lazy_mode", C.c_int), ("main_gpu", C.c_int32),
                ("tensor_split", C.c_void_p), ("progress", C.c_void_p), ("progress_data", C.c_void_p),
                ("kv_overrides", C.c_void_p), ("vocab_only", C.c_bool), ("check_tensors", C.c_bool),
                ("use_extra_bufts", C.c_bool), ("no_host", C.c_bool), ("no_alloc", C.c_bool), ("load_mtp", C.c_bool)]


def library():
    folder = next(peer.CACHE.glob("bin-*/package/bins/linux-x64"))
    lib = C.CDLL(str(next(folder.glob("libllama.v*.so"))))
    p, f, i, n, u = C.c_void_p, C.c_float, C.c_int32, C.c_size_t, C.c_uint32
    makers = {"penalties": [i, i, f, f, f], "dry": [p, f, f, i, i, C.POINTER(C.c_char_p), n], "top_n_sigma": [f],
              "top_k": [i], "typical": [f, n], "top_p": [f, n], "min_p": [f, n], "xtc": [f, f, n, u],
              "temp_ext": [f, f, f], "temp": [f], "dist": [u], "mirostat_v2": [u, f, f],
              "logit_bias": [i, i, C.POINTER(Bias)]}
    for name, types in makers.items():
        maker = getattr(lib, f"llama_sampler_init_{name}")
        maker.restype, maker.argtypes = p, types
    lib.llama_sampler_chain_init.restype, lib.llama_sampler_chain_init.argtypes = p, [ChainParams]
    lib.llama_sampler_chain_add.argtypes = [p, p]
    lib.llama_sampler_accept.argtypes = [p, i]
    lib.llama_sampler_apply.argtypes = [p, C.POINTER(Array)]
    lib.llama_sampler_free.argtypes = [p]
    lib.llama_model_default_params.restype = ModelParams
    lib.llama_model_load_from_file.restype, lib.llama_model_load_from_file.argtypes = p, [C.c_char_p, ModelParams]
    lib.llama_model_get_vocab.restype, lib.llama_model_get_vocab.argtypes = p, [p]
    lib.llama_vocab_n_tokens.argtypes = [p]
    return lib


def chain(lib, vocab, s, tokens):
    """The stages in the order of llama.cpp's programs."""
    c = lib.llama_sampler_chain_init(ChainParams(True))
    stages = []
    bias = s.get("logit_bias", [])
    if bias:
        stages.append(lib.llama_sampler_init_logit_bias(tokens, len(bias), (Bias * len(bias))(*[Bias(*b) for b in bias])))
    if s.get("mirostat") == 2:
        stages.append(lib.llama_sampler_init_temp(s["temperature"]))
        stages.append(lib.llama_sampler_init_mirostat_v2(1, s["mirostat_tau"], 0.1))
    else:
        keep = s["min_keep"]
        breakers = [b.encode() for b in s["dry_breakers"]]
        stages += [
            lib.llama_sampler_init_penalties(tokens, s["repeat_last_n"], s["repeat_penalty"], s["frequency_penalty"],
                                             s["presence_penalty"]),
            lib.llama_sampler_init_dry(vocab, s["dry_multiplier"], s["dry_base"], s["dry_allowed_length"],
                                       s["dry_last_n"], (C.c_char_p * len(breakers))(*breakers), len(breakers)),
            lib.llama_sampler_init_top_n_sigma(s["top_n_sigma"]),
            lib.llama_sampler_init_top_k(s["top_k"]),
            lib.llama_sampler_init_typical(s["typical_p"], keep),
            lib.llama_sampler_init_top_p(s["top_p"], keep),
            lib.llama_sampler_init_min_p(s["min_p"], keep),
            lib.llama_sampler_init_xtc(s["xtc_probability"], s["xtc_threshold"], keep, 1),
            lib.llama_sampler_init_temp_ext(s["temperature"], s["dynatemp_range"], s["dynatemp_exponent"]),
            lib.llama_sampler_init_dist(1),
        ]
    for stage in stages:
        lib.llama_sampler_chain_add(c, stage)
    return c


def apply(lib, vocab, s, logits, timeline):
    """What is left: (id, probability), the likeliest first."""
    c = chain(lib, vocab, s, len(logits))
    for token in timeline:
        lib.llama_sampler_accept(c, token)
    data = (Data * len(logits))(*[Data(i, l, 0.0) for i, l in enumerate(logits)])
    array = Array(data, len(logits), -1, False)
    lib.llama_sampler_apply(c, C.byref(array))
    kept = [(array.data[i].id, array.data[i].p) for i in range(array.size) if array.data[i].p > 1e-30]
    lib.llama_sampler_free(c)
    return sorted(kept, key=lambda t: (-t[1], t[0]))


OFF = {"temperature": 1.0, "dynatemp_range": 0.0, "dynatemp_exponent": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
       "typical_p": 1.0, "top_n_sigma": -1.0, "min_keep": 0, "xtc_probability": 0.0, "xtc_threshold": 0.1,
       "repeat_penalty": 1.0, "repeat_last_n": 64, "frequency_penalty": 0.0, "presence_penalty": 0.0,
       "dry_multiplier": 0.0, "dry_base": 1.75, "dry_allowed_length": 2, "dry_last_n": 64, "dry_breakers": [],
       "mirostat": 0, "mirostat_tau": 5.0, "logit_bias": []}


def settings(r):
    """Random values of every field, by stage; the stages draw on one another's in the whole chain."""
    def f(a, b):
        return round(r.uniform(a, b), 3)
    return {
        "temperature": {"temperature": f(0.1, 2.0)},
        "dynatemp": {"temperature": f(0.3, 1.5), "dynatemp_range": f(0.1, 0.8), "dynatemp_exponent": f(0.5, 2.0)},
        "top_k": {"top_k": r.choice([1, 2, 40, 130, 300])},
        "top_p": {"top_p": f(0.05, 0.999), "min_keep": r.choice([0, 0, 5])},
        "min_p": {"min_p": f(0.001, 0.9), "min_keep": r.choice([0, 0, 5])},
        "typical_p": {"typical_p": f(0.05, 0.99), "min_keep": r.choice([0, 0, 5])},
        "top_n_sigma": {"top_n_sigma": f(0.2, 2.0)},
        "xtc": {"xtc_probability": 1.0, "xtc_threshold": f(0.01, 0.3), "min_keep": r.choice([0, 0, 5])},
        "penalties": {"repeat_penalty": f(0.8, 1.6), "repeat_last_n": r.choice([1, 8, 64]),
                      "frequency_penalty": f(-0.3, 0.6), "presence_penalty": f(-0.3, 0.6)},
        "dry": {"dry_multiplier": f(0.1, 1.5), "dry_base": f(1.0, 2.0), "dry_allowed_length": r.choice([1, 2, 3]),
                "dry_last_n": r.choice([10, 64, 200])},
        "logit_bias": {"logit_bias": [[r.randrange(5), f(-5, 5)] for _ in range(3)]},
        "mirostat": {"mirostat": 2, "mirostat_tau": f(0.5, 4.0), "temperature": f(0.3, 1.5)},
    }


def result(kept):
    ids = [i for i, _ in kept]
    return {"kept": len(ids), "sum": sum(ids), "squares": sum(i * i for i in ids) & MASK,
            "top": [[i, float(f"{p:.7g}")] for i, p in kept[:TOP]]}


def cases(lib, per_stage, whole):
    r = random.Random(20)
    wanted = [[stage] for stage in settings(r) for _ in range(per_stage)]
    filters = [stage for stage in settings(r) if stage not in ("mirostat", "dynatemp")]
    wanted += [r.sample(filters, r.randrange(2, len(filters) + 1)) for _ in range(whole)]
    out = []
    for seed, stages in enumerate(wanted):
        # Behind top-n-sigma llama.cpp's typical-p takes 0 · ln 0 for NaN, and sorts by it.
        if {"top_n_sigma", "typical_p"} <= set(stages):
            stages.remove("typical_p")
        chosen = settings(r)
        s = dict(OFF)
        for stage in stages:
            s.update(chosen[stage])
        rng = Random(seed)
        tokens = r.choice([5, 50, 400, 3000])
        scale = r.choice([0.25, 0.5, 1.0])
        logits = [((rng.bits() >> 44) / 65536.0 - 8.0) * scale for _ in range(tokens)]
        kinds = r.choice([2, 4])
        timeline = [rng.bits() % kinds for _ in range(r.choice([0, 5, 100]))]
        kept = apply(lib, None, s, logits, timeline)
        changed = {k: v for k, v in s.items() if v != OFF[k]}
        out.append({"seed": seed, "tokens": tokens, "scale": scale, "timeline": len(timeline), "kinds": kinds,
                    "settings": changed, **result(kept)})
    return out


def breaker_cases(lib, model, count):
    """DRY on a real vocabulary: pieces of a text, some again; all logits are 0, so what is penalized shows."""
    params = lib.llama_model_default_params()
    params.vocab_only = True
    handle = lib.llama_model_load_from_file(str(model).encode(), params)
    vocab = lib.llama_model_get_vocab(handle)
    tokens = lib.llama_vocab_n_tokens(vocab)
    ids, r, out = peer.token_ids(), random.Random(4), []
    lists = [["\n", ":", "\"", "*"], [".\n", "and the", "\n\n"], []]
    for _ in range(count):
        pieces = [r.randrange(0, 480) for _ in range(3)]
        lengths = [r.randrange(2, 30) for _ in range(3)]
        order = [r.randrange(3) for _ in range(6)]
        timeline = [i for o in order for i in ids[pieces[o]:pieces[o] + lengths[o]]]
        s = dict(OFF, dry_multiplier=0.8, dry_last_n=256, dry_allowed_length=r.choice([1, 2]),
                 dry_breakers=r.choice(lists))
        kept = apply(lib, vocab, s, [0.0] * tokens, timeline)
        whole = kept[0][1]
        penalized = sorted([i, float(f"{p / whole:.5g}")] for i, p in kept if p < whole * 0.999)
        out.append({"timeline": timeline, "allowed_length": s["dry_allowed_length"], "breakers": s["dry_breakers"],
                    "penalized": penalized})
    return out


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--model", required=True, type=Path)
    args = args.parse_args()
    lib = library()

    def lines(rows):
        return ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    text = '{"facts": %s,\n"cases": [\n%s\n],\n"breakers": [\n%s\n]}\n' % (
        json.dumps({"llama_cpp": peer.version(), "model": args.model.name}), lines(cases(lib, 12, 120)),
        lines(breaker_cases(lib, args.model, 24)))
    (peer.DATA / "llama-cpp" / "sampling.json").write_text(text)


if __name__ == "__main__":
    main()
