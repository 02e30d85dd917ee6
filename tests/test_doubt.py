"""The score of doubt: what it measures, that more of a part is never less of it, and what it finds."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

import medseg
from medseg import Plan, Refused, load_bundle
from medseg.bundle import Bundle, save_bundle
from medseg.bundle_files import SUMS
from medseg.cli.script import run_script
from medseg.inference import Prediction
from medseg.networks import build_network
from medseg.radiology.calibrating import fit_weights, found_early, keep_reference, sum_up_signs
from medseg.radiology.degrading import DEGRADATIONS, degrade
from medseg.radiology.doubt import measure_doubt, score_parts
from medseg.radiology.looks import compare_looks, expected_dice, take_looks
from medseg.radiology.reference import PARTS, Reference, Sign, Weight, load_reference
from medseg.radiology.signs import measure_signs
from medseg.tiling import Geometry

CLASSES = {3: "one", 7: "two"}
SPACING = (0.7, 1.3, 3.1)


class Bright(nn.Module):
    """Calls what is near 100 the first class and near 200 the second; in its right half less so, if told."""

    geometry = Geometry(halo=(0, 0, 0), stride=(1, 1, 1), shrink=(0, 0, 0), minimum=(1, 1, 1))

    def __init__(self, *, blind: bool = False, level: float = 100.0) -> None:
        super().__init__()
        self.scale, self.blind, self.level = nn.Parameter(torch.ones(())), blind, level

    def forward(self, image: Tensor) -> Tensor:
        logits = -self.scale * torch.cat([(image - self.level * c).abs() for c in range(3)], dim=1) / 10
        if self.blind:
            logits[:, 0, image.shape[2] // 2 :] = 20
        return logits


def bundle(network: nn.Module | None = None, **values: Any) -> Bundle:
    plan = Plan(name="bright").with_values(
        {
            "input.spatial_dims": 3,
            "train.patch": (16, 16, 16),
            "input.normalise": "none",
            "input.orientation": "RAS",
            "input.spacing_unit": "mm",
            "target.kind": "semantic",
            "target.classes": ("background", "one", "two"),
            "target.values": (0, 3, 7),
        }
        | {key.replace("__", "."): value for key, value in values.items()}
    )
    return Bundle("bright", plan, (network or Bright()).eval(), torch.device("cpu"), "", Path("nowhere"))


def phantom() -> np.ndarray:
    label = np.zeros((16, 13, 10), np.uint8)
    label[2:6, 2:9, 1:7] = 3
    label[9:14, 3:7, 2:5] = 7
    return label


def volume(label: np.ndarray, affine: Any = None) -> MetaTensor:
    image = np.select([label == 3, label == 7], [100.0, 200.0], 0.0).astype(np.float32)
    return MetaTensor(
        torch.from_numpy(image[None]), affine=np.diag([*SPACING, 1.0]) if affine is None else affine
    )


def known(label: np.ndarray | None = None) -> Reference:
    image = volume(phantom())
    signs = measure_signs(np.asarray(image), phantom(), np.asarray(image.affine), CLASSES)
    near = {name: Sign(v, 0.1, v - 0.1, v + 0.1) for name, v in signs.items()}
    return Reference(signs=near, parts={name: Weight(1.0) for name in PARTS}, bias=-3.0)


def doubt_of(image: MetaTensor, model: Bundle | None = None, **more: Any) -> Any:
    model = model or bundle()
    return measure_doubt(
        model, image, medseg.predict(model, image, probabilities=True), reference=known(), **more
    )


# what is measured


def test_signs_by_hand() -> None:
    label = phantom()
    signs = measure_signs(np.asarray(volume(label)), label, np.diag([*SPACING, 1.0]), CLASSES)
    voxel = math.prod(SPACING)
    assert math.exp(signs["volume.one"]) == pytest.approx(4 * 7 * 6 * voxel / 1000)
    a, b, c = 4 * 0.7, 7 * 1.3, 6 * 3.1
    ball = (36 * math.pi) ** (1 / 3) * (a * b * c) ** (2 / 3)
    assert math.exp(signs["shape.one"]) == pytest.approx(2 * (a * b + b * c + a * c) / ball)
    assert signs["border.one"] == 0
    assert signs["fragments.one"] == 0
    assert math.exp(signs["spacing.A"]) == pytest.approx(1.3)
    assert math.exp(signs["extent.S"]) == pytest.approx(31)
    assert signs["brightness.two"] == 200
    assert signs["place.two.R"] == pytest.approx((11 - 3.5) * 0.7 / 2)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_signs_belong_to_the_patient_not_to_the_array(order: tuple[int, ...]) -> None:
    label = phantom()
    image = volume(label)
    expected = measure_signs(np.asarray(image), label, np.asarray(image.affine), CLASSES)
    turned = np.flip(label.transpose(order), 0)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(SPACING)[:, order]
    affine[:3, 0] *= -1
    found = measure_signs(np.asarray(volume(turned)), turned, affine, CLASSES)
    assert found == pytest.approx(expected)


def test_the_end_of_the_image_and_pieces_are_seen() -> None:
    label = phantom()
    label[15, 0, 0] = 3
    signs = measure_signs(np.asarray(volume(label)), label, np.diag([*SPACING, 1.0]), CLASSES)
    assert signs["fragments.one"] == pytest.approx(1 / 169)
    faces = {0: SPACING[1] * SPACING[2], 1: SPACING[0] * SPACING[2], 2: SPACING[0] * SPACING[1]}
    box = 2 * (28 * faces[2] + 42 * faces[0] + 24 * faces[1])
    lone = 2 * sum(faces.values())
    alone = 2 * (28 * faces[2] + 42 * faces[0] + 24 * faces[1])
    assert alone == box
    assert signs["border.one"] == pytest.approx(sum(faces.values()) / (box + lone))


def test_nothing_found_is_a_volume_of_nothing() -> None:
    empty = np.zeros((6, 7, 5), np.uint8)
    signs = measure_signs(np.zeros((1, 6, 7, 5), np.float32), empty, np.eye(4), CLASSES)
    assert signs["volume.one"] == -math.inf
    assert "shape.one" not in signs
    found = doubt_of(volume(empty))
    assert found.score > 0.95
    assert "nothing was found" in found.reasons(9)
    assert "no one was found" in found.reasons(9)
    # what is absent is known by more than its words
    assert {part.text for part in found.parts.values() if part.absent} == {
        text for text in found.reasons(9) if "was found" in text
    }
    assert not any("was found" in text for text in found.reasons(9, absent=False))
    assert len(found.reasons(9, absent=False)) > 0


def test_expected_dice_is_the_mean_over_drawn_references(rng: np.random.Generator) -> None:
    shares = rng.dirichlet([1, 1, 1], size=(30, 40)).transpose(2, 0, 1)
    labels = shares.argmax(0)
    drawn = []
    for _ in range(300):
        reference = (rng.random((30, 40)) > np.cumsum(shares, 0)[:2]).sum(0)
        both = ((labels == 1) & (reference == 1)).sum()
        drawn.append(2 * both / ((labels == 1).sum() + (reference == 1).sum()))
    assert expected_dice(shares, {1: "a"})["a"] == pytest.approx(np.mean(drawn), abs=0.01)


# looking again


def test_a_network_that_is_like_its_mirror_image_agrees_with_it() -> None:
    image = volume(phantom())
    for model in (bundle(), bundle(predict__flips=True), bundle(augment__flip_axes=(1,))):
        looks = take_looks(model, image, medseg.predict(model, image, probabilities=True))
        assert looks.how == "flips"
        assert looks.agreement == {"one": 1.0, "two": 1.0}


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("flips", [False, True])
def test_one_that_is_not_disagrees_by_what_it_misses(flips: bool, kept: bool) -> None:
    label = phantom()
    label[9:14] = 0
    label[7, 3:7, 2:5] = 7  # beside the middle: one look sees it, the other does not
    label[8, 3:7, 2:5] = 7
    model = bundle(Bright(blind=True), predict__flips=flips, augment__flip_axes=(0,))
    image = volume(label)
    looks = take_looks(model, image, medseg.predict(model, image, probabilities=kept))
    assert looks.agreement == {"one": 0.0, "two": 0.0}  # each sees its own side only
    assert (looks.expected is None) == (not kept)


def test_the_mirror_follows_the_patient_not_the_array() -> None:
    """The axis of the flip is one of the network's grid."""
    label = phantom()
    order = (2, 0, 1)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(SPACING)[:, order]
    model = bundle(Bright(blind=True), augment__flip_axes=(0,))
    for one, where in ((label, None), (label.transpose(order), affine)):
        image = volume(one, where)
        looks = take_looks(model, image, medseg.predict(model, image, probabilities=True))
        assert looks.agreement == {"one": 0.0, "two": 0.0}


