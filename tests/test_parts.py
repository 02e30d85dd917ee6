"""A part of a network's output, computed by itself, against the same part of the whole."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from medseg.inference import flips
from medseg.networks import Ensemble, UNet, fast_network, forward_bytes, has_bfloat16, runs_parts

FORMS: dict[str, dict[str, Any]] = {
    "padded": {"padding": "same"},
    "unpadded": {"padding": "valid"},
    "padded, residual": {"padding": "same", "residual": True, "deep_supervision": True},
    "unpadded, residual": {"padding": "valid", "residual": True},
    "encoder and decoder": {"padding": "same", "skips": False},
    "unpadded encoder and decoder": {"padding": "valid", "skips": False},
    "uneven": {"padding": "same", "strides": [(1, 2, 3), 2], "kernels": [(1, 3, 5), 3, (3, 5, 3)]},
    "uneven, unpadded": {"padding": "valid", "strides": [(3, 1, 2), 2], "kernels": [(3, 1, 3), 3, (1, 3, 3)]},
}


def network_of(dims: int, form: dict[str, Any], seed: int = 0) -> UNet:
    uneven = {
        key: [entry[:dims] if isinstance(entry, tuple) else entry for entry in entries]
        for key, entries in form.items()
        if isinstance(entries, list)
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet(dims, 2, 3, channels=(3, 4, 5), norm="batch", **{**form, **uneven})
        network.train()(torch.randn(2, 2, *network.geometry.round_up([40, 44, 48][:dims])))
    return network.eval()


def boxes(shape: tuple[int, ...]) -> list[list[slice]]:
    """Boxes anywhere: the whole, corners, single pixels, and some in between."""
    rng = torch.Generator().manual_seed(1)
    found = [[slice(0, n) for n in shape], [slice(n - 1, n) for n in shape], [slice(0, 1) for _ in shape]]
    for _ in range(6):
        starts = [int(torch.randint(0, n, (), generator=rng)) for n in shape]
        stops = [int(torch.randint(a + 1, n + 1, (), generator=rng)) for a, n in zip(starts, shape)]
        found.append([slice(a, b) for a, b in zip(starts, stops)])
    return found


@pytest.mark.parametrize(("dims", "form"), list(product((2, 3), FORMS)))
def test_a_part_is_that_of_the_whole(dims: int, form: str) -> None:
    network = network_of(dims, FORMS[form])
    image = torch.randn(1, 2, *network.geometry.round_up([44, 52, 56][:dims]))
    with torch.inference_mode():
        whole = network(image)
        for box in boxes(tuple(whole.shape[2:])):
            part = next(network.parts(image, [box]))
            torch.testing.assert_close(part, whole[(slice(None), slice(None), *box)], atol=1e-5, rtol=1e-5)
        found = list(network.parts(image, boxes(tuple(whole.shape[2:]))))
        for box, part in zip(boxes(tuple(whole.shape[2:])), found, strict=True):
            torch.testing.assert_close(part, whole[(slice(None), slice(None), *box)], atol=1e-5, rtol=1e-5)


def test_a_part_of_an_ensemble_and_of_fast_networks() -> None:
    members = [network_of(2, FORMS["padded"], seed) for seed in range(2)]
    both = Ensemble(members).eval()
    image, box = torch.randn(1, 2, 48, 64), [slice(5, 20), slice(33, 64)]
    networks: list[Any] = [both, fast_network(members[0], 2, 2), fast_network(both, 2, 2)]
    if has_bfloat16(torch.device("cpu")):
        networks.append(fast_network(members[0], 2, 2, bfloat16=True))
    for network in networks:
        assert runs_parts(network)
        with torch.inference_mode():
            part, whole = next(network.parts(image, [box])), network(image)
        torch.testing.assert_close(part, whole[..., 5:20, 33:64], atol=1e-4, rtol=1e-4)
    assert not runs_parts(torch.nn.Conv2d(1, 2, 3))


def test_a_part_needs_less_memory() -> None:
    network = UNet(2, 1, 50, channels=(8, 16, 32), padding="same")
    bytes_of = forward_bytes(network, 1)
    whole, part = bytes_of((256, 256)), bytes_of((256, 256), [[slice(96, 160)] * 2])
    assert whole > 4 * 256 * 256 * 50
    assert part < 0.5 * whole
    assert bytes_of((256, 256), [[slice(0, 256)] * 2]) == whole
    slabs = [[slice(a, a + 16), slice(0, 256)] for a in range(0, 256, 16)]
    assert bytes_of((256, 256), slabs) < 0.6 * whole


@pytest.mark.parametrize("rotate", [True, False])
@pytest.mark.parametrize("shrink", [0, 1])
def test_flips_of_a_part_are_that_part_of_the_flips(rotate: bool, shrink: int) -> None:
    layer = torch.nn.Conv2d(1, 3, 3, padding=1 - shrink)

    def network(x: torch.Tensor, part: flips.Part) -> torch.Tensor:
        out: torch.Tensor = layer(x)
        return out if part is None else out[(slice(None), slice(None), *part)]

    image, part = torch.randn(1, 1, 9, 13), (slice(1, 4), slice(5, 11))
    how: dict[str, Any] = {"rotate": rotate, "shrink": (shrink, shrink)}
    with torch.inference_mode():
        for axes in ((0, 1), (1,)):
            whole = flips.run_flips(image, network, axes, part=None, **how)
            found = flips.run_flips(image, network, axes, part=part, **how)
            torch.testing.assert_close(found, whole[:, :, 1:4, 5:11])
