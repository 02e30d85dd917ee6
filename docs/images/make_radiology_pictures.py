"""Draw the pictures of the page on studies over night: made patients, a model of grey values, real pages.

    python docs/images/make_radiology_pictures.py FOLDER     studies and results go there

Chromium takes the pictures of the two pages.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from scipy import ndimage

import medseg
from medseg.bundle import save_bundle
from medseg.networks import build_network
from medseg.radiology import StudyOptions, run_studies

SHAPE = (120, 150, 40)  # columns, rows, planes of 2.6 x 2.2 x 5 mm
SPACING = (2.6, 2.2, 5.0)


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
    folder.mkdir(parents=True)
    hu = body(number, np.random.default_rng(number)).round().astype(np.int16)
    for k in range(SHAPE[2]):
        if k == without:
            continue
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = pydicom.uid.CTImageStorage
        uid = f"1.2.826.0.1.3680043.10.2.{number}"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"{uid}.1.{k}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = uid, f"{uid}.1", f"{uid}.2"
        ds.Modality, ds.ImageType, ds.InstanceNumber = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], k + 1
        ds.PatientName, ds.PatientID, ds.StudyDate, ds.StudyTime = (
            "Made^Up",
            f"M-{1000 + number}",
            "20240229",
            "0300",
        )
        ds.AccessionNumber, ds.SliceThickness = f"A{4711 + number}", SPACING[2]
        ds.ImageOrientationPatient, ds.PixelSpacing = [1, 0, 0, 0, 1, 0], [SPACING[1], SPACING[0]]
        ds.ImagePositionPatient = [-156, -165, -100 + k * SPACING[2]]
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = (
            SHAPE[1],
            SHAPE[0],
            1,
            "MONOCHROME2",
        )
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleSlope, ds.RescaleIntercept = "1", "0"
        ds.PixelData = hu[:, :, k].T.tobytes()
        pydicom.dcmwrite(folder / f"{k:03d}.dcm", ds, enforce_file_format=True)


def grey_model(path: Path) -> Path:
    """Write a U-Net that hands the input on to its last layer: from 150 HU liver, from 260 HU spleen."""
    plan = medseg.Plan(name="grey values").with_values(
        {
            "input.spatial_dims": 3,
            "input.normalise": "none",
            "input.orientation": "RAS",
            "input.spacing_unit": "mm",
            "train.patch": (16, 16, 16),
            "network.channels": (2, 4),
            "network.norm": "none",
            "network.padding": "same",
            "target.classes": ("background", "liver", "spleen"),
            "target.values": (0, 1, 2),
        }
    )
    network = build_network(plan)
    state = network.state_dict()
    with torch.no_grad():
        for tensor in state.values():
            tensor.zero_()
        for name in ("down.0.0", "down.0.2", "merge.0.0", "merge.0.2"):
            state[f"{name}.weight"][0, 0, 1, 1, 1] = 1.0
        state["head.weight"][1, 0], state["head.weight"][2, 0] = 1.0, 2.0
        state["head.bias"][:] = torch.tensor([0.0, -150.0, -410.0])
    return save_bundle(path, plan, network.eval(), card="# Grey values")


def photograph(page: Path, out: Path, height: int) -> None:
    """Take a picture of a page in a browser without a window."""
    browser = shutil.which("chromium") or "chromium-browser"
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"]
    words += ["--hide-scrollbars", f"--window-size=1240,{height}", "--virtual-time-budget=3000"]
    words += [f"--user-data-dir={page.parent / 'profile'}", f"--screenshot={out}", f"file://{page}"]
    subprocess.run(words, check=True, capture_output=True)


def main(folder: Path) -> None:
    """Make the studies, run the night, take the pictures."""
    for number in range(1, 7):
        write_study(folder / f"in/{number}", number)
    write_study(folder / "in/7", 7, without=20)
    (folder / "in/8").mkdir()
    model = grey_model(folder / "model")
    options = StudyOptions(show=("patient-id", "accession-number"))
    result = run_studies(model, [folder / "in"], folder / "out", options=options)
    pictures = Path(__file__).parent
    photograph((folder / "out/night.html").resolve(), pictures / "night.png", 1180)
    first = max((o for o in result.outcomes if o.state == "done"), key=lambda o: len(o.record["warnings"]))
    assert first.folder is not None
    photograph((first.folder / "report.html").resolve(), pictures / "study.png", 1180)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
