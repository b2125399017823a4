"""Tables in Markdown, and the files of a report."""
import json
import statistics
from functools import partial
from pathlib import Path

from parts import OURS, PARTS


def number(x):
    """Three digits that say something, all of a large number."""
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"


def cell(ratio):
    """A ratio with its ends."""
    if not ratio["n"]:
        return "no quiet round"
    middle = f"{ratio['median']:.3f}"
    return middle if ratio["n"] == 1 else f"{middle} ({ratio['min']:.2f}–{ratio['max']:.2f})"


def of_limit(report, row):
    """The share of the machine's limit that each sample comes to: for a decoded token the bytes of the weights, for a
    prompt the operations of the linears, both without attention."""
    limits, file = report["limits"], report["files"][row["file"]]
    if row["test"].startswith("tg"):
        each, limit = file["weight_bytes"], limits["read_bytes_per_s"]
    else:
        each, limit = 2 * sum(a * b for a, b in file["linears"]), limits["int8_operations_per_s"]
    return {name: statistics.median(s) * each / limit for name, s in row["samples"].items() if s}


def table(rows, shares=None):
    """Rows of one part: the medians of all samples, then the ratios of rounds with their least and greatest. `shares`
    gives for each row the share of a limit by sample, which follows the figure."""
    samples, ratios = list(rows[0]["samples"]), list(rows[0]["ratios"])
    bound = ["bound"] if "bound" in rows[0] else []
    head = ["file", "test", *samples, *ratios, *bound, "n (dropped)"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        share = {name: f" ({x:.0%})" for name, x in shares(row).items()} if shares else {}
        medians = [number(statistics.median(s)) + share.get(name, "") if s else ""
                   for name, s in row["samples"].items()]
        cells = [row["file"], f"{row['test']}, {row['unit']}", *medians, *map(cell, row["ratios"].values())]
        cells += [f"{row[b]:.3f}" for b in bound]
        lines.append("| " + " | ".join([*cells, f"{row['ratios'][OURS]['n']} ({row['dropped']})"]) + " |")
    return "\n".join(lines)


def conditions(report):
    """What the figures hold for, a line each."""
    machine, settings, limits = report["machine"], report["settings"], report["limits"]
    lines = [f"{report['date']}, {machine['cpu']} ({machine['cores']} cores, {' '.join(machine['simd'])}), "
             f"{machine['memory_gib']} GiB, Linux {machine['kernel']}",
             f"{report['valve']['version']} at {report['valve']['commit']} beside llama.cpp "
             f"{report['llama.cpp']['version']} ({', '.join(report['llama.cpp']['libraries'])})"]
    lines.append(", ".join(f"{name}: {value}" for name, value in settings.items()))
    lines.append(f"limits of the machine: {limits['read_bytes_per_s'] / 1e9:.1f} GB/s read from a set of "
                 f"{limits['set_bytes'] / 1e6:.0f} MB, {limits['int8_operations_per_s'] / 1e9:.0f} int8 Gop/s")
    seconds = ", ".join(f"{name} {s:.0f}" for name, s in report["seconds"].items())
    lines.append(f"seconds: {seconds}" + ("" if report["complete"] else "; **not finished**"))
    return lines + (["**a quick run: no figures to quote**"] if report["quick"] else [])


def text(report):
    """The whole report in Markdown."""
    parts = ["\n".join(f"- {line}" for line in conditions(report))]
    for name, rows in report["parts"].items():
        if rows:
            about = PARTS[name][0].__doc__.replace("\n", " ")
            shares = partial(of_limit, report) if name == "types" else None
            parts.append(f"## {PARTS[name][1]}\n\n{' '.join(about.split())}\n\n{table(rows, shares)}")
    if report["skipped"]:
        lines = (f"- {s['file']}: {s['reason']}" for s in report["skipped"])
        parts.append("## Skipped\n\n" + "\n".join(lines))
    files = (f"- {name}: {f['name']}, {f['bytes'] / 1e6:.1f} MB, {f['tensors']}" for name, f in report["files"].items())
    parts.append("## Files\n\n" + "\n".join(files))
    return "\n\n".join(parts) + "\n"


def free_stem(folder, stem):
    """`stem`, numbered if a report of that name exists, which is never overwritten."""
    names = (f"{stem}-{i}" if i > 1 else stem for i in range(1, 1000))
    return next(Path(folder) / name for name in names if not (Path(folder) / f"{name}.json").exists())


def write(path, content):
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(content)
    part.rename(path)


def json_text(report):
    return json.dumps(report, indent=1, ensure_ascii=False) + "\n"
