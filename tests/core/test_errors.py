"""Which errors are the user's, which are bugs, and what is printed of both."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from emo_lightning.core.errors import (
    BROKEN_PIPE_EXIT,
    InputError,
    MissingFileError,
    UserError,
    debug_option,
    debugging,
    run_guarded,
    user_message,
)


class TwoWordsError(UserError):
    """Cannot be made of a message alone."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """The error as it is caught."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def of_the_system(call: Callable[[], object]) -> BaseException:
    """What the system says of a call that must fail."""
    try:
        call()
    except OSError as error:
        return error
    raise AssertionError("nothing was refused")


def test_user_errors() -> None:
    assert user_message(InputError("a.yaml: key 'x':\n  found 1")) == "a.yaml: key 'x': found 1"
    assert user_message(MissingFileError("a.yaml: no such file")) == "a.yaml: no such file"
    assert issubclass(InputError, ValueError)
    assert issubclass(MissingFileError, FileNotFoundError)


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), FileNotFoundError("x"), RuntimeError("x"), KeyError("x"), TypeError("x"), OSError("x"), AssertionError()],
)
def test_bugs(error: Exception) -> None:
    assert user_message(error) is None


def test_paths_that_the_system_refuses(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    file.touch()
    assert user_message(of_the_system((tmp_path / "none").read_text)) == f"{tmp_path}/none: no such file"
    assert user_message(of_the_system(folder.read_text)) == f"{folder}: is a directory"
    assert user_message(of_the_system((file / "x").read_text)) == f"{file}/x: not a directory"
    assert user_message(of_the_system(folder.mkdir)) == f"{folder}: file exists"
    assert user_message(of_the_system(lambda: (tmp_path / "no").rename(file))) == f"{tmp_path}/no -> {file}: no such file"


def test_refusals_that_name_no_path_are_bugs() -> None:
    """A process or a socket of ours, not a file of the user's."""
    assert user_message(PermissionError(errno.EPERM, os.strerror(errno.EPERM))) is None
    assert user_message(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))) is None


def test_a_full_disk_is_the_users_wherever_it_comes_up() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/y")
    message = "cannot write: No space left on device (/x/y); make room, then run the same command again"
    assert user_message(full) == message
    assert user_message(raised(RuntimeError("torn"), full)) == message
    assert "No space left" in str(user_message(RuntimeError("I/O error: No space left on device (os error 28)")))
    assert "ulimit -n" in str(user_message(OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/x")))


def test_a_user_error_keeps_its_words() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert user_message(raised(UserError("the store is full: 3 images are not in it"), full)) == (
        "the store is full: 3 images are not in it"
    )


def test_errors_of_other_libraries() -> None:
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from wandb.errors import AuthenticationError, CommError, Error, UsageError

    assert user_message(MisconfigurationException("no such device")) == "no such device"
    assert user_message(UsageError("no key")) == "no key"
    assert str(user_message(CommError("timed out"))).startswith("W&B does not answer (WANDB_MODE=offline")
    assert user_message(AuthenticationError("bad key")) == "bad key"
    assert user_message(Error("something else")) is None
    import torch

    assert "smaller batch" in str(user_message(torch.OutOfMemoryError("tried to allocate 2 GiB")))


def test_settings_that_lightning_refuses() -> None:
    from lightning.pytorch import Trainer

    with pytest.raises(ValueError, match="accelerator") as caught:
        Trainer(accelerator="abacus", logger=False)
    assert "abacus" in str(user_message(caught.value))


def test_a_class_of_the_same_name_is_not_theirs() -> None:
    assert user_message(type("UsageError", (Exception,), {})("x")) is None


# From other processes


class Rows:
    """A data set that fails as it is told to.

    Args:
        what: is raised.
    """

    def __init__(self, what: str) -> None:
        self.what = what

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        match self.what:
            case "input":
                raise InputError("a.tar: record 3:\n  no image")
            case "two words":
                raise TwoWordsError("two", "words")
            case "missing":
                Path("/nowhere/a.tar").read_bytes()
            case "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/y")
            case "caused":
                try:
                    [][index]
                except IndexError as error:
                    raise InputError("a.tar: is empty") from error
            case _:
                list(zip([1], [], strict=True))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("input", "a.tar: record 3: no image"),
        ("two words", "two words"),
        ("missing", "/nowhere/a.tar: no such file"),
        ("full", "cannot write: No space left on device (/x/y); make room, then run the same command again"),
        ("caused", "a.tar: is empty"),
        ("bug", None),
    ],
)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_through_a_worker_of_a_data_loader(what: str, message: str | None, method: str) -> None:
    from torch.utils.data import DataLoader

    if method == "spawn" and what != "two words":
        pytest.skip("a new interpreter takes ten seconds; one is enough")
    with pytest.raises(Exception, match="Traceback") as caught:
        list(DataLoader(Rows(what), num_workers=1, multiprocessing_context=method))  # type: ignore[arg-type]
    assert user_message(caught.value) == message


