"""LM Studio's folder of a character: its preset, the opening turns for its server, and how to put them in place.

Written for LM Studio 0.3.15 and newer, which import presets from files (https://lmstudio.ai/docs/app/presets).
"""

import json
from typing import Any

from engine.base.sampling import DEFAULTS, TOP_K
from engine.export.pack import Pack

VERSION = "LM Studio 0.3.15"
PUBLISHER = "persona-studio"


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


def render_opening(pack: Pack) -> str:
    """The messages with which every conversation begins, for LM Studio's server (/v1/chat/completions)."""
    return json.dumps([{"role": "system", "content": pack.system}, *pack.talk], ensure_ascii=False, indent=2) + "\n"


def render_guide(pack: Pack) -> str:
    """How to put the files in place."""
    return f"""# {pack.title} in {VERSION} and newer

1. Copy the folder `{PUBLISHER}` into LM Studio's models folder (My Models shows where that is; usually `~/.lmstudio/models`).
   It has the layout that LM Studio wants: publisher, model, file.
2. Import `{pack.slug}.preset.json` (in a chat: Presets, Import), load the model and choose the preset.

A preset has no place for what is said before the player's first words: the example dialogue and the greeting. With LM Studio's
server you can send them: `opening.json` holds the messages that stand before the player's, as the model learnt them.
"""
