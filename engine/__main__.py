"""The command line: python -m engine VERB, by build_parser.

A user's mistake prints one sentence and exits with 2; an interrupted job exits
with 130 and says how to go on; a defect of ours writes its traceback to the log
and exits with 1. Heavy imports wait until a verb needs them.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.base import migrate
from engine.base.errors import Interrupted, UserError
from engine.base.files import PROGRAM
from engine.base.job import (
    TYPE_HELP,
    DossierJob,
    DraftCastJob,
    EvaluateJob,
    ExportJob,
    FrontierJob,
    GgufJob,
    JudgeJob,
    Process,
    PruneJob,
    Recipe,
    SceneJob,
    ScriptJob,
)
from engine.base.known_models import MODEL_HELP
from engine.base.options import Parser, add_options
from engine.base.process import prepare_libraries
from engine.base.sampling import add_sampling_options
from engine.cluster.options import add_cast_options
from engine.running import explain, log_file
from engine.server.settings import add_options as add_server_options


def build_parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    parser = Parser(prog=PROGRAM, description="Prune a language model down to one character.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    models = verbs.add_parser("models", help="what can be loaded, what is on disk, sizes")
    models.add_argument("--json", action="store_true", help="print JSON")
    add_options(verbs.add_parser("prune", help="the whole job: from a character card to a pruned model folder"), PruneJob, Recipe,
                Process)
    add_cast_options(verbs.add_parser("prune-cast", help="one model for all characters of a cast, here or on a Ray cluster"))
    add_options(verbs.add_parser("export", help="a finished folder as a checked and proven copy"), ExportJob, Process)
    add_options(verbs.add_parser("gguf", help="a model as a GGUF file, with which llama.cpp speaks"), GgufJob, Process)
    add_options(verbs.add_parser("frontier", help="what to ship: a character's models at every file type, how close and fast"),
                FrontierJob, Process)
    chat = verbs.add_parser("chat", help="talk to a character on a model")
    chat.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    chat.add_argument("--card", help="character card (default: the one in an exported folder)")
    chat.add_argument("--character", default="", metavar="NAME", help="who answers, where the folder holds a cast")
    chat.add_argument("--message", help="one message instead of an interactive chat")
    chat.add_argument("--json", action="store_true", help="print JSON")
    add_sampling_options(chat)
    chat.add_argument("--type", default="", help=TYPE_HELP)
    script = verbs.add_parser("script", help="the test script of a character on one or more models")
    add_options(script, ScriptJob, Process)
    add_sampling_options(script)
    scene = verbs.add_parser("scene", help="two or three characters and a narrator talk with each other")
    add_options(scene, SceneJob, Process)
    add_sampling_options(scene)
    add_options(verbs.add_parser("draft-cast", help="characters of one place, drafted by a model after a plan with quotas"),
                DraftCastJob, Process)
    add_options(verbs.add_parser("dossier", help="what an evaluation asks a character; a model can write it"), DossierJob, Process)
    add_options(verbs.add_parser("judge", help="the exam of a judge: can it tell who says a line?"), JudgeJob, Process)
    evaluate = verbs.add_parser("evaluate", help="is it still the character: runs beside the dense model, measure by measure")
    add_options(evaluate, EvaluateJob, Process)
    add_sampling_options(evaluate)
    add_server_options(verbs.add_parser("serve", help="characters that a game can talk to, by OpenAI's API"))
    worker = verbs.add_parser("chat-worker", help="what the studio's chats ask: JSON lines in, JSON lines out")
    worker.add_argument("--keep", type=int, default=3, metavar="N", help="models kept in memory (default 3)")
    inspect = verbs.add_parser("inspect", help="what an exported folder is, whether it is whole, what was measured")
    inspect.add_argument("folder", metavar="DIR")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    gone = verbs.add_parser("cast", add_help=False, prefix_chars="\0")  # of 0.1; without help it is in no list, and takes any words
    gone.add_argument("words", nargs="*")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    prepare_libraries()
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
    for one in arguments:
        migrate.refuse_bank(Path(one))
    if options.verb == "cast":
        raise UserError("Banks of characters are gone since version 0.2.", migrate.BANK_HINT)
    from engine import character_commands, commands

    name = options.verb.replace("-", "_")
    return getattr(commands if hasattr(commands, name) else character_commands, name)(options, arguments)


def _report(error: Exception) -> int:
    """Print the error for the user; a defect's traceback goes to the log."""
    code, found = explain(error)
    if code == 1:
        try:
            logging.basicConfig(filename=log_file(), level=logging.INFO, format="%(asctime)s %(message)s", force=True)
            logging.error("defect", exc_info=error)
        except OSError:
            raise error from None
    print(f"Error: {' '.join(str(found).splitlines())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
