"""Make unet.png: the U drawn from the layers with its true sizes, and a mask learned without and with skips.

python docs/images/make_unet_picture.py docs/images/unet.png
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

import medseg
from medseg.networks import UNet

TILE = 572
WIDTH, HIGH = 1180, 0.34  # of the sheet in pixels; pixels of the sheet for one of a feature map
BETWEEN, BELOW = 30, 54  # pixels between maps of a level, and from level to level
OURS, HANDED, DARK = (115, 155, 215), (255, 140, 0), (70, 70, 70)
POOLED, UNPOOLED = (200, 60, 60), (40, 150, 80)

SIDE, GAP = 288, 9  # pixels of the lower pictures, and white ones between them
CHANNELS, STEPS, PATCH, BATCH = (8, 16, 32, 64, 64), 120, 96, 2
ONLY_THERE, ONLY_HERE = (0.1, 0.45, 0.85), (1.0, 0.55, 0.0)


@dataclass
class Map:
    """One feature map of the U: its size, its channels, and how many of these were handed over."""

    size: int
    channels: int
    handed: int = 0


@dataclass
class Level:
    """The maps of a level, those of the contracting path first."""

    down: list[Map] = field(default_factory=list)
    up: list[Map] = field(default_factory=list)


def levels_of(network: UNet, tile: int) -> list[Level]:
    """Walk the layers with a tensor that has shapes only, and note what each makes."""
    levels: list[Level] = [Level()]
    depth, rising = 0, False

    def note(x: Tensor, handed: int = 0) -> None:
        level = levels[depth]
        (level.up if rising else level.down).append(Map(x.shape[-1], x.shape[1], handed))

    def apply(layer: nn.Module, x: Tensor) -> Tensor:
        nonlocal depth, rising
        out: Tensor = layer(x)
        if isinstance(layer, nn.MaxPool2d):
            depth += 1
            levels.append(Level())
        elif isinstance(layer, nn.ConvTranspose2d):
            depth, rising = depth - 1, True
            return out  # noted once it is joined
        if isinstance(layer, nn.MaxPool2d | nn.Conv2d):
            note(out)
        return out

    def join(skip: Tensor, x: Tensor) -> Tensor:
        size, cut = x.shape[-1], (skip.shape[-1] - x.shape[-1]) // 2
        out = torch.cat([skip[..., cut : cut + size, cut : cut + size], x], dim=1)
        note(out, out.shape[1] - x.shape[1])
        return out

    image = torch.empty(1, network.in_channels, tile, tile, device="meta")
    note(image)
    network.run(image, apply, join, lambda a, b: a + b)
    return levels


def breadth(channels: int) -> int:
    return max(3, round(1.1 * channels**0.5))


def span(maps: list[Map]) -> int:
    return sum(breadth(m.channels) for m in maps) + BETWEEN * (len(maps) - 1)


def draw_u(levels: list[Level]) -> Image.Image:
    """Draw each map as high as it is in pixels, and as broad as the root of its channels."""
    tops, y = [], 26
    for level in levels:
        tops.append(y)
        y += round(level.down[0].size * HIGH) + BELOW
    sheet = Image.new("RGB", (WIDTH, y), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)

    def text(x: float, y: float, words: Any, colour: tuple[int, int, int] = DARK) -> None:
        pen.text((x, y), str(words), fill=colour, font=font, anchor="mm")

    def arrow(a: tuple[float, float], b: tuple[float, float], colour: tuple[int, int, int]) -> None:
        pen.line((a, b), fill=colour, width=2)
        along = np.subtract(b, a) / max(1.0, float(np.hypot(*np.subtract(b, a))))
        across = np.array([-along[1], along[0]])
        ends = [np.array(b) - 7 * along + s * 4 * across for s in (1, -1)]
        pen.polygon([tuple(map(float, p)) for p in (np.array(b), *ends)], fill=colour)

    def draw(maps: list[Map], left: float, middle: float) -> list[tuple[float, float, float, float]]:
        boxes = []
        for m in maps:
            wide, high = breadth(m.channels), m.size * HIGH
            box = (left, middle - high / 2, left + wide, middle + high / 2)
            pen.rectangle(box, fill=OURS)
            if m.handed:
                part = left + wide * m.handed / m.channels
                pen.rectangle((box[0], box[1], part, box[3]), fill=HANDED)
            text(left + wide / 2, box[1] - 8, m.channels)
            text(left + wide / 2, box[3] + 9, m.size)
            boxes.append(box)
            left += wide + BETWEEN
        for a, b in pairwise(boxes):
            arrow((a[2] + 4, middle), (b[0] - 4, middle), DARK)
        return boxes

    left, right = 26.0, WIDTH - 26.0
    before: list[tuple[float, float, float, float]] = []
    after: list[tuple[float, float, float, float]] = []
    for top, level in zip(tops, levels):
        middle = top + level.down[0].size * HIGH / 2
        if before:  # below the last map of the level above
            left = (before[-1][0] + before[-1][2] - breadth(level.down[0].channels)) / 2
        down = draw(level.down, left, middle)
        if before:
            x = (before[-1][0] + before[-1][2]) / 2
            arrow((x, before[-1][3] + 18), (x, down[0][1] - 17), POOLED)
        if not level.up:
            x = (down[-1][0] + down[-1][2]) / 2
            target = (after[0][0] + after[0][2]) / 2
            pen.line(((down[-1][2] + 4, middle), (target, middle)), fill=UNPOOLED, width=2)
            arrow((target, middle), (target, after[0][3] + 18), UNPOOLED)
            break
        start = right - span(level.up)
        if after:  # the last map lies below the first of the level above
            start = (after[0][0] + after[0][2] + breadth(level.up[-1].channels)) / 2 - span(level.up)
        up = draw(level.up, start, middle)
        if after:
            x = (after[0][0] + after[0][2]) / 2
            arrow((x, up[-1][1] - 17), (x, after[0][3] + 18), UNPOOLED)
        kept = level.up[0].size * HIGH / 2
        pen.rectangle((down[-1][0], middle - kept, down[-1][2], middle + kept), outline=HANDED, width=2)
        arrow((down[-1][2] + 4, middle), (up[0][0] - 4, middle), HANDED)
        before, after = down, up
    return sheet


def patch(rng: np.random.Generator, size: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return an image of cells, its values brought to 0 and 1, and where the cells are."""
    image, cells = medseg.phantoms.cells((size, size), n=round((size / 30) ** 2), diameter=16, rng=rng)
    grey = np.asarray(image, np.float32)
    low, high = np.percentile(grey, (1, 99.8))
    return ((grey - low) / (high - low)).astype(np.float32), np.asarray(cells) > 0


