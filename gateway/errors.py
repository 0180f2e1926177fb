"""Errors: every failure becomes OpenAI's error object here, and nowhere else.

The table is that of OpenAI's own API: status, `type`, `code` and `param` decide whether an SDK retries, and what it
shows.
"""

import errno
import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from limits.errors import StorageError
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from agents.events import Failed
from auth.errors import AuthError
from gateway.store.database import StoreError
from models.backend import (
    BackendFailed,
    BackendTimeout,
    Busy,
    InvalidRequest,
    ModelError,
    ModelNotFound,
    Unavailable,
)

logger = logging.getLogger(__name__)

MAX_MESSAGE = 2000
"""Characters of an error's message. Some repeat what was sent or what an upstream answered, and that may be a page."""

NO_RETRY = {"x-should-retry": "false"}
"""OpenAI's SDKs send a failed request twice more unless this header forbids it."""


class ErrorObject(Struct, frozen=True):
    """What went wrong, in OpenAI's words. All four keys are always there."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct, frozen=True):
    """The body of every error response."""

    error: ErrorObject


class ApiError(Exception):
    """An error on its way to the caller."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = ErrorObject(message[:MAX_MESSAGE], type, param, code)
        self.headers = dict(headers or {})

    @property
    def body(self) -> ErrorBody:
        """The error as a response's body."""
        return ErrorBody(self.error)


def bad_request(message: str, param: str | None = None, code: str | None = "invalid_value") -> ApiError:
    """400: the request is wrong at `param`."""
    return ApiError(400, message, param=param, code=code)


def missing(path: str, param: str | None = None) -> ApiError:
    """400: there is nothing at `path`; `param` where the field to blame is another."""
    return bad_request(f"Missing required parameter: '{path}'.", param or path, "missing_required_parameter")


def no_model() -> ApiError:
    """400: the request names no model, in OpenAI's own words."""
    return bad_request("you must provide a model parameter", "model", "missing_required_parameter")


def not_found(message: str, code: str = "not_found", param: str | None = None) -> ApiError:
    """404: it is not there, or is someone else's."""
    return ApiError(404, message, param=param, code=code)