def failing(rank: int) -> None:
    """For `torch.multiprocessing`."""
    raise InputError(f"rank {rank}: a.yaml: no such key")


def test_through_a_spawned_process() -> None:
    import traceback

    from torch.multiprocessing.spawn import ProcessRaisedException

    try:
        failing(0)
    except InputError:
        text = traceback.format_exc()
    error = ProcessRaisedException(f"\n\n-- Process 0 terminated with the following error:\n{text}", 0, 1)
    assert user_message(error) == "rank 0: a.yaml: no such key"
    assert pickle.loads(pickle.dumps(InputError("x"))).args == ("x",)


# What is printed


def guarded(error: BaseException) -> int:
    """Exit code of a command that raises this."""

    def body() -> int:
        raise error

    return run_guarded(body, ["emo", "eval", "a b"], "stage 's': ")


def test_what_the_user_can_mend_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(InputError("a: no b")) == 2
    assert capsys.readouterr().err == "error: stage 's': a: no b\n"


@pytest.mark.parametrize("value", ["1", "yes"])
def test_emo_debug_shows_its_traceback_as_well(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EMO_DEBUG", value)
    assert guarded(InputError("a: no b")) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback (most recent call last)")
    assert error.endswith("error: stage 's': a: no b\n")


@pytest.mark.parametrize("value", ["", "0"])
def test_emo_debug_is_off(value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EMO_DEBUG", value)
    assert guarded(InputError("a: no b")) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_says_how_to_report_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(RuntimeError("oh")) == 1
    error = capsys.readouterr().err
    assert "in body\n    raise error\nRuntimeError: oh\n" in error
    last = error.splitlines()[-1]
    assert last.startswith("error: stage 's': this is a bug in emo-lightning, not a mistake of yours: please report it")
    assert "the version (emo-lightning 0." in last
    assert last.endswith("the command: emo eval 'a b'")


def test_an_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "\ninterrupted; the same command goes on from what is finished\n"


def test_a_reader_that_has_gone_is_no_error() -> None:
    code = (
        "from emo_lightning.core.errors import run_guarded\n"
        "def body():\n"
        "    while True: print('x' * 1000)\n"
        "raise SystemExit(run_guarded(body, ['emo']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(60) == BROKEN_PIPE_EXIT


@pytest.mark.parametrize("body", ["print('x')", "print('x'); raise SystemExit(0)", "print('x'); raise UserError('no')"])
def test_output_that_cannot_be_written_shows_before_python_ends(body: str) -> None:
    code = (
        "from emo_lightning.core.errors import UserError, run_guarded\n"
        f"def body():\n    {body}\n    return 0\n"
        "raise SystemExit(run_guarded(body, ['emo']))"
    )
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    reader, pipe = os.pipe()
    os.close(reader)
    with open("/dev/full", "wb") as full:
        ends = [
            subprocess.run([sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, env=buffered)
            for out in (pipe, full)
        ]
    os.close(pipe)
    if "UserError" in body:
        assert [(end.returncode, end.stderr) for end in ends] == [(2, b"error: no\n")] * 2
    else:
        assert [end.returncode for end in ends] == [BROKEN_PIPE_EXIT, 2]
        assert ends[0].stderr == b""
        assert ends[1].stderr.startswith(b"error: cannot write: No space left on device")


def test_a_pipe_of_ours_that_breaks_is_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))) == 1
    assert "BrokenPipeError" in capsys.readouterr().err


def test_debug_holds_as_long_as_the_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMO_DEBUG", raising=False)
    with debug_option(["run", "a.yaml", "--debug", "--vars.x", "1"]) as words:
        assert words == ["run", "a.yaml", "--vars.x", "1"]
        assert debugging()
    assert not debugging()
    with debug_option(["run", "a.yaml"]):
        assert not debugging()
