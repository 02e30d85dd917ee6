"""Make fcn.png: the most that scores every 32, 16 and 8 pixels can tell of a mask, back on the pixels.

python docs/images/make_fcn_picture.py docs/images/fcn.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import medseg
from medseg.networks import FCN
from medseg.networks.dense import interpolate_at_start

SIZE = (224, 256)
GAP = 8  # white pixels between the pictures
ONLY_THERE, ONLY_HERE = (0.1, 0.45, 0.85), (1.0, 0.55, 0.0)


def main(out: Path) -> None:
    """Give the interpolations of an FCN the share of the mask in each coarse pixel as its score."""
    image, cells = medseg.phantoms.cells(SIZE, n=14, diameter=40, rng=np.random.default_rng(3))
    truth = np.asarray(cells) > 0
    grey = np.asarray(image, np.float64)
    low, high = np.percentile(grey, (1, 99.8))
    pictures = [np.repeat(np.clip((grey - low) / (high - low), 0, 1)[..., None], 3, axis=2)]

    network = FCN(2, 1, 1, skips=2, channels=(1, 1, 1, 1, 1, 1))
    ups: list[nn.ConvTranspose2d] = [network.up_pool4, network.up_pool3, network.up]
    for up in ups:
        interpolate_at_start(up)
    for first, stride in enumerate((32, 16, 8)):
        x = nn.functional.avg_pool2d(torch.from_numpy(truth.astype(np.float32))[None, None], stride) - 0.5
        with torch.inference_mode():
            for up in ups[first:]:
                x = up(x)
        mask = x[0, 0].numpy() > 0
        iou = (mask & truth).sum() / (mask | truth).sum()
        sys.stdout.write(f"stride {stride}: IoU {iou:.3f}\n")
        picture = np.full((*SIZE, 3), 0.08)
        picture[mask & truth], picture[mask & ~truth], picture[~mask & truth] = 0.93, ONLY_HERE, ONLY_THERE
        pictures += [np.ones((SIZE[0], GAP, 3)), picture]
    strip = np.concatenate(pictures, axis=1)
    # a tensor is channel first; an array of three axes would be a volume
    medseg.write(torch.from_numpy(np.round(strip * 255).astype(np.uint8)).movedim(-1, 0), out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
