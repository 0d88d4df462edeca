"""The models of a character: its finished pruned ones, the dense (whole) ones they come from, and how rooms show them."""

import html
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.base.cast_folder import place_of
from engine.base.errors import UserError
from engine.base.known_models import KNOWN, KnownModel
from engine.base.sizes import runtimes_that_like
from engine.serving import files
from studio.figures.words import dedupe_labels, moment, percent, size
from studio.services import Services
from studio.store import runs, values
from studio.store.runs import Run
from studio.workers.commands import is_whole, result_folder


def removed_by(run: Run) -> float:
    """How much a run was asked to remove of the channels, 0 to 1."""
    recipe = run.summary.get("recipe")
    asked = recipe.get("sparsity") if isinstance(recipe, dict) else None
    return float(asked or run.spec.get("sparsity") or 0.25)


def choices_of(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(label, id) of runs, newest first; no two labels are alike."""
    return dedupe_labels([(label_of(run), run.id) for run in runs])


def label_of(run: Run) -> str:
    """The run's label. What was removed is not said twice: a run that nobody named is called by it."""
    return f"{pruned_name(run)} · {moment(run.ended or run.made)}"


def runtimes_html(kept: int) -> str:
    """A badge for each way to run a model: whether this number of kept channels suits it, and why."""
    badges = "".join(
        f'<li class="{"yes" if fits else "no"}" title="{html.escape(why)}"><i aria-hidden="true">{"✓" if fits else "–"}</i>'
        f'{html.escape(name)}<span class="visually-hidden">: {"fits" if fits else "does not fit"}. {html.escape(why)}</span></li>'
        for name, fits, why in runtimes_that_like(kept))
    return f'<ul class="prune-likes">{badges}</ul>'


def unfetched(services: Services, model: str) -> KnownModel | None:
    """The known model of this name, where it is not on this machine yet."""
    known = KNOWN.get(model)
    return known if known and not known.is_in(services.settings.home) else None


DENSE = "Dense model"
WHOLE = "dense"  # the dense model in a list of voices


@dataclass(frozen=True)
class Contender:
    """A model that answers. `run`: the pruned model's, None for a dense one; `model`: what the chat worker calls it.

    `removed`: share of the channels, 0 to 1; `bytes`: its weights on disk, 0 where that is not known.
    """

    run: str | None
    model: str
    name: str
    removed: float
    bytes: int

    @property
    def size_words(self) -> str:
        """Its size on disk; "" where that is not known."""
        return f"{size(self.bytes)} on disk" if self.bytes else ""


@dataclass(frozen=True)
class Voice:
    """The model that speaks next in a chat. `lost`: a sentence, where the pruned model that was chosen is gone."""

    contender: Contender
    lost: str = ""

    @property
    def id(self) -> str:
        """As the list of voices knows it."""
        return self.contender.run or WHOLE


def finished(services: Services, character: str) -> list[Run]:
    """The character's finished pruned models whose files are there, newest first."""
    found = runs.list_runs(services.store, character, kinds=["prune"], states=["done"]) if character else []
    return [run for run in found if is_whole(result_folder(services.settings, run))]


def dense_of(run: Run) -> Contender:
    """The model that a run was carved from."""
    return Contender(None, str(run.spec.get("model") or "starter"), DENSE, 0.0, int(_part(run, "before").get("bytes", 0)))


def pruned_of(services: Services, run: Run) -> Contender:
    """The model that a run has made."""
    removed = removed_by(run)
    return Contender(run.id, str(result_folder(services.settings, run)), f"Pruned, {percent(removed)} removed", removed,
                     int(_part(run, "after").get("bytes", 0)))


def short_name(contender: Contender) -> str:
    """A dense model's name for a reader: the folder's or the hub's last part, or that of a known model."""
    return Path(contender.model).name


def voice_of(services: Services, character: str, model: str, found: Sequence[Run]) -> Voice:
    """The model that was chosen to speak as a character: one of its finished runs `found`, else the dense model `model`."""
    dense = Contender(None, model, DENSE, 0.0, 0)
    chosen = str(values.get_value(services.store, _voice_key(character), WHOLE))
    if chosen == WHOLE:
        return Voice(dense)
    if run := next((run for run in found if run.id == chosen), None):
        return Voice(pruned_of(services, run))
    gone = runs.get(services.store, chosen)
    name = f" “{gone.name}”" if gone else ""
    return Voice(dense, f"The pruned model{name} is no longer there, so the dense model speaks.")


def choose_voice(services: Services, character: str, id: str) -> None:
    """Let a run's model, or the dense one (WHOLE), speak as the character from now on."""
    values.set_value(services.store, _voice_key(character), id)


def ask_for_new_chat(services: Services, character: str) -> None:
    """Let Play open a new chat next time: in the last one, this model would go on with what another one said."""
    values.set_value(services.store, f"new-chat:{character}", True)


def takes_new_chat(services: Services, character: str) -> bool:
    """Whether Play was asked to open a new chat; the request counts once."""
    key = f"new-chat:{character}"
    asked = values.get_value(services.store, key, False)
    if asked:
        values.set_value(services.store, key, False)
    return asked


def voice_choices(found: Sequence[Run], model: str) -> list[tuple[str, str]]:
    """(label, id) of the models that can speak: the dense one, then the runs `found`, newest first, with their sizes."""
    bytes_of = {run.id: int(_part(run, "after").get("bytes", 0)) for run in found}
    pruned = [(" · ".join([pruned_name(run), *([size(bytes_of[run.id])] if bytes_of[run.id] else [])]), run.id) for run in found]
    return [(dense_name(model), WHOLE), *dedupe_labels(pruned)]


def dense_name(model: str) -> str:
    """A dense model among others, for a reader; or a character's place in a cast, which was chosen as the model."""
    if place := place_of(Path(model)):
        return f"Cast {place.folder.name} · {place.id}"
    return f"{DENSE} · {short_name(Contender(None, model, DENSE, 0.0, 0))}"


def pruned_name(run: Run) -> str:
    """A run among other models, for a reader."""
    removed = f"{percent(removed_by(run))} removed"
    return " · ".join(part for part in (run.name, "" if is_called(run, removed) else removed) if part)


def is_called(run: Run, said: str) -> bool:
    """Whether a run's name says this already; a renamed run has plain spaces."""
    return said.replace("\u00a0", " ") in run.name.replace("\u00a0", " ")


def common_type(models: Iterable[str]) -> str:
    """The type of GGUF file at which these models are compared. One that is gone counts for nothing: its answer will say so."""
    found = {files.COMPARED}
    for name in models:
        with suppress(UserError):
            found.add(files.common_type(name))
    return max(found, key=lambda type: type != files.COMPARED)


def chosen_run(services: Services, character: str, run_id: str, found: list[Run]) -> Run | None:
    """The run that a page has chosen; where it has none of this character's, the one compared last, else the newest."""
    known = {run.id: run for run in found}
    last = str(values.get_value(services.store, f"compare-run:{character}", ""))
    return known.get(run_id) or known.get(last) or next(iter(found), None)


def remembered_picks(services: Services, character: str, found: list[Run]) -> list[str]:
    """The pruned models of the grid: those chosen last, or the newest few."""
    known = values.get_value(services.store, f"compare-picks:{character}", None)
    ids = [run.id for run in found]
    return [id for id in known if id in ids] if isinstance(known, list) else ids[:4]


def _voice_key(character: str) -> str:
    return f"voice:{character}"


def _part(run: Run, name: str) -> dict[str, Any]:
    part = run.summary.get(name)
    return part if isinstance(part, dict) else {}
