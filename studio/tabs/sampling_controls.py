"""The controls of the samplers, made from their description in engine.base.sampling: for every room with answers.

The usual ones are open to view, the others under "More".
"""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from engine.base.sampling import DEFAULTS, KNOBS, Knob


class SamplingControls:
    """One slider a sampler. `sliders`: in the order of KNOBS."""

    def __init__(self, room: str) -> None:
        self.room = room
        with gr.Row():
            common = {knob.name: self._slider(knob) for knob in KNOBS if knob.common}
        self.sliders = common

    def more(self) -> None:
        """The rarely needed ones, where the room wants them."""
        with gr.Accordion("More", open=False, elem_id=f"{self.room}-more"):
            self.sliders |= {knob.name: self._slider(knob) for knob in KNOBS if not knob.common}

    @property
    def components(self) -> list[Any]:
        """In the order of `chosen`."""
        return [self.sliders[knob.name] for knob in KNOBS]

    def shown(self, params: dict[str, Any]) -> dict[Any, Any]:
        """Component updates that show settings."""
        return {slider: params[name] for name, slider in self.sliders.items()}

    def _slider(self, knob: Knob) -> Any:
        least, most, step = knob.slider
        return gr.Slider(least, most, getattr(DEFAULTS, knob.name), step=step, label=knob.label, info=knob.help, buttons=[],
                         elem_id=f"{self.room}-{knob.name.replace('_', '-')}")


def chosen(values: Sequence[Any]) -> dict[str, Any]:
    """What the sliders say, by name."""
    return {knob.name: value for knob, value in zip(KNOBS, values, strict=True)}
