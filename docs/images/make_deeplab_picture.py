"""Make deeplab.png: what one feature of each rate reads, and what features of each stride can hold.

python docs/images/make_deeplab_picture.py docs/images/deeplab.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import medseg
from medseg.networks.deeplab import Aspp, between_features

FEATURES, ZOOM = 41, 6  # of the upper pictures: places a side, pixels a place
RATES = (1, 6, 12, 18)
SIZE, STRIDES = FEATURES * ZOOM, (8, 16, 32)
GAP = 8  # white pixels between the pictures
READ, MIDDLE = (0.1, 0.45, 0.85), (1.0, 0.55, 0.0)


def seen(layers: nn.Module) -> NDArray[np.bool_]:
    """Tell which places the feature in the middle reads, by its gradient."""
    x = torch.zeros(1, 1, FEATURES, FEATURES, requires_grad=True)
    middle = FEATURES // 2
    layers(x)[0, :, middle, middle].sum().backward()
    assert x.grad is not None
    return x.grad[0, 0].numpy() != 0


def dots(places: NDArray[np.bool_]) -> NDArray[np.float64]:
    picture = np.full((FEATURES, FEATURES, 3), 0.93)
    picture[places] = READ
    picture[FEATURES // 2, FEATURES // 2] = MIDDLE
    return picture.repeat(ZOOM, 0).repeat(ZOOM, 1)


def between(truth: NDArray[np.bool_], stride: int) -> tuple[NDArray[np.bool_], float]:
    """Return what is left of a mask that is known on features of a stride and interpolated, and its IoU."""
    ends = [-(-(n - 1) // stride) * stride + 1 for n in truth.shape]
    padded = np.pad(truth, [(0, end - n) for end, n in zip(ends, truth.shape)], mode="edge")
    coarse = torch.from_numpy(padded[::stride, ::stride].astype(np.float32))[None, None]
    found = between_features(coarse, stride, tuple(slice(0, n) for n in truth.shape))
    mask = found[0, 0].numpy() >= 0.5
    return mask, float((mask & truth).sum() / (mask | truth).sum())


def main(out: Path) -> None:
    """Draw both rows."""
    pyramid = Aspp(2, 1, 1, rates=RATES, norm=None)
    for layer in pyramid.modules():  # nothing is rectified away
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
            nn.init.ones_(layer.bias)
    upper = [dots(seen(branch)) for branch in pyramid.branches] + [dots(seen(pyramid))]

    image, cells = medseg.phantoms.cells((SIZE, SIZE), n=14, diameter=34, rng=np.random.default_rng(3))
    truth = np.asarray(cells) > 0
    grey = np.asarray(image, np.float64)
    low, high = np.percentile(grey, (1, 99.8))
    lower = [np.repeat(np.clip((grey - low) / (high - low), 0, 1)[..., None], 3, axis=2)]
    lower.append(np.repeat(truth[..., None], 3, axis=2) * 0.85 + 0.08)
    for stride in STRIDES:
        mask, iou = between(truth, stride)
        sys.stdout.write(f"output stride {stride}: IoU {iou:.3f}\n")
        picture = np.full((*mask.shape, 3), 0.08)
        picture[mask & truth], picture[mask & ~truth], picture[~mask & truth] = 0.93, MIDDLE, READ
        lower.append(picture)

    gap = np.ones((SIZE, GAP, 3))
    rows = [np.concatenate([part for p in row for part in (p, gap)][:-1], axis=1) for row in (upper, lower)]
    sheet = np.concatenate([rows[0], np.ones((GAP, rows[0].shape[1], 3)), rows[1]])
    # a tensor is channel first; an array of three axes would be a volume
    medseg.write(torch.from_numpy(np.round(sheet * 255).astype(np.uint8)).movedim(-1, 0), out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
