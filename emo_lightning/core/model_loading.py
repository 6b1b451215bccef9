"""Models of transformers, loaded whole or not at all: one place for what its `from_pretrained` would do in silence.

It fills weights that a file lacks with random numbers, leaves out those that the class does not have, asks on the terminal whether it
may run a folder's Python code, and lets a folder with the wrong JSON end in whatever error comes. Without torch and transformers until
something is loaded.
"""

from __future__ import annotations

import contextlib
import pickle
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from emo_lightning.core.errors import UserError, raised_in
from emo_lightning.core.files import read_object
from emo_lightning.core.model_folders import files_of
from emo_lightning.core.weight_files import MAX_CONFIG_BYTES, check_weight_files, tensor_headers, weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["check_claims", "check_loaded", "first_line", "foreign_files", "load_whole", "quiet_library", "read_model_config"]

_M = TypeVar("_M")

_SHOWN = 3
"""Keys shown of each kind of problem; all are counted."""
_CONSTANTS = re.compile(
    r"(^|\.)(position_ids|inv_freq|original_inv_freq|relative_position_index|relative_coords_table|num_batches_tracked|masked_bias)$"
)
"""Names of what older versions wrote into files of weights though the class computes it."""
_NO_WEIGHTS = {"BOOL", *(f"{kind}{bits}" for kind in "IU" for bits in (16, 32, 64))}
_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    ImportError,
    pickle.UnpicklingError,
)
"""What transformers and the packages below it raise of files that hold other values than they expect."""
_ERRORS_BY_NAME = {"SafetensorError", "TemplateError", "StrictDataclassError"}
"""Likewise, of safetensors, jinja2 and huggingface_hub."""


@contextlib.contextmanager
def foreign_files(what: str, error: type[UserError]) -> Iterator[None]:
    """Within it, a library reads files that somebody else has written, and what it raises of them is of the type `error`.

    A mistake in how we call it is a bug, and stays what it is: such an error comes from our own line and not from a library's.

    Args:
        what: names the files, for the message.
        error: what is raised instead.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as failure:
        # Some packages raise classes that cannot be named without importing them, and tokenizers a plain Exception.
        names = {kind.__name__ for kind in type(failure).__mro__}
        known = isinstance(failure, _ERRORS) or type(failure) is Exception or bool(names & _ERRORS_BY_NAME)
        # The call itself failed, and not something within the library.
        if not known or raised_in(failure, "emo_lightning", "data_prep"):
            raise
        msg = f"{what}: {first_line(failure)}"
        raise error(msg) from failure


def first_line(error: BaseException) -> str:
    """What a library says went wrong, without its advice: the first line, with the second where the first ends with a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    said = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    # The whole text of a KeyError is the key.
    return f"{type(error).__name__}: {said}" if isinstance(error, KeyError | IndexError | AttributeError | TypeError) else said


def read_model_config(folder: Path, error: type[UserError]) -> dict[str, object]:
    """`config.json` of a model folder, read by ourselves before any library acts on it.

    Raises:
        UserError: of the type `error`; names the file.
    """
    path = folder / "config.json"
    if not path.is_file():
        msg = f"{path}: no such file"
        raise error(msg)
    return read_object(path, error=error, max_bytes=MAX_CONFIG_BYTES)


@contextlib.contextmanager
def quiet_library() -> Iterator[None]:
    """Within it transformers logs nothing: what it finds is checked, and said in one line."""
    from logging import CRITICAL

    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load_whole(
    load: Callable[..., _M],
    name: str,
    what: str,
    error: type[UserError],
    *,
    optional: Callable[[str], bool] | None = None,
    heads: bool = False,
    kind: type[PreTrainedModel] | None = None,
    **arguments: object,
) -> _M:
    """`load(name, **arguments)` of a model's `from_pretrained`, with no weight left at its random start and none left out.

    Args:
        load: the class method.
        name: folder or hub id.
        what: names the model, for messages.
        error: what is raised.
        optional: which weights may be missing; None: none.
        heads: whether the file may hold parts that the class does not have, as a classifier's holds its head; more layers than it has it
            may not.
        kind: the class, where its config alone says how large it is.
        arguments: for `load`.

    Raises:
        UserError: of the type `error`: it cannot be read, does not fill the class, or holds what is no finite number; names keys.
    """
    folder = files_of(name)
    if folder is not None:
        check_weight_files(folder, error)
        # What the cache lacks of an id, the hub still gives, if it can be asked.
        if Path(name).is_dir() or arguments.get("local_files_only") or weight_files(folder):
            check_claims(kind, folder, what, error)
    try:
        with quiet_library(), foreign_files(f"{what}: cannot be loaded", error):
            # With `output_loading_info` transformers gives a pair, which its types do not say.
            loaded = cast("tuple[_M, Mapping[str, Collection[object]]]", load(name, output_loading_info=True, **arguments))
    except RuntimeError as failure:
        # Full memory, and what else it may be, is something else.
        if isinstance(failure, UserError) or "ignore_mismatched_sizes" not in str(failure):
            raise
        msg = f"{what}: its weights are not of the sizes that its config.json gives"
        raise error(msg) from failure
    model, found = loaded
    names = cast("PreTrainedModel", model).state_dict().keys() if heads else None
    check_loaded(found, what, error, optional=optional, heads=names)
    for name, weight in cast("PreTrainedModel", model).named_parameters():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            msg = f"{what}: its weight {name} holds NaN or infinity"
            raise error(msg)
    return model


