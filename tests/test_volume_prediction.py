"""Volumes through a model and back: every labelled voxel at its place in the patient."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from scipy import ndimage
from torch import Tensor, nn

from medseg import Plan, Refused, predict
from medseg.bundle import Bundle
from medseg.dataset import load_dataset
from medseg.jobs import predict_files
from medseg.sampling import load_samples
from medseg.tiling import Geometry

EVERY = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
SPACING = (0.7, 1.3, 3.1)


class Threshold(nn.Module):
    """Calls what is near 100 the first class, and near 200 the second."""

    geometry = Geometry(halo=(0, 0, 0), stride=(1, 1, 1), shrink=(0, 0, 0), minimum=(1, 1, 1))

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        return -self.scale * torch.cat([(image - 100 * c).abs() for c in range(3)], dim=1)


def bundle(**values: Any) -> Bundle:
    plan = Plan(name="threshold").with_values(
        {
            "input.spatial_dims": 3,
            "train.patch": (16, 16, 16),
            "input.normalise": "none",
            "input.orientation": "RAS",
            "input.spacing_unit": "mm",
            "target.classes": ("background", "one", "two"),
            "target.values": (0, 3, 7),
        }
        | {key.replace("__", "."): value for key, value in values.items()}
    )
    return Bundle("threshold", plan, Threshold().eval(), torch.device("cpu"), "", Path("threshold"))


def phantom() -> np.ndarray:
    label = np.zeros((14, 11, 9), np.uint8)
    label[2:6, 2:9, 1:7] = 1
    label[8:13, 3:7, 2:5] = 2
    label[8:10, 7:9, 2:8] = 2
    return label


def affine_of(order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (world, sign) in enumerate(zip(order, signs)):
        affine[world, axis] = sign * SPACING[axis]
    a, b = 0.25, -0.15
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine[:3, :3] = about_z @ about_x @ affine[:3, :3]
    affine[:3, 3] = (12, -40, 7)
    return affine


def points(label: np.ndarray, affine: np.ndarray, value: int) -> np.ndarray:
    """Places in the patient of the voxels of a value, sorted."""
    at = np.argwhere(label == value) @ affine[:3, :3].T + affine[:3, 3]
    return at[np.lexsort(np.round(at, 3).T)]


def by_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_48_orders_of_axes_through_a_model(tmp_path: Path, suffix: str) -> None:
    label, model, images = phantom(), bundle(), {}
    for order, signs in EVERY:
        name = "".join("xyz"[a] for a in order) + "".join("+-"[s < 0] for s in signs)
        image = nibabel.Nifti1Image((label * 100).astype(np.int16), affine_of(order, signs))
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
        images[name] = tmp_path / f"{name}{suffix}"
        if suffix == ".nrrd":
            SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / f"{name}.nii.gz")), str(images[name]))
    result = predict_files(model, images, tmp_path / "out")
    assert len(result.done) == 48
    for order, signs in EVERY:
        name = "".join("xyz"[a] for a in order) + "".join("+-"[s < 0] for s in signs)
        expected = affine_of(order, signs)
        path = tmp_path / f"out/{name}{suffix}"
        readings = [by_itk(path)]
        if suffix == ".nii.gz":
            read = nibabel.load(path)
            readings.append((np.asarray(read.dataobj), read.affine))
        for found, affine in readings:
            for value, was in ((3, 1), (7, 2)):
                placed, true = points(found, affine, value), points(label, expected, was)
                assert placed.shape == true.shape
                assert np.abs(placed - true).max() < 1e-3


def test_at_another_spacing_objects_stay_where_they_are(tmp_path: Path) -> None:
    label = np.kron(phantom(), np.ones((2, 2, 2), np.uint8))
    nibabel.save(
        nibabel.Nifti1Image((label * 100).astype(np.int16), affine_of((2, 0, 1), (-1, 1, -1))),
        tmp_path / "a.nii.gz",
    )
    model = bundle(input__spacing=(1.0, 0.9, 1.1), input__resample=True)
    found = predict(model, tmp_path / "a.nii.gz").labels
    assert found.shape == label.shape
    for value, was in ((3, 1), (7, 2)):
        assert (found[ndimage.binary_erosion(label == was)] == value).all()
    assert not found[~ndimage.binary_dilation(label > 0)].any()


def test_a_crop_leaves_background_around(tmp_path: Path) -> None:
    label = phantom()
    image = (label * 100 + 0).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(image, affine_of((1, 0, 2), (1, -1, 1))), tmp_path / "a.nii.gz")
    whole = predict(bundle(), tmp_path / "a.nii.gz", probabilities=True)
    cropped = predict(bundle(input__crop="nonzero"), tmp_path / "a.nii.gz", probabilities=True)
    assert np.array_equal(whole.labels, cropped.labels)
    assert whole.probabilities is not None
    assert cropped.probabilities is not None
    assert np.abs(cropped.probabilities.sum(0) - 1).max() < 1e-5


@pytest.mark.parametrize(
    ("shape", "reason"), [((14, 11), "too-few-dimensions"), ((14, 11, 9, 2), "channel-mismatch")]
)
def test_axes_and_channels_that_a_model_does_not_take(
    tmp_path: Path, shape: tuple[int, ...], reason: str
) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(Refused) as refused:
        predict(bundle(), tmp_path / "a.nii.gz")
    assert refused.value.reason == reason


PEAK = """
import re, sys
import numpy as np, torch
import medseg
from medseg.bundle import Bundle
from medseg.dataset import load_dataset
from medseg.networks import build_network
from monai.data import MetaTensor

