"""What is measured: one function a part, each yielding rows as they are done.

A row has `file`, `test`, `unit`, `less` (whether less is better), `samples` by name, `dropped`, `lost`, and `ratios`
by label, each of the samples of the same rounds; OURS is the label that sets us beside llama.cpp.
"""
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import lora
from engines import EngineError, Engines, warm
from rounds import Effort, measure, ratio

OURS = "valve / llama.cpp"
ENGINES = ("valve", "llama.cpp")
RATE = "tokens/s"
ALPHA = 0.5


@dataclass
class Sizes:
    """How much a sample computes."""
    tg: int = 128
    pp: int = 512
    ranks: tuple = (2, 8, 16, 64)
    # The rank of the parts that take one.
    rank: int = 16
    batches: tuple = (8, 16)
    # Tokens of each sequence of a batch.
    together: int = 32
    long_context: int = 8192
    long_depths: tuple = (4096, 7936)
    long_pp: int = 4096


QUICK = Sizes(tg=4, pp=32, ranks=(8,), batches=(2,), together=4, long_context=512, long_depths=(128, 384), long_pp=256)


@dataclass
class Bench:
    """What every part gets."""
    engines: Engines
    effort: Effort
    sizes: Sizes
    # Files by the name that a table gives them.
    files: dict
    # The name of the file of the parts that take one.
    base: str
    skipped: list = field(default_factory=list)

    def pair(self, open_, file, **settings):
        """Both engines with `file`, for as long as `open_` lasts."""
        return [open_.enter_context(self.engines.start(engine, file, **settings)) for engine in ENGINES]

    def row(self, file, test, samplers, pids, ratios, unit=RATE, less=False):
        """Measures `samplers`; `ratios` names the two samples of each label."""
        taken = measure(samplers, pids, self.effort)
        samples = taken["samples"]
        made = {label: ratio(samples[above], samples[below]) for label, (above, below) in ratios.items()}
        return {"file": file, "test": test, "unit": unit, "less": less, **taken, "ratios": made}

    def both(self, file, test, request, ours, theirs):
        """One request to both engines."""
        samplers = {"valve": lambda: ours.measure(request), "llama.cpp": lambda: theirs.measure(request)}
        return self.row(file, test, samplers, [ours.pid, theirs.pid], {OURS: ("valve", "llama.cpp")})

    def each_file(self, measure_file):
        """Rows of every file; one that an engine cannot do is noted and left out."""
        for name, file in self.files.items():
            try:
                warm(file)
                yield from measure_file(name, file)
            except EngineError as error:
                # A report does not name the folders of its machine.
                reason = str(error).replace(f"{Path(file).parent}/", "")
                self.skipped.append({"file": name, "reason": reason})
                print(f"skipped {name}: {reason}", file=sys.stderr, flush=True)

    def base_rows(self, measure_file):
        """Rows of the base file alone."""
        one = Bench(self.engines, self.effort, self.sizes, {self.base: self.files[self.base]}, self.base, self.skipped)
        yield from one.each_file(measure_file)


def types(bench):
    """Prefill and decode of every file; in parentheses the share of the machine's limit, of bytes read when decoding,
    of int8 operations in a prefill."""
    def rows(name, file):
        with ExitStack() as open_:
            ours, theirs = bench.pair(open_, file)
            for test, n in (("tg", bench.sizes.tg), ("pp", bench.sizes.pp)):
                yield bench.both(name, f"{test}{n}", f"{test} {n}", ours, theirs)
    return bench.each_file(rows)


def ranks(bench):
    """An adapter that is on: each engine beside itself without one, and both beside each other. The bound is what would
    be kept if nothing but the adapter's own bytes (tg) or multiply-adds (pp) cost anything."""
    def rows(name, file):
        for rank in bench.sizes.ranks:
            adapter = lora.random_adapter(file, rank)
            with ExitStack() as open_:
                # A closed valve is measured elsewhere; here the base is without any.
                base = open_.enter_context(bench.engines.start("valve", file))
                ours, theirs = bench.pair(open_, file, adapter=adapter)
                for test in (f"tg {bench.sizes.tg}", f"pp {bench.sizes.pp}"):
                    samplers = {"valve, none": lambda: base.measure(test),
                                "valve, on": lambda: ours.measure(f"{test} alpha={ALPHA}"),
                                "llama.cpp, none": lambda: theirs.measure(test),
                                "llama.cpp, on": lambda: theirs.measure(f"{test} alpha={ALPHA}")}
                    pairs = {OURS: ("valve, on", "llama.cpp, on"), "valve on / none": ("valve, on", "valve, none"),
                             "llama.cpp on / none": ("llama.cpp, on", "llama.cpp, none")}
                    pids = [base.pid, ours.pid, theirs.pid]
                    row = bench.row(name, f"rank {rank}, {test.replace(' ', '')}", samplers, pids, pairs)
                    facts = lora.facts(file)
                    kept = lora.bounds(facts["weight_bytes"], facts["linears"], rank)
                    yield {**row, "bound": kept["bytes" if test.startswith("tg") else "macs"]}
    return bench.base_rows(rows)


