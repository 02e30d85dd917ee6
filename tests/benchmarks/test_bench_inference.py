"""Overlap tiles against MONAI's sliding window: same network, same image, same run, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import medseg
from medseg import OverlapTileInferer
from medseg.networks import fast_network, has_bfloat16
from medseg.networks.memory import on_meta
from medseg.tiling import Geometry, Tiling

pytestmark = pytest.mark.bench

SIDE, BUDGET_GB = 4096, 4.0


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """The shipped network for nuclei, in float32 and contiguous."""
    return medseg.load_bundle("nuclei", device="cpu").network


@pytest.fixture(scope="module")
def image(network: torch.nn.Module) -> Tensor:
    cells, _ = medseg.phantoms.cells((SIDE // 4, SIDE // 4), rng=np.random.default_rng(0))
    tiled = torch.from_numpy(np.tile(cells, (4, 4)))[None, None]
    return tiled.expand(1, network.in_channels, SIDE, SIDE).contiguous()


@cache
def form(network: torch.nn.Module, name: str) -> torch.nn.Module:
    return network if name == "as it is" else fast_network(network, 3, 2, bfloat16=name == "bfloat16")


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.perf_counter()
    out = run()
    return time.perf_counter() - start, out


@cache
def sliding(network: torch.nn.Module, image: Tensor, overlap: float) -> tuple[float, Tensor]:
    """Time and result of MONAI's inferer with windows of 512, four at a time; once for each overlap."""

    def run(part: Tensor, tile: int) -> Tensor:
        with torch.inference_mode():
            return sliding_window_inference(part, tile, 4, network, overlap=overlap, mode="gaussian")

    run(image[..., :64, :64].contiguous(), 64)  # the libraries choose their kernels on the first call
    return timed(lambda: run(image, 512))


def without_halo(geometry: Geometry) -> Geometry:
    return replace(geometry, halo=(0, 0), mirror=(0, 0))


def work(network: torch.nn.Module, tiling: Tiling) -> float:
    """Multiplications of the convolutions over all tiles; what a tile does not keep is not computed."""
    meta: Any = on_meta(network)
    total = 0
    for tile in tiling:
        with FlopCounterMode(display=False) as counted:
            size = [b - a for a, b in tile.read]
            for part in meta.parts(torch.empty(1, 3, *size, device="meta"), [tile.keep]):
                del part
        total += counted.get_total_flops()
    return total


FORMS = ["as it is", "float32", pytest.param("bfloat16", marks=pytest.mark.skipif(
    not has_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16"))]  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_wall_time_against_the_sliding_window(
    network: torch.nn.Module, image: Tensor, name: str, overlap: float
) -> None:
    """Tiles as large as 4 GB allow against windows of 512; MONAI runs the network as it is."""
    inferer, ours = OverlapTileInferer(max_ram_gb=BUDGET_GB), form(network, name)
    theirs, blended = sliding(network, image, overlap)
    inferer(image[..., :64, :64].contiguous(), ours)
    tiling = inferer.plan_tiles(image.shape[1:], ours)
    mine, exact = timed(lambda: inferer(image, ours))
    flips = int((blended.argmax(1) != exact.argmax(1)).sum())
    share = work(ours, tiling) / work(ours, Tiling(tiling.shape, without_halo(tiling.geometry), tiling.shape))
    print(f"\n{name}: tile {tiling.tile_shape}, {len(tiling)} tiles, {tiling.pixels_ratio:.3f} x the pixels")
    print(f"{share:.3f} x the multiplications of one pass over the image")
    print(f"overlap tile {mine:.1f} s; sliding window at {overlap}: {theirs:.1f} s, {theirs / mine:.2f} x")
    print(f"their largest difference from ours {float((blended - exact).abs().max()):.1e}, {flips} flips")
    assert share <= 1.15
    assert mine < (theirs if overlap < 0.5 else theirs / 2)


@pytest.mark.parametrize("name", FORMS)
def test_the_tiles_do_not_change_the_result(network: torch.nn.Module, image: Tensor, name: str) -> None:
    ours = form(network, name)
    one = OverlapTileInferer(max_ram_gb=BUDGET_GB)(image, ours)
    other = OverlapTileInferer(tile=700)(image, ours)
    flips = int((other.argmax(1) != one.argmax(1)).sum())
    difference, scale = float((other - one).abs().max()), float(one.abs().max())
    print(f"\n{name}, other tiles: largest difference {difference:.1e} of {scale:.1f}, {flips} flips")
    assert difference <= 1e-5 * max(1.0, scale)
    assert flips == 0
