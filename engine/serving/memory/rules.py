"""Facts about a player by rules on what the player says: sentences of the first person, in English only.

Names, tastes, home, trade, what the player has, is, wants, promised and has done. What is asked, supposed, quoted, or said of
others is left alone: the rules would rather miss a fact than make one up. "You" in a fact is the character.
"""

import re
from collections.abc import Iterable

from engine.serving.memory.records import LONGEST_FACT, LONGEST_TURN, RULES, Found, Turn
from engine.serving.memory.words import FIRST_PERSON, denies, share

_LONGEST_SENTENCE = 600  # characters
_LONGEST = 24  # words of a clause that a fact is made of
_ACTION = re.compile(r"\*[^*\n]{0,400}\*|\([^()\n]{0,400}\)|\[[^\[\]\n]{0,400}\]")
_QUOTE = re.compile(r"[\"“][^\"“”\n]{0,1000}[\"”]")
_SENTENCE = re.compile(r"(?<=[.!?…])[\"”']?\s+|\n+")
_CLAUSE = re.compile(r"\s*(?:[;:—–]|,| - |\b(?:and|but|because|so)\b(?= (?:I|i|my|My)\b))\s*")
_FILLER = re.compile(r"(?:(?:well|hello|hi|hey|greetings|oh|ah|yes|yeah|no|nope|sir|actually|honestly|truly|also|and|but|so|then|"
                     r"now|remember|please|you know|by the way|good (?:day|morning|evening)|because|to be honest|that)\b[ ,]*)+",
                     re.IGNORECASE)
_SUPPOSED = re.compile(r"\b(?:if|would|could|might|maybe|perhaps|unless|pretend|imagine|suppose|wish|wonder|hypothetically|joking"
                       r"|kidding|lying|not sure|were to)\b|'d\b", re.IGNORECASE)
_VAGUE = r"(?:it|that|this|these|those|them|him|her|you|your|yours|what|how|when|where|who|the way|to know|one)\b"
_PASSING = (r"(?:question|idea|feeling|headache|moment|minute|problem|plan|request|point|doubt|bad|hunch|look|bit|lot|little|few"
            r"|chance|favou?r|thing|something|word|reason|suggestion|choice)")
_PARTS = (r"(?:answer|question|point|guess|turn|mistake|bad|pleasure|fault|apolog\w+|feet|head|hands?|eyes?|patience|time|mind|god"
          r"|word)")
_NOT_NAMES = {"not", "none", "no", "later", "back", "when", "a", "an", "the", "if", "crazy", "of", "my", "your", "what"}

