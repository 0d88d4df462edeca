"""Models and tokenizers from folders: the only place where from_pretrained is called on what others wrote.

A model is named by the user as "starter" or "small", as a folder, or as owner/name on the hub. Weights come as safetensors only;
code of a model is never run. Importing this does not import torch.
"""

from __future__ import annotations

import copy
import functools
import logging
import re
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.base.errors import UserError
from engine.base.events import Event
from engine.base.families import FAMILIES
from engine.base.files import read_untrusted_json
from engine.base.known_models import KNOWN
from engine.base.model_folder import model_folder
from engine.base.process import is_out_of_memory, return_freed_memory
from engine.models.folders import check_folder, read_front_matter
from engine.models.hub import fetch_model
from engine.models.known import fetch_known
from engine.models.templates import LONGEST_TEMPLATE, fix_settings, template_for, unusable

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LAYER_WEIGHT = re.compile(r"layers\.\d+\.(mlp|self_attn)\..*(weight|bias)$")
_REPORT_LIMIT = 100_000_000  # bytes of report.json
_PIECE = 1 << 24  # weights looked at together
_AGAIN = "Download or copy the model again."
_FASTER = 1.2  # bf16 is taken on a CPU when it is at least this many times as fast as fp32
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class ModelSource:
    """A model folder that has passed the checks."""

    name: str  # what the user typed
    folder: Path
    config: dict[str, Any]  # the parsed config.json
    revision: str = ""  # commit on the hub, or ""
    front_matter: dict[str, str] = field(default_factory=dict)  # of README.md, see folders.read_front_matter

    @property
    def licence(self) -> str | None:
        """The licence, as it is written in README.md."""
        return self.front_matter.get("license")

    @property
    def own_dtype(self) -> str | None:
        """The number format that config.json names, like "bfloat16"; None where it names none."""
        return self.config.get("dtype") or self.config.get("torch_dtype")


def locate(model: str) -> Generator[Event, None, ModelSource]:
    """Find the model that the user means, fetching it where needed; the generator's value is its source.

    `model`: a known model, a folder, or owner/name on the hub. Yields stages and steps counted in MB. Raises UserError
    when there is no such model, when it cannot be fetched, or when its folder does not pass check_folder.
    """
    name = model.strip()
    folder = model_folder(name)
    if folder is None:
        folder = yield from (fetch_known(KNOWN[name]) if name in KNOWN else fetch_model(name))
    revision = folder.name if _COMMIT.fullmatch(folder.name) else ""
    return ModelSource(name, folder, check_folder(folder), revision, read_front_matter(folder))


def best_device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    import torch

    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@functools.cache
def _probe_speedup() -> float:
    """How many times as fast as fp32 this CPU multiplies (128, 1024) by (1024, 4096) in bf16; under half a second."""
    import torch

    best = {}
    for dtype in (torch.float32, torch.bfloat16):
        rows, weights = torch.ones(128, 1024, dtype=dtype), torch.ones(4096, 1024, dtype=dtype)
        times: list[float] = []
        limit = time.perf_counter() + 0.12
        while len(times) < 2 or (len(times) < 8 and time.perf_counter() < limit):
            start = time.perf_counter()
            torch.nn.functional.linear(rows, weights)
            times.append(time.perf_counter() - start)
            if times[0] > 0.12:  # so slow that there is no need to measure again
                break
        best[dtype] = min(times)
    return best[torch.float32] / best[torch.bfloat16]


def parse_dtype(name: str, device: torch.device | None = None, own: str | None = None) -> torch.dtype:
    """The dtype of fp32, bf16 or fp16 (also float32, bfloat16, float16), or of "auto": the best one on `device`.

    That is on CUDA float16 where the weights are in it (`own`; bf16 would cut three bits off), else bf16; on a CPU bf16 where a
    short probe, made once a process, finds it clearly faster than fp32.
    """
    import torch

    if name == "auto":
        if (device or best_device()).type == "cuda":
            return torch.float16 if own == "float16" else torch.bfloat16
        return torch.bfloat16 if _probe_speedup() >= _FASTER else torch.float32
    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    known |= {str(dtype).removeprefix("torch."): dtype for dtype in known.values()}
    if name not in known:
        raise UserError(f"There is no number format {name[:40]!r}.", "Choose one of: auto, fp32, bf16, fp16.")
    return known[name]


def quieten_bitsandbytes() -> None:
    """Log its errors only: it warns at every single product, and of a kernel that it would fetch from a hub."""
    for name in ("autograd._functions", "backends.cpu.ops"):
        logging.getLogger(f"bitsandbytes.{name}").setLevel(logging.ERROR)


def load_model(source: ModelSource, dtype: torch.dtype, load_in: str = "16bit") -> PreTrainedModel:
    """The model in eval mode, frozen, without dropout, on the best device.

    `dtype` is the format of the weights (of the arithmetic, with `load_in` "8bit" or "4bit"). Raises UserError when
    config.json and weights contradict each other or when the memory does not suffice.
    """
    from transformers import AutoModelForCausalLM

    config = load_config(source)
    return_freed_memory()  # the probe of the dtype leaves some
    settings: dict[str, Any] = {
        "dtype": dtype,
        "device_map": "auto" if best_device().type == "cuda" else "cpu",
        "attn_implementation": FAMILIES[config.model_type].attention,
        **_quantised(load_in, dtype),
    }
    loaded: Any
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            source.folder, config=config, trust_remote_code=False, use_safetensors=True, local_files_only=True,
            output_loading_info=True, **settings)
    except ImportError as error:
        raise UserError(f"The model cannot be loaded in {load_in}: {str(error).splitlines()[0]}") from error
    except Exception as error:  # of what others wrote, transformers raises anything
        if is_out_of_memory(error):
            raise UserError(f"The model {source.name} does not fit into memory.",
                            "Choose a smaller model, or load it in 4 bit.") from error
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise UserError(f"The model in {source.folder} cannot be loaded: its files do not fit its config.json ({reason}).",
                        _AGAIN) from error
    model, report = loaded
    _check_report(source, report)
    model.requires_grad_(False)
    for module in model.modules():
        # On processors with bf16 products bitsandbytes repacks a 4-bit layer when it first reads it without gradients: it fails
        # for sizes that are not multiples of its block, and rounds otherwise than the passes with gradients do.
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
    _check_numbers(source, model.eval())
    return model


