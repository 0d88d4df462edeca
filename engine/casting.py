"""`python -m engine cast`: build a bank, list, remove, chat with and extract its characters. Imports nothing heavy at the top."""

import argparse
import json
from pathlib import Path

from engine.base.errors import UserError
from engine.base.job import DTYPE_HELP, TYPE_HELP, Process, add_options, process_of
from engine.base.known_models import MODEL_HELP
from engine.base.sampling import add_sampling_options, params_of

HELD = 4  # gathered models kept in memory at once


def add_subcommands(cast: argparse.ArgumentParser, kind: type[argparse.ArgumentParser]) -> None:
    """Add the subcommands of `cast`; `kind` is the class of their parsers."""
    actions = cast.add_subparsers(dest="what", required=True, metavar="WHAT", parser_class=kind)

    def add(name: str, about: str, *, character: bool = False, model: str | None = None) -> argparse.ArgumentParser:
        parser = actions.add_parser(name, help=about)
        parser.add_argument("bank", metavar="BANK", help="the bank's file")
        if character:
            parser.add_argument("character", metavar="CHARACTER")
        if model:
            parser.add_argument("--model", help=model)
            if name != "chat":
                parser.add_argument("--dtype", default="auto", help=DTYPE_HELP)
        return parser

    build = add("build", "add the characters of exported folders to a bank; creates the bank if needed",
                model=f"the dense model that they were pruned from: {MODEL_HELP} (default starter)")
    build.add_argument("folders", nargs="+", metavar="RUN_FOLDER", help="folders that prune wrote")
    build.set_defaults(model="starter")
    build.add_argument("--name", default="", help="what the character is called in the bank (with one folder)")
    build.add_argument("--lines", metavar="FILE", help="lines.jsonl of the run's work folder, for a closer correction")
    listed = add("list", "the characters of a bank, and whether they are intact")
    listed.add_argument("--json", action="store_true", help="print JSON")
    add("remove", "take a character out of a bank", character=True)
    moved = "the bank's dense model, if it has moved"
    chat = add("chat", "talk to one or more characters", model=moved)
    chat.add_argument("characters", nargs="+", metavar="CHARACTER", help="each answers every message, one after the other")
    chat.add_argument("--message", help="one message instead of an interactive chat")
    chat.add_argument("--json", action="store_true", help="print JSON")
    chat.add_argument("--type", default="", help=TYPE_HELP)
    add_sampling_options(chat)
    gather = add("gather", "make the models of characters in the data folder, where chat and serve look for them", model=moved)
    gather.add_argument("characters", nargs="*", metavar="CHARACTER", help="(default: all)")
    extract = add("extract", "a character as a standalone folder, verified like any other", character=True, model=moved)
    extract.add_argument("--out", required=True, metavar="DIR", help="the folder to write; must not exist")
    for parser in (build, gather, extract):
        add_options(parser, Process)


def run(options: argparse.Namespace) -> int:
    """Run a subcommand; returns the exit code."""
    what = {"build": _build, "list": _list, "remove": _remove, "chat": _chat, "gather": _gather, "extract": _extract}
    return what[options.what](options)


def _build(options: argparse.Namespace) -> int:
    from engine.cast.building import build
    from engine.running import Run

    stream = build(Path(options.bank), options.model, [Path(folder) for folder in options.folders], options.dtype, options.name,
                   Path(options.lines) if options.lines else None)
    Run(process_of(vars(options))).follow(stream, lambda: False, "Stopped; the characters reported so far are in the bank.")
    return 0


def _list(options: argparse.Namespace) -> int:
    """Raises UserError when a character is damaged, after listing the others."""
    from engine.cast.bank import list_bank
    from engine.running import print_table

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
    from engine.cast.dense import extract
    from engine.running import Run

    out = Path(options.out)
    stream = extract(Path(options.bank), options.character, out, options.model, options.dtype)
    Run(process_of(vars(options))).follow(stream, out.exists, "Stopped; no files were kept.")
    return 0


def _gather(options: argparse.Namespace) -> int:
    from engine.cast.bank import read_bank
    from engine.cast.dense import keep_gathered
    from engine.running import Run

    path = Path(options.bank)
    bank = read_bank(path, options.characters or None)
    Run(process_of(vars(options))).follow(keep_gathered(path, bank, bank.entries, options.model), lambda: False,
                                          "Stopped; the models made so far are kept.")
    return 0


def _chat(options: argparse.Namespace) -> int:
    """Each character speaks from a GGUF file of its own, made when it first speaks; those used last stay in memory."""
    from engine.cast.bank import read_bank
    from engine.cast.dense import card_of, keep_gathered
    from engine.chat import Speaker, chat
    from engine.running import ProgressPrinter
    from engine.serving.steps import Loop
    from engine.serving.voices import Voices

    path, params = Path(options.bank), params_of(options)
    bank = read_bank(path, options.characters)
    entries = {entry.name: entry for entry in map(bank.find, options.characters)}
    folders = ProgressPrinter().finish(keep_gathered(path, bank, list(entries.values()), options.model))
    voices, loop = Voices(HELD, slots=1), Loop()
    return chat([Speaker(card_of(entry), str(folder), options.type, voices, loop)
                 for entry, folder in zip(entries.values(), folders, strict=True)], params, options)
