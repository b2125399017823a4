"""What can go wrong without an engine: `python3 -m unittest discover -s benches/peer` (needs no packages)."""
import os
import subprocess
import sys
import tempfile
import time
import unittest
import xml.dom.minidom
from pathlib import Path

import chart
import lora
import report as reports
from engines import EngineError, Server
from parts import OURS, PARTS, Bench, Spinner
from rounds import Effort, measure, ratio
from watch import busy_ticks, foreign_s, is_quiet, process_ticks

STAT = "12 (a) name) (x) S 1 1 1 0 -1 0 0 0 0 0 7 5 300 20 20 0 3 0 99 0 0"
ANY = Effort(rounds=2, tries=1, foreign=-1)
# Answers each line with its number, and ends at the word "end" with a reason.
ENGINE = """
import sys
for i, line in enumerate(sys.stdin):
    if line == "end\\n":
        sys.exit("first\\nno such test")
    print(i + 0.5, flush=True)
"""


def row(test, median, less=False, n=3):
    found = {"median": median, "min": 0.9 * median, "max": 1.1 * median, "n": n} if n else {"n": 0}
    samples = {"valve": [2.0 * median] * n, "llama.cpp": [2.0] * n}
    return {"file": "q4_0", "test": test, "unit": "tokens/s", "less": less, "samples": samples, "dropped": 1, "lost": 0,
            "ratios": {OURS: found}}


def report(rows):
    return {"date": "2026-01-02T03:04:05+00:00", "quick": False, "settings": {"threads": 2}, "parts": {"types": rows},
            "complete": False, "seconds": {"types": 61.2},
            "machine": {"cpu": "C & D", "cores": 2, "simd": ["avx2"], "memory_gib": 3.5, "kernel": "6.1"},
            "valve": {"version": "valve 0", "commit": "abc"}, "llama.cpp": {"version": "v1", "libraries": ["libx.so"]},
            "limits": {"set_bytes": 2e6, "read_bytes_per_s": 5e10, "int8_operations_per_s": 9e11},
            "files": {"q4_0": {"name": "f.gguf", "bytes": 1000000, "tensors": "2 Q4_0", "weight_bytes": 5e9,
                               "linears": [[100, 10], [50, 20]]}},
            "skipped": [{"file": "mxfp4", "reason": "not loaded"}]}


class WatchTest(unittest.TestCase):
    def test_ticks_are_read_where_they_stand(self):
        self.assertEqual(busy_ticks("cpu  1 2 4 1000 1000 8 16 32 64 128\ncpu0 5 5 5 5 5 5 5 5\n"), 63)
        self.assertEqual(process_ticks(STAT), 12)
        self.assertEqual(process_ticks(STAT, children=True), 332)

    def test_a_limit_is_in_cores_and_negative_is_none(self):
        tick = 1 / os.sysconf("SC_CLK_TCK")
        self.assertTrue(is_quiet(0.06 * 10 + 2.9 * tick, 10, 0.06))
        self.assertFalse(is_quiet(0.06 * 10 + 3.1 * tick, 10, 0.06))
        self.assertTrue(is_quiet(20, 10, -1))

    def test_a_named_process_is_not_foreign(self):
        def named_s(pid):
            return foreign_s([]) - foreign_s([pid])
        with Spinner() as spinner:
            before = named_s(spinner.pid)
            deadline = time.monotonic() + 20
            # A busy machine may leave the spinner little.
            while named_s(spinner.pid) - before < 0.2 and time.monotonic() < deadline:
                spinner.beside(lambda: time.sleep(0.1))
            self.assertGreaterEqual(named_s(spinner.pid) - before, 0.2)
            stopped = process_ticks(Path(f"/proc/{spinner.pid}/stat").read_text())
            time.sleep(0.1)
            self.assertEqual(process_ticks(Path(f"/proc/{spinner.pid}/stat").read_text()), stopped)


class RoundsTest(unittest.TestCase):
    def test_the_order_turns_and_the_first_round_does_not_count(self):
        calls = []
        samplers = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}
        taken = measure(samplers, [], ANY)
        self.assertEqual("".join(calls), "abab" + "ba")
        self.assertEqual(taken, {"samples": {"a": [3, 6], "b": [4, 5]}, "dropped": 0, "lost": 0})

    def test_a_round_without_a_quiet_moment_is_lost_for_all(self):
        answers = iter([(1.0, 0), (2.0, 1), (3.0, 0), (None, 4), (5.0, 2), (6.0, 0)])
        taken = measure({"a": int, "b": int}, [], Effort(3, 4, 0.1), take=lambda *_: next(answers))
        self.assertEqual(taken, {"samples": {"a": [1.0, 5.0], "b": [2.0, 6.0]}, "dropped": 7, "lost": 1})

    def test_ratios_are_of_rounds(self):
        self.assertEqual(ratio([2, 9, 4], [1, 3, 1]), {"median": 3, "min": 2, "max": 4, "n": 3})
        self.assertEqual(ratio([], []), {"n": 0})
        with self.assertRaises(ValueError):
            ratio([1], [])


