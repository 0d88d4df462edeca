"""What plain transformers does with an exported folder: the program of a fresh process, which verify.py starts.

It imports nothing of this project: what it can load, any user of transformers can. One line of JSON on standard input is
the request, and its "do" names the work; lines of JSON go out: steps {done, total}, and the findings last.
"""

import copy
import json
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

Found = dict[str, Any]
ANSWER_TOKENS = 40  # of the greeting, at most
KEPT = 2048  # likeliest tokens that `read` keeps at every position


def compare(request: Found) -> Iterator[Found]:
    """The model against the logits that the masked dense model gave before the cut (a safetensors file, `reference`).

    A folder agrees when its mean KL, in nats a token, is within `tolerance` and it goes on speaking.
    """
    import torch
    from safetensors.torch import load_file

    start = time.perf_counter()
    model, tokenizer = _load(request)
    reference = load_file(request["reference"])
    tokens = reference["tokens"].to(model.device)
    with torch.inference_mode():
        logits = model(input_ids=tokens, logits_to_keep=len(reference["logits"])).logits[0].float().cpu()
    reply, spoken = _generate(model, tokenizer, tokens, torch.ones_like(tokens), 24)
    got, expected = logits.log_softmax(-1), reference["logits"].log_softmax(-1)
    divergence = float((expected.exp() * (expected - got)).sum(-1).mean())
    yield {"loaded": True, "agrees": divergence <= request["tolerance"] and spoken > 0, "kl": divergence,
           "largest_difference": float((logits - reference["logits"]).abs().max()), "tolerance": request["tolerance"],
           "top1_agreement": float((logits.argmax(-1) == reference["logits"].argmax(-1)).float().mean()),
           "positions": request["positions"], "dtype": request["dtype"], "reply": reply,
           "question": tokenizer.decode(tokens[0, -24:], skip_special_tokens=True), "seconds": time.perf_counter() - start}


def greet(request: Found) -> Iterator[Found]:
    """One greedy answer to `prompt`, a text from the chat template."""
    start = time.perf_counter()
    model, tokenizer = _load(request)
    encoded = tokenizer(request["prompt"], add_special_tokens=False, return_tensors="pt").to(model.device)
    text, spoken = _generate(model, tokenizer, encoded["input_ids"], encoded["attention_mask"], ANSWER_TOKENS)
    yield {"text": text, "tokens": spoken, "seconds": time.perf_counter() - start}


def time_decoding(request: Found) -> Iterator[Found]:
    """Tokens a second, the median of the rounds, and the most memory that this process took, in bytes."""
    import psutil
    import torch

    model, _ = _load(request)
    prompt = torch.arange(10, 42, device=model.device)[None] % model.config.vocab_size
    speeds = []
    with torch.inference_mode():
        for length in [4, *[request["tokens"]] * request["rounds"]]:  # a short one first, to warm up
            step = model(input_ids=prompt, use_cache=True)
            begun = time.perf_counter()
            for _ in range(length):
                token = step.logits[:, -1:].argmax(-1)
                step = model(input_ids=token, past_key_values=step.past_key_values, use_cache=True)
            speeds.append(length / (time.perf_counter() - begun))
    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _peak_memory(psutil.Process().memory_info())
    yield {"tokens_per_second": statistics.median(speeds[1:]), "memory": memory}


def read(request: Found) -> Iterator[Found]:
    """Write the likeliest next tokens at every position of each text after its prompt: the reference of GGUF files.

    `adapters`: folders of LoRA adapters, and `adapter_of`: which of them each prompt is for.

    `out`: safetensors with tokens and logprobs, both (positions, KEPT or the vocabulary), best first.
    """
    import torch
    from safetensors.torch import save_file

    model, _ = _load(request, attn_implementation=request["attention"], device_map=None)
    adapters, adapter_of = request.get("adapters", []), request.get("adapter_of")
    for number, folder in enumerate(adapters):
        model = _with_adapter(model, folder, str(number))
    kept = min(KEPT, model.config.vocab_size)
    tokens, logprobs = [], []
    columns = zip(*(prompt[:-1] for prompt in request["prompts"]), strict=False)
    shared = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]  # computed once
    shared = [] if adapter_of else shared  # each adapter has states of its own
    with torch.inference_mode():
        begun = model(input_ids=torch.tensor([shared]), use_cache=True, logits_to_keep=1).past_key_values if shared else None
    for done, (prompt, text) in enumerate(zip(request["prompts"], request["texts"], strict=True), start=1):
        if adapter_of:
            model.set_adapter(str(adapter_of[done - 1]))
        row = torch.tensor([[*prompt[len(shared):], *text[:-1]]])
        with torch.inference_mode():
            logits = model(input_ids=row, past_key_values=copy.deepcopy(begun), use_cache=begun is not None,
                           logits_to_keep=len(text)).logits[0]
        best = logits.float().log_softmax(-1).topk(kept)
        tokens.append(best.indices.int())
        logprobs.append(best.values)
        yield {"done": done, "total": len(request["prompts"])}
    save_file({"tokens": torch.cat(tokens), "logprobs": torch.cat(logprobs)}, request["out"])
    yield {"read": sum(map(len, request["texts"]))}


def _with_adapter(model: Any, folder: str, name: str) -> Any:
    """The model with one more adapter."""
    from peft import PeftModel

    if isinstance(model, PeftModel):
        model.load_adapter(folder, adapter_name=name)
        return model
    return PeftModel.from_pretrained(model, folder, adapter_name=name).eval()


def _load(request: Found, **more: Any) -> tuple[Any, Any]:
    """Model and tokenizer of the request's folder, in its dtype ("auto": the folder's own)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    dtype = request.get("dtype", "auto")
    placed = {"device_map": "auto" if torch.cuda.is_available() else None, **more}
    model = AutoModelForCausalLM.from_pretrained(
        request["folder"], dtype=dtype if dtype == "auto" else getattr(torch, dtype), use_safetensors=True,
        trust_remote_code=False, local_files_only=True, **placed)
    return model.eval(), AutoTokenizer.from_pretrained(request["folder"])


def _generate(model: Any, tokenizer: Any, tokens: Any, attention_mask: Any, most: int) -> tuple[str, int]:
    """The greedy answer to a prompt (1, T) and its number of tokens."""
    answer = model.generate(input_ids=tokens, attention_mask=attention_mask, max_new_tokens=most, do_sample=False,
                            pad_token_id=tokenizer.eos_token_id)[0, tokens.shape[1]:]
    return str(tokenizer.decode(answer, skip_special_tokens=True)).strip(), len(answer)


def _peak_memory(info: Any) -> int:
    """The most bytes that this process ever had resident; `info`: psutil's figures, which include it on Windows."""
    if hasattr(info, "peak_wset"):
        return int(info.peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


WORK = {"compare": compare, "greet": greet, "time": time_decoding, "read": read}


if __name__ == "__main__":
    asked = json.loads(sys.stdin.readline())
    for line in WORK[asked["do"]](asked):
        print(json.dumps(line), flush=True)
