"""The elastic deformation against scipy, with the paper's statistics, inside MONAI; weights and targets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, RandFlipd, RandGaussianNoised
from scipy import ndimage

from medseg import Plan, Refused, border_weight_map
from medseg.chains import target_chain
from medseg.targets import foreground, interior_border, part_touching
from medseg.transforms import BorderWeightMapd, RandElastic, RandElasticd, Targetd


def keys_kernel(x):
    """Keys 1981, equation 15."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def dense_by_loops(displacement, shape):
    """Cubic convolution of every component, one pixel and one node at a time."""
    nodes = displacement.shape[1:]
    padded = np.pad(displacement, [(0, 0), *[(2, 2)] * len(shape)], mode="edge")
    out = np.zeros((len(shape), *shape))
    for pixel in itertools.product(*map(range, shape)):
        place = [p * (k - 1) / max(n - 1, 1) for p, n, k in zip(pixel, shape, nodes)]
        for node in itertools.product(*(range(k + 4) for k in nodes)):
            factor = np.prod([keys_kernel(x - (i - 2)) for x, i in zip(place, node)])
            if factor:
                out[(slice(None), *pixel)] += factor * padded[(slice(None), *node)]
    return out


def by_scipy(image, field, order):
    where = np.indices(image.shape[1:]) + field
    return np.stack([ndimage.map_coordinates(c, where, order=order, mode="mirror") for c in image])


@pytest.mark.parametrize(
    ("shape", "grid", "sigma"),
    [
        ((17, 26), 3, 2.0),
        ((17, 26), (2, 5), (9.0, 30.0)),
        ((6, 9, 11), 3, (1.0, 2.0, 3.0)),
        ((1, 23), 3, 4.0),
    ],
)
def test_equals_scipy(shape, grid, sigma, rng) -> None:
    image = rng.random((2, *shape))
    deform = RandElastic(grid=grid, sigma=sigma).set_random_state(seed=3)
    got = deform(image)
    field = dense_by_loops(deform.displacement, shape)
    np.testing.assert_allclose(got.numpy(), by_scipy(image, field, 1), atol=2e-5)
    assert np.abs(field).max() > 1
    nearest = deform.apply(image, mode="nearest").numpy()
    expected = by_scipy(image, field, 0)
    edge = np.abs((np.indices(shape) + field) % 1 - 0.5).min(0) < 1e-4  # ties are rounded either way
    np.testing.assert_array_equal(nearest[:, ~edge], expected[:, ~edge])


def test_mirrors_when_the_displacement_exceeds_the_image(rng) -> None:
    image = rng.random((1, 7, 11))
    deform = RandElastic(sigma=1.0)
    deform.randomize((7, 11))
    deform.displacement[:] = np.array([-31.0, 56.0]).reshape(2, 1, 1)
    rows = np.pad(np.arange(7), 40, mode="reflect")[np.arange(7) - 31 + 40]
    columns = np.pad(np.arange(11), 80, mode="reflect")[np.arange(11) + 56 + 80]
    expected = image[:, rows][:, :, columns]
    np.testing.assert_array_equal(deform.apply(image, mode="nearest").numpy(), expected)
    np.testing.assert_allclose(deform.apply(image).numpy(), expected, atol=1e-4)


def test_displacements_have_the_standard_deviation_of_the_paper() -> None:
    deform = RandElastic(sigma=(10.0, 4.0)).set_random_state(seed=0)
    ramps = torch.stack(torch.meshgrid(torch.arange(41.0), torch.arange(61.0), indexing="ij"))
    drawn, seen = [], []
    for _ in range(400):
        deform.randomize((41, 61))
        drawn.append(deform.displacement)
        seen.append(deform.apply(ramps)[:, 20, 30] - ramps[:, 20, 30])  # the middle node is a pixel
    drawn = np.stack(drawn)
    assert drawn.shape == (400, 2, 3, 3)
    np.testing.assert_allclose(drawn.std(axis=(0, 2, 3)), [10, 4], rtol=0.05)
    np.testing.assert_allclose(drawn.mean(axis=(0, 2, 3)), [0, 0], atol=0.5)
    inside = np.abs(drawn[:, :, 1, 1]) < [20, 30]
    np.testing.assert_allclose(torch.stack(seen).numpy()[inside], drawn[:, :, 1, 1][inside], atol=1e-4)


