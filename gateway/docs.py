"""/openapi.json, /docs and /redoc: the description of all routes, and two pages that show it offline."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from litestar import MediaType, Response, get
from litestar.handlers import HTTPRouteHandler

from gateway.openapi import document

ASSETS = Path(__file__).parent / "assets"
ADDRESS = "/docs/assets"
SWAGGER = "swagger-ui-5.35.0"
REDOC = "redoc-2.5.4"

FILES = {
    f"/{SWAGGER}/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    f"/{SWAGGER}/swagger-ui.css": "text/css; charset=utf-8",
    f"/{REDOC}/redoc.standalone.js": "text/javascript; charset=utf-8",
    "/swagger-ui.js": "text/javascript; charset=utf-8",
    "/redoc.js": "text/javascript; charset=utf-8",
}
"""What is served, and as what. Each is a route of its own: no path of a request reaches the file system."""

POLICY = (
    "default-src 'none'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
)
SWAGGER_POLICY = POLICY + "style-src 'self'"
REDOC_POLICY = POLICY + "style-src 'unsafe-inline'; worker-src blob:"
"""Redoc writes style elements, and searches in a worker that it makes of a blob."""


def routes(handlers: Iterable[HTTPRouteHandler]) -> list[HTTPRouteHandler]:
    """The documentation's own routes, for an application of `handlers`."""
    described = tuple(handlers)

    @cache
    def text() -> bytes:
        return document(described)

    @get("/openapi.json", opt={"public": True}, operation_id="openapi", sync_to_thread=True)
    def openapi() -> Response[bytes]:
        """Describes all routes by the OpenAPI standard."""
        return Response(text(), media_type=MediaType.JSON, headers={"cache-control": "no-cache"})

    return [openapi, swagger_ui, redoc, *(_asset(file, kind) for file, kind in FILES.items())]


@get("/docs", opt={"public": True}, operation_id="docs", sync_to_thread=False)
def swagger_ui() -> Response[str]:
    """Shows the description by Swagger UI, where requests can be tried."""
    return _page(SWAGGER_POLICY, [f"/{SWAGGER}/swagger-ui-bundle.js", "/swagger-ui.js"], f"/{SWAGGER}/swagger-ui.css")


@get("/redoc", opt={"public": True}, operation_id="redoc", sync_to_thread=False)
def redoc() -> Response[str]:
    """Shows the description by Redoc, for reading."""
    return _page(REDOC_POLICY, [f"/{REDOC}/redoc.standalone.js", "/redoc.js"])


def _asset(file: str, media_type: str) -> HTTPRouteHandler:
    @get(ADDRESS + file, opt={"public": True}, sync_to_thread=True)
    def asset() -> Response[bytes]:
        """Serves a script or style of the pages."""
        headers = {"cache-control": "public, max-age=31536000, immutable"}
        return Response((ASSETS / file[1:]).read_bytes(), media_type=media_type, headers=headers)

    return asset


def _page(policy: str, scripts: list[str], style: str = "") -> Response[str]:
    head = f'<link rel="stylesheet" href="{_address(style)}">' if style else ""
    body = "".join(f'<script src="{_address(script)}"></script>' for script in scripts)
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Drover</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f'{head}</head><body><div id="docs"></div>{body}</body></html>'
    )
    headers = {"content-security-policy": policy, "cache-control": "no-cache"}
    return Response(html, media_type=MediaType.HTML, headers=headers)


@cache
def _address(file: str) -> str:
    """Where a file is served, with its hash: it is cached for a year, and changes its address when it changes."""
    return f"{ADDRESS}{file}?v={hashlib.sha256((ASSETS / file[1:]).read_bytes()).hexdigest()[:12]}"
