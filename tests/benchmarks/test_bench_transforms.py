"""The elastic deformation against MONAI's, in turns in one run."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from monai.transforms import Rand2DElasticd, Rand3DElasticd

from medseg.transforms import RandElasticd

pytestmark = pytest.mark.bench


@pytest.fixture(params=[1, 2])
def threads(request):
    """One thread, as in a data loader's worker, and two."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


PAIR = ("bilinear", "nearest")


@pytest.mark.parametrize("keys", [["image"], ["image", "label"]])
@pytest.mark.parametrize(
    ("shape", "peer", "least", "rounds"),
    [
        ((512, 512), lambda k: Rand2DElasticd(k, (256, 256), (1, 2), prob=1, mode=PAIR[: len(k)]), 4, 15),
        ((128, 128, 128), lambda k: Rand3DElasticd(k, (5, 8), (50, 150), prob=1, mode=PAIR[: len(k)]), 3, 3),
    ],
)
def test_against_monai(shape, peer, least, rounds, keys, threads, capsys) -> None:
    sample = {"image": torch.rand(1, *shape), "label": (torch.rand(1, *shape) > 0.5).to(torch.uint8)}
    transforms = [t.set_random_state(seed=0) for t in (RandElasticd(keys), peer(keys))]
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds):
        for transform, spent in zip(transforms, seconds):
            start = time.perf_counter()
            transform(sample)
            spent.append(time.perf_counter() - start)
    mine, theirs = (float(np.median(s[1:])) for s in seconds)
    with capsys.disabled():
        print(
            f"\n{shape} {'+'.join(keys)}, {threads} threads: {mine * 1e3:.1f} ms,"
            f" {theirs / mine:.1f} times faster than MONAI, aim {least}"
        )
    assert theirs / mine > least
