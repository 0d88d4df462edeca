"""Tokenizers of model folders, and our chat templates for folders that come without one."""

import json
import os
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from small_job import make_job
from tiny import SPECIAL, find, make_tiny, make_tokenizer
from transformers import AutoTokenizer

from engine.base.errors import UserError
from engine.models.chat_format import render_chat
from engine.models.loading import day_of, load_tokenizer, on_day
from engine.models.templates import CHATML, fix_settings
from engine.stages import context

TURNS = [{"role": "system", "content": "SYSTEM"}, {"role": "user", "content": "USER"},
         {"role": "assistant", "content": "ANSWER"}]


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer .*cannot be read"):
        load_tokenizer(find(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        load_tokenizer(find(folder))


LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
FORMATS = [
    ("qwen2", SPECIAL, "<|im_start|>system\nSYSTEM<|im_end|>\n<|im_start|>user\nUSER<|im_end|>\n"
                       "<|im_start|>assistant\nANSWER<|im_end|>\n"),
    ("llama", LLAMA, "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nSYSTEM<|eot_id|>"
                     "<|start_header_id|>user<|end_header_id|>\n\nUSER<|eot_id|>"
                     "<|start_header_id|>assistant<|end_header_id|>\n\nANSWER<|eot_id|>"),
    ("mistral", ("<s>", "</s>", "[INST]", "[/INST]"), "<s>[INST] SYSTEM\n\nUSER[/INST] ANSWER</s>"),
    ("gemma2", ("<bos>", "<start_of_turn>", "<end_of_turn>"), "<bos><start_of_turn>user\nSYSTEM\n\nUSER<end_of_turn>\n"
                                                              "<start_of_turn>model\nANSWER<end_of_turn>\n"),
    ("phi3", ("<|end|>", "<|user|>", "<|assistant|>"), "<|system|>\nSYSTEM<|end|>\n<|user|>\nUSER<|end|>\n"
                                                       "<|assistant|>\nANSWER<|end|>\n"),
    ("granite", ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
     "<|start_of_role|>system<|end_of_role|>SYSTEM<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>USER"
     "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>ANSWER<|end_of_text|>\n"),
    ("llama", SPECIAL, "<|im_start|>system\nSYSTEM<|im_end|>\n<|im_start|>user\nUSER<|im_end|>\n"
                       "<|im_start|>assistant\nANSWER<|im_end|>\n"),
    ("gemma2", ("<end>",), "System: SYSTEM\n\nUser: USER\n\nAssistant: ANSWER<end>\n\n"),
]


@pytest.mark.parametrize(("family", "special", "expected"), FORMATS)
def test_our_templates_serve_folders_without_one(family: str, special: tuple[str, ...], expected: str,
                                                 tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model", family)
    (folder / "chat_template.jinja").unlink()
    names = {"eos_token": "</s>" if "</s>" in special else special[0 if len(special) == 1 else -1]}
    if special[0] in {"<|begin_of_text|>", "<s>", "<bos>"}:
        names["bos_token"] = special[0]
    make_tokenizer(special, None, **names).save_pretrained(folder)
    tokenizer = load_tokenizer(find(folder))
    assert tokenizer.apply_chat_template(TURNS, tokenize=False) == expected


# What real templates do with the date, cut down to that.
DATED = {
    "smollm3": ('{%- set today = strftime_now("%d %B %Y") -%}\n{{ "Today: " ~ today ~ "\\n" }}', "Today: 05 March 2026\n"),
    "llama": ('{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n        {%- set date_string = '
              'strftime_now("%d %b %Y") %}\n    {%- else %}\n        {%- set date_string = "x" %}\n    {%- endif %}\n{%- endif %}\n'
              "{{ date_string }}", "26 Jul 2024"),
    "granite": ("Today's Date: {{ strftime_now('%B %d, %Y') }}.", "Today's Date: March 05, 2026."),
    "mistral": ('{%- set yesterday = strftime_now( "%Y-%-m-%-d" ) %}{{ yesterday }}', "2026-3-5"),
    "put together": ("{% macro m(f) %}{{ strftime_now(f ~ ' %H:%M') }}{% endmacro %}{% for a in ['%A %d'] %}{{ m(a) }}{% endfor %}",
                     "Thursday 05 12:00"),
    "thinking": ("  {% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}\n"
                 "  {% if enable_thinking %}\nthink{% endif %}{{ enable_thinking }}", "False"),
}


@pytest.mark.parametrize("name", DATED)
def test_a_template_writes_the_same_date_for_ever_in_every_process(name: str, tmp_path: Path) -> None:
    template, expected = DATED[name]
    folder = make_tiny(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = load_tokenizer(find(folder), date(2026, 3, 5))
    assert render_chat(tokenizer, TURNS) == expected
    tokenizer.save_pretrained(tmp_path / "export")
    plain = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert plain.apply_chat_template(TURNS, tokenize=False) == expected
    fixed = tokenizer.chat_template
    assert fix_settings(fixed, date(2030, 1, 1)) == fixed  # what was exported stays as it was


def test_a_template_without_date_and_settings_stays_as_it_is() -> None:
    for template in ("", "{{ messages[0]['content'] }}", "a strftime of now, my_date_string, enable_thinkings"):
        assert fix_settings(template, date(2026, 3, 5)) == template


def test_what_was_exported_before_keeps_the_day_of_its_job(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%F') }}")
    assert render_chat(load_tokenizer(find(folder)), TURNS) == date.today().isoformat()
    (folder / "report.json").write_text('{"made": "2025-12-31T23:59:59Z"}')
    assert render_chat(load_tokenizer(find(folder)), TURNS) == "2025-12-31"
    for nonsense in ('{"made": 5}', '{"made": "x"}', "[]", "{"):
        (folder / "report.json").write_text(nonsense)
        assert render_chat(load_tokenizer(find(folder)), TURNS) == date.today().isoformat()


def test_a_job_that_goes_on_after_midnight_says_the_day_on_which_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Today(date):
        @classmethod
        def today(cls) -> date:
            return date(2026, 12, 31)

    folder = make_tiny(tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%d %B %Y') }}: " + CHATML)
    job = make_job(folder, tmp_path / "out")
    monkeypatch.setattr(context, "date", Today)
    assert not context.open_workdir(job, tmp_path / "work", False)
    monkeypatch.setattr(context, "date", date)
    bench = context.JobContext(job, tmp_path / "work")
    assert context.open_workdir(job, bench.folder, True)
    list(context.load_dense(bench, "16bit"))
    assert render_chat(bench.tokenizer, TURNS).startswith("31 December 2026: <|im_start|>")

    record = json.loads((bench.folder / "job.json").read_text())
    for day, expected in ((None, "02 January 2026"), ("soon", "damaged"), (5, "damaged")):
        kept = {**record, "day": day}
        (bench.folder / "job.json").write_text(json.dumps(kept if day else {key: kept[key] for key in kept if key != "day"}))
        os.utime(bench.folder / "job.json", (date_seconds(2026, 1, 2),) * 2)
        if expected == "damaged":
            with pytest.raises(UserError, match="its day is not a date"):
                list(context.load_dense(bench, "16bit"))
        else:  # a job of an earlier version
            list(context.load_dense(bench, "16bit"))
            assert render_chat(bench.tokenizer, TURNS).startswith(expected)


def date_seconds(*day: int) -> float:
    return datetime(*day, 12).timestamp()  # type: ignore[arg-type]


def test_a_tokenizer_speaks_on_the_day_of_a_report(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%F') }}")
    source = find(folder)
    today = load_tokenizer(source)
    reports: list[dict[str, Any]] = [{"day": "2026-01-02"}, {"day": None, "made": "2025-06-07T00:00:00Z"}]
    first, second = (on_day(today, day_of(report)) for report in reports)  # type: ignore[arg-type]
    assert [render_chat(one, TURNS) for one in (first, second, today)] == [
        "2026-01-02", "2025-06-07", date.today().isoformat()]
    assert first.encode("Salt, thread") == today.encode("Salt, thread")
    first.save_pretrained(tmp_path / "export")
    assert AutoTokenizer.from_pretrained(tmp_path / "export").chat_template == first.chat_template
    (folder / "chat_template.jinja").write_text(CHATML)
    plain = load_tokenizer(source)
    assert on_day(plain, date(2020, 1, 1)) is plain  # without a date, nothing is copied


def test_a_template_of_several_is_fixed_in_each(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ strftime_now('%d') }}")
    tokenizer = load_tokenizer(find(folder), date(2026, 3, 5))
    assert tokenizer.chat_template["tool_use"] == '{{ "05" }}' and render_chat(tokenizer, TURNS).startswith("<|im_start|>")