def test_identity_linearity_and_probability(rng) -> None:
    image = torch.from_numpy(rng.random((1, 19, 33)))
    torch.testing.assert_close(RandElastic(sigma=0)(image), image, atol=1e-5, rtol=0)
    deform = RandElastic(sigma=3).set_random_state(seed=1)
    one = deform(image)
    torch.testing.assert_close(deform.apply(2 * image + 3), 2 * one + 3, atol=1e-9, rtol=0)
    never = RandElastic(prob=0)
    torch.testing.assert_close(never(image), image, atol=0, rtol=0)
    half = RandElastic(prob=0.5, sigma=5).set_random_state(seed=0)
    changed = np.mean([not torch.equal(half(image), image) for _ in range(200)])
    assert 0.4 < changed < 0.6


def test_seeds_and_replay(rng) -> None:
    image = rng.random((1, 19, 33))
    a, b, c = (RandElastic(sigma=3).set_random_state(seed=s) for s in (5, 5, 6))
    first = a(image)
    assert torch.equal(first, b(image))
    assert not torch.equal(first, c(image))
    assert torch.equal(first, a.apply(image))
    assert torch.equal(first, a(image, randomize=False))
    assert not torch.equal(first, a(image))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.int16])
def test_integers_stay_exact(dtype) -> None:
    top = {torch.int64: 2**53, torch.int32: 2**31 - 1, torch.uint8: 255, torch.bool: 1, torch.int16: 999}[
        dtype
    ]
    label = torch.zeros(1, 30, 44, dtype=dtype)
    label[:, 8:20, 10:30] = top
    label[:, 20:, 10:30] = top - 1
    got = RandElasticd("anything", sigma=4).set_random_state(seed=0)({"anything": label})["anything"]
    assert got.dtype == dtype
    assert set(got.unique().tolist()) == set(label.unique().tolist())


def test_integer_images_are_rounded_when_bilinear_is_asked_for() -> None:
    image = torch.arange(0, 250, 5, dtype=torch.uint8).repeat(1, 40, 1)
    deform = RandElastic(sigma=2).set_random_state(seed=0)
    got = deform(image)
    assert got.dtype == torch.uint8
    torch.testing.assert_close(got.double(), deform.apply(image.double()).round(), atol=1, rtol=0)
    assert len(got.unique()) > 100  # between the pixels
    huge = torch.full((1, 9, 12), 2**40 + 1)
    assert torch.equal(deform(huge), huge)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_types_are_kept(dtype, rng) -> None:
    image = torch.from_numpy(rng.random((2, 20, 31))).to(dtype)
    deform = RandElastic(sigma=2).set_random_state(seed=0)
    got = deform(image)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), deform.apply(image.double()), atol=5e-3, rtol=0)


@pytest.mark.parametrize("shape", [(64, 96), (16, 24, 30)])
def test_image_and_label_stay_aligned(shape) -> None:
    grid = np.indices(shape)
    disk = (sum(((g - s / 2) / (s / 3)) ** 2 for g, s in zip(grid, shape)) < 1)[None]
    sample = {"image": disk.astype(np.float32), "label": disk.astype(np.uint8), "name": "a"}
    got = RandElasticd(["image", "label"], sigma=3).set_random_state(seed=2)(sample)
    assert got["name"] == "a"
    image, label = got["image"].numpy()[0], got["label"].numpy()[0] > 0
    assert np.abs(image - disk[0]).max() > 0.5  # something moved
    # the nearest pixel can decide otherwise than the half only where neighbours differ
    inside, outside = ndimage.binary_erosion(label), ~ndimage.binary_dilation(label)
    assert inside.any()
    assert (image[inside] > 0.5).all()
    assert (image[outside] < 0.5).all()
    assert np.mean((image > 0.5) != label) < 0.01


