"""Images and labels in and out, compared with Pillow, tifffile, nibabel, SimpleITK and hand-made numbers."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import skimage.io
import tifffile
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImaged
from PIL import Image

import medseg
from medseg import Refused
from medseg.io import (
    LabelReader,
    RasterReader,
    SimpleITKReader,
    find_images,
    image_info,
    raster_affine,
    read_label,
    stem_of,
    suffix_of,
)

OBLIQUE = np.array(
    [[0.7, -0.3, 0.2, -12.5], [0.28, 0.74, -0.1, 31.0], [-0.05, 0.11, 2.4, 7.25], [0, 0, 0, 1]]
)


def reason(action: object, *args: object, **kwargs: object) -> str:
    with pytest.raises(Refused) as caught:
        action(*args, **kwargs)  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    return caught.value.reason


def rotation(*, spacing: tuple[float, float, float], origin: tuple[float, float, float]) -> np.ndarray:
    """An affine whose axes are orthogonal, permuted and turned: what ITK can hold."""
    c, s = np.cos(0.4), np.sin(0.4)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, c, -s], [0, s, c], [1, 0, 0]]) * spacing
    affine[:3, 3] = origin
    return affine


def volume(array: np.ndarray, affine: np.ndarray, unit: str = "mm") -> MetaTensor:
    return MetaTensor(torch.as_tensor(array), affine=torch.as_tensor(affine), meta={"spacing_unit": unit})


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_raster_axes_are_those_of_scikit_image(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    pixels = rng.integers(0, 256, (5, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    image = medseg.read(tmp_path / f"a{suffix}")
    assert image.shape == (3, 5, 9)
    assert np.array_equal(np.moveaxis(image.numpy(), 0, -1), skimage.io.imread(tmp_path / f"a{suffix}"))
    assert image.meta["spacing_unit"] == "pixel"
    assert image.affine.dtype == torch.float64
    assert np.allclose(image.affine.numpy() @ [2, 7, 0, 1], [7, 2, 0, 1])  # row 2, column 7 is x 7, y 2
    assert image.meta["filename_or_obj"] == str(tmp_path / f"a{suffix}")


def test_the_reader_serves_in_monai_with_and_without_channel_first(tmp_path: Path) -> None:
    skimage.io.imsave(tmp_path / "a.png", np.arange(20, dtype=np.uint8).reshape(4, 5), check_contrast=False)
    for first in (True, False):
        load = LoadImaged(["image"], reader=RasterReader(), ensure_channel_first=first)
        image = load({"image": tmp_path / "a.png"})["image"]
        assert image.shape == (1, 4, 5)
        assert image[0, 1, 0] == 5


def test_a_refusal_is_not_answered_by_another_reader(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[1, np.nan, 2]], np.float32))
    load = LoadImaged(["image"], reader=RasterReader())
    assert reason(load, {"image": tmp_path / "a.tif"}) == "non-finite"


def test_several_files_become_channels_in_monai(tmp_path: Path) -> None:
    for i in range(2):
        Image.fromarray(np.full((3, 4), i, np.uint8)).save(tmp_path / f"{i}.png")
    Image.fromarray(np.zeros((4, 3), np.uint8)).save(tmp_path / "turned.png")
    load = LoadImaged(["image"], reader=RasterReader())
    image = load({"image": [tmp_path / "0.png", tmp_path / "1.png"]})["image"]
    assert image.shape == (2, 3, 4)
    assert image.amax((1, 2)).tolist() == [0, 1]
    assert reason(load, {"image": [tmp_path / "0.png", tmp_path / "turned.png"]}) == "shape-mismatch"


def test_alpha_is_dropped_and_told_when_it_says_something(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    rgba = rng.integers(0, 256, (4, 6, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    Image.fromarray(rgba[..., :2], "LA").save(tmp_path / "la.png")
    with caplog.at_level(logging.INFO, "medseg"):
        for name in ("a.png", "a.tif"):
            assert np.array_equal(np.moveaxis(medseg.read(tmp_path / name).numpy(), 0, -1), rgba[..., :3])
        assert np.array_equal(medseg.read(tmp_path / "la.png")[0].numpy(), rgba[..., 0])
    assert sum("alpha" in r.message for r in caplog.records) == 3
    caplog.clear()
    rgba[..., 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    with caplog.at_level(logging.INFO, "medseg"):
        medseg.read(tmp_path / "a.png")
    assert not caplog.records


def test_a_palette_is_colour_in_an_image_and_index_in_a_label(tmp_path: Path) -> None:
    index = np.array([[0, 1, 2, 1], [2, 0, 0, 1]], np.uint8)
    colours = np.zeros((256, 3), np.uint8)
    colours[:3] = [(10, 20, 30), (200, 0, 0), (0, 99, 255)]
    image = Image.fromarray(index, "P")
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "a.png")
    tifffile.imwrite(
        tmp_path / "a.tif", index, photometric="palette", colormap=colours.T.astype(np.uint16) * 257
    )
    for name in ("a.png", "a.tif"):
        assert np.array_equal(np.moveaxis(medseg.read(tmp_path / name).numpy(), 0, -1), colours[index])
        assert np.array_equal(read_label(tmp_path / name)[0].numpy(), index)


def test_one_and_four_bit_greys(tmp_path: Path) -> None:
    bits = np.array([[0, 1, 1], [1, 0, 0]], bool)
    Image.fromarray(bits).save(tmp_path / "one.png")
    assert np.array_equal(medseg.read(tmp_path / "one.png")[0].numpy(), bits)
    # a PNG of four bits by hand: width 2, height 1, one byte of pixels 0x35 after the filter byte
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 1, 4, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\x00\x35")) + chunk(b"IEND", b"")
    (tmp_path / "four.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert medseg.read(tmp_path / "four.png")[0].tolist() == [[3 * 17, 5 * 17]]
    assert read_label(tmp_path / "four.png")[0].tolist() == [[3, 5]]


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_kept(tmp_path: Path, rng: np.random.Generator, channels: int) -> None:
    pixels = rng.integers(0, 65536, (channels, 5, 7)).astype(np.uint16)
    path = medseg.write(MetaTensor(torch.as_tensor(pixels.astype(np.int32))), tmp_path / "a.png")
    image = medseg.read(path)
    assert image.dtype == torch.int32
    assert image.meta["original_dtype"] == "uint16"
    assert np.array_equal(image.numpy(), pixels)
    assert SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).max() == pixels.max()


@pytest.mark.parametrize(
    ("stored", "held"),
    [
        (">u2", torch.int32),
        (">i2", torch.int16),
        ("u4", torch.int64),
        (">f4", torch.float32),
        ("f8", torch.float64),
        ("f2", torch.float32),
        ("i1", torch.int8),
    ],
)
def test_pixel_types_keep_their_values(tmp_path: Path, stored: str, held: torch.dtype) -> None:
    pixels = (np.arange(12).reshape(3, 4) * 9).astype(stored)
    tifffile.imwrite(tmp_path / "a.tif", pixels, byteorder=">" if stored[0] == ">" else "<")
    image = medseg.read(tmp_path / "a.tif")
    assert image.dtype == held
    assert np.array_equal(image[0].numpy(), pixels)
    assert image.meta["original_dtype"] == np.dtype(stored).newbyteorder("=").name


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 9), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    assert medseg.read(tmp_path / "a.jpg").shape == (1, 4, 9)


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        ("YX", (4, 5), (1, 4, 5)),
        ("ZYX", (3, 4, 5), (1, 3, 4, 5)),
        ("CYX", (2, 4, 5), (2, 4, 5)),
        ("ZCYX", (3, 2, 4, 5), (2, 3, 4, 5)),
        ("CZYX", (2, 3, 4, 5), (2, 3, 4, 5)),
        ("TZCYX", (1, 3, 1, 4, 5), (1, 3, 4, 5)),
    ],
)
def test_planes_and_channels_of_ome_tiff(
    tmp_path: Path, axes: str, shape: tuple[int, ...], expected: tuple
) -> None:
    pixels = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    meta = {"axes": axes, "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5}
    meta |= {"PhysicalSizeZ": 0.002, "PhysicalSizeZUnit": "mm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, metadata=meta, photometric="minisblack")
    image = medseg.read(tmp_path / "a.ome.tif")
    order = [axes.index(a) for a in axes if a in "C" and shape[axes.index(a)] > 1]
    order += [axes.index(a) for a in "ZYX" if a in axes]
    assert np.array_equal(
        image.numpy().squeeze(),
        pixels.transpose(order + [i for i in range(len(axes)) if i not in order]).squeeze(),
    )
    assert image.shape == expected
    assert image.meta["spacing_unit"] == "um"
    planes = len(expected) == 4
    assert np.allclose(image.affine.numpy(), raster_affine((2.0, 0.5, 0.25) if planes else (0.5, 0.25)))


def test_pages_without_names_are_planes_and_time_is_refused(tmp_path: Path) -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    assert np.array_equal(medseg.read(tmp_path / "a.tif")[0].numpy(), pixels)
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:  # pages, and no word on what they are
        for plane in pixels:
            writer.write(plane, contiguous=False, metadata=None)
    assert np.array_equal(medseg.read(tmp_path / "b.tif")[0].numpy(), pixels)
    tifffile.imwrite(tmp_path / "t.ome.tif", pixels, metadata={"axes": "TYX"}, photometric="minisblack")
    assert reason(medseg.read, tmp_path / "t.ome.tif") == "too-many-dimensions"
    with tifffile.TiffWriter(tmp_path / "two.tif") as writer:
        writer.write(pixels[0], metadata=None)
        writer.write(pixels[0, :2], metadata=None)
    assert reason(medseg.read, tmp_path / "two.tif") == "several-series"


@pytest.mark.parametrize(("unit", "um"), [("micron", 1.0), ("nm", 1e-3), ("\\u00B5m", 1.0), ("mm", 1000.0)])
def test_pixel_size_of_imagej(tmp_path: Path, unit: str, um: float) -> None:
    pixels = np.zeros((3, 4, 5), np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        imagej=True,
        resolution=(4.0, 2.0),
        metadata={"axes": "ZYX", "unit": unit, "spacing": 3.0},
    )
    image = medseg.read(tmp_path / "a.tif")
    assert image.meta["spacing_unit"] == "um"
    assert np.allclose(image.affine.numpy(), raster_affine((3 * um, 0.5 * um, 0.25 * um)))


@pytest.mark.parametrize(
    ("unit", "resolution", "size"),
    [
        ("CENTIMETER", (20000, 10000), (1.0, 0.5)),
        ("INCH", (2540, 5080), (5.0, 10.0)),
        ("NONE", (20, 10), None),
        ("INCH", (1, 1), None),
    ],
)
def test_pixel_size_of_plain_tiff(
    tmp_path: Path, unit: str, resolution: tuple[int, int], size: tuple[float, float] | None
) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.zeros((4, 5), np.uint8),
        resolution=resolution,
        resolutionunit=unit,
        metadata=None,
    )
    image = medseg.read(tmp_path / "a.tif")
    assert image.meta["spacing_unit"] == ("um" if size else "pixel")
    assert np.allclose(image.affine.numpy(), raster_affine(size or (1, 1)))


def test_a_volume_with_unknown_depth_has_pixels_as_unit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    meta = {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(
        tmp_path / "a.ome.tif", np.zeros((3, 4, 5), np.uint8), metadata=meta, photometric="minisblack"
    )
    assert medseg.read(tmp_path / "a.ome.tif").meta["spacing_unit"] == "pixel"
    assert "some axes only" in caplog.text


def test_nifti_is_what_nibabel_reads(tmp_path: Path, rng: np.random.Generator) -> None:
    data = rng.integers(-500, 500, (4, 6, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(data, OBLIQUE), tmp_path / "a.nii.gz")
    image = medseg.read(tmp_path / "a.nii.gz")
    assert image.dtype == torch.int16
    assert np.array_equal(image[0].numpy(), data)
    assert np.allclose(image.affine.numpy(), OBLIQUE, atol=1e-5)
    assert image.meta["spacing_unit"] == "mm"
    four = nibabel.Nifti1Image(np.stack([data, data + 1], -1), OBLIQUE)
    four.header.set_xyzt_units("meter")
    nibabel.save(four, tmp_path / "b.nii")
    image = medseg.read(tmp_path / "b.nii")
    assert image.shape == (2, 4, 6, 3)
    assert np.array_equal(image[1].numpy(), data + 1)
    assert np.allclose(image.affine.numpy()[:3], OBLIQUE[:3] * 1000, atol=1e-2)
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2, 2, 2), np.uint8), OBLIQUE), tmp_path / "c.nii")
    assert reason(medseg.read, tmp_path / "c.nii") == "too-many-dimensions"


def test_nifti_with_two_geometries_is_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.diag([2.0, 2, 2, 1]))
    image.set_qform(np.diag([1.0, 1, 3, 1]), code=1)  # sets pixdim too
    image.set_sform(np.diag([2.0, 2, 2, 1]), code=1)
    nibabel.save(image, tmp_path / "a.nii")
    assert reason(medseg.read, tmp_path / "a.nii") == "two-geometries"


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("components", [1, 2])
def test_itk_points_are_those_of_simpleitk(
    tmp_path: Path, rng: np.random.Generator, suffix: str, components: int
) -> None:
    data = rng.integers(0, 1000, (3, 6, 4, components)).astype(np.int16)  # z, y, x, component
    image = SimpleITK.GetImageFromArray(data if components > 1 else data[..., 0], isVector=components > 1)
    image.SetSpacing((0.7, 0.9, 5.0))
    image.SetOrigin((-20.0, 11.0, 4.5))
    image.SetDirection(rotation(spacing=(1, 1, 1), origin=(0, 0, 0))[:3, :3].ravel().tolist())
    SimpleITK.WriteImage(image, str(tmp_path / f"a{suffix}"))
    ours = medseg.read(tmp_path / f"a{suffix}")
    assert ours.shape == (components, 4, 6, 3)
    for index in [(0, 0, 0), (3, 1, 2), (1, 5, 0)]:
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        assert np.allclose(ours.affine.numpy() @ [*index, 1], [-x, -y, z, 1], atol=1e-5)
        assert ours[(slice(None), *index)].tolist() == list(np.atleast_1d(image[index]))
    again = LoadImaged(["a"], reader=SimpleITKReader(), dtype=None)({"a": tmp_path / f"a{suffix}"})["a"]
    assert torch.equal(again.as_tensor(), ours.as_tensor())


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.png", b"", "empty-file"),
        ("a.nii.gz", b"", "empty-file"),
        ("a.png", b"these are words, not pixels", "unreadable"),
        ("a.tif", b"these are words, not pixels", "unreadable"),
        ("a.nii", b"these are words, not pixels", "unreadable"),
        ("a.nii.gz", b"these are words, not pixels", "unreadable"),
        ("a.nrrd", b"these are words, not pixels", "unreadable"),
        ("a.mha", b"these are words, not pixels", "unreadable"),
        ("a.pngg", b"words", "unknown-suffix"),
        ("a", b"words", "unknown-suffix"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, name: str, content: bytes, code: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert reason(medseg.read, tmp_path / name) == code
    assert reason(image_info, tmp_path / name) == code
    assert reason(read_label, tmp_path / name) == code


def test_more_refusals(tmp_path: Path) -> None:
    assert reason(medseg.read, tmp_path / "none.png") == "not-found"
    assert reason(medseg.read, tmp_path) == "is-a-folder"
    assert reason(find_images, tmp_path / "none") == "not-found"
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "real.jpg")
    (tmp_path / "real.jpg").rename(tmp_path / "not.png")
    assert reason(medseg.read, tmp_path / "not.png") == "unreadable"
    Image.new("CMYK", (4, 3)).save(tmp_path / "c.jpg")
    assert reason(medseg.read, tmp_path / "c.jpg") == "colour-mode"
    (tmp_path / "a.pngg").touch()
    with pytest.raises(Refused, match=r"Did you mean '\.png'\?"):
        medseg.read(tmp_path / "a.pngg")
    tifffile.imwrite(tmp_path / "n.tif", np.array([[1, 2], [np.nan, np.inf]], np.float32))
    with pytest.raises(Refused, match=r"2 of 4, first nan at \(1, 0\)"):
        medseg.read(tmp_path / "n.tif")
    with pytest.raises(Refused, match="Use NiftiReader"):
        RasterReader().get_data(
            [str(medseg.write(volume(np.zeros((1, 2, 3, 4)), OBLIQUE), tmp_path / "a.nii"))]
        )


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".tif", ".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_truncated_file_is_refused(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    pixels = rng.integers(0, 256, (60, 70), dtype=np.uint8)
    if suffix in (".jpg", ".bmp"):
        Image.fromarray(pixels).save(path)
    elif suffix in (".png", ".tif"):
        medseg.write(pixels, path)
    else:
        medseg.write(volume(pixels.reshape(1, 6, 10, 70), np.eye(4)), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert reason(medseg.read, path) == "unreadable"


def test_the_end_of_an_uncompressed_tiff_is_missed(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((40, 50), np.uint16), metadata=None)
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[:-100])
    assert reason(medseg.read, tmp_path / "a.tif") == "unreadable"


def test_labels_in_disguise(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2], [3, 0, 0]], np.uint8)
    Image.fromarray(np.stack([labels] * 3, -1)).save(tmp_path / "rgb.png")
    assert np.array_equal(read_label(tmp_path / "rgb.png")[0].numpy(), labels)
    tifffile.imwrite(tmp_path / "float.tif", labels.astype(np.float32))
    label = read_label(tmp_path / "float.tif")
    assert label.dtype == torch.int32
    assert np.array_equal(label[0].numpy(), labels)
    colour = np.zeros((2, 3, 3), np.uint8)
    colour[0, 1, 0] = 255
    Image.fromarray(colour).save(tmp_path / "colour.png")
    assert reason(read_label, tmp_path / "colour.png") == "colour-coded-label"
    tifffile.imwrite(tmp_path / "half.tif", np.array([[0, 0.5, 1]], np.float32))
    with pytest.raises(Refused, match=r"1 of them, the first 0.5 at \(0, 1\)"):
        read_label(tmp_path / "half.tif")
    tifffile.imwrite(tmp_path / "negative.tif", np.array([[0, -1]], np.int16))
    assert reason(read_label, tmp_path / "negative.tif") == "negative-label"
    tifffile.imwrite(tmp_path / "nan.tif", np.array([[0, np.nan]], np.float32))
    assert reason(read_label, tmp_path / "nan.tif") == "non-finite"
    Image.fromarray(labels).save(tmp_path / "a.jpg")
    assert reason(read_label, tmp_path / "a.jpg") == "lossy-label"
    tifffile.imwrite(
        tmp_path / "two.tif",
        np.stack([labels, labels[::-1]]),
        metadata={"axes": "CYX"},
        ome=True,
        photometric="minisblack",
    )
    assert reason(read_label, tmp_path / "two.tif") == "several-channels"


def test_declared_values_of_labels(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 7]], np.uint8)).save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png", values=[7, 255])[0].tolist() == [[0, 255, 7]]
    assert read_label(tmp_path / "a.png", values={7: 1, 255: 2})[0].tolist() == [[0, 2, 1]]
    assert reason(read_label, tmp_path / "a.png", values=[255]) == "unknown-label-value"


def test_one_mask_an_object_becomes_an_instance_map(tmp_path: Path) -> None:
    masks = np.zeros((4, 3, 5), np.uint8)
    masks[0, 0, :3] = 255
    masks[1, :, 2:4] = 255  # shares (0, 2) with the first
    masks[2, 0, 0] = 255  # hidden below the first
    masks[3, 2, 0] = 1
    paths = []
    for i, mask in enumerate(masks):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(mask).save(paths[-1])
    expected = [[1, 1, 1, 2, 0], [0, 0, 2, 2, 0], [3, 0, 2, 2, 0]]
    assert read_label(paths)[0].tolist() == expected
    assert LoadImaged(["label"], reader=LabelReader())({"label": paths})["label"][0].tolist() == expected
    Image.fromarray(np.zeros((5, 3), np.uint8)).save(tmp_path / "turned.png")
    assert reason(read_label, [paths[0], tmp_path / "turned.png"]) == "shape-mismatch"
    Image.fromarray(np.array([[1, 2, 0, 0, 0]] * 3, np.uint8)).save(tmp_path / "many.png")
    assert reason(read_label, [paths[0], tmp_path / "many.png"]) == "not-one-object"
    assert reason(read_label, []) == "no-files"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64", "float32", "float64"])
def test_volumes_come_back_as_they_were(tmp_path: Path, suffix: str, dtype: str) -> None:
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(dtype)
    affine = rotation(spacing=(0.7, 0.9, 5.0), origin=(-20, 11, 4.5))
    for part in (array, array[:1]):
        wide = torch.as_tensor(part.astype(np.int32) if dtype == "uint16" else part)
        image = MetaTensor(wide, affine=affine, meta={"spacing_unit": "mm", "original_dtype": dtype})
        back = medseg.read(medseg.write(image, tmp_path / f"a{suffix}"))
        assert back.dtype == image.dtype
        assert back.meta["original_dtype"] == dtype
        assert torch.equal(back.as_tensor(), image.as_tensor())
        assert np.allclose(back.affine.numpy(), affine, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32", "float32"])
@pytest.mark.parametrize("shape", [(1, 4, 7), (3, 4, 7), (2, 4, 7), (1, 5, 4, 7), (3, 5, 4, 7)])
def test_tiff_comes_back_as_it_was(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    spacing = (2.0, 0.5, 0.25)[-(len(shape) - 1) :]
    wide = torch.as_tensor(array.astype({"uint16": np.int32, "uint32": np.int64}.get(dtype, dtype)))
    image = MetaTensor(
        wide, affine=raster_affine(spacing), meta={"spacing_unit": "um", "original_dtype": dtype}
    )
    path = medseg.write(image, tmp_path / "a.tif")
    back = medseg.read(path)
    assert back.meta["original_dtype"] == dtype
    assert back.dtype == image.dtype
    assert torch.equal(back.as_tensor(), image.as_tensor())
    assert np.allclose(back.affine.numpy(), raster_affine(spacing))
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        assert tiff.pages[0].compression.name == "ADOBE_DEFLATE"


def test_sheared_and_oblique_affines(tmp_path: Path) -> None:
    image = volume(np.arange(24, dtype=np.uint8).reshape(1, 2, 3, 4), OBLIQUE)
    assert np.allclose(
        medseg.read(medseg.write(image, tmp_path / "a.nii.gz")).affine.numpy(), OBLIQUE, atol=1e-5
    )
    assert reason(medseg.write, image, tmp_path / "a.mha") == "affine-not-held"
    assert reason(medseg.write, image, tmp_path / "a.tif") == "affine-not-held"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz"]
    # what another library makes of the file
    points = SimpleITK.ReadImage(
        str(
            medseg.write(
                volume(np.zeros((1, 4, 5, 6)), rotation(spacing=(1, 2, 3), origin=(4, 5, 6))),
                tmp_path / "b.nii.gz",
            )
        )
    )
    x, y, z = points.TransformIndexToPhysicalPoint((1, 2, 3))
    assert np.allclose(
        [-x, -y, z, 1], rotation(spacing=(1, 2, 3), origin=(4, 5, 6)) @ [1, 2, 3, 1], atol=1e-4
    )


def test_micrometres_become_millimetres_where_the_format_has_only_those(tmp_path: Path) -> None:
    image = volume(np.zeros((1, 3, 4, 5), np.uint8), raster_affine((2.0, 0.5, 0.25)), "um")
    back = medseg.read(medseg.write(image, tmp_path / "a.nrrd"))
    assert back.meta["spacing_unit"] == "mm"
    assert np.allclose(back.affine.numpy()[:3], image.affine.numpy()[:3] / 1000)
    back = medseg.read(medseg.write(image, tmp_path / "a.nii"))
    assert back.meta["spacing_unit"] == "um"
    assert np.allclose(back.affine.numpy(), image.affine.numpy())


def test_like_lends_and_demands_its_grid(tmp_path: Path) -> None:
    model = volume(np.zeros((1, 3, 4, 5), np.float32), OBLIQUE)
    path = medseg.write(model, tmp_path / "model.nii.gz")
    labels = np.ones((3, 4, 5), np.int64)
    for like in (model, path):
        back = medseg.read(medseg.write(labels, tmp_path / "l.nii.gz", like=like))
        assert np.allclose(back.affine.numpy(), OBLIQUE, atol=1e-5)
        assert reason(medseg.write, labels[:2], tmp_path / "l.nii.gz", like=like) == "shape-mismatch"
        moved = OBLIQUE.copy()
        moved[0, 3] += 0.5
        assert (
            reason(medseg.write, volume(labels[None], moved), tmp_path / "l.nii.gz", like=like)
            == "affine-mismatch"
        )
    assert reason(medseg.write, labels, tmp_path / "l.nii.gz") == "no-geometry"
    assert reason(medseg.write, labels, tmp_path / "l.nii.gz", like=np.eye(4)) == "bad-like"


def test_what_a_png_cannot_hold(tmp_path: Path) -> None:
    many = np.arange(70000).reshape(200, 350)
    with pytest.raises(Refused, match=r"Use \.tif"):
        medseg.write(many, tmp_path / "a.png")
    assert np.array_equal(medseg.read(medseg.write(many, tmp_path / "a.tif"))[0].numpy(), many)
    assert reason(medseg.write, np.zeros((3, 4), np.float32), tmp_path / "a.png") == "pixel-type"
    assert reason(medseg.write, np.full((3, 4), -1), tmp_path / "a.png") == "pixel-type"
    assert reason(medseg.write, np.zeros((2, 3, 5), np.uint8), tmp_path / "a.png") == "too-many-dimensions"
    assert reason(medseg.write, np.zeros((4, 5, 3), np.uint8), tmp_path / "a.png") == "ambiguous-axes"
    assert reason(medseg.write, np.zeros((4, 5), np.uint8), tmp_path / "a.jpg") == "not-written"
    assert reason(medseg.write, np.array([[np.inf]]), tmp_path / "b.tif") == "non-finite"
    assert reason(medseg.write, np.zeros((0, 5), np.uint8), tmp_path / "b.tif") == "bad-shape"
    assert medseg.read(medseg.write(np.ones((1, 1), bool), tmp_path / "b.png"))[0].tolist() == [[1]]


def test_nothing_is_left_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = medseg.write(np.zeros((3, 4), np.uint8), tmp_path / "a.png")
    before = path.read_bytes()
    (tmp_path / "folder.png").mkdir()
    assert reason(medseg.write, np.ones((3, 4), np.uint8), tmp_path / "folder.png") == "unwritable"
    assert reason(medseg.write, np.ones((3, 4), np.uint8), path / "b.png") == "unwritable"

    def full(file: Path, pixels: object) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(medseg.io.writing._SAVERS, ".png", full)
    assert reason(medseg.write, np.ones((3, 4), np.uint8), path) == "unwritable"

    def wrong(file: Path, pixels: object) -> None:
        Image.fromarray(np.full((3, 4), 2, np.uint8)).save(file)

    monkeypatch.setitem(medseg.io.writing._SAVERS, ".png", wrong)
    assert reason(medseg.write, np.ones((3, 4), np.uint8), path) == "not-read-back"
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "folder.png"]


def test_image_info(tmp_path: Path) -> None:
    affine = np.array([[0, 0, -2, 1], [-0.5, 0, 0, 2], [0, 0.7, 0, 3], [0, 0, 0, 1.0]])  # axes to P, S, L
    path = medseg.write(
        volume(np.arange(24, dtype=np.int16).reshape(1, 2, 3, 4), affine), tmp_path / "a.nii.gz"
    )
    info = image_info(path)
    assert (info.format, info.shape, info.channels, info.dtype) == ("NIfTI", (2, 3, 4), 1, "int16")
    assert info.orientation == "PSL"
    assert np.allclose(info.spacing, (0.5, 0.7, 2.0))
    assert (info.unit, info.min, info.max, info.mean, info.n_distinct, info.finite) == (
        "mm",
        0,
        23,
        11.5,
        24,
        True,
    )
    tifffile.imwrite(tmp_path / "n.tif", np.array([[1, np.nan, 4]], np.float32))
    info = image_info(tmp_path / "n.tif")
    assert (info.finite, info.min, info.max, info.n_distinct, info.orientation) == (False, 1, 4, None, None)
    many = image_info(medseg.write(np.arange(1001).reshape(7, 143), tmp_path / "m.tif"))
    assert many.n_distinct is None


def test_names(tmp_path: Path) -> None:
    for name in ("a10.png", "a2.PNG", "A1.ome.tif", ".hidden.png", "Thumbs.db", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in find_images(tmp_path)] == ["A1.ome.tif", "a2.PNG", "a10.png"]
    assert suffix_of("x/A1.OME.TIFF") == ".ome.tiff"
    assert stem_of("a.b.nii.gz") == "a.b"


def test_real_images(shared_data: Path) -> None:
    folder = shared_data / "dsb2018"
    if not folder.is_dir():
        pytest.skip("dsb2018 is absent")
    for path in find_images(folder / "images")[:5]:
        image, label = medseg.read(path), read_label(folder / "labels" / path.name)
        assert np.array_equal(np.moveaxis(image.numpy(), 0, -1), skimage.io.imread(path)[..., :3])
        assert np.array_equal(label[0].numpy(), skimage.io.imread(folder / "labels" / path.name))


def test_real_volumes(shared_data: Path) -> None:
    found = 0
    for path in [*shared_data.glob("brain_tumour_nrrd/*.nrrd"), *shared_data.glob("spinal_cord_mr/*.nii.gz")]:
        found += 1
        ours, itk = medseg.read(path), SimpleITK.ReadImage(str(path))
        for index in [(0, 0, 0), (3, 7, 2), tuple(n - 1 for n in itk.GetSize())]:
            x, y, z = itk.TransformIndexToPhysicalPoint(index)
            assert np.allclose(ours.affine.numpy() @ [*index, 1], [-x, -y, z, 1], atol=2e-3)
            assert ours[(0, *index)] == itk[index]
    if not found:
        pytest.skip("brain_tumour_nrrd and spinal_cord_mr are absent")