def test_a_network_without_flips_looks_at_the_volume_displaced() -> None:
    model = bundle(augment__flip_prob=0.0)
    image = volume(phantom())
    looks = take_looks(model, image, medseg.predict(model, image))
    assert looks.how == "displacement"
    assert looks.agreement == {"one": 1.0, "two": 1.0}
    blind = bundle(Bright(blind=True), augment__flip_prob=0.0)  # its middle moves with the image
    label = np.zeros((20, 8, 9), np.uint8)
    label[4:, 4:6, 3:6] = 3
    image = volume(label)
    looks = take_looks(blind, image, medseg.predict(blind, image))
    assert looks.agreement["one"] == pytest.approx(2 * 6 / (6 + 7))


def test_members_of_an_ensemble_look_one_by_one() -> None:
    from medseg.networks import Ensemble

    image = volume(phantom())
    alike, unlike = ([Bright(), Bright(level=level)] for level in (100.0, 190.0))
    for members, expected in ((alike, 1.0), (unlike, 0.0)):
        model = bundle(Ensemble(members))
        looks = take_looks(model, image, medseg.predict(model, image))
        assert looks.how == "members"
        assert looks.agreement["two"] == expected


def test_compared_with_the_metric(rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 3, (2, 9, 8, 7))
    found = compare_looks([a, b], {1: "x", 2: "y"})
    assert found == pytest.approx({"x": medseg.metrics.dice(a, b)[1], "y": medseg.metrics.dice(a, b)[2]})


