"""Logging: one line an event on standard error, as JSON or as text. Never a body, a prompt or a credential."""

import logging
import sys
from typing import Any, Literal

import msgspec
import structlog

NOISY = ("httpx", "httpcore", "aiosqlite", "sqlalchemy", "alembic", "urllib3", "asyncio", "aiohttp")
"""Libraries that log addresses, statements or bodies below this level."""


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
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
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
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _in_order(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """What every line has first; uvicorn's second, coloured copy of its message goes."""
    event.pop("color_message", None)
    return {key: event.pop(key) for key in ("timestamp", "level", "event", "logger") if key in event} | event


def _to_json(value: Any, **_: Any) -> str:
    return msgspec.json.encode(value, enc_hook=repr).decode()
