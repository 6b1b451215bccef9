"""Pages for a browser on this machine, and how other sites that are open in it are kept out.

Another site can send requests to 127.0.0.1, by that name or by one of its own that it points here (DNS rebinding). So every request must
name a host of ours, come from our own page or from no page at all, and carry the secret.

The folder `page/` holds what pages share: elements, pictures with boxes and masks, COCO's run-length code.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path

SHARED_PAGE_FOLDER = Path(__file__).with_name("page")
"""Scripts that pages share."""
PAGE_MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
"""Media types of the files of a page."""


class RejectedError(Exception):
    """A signal to a server: the request is not from our page, or asks for nothing that is here."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def closed_headers(images: str = "'self' data:") -> dict[str, str]:
    """Headers of every answer: nothing is loaded from elsewhere, shown within another page, or kept.

    Args:
        images: where pictures may come from.
    """
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; script-src 'self'; style-src 'self'; img-src {images}; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }


def page_files(*folders: Path) -> dict[str, Path]:
    """The files of a page and those that pages share, by name: a request names one, and joins no paths."""
    return {
        file.name: file
        for folder in (SHARED_PAGE_FOLDER, *folders)
        for file in folder.iterdir()
        if file.suffix in PAGE_MEDIA_TYPES
    }


def check_from_here(
    hosts: Sequence[str], origin: str | None, site: str | None, ours: Callable[[str], bool], called: str
) -> None:
    """Refuse what another site has a browser send.

    Args:
        hosts: headers `Host`.
        origin: header `Origin`; None where there is none.
        site: header `Sec-Fetch-Site`; None where there is none.
        ours: whether a host, with its port, is this server.
        called: what it is called, for the message.

    Raises:
        RejectedError: it is not for us, or not from us.
    """
    if len(hosts) != 1 or not ours(hosts[0]):
        raise RejectedError(HTTPStatus.MISDIRECTED_REQUEST, f"this is {called} alone")
    if origin not in (None, f"http://{hosts[0]}", f"https://{hosts[0]}"):
        raise RejectedError(HTTPStatus.FORBIDDEN, "no other origin")
    # `none`: typed or opened from outside of any page; without the header: not a browser of today.
    if site not in (None, "none", "same-origin"):
        raise RejectedError(HTTPStatus.FORBIDDEN, "no other site")


def is_secret(given: str, secret: str) -> bool:
    """Whether somebody knows it; the time that this takes tells nothing of it."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), secret.encode())
