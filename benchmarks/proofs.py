"""Do the measures measure? python -m benchmarks measures

For some bundled characters, each measure has to tell the dense model from a 75 % cut (Wanda, one-shot, unrepaired), the character
from another one that speaks under its name, and the character from a plain assistant. What it says of a contrast is an AUC a
character, over samples; the mean over characters has a 95 % interval. What that proves is said by engine/evaluation/proof.py, from
which evaluations read the table that is written here.
"""

import argparse
import dataclasses
import json
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.fidelity import follow
from benchmarks.plan import read_characters
from engine.base.errors import UserError
from engine.base.events import Event, Stage, Step
from engine.base.files import data_folder, is_file, read_json, slug, staged_folder, write_json
from engine.base.ids import StageId
from engine.base.sampling import SamplingParams
from engine.base.sizes import channels_kept
from engine.base.verdict import auc, estimate
from engine.calibration.lines import Query, of_split, read_queries, spread
from engine.calibration.rewriting import Voice, encode_line
from engine.cards.card import Card, bundled_cards, parse_card
from engine.evaluation import measures as _registers
from engine.evaluation.measure import MEASURES, Evidence, ItemKind, Measure, Need, Reply, Sample, Speaker
from engine.evaluation.proof import ASSISTANT, CUT, IMPOSTOR, Proof, write_proofs
from engine.evaluation.reader import Reader
from engine.evidence.asking import ask_all
from engine.evidence.items import FULL, Size, choose_items
from engine.models.loading import ModelSource, load_model, load_tokenizer, locate
from engine.models.packing import pack
from engine.pruning.cutting import cut, kept_indices
from engine.pruning.importance import read_activations, top_channels, wanda_scores
from engine.running import print_table

assert _registers
SPARSITY, LINES = 0.75, 48  # of the cut; lines that Wanda reads
FEWEST = 3  # characters of which a mean says anything
SIZE = Size({ItemKind.TALK: 8, ItemKind.SCRIPT: 3, **{one: FULL.items[one] for one in (ItemKind.IDENTITY, ItemKind.KNOWLEDGE)},
             ItemKind.LONG: 1}, 6, 1)  # of the dossier all: a measure has no other questions, and few say nothing
SHORT = SamplingParams(max_tokens=48)
READING = frozenset((Need.READER, Need.MODEL))
DENSE = "dense"
CONTRASTS = (CUT, IMPOSTOR, ASSISTANT)
ROWS = Path(__file__).with_name("rows") / "measures.json"
_PLAIN = {"description": "A helpful assistant.", "system_prompt": "Answer the question helpfully, clearly and politely."}


@dataclasses.dataclass(frozen=True)
class Trial:
    """A model, a character, and who speaks as the character."""

    model: str
    source: ModelSource
    name: str
    card: Card
    folder: Path

    def speakers(self) -> list[Speaker]:
        """Dense, cut, an impostor, and a plain assistant."""
        who = ((DENSE, self.model, self.card), (CUT, str(self.folder / CUT), self.card),
               (IMPOSTOR, self.model, impostor(self.card)), (ASSISTANT, self.model, assistant()))
        return [Speaker(id, id, model, card) for id, model, card in who]


def run(options: argparse.Namespace) -> int:
    """Measure what is missing, write the rows and the table that evaluations read, and print it."""
    file = Path(options.json) if options.json else ROWS
    if not options.table:
        follow(prove(options, file))
    rows = [row for row in _rows(file) if row["model"] == options.model]
    if not rows:
        raise UserError(f"There are no rows of {options.model} in {file}.", "Run the same command without --table.")
    proofs = summarise(_rows(file))
    if not options.json:
        write_proofs(proofs)
    print_table(f"{options.model}: AUC over {len({row['character'] for row in rows})} characters", [
        "measure", *(f"dense against {one}" for one in CONTRASTS)], [
        [name, *(words(proofs.get((name, options.model, one))) for one in CONTRASTS)]
        for name in MEASURES if any(row["measure"] == name for row in rows)])
    return 0


def prove(options: argparse.Namespace, file: Path) -> Generator[Event, None, None]:
    """Ask every character's speakers, and add the rows of measures that are not there yet, or that rest on fewer questions than are
    asked now; those that read models come last."""
    chosen = [MEASURES[name] for name in options.measures or MEASURES if Need.JUDGE not in MEASURES[name].needs]
    work = Path(options.workdir) if options.workdir else data_folder() / "bench" / "measures"
    source = yield from locate(options.model)
    reader = Reader(source)
    size = dataclasses.replace(SIZE, items={kind: max(1, round(count * options.part)) for kind, count in SIZE.items.items()})
    for group in ([one for one in chosen if not one.needs & READING], [one for one in chosen if one.needs & READING]):
        for name, card in read_characters(options.characters).items():
            items = choose_items(card, size, size.items)
            asked = {one.name: sum(item.kind in one.kinds for item in items) for one in group}
            there = {row["measure"] for row in _rows(file) if (row["model"], row["character"]) == (options.model, name)
                     and questions_of(row) >= asked.get(row["measure"], 0)}
            if missing := [one for one in group if one.name not in there]:
                trial = Trial(options.model, source, name, card, work / slug(Path(options.model).name) / name)
                yield from make_cut(trial, neutral_lines())
                replies = yield from ask_all(trial.speakers(), items, [0], trial.folder, SHORT)
                for measure in missing:
                    values = yield from _values(measure, trial, replies, reader)
                    kept = [row for row in _rows(file)
                            if (row["model"], row["character"], row["measure"]) != (options.model, name, measure.name)]
                    write_json(file, [*kept, *_contrasts(measure, trial, values, asked[measure.name])])
    reader.close()