# (pattern of a clause, fact about the player); \g<x> is what is said, put into the third person
_PATTERNS = [(re.compile(pattern, re.IGNORECASE), fact) for pattern, fact in (
    (r"my (?:real |full |first )?name(?: is|'s)(?: actually)? (?P<name>.+)", r"The player's name is \g<name>."),
    (r"(?:I am|I'm) (?:called|named) (?P<name>.+)", r"The player's name is \g<name>."),
    (r"(?:you (?:can|may) |people |they |everyone |friends |please )?calls? me (?P<name>.+)", r"The player's name is \g<name>."),
    (r"(?:I am|I'm) (?P<x>\w+)(?: years| winters)(?: old| of age)?", r"The player is \g<x> years old."),
    (r"(?:I am|I'm) (?P<x>\d{1,3})", r"The player is \g<x> years old."),
    (r"(?:I am|I'm|I come|I hail) from (?P<x>.+)", r"The player comes from \g<x>."),
    (r"I was born (?P<x>(?:in|on|at|near|under) .+)", r"The player was born \g<x>."),
    (r"I (?:live|dwell)(?: now| alone)? (?P<x>(?:in|at|near|on|by|beyond|outside|above|under|with) .+)",
     r"The player lives \g<x>."),
    (r"I work (?P<x>(?:as|at|for|in|on) .+)", r"The player works \g<x>."),
    (r"I (?:really |also |truly |just |always )*(?P<v>like|love|enjoy|adore|prefer|hate|dislike|fear|collect|play|grow|speak) "
     rf"(?!{_VAGUE})(?P<x>.+)", r"The player \g<v>s \g<x>."),
    (r"I (?:really )?(?:do not|don't) have (?:any |an? )?(?P<x>.+)", r"The player has no \g<x>."),
    (rf"I (?:really )?(?:do not|don't) (?:really )?(?P<v>like|love|enjoy|eat|drink|trust|speak) (?!{_VAGUE})(?P<x>.+)",
     r"The player doesn't \g<v> \g<x>."),
    (r"I (?:can't|cannot|can not) (?P<v>stand|bear|swim|read|write|sing|dance|ride|see|hear|walk)"
     rf"(?P<x>(?: (?!{_VAGUE}).+)?)", r"The player cannot \g<v>\g<x>."),
    (r"(?:I have|I've got|I have got|I own|I keep) (?P<x>(?:an? |two |three |four |five |\d+ |many |no )"
     rf"(?!(?:\w+ )?{_PASSING}\b).+)", r"The player has \g<x>."),
    (rf"(?:I am|I'm) (?P<x>(?:not )?(?:an?|the) (?!(?:\w+ )?{_PASSING}\b).+)", r"The player is \g<x>."),
    (r"(?:I am|I'm) (?P<x>(?:very |really )?(?:afraid of|allergic to|fond of|looking for|searching for|hunting|married"
     r"|in love with|engaged to|blind|deaf|left-handed|wanted|hiding|trying to|learning|saving|training|studying"
     r"|building)(?: .+)?)", r"The player is \g<x>."),
    (r"(?-i:I(?: a|')m (?P<x>[A-Z][\w'-]+(?: (?:of |the )*[A-Z][\w'-]+)*))", r"The player is \g<x>."),
    (r"I (?P<v>want|need|plan|intend|hope) (?P<x>(?:to (?!go\b|know|ask|see\b|talk|leave|hear|say\b|tell|think|be clear)|an? |the "
     rf"|my |some )(?!{_PASSING}\b).+)", r"The player \g<v>s \g<x>."),
    (r"I (?:promise|swear|vow|promised|swore)(?: to)?(?: you)?(?: that)? (?:I'll |I will |to )(?P<x>.+)",
     r"The player promised to \g<x>."),
    (r"(?:I'll|I will|I shall) (?P<x>(?:always |never |soon )?(?:bring|come back|return|pay|find|give|help|keep|meet|fetch"
     r"|repay|avenge|visit|guard|protect)\b.*)", r"The player said that they will \g<x>."),
    (r"I owe (?P<x>.+)", r"The player owes \g<x>."),
    (r"I(?:'ve| have)? (?:just |once |already )?(?P<x>(?:lost|found|killed|stole|stolen|married|broke|built|escaped|saved|met"
     rf"|bought|sold|buried|betrayed|hid|served|fought|learned) (?!{_VAGUE}).+)", r"The player \g<x>."),
    (rf"my (?P<of>(?!{_PARTS}\b)[\w'-]+(?: [\w'-]+){{0,2}}?)'s name is (?P<x>.+)", r"The player's \g<of> is called \g<x>."),
    (rf"my (?P<of>(?!{_PARTS}\b)[\w'-]+(?: [\w'-]+){{0,3}}?) (?P<v>is|are|was|were|has|had|lives|died|works|went|killed|makes"
     rf"|loves|hates)(?P<x>(?: (?!{_VAGUE}).+)?)", r"The player's \g<of> \g<v>\g<x>."),
)]
_SWAPS = {"i": "they", "me": "them", "my": "their", "mine": "theirs", "myself": "themselves", "i'm": "they are",
          "i've": "they have", "i'll": "they will", "i'd": "they would", "we": "they", "our": "their", "us": "them", "am": "are"}
