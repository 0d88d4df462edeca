"""Whatever a user gets wrong: exit code 2, one sentence on standard error, no output folder."""

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_job import refused, with_option
from teacher_server import teacher_server
from tiny import make_tokenizer

from engine import pipeline
from engine.__main__ import main
from engine.base.files import data_folder
from engine.base.job import PRESETS
from engine.calibration import server_teacher

Capture = pytest.CaptureFixture[str]
Change = Callable[[Path], Any]


def test_the_unchanged_command_line_works_once(arguments: list[str], tmp_path: Path, capsys: Capture) -> None:
    handler = signal.getsignal(signal.SIGINT)
    assert main(arguments) == 0 and (tmp_path / "out" / "config.json").is_file()
    kinds = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert (kinds[0], kinds[-1]) == ("Started", "Finished")
    assert signal.getsignal(signal.SIGINT) is handler
    log = (tmp_path / "out.work" / "events.jsonl").read_bytes()
    assert main(arguments) == 2 and "exists already" in capsys.readouterr().err
    assert (tmp_path / "out.work" / "events.jsonl").read_bytes() == log  # a refusal leaves the former log alone


GOOD = '{"name": "Ada", "description": "A smith."'
CARDS = {"no card": (b"[1, 2]", "not a character card"), "empty": (b"", "is empty"), "text": (b"Ada, a smith", "JSON"),
         "ten megabytes": (b" " * 10_000_000, "large"), "deep": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
         "not a number": (GOOD.encode() + b', "x": NaN}', "NaN"),
         "twice": (GOOD.encode() + b', "name": "Bo"}', "twice"),
         "nameless": (b'{"name": " ", "description": "x"}', "no name"), "binary": (bytes(range(256)), "")}


@pytest.mark.parametrize("name", CARDS)
def test_bad_cards(name: str, arguments: list[str], tmp_path: Path, capsys: Capture) -> None:
    data, words = CARDS[name]
    (tmp_path / "card.json").write_bytes(data)
    error = refused(arguments, capsys)
    assert words in error and "card.json" in error and not (tmp_path / "out.work").exists()


def test_a_card_that_is_not_there(arguments: list[str], capsys: Capture) -> None:
    for name in ("nobody", "no\nbody", "x" * 300, "/"):
        refused(["prune", name, *arguments[2:]], capsys)


@pytest.mark.parametrize("name", ["~no-such-user/x", "~/no/such", "x" * 300])
def test_names_that_cannot_be_a_path_are_refused_by_every_verb(name: str, tmp_path: Path, capsys: Capture) -> None:
    out, pim = str(tmp_path / "out"), "pim-tuckett"
    for verb in (["chat", name], ["chat", "starter", "--card", name], ["scene", name, pim], ["frontier", name], ["serve", name],
                 ["evaluate", pim, "--model", name], ["judge", name], ["script", name], ["dossier", pim, "--by", name],
                 ["prune-cast", name, pim, "--out", out], ["prune-cast", pim, "whitlow-ashe", "--model", name, "--out", out],
                 ["gguf", name, "--out", out], ["export", name, "--out", out], ["inspect", name]):
        refused(verb, capsys)
    assert not os.listdir(tmp_path)  # a cast that cannot be made has not begun: the right command works in the same place


