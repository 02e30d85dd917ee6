"""The fully connected CRF against all pairs of pixels in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import medseg.crf.direct as direct
import medseg.crf.model as model
from medseg import Plan, Refused, predict, write
from medseg.bundle import load_bundle, save_bundle
from medseg.crf import CRF, dense_crf
from medseg.crf.bilateral import GridKernel, bilateral_kernel
from medseg.crf.direct import DirectKernel, SpatialKernel
from medseg.crf.layout import layout_of
from medseg.inference import predict_to
from medseg.networks import build_network


def scene(shape, channels, classes, noise=0.05, seed=0):
    """Blocks of a class each, their noisy image and vague probabilities."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(classes, size=[-(-n // 6) for n in shape])
    for axis in range(len(shape)):
        coarse = coarse.repeat(6, axis)
    labels = coarse[tuple(slice(n) for n in shape)]
    image = np.moveaxis(rng.random((classes, channels))[labels], -1, 0)
    image = image + noise * rng.normal(size=image.shape)
    index = np.arange(classes).reshape(-1, *[1] * len(shape))
    share = np.exp(2.0 * (labels == index) + 1.5 * rng.normal(size=(classes, *shape)))
    return (share / share.sum(0)).astype(np.float32), image.astype(np.float32)


def pair_kernels(image, crf, spacing):
    """Both kernels between all pixels, as the formulas say."""
    grid = np.meshgrid(*(np.arange(n) * s for n, s in zip(image.shape[1:], spacing)), indexing="ij")
    place = np.stack(grid, -1).reshape(-1, len(spacing))
    value = image.reshape(len(image), -1).T.astype(np.float64)
    far = ((place[:, None] - place) ** 2).sum(-1)
    unlike = ((value[:, None] - value) ** 2).sum(-1)
    near = np.exp(-far / (2 * crf.theta_alpha**2) - unlike / (2 * crf.theta_beta**2))
    return near, np.exp(-far / (2 * crf.theta_gamma**2))


def brute_force(probabilities, image, crf, spacing):
    classes, total = len(probabilities), 0.0
    for weight, kernel in zip((crf.w_bilateral, crf.w_spatial), pair_kernels(image, crf, spacing)):
        sums = kernel.sum(1)
        kernel = kernel / np.sqrt(sums[:, None] * sums)
        np.fill_diagonal(kernel, 0)
        total = total + weight * kernel
    penalty = np.array(crf.compatibility) if crf.compatibility else 1 - np.eye(classes)
    unary = np.log(np.maximum(probabilities.reshape(classes, -1).astype(np.float64), 1e-6))
    field = np.exp(unary) / np.exp(unary).sum(0)
    for _ in range(crf.iterations):
        energy = unary - penalty @ (field @ total)
        field = np.exp(energy - energy.max(0))
        field /= field.sum(0)
    return field.reshape(probabilities.shape)


def on_grid(step):
    """Take the grid whatever it costs."""

    def kernel(image, sigma, theta_beta, *, bytes_left):
        return GridKernel(image / theta_beta, sigma, layout_of(image / theta_beta, sigma, step))

    return kernel


FIELDS = [
    CRF(theta_alpha=60, theta_beta=0.05, w_bilateral=5),
    CRF(theta_alpha=8, theta_beta=0.1, theta_gamma=1.5, w_bilateral=8, iterations=5),
    CRF(theta_alpha=3, theta_beta=0.3, w_bilateral=4, w_spatial=0),
]