def check_loaded(
    found: Mapping[str, Collection[object]],
    what: str,
    error: type[UserError],
    *,
    optional: Callable[[str], bool] | None = None,
    heads: Collection[str] | None = None,
) -> None:
    """Refuse a model whose file does not hold what its class is made of; see `load_whole`.

    Args:
        found: of transformers, `missing_keys`, `unexpected_keys` and `mismatched_keys`.
        what: names the model.
        error: what is raised.
        optional: which weights may be missing; None: none.
        heads: names of the model's own weights, where the file may hold other parts beside them; None: it may not.
    """
    own = set() if heads is None else {_anywhere(name) for name in heads}
    problems = {
        "missing": [key for key in map(str, found.get("missing_keys", ())) if not (optional and optional(key))],
        "that the model does not have": [
            key
            for key in map(str, found.get("unexpected_keys", ()))
            if not (_CONSTANTS.search(key) or (heads is not None and _anywhere(key) not in own))
        ],
        "of another shape": [str(key[0]) if isinstance(key, tuple) else str(key) for key in found.get("mismatched_keys", ())],
        "that could not be read": [str(said) for said in found.get("error_msgs", ())],
    }
    parts = [
        f"{len(keys)} {kind} ({', '.join(sorted(keys)[:_SHOWN])}{', …' if len(keys) > _SHOWN else ''})"
        for kind, keys in problems.items()
        if keys
    ]
    if parts:
        msg = f"{what}: its weights do not fit its config.json: {'; '.join(parts)}"
        raise error(msg)


def _anywhere(key: str) -> str:
    """The name of a weight in any layer."""
    return re.sub(r"\d+", "N", key)


def check_claims(kind: type[PreTrainedModel] | None, folder: Path, what: str, error: type[UserError]) -> None:
    """Refuse a model whose `config.json` asks for more than its files hold, before memory is taken or time is spent for it.

    Args:
        kind: its class; None looks at the numbers of layers alone.
        folder: with its files, each whole.
        what: names the model, for messages.
        error: what is raised.

    Raises:
        UserError: of the type `error`; names the file.
    """
    settings = read_model_config(folder, error)
    where = f"{what}: {folder / 'config.json'}"
    files = weight_files(folder)
    if not files:
        msg = f"{what}: no weights (*.safetensors) in {folder}: a download that did not end, or a copy that left them out"
        raise error(msg)
    unpacked = [file for file in files if file.suffix == ".safetensors"]
    headers = [(file, name, header) for file in unpacked for name, header in tensor_headers(file, error).items()]
    for file, name, header in headers:
        # transformers would round them to the type of the class without a word. Bytes may be numbers of four or eight bits.
        if name.endswith(".weight") and header.dtype in _NO_WEIGHTS:
            msg = f"{what}: {file}: {name} is of type {header.dtype}; a weight is a floating-point number"
            raise error(msg)
    tensors = [header for _, _, header in headers]
    packed = sum(file.stat().st_size for file in files if file not in unpacked)
    # A .bin does not say how many tensors it has without being opened, but each takes some bytes.
    most = len(tensors) + packed // 64
    if deep := next(((key, value) for key, value in _depths(settings) if value > most), None):
        msg = f"{where}: key {deep[0]!r}: found {deep[1]:,}; its files hold {most:,} tensors in all"
        raise error(msg)
    if kind is None or kind.config_class is None:
        return
    import torch

    with quiet_library(), foreign_files(f"{where}: gives no model", error), torch.device("meta"):
        model = kind(kind.config_class.from_dict(settings))
    asked = sum(parameter.numel() for parameter in model.parameters())
    # Two of four bits fit into a byte, which is what a quantised checkpoint counts.
    held = 2 * (sum(header.numbers for header in tensors) + packed)
    if asked > held:
        msg = f"{where}: asks for a model of {asked:,} weights; the files beside it hold {held // 2:,}"
        raise error(msg)


def _depths(settings: Mapping[str, object]) -> Iterator[tuple[str, int]]:
    """Every number of layers in a `config.json`, by its key."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _depths(value)
        elif isinstance(value, int) and re.search("layers|depth|blocks|stages|experts", key) and not key.startswith("max_"):
            yield key, value
