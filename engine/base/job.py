"""Every setting of every long job, in one place: name, type, unit, limits, default, label and help.

The command line's options, job files, checks, presets, the studio's form, the report and the table in docs/recipe.md all come
from here. Adding a knob to the main job is one line in `Recipe` (and its place in the studio's form, if it gets one).

The paper meant throughout is Persona-Pruner (ICML 2026, arXiv 2606.14695). Whether a sparsity leaves a whole multiple of
channels is decided where the model is known: sizes.channels_kept.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from engine.base import migrate
from engine.base.errors import UserError
from engine.base.files import PROGRAM, is_file
from engine.base.known_models import MODEL_HELP
from engine.base.sampling import MAX_SEED
from engine.base.settings import Settings, knob
from engine.base.sizes import WRITTEN

Loss = Literal["kl", "ce"]
Start = Literal["wanda", "random"]
LoadIn = Literal["16bit", "8bit", "4bit"]
Dtype = Literal["auto", "fp32", "bf16", "fp16"]
CARD_HELP = "A character card (JSON, PNG or CHARX), or the name of a bundled one"
DTYPE_HELP = "Number format of the arithmetic: auto, fp32, bf16 or fp16"
SHARED_TYPE_HELP = "Type of the GGUF files, the same for all models: Q8_0 or F16 (default: Q8_0 where all models can have it)"
TYPE_HELP = "Type of the GGUF file that speaks, like Q8_0 or F16 (default: the best at hand)"


class Recipe(Settings):
    """The knobs of one pruning job. Defaults are those of the preset `standard`."""

    sparsity: float = knob(0.25, "Share of each layer's FFN channels that is removed", ge=0, le=0.9, group="What is removed",
                           label="How much is removed")
    multiple: int = knob(128, "The kept intermediate size is a multiple of this. Programs that run models prefer round sizes",
                         unit="channels", ge=1, label="Snap to a multiple of")
    seed: int = knob(0, "The same seed and lines give the same result", ge=0, le=MAX_SEED, label="Seed")

    candidates: int = knob(640, "Player lines to choose from, evenly from all categories", unit="lines", ge=1,
                           group="Stage 1: lines")
    references: int = knob(3, "Other characters that the persona sensitivity compares with (paper: all others)", ge=1)
    keep_share: float = knob(1.0, "Share of the candidates kept, by falling persona sensitivity (paper: 0.4; 1: none is scored)",
                             gt=0, le=1)
    self_asked: int = knob(128, "Extra questions that the model makes up, given the persona's prompt", ge=0)
    validation_lines: int = knob(24, "Held-out lines for choosing (the mask, what is reconstructed); never learned from", ge=1,
                                 unit="lines")
    test_lines: int = knob(48, "Held-out lines for reporting; never used to choose", unit="lines", ge=1)
    answer_tokens: int = knob(64, "Longest sampled answer", unit="tokens", ge=1)
    temperature: float = knob(0.8, "Temperature of sampled answers", ge=0)
    top_p: float = knob(0.95, "Probability mass that sampling keeps (nucleus sampling)", gt=0, le=1)
    batch_lines: int = knob(96, "Answers sampled at once; on two cores, 64 take almost as long", unit="lines", ge=1)
    teacher_concurrency: int = knob(4, "Concurrent requests to a teacher server", ge=1)

    loss: Loss = knob("kl", "kl: to the dense model's cached logits; ce: on the answers (the paper's)", group="Stage 2: mask")
    teacher_top: int = knob(64, "Logits cached per token; the rest of the vocabulary is one bucket", ge=1)
    start: Start = knob("wanda", "Scores before the first step: rank-normalised importance, or random")
    mask_from: float = knob(0.4, "Sparsity from which the mask is learned. Below it the reconstructed start is used: there, what "
                            "learning gains is within the noise, and more text gains more in the same time", ge=0, le=1)
    steps: int = knob(30, "Steps of mask learning", ge=1)
    step_lines: int = knob(16, "Lines per step", unit="lines", ge=1)
    learning_rate: float = knob(0.01, "AdamW's learning rate, on scores that are ranks from -1 to 1 in every layer", ge=0)
    ramp: float = knob(0.0, "Share of the steps over which the sparsity grows, cubic (0: full from the start)", ge=0, le=1)
    validate_every: int = knob(5, "Steps between readings on the validation lines", ge=1)
    row_tokens: int = knob(1536, "Longest packed row", unit="tokens", ge=1)
    checkpointing: bool = knob(True, "Recompute layers in the backward pass when memory is short: a tenth of it, a third more "
                                     "time")
    load_in: LoadIn = knob("16bit", "Fewer bits need less memory while learning. The result stays 16 bit",
                           label="Load the model in")

    reconstruct: bool = knob(True, "Reconstruct W_down on the kept channels by least squares", group="After the mask")
    max_kl_ratio: float = knob(1.05, "Reconstruct the learned mask unless its KL is more than this many times the start's",
                               metavar="FACTOR", gt=0)
    extra_samples: int = knob(3, "More answers to each train line, for reconstruction and tuning", ge=0)
    neutral_lines: int = knob(256, "Unanswered player lines that reconstruction reads with their neutral answers", ge=0,
                              unit="lines")
    resampled_copies: int = knob(1, "Copies of all these lines with their tokens sampled again, for tuning (else reconstruction)",
                                 ge=0)
    tuning_epochs: float = knob(4.0, "Passes over these tokens in which each layer's kept channels are tuned (0: none)", ge=0)
    tuning_rate: float = knob(0.01, "Adam's learning rate at the start of a layer, as a share of its weights' root mean square; "
                                    "decays to 0", ge=0)
    recover: bool = knob(False, "Learn from many more answers: tune the layers again, then fine-tune the whole (LoRA, merged). "
                                "Comes closer, takes three times as long", label="Recover some of what was lost")
    recovery_samples: int = knob(5, "Answers written for recovery, as a multiple of the train lines", ge=0)
    recovery_epochs: float = knob(2.0, "Passes over the first of them, to tune the layers again", ge=0)
    recovery_steps: int = knob(60, "Steps of the fine-tune", ge=1)
    recovery_step_lines: int = knob(16, "Lines per step of the fine-tune", unit="lines", ge=1)
    recovery_rate: float = knob(1e-3, "AdamW's learning rate in the fine-tune, as a share of the weights' root mean square", ge=0)
    recovery_rank: int = knob(16, "LoRA rank", ge=1)
    recovery_own_from: float = knob(1.0, "Share of the fine-tune's steps after which half of the lines are the cut model's own "
                                         "answers, read by the dense model (1: none)", ge=0, le=1)

    bake: bool = knob(False, "Put the card into the weights: with a prompt of a few tokens the model answers as the dense one "
                             "does with the whole card (context distillation). With a sparsity of 0 nothing is removed",
                      group="Baking", label="Bake the card into the weights")
    # Steps, lines a step and rank are also those of the adapters of a cast's characters, baked or not.
    bake_steps: int = knob(400, "Steps in which the LoRA adapter learns, before it is merged; a cast's adapters, too", ge=2)
    bake_step_lines: int = knob(16, "Lines per step", unit="lines", ge=2)
    bake_rate: float = knob(2e-3, "AdamW's learning rate, as a share of the weights' root mean square", ge=0)
    bake_rank: int = knob(8, "LoRA rank of the adapter that stays in the folder, 4.9 MB for the starter; also of a cast's "
                              "characters", ge=1)
    bake_own_from: float = knob(0.5, "Share of the steps after which half of the lines are the student's own answers, read by the "
                                     "dense model (1: none)", ge=0, le=1)

    def changed(self, **values: Any) -> "Recipe":
        """The recipe with other values. Raises UserError."""
        return Recipe(**{**self.to_dict(), **values})

    def former(self) -> dict[str, Any]:
        """All knobs by the names that they had first: the fingerprint of a work folder does not change with a name, nor
        with a later knob that is left as it is."""
        return {migrate.FORMER_KNOBS.get(name, name): value for name, value in self.to_dict().items()
                if name not in migrate.LATER_KNOBS or value != Recipe.model_fields[name].default}


PRESETS: dict[str, dict[str, Any]] = {
    # To see the whole way: a third of the text of "quick".
    "try": {"candidates": 112, "references": 2, "self_asked": 16, "steps": 8, "step_lines": 8, "validation_lines": 12,
            "test_lines": 32, "answer_tokens": 40, "extra_samples": 1, "neutral_lines": 64, "tuning_epochs": 0.5,
            "recovery_samples": 6, "recovery_steps": 20, "bake_steps": 60},
    "quick": {"candidates": 160, "references": 2, "self_asked": 32, "steps": 12, "step_lines": 8,
              "validation_lines": 16, "test_lines": 40, "answer_tokens": 40, "tuning_epochs": 1.25,
              "recovery_samples": 12, "recovery_steps": 40, "bake_steps": 200},
    "standard": {},
    # The paper's objective: plain straight-through top-k and cross entropy, nothing reconstructed, no lines of the model's own.
    "paper": {"candidates": 640, "references": 9, "keep_share": 0.4, "self_asked": 0, "loss": "ce", "start": "random", "steps": 200,
              "learning_rate": 0.05, "mask_from": 0.0, "reconstruct": False},
}
PRESET_LABELS = {"try": "First try", "quick": "Quick", "standard": "Standard", "paper": "Persona-Pruner as published"}
# Lines and pruning together, with the starter on two idle processor cores. The method as published was never timed to its end.
PRESET_MINUTES = {"try": 5, "quick": 10, "standard": 30}


def make_recipe(preset: str = "standard", **changes: Any) -> Recipe:
    """The recipe of a preset with some knobs changed. Raises UserError for an unknown preset or a bad value."""
    if not isinstance(preset, str) or preset not in PRESETS:
        raise UserError(f"There is no preset {str(preset)[:60]!r}.", f"Choose one of: {', '.join(PRESETS)}.")
    return Recipe(**{**PRESETS[preset], **changes})


class Process(Settings):
    """How a long job runs: what every one of them has."""

    workdir: str = knob("", "Where to write events.jsonl and, for prune, the results of its stages (default: prune in the data "
                            "folder, other jobs nowhere)", metavar="DIR", group="How it runs")
    json_events: bool = knob(False, "Print events as JSON lines", option="json")
    job: str = knob("", "Read the job from a JSON file; options on the command line take precedence", metavar="FILE")
    leash: bool = knob(False, "Stop when standard input ends: the program that started the job is then gone")


class PruneJob(Process):
    """The main job: from a character card to a pruned model folder. Beside these it has every knob of Recipe."""

    card: str = knob(..., CARD_HELP, metavar="CARD", option="-", min_length=1)
    out: str = knob("", "The folder to write; must not exist (required, except with --until)", metavar="DIR", group="What is made")
    model: str = knob("starter", MODEL_HELP)
    preset: str = knob("standard", ", ".join(PRESETS), label="How thorough")
    teacher: str = knob("self", "Who answers: the model itself, or a server", metavar="self|URL", label="Who answers")
    teacher_model: str = knob("", "The server's model", metavar="NAME", label="Name of its model")
    queries: str = knob("", "Questions to use instead of the bundled player lines", metavar="FILE")
    lines: str = knob("", "Finished calibration lines (questions and answers) to use as they are", metavar="FILE")
    dtype: Dtype = knob("auto", DTYPE_HELP)
    resume: bool = knob(False, "Continue where an earlier run stopped")
    until: Literal["", "lines", "samples"] = knob("", "Stop when the calibration lines are written, or the extra samples too")
    recipe: Recipe = Field(default_factory=Recipe)
    # Of a cast, which prune-cast makes: the job files of its characters, and whether each gets an adapter; `card` is its name.
    cast: list[str] = Field(default_factory=list)
    adapters: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "PruneJob":
        """A job from flat values: the preset's knobs, with those that are given in their place. Raises UserError."""
        values = migrate.knobs(values)
        changes = {name: value for name, value in values.items() if name in Recipe.model_fields}
        others = {name: value for name, value in values.items() if name not in Recipe.model_fields}
        if "recipe" in others:
            raise UserError("There is no setting recipe.", "Write its knobs beside the other settings.")
        job = cls(**others, recipe=make_recipe(others.get("preset", "standard"), **changes))
        if not job.out and not job.until:
            raise UserError("The following arguments are required: --out.", f"See {PROGRAM} prune --help.")
        if job.recipe.recover and not job.recipe.sparsity:
            raise UserError("With a sparsity of 0 nothing is removed, so there is nothing to recover.", "Leave out --recover.")
        if job.recipe.bake and job.recipe.loss != "kl":
            raise UserError("Baking learns the dense model's distributions, so it needs the loss kl.", "Leave out --loss.")
        for name in filter(None, (job.queries, job.lines)):
            if not is_file(name):
                raise UserError(f"There is no file {name}.")
        return job


