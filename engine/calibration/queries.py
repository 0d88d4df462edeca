"""Which questions of a pool a job uses: spread over categories, seeded, split-aware.

Pure choices over lists; knows no model.
"""

import random
from collections import defaultdict
from collections.abc import Sequence

from engine.calibration.lines import Line, Query, Split, split_of


def spread(queries: Sequence[Query], count: int, seed: int) -> list[Query]:
    """Up to `count` queries, the categories in turn, each category in a seeded order."""
    groups: dict[str, list[Query]] = defaultdict(list)
    for query in queries:
        groups[query.category].append(query)
    dice = random.Random(seed)
    for group in groups.values():
        dice.shuffle(group)
    turns = sorted(groups)
    dice.shuffle(turns)
    chosen: list[Query] = []
    while len(chosen) < count and any(groups.values()):
        chosen += [groups[name].pop() for name in turns if groups[name]]
    return chosen[:count]


def of_split(queries: Sequence[Query], split: Split) -> list[Query]:
    """The queries that fall on one side of the split."""
    return [query for query in queries if split_of(query.question) == split]


def held_out(lines: Sequence[Line], validation: int, test: int) -> tuple[list[Line], list[Line], bool]:
    """The lines that choose and the lines that report, at most so many of each, in file order.

    The flag is true where one side was empty, so that the same lines have to serve both ends.
    """
    choosing = [line for line in lines if line.split == "validation"][:validation]
    reporting = [line for line in lines if line.split == "test"][:test]
    shared = not choosing or not reporting
    return choosing or reporting, reporting or choosing, shared
