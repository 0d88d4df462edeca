"""python -m benchmarks drop --run FOLDER...: how much less a run loses than a plain cut of the same size.

The dense model, the same sparsity by Wanda (the best one-shot method of the ladder: it reads the dense model's own answers, and
nothing is repaired) and the run answer the same items with the same seeds. Of every measure that was proved on this dense model
(python -m benchmarks measures), what each of the two loses is counted in the measure's margins, so that shares and nats can be
averaged; the drop is the mean over measures and characters. What is reported is 1 − (the run's drop) / (the plain cut's): 1 means
that nothing is lost. The rows file has a result a model, the last one that was measured.
"""

import argparse
import dataclasses
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.fidelity import follow
from benchmarks.proofs import DENSE, READING, SHORT, SIZE, Trial, make_cut, train_lines
from engine.base.errors import UserError
from engine.base.events import Event, Stage
from engine.base.files import data_folder, is_file, read_json, slug, write_json
from engine.base.ids import StageId
from engine.base.verdict import FEWEST, LEVEL, RESAMPLES, SEED
from engine.cards.card import bundled_cards
from engine.evaluation.measure import MEASURES, Evidence, Item, ItemKind, Measure, Need, Reply, Sample, Speaker
from engine.evaluation.proof import CUT, read_proofs
from engine.evaluation.reader import Reader
from engine.evidence.asking import ask_all
from engine.evidence.items import choose_items
from engine.frontier.subjects import finished, locate_dense, read_runs
from engine.models.loading import locate
from engine.running import print_table

PLAIN, RUN = "plain", "run"
ROWS = Path(__file__).with_name("rows") / "drop.json"
Drops = NDArray[np.float64]  # a row an item: what the plain cut lost and what the run lost, in margins


def run(options: argparse.Namespace) -> int:
    """Ask everyone what is missing, keep the model's result and print it; or print all that are kept."""
    file = Path(options.json) if options.json else ROWS
    kept = read_json(file) if is_file(file) else []
    if options.table:
        if not kept:
            raise UserError(f"There are no rows in {file} yet.", "Run the command with --run FOLDER instead of --table.")
        for one in kept:
            show(one)
        return 0
    if not options.run:
        raise UserError("No run was named.", "Give finished runs with --run, or --table for what is kept.")
    measures = proved(options.model)
    if not measures:
        raise UserError(f"No measure was proved on {options.model}.", f"python -m benchmarks measures --model {options.model}")
    found: dict[tuple[str, str], Drops] = {}
    runs: dict[str, float] = {}
    follow(collect(options, measures, found, runs))
    result = {"model": options.model, "sparsity": runs, **summarise(found)}
    write_json(file, [*(one for one in kept if one["model"] != options.model), result])
    show(result)
    return 0


def show(figures: Mapping[str, Any]) -> None:
    """A model's result as a table and a sentence."""
    print_table(f"{figures['model']}: lost against the dense model, in margins",
                ["character", "removed", "measure", "items", "plain cut", "run"],
                [[one["character"], f"{figures['sparsity'][one['character']]:.0%}", one["measure"], one["items"],
                  f"{one['plain']:.2f}", f"{one['run']:.2f}"] for one in figures["rows"]])
    print(words(figures))


def proved(model: str) -> list[Measure]:
    """The measures that tell this dense model from a bad cut, those that read with a model last; none that needs a judge."""
    names = [name for (name, of, contrast), proof in read_proofs().items() if (of, contrast) == (model, CUT) and proof.tells]
    return sorted((MEASURES[name] for name in names if Need.JUDGE not in MEASURES[name].needs),
                  key=lambda one: bool(one.needs & READING))


def collect(options: argparse.Namespace, measures: Sequence[Measure], found: dict[tuple[str, str], Drops],
            runs: dict[str, float]) -> Generator[Event, None, None]:
    """What each of the two lost, into `found` by character and measure; the share removed of each character's run, into `runs`."""
    work = Path(options.workdir) if options.workdir else data_folder() / "bench" / "drop"
    source = yield from locate(options.model)
    reader = Reader(source)
    size = dataclasses.replace(SIZE, items={kind: max(1, round(count * options.part)) for kind, count in SIZE.items.items()})
    for folder in finished(options.run)[0]:
        (one,) = read_runs([folder])
        card, sparsity = (yield from locate_dense([one], [], options.model)).card, float(one.report["recipe"]["sparsity"])
        if card.name in runs:
            raise UserError(f"Two runs are of {card.name}.", "Name one run a character.")
        runs[card.name] = sparsity
        trial = Trial(options.model, source, card.name, card, work / slug(Path(options.model).name) / slug(card.name))
        plain = f"{PLAIN}-{sparsity:g}"
        dense = Speaker(DENSE, DENSE, options.model, card)
        yield from make_cut(trial, (yield from _own_lines(dense, trial.folder)), plain, sparsity)
        speakers = [dense, Speaker(PLAIN, PLAIN, str(trial.folder / plain), card), Speaker(RUN, RUN, str(folder), one.card)]
        kinds = {kind for measure in measures for kind in measure.kinds if kind in size.items}
        replies = yield from ask_all(speakers, choose_items(card, size, kinds), [0], trial.folder, SHORT)
        if silent := [speaker.model for speaker in speakers if speaker.id not in replies]:
            raise UserError(f"{silent[0]} cannot be asked, so nothing can be compared.")
        for measure in measures:
            found[card.name, measure.name] = drops(measure, (yield from _values(measure, trial, speakers, replies, reader)))
    reader.close()


