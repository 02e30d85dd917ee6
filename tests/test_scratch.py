"""Arrays in files, against arrays in memory."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest

from medseg import Refused
from medseg.scratch import DiskArray, boxes, scratch_file, window_of

WINDOWS = [
    (slice(None), slice(None), slice(None)),
    (slice(1, 3), slice(2, 5), slice(0, 7)),
    (slice(1, 3), slice(0, 6), slice(1, 7)),
    (slice(0, 4), slice(2, 2), slice(0, 7)),
    (slice(3, 4), slice(5, 6), slice(6, 7)),
    (slice(-2, 99), slice(-1, None), slice(None, -3)),
]


@pytest.mark.parametrize("dtype", ["uint8", ">u2", "<i4", ">f8"])
@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_is_that_of_the_array(tmp_path: Path, dtype: str, window: tuple[slice, ...]) -> None:
    array = np.arange(4 * 6 * 7).reshape(4, 6, 7).astype(dtype)
    path = tmp_path / "raw"
    path.write_bytes(b"head" + array.tobytes())
    with path.open("rb+", buffering=0) as file:
        held = DiskArray(file, array.shape, dtype, offset=4)  # type: ignore[arg-type]
        np.testing.assert_array_equal(held[window], array[window])
        assert held[window].dtype.isnative
        held[window] = -array[window] if dtype != "uint8" else array[window] + 1
        array[window] = -array[window] if dtype != "uint8" else array[window] + 1
        np.testing.assert_array_equal(held[:, :, :], array)
    assert path.read_bytes()[:4] == b"head"


def test_a_file_that_ends_early_is_refused() -> None:
    file = io.BytesIO(b"abc")
    file.name = "short"
    with pytest.raises(Refused) as error:
        DiskArray(file, (2, 2), "uint8")[:]
    assert error.value.reason == "unreadable"


def test_a_part_of_another_size_is_refused(tmp_path: Path) -> None:
    with scratch_file(tmp_path) as file:
        with pytest.raises(Refused) as error:
            DiskArray(file, (3, 3), "uint8")[0:2, 0:2] = np.zeros((2, 3))
        assert error.value.reason == "shape-mismatch"


@pytest.mark.parametrize("key", [0, (slice(None, None, 2),), (slice(None), 1)])
def test_only_windows_are_read(key: object) -> None:
    with pytest.raises(Refused):
        window_of(key, (4, 4))


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 5), (1, 1), (5, 1, 4)])
@pytest.mark.parametrize("most", [1, 3, 4, 16, 10**9])
def test_boxes_cover_an_array_once_in_the_order_of_a_scan(shape: tuple[int, ...], most: int) -> None:
    index = np.arange(math.prod(shape)).reshape(shape)
    found = [index[box].ravel() for box in boxes(shape, most)]
    assert max(map(len, found)) <= most
    np.testing.assert_array_equal(np.concatenate(found), index.ravel())


def test_a_scratch_file_has_no_name_and_leaves_nothing(tmp_path: Path) -> None:
    with scratch_file(tmp_path / "new") as file:
        DiskArray(file, (2, 3), "int32")[:] = np.ones((2, 3))
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(Refused) as error:
        scratch_file(tmp_path / "file")
    assert error.value.reason == "unwritable"
