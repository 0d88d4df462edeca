"""Chat templates of strangers: the texts are transformers' own; what computes for ever, or fills the memory, is one sentence."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny import SPECIAL, make_tokenizer

from engine.base.errors import UserError
from engine.models import templates
from engine.models.chat_format import answer_ending, disarm, encode_answer, encode_chat, render_chat, user_turn_opening
from engine.models.templates import CHATML, GEMMA, LLAMA3, MISTRAL, PLAIN, render_template

ROOT = Path(__file__).resolve().parents[1]
TURNS = [{"role": "system", "content": "Be \"Edith\" <&> é\u2028."}, {"role": "user", "content": "Who?\n"},
         {"role": "assistant", "content": "Nobody."}, {"role": "user", "content": "And now?"}]


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of computing, not of waiting: a busy machine changes nothing."""
    monkeypatch.setattr(templates, "SECONDS", 0.3)


HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a long loop of output": "{% for a in range(99999) %}{{ messages[0]['content'] * 100 }}{% endfor %}",
    "lipsum": "{{ lipsum(n=100000) }}",
    "much lipsum": "{% for a in range(99999) %}{{ lipsum(n=100) }}{% endfor %}",
    "center": "{{ 'a' | center(10 ** 9) }}",
    "center by method": "{{ 'a'.center(10 ** 11) }}",
    "ljust": "{{ 'a'.ljust(3 * 10 ** 9) | length }}",
    "format": "{{ '%1000000000d' | format(1) }}",
    "format by method": "{{ '{:1000000000}'.format(1) }}",
    "percent": "{{ '%9999999999d' % 1 }}",
    "product": "{{ 'x' * 10 ** 9 }}",
    "product of lists": "{{ ([0] * 10 ** 9) | length }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "digits": "{{ 10 ** 5000 }}",
    "range": "{{ range(10 ** 9) | list | length }}",
    "products of ranges": "{% for a in range(99999) %}{{ range(99999) | list | sum }}{% endfor %}",
    "doubling": "{% set n = namespace(a='ab') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}{{ n.a | length }}",
    "joined": "{% set n = namespace(a=[1, 2]) %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}{{ n.a | length }}",
    "replaced": "{% set n = namespace(a='a') %}{% for i in range(40) %}{% set n.a = n.a | replace('a', 'aaaa') %}{% endfor %}x",
    "indent": "{{ ('\n' * 10 ** 6) | indent(10 ** 6, true) }}",
    "batch": "{{ [1] | batch(10 ** 9, 0) | list | length }}",
    "slice": "{{ [1] | slice(10 ** 9) | list | length }}",
    "wordwrap": "{{ ('a ' * 10 ** 7) | wordwrap(1) | length }}",
    "urlize": "{{ ('www.' * 10 ** 6) | urlize }}",
    "tojson": "{{ range(99999) | list | tojson(indent=10 ** 6) }}",
    "tojson of itself": "{% set a = [] %}{{ {'a': 1} | tojson(indent='x' * 10 ** 9) }}",
    "cycle": "{% set c = cycler(*range(99999)) %}{% for a in range(99999) * 99 %}{{ c.next() }}{% endfor %}",
    "macro": "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "two macros": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "recursive loop": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "deep parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep lists": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "deep blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "many filters": "{{ 'a'" + "|string" * 20000 + " }}",
    "many operators": "{{ 1" + " + 1" * 50000 + " }}",
    "not not": "{{ " + "not " * 50000 + "1 }}",
    "division by zero": "{{ 1 / 0 }}",
    "overflow": "{{ 2.0 ** 10000 }}",
    "lone surrogates": "{{ '\\ud800' }}",
    "lone surrogates outside": "\ud800{{ messages[0]['content'] }}",
    "no filter": "{{ 1 | nothing }}",
    "no such value": "{{ nothing.at.all }}",
    "syntax": "{% for %}",
    "import": "{% import 'os' as os %}",
    "include": "{% include '/etc/passwd' %}",
    "insides": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "insides by attr": "{{ (''|attr('__class__')).__mro__ }}",
    "insides by format": "{{ '{0.__class__.__mro__[9]}'.format(messages) }}",
    "insides of a function": "{{ raise_exception.__globals__['os'].system('true') }}",
    "insides of a namespace": "{{ namespace(__class__=1) }}",
    "exception with anything": "{{ raise_exception(messages) }}",
    "exception of a novel": "{{ raise_exception('no\n' * 100000) }}",
    "exit": "{{ self._TemplateReference__context.environment.globals }}",
    "date": "{{ strftime_now('%Y' * 10 ** 7) }}",
    "changes": "{{ messages.append(1) }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_one_sentence_within_seconds(name: str) -> None:
    tokenizer = make_tokenizer(template=HOSTILE[name])
    start = time.monotonic()
    with pytest.raises(UserError, match=r"^The model's chat template (cannot be used|refuses this conversation)") as found:
        render_chat(tokenizer, TURNS)
    assert "\n" not in str(found.value) and len(str(found.value)) < 300 and str(found.value).isprintable()
    assert time.monotonic() - start < 60  # under a second of computing, on a machine with however much else to do
    assert render_chat(make_tokenizer(), TURNS).endswith("assistant\n")  # the next model is served


