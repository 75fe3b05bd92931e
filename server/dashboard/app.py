"""The web application: pages, figures as JSON, and streams; nothing that changes anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from fedstill.server.dashboard.access import LOGIN_PATH, Gate, answer_login
from fedstill.server.dashboard.streams import TICK_SECONDS, Desk
from fedstill.server.display.theme import THEME

STATIC = Path(__file__).with_name("static")
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
}
# A report brings its styles and pictures inline, and no scripts.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"


def make_app(
    root: Path, *, token: str = "", hosts: frozenset[str] | None = None, tick_seconds: float = TICK_SECONDS
) -> ASGIApp:
    """Builds the dashboard of a folder of runs.

    Args:
        root: The folder, or one run folder.
        token: What those who look have to know; empty lets everyone in.
        hosts: Names that browsers may call the server by; None allows any.
        tick_seconds: Time between two looks at a run that is watched.

    Returns:
        An ASGI application.
    """
    desk = Desk(root, tick_seconds=tick_seconds)
    files = _load_files()

    async def page(_: Request) -> Response:
        return files["index.html"]()

    async def static(request: Request) -> Response:
        make = files.get(request.path_params["name"])
        return make() if make else _refuse("no such file", 404)

    async def login(request: Request) -> Response:
        return await answer_login(request, token) if request.method == "POST" else files["login.html"]()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await desk.close()

    routes = [
        Route("/", page),
        Route("/static/{name:path}", static),
        Route(LOGIN_PATH, login, methods=["GET", "POST"]),
        *_run_routes(desk),
    ]
    return Gate(Starlette(routes=routes, lifespan=lifespan), token=token, hosts=hosts)


def _run_routes(desk: Desk) -> list[Route]:
    async def list_runs(_: Request) -> Response:
        return JSONResponse(await desk.runs.read())

    async def stream_runs(_: Request) -> Response:
        return _stream(desk.runs.listen())

    async def show_run(request: Request) -> Response:
        found = await desk.find(request.query_params.get("run", ""))
        return JSONResponse(await found[1].read()) if found else _refuse("no such run", 404)

    async def stream_run(request: Request) -> Response:
        found = await desk.find(request.query_params.get("run", ""))
        return _stream(found[1].listen()) if found else _refuse("no such run", 404)

    async def show_node(request: Request) -> Response:
        found = await desk.find(request.query_params.get("run", ""))
        if found is None:
            return _refuse("no such run", 404)
        view, channel = found
        await channel.read()
        node_id = request.query_params.get("node", "")
        described = await channel.call(lambda: view.describe_node(node_id))
        return JSONResponse(described) if described else _refuse("no such node", 404)

    async def show_report(request: Request) -> Response:
        found = await desk.find(request.query_params.get("run", ""))
        if found is None:
            return _refuse("no such run", 404)
        folder = found[0].folder.resolve()
        path = (folder / "report.html").resolve()
        if path.parent != folder or not path.is_file():
            return _refuse("this run has no report yet", 404)
        return FileResponse(
            path, media_type=KINDS[".html"], headers={"Content-Security-Policy": REPORT_POLICY}
        )

    return [
        Route("/api/runs", list_runs),
        Route("/api/runs/stream", stream_runs),
        Route("/api/run", show_run),
        Route("/api/run/stream", stream_run),
        Route("/api/node", show_node),
        Route("/report", show_report),
    ]


def _load_files() -> dict[str, Callable[[], Response]]:
    # Read once, so that a request can name only what is here.
    contents = {
        path.relative_to(STATIC).as_posix(): path.read_bytes()
        for path in STATIC.rglob("*")
        if path.suffix in KINDS
    }
    contents["theme.css"] = THEME.encode()

    def maker(name: str, content: bytes) -> Callable[[], Response]:
        headers = {"Content-Type": KINDS[Path(name).suffix], "Cache-Control": "no-cache"}
        return lambda: Response(content, headers=headers)

    return {name: maker(name, content) for name, content in contents.items()}


def _stream(events: AsyncIterator[bytes]) -> Response:
    return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _refuse(problem: str, status: int) -> Response:
    body: dict[str, Any] = {"error": problem}
    return JSONResponse(body, status)
