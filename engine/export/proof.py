"""The proof: a fresh process loads the exported folder with plain transformers and compares.

The reference is what the masked dense model says, written before the cut. This
file doubles as the program of the fresh process, which imports nothing of ours
but this module: what it can load, any user of transformers can.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

POSITIONS = 48  # token positions whose logits are compared
# Mean KL, nats a token, between the two readings. In half precision the cut model's shorter sums round differently in every
# layer (single logits were seen 1.0 apart in bfloat16, at a mean KL of .0015); one layer whose channels are out of step
# reads .16 or more. A single wrong channel is seen in fp32 only.
TOLERANCE = {"float32": 1e-6, "float16": 5e-3, "bfloat16": 0.02}


def write_reference(model: Any, row: Any, path: Path) -> None:
    """Write the logits (T, vocabulary) of the first example of a packed row, under whatever hooks are active."""
    end = int(row.last[0]) + 1
    tokens = row.tokens[:, :end].to(next(model.parameters()).device)
    with torch.inference_mode():
        logits = model(input_ids=tokens, use_cache=False, logits_to_keep=POSITIONS).logits[0].float().cpu()
    save_file({"tokens": tokens.cpu(), "logits": logits.contiguous()}, path)


def prove(folder: Path, reference: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Run the fresh process; its findings. Raises UserError when the folder does not load or does not agree."""
    from engine.base.errors import UserError  # here, so that the fresh process loads nothing of ours

    command = [sys.executable, "-m", "engine.export.proof"]
    request = {"folder": str(folder.resolve()), "reference": str(reference.resolve()), "dtype": str(dtype).removeprefix("torch.")}
    result = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True,
                            cwd=Path(__file__).resolve().parents[2], check=False,
                            start_new_session=True)  # Ctrl-C is for the job, which ends after the proof
    try:
        found = json.loads(result.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        found = {"loaded": False}
    if result.returncode != 0 or not found.get("agrees"):
        detail = result.stderr.strip()[-300:]
        if found.get("loaded"):
            detail = f"KL {found['kl']:.3g}, largest difference {found['largest_difference']:.3g}"
        raise UserError(f"The exported folder failed its proof of loading, so it was not kept ({detail}).",
                        "Please report this with the job's events.jsonl.")
    return found


def _compare(request: dict[str, Any]) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    start = time.perf_counter()
    dtype = getattr(torch, request["dtype"])
    model = AutoModelForCausalLM.from_pretrained(request["folder"], dtype=dtype,
                                                 device_map="auto" if torch.cuda.is_available() else None).eval()
    tokenizer = AutoTokenizer.from_pretrained(request["folder"])
    reference = load_file(request["reference"])
    tokens = reference["tokens"].to(model.device)
    with torch.inference_mode():
        logits = model(input_ids=tokens, logits_to_keep=POSITIONS).logits[0].float().cpu()
        difference = float((logits - reference["logits"]).abs().max())
        spoken = model.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=24,
                                do_sample=False, pad_token_id=tokenizer.eos_token_id)
    reply = str(tokenizer.decode(spoken[0, tokens.shape[1]:], skip_special_tokens=True)).strip()
    said, expected = logits.log_softmax(-1), reference["logits"].log_softmax(-1)
    divergence = float((expected.exp() * (expected - said)).sum(-1).mean())
    agreement = float((logits.argmax(-1) == reference["logits"].argmax(-1)).float().mean())
    return {"loaded": True, "agrees": divergence <= TOLERANCE[request["dtype"]] and spoken.shape[1] > tokens.shape[1],
            "kl": divergence, "largest_difference": difference, "tolerance": TOLERANCE[request["dtype"]],
            "top1_agreement": agreement, "positions": POSITIONS, "dtype": request["dtype"], "reply": reply,
            "question": tokenizer.decode(tokens[0, -24:], skip_special_tokens=True), "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    print(json.dumps(_compare(json.load(sys.stdin))))
