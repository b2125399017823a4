"""Both engines as processes that are asked in turn."""
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import peer

PROMPT = "The capital of France is"


class EngineError(Exception):
    """An engine that could not do what it was asked."""


class Server:
    """An engine with a model that waits for requests on its stdin; between them it uses no CPU."""

    def __init__(self, name, command, env):
        self.name, self.errors = name, tempfile.TemporaryFile("w+")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen([str(c) for c in command], text=True, env=env, **pipes)
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def ask(self, request):
        """The line that answers `request`."""
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            reason = (self.errors.read().strip().splitlines() or ["no reason given"])[-1]
            raise EngineError(f"{self.name} ended at {request!r}: {reason}")
        return line

    def measure(self, request):
        """Tokens a second."""
        return float(self.ask(request))

    def status_mib(self, field):
        """A figure of /proc/PID/status: VmHWM, the peak, or RssAnon, what is not of files."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s*(\d+) kB", text, re.MULTILINE)[1]) / 1024

    def libraries(self):
        """The names of ggml's CPU libraries that are mapped."""
        return sorted(set(re.findall(r"libggml-cpu-\w+\.so", Path(f"/proc/{self.pid}/maps").read_text())))


class Engines:
    """Starts either engine on the same file with the same settings."""

    def __init__(self, valve, threads, fa, isa=None, simd=None):
        self.valve, self.threads, self.fa, self.isa = valve, threads, fa, isa
        self.env = dict(os.environ, **({"COTVALVE_SIMD": simd} if simd else {}))

    def flags(self, engine):
        common = ["-t", self.threads, "--kv", "f16"]
        own = ["--fa", self.fa, *(["--isa", self.isa] if self.isa else [])]
        return common if engine == "valve" else common + own

    def start(self, engine, file, adapter=None, context=1024, parallel=1):
        """`valve` or `llama.cpp`, ready; EngineError if it does not load the file."""
        program = self.valve if engine == "valve" else peer.CACHE / "peer"
        command = [program, "bench-serve", "-m", file, "-c", context, "--parallel", parallel, *self.flags(engine)]
        command += ["--valve", adapter] if adapter else []
        server = Server(engine, command, self.env)
        try:
            server.measure("tg 4")
        except EngineError:
            server.__exit__()
            raise
        return server

    def first_token(self, engine, file):
        """The command of a process that prints one token and ends."""
        valve = [self.valve, "run", "--raw", "-n", 1, "--temp", 0]
        command = valve if engine == "valve" else [peer.CACHE / "peer", "load"]
        return [*command, "-m", file, "-c", 1024, "-p", PROMPT, *self.flags(engine)]

    def first_token_s(self, engine, file):
        """From the start of a process to the first byte of its answer."""
        command = [str(c) for c in self.first_token(engine, file)]
        start = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self.env) as process:
            first = process.stdout.read(1)
            seconds = time.monotonic() - start
            process.stdout.read()
        if not first:
            raise EngineError(f"{engine} printed no token")
        return seconds


def warm(file):
    """Reads `file` once, so that whoever comes first finds it in the page cache too."""
    with open(file, "rb", buffering=0) as f:
        while f.read(1 << 24):
            pass