def rate_limited(message: str, retry_after: float, headers: Mapping[str, str] | None = None) -> ApiError:
    """429 that says when to come back. Older SDKs ignore more than 60 s; with more than 120 s newer ones give up."""
    wait = min(max(retry_after, 0.05), 60.0)
    timing = {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
    return ApiError(
        429, message, type="rate_limit_error", code="rate_limit_exceeded", headers={**timing, **(headers or {})}
    )


def shutting_down() -> ApiError:
    """503: the server is about to end."""
    return ApiError(
        503, "The server is shutting down.", type="server_error", code="shutting_down", headers={"retry-after": "2"}
    )


def timed_out(seconds: float) -> ApiError:
    """504: a run reached its deadline."""
    message = f"The run did not end within {seconds:g} seconds."
    return ApiError(504, message, type="timeout_error", code="upstream_timeout", headers=NO_RETRY)


def too_large(what: str, limit: int) -> ApiError:
    """413: more bytes than are taken. `what` begins the sentence."""
    return ApiError(413, f"{what} is larger than {limit} bytes.", code="request_too_large")


def no_space() -> ApiError:
    """507: the disk is full. Sending it again at once would not help."""
    return ApiError(
        507, "There is no space left to keep files.", type="server_error", code="insufficient_storage", headers=NO_RETRY
    )


def cancelled() -> ApiError:
    """The run was stopped on request. 499 is what nginx logs for a client that left; no client sees it as a status."""
    return ApiError(499, "The run was cancelled.", type="cancelled", code="cancelled", headers=NO_RETRY)


def store_unavailable() -> ApiError:
    """503: a store refuses. The log says more; its own words would name files and hosts."""
    return ApiError(
        503,
        "The database, or the store of rate limits, is not available now.",
        type="server_error",
        code="upstream_unavailable",
        headers={"retry-after": "5"},
    )


def stalled(seconds: float) -> ApiError:
    """400: a body broke off. Not 408, which SDKs would send again twice. The connection is of no more use."""
    message = f"The request's body stopped coming for {seconds:g} seconds."
    return ApiError(400, message, code="body_timeout", headers={"connection": "close"})


def internal() -> ApiError:
    """500: our own fault. Says nothing of the cause; the log has it under the same request id."""
    message = "The server had an error while processing your request. Please give the x-request-id when you report it."
    return ApiError(500, message, type="server_error", code="internal_error")


def failed(event: Failed) -> ApiError:
    """What a run that has failed is to somebody who asks for its answer."""
    return ApiError(
        event.status, event.message, type=event.error_type, code=event.code, param=event.param, headers=NO_RETRY
    )


def conflict(message: str, code: str) -> ApiError:
    """409: not in this state. SDKs send such requests again unless they are told not to."""
    return ApiError(409, message, code=code, headers=NO_RETRY)


def from_model(error: ModelError) -> ApiError:
    """What a backend's error is to the caller."""
    match error:
        case ModelNotFound():
            return not_found(error.message, "model_not_found", "model")
        case InvalidRequest():
            return bad_request(error.message, error.param, error.code)
        case Busy():
            return rate_limited(error.message, error.retry_after)
        case Unavailable():
            headers = {"retry-after": str(math.ceil(error.retry_after))}
            return ApiError(503, error.message, type="server_error", code=error.code, headers=headers)
        case BackendTimeout():
            return ApiError(504, error.message, type="timeout_error", code=error.code, headers=NO_RETRY)
        case BackendFailed() | ModelError():
            return ApiError(502, error.message, type="upstream_error", code="upstream_error")


_PATH = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")
_UNKNOWN = re.compile(r"contains unknown field `(\w+)`")
_OF_VALUE = re.compile(r"Invalid (enum )?value|[<>]=? \d|length|matching regex|out of range")


def from_validation(error: msgspec.ValidationError) -> ApiError:
    """A body of the wrong shape; msgspec says where."""
    text = str(error)
    path = match.group(1) if (match := _PATH.search(text)) else ""
    text = _PATH.sub("", text)
    if absent := _MISSING.search(text):
        return missing(_join(path, absent[1]))
    if unknown := _UNKNOWN.search(text):
        path = _join(path, unknown[1])
        return bad_request(f"Unknown parameter: '{path}'.", path, "unknown_parameter")
    return _invalid(path, text) if path else unparsable()


def _invalid(path: str, text: str) -> ApiError:
    """A value that is not what it must be; `text` is msgspec's."""
    code = "invalid_value" if _OF_VALUE.search(text) else "invalid_type"
    return bad_request(f"Invalid value for '{path}': {text[0].lower()}{text[1:]}.", path, code)


def unparsable() -> ApiError:
    """400: the body is no JSON object."""
    return bad_request("We could not parse the JSON body of your request.", code=None)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


T = TypeVar("T")


def decode(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    """A request's body as the decoder's type.

    Raises:
        ApiError: 400, it is not JSON (bad UTF-8 and endless nesting are not), or not of the type.
    """
    try:
        # As text: in fields that it does not know, msgspec passes over bad UTF-8.
        return decoder.decode(body.decode())
    except msgspec.ValidationError as error:
        raise from_validation(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unparsable() from error


def from_http(error: HTTPException, method: str, path: str, limit: int) -> ApiError | None:
    """What an exception of the web framework is to the caller; None: a bug. `limit` is the largest body in bytes."""
    headers = dict(error.headers or {})
    match error.status_code:
        case 404:
            return ApiError(404, f"Unknown request URL: {method} {path}. {hint(path)}".strip(), code="unknown_url")
        case 405:
            message = f"Not allowed to {method} on {path}. {hint(path)}".strip()
            # The edge answers HEAD wherever the application answers GET.
            headers = {name: value.replace("GET", "GET, HEAD") for name, value in headers.items()}
            return ApiError(405, message, code="method_not_supported", headers=headers)
        case 413:
            return too_large("The request", limit)
        case 400 if isinstance(error.extra, list) and error.extra:
            return _invalid(error.extra[0]["key"], error.extra[0]["message"])
        case status if status >= 500:
            return None
        case status:
            return ApiError(status, error.detail or "The request is invalid.", code=None, headers=headers)


def hint(path: str) -> str:
    """The likely right address for a mistyped one."""
    if "/v1/v1" in path:
        return "The base URL already ends in /v1: use it once."
    if path.startswith(("/api/tags", "/api/generate")):
        return "This is an OpenAI-compatible server: use /v1/models and /v1/chat/completions."
    return ""


def to_api_error(error: Exception, method: str = "", path: str = "", limit: int = 0) -> ApiError | None:
    """The one place where an exception gets its meaning for the caller; None: it is a bug."""
    match error:
        case ApiError():
            return error
        case ModelError():
            return from_model(error)
        case AuthError():
            return ApiError(
                error.status,
                error.message,
                type=error.type,
                code=error.code,
                param=error.param,
                headers=error.headers,
            )
        case StoreError() | StorageError():
            return store_unavailable()
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return no_space()
        case HTTPException():
            return from_http(error, method, path, limit)
        case msgspec.ValidationError():
            return from_validation(error)
    return None


def handler(limit: int) -> Callable[[Request[Any, Any, Any], Exception], Response[ErrorBody]]:
    """The application's exception handler. A bug is logged once, here, with its request id.

    Args:
        limit: the largest body in bytes, where a route has no limit of its own.
    """

    def handle(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
        path, route = request.scope["path"], request.scope.get("route_handler")
        own = route.resolve_request_max_body_size() if isinstance(route, HTTPRouteHandler) else None
        api_error = to_api_error(error, request.method, path, own or limit)
        if isinstance(error, StoreError | StorageError):
            logger.error("the database, or the store of rate limits, refuses: %s", error)
        if api_error is None:
            request_id = request.scope.get("state", {}).get("request_id")
            logger.error("request failed", exc_info=error, extra={"request_id": request_id, "path": path})
            api_error = internal()
        return Response(
            api_error.body, status_code=api_error.status, headers=api_error.headers, media_type=MediaType.JSON
        )

    return handle
