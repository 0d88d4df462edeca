"""The benchmarks' command line: python -m benchmarks speed | fidelity | swap | export | squeeze | baking | loops | speech |
soak | studio | measures | drop | samples | drawings.

Exit codes as for the engine: 2 for a user's mistake, 130 for an interrupted run. Heavy imports wait until a benchmark runs.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.base.errors import Interrupted, UserError
from engine.base.job import DTYPE_HELP, PRESETS
from engine.base.known_models import KNOWN, MODEL_HELP
from engine.base.options import Parser
from engine.base.process import prepare_libraries

MODULES = {"studio": "studio.costs", "measures": "proofs"}  # those not named like their verb
SPEECH_PARTS = ("speed", "first", "cold", "replies", "page")
STUDIO_PARTS = ("start", "polling", "tabs", "speech", "watching")


def build_parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    parser = Parser(prog="python -m benchmarks", description="Measure this machine, and the methods of pruning.")
    verbs = parser.add_subparsers(dest="what", required=True, metavar="WHAT", parser_class=Parser)
    speed = verbs.add_parser("speed", help="how much faster the engine is than the straightforward way, on this machine")
    _add_model(speed)
    _add_json(speed)
    _add_fidelity(verbs.add_parser("fidelity", help="every method of pruning on the same held-out lines; resumes by itself"))
    swap = verbs.add_parser("swap", help="whether a mask is specific to its character: swapped masks, overlap, chance")
    _add_cells(swap)
    swap.add_argument("--json", metavar="FILE", help="where the figures are kept (default: swap.json in the work folder)")
    swap.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    export = verbs.add_parser("export", help="GGUF files of a pruned model: times, sizes, proofs, speed")
    export.add_argument("--model", default="starter", help=f"the dense model: {MODEL_HELP}")
    export.add_argument("--folder", metavar="DIR", help="a folder that prune wrote from it (default: a quick cut of 25 %%)")
    export.add_argument("--types", nargs="+", metavar="TYPE", default=["F32", "F16", "BF16", "Q8_0", "Q4_1", "Q4_0"],
                        help="default F32 F16 BF16 Q8_0 Q4_1 Q4_0")
    export.add_argument("--rounds", type=int, default=3, help="dense and pruned in turn, so many times (default 3)")
    _add_json(export)
    squeeze = verbs.add_parser("squeeze", help="what an importance matrix is worth to a character's GGUF files")
    squeeze.add_argument("--run", nargs=2, action="append", metavar=("FOLDER", "WORK_FOLDER"),
                         help="a finished folder and the work folder of its run; may be given several times")
    squeeze.add_argument("--name", default="", help="of a single run among the figures (default: its folder's)")
    squeeze.add_argument("--types", nargs="+", metavar="TYPE", default=["Q5_0", "Q4_1", "IQ4_NL", "Q4_0"],
                         help="default Q5_0 Q4_1 IQ4_NL Q4_0")
    _add_json(squeeze)
    baking = verbs.add_parser("baking", help="what a baked character's short prompt saves: the first token, keys and values")
    _add_model(baking)
    baking.add_argument("--characters", nargs="+", default=["pim-tuckett", "zubaida-marr"], metavar="NAME",
                        help="default pim-tuckett zubaida-marr")
    baking.add_argument("--rounds", type=int, default=4, metavar="N", help="over five questions (default 4)")
    _add_json(baking)
    loops = verbs.add_parser("loops", help="how often an answer runs in circles in a long conversation")
    loops.add_argument("models", nargs="+", metavar="MODEL", help="a folder that prune wrote; others are asked with its card")
    loops.add_argument("--conversations", type=int, default=5, metavar="N", help="of 20 turns (default 5)")
    _add_json(loops)
    _add_speech(verbs.add_parser("speech", help="chats, the server and the page that speaks, beside llama.cpp alone"))
    _add_soak(verbs.add_parser("soak", help="many players on one server: whether a reply is lost or another's; its memory"))
    studio = verbs.add_parser("studio", help="what the studio itself costs")
    studio.add_argument("--only", nargs="+", choices=STUDIO_PARTS, default=STUDIO_PARTS[:-1],
                        help="default: all but watching, which takes as long as a quick run")
    _add_json(studio)
    _add_measures(verbs.add_parser("measures", help="whether the measures of an evaluation measure; resumes by itself"))
    _add_drop(verbs.add_parser("drop", help="how much less a run loses than a plain cut, by the measures that measure"))
    samples = verbs.add_parser("samples", help="one answer of Pim by each model, for the shelf of models")
    samples.add_argument("models", nargs="*", default=list(KNOWN), metavar="MODEL", help=f"default {' '.join(KNOWN)}")
    drawings = verbs.add_parser("drawings", help="the pictures of the docs, from the rows (needs Chromium)")
    drawings.add_argument("--out", metavar="FOLDER", default="docs/figures", help="default docs/figures")
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="starter", help=MODEL_HELP)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")


def _add_speech(speech: argparse.ArgumentParser) -> None:
    _add_model(speech)
    speech.add_argument("--only", nargs="+", choices=SPEECH_PARTS, default=SPEECH_PARTS)
    speech.add_argument("--rounds", type=int, default=3, metavar="N", help="of every measurement (default 3)")
    speech.add_argument("--tokens", type=int, default=96, metavar="N", help="longest reply (default 96)")
    speech.add_argument("--replies", type=int, default=0, metavar="N", help="replies with game actions to check (default 0)")
    speech.add_argument("--before", type=Path, metavar="CHECKOUT", help="also measure the chat worker of another checkout")
    speech.add_argument("--page", type=Path, metavar="FOLDER", help="the folder web of an export --for web, measured in Chromium")
    _add_json(speech)


def _add_measures(measures: argparse.ArgumentParser) -> None:
    _add_model(measures)
    measures.add_argument("--characters", nargs="+", default=["6"], metavar="N|NAME",
                          help="how many of the bundled characters, or which ones, or card files (default 6)")
    measures.add_argument("--measures", nargs="+", metavar="NAME", help="some of them only (default: all that need no judge)")
    measures.add_argument("--part", type=float, default=1.0, metavar="SHARE", help="of the questions that are asked (default 1)")
    measures.add_argument("--table", action="store_true", help="measure nothing; print the table of the rows that are there")
    measures.add_argument("--workdir", metavar="DIR", help="where everything is kept (default: bench/measures in the data folder)")
    measures.add_argument("--json", type=Path, metavar="FILE",
                          help="where the rows are kept (default: benchmarks/rows/measures.json, and the table in assets)")


def _add_drop(drop: argparse.ArgumentParser) -> None:
    _add_model(drop)
    drop.add_argument("--run", nargs="+", metavar="FOLDER", help="finished runs of this model, one a character")
    drop.add_argument("--part", type=float, default=1.0, metavar="SHARE", help="of the questions that are asked (default 1)")
    drop.add_argument("--table", action="store_true", help="measure nothing; print the results that are kept, of all models")
    drop.add_argument("--workdir", metavar="DIR", help="where answers are kept (default: bench/drop in the data folder)")
    drop.add_argument("--json", type=Path, metavar="FILE", help="where the results are kept (default: benchmarks/rows/drop.json)")


def _add_soak(soak: argparse.ArgumentParser) -> None:
    _add_model(soak)
    soak.add_argument("--players", type=int, default=64, metavar="N", help="default 64")
    soak.add_argument("--characters", type=int, default=12, metavar="N", help="default 12")
    soak.add_argument("--minutes", type=float, default=10, metavar="M", help="default 10")
    soak.add_argument("--tokens", type=int, default=24, metavar="N", help="longest reply (default 24)")
    soak.add_argument("--break-off", action="store_true", help="players break off at random")
    soak.add_argument("--kill", action="store_true", help="end with kill -9 under load, and a restart")
    _add_json(soak)


def _add_fidelity(fidelity: argparse.ArgumentParser) -> None:
    _add_cells(fidelity)
    fidelity.add_argument("--methods", nargs="+", metavar="NAME", help="some methods of the ladder only (default: all)")
    fidelity.add_argument("--json", metavar="FILE", help="where the rows are kept (default: fidelity.json in the work folder)")
    fidelity.add_argument("--again", nargs="+", metavar="NAME", default=[], help="forget these methods' rows of these cells first")
    fidelity.add_argument("--table", action="store_true", help="measure nothing; print the tables of the rows that are there")
    fidelity.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    fidelity.add_argument("--curves", metavar="FILE", help="also write validation KL against tokens as JSON")
    fidelity.add_argument("--figures", metavar="FOLDER", help="also draw the ladder and the curves, as pages for a browser")


def _add_cells(parser: argparse.ArgumentParser) -> None:
    """The options that name the cells: a model, characters, sparsities, seeds, a preset."""
    _add_model(parser)
    parser.add_argument("--characters", nargs="+", default=["6"], metavar="N|NAME",
                        help="how many of the bundled characters, or which ones, or card files (default 6)")
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.25, 0.5], metavar="S", help="default .25 .5")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N - 1 (default 1)")
    parser.add_argument("--preset", default="standard", help=f"{', '.join(PRESETS)} (default standard)")
    parser.add_argument("--steps", type=int, help="steps of mask learning (default: the preset's)")
    parser.add_argument("--dtype", default="auto", help=DTYPE_HELP)
    parser.add_argument("--workdir", metavar="DIR", help="where everything is kept (default: bench/fidelity in the data folder)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark; returns the exit code."""
    prepare_libraries()
    try:
        options = build_parser().parse_args(arguments)
        module = MODULES.get(options.what, options.what)
        return importlib.import_module(f"benchmarks.{module}").run(options)
    except Interrupted as stop:
        print(f"\n{stop}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        return 130
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