def _check_numbers(source: ModelSource, model: Any) -> None:
    """Raise UserError where weights, or what the model makes of two tokens, are no finite numbers."""
    import torch

    with torch.inference_mode():
        for name, weights in model.named_parameters():
            pieces = weights.flatten().split(_PIECE) if weights.is_floating_point() else ()
            if not all(torch.isfinite(piece).all() for piece in pieces):
                raise UserError(f"The weights in {source.folder} are damaged: {name} holds values that are not numbers.", _AGAIN)
        try:
            sound = torch.isfinite(model(torch.tensor([[0, 1 % model.config.vocab_size]], device=model.device)).logits).all()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise UserError(f"The model in {source.folder} cannot compute with its config.json "
                            f"({' '.join(str(error).split())[:120]}).", _AGAIN) from error
    if not sound:
        raise UserError(f"The model in {source.folder} is damaged: it computes values that are not numbers.", _AGAIN)


def load_config(source: ModelSource) -> Any:
    """The transformers config of a source, without dropout. Raises UserError when its fields are refused."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # of what others wrote, transformers raises anything
        raise UserError(f"{source.folder / 'config.json'} is not a valid config of a {source.config['model_type']} model.",
                        _AGAIN) from error
    for name in ("attention_dropout", "resid_pdrop", "embd_pdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    config.return_dict, config.output_attentions, config.output_hidden_states = True, False, False
    return config


def _quantised(load_in: str, dtype: torch.dtype) -> dict[str, Any]:
    """The arguments that make from_pretrained quantise the weights."""
    if load_in == "16bit":
        return {}
    from transformers import BitsAndBytesConfig

    options: dict[str, dict[str, Any]] = {
        "8bit": {"load_in_8bit": True},
        "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}}
    if load_in not in options:
        raise UserError(f"Weights cannot be loaded in {load_in[:40]!r}.", "Choose one of: 16bit, 8bit, 4bit.")
    quieten_bitsandbytes()
    return {"quantization_config": BitsAndBytesConfig(**options[load_in])}


def _check_report(source: ModelSource, report: dict[str, Any]) -> None:
    """Raise UserError where weights were missing (transformers makes them up) or whole layers were left over."""
    missing = sorted(report["missing_keys"])
    surplus = sorted(filter(_LAYER_WEIGHT.search, report["unexpected_keys"]))
    if missing or surplus or report["mismatched_keys"]:
        example = f"{missing[0]} is missing" if missing else f"{surplus[0]} is left over" if surplus else "sizes differ"
        raise UserError(f"The weights in {source.folder} do not fit its config.json ({example}).", _AGAIN)


def load_tokenizer(source: ModelSource, day: date | None = None) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a source; one without a chat template gets ours (templates.py).

    A template that asks for the date gets that of `day`, else of the job that exported the folder, else today's. It is written
    into the template, and exported with it. Raises UserError when the folder has no tokenizer, or none that can be read.
    """
    from transformers import AutoTokenizer

    if not any((source.folder / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(f"{source.folder} has no tokenizer (no tokenizer.json).",
                        "Copy the model's tokenizer files there.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True)
        vocabulary = tokenizer.get_vocab()
        start = tokenizer("a")["input_ids"][:1]
    except Exception as error:  # the tokenizers library raises bare Exception
        raise UserError(f"The tokenizer in {source.folder} cannot be read.", _AGAIN) from error
    if not tokenizer.is_fast or not vocabulary:
        raise UserError(f"{source.folder} has no fast tokenizer (tokenizer.json).", "Choose a model that has one.")
    template = tokenizer.chat_template
    if not template or (isinstance(template, dict) and "default" not in template):
        adds_bos = tokenizer.bos_token_id is not None and start == [tokenizer.bos_token_id]
        template = template_for(source.config["model_type"], vocabulary, adds_bos)
    tokenizer.own_template = template
    with suppress(UserError):
        day = day or day_of(read_untrusted_json(source.folder / "report.json", _REPORT_LIMIT))
    return on_day(tokenizer, day or date.today())


def on_day(tokenizer: Any, day: date) -> Any:
    """The tokenizer, or where its template asks for the date a copy of it, with that of `day`. Raises UserError."""
    def fixed(template: Any) -> str:
        if not isinstance(template, str):
            raise unusable("it is not text")
        if len(template) > LONGEST_TEMPLATE:
            raise unusable(f"it is longer than {LONGEST_TEMPLATE:,} characters")
        return fix_settings(template, day)

    own = tokenizer.own_template
    template = {name: fixed(one) for name, one in own.items()} if isinstance(own, dict) else fixed(own)
    if template != tokenizer.chat_template:
        tokenizer = copy.copy(tokenizer)
        tokenizer.chat_template = template
    return tokenizer


def day_of(report: dict[str, Any]) -> date | None:
    """The day of a report's job; in those of earlier versions, that of the export. None where it names none."""
    try:
        return date.fromisoformat(report.get("day") or report["made"][:10])
    except (KeyError, TypeError, ValueError):
        return None
