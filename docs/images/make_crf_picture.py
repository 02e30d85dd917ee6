"""Make crf.png, the strip of docs/explanation/crf.md: an image, probabilities, and the same after the field.

python docs/images/make_crf_picture.py docs/images/crf.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from skimage.draw import disk, polygon

import medseg
from medseg.crf import CRF

GAP = 8  # white pixels between the pictures
SIZE = (160, 200)


def scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy image and what a coarse network might say of it."""
    things = np.zeros(SIZE)
    for row, column, radius in ((42, 45, 24), (110, 60, 32), (50, 120, 18)):
        things[disk((row, column), radius, shape=SIZE)] = 1
    things[polygon((80, 140, 135, 95), (120, 110, 185, 190), shape=SIZE)] = 1
    image = 0.3 + 0.4 * things + 0.06 * rng.normal(size=SIZE)
    specks = ndimage.gaussian_filter(rng.normal(size=SIZE), 2) * 3.5
    vague = ndimage.gaussian_filter(things, 7) + 0.12 * specks
    return image, 1 / (1 + np.exp(-8 * (vague - 0.45)))


def main(out: Path) -> None:
    """Draw the image, the probabilities, and what either kernel makes of them."""
    image, bright = scene(np.random.default_rng(0))
    both = np.stack([1 - bright, bright])
    field = {"theta_alpha": 30.0, "theta_beta": 0.1}
    smooth = medseg.dense_crf(both, image, crf=CRF(**field, w_bilateral=0.0))[1]
    sharp = medseg.dense_crf(both, image, crf=CRF(**field))[1]
    gap = np.ones((SIZE[0], GAP))
    strip = np.concatenate([np.clip(image, 0, 1), gap, bright, gap, smooth, gap, sharp], axis=1)
    medseg.write(torch.from_numpy(np.round(strip * 255).astype(np.uint8))[None], out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
