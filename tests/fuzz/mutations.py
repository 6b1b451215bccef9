"""How an input is spoilt: bytes and lines at random, and JSON values by what has broken readers before."""

from __future__ import annotations

import json
import random
from typing import Any

NASTY = [
    b"\xed\xa0\x80",
    b"\\ud83d",
    b"NaN",
    b"1e999",
    b"-Infinity",
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 300,
    b"true",
    b"null",
    b'""',
    b"\x00",
    b"\xef\xbb\xbf",
    b"\x1b[2J",
    "\u202e".encode(),
    b"../",
    b"-1",
    b"0",
    b"99999999999999999999",
    b"[]",
    b"{}",
    b"*a",
    b"&a",
    b"\r",
    b"\n",
]
"""Pieces that are put into bytes."""
VALUES: list[object] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    1e308,
    2**63,
    -(2**70),
    10**400,
    float("nan"),
    float("inf"),
    "",
    "../x",
    "\ud800",
    "\x1b[2J",
    "a" * 5000,
    [],
    {},
    [[]],
    [None],
    {"a": None},
    [True],
    ["1"],
    {"": {}},
    [{"bbox": [float("nan")] * 4}],
]
"""What a value in JSON becomes."""


def spoilt(data: bytes, rng: random.Random) -> bytes:
    """The input with one to four changes."""
    if rng.random() < 0.5 and (changed := _spoilt_json(data, rng)) is not None:
        return changed
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, end = sorted((rng.randint(0, len(found)), rng.randint(0, len(found))))
        match rng.randrange(6):
            case 0:
                found[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                found[at:at] = rng.choice(NASTY)
            case 2:
                del found[at : min(end, at + 64)]
            case 3:
                found[at:at] = found[at : min(end, at + 64)]
            case 4:
                del found[at:]
            case _:
                found[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"])
    return bytes(found)


def _spoilt_json(data: bytes, rng: random.Random) -> bytes | None:
    """One value of the first JSON line changed, dropped or put elsewhere; None where the input is no JSON."""
    line, newline, rest = data.partition(b"\n")
    try:
        tree = json.loads(line)
    except (ValueError, RecursionError):
        return None
    found = places(tree)
    if not found:
        return None
    parent, key = rng.choice(found)
    if isinstance(parent, dict) and rng.random() < 0.2:
        del parent[key]
    else:
        parent[key] = rng.choice(VALUES)
    return json.dumps(tree).encode() + newline + rest


def places(tree: object) -> list[tuple[Any, Any]]:
    """(parent, key or position) of every value in a tree."""
    found: list[tuple[Any, Any]] = []
    below = [tree]
    while below:
        at = below.pop()
        inside = list(at.items()) if isinstance(at, dict) else list(enumerate(at)) if isinstance(at, list) else []
        found += [(at, key) for key, _ in inside]
        below += [value for _, value in inside]
    return found
