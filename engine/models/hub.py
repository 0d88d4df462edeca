"""Fetch a model folder from the model hub, or from the hub's cache on this machine.

Only safetensors, JSON, tokenizer files and texts are ever asked for. The config is fetched and checked before the weights,
which come in a process of their own, so that a stopped job stops its download.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.events import Event, Stage, Step
from engine.base.files import megabytes, require_space
from engine.base.ids import StageId
from engine.base.model_config import check_config
from engine.base.model_folder import PICKLES, no_safetensors

ALLOWED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt", "README.md", "LICENSE*",
           "NOTICE*", "USE_POLICY*"]
IGNORED = ["*/*", "consolidated*"]  # subfolders hold other formats; consolidated files hold the weights a second time
_ANSWER_SECONDS = 15.0
_REACH_SECONDS = 5.0  # for the hub to answer at all, where there is another way
_POLL_SECONDS = 0.5
_DOWNLOAD = """
import json, sys, huggingface_hub
try:
    getattr(huggingface_hub, sys.argv[1])(**json.loads(sys.argv[2]))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def fetch_model(name: str) -> Generator[Event, None, Path]:
    """Fetch `owner/name` and return its folder in the hub's cache, named after the commit.

    Yields steps in MB. Without a network, a complete copy in the cache is used. A token is taken from where the
    hub's library looks for one (HF_TOKEN). Raises UserError with what is wrong; a closed generator ends the download.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    yield Stage(StageId.FETCH, subject=name)
    missing = 0
    with _hub_errors(name):
        sizes = _ask_hub(name)
        config = Path(hf_hub_download(name, "config.json", local_files_only=not sizes))
        check_config(config)
        commit = config.parent.name
        if sizes:
            missing = _missing(name, sizes, config.parent)
    if missing:
        yield from _download(name, commit, missing)
    with _hub_errors(name):
        folder = Path(snapshot_download(name, revision=commit, allow_patterns=ALLOWED, ignore_patterns=IGNORED,
                                        local_files_only=True))
        if not any(folder.glob("*.safetensors")):
            raise LocalEntryNotFoundError(f"{name} is in the cache without weights")
    return folder


def _ask_hub(name: str) -> dict[str, int]:
    """Sizes in bytes of the files that the hub lists for a model; empty when the hub cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    try:
        files = HfApi().model_info(name, files_metadata=True, timeout=_ANSWER_SECONDS).siblings or []
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        return {}
    except (HTTPError, ConnectionError):
        return {}
    return {file.rfilename: max(file.size or 0, 1) for file in files if "/" not in file.rfilename}


def _missing(name: str, sizes: dict[str, int], folder: Path) -> int:
    """Bytes that are not yet in the cache's `folder`. Raises UserError for a model without safetensors."""
    from huggingface_hub.utils import filter_repo_objects

    if not any(path.endswith(".safetensors") for path in sizes):
        raise no_safetensors(name, any(path.endswith(PICKLES) for path in sizes))
    wanted = filter_repo_objects(sizes, allow_patterns=ALLOWED, ignore_patterns=IGNORED)
    return sum(sizes[path] for path in wanted if not (folder / path).exists())


def _download(name: str, commit: str, missing: int) -> Generator[Event, None, None]:
    """Let another process fetch the files; report the growth of the cache in MB."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE)
    folder = cache / repo_folder_name(repo_id=name, repo_type="model")
    require_space(cache, missing + 100_000_000)
    options = {"repo_id": name, "revision": commit, "allow_patterns": ALLOWED, "ignore_patterns": IGNORED,
               "cache_dir": str(cache), "endpoint": constants.ENDPOINT}
    total = megabytes(missing)
    yield Stage(StageId.FETCH, total, subject=name)
    fault = yield from in_own_process("snapshot_download", options, folder, Step(StageId.FETCH, 0, total, subject=name))
    if fault:
        raise UserError(f"The model {name} could not be fetched completely ({fault[:200]}).",
                        "What was downloaded is kept: try again.")
    yield Step(StageId.FETCH, total, total, subject=name)


def in_own_process(function: str, options: dict[str, Any], folder: Path, begun: Step) -> Generator[Step, None, str]:
    """Call a function of the hub's library in a process of its own, which ends with this generator, while `folder` grows.

    Yields steps in MB, as `watch` does. The generator's value is what went wrong, "" for nothing.
    """
    with tempfile.TemporaryFile() as log, subprocess.Popen(
            [sys.executable, "-c", _DOWNLOAD, function, json.dumps(options)], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=log) as process:
        yield from watch(process, folder, begun)
        log.seek(0)
        lines = log.read().decode(errors="replace").strip().splitlines()
        return (lines or ["no reason given"])[0] if process.returncode else ""


def has_file(name: str, file: str) -> bool:
    """Whether the hub can be reached and has a file; no error says why not."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.errors import HTTPError

    try:
        return bool(get_session().head(hf_hub_url(name, file), timeout=_REACH_SECONDS).status_code < 400)
    except (HTTPError, OSError, ValueError):
        return False


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turn what the hub's library raises into one sentence about the model `name`."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(f"The model {name} is gated: its owner asks you to accept its terms first.",
                        "Accept them on the model's page, then set HF_TOKEN to a token of your account.") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"The hub has no model {name}, or it is private.",
                        "Check the spelling; for a private model set HF_TOKEN.") from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(f"The model {name} is not (completely) on this machine, and the hub cannot be reached.",
                        "Connect to the internet, or give a folder that holds the model.") from error
    except errors.EntryNotFoundError as error:
        raise UserError(f"{name} on the hub has no config.json, so it cannot be loaded here.",
                        "Choose the original model, with safetensors files.") from error
    except errors.HFValidationError as error:
        raise UserError(f"{name!r} is neither a folder nor the name of a model on the hub.") from error
    except (errors.HfHubHTTPError, OSError, RuntimeError, errors.HTTPError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"The hub could not deliver {name} ({reason}).", "Try again later.") from error


def watch(process: subprocess.Popen, folder: Path, begun: Step, before: int | None = None) -> Generator[Step, None, None]:
    """Yield steps in MB after `begun` while `folder` grows, at most to its total, until the process has ended; a closed generator
    kills it. `before`: bytes that were in the folder when the process began; None: as many as now."""
    before, last = growing_size(folder) if before is None else before, begun.done
    try:
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
            done = min(begun.total, begun.done + round((growing_size(folder) - before) / 1e6))
            if done > last:
                last = done
                yield replace(begun, done=done, time=time.time())
    finally:
        if process.poll() is None:
            process.kill()


def growing_size(folder: Path) -> int:
    """Bytes of the plain files below a folder (links not followed) that another process is writing."""
    total = 0
    for place, _, names in os.walk(folder):  # unlike rglob, it passes over folders that vanish
        for file in (Path(place, name) for name in names):
            with suppress(OSError):
                total += 0 if file.is_symlink() else file.stat().st_size
    return total
