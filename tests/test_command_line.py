"""The verbs of the command line besides prune: models, inspect, chat, and everyone's help."""

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file
from small_job import refused, run_job, write_card
from tiny import add_files, make_tiny

from engine.__main__ import build_parser, main
from engine.base.events import UNDER_WAY, Stage, Step
from engine.base.files import MANIFEST, data_folder, read_json
from engine.base.ids import StageId
from engine.running import ProgressPrinter, print_table

VERBS = ["models", "prune", "export", "chat", "serve", "inspect"]
OPTIONS = ["--out", "--model", "--sparsity", "--preset", "--teacher", "--teacher-model", "--queries", "--lines",
           "--dtype", "--load-in", "--multiple", "--seed", "--steps", "--recover", "--workdir", "--resume", "--json",
           "--until", "--leash", "--extra-samples"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a whole job wrote."""
    folder = tmp_path_factory.mktemp("exported")
    run_job(make_tiny(folder / "llama"), folder / "out")
    return folder / "out"


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


@pytest.mark.parametrize("arguments", [[], *([verb] for verb in VERBS)])
def test_help_is_there_for_every_verb(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--help"])
    shown = capsys.readouterr()
    assert end.value.code == 0 and shown.out.startswith("usage: python -m engine") and shown.err == ""
    assert all(word in shown.out for word in (OPTIONS if arguments == ["prune"] else VERBS if not arguments else []))


def test_seldom_used_options_stay_unset() -> None:
    given = build_parser().parse_args(["prune", "card.json", "--out", "out"])
    assert not {"sparsity", "seed", "recover", "load_in", "steps"} & vars(given).keys()


@pytest.mark.parametrize("words", [["serve", "{}"], ["serve", "pim-tuckett", "{}", "--check"], ["chat", "{}", "--message", "Hi"],
                                   ["inspect", "{}"], ["export", "{}", "--out", "x"],
                                   ["prune-cast", "pim-tuckett", "{}", "--out", "x"]],
                         ids=lambda words: words[0])
def test_a_bank_of_an_earlier_version_gets_one_sentence(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"pim.kept": numpy.zeros(2, numpy.uint8)}, "game.bank", {"format": "persona-studio cast bank", "version": "1",
                                                                       "bank": json.dumps({"characters": ["x" * 100_000]})})
    said = refused([word.format("game.bank") for word in words], capsys)
    assert "game.bank is a bank of characters, and banks are gone since version 0.2. Make a cast" in said
    assert said.endswith("prune-cast CARDS... --out DIR\n") and os.listdir() == ["game.bank"]


@pytest.mark.parametrize("words", [[], ["list", "game.bank", "--json"], ["--help"], ["chat", "game.bank", "pim", "--limit=4"]])
def test_the_former_verb_of_banks_says_that_they_are_gone(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "Banks of characters are gone since version 0.2. Make a cast" in refused(["cast", *words], capsys)


def test_models_lists_the_starter_and_folders(capsys: pytest.CaptureFixture[str]) -> None:
    make_tiny(data_folder() / "models" / "mine[red]")
    assert main(["models", "--json"]) == 0
    found = {Path(one["name"]).name: one for one in json.loads(capsys.readouterr().out)}
    assert found["starter"]["ready"] is False and found["mine[red]"]["kind"] == "folder" and found["mine[red]"]["ready"]
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert "fetched on first use (93 MB)" in table and "fetched on first use (491 MB)" in table and "on disk" in table


def test_models_says_what_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    folders = [make_tiny(data_folder() / "models" / name, family) for name, family in (("one", "llama"), ("two", "olmo2"))]
    add_files(folders[0], "F16")
    assert main(["models", "--json"]) == 0
    found = {Path(one["name"]).name: one["speaks"] for one in json.loads(capsys.readouterr().out)}
    assert found == {"starter": "", "small": "", "one": "F16", "two": ""}
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert "llama.cpp, F16" in table and "transformers" in table


def test_tables_show_cells_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Title", ["name"], [["a[red]b[/red]"], [3]])
    assert "a[red]b[/red]" in capsys.readouterr().out


def test_inspect_shows_a_whole_folder(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(exported)]) == 0
    shown = capsys.readouterr()
    assert shown.err == "" and "64 -> 48" in shown.out and "Whole: all " in shown.out
    assert all(name in shown.out for name in ("mask, reconstructed", "learn the mask", "fresh process"))
    assert main(["inspect", str(exported), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["whole"] is True and found["faults"] == [] and found["report"] == read_json(exported / "report.json")
    assert found["bytes"] == sum(file.stat().st_size for file in exported.rglob("*") if file.is_file())


@pytest.mark.parametrize("name", ["model.safetensors", "report.json", "README.md", "tokenizer.json", "character.json"])
@pytest.mark.parametrize("place", [0.05, 0.5])
def test_inspect_names_the_file_with_one_changed_bit(name: str, place: float, copied: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray((copied / name).read_bytes())
    data[int(len(data) * place)] ^= 4
    (copied / name).write_bytes(data)
    for more in ([], ["--json"]):
        assert main(["inspect", str(copied), *more]) == 2
        shown = capsys.readouterr()
        assert shown.err.startswith("Error: ") and shown.err.count("\n") == 1 and f"{name} was changed" in shown.err
    assert json.loads(shown.out)["whole"] is False and "Whole" not in shown.out


def shorten(folder: Path) -> None:
    (folder / "config.json").write_bytes((folder / "config.json").read_bytes()[:-1])


def drop(folder: Path) -> None:
    (folder / "persona" / "mask.safetensors").unlink()


def write(name: str, value: Any) -> Any:
    return lambda folder: (folder / name).write_text(json.dumps(value))


DAMAGES = [(shorten, "config.json has"), (drop, "persona/mask.safetensors is missing"),
           (lambda folder: (folder / MANIFEST).unlink(), "not a folder that Persona Studio exported"),
           (write(MANIFEST, [1]), "manifest.json is damaged"), (write(MANIFEST, {"files": {"a": 1}}), "is damaged"),
           (lambda folder: (folder / MANIFEST).write_text("{"), "manifest.json cannot be read"),
           (write("report.json", {}), "report.json"), (lambda folder: shutil.rmtree(folder), "not a folder")]


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=[words for _, words in DAMAGES])
def test_inspect_refuses_every_damage(damage: Any, words: str, copied: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    damage(copied)
    assert main(["inspect", str(copied)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("Error: ") and error.count("\n") == 1


def test_inspect_refuses_a_report_of_another_kind(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("report.json", {"before": {}})(copied)
    write(MANIFEST, {"files": {}})(copied)
    assert main(["inspect", str(copied)]) == 2
    assert "is not a report of this version" in capsys.readouterr().err


def test_a_message_is_answered_as_json(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = []
    for seed in ("1", "1", "2"):
        assert main(["chat", str(exported), "--message", "Who goes \udcff?", "--json", "--limit", "12", "--seed", seed]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0]["message"] == "Who goes ??"
    assert answers[0]["character"] == "Zoë *of* the [Mill]" and 0 < answers[0]["tokens"] <= 12
    assert answers[0]["reply"] == answers[1]["reply"] != answers[2]["reply"]
    assert answers[0]["seconds_to_first_token"] > 0


def test_a_message_is_answered_as_text(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = tmp_path / "other.json"
    card.write_text('{"name": "Ada", "description": "A smith."}')
    assert main(["chat", str(exported), "--card", str(card), "--message", "Who?", "--limit", "4"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() and "tokens/s" in shown.err


@pytest.mark.parametrize("typed", ["Who are you?\nAnd why?\n\nnever read\n", "Who are you?\nAnd why?"])
def test_a_chat_runs_until_an_empty_line_or_the_end(typed: str, exported: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert main(["chat", str(exported), "--limit", "5", "--temperature", "0"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("Zoë *of* the [Mill]: Flour, Player?\n") and shown.err.count("tokens/s") == 2
    assert shown.out.count("You: ") == 3 and shown.out.count("Zoë *of* the [Mill]: ") == 3


BAD_CHATS = [(["--temperature", "-1"], "temperature"), (["--temperature", "nan"], "temperature"),
             (["--limit", "0"], "Longest answer"), (["--seed", str(10**30)], "seed"), (["--type", "Q9"], "type")]


@pytest.mark.parametrize(("options", "word"), BAD_CHATS, ids=[" ".join(options)[:20] for options, _ in BAD_CHATS])
def test_bad_chat_options_are_refused(options: list[str], word: str, exported: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", str(exported), "--message", "Hello", "--json", *options]) == 2
    shown = capsys.readouterr()
    assert word in shown.err and shown.err.startswith("Error: ") and shown.err.count("\n") == 1 and shown.out == ""


@pytest.mark.parametrize("model", ["starter", "no/such"])
def test_a_chat_needs_a_character(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", model, "--message", "Hello"]) == 2
    assert capsys.readouterr().err == "Error: This model comes without a character. Add --card CARD.json.\n"


@pytest.mark.parametrize("model", ["x" * 5000, "none\0such"])
def test_a_chat_with_what_cannot_be_a_path_is_refused(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", model, "--message", "Hello"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Error: There is no model ") and "like owner/name" in shown and len(shown) < 500


def test_a_chat_with_an_unknown_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "no-such", "--card", str(write_card(tmp_path)), "--message", "Hello"]) == 2
    assert "There is no model 'no-such'" in capsys.readouterr().err


def test_steps_under_way_move_the_bar_and_are_no_reading() -> None:
    printer = ProgressPrinter()
    printer.show(Stage(StageId.TUNE, 4))
    printer.show(Step(StageId.TUNE, 1, 4, {UNDER_WAY: 0.5, "loss": 0.03125}))
    task = printer.progress.tasks[-1]
    assert task.completed == 1.5 and task.fields["note"] == "loss 0.0312"
