"""Overlap tiles against MONAI's sliding window: same network, same image, same run, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor

import medseg
from medseg import OverlapTileInferer
from medseg.bundle import bundle_names
from medseg.networks import UNet

pytestmark = pytest.mark.bench

SIDE, BUDGET_GB = 4096, 4.0


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """The shipped network for nuclei where there is one, else one of its size with random weights."""
    if "nuclei" in bundle_names():
        return medseg.load_bundle("nuclei", device="cpu").network
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet(2, 1, 3, channels=(32, 64, 128, 256), padding="same", norm="batch").eval()


@pytest.fixture(scope="module")
def image(network: torch.nn.Module) -> Tensor:
    cells, _ = medseg.phantoms.cells((SIDE // 4, SIDE // 4), rng=np.random.default_rng(0))
    tiled = torch.from_numpy(np.tile(cells, (4, 4)))[None, None]
    return tiled.expand(1, network.in_channels, SIDE, SIDE).contiguous()


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.perf_counter()
    out = run()
    return time.perf_counter() - start, out


def sliding(network: torch.nn.Module, image: Tensor, overlap: float, tile: int) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.inference_mode():
            return sliding_window_inference(image, tile, 4, network, overlap=overlap, mode="gaussian")

    return run


def test_overlap_tiles_against_the_sliding_window(network: torch.nn.Module, image: Tensor) -> None:
    """Pixels computed, wall time at MONAI's overlaps of 0.25 and 0.5 (windows of 512), and exactness."""
    inferer = OverlapTileInferer(max_ram_gb=BUDGET_GB)
    tiling = inferer.plan_tiles(image.shape[1:], network)
    small = image[..., :64, :64].contiguous()
    for run in (lambda: inferer(small, network), sliding(network, small, 0.25, 64)):
        run()  # the libraries choose their kernels on the first call
    ours, exact = timed(lambda: inferer(image, network))
    quarter, blended = timed(sliding(network, image, 0.25, 512))
    half, _ = timed(sliding(network, image, 0.5, 512))
    other = OverlapTileInferer(tile=700)(image, network)
    scale = float(exact.abs().max())
    print(f"\ntile {tiling.tile_shape}, {len(tiling)} tiles, pixels computed {tiling.pixels_ratio:.3f} x")
    print(f"wall: overlap tile {ours:.1f} s; sliding window {quarter:.1f} s at 0.25, {half:.1f} s at 0.5")
    print(f"ratio: {quarter / ours:.2f} x at 0.25, {half / ours:.2f} x at 0.5")
    flips = int((other.argmax(1) != exact.argmax(1)).sum())
    difference = float((other - exact).abs().max())
    print(f"other tiles: largest difference {difference:.1e} of {scale:.1f}, {flips} flips")
    monai_flips = int((blended.argmax(1) != exact.argmax(1)).sum())
    print(f"MONAI, Gaussian, 0.25: {float((blended - exact).abs().max()):.1e}, {monai_flips} flips")
    assert tiling.pixels_ratio <= 1.15
    assert ours < quarter
    assert ours < half / 2
    assert difference <= 1e-5 * max(1.0, scale)
    assert flips == 0
