"""Draw the pictures of the page on studies over night: made patients, a model of grey values, real pages.

    python docs/images/make_radiology_pictures.py FOLDER     studies and results go there

Chromium takes the pictures of the two pages.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
import dicom_series as made
from made_studies import grey_bundle

from medseg.radiology import StudyOptions, run_studies

SHAPE = (120, 150, 40)  # columns, rows, planes of 2.6 x 2.2 x 5 mm
SPACING = (2.6, 2.2, 5.0)
GEOMETRY = made.Geometry(
    axes=np.eye(3),
    rows=SHAPE[1],
    columns=SHAPE[0],
    spacing=(SPACING[1], SPACING[0]),
    step=SPACING[2],
    planes=SHAPE[2],
    origin=(-156.0, -165.0, -100.0),
)


def body(number: int, rng: np.random.Generator) -> np.ndarray:
    """HU of a made patient: air, fat, flesh, and two organs that are brighter than in life."""
    x, y, z = np.meshgrid(*[(np.arange(n) - n / 2) * s for n, s in zip(SHAPE, SPACING)], indexing="ij")
    hu = np.full(SHAPE, -1000.0)
    around = (x / 140) ** 2 + (y / 100) ** 2
    hu[around < 1] = -90
    hu[around < 0.82] = 45
    size = 1 + 0.1 * rng.standard_normal()
    bumps = ndimage.gaussian_filter(rng.standard_normal(SHAPE), (4, 4, 2)) * 6
    hu[((x + 55) / 62) ** 2 + ((y + 10) / 48) ** 2 + (z / 70) ** 2 + bumps < size] = 190
    place = 40 if number != 3 else 95  # one lies where the volume ends
    hu[((x - 85) / 28) ** 2 + ((y - 20) / 36) ** 2 + ((z - place) / 38) ** 2 + bumps < size] = 330
    hu[(x / 20) ** 2 + ((y - 62) / 20) ** 2 < 1] = 120
    return ndimage.gaussian_filter(hu, (0.8, 0.8, 0.3)) + 12 * rng.standard_normal(SHAPE)


def write_study(folder: Path, number: int, *, without: int = -1) -> None:
    """Write a study of one CT series."""
    hu, uid = body(number, np.random.default_rng(number)).round(), f"1.2.826.0.1.3680043.10.2.{number}"
    about = {
        "StudyInstanceUID": uid,
        "SeriesInstanceUID": f"{uid}.1",
        "FrameOfReferenceUID": f"{uid}.2",
        "PatientName": "Made^Up",
        "PatientID": f"M-{1000 + number}",
        "AccessionNumber": f"A{4711 + number}",
        "StudyDate": "20240229",
        "StudyTime": "0300",
        "SliceThickness": f"{SPACING[2]}",
    }
    planes = [
        made.plane(k, GEOMETRY, SOPInstanceUID=f"{uid}.1.{k}", **about)
        for k in range(SHAPE[2])
        if k != without
    ]
    for ds in planes:
        made.fill(ds, hu[:, :, ds.InstanceNumber - 1].T, intercept=0, signed=True)
    made.save(folder, planes)


def photograph(page: Path, out: Path, height: int) -> None:
    """Take a picture of a page in a browser without a window."""
    browser = shutil.which("chromium") or "chromium-browser"
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"]
    words += ["--hide-scrollbars", f"--window-size=1240,{height}", "--virtual-time-budget=3000"]
    with tempfile.TemporaryDirectory() as profile:
        words += [f"--user-data-dir={profile}", f"--screenshot={out}", f"file://{page}"]
        subprocess.run(words, check=True, capture_output=True)


def main(folder: Path) -> None:
    """Make the studies, run the night, take the pictures."""
    for number in range(1, 7):
        write_study(folder / f"in/{number}", number)
    write_study(folder / "in/7", 7, without=20)
    (folder / "in/8").mkdir()
    # from 150 HU liver, from 260 HU spleen
    model = grey_bundle(
        folder / "model", [(1, 0, 1.0), (2, 0, 2.0)], [0.0, -150.0, -410.0], name="grey values"
    )
    options = StudyOptions(show=("patient-id", "accession-number"))
    result = run_studies(model, [folder / "in"], folder / "out", options=options)
    pictures = Path(__file__).parent
    photograph((folder / "out/night.html").resolve(), pictures / "night.png", 1180)
    first = max((o for o in result.outcomes if o.state == "done"), key=lambda o: len(o.record["warnings"]))
    assert first.folder is not None
    photograph((first.folder / "report.html").resolve(), pictures / "study.png", 1180)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
