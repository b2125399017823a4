#!/usr/bin/env python3
"""Writes templates.json beside this file: what jinja2 makes of real chat templates.

    make_templates.py FOLDER

FOLDER holds the templates, one `.jinja` file each: llama.cpp's models/templates (release 3.22.1 of node-llama-cpp
carries those that made the committed file). No text of a template is stored, only the length and the first 64 bits of SHA-256 of the file and of
each text that it renders; `null` stands for a conversation that the template refuses. The conversations are those of
conversations.json. Needs the Python package jinja2 (3.1.6 made the committed file), set up as transformers does.
"""

import datetime
import hashlib
import json
import pathlib
import sys

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent


class Generation(Extension):
    """`{% generation %}`, which marks the assistant's part and writes nothing."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller):
        return caller()


def refuse(message):
    raise jinja2.exceptions.TemplateError(message)


def dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment(now):
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = dumps
    environment.globals["raise_exception"] = refuse
    clock = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    environment.globals["strftime_now"] = clock.strftime
    return environment


def mark(data):
    return f"{hashlib.sha256(data).hexdigest()[:16]}:{len(data)}"


def render(template, shared, case):
    texts = {"bos_token": shared["bos_token"], "eos_token": shared["eos_token"]}
    texts |= case.get("kwargs", {})
    try:
        return template.render(
            messages=case["messages"],
            tools=case.get("tools"),
            documents=None,
            add_generation_prompt=case.get("add_generation_prompt", True),
            **texts,
        )
    except Exception as error:
        if "-v" in sys.argv:
            print(case["name"], type(error).__name__, error)
        return None


def main():
    shared = json.loads((HERE / "conversations.json").read_text(encoding="utf-8"))
    lines = []
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jinja")):
        source = path.read_bytes()
        template = environment(shared["now"]).from_string(source.decode())
        texts = [render(template, shared, case) for case in shared["cases"]]
        marks = [text if text is None else mark(text.encode()) for text in texts]
        lines.append(f"{json.dumps(path.name)}: {json.dumps({'file': mark(source), 'texts': marks})}")
        if len(sys.argv) > 2:
            for case, text in zip(shared["cases"], texts):
                if text is not None:
                    pathlib.Path(sys.argv[2], f"{path.stem}.{case['name']}").write_text(text, encoding="utf-8")
    text = f'{{\n"jinja2": {json.dumps(jinja2.__version__)},\n"templates": {{\n' + ",\n".join(lines) + "\n}\n}\n"
    (HERE / "templates.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