class ServerTest(unittest.TestCase):
    def test_answers_and_the_reason_of_an_end(self):
        with Server("x", [sys.executable, "-c", ENGINE], None) as server:
            self.assertEqual([server.measure("tg 1"), server.measure("tg 1")], [0.5, 1.5])
            self.assertGreater(server.status_mib("VmHWM"), 1)
            with self.assertRaisesRegex(EngineError, "x ended at 'end': no such test"):
                server.ask("end")

    def test_a_file_that_one_engine_does_not_load_is_skipped(self):
        with tempfile.NamedTemporaryFile() as file:
            bench = Bench(None, ANY, None, {"a": file.name, "b": file.name}, "a")

            def rows(name, _):
                if name == "a":
                    raise EngineError(f"no {file.name}")
                yield name
            stderr, sys.stderr = sys.stderr, open(os.devnull, "w")
            try:
                self.assertEqual(list(bench.each_file(rows)), ["b"])
            finally:
                sys.stderr.close()
                sys.stderr = stderr
        self.assertEqual(bench.skipped, [{"file": "a", "reason": f"no {Path(file.name).name}"}])


class ReportTest(unittest.TestCase):
    def test_a_table_has_medians_ratios_and_what_was_dropped(self):
        lines = reports.table([row("tg128", 1.5), row("pp512", 1, n=0)]).splitlines()
        self.assertEqual(lines[0], f"| file | test | valve | llama.cpp | {OURS} | n (dropped) |")
        self.assertEqual(lines[2], "| q4_0 | tg128, tokens/s | 3 | 2 | 1.500 (1.35–1.65) | 3 (1) |")
        self.assertEqual(lines[3], "| q4_0 | pp512, tokens/s |  |  | no quiet round | 0 (1) |")

    def test_a_report_says_what_was_skipped_and_where_it_was_made(self):
        text = reports.text(report([row("tg128", 1.5)]))
        for words in ("50.0 GB/s", "libx.so", "threads: 2", "types 61; **not finished**", "- mxfp4: not loaded",
                      "2 Q4_0", PARTS["types"][1]):
            self.assertIn(words, text)

    def test_shares_are_of_what_binds(self):
        # 3 and 2 tokens/s of 5 GB at 50 GB/s; of 2 * 2000 operations at 9e11 a second.
        tg, pp = (reports.of_limit(report([]), row(test, 1.5)) for test in ("tg128", "pp512"))
        self.assertEqual(tg, {"valve": 0.3, "llama.cpp": 0.2})
        self.assertAlmostEqual(pp["valve"] * 9e11, 3 * 4000)
        self.assertIn("| 3 (30%) | 2 (20%) |", reports.text(report([row("tg128", 1.5)])))

    def test_no_report_is_written_over(self):
        with tempfile.TemporaryDirectory() as folder:
            names = []
            for _ in range(3):
                stem = reports.free_stem(folder, "peer-x")
                reports.write(stem.with_name(stem.name + ".json"), reports.json_text({}))
                names.append(stem.name)
            self.assertEqual(names, ["peer-x", "peer-x-2", "peer-x-3"])
            self.assertEqual(sorted(os.listdir(folder)), sorted(f"{name}.json" for name in names))

    def test_a_chart_is_xml_and_colours_what_is_better(self):
        rows = [row("tg128", 1.5), row("pp512", 0.5), row("peak", 0.5, less=True), row("none", 1, n=0)]
        picture = chart.svg(report(rows))
        dots = [c.getAttribute("class") for c in xml.dom.minidom.parseString(picture).getElementsByTagName("circle")]
        self.assertEqual(dots, ["better", "worse", "better"])

    def test_a_chart_of_nothing_is_xml_too(self):
        xml.dom.minidom.parseString(chart.svg(report([])))

    def test_equal_factors_lie_equally_far_from_one(self):
        x = chart.scale([{"min": 0.25, "max": 4}])
        self.assertAlmostEqual(x(2) - x(1), x(1) - x(0.5))
        self.assertLess(x(0.25), x(4))


class LoraTest(unittest.TestCase):
    def test_bounds_count_both_factors(self):
        # 100 weights of 1 byte; factors of rank 2 over 10 x 10: 40 numbers, 80 bytes.
        self.assertEqual(lora.bounds(100, [(10, 10)], 2), {"bytes": 100 / 180, "macs": 100 / 140})


class RunTest(unittest.TestCase):
    def test_every_module_compiles_without_packages(self):
        for name in ("beside", "parts", "engines", "machine", "lora"):
            subprocess.run([sys.executable, "-c", f"import {name}"], cwd=Path(__file__).parent, check=True)


if __name__ == "__main__":
    unittest.main()