class ExportJob(Process):
    """A finished folder as a verified copy."""

    source: str = knob(..., "A folder that prune wrote", metavar="SOURCE", option="-", min_length=1)
    out: str = knob(..., "The folder to write; must not exist", metavar="DIR", min_length=1, group="What is made")
    name: str = knob("", "Name of the copy, in its model card")
    gguf: list[str] = knob([], f"Also a verified GGUF file for llama.cpp: {', '.join(WRITTEN)}; may be given several "
                               "times", metavar="TYPE")
    engines: list[str] = knob([], "Also a folder for this program; adds a GGUF file, Q8_0 unless --gguf names one; may be given "
                              "several times", option="for")
    portrait: str = knob("", "The character's picture (PNG, JPEG or WebP; a card in a PNG file is one), for the web page",
                         metavar="FILE")
    measure: str = knob("", "Measure speed and memory of the copy and of MODEL, the dense model that it was pruned from",
                        metavar="MODEL")
    gguf_only: bool = knob(False, "Leave out the model's files for Python: the folder holds the GGUF files and what was made for "
                                  "programs; needs --gguf or --for")
    zip: bool = knob(False, "Also write DIR.zip beside it")


class GgufJob(Process):
    """A model as one GGUF file."""

    model: str = knob(..., MODEL_HELP, metavar="MODEL", option="-", min_length=1)
    type: str = knob("", f"Of the file: {', '.join(WRITTEN)} (default: Q8_0 where the model allows it, else F16)", metavar="TYPE",
                     group="What is made")
    out: str = knob("", "The file to write; must not exist (default: in the data folder, where chat looks for it)", metavar="FILE")
    imatrix: str = knob("", "An importance matrix of this model in llama.cpp's GGUF format, for types below 8 bit (default: the "
                            "folder's own, where it has one); needs --out", metavar="FILE")