def test_modes() -> None:
    ramp = torch.arange(60.0).repeat(1, 40, 1)
    names = ["image", "Label", "my_mask", "segmentation", "instances"]
    got = RandElasticd(names, sigma=3).set_random_state(seed=0)(dict.fromkeys(names, ramp))
    assert len(got["image"].unique()) > 100
    for name in names[1:]:
        assert len(got[name].unique()) <= 60, name
    swapped = RandElasticd(["image", "label"], sigma=3, mode=["nearest", "bilinear"]).set_random_state(seed=0)
    got = swapped({"image": ramp, "label": ramp})
    assert len(got["image"].unique()) <= 60 < len(got["label"].unique())


def test_metadata_and_types_are_kept(rng) -> None:
    affine = torch.tensor([[0.0, -2, 0, 5], [3, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]], dtype=torch.float64)
    image = MetaTensor(torch.rand(1, 20, 30), affine=affine, meta={"filename_or_obj": "a.nii"})
    sample = {"image": image, "label": rng.integers(0, 5, (1, 20, 30))}
    before = image.clone()
    got = RandElasticd(["image", "label"]).set_random_state(seed=0)(sample)
    assert isinstance(got["image"], MetaTensor)
    torch.testing.assert_close(got["image"].affine, affine)
    assert got["image"].meta["filename_or_obj"] == "a.nii"
    assert torch.equal(image.as_tensor(), before.as_tensor())
    assert isinstance(got["label"], torch.Tensor)
    skipped = RandElasticd(["image", "label"], prob=0)(sample)
    assert isinstance(skipped["label"], torch.Tensor)


def test_missing_keys() -> None:
    sample = {"image": torch.rand(1, 9, 12)}
    assert set(RandElasticd(["label", "image"], allow_missing_keys=True)(sample)) == {"image"}
    with pytest.raises(KeyError):
        RandElasticd(["label", "image"])(sample)


def chain():
    return Compose(
        [
            RandFlipd(["image", "label"], prob=0.5, spatial_axis=0),
            RandElasticd(["image", "label"], sigma=4, prob=0.9),
            RandGaussianNoised("image", prob=0.5),
            BorderWeightMapd("label"),
            Targetd("label"),
        ]
    )


def cells():
    label = np.zeros((1, 48, 64), np.int32)
    label[:, 5:20, 5:25], label[:, 20:40, 8:30], label[:, 10:35, 34:60] = 1, 2, 3
    return {"image": (label > 0).astype(np.float32), "label": label}


def test_inside_a_chain_of_monai() -> None:
    one = chain().set_random_state(seed=11)(cells())
    two = chain().set_random_state(seed=11)(cells())
    other = chain().set_random_state(seed=12)(cells())
    for key in ("image", "label", "weight"):
        assert torch.equal(one[key], two[key])
        assert one[key].shape == (1, 48, 64)
    assert not torch.equal(one["image"], other["image"])
    assert one["weight"].dtype == torch.float32
    assert one["weight"].max() > 5


@pytest.mark.parametrize("loader", [torch.utils.data.DataLoader, DataLoader])
def test_workers_do_not_repeat_each_other(loader) -> None:
    data = Dataset([cells()] * 4, RandElasticd(["image", "label"], sigma=4).set_random_state(seed=0))

    def epoch(seed):
        torch.manual_seed(seed)
        return [batch["image"] for batch in loader(data, batch_size=1, num_workers=2)]

    first, second, again = epoch(0), epoch(1), epoch(0)
    for a, b in itertools.combinations([*first, *second], 2):
        assert not torch.equal(a, b)
    assert all(torch.equal(a, b) for a, b in zip(first, again))


