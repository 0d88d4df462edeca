"""What `python -m engine cast` does: build a bank, list it, talk to its characters, take one out, extract one."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from engine.base.sampling import SamplingParams, params_of
from engine.chat import HOW_TO_END, Speaker, converse
from engine.console import ProgressPrinter, print_table
from engine.running import Run


def run(options: argparse.Namespace) -> int:
    """Do what was asked for; the exit code."""
    return {"build": _build, "list": _list, "remove": _remove, "chat": _chat, "extract": _extract}[options.what](options)


def _build(options: argparse.Namespace) -> int:
    from engine.cast.building import build

    path = Path(options.bank)
    stream = build(path, options.model, [Path(folder) for folder in options.folders], options.dtype, options.name,
                   Path(options.lines) if options.lines else None)
    Run(options).follow(stream, lambda: False, "Stopped; the characters that were told are in the bank.")
    return 0


def _list(options: argparse.Namespace) -> int:
    """Exit code 2 when a character is damaged."""
    from engine.base.errors import UserError
    from engine.cast.bank import list_bank

    bank, faults = list_bank(Path(options.bank))
    rows = [{"name": one.name, "character": one.report["character"], "kept": one.delta.kept,
             "rank": one.delta.rank, "bytes": one.bytes, "made": one.report.get("made", "")} for one in bank.entries]
    if options.json:
        print(json.dumps({"base": vars(bank.base), "shape": bank.shape, "characters": rows, "faults": faults}, ensure_ascii=False,
                         indent=2))
    else:
        print_table(f"{options.bank}: characters of {bank.base.name} (sha256 {bank.base.sha256[:12]})",
                    ["name", "character", "channels kept", "rank", "size"],
                    [[row["name"], row["character"], f"{row['kept']:,} of {bank.shape[2]:,}", row["rank"],
                      f"{row['bytes'] / 1e6:.2f} MB"] for row in rows])
    if faults:
        raise UserError(" ".join(faults))
    return 0


def _remove(options: argparse.Namespace) -> int:
    from engine.cast.bank import remove

    print(f"{remove(Path(options.bank), options.character)} is no longer in {options.bank}.")
    return 0


def _extract(options: argparse.Namespace) -> int:
    from engine.cast.extracting import extract

    out = Path(options.out)
    stream = extract(Path(options.bank), options.character, out, options.model, options.dtype)
    Run(options).follow(stream, out.exists, "Stopped; nothing was left behind.")
    return 0


def _chat(options: argparse.Namespace) -> int:
    """One character speaks as a gathered model, several as rows of a masked batch."""
    from engine.cast.bank import read_bank
    from engine.cast.dense import load_dense_of
    from engine.cast.extracting import card_of
    from engine.cast.gather import gather
    from engine.serving.shelf import Loaded

    path, params = Path(options.bank), params_of(options)
    bank = read_bank(path, options.characters)
    entries = list({entry.name: entry for entry in map(bank.find, options.characters)}.values())
    dense = ProgressPrinter().finish(load_dense_of(path, bank, options.model, options.dtype))
    if len(entries) == 1:
        gathered = Loaded(entries[0].name, gather(dense.model, entries[0].delta), dense.tokenizer_of(entries[0].report))
        ask = _one(Speaker(card_of(entries[0]), gathered), params, options)
    else:
        ask = _several(dense, entries, params, options)
    if options.message is not None:
        ask(options.message)
        return 0
    print(HOW_TO_END)
    converse(ask)
    return 0


def _one(speaker: Speaker, params: SamplingParams, options: argparse.Namespace) -> Any:
    def ask(message: str) -> None:
        if options.json:
            print(json.dumps(speaker.reply_whole(message, params), ensure_ascii=False))
            return
        print(f"{speaker.card.char}: ", end="")
        speaker.print_reply(message, params)

    return ask


def _several(dense: Any, entries: list[Any], params: SamplingParams, options: argparse.Namespace) -> Any:
    """All characters are asked at once; each keeps its own conversation. Drawn by temperature and top-p alone."""
    from engine.cast.extracting import card_of
    from engine.cast.masked_batch import MaskedBatch, answer_together
    from engine.models.chat_format import endings
    from engine.models.sampling import Sampling
    from engine.serving.shelf import Loaded

    batch = MaskedBatch(dense.model, [entry.delta for entry in entries])
    speakers = [Speaker(card_of(entry), Loaded(entry.name, dense.model, dense.tokenizer_of(entry.report))) for entry in entries]
    sampling = Sampling(endings(dense.tokenizer), params.max_tokens, params.temperature, params.top_p, params.seed or 0)

    def ask(message: str) -> None:
        start = time.perf_counter()
        prompts = [speaker.prompt(message, params) for speaker in speakers]
        for number, speaker in enumerate(speakers):
            batch.keep_prefix(number, speaker.opening())
        steps = answer_together(batch, list(enumerate(prompts)), [sampling] * len(prompts))
        answers = None
        while answers is None:
            try:
                next(steps)
            except StopIteration as end:
                answers = end.value
        seconds = time.perf_counter() - start
        for speaker, answer in zip(speakers, answers, strict=True):
            speaker.keep(message, dense.tokenizer.decode(answer.tokens, skip_special_tokens=True))
        _tell(speakers, sum(len(answer.tokens) for answer in answers), seconds, options)

    return ask


def _tell(speakers: list[Speaker], tokens: int, seconds: float, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps([{"character": speaker.card.char, "message": speaker.history[-2][1], "reply": speaker.history[-1][1]}
                          for speaker in speakers], ensure_ascii=False))
        return
    for speaker in speakers:
        print(f"{speaker.card.char}: {speaker.history[-1][1]}")
    print(f"({tokens} tokens in {seconds:.1f} s, {tokens / max(seconds, 1e-9):.1f} tokens/s together)")
