#!/usr/bin/env python3
"""Measures `valve` beside llama.cpp, in the same minutes on the same machine; benches/peer/run starts it.

Both engines stay loaded and are asked in turn, the one not asked asleep. A round takes every sample once, the order
turning from round to round, and its ratios are of samples of one round. A sample during which any other process used
the CPU is taken again. Samples and settings (.json), tables (.md) and a chart (.svg) go to benches/results/peer-DATE
and are written anew with every row, so that what was measured is there whenever a run ends.
"""
import argparse
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path

import chart
import lora
import peer
import report as reports
from engines import EngineError, Engines, warm
from machine import machine, valve_version
from parts import PARTS, QUICK, USUAL, Bench, Sizes
from rounds import Effort

ROOT = peer.HERE.parent.parent
QUICK_TYPES = ("q4_0", "q4_1")


def parse():
    raw = argparse.RawDescriptionHelpFormatter
    args = argparse.ArgumentParser(prog="benches/peer/run", description=__doc__, formatter_class=raw)
    args.add_argument("--valve", type=Path, metavar="BIN", help="the program; built if not given")
    args.add_argument("--smollm2", type=Path, metavar="FILE",
                      help="SmolLM2's Q4_1 file, which the other types are made of; else pulled")
    args.add_argument("--types", nargs="+", metavar="TYPE", choices=peer.TYPES,
                      help=f"of {' '.join(peer.TYPES)}, as far as both engines load them (all)")
    args.add_argument("--model", type=Path, metavar="FILE", action="append", default=[],
                      help="this file, not SmolLM2's; repeatable")
    args.add_argument("--base", metavar="NAME",
                      help="the type, or the stem of a --model, of the parts that take one file (q4_0, or the first)")
    args.add_argument("--only", nargs="+", metavar="PART", choices=PARTS, help=f"these of {' '.join(PARTS)}")
    args.add_argument("--long", action="store_true", help="long contexts too")
    args.add_argument("--neighbour", action="store_true", help="a busy neighbour too")
    args.add_argument("--quick", action="store_true",
                      help="two types, two rounds, short samples, any noise: a smoke test")
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--rounds", type=int, default=8)
    args.add_argument("--tries", type=int, default=4, help="attempts at a quiet sample")
    args.add_argument("--foreign", type=float, default=0.06, help="cores others may use in a sample; negative: any")
    args.add_argument("--fa", default="on", choices=["on", "off", "auto"], help="llama.cpp's flash attention")
    args.add_argument("--isa", help="llama.cpp's libggml-cpu-ISA.so, such as haswell; else its own choice")
    args.add_argument("--simd", help="COTVALVE_SIMD of valve, such as avx2")
    args.add_argument("--out", type=Path, help="the folder of the report")
    args = args.parse_args()
    args.types = args.types or (QUICK_TYPES if args.quick else peer.TYPES)
    if args.quick:
        args.rounds, args.tries, args.foreign = 2, 1, -1.0
    return args


def build():
    """Builds the program as it is released, and returns where it lies."""
    subprocess.run(["cargo", "build", "--locked", "--release"], cwd=ROOT, check=True)
    command = ["cargo", "metadata", "--no-deps", "--format-version", "1"]
    metadata = subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout
    return Path(json.loads(metadata)["target_directory"]) / "release" / "valve"


def pull(valve):
    """SmolLM2's file, fetched if it is not there."""
    command = [valve, "pull", "smollm2", "--quiet"]
    printed = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    return Path(next(line.split("\t")[1] for line in printed.splitlines() if line.startswith("model\t")))


def model_files(args, skipped):
    """Files by name, those of other types made before anything is measured."""
    if args.model:
        return {path.stem: path for path in args.model}
    files, source = {}, args.smollm2 or pull(args.valve)
    for kind in args.types:
        try:
            files[kind] = peer.quantized_model(source, kind)
        except subprocess.CalledProcessError:
            skipped.append({"file": kind, "reason": "llama.cpp does not make it"})
    return files


def selected(args):
    extra = [name for name in ("long", "neighbour") if getattr(args, name)]
    return args.only or [*USUAL, *extra]


def limits(engines, file):
    """What the machine can do at most: bytes/s read from a set as large as `file`, int8 operations/s."""
    size = file.stat().st_size
    with engines.start("valve", file) as server:
        read, int8 = map(float, server.ask(f"limits {size}").split())
    return {"set_bytes": size, "read_bytes_per_s": read, "int8_operations_per_s": int8}


def begin(args, bench, date):
    """The report before anything is measured. Both engines are started once, which shows what they are."""
    file = bench.files[bench.base]
    warm(file)
    with bench.engines.start("llama.cpp", file) as server:
        libraries = server.libraries()
    settings = {"threads": args.threads, "context": "1024 unless the test says otherwise", "cache": "f16",
                "flash attention (llama.cpp)": args.fa, "batch (llama.cpp)": "2048, 512 at once", "α": 0.5,
                "adapters": "f16 factors", "page cache": "warm", "rounds": args.rounds, "tries": args.tries,
                "cores others may use": args.foreign, "COTVALVE_SIMD": args.simd or "not set"}
    return {"date": date.isoformat(timespec="seconds"), "quick": args.quick, "machine": machine(),
            "valve": valve_version(args.valve), "llama.cpp": {"version": peer.version(), "libraries": libraries},
            "settings": settings, "limits": limits(bench.engines, file),
            "files": {name: lora.facts(path) for name, path in bench.files.items()},
            "complete": False, "seconds": {}, "skipped": bench.skipped, "parts": {}}


def publish(report, stem):
    """Writes all three files, and returns the tables."""
    text = reports.text(report)
    reports.write(stem.with_name(stem.name + ".json"), reports.json_text(report))
    reports.write(stem.with_name(stem.name + ".md"), text)
    reports.write(stem.with_name(stem.name + ".svg"), chart.svg(report))
    return text


def measure(report, bench, parts, stem):
    """Measures `parts` and writes the report after every row."""
    for name in parts:
        started, rows = time.monotonic(), report["parts"].setdefault(name, [])
        print(f"\n{PARTS[name][1]}", file=sys.stderr, flush=True)
        for row in PARTS[name][0](bench):
            rows.append(row)
            report["seconds"][name] = round(time.monotonic() - started, 1)
            publish(report, stem)
            ratio = reports.cell(row["ratios"][reports.OURS])
            print(f"  {row['file']}, {row['test']}: {reports.OURS} {ratio}", file=sys.stderr, flush=True)


def main():
    args = parse()
    args.valve = args.valve or build()
    skipped, date = [], datetime.datetime.now(datetime.timezone.utc)
    files = model_files(args, skipped)
    base = args.base or ("q4_0" if "q4_0" in files else next(iter(files), None))
    if base not in files:
        sys.exit(f"--base: {base} is not among {', '.join(files)}")
    out = args.out or (peer.CACHE / "quick" if args.quick else ROOT / "benches" / "results")
    out.mkdir(parents=True, exist_ok=True)
    stem = reports.free_stem(out, f"peer-{date.date()}")
    engines = Engines(args.valve, args.threads, args.fa, args.isa, args.simd)
    effort = Effort(args.rounds, args.tries, args.foreign)
    bench = Bench(engines, effort, QUICK if args.quick else Sizes(), files, base, skipped)
    try:
        report = begin(args, bench, date)
    except EngineError as error:
        sys.exit(f"{base}: {error}")
    measure(report, bench, selected(args), stem)
    report["complete"] = True
    print(publish(report, stem))
    print(f"{stem}.json, .md and .svg", file=sys.stderr)


if __name__ == "__main__":
    main()