def turn(bench):
    """A new α before every token, and what an attached valve costs while it is closed."""
    def rows(name, file):
        adapter, test = lora.random_adapter(file, bench.sizes.rank), f"tg {bench.sizes.tg}"
        with ExitStack() as open_:
            base = open_.enter_context(bench.engines.start("valve", file))
            ours, theirs = bench.pair(open_, file, adapter=adapter)
            samplers = {"valve, none": lambda: base.measure(test),
                        "valve, closed": lambda: ours.measure(f"{test} alpha=0"),
                        "valve, on": lambda: ours.measure(f"{test} alpha={ALPHA}"),
                        "valve, turned": lambda: ours.measure(f"{test} turn={ALPHA}"),
                        "llama.cpp, on": lambda: theirs.measure(f"{test} alpha={ALPHA}"),
                        "llama.cpp, turned": lambda: theirs.measure(f"{test} turn={ALPHA}")}
            pairs = {OURS: ("valve, turned", "llama.cpp, turned"), "valve turned / on": ("valve, turned", "valve, on"),
                     "llama.cpp turned / on": ("llama.cpp, turned", "llama.cpp, on"),
                     "valve closed / none": ("valve, closed", "valve, none")}
            pids = [base.pid, ours.pid, theirs.pid]
            yield bench.row(name, f"rank {bench.sizes.rank}, {test.replace(' ', '')}", samplers, pids, pairs)
    return bench.base_rows(rows)


def together(bench):
    """Sequences that decode at once: without an adapter, at one α, at an α each, which llama.cpp computes one after
    another."""
    def rows(name, file):
        adapter, n, most = lora.random_adapter(file, bench.sizes.rank), bench.sizes.together, max(bench.sizes.batches)
        settings = {"context": 4 * n, "parallel": most}
        with ExitStack() as open_:
            base = open_.enter_context(bench.engines.start("valve", file, **settings))
            ours, theirs = bench.pair(open_, file, adapter=adapter, **settings)
            for batch in bench.sizes.batches:
                for what, server, opening in (("no adapter", base, ""), ("one α", ours, f" alpha={ALPHA}"),
                                              ("an α each", ours, f" mixed={ALPHA}")):
                    request = f"tg {n} batch={batch}{opening}"
                    yield bench.both(name, f"{batch} sequences, {what}", request, server, theirs)
    return bench.base_rows(rows)


def load(bench):
    """From the start of a process to its first token, and the memory of one that has prefilled and decoded."""
    def rows(name, file):
        samplers = {e: lambda e=e: 1e3 * bench.engines.first_token_s(e, file) for e in ENGINES}
        yield bench.row(name, "first token", samplers, [], {OURS: ("valve", "llama.cpp")}, "ms", True)
        memory = {"VmHWM": {}, "RssAnon": {}}
        for engine in ENGINES:
            with bench.engines.start(engine, file) as server:
                server.measure(f"pp {bench.sizes.pp}")
                for figure, samples in memory.items():
                    samples[engine] = [server.status_mib(figure)]
        for figure, test in (("VmHWM", "peak memory"), ("RssAnon", "memory beside the file")):
            samples = memory[figure]
            ratios = {OURS: ratio(samples["valve"], samples["llama.cpp"])}
            yield {"file": name, "test": test, "unit": "MiB", "less": True, "samples": samples, "dropped": 0, "lost": 0,
                   "ratios": ratios}
    return bench.each_file(rows)


def long(bench):
    """Decode behind a long context, and the prefill of one."""
    def rows(name, file):
        with ExitStack() as open_:
            ours, theirs = bench.pair(open_, file, context=bench.sizes.long_context)
            n = bench.sizes.together
            tests = {f"tg{n} at depth {depth}": f"tg {n} depth={depth}" for depth in bench.sizes.long_depths}
            tests[f"pp{bench.sizes.long_pp}"] = f"pp {bench.sizes.long_pp}"
            for test, request in tests.items():
                yield bench.both(name, test, request, ours, theirs)
    return bench.base_rows(rows)


class Spinner:
    """A process that keeps a core busy while its block runs."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        self.pid = self.process.pid
        self.process.send_signal(signal.SIGSTOP)

    def beside(self, sampler):
        self.process.send_signal(signal.SIGCONT)
        try:
            return sampler()
        finally:
            self.process.send_signal(signal.SIGSTOP)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def neighbour(bench):
    """Decode beside a process that keeps one core busy, as a share of the quiet speed."""
    def rows(name, file):
        with ExitStack() as open_:
            spinner = open_.enter_context(Spinner())
            ours, theirs = bench.pair(open_, file)
            test = f"tg {bench.sizes.together}"
            samplers = {"valve, quiet": lambda: ours.measure(test),
                        "valve, beside": lambda: spinner.beside(lambda: ours.measure(test)),
                        "llama.cpp, quiet": lambda: theirs.measure(test),
                        "llama.cpp, beside": lambda: spinner.beside(lambda: theirs.measure(test))}
            pairs = {OURS: ("valve, beside", "llama.cpp, beside"),
                     "valve beside / quiet": ("valve, beside", "valve, quiet"),
                     "llama.cpp beside / quiet": ("llama.cpp, beside", "llama.cpp, quiet")}
            pids = [spinner.pid, ours.pid, theirs.pid]
            yield bench.row(name, test.replace(" ", "") + " beside a busy core", samplers, pids, pairs)
    return bench.base_rows(rows)


# By the name that --only takes: what measures it, and what a report calls it.
PARTS = {
    "types": (types, "Prefill and decode by type"),
    "ranks": (ranks, "An adapter that is on, by rank"),
    "turn": (turn, "Another α at every token"),
    "together": (together, "Sequences decoded at once"),
    "load": (load, "Load and memory"),
    "long": (long, "Long context"),
    "neighbour": (neighbour, "A busy neighbour"),
}
USUAL = ("types", "ranks", "turn", "together", "load")
