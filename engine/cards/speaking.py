"""Who speaks in a card's texts and in answers: example dialogue as turns, lines that belong to the player, a wrong voice.

A label is a name and a colon (of any width), plain or in bold, at the beginning of a line; the macros {{char}}: and {{user}}:
also within one. The rules on actions and manners are about English, and only find what can hardly mean anything else.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_PLAYERS_LINE = re.compile(r"^[ \t]*(\*{0,3})(?:\{\{user\}\}|<user>)\1[ \t]*[:：]", re.IGNORECASE | re.MULTILINE)
_CHAR, _USER = (r"\{\{char\}\}", "<bot>"), (r"\{\{user\}\}", "<user>")
_PLAYERS = ("You", "User")  # what card writers call the player in a dialogue; {{user}} is the right word
_ADDRESSED = re.compile(r"\b(?:to|for|from|of|and|or|with|dear|at|by|about|tell|told|say|says|said|asks?|asked)[ \t]*\Z",
                        re.IGNORECASE)  # "a letter to {{user}}: ..." begins no turn
_SENTENCE_END = re.compile(r"""[.!?…。！？"”’»」』*)\]][ \t]+\Z""")
_LOOKED_BACK = 400  # characters in front of a label
_LIST_MARK = re.compile(r"[ \t]*[-*•>#]+[ \t]+")  # in front of a line
START = re.compile("<start>", re.IGNORECASE | re.ASCII)
# A note in square brackets on a line of its own; or a blank line, then a heading or another note.
_NO_DIALOGUE = re.compile(r"\n(?=[ \t]*\[)|\n[ \t]*\n(?=[ \t]*(?:[(<#]|[^\W\d_][\w '’-]{0,30}[:：]))")
_ACTIONS = re.compile(r"(?<!\*)\*++([^*\n]+)\*")
_SPEECH = re.compile(r"\"[^\"\n]*(?:\"|$)|“[^”\n]*(?:”|$)|«[^»\n]*(?:»|$)", re.MULTILINE)
_VERBS = ("say", "reply", "answer", "whisper", "shout", "mutter", "nod", "smile", "grin", "laugh", "blush", "shiver", "sigh",
          "feel", "think", "decide", "realise", "realize")
_BEGINNING = r"(?:^|[.!?…;,]\s+|\b(?:and|then)\s+)"  # of a clause, where its subject is
_YOU_ACT = re.compile(rf"{_BEGINNING}(you\s+(?:{'|'.join(_VERBS)})\b[^.!?\n]*)", re.IGNORECASE | re.MULTILINE)
_THIRD = [verb.replace("reply", "replie") + ("es" if verb in ("blush",) else "s") for verb in _VERBS]
_PLAYER_ACTS = re.compile(rf"{_BEGINNING}((?:\{{\{{user\}}\}}|<user>)\s+(?:{'|'.join(_THIRD)})\b[^.!?\n]*)",
                          re.IGNORECASE | re.MULTILINE)
_OTHER_LABEL = re.compile(r"^[ \t]*(?:\{\{\w+\}\}|<\w+>|[^\W\d_][\w' .-]{0,40}) ?[:：]", re.MULTILINE)  # of a third person
_STAGE_DIRECTION = re.compile(r"\*[^*]*\*|\([^()]*\)")
_TITLES = frozenset(("mr", "mrs", "ms", "miss", "dr", "doctor", "sir", "lady", "lord", "captain", "king", "queen",
                     "prince", "princess", "the", "father", "mother", "old", "saint", "uncle", "aunt"))
REFUSAL = re.compile(r"""
    \bI(?:'m|\ am)?\ (?:cannot|can't|can\ not|unable\ to|not\ able\ to|won't\ be\ able\ to|will\ not\ be\ able\ to)\ (?:
        assist\b|help\ (?:you\ )?with\ (?:that|this|your)\ request
        |(?:fulfil+|comply\ with|process|answer|support|complete)\ (?:that|this|your|the|such)\ (?:request|prompt|task)
        |(?:generate|create|write|produce|engage\ in|participate\ in|discuss|provide)\ (?:\w+\ ){0,3}
            (?:content|conversations?|topics?|requests?|role-?play|assistance|(?:medical|legal)\ advice|information))
    |^(?:oh,?\ )?I(?:'m|\ am)\ (?:\w+\ )?sorry,?\ but\ I\ ?
        (?:cannot|can't|can\ not|am\ unable|'m\ unable|am\ not\ able)\b(?!\ let)
    |\bI\ apologi[sz]e,?\ but\ I\ ?(?:cannot|can't|am\ unable|'m\ unable|am\ not\ able|do\ not|don't)\b
    |\bI(?:'m|\ am)\ (?:sorry|afraid),?\ (?:but\ )?I\ (?:do\ not|don't)\ have\ (?:any\ |the\ )?(?:information|access)
    |\bI(?:'m|\ am)\ not\ comfortable\ (?:discussing|creating|generating|writing|with\ this\ (?:request|topic))
    |\b(?:against|violates?)\ (?:my|the|our)\ (?:\w+\ )?(?:programming|guidelines|polic(?:y|ies))
    |\binappropriate\ (?:request|content)\b
    """, re.IGNORECASE | re.VERBOSE)
