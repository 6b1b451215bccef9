"""The ledger of a store: every image, every request ever sent, every reply paid for."""

from data_prep.ledger.group_commit import LedgerError
from data_prep.ledger.ledger import CallState, Ledger
from data_prep.ledger.rows import Item, Outcome

__all__ = ["CallState", "Item", "Ledger", "LedgerError", "Outcome"]
