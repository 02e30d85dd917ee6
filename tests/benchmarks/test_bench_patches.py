"""What a window around each pixel costs beside one pass over the image: patch network and VGG16."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import torch

from medseg.networks import VGG16, PatchNetwork

pytestmark = pytest.mark.bench


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seconds(call: Callable[[], torch.Tensor], repeats: int) -> tuple[float, torch.Tensor]:
    """Return the least time of some calls, and what they gave."""
    least = float("inf")
    with torch.inference_mode():
        for _ in range(repeats):
            start = time.perf_counter()
            out = call()
            least = min(least, time.perf_counter() - start)
    return least, out


def tell(what: str, windows: float, once: float) -> None:
    print(f"\n{what}: {windows:.3f} s, at once {once:.4f} s, {windows / once:.1f} times as long")


def test_a_dense_map_by_windows_and_at_once() -> None:
    """Network N4, a map of 48 x 32 pixels: 1536 windows of 95 x 95."""
    network = PatchNetwork(2, 1, 2).eval().to(memory_format=torch.channels_last)
    image = torch.rand(1, 1, 94 + 48, 94 + 32)
    dense, expected = seconds(lambda: network(image), 3)
    windows, found = seconds(lambda: network.slide(image), 1)
    assert torch.allclose(found, expected, atol=1e-4)
    tell("dense map of N4, 1536 pixels", windows, dense)
    assert windows > 20 * dense


def test_a_coarse_grid_by_windows_and_at_once() -> None:
    """Network N4, a grid of 10 x 10 windows 16 pixels apart (Long et al. 2015, section 3.1, with AlexNet)."""
    network = PatchNetwork(2, 1, 2).eval().to(memory_format=torch.channels_last)
    image = torch.rand(1, 1, 95 + 9 * 16, 95 + 9 * 16)
    windows = image.unfold(2, 95, 16).unfold(3, 95, 16).movedim(1, 3).flatten(0, 2).contiguous()
    once, expected = seconds(lambda: network.coarse(image), 5)
    each, found = seconds(lambda: network.coarse(windows), 2)
    assert torch.allclose(found.reshape(10, 10, 2).movedim(2, 0), expected[0], atol=1e-4)
    tell("coarse grid of N4, 100 windows", each, once)
    assert each > 3 * once


def test_a_coarse_grid_of_vgg16() -> None:
    """VGG16 of a quarter of the channels: 5 x 5 windows of 224 pixels, 32 apart, against one image of 352."""
    few = (16, 32, 64, 128, 128, 1024)
    connected = VGG16(2, 3, 20, channels=few).eval().to(memory_format=torch.channels_last)
    twin = VGG16(2, 3, 20, channels=few, dense=True).eval().to(memory_format=torch.channels_last)
    twin.load_state_dict(twin.adapt_weights(connected.state_dict()))
    image = torch.rand(1, 3, 352, 352)
    windows = image.unfold(2, 224, 32).unfold(3, 224, 32).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).contiguous()
    once, grid = seconds(lambda: twin(image), 2)
    each, found = seconds(lambda: connected(windows), 1)
    assert grid.shape == (1, 20, 5, 5)
    assert found.shape == (25, 20)
    tell("coarse grid of VGG16 / 4, 25 windows", each, once)
    assert each > 3 * once
