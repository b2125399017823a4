"""Who used the CPU while a sample was taken: a sample counts if hardly anybody else did."""
import os
import time
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def busy_ticks(stat):
    """Ticks that the machine was not idle, from the text of /proc/stat; what a hypervisor took counts too."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, stat.split()[1:9])
    return user + nice + system + irq + softirq + steal


def process_ticks(stat, children=False):
    """Ticks that a process used in all its threads, from the text of /proc/PID/stat; with those of the children that
    it has waited for."""
    # The name, in parentheses, may hold blanks and parentheses.
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[11:15 if children else 13]))


def foreign_s(pids):
    """CPU seconds of the machine that were not used by this process, its children or `pids`; only differences of two
    such figures mean anything."""
    # The whole is read first, so that time between the two readings is not taken for somebody else's.
    busy = busy_ticks(Path("/proc/stat").read_text())
    own = process_ticks(Path("/proc/self/stat").read_text(), children=True)
    own += sum(process_ticks(Path(f"/proc/{pid}/stat").read_text()) for pid in pids)
    return (busy - own) / TICKS_PER_S


def is_quiet(foreign, wall, limit):
    """Whether `foreign` CPU seconds in `wall` seconds are at most `limit` cores; a negative limit allows any."""
    # The counters step by a tick each, which shows in short samples.
    return limit < 0 or foreign <= limit * wall + 3 / TICKS_PER_S


class Watch:
    """Tells, after its block, in `quiet` whether processes other than `pids` used at most `limit` cores."""

    def __init__(self, pids, limit):
        self.pids, self.limit = pids, limit

    def __enter__(self):
        self.start = time.monotonic(), foreign_s(self.pids)
        return self

    def __exit__(self, *_):
        wall, foreign = time.monotonic() - self.start[0], foreign_s(self.pids) - self.start[1]
        self.quiet = is_quiet(foreign, wall, self.limit)
