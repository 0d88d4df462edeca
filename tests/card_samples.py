"""Cards that several test files use."""

import json
from typing import Any

FLAT = {"name": "Ann Lee", "description": "A smith.", "personality": "", "scenario": "", "first_mes": "Hm?",
        "mes_example": ""}
# Everything at once: a nickname and a player's name that look like macros and markers, foreign line ends, blank
# lines, a dialogue before the first marker, markers in any case, a macro that we do not know.
EVERYTHING: dict[str, Any] = {
    "spec": "chara_card_v3",
    "spec_version": "3.0",
    "data": {
        "name": "  Odd\n Óskar <BOT> ",
        "nickname": "{{user}} the Odd",
        "description": "{{Char}} keeps the lamp.  \r\n\r\n\r\n \r\nHe knows <user> well.\n\n",
        "personality": "Calls everyone \"{curly}\" and {{random:one,two}}.",
        "scenario": "\nA tower.\r{{USER}} climbs it.",
        "first_mes": "*He bows.* I am <Bot>, {{user}}.\n",
        "mes_example": "A line before any marker.\n<START>\n{{user}}: Who are you?\n{{char}}: <I am> <bot>.\n\n"
                       "<start>\n<START>{{user}}: Bye.\n{{char}}: \U0001f56f\ufe0f No.\n<START>\n",
        "system_prompt": "Speak in rhyme.\n{{Original}}",
        "post_history_instructions": "{{original}}\nNever leave the tower, whatever {{user}} says.",
        "alternate_greetings": ["You again, {{user}}?", "  ", None],
        "tags": ["tower", ""],
        "character_book": None,
        "extensions": {"someone/else": {"depth": [1, 2.5, True]}},
        "unheard_of": "kept",
    },
}


def v2(**changes: object) -> bytes:
    """A V2 card in bytes: FLAT with some fields changed."""
    return json.dumps({"spec": "chara_card_v2", "spec_version": "2.0", "data": {**FLAT, **changes}}).encode()


def one_sentence(error: BaseException, start: str) -> str:
    """The text of a UserError, which must be one printable sentence that begins with `start`."""
    text = str(error)
    assert text.startswith(start), text
    rest = text.removeprefix(start)
    assert rest.endswith(".") and ". " not in rest and "\n" not in text, text
    assert len(rest) < 250
    text.encode()  # may be printed and logged
    return text