class FrontierJob(Process):
    """What to ship: the models of a character at their file types, measured alike; with a target, one is picked and exported."""

    runs: list[str] = knob(..., "Folders that prune wrote, work folders of its runs, or a card: then all its runs on this machine",
                           metavar="RUN_OR_CARD", option="-", min_length=1)
    model: str = knob("", "The dense model (default: the one that the runs were made from)", group="What is measured")
    lines: str = knob("", "The calibration lines: lines.jsonl of a run's work folder (default: found in the data folder)",
                      metavar="FILE")
    types: list[str] = knob([], "A GGUF type; may be given several times (default: F16, Q8_0 and all below that the model's rows "
                                "allow)", option="type", metavar="TYPE")
    rounds: int = knob(3, "Rounds in which the speed of all files is measured (0: not at all)", ge=0, le=100)
    size: float = knob(0.0, "Largest file", unit="MB", metavar="MB", ge=0, group="What is picked")
    memory: float = knob(0.0, "Most memory while it speaks", unit="MB", metavar="MB", ge=0)
    speed: float = knob(0.0, "Fewest tokens a second", metavar="N", ge=0)
    first: float = knob(0.0, "Longest time to the first token", unit="s", metavar="SECONDS", ge=0)
    dense: bool = knob(False, "Look at the dense model alone")
    out: str = knob("", "Export what the limits pick into this folder; must not exist", metavar="DIR")


