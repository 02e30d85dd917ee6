"""Make patches.png: one window and what it is made into, and the scores of a map every 16 pixels and at each.

python docs/images/make_patch_picture.py docs/images/patches.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import medseg
from medseg.networks import PatchNetwork

SIZE = (223, 287)  # of the image: 129 x 193 windows lie within
GAP = 8  # white pixels between the pictures
STEPS, PATCH = 120, 94 + 32  # of the training: 32 x 32 windows of each of two patches
APART = 16  # pixels from one window of the coarse grid to the next
FRAME, MIDDLE = (0.1, 0.45, 0.85), (1.0, 0.55, 0.0)


def cells(size: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """Return an image ``(1, *size)`` of mean 0 and deviation 1, and the mask of its cells."""
    number = round(24 * size[0] * size[1] / (SIZE[0] * SIZE[1]))
    image, found = medseg.phantoms.cells(size, n=number, diameter=30, rng=np.random.default_rng(seed))
    pixels = np.asarray(image, np.float32)
    grey = torch.from_numpy((pixels - pixels.mean()) / pixels.std())[None]
    return grey, torch.from_numpy(np.asarray(found) > 0).long()


def learned() -> PatchNetwork:
    """Train a narrow network on all windows of some patches at once."""
    torch.manual_seed(1)
    network = PatchNetwork(2, 1, 2, channels=(8, 8, 8, 8, 16), norm="batch")
    half = network.window // 2
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=STEPS)
    for step in range(STEPS):
        images, masks = zip(*(cells((PATCH, PATCH), 1000 + 2 * step + k) for k in range(2)))
        wanted = torch.stack(masks)[:, half:-half, half:-half]
        loss = nn.functional.cross_entropy(network(torch.stack(images)), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def main(out: Path) -> None:
    """Show an image with one window, and on it the coarse grid of scores and the dense map of them."""
    image, _ = cells(SIZE, 3)
    network = learned()
    half, window = network.window // 2, network.window
    with torch.inference_mode():
        dense = network(image[None]).softmax(1)[0, 1].numpy()
        coarse = network.coarse(image[None]).softmax(1)[0, 1].numpy()

    low, high = np.percentile(image, (1, 99.8))
    grey: NDArray[np.float64] = np.clip((image[0].numpy() - low) / (high - low), 0, 1)
    whole = np.repeat(grey[..., None], 3, axis=2)
    corner = (2 * APART, 5 * APART)
    rows, columns = (slice(c, c + window) for c in corner)
    for place in (rows.start, rows.stop - 1):
        whole[place, columns] = FRAME
    for place in (columns.start, columns.stop - 1):
        whole[rows, place] = FRAME
    around = [slice(c + half - 2, c + half + 3) for c in corner]
    whole[around[0], around[1]] = MIDDLE

    pictures = [whole]
    blocks = coarse.repeat(APART, 0).repeat(APART, 1)
    # a score is drawn around the pixel that it is for
    for scores, first in ((blocks, half - APART // 2), (dense, half)):
        picture = np.repeat(0.6 + 0.3 * grey[..., None], 3, axis=2)
        place = tuple(slice(first, first + n) for n in scores.shape)
        picture[place] = scores[..., None]
        picture[around[0], around[1]] = MIDDLE
        pictures += [np.ones((SIZE[0], GAP, 3)), picture]
    strip = np.concatenate(pictures, axis=1)
    # a tensor is channel first; an array of three axes would be a volume
    medseg.write(torch.from_numpy(np.round(strip * 255).astype(np.uint8)).movedim(-1, 0), out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
