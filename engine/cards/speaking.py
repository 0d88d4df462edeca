"""Who speaks and acts in a card's texts: finds lines and actions that belong to the player.

Reads English, and only patterns that can hardly mean anything else. Does not
know which field a text comes from.
"""

import re
from collections.abc import Sequence

_PLAYERS_LINE = re.compile(r"^[ \t]*(?:\{\{user\}\}|<user>)[ \t]*:", re.IGNORECASE | re.MULTILINE)
_LABEL = r"^[ \t]*(?:(\{{\{{char\}}\}}|<bot>{names})|\{{\{{user\}}\}}|<user>)[ \t]*:"  # group 1: the character's
_ACTIONS = re.compile(r"(?<!\*)\*++([^*\n]+)\*")
_SPEECH = re.compile(r"\"[^\"\n]*(?:\"|$)|“[^”\n]*(?:”|$)|«[^»\n]*(?:»|$)", re.MULTILINE)
_VERBS = ("say", "reply", "answer", "whisper", "shout", "mutter", "nod", "smile", "grin", "laugh", "blush", "shiver", "sigh",
          "feel", "think", "decide", "realise", "realize")
_BEGINNING = r"(?:^|[.!?…;,]\s+|\b(?:and|then)\s+)"  # of a clause, where its subject stands
_YOU_ACT = re.compile(rf"{_BEGINNING}(you\s+(?:{'|'.join(_VERBS)})\b[^.!?\n]*)", re.IGNORECASE | re.MULTILINE)
_THIRD = [verb.replace("reply", "replie") + ("es" if verb in ("blush",) else "s") for verb in _VERBS]
_PLAYER_ACTS = re.compile(rf"{_BEGINNING}((?:\{{\{{user\}}\}}|<user>)\s+(?:{'|'.join(_THIRD)})\b[^.!?\n]*)",
                          re.IGNORECASE | re.MULTILINE)


def writes_players_lines(text: str) -> bool:
    """Whether a line of the text begins with the player's name and a colon."""
    return bool(_PLAYERS_LINE.search(text))


def acts_for_player(text: str) -> str:
    """The first clause of the narration in which the player speaks, moves or feels ("you smile ..."); "" without one.

    Narration is what stands between asterisks or, in a text without these, outside of quoted sentences. A text with
    neither is taken as speech, where "you feel ..." is an ordinary thing to say.
    """
    for passage in _narration(text):
        if act := _YOU_ACT.search(passage) or _PLAYER_ACTS.search(passage):
            return act[1].strip()
    return ""


def split_dialogue(text: str, names: Sequence[str]) -> list[str]:
    """What the character says in a dialogue, a text for each of its turns, without the labels.

    A turn begins with {{char}}: or <BOT>: or one of the character's `names`, and ends with the next label.
    """
    names_too = "".join("|" + re.escape(name) for name in names)
    labels = list(re.finditer(_LABEL.format(names=names_too), text, re.IGNORECASE | re.MULTILINE))
    ends = [label.start() for label in labels[1:]] + [len(text)]
    return [text[label.end():end] for label, end in zip(labels, ends, strict=False) if label[1]]


def dialogue_turns(dialogue: str, character: Sequence[str], player: Sequence[str]) -> list[tuple[str, str]]:
    """A dialogue as turns (role, text), role "user" or "assistant", labels taken off; [] where nobody's label stands in it.

    A turn begins with a line that {{char}}:, <BOT>: or one of the `character`'s names opens, or {{user}}:, <USER>: or
    one of the `player`'s. What stands before the first label belongs to the first turn; turns without words are left out.
    """
    names, players = ("".join("|" + re.escape(name) for name in some) for some in (character, player))
    labels = list(re.finditer(_LABEL.format(names=names).replace("<user>", f"<user>{players}"), dialogue,
                              re.IGNORECASE | re.MULTILINE))
    if not labels:
        return []
    starts = [label.end() for label in labels]
    ends = [label.start() for label in labels[1:]] + [len(dialogue)]
    turns = [("assistant" if label[1] else "user", dialogue[start:end].strip())
             for label, start, end in zip(labels, starts, ends, strict=True)]
    if before := dialogue[:labels[0].start()].strip():
        turns[0] = (turns[0][0], f"{before}\n{turns[0][1]}".strip())
    return [turn for turn in turns if turn[1]]


def _narration(text: str) -> list[str]:
    if "*" in text:
        return [match[1] for match in _ACTIONS.finditer(text)]
    if any(quoted[0][-2:-1] in ".,!?…-–—" for quoted in _SPEECH.finditer(text)):  # a sentence, and not a quoted word
        return [part.strip() for part in _SPEECH.split(text)]
    return []
