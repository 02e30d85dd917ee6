"""Predictions of images in their files, against those of the whole image in memory."""

from __future__ import annotations

import csv
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr

import medseg
from medseg import OverlapTileInferer, Refused
from medseg.bundle import Bundle, load_bundle, save_bundle
from medseg.inference import inferer_of, open_large, opening, predict_to, streaming
from medseg.inference.opening import held_bytes, open_image
from medseg.instances import object_table
from medseg.io import open_lazy
from medseg.jobs import predict_files
from medseg.networks import build_network
from medseg.phantoms import cells
from medseg.plan import InputPlan, Plan
from medseg.transforms import normalisation

SIZE = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}


@pytest.fixture(scope="module")
def nuclei() -> Bundle:
    return load_bundle("nuclei", device="cpu")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    image, _ = cells((330, 410), rng=np.random.default_rng(2))
    return (image * 255).astype(np.uint8)


def tiled(tile: Any, plan: Plan, **how: Any) -> OverlapTileInferer:
    """Return what a plan asks for, in tiles of a given size."""
    inferer = inferer_of(plan, **how)
    inferer.tile = tile
    return inferer


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tiles and many blocks on small images."""
    monkeypatch.setattr(streaming, "inferer_of", partial(tiled, (128, 96)))
    monkeypatch.setattr(streaming, "HALO", 32)
    monkeypatch.setattr(streaming, "_room", lambda bound: 1e9)
    monkeypatch.setattr(streaming, "INSTANCE_BYTES", 1e9 / 1.5 / 190**2)


def write_tiff(path: Path, array: np.ndarray, **options: Any) -> Path:
    options = {"tile": (64, 64), "compression": "zlib"} | options
    tifffile.imwrite(path, array, **options)
    return path


def make_bundle(path: Path, **values: object) -> Bundle:
    plan = Plan(name=path.name).with_values({"network.channels": (2, 4), **values})
    return load_bundle(save_bundle(path, plan, build_network(plan), card=""), device="cpu")


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("kind", ["grey", "colour", "deep"])
def test_instances_are_those_of_the_whole_image(
    nuclei: Bundle, picture: np.ndarray, tmp_path: Path, kind: str
) -> None:
    array = {"grey": picture, "colour": np.stack([picture] * 3, -1), "deep": picture.astype(np.uint16) * 257}[
        kind
    ]
    array = array.copy()
    array[..., 0:9] //= 2
    path = write_tiff(tmp_path / "a.ome.tif", array, ome=True, metadata=SIZE)
    done: list[tuple[int, int]] = []
    whole = medseg.predict(nuclei, path)
    found = predict_to(
        nuclei,
        path,
        tmp_path / "out/a.tif",
        labels=tmp_path / "labels.tif",
        progress=lambda *n: done.append(n),
    )
    instances = whole.instances()
    assert instances.max() > 60
    assert found.exact
    np.testing.assert_array_equal(medseg.read(tmp_path / "labels.tif")[0], whole.labels)
    held = medseg.read(found.path)
    np.testing.assert_array_equal(held[0], instances)
    np.testing.assert_allclose(held.affine, whole.affine)
    assert held.meta["spacing_unit"] == "um"
    rows = object_table(instances, spacing=[0.5, 0.25], unit="um")
    assert found.objects is not None
    assert len(found.objects) == len(rows)
    for mine, theirs in zip(found.objects, rows):
        assert mine == pytest.approx(theirs)
    counts = [n for n, _ in done]
    assert counts == sorted(counts)
    assert done[-1][0] == done[-1][1]
    assert len(set(counts)) > 20
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.tif"]


def test_a_cluster_larger_than_a_block_is_told(
    tmp_path: Path, nuclei: Bundle, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    path = write_tiff(tmp_path / "a.tif", picture)
    monkeypatch.setattr(streaming, "HALO", 8)
    monkeypatch.setattr(streaming, "_room", lambda bound: 1e9)
    monkeypatch.setattr(streaming, "INSTANCE_BYTES", 1e9 / 1.5 / 40**2)
    found = predict_to(nuclei, path, tmp_path / "out.tif")
    assert not found.exact
    assert "larger than a block" in caplog.text
    count = medseg.predict(nuclei, path).instances().max()
    assert found.objects is not None
    assert abs(len(found.objects) - count) <= 0.1 * count


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("values", [(0, 1), (0, 7), (3, 300)])
def test_label_maps_are_those_of_the_whole_image(
    picture: np.ndarray, tmp_path: Path, values: tuple[int, int]
) -> None:
    bundle = make_bundle(tmp_path / "b", **{"target.values": values, "input.normalise": "zscore"})
    assert bundle.plan.target.kind == "semantic"
    path = write_tiff(tmp_path / "a.tif", picture.astype(np.float32) / 7)
    found = predict_to(bundle, path, tmp_path / "out.tif")
    whole = medseg.predict(bundle, path)
    held = medseg.read(found.path)
    np.testing.assert_array_equal(held[0], whole.labels)
    assert held.meta["original_dtype"] == str(whole.labels.dtype)
    assert found.objects is None
    assert set(np.unique(whole.labels)) == set(values)


@pytest.mark.usefixtures("small_steps")
def test_zarr_in_gives_zarr_out(nuclei: Bundle, picture: np.ndarray, tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "images/a.zarr", shape=(330, 410), dtype="uint8", chunks=(100, 70))
    array[...] = picture
    result = predict_files(nuclei, [tmp_path / "images"], tmp_path / "whole")
    found = predict_to(nuclei, tmp_path / "images/a.zarr", tmp_path / "parts/a.zarr")
    assert result.done["a"].prediction == "a.zarr"
    whole = medseg.read(tmp_path / "whole/a.zarr")
    np.testing.assert_array_equal(medseg.read(found.path), whole)
    np.testing.assert_array_equal(whole[0], medseg.predict(nuclei, picture).instances())
    again = predict_files(nuclei, [tmp_path / "images/a.zarr"], tmp_path / "whole")
    assert again.exit_code == 0


def test_volumes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(
        tmp_path / "b",
        **{"input.spatial_dims": 3, "train.patch": (16, 16, 16), "input.spacing": (1.0, 1.0, 1.0)},
    )
    array = np.random.default_rng(0).integers(0, 255, (20, 40, 50), dtype=np.uint8)
    path = write_tiff(tmp_path / "a.ome.tif", array, ome=True, metadata={"axes": "ZYX"}, tile=(32, 32))
    monkeypatch.setattr(streaming, "inferer_of", partial(tiled, 16))
    found = predict_to(bundle, path, tmp_path / "out.tif")
    np.testing.assert_array_equal(medseg.read(found.path)[0], medseg.predict(bundle, path).labels)


@pytest.mark.usefixtures("small_steps")
def test_a_folder_gives_the_same_files_either_way(
    nuclei: Bundle, picture: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    write_tiff(tmp_path / "images/a.ome.tif", picture, ome=True, metadata=SIZE)
    write_tiff(tmp_path / "images/b.tif", np.zeros((70, 90), np.uint8))
    medseg.write(picture[:90, :150], tmp_path / "images/c.png")
    monkeypatch.setattr(opening, "_SHARE", 0.0)
    parts = predict_files(nuclei, [tmp_path / "images"], tmp_path / "parts")
    monkeypatch.setattr(opening, "_SHARE", 1e9)
    whole = predict_files(nuclei, [tmp_path / "images"], tmp_path / "whole")
    assert parts.failed == whole.failed == ()
    assert parts.done == whole.done
    for name in ("a.tif", "b.tif", "c.png"):
        np.testing.assert_array_equal(
            medseg.read(tmp_path / "parts" / name), medseg.read(tmp_path / "whole" / name)
        )
    with (
        tifffile.TiffFile(tmp_path / "parts/a.tif") as streamed,
        tifffile.TiffFile(tmp_path / "whole/a.tif") as plain,
    ):
        assert streamed.pages[0].is_tiled
        assert not plain.pages[0].is_tiled
    rows = [list(csv.reader((tmp_path / f / "objects.csv").open())) for f in ("parts", "whole")]
    assert rows[0] == rows[1]
    assert len(rows[0]) > 60


def test_predict_leaves_a_large_image_in_its_file(
    nuclei: Bundle, picture: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiff(tmp_path / "a.ome.tif", picture, ome=True, metadata=SIZE)
    whole = medseg.predict(nuclei, path)
    monkeypatch.setattr(opening, "_SHARE", 0.0)
    monkeypatch.setattr("medseg.inference.prediction.read", None)
    parts = medseg.predict(nuclei, path)
    np.testing.assert_array_equal(parts.labels, whole.labels)
    assert (parts.unit, parts.affine.tolist()) == (whole.unit, whole.affine.tolist())
    with open_lazy(path) as lazy:
        np.testing.assert_array_equal(medseg.predict(nuclei, lazy).labels, whole.labels)


# when


def test_the_rule_looks_at_sizes_only(nuclei: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.memmap(path, shape=(20_000, 20_000), dtype=np.uint8)  # a file with a hole, of no size on disk
    large = open_large(path, nuclei, 2.0)
    assert large is not None
    with large:
        assert held_bytes(large, nuclei.plan) == 100 * 20_000**2
    assert open_large(path, nuclei, 200.0) is None
    assert open_large(write_tiff(tmp_path / "b.tif", np.zeros((900, 900), np.uint8)), nuclei, 2.0) is None
    assert open_large(medseg.write(np.zeros((9, 9), np.uint8), tmp_path / "c.png"), nuclei, 0.1) is None
    assert open_large(np.zeros((9, 9)), nuclei, 0.1) is None


def test_networks_that_see_everything_are_predicted_whole(tmp_path: Path, picture: np.ndarray) -> None:
    bundle = make_bundle(tmp_path / "b", **{"network.norm": "instance"})
    path = write_tiff(tmp_path / "a.tif", picture)
    assert open_large(path, bundle, 1e-6) is None
    with pytest.raises(Refused) as error:
        predict_to(bundle, path, tmp_path / "out.tif")
    assert error.value.reason == "not-local"


@pytest.mark.parametrize("normalise", ["percentile", "zscore", "none"])
@pytest.mark.parametrize("shape", [(1, 1500, 2700), (3, 1100, 900), (1, 61, 47)])
def test_brightness_is_the_same_to_the_last_bit(
    tmp_path: Path, normalise: Any, shape: tuple[int, ...]
) -> None:
    array = np.random.default_rng(0).gamma(2, 50, shape).astype(np.uint16)
    how = InputPlan(normalise=normalise)
    path = write_tiff(tmp_path / "a.ome.tif", array, ome=True, metadata={"axes": "CYX"})
    with open_lazy(path) as lazy:
        expected = normalisation(medseg.read(path), how)
        assert normalisation(lazy, how) == expected
        if shape[0] == 1:
            repeated = medseg.read(path).as_tensor().expand(3, *shape[1:])
            assert normalisation(lazy.with_channels([0, 0, 0]), how) == normalisation(repeated, how)


# refusals


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((5, 40, 50), np.uint8), "too-many-dimensions"),
        (np.full((40, 50), np.nan, np.float32), "non-finite"),
    ],
)
def test_images_of_another_kind(nuclei: Bundle, tmp_path: Path, array: np.ndarray, reason: str) -> None:
    path = write_tiff(tmp_path / "a.tif", array)
    for call in (lambda: predict_to(nuclei, path, tmp_path / "o.tif"), lambda: medseg.predict(nuclei, path)):
        with pytest.raises(Refused) as error:
            call()
        assert error.value.reason == reason
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif"]


def test_colour_for_a_model_of_grey(tmp_path: Path, picture: np.ndarray) -> None:
    bundle = make_bundle(tmp_path / "b")
    grey = write_tiff(tmp_path / "grey.tif", np.stack([picture] * 3, -1))
    predict_to(bundle, grey, tmp_path / "out.tif")
    np.testing.assert_array_equal(
        medseg.read(tmp_path / "out.tif")[0], medseg.predict(bundle, picture).labels
    )
    coloured = np.stack([picture] * 3, -1)
    coloured[300, 7, 1] ^= 1
    with pytest.raises(Refused) as error:
        predict_to(bundle, write_tiff(tmp_path / "c.tif", coloured), tmp_path / "out.tif")
    assert error.value.reason == "channel-mismatch"


def test_memory_that_is_too_small_is_said_before_the_work(
    nuclei: Bundle, tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiff(tmp_path / "a.tif", picture)
    with pytest.raises(Refused) as error:
        predict_to(nuclei, path, tmp_path / "o.tif", max_ram_gb=0.01)
    assert error.value.reason == "out-of-memory"
    monkeypatch.setattr(streaming, "_room", lambda bound: 2**14)
    whole = write_tiff(tmp_path / "b.tif", picture, tile=None, rowsperstrip=1000)
    with pytest.raises(Refused) as error:
        predict_to(nuclei, whole, tmp_path / "o.tif")
    assert "pieces" in str(error.value)


def test_a_broken_file_costs_only_itself(
    nuclei: Bundle, tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_SHARE", 0.0)
    good = write_tiff(tmp_path / "good.tif", picture[:90, :80])
    (tmp_path / "half.tif").write_bytes(good.read_bytes()[:2500])
    content = bytearray(good.read_bytes())
    with tifffile.TiffFile(good) as tiff:
        place = tiff.pages[0].dataoffsets[1]
    content[place : place + 40] = bytes(40)
    (tmp_path / "spoilt.tif").write_bytes(bytes(content))
    result = predict_files(
        nuclei, [tmp_path / f"{n}.tif" for n in ("half", "spoilt", "good")], tmp_path / "out"
    )
    assert list(result.done) == ["good"]
    assert {f.case: f.reason for f in result.failed} == {"half": "unreadable", "spoilt": "unreadable"}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "good.tif",
        "objects.csv",
        "predictions.json",
    ]


# memory


@pytest.mark.parametrize("room", [-1e8, 0.0, 1e3])
def test_too_little_room_for_a_block_of_objects_is_refused(
    nuclei: Bundle, tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch, room: float
) -> None:
    path = write_tiff(tmp_path / "a.tif", picture)
    with open_image(path, nuclei.plan) as lazy:
        monkeypatch.setattr(type(lazy), "piece_bytes", -1e12)  # the image itself is not in question
        monkeypatch.setattr(streaming, "_room", lambda bound: room)
        with pytest.raises(Refused, match="block of objects") as caught:
            predict_to(nuclei, lazy, tmp_path / "out.tif")
    assert caught.value.reason == "out-of-memory"
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read as Linux tells it")
def test_the_whole_process_stays_within_the_bound(tmp_path: Path) -> None:
    cell, _ = cells((400, 400), rng=np.random.default_rng(0))
    path = write_tiff(tmp_path / "a.tif", np.tile((cell * 255).astype(np.uint8), (5, 5)), tile=(256, 256))
    bound = 0.85  # without it 1.2 GB; an interpreter with torch takes up to 0.55
    words = ["predict", "nuclei", str(path), "-o", str(tmp_path / "out"), "--max-ram", str(bound)]
    code = (
        f"import re, sys; from medseg.cli import main; code = main({words}); "
        # not ru_maxrss, which begins with the peak of the process that starts this one
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) * 1024 <= 1.1 * bound * 1e9
    with tifffile.TiffFile(tmp_path / "out/a.tif") as tiff:
        assert tiff.pages[0].is_tiled  # written in parts
    assert torch.is_tensor(medseg.read(tmp_path / "out/a.tif"))


def test_an_image_of_a_case_has_the_spacing_of_its_data_set(
    nuclei: Bundle, picture: np.ndarray, tmp_path: Path
) -> None:
    path = write_tiff(tmp_path / "a.tif", picture)
    case = medseg.Case("a", path, None, group="a", spacing=(0.002, 0.001), spacing_unit="mm")
    with open_image(case, nuclei.plan) as lazy:
        assert lazy.unit == "mm"
        np.testing.assert_allclose(np.linalg.norm(lazy.affine[:3, :2], axis=0), (0.002, 0.001))
