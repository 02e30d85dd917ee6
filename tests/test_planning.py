"""Plans from data: what the labels are, what fits into memory, and that every number says why."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.data import MetaTensor

import medseg
from medseg import Dataset, Plan, Refused, make_plan
from medseg.networks import build_network, geometry_of
from medseg.planning import take_fingerprint, training_bytes
from medseg.targets import TARGETS
from medseg.training import derive_plan

SHAPE = (60, 84)


def dataset(
    folder: Path, labels: Sequence[np.ndarray], images: Sequence[np.ndarray] | None = None
) -> Dataset:
    """Write images and label maps and find them again."""
    rng = np.random.default_rng(0)
    for i, label in enumerate(labels):
        image = images[i] if images is not None else rng.random(label.shape).astype(np.float32)
        medseg.write(image, folder / f"images/{i}.tif")
        medseg.write(label, folder / f"labels/{i}.tif")
    return medseg.load_dataset(folder)


def cells(counts: Sequence[int], **how: Any) -> list[np.ndarray]:
    rngs = [np.random.default_rng(i) for i in range(len(counts))]
    return [medseg.phantoms.cells(SHAPE, n=n, diameter=12, rng=rng, **how)[1] for n, rng in zip(counts, rngs)]


def organs(values: Sequence[Sequence[int]], pieces: int = 1) -> list[np.ndarray]:
    """Each value as so many squares, all images alike."""
    maps = []
    for found in values:
        label = np.zeros(SHAPE, np.uint8)
        for k, value in enumerate(found):
            for piece in range(pieces):
                r, c = 2 + 8 * k, 2 + 12 * piece
                label[r : r + 5, c : c + 9] = value
        maps.append(label)
    return maps


# what the labels are


@pytest.mark.parametrize(
    ("labels", "kind", "values"),
    [
        (organs([[1]] * 3), "semantic", (0, 1)),
        (organs([[255]] * 3, pieces=6), "semantic", (0, 255)),
        (organs([[255], [], [255]]), "semantic", (0, 255)),
        (organs([[1, 2]] * 3), "semantic", (0, 1, 2)),
        (organs([[1, 2], [1], [1, 2]]), "semantic", (0, 1, 2)),
        (organs([[1, 2, 4], [1, 4], [1, 2, 4]]), "semantic", (0, 1, 2, 4)),
        (organs([[1, 2, 3], [1, 2], [1]], pieces=3), "semantic", (0, 1, 2, 3)),
        (organs([[50, 100, 150]] * 3), "semantic", (0, 50, 100, 150)),
        (organs([[1, 2, 3, 4, 5]] * 3), "semantic", (0, 1, 2, 3, 4, 5)),
        (cells([3, 5, 4]), "instances", None),
        (cells([1, 4, 2]), "instances", None),
        (cells([0, 3, 4]), "instances", None),
        (cells([12, 25, 14]), "instances", None),
        ([m.astype(np.uint32) * 1000 for m in cells([22, 24, 23])], "instances", None),
    ],
    ids=[
        "mask",
        "mask of 255",
        "mask with an empty one",
        "two organs",
        "two organs, one is missing",
        "organs with a gap",
        "classes in pieces",
        "grey levels",
        "five organs",
        "few cells",
        "one cell",
        "no cell",
        "many cells",
        "large numbers",
    ],
)
def test_kinds(tmp_path: Path, labels: list[np.ndarray], kind: str, values: tuple[int, ...] | None) -> None:
    plan = make_plan(dataset(tmp_path, labels))
    assert plan.target.kind == kind
    if values is not None:
        assert plan.target.values == values
        assert len(plan.target.classes) == len(values)
        assert plan.train.loss == "cross_entropy_dice"
    else:
        assert plan.target.classes == TARGETS["interior-border"].classes
        assert not plan.target.border_weights
    assert plan.reasons["target.kind"]


def test_labels_of_floats(tmp_path: Path) -> None:
    plan = make_plan(dataset(tmp_path, [m.astype(np.float32) for m in cells([3, 5, 4])]))
    assert plan.target.kind == "instances"
    with pytest.raises(Refused) as caught:
        make_plan(dataset(tmp_path / "half", [m + np.float32(0.5) for m in organs([[1], [1]])]))
    assert caught.value.reason == "not-whole-numbers"


def test_one_mask_file_an_object(tmp_path: Path) -> None:
    from medseg import Case

    cases = []
    for name in ("a", "b"):
        image = medseg.write(np.zeros(SHAPE, np.float32), tmp_path / f"{name}.tif")
        masks = [organs([[255]])[0], np.roll(organs([[255]])[0], 20, 0)]
        paths = tuple(medseg.write(m, tmp_path / f"{name}_{k}.png") for k, m in enumerate(masks))
        cases.append(Case(name, image, paths, group=name))
    plan = make_plan(Dataset("masks", tuple(cases), tmp_path, "by hand"))
    assert plan.target.kind == "instances"
    assert plan.reasons["target.kind"] == "one mask file an object"


def test_what_the_data_set_declares_counts(tmp_path: Path) -> None:
    found = dataset(tmp_path, cells([3, 5, 4]))
    assert make_plan(replace(found, kind="semantic")).target.kind == "semantic"
    classes = {"ground": 0, "liver": 1, "kidney": 2, "tumour": 7}
    plan = make_plan(replace(found, classes=classes))
    assert plan.target.kind == "semantic"
    assert plan.target.classes == ("ground", "liver", "kidney", "tumour")
    assert plan.target.values == (0, 1, 2, 7)
    mask = dataset(tmp_path / "mask", organs([[1], [1]]))
    assert make_plan(replace(mask, kind="instances")).target.kind == "instances"


def test_sizes_of_objects(tmp_path: Path) -> None:
    rows, columns = np.indices(SHAPE)
    disc = ((rows - 30) ** 2 + (columns - 40) ** 2 <= 12**2).astype(np.uint8)
    found = take_fingerprint(dataset(tmp_path, [disc, disc * 255]))
    assert found.diameter == pytest.approx(2 * np.sqrt(disc.sum() / np.pi))
    assert found.diameter == pytest.approx(24, abs=0.5)
    plan = make_plan(replace(dataset(tmp_path / "b", [disc, disc]), kind="instances"))
    assert plan.target.sigma == pytest.approx(24 / 6, abs=0.15)
    assert plan.predict.min_size == int((found.diameter / 4) ** 2)


def test_nothing_but_background_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        make_plan(dataset(tmp_path, [np.zeros(SHAPE, np.uint8)] * 2))
    assert caught.value.reason == "no-labels"


# what the images are


def test_grey_and_colour(tmp_path: Path, rng: np.random.Generator) -> None:
    labels = organs([[1]] * 3)
    grey = [rng.integers(0, 255, SHAPE).astype(np.uint8) for _ in labels]
    same = [np.repeat(g[None], 3, 0) for g in grey]
    colour = [rng.integers(0, 255, (3, *SHAPE)).astype(np.uint8) for _ in labels]
    for name, images, channels in (
        ("grey", grey, 1),
        ("same", same, 1),
        ("colour", colour, 3),
        ("mixed", [grey[0], same[1], colour[2]], 3),
    ):
        folder = tmp_path / name
        for i, (image, label) in enumerate(zip(images, labels)):
            tensor = MetaTensor(image if image.ndim == 3 else image[None])
            medseg.write(tensor, folder / f"images/{i}.png")
            medseg.write(label, folder / f"labels/{i}.png")
        plan = make_plan(folder)
        assert plan.input.channels == channels, name
    assert plan.reasons["input.channels"] == "1 of 3 images are coloured"


def test_dark_objects_among_bright_ones(tmp_path: Path) -> None:
    labels = organs([[1]] * 4)
    images = [np.where(m > 0, 0.9, 0.1).astype(np.float32) for m in labels]
    assert make_plan(dataset(tmp_path / "bright", labels, images)).augment.invert_prob == 0
    images[0] = 1 - images[0]
    plan = make_plan(dataset(tmp_path / "both", labels, images))
    assert plan.augment.invert_prob > 0
    assert "25%" in plan.reasons["augment.invert_prob"]


def test_patches_are_legal_and_follow_the_images(tmp_path: Path) -> None:
    plan = make_plan(dataset(tmp_path, organs([[1]] * 3)))
    geometry = geometry_of(build_network(plan), 1, 2)
    assert plan.train.patch == geometry.round_up(SHAPE)
    large = [np.pad(m, ((0, 400), (0, 10))) for m in organs([[1]] * 3)]
    assert make_plan(dataset(tmp_path / "large", large)).train.patch == (256, geometry.round_up((60, 94))[1])


def test_volumes(tmp_path: Path) -> None:
    affine = np.diag([3.0, 0.7, 0.8, 1.0])
    for i in range(3):
        rng = np.random.default_rng(i)
        image, label = medseg.phantoms.cells((14, 40, 52), n=3 + i, diameter=10, rng=rng)
        medseg.write(MetaTensor(image[None], affine=affine), tmp_path / f"images/{i}.nii.gz")
        medseg.write(MetaTensor(label[None], affine=affine), tmp_path / f"labels/{i}.nii.gz")
    plan = make_plan(tmp_path)
    assert (plan.input.spatial_dims, plan.input.spacing_unit) == (3, "mm")
    assert plan.input.spacing == pytest.approx((3.0, 0.7, 0.8))
    assert plan.target.kind == "instances"
    assert geometry_of(build_network(plan), 1, 3).legal(plan.train.patch)
    assert Plan.from_toml(plan.to_toml()) == plan


def test_mixed_axes_are_refused(tmp_path: Path) -> None:
    labels = [np.ones((8, 40, 52), np.uint8), np.ones((40, 52), np.uint8)]
    affines = [np.diag([3.0, 0.7, 0.8, 1.0]), np.eye(4)]
    for i, (label, affine, suffix) in enumerate(zip(labels, affines, ("nii.gz", "tif"))):
        for folder in ("images", "labels"):
            medseg.write(MetaTensor(label[None], affine=affine), tmp_path / f"{folder}/{i}.{suffix}")
    with pytest.raises(Refused) as caught:
        make_plan(tmp_path)
    assert caught.value.reason == "mixed-dimensions"


def test_refusals(tmp_path: Path) -> None:
    found = dataset(tmp_path, organs([[1]] * 3))
    with pytest.raises(Refused, match="Did you mean 'unet'") as caught:
        make_plan(found, network="unett")
    assert caught.value.reason == "unknown-network"
    bare = replace(found, cases=tuple(replace(case, label=None) for case in found.cases))
    with pytest.raises(Refused) as caught:
        make_plan(bare)
    assert caught.value.reason == "no-labels"
    medseg.write(np.ones((60, 83), np.uint8), tmp_path / "labels/1.tif")
    with pytest.raises(Refused, match=r"1\.tif") as caught:
        make_plan(tmp_path)
    assert caught.value.reason == "shape-mismatch"


def test_what_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    make_plan(dataset(tmp_path, organs([[1]] * 3)), progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_every_derived_number_has_a_reason(tmp_path: Path) -> None:
    plan = make_plan(dataset(tmp_path, cells([3, 5, 4])), memory_gb=0.5)
    default = Plan()
    tables = ("input", "network", "target", "augment", "train", "split", "predict")
    for table in tables:
        for key, value in vars(getattr(plan, table)).items():
            if value != getattr(getattr(default, table), key):
                assert plan.reasons.get(f"{table}.{key}"), f"{table}.{key} = {value}"
    assert Plan.from_toml(plan.to_toml()).reasons == dict(plan.reasons)


# memory


def test_memory_shrinks_the_batch_before_the_patch(tmp_path: Path) -> None:
    labels = [np.pad(m, ((0, 68), (0, 44))) for m in cells([3, 5, 4])]
    found = dataset(tmp_path, labels)
    whole = make_plan(found)
    assert (whole.train.patch, whole.train.batch_size) == ((128, 128), 4)
    needed = training_bytes(whole) / 1e9
    assert make_plan(found, memory_gb=needed).train == whole.train
    geometry = geometry_of(build_network(whole), 1, 2)
    before = whole
    for share in (0.9, 0.22):
        plan = make_plan(found, memory_gb=needed * share)
        assert training_bytes(plan) <= needed * share * 1e9
        assert geometry.legal(plan.train.patch)
        assert plan.train.batch_size <= before.train.batch_size
        assert np.prod(plan.train.patch) <= np.prod(before.train.patch)
        assert plan.train.batch_size == 1 or plan.train.patch == whole.train.patch
        assert "GB" in plan.reasons["train.batch_size"]
        before = plan
    with pytest.raises(Refused) as caught:
        make_plan(found, memory_gb=0.001)
    assert caught.value.reason == "out-of-memory"


def measure(plan: Plan, connection: Any) -> None:
    """In a process of its own: bytes by which training steps raise the peak of its memory."""
    import resource

    import psutil
    import torch

    from medseg.losses import LOSSES
    from medseg.training.optimisation import Stepper, make_optimizer

    torch.set_num_threads(1)

    def run(plan: Plan, steps: int) -> None:
        network, device = build_network(plan).train(), torch.device("cpu")
        optimizer, stepper = make_optimizer(plan, network), Stepper(plan, device)
        size = (plan.train.batch_size, *plan.train.patch)
        batch = {"image": torch.rand(size)[:, None], "target": torch.zeros(size, dtype=torch.long)}
        for _ in range(steps):
            stepper.step(batch, network, LOSSES[plan.train.loss], optimizer)

    small = {"network.channels": (2, 4), "train.patch": (16,) * len(plan.train.patch), "train.batch_size": 1}
    run(plan.with_values(small), 1)  # the libraries' own memory
    before = psutil.Process().memory_info().rss
    run(plan, 2)
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


@pytest.mark.parametrize(
    "values",
    [
        {"train.patch": (256, 384), "network.channels": (16, 32, 64), "train.batch_size": 2},
        {"train.patch": (32, 32), "network.channels": (64, 128, 256, 512), "train.batch_size": 1},
        {"input.spatial_dims": 3, "train.patch": (16, 48, 96), "network.channels": (16, 32)},
    ],
    ids=["activations", "weights", "volume"],
)
def test_memory_is_as_foretold(values: dict[str, Any]) -> None:
    plan = Plan().with_values(values | {"train.mixed_precision": False})
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medseg.training", "torch", "monai.transforms"])
    here, there = context.Pipe()
    child = context.Process(target=measure, args=(plan, there))
    child.start()
    there.close()
    measured = here.recv()
    child.join()
    assert 0.5 < training_bytes(plan) / measured < 2


def test_what_follows_from_a_given_number_is_derived_from_it(tmp_path: Path) -> None:
    """Six objects in every image look like six classes; who says that they are objects gets their targets."""
    label = np.zeros((40, 60), np.uint8)
    for i in range(6):
        label[5 + 15 * (i // 3) : 15 + 15 * (i // 3), 5 + 18 * (i % 3) : 15 + 18 * (i % 3)] = i + 1
    for name in ("a", "b", "c"):
        medseg.write(label * 20, tmp_path / f"images/{name}.png")
        medseg.write(label, tmp_path / f"labels/{name}.png")
    dataset = medseg.load_dataset(tmp_path)
    assert derive_plan(dataset).target.kind == "semantic"
    plan = derive_plan(dataset, ["target.kind=instances", "train.lr=0.5"])
    assert (plan.target.kind, plan.target.name, plan.train.lr) == ("instances", "interior-border", 0.5)
    assert plan.target.classes == ("background", "interior", "border")
    plan = derive_plan(dataset, ["target.kind=instances", "target.name=foreground", "train.loss=dice"])
    assert (plan.target.classes, plan.target.border_weights) == (("background", "object"), True)
    assert plan.train.loss == "dice"
    plan = derive_plan(dataset, ["target.kind=instances", "target.name=distance-levels"])
    assert plan.predict.method == "levels"


def test_objects_without_an_interior_are_told_apart_by_the_gap(tmp_path: Path) -> None:
    label = np.zeros((40, 60), np.uint8)
    for i in range(30):
        label[2 + 6 * (i // 6) : 6 + 6 * (i // 6), 2 + 8 * (i % 6) : 7 + 8 * (i % 6)] = i + 1
    for name in ("a", "b", "c"):
        medseg.write(label, tmp_path / f"images/{name}.png")
        medseg.write(label, tmp_path / f"labels/{name}.png")
    plan = make_plan(medseg.load_dataset(tmp_path))
    assert (plan.target.name, plan.target.border_weights) == ("foreground", True)
    assert plan.train.loss == "cross_entropy"


@pytest.mark.parametrize(("n", "test", "folds"), [(1, 0.0, 1), (2, 0.0, 5), (3, 0.15, 5)])
def test_nothing_is_set_aside_where_there_is_next_to_nothing(
    tmp_path: Path, n: int, test: float, folds: int
) -> None:
    from medseg.training import fit

    for i in range(n):
        image = np.zeros((24, 32), np.uint8)
        image[5:15, 4 + 3 * i : 20] = 200
        medseg.write(image, tmp_path / f"data/images/{i}.png")
        medseg.write(image // 200, tmp_path / f"data/labels/{i}.png")
    plan = make_plan(tmp_path / "data")
    assert (plan.split.test_fraction, plan.split.folds) == (test, folds)
    if n == 1:
        assert "1 group of cases" in plan.reasons["split.folds"]
        quick = {"network.channels": (2, 4), "train.steps": 3, "train.validate_every": 1, "train.workers": 0}
        bundle = fit(plan.with_values(quick), tmp_path / "data", tmp_path / "run")
        assert "step 3 of 3" in bundle.card  # the last checkpoint: nothing tells which is best


def test_a_ct_and_thick_slices(tmp_path: Path) -> None:
    import nibabel

    rng = np.random.default_rng(0)
    for i in range(3):
        shape = (40, 44, 10)
        label = np.zeros(shape, np.uint8)
        label[10:20, 12:30, 3:6] = 1
        image = np.where(label, 60, -1000) + rng.normal(0, 10, shape)
        affine = np.diag([-0.8, -0.8, 5.0 if i else 4.0, 1.0])
        for folder, array in (("imagesTr", image.astype(np.int16)), ("labelsTr", label)):
            (tmp_path / "ct" / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"ct/{folder}/{i}.nii.gz")
    plan = make_plan(tmp_path / "ct")
    assert plan.input.normalise == "window"
    (low, high), mean = plan.input.window[0], plan.input.mean[0]
    assert 20 < low < 45 < 75 < high < 100
    assert mean == pytest.approx(60, abs=1)
    assert plan.input.deviation[0] == pytest.approx(10, abs=1)
    assert plan.input.orientation == "RAS"
    assert plan.input.spacing == pytest.approx((0.8, 0.8, 4.2))  # of thick slices a low percentile
    assert plan.network.strides[0] == (2, 2, 1)
    assert plan.network.kernels[0] == (3, 3, 1)
    assert plan.augment.flip_axes == (0,)
