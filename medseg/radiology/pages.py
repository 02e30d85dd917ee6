"""The page of one study: what to look out for, planes with contours, volumes, where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import replacing

if TYPE_CHECKING:
    from ..inference import Prediction
    from ..io.dicom import DicomVolume

__all__ = ["SHOWN_AS", "write_study_page"]

#: What of a header a page calls what.
SHOWN_AS = {
    "patient-name": "Patient",
    "patient-id": "Patient ID",
    "birth-date": "Born",
    "study-date": "Study date",
    "accession-number": "Accession number",
    "study-description": "Study",
    "series-description": "Series",
    "folder": "Folder",
}
_SMALL = 192  # pixels of a picture on the page of the night


def write_study_page(
    path: Path, record: Mapping[str, Any], volume: DicomVolume, prediction: Prediction
) -> dict[str, Any]:
    """Write the page of a study, and return a small picture of it for the page of the night.

    Parameters
    ----------
    path : Path
        The HTML file; it refers to nothing outside itself.
    record : mapping
        See `medseg.radiology.study.make_study`.
    volume : DicomVolume
    prediction : Prediction
        On its grid.

    Returns
    -------
    dict
        "width", "height" (mm), "image" (data URI), "outlines" (colour, path) and "step" of one plane.
    """
    from ..report.pages import template
    from ..report.volumes import Volume, draw_volume

    image, names = np.asarray(volume.image[0]), {s["value"]: s["name"] for s in record["structures"]}
    shown = Volume(
        f"Study {record['study']}",
        image,
        prediction.labels,
        None,
        np.asarray(volume.image.affine),
        classes=names,
    )
    view = draw_volume(shown)
    colours = {layer.value: layer.colour for layer in view.layers}
    rows = [dict(s) | {"colour": colours.get(s["value"], "")} for s in record["structures"]]
    series, model = record["series"], record["model"]
    facts = {
        "Series": f"{series['modality']}, {series['orientation']}, {_by(series['shape'])} voxels of "
        f"{_by(series['spacing_mm'])} mm",
        "Input": f"{record['input']['files']} files, sha256 {record['input']['sha256']}",
        "Model": f"{model['name']}, weights {model['weights_sha256'][:16]}, plan {model['plan_sha256'][:16]}",
        "Software": f"medseg {model['medseg']}",
    }
    pieces = template("study.html.j2").generate(
        title=f"Study {record['study']}",
        shown={SHOWN_AS[name]: text for name, text in record["shown"].items()},
        record=record,
        rows=rows,
        unit=next((s["unit"] for s in record["structures"]), ""),
        panel={
            "anchor": "study",
            "view": view,
            "value": float("nan"),
            "scores": [],
            "objects": [],
            "table": None,
        },
        facts=facts,
    )
    with replacing(path) as beside, open(beside, "w", encoding="utf-8") as file:
        file.writelines(pieces)
    return _small(shown)


def _small(shown: Any) -> dict[str, Any]:
    from dataclasses import replace

    from ..report.volumes import draw_volume

    # coarser voxels first: a picture of a few hundred pixels needs no more
    step = max(1, -(-max(shown.image.shape[:2]) // _SMALL))
    part = (slice(None, None, step), slice(None, None, step))
    affine = np.array(shown.affine)
    affine[:3, :2] *= step
    view = draw_volume(
        replace(shown, image=shown.image[part], prediction=shown.prediction[part], affine=affine),
        max_side=_SMALL,
        surfaces=False,
    )
    plane = view.planes[0]
    return {
        "width": round(plane.width, 3),
        "height": round(plane.height, 3),
        "image": plane.image,
        "outlines": [[view.colours[f"{who}{value}"], path] for who, value, path in plane.outlines],
        "step": [round(s, 6) for s in plane.step],
    }


def _by(numbers: Any) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(f"{n:g}" for n in numbers)
