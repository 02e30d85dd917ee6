"""Make segmentation-kinds.png for docs/explanation/semantic-instance-panoptic.md, from a tissue made here.

python docs/images/make_segmentation_kinds_picture.py docs/images/segmentation-kinds.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from skimage.segmentation import find_boundaries

import medseg
from medseg.palettes import class_table, instance_table, panoptic_picture

SHAPE = (180, 240)
GAP = 6  # white pixels between the pictures
CLASSES = {"stroma": 1, "gland": 2, "cell": 4, "lymphocyte": 5}


def tissue() -> tuple[np.ndarray, np.ndarray]:
    """Return the classes and the objects of a made tissue: two kinds of ground, two kinds of cells."""
    rng = np.random.default_rng(4)
    _, cells = medseg.phantoms.cells(SHAPE, n=26, diameter=30, rng=rng)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    labels = np.where(rows > 95 + 25 * np.sin(columns / 35), CLASSES["gland"], CLASSES["stroma"])
    labels[rows < 14 + 8 * np.cos(columns / 30)] = 0
    kind = np.where(rng.random(cells.max() + 1) < 0.4, CLASSES["lymphocyte"], CLASSES["cell"])
    return np.where(cells > 0, kind[cells], labels), cells


def main(out: Path) -> None:
    """Put image, semantic, instance and panoptic result side by side."""
    labels, cells = tissue()
    grey = np.array([235, 205, 180, 0, 110, 60])[labels] + np.random.default_rng(0).normal(0, 7, SHAPE)
    image = np.repeat(grey.clip(0, 255)[..., None], 3, axis=2)
    found = medseg.to_panoptic(labels, cells, things=[CLASSES["cell"], CLASSES["lymphocyte"]])
    pictures = [
        image,
        class_table()[labels],
        instance_table(cells)[cells],
        panoptic_picture(found.labels, found.instances),
    ]
    for picture in pictures[2:]:
        picture[find_boundaries(cells, mode="inner") & (cells > 0)] = 255
    gap = np.full((SHAPE[0], GAP, 3), 255)
    strip = np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)
    medseg.write(torch.from_numpy(strip.astype(np.uint8)).movedim(-1, 0), out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
