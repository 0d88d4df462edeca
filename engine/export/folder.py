"""The exported folder: weights, configuration, tokenizer, card, mask, report, model card, manifest.

It is written into a folder that is not visible yet. Layout:

  model.safetensors, config.json, generation_config.json, tokenizer files, chat_template.jinja
  character.json      the card as it came; a cast has characters/ instead, see cast.py
  persona/mask.safetensors
                      kept: (L, ceil(d_ff / 8)) packed bits, high bit first; scales: (L, k); shape: [L, d_ff]
  persona/imatrix.gguf
                      llama.cpp's importance matrix from the character's lines, see importance_matrix.py; not of every family
  report.json         everything measured
  README.md           the hub's model card
  LICENSE, NOTICE     of the base model, and what its licence asks for
  manifest.json       size and sha256 of every other file

Engines load every *.safetensors file next to config.json as weights, so the mask has a folder of its own. Older versions wrote
mask.safetensors next to the weights; such folders can be read, and an export moves the file.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.base.files import folder_size, write_json
from engine.export.cast import CastCharacter, write_characters
from engine.export.licence import copy_legal
from engine.export.model_card import write_readme

MASK = "persona/mask.safetensors"
GGUF = "gguf"  # the folder of an export with its GGUF files
FORMER = {"mask.safetensors": MASK}  # names of files in older versions' folders, and their names now


def mask_file(folder: Path) -> Path:
    """The mask of an exported folder of any version; the path where it should be if there is none."""
    former = [folder / old for old, new in FORMER.items() if new == MASK and (folder / old).is_file()]
    return folder / MASK if (folder / MASK).is_file() or not former else former[0]


@dataclass
class Contents:
    """What the folder has besides the model: the card as parsed JSON, and the report so far."""

    card: dict[str, Any] | None  # None: of a cast, which has `characters`
    report: dict[str, Any]
    base: Path | None = None  # the base model's folder, whose licence files are copied
    characters: list[CastCharacter] = field(default_factory=list)

    def finish(self, folder: Path, proof: dict[str, Any]) -> None:
        """Add the proof and the sizes to the report, then write report, model card and manifest."""
        self.report["proof"] = proof
        self.report["after"]["bytes"] = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        self.report["after"]["folder_bytes"] = folder_size(folder)
        write_json(folder / "report.json", self.report)
        write_readme(folder, self.report, self.card)


def pack_mask(mask: Tensor) -> dict[str, Tensor]:
    """A mask (L, d_ff) of ones and zeros as packed bits, with the scale of each kept channel (one: folded into W_down)."""
    bits = numpy.packbits(mask.bool().numpy(), axis=1)
    kept = int(mask[0].sum())
    return {"kept": torch.from_numpy(bits), "scales": torch.ones(mask.shape[0], kept, dtype=torch.float16),
            "shape": torch.tensor(mask.shape)}


def read_mask(path: Path) -> Tensor:
    """The mask (L, d_ff) of an exported folder's file (see mask_file), in fp32."""
    found = load_file(path)
    _, channels = (int(size) for size in found["shape"])
    return torch.from_numpy(numpy.unpackbits(found["kept"].numpy(), axis=1)[:, :channels]).float()


def write_folder(folder: Path, model: Any, tokenizer: Any, mask: Tensor, contents: Contents) -> None:
    """Write everything but report, model card and manifest."""
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / MASK).parent.mkdir()
        save_file(pack_mask(mask), folder / MASK)
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise
    if contents.card is not None:
        write_json(folder / "character.json", contents.card)
    write_characters(folder, contents.characters)
    if contents.base:
        copy_legal(contents.base, folder)
    contents.report["after"]["parameters"] = sum(parameter.numel() for parameter in model.parameters())