classes = int(sys.argv[1])
torch.manual_seed(0)
plan = medseg.Plan().with_values({
    "input.spatial_dims": 3, "train.patch": (16, 16, 16), "network.channels": (4, 8),
    "input.normalise": "none",
    "input.orientation": "RAS", "input.resample": True, "input.spacing": (1.5, 1.5, 1.5),
    "input.spacing_unit": "mm", "predict.mirror": 0,
    "target.classes": tuple(f"c{i}" for i in range(classes)), "target.values": tuple(range(classes)),
})
bundle = Bundle("b", plan, build_network(plan).eval(), torch.device("cpu"), "", None)
image = MetaTensor(torch.zeros(1, 128, 120, 96, dtype=torch.int16), meta={"spacing_unit": "mm"})
labels = medseg.predict(bundle, image, max_ram_gb=0.9).labels
assert labels.shape == (128, 120, 96)
print(int(re.search("VmHWM: *\\t* *([0-9]+)", open("/proc/self/status").read())[1]) * 1024)
"""


@pytest.mark.parametrize("classes", [2, 104])
def test_memory_is_bounded_whatever_the_number_of_classes(classes: int) -> None:
    """104 classes on the volume's grid would take 0.6 GB, beside the 0.5 GB of the libraries."""
    words = [sys.executable, "-c", PEAK, str(classes)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) <= 1.1 * 0.9e9


def volume_pair(folder: Path, *, shift: float = 0.0, spacing: float = 1.0) -> Path:
    label = phantom()
    for sub, array in (("imagesTr", (label * 100).astype(np.int16)), ("labelsTr", label)):
        (folder / sub).mkdir(parents=True, exist_ok=True)
        affine = np.diag([spacing, 1.0, 2.0, 1.0])
        affine[0, 3] = shift if sub == "labelsTr" else 0.0
        nibabel.save(nibabel.Nifti1Image(array, affine), folder / f"{sub}/a.nii.gz")
    return folder


def test_a_label_elsewhere_in_the_patient_is_not_trained_on(tmp_path: Path) -> None:
    plan = bundle(target__values=(0, 1, 2)).plan
    case = load_dataset(volume_pair(tmp_path / "good", shift=0.05)).cases[0]
    assert torch.equal(
        load_samples([case], plan)[0]["image"].affine, load_samples([case], plan)[0]["label"].affine
    )
    case = load_dataset(volume_pair(tmp_path / "bad", shift=0.5)).cases[0]
    with pytest.raises(Refused, match="elsewhere in the patient") as refused:
        load_samples([case], plan)
    assert refused.value.reason == "different-grids"


def test_a_spacing_of_the_data_set_holds_for_training(tmp_path: Path) -> None:
    plan = bundle(input__spacing=(1.0, 1.0, 1.0), input__resample=True, target__values=(0, 1, 2)).plan
    case = load_dataset(volume_pair(tmp_path, spacing=2.0)).cases[0]
    own = load_samples([case], plan)[0]["image"]
    given = load_samples([replace(case, spacing=(1.0, 1.0, 1.0), spacing_unit="mm")], plan)[0]
    assert own.shape == (1, 27, 11, 17)
    assert given["image"].shape == given["label"].shape == (1, 14, 11, 9)


@pytest.mark.parametrize("resample", [False, True])
def test_a_volume_of_one_slice(tmp_path: Path, resample: bool) -> None:
    label = phantom()[:, :, 3:4]
    nibabel.save(
        nibabel.Nifti1Image((label * 100).astype(np.int16), np.diag([1, 1, 5, 1])), tmp_path / "a.nii"
    )
    model = bundle(input__spacing=(1.0, 1.0, 2.0), input__resample=resample)
    assert np.array_equal(predict(model, tmp_path / "a.nii").labels, np.array([0, 3, 7])[label])
