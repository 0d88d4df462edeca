"""What the verbs of the command line do that ask characters, or write for them.

Each takes parsed options and returns an exit code.
"""

import argparse
import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from engine.base import events
from engine.base.cast_folder import is_cast, places
from engine.base.errors import UserError
from engine.base.evaluation_events import ExamTaken, Graded
from engine.base.evidence import read_evaluation
from engine.base.files import PROGRAM, check_target, explain_write_errors, is_file, named_path, slug, write_atomic
from engine.base.ids import Verdict
from engine.base.job import DossierJob, DraftCastJob, EvaluateJob, JudgeJob, SceneJob, ScriptJob, process_of
from engine.base.judges import CHANCE, sentence_of
from engine.base.model_folder import model_folder
from engine.base.options import read_options
from engine.base.sampling import given_params, params_of, read_params
from engine.cards.card import Card, parse_card
from engine.cards.dossier import Dossier, dossier_fields, read_dossier
from engine.cards.files import read_card, write_file
from engine.cards.npc import with_npc
from engine.commands import read_with_notes
from engine.running import Run, print_table


def chat(options: argparse.Namespace, _arguments: list[str]) -> int:
    """Talk to a character: one message, or line by line until end of input."""
    from engine.chat import Speaker
    from engine.chat import chat as run
    from engine.serving.steps import Loop
    from engine.serving.voices import Voices

    options.model = _speaker_of(options)
    card, params = _card_of(options), params_of(options)
    return run(Speaker(card, options.model, options.type, Voices(keep=1, slots=1), Loop()), params, options)


def script(options: argparse.Namespace, _arguments: list[str]) -> int:
    """The test script of a character on one or more models; with --questions only the questions are printed."""
    from engine.cards.script import fields_of_question, read_script

    values = _with_sampling(read_options(options, ScriptJob), options)
    if values.get("questions"):
        card = read_with_notes(ScriptJob(**values).card)
        print(json.dumps([fields_of_question(one) for one in read_script(card).questions], ensure_ascii=False, indent=2))
        return 0
    tally: Counter[tuple[str, str]] = Counter()
    Run(process_of(values)).follow(_script(values, tally), lambda: False, "Stopped; the answers so far are above.")
    if not values.get("json_events"):
        models = list(dict.fromkeys(model for model, _ in tally))
        rows = [[model, *(tally[model, verdict] for verdict in Verdict),
                 sum(count for (one, _), count in tally.items() if one == model)] for model in models]
        print_table(f"Test script of {read_card(values['card']).char}, seed {values['sampling']['seed']}: one answer a question",
                    ["model", *Verdict, "questions"], rows)
    return 0


