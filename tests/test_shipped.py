"""The bundles that come with the package: whole, small, described, and of use on images of any brightness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import medseg
import medseg.cli
from medseg.bundle import verify_bundle
from medseg.bundle_files import SHIPPED, bundle_names
from medseg.metrics import ap
from medseg.phantoms import cells

MOST_BYTES = 10e6


@pytest.mark.parametrize("name", bundle_names())
def test_a_shipped_bundle_is_whole_small_and_described(name: str) -> None:
    bundle = medseg.load_bundle(name, device="cpu")
    assert bundle.name == name
    assert verify_bundle(bundle) < 1e-2
    assert sum(file.stat().st_size for file in (SHIPPED / name).iterdir()) < MOST_BYTES
    for word in ("Licence", "Data", "Scores"):
        assert word in bundle.card


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Cells of a kind that the network was not trained on."""
    return cells((200, 260), rng=np.random.default_rng(3), touching=0.2, uneven=0.2)


def found(image: np.ndarray, reference: np.ndarray) -> float:
    return ap(medseg.predict("nuclei", image).instances(), reference, thresholds=(0.5,))[0.5]


@pytest.mark.parametrize("change", ["8 bit", "16 bit", "dim", "rgba", "dark on bright", "float"])
def test_nuclei_are_found_at_any_brightness(drawn: tuple[np.ndarray, np.ndarray], change: str) -> None:
    image, reference = drawn
    grey = (image * 255).astype(np.uint8)
    changed = {
        "8 bit": grey,
        "16 bit": (image * 60000).astype(np.uint16),
        "dim": (image * 900 + 40000).astype(np.uint16),
        "rgba": np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=-1),
        "dark on bright": 255 - grey,
        "float": image * 1e-4,
    }[change]
    assert found(changed, reference) > 0.6


def test_a_file_is_segmented_by_name(drawn: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    medseg.write((drawn[0] * 255).astype(np.uint8), tmp_path / "image.png")
    assert (
        medseg.cli.main(["predict", "nuclei", str(tmp_path / "image.png"), "-o", str(tmp_path / "out")]) == 0
    )
    assert medseg.io.read_label(tmp_path / "out/image.png").max() > 5


def test_hippocampi_that_were_not_seen_in_training_lie_where_they_are(shared_data: Path) -> None:
    folder = shared_data / "Task04_Hippocampus"
    if not folder.is_dir():
        pytest.skip("the data set is not there")
    cases = {case.name: case for case in medseg.load_dataset(folder)}
    scores = []
    for name in ("hippocampus_004", "hippocampus_040", "hippocampus_044"):
        prediction = medseg.predict("hippocampus", cases[name])
        assert prediction.labels.dtype == np.uint8
        scores.append(medseg.evaluate(prediction, cases[name]).mean("dice"))
    assert np.mean(scores) > 0.83


def test_an_empty_volume_has_no_hippocampus_worth_the_name() -> None:
    labels = medseg.predict("hippocampus", np.zeros((30, 45, 33), np.float32)).labels
    assert labels.shape == (30, 45, 33)
    assert np.mean(labels > 0) < 0.2
