"""Segment a folder of images: instance maps, counts and sizes, and a page to look at.

The network is that of the bundle; objects are parted as its plan says (``predict.method``).

Command::

    python pipelines/segment_cells.py IMAGES -o OUT --bundle run/

Time: that of ``medseg predict``, which is what runs; the page draws at most 24 images.
Numbers: those of the model, see its card (``medseg bundle show run/``).
"""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import mean, median
from typing import Annotated

import typer

from medseg import Refused
from medseg.batch import BatchResult
from medseg.bundle import load_bundle
from medseg.cli.progress import Display
from medseg.cli.script import Data, Out, Quick, run_script
from medseg.jobs import Manifest, list_images, predict_files, report
from medseg.jobs.predicting import OBJECTS, write_csv

QUICK_IMAGES = 3


def main(
    data: Data,
    out: Out,
    *,
    bundle: Annotated[str, typer.Option(help="Run, bundle folder, zip file or name.")],
    quick: Quick = False,
) -> BatchResult:
    """Segment a folder of images and count and measure what is found.

    ``out`` gets an instance map an image, ``objects.csv`` with a row an object, ``counts.csv`` with a row an
    image, and ``report.html``. What cannot be done is told, and the rest is done. With ``quick`` the first
    images only.
    """
    out = Path(out)
    images = list_images([data])
    model = load_bundle(bundle)
    if model.plan.target.kind != "instances":
        raise Refused(
            "not-instances",
            f"the model '{model.name}' gives classes, not objects",
            do="use one that was trained on instance maps",
        )
    if quick:
        images = dict(list(images.items())[:QUICK_IMAGES])
    with Display() as display:
        on_case, on_tile = display.cases("Segmenting", len(images))
        result = predict_files(model, images, out, on_case=on_case, on_tile=on_tile)
    if result.done:
        write_counts(out)
        report(out, out / "report.html", title=f"Objects found by {model.name}")
    return result


def write_counts(folder: Path) -> Path:
    """Write ``counts.csv`` from what `predict_files` left: count, mean and median size of each image.

    Sizes are in physical units where the file knows its pixel size, otherwise in pixels: the column says.
    """
    sizes: dict[str, list[float]] = {}
    columns: dict[str, str] = {}
    with (folder / OBJECTS).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            column = next(key for key in row if key.startswith(("area_", "volume_")) and row[key])
            columns[row["case"]] = column
            sizes.setdefault(row["case"], []).append(float(row[column]))
    rows: list[dict[str, float | int | str]] = []
    for item in Manifest.load(folder).cases:
        rows.append({"case": item.case, "count": item.objects})
        if found := sizes.get(item.case):
            column = columns[item.case]
            rows[-1] |= {f"mean_{column}": mean(found), f"median_{column}": median(found)}
    return write_csv(folder / "counts.csv", rows)


if __name__ == "__main__":
    run_script(main)
