"""The command line: python -m engine models | prune | export | chat | script | serve | inspect | cast.

A user's mistake prints one sentence and exits with 2; an interrupted job exits
with 130 and says how to go on; a defect of ours writes its traceback to the log
and exits with 1. Heavy imports wait until a verb needs them.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from engine.base.errors import Interrupted, UserError
from engine.base.process import CHAT_SPINS, SPINS, prepare_libraries
from engine.base.recipe import PRESETS, Recipe
from engine.base.sampling import add_sampling_options
from engine.base.sizes import WRITTEN
from engine.casting import add_subcommands
from engine.export.engines import TARGETS
from engine.running import explain, log_file


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}.", f"See {self.prog} --help.")


def build_parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    parser = _Parser(prog="python -m engine", description="Prune a language model down to one character.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    models = verbs.add_parser("models", help="what can be loaded, what is on disk, sizes")
    models.add_argument("--json", action="store_true", help="print JSON")
    _add_prune(verbs.add_parser("prune", help="the whole job: from a character card to a pruned model folder"))
    export = verbs.add_parser("export", help="a finished folder as a checked and proven copy")
    export.add_argument("source", metavar="SOURCE", help="a folder that prune wrote")
    export.add_argument("--out", required=True, metavar="DIR", help="the folder to write; must not exist")
    export.add_argument("--name", help="what the copy is called in its model card")
    export.add_argument("--gguf", action="append", metavar="TYPE", default=[],
                        help=f"also a verified GGUF file for llama.cpp: {', '.join(WRITTEN)}; may be given several times")
    export.add_argument("--for", action="append", dest="engines", default=[], choices=list(TARGETS),
                        help="also a folder for this program; brings a GGUF file, Q8_0 where --gguf names none; may be given "
                             "several times")
    export.add_argument("--measure", metavar="MODEL", default="",
                        help="measure speed and memory of the copy and of MODEL, the dense model that it was pruned from")
    export.add_argument("--zip", action="store_true", help="also write DIR.zip beside it")
    export.add_argument("--workdir", metavar="DIR", help="where to write events.jsonl (default: nowhere)")
    _add_worker(export)
    chat = verbs.add_parser("chat", help="talk to a character on a model")
    chat.add_argument("model", metavar="MODEL", help="starter, a hub id, or a folder")
    chat.add_argument("--card", help="character card (default: the one in an exported folder)")
    chat.add_argument("--message", help="one message instead of an interactive chat")
    chat.add_argument("--json", action="store_true", help="print JSON")
    add_sampling_options(chat)
    chat.add_argument("--dtype", default="auto", help="auto, fp32, bf16 or fp16")
    _add_script(verbs.add_parser("script", help="the test script of a character on one or more models"))
    serve = verbs.add_parser("serve", help="the chat worker: requests as JSON lines in, answers as JSON lines out")
    serve.add_argument("--dtype", default="auto", help="auto, fp32, bf16 or fp16")
    serve.add_argument("--keep", type=int, default=3, metavar="N", help="models kept in memory (default 3)")
    inspect = verbs.add_parser("inspect", help="what an exported folder is, whether it is whole, what was measured")
    inspect.add_argument("folder", metavar="DIR")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    add_subcommands(verbs.add_parser("cast", help="many characters on one dense model, as masks and small corrections"), _Parser)
    return parser


def _add_prune(prune: argparse.ArgumentParser) -> None:
    prune.add_argument("card", metavar="CARD", help="a character card (JSON, PNG or CHARX), or the name of a bundled one")
    prune.add_argument("--out", metavar="DIR", help="the folder to write; must not exist (needed, except with --until)")
    prune.add_argument("--model", default="starter", help="starter, a hub id, or a folder (default starter)")
    prune.add_argument("--sparsity", type=float, help="share of FFN channels removed, 0 to 0.9 (default 0.25)")
    prune.add_argument("--preset", default="standard", help=f"{', '.join(PRESETS)} (default standard)")
    prune.add_argument("--teacher", default="self", metavar="self|URL", help="who answers: the model itself, or a server")
    prune.add_argument("--teacher-model", metavar="NAME", help="the server's model")
    prune.add_argument("--queries", metavar="FILE", help="questions to use instead of the bundled player lines")
    prune.add_argument("--lines", metavar="FILE", help="finished calibration lines (questions and answers) to use as they are")
    prune.add_argument("--dtype", default="auto", help="auto, fp32, bf16 or fp16")
    prune.add_argument("--load-in", default=None, choices=["16bit", "8bit", "4bit"], help="the frozen base while learning")
    prune.add_argument("--multiple", type=int, help="kept channels are a multiple of this (default 128)")
    prune.add_argument("--seed", type=int, help="default 0")
    prune.add_argument("--steps", type=int, help=f"steps of mask learning, which begins at a sparsity of {Recipe.mask_from:g}")
    prune.add_argument("--further-answers", type=int, metavar="N",
                       help=f"so many more answers to each train line (default {Recipe.further_answers})")
    prune.add_argument("--refit-within", type=float, metavar="FACTOR",
                       help="refit the learned mask unless it reads worse than the start by more than this (default 1.05)")
    prune.add_argument("--recover", action="store_true", default=None,
                       help="tune the layers again on more answers, then fine-tune the whole (LoRA, merged); three times as long")
    prune.add_argument("--workdir", metavar="DIR", help="where stages leave their results (default: in the data folder)")
    prune.add_argument("--resume", action="store_true", help="go on where an earlier run stopped")
    prune.add_argument("--until", choices=["lines"], help="stop when the calibration lines are written")
    _add_worker(prune)


def _add_script(script: argparse.ArgumentParser) -> None:
    script.add_argument("card", metavar="CARD", help="a character card (JSON, PNG or CHARX), or the name of a bundled one")
    script.add_argument("--model", action="append", metavar="MODEL",
                        help="starter, a hub id, or a folder; may be given several times (default starter)")
    script.add_argument("--questions", action="store_true", help="only print the questions and their rules, as JSON")
    script.add_argument("--judge", metavar="URL", help="a server with log-probabilities that judges what no rule can tell")
    script.add_argument("--judge-model", metavar="NAME", help="the server's model")
    add_sampling_options(script)
    script.add_argument("--dtype", default="auto", help="auto, fp32, bf16 or fp16")
    script.add_argument("--workdir", metavar="DIR", help="where to write events.jsonl (default: nowhere)")
    _add_worker(script)


def _add_worker(verb: argparse.ArgumentParser) -> None:
    """The options of a verb that is a long job."""
    verb.add_argument("--json", action="store_true", help="print events as JSON lines")
    verb.add_argument("--leash", action="store_true", help="stop when standard input ends: whoever started the job is gone")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    talks = arguments[:1] in (["chat"], ["serve"]) or arguments[:2] == ["cast", "chat"]
    prepare_libraries(CHAT_SPINS if talks else SPINS)
    try:
        options = build_parser().parse_args(arguments)
        return _dispatch(options, arguments)
    except Interrupted as stop:
        print(f"\n{stop}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _report(error)


def _dispatch(options: argparse.Namespace, arguments: list[str]) -> int:
    if options.verb == "cast":
        from engine import casting

        return casting.run(options)
    from engine import commands

    return getattr(commands, options.verb)(options, arguments)


def _report(error: Exception) -> int:
    """Print what a user is told; a defect's traceback goes to the log."""
    code, sentence = explain(error)
    if code == 1:
        try:
            logging.basicConfig(filename=log_file(), level=logging.INFO, format="%(asctime)s %(message)s", force=True)
            logging.error("defect", exc_info=error)
        except OSError:
            raise error from None
    print(f"Error: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
