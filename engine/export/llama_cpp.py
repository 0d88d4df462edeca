"""One GGUF file in llama.cpp: greedy text, log-probabilities of each next token, speed, memory. The program of a fresh process.

It imports nothing of this project and no torch, so that the memory it reports is llama.cpp's. Requests and findings are lines
of JSON, as in plain_transformers.py.
"""

import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

TOP = 256  # likeliest tokens whose log-probabilities are asked for, at every position
SLOTS = 4  # prompts that are read side by side
SPEED_TOKENS = 48
_THREADS = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


class Server:
    """llama.cpp's own server within this process, on a local port."""

    def __init__(self, file: str, context: int, slots: int, exact: bool, adapters: Sequence[str] = ()) -> None:
        """`context`: tokens a slot. `exact`: keys and values of the cache in fp32, not in llama.cpp's usual fp16. `adapters`: GGUF
        files of LoRA adapters, all at scale 1."""
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path, settings.n_ctx, settings.n_parallel = file, context * slots, slots
        settings.port, settings.warmup, settings.verbosity, settings.n_gpu_layers = 0, False, -1, 0
        settings.swa_full, settings.fit_params, settings.cache_ram_mib = True, False, 0
        # The file's chat template is a program that others may have written, and would be tried out.
        settings.use_jinja, settings.enable_chat_template, settings.chat_template = False, False, "chatml"
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = _THREADS
        settings.lora_adapters = [_adapter(xllamacpp.CommonAdapterLoraInfo(), one) for one in adapters]
        if exact:
            settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = xllamacpp.Server(settings)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        request = urllib.request.Request(self.server.listening_address + path, json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())

    def complete(self, prompt: Sequence[int], tokens: int, **more: Any) -> dict[str, Any]:
        """What follows a prompt of token ids, greedily."""
        return self.post("/completion", {"prompt": list(prompt), "n_predict": tokens, "temperature": 0, "cache_prompt": True,
                                         "return_tokens": True, **more})


def _adapter(settings: Any, file: str) -> Any:
    settings.path, settings.scale = file, 1.0
    return settings


def speak(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Greedy text of `tokens` tokens after each prompt, never one of `banned`; under LoRA `adapters`, if any are given."""
    context = max(map(len, request["prompts"])) + request["tokens"] + 8
    server = Server(request["file"], context, SLOTS, exact=True, adapters=request.get("adapters", ()))
    bias = [[token, False] for token in request["banned"]]
    count, adapter_of = len(request.get("adapters", ())), request.get("adapter_of")  # which one each prompt is for; else all

    def work(index: int) -> list[int]:
        one = {"lora": [{"id": id, "scale": float(id == adapter_of[index])} for id in range(count)]} if adapter_of else {}
        return server.complete(request["prompts"][index], request["tokens"], id_slot=index % SLOTS, logit_bias=bias,
                               **one)["tokens"]

    texts = yield from _side_by_side(work, len(request["prompts"]))
    yield {"texts": texts}


def read(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The likeliest next tokens, with log-probabilities, at every position of each text; token ids of `spellings`; speed."""
    prompts, texts = request["prompts"], request["texts"]
    speed = measure_speed(request["file"], prompts[0])
    context = max(len(prompt) + len(text) for prompt, text in zip(prompts, texts, strict=True)) + 8
    server = Server(request["file"], context, SLOTS, exact=True)

    # llama.cpp gives no log-probabilities for an answer that ends the text or stops within a character, so the answer is
    # always this whole token. The bias does not change the log-probabilities it reports.
    bias = [[request["plain"], 1e6]]

    def work(index: int) -> list[list[list[float]]]:
        positions = []
        for done in range(len(texts[index])):
            answer = server.complete([*prompts[index], *texts[index][:done]], 1, n_probs=TOP, id_slot=index % SLOTS,
                                     logit_bias=bias)
            top = answer["completion_probabilities"][0]["top_logprobs"]
            positions.append([[one["id"], one["logprob"]] for one in top])
        return positions

    top = yield from _side_by_side(work, len(prompts))
    spelled = [server.post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
               for text in request["spellings"]]
    Path(request["out"]).write_text(json.dumps(top))
    yield {"spelled": spelled, **speed}


def speed(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What measure_speed finds with the first prompt."""
    yield measure_speed(request["file"], request["prompts"][0])


def measure_speed(file: str, prompt: Sequence[int]) -> dict[str, float]:
    """Tokens a second of one conversation, and by how many bytes it makes the process grow, the mapped file included."""
    import psutil
    import xllamacpp  # noqa: F401 - its own size is not the model's

    process = psutil.Process()
    before, start = process.memory_info().rss, time.perf_counter()
    server = Server(file, len(prompt) + SPEED_TOKENS + 8, 1, exact=False)
    loaded = time.perf_counter() - start
    timings = server.complete(prompt, SPEED_TOKENS, ignore_eos=True)["timings"]
    return {"load_seconds": loaded, "tokens_per_second": timings["predicted_per_second"], "speed_tokens": timings["predicted_n"],
            "prompt_tokens_per_second": timings["prompt_per_second"], "memory_bytes": process.memory_info().rss - before,
            "threads": _THREADS}


def _side_by_side(work: Callable[[int], Any], count: int) -> Generator[dict[str, Any], None, list[Any]]:
    """Do `work` for 0 to count - 1, several at a time; the results in order."""
    pool = ThreadPoolExecutor(SLOTS)
    try:
        futures = [pool.submit(work, index) for index in range(count)]
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            yield {"done": done, "total": count}
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


WORK = {"speak": speak, "read": read, "speed": speed}


if __name__ == "__main__":
    asked = json.loads(sys.stdin.readline())
    for line in WORK[asked["do"]](asked):
        print(json.dumps(line), flush=True)
