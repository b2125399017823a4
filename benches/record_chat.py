#!/usr/bin/env python3
"""Records a real `valve chat`: one question at three openings, typed into a pty.

Writes an asciicast (version 2) and an animated SVG of the same bytes at the same times. Needs `pip install pyte`, a
terminal emulator, for the SVG.

    benches/record_chat.py --valve target/release/valve --out chat    # chat.cast and chat.svg
    benches/record_chat.py --cast chat.cast --at 9.5 --out frame      # frame.svg, still, at 9.5 s
"""

import argparse
import fcntl
import html
import json
import os
import pty
import select
import struct
import termios
import time

COLUMNS, ROWS = 92, 26
QUESTION = "Nina buys 9 muffins for 3 dollars each and 5 cakes for 7 dollars each. How much does Nina spend in total?"
SCRIPT = [QUESTION, "/alpha 0.5", "/regen", "/alpha 1", "/regen"]
# The line editor turns bracketed paste on when it begins.
EDITOR_BEGINS = b"\x1b[?2004h"
TITLE_BACK = b"\x1b[23;2t"
KEY_SECONDS = 0.035
READ_SECONDS = 1.2
LAST_SECONDS = 5.0
# The SVG shows the state of the screen at this distance.
FRAME_SECONDS = 0.1
CELL_WIDTH, CELL_HEIGHT, MARGIN, BAR = 8.43, 18, 14, 30


def screen():
    import pyte

    return pyte.Screen(COLUMNS, ROWS)


class Recorder:
    """A program in a pty, and all that it writes with the time since it started."""

    def __init__(self, command):
        import pyte

        self.screen = screen()
        self.stream = pyte.ByteStream(self.screen)
        self.events, self.written, self.prompts = [], b"", 0
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color")
            os.environ.pop("NO_COLOR", None)
            os.execvp(command[0], command)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.started = time.monotonic()

    def read(self, seconds):
        """Takes what comes within `seconds`; False at the end."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                try:
                    data = os.read(self.fd, 65536)
                except OSError:
                    return False
                if not data:
                    return False
                self.events.append((time.monotonic() - self.started, data))
                self.written += data
                self.stream.feed(data)
        return True

    def ready(self):
        cursor = self.screen.cursor
        return cursor.x == 2 and self.screen.display[cursor.y].rstrip() == ">"

    def wait(self):
        """Reads until the editor has begun once more, and waits for keys."""
        deadline = time.monotonic() + 120
        self.prompts += 1
        while not (self.ready() and self.written.count(EDITOR_BEGINS) >= self.prompts):
            if not self.read(0.02) or time.monotonic() > deadline:
                raise SystemExit("the prompt did not come:\n" + "\n".join(self.screen.display))

    def type(self, line):
        for key in line:
            os.write(self.fd, key.encode())
            self.read(KEY_SECONDS)
        self.read(0.3)
        os.write(self.fd, b"\r")


def record(command):
    recorder = Recorder(command)
    recorder.wait()
    # Loading is not what is shown.
    skipped = recorder.events[-1][0] - 0.2
    recorder.read(0.8)
    for line in SCRIPT:
        recorder.type(line)
        recorder.wait()
        recorder.read(READ_SECONDS)
    recorder.read(LAST_SECONDS - READ_SECONDS)
    end = time.monotonic() - recorder.started - skipped
    events = [(max(0.0, at - skipped), data) for at, data in recorder.events]
    os.write(recorder.fd, b"\x04")
    while recorder.read(0.1):
        pass
    os.waitpid(recorder.pid, 0)
    return events, end


def to_cast(events, end):
    header = {"version": 2, "width": COLUMNS, "height": ROWS, "title": "valve chat", "env": {"TERM": "xterm-256color"}}
    lines = [json.dumps(header)]
    held = b""
    for at, data in events:
        held += data
        text = held.decode(errors="ignore")
        # A character that is cut waits for its rest.
        if text.encode() != held and len(held) - len(text.encode()) < 4:
            held = held[len(text.encode()) :]
        else:
            held = b""
        lines.append(json.dumps([round(at, 3), "o", text], ensure_ascii=False))
    # Nothing more, later: players keep the last screen until then.
    lines.append(json.dumps([round(end, 3), "o", ""]))
    return "\n".join(lines) + "\n"


def from_cast(text):
    header, *rest = [json.loads(line) for line in text.splitlines()]
    assert (header["width"], header["height"]) == (COLUMNS, ROWS), header
    return [(at, data.encode()) for at, _, data in rest], rest[-1][0]


def runs(row):
    """Pieces of a screen row: (column, text, is it dim)."""
    cells = [(row[x].data or " ", row[x].fg == "dim") for x in range(COLUMNS)]
    found, start = [], 0
    for x in range(1, COLUMNS + 1):
        if x == COLUMNS or cells[x][1] != cells[start][1]:
            text = "".join(cell for cell, _ in cells[start:x])
            if text.strip():
                blank = len(text) - len(text.lstrip())
                found.append((start + blank, text.strip(), cells[start][1]))
            start = x
    return tuple(found)


def frames(events, end):
    """(time, title, rows) whenever the screen differs, at most every FRAME_SECONDS."""
    import pyte

    class DimScreen(pyte.Screen):
        """pyte drops the attribute dim; it is kept here in the colour's place."""

        def select_graphic_rendition(self, *attributes, **private):
            super().select_graphic_rendition(*[a for a in attributes if a not in (2, 22)], **private)
            for attribute in attributes:
                if attribute in (2, 22):
                    color = "dim" if attribute == 2 else "default"
                    self.cursor.attrs = self.cursor.attrs._replace(fg=color)

    shown = DimScreen(COLUMNS, ROWS)
    stream = pyte.ByteStream(shown)
    found, events, at = [], list(events), 0.0
    while at <= end:
        while events and events[0][0] <= at:
            data = events.pop(0)[1]
            stream.feed(data)
            # pyte does not know how to bring back the title that was kept.
            if data.rfind(TITLE_BACK) > data.rfind(b"\x1b]2;"):
                shown.set_title("")
        cursor = (shown.cursor.y, shown.cursor.x)
        state = (shown.title or "valve chat", tuple(runs(shown.buffer[y]) for y in range(ROWS)), cursor)
        if not found or found[-1][1:] != state:
            found.append((at, *state))
        at += FRAME_SECONDS
    return found


