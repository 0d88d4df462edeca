"""What a setting of a job is: a field with its type, limits, unit and help, and the sentence for a value that it cannot have.

A job is a class of them (job.py). Options, job files, the studio's form, reports and tables are made from its fields.
"""

import difflib
import json
from dataclasses import dataclass
from typing import Any, get_args

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from engine.base.errors import UserError

MOST = 10**9  # of any number that has no limit of its own: beyond it, arithmetic overflows long after the job has begun


def knob(default: Any, help: str, *, label: str = "", unit: str = "", metavar: str = "", option: str = "", group: str = "",
         **limits: Any) -> Any:
    """A field of a job. `option`: its name on the command line, where that is not its own; "-" for a positional argument.

    `limits`: ge, gt and le, as pydantic has them. `label`: its name on the page, for those that the form shows.
    """
    if isinstance(default, int | float) and not isinstance(default, bool):
        limits.setdefault("le", MOST)
    return Field(default, title=label or None, description=help, json_schema_extra={
        "unit": unit, "metavar": metavar, "option": option, "group": group}, **limits)


class Settings(BaseModel):
    """Base of what is asked of a job. Raises UserError, one sentence, for a value that a field cannot have."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _refusal(type(self), error) from error
        for name, value in values.items():
            if isinstance(value, str) and "\0" in value:
                raise UserError(f"The setting {name} holds a NUL character.", "Write it again.")

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, as plain JSON values."""
        return self.model_dump()


@dataclass(frozen=True)
class Knob:
    """What a form, an option or a table needs of a field. `least` and `most`: its limits, None where there are none."""

    name: str
    label: str
    help: str
    unit: str
    default: Any
    least: float | None
    most: float | None
    choices: tuple[str, ...]


def knobs(kind: type[Settings]) -> dict[str, Knob]:
    """The fields of a job by name."""
    return {name: _knob_of(name, field) for name, field in kind.model_fields.items() if field.description}


def _knob_of(name: str, field: FieldInfo) -> Knob:
    limits = {type(one): one for one in field.metadata}
    least = limits[Ge].ge if Ge in limits else limits[Gt].gt if Gt in limits else None
    return Knob(name, field.title or name, field.description or "", extra_of(field, "unit"), field.default, least,
                limits[Le].le if Le in limits else None, tuple(filter(None, get_args(field.annotation))))


def extra_of(field: FieldInfo, name: str) -> str:
    """What `knob` noted of a field under the name unit, metavar, option or group; "" for nothing."""
    extra = field.json_schema_extra
    return str(extra.get(name, "")) if isinstance(extra, dict) else ""


def _refusal(kind: type[Settings], error: ValidationError) -> UserError:
    """What is wrong with the first faulty setting, and what it may be."""
    first = error.errors(include_url=False)[0]
    name = "".join(map(str, first["loc"][:1]))[:60]
    if first["type"] == "missing":
        return UserError(f"The setting {name} is missing.", "See --help.")
    if name not in kind.model_fields:
        kinds = [kind, *(field.annotation for field in kind.model_fields.values())]  # a job's own settings, and its recipe's
        known = [one for each in kinds if isinstance(each, type) and issubclass(each, Settings) for one in each.model_fields]
        similar = difflib.get_close_matches(name, known, 1)
        return UserError(f"There is no setting {name}.", f"Did you mean {similar[0]}?" if similar else "See --help.")
    return UserError(f"The setting {name} must {_wanted(kind, name, first['type'])}; {_written(first['input'])} is not.")


def _wanted(kind: type[Settings], name: str, fault: str) -> str:
    """What a setting must be, to follow "must"."""
    one = _knob_of(name, kind.model_fields[name])
    if one.choices:
        return f"be {'one of ' if len(one.choices) > 1 else ''}{', '.join(one.choices)}"
    if fault in ("greater_than", "greater_than_equal", "less_than_equal", "finite_number"):
        most = f"{one.most:.10g}"
        above = fault == "greater_than"
        return f"be above {one.least:g} and at most {most}" if above else f"be between {one.least:g} and {most}"
    kinds: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return f"be {kinds.get(kind.model_fields[name].annotation, 'a list of strings')}"


def _written(value: Any) -> str:
    """A value as a job file has it, its beginning."""
    text = json.dumps(value, default=str)
    return f"{text[:60]}…" if len(text) > 60 else text
