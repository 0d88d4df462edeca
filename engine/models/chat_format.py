"""Messages to token ids, through the chat template of the tokenizer.

Templates are the models' own and differ: some refuse a system message, some an assistant who speaks first. What a template does
is found out by rendering marks and looking for them, never by its family's name. The text of a message can never become one of
the template's control tokens.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from engine.base.errors import UserError
from engine.models.templates import Refused, render_template

Message = dict[str, str]
_SYSTEM_MARK = "zqsystemmarkqz"
_USER_MARK = "zqusermarkqz"
_ANSWER_MARK = "zqanswermarkqz"
_OPENING = "(The conversation begins.)"
_CONTROL: WeakKeyDictionary[Any, tuple[str, dict[str, int]]] = WeakKeyDictionary()


def render_chat(tokenizer: Any, messages: list[Message], add_generation_prompt: bool = True) -> str:
    """The text of a conversation under the tokenizer's template.

    `messages` have a "role" (system, user, assistant) and a "content". Control tokens inside contents are broken up
    by a space. A system message that the template refuses or ignores goes before the next user turn. Raises
    UserError when the template refuses the conversation even so.
    """
    clean = [{"role": message["role"], "content": disarm(tokenizer, message["content"])} for message in messages]
    if any(message["role"] == "system" for message in clean):
        clean = _fold_system(clean, clean[0]["role"] == "system" and _accepts_system(tokenizer))
    try:
        return _render(tokenizer, clean, add_generation_prompt)
    except Refused:  # many templates demand that user and assistant alternate, the user first
        pass
    try:
        return _render(tokenizer, alternate(clean), add_generation_prompt)
    except Refused as error:
        raise UserError(f"The model's chat template refuses this conversation ({error}).", "Choose another model.") from None


def encode_chat(tokenizer: Any, messages: list[Message]) -> list[int]:
    """The token ids of `render_chat`. A beginning-of-sequence token is there only where the template writes it."""
    return tokenizer.encode(render_chat(tokenizer, messages), add_special_tokens=False)


def token_counter(tokenizer: Any) -> Callable[[str], int]:
    """A function that counts the tokens of a text."""
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def encode_answer(tokenizer: Any, text: str, complete: bool) -> list[int]:
    """Ids of an assistant's answer as they follow the generation prompt; with the turn's ending when `complete`.

    Control tokens inside the text are broken up; the space that some templates put before an answer is there.
    """
    question = [{"role": "user", "content": _USER_MARK}]
    prompt = render_chat(tokenizer, question)
    whole = render_chat(tokenizer, [*question, {"role": "assistant", "content": _ANSWER_MARK}], False)
    between = whole.partition(_ANSWER_MARK)[0].removeprefix(prompt) if whole.startswith(prompt) else ""
    spoken = (between if between.isspace() else "") + disarm(tokenizer, text)
    head = tokenizer.encode(prompt, add_special_tokens=False)
    ids = tokenizer.encode(prompt + spoken, add_special_tokens=False)
    if ids[: len(head)] == head:
        ids = ids[len(head):]
    else:  # the vocabulary has a token across the border
        ids = tokenizer.encode(spoken, add_special_tokens=False)
    return [*ids, answer_ending(tokenizer)] if complete else ids


def user_turn_opening(tokenizer: Any, opening: list[Message]) -> list[int]:
    """The ids directly before the user's next words, after the messages `opening`.

    A model that goes on from here writes what a user would say.
    """
    text = render_chat(tokenizer, [*opening, {"role": "user", "content": _USER_MARK}], add_generation_prompt=False)
    before, found, _ = text.rpartition(_USER_MARK)
    if not found:
        raise UserError("The model's chat template leaves out what the user says.", "Choose another model.")
    # A space at the end belongs to the user's first word, in most vocabularies.
    return tokenizer.encode(before.rstrip(" "), add_special_tokens=False)


def answer_ending(tokenizer: Any) -> int:
    """The id of the token that ends an assistant's turn under this template; the end-of-text token where none does."""
    conversation = [{"role": "user", "content": _USER_MARK}, {"role": "assistant", "content": _ANSWER_MARK}]
    text = render_chat(tokenizer, conversation, add_generation_prompt=False)
    control = set(_control_tokens(tokenizer).values())
    for token in tokenizer.encode(text.rpartition(_ANSWER_MARK)[2], add_special_tokens=False):
        if token in control:
            return token
    if tokenizer.eos_token_id is None:
        raise UserError("The model's tokenizer has no token that ends an answer.", "Choose another model.")
    return tokenizer.eos_token_id


