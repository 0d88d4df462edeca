"""The grammar of `python -m engine bench`: which measurement, and its options. Imports nothing heavy."""

import argparse

from engine.base.recipe import PRESETS


def add_measurements(bench: argparse.ArgumentParser, kind: type[argparse.ArgumentParser]) -> None:
    """Give the verb `bench` its measurements; `kind` is the class of their parsers."""
    measurements = bench.add_subparsers(dest="what", required=True, metavar="WHAT", parser_class=kind)
    speed = measurements.add_parser("speed", help="what the cost tricks bring on this machine")
    speed.add_argument("--json", metavar="FILE", help="also write the figures as JSON")
    speed.add_argument("--model", default="starter", help="starter, a hub id, or a folder")
    fidelity = measurements.add_parser("fidelity", help="every way of pruning on the same held-out lines; resumes by itself")
    _add_cells(fidelity)
    fidelity.add_argument("--methods", nargs="+", metavar="NAME", help="some methods of the ladder only (default: all)")
    fidelity.add_argument("--json", metavar="FILE", help="where the rows are kept (default: fidelity.json in the work folder)")
    fidelity.add_argument("--again", nargs="+", metavar="NAME", default=[], help="forget these methods' rows of these cells first")
    fidelity.add_argument("--table", action="store_true", help="measure nothing; print the tables of the rows that are there")
    fidelity.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    fidelity.add_argument("--curves", metavar="FILE", help="also write validation KL against tokens as JSON")
    fidelity.add_argument("--figures", metavar="FOLDER", help="also draw the ladder and the curves, as pages for a browser")
    cast = measurements.add_parser("cast", help="what a character more costs in a bank; gather and masked batch")
    cast.add_argument("--json", metavar="FILE", help="also write the figures as JSON")
    cast.add_argument("--model", default="starter", help="starter, a hub id, or a folder")
    cast.add_argument("--run", metavar="RUN_FOLDER", help="an exported folder, for the KL of its character in a bank")
    cast.add_argument("--lines", metavar="FILE", help="lines.jsonl of that run's work folder")
    swap = measurements.add_parser("swap", help="whether a mask is its character's own: swapped masks, overlap, chance")
    _add_cells(swap)
    swap.add_argument("--json", metavar="FILE", help="where the figures are kept (default: swap.json in the work folder)")
    swap.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    export = measurements.add_parser("export", help="GGUF files of a pruned model: times, sizes, proofs, speed")
    export.add_argument("--model", default="starter", help="the dense model: starter, a hub id, or a folder")
    export.add_argument("--folder", metavar="DIR", help="a folder that prune wrote from it (default: a quick cut of 25 %%)")
    export.add_argument("--types", nargs="+", metavar="TYPE", default=["F32", "F16", "BF16", "Q8_0", "Q4_1", "Q4_0"],
                        help="default F32 F16 BF16 Q8_0 Q4_1 Q4_0")
    export.add_argument("--rounds", type=int, default=3, help="dense and pruned in turn, so many times (default 3)")
    export.add_argument("--json", metavar="FILE", help="also write the figures as JSON")


def _add_cells(parser: argparse.ArgumentParser) -> None:
    """The options that name the cells: a model, characters, sparsities, seeds, a preset."""
    parser.add_argument("--model", default="starter", help="starter, a hub id, or a folder")
    parser.add_argument("--characters", nargs="+", default=["6"], metavar="N|NAME",
                        help="how many of the bundled characters, or which ones, or card files (default 6)")
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.25, 0.5], metavar="S", help="default .25 .5")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N - 1 (default 1)")
    parser.add_argument("--preset", default="standard", help=f"{', '.join(PRESETS)} (default standard)")
    parser.add_argument("--steps", type=int, help="steps of mask learning (default: the preset's)")
    parser.add_argument("--dtype", default="auto", help="auto, fp32, bf16 or fp16")
    parser.add_argument("--workdir", metavar="DIR", help="where everything is kept (default: bench/fidelity in the data folder)")
