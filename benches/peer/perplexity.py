#!/usr/bin/env python3
"""Perplexity and divergence by type, ours beside llama-perplexity's, on the same files.

    perplexity.py --valve target/release/valve --model SmolLM2-135M-Instruct.Q4_1.gguf [--problems GSM8K/test.jsonl]
                  [--count 48] [--chunks N] [--models smollm2,padded] [--types q4_0,q6_k] [--out FILE.json]
    perplexity.py --model FILE.Q4_1.gguf --write

Makes the files with llama-quantize from the model's weights as F32, from SmolLM2's and from the same function with rows
of 768 (padded.py). Both programs measure each file against the log-probabilities that llama-perplexity saved of its F32
file. The text is problems of GSM8K, "question \\n answer \\n\\n"; without --problems the committed ones. A table goes
to standard output as it grows, and JSON to ../results/, beside the rows of other types that are there. Exits with 1 if
our perplexity of a file lies more than 0.5 % above llama.cpp's.

--write makes tests/data/llama-cpp/perplexity.json instead: what llama-perplexity says of the committed problems.
"""
import argparse
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import gguf

import padded
import peer

TOOLS = peer.CACHE / "tools"
QUIET = ["-t", "1"]
EXACT = ["-fa", "off", "-ctk", "f32", "-ctv", "f32"]
# llama-quantize's names. MXFP4 it has for experts only, so this puts it in the place of all weights of the layers.
TYPES = ("f32", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "iq4_nl",
         "iq4_xs", "mxfp4")
MXFP4 = ["--tensor-type", r"blk\..*=mxfp4", "Q8_0"]
WORSE = 1.005
NUMBER = r"(-?[\d.]+(?:e-?\d+)?|nan)"


def tool(name):
    """The path of a program of llama.cpp's, compiled when it is first needed."""
    peer.version()
    if not (TOOLS / name).exists():
        env = {**os.environ, "COTVALVE_PEER_DIR": str(peer.CACHE)}
        subprocess.run([str(peer.HERE / "tools"), name], check=True, env=env)
    return str(TOOLS / name)


def text_of(problems):
    return "".join(f"{p['question']}\n{p['answer']}\n\n" for p in problems)


def quantized(source, kind):
    """A file of `source`'s weights as llama-quantize's `kind`."""
    if kind == "f32":
        return source
    target = source.with_name(f"{source.stem.removesuffix('-f32')}-quantize-{kind}.gguf")
    if not target.exists():
        part = target.with_suffix(".part")
        kinds = MXFP4 if kind == "mxfp4" else [kind.upper()]
        command = [tool("quantize"), *kinds[:-1], source, part, kinds[-1], "2"]
        subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        part.rename(target)
    return target


def peer_says(*flags):
    """What llama-perplexity prints."""
    command = [tool("perplexity"), *QUIET, *map(str, flags)]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stdout[-2000:]}")
    return done.stdout


def number(said, name):
    """The value and the error, where there is one, of a line `name: value ± error`."""
    found = re.search(rf"{name} *[:=] *{NUMBER}(?:%? *(?:±|\+/-) *{NUMBER})?", said)
    if not found:
        sys.exit(f"llama-perplexity does not say {name}:\n{said[-2000:]}")
    return [float(value) for value in found.groups() if value is not None]


def running(said):
    return [float(value) for value in re.findall(rf"\[\d+\]{NUMBER},", said)]


def divergence(said):
    kld, kld_error = number(said, "Mean    KLD")
    return {"ppl": number(said, r"Mean PPL\(Q\)")[0], "kld": kld, "kld_error": kld_error,
            "kld_median": number(said, "Median  KLD")[0], "p_diff_rms": number(said, "RMS Δp")[0] / 100,
            "same_top": number(said, "Same top p")[0] / 100}


def ours(valve, *flags):
    command = [str(valve), "perplexity", *QUIET, "--json", *map(str, flags)]
    said = json.loads(subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout)
    return {"ppl": said["ppl"]["value"], "kld": said["kld"]["value"], "kld_error": said["kld"]["error"],
            "kld_median": dict(said["kld_percentiles"])[0.5], "p_diff_rms": said["p_diff_rms"]["value"],
            "same_top": said["same_top"]["value"]}


def row_of(valve, name, kind, model, base):
    """One file by both programs."""
    flags = ["-m", model, "--kl-divergence-base", base, "--kl-divergence"]
    tensors = Counter(tensor.tensor_type.name for tensor in gguf.GGUFReader(model).tensors)
    row = {"model": name, "type": kind, "tensors": dict(tensors), "valve": ours(valve, *flags),
           "llama_cpp": divergence(peer_says(*flags))}
    row["ppl_ratio"] = row["valve"]["ppl"] / row["llama_cpp"]["ppl"]
    return row


