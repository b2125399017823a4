#!/usr/bin/env python3
"""Writes ids.json and ids.bin beside this file: what llama.cpp makes of lines.jsonl, as hashes.

    make_ids.py [--model SmolLM2-135M-Instruct.Q4_1.gguf]     with the Python of benches/peer/install's folder

Real vocabularies are those in the sources of llama.cpp (models/ggml-vocab-*.gguf) and, with --model, SmolLM2's. The
others are two whose `tokenizer.ggml.pre` is overridden: `pairs`, which this script makes, by each name of a
pre-tokenizer, and Llama 3's by one name of each rule. Without --model SmolLM2's hashes stay as they are.
"""
import argparse
import array
import hashlib
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent.parent / "benches" / "peer"))
import peer  # noqa: E402

REAL = """aquila baichuan command-r deepseek-coder deepseek-llm falcon gemma-4 gpt-2 gpt-neox llama-bpe llama-spm mpt
    phi-3 qwen2 qwen35 refact starcoder""".split()
# Names that stand for one rule, rule by rule.
RULES = [rule.split() for rule in (
    "default",
    "gpt-2 phi-2 mpt olmo jais exaone4 trillion granite-docling gigachat a.x-4.0 mellum modern-bert roberta-bpe "
    "jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code ",
    "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
    "falcon",
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    "smaug-bpe dbrx glm4 chatglm-bpe",
    "minicpm5",
    "jais-2",
    "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2 bailingmoe bailingmoe2 "
    "llada-moe ",
    "seed-coder",
    "ufakzeka",
    "laguna",
    "qwen35",
    "exaone-moe",
    "gpt-4o llama4 kanana2 talkie minimax-m2",
    "tekken",
    "granite-embed-multi-97m",
    "tiny_aya cohere2moe",
    "youtu",
    "kimi-k2",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3 hunyuan-dense hy_v4 joyai-llm",
    "spark2_5",
    "afmoe",
    "superbpe",
    "bloom poro-chat gpt3-finnish",
    "viking",
)]


def alphabet():
    """GPT-2's character of each byte."""
    chars, spare = [], 256
    for byte in range(256):
        printable = 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or byte >= 0xAE
        chars.append(chr(byte if printable else spare))
        spare += not printable
    return chars


def write_pairs(path):
    """A vocabulary of all bytes and all pairs of bytes, so that hardly an end of a word goes unseen.

    Merge i joins the bytes of the number 40503 * i mod 65536, high byte first: all pairs, in no order that texts know.
    """
    import gguf
    chars = alphabet()
    numbers = [40503 * i % 65536 for i in range(65536)]
    merges = [f"{chars[n >> 8]} {chars[n & 255]}" for n in numbers]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(chars + [merge.replace(" ", "") for merge in merges])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def compile_peer(folder):
    tag = peer.version()
    source = next(peer.CACHE.glob("llama.cpp-*"))
    libraries = next(peer.CACHE.glob("bin-*")) / "package" / "bins" / "linux-x64"
    subprocess.run(["g++", "-std=c++17", "-O2", f"-I{source}/include", f"-I{source}/ggml/include",
                    HERE / "peer_vocab.cpp", "-o", folder / "peer_vocab", libraries / f"libllama.{tag}.so",
                    libraries / f"libggml.{tag}.so", libraries / "libggml-base.so", f"-Wl,-rpath,{libraries}"], check=True)
    return folder / "peer_vocab", source


class Vectors:
    """Distinct lists of hashes, one hash a line."""

    def __init__(self):
        self.all, self.places = [], {}

    def place(self, hashes):
        key = tuple(hashes)
        if key not in self.places:
            self.places[key] = len(self.all)
            self.all.append(key)
        return self.places[key]


def run(program, frames, vectors, model, pre):
    command = [program, model, *([pre] if pre else [])]
    lines = subprocess.run(command, input=frames, stdout=subprocess.PIPE, check=True).stdout.decode().splitlines()
    columns = zip(*([int(word, 16) for word in line.split()] for line in lines[1:]))
    plain, special, text = (vectors.place(column) for column in columns)
    return {"plain": plain, "special": special, "text": text, **json.loads(lines[0])}


def kept(vectors, count):
    """SmolLM2's case as it stands in the files."""
    old = next(case for case in json.loads((HERE / "ids.json").read_text())["cases"] if case["vocab"] == "smollm2")
    data = array.array("I", (HERE / "ids.bin").read_bytes())
    for column in ("plain", "special", "text"):
        old[column] = vectors.place(data[old[column] * count:(old[column] + 1) * count])
    return old


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--model", type=Path)
    args = args.parse_args()
    texts = [json.loads(line).encode() for line in (HERE / "lines.jsonl").read_text().splitlines()]
    frames = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    vectors, cases = Vectors(), []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        program, source = compile_peer(folder)
        write_pairs(folder / "pairs.gguf")

        def case(name, path, pre=None):
            print(name, pre or "", flush=True)
            cases.append({"vocab": name, "pre": pre, **run(program, frames, vectors, path, pre)})

        if args.model:
            case("smollm2", args.model)
            cases[0]["sha256"] = hashlib.sha256(args.model.read_bytes()).hexdigest()
        else:
            cases.append(kept(vectors, len(texts)))
        for name in REAL:
            case(name, source / "models" / f"ggml-vocab-{name}.gguf")
        for names in RULES:
            for pre in names:
                case("pairs", folder / "pairs.gguf", pre)
            case("llama-bpe", source / "models" / "ggml-vocab-llama-bpe.gguf", names[0])
    facts = {"llama_cpp": peer.version(), "lines": len(texts), "vectors": len(vectors.all)}
    rows = ",\n".join(json.dumps(row) for row in cases)
    (HERE / "ids.json").write_text('{"facts": %s,\n"cases": [\n%s\n]}\n' % (json.dumps(facts), rows))
    (HERE / "ids.bin").write_bytes(b"".join(struct.pack(f"<{len(texts)}I", *vector) for vector in vectors.all))


if __name__ == "__main__":
    main()