def _values(measure: Measure, trial: Trial, speakers: Sequence[Speaker], replies: Mapping[str, Sequence[Reply]],
            reader: Reader) -> Generator[Event, None, dict[str, list[Sample]]]:
    """The samples of every speaker."""
    values = {}
    others = {other.name: other for other in bundled_cards() if other.name != trial.name}
    for speaker in speakers:
        yield Stage(StageId.BENCHMARK, 0, subject=f"{trial.name}: {measure.name}, {speaker.id}")
        own = Reader((yield from locate(speaker.model))) if Need.MODEL in measure.needs and speaker.id != DENSE else reader
        said = [reply for reply in replies[speaker.id] if reply.item.kind in measure.kinds]
        values[speaker.id] = yield from measure.score(Evidence(trial.card, speaker, said, others, None, own, quick=True))
        if own is not reader:
            own.close()
    return values


def _own_lines(dense: Speaker, folder: Path) -> Generator[Event, None, list[tuple[str, str]]]:
    """What the plain cut reads: the dense model's own answers as the character, to questions that are asked nowhere else here."""
    items = [Item(f"train-{number}", ItemKind.TALK, (one.question,)) for number, one in enumerate(train_lines())]
    replies = yield from ask_all([dense], items, [0], folder, SHORT)
    return [(reply.lines[0], reply.last) for reply in replies[DENSE] if reply.last.strip()]


def drops(measure: Measure, values: Mapping[str, Sequence[Sample]]) -> Drops:
    """What the plain cut and the run lose against the dense model on each item that all three have a value for, in margins."""
    by_item: dict[str, list[tuple[float, float]]] = {}
    table = {id: {(one.item, one.seed): one.value for one in samples} for id, samples in values.items()}
    sign = (1.0 if measure.higher else -1.0) / measure.margin
    for key, dense in table[DENSE].items():
        plain, run = table[PLAIN].get(key), table[RUN].get(key)
        if dense is not None and plain is not None and run is not None:
            by_item.setdefault(key[0].partition("#")[0], []).append((sign * (dense - plain), sign * (dense - run)))
    return np.array([np.mean(pairs, axis=0) for pairs in by_item.values()]).reshape(-1, 2)


def summarise(found: Mapping[tuple[str, str], Drops]) -> dict[str, Any]:
    """The rows, and the share of the plain cut's drop that the run avoids, with the bootstrap's interval over items.

    A measure with fewer than FEWEST items of a character is left out: a single question would decide too much.
    `reduction` is None where the plain cut loses nothing, and its interval where that is so in over 5 % of the draws.
    """
    some = {key: drop for key, drop in found.items() if len(drop) >= FEWEST}
    rows = [{"character": character, "measure": measure, "items": len(drop), "plain": float(drop[:, 0].mean()),
             "run": float(drop[:, 1].mean())} for (character, measure), drop in some.items()]
    if not some:
        return {"rows": [], "reduction": None, "interval": None, "items": 0}
    plain, kept = np.mean([drop.mean(axis=0) for drop in some.values()], axis=0)
    random = np.random.default_rng(SEED)
    drawn = np.mean([drop[random.integers(0, len(drop), (RESAMPLES, len(drop)))].mean(axis=1) for drop in some.values()], axis=0)
    usable = drawn[drawn[:, 0] > 0]
    interval = None
    if len(usable) > LEVEL * len(drawn):
        interval = [float(one) for one in np.quantile(1 - usable[:, 1] / usable[:, 0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]
    return {"rows": rows, "plain": float(plain), "run": float(kept), "items": sum(map(len, some.values())),
            "reduction": float(1 - kept / plain) if plain > 0 else None, "interval": interval}


def words(figures: Mapping[str, Any]) -> str:
    """The result in a sentence."""
    if not figures["rows"]:
        return f"No measure has {FEWEST} items of a character, so nothing can be said."
    if figures["reduction"] is None:
        return "The plain cut loses nothing that these measures see, so there is no drop to reduce."
    reduction = figures["reduction"]
    said = f"The run loses {abs(reduction):.0%} {'less' if reduction >= 0 else 'more'} than the plain cut"
    where = f"({figures['items']} items; {', '.join(dict.fromkeys(one['character'] for one in figures['rows']))})"
    if figures["interval"] is None:
        return f"These items are too few to say how much less the run loses {where}."
    low, high = figures["interval"]
    return f"{said}; 95 % interval of what it avoids: {low:.0%} to {high:.0%} {where}."
