"""The parser of every command: an option does what it says, or is refused by one line.

A command that works in several modes (a model on this machine, or one behind an endpoint) declares with `Parser.modes` which options
each of them uses; `Parser.refuse_unused` refuses the others. An option in no mode is a bug that the first call shows, so none slips in.
A number is a `Whole` or a `Real`, which say what it may be; a `Path` is the one on the disk, however its letters are composed.

A switch that says what would be done (`--estimate`, `--dry-run`, `--check`) is written behind the whole command, so what stands before it
is no mistake, though it is not used yet.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from emo_lightning.core.errors import InputError
from emo_lightning.core.names import as_on_disk, begins_on_disk
from emo_lightning.core.stores import LOCAL_OUTPUT, NO_PLACE, scheme_of
from emo_lightning.core.text import printable

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

__all__ = ["ALWAYS", "Parser", "Real", "Whole", "named_places", "output_path", "refuse_unused"]

ALWAYS = ""
"""The mode of options that a command uses in all of them."""
_MOST = 2**63 - 1
"""Of a whole number: what files and libraries can hold."""


@dataclass(frozen=True)
class Whole:
    """A whole number of an option, `type=Whole(1)`."""

    least: int = 0
    most: int = _MOST

    def __call__(self, text: str) -> int:
        """Read it.

        Raises:
            InputError: it is none, or outside the range.
        """
        digits = text.strip().removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 20) or not self.least <= int(text) <= self.most:
            most = "" if self.most == _MOST else f", at most {self.most}"
            whole = "" if digits.isascii() and digits.isdigit() else "a whole number, "
            msg = f"expected {whole}at least {self.least}{most}"
            raise InputError(msg)
        return int(text)


def output_path(text: str) -> Path:
    """Where to write, `type=output_path`: of a URL a path would make a folder of that name here, and of nothing the current folder.

    Raises:
        InputError: it is a URL, or empty.
    """
    if not text:
        raise InputError(NO_PLACE)
    if scheme_of(text) is not None:
        raise InputError(LOCAL_OUTPUT)
    return as_on_disk(text)


@dataclass(frozen=True)
class Real:
    """A finite number of an option, from `least` (or above it, with `above`) to `most` (or below it, with `below`)."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __call__(self, text: str) -> float:
        """Read it.

        Raises:
            InputError: it is none, not finite, or outside the range.
        """
        try:
            value = float(text) if text.isascii() and "_" not in text else math.nan
        except ValueError:
            value = math.nan
        ends = {self.least: self.above, self.most: self.below}
        if not math.isfinite(value) or not self.least <= value <= self.most or ends.get(value):
            low = f"{'more than' if self.above else 'at least'} {self.least:g}" if math.isfinite(self.least) else ""
            high = f"{'less than' if self.below else 'at most'} {self.most:g}" if math.isfinite(self.most) else ""
            msg = f"expected {', '.join(['a finite number', *filter(None, (low, high))])}"
            raise InputError(msg)
        return value


def named_places(option: str, values: Iterable[str], unnamed: Callable[[Path], str] | None = None) -> dict[str, str]:
    """Name -> path or address, of words `NAME=PATH`.

    Args:
        option: for messages.
        values: the words. A path may hold `=` itself: a name has no slash, and what is on the disk as a whole is no pair.
        unnamed: the name of a path that is given without one; None where each needs one.

    Raises:
        InputError: a word without a name, or a name given twice; names both paths.
    """
    found: dict[str, str] = {}
    for value in values:
        name, equals, place = value.partition("=")
        if not (equals and name and place) or "/" in name or (unnamed and begins_on_disk(value)):
            if unnamed is None:
                msg = f"{option} {value}: expected NAME=FILE"
                raise InputError(msg)
            name, place = unnamed(Path(value)), value
        if name in found:
            msg = f"{option} {name}: given twice, {found[name]} and {place}; NAME=FILE gives another name"
            raise InputError(msg)
        found[name] = place
    return found


def refuse_unused(given: Mapping[str, str], modes: Mapping[str, Sequence[str]], *active: str) -> None:
    """Refuse what would not be used.

    Args:
        given: name of an option on the command line -> how it is spelled there.
        modes: see `Parser.modes`.
        active: of them.

    Raises:
        InputError: names the first, and what it is for.
    """
    assert set(active) <= set(modes), active
    for name, spelled in given.items():
        its = [mode for mode, names in modes.items() if name in names]
        if not set(its) & {ALWAYS, *active}:
            this = f"; this is {' and '.join(active)}" if active else ""
            msg = f"{spelled} is for {' or '.join(its)}{this}"
            raise InputError(msg)


class Parser(argparse.ArgumentParser):
    """As argparse's; its numbers are checked, its modes are held to, and what it prints cannot steer a terminal."""

    _modes: Mapping[str, Sequence[str]] | None = None

    def modes(self, table: Mapping[str, Sequence[str]]) -> None:
        """Declare which options each mode uses.

        Args:
            table: what a mode is called in a message -> names of its options; those of `ALWAYS` are used in all.

        Raises:
            AssertionError: an option is in no mode, or a name is no option's.
        """
        declared = {name for names in table.values() for name in names}
        there = {action.dest for action in self.own_options()}
        assert declared == there, f"{self.prog}: in no mode {sorted(there - declared)}, no option {sorted(declared - there)}"
        self._modes = table

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None) -> Any:  # type: ignore[override] # noqa: ANN401 - argparse's own
        """As argparse's; what is not understood behind the name of a part is that part's to refuse, with its usage."""
        found, left = self.parse_known_args(args, namespace)
        if left:
            self._part_of(found).error(f"unrecognized arguments: {' '.join(left)}")
        return found

    def _part_of(self, found: argparse.Namespace) -> argparse.ArgumentParser:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                chosen: argparse.ArgumentParser | None = action.choices.get(str(getattr(found, action.dest, "")))
                return self if chosen is None else chosen
        return self

    def own_options(self) -> Iterator[argparse.Action]:
        """Its options but for those of every command."""
        return (action for action in self._actions if action.option_strings and action.dest not in ("help", "debug"))

    def refuse_unused(self, argv: Sequence[str], *active: str) -> None:
        """Refuse options that stand on the command line and would not be used.

        Args:
            argv: that `parse_args` has accepted.
            active: modes that it asks for.

        Raises:
            InputError: names the first, and what it is for.
        """
        assert self._modes is not None, self.prog
        given = set(self._given(argv))
        spelled = {action.dest: action.option_strings[0] for action in self.own_options() if action.dest in given}
        refuse_unused(spelled, self._modes, *active)

    def _given(self, argv: Sequence[str]) -> Iterable[str]:
        """Names of the arguments that stand on the command line, whatever their values."""
        defaults = {action: action.default for action in self._actions}
        try:
            for action in defaults:
                action.default = argparse.SUPPRESS
            given: dict[str, object] = vars(self.parse_args(argv))
            return given
        finally:
            for action, default in defaults.items():
                action.default = default

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:  # noqa: ANN401 - argparse's own
        if isinstance(action.type, Whole | Real) or action.type is output_path:
            try:
                return action.type(arg_string)
            except InputError as error:
                name = action.option_strings[0] if action.option_strings else str(action.metavar or action.dest)
                msg = f"{name} {arg_string}: {error}"
                raise InputError(msg) from None
        if action.type is Path:
            return as_on_disk(arg_string)
        value: object = super()._get_value(action, arg_string)
        return value

    def error(self, message: str) -> NoReturn:
        """A mistake on the argument line, in one line as every other; argparse writes the usage above it."""
        self.exit(2, f"error: {self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        super()._print_message(printable(message), file)
