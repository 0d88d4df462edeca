"""The grammar of `python -m engine cast`: what to do with a bank, and its options. Imports nothing heavy."""

import argparse

from engine.base.sampling import add_sampling_options


def add_deeds(cast: argparse.ArgumentParser, kind: type[argparse.ArgumentParser]) -> None:
    """Give the verb `cast` its deeds; `kind` is the class of their parsers."""
    deeds = cast.add_subparsers(dest="what", required=True, metavar="WHAT", parser_class=kind)
    build = deeds.add_parser("build", help="put the characters of exported folders into a bank")
    build.add_argument("bank", metavar="BANK", help="the bank's file; made where there is none")
    build.add_argument("folders", nargs="+", metavar="RUN_FOLDER", help="folders that prune wrote")
    build.add_argument("--model", default="starter", help="the dense model that they were cut from (default starter)")
    build.add_argument("--name", default="", help="what the character is called in the bank (with one folder)")
    build.add_argument("--lines", metavar="FILE", help="lines.jsonl of the run's work folder, for a closer correction")
    build.add_argument("--dtype", default="auto", help="auto, fp32, bf16 or fp16")
    build.add_argument("--workdir", metavar="DIR", help="where to write events.jsonl (default: nowhere)")
    _add_job(build)
    listed = deeds.add_parser("list", help="the characters of a bank, and whether they are whole")
    listed.add_argument("bank", metavar="BANK")
    listed.add_argument("--json", action="store_true", help="print JSON")
    remove = deeds.add_parser("remove", help="take a character out of a bank")
    remove.add_argument("bank", metavar="BANK")
    remove.add_argument("character", metavar="CHARACTER")
    chat = deeds.add_parser("chat", help="talk to a character, or to several at once")
    chat.add_argument("bank", metavar="BANK")
    chat.add_argument("characters", nargs="+", metavar="CHARACTER",
                      help="more than one are asked the same, in one masked batch, and drawn by temperature and top-p alone")
    chat.add_argument("--model", help="the bank's dense model, where it has moved")
    chat.add_argument("--message", help="one message instead of an interactive chat")
    chat.add_argument("--json", action="store_true", help="print JSON")
    add_sampling_options(chat)
    chat.add_argument("--dtype", default="auto", help="auto, fp32, bf16 or fp16")
    extract = deeds.add_parser("extract", help="a character as a standalone folder, proven like any other")
    extract.add_argument("bank", metavar="BANK")
    extract.add_argument("character", metavar="CHARACTER")
    extract.add_argument("--out", required=True, metavar="DIR", help="the folder to write; must not exist")
    extract.add_argument("--model", help="the bank's dense model, where it has moved")
    extract.add_argument("--dtype", default="auto", help="auto, fp32, bf16 or fp16")
    extract.add_argument("--workdir", metavar="DIR", help="where to write events.jsonl (default: nowhere)")
    _add_job(extract)


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print events as JSON lines")
    parser.add_argument("--leash", action="store_true", help="stop when standard input ends: whoever started the job is gone")