MANNERS = re.compile(r"""
    \bas\ an?\ (?:AI|artificial\ intelligence|chatbot)\b(?!\ of)
    |\b(?:as\ an?|I(?:'m|\ am)\ an?|your)\ (?:helpful|AI|virtual|digital|personal|AI-powered)\ (?:AI\ )?assistant\b
    |\blanguage\ model\b|\bchatgpt\b|\bopenai\b|\bhugging\ ?face\b|\bI(?:'m|\ am)\ an\ AI\ (?:trained|model)
    |\bhow\ (?:can|may|could)\ I\ (?:assist\ you|help\ you\ (?:today|further|with\ (?:that|your|this)))
    |\bI(?:'m|\ am)\ here\ to\ (?:assist|help(?:\ you)?(?:[.!,;?]|$|\ with\ (?:any|your|whatever)|\ (?:answer|in\ any)))
    |^(?:certainly|absolutely)[!,.]?\ here(?:'s|\ is|\ are)\b
    |^(?:(?:sure|of\ course|okay|ok)[!,.]?\ )?here(?:'s|\ is|\ are)\ (?:an?|the|my|your|some)\ (?:\w+\ ){0,3}
        (?:response|answer|reply|rewrite|version|example|list|summary|story|poem|essay)s?\b
    |\bfeel\ free\ to\ (?:ask|reach\ out|let\ me\ know)
    |\blet\ me\ know\ if\ (?:you\ (?:have|need)\ (?:any|more|further)|there(?:'s|\ is)\ anything)
    |\banything\ else\ I\ can\ (?:help|assist)
    |\b(?:happy|glad|pleased)\ to\ (?:assist|help\ you\ with\ (?:that|your|any))
    |\bI\ hope\ this\ (?:helps|information|response)|\bprovide\ (?:me\ with\ )?more\ (?:context|information|details)
    |\bI\ (?:do\ not|don't)\ have\ (?:any\ )?personal\ (?:opinions|feelings|experiences|beliefs|preferences|emotions)
    |\b(?:rewritten|revised)\ (?:answer|response|version|text|line)|\bin\ character\ as\b
    |\b(?:this|the)\ (?:response|answer|reply|rewrite)\ (?:captures|reflects|maintains|keeps|stays)|[(\[]note:
    """, re.IGNORECASE | re.VERBOSE)
_VERB = (r"(?:(?:then|also|always|never|just|only|simply|slowly|quietly|softly|often|still|not|no|\w{3,}ly) )?"
         r"(?:is|was|are|were|am|be|has|had|have|do|does|did|would|will|could|can|cannot|might|may|must|should|shall"
         r"|isn't|wasn't|won't|wouldn't|can't|couldn't|doesn't|didn't|hasn't"
         r"|said|told|took|stood|went|felt|knew|thought|came|saw|gave|made|kept|held|sat|spoke|ran|left|grew|began|let"
         r"|know|want|like|think|go|need|see|love|hate|say|make|take|eat|keep|come|give|find|feel|hear|get|help|tell|sleep"
         r"|(?!(?:as|its|this|his|yes|us|thus|perhaps|besides|unless|towards|always|hers|theirs|ours|yours)\b)"
         r"[a-z]{2,}(?:s|ed))\b(?! (?:my name|the name|what (?:they|people|folk|everyone) call|me\b))")
_OF_THE_BODY = r"(?:face|eyes?|voice|hands?|smile|lips|gaze|heart|expression|mouth|fingers|head|brow|shoulders)"
_BEFORE_SUBJECT = (r"(?:^|[.!?\u2026:;,\u2014\u2013\"\u201c\u201d)\n]\s*"
                   r"|\b(?:and|but|then|so|that|because|when|if|while)\s+)")


def writes_players_lines(text: str) -> bool:
    """Whether a line of the text begins with the player's name and a colon."""
    return bool(_PLAYERS_LINE.search(text))


def acts_for_player(text: str) -> str:
    """The first clause of the narration in which the player speaks, moves or feels ("you smile ..."); "" without one.

    Narration is between asterisks or, without these, outside of quoted sentences; a text with neither is speech.
    """
    for passage in _narration(text):
        if act := _YOU_ACT.search(passage) or _PLAYER_ACTS.search(passage):
            return act[1].strip()
    return ""


class _Label(NamedTuple):
    start: int
    end: int
    own: bool  # the character's


def split_dialogue(text: str, names: Sequence[str]) -> list[str]:
    """The character's turns in a dialogue, without labels ({{char}}:, <BOT>:, one of its `names`)."""
    return [said for label, said in _parted(text, list(_labels(text, names, ()))) if label.own]


