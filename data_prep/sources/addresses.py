"""Lists of web addresses, and which addresses of machines may be connected to."""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.sources.base import Refusal, RefusedError, Repeat, SourceError
from data_prep.sources.index_files import as_object, json_records, open_text, optional_text, table_rows, text
from data_prep.sources.labels import SourceLabels, category
from data_prep.sources.places import RowCount
from data_prep.sources.tree import encodable, shown
from emo_lightning.core.foreign import decode_json

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
_MAX_LINEAGE = 2**16
_MAX_URL = 4096
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_PUBLIC = [
    ipaddress.ip_network(block)
    for block in ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "fec0::/10", "3fff::/20", "5f00::/16")
]
"""What `ipaddress` calls global in some version of Python: protocol assignments (metadata of some clouds), relays, site-local, documentation."""


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
        path: `.csv`, `.tsv`, `.jsonl` or `.ndjson` with a column `url` and optionally `licence`, `emotion`, `query`, `lineage`; anything else is text
            with one address a line, where a line that begins with # is a comment. An emotion beside a query is what was searched
            for and no label; without a query it is what the list says of the image.

    Raises:
        SourceError: no such file, one that cannot be read, not UTF-8, no CSV, not JSON, or no column `url`.
    """
    if not path.is_file():
        msg = f"{path}: no such file"
        raise SourceError(msg)
    # A list that is text says nothing of an address that another line could contradict.
    against = _contradicted(path) if path.suffix.lower() in _TABLES else {}
    seen: set[str] = set()
    for listed in _rows(path):
        if isinstance(listed, ListedUrl):
            if listed.url in against:
                listed = Refusal(
                    listed.file,
                    listed.line,
                    f"contradiction: another emotion or licence than line {against[listed.url]} or one before it has for {shown(listed.url)}",
                )
            elif listed.url in seen:
                listed = Repeat(listed.file, listed.line, f"repeated address: {shown(listed.url)}")
            else:
                seen.add(listed.url)
        yield listed


def _contradicted(path: Path) -> dict[str, int | None]:
    """Addresses of which two rows say different things, with the line of the first row that differs from an earlier one.

    What was searched for is no such thing: two queries may find one image.
    """
    first: dict[tuple[str, str], str] = {}
    against: dict[str, int | None] = {}
    for listed in _rows(path):
        if isinstance(listed, ListedUrl):
            # A row that names none says nothing against one that does.
            for what, says in (("licence", listed.licence), ("emotion", listed.labels.get("emotion"))):
                if says is not None and first.setdefault((listed.url, what), says) != says:
                    against.setdefault(listed.url, listed.line)
    return against


def _rows(path: Path) -> Iterator[ListedUrl | Refusal]:
    match path.suffix.lower():
        case ending if ending in _TABLES[:2]:
            for place, row in table_rows(path, ("url",)):
                yield row if isinstance(row, Refusal) else place.attempt(_listed, row, place.file, place.line)
        case ending if ending in _TABLES:
            for place, _, value in json_records(path):
                yield place.attempt(_listed, value, place.file, place.line)
        case _:
            with open_text(path) as file:
                rows = RowCount(path)
                for number, raw in enumerate(file, 1):
                    line = raw.strip()
                    if not encodable(line):
                        yield rows.place(str(path), number).refuse("not UTF-8")
                    elif line and not line.startswith("#"):
                        yield rows.place(str(path), number).attempt(_listed, {"url": line}, str(path), number)


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
            return decode_json(value, "lineage", SourceError, max_bytes=_MAX_LINEAGE)
        except SourceError as error:
            raise RefusedError(str(error)) from None
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
    if not encodable(url) or any(unicodedata.category(c) == "Cc" for c in url):
        # yarl leaves them out: an address and what stands behind a tab would become one.
        msg = f"not an address: {shown(url)}: a tab, another control character or half a character in it"
        raise RefusedError(msg)
    try:
        parsed = URL(url).with_fragment(None)
        host, _ = parsed.host, parsed.port
        if parsed.scheme in ("http", "https") and host and parsed.user is None and parsed.password is None:
            # What is stored is read again, and must be an address then, too.
            again = URL(str(parsed))
            if (again.origin(), again.host, again.port) != (parsed.origin(), host, parsed.port):
                msg = f"not an address: {shown(url)}: it reads as {again.host} when it is read again"
                raise RefusedError(msg)
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
    if any(address in block for block in _NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved
