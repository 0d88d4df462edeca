"""Headers of every answer: no other site may frame the page or load anything of it, and nothing is loaded from elsewhere."""

from typing import Any


class SafeHeaders:
    """ASGI middleware that adds a content policy, and keeps the page's address to itself."""

    def __init__(self, app: Any, policy: str) -> None:
        self.app = app
        self.headers = [(b"content-security-policy", policy.encode()), (b"referrer-policy", b"no-referrer"),
                        (b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"same-origin")]

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass the request on, and add the headers to its answer."""

        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *self.headers]}
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)
