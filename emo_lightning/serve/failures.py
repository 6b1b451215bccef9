"""What goes wrong, in the shape that clients of OpenAI's API read: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

INVALID_REQUEST = "invalid_request_error"


class ApiError(Exception):
    """A request that is not answered, and why.

    Args:
        status: of HTTP, 4xx or 5xx.
        message: what was found, and what is allowed.
        code: for programs.
        param: the key of the request that is at fault.
        retry_after: seconds after which it may be asked again.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        *,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = {**(headers or {}), **({} if retry_after is None else {"Retry-After": str(retry_after)})}

    @property
    def kind(self) -> str:
        """OpenAI's `type`."""
        if self.status == HTTPStatus.UNAUTHORIZED:
            return "authentication_error"
        return INVALID_REQUEST if self.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"

    @property
    def body(self) -> dict[str, object]:
        """As clients read it."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """As it is sent."""
        return JSONResponse(self.body, self.status, self.headers)


class ClientGoneError(Exception):
    """A signal to the handlers: who asked has closed the connection, so nobody is answered."""


async def on_api_error(_: Request, error: Exception) -> Response:
    """Of a route, or of reading a request."""
    assert isinstance(error, ApiError)
    return error.response()


async def on_http_error(request: Request, error: Exception) -> Response:
    """Of the router: no such path, or not by that method."""
    assert isinstance(error, HTTPException)
    known = {
        HTTPStatus.NOT_FOUND: f"{request.method} {request.url.path}: nothing is there; the address docs has a list",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.url.path} is not asked by {request.method}",
    }
    message = known.get(HTTPStatus(error.status_code), str(error.detail))
    return ApiError(error.status_code, message, headers=dict(error.headers or {})).response()


async def on_gone(_: Request, __: Exception) -> Response:
    """Nobody reads it; the status is for the metrics (nginx's number for this)."""
    return Response(status_code=499)


async def on_bug(_: Request, error: Exception) -> Response:
    """A bug of ours: the client is told, the terminal gets the traceback."""
    return ApiError(
        500, f"{type(error).__name__}: a bug of the server's; its terminal has the details", "internal_error"
    ).response()