# the score


def test_a_typical_volume_is_not_doubted_and_a_strange_one_is() -> None:
    label = phantom()
    usual = doubt_of(volume(label))
    assert usual.calibrated
    assert usual.score < 0.2
    assert usual.reasons() == []
    strange = volume(label[:11])  # the second class is cut in two
    found = doubt_of(strange)
    assert found.score > usual.score + 0.3
    assert any("image ends" in text for text in found.reasons(9))
    assert any(text.startswith("volume of two") for text in found.reasons(9))


def test_more_of_a_part_is_never_less_doubt() -> None:
    weights = Reference(parts={name: Weight(0.3 * i) for i, name in enumerate(PARTS)}, bias=-2.0)
    for name in PARTS:
        scores = [
            score_parts(dict.fromkeys(PARTS, 0.1) | {name: value}, {}, weights).score
            for value in (0.0, 0.01, 0.3, 2.0, 20.0, math.inf if name == "volume" else 40.0)
        ]
        assert scores == sorted(scores)
        assert 0 <= scores[0] <= scores[-1] <= 1


def test_a_part_that_could_not_be_measured_counts_as_typical() -> None:
    weights = Reference(parts={"looks": Weight(2.0, 0.07), "unsure": Weight(1.0, 0.1)}, bias=-2.0)
    without = weights.score({"looks": 0.3})
    assert without == weights.score({"looks": 0.3, "unsure": 0.1})
    assert without == weights.score({"looks": 0.3, "unsure": math.nan})


def test_a_bundle_without_cases_of_its_own_still_gives_an_order() -> None:
    model = bundle()
    good, bad = volume(phantom()), volume(phantom()[:4])
    found = [
        measure_doubt(model, image, medseg.predict(model, image, probabilities=True)) for image in (good, bad)
    ]
    assert not found[0].calibrated
    assert found[1].score > found[0].score
    assert set(found[0].parts) <= set(PARTS)


def test_planes_are_refused() -> None:
    plane = Bundle("p", Plan(), Bright(), torch.device("cpu"), "", Path("nowhere"))
    prediction = Prediction(np.zeros((4, 5)), None, np.eye(4), "mm", plane.plan)
    with pytest.raises(Refused) as refusal:
        measure_doubt(plane, np.zeros((4, 5)), prediction)
    assert refusal.value.reason == "not-organs"


