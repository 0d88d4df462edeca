"""A writer of casts for tests: a teacher server that answers what a draft asks for, each time about somebody else.

`twins`: names of which the description is always the same. It is no model: only the way there and back is tested with it.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from teacher_server import TeacherServer, teacher_server

NAMES = ("Mara Vell", "Bert Ost", "Cleo Finch", "Dov Hale", "Ines Roke", "Kai Lund", "Nell Amber", "Otto Quist")
TALES = ("mends nets on the mole, counts gulls aloud, hides brandy under sailcloth and dreads the whistle of the tide clerk",
         "repairs clocks in a loft, hums hymns, owes money to seven cousins and longs for a daughter who sailed to Peru",
         "grows mushrooms in tunnels, whispers to moths, collects tickets nobody sold and never once trusted sunlight",
         "teaches children algebra with beans, shouts at thunder, adores ginger cake and forges birth certificates",
         "drives goats across dunes, plays a cracked accordion, lies about her knee and waits for rain like a bride",
         "paints signs for shops that closed, drinks cold tea, counts windows and is afraid of his brother's dog",
         "keeps bees behind the customs house, sings off key, saves string and wants to be mayor before winter",
         "buries what the tide brings, carves spoons, speaks to the drowned by name and sleeps in a wardrobe")


def voice(name: str) -> str:
    """How somebody speaks, in the form that is asked for."""
    return json.dumps({
        f"{name} does": "looks up from the work", f"{name} says": "You are late, Player, and the kettle is cold. Sit.",
        "Player asks": "What do you sell?", f"{name} answers": "Nothing that you need, and all that you want.",
        "Player asks then": "Who lives up there?", f"{name} answers then": f"{name}: Nobody, and I am paid to say it."})


def answer(message: str, number: int, twins: Sequence[str] = ()) -> str:
    """What is answered to a message; `number`: how many names were given before."""
    name = next((one for one in NAMES if f"The character: {one}" in message), NAMES[number % len(NAMES)])
    tale = TALES[0 if name in twins else NAMES.index(name)]
    row = message.partition("Of this person: ")[2].partition(".")[0]
    if "“line”" in message:
        return json.dumps({"name": name, "line": f"{name} ({row}) {tale.split(',')[0]}."})
    if " meets Player. Write" in message:
        return voice(name)
    if "Write a description" in message:
        says = message.partition("The writer wants: ")[2].partition("how a usual day")[0]
        return (f"{name} {tale}. {says} Every morning begins before the others wake; in the evening there is {tale.split(',')[2]}, "
                f"and whoever asks why hears that {tale.split(',')[1]}.")
    if "Write the personality" in message:
        return f"{name} is stubborn, and {tale.split(',')[1].strip()}."
    return f"{name} and Player meet where the rails end, at dusk, after the last lamp of the quay went out and the fog came in."


@contextmanager
def cast_writer(twins: Sequence[str] = (), slow: float = 0.0) -> Iterator[TeacherServer]:
    """The server; what it was asked is in `bodies`."""
    named = 0

    def reply(_: str) -> Any:
        nonlocal named
        message = server.bodies[-1]["messages"][-1]["content"]
        said = answer(message, named, twins)
        named += "“line”" in message
        return said

    with teacher_server(reply=reply, slow=slow) as server:
        yield server