_SWAP = re.compile(rf"(?<![\w'-])(?:{'|'.join(sorted(_SWAPS, key=len, reverse=True))})(?![\w'-])", re.IGNORECASE)


def find_facts(turns: Iterable[Turn]) -> list[Found]:
    """The facts that the player's turns state, in order, each with its turn and its sentence."""
    return [Found(fact, turn.n, sentence, RULES) for turn in turns if turn.role == "user"
            for sentence in statements(turn.text) for fact in _facts_of(sentence)]


def statements(text: str) -> list[str]:
    """The sentences of a turn in which the player states something: no questions, no actions between asterisks, no quotations.

    Where a turn begins with a quotation mark, what is between the marks is what the player says.
    """
    spoken = _ACTION.sub(" ", text[:LONGEST_TURN].replace("’", "'"))
    if quotes := _QUOTE.findall(spoken):
        spoken = "\n".join(quote[1:-1] for quote in quotes) if spoken.lstrip()[:1] in '"“' else _QUOTE.sub(" ", spoken)
    return [tidy for sentence in _SENTENCE.split(spoken) if (tidy := sentence.strip()) and not tidy.rstrip("\"'”) ").endswith("?")]


def supported(fact: str, turn: str) -> str:
    """The statement of a player's turn, or the part of one, that supports a fact; "" where none does.

    It must be of the first person and not supposed, deny exactly what the fact denies, and have at least two in three of the
    fact's words, among them its numbers and names: small models make things up.
    """
    names = re.findall(r"(?<!^)\b(?:[A-Z][\w'-]*|\d[\d.,]*)", fact.removeprefix("The player"))
    for sentence in statements(turn):
        if len(sentence) > _LONGEST_SENTENCE or _SUPPOSED.search(sentence):
            continue
        for part in (sentence, *_CLAUSE.split(sentence)):
            if (FIRST_PERSON.search(part) and denies(fact) == denies(part) and share(fact, part) >= 2 / 3
                    and all(re.search(rf"\b{re.escape(name)}", part, re.IGNORECASE) for name in names)):
                return part
    return ""


def _facts_of(sentence: str) -> list[str]:
    if len(sentence) > _LONGEST_SENTENCE or _SUPPOSED.search(sentence):
        return []
    found = []
    for clause in _CLAUSE.split(_joined_lists(sentence)):
        clause = clause.replace(_COMMA, ",").strip(" .!…\"'*~")
        start = _FILLER.match(clause)
        clause = clause[start.end():] if start else clause
        if 1 < len(clause.split()) <= _LONGEST and (fact := _fact_of(clause)):
            found.append(fact)
    return found


_COMMA = "\0"


def _joined_lists(sentence: str) -> str:
    """The sentence with the commas of enumerations ("apples, pears and figs") kept from parting clauses."""
    return re.sub(r",(?=(?: [\w'-]+){1,2}(?:,(?: [\w'-]+){1,2})*,? (?:and|or) (?!I\b|my\b))", _COMMA, sentence)


def _fact_of(clause: str) -> str:
    for pattern, fact in _PATTERNS:
        if not (found := pattern.fullmatch(clause)):
            continue
        parts = {name: value or "" for name, value in found.groupdict().items()}
        if "name" in parts:
            if not (name := _as_name(parts["name"])):
                return ""
            parts["name"] = name
        parts |= {part: _SWAP.sub(lambda word: _SWAPS[word[0].lower()], parts[part]) for part in ("x", "of") if part in parts}
        for part, value in parts.items():
            fact = fact.replace(rf"\g<{part}>", value)
        return fact if len(fact) <= LONGEST_FACT else ""
    return ""


def _as_name(text: str) -> str:
    """A name as the player gives it, with capitals; "" where the words are none."""
    words = re.split(r" (?:and|but|from|by|because|in|at) ", text)[0].split()
    if not 1 <= len(words) <= 4 or words[0].lower() in _NOT_NAMES:
        return ""
    name = " ".join(words)
    return name if name != name.lower() else name.title()
