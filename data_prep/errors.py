"""What the user can act on: the command line prints these as one line, and anything else with its traceback."""

from __future__ import annotations


class PrepError(Exception):
    """Base of every error of `data_prep` that speaks to the user."""
