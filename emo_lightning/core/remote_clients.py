"""The clients that fsspec reads far places by: how they are set up, and what their errors mean."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from emo_lightning.core.stores import is_web, scheme_of

if TYPE_CHECKING:
    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

_WEB_SILENCE = 30.0
"""Seconds in which a place of the web has to send something, or to be connected to: of itself aiohttp waits 300 for the whole answer."""
_GOOGLE = ("gs", "gcs")
_IN_EXTRA = ("s3", "s3a", *_GOOGLE)
"""Schemes whose packages the extra `storage` brings."""
_FOR_GOOD = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError, NotImplementedError, TypeError, ValueError)
"""What asking again does not change."""
_HTTP_WHOLE = 200
"""The answer is the object, whatever part of it was asked for."""
_HTTP_FOR_GOOD = range(400, 500)
_HTTP_PASSING = (408, 425, 429)
"""Too slow, too early, too often: of the former those that pass."""
_HTTP_MISSING = (404, 410)
_HTTP_FORBIDDEN = (401, 403)


def client_settings(url: str) -> dict[str, object]:
    """How the file system of a URL is opened; what the user has set in fsspec's own configuration wins."""
    if scheme_of(url) in _GOOGLE:
        _use_plain_gcsfs()
    if not is_web(url):
        return {}
    from aiohttp import ClientTimeout
    from fsspec import get_filesystem_class
    from fsspec.config import apply_config
    from fsspec.implementations.http import HTTPFileSystem

    kind = get_filesystem_class(scheme_of(url))
    if not issubclass(kind, HTTPFileSystem):
        return {}
    timeout = ClientTimeout(total=None, sock_connect=_WEB_SILENCE, sock_read=_WEB_SILENCE)
    ours = {"timeout": timeout, "middlewares": (_refuse_whole,)}
    return {"client_kwargs": {**ours, **(apply_config(kind, {}).get("client_kwargs") or {})}}


def _use_plain_gcsfs() -> None:
    """Have fsspec open Google's storage by gcsfs's plain class.

    What gcsfs tries out speaks gRPC, whose threads do not live in the forks of a loader. Its variable is read where gcsfs is first
    imported, and Lightning may have done that before, so the class is named. A variable that the user has set to true stands.
    """
    if os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false").lower() in ("true", "1"):
        return
    # Without the package fsspec says what is missing.
    with suppress(ImportError):
        import gcsfs.core
        from fsspec import register_implementation

        for scheme in _GOOGLE:
            register_implementation(scheme, gcsfs.core.GCSFileSystem, clobber=True)


async def _refuse_whole(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """Leave an answer unread that is the whole of an object of which a part was asked for: it may be larger than memory.

    Raises:
        NotImplementedError: it is.
    """
    response = await handler(request)
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
    if asked and response.status == _HTTP_WHOLE:
        start, end = int(asked[1]), int(asked[2]) + 1
        coming = response.content_length
        if coming is None or coming > end - start:
            response.close()
            found = "an answer of untold length" if coming is None else f"{coming} bytes"
            msg = f"asked for bytes {start} to {end}, was to get {found}: the place does not answer ranges"
            raise NotImplementedError(msg)
    return response


def cause_of(error: Exception) -> Exception:
    """What went wrong: of whatever fails when an object is looked at by HTTP, fsspec says that there is none."""
    from aiohttp import ClientError

    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, (ClientError, TimeoutError, ConnectionError)):
        return cause
    return error


def is_missing(error: Exception) -> bool:
    """Whether a place has answered that nothing is there."""
    return isinstance(error, FileNotFoundError) or getattr(error, "status", None) in _HTTP_MISSING


def is_forbidden(error: Exception) -> bool:
    """Whether a place has answered that nobody, or not this reader, may have it.

    Args:
        error: of a client, or ours that was raised from it.
    """
    at: BaseException | None = error
    while isinstance(at, Exception):
        # gcsfs has no class for it.
        said = isinstance(at, OSError) and str(at).startswith("Forbidden: ")
        if said or isinstance(at, PermissionError) or getattr(at, "status", None) in _HTTP_FORBIDDEN:
            return True
        at = at.__cause__
    return False


def may_pass(error: Exception) -> bool:
    """Whether asking again may help."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status in _HTTP_PASSING or status not in _HTTP_FOR_GOOD
    return not isinstance(error, _FOR_GOOD) and not is_forbidden(error)


def reason_of(url: str, done: str, error: Exception, attempts: int) -> str:
    """What a message says of an error.

    Args:
        url: that was asked for.
        done: what is done with it.
        error: see `cause_of`.
        attempts: how often it was asked for.
    """
    missing = "no such file" if done == "read" else "no such bucket or folder"
    reason = missing if is_missing(error) else str(error) or type(error).__name__
    if isinstance(error, ImportError) and scheme_of(url) in _IN_EXTRA:
        reason = f"{scheme_of(url)}:// needs the extra `storage`: pip install 'emo-lightning[storage]'"
    return f"{url}: cannot be {done}: {reason}" + (f" (asked {attempts} times)" if attempts > 1 else "")