def spans(values, end):
    """Of a value at each time, the times it holds: (from, to, value)."""
    found = []
    for at, value in values:
        if not found or found[-1][2] != value:
            if found:
                found[-1][1] = at
            found.append([at, end, value])
    return [span for span in found if span[2]]


def shows(start, stop, end):
    """SMIL that shows an element from `start` to `stop`, for ever; a still picture shows the end."""
    if start <= 0 and stop >= end:
        return "", ""
    values, times = ["hidden", "visible", "hidden"], [0, start / end, stop / end]
    if start <= 0:
        values, times = values[1:], times[1:]
        times[0] = 0
    if stop >= end:
        values, times = values[:-1], times[:-1]
    times = ";".join(f"{t:.4f}".rstrip("0").rstrip(".") for t in times)
    hidden = "" if stop >= end else ' visibility="hidden"'
    animation = (
        f'<animate attributeName="visibility" values="{";".join(values)}" keyTimes="{times}" '
        f'dur="{end:.2f}s" calcMode="discrete" repeatCount="indefinite"/>'
    )
    return hidden, animation


def text(x, y, content, kind=""):
    shape = f'x="{MARGIN + x * CELL_WIDTH:.1f}" y="{BAR + MARGIN + y * CELL_HEIGHT + 13}"'
    length = f'textLength="{len(content) * CELL_WIDTH:.1f}"'
    kind = f' class="{kind}"' if kind else ""
    return f"<tspan {shape} {length}{kind}>{html.escape(content, quote=False)}</tspan>"


def to_svg(found, end):
    width, height = 2 * MARGIN + COLUMNS * CELL_WIDTH, BAR + 2 * MARGIN + ROWS * CELL_HEIGHT
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" '
        'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14">',
        "<style>text{fill:#d8dee9;white-space:pre}"
        ".d{fill:#7b8494}.t{fill:#9aa5b5;text-anchor:middle}</style>",
        f'<rect width="100%" height="100%" rx="8" fill="#161a21"/><path d="M0 {BAR}H{width:.0f}" stroke="#2b313c"/>',
        *(f'<circle cx="{18 + 18 * i}" cy="15" r="5" fill="#3a4250"/>' for i in range(3)),
    ]
    for start, stop, title in spans([(at, title) for at, title, _, _ in found], end):
        hidden, animation = shows(start, stop, end)
        content = html.escape(title, quote=False)
        out.append(f'<text class="t" x="{width / 2:.0f}" y="20"{hidden}>{content}{animation}</text>')
    for y in range(ROWS):
        for start, stop, row in spans([(at, rows[y]) for at, _, rows, _ in found], end):
            hidden, animation = shows(start, stop, end)
            pieces = "".join(text(x, y, content, "d" if dim else "") for x, content, dim in row)
            out.append(f"<text{hidden}>{pieces}{animation}</text>")
    for start, stop, (y, x) in spans([(at, cursor) for at, _, _, cursor in found], end):
        hidden, animation = shows(start, stop, end)
        place = f'x="{MARGIN + x * CELL_WIDTH:.1f}" y="{BAR + MARGIN + y * CELL_HEIGHT}"'
        out.append(f'<rect {place} width="8" height="17" fill="#8fa1b3"{hidden}>{animation}</rect>')
    return "\n".join(out) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--valve", default="target/release/valve", help="the program")
    parser.add_argument("--cast", help="a recording to draw, instead of making one")
    parser.add_argument("--at", type=float, help="draw the screen at this second, still")
    parser.add_argument("--out", required=True, help="where to write, without ending")
    parser.add_argument("args", nargs="*", help="further arguments of valve chat, after --")
    args = parser.parse_args()
    if args.cast:
        with open(args.cast) as file:
            events, end = from_cast(file.read())
    else:
        events, end = record([args.valve, "chat", "--no-history", "--temp", "0", *args.args])
        with open(args.out + ".cast", "w") as file:
            file.write(to_cast(events, end))
    found = frames(events, end)
    if args.at is not None:
        found = [frame for frame in found if frame[0] <= args.at][-1:]
    with open(args.out + ".svg", "w") as file:
        file.write(to_svg([(0.0, *frame[1:]) for frame in found] if args.at is not None else found, end))


if __name__ == "__main__":
    main()
