"""Paid calls: one question to one model, from its cache key to the reply in the ledger."""