def _values(measure: Measure, trial: Trial, replies: Mapping[str, Sequence[Reply]], reader: Reader) -> Generator[
        Event, None, dict[str, list[Sample]]]:
    """The samples of every speaker; where a measure reads the speaker's own model, only the dense one and the cut are read."""
    found: dict[str, list[Sample]] = {}
    others = {one.name: one for one in bundled_cards() if one.name != trial.card.name}
    for number, speaker in enumerate(trial.speakers()):
        own = reader
        if Need.MODEL in measure.needs:
            if speaker.id not in (DENSE, CUT):
                continue
            own = Reader((yield from locate(speaker.model))) if speaker.id == CUT else reader
        yield Stage(StageId.BENCHMARK, 0, subject=f"{trial.name}: {measure.name}, {speaker.id}")
        said = [one for one in replies.get(speaker.id, ()) if one.item.kind in measure.kinds]
        found[speaker.id] = yield from measure.score(Evidence(trial.card, speaker, said, others, None, own, quick=True))
        if own is not reader:
            own.close()
        yield Step(StageId.BENCHMARK, number + 1, len(CONTRASTS) + 1, subject=f"{trial.name}: {measure.name}")
    return found


def questions_of(row: Mapping[str, Any]) -> int:
    """How many questions a row rests on; older rows do not say, but have at least a sample for each."""
    return int(row.get("questions", row["samples"][0] + row["missing"][0]))


def _contrasts(measure: Measure, trial: Trial, values: Mapping[str, Sequence[Sample]], questions: int) -> Iterator[dict[str, Any]]:
    """A row for the dense model against each other speaker. `auc` None: one of the two has no value."""
    numbers = {id: [one.value for one in samples if one.value is not None] for id, samples in values.items()}
    why = [one.why for samples in values.values() for one in samples if one.value is None]
    for contrast in CONTRASTS:
        if contrast not in numbers:
            continue
        pair = (numbers[DENSE], numbers[contrast]) if measure.higher else (numbers[contrast], numbers[DENSE])
        mean = {id: sum(some) / len(some) if some else None for id, some in numbers.items()}
        yield {"model": trial.model, "character": trial.name, "measure": measure.name, "contrast": contrast,
               "questions": questions, "auc": auc(*pair) if all(pair) else None, "dense": mean[DENSE], "other": mean[contrast],
               "samples": [len(numbers[DENSE]), len(numbers[contrast])],
               "missing": [len(values[one]) - len(numbers[one]) for one in (DENSE, contrast)], "why": why[0] if why else ""}


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], Proof]:
    """The mean AUC over characters, by measure, model and contrast; none where it is of fewer than FEWEST of them."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["measure"], row["model"], row["contrast"]), []).append(row)
    found = {}
    for key, some in groups.items():
        interval = estimate({(row["character"], 0): row["auc"] for row in some})
        if interval and interval.items >= FEWEST:
            found[key] = Proof(*key, round(interval.mean, 3), round(interval.low, 3), round(interval.high, 3), interval.items,
                               sum(sum(row["samples"]) for row in some if row["auc"] is not None))
    return found


def words(proof: Proof | None) -> str:
    """A proof for a table."""
    if proof is None:
        return "–"
    return f"{proof.auc:.2f} [{proof.low:.2f}, {proof.high:.2f}]" + (
        "" if proof.tells else " not tried enough" if proof.thin else " cannot tell")


def impostor(card: Card) -> Card:
    """Another character under this one's name: the next of the bundled ones, its own names replaced in its texts."""
    cards = bundled_cards()
    place = next((number for number, one in enumerate(cards) if one.name == card.name), 0)
    other = cards[(place + 1) % len(cards)]
    names = "|".join(re.escape(name) for name in sorted(other.names, key=len, reverse=True))
    renamed: dict[str, Any] = {
        one.name: re.sub(rf"\b(?:{names})\b", lambda _: card.char, text) for one in dataclasses.fields(other)
        if isinstance(text := getattr(other, one.name), str)}
    return dataclasses.replace(other, **{**renamed, "name": card.name, "nickname": card.nickname})


def assistant() -> Card:
    """A card that says no more than an assistant is told."""
    return parse_card(json.dumps({"name": "Assistant", **_PLAIN}).encode(), "the assistant")


def neutral_lines() -> list[tuple[str, str]]:
    """Questions of the pool's train split with their written neutral answers."""
    return [(one.question, one.neutral) for one in train_lines()]


def train_lines() -> list[Query]:
    """The pool's lines that a plain cut reads."""
    return spread(of_split(read_queries(), "train"), LINES, 0)


def make_cut(trial: Trial, lines: Sequence[tuple[str, str]], name: str = CUT, sparsity: float = SPARSITY) -> Generator[
        Event, None, None]:
    """A plain cut in the trial's folder: channels by Wanda's scores on these questions and answers under the character's prompt,
    nothing repaired."""
    folder = trial.folder / name
    if is_file(folder / "config.json"):
        return
    yield Stage(StageId.BENCHMARK, 0, subject=f"{trial.name}: the cut")
    model: Any = load_model(trial.source, torch.float32)
    tokenizer = load_tokenizer(trial.source)
    voice = Voice.of(trial.card, tokenizer)
    examples = [encode_line(tokenizer, voice, question, answer, True) for question, answer in lines]
    *_, last = read_activations(model, pack(examples, 1024))
    mask = top_channels(wanda_scores(model, last.norms), channels_kept(model.config.intermediate_size, sparsity, 32))
    with staged_folder(folder) as staging:
        cut(model, kept_indices(mask))
        model.to(torch.bfloat16).save_pretrained(staging)
        tokenizer.save_pretrained(staging)


def _rows(file: Path) -> list[dict[str, Any]]:
    return read_json(file) if is_file(file) else []