def test_a_hostile_template_is_one_sentence_in_every_use() -> None:
    for use in (lambda one: encode_chat(one, TURNS), lambda one: encode_answer(one, "Hm.", True), answer_ending,
                lambda one: user_turn_opening(one, TURNS)):
        with pytest.raises(UserError, match="cannot be used"):
            use(make_tokenizer(template=HOSTILE["doubling"]))  # type: ignore[no-untyped-call]


EQUAL = {
    "chatml": CHATML, "llama": LLAMA3, "mistral": MISTRAL, "gemma": GEMMA, "plain": PLAIN,
    "whitespace": "  {% if true %}\n  a\n  {%- endif %}\n\n{{ 'x' }}\n{# c #}\n\tb{% raw %}{{ }}{% endraw %}\n",
    "loop controls": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}{% break %}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}",
    "generation with values": "{% set a = 'q' %}{%- generation -%} {{ messages[0].role ~ a }} {%- endgeneration -%} x",
    "tojson": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ {'b': 1, 'a': 'é<'} | tojson(sort_keys=true) }}",
    "values": "{{ bos_token }}|{{ eos_token }}|{{ tools is none }}|{{ add_generation_prompt }}|{{ date_string }}",
    "namespace": "{% set n = namespace(a=1, self=2) %}{% for m in messages %}{% set n.a = n.a + 1 %}{% endfor %}{{ n.a + n.self }}",
    "dict": "{{ dict(a=1).items() | list }}{{ dict.fromkeys([1]) }}",
    "macros": "{% macro m(x, y='z') %}<{{ x }}{{ y }}>{% endmacro %}{{ m('a') }}{{ m('b', y=messages[0].role) }}",
    "filters": "{{ messages | map(attribute='role') | join(', ') | title }}{{ ' x ' | trim | upper }}{{ messages[1:] | length }}",
    "slices": "{{ messages[::-1][0]['content'].strip().split('?')[0] }}{{ 'abc'.startswith('a') }}{{ 'a' in 'abc' }}",
    "unicode": "é\u00a0\u2028{{ '\\u00e9\\n' }}\U0001f56f",
}


@pytest.mark.parametrize("name", EQUAL)
@pytest.mark.parametrize("asked", [True, False])
def test_the_text_is_that_of_transformers(name: str, asked: bool) -> None:
    tokenizer = make_tokenizer(bos_token="<|endoftext|>", eos_token="<|im_end|>", template=EQUAL[name])
    values = {**tokenizer.special_tokens_map, "messages": TURNS, "tools": None, "documents": None, "add_generation_prompt": asked}
    expected = tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=asked)
    assert render_template(EQUAL[name], values) == expected
    assert expected


def test_chance_gives_the_same_text_again() -> None:
    render_chat(make_tokenizer(), TURNS)
    first = [render_template("{{ range(10000) | random }}{{ a }}", {"a": one}) for one in "ab"]
    templates._renderer().end()
    again = [render_template("{{ range(10000) | random }}{{ a }}{{ '' }}", {"a": one}) for one in "ab"]
    assert first == again and first[0][:-1] == first[1][:-1]


def test_the_process_is_started_again_after_its_end_and_ends_with_its_owner() -> None:
    render_chat(make_tokenizer(), TURNS)
    renderer = templates._renderer()
    assert renderer.process
    first = renderer.process.pid
    os.kill(first, signal.SIGKILL)
    renderer.process.wait()
    assert render_chat(make_tokenizer(), [*TURNS[:-1], {"role": "user", "content": "anew"}]) and renderer.process.pid != first
    code = ("from engine.models.templates import _renderer, render_template as r\n"
            "print(r('{{ a }}', {'a': 'said'}), _renderer().process.pid, flush=True)\nimport os; os.kill(os.getpid(), 9)")
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert told[0] == "said"
    deadline = time.monotonic() + 5
    while psutil.pid_exists(int(told[1])) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(int(told[1]))


def test_the_program_imports_little() -> None:
    code = ("import sys; sys.argv = ['x']; import runpy; runpy.run_path('engine/models/template_program.py')\n"
            "print([name for name in ('torch', 'transformers', 'numpy', 'psutil', 'engine') if name in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_process_has_a_renderer_of_its_own() -> None:
    render_chat(make_tokenizer(), TURNS)
    mine = templates._renderer()
    child = os.fork()
    if not child:
        os._exit(0 if templates._renderer() is not mine else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("token", [" x", "x ", "  ", " ", "\n\n", "a", "ab", " a b "])
def test_no_control_token_breaks_for_ever(token: str) -> None:
    tokenizer: Any = make_tokenizer((*SPECIAL, token))
    start = time.monotonic()
    text = disarm(tokenizer, f"{token} {token}{token} q")
    assert time.monotonic() - start < 2 and text.endswith("q") and (token not in text or not token.strip())
