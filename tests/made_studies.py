"""Studies, good and bad, and a model that is right by construction: above 150 HU liver, below -150 spleen."""

from __future__ import annotations

import copy
from pathlib import Path

import dicom_series as made
import torch
from pydicom.dataset import Dataset

import medseg
from medseg.bundle import save_bundle
from medseg.networks import build_network

THRESHOLD = 150.0
NAME = "HÄRTE^<script>alert(1)</script>"
CLASSES = ("background", "liver", "spleen")


def threshold_bundle(path: Path) -> Path:
    """Write the model: what is above `THRESHOLD` is liver, and what is below its negative is spleen."""
    head = [(1, 0, 1.0), (2, 1, 1.0)]
    return grey_bundle(path, head, [0.0, -THRESHOLD, -THRESHOLD], name="threshold")


def grey_bundle(path: Path, head: list[tuple[int, int, float]], bias: list[float], *, name: str) -> Path:
    """Write a U-Net whose weights hand the input on to its last layer, which compares it.

    ``head`` are class, channel and factor; channel 0 is what of the input is above 0, channel 1 what is
    below.
    """
    plan = medseg.Plan(name=name).with_values(
        {
            "input.spatial_dims": 3,
            "input.normalise": "none",
            "input.orientation": "RAS",
            "input.spacing_unit": "mm",
            "train.patch": (16, 16, 16),
            "network.channels": (2, 4),
            "network.norm": "none",
            "network.padding": "same",
            "target.classes": CLASSES,
            "target.values": (0, 1, 2),
        }
    )
    network = build_network(plan)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.zero_()
        state = network.state_dict()

        def passes(name: str, pairs: list[tuple[int, int, float]]) -> None:
            middle = tuple(s // 2 for s in state[name].shape[2:])
            for to, source, factor in pairs:
                state[name][(to, source, *middle)] = factor

        passes("down.0.0.weight", [(0, 0, 1.0), (1, 0, -1.0)])  # what is above 0, and what is below
        for name in ("down.0.2.weight", "merge.0.0.weight", "merge.0.2.weight"):
            passes(name, [(0, 0, 1.0), (1, 1, 1.0)])  # the skip's channels come first
        passes("head.weight", head)
        state["head.bias"][:] = torch.tensor(bias)
    return save_bundle(path, plan, network.eval(), card=f"# {name.capitalize()}")


# what is wrong with a study -> the reason for which it is refused
BAD = {
    "a slice is missing": "missing-slices",
    "a slice is there twice": "doubled-position",
    "the gantry was tilted": "gantry-tilt",
    "a file was cut off": "damaged-file",
    "a file has no bytes": "damaged-file",
    "two series": "several-series",
    "no pixel spacing": "no-spacing",
    "nothing tells what values are worth": "no-rescale",
    "no DICOM at all": "no-study",
    "no file at all": "empty-study",
}


def study(folder: Path, number: int, *, lift: float = 0.0, series: int = 1) -> Path:
    """Write a good CT study of its own patient; ``lift`` makes all of it brighter."""
    made.save(folder, slices(number, lift=lift, series=series))
    return folder


def slices(number: int, *, lift: float = 0.0, series: int = 1) -> list[Dataset]:
    """The slices of a good study, in their order."""
    found = []
    for one in made.stack():
        one = copy.deepcopy(one)
        one.StudyInstanceUID, one.SeriesInstanceUID = f"1.2.826.{number}", f"1.2.826.{number}.{series}"
        one.SOPInstanceUID = f"{one.SOPInstanceUID}.{number}.{series}"
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.SpecificCharacterSet = "ISO_IR 192"
        one.PatientName, one.PatientID, one.StudyDate = NAME, f"=1+{number}", "20240229"
        one.RescaleIntercept = str(float(one.RescaleIntercept) + lift)
        found.append(one)
    return found


def bad_study(folder: Path, number: int, kind: str) -> Path:
    """Write a study that has to be refused."""
    found = slices(number)
    folder.mkdir(parents=True)
    if kind == "a slice is missing":
        del found[4]
    elif kind == "a slice is there twice":
        again = made.changed(copy.deepcopy(found[3]), SOPInstanceUID=f"{found[3].SOPInstanceUID}.9")
        again.file_meta.MediaStorageSOPInstanceUID = again.SOPInstanceUID
        again.PixelData = found[5].PixelData
        found.append(again)
    elif kind == "the gantry was tilted":
        for k, one in enumerate(found):
            place = [float(v) for v in one.ImagePositionPatient]
            one.ImagePositionPatient = [round(place[0], 4), round(place[1] + 0.6 * k, 4), round(place[2], 4)]
    elif kind == "two series":
        made.save(folder / "other", slices(number, series=2))
    elif kind == "no pixel spacing":
        for one in found:
            del one.PixelSpacing
    elif kind == "nothing tells what values are worth":
        for one in found:
            del one.RescaleSlope, one.RescaleIntercept
    if kind == "no DICOM at all":
        (folder / "scan.dcm").write_text("JFIF")
    elif kind != "no file at all":
        made.save(folder, found)
    first = folder / "000.dcm"
    if kind == "a file was cut off":
        first.write_bytes(first.read_bytes()[:300])
    elif kind == "a file has no bytes":
        first.write_bytes(b"")
    return folder