def edit_config(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def truncate(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(9000)


MODELS: dict[str, tuple[Change, str]] = {
    "family": (edit_config(model_type="gpt2"), "not supported"),
    "pickle": (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "pickle"),
    "code": (edit_config(auto_map={"AutoModelForCausalLM": "evil.Model"}), "Python code"),
    "truncated": (truncate, "incomplete"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "other sizes": (edit_config(intermediate_size=128), "do not fit"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
    "gone": (shutil.rmtree, "There is no model"),
}


@pytest.mark.parametrize("name", MODELS)
def test_bad_models(name: str, arguments: list[str], llama: Path, tmp_path: Path, capsys: Capture) -> None:
    change, words = MODELS[name]
    model = Path(shutil.copytree(llama, tmp_path / "model"))
    change(model)
    assert words in refused(with_option(arguments, "--model", str(model)), capsys)


def test_a_tokenizer_without_a_template_works(arguments: list[str], llama: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(llama, tmp_path / "model"))
    (model / "chat_template.jinja").unlink(missing_ok=True)
    make_tokenizer(template=None).save_pretrained(model)
    assert not (model / "chat_template.jinja").exists()
    assert main(with_option(arguments, "--model", str(model))) == 0
    assert (tmp_path / "out" / "chat_template.jinja").is_file()


OPTIONS = [("--sparsity", "-0.1", "between 0 and 0.9"), ("--sparsity", "0.95", "between 0 and 0.9"),
           ("--sparsity", "nan", "between 0 and 0.9"), ("--sparsity", "abc", "invalid float value: 'abc'"),
           ("--sparsity", "0.01", "would stay"), ("--multiple", "4096", "nothing is left"),
           ("--multiple", "0", "between 1 and"),
           ("--multiple", "8.5", "invalid int"), ("--steps", "0", "between 1 and"), ("--seed", "-1", "seed"),
           ("--seed", str(10**30), "seed"), ("--preset", "fast", "standard"), ("--dtype", "int8", "fp32"),
           ("--load-in", "2bit", "4bit"), ("--model", "no-such", "There is no model"),
           ("--model", "x" * 300, "no model"),
           ("--queries", "none.jsonl", "no file"), ("--lines", "x" * 300, "no file"), ("--lines", "a\nb", "no file"),
           ("--teacher", "http://127.0.0.1:9", "--teacher-model"), ("--colour", "red", "Unrecognized")]


@pytest.mark.parametrize(("name", "value", "words"), OPTIONS, ids=[f"{name} {value[:8]}" for name, value, _ in OPTIONS])
def test_bad_options(name: str, value: str, words: str, arguments: list[str], capsys: Capture) -> None:
    assert words in refused(with_option(arguments, name, value), capsys)


@pytest.mark.parametrize("line", [[], ["prine"], ["prune"], ["prune", "pim-tuckett"], ["inspect"], ["bench"]])
def test_bad_grammar(line: list[str], capsys: Capture) -> None:
    assert "--help" in refused(line, capsys)


@pytest.mark.parametrize("text", ["", "{}\n" * 40, "[", "\xff", '{"question": "Who?", "answer": "I."}\n' * 40,
                                  "".join(f'{{"question": "Who is {n}?", "answer": "I."}}\n' for n in range(12))])
def test_too_few_lines(text: str, arguments: list[str], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "lines.jsonl").write_text(text, encoding="latin-1")
    assert "lines.jsonl" in refused(arguments, capsys)


def test_an_output_that_cannot_be_made(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: Capture) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, words in (("there", "folder {} exists already"), ("file", "file {} exists already"), ("link", "exists"),
                        ("there/../new", '".."'), ("file/new", "is a file"), ("x" * 201, "200"), ("ü" * 150, "200"),
                        ("y" * 300 + "/new", "Cannot write"), ("a\0b", "NUL")):
        out = tmp_path / name
        assert words.format(out) in refused(with_option(arguments, "--out", str(out)), capsys), name
    assert (tmp_path / "file").read_text() == "kept" and not (tmp_path / "out.work").exists()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "is not writable" in refused(arguments, capsys)


@pytest.fixture
def asking_teacher(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line whose answers come from a teacher; the URL is still to be set."""
    monkeypatch.setitem(PRESETS, "short", {"candidates": 6, "references": 1, "self_asked": 0, "validation_lines": 1,
                                           "test_lines": 1, "answer_tokens": 4, "batch_lines": 8})
    monkeypatch.setattr(server_teacher, "_FIRST_PAUSE", 0.02)
    lines = arguments.index("--lines")
    arguments = [*arguments[:lines], *arguments[lines + 2:]]
    return [*arguments, "--preset", "short", "--queries", str(tmp_path / "lines.jsonl"), "--teacher-model", "m"]


@pytest.mark.parametrize(("fault", "words"), [("html", "does not answer like"), ("429 after 60", "too busy"),
                                              ("429", "too busy"), ("401", "API key"), ("404", "no model named")])
def test_bad_teachers(fault: str, words: str, asking_teacher: list[str], monkeypatch: pytest.MonkeyPatch,
                      capsys: Capture) -> None:
    monkeypatch.setattr(server_teacher.ServerTeacher, "named",
                        lambda url, model, _: server_teacher.ServerTeacher(url, model, patience=0.3))
    with teacher_server(lambda _: fault) as server:
        assert words in refused([*asking_teacher, "--teacher", server.url], capsys)
        assert server.asked


def test_a_teacher_that_is_not_there(asking_teacher: list[str], capsys: Capture) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        assert "cannot be reached" in refused([*asking_teacher, "--teacher", url], capsys)
    for url in ("ftp://x", "http://", "http://me:secret@x/v1", "nonsense"):
        assert "secret" not in refused([*asking_teacher, "--teacher", url], capsys)


def test_a_defect_of_ours_goes_to_the_log(arguments: list[str], monkeypatch: pytest.MonkeyPatch,
                                          capsys: Capture) -> None:
    monkeypatch.setattr(pipeline, "load_dense", lambda *_: 1 / 0)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "ZeroDivisionError" in error and "Traceback" not in error
    assert "Traceback" in (data_folder() / "engine.log").read_text()


def test_too_little_memory_is_no_defect(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(pipeline, "load_dense", fail)
    assert "4bit" in refused(arguments, capsys)
