"""The schema of a job: what it checks, and what is made from it."""

import json
from pathlib import Path

import pytest

from engine.__main__ import build_parser, main
from engine.base.errors import UserError
from engine.base.job import PRESETS, PruneJob, Recipe, make_recipe
from engine.base.migrate import FORMER_KNOBS, LATER_KNOBS
from engine.base.options import read_options, write_table
from engine.base.settings import knobs

ROOT = Path(__file__).resolve().parents[1]


def test_the_table_in_the_docs_is_current() -> None:
    """To write it again: python -m engine.base.options."""
    assert write_table() in (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"sparsity": 2}, "sparsity must be between 0 and 0.9; 2 is"), ({"steps": 0}, "steps must be between 1 and 1000000000; 0 is"),
    ({"keep_share": 0}, "must be above 0 and at most 1"), ({"steps": 1.5}, "must be a whole number; 1.5 is not"),
    ({"load_in": "3bit"}, 'must be one of 16bit, 8bit, 4bit; "3bit" is not'), ({"learning_rate": float("inf")}, "learning_rate"),
    ({"steps": "3"}, 'steps must be a whole number; "3" is not'), ({"steps": 10**30}, "steps must be between"),
    ({"tuning_epochs": 1e308}, "tuning_epochs must be between"), ({"seed": None}, "seed must be a whole number; null is not"),
    ({"recover": "yes"}, "must be true or false"), ({"stepz": 1}, "There is no setting stepz. Did you mean steps")])
def test_a_bad_value_is_one_sentence_that_names_the_setting(changes: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make_recipe(**changes)


@pytest.mark.parametrize(("text", "sentence"), [
    ('{"preset": []}', "There is no preset"), ('{"recipe": {"steps": 3}}', "no setting recipe. Write its knobs beside"),
    ('{"recipe": null}', "no setting recipe"), ('{"self": 1, "card": "x"}', "no setting self"),
    (r'{"\ud800": 1}', "half a character"),
    (r'{"out": "\ud800"}', "half a character"), (r'{"workdir": "a\u0000b"}', "workdir holds a NUL"),
    ('{"card": ""}', "setting card"),
    ('{"steps":', "not valid JSON"), ("[]", "a JSON object"), ('{"card": null}', "card must be text; null")])
def test_a_job_file_that_cannot_be_meant_is_one_sentence(text: str, sentence: str, tmp_path: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.json").write_text(text, encoding="utf-8")
    assert main(["prune", "--job", str(tmp_path / "job.json")]) == 2
    assert sentence in capsys.readouterr().err


def test_every_knob_is_an_option_and_a_job_file_gives_the_same_job(tmp_path: Path) -> None:
    words = ["prune", "card.json", "--out", "out", "--preset", "quick", "--sparsity", "0.5", "--extra-samples", "7", "--recover",
             "--no-checkpointing"]
    by_options = PruneJob.of(read_options(build_parser().parse_args(words), PruneJob, Recipe))
    file = tmp_path / "job.json"
    file.write_text(json.dumps({"card": "card.json", "out": "out", "preset": "quick", "sparsity": 0.1, "further_answers": 7,
                                "recover": True, "checkpointing": False}))
    given = build_parser().parse_args(["prune", "--job", str(file), "--sparsity", "0.5"])  # what is given as well takes precedence
    by_file = PruneJob.of(read_options(given, PruneJob, Recipe))
    assert by_file == by_options.model_copy(update={"job": str(file)})
    assert (by_file.recipe.extra_samples, by_file.recipe.candidates) == (7, PRESETS["quick"]["candidates"])
    help = build_parser()._subparsers._group_actions[0].choices["prune"].format_help()  # type: ignore[union-attr, index]
    assert all(f"--{name.replace('_', '-')}" in help for name in knobs(Recipe))


def test_what_a_work_folder_is_known_by_keeps_its_first_names() -> None:
    former = Recipe().former()
    assert FORMER_KNOBS.keys() <= Recipe.model_fields.keys() and not FORMER_KNOBS.keys() & former.keys()
    assert former["further_answers"] == 3 and len(former) == len(Recipe.model_fields.keys() - LATER_KNOBS)
    assert Recipe(bake=True).former() == {**former, "bake": True}


@pytest.mark.parametrize("values", [{"card": "c"}, {"out": "o"},
                                    {"card": "c", "out": "o", "lines": "/no/such/file"}])
def test_a_job_that_lacks_something_is_refused(values: dict) -> None:
    with pytest.raises(UserError):
        PruneJob.of(values)
