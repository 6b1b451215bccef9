"""What .npy and .npz files claim is held against their bytes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from emo_lightning.core.arrays import parse_npy, read_npz
from emo_lightning.core.errors import InputError, MissingFileError


def npy(array: NDArray[np.generic], **options: bool) -> bytes:
    """The array as a file."""
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def claiming(header: str) -> bytes:
    """An .npy with this header and eight bytes."""
    body = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body + bytes(8)


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.ones((2, 3), "f4")), np.array(["a", "bc"]), np.zeros(0), np.array(1)],
)
def test_arrays_come_through(array: NDArray[np.generic]) -> None:
    found = parse_npy(npy(array), "a.npy")
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04",
        claiming("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}"),
        claiming("{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}"),
        claiming("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}"),
        claiming("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
        claiming("{'descr': '|V0', 'fortran_order': False, 'shape': (9999999999,)}"),
        claiming("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "9" * 40 + ",)}"),
        claiming("(" * 100),
        claiming("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,)}"),
        npy(np.array([{}], dtype=object), allow_pickle=True),
        npy(np.zeros(3))[:-1],
    ],
)
def test_no_claim_is_believed(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^a\.npy: not an \.npy array"):
        parse_npy(data, "a.npy")


def test_an_npz_is_counted_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(3), y=np.array(["a"]))
    assert {name: array.tolist() for name, array in read_npz(path).items()} == {"x": [0, 1, 2], "y": ["a"]}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w", force_zip64=True) as member:
        for _ in range(257):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(InputError, match=r"a\.npz: 269,484,032 bytes when it is unpacked"):
        read_npz(path)
    path.write_bytes(b"PK\x05\x06" + bytes(10))
    with pytest.raises(InputError, match=r"a\.npz: not an \.npz file"):
        read_npz(path)
    with pytest.raises(MissingFileError):
        read_npz(tmp_path / "b.npz")
