"""The body of an images endpoint's answer: which images it carries, and which of the six kinds of `provider.received` it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TypedDict

from data_prep.provider.json_bodies import has_reply, json_objects, unreadable
from data_prep.provider.openai_received import error_of, usage_of
from data_prep.provider.received import (
    BodyOutcome,
    NotFromApi,
    PaidReply,
    Refusal,
    TransientError,
    Unusable,
    Usage,
    body_excerpt,
    body_text,
)
from emo_lightning.core.foreign import whole_characters

KEPT_KEY = "emo_kept"
"""Key of a reply in the ledger: numbers of the entries whose image we have put into the store. What a provider writes there is dropped."""
_REFERENCE = re.compile(r"sha256:([0-9a-f]{64})\.(png|jpg|webp|bin)")
_DECLINED = (
    *("moderation", "content_policy", "content policy", "policy_violation", "content_filter", "contentfilter"),
    *("safety", "sensitive", "risk", "inappropriate", "prohibited", "nsfw"),
)
"""Words by which providers say that they decline a text or its image; any other error is our mistake, or theirs, not the text's."""
_FILLED = re.compile(r'"b64_json"\s*:\s*"')
_UNBILLED = "no image in the reply"


class ImageEntry(TypedDict, total=False):
    """One image of a reply: its bytes in base64, or the address where it lies."""

    b64_json: str
    url: str
    revised_prompt: str
    kept: tuple[str, str]
    """(sha256, extension) in the store, of an image that was put there."""
    odd: str
    """Why it is none that can be read."""


def is_declined(said: str) -> bool:
    """Whether an answer declines the text or its image, by its words."""
    return any(word in said.lower() for word in _DECLINED)


def read_images(raw: bytes) -> BodyOutcome:
    """What a body is; it raises nothing, whatever the bytes are."""
    text = body_text(raw)
    objects = json_objects(text)
    if objects is None:
        return unreadable(text, ('"b64_json"', '"url"', '"usage"'), _FILLED)
    usage = next((found for one in objects if (found := image_usage(one.get("usage"))) is not None), None)
    entries = _entries(objects)
    if any("odd" not in entry for entry in entries):
        return PaidReply(f"{len(entries)} images", usage)
    if entries:
        return Unusable(entries[0]["odd"], usage=usage)
    error = next((said for one in objects if (said := error_of(one))), "")
    inner = body_excerpt(json.dumps(objects, ensure_ascii=False))
    reply = any(isinstance(one.get(key), list) for one in objects for key in ("data", "images")) or usage is not None
    if (error or reply) and is_declined(inner):
        return Refusal(inner, usage)
    if error and usage is None:
        return TransientError(error)
    if not reply and has_reply(text, _FILLED):
        return Unusable("a reply is in it, in a shape that is not known", usage=usage)
    if not reply:
        return NotFromApi(f"no reply: {body_excerpt(text)}" if text else "an empty body")
    return Unusable(f"{_UNBILLED}: {inner}", usage=usage)


def images_of(raw: bytes) -> list[ImageEntry]:
    """The images of a body in order, those that cannot be read included: they were billed all the same."""
    return _entries(json_objects(body_text(raw)) or [])


def billed_images(raw: bytes, body: BodyOutcome) -> int:
    """How many images were billed: those that are there, and one where nobody can tell."""
    images = len(images_of(raw))
    nothing_billed = not isinstance(body, Unusable) or body.why.startswith(_UNBILLED)
    return images or (0 if nothing_billed else 1)


def image_usage(usage: object) -> Usage | None:
    """Tokens as a `usage` names them, under either pair of names; a prompt may be left out."""
    if not isinstance(usage, Mapping):
        return None
    prompt = usage.get("input_tokens") or usage.get("prompt_tokens") or 0
    output = usage.get("output_tokens", usage.get("completion_tokens"))
    return usage_of({"prompt_tokens": prompt, "completion_tokens": output})


def _entries(objects: list[dict[str, object]]) -> list[ImageEntry]:
    found: list[ImageEntry] = []
    for one in objects:
        images = next((one[key] for key in ("data", "images") if isinstance(one.get(key), list) and one[key]), None)
        ours = one.get(KEPT_KEY)
        if isinstance(images, list):
            found += [
                entry
                for number, image in enumerate(images)
                if (entry := _entry(image, number, ours if KEPT_KEY in one else None))
            ]
        elif "partial" not in str(one.get("type")) and (entry := _entry(one, 0, None)):
            # The last event of a stream, which is the image itself.
            found.append(entry)
    return found


def _entry(image: object, number: int, ours: object) -> ImageEntry | None:
    """One image; None where an entry has none, and nothing was billed for it.

    Args:
        image: as the body has it.
        number: of the entry.
        ours: the entries that we have kept; None in a body of version 0.2.0, which did not say so.
    """
    if isinstance(image, str):
        return {"url": image} if image.startswith(("http://", "https://")) else {"odd": "an entry is a text, and no address"}
    if not isinstance(image, dict) or not (image.get("b64_json") or image.get("url")):
        return None
    entry: ImageEntry = {}
    if isinstance(revised := image.get("revised_prompt"), str):
        entry["revised_prompt"] = whole_characters(revised)
    data, url = image.get("b64_json"), image.get("url")
    if isinstance(data, str) and data:
        reference = _REFERENCE.fullmatch(data)
        if reference and (ours is None or (isinstance(ours, list) and number in ours)):
            entry["kept"] = (reference[1], reference[2])
        else:
            entry["b64_json"] = data
    elif isinstance(url, str) and url:
        entry["url"] = url
    else:
        entry["odd"] = f"the image is {type(data or url).__name__}, neither base64 nor an address"
    return entry
