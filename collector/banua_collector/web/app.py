"""HTTP: the status page for people, the same as JSON, health and metrics for machines. Read only, and never cached."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from banua_collector.db import reading
from banua_collector.metrics import CONTENT_TYPE, Metrics
from banua_collector.status import Status, status
from banua_collector.web import view
from banua_collector.web.words import LANGUAGES, Language, chosen

REFRESH_SECONDS: Final = 10
_HERE: Final = Path(__file__).parent
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

Reasons = Callable[[], list[str]]


def make_app(
    engine: Engine, metrics: Metrics, *, healthy: Reasons, ready: Reasons, now_ms: Callable[[], int]
) -> Starlette:
    """Return the application; `healthy` and `ready` name what is wrong, one reason a string."""
    pages = {code: _page(Language(code)) for code in LANGUAGES}

    def current() -> Status:
        with reading(engine) as conn:
            return status(conn, now_ms())

    # none of these is a coroutine: Starlette runs them in its thread pool, where waiting for the database is harmless
    def page(request: Request) -> Response:
        code = chosen(request.query_params.get("lang"), request.headers.get("accept-language", ""))
        headers = {"Content-Language": code, "Vary": "Accept-Language"}
        return HTMLResponse(pages[code](current()), headers=headers)

    def as_json(_request: Request) -> Response:
        return Response(msgspec.json.encode(current()), media_type="application/json")

    def health(_request: Request) -> Response:
        return _verdict(healthy())

    def readiness(_request: Request) -> Response:
        return _verdict(ready())

    def exposition(_request: Request) -> Response:
        return Response(metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    def responder(_request: Request) -> Response:
        """Answer a probe's `web` test: nothing else answers so, a captive portal least of all."""
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/status.json", as_json),
            Route("/responder", responder),
            Route("/healthz", health),
            Route("/readyz", readiness),
            Route("/metrics", exposition),
            Mount("/static", StaticFiles(directory=_HERE / "static")),
        ],
        middleware=[Middleware(_SafeHeaders)],
    )


def _page(language: Language) -> Callable[[Status], str]:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    environment.install_gettext_translations(language.translations, newstyle=True)  # type: ignore[attr-defined]
    template = environment.get_template("status.html")
    return lambda known: template.render(
        status=known,
        language=language,
        languages=LANGUAGES,
        view=view,
        refresh_seconds=REFRESH_SECONDS,
    )


def _verdict(reasons: list[str]) -> Response:
    """Answer 200, or 503 with one JSON object a line for each reason."""
    lines: list[dict[str, object]] = [{"reason": reason} for reason in reasons]
    body = msgspec.json.Encoder().encode_lines(lines or [{"ok": True}])
    return Response(body, status_code=503 if reasons else 200, media_type="application/x-ndjson")


class _SafeHeaders:
    """Sets the headers that every answer carries."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
