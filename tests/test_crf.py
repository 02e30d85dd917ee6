"""The fully connected CRF against all pairs of pixels in float64."""

from __future__ import annotations

from dataclasses import replace

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
from medseg.crf.gaussian import places_in_cell, spline_coupling, spline_weights
from medseg.crf.layout import layout_of, turned
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
    assert (dense_crf(np.full((2, 1, 1), 0.5), np.ones((1, 1))) == 0.5).all()
    steps = []
    dense_crf(probabilities, image, crf=CRF(iterations=2), progress=lambda done, of: steps.append((done, of)))
    assert steps == [(1, 2), (2, 2)]


def test_numbers_of_any_kind() -> None:
    from monai.data import MetaTensor

    rng = np.random.default_rng(0)
    _, image = scene((12, 17), 1, 2)
    stored = (image * 100).round().astype(np.int16)
    sure = (image[0] > np.median(image)) ^ (rng.random((12, 17)) < 0.1)
    hot, crf = np.stack([~sure, sure]).astype(np.int64), CRF(theta_beta=5, w_bilateral=40, iterations=3)
    expected = dense_crf(hot.astype(np.float32), stored.astype(np.float32), crf=crf)
    assert np.abs(expected - hot).max() > 0.3
    wide = torch.from_numpy(stored.astype(np.float32)).repeat_interleave(2, dim=2)
    pictures = [
        stored,
        stored.astype(">i2"),
        stored.astype(np.int64) + 2**40,
        stored.astype(np.float64) + 1e12,
        np.ascontiguousarray(stored[:, ::-1, ::-1])[:, ::-1, ::-1],
        stored.tolist(),
        (stored - stored.min()).astype(np.uint16),
        torch.from_numpy(stored.astype(np.float32)).requires_grad_(),
        wide[:, :, ::2],
        torch.from_numpy(stored).to(torch.bfloat16 if abs(stored).max() <= 256 else torch.float32),
        MetaTensor(torch.from_numpy(stored).half()),
    ]
    for picture in pictures:
        np.testing.assert_allclose(dense_crf(hot, picture, crf=crf), expected, atol=1e-5)
    for kind in (torch.float16, torch.bfloat16, torch.int64, torch.bool):
        found = dense_crf(torch.from_numpy(hot).to(kind), stored, crf=crf)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
    vague = torch.from_numpy(expected).half()
    assert dense_crf(vague.requires_grad_(), stored, crf=crf).requires_grad is False
    affine = np.diag([2.0, 3.0, 1.0, 1.0])
    meta = dense_crf(MetaTensor(torch.from_numpy(hot), affine=affine), stored, crf=crf)
    assert isinstance(meta, MetaTensor)
    assert meta.dtype == torch.float32
    np.testing.assert_array_equal(meta.affine, affine)
    np.testing.assert_allclose(meta.as_tensor(), expected, atol=1e-5)


@pytest.mark.parametrize("way", ["chosen", "grid"])
def test_units_do_not_matter(way, monkeypatch) -> None:
    if way == "grid":
        monkeypatch.setattr(model, "bilateral_kernel", on_grid(0.5))
    probabilities, image = scene((17, 26), 2, 3)
    found = dense_crf(probabilities, image, crf=CRF(theta_alpha=6, theta_beta=0.1, theta_gamma=2))
    other = CRF(theta_alpha=6e-3, theta_beta=100, theta_gamma=2e-3)
    again = dense_crf(probabilities, 7e4 + 1000 * image, crf=other, spacing=(1e-3, 1e-3))
    assert np.abs(found - probabilities).max() > 0.3
    np.testing.assert_allclose(
        again, found, atol=2e-3
    )  # float32 holds 7e4 and the noise to 1e-4 of theta_beta


def test_far_more_values_than_theta_beta_asks_for() -> None:
    """A CT in Hounsfield units with a field for values of 0 to 1: no two pixels are alike."""
    probabilities, image = scene((66, 70), 1, 2)
    apart = np.argsort(np.random.default_rng(1).random(66 * 70)).reshape(1, 66, 70) / 4 - 1000.0
    found = dense_crf(probabilities, apart, crf=CRF(w_spatial=0, iterations=2))
    np.testing.assert_allclose(found, probabilities, atol=1e-3)
    beyond = np.where(image > image.mean(), 1e38, -1e38)
    with pytest.raises(Refused, match="theta_beta"):
        dense_crf(probabilities, beyond)
    with pytest.raises(Refused, match="float32"):
        dense_crf(probabilities, beyond * 1e10)


