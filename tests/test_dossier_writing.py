"""A dossier by a model: what is kept of what it writes, what fills up, and the card that comes of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from teacher_server import teacher_server

from engine.__main__ import main
from engine.base.events import Event, Step
from engine.cards.card import parse_card
from engine.cards.dossier import PERSONAGYM, Dossier, derive_dossier, read_dossier
from engine.cards.npc import read_npc
from engine.evaluation.judge import Judge
from engine.evaluation.writing import write_dossier
from tests.store_samples import card

RAW = card("Mara Quill", description="Mara Quill keeps the lighthouse of Skarvik. She fears gulls. She refuses to leave her lamp.")
TEXT = """Here are the facts:
1. Mara Quill keeps a lighthouse.
- Mara fears gulls.
Mara Quill was born in Paris to wealthy merchants and studied law.
She refuses to leave her lamp.
“How does Mara Quill light her lamp?”
2) What would you do, Mara, if the lamp went out?
2) What would you do, Mara, if the lamp went out?
Hm?"""


def written(text: str) -> tuple[Dossier, list[Event], list[Any]]:
    with teacher_server(reply=lambda question: text) as server:
        writer, steps = Judge(server.url, "m"), []
        stream = write_dossier(parse_card(json.dumps(RAW).encode(), "card"), writer)
        while True:
            try:
                steps.append(next(stream))
            except StopIteration as end:
                writer.close()
                return end.value, steps, server.bodies


def test_statements_of_the_cards_own_words_and_whole_questions_are_kept_and_derived_ones_fill_up() -> None:
    found, steps, bodies = written(TEXT)
    derived = derive_dossier(parse_card(json.dumps(RAW).encode(), "card"))
    assert found.statements[:2] == ("{{char}} keeps a lighthouse.", "{{char}} fears gulls.")
    assert not any("Paris" in one for one in found.statements) and set(derived.statements) <= set(found.statements)
    for task in PERSONAGYM:
        asked = [one.text for one in found.of_task(task)]
        assert len(asked) == 10 and asked.count("What would you do, {{char}}, if the lamp went out?") == 1
    assert found.of_task("knowledge") == derived.of_task("knowledge") and found.pressures == derived.pressures
    assert len(bodies) == 6 == sum(isinstance(one, Step) for one in steps) and {body["seed"] for body in bodies} == {0}
    assert "keeps the lighthouse of Skarvik" in bodies[0]["messages"][1]["content"]


def test_a_model_that_writes_nothing_of_use_leaves_what_is_derived() -> None:
    found, _, _ = written("I am sorry")
    assert found == derive_dossier(parse_card(json.dumps(RAW).encode(), "card"))


def test_the_verb_prints_a_dossier_or_writes_a_card_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "mara.json", tmp_path / "out.json"
    file.write_text(json.dumps({**RAW, "data": {**RAW["data"], "extensions": {"persona_studio/npc": {"goals": ["rest"]}}}}))
    assert main(["dossier", str(file)]) == 0
    assert "{{char}} fears gulls." in json.loads(capsys.readouterr().out)["statements"]
    with teacher_server(reply=lambda question: TEXT) as server:
        assert main(["dossier", str(file), "--by", server.url, "--by-model", "m", "--out", str(out)]) == 0
        assert main(["dossier", str(file), "--by", server.url, "--by-model", "m", "--out", str(out)]) == 2
    made = parse_card(out.read_bytes(), "card")
    assert read_dossier(made).statements[0] == "{{char}} keeps a lighthouse." and len(read_dossier(made).written) == 3
    assert read_npc(made.raw).goals[0].text == "rest" and "exists already" in capsys.readouterr().err
