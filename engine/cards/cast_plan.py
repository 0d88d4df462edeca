"""The plan of a cast: one row a character, in which every quota is met exactly. No model is needed.

A quota is a line like "role: 2 traders, 1 guard". Each property is dealt out on its own, so the shares are exact and any values may
meet; of many deals the one with the fewest equal rows is taken (stratified sampling, as in HACHIMI, arXiv 2603.04855).
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.base.errors import UserError

FEWEST, MOST = 2, 12  # characters of a cast
MOST_PLACE, MOST_VALUE, MOST_QUOTAS = 600, 60, 6
Row = dict[str, str]  # property to value, "" where the quotas leave it open
_DEALS = 64
_COUNTED = re.compile(r"(\d{1,4})\s*(?:x\s+|×\s*)?(?=\D)(.*)", re.DOTALL)
_LIKE = "Write it like “role: 2 traders, 1 guard”."


@dataclass(frozen=True)
class Quota:
    """How many characters have which value of a property. `others`: values without a number, dealt out evenly among the rest;
    without any, the rest is open."""

    name: str
    counts: Mapping[str, int]
    others: tuple[str, ...] = ()


def read_quotas(text: str) -> list[Quota]:
    """The quotas of a text, one a line. Raises UserError for a line that is not one."""
    found = [_quota(" ".join(line.split())) for line in text.splitlines() if line.strip()]
    if len(found) > MOST_QUOTAS:
        raise UserError(f"There are {len(found)} quotas; at most {MOST_QUOTAS} are possible.", "Leave some out.")
    names = Counter(one.name.casefold() for one in found)
    if twice := next((one.name for one in found if names[one.name.casefold()] > 1), ""):
        raise UserError(f"There are two lines for “{twice}”.", "Put their values on one line.")
    return found


def make_plan(count: int, quotas: Sequence[Quota], seed: int = 0) -> list[Row]:
    """`count` rows that meet the quotas exactly; the same for the same seed. Raises UserError where they cannot."""
    if not FEWEST <= count <= MOST:
        raise UserError(f"A cast has {FEWEST} to {MOST} characters, not {count}.", "Choose another number.")
    for quota in quotas:
        if (asked := sum(quota.counts.values())) > count:
            raise UserError(f"“{quota.name}” asks for {asked} characters, and the cast has {count}.",
                            "Lower a number, or take more characters.")
    chance = random.Random(seed)
    deals = ([_deal(count, quota, chance) for quota in quotas] for _ in range(_DEALS if len(quotas) > 1 else 1))
    best = max(deals, key=lambda deal: len(set(zip(*deal, strict=True))))
    return [{quota.name: values[place] for quota, values in zip(quotas, best, strict=True)} for place in range(count)]


def checked_plan(rows: Sequence[Mapping[str, str]]) -> list[Row]:
    """A plan that a writer may have changed, its values on one line. Raises UserError for what is not one."""
    if not FEWEST <= len(rows) <= MOST:
        raise UserError(f"The plan has {len(rows)} rows, and a cast has {FEWEST} to {MOST} characters.", "Make a new plan.")
    plan = [{name: " ".join(value.split()) for name, value in row.items()} for row in rows]
    if long := next((value for row in plan for value in row.values() if len(value) > MOST_VALUE), ""):
        raise UserError(f"“{long[:30]}…” has more than {MOST_VALUE} characters.", "Write it shorter.")
    return plan


def checked_place(text: str) -> str:
    """What the writer says of the place, on one line. Raises UserError where there is nothing, or too much."""
    place = " ".join(text.split())
    if not place:
        raise UserError("The place is not described yet.", "Write a sentence or two about it.")
    if len(place) > MOST_PLACE:
        raise UserError(f"The place has {len(place):,} characters; at most {MOST_PLACE} are read.", "Shorten it.")
    return place


def words_of(row: Row) -> str:
    """A row in words: "role: trader; age: old"."""
    return "; ".join(f"{name}: {value}" for name, value in row.items() if value)


def _quota(line: str) -> Quota:
    name, colon, values = line.partition(":")
    parts = [part.strip() for part in values.split(",") if part.strip()]
    if not colon or not name.strip() or not parts:
        raise UserError(f"“{line[:60]}” is not a quota.", _LIKE)
    counts: Counter[str] = Counter()
    others: list[str] = []
    for part in parts:
        counted = _COUNTED.fullmatch(part)
        if len(part) > MOST_VALUE or len(name) > MOST_VALUE:
            raise UserError(f"“{part[:30]}…” is too long for a value.", _LIKE)
        if counted and not int(counted[1]):
            raise UserError(f"There can be no 0 of “{part}”.", "Leave it out.")
        if counted:
            counts[_singular(counted[2].strip()) if int(counted[1]) > 1 else counted[2].strip()] += int(counted[1])
        else:
            others.append(part)
    return Quota(name.strip(), dict(counts), tuple(dict.fromkeys(others)))


def _deal(count: int, quota: Quota, chance: random.Random) -> list[str]:
    """The values of one property for all rows."""
    values = [value for value, many in quota.counts.items() for _ in range(many)]
    rest = list(quota.others) or [""]
    chance.shuffle(rest)
    values += [rest[place % len(rest)] for place in range(count - len(values))]
    chance.shuffle(values)
    return values


def _singular(word: str) -> str:
    """One of several: English plurals without their ending, anything else as it is. The writer sees it in the plan."""
    if re.search(r"[^aeiou]ies$", word):
        return f"{word[:-3]}y"
    if re.search(r"(?:ie|l|ar)ves$", word):
        return f"{word[:-3]}f"
    if re.search(r"(?:ch|sh|ss|x)es$", word):
        return word[:-2]
    return word[:-1] if re.search(r"[^\W\d_]{2,}s$", word) and not re.search(r"(?:ss|us|is)$", word) else word
