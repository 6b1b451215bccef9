"""Parameters by model family: what an answer says that a model does not take.

Models that think take `max_completion_tokens` and no `temperature`; older servers know `max_tokens` alone. A table of names would be
wrong with the next model, so the model is asked: the first answer that declines a parameter (free) says how the pass goes on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from data_prep.provider.received import body_text

_OTHER_NAME = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
"""A limit is never left out: it bounds what a reply can cost."""
_LEFT_OUT = ("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty")
"""Without one, the model samples as it always does."""
_DECLINED = re.compile(
    r"unsupported[ _](parameter|value)|(not|n't|no longer)[ _]support|only the default|unrecognized|unknown (name|parameter|field)"
    r"|extra[ _](inputs|fields|forbidden)|not permitted|unexpected keyword|deprecated|cannot find field|incompatible",
    re.IGNORECASE,
)


def rejected_parameter(status: int, raw: bytes, parameters: Mapping[str, object]) -> tuple[str, str | None] | None:
    """See `Provider.without`."""
    if status not in (400, 422):
        return None
    said = body_text(raw)
    if not _DECLINED.search(said):
        return None
    # The parameter that is named first is the one that is declined; the message may name another one to be used instead.
    named = [(match.start(), key) for key in (*_OTHER_NAME, *_LEFT_OUT) if key in parameters and (match := _named(key, said))]
    if not named:
        return None
    key = min(named)[1]
    return key, _OTHER_NAME.get(key)


def _named(key: str, said: str) -> re.Match[str] | None:
    return re.search(rf"\b{key}\b", said)
