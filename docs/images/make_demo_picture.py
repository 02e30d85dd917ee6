"""Make demo.png, the strip at the top of the README, from what `medseg demo` has left.

medseg demo -o medseg-demo
python docs/images/make_demo_picture.py medseg-demo docs/images/demo.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from skimage.color import hsv2rgb
from skimage.segmentation import find_boundaries

import medseg

WINDOW = (slice(140, 380), slice(180, 516))
GAP = 8  # white pixels between the pictures


def main(demo: Path, out: Path) -> None:
    """Show a part of an image that was not trained on: as it is, its objects, and their outlines."""
    file = demo / "data/images/test_0.tif"
    image = medseg.read(file)
    found = medseg.predict(demo / "run", file).instances()[WINDOW]
    truth = medseg.io.read_label(demo / "data/labels/test_0.tif").numpy()[0][WINDOW]

    low, high = np.percentile(image, (1, 99.8))
    grey = np.clip((image.numpy()[0][WINDOW] - low) / (high - low), 0, 1) ** 0.7
    picture = np.repeat(grey[..., None], 3, axis=2)

    number = np.arange(found.max() + 1)
    # steps of the golden ratio keep the hues of neighbouring numbers far apart
    colours = hsv2rgb(np.stack([number * 0.618 % 1, 0.75 + 0 * number, 0.95 + 0 * number], axis=-1))
    colours[0] = 0.08
    objects = colours[found]

    outlines = picture.copy()
    outlines[find_boundaries(truth, mode="inner")] = (0.1, 0.75, 1.0)
    outlines[find_boundaries(found, mode="inner")] = (1.0, 0.75, 0.0)

    gap = np.ones((picture.shape[0], GAP, 3))
    strip = np.concatenate([picture, gap, objects, gap, outlines], axis=1)
    # a tensor is channel first; an array of three axes would be a volume
    medseg.write(torch.from_numpy(np.round(strip * 255).astype(np.uint8)).movedim(-1, 0), out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
