"""What a client may ask: the body of a chat completion, checked, as OpenAI's API has it and with our additions in `persona`.

What would change the form of the reply and is not supported is refused (`n`, tools, log-probabilities, sound). Any other field
that has no effect is ignored, as other servers do, and the reply lists it under `persona.ignored`.
"""

import json
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.base.errors import UserError
from engine.base.sampling import KNOBS, SamplingParams, read_params
from engine.server.errors import ApiError, bad_request, refused

_LISTED = 20  # ignored fields that a reply names
_KNOBS = {knob.name for knob in KNOBS}
_NAME = Field(max_length=200)
Name = Annotated[str, _NAME]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class Part(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """A message of a conversation; `system` and `developer` are notes of the game."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    @property
    def text(self) -> str:
        """All of its text."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class JsonSchema(_Strict):
    """A schema with a name, as response_format has it."""

    name: str = "reply"
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(_Strict):
    """The form of a reply; `actions`: that of the character's own game actions."""

    type: Literal["text", "json_object", "json_schema", "actions"]
    json_schema: JsonSchema | None = None


class Persona(_Strict):
    """Our additions to a request."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    player: Annotated[Name, Field(description="what the character calls the player; {{user}} in the card")] = ""
    about_player: Annotated[str, Field(max_length=20_000, description="what the character knows of the player")] = ""
    session: Annotated[Name, Field(description="the conversation, which the server keeps: send only what is new")] = ""
    remember: Annotated[bool | None, Field(description="whether memory of the player (`user`) is read and written")] = None
    greeting: Annotated[bool, Field(description="whether the character's greeting begins the conversation")] = True
    actions: Annotated[bool, Field(description="reply in the form of the character's game actions")] = False
    chat_seed: Annotated[int, Field(ge=0, lt=2**53, description="of what the card leaves to chance, one a conversation")] = 0


class StreamOptions(_Strict):
    """How a stream ends."""

    include_usage: bool = False


class ChatRequest(_Strict):
    """The body of POST /v1/chat/completions. All samplers of `persona chat` can be given by name as well (min_p, ...)."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1, description="the id of a character")]
    messages: Annotated[list[ChatMessage], Field(min_length=1, description="what the player said, or the whole conversation")]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    user: Annotated[str | None, _NAME] = None
    seed: int | None = None
    max_completion_tokens: int | None = None
    response_format: ResponseFormat | None = None
    persona: Persona = Persona()

    @property
    def sampling(self) -> SamplingParams:
        """The samplers, with a seed. Raises ApiError for values that cannot be."""
        given = {name: value for name, value in (self.model_extra or {}).items() if name in _KNOBS}
        if self.max_completion_tokens is not None:
            given["max_tokens"] = self.max_completion_tokens
        if self.seed is not None and self.seed >= 0:  # clients send -1 for a random one
            given["seed"] = self.seed
        try:
            return read_params(given).with_seed()
        except UserError as error:
            name = next((name for name in given if f"({name})" in error.sentence), "seed" if "seed" in given else None)
            raise refused(error, name) from error

    @property
    def has_limit(self) -> bool:
        """Whether the client limits the reply's tokens itself."""
        return self.max_completion_tokens is not None or (self.model_extra or {}).get("max_tokens") is not None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the reply. Raises ApiError for too many or empty ones."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > 16 or not all(0 < len(stop) <= 200 for stop in stops):
            raise bad_request("At most 16 texts of 1 to 200 characters can end a reply.", "stop")
        return tuple(stops)

    @property
    def ignored(self) -> list[str]:
        """The names of fields that have no effect."""
        return sorted(name[:40] for name, value in (self.model_extra or {}).items()
                      if name not in _KNOBS and value not in (None, 0, False, "", [], {}))[:_LISTED]


def read_chat(body: bytes) -> ChatRequest:
    """The chat request of a body. Raises ApiError (400) that names the first field at fault."""
    try:
        value = json.loads(body, parse_constant=_no_number)
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"The body is not valid JSON: {str(error)[:100]}.", code="invalid_json") from error
    # Half a surrogate pair, as a game that cut a text within an emoji sends it, would break the tokenizer.
    value = json.loads(text.encode("utf-8", "replace"))
    if not isinstance(value, dict):
        raise bad_request("The body is not a JSON object.", code="invalid_json")
    try:
        asked = ChatRequest.model_validate(value)
    except ValidationError as error:
        raise _fault(error) from error
    _refuse_unsupported(asked)
    return asked


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _fault(error: ValidationError) -> ApiError:
    errors = error.errors(include_url=False, include_input=False)
    # Where a field can be one of two things, the fault that lies deepest is that of the thing which was meant.
    first = max((one for one in errors if one["loc"][:3] == errors[0]["loc"][:3]), key=lambda one: len(one["loc"]))
    path = [str(part) for part in first["loc"] if part not in ("str", "list[Part]", "list[str]")]  # the names of the two
    param = ".".join(path)[:200]
    message = str(first["msg"])
    wanted = "is missing" if first["type"] == "missing" else "is not known" if first["type"] == "extra_forbidden" else \
        f"cannot be used: {message[:1].lower()}{message[1:]}"
    return bad_request(f"The field {param} {wanted}.", param, "missing" if first["type"] == "missing" else "invalid_value")


def _refuse_unsupported(asked: ChatRequest) -> None:
    """Raise ApiError for what would change the form of the reply."""
    extra = asked.model_extra or {}
    if asked.n not in (None, 1):
        raise bad_request("A character gives one reply at a time: n must be 1.", "n", "unsupported_value")
    unsupported = {"tools": "Tools cannot be called; game actions and response_format do what they are for.",
                   "functions": "Functions cannot be called; game actions and response_format do what they are for.",
                   "logprobs": "Log-probabilities are not given.", "top_logprobs": "Log-probabilities are not given.",
                   "logit_bias": "Tokens cannot be given a bias.", "audio": "Characters write and do not speak aloud."}
    for name, why in unsupported.items():
        if extra.get(name):
            raise bad_request(why, name, "unsupported_parameter")
    if extra.get("modalities") not in (None, [], ["text"]):
        raise bad_request("Characters answer in text alone.", "modalities", "unsupported_value")
