"""What transformers gives the texts that llama.cpp said: the reference of a GGUF file's proof, made in a fresh process.

This file doubles as the program of that process, which imports nothing of ours. Requests and findings are lines of JSON, as
in gguf_speaking.py.
"""

import copy
import json
import sys
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

KEPT = 2048  # likeliest tokens that are kept of every position


def read(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Write the likeliest next tokens at every position of each text behind its prompt, by a model in fp32.

    `out`: safetensors with tokens and logprobs, both (positions, KEPT or the vocabulary), best first.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(
        request["folder"], dtype=getattr(torch, request["dtype"]), use_safetensors=True, trust_remote_code=False,
        local_files_only=True, attn_implementation=request["attention"]).eval()
    kept = min(KEPT, model.config.vocab_size)
    tokens, logprobs = [], []
    shared = _shared(request["prompts"])
    with torch.inference_mode():
        begun = model(input_ids=torch.tensor([shared]), use_cache=True, logits_to_keep=1).past_key_values if shared else None
    for done, (prompt, text) in enumerate(zip(request["prompts"], request["texts"], strict=True), start=1):
        row = torch.tensor([[*prompt[len(shared):], *text[:-1]]])
        with torch.inference_mode():
            said = model(input_ids=row, past_key_values=copy.deepcopy(begun), use_cache=begun is not None,
                         logits_to_keep=len(text)).logits[0]
        best = said.float().log_softmax(-1).topk(kept)
        tokens.append(best.indices.int())
        logprobs.append(best.values)
        yield {"done": done, "total": len(request["prompts"])}
    save_file({"tokens": torch.cat(tokens), "logprobs": torch.cat(logprobs)}, request["out"])
    yield {"read": sum(map(len, request["texts"]))}


def _shared(prompts: list[list[int]]) -> list[int]:
    """The tokens with which all prompts begin, which are computed once; at least one token of each prompt is left."""
    columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]


def main() -> None:
    """Answer the one request."""
    for line in read(json.loads(sys.stdin.readline())):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
