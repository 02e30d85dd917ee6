"""A good series with tags changed at random: the volume is the right one, or there is none."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import dicom_series as made
import numpy as np
import pytest
from pydicom.dataset import Dataset

from medseg import Refused
from medseg.io.dicom import choose_series, find_series, read_series

SEEDS, EACH = range(3), 12
VALUES: dict[str, list[Any]] = {
    "ImagePositionPatient": [["0", "0", "0"], ["1e9", "0", "0"], ["", "", ""], ["1", "2"]],
    "ImageOrientationPatient": [["1", "0", "0", "0", "1", "0"], ["1", "0", "0", "1", "0", "0"], ["0"] * 6],
    "PixelSpacing": [["1", "1"], ["0", "0"], ["-1", "1"], ["0.7"]],
    "Rows": [1, 5000, 65535],
    "Columns": [1, 17, 65535],
    "BitsAllocated": [8, 12, 32],
    "BitsStored": [8, 17],
    "HighBit": [7, 3],
    "PixelRepresentation": [0, 1, 2],
    "RescaleSlope": ["2", "0", "-1", "nan"],
    "RescaleIntercept": ["7", "inf"],
    "SamplesPerPixel": [3, 0],
    "PhotometricInterpretation": ["MONOCHROME1", "RGB", "x"],
    "NumberOfFrames": ["0", "2", "-1"],
    "FrameOfReferenceUID": ["1.2.3.4.5.6"],
    "SeriesInstanceUID": ["1.2.3.4.5.7", ""],
    "SOPInstanceUID": ["1.2.3.4.5.8"],
    "PatientID": ["somebody else"],
    "ImageType": [["DERIVED", "SECONDARY", "MPR"], ["ORIGINAL", "PRIMARY", "LOCALIZER"]],
    "InstanceNumber": ["1", "-5"],
    "SliceThickness": ["0", "99"],
    "SpacingBetweenSlices": ["-2.5", "7"],
    "Modality": ["MR", "OT", ""],
}
# what says nothing of where a voxel lies or what it is worth
IDLE = {"InstanceNumber", "SliceThickness", "SpacingBetweenSlices"}


def truth(folder: Path, slices: list[Dataset]) -> tuple[np.ndarray, np.ndarray]:
    made.save(folder, slices)
    volume = read_series(choose_series(find_series(folder))).image
    return volume.numpy(), np.asarray(volume.affine)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", SEEDS)
def test_one_slice_changed_is_noticed_or_does_not_matter(seed: int, tmp_path: Path) -> None:
    """In one slice a tag has another value, or is gone: never is a wrong volume read without a word."""
    rng = np.random.default_rng(seed)
    stack = made.stack()
    values, affine = truth(tmp_path / "good", stack)
    middle = range(1, len(stack) - 1)  # without its first or last slice a series is whole, too
    for number in range(EACH):
        name = str(rng.choice(sorted(VALUES)))
        which = int(rng.choice(middle))
        slices = copy.deepcopy(stack)
        options = [*VALUES[name], *([None] if name != "SOPInstanceUID" else [])]  # no file is written without
        value = options[int(rng.integers(len(options)))]
        before = getattr(slices[which], name, None)
        if value is None:
            if name in slices[which]:
                delattr(slices[which], name)
        else:
            setattr(slices[which], name, value)
        if getattr(slices[which], name, None) == before:
            continue
        told = f"slice {which}: {name} = {value!r}"
        folder = tmp_path / f"{number}"
        made.save(folder, slices)
        try:
            volume = read_series(choose_series(find_series(folder)))
        except Refused:
            assert name not in IDLE or value is None, told
            continue
        same = volume.image.shape == values.shape and np.allclose(np.asarray(volume.image.affine), affine)
        if name in ("RescaleSlope", "RescaleIntercept") and same:
            # a slice may have its own: all others are as they were, and this one is what its header says
            others = [
                k
                for k in range(values.shape[-1])
                if k != np.abs(volume.image.numpy() - values).sum((0, 1, 2)).argmax()
            ]
            assert np.array_equal(volume.image.numpy()[..., others], values[..., others]), told
            continue
        assert same, told
        assert np.array_equal(volume.image.numpy(), values), told
