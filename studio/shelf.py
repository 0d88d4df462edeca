"""The shelf of models: known ones with what they need and how they speak, which are on this machine, and what other programs have.

Contents of the sidebar, and what its buttons do; the listeners are in sidebar.py.
"""

import html
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from engine.base.errors import UserError
from engine.base.known_models import KNOWN
from engine.base.shelf import SHELF, Sample, ShelfModel, read_samples
from engine.cards.card import find_bundled
from studio import welcome
from studio.figures import words
from studio.services import Services
from studio.store import runs, values
from studio.times import Times
from studio.workers import pace
from studio.workers.speech import Reply

ROOM_LEFT = 0.8  # of the memory, at most, for weights
_MOST_FILES = 40  # of other programs that are named


class Shelf:
    """The models of one studio that are being fetched, and the table. Thread-safe."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._lock = threading.Lock()
        self._fetching: dict[str, Reply] = {}
        self._times = Times(services)

    def contents(self, _: Any = None) -> dict[str, str]:
        """The live contents of the sidebar."""
        memory = psutil.virtual_memory().total
        times = self._times.measured()
        rows = "".join(self._row(one, is_whole(self.services, one.name), memory, times) for one in SHELF)
        unknown = "" if times else " How long a quick run takes here is not known yet: the first one shows it."
        return {"side-shelf": f'<p class="quiet">This machine has {words.size(memory)} of memory. A model fits if its weights '
                              f"do; pruning takes twice the memory of talking.{unknown}</p>"
                              f'<ul class="shelf">{rows}</ul>{_others()}'}

    def fetch(self, name: str) -> None:
        """Fetch a model and make it ready to talk; it shows how far it is. Raises UserError for one that is not on the shelf."""
        _known(name)
        with self._lock:
            if (former := self._fetching.get(name)) and not former.done:
                return
            card = find_bundled(welcome.GUEST).raw  # what it reads first, once it is there
            self._fetching[name] = self.services.speech.warm(name, card, "Player")

    def stop(self, name: str) -> None:
        """End the fetch; what came so far is kept."""
        if reply := self._fetching.get(name):
            self.services.speech.stop(reply)

    def use(self, name: str) -> str:
        """Make it the base model; its name. Raises UserError for one that is not on the shelf."""
        values.set_value(self.services.store, "model", _known(name).name)
        return name

    def delete(self, name: str) -> None:
        """Remove a model's files. Raises UserError while a job runs, which may be reading them."""
        _known(name)
        if runs.list_runs(self.services.store, states=runs.ACTIVE):
            raise UserError("A job is running, and may need this model.", "Delete it when the job has ended.")
        shutil.rmtree(_folder(self.services, name), ignore_errors=True)
        with self._lock:
            self._fetching.pop(name, None)

    def _row(self, one: ShelfModel, is_ready: bool, memory: int, times: Mapping[str, tuple[int, float]]) -> str:
        reply = self._fetching.get(one.name)
        fits = "" if one.talking_bytes > ROOM_LEFT * memory else "talks" if one.bytes > ROOM_LEFT * memory else "prunes"
        says = {"": "too large for this machine", "talks": "fits to talk, not to prune", "prunes": "fits"}[fits]
        fetched = "" if is_ready else f"{words.size(one.download_bytes)} to download"
        facts = " · ".join(filter(None, (
            f"{words.millions(one.parameters)} parameters", fetched,
            f"{one.licence}{' (consent on the hub, then HF_TOKEN)' if one.gated else ''}", says)))
        name, busy = html.escape(one.name), reply is not None and not reply.done
        buttons = [_button("shelf-stop", "Stop", name)] if busy else [
            _button("shelf-use", "Use", name, "primary" if is_ready else ""),
            _button("shelf-delete", "Delete files", name) if is_ready else _button("shelf-fetch", "Download", name)]
        fault = f'<p class="side-problem">{html.escape(reply.sentence)}</p>' if reply and reply.sentence else ""
        mark = '<i class="pill done">on disk</i>' if is_ready else ""
        takes = f'<span class="quiet">{_time(one, times)}</span>' if fits == "prunes" and times else ""
        more = takes + _sample(read_samples().get(one.name)) + (_progress(reply) if busy and reply else "") + fault
        return (f'<li class="{fits or "large"}" data-key="{name}"><b>{html.escape(one.label)}</b> {mark}'
                f'<span class="quiet">{facts}</span>{more}<div class="live-buttons">{"".join(buttons)}</div></li>')


