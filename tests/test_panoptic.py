"""Semantic, instance and panoptic results of one prediction, and panoptic quality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import medseg
from medseg import Plan, Refused, to_panoptic
from medseg.inference import Prediction
from medseg.instances import Panoptic
from medseg.metrics import panoptic_counts, panoptic_quality, pq

ROAD, CAR, PERSON, SKY, VOID = 7, 26, 24, 23, 255


def street(seed: int = 0, shape: tuple[int, ...] = (20, 30)) -> np.ndarray:
    """Road below, sky above, boxes of cars and persons; rows != columns."""
    rng = np.random.default_rng(seed)
    labels = np.full(shape, SKY, np.uint8)
    labels[shape[0] // 2 :] = ROAD
    for value in (CAR, CAR, PERSON, CAR, PERSON):
        at = [rng.integers(0, n - 4) for n in shape]
        labels[tuple(slice(a, a + rng.integers(2, 5)) for a in at)] = value
    return labels


@pytest.mark.parametrize("shape", [(20, 30), (8, 12, 15)])
def test_connected_parts_of_things_are_counted_and_stuff_is_not(shape: tuple[int, ...]) -> None:
    from skimage.measure import label

    labels = street(1, shape)
    found = to_panoptic(labels, things=[CAR, PERSON])
    assert np.array_equal(found.labels, labels)
    assert (found.instances[np.isin(labels, [ROAD, SKY])] == 0).all()
    for value in (CAR, PERSON):
        own = found.instances[labels == value]
        parts = label(labels == value, connectivity=1)
        assert sorted(np.unique(own)) == list(range(1, parts.max() + 1))
        assert len(np.unique(np.stack([own, parts[labels == value]]), axis=1).T) == parts.max()
    assert sum(n for _, _, n in found.segments()) == labels.size
    again = Panoptic.decoded(found.encoded(), things=[CAR, PERSON])
    assert np.array_equal(again.labels, found.labels)
    assert np.array_equal(again.instances, found.instances)
    assert again.things == found.things == (PERSON, CAR)


def test_given_objects_vote_and_come_before_stuff() -> None:
    labels = np.array([[CAR, CAR, PERSON, ROAD, ROAD], [CAR, ROAD, ROAD, PERSON, VOID]])
    objects = np.array([[9, 9, 9, 9, 4], [9, 0, 3, 0, 3]])
    found = to_panoptic(labels, objects, things=[CAR, PERSON], ignore=[VOID])
    # 9 is a car (three of four votes) and takes a pixel of road; 4 and 3 have no thing under them; the person
    # without an object is nothing; void stays
    expected = [[26001, 26001, 26001, 26001, 7000], [26001, 7000, 7000, 0, 255000]]
    assert found.encoded().tolist() == expected


def test_stuff_that_is_small_or_not_named_is_nothing() -> None:
    labels = np.array([[ROAD, ROAD, ROAD, SKY, CAR, 11]])
    assert to_panoptic(labels, things=[CAR], min_stuff=2).labels.tolist() == [[ROAD, ROAD, ROAD, 0, CAR, 0]]
    named = to_panoptic(labels, things=[CAR], stuff=[SKY])
    assert named.labels.tolist() == [[0, 0, 0, SKY, CAR, 0]]


@pytest.mark.parametrize("method", ["components", "watershed"])
def test_stuff_seen_through_a_thing_stays_stuff(method: str) -> None:
    labels = np.full((12, 16), ROAD)
    labels[2:10, 3:13] = CAR
    labels[4:7, 5:9] = SKY
    found = to_panoptic(labels, things=[CAR], method=method)
    assert np.array_equal(found.labels, labels)
    assert (found.instances[labels == CAR] > 0).all()
    assert method == "watershed" or found.instances.max() == 1


def test_classes_by_name_and_what_the_plan_says() -> None:
    values = {
        "target.classes": ("background", "organ", "nodule"),
        "target.values": (0, 1, 5),
        "target.things": ("nodule",),
        "target.ignore": (9,),
        "predict.method": "components",
        "predict.min_size": 2,
    }
    plan = Plan().with_values(values)
    labels = np.array([[1, 1, 5, 5, 0, 5, 0, 5, 5]])
    prediction = Prediction(labels, None, np.eye(4), "pixel", plan)
    found = prediction.panoptic()
    assert found.encoded().tolist() == [[1000, 1000, 5001, 5001, 0, 0, 0, 5002, 5002]]
    both = to_panoptic(prediction, things=["organ", "nodule"], min_size=0)
    assert both.instances.tolist() == [[1, 1, 1, 1, 0, 2, 0, 3, 3]]
    with pytest.raises(Refused, match="unknown class 'organs'"):
        to_panoptic(prediction, things=["organs"])
    with pytest.raises(Refused, match=r"target\.things"):
        plan.with_values({"target.things": ("background",)})


def test_a_model_of_objects_has_one_class_of_things() -> None:
    plan = Plan().with_values({"target.kind": "instances", "target.name": "foreground"})
    labels = np.zeros((6, 12), np.uint8)
    labels[1:5, 1:5], labels[1:5, 7:11] = 1, 1
    found = Prediction(labels, None, np.eye(4), "pixel", plan).panoptic()
    assert sorted(np.unique(found.encoded())) == [0, 1001, 1002]


@pytest.mark.parametrize(
    ("labels", "options", "reason"),
    [
        ([[1, 2]], {}, "no-things"),
        ([[1.5, 2]], {"things": [1]}, "not-integer"),
        ([[1, -2]], {"things": [1]}, "negative-label"),
        ([[1, 2]], {"things": [0, 1]}, "unknown-class"),
        ([[1, 2]], {"things": [1], "stuff": [1]}, "unknown-class"),
        ([[1, 2]], {"things": [1], "instances": [[1], [2]]}, "shape-mismatch"),
    ],
)
def test_what_is_refused(labels: list[list[float]], options: dict[str, object], reason: str) -> None:
    with pytest.raises(Refused) as refusal:
        to_panoptic(np.array(labels), **options)  # type: ignore[arg-type]
    assert refusal.value.reason == reason


def test_too_many_objects_for_the_encoding_are_refused() -> None:
    many = np.zeros((1, 2100), int)
    many[:, ::2] = CAR
    found = to_panoptic(many, things=[CAR])
    assert found.instances.max() == 1050
    with pytest.raises(Refused, match="do not fit into one number"):
        found.encoded()
    wide = found.encoded(divisor=10_000)
    assert np.array_equal(Panoptic.decoded(wide, divisor=10_000).instances, found.instances)


def test_nothing_at_all() -> None:
    found = to_panoptic(np.zeros((3, 4), int), things=[CAR])
    assert not found.encoded().any()
    assert found.segments() == []
    counts = panoptic_counts(found.encoded(), found.encoded(), values=(ROAD, CAR))
    assert not counts.any()
    assert np.isnan(panoptic_quality(counts, {"road": ROAD, "car": CAR})["all"]["pq"])


# --- panoptic quality


def by_hand(prediction: np.ndarray, reference: np.ndarray, value: int, void: int) -> list[float]:
    """Sections 4.1 and 4.2 of the paper, with a mask for each segment."""
    hidden = reference // 1000 == void
    predicted = [prediction == i for i in np.unique(prediction) if i // 1000 == value and i]
    truth = [reference == i for i in np.unique(reference) if i // 1000 == value and i]
    total, used, found = 0.0, set(), set()
    for a, p in enumerate(predicted):
        for b, t in enumerate(truth):
            either = ((p & ~hidden) | t).sum()
            if (p & t).sum() / either > 0.5:
                total += (p & t).sum() / either
                used.add(a)
                found.add(b)
    wrong = [a for a, p in enumerate(predicted) if a not in used and (p & hidden).sum() / p.sum() <= 0.5]
    return [total, len(used), len(wrong), len(truth) - len(found)]


def disturbed(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A reference with void, and a prediction that is shifted and wrong in places."""
    rng = np.random.default_rng(seed)
    reference = street(seed, shape)
    prediction = np.roll(reference, rng.integers(-1, 2), axis=-1)
    flat = prediction.ravel()
    flat[rng.integers(0, flat.size, flat.size // 40)] = rng.choice([ROAD, CAR, PERSON])
    reference[tuple(slice(a, a + 5) for a in (rng.integers(0, n - 5) for n in shape))] = VOID
    things = [CAR, PERSON]
    return (
        to_panoptic(prediction, things=things).encoded(),
        to_panoptic(reference, things=things, ignore=[VOID]).encoded(),
    )


@pytest.mark.parametrize("shape", [(20, 30), (7, 9, 12)])
@pytest.mark.parametrize("seed", range(6))
def test_counts_are_those_of_the_paper(seed: int, shape: tuple[int, ...]) -> None:
    prediction, reference = disturbed(seed, shape)
    values = (ROAD, SKY, CAR, PERSON)
    counts = panoptic_counts(prediction, reference, values=values, ignore=[VOID])
    expected = [by_hand(prediction, reference, value, VOID) for value in values]
    assert counts == pytest.approx(np.array(expected))
    assert counts[:, 1].sum() > 0


def test_means_over_images_and_classes() -> None:
    classes = {"road": ROAD, "sky": SKY, "car": CAR, "person": PERSON, "bus": 28}
    total = np.zeros((5, 4))
    for seed in range(4):
        total += panoptic_counts(*disturbed(seed, (20, 30)), values=classes.values(), ignore=[VOID])
    scores = panoptic_quality(total, classes, things=[CAR, PERSON, 28])
    of = {name: n[0] / (n[1] + n[2] / 2 + n[3] / 2) for name, n in zip(classes, total) if n.any()}
    assert {n: scores[n]["pq"] for n in of} == pytest.approx(of)
    assert np.isnan(scores["bus"]["pq"])  # it is in no image, and in no mean
    assert scores["things"]["pq"] == pytest.approx((of["car"] + of["person"]) / 2)
    assert scores["stuff"]["pq"] == pytest.approx((of["road"] + of["sky"]) / 2)
    assert scores["all"]["pq"] == pytest.approx(sum(of.values()) / 4)
    for name in of:
        assert scores[name]["pq"] == pytest.approx(scores[name]["sq"] * scores[name]["rq"])


def test_of_one_class_it_is_pq() -> None:
    objects = [np.kron(np.random.default_rng(s).integers(0, 4, (4, 6)), np.ones((3, 3), int)) for s in (1, 2)]
    objects[1][:, 9:] = objects[0][:, 9:]
    encoded = [np.where(o > 0, 1000 + o, 0) for o in objects]
    mine = panoptic_quality(panoptic_counts(*encoded, values=(1,)), {"cell": 1}, things=[1])["things"]
    assert mine["pq"] == pytest.approx(pq(*objects)["pq"])
    assert mine["rq"] == pytest.approx(pq(*objects)["rq"])


def test_a_class_that_is_not_named_is_refused() -> None:
    with pytest.raises(Refused, match="not named"):
        panoptic_counts(np.array([[7000]]), np.array([[26001]]), values=(ROAD,))
    with pytest.raises(Refused, match="differ in shape"):
        panoptic_counts(np.array([[7000]]), np.array([[7000, 0]]), values=(ROAD,))


def test_a_bundle_gives_all_three_kinds(tmp_path: Path) -> None:
    for i in range(4):
        labels = street(i)
        medseg.write(labels, tmp_path / f"data/images/{i}.png")
        medseg.write(labels, tmp_path / f"data/labels/{i}.png")
    (tmp_path / "data/dataset.toml").write_text(
        "classes = { road = 7, sky = 23, person = 24, car = 26 }\nignore = 0\nthings = ['car', 'person']\n"
        '[files]\nimage = "images/{case}.png"\nlabel = "labels/{case}.png"\n'
    )
    dataset = medseg.load_dataset(tmp_path / "data")
    small = {"network.channels": (2, 4), "train.steps": 2, "train.workers": 0, "train.patch": (16, 24)}
    plan = medseg.make_plan(dataset).with_values(small)
    assert plan.target.things == ("car", "person")
    bundle = medseg.fit(plan, dataset, tmp_path / "run")
    prediction = medseg.predict(bundle, dataset.cases[0])
    found = prediction.panoptic()
    assert set(np.unique(found.labels)) <= {0, 7, 23, 24, 26}
    assert np.isin(found.labels[found.instances > 0], [24, 26]).all()
    path = prediction.write(found.encoded(), tmp_path / "panoptic.tif")
    assert np.array_equal(medseg.io.read_label(path)[0], found.encoded())
    (tmp_path / "data/dataset.toml").write_text(
        "classes = { road = 7 }\nthings = ['car']\n[files]\nimage = \"images/{case}.png\"\n"
    )
    with pytest.raises(Refused, match="things"):
        medseg.load_dataset(tmp_path / "data")
