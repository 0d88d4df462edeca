"""How a character must not sound: spoken of by name as by a narrator, or with the manners of an assistant.

Rules on text alone, for lines to learn from as for answers to be tested. They know English. They do not know whether
an answer is true, or good.
"""

import functools
import re
from collections.abc import Sequence

from engine.cards.speaking import split_dialogue

_START = re.compile("<start>", re.IGNORECASE | re.ASCII)
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


def plain_text(text: str) -> str:
    """The text with straight apostrophes and single spaces within lines, as the patterns expect it."""
    return re.sub(r"[ \t]+", " ", text.replace("\u2019", "'")).strip()


@functools.lru_cache(maxsize=64)
def names_pattern(names: tuple[str, ...]) -> str:
    """An alternation of the names, their first names and their capitalised spellings, longest first."""
    return "|".join(re.escape(name.replace("\u2019", "'")) for name in sorted(_spellings(names), key=len, reverse=True))


def _spellings(names: Sequence[str]) -> set[str]:
    """The names, their first names (titles passed over) and the capitalised spellings of both."""
    found: set[str] = set()
    for name in filter(None, (name.strip() for name in names)):
        words = [word for word in name.split() if word.lower().rstrip(".") not in _TITLES]
        for variant in {name, *words[:1]}:
            found |= {variant, variant.title()} if len(variant) > 1 else set()
    return found


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
    """Whether a text has a phrase of an assistant: an offer of help, a refusal by policy, talk of models."""
    found = plain_text(text)
    return MANNERS.search(found) is not None or REFUSAL.search(found) is not None


def uses_third_person(names: Sequence[str], example_dialogue: str) -> bool:
    """Whether a character by design speaks of itself by name, judged by the card's own example dialogue.

    Only the character's own lines count (those behind "{{char}}:" or one of its names, up to the next label).
    """
    own = [_OTHER_LABEL.split(line, maxsplit=1)[0] for dialogue in _START.split(example_dialogue)
           for line in split_dialogue(dialogue, tuple(_spellings(names)))]
    name = names[0] if names else ""
    spoken = [re.sub(r"(?i)\{\{char\}\}|<BOT>", lambda _: name, line) for line in own]
    return any(speaks_of_itself_by_name(line, names) for line in spoken)