class ScriptJob(Process):
    """The test script of a character on one or more models."""

    card: str = knob(..., CARD_HELP, metavar="CARD", option="-", min_length=1)
    models: list[str] = knob([], f"{MODEL_HELP}; may be given several times (default starter)", option="model",
                             metavar="MODEL", group="What is asked")
    questions: bool = knob(False, "Only print the questions and their rules, as JSON")
    judge: str = knob("", "A server with log-probabilities, or a model of this machine, to judge what no rule can check",
                     metavar="URL_OR_MODEL")
    judge_model: str = knob("", "The server's model", metavar="NAME")
    type: Literal["", "Q8_0", "F16"] = knob("", SHARED_TYPE_HELP)
    sampling: dict[str, float | int | None] = Field(default_factory=dict)  # the fields of SamplingParams


class SceneJob(Process):
    """A scene of two or three characters."""

    characters: list[str] = knob(..., "A character card (JSON, PNG or CHARX), the name of a bundled one, or a folder that prune or "
                                      "prune-cast wrote, or a character's in it: its own model speaks then",
                                 metavar="CARD_OR_FOLDER", option="-", min_length=1)
    model: str = knob("starter", f"Speaks for the cards: {MODEL_HELP}", group="What is played")
    turns: int = knob(12, "Turns that are played; with 0, what was said is only graded", ge=0, le=200)
    narrator: str = knob("", "What the narrator says first (default: the first character's scenario, and who is there)",
                         metavar="TEXT")
    type: str = knob("", TYPE_HELP)
    judge: str = knob("", "A server with log-probabilities, or a model of this machine, to grade the characters at the end; it "
                          "takes an exam first", metavar="URL|MODEL")
    judge_model: str = knob("", "The server's model", metavar="NAME")
    said: list[list[str]] = Field(default_factory=list)  # [speaker, text]: a scene that goes on
    sampling: dict[str, float | int | None] = Field(default_factory=dict)  # the fields of SamplingParams


