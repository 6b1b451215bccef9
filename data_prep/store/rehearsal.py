"""Stores of a rehearsal: every answer in them is made up, so nothing may be paid for there, and nothing goes out.

The mark stands at each image of the store (`labels.rehearsal`), and through it in each record (`provenance.source_labels.rehearsal`).
A made-up answer comes from the party `rehearsal`, and is never found under another one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import Record

if TYPE_CHECKING:
    from data_prep.store.ledger import Ledger

REHEARSAL_LABEL = "rehearsal"
"""Key of an image's labels."""
REHEARSAL_PARTY = "rehearsal"
"""Who answers in a rehearsal."""

_QUERY = "SELECT count(*), coalesce(sum(CASE WHEN json_valid(labels) THEN json_extract(labels, '$.rehearsal') = 1 END), 0) FROM items"


class RehearsalError(InputError):
    """Made-up answers and real ones would be mixed."""


def marked(ledger: Ledger) -> tuple[int, int]:
    """(images, those of them that carry the mark)."""
    images, found = ledger.read(_QUERY)[0]
    return int(images), int(found)


def is_rehearsal(ledger: Ledger) -> bool:
    """Whether any image of a store carries the mark."""
    return marked(ledger)[1] > 0


def refuse_rehearsal(ledger: Ledger, what: str) -> None:
    """Refuse to do something with a store of a rehearsal.

    Args:
        ledger: of the store.
        what: it is, for the message.

    Raises:
        RehearsalError: an image carries the mark.
    """
    if is_rehearsal(ledger):
        msg = f"{ledger.path.parent}: the store of a rehearsal (`emo prep annotate --rehearse`), all of whose answers are made up: {what}"
        raise RehearsalError(msg)


def check_parties(ledger: Ledger, parties: Iterable[str]) -> None:
    """Refuse real answers in the store of a rehearsal, and made-up ones in any other.

    Args:
        ledger: of the store.
        parties: who will be asked.

    Raises:
        RehearsalError: it says which of the two.
    """
    made_up = {party == REHEARSAL_PARTY for party in parties}
    if False in made_up:
        refuse_rehearsal(ledger, "nothing is paid for there; run the pass on the store that it was made of")
    images, found = marked(ledger)
    if True in made_up and found < images:
        msg = (
            f"{ledger.path.parent}: the party {REHEARSAL_PARTY!r} makes its answers up, and this is no store of a rehearsal; call the endpoint's "
            "party otherwise"
        )
        raise RehearsalError(msg)


def is_rehearsed(record: Record) -> bool:
    """Whether a record comes from a rehearsal."""
    labels = record.provenance.get("source_labels")
    return isinstance(labels, dict) and labels.get(REHEARSAL_LABEL) is True
