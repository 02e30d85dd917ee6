"""Patches are functions of their number: for any order, any number of workers, any start."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

import medseg
from medseg import Dataset, Plan, Refused
from medseg.chains import augmenting_chain, loading_chain
from medseg.networks import build_network, geometry_of
from medseg.sampling import PatchDataset, load_samples, patch_loader, refusals

INSTANCES = {"target.kind": "instances", "target.name": "foreground", "target.border_weights": True}
SMALL = {"train.patch": (32, 48), "train.batch_size": 2, "train.workers": 0, "train.seed": 7}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("cells")
    for i in range(5):
        rng = np.random.default_rng(i)
        image, cells = medseg.phantoms.cells((60 + i, 80), n=6, diameter=14, rng=rng, touching=1.0)
        medseg.write(image, root / f"images/{i}.tif")
        medseg.write(cells, root / f"labels/{i}.tif")
    return medseg.load_dataset(root)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan().with_values(INSTANCES | SMALL)


@pytest.fixture(scope="module")
def samples(dataset: Dataset, plan: Plan) -> Any:
    return load_samples(dataset.cases, plan)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_what_a_sample_is(dataset: Dataset, plan: Plan) -> None:
    told = []
    samples = load_samples(dataset.cases, plan, progress=lambda done, of: told.append((done, of)))
    assert told == [(i, 5) for i in range(1, 6)]
    assert len(samples) == 5
    for i, case in enumerate(dataset.cases):
        assert samples[i]["image"].shape == medseg.read(case.image).shape
        assert samples[i]["image"].dtype == torch.float32
        assert samples[i]["label"].max() == 6


def test_what_a_patch_is(samples: Any, plan: Plan) -> None:
    patch = PatchDataset(samples, plan, shrink=(0, 0), length=8)[3]
    assert {key: (tuple(t.shape), t.dtype) for key, t in patch.items()} == {
        "image": ((1, 32, 48), torch.float32),
        "target": ((32, 48), torch.int64),
        "weight": ((32, 48), torch.float32),
    }
    assert all(type(t) is Tensor and t.is_contiguous() for t in patch.values())
    assert set(patch["target"].unique().tolist()) <= {0, 1}


def test_numbers_beyond_the_end_are_refused(samples: Any, plan: Plan) -> None:
    patches = PatchDataset(samples, plan, shrink=(0, 0), length=8)
    assert len(patches) == 8
    for index in (-1, 8):
        with pytest.raises(IndexError):
            patches[index]


def test_a_patch_depends_on_its_number_alone(samples: Any, plan: Plan) -> None:
    one, other = (PatchDataset(samples, plan, shrink=(0, 0), length=n) for n in (12, 300))
    forwards = [one[i] for i in range(12)]
    np.random.seed(3)  # noqa: NPY002 - what must not matter
    torch.manual_seed(3)
    for i in (11, 3, 3, 0, 7):
        assert equal(other[i], forwards[i])
    copied = pickle.loads(pickle.dumps(one))
    assert equal(copied[5], forwards[5])


def test_patches_differ(samples: Any, plan: Plan) -> None:
    patches = PatchDataset(samples, plan, shrink=(0, 0), length=40)
    images = [patches[i]["image"].numpy().tobytes() for i in range(40)]
    assert len(set(images)) == 40
    reseeded = PatchDataset(samples, plan.with_values({"train.seed": 8}), shrink=(0, 0), length=40)
    assert not any(reseeded[i]["image"].numpy().tobytes() in images for i in range(10))


def test_an_epoch_visits_every_case_once(samples: Any, plan: Plan) -> None:
    class Watched:
        def __init__(self) -> None:
            self.seen: list[int] = []

        def __len__(self) -> int:
            return len(samples)

        def __getitem__(self, index: int) -> Any:
            self.seen.append(index)
            return samples[index]

    watched = Watched()
    patches = PatchDataset(watched, plan, shrink=(0, 0), length=20)  # type: ignore[arg-type]
    for i in range(20):
        patches[i]
    epochs = [watched.seen[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("start", [0, 3])
def test_workers_change_nothing(samples: Any, plan: Plan, start: int) -> None:
    patches = PatchDataset(samples, plan, shrink=(0, 0), length=10)
    alone = list(patch_loader(patches, plan, start=start))
    assert len(alone) == 5 - start
    for k, batch in enumerate(alone):
        for j in range(2):
            one = patches[(start + k) * 2 + j]
            assert equal({key: t[j] for key, t in batch.items()}, one)
    before = torch.random.get_rng_state()
    together = list(patch_loader(patches, plan.with_values({"train.workers": 2}), start=start))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(equal(a, b) for a, b in zip(alone, together))
    assert len(together) == len(alone)
    # the same numbers from two workers would make equal patches of unlike batches
    assert len({t.numpy().tobytes() for batch in together for t in batch["image"]}) == 2 * len(together)


def test_weights_belong_to_the_deformed_label(samples: Any, plan: Plan) -> None:
    patches = PatchDataset(samples, plan, shrink=(0, 0), length=6)
    for i in range(6):
        epoch, place = divmod(i, 5)
        case = np.random.default_rng([7, 0, epoch]).permutation(5)[place]
        state = np.random.SeedSequence([7, 1, i]).generate_state(1)[0]
        chain = augmenting_chain(plan).set_random_state(seed=int(state))
        label = np.asarray(chain(dict(samples[int(case)]))["label"][0])
        expected = medseg.border_weight_map(label, w0=plan.target.w0, sigma=plan.target.sigma)
        assert np.array_equal(patches[i]["weight"].numpy(), expected)
        assert np.array_equal(patches[i]["target"].numpy(), medseg.targets.foreground(label))


def test_targets_of_unpadded_networks_lie_in_the_middle(samples: Any, plan: Plan) -> None:
    valid = plan.with_values({"network.channels": (2, 4), "network.padding": "valid"})
    shrink = geometry_of(build_network(valid), 1, 2).shrink
    assert shrink == (8, 8)
    for cut in (shrink, (0, 5)):
        cropped = PatchDataset(samples, valid, shrink=cut, length=4)
        whole = PatchDataset(samples, valid, shrink=cut, length=4)
        whole.window = (slice(None), slice(None))
        middle = tuple(slice(c, n - c) for c, n in zip(cut, valid.train.patch))
        for i in range(4):
            assert torch.equal(cropped[i]["image"], whole[i]["image"])
            for key in ("target", "weight"):
                assert torch.equal(cropped[i][key], whole[i][key][middle])
    cropped = PatchDataset(samples, valid, shrink=shrink, length=4)
    out = build_network(valid).eval()(cropped[0]["image"][None])
    assert out.shape[2:] == cropped[0]["target"].shape


def test_the_target_lies_under_the_image(tmp_path: Path) -> None:
    # the image is its own label, so that a shift of the target would show
    label = np.zeros((40, 60), np.uint8)
    label[::7, :] = label[:, ::5] = 1
    medseg.write(label, tmp_path / "images/a.tif")
    medseg.write(label, tmp_path / "labels/a.tif")
    values = SMALL | {f"augment.{k}_prob": 0.0 for k in ("elastic", "affine", "intensity")}
    plan = Plan().with_values(values | {"input.normalise": "none"})
    samples = load_samples(medseg.load_dataset(tmp_path).cases, plan)
    patches = PatchDataset(samples, plan, shrink=(8, 3), length=5)
    for i in range(5):
        patch = patches[i]
        assert torch.equal(patch["image"][0, 8:-8, 3:-3].long(), patch["target"])


def test_samples_beyond_memory_are_read_again_or_from_their_cache(
    dataset: Dataset, plan: Plan, samples: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Little:
        available = 4 * 60 * 80 * 8 * 2  # a quarter holds two of five

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    some = load_samples(dataset.cases, plan)
    assert 0 < sum(sample is not None for sample in some.kept) < len(some) == 5
    in_files = load_samples(dataset.cases, plan, cache=tmp_path / "cache")
    assert None not in in_files.kept
    away = [path.name for path in (tmp_path / "cache").iterdir()]
    assert len(away) == 2 * sum(sample is None for sample in some.kept)  # image and label
    a, b, c = (PatchDataset(s, plan, shrink=(0, 0), length=10) for s in (samples, some, in_files))
    assert all(equal(a[i], b[i]) and equal(a[i], c[i]) for i in range(10))


def test_training_leaves_cached_samples_as_they_are(dataset: Dataset, plan: Plan) -> None:
    samples = load_samples(dataset.cases, plan)
    before = [samples[i]["image"].clone() for i in range(5)]
    patches = PatchDataset(samples, plan, shrink=(0, 0), length=30)
    for i in range(30):
        for tensor in patches[i].values():
            tensor.zero_()
    assert all(torch.equal(samples[i]["image"].as_tensor(), b.as_tensor()) for i, b in enumerate(before))


# refusals


def test_a_refusal_inside_a_chain_is_unwrapped(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"none\.tif") as caught, refusals():
        loading_chain(Plan())({"image": tmp_path / "none.tif", "label": tmp_path / "x.tif"})
    assert caught.value.reason == "not-found"
    assert caught.value.__cause__ is None


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="mine"), refusals():
        raise RuntimeError("mine")
    with pytest.raises(KeyError), refusals():
        raise KeyError("mine")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_refusal_of_a_worker_is_one_line(tmp_path: Path, plan: Plan, workers: int) -> None:
    for i in range(3):
        medseg.write(np.zeros((40, 60), np.float32), tmp_path / f"images/{i}.tif")
        medseg.write(np.ones((40, 60), np.uint8), tmp_path / f"labels/{i}.tif")
    cases = medseg.load_dataset(tmp_path).cases
    chain = loading_chain(plan)

    class Lazy:
        """Nothing is kept in memory: a worker reads what was deleted meanwhile."""

        def __len__(self) -> int:
            return len(cases)

        def __getitem__(self, index: int) -> Any:
            return chain({"image": cases[index].image, "label": cases[index].label})

    (tmp_path / "images/1.tif").unlink()
    patches = PatchDataset(Lazy(), plan, shrink=(0, 0), length=12)  # type: ignore[arg-type]
    with pytest.raises(Refused, match=r"1\.tif") as caught:
        list(patch_loader(patches, plan.with_values({"train.workers": workers}), start=0))
    assert caught.value.reason == "not-found"
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_broken_case_is_told_before_training(tmp_path: Path, plan: Plan) -> None:
    for i in range(2):
        medseg.write(np.zeros((40, 60), np.float32), tmp_path / f"images/{i}.tif")
        medseg.write(np.ones((40, 60), np.uint8), tmp_path / f"labels/{i}.tif")
    cases = medseg.load_dataset(tmp_path).cases
    (tmp_path / "images/1.tif").write_bytes(b"no image")
    with pytest.raises(Refused, match=r"1\.tif"):
        load_samples(cases, plan)