def test_weights_and_targets_of_a_sample() -> None:
    label = MetaTensor(torch.from_numpy(cells()["label"]), affine=torch.diag(torch.tensor([2.0, 3, 1, 1])))
    sample = BorderWeightMapd("label", w0=7, sigma=3, spacing=(2, 3), out="w")({"label": label})
    expected = border_weight_map(label.numpy()[0], w0=7, sigma=3, spacing=(2, 3))
    np.testing.assert_array_equal(sample["w"].numpy()[0], expected)
    torch.testing.assert_close(sample["w"].affine, label.affine)
    both = Targetd("label", target="interior-border", out="target")(sample)
    np.testing.assert_array_equal(both["target"].numpy()[0], interior_border(label.numpy()[0]))
    assert torch.equal(both["label"], label)
    np.testing.assert_array_equal(Targetd("label")(sample)["label"].numpy()[0], foreground(label.numpy()[0]))


def test_weights_of_classes_are_those_of_their_components() -> None:
    label = np.zeros((9, 14), np.int64)
    label[1:4, 1:6] = 1
    label[6:9, 1:6] = 1  # of the same class: only its components tell it from the other
    label[2:5, 6:9] = 2  # touches the first, and stays as it is: the network is asked for it so
    objects = [label == 2, label == 1, label == 1]
    objects[1] = objects[1] & (np.arange(9) < 5)[:, None]
    objects[2] = objects[2] & (np.arange(9) > 5)[:, None]
    pixels = np.argwhere(np.ones(label.shape, bool)).reshape(*label.shape, 1, 2) * (2.0, 3.0)
    away = [np.linalg.norm(pixels - np.argwhere(o) * (2.0, 3.0), axis=-1).min(-1) for o in objects]
    near = np.sort(away, axis=0)
    expected = label.size / 3 / np.bincount(label.ravel())[label]
    expected += (label == 0) * 7 * np.exp(-((near[0] + near[1]) ** 2) / (2 * 4**2))
    sample = BorderWeightMapd("label", w0=7, sigma=4, n_classes=3, spacing=(2, 3))(
        {"label": torch.from_numpy(label)[None]}
    )
    np.testing.assert_allclose(sample["weight"].numpy()[0], expected, rtol=0, atol=1e-5)


def test_thick_slices_are_deformed_as_far_in_millimetres() -> None:
    """Voxels of 1 x 1 x 5 mm: each axis moves by the same distance in the world, in a fifth of the voxels."""
    spacing = np.array([5.0, 1.0, 1.0])
    deform = RandElasticd("image", sigma=tuple(10 / spacing)).set_random_state(seed=0)
    shape = (9, 41, 31)  # the middle node of the coarse grid is a voxel
    where = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij"))
    drawn, seen = [], []
    for _ in range(300):
        moved = deform({"image": where})["image"]
        drawn.append(deform.elastic.displacement[:, 1, 1, 1] * spacing)
        seen.append((moved - where)[:, 4, 20, 15].numpy() * spacing)
    drawn, seen = np.stack(drawn), np.stack(seen)
    np.testing.assert_allclose(drawn.std(axis=0), [10, 10, 10], rtol=0.12)
    inside = np.abs(drawn) < spacing * [4, 20, 15]  # farther is mirrored
    np.testing.assert_allclose(seen[inside], drawn[inside], atol=1e-3)
    assert inside.mean() > 0.8


