"""Advice for the writer of a card, by rules on its texts: a "problem" certainly spoils the character, a "hint" is worth a look."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.base.questions import count_words
from engine.cards.actions import read_actions
from engine.cards.book import Book, Entry, parse_book
from engine.cards.card import MAX_NAME, Card, unfinished
from engine.cards.fields import FIELDS, LABELS, data_of, extensions_of, fields_of
from engine.cards.keys import is_pattern, quoted
from engine.cards.lorebook import MOST_TOKENS, budget_of
from engine.cards.macros import MOMENT, find_macros, reads_the_clock
from engine.cards.npc import read_npc
from engine.cards.prompt import note_of, render_description, render_greeting
from engine.cards.script import read_script
from engine.cards.speaking import MANNERS, REFUSAL, START, acts_for_player, split_dialogue, writes_players_lines

DESCRIPTION_TOKENS = 600  # more makes every answer slow and leaves a small model lost
DESCRIPTION_WORDS = 40  # fewer leave a model without a voice to hold
MOST_ALIKE = 5  # pieces of advice of one kind on a lorebook; how many more there are, a sentence says
GREETING_WORDS = 100  # twice the longest answer that the studio's own closing instruction asks for

Level = Literal["problem", "hint"]
Tokens = Callable[[str], int]


@dataclass(frozen=True)
class Advice:
    """One piece of advice: the field of the card that it is about, how grave it is, and a sentence or two."""

    field: str
    level: Level
    sentence: str


_PLACEHOLDER = re.compile(
    r"\b(?:TODO|TBD|FIXME)\b(?=\s*(?::|\Z))|(?i:lorem ipsum"
    r"|[\[<](?:insert (?!coin)|fill in\b|your (?:name|text|character|description)\b)[^\[\]<>\n]{0,60}[\]>]"
    r"|\A\s*(?:(?:your|enter|the) )*(?:text|description|greeting|personality|scenario)(?: goes)? here[.\s]*\Z)")
_STRAY_ASTERISKS = re.compile(r"(?<=\w)\*+(?=\w)|(?<!\S)\*+(?!\S)")  # f*ck; bullets, 2 * 3, scene breaks
_PATTERN_SIGNS = re.compile(r"\\[bBdDwWsS]|\.[*+]|\[[^\]]+\]|\([^)]*\||\(\?|\w\|\w")  # hardly in a plain key
_SECOND_PERSON = re.compile(r"(?:\A|[.!?]\s+|\n\s*)(You(?:'re|’re| are| were| have| speak| live)\b[^.!?\n]{0,40})")
# "Mira Vell is a smith": whom a description begins with.
_SUBJECT = re.compile(r"\s*((?!(?:The|This|That|There|He|She|It|They|You|Her|His|Their|Name|Once|Born)\b)"
                      r"[A-Z][\w'’-]+(?: [A-Z][\w'’-]+){0,2}) (?:is|was) (?:an?|the)\b")
_NAME_MACRO = re.compile(r"\{\{(?:char|user)\}\}", re.IGNORECASE)


def advice(raw: dict[str, Any], tokens: Tokens | None, context: int = 2048) -> list[Advice]:
    """Advice on a V1, V2 or V3 card, problems first, otherwise in the order of the page.

    `tokens` counts the tokens of a text (None: no advice on length in tokens); `context`: tokens that the model can hold.
    """
    card = unfinished(raw)
    fields = fields_of(card.raw)
    book = parse_book(data_of(card.raw).get("character_book"))
    found = [*_identity(fields), *_greetings(fields), *_dialogue(fields), *_texts(card, fields), *_book(book),
             *_unread(card, fields)]
    if tokens:
        found += [*_budget(card, fields, tokens, context), *_capped(_too_large(book, tokens))]
    order = list(LABELS)
    found.sort(key=lambda item: (item.level != "problem", order.index(item.field) if item.field in order else len(order)))
    return list(dict.fromkeys(found))


def _identity(fields: dict[str, Any]) -> Iterator[Advice]:
    name = fields["name"].strip()
    if not name:
        yield Advice("name", "problem", "The character has no name.")
    for field in ("name", "nickname"):
        if len(" ".join(fields[field].split())) > MAX_NAME:
            yield Advice(field, "problem", f"{LABELS[field]}: more than {MAX_NAME} characters are not possible.")
    words = _words(fields["description"])
    if not any(fields[field].strip() for field in ("description", "personality", "scenario", "mes_example")):
        yield Advice("description", "problem", "Nothing is described yet, so the model does not know whom to play.")
    elif words < DESCRIPTION_WORDS:
        yield Advice("description", "hint", f"The description has {words} {'word' if words == 1 else 'words'}. With fewer than "
                     f"{DESCRIPTION_WORDS}, characters tend to sound alike.")
    yield from _whom(fields)


def _whom(fields: dict[str, Any]) -> Iterator[Advice]:
    """Whether the description is about the character of the card, and not addressed to anybody."""
    own = {word.casefold() for field in ("name", "nickname") for word in re.findall(r"\w+", fields[field])}
    described = _SUBJECT.match(fields["description"])
    if described and own and not own & {word.casefold() for word in re.findall(r"\w+", described[1])}:
        yield Advice("description", "hint", f"The description is about {quoted(described[1])}, but the card is called "
                     f"{quoted(fields['name'].strip())}. Write {{{{char}}}} for the character's name.")
    for field in ("description", "personality"):
        if found := _SECOND_PERSON.search(fields[field]):
            yield Advice(field, "hint", f"The {LABELS[field].lower()} speaks to the character ({quoted(found[1])}). In greetings "
                         "and answers, “you” is the player, and a small model confuses the two. Write {{char}} and third person.")


def _greetings(fields: dict[str, Any]) -> Iterator[Advice]:
    if not fields["first_mes"].strip():
        yield Advice("first_mes", "hint", "There is no greeting, so the player has to speak first.")
    own_closing = fields["system_prompt"].strip() and "{{original}}" not in fields["system_prompt"].lower()
    for field, what, text in _all_greetings(fields):
        if sounds := MANNERS.search(text) or REFUSAL.search(text):
            yield Advice(field, "hint", f"{what} sounds like an assistant ({quoted(' '.join(sounds[0].split()))}). The model goes "
                         "on in the voice that it begins with.")
        if writes_players_lines(text):
            yield Advice(field, "problem", f'{what} contains lines of the player ("{{{{user}}}}:"). The model will learn '
                         "to speak for the player.")
        elif act := acts_for_player(text):
            yield Advice(field, "hint", f"{what} seems to act for the player ({quoted(act)}). Most players like to decide "
                         "that themselves.")
        if not own_closing and (words := _words(text)) > GREETING_WORDS:
            yield Advice(field, "hint", f"{what} has {words} words, but answers are meant to be one to three short sentences. "
                         "The model copies the length that it sees.")


def _dialogue(fields: dict[str, Any]) -> Iterator[Advice]:
    text, field = fields["mes_example"], "mes_example"
    if not text.strip():
        if fields["description"].strip():  # the first thing to write
            yield Advice(field, "hint", "There is no example dialogue. Two or three short exchanges shape the voice more than "
                         "anything else.")
        return
    if not START.search(text):
        yield Advice(field, "hint", "The example dialogue has no <START>. Put one on a line of its own before each dialogue.")
    names = [name for name in (fields["name"].strip(), fields["nickname"].strip()) if name]
    spoken = split_dialogue(START.sub("\n", text), [*names, *(name.split()[0] for name in names)])
    if not spoken:
        yield Advice(field, "hint", "No line of the example dialogue begins with {{char}}:, so the model cannot tell who speaks.")
    if sounds := next((found for line in spoken if (found := MANNERS.search(line) or REFUSAL.search(line))), None):
        yield Advice(field, "hint", f"The character sounds like an assistant in the example dialogue "
                     f"({quoted(' '.join(sounds[0].split()))}). The model will, too.")
    for line in spoken:
        if act := acts_for_player(line):
            yield Advice(field, "hint", f"The character's lines in the example dialogue seem to act for the player "
                         f"({quoted(act)}). The model will do the same.")
            return


def _texts(card: Card, fields: dict[str, Any]) -> Iterator[Advice]:
    for field, what, text in _prompt_texts(fields):
        yield from _macros_in(field, what, text)
        if left := _PLACEHOLDER.search(text):
            yield Advice(field, "problem", f"{what} still contains a placeholder ({quoted(left[0])}).")
        if _STRAY_ASTERISKS.sub("", text).count("*") % 2:
            yield Advice(field, "hint", f"{what} has an odd number of asterisks, so one action is not closed.")
    if note := note_of(card):
        yield from _macros_in("extensions", "The Character's Note", note.text)


def _macros_in(field: str, what: str, text: str) -> Iterator[Advice]:
    if "{" not in text and "<" not in text:
        return
    for finding in find_macros(text, original=field in ("system_prompt", "post_history_instructions")):
        shown = quoted(finding.text)
        if finding.kind == "misspelt":
            yield Advice(field, "problem", f"{what} contains {shown}, which is not replaced. Write {finding.meant} instead.")
            continue
        why = {"elsewhere": "works only in the fields for instructions", "unknown": "is not a known macro",
               "foreign": "SillyTavern replaces, but this studio does not"}[finding.kind]
        yield Advice(field, "hint", f"{what} contains {shown}, which {why}. The model sees it unchanged.")
    if reads_the_clock(text):
        yield Advice(field, "hint", f"{what} asks for the time or the date. Here it is always {MOMENT}, so that the model reads "
                     "the same text every day.")


def _book(book: Book) -> Iterator[Advice]:
    """What of a lorebook is not read, never fires, or reaches the model raw."""
    entries = [entry for entry in book.entries if entry.enabled]
    yield from _capped(Advice("character_book", "hint", fault) for fault in book.faults)
    yield from _capped(Advice("character_book", "hint", f"{_called(entry)} {why}, so it never fires.") for entry in entries
                       if (why := _never_fires(entry, entries)))
    yield from _capped(Advice("character_book", "hint", f"{_called(entry)} has the key {quoted(key)}, which is read as plain "
                              "text. A regular expression is written between slashes.") for entry in entries if entry.use_regex
                       for key in (*entry.keys, *entry.secondary) if not is_pattern(key) and _PATTERN_SIGNS.search(key))
    yield from _capped(found for entry in entries for found in _macros_in("character_book", _called(entry), entry.content))
    if book.entries and book.token_budget > MOST_TOKENS:
        yield Advice("character_book", "hint", f"The lorebook's budget of {book.token_budget:,} tokens counts as {MOST_TOKENS:,}, "
                     "the most that a prompt takes.")


def _never_fires(entry: Entry, others: Sequence[Entry]) -> str:
    """Why an entry can never fire; "" for one that can, or that is switched off on purpose."""
    if entry.always is not None:
        return ""
    if entry.probability <= 0:
        return "has a probability of 0 %"
    if entry.constant:
        return ""
    if not entry.keys:
        return "has no keys"
    keys = [key.casefold() for key in entry.keys]
    if set(keys) <= {key.casefold() for key in entry.excluded}:
        return "is kept from firing by its own keys"
    texts = [other.content.casefold() for other in others if other is not entry and other.into_recursion]
    if entry.only_recursion and not any(is_pattern(key) or key in text for key in keys for text in texts):
        return "waits for another entry to name one of its keys, and none does"
    return ""


def _too_large(book: Book, tokens: Tokens) -> Iterator[Advice]:
    """Entries that no budget lets in. Only what could be too large is counted: no token is shorter than a byte."""
    budget = budget_of(book)
    for entry in book.entries:
        fires = entry.enabled and entry.always is not False
        if fires and len(entry.content.encode("utf-8", "replace")) > budget and (count := tokens(entry.content)) > budget:
            yield Advice("character_book", "hint", f"{_called(entry)} has {count:,} tokens, more than the lorebook's budget of "
                         f"{budget:,}, so the model never reads it.")


def _capped(found: Iterable[Advice]) -> Iterator[Advice]:
    first = list(itertools.islice(found := iter(found), MOST_ALIKE))
    more = sum(1 for _ in found)
    yield from first
    if more:
        yield Advice(first[-1].field, first[-1].level, f"And {more:,} more of this kind in the lorebook.")


def _called(entry: Entry) -> str:
    return f"The lorebook's entry {quoted(entry.name)}"


def _unread(card: Card, fields: dict[str, Any]) -> Iterator[Advice]:
    """What this studio does not carry out, or cannot read, and what no model reads."""
    extensions, book = extensions_of(card.raw), data_of(card.raw).get("character_book")
    world, scripts = extensions.get("world"), extensions.get("regex_scripts")
    if isinstance(world, str) and (name := " ".join(world.split())) and not (isinstance(book, Mapping) and book.get("entries")):
        yield Advice("character_book", "hint", f"The card names the lorebook “{name[:60]}”, which is not in its file. Export that "
                     "world in SillyTavern, and import it under Lorebook.")
    if isinstance(scripts, list) and scripts:
        those = "a regular expression that changes" if len(scripts) == 1 else f"{len(scripts):,} regular expressions that change"
        yield Advice("extensions", "hint", f"The card has {those} texts in SillyTavern. They are kept in the card, but not applied "
                     "here.")
    npc = read_npc(card.raw)
    for fault in (*npc.faults, *read_actions(npc).faults, *read_script(card).faults):
        yield Advice("npc", "hint", fault)
    notes = fields["creator_notes"]
    if _NAME_MACRO.search(notes) or _words(notes) > max(DESCRIPTION_WORDS, _words(fields["description"])):
        yield Advice("creator_notes", "hint", "The notes for readers never reach the model. What the character should know "
                     "belongs in the description.")


def _budget(card: Card, fields: dict[str, Any], tokens: Tokens, context: int) -> Iterator[Advice]:
    if (count := tokens(fields["description"])) > DESCRIPTION_TOKENS:
        yield Advice("description", "hint", f"The description has {count:,} tokens (pieces of words). Small models hold on to a "
                     f"character better with at most {DESCRIPTION_TOKENS}.")
    whole = tokens(render_description(card)) + tokens(render_greeting(card))
    if whole > context / 2:
        yield Advice("description", "problem", f"The whole character takes {whole:,} of the {context:,} tokens (pieces of words) "
                     "that the model can hold. That leaves too little for the conversation.")


def _all_greetings(fields: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Field, how a sentence calls it, text."""
    yield "first_mes", "The greeting", fields["first_mes"]
    for number, text in enumerate(fields["alternate_greetings"], start=1):
        yield "alternate_greetings", f"Other greeting {number}", text


def _prompt_texts(fields: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """All texts that can reach the model: field, how a sentence calls it, text."""
    for field in FIELDS:
        if field.attribute and not field.is_list and field.key != "first_mes":
            for_instructions = field.section == "model"
            yield field.key, f"The {'field for ' if for_instructions else ''}{field.label.lower()}", fields[field.key]
    yield from _all_greetings(fields)


def _words(text: str) -> int:
    return count_words(_NAME_MACRO.sub("Name", text))
