#!/usr/bin/env python3
"""Speed, time to the first token and peak memory of `valve` beside llama.cpp, in the same minutes on the same machine.

    compare.py --valve target/release/valve --model SmolLM2-135M-Instruct.Q4_1.gguf [--threads 2] [--rounds 10]

Both engines stay loaded and are asked in turn (`bench-serve`: "pp N" or "tg N" on stdin, tokens/s on stdout; the one
not asked sleeps). One round measures each once, the order changing from round to round; its ratio is ours / theirs.
A round in which any other process used the CPU is measured again, and left out when that goes on.
Prints a markdown table and writes all samples to benches/results/compare-DATE.json.
"""
import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import peer

TESTS = ("tg 128", "pp 512")
PROMPT = "The capital of France is"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def busy_s():
    """CPU seconds that all processes of the machine have used."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


def process_s(pid):
    """CPU seconds that process `pid` has used, in all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


class Watch:
    """Tells whether processes other than ours used more of the CPU than `limit` of a core while it was open."""

    def __init__(self, pids, limit):
        self.pids, self.limit = [os.getpid(), *pids], limit

    def __enter__(self):
        self.start = time.monotonic(), busy_s(), sum(map(process_s, self.pids))
        return self

    def __exit__(self, *_):
        wall = time.monotonic() - self.start[0]
        foreign = busy_s() - self.start[1] - (sum(map(process_s, self.pids)) - self.start[2])
        # The counters step by a tick each, which shows in short samples.
        self.quiet = foreign <= self.limit * wall + 3 / TICKS_PER_S


class Server:
    """An engine that waits for tests on its stdin."""

    def __init__(self, command):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([str(c) for c in command], text=True, **pipes)
        self.pid = self.process.pid

    def measure(self, test):
        self.process.stdin.write(test + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args[0]} ended during {test}")
        return float(line.split()[-1])

    def peak_mib(self):
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        sys.exit("no VmHWM in /proc")

    def close(self):
        self.process.stdin.write("quit\n")
        self.process.stdin.close()
        self.process.wait()


def first_token_s(command):
    """From the start of a process to the first byte of its answer."""
    start = time.monotonic()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if not process.stdout.read(1):
        sys.exit(f"no token from {' '.join(map(str, command))}")
    seconds = time.monotonic() - start
    process.stdout.read()
    process.wait()
    return seconds


def rounds(args, pids, measure_ours, measure_theirs):
    """Samples of both engines, round by round, while nothing else ran."""
    ours, theirs, dropped = [], [], 0
    for i in range(args.rounds):
        for _ in range(args.tries):
            first, second = (measure_ours, measure_theirs) if i % 2 == 0 else (measure_theirs, measure_ours)
            with Watch(pids, args.foreign) as watch:
                a, b = first(), second()
            if watch.quiet or args.foreign < 0:
                ours.append(a if i % 2 == 0 else b)
                theirs.append(b if i % 2 == 0 else a)
                break
            dropped += 1
    return {"valve": ours, "llama.cpp": theirs, "dropped": dropped}


def load_rounds(args, valve, theirs):
    """As `rounds`, for processes that come and go: their CPU time is that of this process's dead children."""
    def watched(command):
        children = os.times()
        before = children.children_user + children.children_system
        wall, busy, own = time.monotonic(), busy_s(), process_s(os.getpid())
        seconds = first_token_s(command)
        children = os.times()
        used = children.children_user + children.children_system - before + process_s(os.getpid()) - own
        quiet = busy_s() - busy - used <= args.foreign * (time.monotonic() - wall) + 3 / TICKS_PER_S
        return seconds, quiet or args.foreign < 0

    result = {"valve": [], "llama.cpp": [], "dropped": 0}
    for i in range(args.rounds):
        for _ in range(args.tries):
            order = [("valve", valve), ("llama.cpp", theirs)][:: 1 if i % 2 == 0 else -1]
            samples = {name: watched(command) for name, command in order}
            if all(quiet for _, quiet in samples.values()):
                for name, (seconds, _) in samples.items():
                    result[name].append(seconds)
                break
            result["dropped"] += 1
    return result