def _time(one: ShelfModel, times: Mapping[str, tuple[int, float]]) -> str:
    """How long a quick run of a model took here, or takes by those of other models."""
    if one.name in times:
        return f"A quick run took {words.duration(times[one.name][1])} here."
    seconds = pace.scaled(one.parameters, dict(times.values()))
    return f"A quick run would take {words.about(seconds)} here, going by its size." if seconds else ""


def _sample(sample: Sample | None) -> str:
    """What a model answered, folded; "" where it was never asked."""
    if sample is None:
        return ""
    return (f'<details class="sample"><summary>How it speaks</summary><p>{html.escape(sample.character)} was asked: '
            f'“{html.escape(sample.question)}”</p><blockquote>{html.escape(sample.answer)}</blockquote>'
            f'<p class="quiet">Its first answer, before any pruning: {html.escape(sample.type)}, seed {sample.seed}.</p></details>')


def models_here() -> list[tuple[str, str]]:
    """(label, name) of models on this machine that can speak at once: the shelf's from the hub, and LM Studio's files."""
    files = [(f"{file.stem} (LM Studio)", str(file)) for file in _lmstudio_files()]
    return [*((one.label, one.name) for one in SHELF if one.name not in KNOWN and _is_cached(one.name)), *files[:_MOST_FILES]]


def is_whole(services: Services, name: str) -> bool:
    """Whether a model of the shelf is on this machine, with nothing still to come."""
    return KNOWN[name].is_in(services.settings.home) if name in KNOWN else _is_cached(name)


def _is_cached(name: str) -> bool:
    folder = _cache(name)
    return any(folder.glob("snapshots/*/*.safetensors")) and not any(folder.glob("blobs/*.incomplete"))


def _folder(services: Services, name: str) -> Path:
    return KNOWN[name].folder_in(services.settings.home) if name in KNOWN else _cache(name)


def _cache(name: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")


def _known(name: str) -> ShelfModel:
    found = next((one for one in SHELF if one.name == name), None)
    if found is None:
        raise UserError(f"{name[:80]} is not on the shelf.")
    return found


def _button(do: str, word: str, name: str, kind: str = "") -> str:
    return f'<button class="{kind}" data-do="{do}" data-name="{name}" aria-label="{word} {name}">{word}</button>'


def _progress(reply: Reply) -> str:
    if not reply.fetched:
        has_come = any(event.get("total") for event in reply.events)
        return f'<p class="quiet">{"Making it ready to talk…" if has_come else "Beginning…"}</p>'
    done, total = reply.fetched
    return (f'<div class="bar" role="progressbar" aria-label="Fetching the model" aria-valuemin="0" aria-valuemax="{total}" '
            f'aria-valuenow="{done}"><i style="width:{100 * done / total:.0f}%"></i></div>'
            f'<span class="quiet">{done:,} of {total:,} MB</span>')


def found_elsewhere() -> list[tuple[str, str, str]]:
    """What other programs have on this machine: (program, the model's name there, the hub's name on the shelf or "")."""
    found = [("Ollama", name, next((one.name for one in SHELF if one.ollama == name), "")) for name in _of_ollama()]
    found += [("LM Studio", name, next((one.name for one in SHELF if one.label.lower() in name.lower()), ""))
              for name in _of_lmstudio()]
    return found[:_MOST_FILES]


def _of_ollama() -> Iterator[str]:
    models = Path(os.environ.get("OLLAMA_MODELS") or Path.home() / ".ollama" / "models")
    library = models / "manifests" / "registry.ollama.ai" / "library"
    yield from (f"{tag.parent.name}:{tag.name}" for tag in _sorted(library, "*/*") if tag.is_file())


def _of_lmstudio() -> Iterator[str]:
    yield from dict.fromkeys(f"{file.parent.parent.name}/{file.parent.name}" for file in _lmstudio_files())


def _lmstudio_files() -> Iterator[Path]:
    for place in (Path.home() / ".lmstudio" / "models", Path.home() / ".cache" / "lm-studio" / "models"):
        yield from _sorted(place, "*/*/*.gguf")


def _sorted(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _others() -> str:
    found = found_elsewhere()
    if not found:
        return ""
    rows = ""
    for program, name, hub in found:
        what = f"use {html.escape(hub)} above" if hub else "give the name of its original on the hub"
        rows += f'<li><b>{html.escape(name)}</b> <span class="quiet">in {program}. To prune it, {what}.</span></li>'
    return (f'<p class="quiet">Other programs on this machine have GGUF files, which are for talking there; a prune needs the '
            f'originals:</p><ul class="shelf">{rows}</ul>')
