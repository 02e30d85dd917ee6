"""Segment a folder of volumes: label maps on their own grids, millilitres, and a page to look at.

Command::

    python pipelines/segment_organs.py VOLUMES -o OUT --bundle run/ --max-ram 4

Time: that of ``medseg predict``, which is what runs; the page draws at most 24 cases.
Numbers: those of the model, see its card (``medseg bundle show run/``).
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import typer

from medseg import Refused
from medseg.batch import BatchResult
from medseg.bundle import load_bundle
from medseg.cli.progress import Display
from medseg.cli.script import Data, Out, Quick, run_script
from medseg.jobs import list_images, predict_files, report
from medseg.jobs.predicting import CLASSES, write_csv

QUICK_VOLUMES = 2


def main(
    data: Data,
    out: Out,
    *,
    bundle: Annotated[str, typer.Option(help="Run, bundle folder, zip file or name.")],
    max_ram: Annotated[float | None, typer.Option(help="Bound for the memory of the process, in GB.")] = None,
    quick: Quick = False,
) -> BatchResult:
    """Segment a folder of volumes and measure every organ.

    ``out`` gets a label map a volume, ``classes.csv`` with a row for each organ of each volume,
    ``volumes_ml.csv`` with a row a volume and a column an organ, and ``report.html``. What cannot be done is
    told, and the rest is done. With ``quick`` the first volumes only.
    """
    out = Path(out)
    volumes = list_images([data])
    model = load_bundle(bundle)
    if model.plan.target.kind != "semantic" or model.plan.input.spatial_dims != 3:
        raise Refused(
            "not-organs",
            f"the model '{model.name}' does not give the classes of volumes",
            got=f"{model.plan.target.kind}, {model.plan.input.spatial_dims} axes",
            do="use one that was trained on label maps of volumes",
        )
    if quick:
        volumes = dict(list(volumes.items())[:QUICK_VOLUMES])
    with Display() as display:
        on_case, on_tile = display.cases("Segmenting", len(volumes))
        result = predict_files(model, volumes, out, max_ram_gb=max_ram, on_case=on_case, on_tile=on_tile)
    if result.done:
        write_volumes(out)
        report(out, out / "report.html", title=f"Organs found by {model.name}")
    return result


def write_volumes(folder: Path) -> Path:
    """Write ``volumes_ml.csv`` from what `predict_files` left: a row a case, a column a class.

    A volume without a known voxel size has no entry.
    """
    rows: dict[str, dict[str, float | int | str]] = {}
    with (folder / CLASSES).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            entry = rows.setdefault(row["case"], {"case": row["case"]})
            if row.get("volume_ml"):
                entry[f"{row['class']}_ml"] = float(row["volume_ml"])
    return write_csv(folder / "volumes_ml.csv", list(rows.values()))


if __name__ == "__main__":
    run_script(main)
