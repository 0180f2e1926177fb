"""Logging: one line an event on standard error, as JSON or as text. Never a body, a prompt or a credential."""

import logging
import os
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import structlog

NOISY = (
    *("uvicorn", "httpx", "httpcore", "aiosqlite", "sqlalchemy", "alembic", "urllib3", "asyncio", "aiohttp"),
    *("mcp", "httpx2", "httpcore2", "trafilatura", "htmldate", "matplotlib"),
)
"""Libraries that log addresses, statements, bodies or each of their steps below warnings."""


def configure(level: str, form: Literal["json", "text"]) -> None:
    """Sends structlog's and the standard library's records through one formatter."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _in_order,
    ]
    renderer: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]
        if form == "json"
        # A prettier traceback would show local variables: prompts and keys.
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # Not through the standard library, whose records cost three times as much: there is one of these for each request.
    structlog.configure(
        processors=[_head, *([_to_bytes] if form == "json" else renderer)],
        logger_factory=lambda *_: _StandardError(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,
    )


class _StandardError:
    """Writes lines, if it can: a full disk or a reader that is gone must not cost an answer."""

    def msg(self, line: str | bytes) -> None:
        data = line if isinstance(line, bytes) else line.encode(errors="replace")
        with suppress(OSError):
            os.write(sys.stderr.fileno(), data + b"\n")

    debug = info = warning = error = critical = msg


def _head(_: Any, level: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    return {"timestamp": datetime.now(UTC), "level": level, "event": event.pop("event"), **event}


def _in_order(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """What every line has first; uvicorn's second, coloured copy of its message goes, and its logger gets its name."""
    event.pop("color_message", None)
    if event.get("logger") == "uvicorn.error":
        event["logger"] = "uvicorn"
    return {key: event.pop(key) for key in ("timestamp", "level", "event", "logger") if key in event} | event


def _to_bytes(_: Any, __: str, event: dict[str, Any]) -> bytes:
    return msgspec.json.encode(event, enc_hook=repr)


def _to_json(value: Any, **_: Any) -> str:
    return msgspec.json.encode(value, enc_hook=repr).decode()
