"""Make triage.png of docs/explanation/triage.md: error over doubt, and what is found how early in the list.

python docs/images/make_triage_picture.py triage/trials.jsonl docs/images/triage.png

``trials.jsonl`` is what ``pipelines/radiology_triage.py`` leaves. Only the cases that did not make the
calibration are drawn; the first 17 are taken for those that did, as for the hippocampus.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medseg.radiology.reference import PARTS, Reference
from medseg.radiology.trials import CLEAN, Trial, calibrate, found_in_nights

CALIBRATING = 17
SIZE, LEFT, TOP, GAP = 300, 58, 26, 90
BLUE, ORANGE, GREY = (49, 104, 184), (222, 120, 32), (120, 120, 120)


def panel(draw: ImageDraw.ImageDraw, left: int, x: str, y: str) -> None:
    """Draw the axes from 0 to 1."""
    font = ImageFont.load_default(13)
    draw.rectangle((left, TOP, left + SIZE, TOP + SIZE), outline=GREY)
    for i in range(0, 11, 2):
        at = i * SIZE // 10
        draw.line((left + at, TOP + SIZE, left + at, TOP + SIZE + 4), fill=GREY)
        draw.line((left - 4, TOP + SIZE - at, left, TOP + SIZE - at), fill=GREY)
        draw.text((left + at - 9, TOP + SIZE + 6), f"{i / 10:g}", fill="black", font=font)
        draw.text((left - 26, TOP + SIZE - at - 8), f"{i / 10:g}", fill="black", font=font)
    draw.text((left + SIZE // 2, TOP + SIZE + 24), x, fill="black", font=font, anchor="ma")
    draw.text((left, TOP - 20), y, fill="black", font=font)


def place(left: int, x: float, y: float) -> tuple[float, float]:
    """Return where a point of a panel lies."""
    return left + x * SIZE, TOP + (1 - y) * SIZE


def main(trials: Path, out: Path) -> None:
    """Draw both panels."""
    rows = [Trial(**json.loads(line)) for line in trials.read_text(encoding="utf-8").splitlines()]
    calibrating = list(dict.fromkeys(row.case for row in rows))[:CALIBRATING]
    reference = calibrate([r for r in rows if r.case in calibrating], Reference())
    unseen = [r for r in rows if r.case not in calibrating]
    scores = [reference.score(row.parts) for row in unseen]
    picture = Image.new("RGB", (2 * SIZE + 2 * LEFT + GAP - 30, SIZE + TOP + 48), "white")
    draw = ImageDraw.Draw(picture)
    panel(draw, LEFT, "doubt", "1 - dice")
    draw.line((*place(LEFT, 0, 0), *place(LEFT, 1, 1)), fill=GREY)
    for row, score in sorted(zip(unseen, scores), key=lambda pair: pair[0].kind == CLEAN):
        x, y = place(LEFT, score, 1 - row.dice)
        colour = BLUE if row.kind == CLEAN else ORANGE
        draw.ellipse((x - 2.5, y - 2.5, x + 2.5, y + 2.5), fill=colour)
    right = LEFT + SIZE + GAP
    panel(draw, right, "share of the list looked at", "share of the worst tenth found")
    firsts = np.linspace(0.05, 1, 20)
    draw.line((*place(right, 0, 0), *place(right, 1, 1)), fill=GREY)
    for values, colour in ((scores, ORANGE), ([r.parts["looks"] / PARTS["looks"] for r in unseen], BLUE)):
        found = [found_in_nights(unseen, values, first=float(first), nights=300)[0] for first in firsts]
        points = [place(right, 0, 0), *[place(right, float(f), g) for f, g in zip(firsts, found)]]
        draw.line(points, fill=colour, width=3)
    picture.save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
