"""The ratios of a report as an SVG that is readable on light and on dark ground."""
import math
from xml.sax.saxutils import escape

from parts import OURS, PARTS

WIDTH, LABELS, RIGHT, LINE, TOP = 860, 300, 70, 20, 58
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.part { font-weight: 600 } .small { font-size: 11px; fill: #59636e } .grid { stroke: #d1d9e0 } .one { stroke: #59636e }
.better { fill: #1a7f37; stroke: #1a7f37 } .worse { fill: #bc4c00; stroke: #bc4c00 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .small { fill: #9198a1 } .grid { stroke: #3d444d } .one { stroke: #9198a1 }
.better { fill: #3fb950; stroke: #3fb950 } .worse { fill: #f0883e; stroke: #f0883e }
}"""
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


def scale(ratios):
    """Maps a ratio to a place, evenly in its logarithm, so that twice and half lie equally far from 1."""
    ends = [end for r in ratios for end in (r["min"], r["max"])]
    low, high = math.log(0.9 * min([0.9, *ends])), math.log(1.1 * max([1.1, *ends]))
    return lambda x: LABELS + (WIDTH - LABELS - RIGHT) * (math.log(x) - low) / (high - low)


def line(x1, y1, x2, y2, kind, width=1):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}" stroke-width="{width}"/>'


def words(x, y, what, kind="", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(what)}</text>'


def mark(row, x, y):
    """One row: its name, a dot at the median, a line from the least to the greatest, and the median in digits."""
    ratio = row["ratios"][OURS]
    kind = "better" if (ratio["median"] < 1) == row["less"] else "worse"
    return [words(LABELS - 10, y + 4, f"{row['file']}, {row['test']}", anchor="end"),
            line(x(ratio["min"]), y, x(ratio["max"]), y, kind, 2),
            f'<circle cx="{x(ratio["median"]):.1f}" cy="{y:.1f}" r="4" class="{kind}"/>',
            words(WIDTH - RIGHT + 10, y + 4, f"{ratio['median']:.2f}")]


def section(title, rows, x, y):
    """A heading and the marks below it; returns them and where the next section starts."""
    shapes = [words(LABELS - 10, y + 4, title, "part", "end")]
    for row in rows:
        y += LINE
        shapes += mark(row, x, y)
    return shapes, y + 1.5 * LINE


def svg(report):
    """The ratio valve / llama.cpp of every row that has one."""
    sections = []
    for name, rows in report["parts"].items():
        rows = [row for row in rows if row["ratios"][OURS]["n"]]
        for less in (False, True):
            chosen = [row for row in rows if row["less"] == less]
            if chosen:
                sections.append((PARTS[name][1] + (" (less is better)" if less else ""), chosen))
    ratios = [row["ratios"][OURS] for _, rows in sections for row in rows]
    x, y, shapes = scale(ratios), float(TOP + LINE), []
    for title, rows in sections:
        made, y = section(title, rows, x, y)
        shapes += made
    bottom = y - LINE
    grid = []
    for tick in (t for t in TICKS if LABELS <= x(t) <= WIDTH - RIGHT):
        grid += [line(x(tick), TOP, x(tick), bottom, "one" if tick == 1 else "grid"),
                 words(x(tick), TOP - 6, f"{tick:g}", "small", "middle")]
    title = f"valve / llama.cpp {report['llama.cpp']['version']}: median, least and greatest ratio of a round"
    about = f"{report['date'][:10]}, {report['machine']['cpu']}, {report['settings']['threads']} threads"
    quick = " – a quick run, no figures to quote" if report["quick"] else ""
    head = [words(10, 18, title, "part"), words(10, 34, about + quick, "small")]
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{bottom + 10:.0f}" '
            f'viewBox="0 0 {WIDTH} {bottom + 10:.0f}">\n<style>{STYLE}\n</style>\n'
            + "\n".join(head + grid + shapes) + "\n</svg>\n")
