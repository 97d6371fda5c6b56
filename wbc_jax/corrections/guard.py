"""Who may talk to the server of a review: this machine's browser, from the page itself.

Any page that is open in a browser can send requests to 127.0.0.1, and a name that its owner points
there (DNS rebinding) makes them look as if they came from that page. So each request needs the
token, which only the address that the command printed has; a host of this machine; and, if the
browser tells where it comes from, the page's own origin.
"""

from __future__ import annotations

import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
MOST_BYTES = 64 * 2**20
"""Longest body of a request."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",  # the address holds the token
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def new_token() -> str:
    """Returns a token that nobody can guess."""
    return secrets.token_urlsafe(24)


class Guard:
    """Refuses what does not come from the page, and sends headers that keep the page to itself.

    Args:
        app: what answers the others.
        token: the first part of each allowed path.
    """

    def __init__(self, app: ASGIApp, token: str):
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or refuses it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                return
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        if refused := self._refusal(scope):
            status, reason = refused
            await PlainTextResponse(f"{reason}\n", status)(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Returns the status and the reason of a refusal; None for a request that is allowed."""
        headers = Headers(scope=scope)
        token = scope["path"].split("/")[1] if scope["path"].startswith("/") else ""
        if not secrets.compare_digest(token.encode(), self._token.encode()):
            return 403, "This address lacks the token: open the one that the command printed."
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
        if origin is not None and origin != f"http://{headers.get('host', '')}":
            return 403, "This request comes from another page: only the review itself may ask."
        if site not in ("same-origin", "none"):
            return 403, "This request comes from another site: only the review itself may ask."
        if scope["method"] == "POST":
            length = headers.get("content-length", "")
            if not length.isdecimal():
                return 411, "This request does not say how long it is."
            if int(length) > MOST_BYTES:
                return 413, f"This request is longer than {MOST_BYTES} bytes."
        return None
