"""What a cut would make of the model, shown while the slider moves. Pure but for the sizes of models."""

import html
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from engine.base.errors import UserError
from engine.base.job import make_recipe
from engine.base.model_folder import folder_shape, model_folder
from engine.base.sizes import Cut, ModelShape, after_cut
from studio.figures import sizes, words
from studio.services import Services
from studio.tabs.models import runtimes_html

UNKNOWN = "The sizes show as soon as this model is on this machine. It is fetched when it is first used."


@dataclass(frozen=True)
class Plan:
    """What the writer asked for. `percent`: of the feed-forward channels, to be removed."""

    percent: float | None = 25  # None: the field was cleared
    multiple: int = 128
    preset: str = "quick"
    load_in: str = "16bit"
    recover: bool = False
    seed: float | None = 0
    bake: bool = False

    def share(self) -> float:
        """The share to be removed. Raises UserError for a field that was cleared, and beyond the slider's ends."""
        if not isinstance(self.percent, int | float) or not (self.percent == 0 or 5 <= self.percent <= 75):
            raise UserError("Between 5 and 75 % can be removed, or nothing from a model that is only baked.")
        return self.percent / 100

    def spec(self, model: str) -> dict[str, Any]:
        """The plan as a run keeps it. Raises UserError for values that no run takes."""
        if self.percent == 0 and (self.recover or not self.bake):
            raise UserError("With nothing removed, all that can be done is to bake the card into the weights.",
                            "Move the slider, or choose baking, without recovery, under More.")
        asked = {"sparsity": round(self.share(), 4), "multiple": int(self.multiple), "seed": self.seed,
                 "load_in": self.load_in, "recover": bool(self.recover), "bake": bool(self.bake)}
        make_recipe(self.preset, **asked)
        return {"model": model, "preset": self.preset, **asked}


def shape_of(services: Services, model: str, wait: bool = False) -> ModelShape | None:
    """The sizes of a model, None while they are not known. `wait`: look them up first.

    Raises UserError for what is no model that can be pruned.
    """
    if folder := model_folder(model):
        return folder_shape(folder)
    found = next((one for one in services.speech.models(wait=wait) if one["name"] == model), None)
    if not found and wait:  # it may have been fetched since
        found = next((one for one in services.speech.models(refresh=True) if one["name"] == model), None)
    if not found or not found.get("intermediate_size") or not found.get("parameters"):
        return None
    try:
        return ModelShape(found["layers"], found["hidden_size"], found["intermediate_size"], found["parameters"])
    except ValueError:  # an FFN of another build: its sizes cannot be estimated
        return None


def cut_of(shape: ModelShape, plan: Plan) -> Cut:
    """The cut that a plan comes to. Raises UserError, in this room's words, where no multiple fits."""
    share = plan.share()
    try:
        return after_cut(shape, share, int(plan.multiple))
    except UserError as error:
        raise UserError(f"No multiple of {plan.multiple} fits here: this model has {shape.intermediate_size:,} channels a layer.",
                        "Choose a smaller multiple under More, or move the slider.") from error


def facts_html(shape: ModelShape | None, plan: Plan) -> str:
    """The cut in numbers and words."""
    if shape is None:
        return f'<p class="quiet">{UNKNOWN}</p>'
    try:
        cut = cut_of(shape, plan)
    except UserError as error:
        return fault_html(error)
    facts = [("of the feed-forward channels removed", words.removed(cut.removed_share_ffn),
              f"{shape.intermediate_size:,} become {cut.kept:,} in each of {shape.layers} layers"),
             ("of all parameters removed", words.removed(cut.removed_share_all),
              f"{words.millions(shape.parameters)} become {words.millions(cut.parameters)}"),
             ("on disk", words.size(cut.bytes), f"before: {words.size(shape.bytes)}"),
             ("as fast, at best", f"{cut.expected_speedup:.2f}\u00a0times", "expected from the size, not measured")]
    items = "".join(f'<li{" class=engineer" if number == 0 else ""}><b>{value}</b><span>{name}</span><small>{note}</small></li>'
                    for number, (name, value, note) in enumerate(facts))
    return f'<ul class="prune-facts">{items}</ul>{_snap(cut, plan)}'


def fault_html(error: UserError) -> str:
    """Why there is nothing to plan."""
    return f'<p class="prune-warning">{html.escape(str(error))}</p>'


def likes_html(shape: ModelShape | None, plan: Plan) -> str:
    """A badge for each way to run a model: whether it likes the cut's size, and why; "" while sizes are not known."""
    try:
        kept = cut_of(shape, plan).kept if shape else 0
    except UserError:
        kept = 0
    return f'<p class="prune-label">Fits these ways to run it</p>{runtimes_html(kept)}' if kept else ""


def remaining_figure(shape: ModelShape | None, plan: Plan) -> go.Figure:
    """The bar of what remains; an empty one while sizes are not known or nothing fits."""
    if shape is None:
        return sizes.remaining(0, 0, 0)
    try:
        cut = cut_of(shape, plan)
    except UserError:
        return sizes.remaining(shape.parameters, shape.ffn_parameters, 0)
    return sizes.remaining(shape.parameters, shape.ffn_parameters, shape.parameters - cut.parameters, shape.bytes_per_weight)


def _snap(cut: Cut, plan: Plan) -> str:
    percent = 100 * plan.share()
    exact = abs(100 * cut.removed_share_ffn - percent) < 0.05
    asked = "" if exact else (f"You asked for {percent:g}\u00a0%; the nearest step is "
                              f"{words.removed(cut.removed_share_ffn)}. ")
    return f'<p class="quiet engineer">{asked}{cut.kept:,} channels stay in each layer, a multiple of {plan.multiple}.</p>'
