"""The one door for what others wrote: a server, a model, another program, a person.

Python's own reader of JSON believes what a text claims: it nests until the stack ends, takes numbers that no float or column can hold, NaN, half
characters and doubled keys, and what it gives back fails later, in another file. `decode_json` refuses all that at the door, in one error
of the caller's type; `object_of`, `list_of`, `text_of`, `number_of` and `integer_of` check the types of what it gives. `read_capped`,
`open_binary` and `json_lines` read files that may be missing, endless or not what their name says.

    reply = object_of(decode_json(body, "chat reply", ReplyError, half_characters="replace"), "chat reply", ReplyError)
    cost = number_of(reply.get("cost"), "chat reply: 'cost'", ReplyError)
"""

from __future__ import annotations

from emo_lightning.core.foreign.json_text import (
    MAX_DEPTH,
    MAX_JSON_BYTES,
    LargestIntegers,
    RefusedJsonError,
    decode_json,
    deeper_than,
    read_json,
    whole_characters,
)
from emo_lightning.core.foreign.reading import MAX_LINE_BYTES, MAX_PIXELS, json_lines, open_binary, read_capped, refuse_pointer
from emo_lightning.core.foreign.typed import as_number, integer_of, list_of, number_of, object_of, text_of

__all__ = [
    "MAX_DEPTH",
    "MAX_JSON_BYTES",
    "MAX_LINE_BYTES",
    "MAX_PIXELS",
    "LargestIntegers",
    "RefusedJsonError",
    "as_number",
    "decode_json",
    "deeper_than",
    "integer_of",
    "json_lines",
    "list_of",
    "number_of",
    "object_of",
    "open_binary",
    "read_capped",
    "read_json",
    "refuse_pointer",
    "text_of",
    "whole_characters",
]
