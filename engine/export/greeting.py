"""The short proof: a fresh process loads a folder with plain transformers and lets the character say one line.

This file doubles as the program of the fresh process, which imports nothing of
ours but this module: what it can load, any user of transformers can.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TOKENS = 40  # of the line at most


def let_speak(folder: Path, prompt: str) -> dict[str, Any]:
    """Run the fresh process on a prompt (text, as the chat template gives it): text, tokens and seconds of what it said.

    Raises UserError when the folder does not load or nothing is said.
    """
    from engine.base.errors import UserError  # here, so that the fresh process loads nothing of ours

    result = subprocess.run([sys.executable, "-m", "engine.export.greeting"], capture_output=True, text=True, check=False,
                            input=json.dumps({"folder": str(folder.resolve()), "prompt": prompt}),
                            cwd=Path(__file__).resolve().parents[2], start_new_session=True)
    try:
        found = json.loads(result.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        found = {}
    if result.returncode != 0 or not found.get("tokens"):
        detail = "it said nothing" if found else result.stderr.strip()[-300:]
        raise UserError(f"The exported folder failed its proof of loading, so it was not kept ({detail}).",
                        "Prune the character again.")
    return found


def _speak(request: dict[str, Any]) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(request["folder"], dtype="auto",
                                                 device_map="auto" if torch.cuda.is_available() else None).eval()
    tokenizer = AutoTokenizer.from_pretrained(request["folder"])
    encoded = tokenizer(request["prompt"], add_special_tokens=False, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        spoken = model.generate(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"],
                                max_new_tokens=TOKENS, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    answer = spoken[0, encoded["input_ids"].shape[1]:]
    return {"text": str(tokenizer.decode(answer, skip_special_tokens=True)).strip(), "tokens": len(answer),
            "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    print(json.dumps(_speak(json.load(sys.stdin))))
