"""Pixels that do not count: from the label file to loss, score and prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import medseg
from medseg import Plan, Refused
from medseg.chains import augmenting_chain, loading_chain, target_chain
from medseg.losses import LOSSES, cross_entropy, loss_of
from medseg.metrics import accuracies, ap, confusion, score_arrays, without_ignored
from medseg.sampling import PatchDataset, load_samples
from medseg.targets import IGNORED
from medseg.training.optimisation import supervised_loss
from medseg.training.validation import score_labels, validate
from medseg.transforms import BorderWeightMapd, ClassPlacesd, Downsampled, Targetd

SMALL = {"network.channels": (2, 4), "train.steps": 2, "train.workers": 0, "train.patch": (32, 48)}


def made(classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, classes, 5, 8, generator=rng, dtype=torch.float64)
    target = torch.randint(0, classes, (1, 5, 8), generator=rng)
    ignored = torch.rand(1, 5, 8, generator=rng) < 0.3
    return logits, target, ignored


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_that_of_the_other_pixels_alone(name: str, weighted: bool) -> None:
    logits, target, ignored = made(2)
    weight = torch.rand(1, 5, 8, dtype=torch.float64) if weighted else None
    hidden = target.masked_fill(ignored, IGNORED)
    logits.requires_grad_()
    value = LOSSES[name](logits, hidden, weight=weight)
    value.backward()
    known = ~ignored[0]
    rest = LOSSES[name](
        logits.detach()[:, :, known], target[:, known], weight=None if weight is None else weight[:, known]
    )
    assert value.item() == pytest.approx(rest.item(), rel=1e-12)
    assert logits.grad is not None
    assert (logits.grad[:, :, ~known] == 0).all()
    assert (logits.grad[:, :, known] != 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_where_no_pixel_counts_a_loss_is_zero_and_teaches_nothing(name: str) -> None:
    logits = torch.randn(2, 2, 3, 4, 5, requires_grad=True)
    value = LOSSES[name](logits, torch.full((2, 3, 4, 5), IGNORED))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_an_image_that_is_wholly_ignored_does_not_count(name: str) -> None:
    logits, target, _ = made(2)
    alone = LOSSES[name](logits, target)
    beside = LOSSES[name](
        torch.cat([logits, logits + 1]), torch.cat([target, torch.full_like(target, IGNORED)])
    )
    assert beside.item() == pytest.approx(alone.item(), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_deep_supervision_ignores_at_every_level(name: str) -> None:
    rng = torch.Generator().manual_seed(3)
    levels = [torch.randn(1, 2, 8 // n, 12 // n, generator=rng, requires_grad=True) for n in (1, 2, 4)]
    target = torch.randint(0, 2, (1, 8, 12), generator=rng)
    target[:, 2:7, 3:10] = IGNORED
    value = supervised_loss(LOSSES[name], levels, target, torch.rand(1, 8, 12, generator=rng))
    value.backward()
    assert torch.isfinite(value)
    for n, level in zip((1, 2, 4), levels):
        hidden = target[0, n // 2 :: n, n // 2 :: n] == IGNORED
        assert hidden.any()
        assert level.grad is not None
        assert (level.grad[0, :, hidden] == 0).all()
        assert (level.grad[0, :, ~hidden] != 0).any()


def test_cross_entropy_is_pytorchs_and_its_number_the_same() -> None:
    logits, target, ignored = made(4)
    hidden = target.masked_fill(ignored, IGNORED)
    theirs = torch.nn.CrossEntropyLoss()(logits, hidden)  # its default ignores what medseg ignores
    assert cross_entropy(logits, hidden).item() == pytest.approx(theirs.item(), rel=1e-12)


def test_another_negative_index_is_refused() -> None:
    logits, target, _ = made(3)
    target[0, 0, 0] = IGNORED
    target[0, 1, 1] = -1
    with pytest.raises(Refused, match="class index out of range"):
        cross_entropy(logits, target)


def test_the_factor_of_dice_comes_from_the_plan() -> None:
    logits, target, _ = made(2)
    plan = Plan().with_values({"train.loss": "bce_dice", "train.dice_weight": 0.25})
    bce, both = (LOSSES["bce_dice"](logits, target, dice_weight=w).item() for w in (0.0, 1.0))
    assert loss_of(plan)(logits, target).item() == pytest.approx(bce + 0.25 * (both - bce))
    assert loss_of(Plan()) is cross_entropy
    with pytest.raises(Refused, match=r"train\.dice_weight"):
        plan.with_values({"train.dice_weight": -1.0})


# --- from files to targets


def write_scene(root: Path, n: int = 4, *, values: tuple[int, int] = (0, 3), void: int = 255) -> None:
    """Bright discs on dark ground with a rim of void around them, whose brightness is its own."""
    rows, columns = np.mgrid[:40, :60]
    for i in range(n):
        far = np.hypot(rows - 18 - i, columns - 25 - 3 * i)
        label = np.where(far < 9, values[1], values[0]).astype(np.uint8)
        label[(far >= 9) & (far < 13)] = void
        image = np.select([far < 9, far < 13], [200, 120], 30).astype(np.uint8)
        medseg.write(image, root / f"images/{i}.png")
        medseg.write(label, root / f"labels/{i}.png")


def plan_of(root: Path, **more: object) -> tuple[Plan, medseg.Dataset]:
    (root / "dataset.toml").write_text(
        'classes = { disc = 3 }\nignore = 255\n[files]\nimage = "images/{case}.png"\n'
        'label = "labels/{case}.png"\n'
    )
    dataset = medseg.load_dataset(root)
    return medseg.make_plan(dataset).with_values({**SMALL, **more}), dataset


def test_an_ignored_value_goes_from_the_description_into_plan_and_samples(tmp_path: Path) -> None:
    write_scene(tmp_path)
    plan, dataset = plan_of(tmp_path)
    assert dataset.ignore == (255,)
    assert plan.target.ignore == (255,)
    assert plan.target.values == (0, 3)
    sample = load_samples(dataset.cases, plan)[0]
    raw = np.asarray(medseg.io.read_label(dataset.cases[0].label)[0])
    expected = np.select([raw == 255, raw == 3], [IGNORED, 1], 0)
    assert np.array_equal(np.asarray(sample["label"][0]), expected)


def test_values_of_classes_are_not_ignored() -> None:
    with pytest.raises(Refused, match=r"target\.ignore"):
        Plan().with_values({"target.ignore": (1,)})
    with pytest.raises(Refused, match=r"target\.ignore"):
        Plan().with_values({"target.kind": "instances", "target.ignore": (0,)})


def test_ignored_pixels_move_with_their_image_and_none_come_from_outside(tmp_path: Path) -> None:
    write_scene(tmp_path)
    more = {"augment.elastic_prob": 1.0, "augment.affine_prob": 1.0, "augment.intensity_prob": 0.0}
    plan, dataset = plan_of(tmp_path, **more, **{"input.normalise": "none", "augment.elastic_sigma": 3.0})
    patches = PatchDataset(load_samples(dataset.cases, plan), plan, shrink=(4, 4), length=12)
    right = total = 0
    for i in range(len(patches)):
        patch = patches[i]
        target, image = patch["target"], patch["image"][0, 4:-4, 4:-4]
        assert set(target.unique().tolist()) <= {IGNORED, 0, 1}
        for index, low, high in ((IGNORED, 75, 160), (0, 0, 75), (1, 160, 256)):
            here = image[target == index]
            right, total = right + int(((here >= low) & (here < high)).sum()), total + here.numel()
    assert right > 0.93 * total  # linear and nearest differ at edges only


@pytest.mark.parametrize("value", [3, 255])
def test_beyond_the_image_there_is_the_mirrored_label(tmp_path: Path, value: int) -> None:
    """Neither background nor void: the image is mirrored there too, so the mirrored label is right."""
    for i in range(4):
        medseg.write(np.full((40, 60), 90, np.uint8), tmp_path / f"images/{i}.png")
        medseg.write(np.full((40, 60), value, np.uint8), tmp_path / f"labels/{i}.png")
    plan = Plan().with_values(
        {"target.values": (0, 3), "target.ignore": (255,), "train.patch": (64, 96), "train.workers": 0}
    )
    sample = loading_chain(plan)({"image": tmp_path / "images/0.png", "label": tmp_path / "labels/0.png"})
    augment = augmenting_chain(plan, margin=(10, 10)).set_random_state(seed=3)
    for _ in range(4):
        label = target_chain(plan)(augment(dict(sample)))["label"]
        assert set(label.unique().tolist()) == {1 if value == 3 else IGNORED}


def test_instances_with_void(tmp_path: Path) -> None:
    label = np.zeros((20, 30), np.uint16)
    label[2:8, 2:8], label[2:8, 8:14], label[12:18, 3:9] = 7, 9, 255
    medseg.write(label.astype(np.uint8), tmp_path / "a_instances.png")
    medseg.write(np.uint8(label > 0), tmp_path / "a.png")
    plan = Plan().with_values(
        {"target.kind": "instances", "target.name": "interior-border", "target.ignore": (255,)}
    )
    sample = loading_chain(plan)({"image": tmp_path / "a.png", "label": tmp_path / "a_instances.png"})
    found = np.asarray(sample["label"][0])
    assert np.array_equal(found == IGNORED, label == 255)
    assert sorted(np.unique(found)) == [IGNORED, 0, 1, 2]
    both = target_chain(plan.with_values({"target.border_weights": True}))({"label": sample["label"]})
    without = target_chain(plan)({"label": torch.where(sample["label"] == IGNORED, 0, sample["label"])})
    known = label != 255
    assert np.array_equal(np.asarray(both["label"][0])[known], np.asarray(without["label"][0])[known])
    assert (np.asarray(both["label"][0])[~known] == IGNORED).all()
    assert np.isfinite(np.asarray(both["weight"])).all()


def test_class_weights_of_a_border_weight_map_do_not_count_void() -> None:
    label = torch.zeros(1, 4, 10, dtype=torch.int32)
    label[..., :2], label[..., 5:] = 1, IGNORED
    far = BorderWeightMapd("label", n_classes=2, w0=0.0)
    weight = far({"label": label})["weight"][0]
    alone = far({"label": label[..., :5]})["weight"][0]
    assert torch.allclose(weight[:, :5], alone)


@pytest.mark.parametrize("n_classes", [None, 2])
def test_void_is_no_background_of_a_border_weight_map(n_classes: int | None) -> None:
    """The weights of the pixels that count have the mean 1, whatever is ignored beside them."""
    label = torch.zeros(1, 6, 20, dtype=torch.int32)
    label[:, 1:4, 1:5], label[..., 8:] = 1, IGNORED
    weight = BorderWeightMapd("label", n_classes=n_classes, w0=0.0)({"label": label})["weight"][0]
    alone = BorderWeightMapd("label", n_classes=n_classes, w0=0.0)({"label": label[..., :8]})["weight"][0]
    assert torch.allclose(weight[:, :8], alone)
    assert alone.mean().item() == pytest.approx(1)
    nothing = BorderWeightMapd("label", n_classes=n_classes)({"label": torch.full_like(label, IGNORED)})
    assert torch.isfinite(nothing["weight"]).all()


def test_targets_stay_bytes_where_nothing_is_ignored() -> None:
    assert Targetd("label")({"label": torch.tensor([[[1, 0, 2]]])})["label"].dtype == torch.uint8
    with_void = Targetd("label")({"label": torch.tensor([[[1, IGNORED, 2]]])})["label"]
    assert with_void.tolist() == [[[1, IGNORED, 1]]]


def test_coarse_labels_and_places_leave_void_out() -> None:
    label = MetaTensor(torch.tensor([[[IGNORED, IGNORED, 1, 1], [IGNORED, 1, 1, 0]]]))
    assert Downsampled("label", (2, 2))({"label": label})["label"].tolist() == [[[IGNORED, 1]]]
    places = ClassPlacesd("label")({"label": label})["places"]
    assert {c: len(p) for c, p in places.items()} == {1: 4 - 0}
    everything = ClassPlacesd("label", background=False)({"label": label})["places"]
    assert {c: len(p) for c, p in everything.items()} == {0: 1, 1: 4}


# --- scores


def maps(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, 4, shape)
    prediction = np.where(rng.random(shape) < 0.6, reference, rng.integers(0, 4, shape))
    reference[rng.random(shape) < 0.25] = 255
    return prediction, reference


@pytest.mark.parametrize("shape", [(7, 11), (3, 5, 8)])
def test_scores_are_those_of_the_pixels_that_count(shape: tuple[int, ...]) -> None:
    prediction, reference = maps(shape, 1)
    known = reference != 255
    p, r = prediction[known], reference[known]
    names = ("iou", "dice", "sensitivity", "specificity", "pixel_error")
    scores = score_arrays(prediction, reference, metrics=names, ignore=(255,))
    for c in (1, 2, 3):
        both, either = np.sum((p == c) & (r == c)), np.sum((p == c) | (r == c))
        found, truth = np.sum(p == c), np.sum(r == c)
        rest = np.sum((p != c) & (r != c)) / np.sum(r != c)
        expected = (both / either, 2 * both / (found + truth), both / truth, rest)
        assert [scores.value("", n, str(c)) for n in names[:4]] == pytest.approx(expected)
    assert scores.value("", "pixel_error", "all") == pytest.approx(np.mean(p != r))
    assert "255" not in scores.labels("iou")


def test_the_four_numbers_of_the_paper_by_counting() -> None:
    total, pairs = np.zeros((4, 4), np.int64), [maps((6, 9), s) for s in range(3)]
    for prediction, reference in pairs:
        total += confusion(prediction, reference, values=range(4), ignore=(255,))
    p = np.concatenate([a[b != 255] for a, b in pairs])
    r = np.concatenate([b[b != 255] for a, b in pairs])
    iou = [np.sum((p == c) & (r == c)) / np.sum((p == c) | (r == c)) for c in range(4)]
    share = [np.mean(r == c) for c in range(4)]
    assert accuracies(total) == pytest.approx(
        {
            "pixel_accuracy": np.mean(p == r),
            "mean_accuracy": np.mean([np.mean(p[r == c] == c) for c in range(4)]),
            "mean_iou": np.mean(iou),
            "weighted_iou": np.dot(share, iou),
        }
    )
    one = medseg.evaluate(*pairs[0], metrics=("pixel_accuracy",), ignore=(255,))
    counts = confusion(*pairs[0], values=range(4), ignore=(255,))
    assert one.value("", "pixel_accuracy", "all") == pytest.approx(accuracies(counts)["pixel_accuracy"])
    assert one.value("", "pixel_accuracy", "mean_iou") == pytest.approx(accuracies(counts)["mean_iou"])


def test_nothing_to_count() -> None:
    empty = np.full((3, 4), 255)
    scores = score_arrays(np.ones((3, 4), int), empty, metrics=("iou", "pixel_accuracy"), ignore=(255,))
    assert np.isnan(scores.value("", "pixel_accuracy", "all"))
    assert not confusion(np.ones((3, 4), int), empty, values=(0, 1), ignore=(255,)).any()
    with pytest.raises(Refused, match="no class"):
        confusion(np.ones((3, 4), int), empty, values=(0, 1))
    with pytest.raises(Refused, match="differ in shape"):
        without_ignored(np.ones((4, 3), int), empty, (255,))


def test_an_object_that_lies_mostly_on_void_is_not_counted() -> None:
    reference = np.zeros((6, 20), int)
    reference[1:5, 1:5], reference[1:5, 8:14] = 1, 255
    prediction = np.zeros((6, 20), int)
    prediction[1:5, 1:5] = 1  # found
    prediction[1:5, 7:12] = 2  # four of five columns on void
    prediction[1:5, 13:18] = 3  # one of five columns on void: a false one
    found, truth, n = without_ignored(prediction, reference, (255,), objects=True)
    assert n == 24
    assert sorted(np.unique(found)) == [0, 1, 3]
    assert ap(found, truth)[0.5] == pytest.approx(1 / 2)
    scores = medseg.evaluate(prediction, reference, metrics=("ap", "dice"), ignore=(255,))
    assert scores.value("", "ap", "0.50") == pytest.approx(1 / 2)
    assert scores.value("", "dice", "foreground") == pytest.approx(2 * 16 / (16 + 16 + 4 + 16))


# --- a whole training


def test_a_training_with_void_scores_and_predicts_without_it(tmp_path: Path) -> None:
    write_scene(tmp_path / "data", 5)
    plan, dataset = plan_of(tmp_path / "data")
    bundle = medseg.fit(plan, dataset, tmp_path / "run")
    assert bundle.plan.target.ignore == (255,)
    for case in dataset.cases:
        prediction = medseg.predict(bundle, case)
        assert set(np.unique(prediction.labels)) <= {0, 3}
        scores = medseg.evaluate(prediction, case.label, metrics=("iou", "pixel_error"))
        raw = np.asarray(medseg.io.read_label(case.label)[0])
        known = raw != 255
        wrong = np.mean(prediction.labels[known] != raw[known])
        assert scores.value("", "pixel_error", "all") == pytest.approx(wrong)
    samples = load_samples(dataset.cases[:2], plan)
    assert np.isfinite(validate(bundle.network, samples, plan, cross_entropy)["val_loss"])


def test_classes_without_a_background_are_all_scored(tmp_path: Path) -> None:
    write_scene(tmp_path / "data", 5, values=(7, 8), void=0)
    (tmp_path / "data/dataset.toml").write_text(
        'classes = { road = 7, car = 8 }\nignore = [0]\n[files]\nimage = "images/{case}.png"\n'
        'label = "labels/{case}.png"\n'
    )
    plan = medseg.make_plan(tmp_path / "data").with_values(SMALL)
    assert plan.target.classes == ("road", "car")
    assert plan.target.values == (7, 8)
    assert plan.target.scored == {"road": 7, "car": 8}
    dataset = medseg.load_dataset(tmp_path / "data")
    bundle = medseg.fit(plan, dataset, tmp_path / "run")
    prediction = medseg.predict(bundle, dataset.cases[0])
    assert set(np.unique(prediction.labels)) <= {7, 8}
    scores = medseg.evaluate(prediction, dataset.cases[0].label)
    assert scores.labels("iou")[:2] == ("road", "car")
    in_training = score_labels(bundle.network, load_samples(dataset.cases[:1], plan), plan)
    assert in_training["dice"] == pytest.approx(scores.mean("dice"))
