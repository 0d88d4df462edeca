"""The YAML that opens a model card: what the hub reads of a folder, by the hub's own classes.

Knows a report alone.
"""

from typing import Any

from engine.export.licence import hub_fields

TAGS = ["pruned", "roleplay", "persona-pruner"]
_METRICS = (("kl", "kl_divergence", "KL to the dense model, nats a token"), ("top1", "top1_agreement", "Same next token as dense"),
            ("nll", "nll", "NLL of the dense model's answers, nats a token"))


def render_front_matter(report: dict[str, Any], title: str, tags: list[str] | None = None) -> str:
    """The front matter between its lines of dashes; `title` is the model's name, `tags` are further ones."""
    from huggingface_hub import ModelCardData

    base = report["base"]
    origin = base.get("hub") or base.get("origin")
    ancestry = {"base_model": origin, "base_model_relation": "finetune"} if origin else {}
    data = ModelCardData(**ancestry, **hub_fields(base), library_name="transformers", pipeline_tag="text-generation",
                         tags=[*TAGS, *(tags or [])], model_name=title, eval_results=_results(report))
    return f"---\n{data.to_yaml()}\n---\n"


def _results(report: dict[str, Any]) -> list[Any]:
    """The last reading, which is of the exported model, as the hub lists results; the data set's name says how large it is."""
    from huggingface_hub import EvalResult

    found = list(report["readings"].values())[-1]
    name = f"{found['lines']} held-out lines of this character ({found['tokens']} answer tokens), answered by the dense model"
    return [EvalResult(task_type="text-generation", dataset_type="player-lines", dataset_name=name, dataset_split="test",
                       metric_type=kind, metric_name=words, metric_value=round(float(found[field]), 4))
            for field, kind, words in _METRICS]