def table_row(row):
    ours, theirs = row["valve"], row["llama_cpp"]
    cells = [row["model"], row["type"], f"{ours['ppl']:.4f}", f"{theirs['ppl']:.4f}",
             f"{100 * (row['ppl_ratio'] - 1):+.2f} %", f"{ours['kld']:.6f}", f"{theirs['kld']:.6f}",
             f"{100 * ours['same_top']:.2f} %", f"{100 * theirs['same_top']:.2f} %"]
    return f"| {' | '.join(cells)} |"


def measure(args, text):
    """All rows, with a table as they come."""
    print("| model | type | PPL, valve | PPL, llama.cpp | change | KLD, valve | KLD, llama.cpp | same top, valve | "
          "same top, llama.cpp |\n|---|---|---|---|---|---|---|---|---|", flush=True)
    source, rows = peer.float_model(args.model, "q4_1"), []
    with tempfile.TemporaryDirectory(dir=peer.MODELS) as scratch:
        base = Path(scratch) / "base"
        for name in args.models.split(","):
            weights = padded.padded_model(source) if name == "padded" else source
            peer_says("-m", weights, "-f", text, "--chunks", args.chunks, "--kl-divergence-base", base)
            for kind in args.types.split(","):
                rows.append(row_of(args.valve, name, kind, quantized(weights, kind), base))
                print(table_row(rows[-1]), flush=True)
    return rows


def write_results(path, facts, rows):
    """Writes the rows; what a file that is there has of other models and types stays, if it is of the same text."""
    kept = json.loads(path.read_text()) if path.exists() else {"facts": facts, "rows": []}
    if kept["facts"] != facts:
        sys.exit(f"{path} is of something else: {kept['facts']}, and not {facts}")
    measured = {(row["model"], row["type"]) for row in rows}
    rows = [row for row in kept["rows"] if (row["model"], row["type"]) not in measured] + rows
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")
    part.rename(path)
    return path


def fixture(args, text):
    """What llama-perplexity says of the text: exactly, in strides, and of the quantized file beside its F32."""
    source, cases = peer.float_model(args.model, "q4_1"), []
    for file, flags in (("f32", ["-c", 128, "--chunks", 4]),
                        ("f32", ["-c", 192, "-b", 192, "--ppl-stride", 128, "--chunks", 2]),
                        ("q4_1", ["-c", 512, "--chunks", 4])):
        model, exact = (source, EXACT) if file == "f32" else (args.model, [])
        said = peer_says("-m", model, "-f", text, *exact, *flags)
        case = {"weights": file, "flags": [str(flag) for flag in flags], "running": running(said)}
        if "--ppl-stride" not in flags:
            case["ppl"], case["error"] = number(said, "Final estimate: PPL")
        cases.append(case)
    with tempfile.TemporaryDirectory(dir=peer.MODELS) as scratch:
        base, flags = Path(scratch) / "base", ["-c", 512, "--chunks", 2]
        exact = running(peer_says("-m", source, "-f", text, *EXACT, *flags, "--kl-divergence-base", base))
        said = peer_says("-m", args.model, "--kl-divergence-base", base, "--kl-divergence")
    beside = {"flags": [str(flag) for flag in flags], "base_running": exact,
              "base_ppl": number(said, r"Mean PPL\(base\)")[0], **divergence(said)}
    facts = {"llama_cpp": peer.version(), "model": args.model.name,
             "model_sha256": hashlib.sha256(args.model.read_bytes()).hexdigest()}
    lines = ",\n".join(json.dumps(case) for case in cases)
    path = peer.DATA / "llama-cpp" / "perplexity.json"
    path.write_text(f'{{"facts": {json.dumps(facts)},\n"cases": [\n{lines}\n],\n"divergence": {json.dumps(beside)}}}\n')


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--valve", type=Path)
    args.add_argument("--model", required=True, type=Path)
    args.add_argument("--problems", type=Path, default=peer.DATA / "gsm8k-slice.jsonl")
    args.add_argument("--count", type=int, help="problems of the file; all if not given")
    args.add_argument("--chunks", type=int, default=-1)
    args.add_argument("--models", default="smollm2,padded")
    args.add_argument("--types", default=",".join(TYPES))
    args.add_argument("--out", type=Path, help="../results/perplexity-DATE.json if not given")
    args.add_argument("--write", action="store_true")
    args = args.parse_args()
    if not args.write and not args.valve:
        sys.exit("--valve names the program")
    problems = [json.loads(line) for line in args.problems.read_text().splitlines()][:args.count]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
        text.write(text_of(problems))
        text.flush()
        if args.write:
            return fixture(args, text.name)
        rows = measure(args, text.name)
    facts = {"llama_cpp": peer.version(), "model": args.model.name, "problems": len(problems), "chunks": args.chunks,
             "text_sha256": hashlib.sha256(text_of(problems).encode()).hexdigest()}
    out = args.out or peer.HERE.parent / "results" / f"perplexity-{datetime.date.today()}.json"
    print(write_results(out, facts, rows))
    if any(row["ppl_ratio"] > WORSE for row in rows):
        sys.exit("a perplexity above llama.cpp's")


if __name__ == "__main__":
    main()
