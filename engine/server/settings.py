"""The settings of a server, and the options of `persona serve`. Imports nothing heavy."""

import argparse
import os
from dataclasses import dataclass

from engine.base.errors import UserError
from engine.base.known_models import MODEL_HELP
from engine.serving.slots import PROMPT_CACHE

LOOPBACK = ("127.0.0.1", "::1", "localhost")
MOST_REPLICAS = 1_000
_MOST_PARALLEL = 256  # conversations that llama.cpp keeps of a model
_MOST = 2**31  # no clock counts on for NaN or infinite seconds


@dataclass(frozen=True)
class Settings:
    """How a server answers. `parallel`: replies at a time, over all models; `waiting`: how many may wait, each `patience` seconds.

    `keep`: models in memory (0: all of the cast, where memory allows); `prompt_cache`: MB, of all of them, for conversations that
    are not under way; `rate`: requests a minute of one address (0: any); `origins`: pages of a browser that may ask. A host beyond
    this machine needs a key.
    """

    host: str = "127.0.0.1"
    key: str = ""
    origins: tuple[str, ...] = ()
    parallel: int = 4
    keep: int = 0
    prompt_cache: int = PROMPT_CACHE
    waiting: int = 100
    patience: float = 120.0
    rate: int = 600
    body_bytes: int = 1_000_000
    memory: bool = False
    log_texts: bool = False

    def __post_init__(self) -> None:
        for name in ("parallel", "waiting", "patience", "body_bytes"):
            if not 0 < getattr(self, name) < _MOST:
                raise UserError(f"The setting {name} must be above 0, and below {_MOST:,}.")
        if self.parallel > _MOST_PARALLEL:
            raise UserError(f"A server speaks at most {_MOST_PARALLEL:,} replies at a time; the setting parallel is more.")
        if min(self.keep, self.rate, self.prompt_cache) < 0:
            raise UserError("The settings keep, prompt_cache and rate must not be below 0.")
        if self.host not in LOOPBACK and not self.key:
            raise UserError(f"At {self.host} others can reach the server, so it needs a key.",
                            "Put a long random text into an environment variable and name it with --api-key-env.")


@dataclass(frozen=True)
class Scale:
    """Replicas on a cluster. `ray`: its address ("": none); from `least` to `most` replicas, each with `cpus`
    cores (0: as many as one process would take) and `gpus` GPUs."""

    ray: str = ""
    least: int = 1
    most: int = 1
    cpus: int = 0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most <= MOST_REPLICAS:
            raise UserError(f"The replicas must be from 1 to {MOST_REPLICAS:,}, as MIN..MAX or one number.")
        if self.cpus < 0 or not 0 <= self.gpus <= MOST_REPLICAS:
            raise UserError("The cores and GPUs of a replica must not be below 0.")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    usual = Settings()
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="a folder that prune, prune-cast or export wrote, "
                        "a character card, or the name of a bundled character")
    which = parser.add_argument_group("who speaks")
    which.add_argument("--model", default="starter", metavar="NAME",
                       help=f"the model that speaks for cards: {MODEL_HELP} (default starter)")
    which.add_argument("--type", default="", metavar="T", help="of the GGUF files, e.g. Q8_0 (default: the best at hand)")
    where = parser.add_argument_group("where, and for whom")
    where.add_argument("--host", default=usual.host, help="(default 127.0.0.1, this machine alone; any other needs a key)")
    where.add_argument("--port", type=int, default=8080, metavar="N", help="0: a free one (default 8080)")
    where.add_argument("--api-key-env", default="", metavar="NAME", help="the environment variable that holds the key")
    where.add_argument("--allow-origin", action="append", default=[], metavar="ORIGIN", help="a web page that may ask, e.g. "
                       "https://game.example; may be given several times")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--parallel", type=int, default=usual.parallel, metavar="N", help="replies at a time (default 4)")
    limits.add_argument("--keep", type=int, default=0, metavar="N", help="models in memory (default: all, where memory allows)")
    limits.add_argument("--prompt-cache", type=int, default=usual.prompt_cache, metavar="MB", help="memory for "
                        f"conversations not under way, of all models together (default {usual.prompt_cache})")
    limits.add_argument("--waiting", type=int, default=usual.waiting, metavar="N", help="requests that may wait (default 100)")
    limits.add_argument("--patience", type=float, default=usual.patience, metavar="SECONDS",
                        help="how long each waits (default 120)")
    limits.add_argument("--rate", type=int, default=usual.rate, metavar="N", help="requests a minute of one address; 0: any number "
                        "(default 600)")
    wide = parser.add_argument_group("on several machines (docs/scale.md)")
    wide.add_argument("--ray", nargs="?", const="local", default="", metavar="ADDRESS", help="speak by replicas under Ray Serve: "
                      "local (the default: this machine alone), auto (the cluster that runs here), or HOST:PORT")
    wide.add_argument("--replicas", default="1..4", metavar="MIN..MAX", help="how many, by need (default 1..4); one number: always "
                      "so many")
    wide.add_argument("--replica-cpus", type=int, default=0, metavar="N", help="cores of each (default: all, or a share)")
    wide.add_argument("--replica-gpus", type=float, default=0.0, metavar="N", help="GPUs of each (default 0)")
    more = parser.add_argument_group("what is kept, and shown")
    more.add_argument("--memory", action="store_true", help="remember players (docs/server.md)")
    more.add_argument("--log-texts", action="store_true", help="log what is said, not only that something was")
    more.add_argument("--check", action="store_true", help="only say what would be served, and what is wrong with it")
    more.add_argument("--json", action="store_true", help="print JSON lines instead of sentences")
    more.add_argument("--leash", action="store_true", help="end when standard input ends")


def settings_of(options: argparse.Namespace) -> Settings:
    """What the options ask for. Raises UserError."""
    return Settings(options.host, _key(options.api_key_env), tuple(options.allow_origin), options.parallel, options.keep,
                    options.prompt_cache, options.waiting, options.patience, options.rate,
                    memory=options.memory, log_texts=options.log_texts)


def scale_of(options: argparse.Namespace) -> Scale:
    """The cluster that the options ask for. Raises UserError."""
    if not options.ray:
        return Scale()
    least, dots, most = options.replicas.partition("..")
    try:
        return Scale(options.ray, int(least), int(most if dots else least), options.replica_cpus, options.replica_gpus)
    except ValueError:
        raise UserError(f"{options.replicas[:40]!r} is no number of replicas.", "Write 2, or 1..4.") from None


def _key(variable: str) -> str:
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"The environment variable {variable} is not set, or empty.", "Put the key into it.")
    return key
