#!/usr/bin/env python3
"""Writes expected.json beside this file: what jinja2 makes of the templates and conversations below.

Needs the Python package jinja2 (3.1.6 made the committed file), set up as Hugging Face transformers does.
`smollm2.jinja` is the chat template of SmolLM2-Instruct by Hugging Face (Apache-2.0).
"""

import json
import pathlib

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent
# Our own templates, each for some part of the dialect.
TEMPLATES = {
    "smollm2": (HERE / "smollm2.jinja").read_text(encoding="utf-8"),
    "blocks": """{{ bos_token }}
{%- for message in messages %}
    {% if message.role == 'system' %}
[{{ message.content | trim }}]
    {% else %}
<{{ message.role }}>
  {{ message['content'].strip() }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
<assistant>
{%- endif %}
""",
    "json": "{% for m in messages %}{{ m | tojson }}\n{{ [m.content, 1, 2.5, none, true, [], {}] | tojson(indent=2) }}\n{% endfor %}{{ {'b': 1, 'a': [1, 2]} | tojson }}",
    "thought": "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and '</think>' in c and loop.index0 < ns.last %}{% set c = c.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{{ m.role.upper() ~ ': ' + c }}{{ eos_token }}\n{% endfor %}{{ messages | length }} {{ messages[-1].role }} {{ messages | map(attribute='role') | join(',') }}",
    "macros": "{% macro turn(m, n=1) %}({{ n }}:{{ m.role }}){% endmacro %}{% for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}"
    "{{ turn(m, n=loop.index) }}{{ m.content.replace('a', 'A').startswith('A') }} {{ m.get('name', '-') }}{% if loop.last %}{% break %}{% endif %}, {% endfor %}"
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ messages[1:] | selectattr('role', 'equalto', 'user') | list | length }}{{ undefined_name }}",
}
CONVERSATIONS = [
    [("user", "Hi")],
    [("system", " Be brief. "), ("user", "What is 2 < 3 & \"why\"?"), ("assistant", "Because it's so.\n"), ("user", "  ok\n\n")],
    [("user", "a ünïcödé 猫 🐈‍⬛ \\ \t tab"), ("assistant", "<think>\nlong\n</think>\n\nshort"), ("tool", "{\"x\": 1}"), ("user", "<|im_end|>'}}{%")],
    [("user", "")],
    [("system", "s"), ("user", "u1"), ("assistant", "a1"), ("user", "u2"), ("assistant", "a2")],
]


def dumps(value, indent=None):
    return json.dumps(value, ensure_ascii=False, indent=indent)


def main():
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = dumps
    cases = []
    for name, source in TEMPLATES.items():
        for turns in CONVERSATIONS:
            for prompt in (False, True):
                messages = [{"role": role, "content": content} for role, content in turns]
                text = environment.from_string(source).render(
                    messages=messages, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>"
                )
                cases.append({"template": name, "messages": turns, "prompt": prompt, "text": text})
    out = {"jinja2": jinja2.__version__, "templates": TEMPLATES, "cases": cases}
    (HERE / "expected.json").write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
