"""The command line of a long job, and its job file: made from the fields of the job (job.py)."""

import argparse
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn, get_args

from pydantic.fields import FieldInfo

from engine.base import migrate
from engine.base.errors import UserError
from engine.base.files import read_untrusted_json
from engine.base.job import PRESETS, Recipe
from engine.base.settings import MOST, Knob, Settings, extra_of, knobs

JOB_BYTES = 1_000_000  # of a job file


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are UserErrors."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message[:1].upper()}{message[1:]}.", f"See {self.prog} --help.")


def add_options(parser: argparse.ArgumentParser, *kinds: type[Settings], leave_out: Collection[str] = ()) -> None:
    """The fields of jobs, without those of their bases, as options; what is not given stays out of the namespace."""
    for kind in kinds:
        place: Any = parser
        for name in kind.__annotations__:
            field = kind.model_fields.get(name)
            if field is None or not field.description or name in leave_out:
                continue
            if group := extra_of(field, "group"):
                place = parser.add_argument_group(group)
            _add_option(parser if extra_of(field, "option") == "-" else place, name, field)


def _add_option(place: Any, name: str, field: FieldInfo) -> None:
    kind: Any = field.annotation
    metavar = extra_of(field, "metavar")
    if extra_of(field, "option") == "-":
        count = "*" if kind == list[str] else "?"
        place.add_argument(name, metavar=metavar, nargs=count, default=argparse.SUPPRESS, help=field.description)
        return
    names = [f"--{one.replace('_', '-')}" for one in (extra_of(field, "option") or name, migrate.FORMER_KNOBS.get(name)) if one]
    options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": str(field.description).replace("%", "%%")}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction if field.default else "store_true"
    elif kind == list[str]:
        options |= {"action": "append", "metavar": metavar or "NAME"}
    else:
        options |= {"type": kind if kind in (int, float) else str, "metavar": metavar or ("N" if kind in (int, float) else "NAME")}
        if get_args(kind):
            options["metavar"] = "|".join(filter(None, get_args(kind)))
        if field.default not in ("", None) and not field.is_required():
            options["help"] += f" (default {field.default})"
    place.add_argument(*names, **options)


def read_options(options: argparse.Namespace, *kinds: type[Settings]) -> dict[str, Any]:
    """What was asked for: the job file's values, with the options that were given in their place. Raises UserError."""
    values = _read_job(Path(options.job)) if getattr(options, "job", "") else {}
    names = {name for kind in kinds for name in kind.model_fields}
    return {**values, **{name: value for name, value in vars(options).items() if name in names}}


def _read_job(file: Path) -> dict[str, Any]:
    values = read_untrusted_json(file, JOB_BYTES)
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{file} cannot be read: it holds half a character.", "Look for \\ud8 to \\udf in it.") from error
    return values


def write_table() -> str:
    """The knobs of Recipe as a table in Markdown, for docs/recipe.md."""
    rows = ["| knob | default | limits | what it does |", "| --- | --- | --- | --- |"]
    for one in knobs(Recipe).values():
        limits = " or ".join(one.choices) or " ".join(_bounds(one))
        value = json.dumps(one.default).strip('"')
        rows.append(f"| `{one.name}` | {f'{value} {one.unit}'.strip()} | {limits} | {one.help} |")
    rows += ["", "| preset | differs from standard in |", "| --- | --- |"]
    rows += [f"| {name} | {', '.join(f'`{knob}` {json.dumps(value)}' for knob, value in changes.items())} |"
             for name, changes in PRESETS.items() if changes]
    return "\n".join(rows) + "\n"


def _bounds(one: Knob) -> Iterator[str]:
    if one.least is not None:
        yield f"from {one.least:g}"
    if one.most not in (None, MOST):
        yield f"to {one.most:.10g}"


if __name__ == "__main__":
    print(write_table(), end="")
