"""What gpu-check reads and how it fails, without a GPU and with no figure that an engine made."""
import importlib.machinery
import importlib.util
import struct
import tempfile
import unittest
from argparse import Namespace
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "gpu-check"
loader = importlib.machinery.SourceFileLoader("gpu_check", str(SCRIPT))
gpu_check = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_check", loader))
loader.exec_module(gpu_check)


def npy(rows, descr="<f4"):
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({len(rows)}, {len(rows[0])}), }}\n".encode()
    values = [v for row in rows for v in row]
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + struct.pack(f"<{len(values)}f", *values)


class GpuCheck(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def check(self):
        return gpu_check.Check(Namespace(bin=self.folder), self.folder)

    def test_rows_are_read_as_they_were_written(self):
        path = self.folder / "x.npy"
        path.write_bytes(npy([[1.0, -2.0, 0.5], [3.0, 0.0, 4.0]]))
        self.assertEqual(gpu_check.read_npy(path), [(1.0, -2.0, 0.5), (3.0, 0.0, 4.0)])
        path.write_bytes(npy([[1.0]], descr=">f4"))
        self.assertRaises(gpu_check.Failed, gpu_check.read_npy, path)

    def test_an_error_is_a_share_of_the_truth(self):
        self.assertEqual(gpu_check.nmse([(1.0, 2.0)], [(1.0, 2.0)]), 0)
        self.assertAlmostEqual(gpu_check.nmse([(1.0, 1.0)], [(0.0, 2.0)]), 2 / 4)

    def test_a_step_that_fails_says_what_and_keeps_the_end_of_what_was_printed(self):
        program = self.folder / "cuda_device"
        program.write_text("#!/bin/sh\necho 'the last words'\nexit 3\n")
        program.chmod(0o755)
        check = self.check()
        with self.assertRaisesRegex(gpu_check.Failed, "exit 3\nthe last words"):
            check.tests()
        program.write_text("#!/bin/sh\necho 'no CUDA device: none; skipped'\n")
        self.assertRaises(gpu_check.Failed, check.tests)

    def test_without_a_copy_measured_there_is_no_share_of_it(self):
        check = self.check()
        self.assertEqual(check.share_of_copy(1e12), "")
        check.raw["harness"] = {"copy_gb_per_s": 4000.0}
        self.assertEqual(check.share_of_copy(1e12), "25 % of a copy")


if __name__ == "__main__":
    unittest.main()
