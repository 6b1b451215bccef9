"""Arrays whose header claims what does not follow."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from emo_lightning.core.arrays import read_npy, read_npz
from emo_lightning.core.errors import InputError
from emo_lightning.core.files import write_npz


def npy(array: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array))
    return buffer.getvalue()


def with_header(text: str, data: bytes = bytes(24)) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


@pytest.mark.parametrize("array", [[1.5, 2.5], np.asfortranarray(np.arange(6).reshape(2, 3)), 3.0, [], ["a", "bc"]])
def test_what_numpy_writes_is_read(array: object) -> None:
    found = read_npy(npy(array), "here")
    assert found.dtype == np.asarray(array).dtype
    assert np.array_equal(found, np.asarray(array))


@pytest.mark.parametrize(
    "data",
    [
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 0)}"),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-6, -1)}"),
        with_header("{'descr': '<V1000000000', 'fortran_order': False, 'shape': (1,)}"),
        with_header("{'descr': '|O', 'fortran_order': False, 'shape': (3,)}"),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 6)}"[:40]),
        with_header("(" * 9000),
        b"\x93NUMPY\x09\x00" + bytes(40),
        npy([1.0, 2.0])[:-3],
        npy([1.0, 2.0]) + b"more",
        b"",
        b"\x93NUMPY",
    ],
)
def test_what_does_not_hold_what_it_says_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^here: not an \.npy array"):
        read_npy(data, "here")


def test_an_archive_of_arrays(tmp_path: Path) -> None:
    path = tmp_path / "mds.npz"
    write_npz(path, {"a": np.arange(3), "b": np.array(["x"])})
    assert {name: array.tolist() for name, array in read_npz(path).items()} == {"a": [0, 1, 2], "b": ["x"]}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(InputError, match=r"mds\.npz: unpacks to 314,572,800 bytes"):
        read_npz(path)
    path.write_bytes(b"PK not this")
    with pytest.raises(InputError, match=r"mds\.npz: not an \.npz file"):
        read_npz(path)
