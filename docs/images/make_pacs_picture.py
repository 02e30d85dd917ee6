"""Make pacs.png for docs/how-to/radiology-pacs.md: the way of a series from the PACS and back.

python docs/images/make_pacs_picture.py docs/images/pacs.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE = (1180, 470)
OURS, THEIRS, DARK, QUIET = (226, 236, 250), (255, 240, 220), (60, 60, 60), (130, 130, 130)
LINE, BACK = (70, 110, 180), (40, 150, 80)
TITLE, TEXT = 19, 15

# name, what it does, box (left, top, right, bottom), colour
BOXES = (
    ("PACS", "holds the study", (20, 60, 200, 400), THEIRS),
    ("receiving", "C-STORE, or polling by\nQIDO-RS and WADO-RS", (330, 60, 570, 150), OURS),
    ("waiting", "as many instances here as\nthe PACS reports, twice", (330, 185, 570, 275), OURS),
    ("running", "a child process a series,\nlimits, journal, audit", (650, 185, 890, 275), OURS),
    ("sending", "STOW-RS or C-STORE; read\nback and compared", (330, 310, 570, 400), OURS),
    ("spool", "files and SQLite:\noutlives a kill at\nany moment", (960, 60, 1160, 400), OURS),
)
# from, to, text, where the text stands, colour
ARROWS = (
    ((200, 95), (330, 95), "images", (226, 72), LINE),
    ((330, 215), (200, 215), "how many?", (214, 192), LINE),
    ((200, 245), (330, 245), "60", (244, 248), LINE),
    ((330, 340), (200, 340), "SEG, SR", (226, 317), BACK),
    ((200, 375), (330, 375), "the same?", (220, 378), BACK),
    ((450, 150), (450, 185), "", (0, 0), LINE),
    ((570, 230), (650, 230), "whole", (585, 207), LINE),
    ((770, 275), (570, 355), "results", (690, 318), BACK),
)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with PIL."""
    return ImageFont.load_default(size)


def arrow(draw: ImageDraw.ImageDraw, start: tuple[int, int], end: tuple[int, int], colour: object) -> None:
    """Draw a line with a head at its end."""
    draw.line((start, end), fill=colour, width=3)  # type: ignore[arg-type]
    length = ((end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2) ** 0.5
    along = ((end[0] - start[0]) / length, (end[1] - start[1]) / length)
    back = (end[0] - 12 * along[0], end[1] - 12 * along[1])
    sides = [(back[0] + s * 6 * along[1], back[1] - s * 6 * along[0]) for s in (-1, 1)]
    draw.polygon([end, *sides], fill=colour)  # type: ignore[arg-type]


def main(out: Path) -> None:
    """Draw boxes, arrows and the line between the two machines."""
    picture = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(picture)
    for y in range(20, SIZE[1] - 20, 12):  # what lies left of it is theirs
        draw.line((313, y, 313, y + 6), fill=QUIET, width=2)
    draw.text((330, 20), "medseg serve", fill=QUIET, font=font(TITLE))
    for name, what, box, colour in BOXES:
        draw.rounded_rectangle(box, radius=10, fill=colour, outline=QUIET, width=2)
        draw.text((box[0] + 14, box[1] + 10), name, fill=DARK, font=font(TITLE))
        draw.multiline_text((box[0] + 14, box[1] + 38), what, fill=DARK, font=font(TEXT), spacing=5)
    for start, end, text, where, colour in ARROWS:
        arrow(draw, start, end, colour)
        draw.text(where, text, fill=colour, font=font(TEXT))
    for y in (105, 230, 355):  # every step notes what it did
        for x in range(900 if y == 230 else 580, 950, 12):
            draw.line((x, y, x + 5, y), fill=QUIET, width=2)
    draw.text((20, 430), "the hospital's", fill=QUIET, font=font(TEXT))
    draw.text(
        (285, 430),
        "one process, bound to this machine alone unless told otherwise",
        fill=QUIET,
        font=font(TEXT),
    )
    picture.save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
