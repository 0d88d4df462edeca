"""Errors as OpenAI's API has them: {"error": {"message", "type", "param", "code"}} with a status. One sentence each, and a hint.

A `UserError` of the engine becomes one of these where it is known whose fault it is: the request's (400) or the character's (503).
"""

from collections.abc import Mapping
from typing import Any

from engine.base.errors import UserError

RETRY_SECONDS = 5  # what Retry-After says where nothing better is known
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 409: "conflict_error",
          429: "rate_limit_error"}


class ApiError(Exception):
    """What a client did wrong, or why it gets no answer. `param`: the field at fault; `code`: a fixed word for programs."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None,
                 headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = {"retry-after": str(RETRY_SECONDS), **(headers or {})} if status in (429, 503) else dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The object that is sent."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def bad_request(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """A request that cannot be answered as it is."""
    return ApiError(400, message, code, param)


def refused(error: UserError, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """An error of the engine that the request brought about."""
    return bad_request(str(error), param, code)


def unavailable(error: UserError, code: str = "character_unavailable") -> ApiError:
    """An error of the engine that lies with the character's files, or with this machine."""
    return ApiError(503, str(error), code)
