"""Images that stay in their files, against `medseg.read` of the same file, and against tifffile and zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

import medseg
from medseg import Refused
from medseg.io import find_images, lazy, open_lazy, stem_of

KEYS = [
    (slice(None), slice(None), slice(None)),
    (slice(None), slice(5, 41), slice(60, 131)),
    (slice(0, 1), slice(3, None, 7), slice(None, None, 5)),
    (slice(None), slice(None), slice(100, 20, 1)),
    (slice(None), slice(-9, None), slice(-1, None)),
]


def pixels(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return rng.random(shape) < 0.5
    values = rng.random(shape) if kind.kind == "f" else rng.integers(0, 200, shape)
    return values.astype(kind)


def same_as_read(path: Path, keys: list[tuple[slice, ...]] | None = None) -> lazy.LazyImage:
    whole = medseg.read(path)
    with open_lazy(path) as image:
        assert image.shape == tuple(whole.shape)
        assert str(image.dtype) == str(whole.numpy().dtype)
        assert str(image.stored_dtype) == whole.meta["original_dtype"]
        assert image.unit == whole.meta["spacing_unit"]
        np.testing.assert_array_equal(image.affine, whole.affine)
        for key in keys or KEYS:
            part = image[key]
            np.testing.assert_array_equal(part, whole.numpy()[key])
            assert part.dtype == image.dtype
        assert image.nbytes == whole.numpy().nbytes
    return image


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rowsperstrip": 13},
        {"compression": "zlib", "rowsperstrip": 13},
        {"compression": "zstd", "tile": (32, 48), "predictor": True},
        {"tile": (16, 64)},
        {"byteorder": ">"},
        {"byteorder": ">", "compression": "lzw", "tile": (32, 32)},
        {"bigtiff": True, "rowsperstrip": 1000},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_a_plane_in_any_layout(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels((61, 131), dtype), **options)
    same_as_read(tmp_path / "a.tif")


@pytest.mark.parametrize(
    "options", [{}, {"compression": "deflate", "tile": (32, 32)}], ids=["plain", "tiled"]
)
@pytest.mark.parametrize(
    ("shape", "about"),
    [
        ((61, 131, 3), {"photometric": "rgb"}),
        ((61, 131, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        ((3, 61, 131), {"photometric": "rgb", "planarconfig": "separate"}),
        ((4, 61, 131), {"ome": True, "metadata": {"axes": "CYX"}}),
        ((2, 61, 131), {"imagej": True, "metadata": {"axes": "CYX"}}),
        ((61, 131, 5), {"planarconfig": "contig", "photometric": "minisblack"}),
    ],
    ids=["rgb", "rgba", "planar", "ome channels", "imagej channels", "samples"],
)
def test_channels_wherever_they_are(
    tmp_path: Path, shape: tuple[int, ...], about: dict[str, Any], options: dict[str, Any]
) -> None:
    if "imagej" in about and options:
        options = {"compression": "deflate"}
    tifffile.imwrite(tmp_path / "a.tif", pixels(shape, "uint8"), **about, **options)
    same_as_read(tmp_path / "a.tif")


@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "tile": (16, 16)}], ids=["plain", "tiled"])
@pytest.mark.parametrize("axes", ["ZYX", "CZYX", "ZCYX"])
def test_planes_and_channels_of_a_volume(tmp_path: Path, axes: str, options: dict[str, Any]) -> None:
    sizes = {"C": 2, "Z": 5, "Y": 23, "X": 37}
    size = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0}
    array = pixels(tuple(sizes[a] for a in axes), "uint16")
    tifffile.imwrite(tmp_path / "a.ome.tif", array, ome=True, metadata={"axes": axes, **size}, **options)
    keys = [
        (slice(None),) * 4,
        (slice(None), slice(1, 4), slice(7, 20), slice(30, 37)),
        (slice(0, 1), slice(None, None, 2), slice(None, None, 3), slice(1, None, 4)),
    ]
    image = same_as_read(tmp_path / "a.ome.tif", keys)
    assert image.unit == "um"


def test_a_palette_becomes_colours(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 2**16, (3, 256), dtype=np.uint16)
    index = pixels((61, 131), "uint8")
    tifffile.imwrite(tmp_path / "a.tif", index, photometric="palette", colormap=colours)
    same_as_read(tmp_path / "a.tif")


def test_the_largest_level_of_a_pyramid_is_the_image(tmp_path: Path) -> None:
    array = pixels((128, 160), "uint8")
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tiff:
        tiff.write(array, subifds=1, tile=(32, 32), compression="zlib")
        tiff.write(array[::2, ::2], subfiletype=1, tile=(32, 32), compression="zlib")
    same_as_read(tmp_path / "a.ome.tif")


def test_bits_and_jpeg_are_decoded(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "bits.tif", pixels((61, 131), "bool"))
    same_as_read(tmp_path / "bits.tif")
    colour = pixels((64, 144, 3), "uint8")
    tifffile.imwrite(tmp_path / "a.tif", colour, photometric="rgb", compression="jpeg", tile=(32, 48))
    same_as_read(tmp_path / "a.tif")


def test_a_part_reads_only_its_tiles(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels((640, 960), "uint8"), tile=(64, 96), compression="zlib")
    with open_lazy(tmp_path / "a.tif") as image:
        image[:, 70:120, 200:280]
        assert len(image.stored.recent) == 1  # type: ignore[attr-defined]
        image[:, 120:130, 280:300]
        assert len(image.stored.recent) == 4  # type: ignore[attr-defined]


def test_bands_are_small_and_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = pixels((200, 300), "uint8")
    tifffile.imwrite(tmp_path / "a.tif", array, compression="zlib", rowsperstrip=10)
    monkeypatch.setattr(lazy, "_BAND", 2000)
    asked = []
    with open_lazy(tmp_path / "a.tif") as image:
        raw = type(image).raw
        monkeypatch.setattr(type(image), "raw", lambda *a: (out := raw(*a), asked.append(out.nbytes))[0])
        np.testing.assert_array_equal(image[:, ::3, 1::4], array[None, ::3, 1::4])
        assert len(asked) > 10
        assert max(asked) <= 2000


def test_channels_may_be_picked_and_repeated(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", colour := pixels((20, 30, 3), "uint8"), photometric="rgb")
    with open_lazy(tmp_path / "a.tif") as image:
        np.testing.assert_array_equal(
            image.with_channels([2, 2, 0])[:, 3:9], colour[3:9, :, [2, 2, 0]].transpose(2, 0, 1)
        )
        assert image.with_channels([1]).shape == (1, 20, 30)
        assert image.with_channels([1, 1, 1]).nbytes == 20 * 30


# zarr


def ome_group(path: Path, array: np.ndarray, axes: str, version: str, unit: str = "micrometer") -> None:
    group = zarr.create_group(path, zarr_format=2 if version == "0.4" else 3)
    described = [
        {"name": a.lower(), "type": "channel"}
        if a == "C"
        else {"name": a.lower(), "type": "space", "unit": unit}
        for a in axes
    ]
    scale = [1.0 if a == "C" else {"Z": 2.0, "Y": 0.5, "X": 0.25}[a] for a in axes]
    transform = [{"type": "scale", "scale": scale}]
    multiscales = [{"axes": described, "datasets": [{"path": "0", "coordinateTransformations": transform}]}]
    held = group.create_array(
        "0", shape=array.shape, dtype=array.dtype, chunks=tuple(min(n, 16) for n in array.shape)
    )
    held[...] = array
    about = {"version": version, "multiscales": multiscales}
    group.attrs.update({"multiscales": multiscales} if version == "0.4" else {"ome": about})


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("axes", "shape"), [("YX", (61, 131)), ("CYX", (3, 61, 131)), ("CZYX", (2, 5, 21, 33))]
)
def test_ome_zarr_of_both_versions(tmp_path: Path, version: str, axes: str, shape: tuple[int, ...]) -> None:
    array = pixels(shape, "uint16")
    ome_group(tmp_path / "a.ome.zarr", array, axes, version)
    keys = (
        KEYS
        if len(axes) < 4
        else [(slice(None),) * 4, (slice(1, 2), slice(0, 5, 2), slice(3, 9), slice(20, 31))]
    )
    image = same_as_read(tmp_path / "a.ome.zarr", keys)
    np.testing.assert_array_equal(medseg.read(tmp_path / "a.ome.zarr"), array if "C" in axes else array[None])
    assert image.unit == "um"
    size = [2.0, 0.5, 0.25][-(len(image.shape) - 1) :]
    np.testing.assert_allclose(np.linalg.norm(image.affine[:3, : len(size)], axis=0), size)


@pytest.mark.parametrize("version", [2, 3])
def test_plain_zarr_arrays(tmp_path: Path, version: int) -> None:
    colour = pixels((61, 131, 3), "uint8")
    zarr.save_array(tmp_path / "c.zarr", colour, zarr_format=version)
    np.testing.assert_array_equal(medseg.read(tmp_path / "c.zarr"), colour.transpose(2, 0, 1))
    zarr.save_array(tmp_path / "g.zarr", colour[..., 0].astype(">u2"), zarr_format=version)
    same_as_read(tmp_path / "g.zarr")
    same_as_read(tmp_path / "c.zarr")
    assert [stem_of(p) for p in find_images(tmp_path)] == ["c", "g"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: p.mkdir(), "unreadable"),
        (lambda p: zarr.create_group(p), "unreadable"),
        (lambda p: zarr.create_group(p, attributes={"ome": {"plate": {}}}), "several-series"),
        (lambda p: zarr.save_array(p, np.zeros((2, 3, 4, 5, 6))), "too-many-dimensions"),
        (lambda p: zarr.save_array(p, np.zeros(7)), "too-few-dimensions"),
        (lambda p: zarr.save_array(p, np.zeros((0, 7))), "empty-image"),
        (lambda p: zarr.save_array(p, np.zeros((3, 7), complex)), "pixel-type"),
    ],
)
def test_zarr_that_is_no_image_is_refused(tmp_path: Path, make: Any, reason: str) -> None:
    make(tmp_path / "a.zarr")
    for call in (open_lazy, medseg.read):
        with pytest.raises(Refused) as error:
            call(tmp_path / "a.zarr")
        assert error.value.reason == reason


# refusals


def test_broken_files_are_refused_as_by_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for options in ({}, {"compression": "zlib", "tile": (32, 32)}):
        tifffile.imwrite(path, pixels((200, 300), "uint8"), **options)
        path.write_bytes(path.read_bytes()[:-3000] if not options else path.read_bytes()[:10_000])
        for call in (open_lazy, medseg.read):
            with pytest.raises(Refused) as error:
                call(path)
            assert error.value.reason == "unreadable"


def test_a_spoilt_tile_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels((64, 64), "uint8"), compression="zlib", tile=(32, 32))
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[0].dataoffsets[3]
    content = bytearray(path.read_bytes())
    content[place : place + 50] = bytes(50)
    path.write_bytes(bytes(content))
    with open_lazy(path) as image:
        image[:, :32, :32]
        with pytest.raises(Refused) as error:
            image[:, 32:, 32:]
    assert error.value.reason == "unreadable"


def test_formats_that_are_read_whole_say_so(tmp_path: Path) -> None:
    path = medseg.write(np.zeros((4, 5), np.uint8), tmp_path / "a.png")
    with pytest.raises(Refused) as error:
        open_lazy(path)
    assert error.value.reason == "not-lazy"


def test_floats_are_searched_for_what_is_not_finite(tmp_path: Path) -> None:
    array = pixels((40, 50), "float32")
    tifffile.imwrite(tmp_path / "a.tif", array)
    with open_lazy(tmp_path / "a.tif") as image:
        image.check_finite()
    array[31, 7] = np.nan
    tifffile.imwrite(tmp_path / "b.tif", array)
    with open_lazy(tmp_path / "b.tif") as image, pytest.raises(Refused) as error:
        image.check_finite()
    assert error.value.reason == "non-finite"
    assert "(31, 7)" in str(error.value)


@pytest.mark.parametrize("key", [0, (slice(None), slice(None, None, -1)), (0, slice(None), slice(None))])
def test_only_slices_that_go_forward(tmp_path: Path, key: Any) -> None:
    path = medseg.write(np.zeros((4, 5), np.uint8), tmp_path / "a.tif")
    with open_lazy(path) as image, pytest.raises(Refused):
        image[key]
