"""Samples in turn, and the ratios of those that belong together."""
import statistics
from dataclasses import dataclass

from watch import Watch


@dataclass
class Effort:
    """How often and how strictly to measure."""
    rounds: int
    # Attempts at a quiet sample.
    tries: int
    # Cores that other processes may use during a sample; negative: any.
    foreign: float


def sample(sampler, pids, effort):
    """A figure taken while the machine was quiet, or None, and how many were thrown away."""
    for dropped in range(effort.tries):
        with Watch(pids, effort.foreign) as watch:
            figure = sampler()
        if watch.quiet:
            return figure, dropped
    return None, effort.tries


def measure(samplers, pids, effort, take=sample):
    """Calls every one of `samplers` (by name) once a round, the order turning from round to round, after a round that
    does not count. A round in which one of them found no quiet moment is lost for all.

    Returns `samples` by name, equally many of each, `dropped` samples and `lost` rounds."""
    for sampler in samplers.values():
        sampler()
    samples, dropped, lost = {name: [] for name in samplers}, 0, 0
    for i in range(effort.rounds):
        names, figures = list(samplers), {}
        for name in names if i % 2 == 0 else names[::-1]:
            figures[name], thrown = take(samplers[name], pids, effort)
            dropped += thrown
            if figures[name] is None:
                lost += 1
                break
        else:
            for name in names:
                samples[name].append(figures[name])
    return {"samples": samples, "dropped": dropped, "lost": lost}


def ratio(above, below):
    """Median, ends and number of the ratios of figures that were taken in the same rounds."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    if not ratios:
        return {"n": 0}
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios), "n": len(ratios)}
