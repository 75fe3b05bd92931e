"""Who may look: a host check on loopback, a token elsewhere, and a policy that browsers hold pages to."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOGIN_PATH = "/login"
# What the page that asks for the token needs.
_OPEN_PATHS = frozenset({LOGIN_PATH, "/static/login.js", "/static/theme.css", "/static/style.css"})
MAX_FORM_BYTES = 4096
# Slows guessing down without holding honest people up.
REFUSAL_SECONDS = 0.5
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Gate:
    """ASGI middleware in front of everything that is served.

    Args:
        app: What is served to those who may look.
        token: What they have to know; empty lets everyone in.
        hosts: Names that a browser may call this server by, since a page elsewhere could point a
            name of its own at a loopback address; None allows any.
    """

    def __init__(self, app: ASGIApp, *, token: str, hosts: frozenset[str] | None) -> None:
        self._app = app
        self._token = token
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, refuses or passes on one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refuse(scope)
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refuse(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._hosts is not None and _host_name(headers.get("host", "")) not in self._hosts:
            return JSONResponse({"error": "this server answers on loopback names only"}, 400)
        if not self._token or scope["path"] in _OPEN_PATHS or self._knows(scope, headers):
            return None
        if scope["path"] == "/":
            return RedirectResponse(LOGIN_PATH, 303)
        return JSONResponse({"error": "expected the dashboard's token, as a cookie or a bearer header"}, 401)

    def _knows(self, scope: Scope, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and same_secret(given, self._token):
            return True
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(cookie_name(scope))
        except CookieError:
            return False
        return morsel is not None and same_secret(morsel.value, make_pass(self._token))


async def answer_login(request: Request, token: str) -> Response:
    """Takes a token from a form and gives a cookie for it.

    Args:
        request: A POST with the field `token`.
        token: The right one; empty accepts any, since nothing is guarded.

    Returns:
        A redirection to the page, or a refusal.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM_BYTES:
            return JSONResponse({"error": f"expected a form of {MAX_FORM_BYTES} bytes at most"}, 413)
    given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
    if token and not same_secret(given, token):
        await asyncio.sleep(REFUSAL_SECONDS)
        return RedirectResponse(f"{LOGIN_PATH}?refused", 303)
    response = RedirectResponse("/", 303)
    if token:
        secure = request.url.scheme == "https"
        name, value = cookie_name(request.scope), make_pass(token)
        response.set_cookie(name, value, httponly=True, samesite="strict", secure=secure)
    return response


def same_secret(given: str, wanted: str) -> bool:
    """Compares in a time that does not tell how much of it was right."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def make_pass(token: str) -> str:
    """Derives what the cookie holds, so that the token itself stays out of browsers' stores."""
    return hmac.new(token.encode(), b"fedstill dashboard", hashlib.sha256).hexdigest()


def cookie_name(scope: Scope) -> str:
    """Names the cookie by port: browsers share cookies among the ports of a host."""
    _, port = scope.get("server") or ("", 0)
    return f"fedstill_{port}"


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[")
    return host.partition(":")[0].lower()
