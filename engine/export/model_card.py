"""What an exported folder has for readers: README.md, a model card with the metadata that the hub reads, and the licence's files.

Every figure comes from the report; what a reader must know of the licence comes from licence.py.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine import labels
from engine.base import migrate
from engine.base.files import write_atomic, write_manifest
from engine.base.ids import ReadingId, StageId
from engine.cards.card import parse_card
from engine.cards.prompt import Message, messages
from engine.export.engines import TARGETS
from engine.export.licence import describe_licence, hub_fields, titled, write_legal

TAGS = ["pruned", "roleplay", "persona-pruner"]
_METRICS = (("kl", "kl_divergence", "KL to the dense model, nats a token"), ("top1", "top1_agreement", "Same next token as dense"),
            ("nll", "nll", "NLL of the dense model's answers, nats a token"))
LIMITS = """All measurements are on the lines counted above, against the dense model with the same system prompt. Closeness to
the dense model is not quality: where the dense model plays the character badly, so does this one. Outside its character,
with another system prompt, expect clearly worse answers than the dense model's."""


def write_readme(folder: Path, report: dict[str, Any], card: dict[str, Any] | None) -> None:
    """Write the licence's files, the model card, and the manifest over all; the same report gives the same files."""
    write_legal(folder, report["base"])
    write_atomic(folder / "README.md", render_model_card(report, opening_of(card) if card else (), folder))
    write_manifest(folder)


def render_model_card(report: dict[str, Any], opening: Sequence[Message] = (), folder: Path | None = None) -> str:
    """The model card of an exported folder, from its report. `opening`: the messages with which a conversation begins.

    `folder`: where the card will be, to say which texts of the licence are missing there.
    """
    report = migrate.report(report)
    title = title_of(report)
    licence = ["", "## Licence", "", "\n\n".join(describe_licence(folder, report["base"]))]
    parts = [*_body(report, title), *_files(report), *_speed(report), *licence, *_prompt(opening)]
    return "\n".join([render_front_matter(report, title, ["gguf"] if report.get("gguf") else []), *parts]) + "\n"


def render_front_matter(report: dict[str, Any], title: str, tags: Sequence[str] = ()) -> str:
    """The YAML that opens a model card, by the hub's own classes; `title` is the model's name."""
    from huggingface_hub import EvalResult, ModelCardData

    base, found = report["base"], list(report["readings"].values())[-1]
    origin = base.get("hub") or base.get("origin")
    ancestry = {"base_model": origin, "base_model_relation": "finetune"} if origin else {}
    name = f"{found['lines']} held-out lines of this character ({found['tokens']} answer tokens), answered by the dense model"
    results = [EvalResult(task_type="text-generation", dataset_type="player-lines", dataset_name=name, dataset_split="test",
                          metric_type=kind, metric_name=words, metric_value=round(float(found[field]), 4))
               for field, kind, words in _METRICS]
    library = "gguf" if report.get("gguf_only") else "transformers"
    data = ModelCardData(**ancestry, **hub_fields(base), library_name=library, pipeline_tag="text-generation",
                         tags=[*TAGS, *tags], model_name=title, eval_results=results)
    return f"---\n{data.to_yaml()}\n---\n"


def title_of(report: dict[str, Any]) -> str:
    """What the model is called: its own name, else the character's with its share of the base; as the base's licence wants it."""
    share = report["after"]["parameters"] / report["before"]["parameters"]
    own = report.get("name")
    name = _quoted(own) if own else f"{_quoted(report['character'])} on {share:.0%} of {base_name(report)}"
    return titled(report["base"], name)


def opening_of(card: dict[str, Any]) -> list[Message]:
    """The messages of a card with which every conversation begins, as calibration, chats and measurements have them."""
    return messages(parse_card(json.dumps(card).encode(), "character.json"), [])


def _prompt(opening: Sequence[Message]) -> list[str]:
    """In JSON, a text of the card stays on one line, so it cannot end the block."""
    if not opening:
        return []
    return ["", "## Prompt", "", "Every conversation begins with these messages, in the tokenizer's chat template. The player's "
            "words follow, with the lorebook entries that they trigger and the card's closing instructions in brackets.", "",
            "```json", json.dumps(opening, ensure_ascii=False, indent=1), "```"]