def test_channels_that_say_nothing_change_nothing(monkeypatch) -> None:
    monkeypatch.setattr(model, "bilateral_kernel", on_grid(0.5))
    crf = CRF(theta_alpha=8, theta_beta=0.1)
    probabilities, image = scene((17, 26), 2, 3)
    expected = brute_force(probabilities, image, crf, (1, 1))
    flat = np.full_like(image[:1], 40.0)
    found = dense_crf(probabilities, np.concatenate([flat, image, flat]), crf=crf)
    assert np.abs(found - expected).max() < 0.02
    same = dense_crf(probabilities, np.concatenate([flat, flat]), crf=crf)
    assert np.abs(same - brute_force(probabilities, flat, crf, (1, 1))).max() < 0.02


def test_a_flat_channel_does_not_hide_that_the_others_go_together() -> None:
    grey = torch.rand(1, 20, 30)
    picture = torch.cat([grey, torch.ones(1, 20, 30), grey])
    spans = turned(picture, 0.05).flatten(1).std(1)
    assert (spans > 1e-3).sum() == 1


def test_the_same_twice(monkeypatch) -> None:
    monkeypatch.setattr(model, "bilateral_kernel", on_grid(0.6))
    probabilities, image = scene((40, 66), 3, 4)
    first = dense_crf(probabilities, image)
    np.testing.assert_array_equal(dense_crf(probabilities, image), first)


@pytest.mark.parametrize("together", [1, 3])
def test_planes_may_be_summed_apart(together) -> None:
    _, image = scene((19, 28), 2, 3, noise=0.2)
    values = torch.from_numpy(image) / 0.2
    layout = layout_of(values, [6.0, 6.0], 0.5)
    planes = torch.rand(5, 19, 28)
    found = GridKernel(values, [6.0, 6.0], replace(layout, together=together))(planes)
    whole = GridKernel(values, [6.0, 6.0], replace(layout, together=5))(planes)
    torch.testing.assert_close(found, whole)


def test_a_long_axis_is_coupled_as_a_short_one() -> None:
    splines = spline_weights(places_in_cell(4, 3), 3).float()
    for cells in (30, 120):
        coupling, near = spline_coupling(cells, 4, 10.0, 3, torch.device("cpu"))
        matrix = coupling(torch.eye(cells + 3), 0)
        assert matrix.shape == (cells + 3, cells + 3)
        all_pixels = torch.zeros(cells, 4, cells + 3)
        for cell in range(cells):
            all_pixels[cell, :, cell : cell + 4] = splines
        points = all_pixels.flatten(0, 1)
        place = torch.arange(len(points))
        expected = (-((place[:, None] - place) ** 2) / 200).exp()
        torch.testing.assert_close(points @ matrix @ points.T, expected, atol=6e-4, rtol=0)
        torch.testing.assert_close(near[:, 0], matrix.diagonal(), atol=1e-6, rtol=0)
        torch.testing.assert_close(near[:-2, 2], matrix.diagonal(2), atol=1e-6, rtol=0)


def test_little_memory_takes_another_way() -> None:
    image = torch.rand(1, 60, 60)
    assert bilateral_kernel(image, (9.0, 9.0), 0.1).matrix is not None
    assert getattr(bilateral_kernel(image, (9.0, 9.0), 0.1, bytes_left=5e6), "matrix", None) is None
    colour, sigma = torch.rand(3, 300, 200), (60.0, 60.0)
    free = bilateral_kernel(colour, sigma, 0.1).layout
    bound = bilateral_kernel(colour, sigma, 0.1, bytes_left=0.7 * free.held).layout
    assert (bound.step, -bound.together) > (free.step, -free.together)
    assert bound.held <= 0.7 * free.held


@pytest.mark.parametrize("way", ["chosen", "grid"])
@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 1)])
def test_a_flat_image_and_a_line_of_pixels(shape, way, monkeypatch) -> None:
    if way == "grid":
        monkeypatch.setattr(model, "bilateral_kernel", on_grid(0.5))
    probabilities, image = scene(shape, 1, 2)
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
        {"iterations": 2.5},
        {"compatibility": ((0.0, float("nan")), (1.0, 0.0))},
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