def learned(skips: bool, seed: int, batches: list[tuple[Tensor, Tensor]]) -> UNet:
    """Train for the given batches, the same ones without skips and with them."""
    torch.manual_seed(seed)
    network = UNet(2, 1, 2, channels=CHANNELS, padding="same", norm="batch", skips=skips)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for image, truth in batches:
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(image), truth).backward()
        optimiser.step()
    return network.eval()


def main(out: Path) -> None:
    """Draw the paper's network, and below it what three short trainings of each kind make of new cells."""
    with torch.device("meta"):
        u = draw_u(levels_of(UNet(2, 1, 2), TILE))

    rng = np.random.default_rng(3)
    image, truth = patch(rng, SIDE)
    batches = []
    for _ in range(STEPS):
        pairs = [patch(rng, PATCH) for _ in range(BATCH)]
        images, masks = (np.stack(part) for part in zip(*pairs))
        batches.append((torch.from_numpy(images)[:, None], torch.from_numpy(masks.astype(np.int64))))

    pictures = [np.repeat(np.clip(image, 0, 1)[..., None], 3, axis=2)]
    pictures.append(np.repeat(truth[..., None], 3, axis=2) * 0.85 + 0.08)
    for skips in (False, True):
        for seed in range(3):
            network = learned(skips, seed, batches)
            with torch.inference_mode():
                mask = network(torch.from_numpy(image)[None, None])[0].argmax(0).numpy() == 1
            iou = (mask & truth).sum() / (mask | truth).sum()
            sys.stdout.write(f"{'with' if skips else 'without'} skips, seed {seed}: IoU {iou:.3f}\n")
            if seed == 0:
                picture = np.full((SIDE, SIDE, 3), 0.08)
                picture[mask & truth] = 0.93
                picture[mask & ~truth], picture[~mask & truth] = ONLY_HERE, ONLY_THERE
                pictures.append(picture)
    gap = np.ones((SIDE, GAP, 3))
    row = np.concatenate([part for p in pictures for part in (p, gap)][:-1], axis=1)
    upper = np.asarray(u, np.float64) / 255
    lower = np.ones((SIDE, WIDTH, 3))
    lower[:, : row.shape[1]] = row[:, :WIDTH]
    sheet = np.concatenate([upper, np.ones((GAP, WIDTH, 3)), lower])
    # a tensor is channel first; an array of three axes would be a volume
    medseg.write(torch.from_numpy(np.round(sheet * 255).astype(np.uint8)).movedim(-1, 0), out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