def _body(report: dict[str, Any], title: str) -> list[str]:
    before, after, recipe = report["before"], report["after"], report["recipe"]
    share = 1 - after["parameters"] / before["parameters"]
    reading = next(iter(report["readings"].values()))
    lore = report["lines"].get("sources", {}).get("lore", 0)
    return [
        f"# {title}", "",
        f"{_plays(report)} It is {base_name(report)}{_removed(report, share)}.{_baked(report)}", "",
        "| | dense | this model |", "| --- | --- | --- |",
        f"| parameters | {before['parameters'] / 1e6:,.1f} M | {after['parameters'] / 1e6:,.1f} M |",
        f"| bytes of weights | {before['bytes'] / 1e6:,.1f} MB | {after.get('bytes', 0) / 1e6:,.1f} MB |", "",
        "## How close it stays to the dense model", "",
        f"On {reading['lines']} held-out lines ({reading['tokens']} answer tokens) of {_whose(report)}; KL and NLL in nats a "
        "token.",
        "", "| | KL to dense | same next token | NLL |", "| --- | --- | --- | --- |",
        *(f"| {labels.reading(id)} | {one['kl']:.3f} | {one['top1']:.1%} | {one['nll']:.3f} |"
          for id, one in report["readings"].items()), "", *_characters(report),
        "## How it was made", "",
        f"By Persona Studio, after Persona-Pruner (ICML 2026, arXiv 2606.14695): {report['lines']['train']} calibration "
        f"lines{f', {lore} of them about its lorebook' if lore else ''}, "
        f"{_origin_of_mask(report)}, {_after_mask(report)}seed {recipe['seed']}. "
        f"The system prompt is made from character.json; report.json has every figure.{_beside(report)}", "",
        "## Limits", "", LIMITS,
    ]


def _beside(report: dict[str, Any]) -> str:
    """What the folder has beside the model, as a sentence; "" where that was left out with the model for Python."""
    return "" if report.get("gguf_only") else (
        " persona/ has what the model does not need: the mask over the dense model's channels, and llama.cpp's importance matrix "
        "for quantising.")


def _removed(report: dict[str, Any], share: float) -> str:
    """What was cut off, to follow the base's name."""
    before, after, recipe = report["before"], report["after"], report["recipe"]
    if not recipe["sparsity"]:
        return ""
    return (f" with {recipe['sparsity']:.0%} of every feed-forward layer's channels removed (intermediate size "
            f"{before['intermediate_size']:,} to {after['intermediate_size']:,}), {share:.1%} of all parameters")


def _baked(report: dict[str, Any]) -> str:
    """What baking did, as sentences; "" where nothing was baked."""
    if not (baked := report.get("choices", {}).get(StageId.BAKE)):
        return ""
    adapter = "" if report.get("gguf_only") else (" The folder adapter/ has what baking added, as a LoRA adapter: it is merged "
                                                  "already, and with a scale of -1 it takes baking back.")
    return (f" The card is baked into the weights: it answers with a prompt of {baked['prompt_tokens']} tokens instead of "
            f"{baked['whole_prompt_tokens']:,}, and needs that very prompt.{adapter}")


def _plays(report: dict[str, Any]) -> str:
    if not (cast := report.get("characters")):
        return f"This model plays one character, {_quoted(report['character'])}."
    names = ", ".join(_quoted(one["name"]) for one in cast.values())
    adapted = any(ReadingId.ADAPTED in one["readings"] for one in cast.values())
    how = " Each has a LoRA adapter for it in characters/." if adapted else ""
    return f"This one model plays {len(cast)} characters: {names}.{how}"


def _whose(report: dict[str, Any]) -> str:
    return "all characters" if report.get("characters") else "this character"


def _characters(report: dict[str, Any]) -> list[str]:
    """Of a cast: what each character reads on its own lines."""
    if not (cast := report.get("characters")):
        return []
    rows = []
    for one in cast.values():
        own, adapted = one["readings"][ReadingId.SHARED], one["readings"].get(ReadingId.ADAPTED)
        closer = f"{adapted['kl']:.3f}" if adapted else "-"
        rows.append(f"| {_quoted(one['name'])} | {own['kl']:.3f} | {closer} | {own['lines']} |")
    return ["| KL on its own test lines | the cast's model | with its adapter | lines |", "| --- | --- | --- | --- |", *rows, ""]


