"""Who speaks and acts in a card's texts: example dialogue as turns, and lines and actions that belong to the player.

A label is a name and a colon (of any width), plain or in bold, at the beginning of a line; the macros {{char}}: and
{{user}}: also within one. What is told of actions reads English, and only patterns that can hardly mean anything else.
Does not know which field a text comes from.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_PLAYERS_LINE = re.compile(r"^[ \t]*(\*{0,3})(?:\{\{user\}\}|<user>)\1[ \t]*[:：]", re.IGNORECASE | re.MULTILINE)
_CHAR, _USER = (r"\{\{char\}\}", "<bot>"), (r"\{\{user\}\}", "<user>")
_PLAYERS = ("You", "User")  # what card writers call the player in a dialogue; {{user}} is the right word
_ADDRESSED = re.compile(r"\b(?:to|for|from|of|and|or|with|dear|at|by|about|tell|told|say|says|said|asks?|asked)[ \t]*\Z",
                        re.IGNORECASE)  # "a letter to {{user}}: ..." begins no turn
_SENTENCE_END = re.compile(r"""[.!?…。！？"”’»」』*)\]][ \t]+\Z""")
_LOOKED_BACK = 400  # characters in front of a label
_LIST_MARK = re.compile(r"[ \t]*[-*•>#]+[ \t]+")  # in front of a line
_START = re.compile("<start>", re.IGNORECASE | re.ASCII)
# A note in square brackets on a line of its own; or a blank line, then a heading or another note.
_NO_DIALOGUE = re.compile(r"\n(?=[ \t]*\[)|\n[ \t]*\n(?=[ \t]*(?:[(<#]|[^\W\d_][\w '’-]{0,30}[:：]))")
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


@dataclass(frozen=True)
class _Label:
    """Where the name of a speaker stands in a dialogue."""

    start: int
    end: int
    own: bool  # the character's


def split_dialogue(text: str, names: Sequence[str]) -> list[str]:
    """What the character says in a dialogue, a text for each of its turns, without the labels.

    A turn begins with {{char}}: or <BOT>: or one of the character's `names`, and ends with the next label.
    """
    labels = list(_labels(text, names, ()))
    return [said for label, said in _parted(text, labels) if label.own]


def dialogue_turns(dialogue: str, character: Sequence[str], player: Sequence[str]) -> list[tuple[str, str]]:
    """A dialogue as turns (role, text), role "user" or "assistant", labels taken off; [] where nobody's label stands in it.

    A turn begins with {{char}}:, <BOT>: or one of the `character`'s names, or {{user}}:, <USER>:, "You:", "User:" or one of
    the `player`'s. What stands before the first label belongs to the first turn; turns without words are left out.
    """
    labels = list(_labels(dialogue, character, player))
    if not labels:
        return []
    turns = [("assistant" if label.own else "user", said.strip()) for label, said in _parted(dialogue, labels)]
    if before := dialogue[:labels[0].start].strip():
        turns[0] = (turns[0][0], f"{before}\n{turns[0][1]}".strip())
    return [turn for turn in turns if turn[1]]


def dialogue_apart(description: str, names: Sequence[str]) -> tuple[str, str]:
    """A description without the example dialogue that some writers put there behind <START>, and that dialogue.

    A heading or a note in brackets that follows the dialogue's last turn stays with the description. Without labels, all stays.
    """
    start = _START.search(description)
    if not start:
        return description, ""
    spoken = description[start.start():]
    labels = list(_labels(spoken, names, ()))
    if not labels:
        return description, ""
    rest = _NO_DIALOGUE.search(spoken, labels[-1].end)
    end = rest.start() if rest else len(spoken)
    return f"{description[:start.start()].rstrip()}\n\n{spoken[end:].strip()}".strip(), spoken[:end]


def _labels(text: str, character: Sequence[str], player: Sequence[str]) -> Iterator[_Label]:
    own = "|".join([*_CHAR, *_escaped(character)])
    others = "|".join([*_USER, *_escaped((*player, *_PLAYERS))])
    plain, bold = (rf"(?:(?P<own{number}>{own})|{others})" for number in (1, 2))
    mark = r"(?P<mark>\*{1,3}|_{1,3})"
    label = re.compile(rf"{plain}[ \t]*[:：]|{mark}{bold}(?:(?P=mark)[ \t]*[:：]|[ \t]*[:：](?P=mark))", re.IGNORECASE)
    macro = re.compile(rf"[*_]*(?:{'|'.join((*_CHAR, *_USER))})", re.IGNORECASE)
    end = 0
    for found in label.finditer(text):
        before = text[max(0, found.start() - _LOOKED_BACK):found.start()].rpartition("\n")[2]
        if _begins(before, macro.match(found[0]) is not None, found.start() == end):
            end = found.end()
            start = found.start() - (len(before) if _LIST_MARK.fullmatch(before) else 0)
            yield _Label(start, end, bool(found["own1"] or found["own2"]))


def _begins(before: str, macro: bool, follows: bool) -> bool:
    """Whether a name and a colon begin a turn; `before`: what stands before them on their line."""
    if not before.strip() or follows or _LIST_MARK.fullmatch(before) or _START.search(before[-7:]):
        return True
    if not macro:
        return _SENTENCE_END.search(before[-8:]) is not None
    return not (before[-1].isalnum() and before[-1].isascii()) and not _ADDRESSED.search(before[-12:])


def _parted(text: str, labels: list[_Label]) -> Iterator[tuple[_Label, str]]:
    """Each label with what follows it, up to the next one."""
    ends = [label.start for label in labels[1:]] + [len(text)]
    for label, end in zip(labels, ends, strict=False):
        yield label, text[label.end:end]


def _escaped(names: Sequence[str]) -> list[str]:
    """Names for a pattern, the longest first; a name stands for itself only as a whole word."""
    return [rf"(?<![^\W_]){re.escape(name)}" for name in sorted({name for name in names if name}, key=len, reverse=True)]


def _narration(text: str) -> list[str]:
    if "*" in text:
        return [match[1] for match in _ACTIONS.finditer(text)]
    if any(quoted[0][-2:-1] in ".,!?…-–—" for quoted in _SPEECH.finditer(text)):  # a sentence, and not a quoted word
        return [part.strip() for part in _SPEECH.split(text)]
    return []
