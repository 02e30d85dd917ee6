"""Segment a folder of DICOM studies over night: results for the PACS, volumes, and a page for the morning.

Command::

    python pipelines/radiology_batch.py STUDIES -o OUT --bundle run/ --jobs 2 --memory 8

Time: that of ``medseg study``, which is what runs: reading, two looks of the network and seven files a study.
Numbers: ``volumes_ml.csv`` has a row a study and a column an organ; how good they are says the model's card
(``medseg bundle show run/``), and how far to trust each the column ``doubt``.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import typer

from medseg.batch import BatchResult
from medseg.cli.progress import Display
from medseg.cli.script import Data, Out, Quick, run_script
from medseg.files import replacing
from medseg.radiology import Limits, NightResult, StudyOptions, run_studies
from medseg.radiology.options import RESULTS

Rules = Annotated[
    str | None, typer.Option(help="Which series: such as modality=CT,thickness_mm=1:3, or a TOML file.")
]
QUICK_RESULTS = ("segmentation",)


def main(
    data: Data,
    out: Out,
    *,
    bundle: Annotated[str, typer.Option(help="Run, bundle folder, zip file or name.")],
    series: Rules = None,
    jobs: Annotated[int, typer.Option(help="Studies at the same time.")] = 1,
    memory: Annotated[float, typer.Option(help="Memory that one study may take, in GB.")] = 8.0,
    quick: Quick = False,
) -> BatchResult:
    """Segment a folder of studies and list what could not be done.

    ``out`` gets a folder a study, ``night.html``, ``volumes_ml.csv``, the list of what could not be done and
    the audit. Stopped at any moment, the same command goes on. With ``quick`` only the segmentation and the
    page of each study, without the second look.
    """
    out = Path(out)
    options = StudyOptions(results=QUICK_RESULTS if quick else tuple(RESULTS), doubt=not quick)
    with Display() as display:
        result = run_studies(
            bundle,
            [data],
            out,
            series=series,
            jobs=jobs,
            limits=Limits(memory_gb=memory),
            options=options,
            progress=lambda title, done, of: display.counter(title)(done, of),
        )
    write_volumes(out, result)
    return result.batch


def write_volumes(out: Path, result: NightResult) -> Path:
    """Write ``volumes_ml.csv``: a row for each study that was done, a column a structure."""
    rows = []
    for outcome in result.outcomes:
        if outcome.state == "done":
            sizes = {f"{s['name']}_ml": f"{s['volume_ml']:.6g}" for s in outcome.record["structures"]}
            doubt = (outcome.record["doubt"] or {}).get("score")
            rows.append({"study": outcome.id, "doubt": "" if doubt is None else f"{doubt:.3f}"} | sizes)
    path = out / "volumes_ml.csv"
    with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["study", "doubt"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


if __name__ == "__main__":
    run_script(main)
