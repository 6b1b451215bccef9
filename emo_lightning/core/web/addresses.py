"""How the address of a page is asked for, and which addresses of machines may be connected to."""

from __future__ import annotations

import ipaddress
import unicodedata

from emo_lightning.core.text import shown

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAX_URL = 4096
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_PUBLIC = [
    ipaddress.ip_network(block)
    for block in ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "fec0::/10", "3fff::/20", "5f00::/16")
]
"""What `ipaddress` calls global in some version of Python: protocol assignments (metadata of some clouds), relays, site-local, documentation."""


class RefusedError(ValueError):
    """A signal to who reads: one thing that was asked for cannot be used.

    The kind of reason stands before the first colon of the message.
    """


def normal_url(url: str) -> str:
    """An address as it is asked for and stored.

    Raises:
        RefusedError: not http or https, no host, a user name or password in it, absurdly long, or no address at all.
    """
    from yarl import URL

    if len(url) > _MAX_URL:
        msg = f"address too long: {len(url)} characters, at most {_MAX_URL}"
        raise RefusedError(msg)
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in url):
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
