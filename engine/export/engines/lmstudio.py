"""LM Studio: a preset, the opening turns for its server, the GGUF file in its layout, and a guide.

Written for LM Studio 0.3.15 and newer, which import presets from files (https://lmstudio.ai/docs/app/presets).
"""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

from engine.base.sampling import DEFAULTS, TOP_K
from engine.export.engines.target import Pack, Target, place

VERSION = "LM Studio 0.3.15 or newer"
PUBLISHER = "persona-studio"


def render(pack: Pack) -> dict[str, str]:
    """The folder's files."""
    opening = [{"role": "system", "content": pack.system}, *pack.opening]  # for its server, /v1/chat/completions
    return {f"{pack.slug}.preset.json": render_preset(pack), "README.md": render_guide(pack),
            "opening.json": json.dumps(opening, ensure_ascii=False, indent=2) + "\n"}


def render_preset(pack: Pack) -> str:
    """The preset as LM Studio keeps it: the system prompt and how to sample, as one JSON object."""
    checked = lambda value: {"checked": True, "value": value}
    answers = {"systemPrompt": pack.system, "temperature": DEFAULTS.temperature, "topPSampling": checked(DEFAULTS.top_p),
               "topKSampling": TOP_K,
               "minPSampling": checked(DEFAULTS.min_p), "repeatPenalty": checked(DEFAULTS.repeat_penalty),
               "maxPredictedTokens": checked(DEFAULTS.max_tokens)}
    preset: dict[str, Any] = {
        "identifier": f"@local:{pack.slug}", "name": pack.title, "changed": False,
        "operation": {"fields": [{"key": f"llm.prediction.{name}", "value": value} for name, value in answers.items()]},
        "load": {"fields": [{"key": "llm.load.contextLength", "value": pack.context}]}}
    return json.dumps(preset, ensure_ascii=False, indent=2) + "\n"


def render_guide(pack: Pack) -> str:
    """How to install the files."""
    return f"""# {pack.title} in {VERSION}

1. Copy the folder `{PUBLISHER}` into LM Studio's models folder (My Models shows where that is; usually `~/.lmstudio/models`).
   It has the layout that LM Studio needs: publisher, model, file.
2. Import `{pack.slug}.preset.json` (in a chat: Presets, Import), load the model and choose the preset.

A preset cannot hold what comes before the player's first line: the example dialogue and the greeting. With LM Studio's
server you can send them: `opening.json` holds the messages that come before the player's, as the model learnt them.
"""


def place_gguf(folder: Path, pack: Pack) -> Generator[None, None, None]:
    """Put the GGUF file into the layout."""
    place(pack.file, folder / PUBLISHER / pack.slug / pack.gguf)
    yield from ()


TARGET = Target("lmstudio", "LM Studio", VERSION, "the file in LM Studio's layout, a preset, the opening messages for its server",
                render, add=place_gguf)