def test_border_weights_of_thick_slices_by_brute_force(rng) -> None:
    """Distances in units of the finest axis: spacing over its smallest entry, as a chain hands it on."""
    label = np.zeros((5, 15, 12), np.int32)
    for number in range(1, 6):
        z, y, x = (int(rng.integers(0, n - 2)) for n in label.shape)
        block = label[z : z + 2, y : y + 3, x : x + 2]
        block[block == 0] = number
    spacing = np.array([2.5, 0.5, 0.8])
    relative = tuple(spacing / spacing.min())
    assert relative == (5.0, 1.0, 1.6)
    sample = BorderWeightMapd("label", w0=7, sigma=4, spacing=relative)(
        {"label": torch.from_numpy(label)[None]}
    )
    parted = part_touching(label)
    ids = [i for i in np.unique(parted) if i]
    assert len(ids) > 2
    voxels = np.argwhere(np.ones(label.shape, bool)) * relative
    away = [
        np.linalg.norm(voxels[:, None] - np.argwhere(parted == i) * relative, axis=-1).min(1) for i in ids
    ]
    near = np.sort(away, axis=0).reshape(len(ids), *label.shape)
    expected = parted.size / 2 / np.bincount(parted.ravel() > 0)[(parted > 0).astype(int)]
    expected += (parted == 0) * 7 * np.exp(-((near[0] + near[1]) ** 2) / (2 * 4**2))
    np.testing.assert_allclose(sample["weight"].numpy()[0], expected, rtol=0, atol=1e-5)


def test_a_plan_for_classes_weighs_the_gap_between_two_parts_of_one_class() -> None:
    label = torch.tensor([[[1, 1, 0, 1, 1]] * 3])
    values = {"target.border_weights": True, "target.classes": ("membrane", "cell")}
    plan = Plan().with_values(values)
    assert plan.target.kind == "semantic"
    weight = target_chain(plan)({"label": label})["weight"][0]
    # the gap is a fifth of the pixels: 5 / 2 for its class, and 10 exp(-4 / 50)
    assert weight[1].tolist() == pytest.approx([0.625, 0.625, 2.5 + 9.231163, 0.625, 0.625])
    masks = BorderWeightMapd("label", n_classes=2)({"label": label.bool()})
    assert torch.equal(masks["weight"][0], weight)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: RandElastic(grid=1), "bad-value"),
        (lambda: RandElastic(grid=2.5), "bad-value"),
        (lambda: RandElastic(sigma=-1), "bad-value"),
        (lambda: RandElastic(prob=2), "bad-value"),
        (lambda: RandElastic(mode="cubic"), "unknown-mode"),
        (lambda: RandElasticd("image", mode="biliner"), "unknown-mode"),
        (lambda: RandElastic().apply(torch.zeros(1, 4, 5)), "not-drawn"),
        (lambda: RandElastic(sigma=(1, 2, 3))(torch.zeros(1, 4, 5)), "shape-mismatch"),
        (lambda: RandElastic()(torch.zeros(1, 4)), "shape-mismatch"),
        (
            lambda: RandElasticd(["a", "b"])({"a": torch.zeros(1, 4, 5), "b": torch.zeros(1, 4, 6)}),
            "shape-mismatch",
        ),
        (lambda: Targetd("label", target="foregroud"), "unknown-target"),
        (lambda: Targetd("label")({"label": torch.zeros(2, 4, 5, dtype=torch.int32)}), "channel-count"),
        (lambda: BorderWeightMapd("label")({"label": torch.zeros(1, 4, 5)}), "not-integer"),
        (
            lambda: BorderWeightMapd("label", n_classes=2)({"label": torch.full((1, 4, 5), 2)}),
            "unknown-class",
        ),
    ],
)
def test_refusals(call, reason) -> None:
    with pytest.raises(Refused) as caught:
        call()
    assert caught.value.reason == reason


@pytest.mark.gpu
def test_gpu_equals_cpu() -> None:
    image, label = torch.rand(1, 40, 50, 60), torch.randint(0, 9, (1, 40, 50, 60))
    deform = RandElasticd(["image", "label"], sigma=4).set_random_state(seed=0)
    here = deform({"image": image, "label": label})
    there = deform.apply({"image": image.cuda(), "label": label.cuda()})
    assert there["image"].is_cuda
    torch.testing.assert_close(there["image"].cpu(), here["image"], atol=1e-3, rtol=0)
    assert (there["label"].cpu() == here["label"]).double().mean() > 0.999