class DraftCastJob(Process):
    """A cast of characters, drafted by a model."""

    place: str = knob(..., "What the place is about, in a sentence or two", metavar="PLACE", option="-", min_length=1)
    count: int = knob(6, "Characters", group="What is drafted")
    quota: list[str] = knob([], "How many have which value, like “role: 2 traders, 1 guard”; the rest is open, or shares the "
                                "values without a number; may be given several times", metavar="QUOTA")
    seed: int = knob(0, "Seed of the plan and of the drafts", ge=0, le=MAX_SEED)
    model: str = knob("starter", f"Writes the cards: {MODEL_HELP}")
    teacher: str = knob("", "A server that writes instead (OpenAI's API)", metavar="URL")
    teacher_model: str = knob("", "The server's model", metavar="NAME")
    out: str = knob("", "Folder for plan.json and a card a character; with the same folder, drafting goes on where it stopped, by "
                        "the plan in it, which you may change", metavar="FOLDER")
    plan_only: bool = knob(False, "Only make the plan")
    rows: list[dict[str, str]] = Field(default_factory=list)  # a plan that is made already
    draft: list[int] = Field(default_factory=list)  # the rows to draft; none: those without a card
    known: str = ""  # a JSON file: "cast", members with position, card and line; "library", other cards


class DossierJob(Process):
    """The dossier of a character: what an evaluation asks it."""

    card: str = knob(..., CARD_HELP, metavar="CARD", option="-", min_length=1)
    by: str = knob("", f"Who writes statements and questions: {MODEL_HELP}; or the address of a server (default: what the card "
                       "has, or what is derived from it)", metavar="MODEL_OR_URL", group="What is written")
    by_model: str = knob("", "The server's model", metavar="NAME")
    out: str = knob("", "The card with the dossier in it, as JSON; must not exist (default: the dossier is printed)",
                    metavar="FILE")


class JudgeJob(Process):
    """The exam of a judge: who says this line?"""

    judge: str = knob(..., f"{MODEL_HELP}; or the address of a server with log-probabilities", metavar="MODEL_OR_URL", option="-",
                      min_length=1)
    judge_model: str = knob("", "The server's model", metavar="NAME")
    again: bool = knob(False, "Take the exam again, all of it")


class EvaluateJob(Process):
    """Is it still the character? Runs beside the dense model, measure by measure."""

    card: str = knob(..., CARD_HELP, metavar="CARD", option="-", min_length=1)
    models: list[str] = knob([], "A folder that prune wrote, the work folder of a run, or any other model; may be given several "
                                 "times (default: all finished runs of the character on this machine)", option="model",
                             metavar="MODEL", group="What is asked")
    dense: str = knob("", "What they are compared with (default: the model that the runs were made from; without a run, the first "
                          "model)", metavar="MODEL")
    quick: bool = knob(False, "A first look: few questions, one seed, the measures that need no judge")
    full: bool = knob(False, "Many more questions and three seeds, for narrow intervals")
    measures: list[str] = knob([], "Only this measure; may be given several times", option="measure", metavar="NAME")
    others: list[str] = knob([], "Another card that the character must not be taken for; may be given several times (default: "
                                 "bundled characters)", option="other", metavar="CARD")
    player: str = knob("", "A model on this machine that plays the player in further long conversations, beside those with written "
                           "lines", metavar="MODEL")
    type: Literal["", "Q8_0", "F16"] = knob("", SHARED_TYPE_HELP)
    judge: str = knob("", "A server with log-probabilities, or a model on this machine, to judge what no rule can check; it takes "
                          "an exam first", metavar="URL|MODEL", group="Who judges")
    judge_model: str = knob("", "The server's model", metavar="NAME")
    margins: list[str] = knob([], "How much worse than the dense model still holds, in the measure's unit, like loops=0.1; may "
                                  "be given several times", option="margin", metavar="MEASURE=N", group="The verdict")
    gate: str = knob("", "Exit with 3 where a measure named in this JSON file does not hold", metavar="FILE")
    result: str = knob("", "Also write the result here, as JSON", metavar="FILE")
    html: str = knob("", "Also write the verdict here, as a page", metavar="FILE")
    sampling: dict[str, float | int | None] = Field(default_factory=dict)  # the fields of SamplingParams; the first of the seeds

    def __init__(self, /, **values: Any) -> None:
        super().__init__(**values)
        if self.quick and self.full:
            raise UserError("An evaluation is quick or full, not both.", "Leave one of them out.")


def process_of(values: Mapping[str, Any]) -> Process:
    """How a job with these values runs."""
    return Process(**{name: value for name, value in values.items() if name in Process.model_fields})