def endings(tokenizer: Any) -> frozenset[int]:
    """All ids that end an answer: the template's, and the end of the text."""
    end = tokenizer.eos_token_id
    return frozenset({answer_ending(tokenizer)} | ({end} if end is not None else set()))


def _control_tokens(tokenizer: Any) -> dict[str, int]:
    """Tokens that text must not become: the special ones, and added ones that the template writes. Text to id."""
    template = str(tokenizer.chat_template)
    known = _CONTROL.get(tokenizer)  # some vocabularies have thousands of added tokens
    if known and known[0] == template:
        return known[1]
    special = set(tokenizer.all_special_tokens)
    found = {
        token.content: index
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.content.strip() and (token.special or token.content in special or token.content in template)
    }
    _CONTROL[tokenizer] = (template, found)
    return found


def control_texts(tokenizer: Any) -> list[str]:
    """The control tokens, the longest first."""
    return sorted(_control_tokens(tokenizer), key=len, reverse=True)


def disarm(tokenizer: Any, text: str) -> str:
    """A text with a space inside every control token, so that it is read as plain characters."""
    tokens = control_texts(tokenizer)
    found = True
    while found:  # breaking one may complete another only in odd vocabularies; then it is broken, too
        found = False
        for token in tokens:
            if token in text:
                broken = f"{token[0]} {token[1:]}"
                text = text.replace(token, "" if token in broken else broken)
                found = True
    return text


def _accepts_system(tokenizer: Any) -> bool:
    """Whether the template writes a system message that comes first."""
    messages = [{"role": "system", "content": _SYSTEM_MARK}, {"role": "user", "content": _USER_MARK}]
    try:
        return _SYSTEM_MARK in _render(tokenizer, messages, True)
    except Refused:
        return False


def _render(tokenizer: Any, messages: list[Message], add_generation_prompt: bool) -> str:
    """The template's text, as apply_chat_template would write it. Raises Refused when it refuses these messages."""
    special = {name: token if isinstance(token, list) else str(token) for name, token in tokenizer.special_tokens_map.items()}
    return render_template(tokenizer.get_chat_template(), {
        **special, "messages": messages, "tools": None, "documents": None, "add_generation_prompt": add_generation_prompt})


def _fold_system(messages: list[Message], keep_first: bool) -> list[Message]:
    """Put system texts before the next user text; where none follows, after the last one; else as a user turn."""
    result: list[Message] = []
    waiting: list[str] = []
    for index, message in enumerate(messages):
        if message["role"] == "system" and not (keep_first and index == 0):
            waiting.append(message["content"])
        elif message["role"] == "user" and waiting:
            result.append({"role": "user", "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        elif waiting and not result:  # the assistant speaks first: its instructions come before that
            result += [{"role": "user", "content": "\n\n".join(waiting)}, message]
            waiting = []
        else:
            result.append(message)
    if not waiting:
        return result
    place = max((index for index, message in enumerate(result) if message["role"] == "user"), default=-1)
    if place < 0:
        return [{"role": "user", "content": "\n\n".join(waiting)}, *result]
    result[place] = {"role": "user", "content": "\n\n".join([result[place]["content"], *waiting])}
    return result


def alternate(messages: list[Message]) -> list[Message]:
    """The messages with neighbours of one role joined, and a user turn before an assistant who speaks first."""
    result: list[Message] = []
    for message in messages:
        if result and result[-1]["role"] == message["role"]:
            result[-1] = {"role": message["role"], "content": f"{result[-1]['content']}\n\n{message['content']}"}
            continue
        if message["role"] == "assistant" and (not result or result[-1]["role"] == "system"):
            result.append({"role": "user", "content": _OPENING})
        result.append(message)
    return result
