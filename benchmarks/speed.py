"""python -m benchmarks speed: what the cost tricks bring, as ratios measured side by side in one run.

Each figure is compared with the naive way of doing the same (every prompt encoded whole, padded batches): the same model, the
same lines, in turn, medians of the pairs. Raw figures are printed with the ratios.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from benchmarks.memory import LINES, learning_examples
from benchmarks.meter import drain
from engine.base.files import write_json
from engine.calibration.lines import read_queries
from engine.calibration.rewriting import Voice
from engine.calibration.sensitivity import divergence, states_of
from engine.cards.card import find_bundled
from engine.models.chat_format import encode_chat
from engine.models.ffn import decoder, feed_forwards, masked
from engine.models.kv_cache import growing_cache
from engine.models.loading import load_model, load_tokenizer, locate
from engine.models.packing import Example, pack
from engine.pruning import masks
from engine.pruning.cutting import cut
from engine.pruning.importance import magnitude_scores, top_channels
from engine.running import print_table

PAIRS = 2
QUERIES = 24
CONTEXT = 384  # tokens before the decoded ones
DECODED = 16  # tokens a round
ROUNDS = 9
PERSONAS = ("pim-tuckett", "vessaline-korr")
BATCH = 4  # examples in a padded batch: what fits beside a 16 GB laptop's other programs


def run(options: argparse.Namespace) -> int:
    """Measure, print the table, and write the figures if asked to."""
    figures: dict[str, Any] = {"model": options.model, "threads": torch.get_num_threads()}
    source = drain(locate(options.model))
    tokenizer = load_tokenizer(source)
    for name, part in (("memory of learning", lambda: measure_memory(options.model)),
                       ("sensitivity scoring", lambda: measure_scorer(source, tokenizer)),
                       ("mask learning", lambda: measure_learning(source, tokenizer)),
                       ("decoding", lambda: measure_decoding(source))):
        print(f"measuring {name} ...", file=sys.stderr)
        figures |= part()
    rows = [["scoring, queries a second: ours / naive", figures["scorer_ratio"], "8"],
            ["scoring, rank correlation with naive", figures["scorer_rank_correlation"], ".999"],
            ["learning, examples a second: ours / naive", figures["learning_ratio"], "2.5"],
            ["learning, difference of the loss", figures["learning_loss_difference"], "below .001"],
            ["decoding at 25 %: speed-up / what the bytes promise", figures["decode_of_ideal_25"], ".95"],
            ["decoding at 50 %: speed-up / what the bytes promise", figures["decode_of_ideal_50"], ".95"],
            ["peak memory of learning, where short, less 500 MB, over the 16-bit model", figures["peak_memory_ratio"], "below 2.5"]]
    print_table(f"{options.model}, {figures['threads']} threads", ["figure", "measured", "wanted"],
                [[name, f"{value:.4g}", wanted] for name, value, wanted in rows])
    print(json.dumps(figures, indent=2))
    if options.json:
        write_json(Path(options.json), figures)
    return 0


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call took, and its value."""
    start = time.perf_counter()
    value = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, value


def measure_scorer(source: Any, tokenizer: Any) -> dict[str, float]:
    """Queries a second of packed scoring and of encoding every persona and query whole; their rank correlation."""
    model = load_model(source, torch.float32)
    questions = [query.question for query in read_queries()[: QUERIES * 28: 28]]
    prompts = [[encode_chat(tokenizer, Voice(find_bundled(name)).asked(question))
                for question in questions] for name in PERSONAS]
    packed = lambda: _packed_scores(model, prompts)
    whole = lambda: divergence(*(naive_states(model, one) for one in prompts))
    packed()
    pairs = [(timed(whole), timed(packed)) for _ in range(PAIRS)]
    naive_seconds, packed_seconds = (statistics.median(pair[side][0] for pair in pairs) for side in (0, 1))
    return {"scorer_ratio": statistics.median(slow[0] / fast[0] for slow, fast in pairs),
            "scorer_rank_correlation": rank_correlation(pairs[0][0][1], pairs[0][1][1]),
            "scorer_queries_a_second": QUERIES / packed_seconds, "scorer_queries_a_second_naive": QUERIES / naive_seconds,
            "scorer_queries": QUERIES}


