"""Objects told apart block by block, against the whole label map at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medseg import Refused
from medseg.instances import object_table, stitching, to_instances
from medseg.instances.stitching import StitchedInstances, stitch_instances
from medseg.phantoms import cells
from medseg.scratch import scratch_file
from medseg.targets import interior_border


def separate(method: str = "watershed", border: int | None = 2) -> stitching.Separate:
    return lambda labels, least: to_instances(labels, method=method, min_size=least, border=border)


def stitched(labels: np.ndarray, folder: Path, core: tuple[int, ...], **how: object) -> StitchedInstances:
    return stitch_instances(labels, how.pop("how", separate()), scratch_file(folder), core=core, **how)  # type: ignore[arg-type]


def whole(found: StitchedInstances) -> np.ndarray:
    return found[(slice(None),) * len(found.shape)]


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    _, instances = cells((300, 420), rng=np.random.default_rng(3), diameter=18)
    return interior_border(instances)


CORES = [(300, 420), (64, 96), (150, 37), (29, 200), (101, 101), (17, 23), (1000, 50)]


@pytest.mark.parametrize("core", CORES, ids=str)
def test_blocks_give_the_whole_map_with_its_numbers(
    labels: np.ndarray, tmp_path: Path, core: tuple[int, int]
) -> None:
    expected = separate()(labels, 30)
    found = stitched(labels, tmp_path, core, min_size=30, halo=32)
    assert found.exact
    assert found.count == expected.max() > 100
    np.testing.assert_array_equal(whole(found), expected)
    np.testing.assert_array_equal(found[7:113, 200:399], expected[7:113, 200:399])
    assert found[3:9, 4:7].dtype == np.int32


@pytest.mark.parametrize("halo", [1, 5, 96])
def test_any_halo_gives_the_same(labels: np.ndarray, tmp_path: Path, halo: int) -> None:
    found = stitched(labels, tmp_path, (70, 110), halo=halo)
    np.testing.assert_array_equal(whole(found), separate()(labels, 0))
    assert found.exact


@pytest.mark.parametrize("core", [(64, 96), (29, 200)], ids=str)
@pytest.mark.parametrize(("spacing", "unit"), [(None, None), ((0.5, 2.0), "um")])
def test_the_table_is_that_of_the_whole(
    labels: np.ndarray,
    tmp_path: Path,
    core: tuple[int, int],
    spacing: tuple[float, float] | None,
    unit: str | None,
) -> None:
    rows = object_table(separate()(labels, 30), spacing=spacing, unit=unit)
    table = stitched(labels, tmp_path, core, min_size=30).table(spacing=spacing, unit=unit)
    assert len(table) == len(rows)
    for mine, theirs in zip(table, rows):
        assert list(mine) == list(theirs)
        assert mine == pytest.approx(theirs, rel=1e-12)
        assert [type(v) for v in mine.values()] == [type(v) for v in theirs.values()]


def wild(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Blobs of three classes without any sense: lone rims, holes, objects in holes."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 2.5)
    field /= field.std()
    inner = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
    return np.where(field > 0.9, np.where(inner > 0, 1, 2), 0).astype(np.uint8)


@pytest.mark.parametrize("seed", range(6))
def test_label_maps_without_sense(tmp_path: Path, seed: int) -> None:
    labels = wild((110, 150), seed)
    for core in ((60, 80), (33, 97)):
        for how in (separate(), separate("components", None), separate("watershed", None)):
            found = stitched(labels, tmp_path, core, how=how, min_size=8, halo=24)
            assert found.exact
            np.testing.assert_array_equal(whole(found), how(labels, 8))


def test_volumes(tmp_path: Path) -> None:
    labels = wild((40, 60, 50), 0)
    expected = separate()(labels, 20)
    found = stitched(labels, tmp_path, (25, 31, 50), min_size=20, halo=16)
    assert found.exact
    np.testing.assert_array_equal(whole(found), expected)
    for mine, theirs in zip(found.table(), object_table(expected)):
        assert mine == pytest.approx(theirs)


@pytest.mark.parametrize("shape", [(90, 130), (1, 1), (1, 200), (200, 1)])
def test_maps_without_objects_and_maps_that_are_one(tmp_path: Path, shape: tuple[int, int]) -> None:
    found = stitched(np.zeros(shape, np.uint8), tmp_path, (40, 50))
    assert (found.count, len(found.table()), list(found.table())) == (0, 0, [])
    assert not whole(found).any()
    found = stitched(np.ones(shape, np.uint8), tmp_path, (40, 50))
    assert found.count == 1
    assert whole(found).all()
    assert next(iter(found.table()))["area_px"] == shape[0] * shape[1]


def test_an_object_over_a_corner_is_one_and_small_ones_are_measured_whole(tmp_path: Path) -> None:
    labels = np.zeros((100, 120), np.uint8)
    labels[47:53, 56:64] = 1  # 12 pixels in each of four blocks
    labels[10, 59:61] = 1  # 2 pixels, one on each side
    found = stitched(labels, tmp_path, (50, 60), min_size=40, how=separate("components", None))
    assert found.count == 1
    assert np.count_nonzero(whole(found)) == 48
    assert next(iter(found.table()))["y_stop_px"] == 53


def test_a_cluster_that_is_too_large_is_stitched_and_said(labels: np.ndarray, tmp_path: Path) -> None:
    """With a bar of foreground through everything no block sees its cluster whole; few objects change."""
    barred = labels.copy()
    barred[::60] = 1
    expected = separate()(barred, 30)
    found = stitched(barred, tmp_path, (100, 140), most=160 * 200, halo=30, min_size=30)
    assert not found.exact
    areas = np.bincount(whole(found).ravel(), minlength=found.count + 1)[1:]
    assert areas.min() >= 30
    assert areas.tolist() == [row["area_px"] for row in found.table()]
    overlap = np.unique(np.stack([expected.ravel(), whole(found).ravel()]), axis=1, return_counts=True)
    (a, b), common = overlap
    size = np.bincount(expected.ravel()), np.bincount(whole(found).ravel())
    good = (a > 0) & (b > 0) & (common > 0.5 * (size[0][a] + size[1][b] - common))
    assert good.sum() >= 0.95 * expected.max()
    assert found.count <= 1.1 * expected.max()


def test_pieces_are_joined_by_overlap_where_blocks_disagree(tmp_path: Path) -> None:
    """Each block moves its outlines; the count stays, since pieces overlap by more than half."""
    squares = np.kron(np.ones((9, 9), np.uint8), np.pad(np.ones((14, 14), np.uint8), 3))
    rng = np.random.default_rng(0)

    def moved(labels: np.ndarray, least: int) -> np.ndarray:
        shifted = ndimage.shift(labels, rng.integers(-1, 2, 2), order=0)
        return to_instances(shifted, method="components", min_size=least)

    for core in ((50, 70), (45, 180), (33, 41)):
        found = stitched(squares, tmp_path, core, halo=24, how=moved)
        assert found.count == 81


def test_progress_counts_blocks(labels: np.ndarray, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    stitched(labels, tmp_path, (100, 140), progress=lambda *counts: done.append(counts))
    assert done == [(i, 9) for i in range(1, 10)]


@pytest.mark.parametrize(("core", "halo"), [((10,), 3), ((0, 10), 3), ((10, 10), 0)])
def test_blocks_that_make_no_sense_are_refused(tmp_path: Path, core: tuple[int, ...], halo: int) -> None:
    with pytest.raises(Refused):
        stitched(np.zeros((20, 20), np.uint8), tmp_path, core, halo=halo)
