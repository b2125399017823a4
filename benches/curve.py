#!/usr/bin/env python3
"""Draws chain length and accuracy against α from the table that `tests/real_curve.rs` prints.

    cargo test --release --test real_curve -- --nocapture | tee RESULT.md
    benches/curve.py RESULT.md OUT.svg
"""
import re
import sys

WIDTH, HEIGHT, LEFT, TOP, PLOT_W, PLOT_H = 640, 340, 60, 40, 500, 240
ROW = re.compile(r"^\| ([\d.]+) \| ([\d.]+) \((\d+) / (\d+) / (\d+)\) \| (\d+) % \|", re.M)


def main():
    source, target = sys.argv[1:3]
    rows = [tuple(map(float, row)) for row in ROW.findall(open(source).read())]
    if len(rows) < 2:
        sys.exit(f"{source}: no table of the curve test")
    top = 300.0
    x = lambda alpha: LEFT + PLOT_W * alpha / rows[-1][0]
    y = lambda tokens: TOP + PLOT_H * (1 - tokens / top)
    percent = lambda p: TOP + PLOT_H * (1 - p / 100)
    points = lambda values: " ".join(f"{x(r[0]):.1f},{v:.1f}" for r, v in zip(rows, values))
    band = points(y(r[4]) for r in rows) + " " + " ".join(reversed(points(y(r[2]) for r in rows).split()))
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
           f'<text x="{LEFT}" y="22" font-size="15">Length of the answer in tokens (band: 10th to 90th percentile), accuracy</text>']
    for tokens in range(0, 301, 100):
        out.append(f'<line x1="{LEFT}" x2="{LEFT + PLOT_W}" y1="{y(tokens):.1f}" y2="{y(tokens):.1f}" stroke="#dddddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(tokens) + 4:.1f}" text-anchor="end">{tokens}</text>')
    for p in range(0, 101, 50):
        out.append(f'<text x="{LEFT + PLOT_W + 8}" y="{percent(p) + 4:.1f}" fill="#a34700">{p} %</text>')
    out.append(f'<polygon points="{band}" fill="#1f6feb" opacity="0.15"/>')
    out.append(f'<polyline points="{points(y(r[1]) for r in rows)}" fill="none" stroke="#1f6feb" stroke-width="2.5"/>')
    out.append(f'<polyline points="{points(percent(r[5]) for r in rows)}" fill="none" stroke="#a34700" '
               'stroke-width="2" stroke-dasharray="6 4"/>')
    for r in rows:
        out.append(f'<circle cx="{x(r[0]):.1f}" cy="{y(r[1]):.1f}" r="4" fill="#1f6feb"/>')
        out.append(f'<text x="{x(r[0]):.1f}" y="{TOP + PLOT_H + 20}" text-anchor="middle">{r[0]:g}</text>')
    out.append(f'<text x="{LEFT + PLOT_W / 2}" y="{TOP + PLOT_H + 42}" text-anchor="middle">α: how far the valve is open</text>')
    out.append("</svg>")
    open(target, "w").write("\n".join(out) + "\n")


main()