@pytest.mark.parametrize("shape", [(23, 34), (7, 9, 11)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("way", ["chosen", "grid"])
def test_every_probability_is_that_of_all_pairs(way, channels, shape, monkeypatch) -> None:
    if way == "grid":
        monkeypatch.setattr(model, "bilateral_kernel", on_grid(0.5))
    spacing = [1.0, 1.7, 0.6][: len(shape)]
    for number, crf in enumerate(FIELDS):
        classes = 2 + number
        probabilities, image = scene(shape, channels, classes)
        found = dense_crf(probabilities, image, crf=crf, spacing=spacing)
        expected = brute_force(probabilities, image, crf, spacing)
        assert np.abs(expected - probabilities).max() > 0.3  # there was something to do
        assert np.abs(found - expected).max() < 0.02
        np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize(("channels", "most"), [(1, 3e-3), (2, 2e-2), (3, 2e-2)])
def test_each_way_holds_the_kernel_itself(channels, most, monkeypatch) -> None:
    crf, shape = CRF(theta_alpha=6, theta_beta=0.2), (19, 28)
    _, image = scene(shape, channels, 3, noise=0.2)
    kernel, _ = pair_kernels(image, crf, (1.0, 1.0))
    values = torch.from_numpy(image) / crf.theta_beta
    matrix = DirectKernel(values, [6.0, 6.0])
    monkeypatch.setattr(direct, "_PIXELS", 0)
    for made, bound in (
        (matrix, 1e-4),
        (GridKernel(values, [6.0, 6.0], layout_of(values, [6.0, 6.0], 0.5)), most),
        (DirectKernel(values, [6.0, 6.0]), 1e-3),
    ):
        one = np.zeros((2, *shape), np.float32)
        one[0, 5, 7] = one[1, 18, 27] = 1
        found = made(torch.from_numpy(one)).numpy().reshape(2, -1)
        assert np.abs(found - kernel[[5 * 28 + 7, 18 * 28 + 27]]).max() < bound
        sums = made(torch.ones(1, *shape)).numpy().ravel()
        assert np.abs(sums / kernel.sum(1) - 1).max() < bound
        whole = made(torch.eye(19 * 28).reshape(-1, *shape)).reshape(19 * 28, -1)
        own = made.diagonal().expand(shape).flatten()
        torch.testing.assert_close(whole.diagonal(), own, atol=1e-5, rtol=0)
        torch.testing.assert_close(whole, whole.T, atol=1e-5, rtol=0)


def test_tables_of_other_devices_give_the_same() -> None:
    from medseg.crf.bilateral import _Table

    weights, columns = torch.rand(40, 9), torch.randint(0, 17, (40, 9), dtype=torch.int32)
    here, there = _Table(weights, columns, 17), _Table(weights, columns, 17, scipy=False)
    pixels, grid = torch.rand(40, 5), torch.rand(17, 5)
    torch.testing.assert_close(here.spread(pixels), there.spread(pixels))
    torch.testing.assert_close(here.collect(grid), there.collect(grid))


def test_the_spatial_kernel_is_a_convolution() -> None:
    planes = torch.rand(2, 13, 150, dtype=torch.float64).float()
    found = SpatialKernel((13, 150), (2.0, 3.5), torch.device("cpu"))(planes)
    rows, columns = (
        np.exp(-((np.arange(n)[:, None] - np.arange(n)) ** 2) / (2 * s**2)) for n, s in ((13, 2), (150, 3.5))
    )
    np.testing.assert_allclose(found, rows @ planes.numpy() @ columns, rtol=1e-3)


def test_compatibility_says_which_classes_may_touch() -> None:
    probabilities, image = scene((15, 22), 1, 3)
    crf = CRF(compatibility=((0, 1, 5), (1, 0, 0.5), (5, 0.5, 0)))
    found = dense_crf(probabilities, image, crf=crf)
    assert np.abs(found - brute_force(probabilities, image, crf, (1, 1))).max() < 0.02
    assert np.abs(found - dense_crf(probabilities, image)).max() > 0.1


def test_kinds_go_in_and_come_out() -> None:
    probabilities, image = scene((12, 17), 1, 2)
    found = dense_crf(probabilities, image[0])
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    tensor = dense_crf(torch.from_numpy(probabilities).double(), torch.from_numpy(image))
    np.testing.assert_array_equal(tensor.numpy(), found)
    np.testing.assert_allclose(
        dense_crf(probabilities, image, crf=CRF(iterations=0)), probabilities, atol=1e-5
    )
    alone = dense_crf(np.ones((1, 4, 5), np.float32), image[0, :4, :5])
    assert (alone == 1).all()
    steps = []
    dense_crf(probabilities, image, crf=CRF(iterations=2), progress=lambda done, of: steps.append((done, of)))
    assert steps == [(1, 2), (2, 2)]


def test_a_flat_image_and_a_line_of_pixels() -> None:
    probabilities, image = scene((1, 40), 1, 2)
    for picture in (image, np.full_like(image, 7.0)):
        found = dense_crf(probabilities, picture)
        assert np.abs(found - brute_force(probabilities, picture, CRF(), (1, 1))).max() < 0.02


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": np.zeros((1, 6, 5))}, "shape-mismatch"),
        ({"image": np.zeros((5, 6, 3))}, "shape-mismatch"),
        ({"image": np.full((1, 5, 6), np.nan)}, "non-finite"),
        ({"probabilities": np.ones((2, 5, 6))}, "not-probabilities"),
        ({"probabilities": np.full((2, 5, 6), np.nan)}, "not-probabilities"),
        ({"probabilities": np.ones((1, 0, 6)), "image": np.ones((1, 0, 6))}, "empty-image"),
        ({"probabilities": np.ones(6)}, "shape-mismatch"),
        ({"spacing": (1.0,)}, "bad-argument"),
        ({"spacing": (1.0, 0.0)}, "bad-argument"),
        ({"memory_gb": 1e-6}, "out-of-memory"),
        ({"crf": CRF(compatibility=((0.0,),))}, "shape-mismatch"),
    ],
)
def test_refusals(change, reason) -> None:
    given = {"probabilities": np.full((2, 5, 6), 0.5), "image": np.zeros((1, 5, 6))} | change
    with pytest.raises(Refused) as refused:
        dense_crf(given.pop("probabilities"), given.pop("image"), **given)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "numbers",
    [
        {"theta_alpha": 0},
        {"theta_beta": -1},
        {"w_spatial": -1},
        {"iterations": -1},
        {"compatibility": ((1.0, 2.0),)},
    ],
)
def test_a_field_of_nonsense_is_refused(numbers) -> None:
    with pytest.raises(Refused):
        CRF(**numbers)