def _with_sampling(values: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """A job's values with its samplers: the options' before the job file's, and a seed in any case."""
    if isinstance(asked := values.get("sampling", {}), dict):
        asked = {name: value for name, value in asked.items() if value is not None}
        return {**values, "sampling": {"seed": 0, **asked, **given_params(options)}}
    return values


def _script(values: dict[str, Any], tally: "Counter[tuple[str, str]]") -> Iterator[events.Event]:
    from engine.evaluation.exam import standing, take_exam
    from engine.script import ScriptTest, run_script
    from engine.serving.judging import fetch_judge, open_judge

    asked = ScriptJob(**values)
    models = list(dict.fromkeys(asked.models or ["starter"]))
    if asked.judge:
        yield from fetch_judge(asked.judge)
    with open_judge(asked.judge, asked.judge_model) if asked.judge else nullcontext() as judge:
        if judge and "://" not in asked.judge:  # here it costs nothing but time
            yield from take_exam(judge)
        passed, said = standing(judge) if judge else (False, "")
        if said:
            yield events.Warned(said)
        job = ScriptTest(read_with_notes(asked.card), models, read_params(asked.sampling), judge if passed else None, asked.type)
        for event in run_script(job):
            if isinstance(event, Graded):
                tally[event.model, event.verdict] += 1
            yield event


def scene(options: argparse.Namespace, _arguments: list[str]) -> int:
    """Characters who talk with each other. Ctrl-C ends the scene."""
    values = _with_sampling(read_options(options, SceneJob), options)
    Run(process_of(values)).follow(_scene(values), lambda: False, "Stopped; what was said is above.")
    return 0


def _scene(values: dict[str, Any]) -> Iterator[events.Event]:
    asked = SceneJob(**values)
    from engine.scene import perform

    yield from perform(asked)


def draft_cast(options: argparse.Namespace, arguments: list[str]) -> int:
    """A cast of characters. The same command goes on where it stopped, where it writes into a folder."""
    values = read_options(options, DraftCastJob)
    asked = DraftCastJob(**values)
    if not asked.out and not asked.json_events and not asked.plan_only:
        raise UserError("The cards would be lost.", "Add --out FOLDER, or --json to have them printed.")
    again = f"Go on with:\n  {PROGRAM} {shlex.join(arguments)}" if asked.out else ""
    Run(process_of(values)).follow(_draft_cast(asked), lambda: False, "Stopped; the cards so far are kept.", again)
    return 0


def _draft_cast(asked: DraftCastJob) -> Iterator[events.Event]:
    from engine.casting import perform, planned

    place, rows = planned(asked)
    if asked.json_events and asked.plan_only:
        print(json.dumps({"place": place, "rows": rows}, ensure_ascii=False))
    elif not asked.json_events:
        names = list(dict.fromkeys(name for row in rows for name in row))
        print_table("The plan", ["", *names], [[number, *(row.get(name) or "open" for name in names)]
                                               for number, row in enumerate(rows, start=1)])
    yield from perform(asked)


def dossier(options: argparse.Namespace, _arguments: list[str]) -> int:
    """The dossier of a character, as it is or by a model; printed, or written into a copy of the card."""
    values = read_options(options, DossierJob)
    asked = DossierJob(**values)
    card = read_with_notes(asked.card)
    written: list[Dossier] = []
    if asked.out:
        check_target(Path(asked.out))
    if asked.by:
        Run(process_of(values)).follow(_dossier(asked, card, written), lambda: bool(written), "Stopped; nothing was written.")
    found = dossier_fields(written[0] if written else read_dossier(card))
    if asked.out:
        with explain_write_errors(Path(asked.out), "run the same command again"):
            write_atomic(Path(asked.out), write_file("json", with_npc(card.raw, {"dossier": found}, time.time())))
    elif not asked.json_events:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    return 0


def _dossier(asked: DossierJob, card: Card, written: list[Dossier]) -> Iterator[events.Event]:
    from engine.evaluation.writing import write_dossier
    from engine.serving.judging import fetch_judge, open_judge

    yield from fetch_judge(asked.by)
    with open_judge(asked.by, asked.by_model) as writer:
        written.append((yield from write_dossier(card, writer)))


def judge(options: argparse.Namespace, arguments: list[str]) -> int:
    """The exam of a judge. The same command goes on where it stopped, and shows the result of one that was taken before."""
    values = read_options(options, JudgeJob)
    results: list[ExamTaken] = []
    Run(process_of(values)).follow(_judge(values, results), lambda: bool(results), "Stopped; what was answered is kept.",
                                   f"Go on with:\n  {PROGRAM} {shlex.join(one for one in arguments if one != '--again')}")
    if not values.get("json_events"):
        for one in results:
            print_table(f"Who says this line? {one.lines} lines, five names each; chance {CHANCE:.0%}",
                        ["judge", "right", "95 % interval", "Brier (guessed: 0.80)", "ECE", "no answer"],
                        [[one.judge, f"{one.right} ({one.top1:.1%})", f"{one.low:.1%} to {one.high:.1%}",
                          *("-" if value is None else f"{value:.3f}" for value in (one.brier, one.ece)), one.missing]])
            print(sentence_of(one))
    return 0


def _judge(values: dict[str, Any], results: list[ExamTaken]) -> Iterator[events.Event]:
    asked = JudgeJob(**values)
    from engine.evaluation.exam import take_exam
    from engine.serving.judging import fetch_judge, open_judge

    yield from fetch_judge(asked.judge)
    with open_judge(asked.judge, asked.judge_model) as opened:
        results.append((yield from take_exam(opened, asked.again)))


def evaluate(options: argparse.Namespace, arguments: list[str]) -> int:
    """Runs beside the dense model; exit code 3 where the gate refuses one. The same command goes on where it stopped."""
    values = _with_sampling(read_options(options, EvaluateJob), options)
    made: list[Path] = []
    Run(process_of(values)).follow(_evaluate(values, made), lambda: bool(made), "Stopped; what was answered is kept.",
                                   f"Go on with:\n  {PROGRAM} {shlex.join(arguments)}")
    from engine.evidence.report import print_evaluation, refused

    result = read_evaluation(made[0])
    if not values.get("json_events"):
        print_evaluation(result)
    faults = refused(EvaluateJob(**values), result)
    for fault in faults:
        print(f"Refused: {fault}", file=sys.stderr)
    return 3 if faults else 0


def _evaluate(values: dict[str, Any], made: list[Path]) -> Iterator[events.Event]:
    asked = EvaluateJob(**values)
    from engine.evidence.running import evaluate as run

    for event in run(asked):
        if isinstance(event, events.Finished):
            made.append(Path(event.out))
        yield event


def serve(options: argparse.Namespace, _arguments: list[str]) -> int:
    """Characters that a game can talk to; see docs/server.md."""
    from engine.server.command import run

    return run(options)


def chat_worker(options: argparse.Namespace, _arguments: list[str]) -> int:
    """See engine/chat_worker.py for what it is asked and what it answers."""
    from engine.chat_worker import serve as run

    run(options)


def _speaker_of(options: argparse.Namespace) -> str:
    """The name of the model that speaks; in the folder of a cast the place of a character. Raises UserError where none is named."""
    folder = named_path(options.model)
    if not is_cast(folder):
        if options.character:
            raise UserError(f"{options.model} is not the folder of a cast, so --character has no meaning.", "Leave it out.")
        return str(options.model)
    if options.card and not options.character:
        return str(options.model)  # the model without anybody's adapter
    found = {place.id: place for place in places(folder)}
    if (place := found.get(slug(options.character or " "))) is None:
        what = f"has no character {options.character[:60]!r}" if options.character else "holds a cast"
        raise UserError(f"{options.model} {what}.", f"Add --character NAME: {', '.join(found)}.")
    return str(place.own)


def _card_of(options: argparse.Namespace) -> Card:
    if options.card:
        return read_with_notes(options.card)
    own = named_path(options.model) / "character.json"
    if not is_file(own):
        model_folder(options.model)  # raises for what is no model
        raise UserError("This model comes without a character.", "Add --card CARD.json.")
    return parse_card(own.read_bytes(), str(own))
