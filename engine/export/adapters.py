"""A LoRA adapter as files: a folder as peft writes it, and a GGUF file that llama.cpp loads beside its model.

Both hold the same matrices in 16 bit: what is measured should be an adapter that was rounded (`round_adapter`). llama.cpp takes the
adapter's alpha from the file and its rank from the matrices; for q and k of llama architectures lora_b's rows are in another
order, like the weights' (convert_lora_to_gguf.py of llama.cpp).
"""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy
import torch
from gguf import MODEL_ARCH
from safetensors.torch import load_file, save

from engine.base.errors import UserError
from engine.base.files import read_json, write_atomic
from engine.export.gguf_tensors import architecture_of, interleave
from engine.models.loading import ModelSource, load_config

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."  # of peft's names


@torch.no_grad()
def round_adapter(adapted: Any) -> None:
    """Round the adapter's matrices to what a 16-bit file holds."""
    for name, part in adapted.named_parameters():
        if ".lora_" in name:
            part.copy_(part.half())


def write_adapter(adapted: Any, folder: Path, base: str) -> int:
    """Write peft's two files into a folder (made if need be) and return their bytes. `base`: the name of the model under it."""
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous().cpu() for name, value in get_peft_model_state_dict(adapted).items()}
    settings = {name: sorted(value) if isinstance(value, set) else value
                for name, value in adapted.peft_config["default"].to_dict().items()}
    write_atomic(folder / WEIGHTS, save(weights, metadata={"format": "pt"}))
    write_atomic(folder / SETTINGS, json.dumps({**settings, "base_model_name_or_path": base, "inference_mode": True}, indent=2,
                                               sort_keys=True, default=str) + "\n")
    return sum((folder / name).stat().st_size for name in (WEIGHTS, SETTINGS))


def write_gguf_adapter(folder: Path, source: ModelSource, out_file: Path) -> int:
    """Write peft's folder as a GGUF file for the GGUF files of the model in `source`, and return its bytes.

    Raises UserError for a family that llama.cpp does not have, and for an adapter that is not this model's.
    """
    rules, config = architecture_of(source.config["model_type"]), load_config(source)
    names = gguf.get_tensor_name_map(MODEL_ARCH[rules.architecture], config.num_hidden_layers)
    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[MODEL_ARCH[rules.architecture]])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(read_json(folder / SETTINGS)["lora_alpha"]))
    for key, value in sorted(load_file(folder / WEIGHTS).items()):
        module, _, part = key.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
        name = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if name is None:
            raise UserError(f"The adapter in {folder} is not one of this model: it has no {module[:80]}.", "Choose its own model.")
        if part == "lora_B" and rules.interleaved and module.endswith((".q_proj", ".k_proj")):
            heads = config.num_attention_heads if module.endswith(".q_proj") else config.num_key_value_heads
            value = interleave(value, heads)
        writer.add_tensor(f"{name}.{part.lower()}", value.contiguous().numpy().astype(numpy.float16))
    out_file.parent.mkdir(parents=True, exist_ok=True)
    partial = out_file.with_name(f".{out_file.name}.partial")
    try:
        writer.write_header_to_file(partial)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.replace(out_file)
    finally:
        partial.unlink(missing_ok=True)
    return out_file.stat().st_size