def dialogue_turns(dialogue: str, character: Sequence[str], player: Sequence[str]) -> list[tuple[str, str]]:
    """A dialogue as turns (role, text), role "user" or "assistant", labels taken off; [] where it has no label.

    A turn begins with {{char}}:, <BOT>: or one of the `character`'s names, or {{user}}:, <USER>:, "You:", "User:" or one of
    the `player`'s. What comes before the first label belongs to the first turn; turns without words are left out.
    """
    labels = list(_labels(dialogue, character, player))
    if not labels:
        return []
    turns = [("assistant" if label.own else "user", said.strip()) for label, said in _parted(dialogue, labels)]
    if before := dialogue[:labels[0].start].strip():
        turns[0] = (turns[0][0], f"{before}\n{turns[0][1]}".strip())
    return [turn for turn in turns if turn[1]]


def dialogue_apart(description: str, names: Sequence[str]) -> tuple[str, str]:
    """A description without the example dialogue that some writers put there after <START>, and that dialogue."""
    start = START.search(description)
    spoken = description[start.start():] if start else ""
    labels = list(_labels(spoken, names, ()))
    if not start or not labels:
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
    """Whether a name and a colon begin a turn; `before`: what comes before them on their line."""
    if not before.strip() or follows or _LIST_MARK.fullmatch(before) or START.search(before[-7:]):
        return True
    if not macro:
        return _SENTENCE_END.search(before[-8:]) is not None
    return not (before[-1].isalnum() and before[-1].isascii()) and not _ADDRESSED.search(before[-12:])


def _parted(text: str, labels: list[_Label]) -> Iterator[tuple[_Label, str]]:
    ends = [label.start for label in labels[1:]] + [len(text)]
    for label, end in zip(labels, ends, strict=False):
        yield label, text[label.end:end]


def _escaped(names: Sequence[str]) -> list[str]:
    """Names for a pattern, the longest first; a name counts only as a whole word."""
    return [rf"(?<![^\W_]){re.escape(name)}" for name in sorted({name for name in names if name}, key=len, reverse=True)]


def _narration(text: str) -> list[str]:
    if "*" in text:
        return [match[1] for match in _ACTIONS.finditer(text)]
    if any(quoted[0][-2:-1] in ".,!?…-–—" for quoted in _SPEECH.finditer(text)):  # a sentence, and not a quoted word
        return [part.strip() for part in _SPEECH.split(text)]
    return []


def plain_text(text: str) -> str:
    """The text with straight apostrophes and single spaces within lines, as the patterns expect it."""
    return re.sub(r"[ \t]+", " ", text.replace("\u2019", "'")).strip()


@functools.lru_cache(maxsize=64)
def names_pattern(names: tuple[str, ...]) -> str:
    """An alternation of the names, their first names and their capitalised spellings, longest first."""
    return "|".join(re.escape(name.replace("\u2019", "'")) for name in sorted(_spellings(names), key=len, reverse=True))


def _spellings(names: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for name in filter(None, (name.strip() for name in names)):
        words = [word for word in name.split() if word.lower().rstrip(".") not in _TITLES]
        for variant in {name, *words[:1]}:
            found |= {variant, variant.title()} if len(variant) > 1 else set()
    return found


def own_words(text: str, names: Sequence[str], others: Sequence[str]) -> str:
    """What somebody with these names said: without the own name before it, and without lines of `others` and all after them."""
    own = re.sub(rf"\A(?:{names_pattern(tuple(names))})\s*:\s*", "", text.strip(), flags=re.IGNORECASE)
    return re.split(rf"(?im)^\W*(?:{names_pattern(tuple(others))})\s*:", own, maxsplit=1)[0].strip()


def speaks_of_itself_by_name(text: str, names: Sequence[str]) -> bool:
    """Whether a name is the subject of a clause, outside of stage directions (*...* and (...))."""
    pattern = names_pattern(tuple(names))
    if not pattern:
        return False
    spoken = re.sub(rf"^\s*(?:{pattern})\s*:\s*", "", _STAGE_DIRECTION.sub(" . ", plain_text(text)))
    return re.search(rf"\b[Aa]s (?:{pattern})\b,? ?(?:I|he|she|they|it|this|my|his|her)\b"
                     rf"|{_BEFORE_SUBJECT}(?:{pattern}) (?:not\b|{_VERB})"
                     rf"|{_BEFORE_SUBJECT}(?:{pattern})'s (?:\w+ )?{_OF_THE_BODY}\b"
                     rf"|\b(?:said|says|replied|asked|asks|whispered|muttered) (?:{pattern})\b", spoken) is not None


def has_assistant_phrase(text: str) -> bool:
    """Whether a text offers help, refuses by policy, or talks of models, as an assistant does."""
    found = plain_text(text)
    return MANNERS.search(found) is not None or REFUSAL.search(found) is not None


def uses_third_person(names: Sequence[str], example_dialogue: str) -> bool:
    """Whether a character by design speaks of itself by name, by its own lines in the card's example dialogue."""
    own = [_OTHER_LABEL.split(line, maxsplit=1)[0] for dialogue in START.split(example_dialogue)
           for line in split_dialogue(dialogue, tuple(_spellings(names)))]
    name = names[0] if names else ""
    spoken = [re.sub(r"(?i)\{\{char\}\}|<BOT>", lambda _: name, line) for line in own]
    return any(speaks_of_itself_by_name(line, names) for line in spoken)