def summary(result):
    """Adds the ratio of every round, ours / theirs, and its middle and ends."""
    ratios = [a / b for a, b in zip(result["valve"], result["llama.cpp"])]
    result["ratios"] = ratios
    if ratios:
        result["ratio"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return result


def compare_model(args, model):
    peer_command = [peer.CACHE / "peer", "bench-serve", "-m", model, "-t", args.threads, "--fa", args.fa]
    valve_command = [args.valve, "bench-serve", "-m", model, "-t", args.threads, "-c", "1024"]
    ours, theirs = Server(valve_command), Server(peer_command)
    results = {}
    for test in TESTS:
        ours.measure(test), theirs.measure(test)
        results[test.replace(" ", "")] = summary(rounds(
            args, [ours.pid, theirs.pid], lambda: ours.measure(test), lambda: theirs.measure(test)))
    results["peak_mib"] = {"valve": ours.peak_mib(), "llama.cpp": theirs.peak_mib()}
    ours.close(), theirs.close()

    load = [peer.CACHE / "peer", "load", "-m", model, "-t", args.threads, "--fa", args.fa, "-p", PROMPT]
    valve_load = [args.valve, *args.valve_load.split(), "-m", model, "-t", args.threads, "-p", PROMPT]
    first_token_s(load), first_token_s(valve_load)
    results["first_token_s"] = summary(load_rounds(args, valve_load, load))
    return results


def machine():
    cpuinfo = Path("/proc/cpuinfo").read_text()
    fields = dict(line.split("\t:", 1) for line in cpuinfo.splitlines() if "\t:" in line)
    flags = fields.get("flags\t", fields.get("flags", "")).split()
    name = fields.get("model name", "unknown").strip()
    simd = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni") if f in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 ** 30
    return {"cpu": name, "cores": os.cpu_count(), "simd": simd, "memory_gib": round(memory, 1),
            "kernel": platform.release()}


def valve_version(valve):
    printed = subprocess.run([str(valve), "--version"], text=True, capture_output=True).stdout.strip()
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, text=True, capture_output=True, cwd=peer.HERE).stdout
    return {"version": printed or "unknown", "commit": commit.strip()}


def table(report):
    lines = ["| model | test | valve | llama.cpp | ratio: median | min | max | rounds (dropped) |",
             "|---|---|---|---|---|---|---|---|"]
    for model, results in report["models"].items():
        for test, r in results.items():
            if test == "peak_mib":
                ours, theirs = r["valve"], r["llama.cpp"]
                lines.append(f"| {model} | peak memory, MiB | {ours:.0f} | {theirs:.0f} | {ours / theirs:.3f} | | | |")
            elif r["ratios"]:
                unit, scale = ("first token, ms", 1e3) if test == "first_token_s" else (f"{test}, tokens/s", 1)
                ours, theirs = (scale * statistics.median(r[k]) for k in ("valve", "llama.cpp"))
                ratio = r["ratio"]
                middle_and_ends = " | ".join(f"{ratio[k]:.3f}" for k in ("median", "min", "max"))
                lines.append(f"| {model} | {unit} | {ours:.1f} | {theirs:.1f} | {middle_and_ends} | "
                             f"{len(r['ratios'])} ({r['dropped']}) |")
            else:
                lines.append(f"| {model} | {test} | | | no quiet round | | | 0 ({r['dropped']}) |")
    return "\n".join(lines)


def parse():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--valve", required=True, type=Path)
    args.add_argument("--model", required=True, type=Path, help="the Q4_1 file, of which the other types are made")
    args.add_argument("--types", nargs="+", default=["q4_0", "q4_1", "q8_0"], choices=peer.TYPES)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--rounds", type=int, default=10)
    args.add_argument("--tries", type=int, default=4, help="attempts at a quiet round")
    args.add_argument("--foreign", type=float, default=0.06, help="cores others may use in a round; negative: any")
    args.add_argument("--fa", default="on", help="llama.cpp's flash attention")
    args.add_argument("--valve-load", default="run --raw -n 1 --temp 0", help="arguments that make valve print one token")
    args.add_argument("--out", type=Path, help="the JSON file")
    return args.parse_args()


def main():
    args = parse()
    date = datetime.datetime.now(datetime.timezone.utc)
    report = {"date": date.isoformat(timespec="seconds"), "machine": machine(), "llama.cpp": peer.version(),
              "valve": valve_version(args.valve),
              "settings": {"threads": args.threads, "llama.cpp flash attention": args.fa, "llama.cpp kv": "f16",
                           "foreign_cores": args.foreign, "page cache": "warm", "prompt": PROMPT}, "models": {}}
    for kind in args.types:
        report["models"][kind] = compare_model(args, peer.quantized_model(args.model, kind))
    print(table(report))
    out = args.out or peer.HERE.parent / "results" / f"compare-{date.date()}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
