"""What a report says of where and on what it was made."""
import os
import platform
import subprocess
from pathlib import Path

import peer

SIMD = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


def machine():
    cpuinfo = Path("/proc/cpuinfo").read_text()
    fields = dict(line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = fields.get("flags", "").split()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 ** 30
    simd = [flag for flag in SIMD if flag in flags]
    return {"cpu": fields.get("model name", "unknown"), "cores": os.cpu_count(), "simd": simd,
            "memory_gib": round(memory, 1), "kernel": platform.release()}


def valve_version(valve):
    printed = subprocess.run([str(valve), "--version"], text=True, capture_output=True).stdout.strip()
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, text=True, capture_output=True, cwd=peer.HERE).stdout
    return {"version": printed or "unknown", "commit": commit.strip()}