def _files(report: dict[str, Any]) -> list[str]:
    """What else the folder has, and the model's size in each format: as written, or calculated."""
    expected, written = report.get("expected_bytes", {}), report.get("gguf", {})
    if not expected:
        return []
    rows = []
    for kind, one in written.items():
        proof = one["proof"]
        found = (f"llama.cpp gave the same next token {proof['same']:,} of {proof['tokens']:,} times, KL {proof['kl']:.2g}, in "
                 f"{proof['prompts']} texts") if {"same", "tokens"} <= proof.keys() else "loaded by llama.cpp"
        found += ", with the importance matrix of its own lines" if one.get("importance_matrix") else ""
        rows.append(f"| GGUF {kind} | {one['bytes'] / 1e6:,.1f} MB | {found} |")
    rows += [f"| {kind} | about {size / 1e6:,.1f} MB | not written |" for kind, size in expected.items() if kind not in written]
    folders = [f"{TARGETS[id].label} (`{id}/{TARGETS[id].start}`)" for id in report.get("engines", {}) if id in TARGETS]
    ready = ["", f"Ready for: {', '.join(folders)}."] if folders else []
    return ["", "## Files and sizes", "", "| | on disk | proof |", "| --- | --- | --- |", *rows, *ready]


def _speed(report: dict[str, Any]) -> list[str]:
    """The two speeds, where they were measured."""
    found = {one["what"]: one for one in report.get("speed", [])}
    if not {"dense", "pruned"} <= found.keys():
        return []
    dense, pruned = found["dense"], found["pruned"]
    slow, fast = dense["tokens_per_second"], pruned["tokens_per_second"]
    return ["", f"On the machine that made this folder it decodes {fast / slow:.2f} times as fast as the dense model ({fast:.1f} "
            f"and {slow:.1f} tokens a second, medians of {pruned['rounds']} rounds of {pruned['tokens']} tokens, "
            f"{pruned['dtype']}), in {pruned['memory'] / 1e6:,.0f} MB of memory instead of {dense['memory'] / 1e6:,.0f} MB."]


def _origin_of_mask(report: dict[str, Any]) -> str:
    recipe = report["recipe"]
    if not recipe["sparsity"]:
        return "nothing removed"
    if report.get("choices", {}).get("mask") == "start":
        learned = any("loss" in point for point in report.get("learning", []))
        why = f"; {recipe['steps']} steps of learning did not improve on it" if learned else ""
        return f"mask by importance ({recipe['start']}{why})"
    return f"mask learned by {'KL to the dense model' if recipe['loss'] == 'kl' else 'cross entropy'} in {recipe['steps']} steps"


def _after_mask(report: dict[str, Any]) -> str:
    """The steps after the mask, each followed by a comma."""
    choices, recipe = report.get("choices", {}), report["recipe"]
    used = lambda name: choices.get(name, {}).get("used", False)
    steps = ["least-squares reconstruction of W_down"] if recipe["reconstruct"] and recipe["sparsity"] else []
    if used(StageId.TUNE):
        steps.append("the kept channels of each layer fine-tuned")
    if used(StageId.TUNE_AGAIN):
        samples = choices[StageId.TUNE_AGAIN]["extra_samples"]
        again = "fine-tuned again" if used(StageId.TUNE) else "the kept channels of each layer fine-tuned"
        steps.append(f"{again} on {samples:,} extra samples from the dense model")
    if recipe["recover"]:
        steps.append("LoRA recovery, merged")
    if baked := choices.get(StageId.BAKE):
        steps.append(f"context distillation on {baked['lessons']:,} answers (LoRA, merged)")
    return "".join(f"{one}, " for one in steps)


def _quoted(name: str) -> str:
    """A name from a card is data: as a JSON string it can neither open a heading nor a link."""
    return json.dumps(name, ensure_ascii=False).translate({ord(sign): None for sign in "[]<>`*#|"})


def base_name(report: dict[str, Any]) -> str:
    """What the base model is called: for a folder whose name on the hub is not known, what its own card says it came from."""
    base = report["base"]
    return str(base["origin"] if base.get("origin") and not base.get("hub") else base["name"])