def _packed_scores(model: Any, prompts: list[list[list[int]]]) -> Tensor:
    own, other = (torch.cat([part for _, part in states_of(model, one, 1536)], dim=1) for one in prompts)
    return divergence(own, other)


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation."""
    ranks = torch.stack([values.argsort().argsort().double() for values in (first, second)])
    return float(torch.corrcoef(ranks)[0, 1])


def measure_learning(source: Any, tokenizer: Any) -> dict[str, float]:
    """Examples a second of one packed learning step and of naive straight-through learning on the same lines."""
    model = load_model(source, torch.float32)
    examples = learning_examples(tokenizer)
    rows = pack(examples, 1536)
    scores = magnitude_scores(model)
    k = scores.shape[1] * 3 // 4

    def ours() -> float:
        return masks.learn_step(model, masks.Learning(scores), rows, None, k, 0.02, True)

    def plain() -> float:
        return naive_learn_step(model, examples, top_channels(scores, k))

    ours()
    pairs = [(timed(plain), timed(ours)) for _ in range(PAIRS)]
    naive_seconds, packed_seconds = (statistics.median(pair[side][0] for pair in pairs) for side in (0, 1))
    return {"learning_ratio": statistics.median(slow[0] / fast[0] for slow, fast in pairs),
            "learning_loss_difference": abs(pairs[0][0][1] - pairs[0][1][1]),
            "learning_examples_a_second": LINES / packed_seconds, "learning_examples_a_second_naive": LINES / naive_seconds,
            "learning_lines": LINES, "learning_tokens": sum(row.size for row in rows)}


def measure_decoding(source: Any) -> dict[str, float]:
    """Milliseconds a token of the dense and the cut models, in turn, and the share of the promised speed-up reached."""
    models: dict[int, Any] = {0: load_model(source, torch.float32)}
    for percent in (25, 50):
        model = load_model(source, torch.float32)
        channels = feed_forwards(model)[0].size
        keep = torch.arange(channels * (100 - percent) // 100)
        models[percent] = cut(model, [keep] * len(feed_forwards(model)))
    seconds: dict[int, list[float]] = {percent: [] for percent in models}
    for _ in range(ROUNDS):
        for percent, model in models.items():
            seconds[percent].append(decode_seconds(model))
    figures: dict[str, float] = {}
    size = {percent: sum(p.numel() * p.element_size() for p in model.parameters()) for percent, model in models.items()}
    for percent in models:
        figures[f"decode_milliseconds_{percent}"] = 1000 * statistics.median(seconds[percent])
    for percent in (25, 50):
        ratios = [dense / small for dense, small in zip(seconds[0], seconds[percent], strict=True)]
        figures[f"decode_speedup_{percent}"] = statistics.median(ratios)
        figures[f"decode_ideal_{percent}"] = size[0] / size[percent]
        figures[f"decode_of_ideal_{percent}"] = statistics.median(ratios) / (size[0] / size[percent])
    return figures


@torch.inference_mode()
def decode_seconds(model: Any) -> float:
    """Median seconds a token of DECODED greedy tokens after a context of CONTEXT tokens, by transformers."""
    cache: Any = growing_cache()
    follow = lambda tokens: model(input_ids=torch.tensor([tokens]), past_key_values=cache, use_cache=True).logits[0, -1]
    logits = follow([number + 100 for number in range(CONTEXT)])
    seconds = []
    for _ in range(DECODED + 1):
        start = time.perf_counter()
        logits = follow([int(logits.argmax())])
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def measure_memory(model: str) -> dict[str, float]:
    """Peak memory of a process that loads the model and learns a mask for two steps, in a process of its own."""
    result = subprocess.run([sys.executable, "-m", "benchmarks.memory", model], capture_output=True, text=True, check=True,
                            cwd=Path(__file__).resolve().parents[1])
    return json.loads(result.stdout.strip().splitlines()[-1])


def _padded(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, (B, T) each, padded on the right with token 0."""
    longest = max(map(len, sequences))
    tokens = torch.tensor([list(one) + [0] * (longest - len(one)) for one in sequences])
    seen = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in sequences])
    return tokens, seen


@torch.inference_mode()
def naive_states(model: Any, prompts: Sequence[Sequence[int]]) -> Tensor:
    """States (B, Q, d) after each block at the last prompt token, every prompt encoded whole."""
    found = []
    for begin in range(0, len(prompts), BATCH):
        tokens, seen = _padded(prompts[begin: begin + BATCH])
        states: list[Tensor] = []

        def keep(_module: Any, _inputs: Any, output: Any, states: list[Tensor] = states) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)

        handles = [layer.register_forward_hook(keep) for layer in decoder(model).layers]
        decoder(model)(input_ids=tokens, attention_mask=seen, use_cache=False)
        for handle in handles:
            handle.remove()
        last = seen.sum(dim=1) - 1
        found.append(torch.stack([state[torch.arange(len(last)), last].float() for state in states]))
    return torch.cat(found, dim=1)


def naive_learn_step(model: Any, examples: Sequence[Example], mask: Tensor) -> float:
    """Forward and backward of cross entropy with a mask, the prompt repeated in every padded row; the mean loss."""
    leaf = mask.clone().requires_grad_(True)
    total = sum(len(example.answer) for example in examples)
    loss_sum = 0.0
    for begin in range(0, len(examples), BATCH):
        group = examples[begin: begin + BATCH]
        tokens, seen = _padded([example.prompt + example.answer for example in group])
        labels = torch.full_like(tokens, -100)
        for row, example in enumerate(group):
            labels[row, len(example.prompt): len(example.prompt) + len(example.answer)] = torch.tensor(example.answer)
        with masked(model, leaf):
            logits = model(input_ids=tokens, attention_mask=seen, use_cache=False).logits
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100,
                                            reduction="sum")
            (loss / total).backward()
        loss_sum += float(loss.detach())
    return loss_sum / total
