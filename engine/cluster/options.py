"""The options of `persona prune-cast`. Imports nothing heavy."""

import argparse

from engine.base.job import Process, PruneJob, Recipe
from engine.base.options import add_options
from engine.cluster.connection import ADDRESS_HELP

USUAL_THREADS = 4  # of each job on a cluster, where a machine has them
OWN = ("card", "resume", "until", "lines", "workdir", "cast", "adapters")  # options of prune that make no sense for many characters


def add_cast_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb: those of prune, for all characters, and where the work is done."""
    parser.add_argument("cards", nargs="+", metavar="CARD", help="character cards (JSON, PNG or CHARX), or names of bundled ones")
    add_options(parser, PruneJob, Recipe, Process, leave_out=OWN)
    parser.add_argument("--separate", action="store_true", help="a model for each character, as by prune, instead of one for all")
    parser.add_argument("--no-adapters", dest="adapters", action="store_false", help="no LoRA adapter for each character")
    parser.add_argument("--lines-in", default="", metavar="DIR", help="a folder with finished calibration lines, NAME.jsonl, of "
                        "characters for which there are some")
    where = parser.add_argument_group("where (docs/scale.md)")
    where.add_argument("--ray", nargs="?", const="local", default="", metavar="ADDRESS",
                       help=f"side by side on a Ray cluster: {ADDRESS_HELP}; default: here, one after the other")
    where.add_argument("--threads", type=int, default=0, metavar="N", help="that compute each character; the same number gives the "
                       f"same bits (default: all cores here; {USUAL_THREADS} on a cluster, or as many as its smallest machine has)")
    where.add_argument("--gpus", type=float, default=0.0, metavar="N", help="GPUs of each, on a cluster (default 0)")