def test_the_way_follows_the_work() -> None:
    image = torch.rand(1, 300, 200)
    assert isinstance(bilateral_kernel(image, (60.0, 60.0), 0.1), GridKernel)
    assert isinstance(bilateral_kernel(image[:, :20, :30], (60.0, 60.0), 0.1), DirectKernel)
    assert isinstance(bilateral_kernel(torch.rand(3, 90, 80), (1.0, 1.0), 0.02), DirectKernel)
    assert isinstance(bilateral_kernel(torch.rand(3, 80, 90), (8.0, 8.0), 0.1), GridKernel)
    assert isinstance(
        bilateral_kernel(torch.rand(3, 80, 90), (8.0, 8.0), 0.05), DirectKernel
    )  # cells too wide


FIELD = {"predict.crf_iterations": 4, "predict.crf_theta_alpha": 5.0, "predict.crf_theta_beta": 0.2}


def bundle_of(folder, values):
    """Return a small untrained model, the same each time, and the same without its field."""
    plan = Plan().with_values({"network.channels": (2, 4), "input.normalise": "none"} | values)
    torch.manual_seed(0)
    network = build_network(plan).eval()
    both = []
    for name, one in (("with", plan), ("without", plan.with_values({"predict.crf_iterations": 0}))):
        both.append(load_bundle(save_bundle(folder / name, one, network, card=""), device="cpu"))
    return both


@pytest.mark.parametrize("dims", [2, 3])
def test_predict_refines_before_it_decides(tmp_path, dims) -> None:
    from monai.data import MetaTensor

    shape, step = ((30, 44), (2.0, 3.0, 1.0)) if dims == 2 else ((10, 12, 16), (2.0, 3.0, 1.5))
    values = FIELD | {"input.spatial_dims": dims, "train.patch": (16,) * dims}
    field, plain = bundle_of(tmp_path, values)
    _, image = scene(shape, 1, 2)
    picture = MetaTensor(torch.from_numpy(image), affine=np.diag([*step, 1.0]), meta={"spacing_unit": "mm"})
    before = predict(plain, picture, probabilities=True)
    after = predict(field, picture, probabilities=True)
    crf = CRF(theta_alpha=5, theta_beta=0.2, iterations=4)
    finest = [s / min(step[:dims]) for s in step[:dims]]
    expected = dense_crf(before.probabilities, image, crf=crf, spacing=finest)
    np.testing.assert_allclose(after.probabilities, expected, atol=1e-4)
    assert np.abs(expected - before.probabilities).max() > 0.05
    np.testing.assert_array_equal(after.labels, after.probabilities.argmax(0))
    quiet = predict(field, picture)
    assert quiet.probabilities is None
    np.testing.assert_array_equal(quiet.labels, after.labels)


def test_reach_is_in_pixels_of_the_plan() -> None:
    from monai.data import MetaTensor

    from medseg.inference.refining import _spacing

    grid = MetaTensor(torch.zeros(1, 4, 4), affine=np.diag([0.5, 0.25, 1, 1]), meta={"spacing_unit": "mm"})
    known = Plan().with_values({"input.spacing": (1.0, 0.5), "input.spacing_unit": "mm"})
    assert _spacing(grid, known) == [1.0, 0.5]
    assert _spacing(grid, Plan()) == [2.0, 1.0]
    assert _spacing(torch.zeros(1, 4, 4), known) == [1.0, 1.0]


def test_what_is_not_held_is_not_refined(tmp_path) -> None:
    field, _ = bundle_of(tmp_path, FIELD)
    image = write(np.zeros((40, 30), np.uint8), tmp_path / "image.tif")
    with pytest.raises(Refused, match="CRF") as refused:
        predict_to(field, image, tmp_path / "out.tif")
    assert refused.value.reason == "not-local"
    with pytest.raises(Refused, match="CRF") as refused:
        predict(field, np.zeros((400, 300), np.uint8), max_ram_gb=1e-3)
    assert refused.value.reason == "out-of-memory"


def test_a_plan_with_a_matrix_of_another_size_is_refused() -> None:
    with pytest.raises(Refused, match="compatibility"):
        Plan().with_values({"predict.crf_compatibility": ((0.0, 1.0, 1.0),) * 3})
    plan = Plan().with_values({"predict.crf_compatibility": ((0.0, 2.0), (1.0, 0.0))})
    assert Plan.from_toml(plan.to_toml()).predict == plan.predict
