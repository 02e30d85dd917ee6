"""Tile geometry against brute force, and mirroring against numpy.pad."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from medseg import Refused
from medseg.tiling import Geometry, Tiling, mirror_indices, read_mirrored, step_within

# halo, stride, shrink, minimum of one axis: padded and unpadded U-Nets, one convolution, one pixel alone
AXES = {
    "same": (94, 16, 0, 16),
    "small same": (8, 2, 0, 2),
    "odd halo": (5, 4, 0, 4),
    "valid": (92, 16, 92, 188),
    "small valid": (8, 2, 8, 18),
    "partly padded": (12, 4, 6, 20),
    "one convolution": (1, 1, 0, 1),
    "unpadded convolution": (1, 1, 1, 3),
    "pixelwise": (0, 1, 0, 1),
    "offset sizes": (3, 4, 2, 7),
}


def _pixels_read(read: Sequence[int], written: Sequence[int]) -> int:
    assert all(a >= b for a, b in zip(read, written))
    return math.prod(read)


def geometry(*names: str) -> Geometry:
    return Geometry(*(tuple(column) for column in zip(*(AXES[name] for name in names))))


def check(tiling: Tiling) -> None:
    """Everything that a tiling promises, pixel by pixel."""
    g = tiling.geometry
    halo = g.halo or g.shrink
    covered = np.zeros(tiling.shape, int)
    tiles = list(tiling)
    assert len(tiles) == len(tiling)
    for tile in tiles:
        covered[tile.write] += 1
        size = tuple(b - a for a, b in tile.read)
        assert size == tiling.tile_shape
        assert g.legal(size)
        out = g.output_size(size)
        for axis, (read, write, keep) in enumerate(zip(tile.read, tile.write, tile.keep)):
            assert 0 <= write.start < write.stop <= tiling.shape[axis]
            assert 0 <= keep.start < keep.stop <= out[axis]
            assert keep.stop - keep.start == write.stop - write.start
            # output pixel k lies over input pixel k + shrink
            assert read[0] + g.shrink[axis] + keep.start == write.start
            assert write.start - read[0] >= halo[axis]
            assert read[1] - write.stop >= halo[axis]
            assert (read[0] - tiles[0].read[axis][0]) % g.stride[axis] == 0
            if not g.shrink[axis]:  # the grid of an image that begins at pixel 0
                assert read[0] % g.stride[axis] == 0
    assert (covered == 1).all()


@pytest.mark.parametrize("name", AXES)
@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 47, 188, 300])
@pytest.mark.parametrize("step", [1, 7, 16, 33, 1000])
def test_one_axis(name: str, size: int, step: int) -> None:
    check(Tiling((size,), geometry(name), (step,)))


@pytest.mark.parametrize(
    ("names", "shape", "step"),
    [
        (("same", "small valid"), (61, 47), (20, 9)),
        (("valid", "same"), (1, 1), (388, 16)),
        (("small same", "one convolution", "odd halo"), (7, 33, 21), (3, 50, 8)),
        (("pixelwise", "small valid", "same"), (1, 20, 90), (1, 6, 32)),
        (("offset sizes", "partly padded"), (29, 64), (5, 13)),
    ],
)
def test_axes_of_different_kinds(names: Sequence[str], shape: Sequence[int], step: Sequence[int]) -> None:
    check(Tiling(tuple(shape), geometry(*names), tuple(step)))


def test_random_geometries(rng: np.random.Generator) -> None:
    for _ in range(200):
        stride, shrink = int(rng.integers(1, 9)), int(rng.integers(0, 7))
        halo = shrink + int(rng.integers(0, 12))
        minimum = 2 * shrink + int(rng.integers(1, 10))
        g = Geometry((halo,), (stride,), (shrink,), (minimum,))
        check(Tiling((int(rng.integers(1, 80)),), g, (int(rng.integers(1, 90)),)))


def test_an_unknown_halo_counts_as_shrink() -> None:
    g = Geometry(None, (2,), (8,), (18,))
    tiling = Tiling((50,), g, (10,))
    check(tiling)
    assert tiling.halo == (8,)


def test_the_paper_reads_572_for_388() -> None:
    tiling = Tiling((512, 512), geometry("valid", "valid"), (388, 388))
    assert [len(tiling), tiling.tile_shape] == [4, (444, 444)]  # evened: 256 + 2 * 92 is no legal size
    whole = Tiling((388, 388), geometry("valid", "valid"), (388, 388))
    assert next(iter(whole)).read == ((-92, 480), (-92, 480))


def test_tiles_are_even() -> None:
    tiling = Tiling((1000,), geometry("same"), (992,))
    assert tiling.counts == (2,)
    assert tiling.step == (512,)  # not 992 and a rest of 8
    assert tiling.pixels_ratio == pytest.approx(2 * tiling.tile_shape[0] / 1000)


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        Tiling((5, 0), geometry("same", "same"), (16, 16))
    assert caught.value.reason == "empty-image"


def test_legal_sizes_by_brute_force() -> None:
    for name in AXES:
        g = geometry(name)
        legal = [n for n in range(1, 400) if g.legal((n,))]
        stride, shrink, minimum = g.stride[0], g.shrink[0], g.minimum[0]
        assert legal == list(range(minimum, 400, stride))
        for n in range(1, legal[-1] + 1):
            up = min(m for m in legal if m >= n)
            assert g.round_up((n,)) == (up,)
            if n <= legal[-1] - 2 * shrink:
                smallest = min(m for m in legal if m - 2 * shrink >= n)
                assert g.input_size((n,)) == (smallest,)
            if n in legal:
                assert g.output_size((n,)) == (n - 2 * shrink,)
            else:
                with pytest.raises(Refused, match=rf"Use \({up},\)") as caught:
                    g.output_size((n,))
                assert caught.value.reason == "illegal-size"


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 50])
def test_mirroring_equals_numpy(size: int) -> None:
    axis = np.arange(size)
    for before, after in itertools.product((0, 1, 2, 3, 7, 20, 131), repeat=2):
        expected = np.pad(axis, (before, after), mode="reflect")
        assert mirror_indices(-before, size + after, size).tolist() == expected.tolist()
    wide = np.pad(axis, 300, mode="reflect")
    for start, stop in ((-250, -200), (200, 290), (-3, -3), (size + 5, size + 6)):
        expected = wide[start + 300 : stop + 300]
        assert mirror_indices(start, stop, size).tolist() == expected.tolist()


@pytest.mark.parametrize("shape", [(1,), (6,), (1, 1), (5, 9), (3, 1, 8)])
def test_reading_equals_padding(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    image = rng.integers(0, 255, (2, *shape))
    pad = 40
    wide = np.pad(image, [(0, 0), *[(pad, pad)] * len(shape)], mode="reflect")
    for _ in range(60):
        starts = [int(rng.integers(-pad, n + pad)) for n in shape]
        stops = [int(rng.integers(a + 1, n + pad + 1)) for a, n in zip(starts, shape)]
        box = list(zip(starts, stops))
        expected = wide[(slice(None), *(slice(a + pad, b + pad) for a, b in box))]
        assert np.array_equal(read_mirrored(image, box), expected)
        tensor = read_mirrored(
            torch.from_numpy(image), box, take=lambda x, i, axis: x.index_select(axis, torch.from_numpy(i))
        )
        assert np.array_equal(tensor.numpy(), expected)


def test_only_the_needed_part_is_read() -> None:
    class Watched:
        """An image on disk that tells which part of it was asked for."""

        shape = (1, 1000, 800)

        def __init__(self) -> None:
            self.asked: list[tuple[slice, ...]] = []

        def __getitem__(self, window: tuple[slice, ...]) -> np.ndarray:
            self.asked.append(window)
            return np.zeros(self.shape, np.uint8)[window]

    image = Watched()
    assert read_mirrored(image, [(-10, 20), (790, 830)]).shape == (1, 30, 40)
    [window] = image.asked
    assert window[1:] == (slice(0, 20), slice(769, 800))


@pytest.mark.parametrize("names", [("small same",), ("same", "small valid"), ("one convolution", "odd halo")])
def test_the_step_is_the_largest_within_the_budget(names: tuple[str, ...]) -> None:
    g = geometry(*names)
    shape = (150, 90)[: len(names)]
    one = Tiling(shape, g, (1,) * len(shape)).tile_shape
    least, most = math.prod(one), math.prod(Tiling(shape, g, shape).tile_shape)

    def steps(k: int) -> tuple[int, ...]:  # k strides an axis, no more than the image needs
        return tuple(min(math.ceil(n / s), k) * s for n, s in zip(shape, g.stride))

    every = [steps(k) for k in range(1, max(shape) + 1)]
    prices = [math.prod(Tiling(shape, g, step).tile_shape) for step in every]
    assert prices == sorted(prices)  # so that halving finds the largest
    for budget in np.linspace(least, most * 1.2, 37):
        step = step_within(shape, g, budget, _pixels_read)
        tiling = Tiling(shape, g, step)
        check(tiling)
        assert math.prod(tiling.tile_shape) <= budget
        assert math.prod(tiling.tile_shape) >= max(p for p in prices if p <= budget)
        even = max((s for s, p in zip(every, prices) if p <= budget), key=math.prod)
        assert tiling.pixels_ratio <= Tiling(shape, g, even).pixels_ratio + 1e-9
        for axis, (n, size, stride) in enumerate(zip(shape, step, g.stride)):
            fewer = math.ceil(n / size) - 1  # tiles along this axis
            if fewer:
                longer = [*step[:axis], math.ceil(n / fewer / stride) * stride, *step[axis + 1 :]]
                assert math.prod(Tiling(shape, g, tuple(longer)).tile_shape) > budget
    with pytest.raises(Refused, match="smallest tile") as caught:
        step_within(shape, g, least - 1, _pixels_read)
    assert caught.value.reason == "out-of-memory"
    with pytest.raises(Refused):
        step_within(shape, g, -5, _pixels_read)
