"""Make patches.png: one window and what it is made into, and the scores of a map every 16 pixels and at each.

python docs/images/make_patch_picture.py docs/images/patches.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import medseg
from medseg.networks import PatchNetwork

SIZE = (223, 287)  # of the image: 129 x 193 windows lie within
GAP = 8  # white pixels between the pictures
FRAME, MIDDLE = (0.1, 0.45, 0.85), (1.0, 0.55, 0.0)


def in_grey(values: NDArray[np.floating]) -> NDArray[np.float64]:
    low, high = np.percentile(values, (1, 99.8))
    return np.repeat(np.clip((values - low) / (high - low), 0, 1)[..., None], 3, axis=2)


def main(out: Path) -> None:
    """Show an image with one window, the coarse grid of scores, and the dense map of them."""
    torch.manual_seed(1)
    image, _ = medseg.phantoms.cells(SIZE, n=24, diameter=30, rng=np.random.default_rng(3))
    pixels = np.asarray(image, np.float32)
    network = PatchNetwork(2, 1, 2, channels=(8, 8, 8, 8, 16)).eval()
    half, window = network.window // 2, network.window
    with torch.inference_mode():
        given = torch.from_numpy((pixels - pixels.mean()) / pixels.std())[None, None]
        dense = network(given)[0, 1].numpy()
        coarse = network.coarse(given)[0, 1].numpy()

    whole = in_grey(pixels)
    corner = (40, 96)
    rows, columns = (slice(c, c + window) for c in corner)
    for place in (rows.start, rows.stop - 1):
        whole[place, columns] = FRAME
    for place in (columns.start, columns.stop - 1):
        whole[rows, place] = FRAME
    whole[corner[0] + half - 2 : corner[0] + half + 3, corner[1] + half - 2 : corner[1] + half + 3] = MIDDLE

    blocks = coarse.repeat(16, 0).repeat(16, 1)
    pictures = [whole]
    for scores in (blocks, dense):
        picture = np.ones_like(whole)
        part = in_grey(scores)[: SIZE[0] - half, : SIZE[1] - half]
        picture[half : half + part.shape[0], half : half + part.shape[1]] = part
        pictures += [np.ones((SIZE[0], GAP, 3)), picture]
    strip = np.concatenate(pictures, axis=1)
    # a tensor is channel first; an array of three axes would be a volume
    medseg.write(torch.from_numpy(np.round(strip * 255).astype(np.uint8)).movedim(-1, 0), out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
