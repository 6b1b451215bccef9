"""Lists of web addresses, and which addresses of machines may be connected to."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.sources.base import Refusal, RefusedError, Repeat, SourceError
from data_prep.sources.index_files import as_object, json_records, optional_text, table_rows, text, unreadable
from data_prep.sources.labels import SourceLabels, category
from data_prep.sources.tree import shown

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAX_URL = 4096
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class ListedUrl:
    """One address of a list."""

    url: str
    """Normalised, without a fragment."""
    file: str
    line: int | None
    licence: str | None = None
    labels: SourceLabels = field(default_factory=SourceLabels)


def read_list(path: Path) -> Iterator[ListedUrl | Refusal]:
    """Addresses of a list, in its order.

    Args:
        path: `.csv` or `.jsonl` with a column `url` and optionally `licence`, `emotion`, `query`, `lineage`; anything else is text
            with one address a line, where a line that begins with # is a comment. An emotion beside a query is what was searched
            for and no label; without a query it is what the list says of the image.

    Raises:
        SourceError: no such file, one that cannot be read, not UTF-8, no CSV, not JSON, or no column `url`.
    """
    if not path.is_file():
        msg = f"{path}: no such file"
        raise SourceError(msg)
    seen: set[str] = set()
    for listed in _rows(path):
        if isinstance(listed, ListedUrl):
            if listed.url in seen:
                listed = Repeat(listed.file, listed.line, f"repeated address: {shown(listed.url)}")
            else:
                seen.add(listed.url)
        yield listed


def _rows(path: Path) -> Iterator[ListedUrl | Refusal]:
    match path.suffix.lower():
        case ".csv":
            for place, row in table_rows(path, ("url",)):
                yield row if isinstance(row, Refusal) else place.attempt(_listed, row, place.file, place.line)
        case ".jsonl":
            for place, _, value in json_records(path):
                yield place.attempt(_listed, value, place.file, place.line)
        case _:
            try:
                file = open(path, "rb")  # noqa: SIM115 - closed below
            except OSError as error:
                raise unreadable(path, error) from None
            with file:
                for number, raw in enumerate(file, 1):
                    try:
                        line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                        if line and not line.startswith("#"):
                            yield _listed({"url": line}, str(path), number)
                    except UnicodeDecodeError:
                        yield Refusal(str(path), number, "not UTF-8")
                    except RefusedError as error:
                        yield Refusal(str(path), number, str(error))


def _listed(value: object, file: str, line: int | None) -> ListedUrl:
    row = as_object(value, "the row")
    url = normal_url(text(row, "url"))
    emotion, query = optional_text(row, "emotion"), optional_text(row, "query")
    labels: SourceLabels = {}
    search: dict[str, object] = {}
    if emotion is not None and query is None:
        labels = {"emotion": category(emotion), "emotion_raw": emotion.lower()}
    if query is not None:
        search["query"] = query
        if emotion is not None:
            search["intended_emotion"] = category(emotion)
    if lineage := row.get("lineage"):
        search["lineage"] = _lineage(lineage)
    if search:
        # Not under `labels["lineage"]`: that holds what an image was made from, and a found image was made from nothing of ours.
        labels["attributes"] = search
    return ListedUrl(url, file, line, optional_text(row, "licence"), labels)


def _lineage(value: object) -> object:
    """An object of a JSON list as it is; in a CSV it may be JSON as text, or a word."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            msg = f"lineage is not JSON: {error}"
            raise RefusedError(msg) from None
    return value


def normal_url(url: str) -> str:
    """An address as it is asked for and stored.

    Raises:
        RefusedError: not http or https, no host, a user name or password in it, absurdly long, or no address at all.
    """
    from yarl import URL

    if len(url) > _MAX_URL:
        msg = f"address too long: {len(url)} characters, at most {_MAX_URL}"
        raise RefusedError(msg)
    try:
        parsed = URL(url).with_fragment(None)
        host, _ = parsed.host, parsed.port
    except (ValueError, IndexError) as error:
        msg = f"not an address: {shown(url)}: {error}"
        raise RefusedError(msg) from None
    if parsed.scheme not in ("http", "https"):
        msg = f"scheme not allowed: {shown(parsed.scheme or url)}, allowed: http, https"
        raise RefusedError(msg)
    if not host:
        msg = f"no host: {shown(url)}"
        raise RefusedError(msg)
    if parsed.user is not None or parsed.password is not None:
        # It would stand in every record.
        msg = f"user name or password in the address of {host}"
        raise RefusedError(msg)
    return str(parsed)


def is_public(address: IPAddress) -> bool:
    """Whether an address belongs to the public internet: not private, loopback, link-local, shared, multicast or reserved.

    An IPv6 address that carries an IPv4 one (mapped, 6to4, Teredo, NAT64) is as public as what it carries.
    """
    if isinstance(address, ipaddress.IPv6Address):
        carried = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _NAT64:
            carried.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        inner = [ip for ip in carried if ip is not None]
        if inner:
            return all(map(is_public, inner))
    return address.is_global and not address.is_multicast and not address.is_reserved
