"""Maps written part by part, against tifffile, zarr and `medseg.read`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

import medseg
from medseg import Refused
from medseg.io import blocks, raster_affine, write_blocks
from medseg.scratch import Window


def ids(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**20, shape).astype(np.int32)


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".zarr", ".ome.zarr"])
@pytest.mark.parametrize(("shape", "unit"), [((700, 1100), "um"), ((3, 520, 40), "um"), ((5, 7), "pixel")])
def test_what_is_written_is_held(tmp_path: Path, suffix: str, shape: tuple[int, ...], unit: str) -> None:
    array, size = ids(shape), (2.0, 0.5, 0.25)[-len(shape) :]
    affine = raster_affine(size) if unit == "um" else np.eye(4)
    done: list[tuple[int, int]] = []
    path = write_blocks(
        tmp_path / f"new/a{suffix}",
        lambda window: array[window],
        shape,
        np.int32,
        affine=affine,
        unit=unit,
        progress=lambda *counts: done.append(counts),
    )
    held = medseg.read(path)
    assert held.meta["original_dtype"] == "int32"
    assert held.meta["spacing_unit"] == unit
    np.testing.assert_array_equal(held.numpy()[0], array)
    if unit == "um":
        np.testing.assert_allclose(held.affine, affine)
    assert done[-1][0] == done[-1][1]
    assert [d for d, _ in done] == sorted(d for d, _ in done)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_tiff_is_tiled_compressed_and_big_only_where_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def part(window: Window) -> np.ndarray:
        return np.full([s.stop - s.start for s in window], 3, np.int32)

    for limit, big in ((2**31, False), (1000, True)):
        monkeypatch.setattr(blocks, "_BIG", limit)
        path = write_blocks(tmp_path / "a.tif", part, (600, 900), "int32", affine=np.eye(4), unit="pixel")
        with tifffile.TiffFile(path) as tiff:
            assert tiff.is_bigtiff is big
            assert tiff.pages[0].tile == (512, 512)
            np.testing.assert_array_equal(tiff.asarray(), np.full((600, 900), 3))
        assert path.stat().st_size < 600 * 900


def test_the_zarr_is_an_ome_label_image(tmp_path: Path) -> None:
    array = ids((1100, 40))
    path = write_blocks(
        tmp_path / "a.zarr",
        lambda w: array[w],
        array.shape,
        "int32",
        affine=raster_affine((0.5, 0.25)),
        unit="um",
    )
    group = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == 3
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5"
    assert "image-label" in ome
    (scale,) = ome["multiscales"]
    assert scale["axes"] == [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
    assert scale["datasets"] == [
        {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.25]}]}
    ]
    assert group["0"].metadata.dimension_names == ("y", "x")
    np.testing.assert_array_equal(group["0"][:], array)


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_a_file_that_does_not_hold_what_was_sent_leaves_the_older_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    array = ids((600, 30))
    write_blocks(path, lambda w: array[w], array.shape, "int32", affine=np.eye(4), unit="pixel")
    calls = 0

    def changing(window: Window) -> np.ndarray:
        nonlocal calls
        calls += 1
        return array[window] + (calls == 2)

    with pytest.raises(Refused) as error:
        write_blocks(path, changing, array.shape, "int32", affine=np.eye(4), unit="pixel")
    assert error.value.reason == "not-read-back"
    np.testing.assert_array_equal(medseg.read(path)[0], array)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def broken(window: Window) -> np.ndarray:
        raise Refused("unreadable", "gone")

    for suffix in (".tif", ".zarr"):
        with pytest.raises(Refused):
            write_blocks(tmp_path / f"a{suffix}", broken, (5, 7), "uint8", affine=np.eye(4), unit="pixel")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "affine", "shape", "reason"),
    [
        ("a.png", np.eye(4), (5, 7), "not-written"),
        ("a.dat", np.eye(4), (5, 7), "unknown-suffix"),
        ("a.tif", np.diag([2.0, 3.0, 1.0, 1.0]), (5, 7), "affine-not-held"),
        ("a.zarr", np.diag([2.0, 3.0, 1.0, 1.0]), (5, 7), "affine-not-held"),
        ("a.tif", np.eye(4), (1, 5, 7), "too-many-dimensions"),
        ("folder/a.tif", raster_affine((1, 1)), (5, 7), "unwritable"),
        ("folder/a.zarr", raster_affine((1, 1)), (5, 7), "unwritable"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, name: str, affine: np.ndarray, shape: tuple[int, ...], reason: str
) -> None:
    (tmp_path / "folder").touch()
    with pytest.raises(Refused) as error:
        write_blocks(tmp_path / name, lambda w: ids(shape)[w], shape, "int32", affine=affine, unit="um")
    assert error.value.reason == reason