# calibrating


def test_known_weights_are_found_again(rng: np.random.Generator) -> None:
    true = Reference(parts={"looks": Weight(1.2), "border": Weight(0.0), "volume": Weight(0.6)}, bias=-3.0)
    rows = [
        {"looks": float(a), "border": float(b), "volume": float(c)}
        for a, b, c in zip(rng.random(400), rng.random(400), 5 * rng.random(400))
    ]
    found = fit_weights(rows, [1 - true.score(row) for row in rows])
    for name, weight in true.parts.items():
        assert found.parts[name].weight == pytest.approx(weight.weight, abs=0.1)
    told = [found.score(row) for row in rows]
    assert told == pytest.approx([true.score(row) for row in rows], abs=0.03)


def test_a_part_that_goes_with_less_error_gets_no_weight(rng: np.random.Generator) -> None:
    values = rng.random(60)
    found = fit_weights([{"border": float(v)} for v in values], values)
    assert found.parts["border"].weight == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("call", [lambda: fit_weights([{}] * 9, [1.0] * 9), lambda: sum_up_signs([{}] * 4)])
def test_few_cases_are_refused(call: Any) -> None:
    with pytest.raises(Refused) as refusal:
        call()
    assert refusal.value.reason == "too-few-cases"


def test_found_early() -> None:
    errors = np.arange(20) / 20
    assert found_early(errors, errors) == 1
    assert found_early(-errors, errors) == 0
    assert found_early(errors[::-1], errors, worst=0.5, first=0.5) == 0
    rng = np.random.default_rng(0)
    chance = [found_early(rng.random(50), rng.random(50)) for _ in range(400)]
    assert np.mean(chance) == pytest.approx(0.2, abs=0.02)


# in the bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plan = Plan(name="small").with_values({"network.channels": (2, 4)})
    return save_bundle(tmp_path / "small", plan, build_network(plan), card="# Small\n\nCC0")


def test_it_goes_into_a_bundle_and_back(folder: Path) -> None:
    assert load_reference(load_bundle(folder)) is None
    reference = Reference(
        signs={'volume.one/two "x"': Sign(0.5, 0.25, 0.0, 1.0, 0.5)},
        parts={"looks": Weight(1.5, 0.25)},
        bias=-2.5,
        made="of 5",
    )
    for _ in range(2):
        keep_reference(folder, reference)
        assert load_reference(load_bundle(folder)) == reference
        assert len((folder / SUMS).read_text().splitlines()) == 5
    assert [p.name for p in folder.parent.iterdir()] == ["small"], "nothing is left beside it"
    zipped = shutil.make_archive(str(folder.parent / "z"), "zip", folder.parent, "small")
    assert load_reference(load_bundle(zipped)) == reference
    with pytest.raises(Refused, match="zip"):
        keep_reference(zipped, reference)


def test_one_that_was_changed_is_refused(folder: Path) -> None:
    keep_reference(folder, Reference(parts={"looks": Weight(1.0)}))
    text = (folder / "doubt.toml").read_text()
    (folder / "doubt.toml").write_text(text.replace("1.0", "2.0"))
    with pytest.raises(Refused) as refusal:
        load_bundle(folder)
    assert refusal.value.reason == "bad-bundle"


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "format = 2",
        "format = 1\nbias = nan",
        "format = 1\n[parts]\nlooks = [-1.0, 0.0]",
        "format = 1\n[parts]\nnonsense = [1.0, 0.0]",
        "format = 1\n[signs]\ngrain = [1.0]",
        "format = 1\nmore = 1",
    ],
)
def test_a_file_that_says_something_else_is_refused(text: str) -> None:
    with pytest.raises(Refused) as refusal:
        Reference.from_toml(text)
    assert refusal.value.reason == "bad-bundle"


