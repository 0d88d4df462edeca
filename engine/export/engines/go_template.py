"""A model's chat format in Go's template language, as Ollama runs it.

How a format writes its turns is found by rendering markers and reading the text around them, never by the family's name. A
translation is used only where it writes the same text as the model's own template.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Message = dict[str, str]
Render = Callable[[list[Message], bool], str]  # messages and whether an answer is asked for, to text; see models/chat_format.py
# A system text in a turn of its own; before the first question; the same, but as a question of its own where an answer comes
# first; before the newest question.
Place = Literal["own turn", "first question", "first turn", "last question"]
PLACES: tuple[Place, ...] = ("own turn", "first question", "first turn", "last question")

_S, _U, _A, _V, _B, _W = (f"zq{name}markqz" for name in ("system", "ask", "say", "askagain", "sayagain", "asklast"))


@dataclass(frozen=True)
class ChatPieces:
    """What a chat format writes around contents. `place`: where the system text goes, between `system_head` and `system_tail`.

    `begin` opens every prompt. A turn is head, content, tail; `prompt` is what an answer continues, after the last tail.
    """

    place: Place
    begin: str
    system_head: str
    system_tail: str
    user_head: str
    user_tail: str
    answer_head: str
    answer_tail: str
    prompt: str

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt for an answer to `messages`, in Python: what the Go template writes."""
        system = next((one["content"] for one in messages if one["role"] == "system"), "")
        talk = [one for one in messages if one["role"] != "system"]
        text = self.begin
        if self.place == "own turn" and system:
            text += self.system_head + system + self.system_tail
        waiting = system if self.place != "own turn" else ""
        for number, message in enumerate(talk):
            last = number == len(talk) - 1
            if message["role"] == "user":
                text += self.user_head
                if waiting and (self.place != "last question" or last):
                    text, waiting = text + self.system_head + waiting + self.system_tail, ""
                text += message["content"] + self.user_tail
            else:
                if waiting and self.place == "first turn":
                    text, waiting = text + self.user_head + waiting + self.user_tail, ""
                text += self.answer_head + message["content"] + self.answer_tail
        return text + self.prompt

    def to_go(self) -> str:
        """The Go template. It uses .System and .Messages, as Ollama provides them (https://docs.ollama.com/modelfile)."""
        system = f"{_go(self.system_head)}{{{{ $system }}}}{_go(self.system_tail)}"
        spent = '{{ $system = "" }}'
        user, answer = f"{_go(self.user_head)}%s{{{{ .Content }}}}{_go(self.user_tail)}", (
            f"%s{_go(self.answer_head)}{{{{ .Content }}}}{_go(self.answer_tail)}")
        head = "{{ $system := .System }}" + _go(self.begin)
        each, inside, before = "{{ range .Messages }}", "", ""
        if self.place == "own turn":
            head += f"{{{{ if $system }}}}{system}{{{{ end }}}}"
        elif self.place != "last question":
            inside = f"{{{{ if $system }}}}{system}{spent}{{{{ end }}}}"
            if self.place == "first turn":
                alone = f"{_go(self.user_head)}{{{{ $system }}}}{_go(self.user_tail)}"
                before = f"{{{{ if $system }}}}{alone}{spent}{{{{ end }}}}"
        else:
            each = "{{ range $place, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $place)) 1 }}"
            inside = f"{{{{ if and $system $last }}}}{system}{{{{ end }}}}"
        return (f'{head}{each}{{{{ if eq .Role "user" }}}}{user % inside}{{{{ else if eq .Role "assistant" }}}}{answer % before}'
                f"{{{{ end }}}}{{{{ end }}}}{_go(self.prompt)}")


def find_pieces(render: Render, engine_writes: str = "", conversations: Sequence[Sequence[Message]] = ()) -> ChatPieces | None:
    """The pieces of a chat format; None where no way to put them together writes what the format writes.

    `render` is the format itself. `engine_writes`: the token at the beginning of every text that the engine adds by itself, and
    that stays out of the template. `conversations`: further ones, with a question last, that must come out equal.
    """
    plain = lambda messages, asked: render(messages, asked).removeprefix(engine_writes)
    for place in PLACES:
        pieces = _take_apart(plain, place)
        if pieces and all(pieces.render(talk) == plain(list(talk), True) for talk in [*_SAMPLES, *conversations]):
            return pieces
    return None


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


_SAMPLES = [[_turn("system", _S), _turn("user", _U)],
            [_turn("system", _S), _turn("user", _U), _turn("assistant", _A), _turn("user", _V)],
            [_turn("system", _S), _turn("user", _U), _turn("assistant", _A), _turn("user", _V), _turn("assistant", _B),
             _turn("user", _W)]]


def _take_apart(render: Render, place: Place) -> ChatPieces | None:
    """Read the pieces from renderings of markers; None where one is missing or the pieces contradict each other."""
    whole = _SAMPLES[2]
    user_tail = render(whole[1:2], False).rpartition(_U)[2]
    answer_tail = render(whole[1:3], False).rpartition(_A)[2]
    if place == "last question":  # the system text is beside the newest question
        return _last_question(render, user_tail, answer_tail)
    text = render(whole, True)
    between = []
    for one in whole:
        before, found, text = text.partition(one["content"])
        if not found:
            return None
        between.append(before)
    order = [*between, text]  # before S, U, A, V, B, W, and what follows W
    if not (order[2].startswith(user_tail) and order[3].startswith(answer_tail) and order[6].startswith(user_tail)):
        return None
    user_head, answer_head = order[3][len(answer_tail):], order[2][len(user_tail):]
    prompt = order[6][len(user_tail):]
    if place == "own turn":
        if not order[1].endswith(user_head):
            return None
        return ChatPieces(place, "", order[0], order[1][:len(order[1]) - len(user_head)], user_head, user_tail, answer_head,
                          answer_tail, prompt)
    if not order[0].endswith(user_head):
        return None
    return ChatPieces(place, order[0][:len(order[0]) - len(user_head)], "", order[1], user_head, user_tail, answer_head,
                      answer_tail, prompt)


def _last_question(render: Render, user_tail: str, answer_tail: str) -> ChatPieces | None:
    one, talk = render(_SAMPLES[0], True), render(_SAMPLES[1][1:], True)
    head, _, rest = one.partition(_S)
    between, _, end = rest.partition(_U)
    start, _, rest = talk.partition(_U)
    middle, _, rest = rest.partition(_A)
    again = rest.partition(_V)[0]
    if not (middle.startswith(user_tail) and again.startswith(answer_tail) and end.startswith(user_tail)
            and start.endswith(user_head := again[len(answer_tail):]) and head.endswith(user_head)):
        return None
    return ChatPieces("last question", start[:len(start) - len(user_head)], "", between, user_head, user_tail,
                      middle[len(user_tail):], answer_tail, end[len(user_tail):])


def _go(text: str) -> str:
    """A text that a Go template writes as it is: a brace, which could open an action, becomes an action of its own."""
    return text.replace("{", '{{ "{" }}')