# volumes made worse


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_a_volume_is_made_worse_the_same_way_twice(kind: str, rng: np.random.Generator) -> None:
    label = phantom()
    image = volume(label)
    image += torch.from_numpy(rng.normal(size=image.shape)).float()
    before = np.asarray(image).copy()
    one, two = (degrade(image, label, kind, severity=0.8, rng=np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(np.asarray(one[0]), np.asarray(two[0]))
    assert np.array_equal(one[1], two[1])
    assert one[0].shape[1:] == one[1].shape
    assert np.isfinite(np.asarray(one[0])).all()
    assert np.array_equal(np.asarray(image), before), "the volume that was given stays as it is"
    same = one[0].shape == image.shape and np.array_equal(np.asarray(one[0]), before)
    assert not same or not np.allclose(one[0].affine, image.affine)


def test_what_is_left_of_a_cropped_volume_lies_where_it_lay() -> None:
    label = phantom()
    image = volume(label)
    for seed in range(8):
        part, _ = degrade(image, label, "cropped", severity=1.0, rng=np.random.default_rng(seed))
        shift = np.linalg.inv(np.asarray(image.affine)) @ np.asarray(part.affine)
        at = tuple(slice(round(s), round(s) + n) for s, n in zip(shift[:3, 3], part.shape[1:]))
        assert np.array_equal(np.asarray(image)[(slice(None), *at)], np.asarray(part))


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(Refused) as refusal:
        degrade(volume(phantom()), phantom(), "nois", severity=1, rng=np.random.default_rng(0))
    assert refusal.value.reason == "unknown-degradation"


# the pipeline


def test_the_pipeline_calibrates_a_bundle_and_goes_on(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    for i in range(12):
        label = phantom()[:, : 11 + i % 3]
        label[label == 7] = 1
        label[label == 3] = 2
        image = np.asarray(volume(label), np.float32) + rng.normal(size=label.shape).astype(np.float32)
        affine = np.diag([*SPACING, 1.0])
        medseg.write(
            MetaTensor(torch.from_numpy(image), affine=affine, meta={"spacing_unit": "mm"}),
            data / f"images/c{i}.nii.gz",
        )
        medseg.write(
            MetaTensor(
                torch.from_numpy(label[None].astype(np.uint8)), affine=affine, meta={"spacing_unit": "mm"}
            ),
            data / f"labels/c{i}.nii.gz",
        )
    plan = bundle().plan.with_values(
        {
            "network.channels": (2, 4),
            "target.values": (0, 1, 2),
            "split.folds": 7,
            "split.test_fraction": 0.07,
        }
    )
    folder = save_bundle(tmp_path / "b", plan, build_network(plan), card="# b")
    path = Path(__file__).parents[1] / "pipelines/radiology_triage.py"
    spec = importlib.util.spec_from_file_location("radiology_triage", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    words = [str(data), "-o", str(tmp_path / "out"), "--bundle", str(folder), "--quick", "--keep"]
    monkeypatch.setattr(script, "QUICK_CASES", 6)
    assert run_script(script.main, words) == 0
    first = (tmp_path / "out/doubt.toml").read_bytes()
    assert load_reference(load_bundle(folder)) == Reference.from_toml(first.decode())
    rows = (tmp_path / "out/trials.jsonl").read_text().splitlines()
    (tmp_path / "out/trials.jsonl").write_text("".join(f"{row}\n" for row in rows[: len(rows) // 2]))
    assert run_script(script.main, words) == 0
    assert (tmp_path / "out/doubt.toml").read_bytes() == first, "stopped half way, the result is the same"
    figures = json.loads((tmp_path / "out/triage.json").read_text())
    assert 0 <= figures["found early, 20% made worse"][0] <= 1


# the shipped model on real volumes


def test_worse_volumes_are_doubted_more_than_they_were(shared_data: Path) -> None:
    folder = shared_data / "Task04_Hippocampus"
    if not folder.is_dir():
        pytest.skip("the data set is not there")
    cases = {case.name: case for case in medseg.load_dataset(folder)}
    model = load_bundle("hippocampus", device="cpu")
    case = cases["hippocampus_040"]
    image, label = medseg.dataset.read_case(case), np.asarray(medseg.dataset.read_case_label(case)[0])

    def score(image: MetaTensor) -> Any:
        return measure_doubt(model, image, medseg.predict(model, image, probabilities=True))

    usual = score(image)
    assert usual.calibrated
    assert usual.score < 0.25
    for kind in ("noise", "flipped", "cropped", "contrast", "void"):
        worse, _ = degrade(image, label, kind, severity=0.9, rng=np.random.default_rng(1))
        assert score(worse).score > usual.score + 0.05, kind
