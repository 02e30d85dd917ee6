"""Losses against MONAI, PyTorch, formulas by hand and float64."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from torch.nn import functional as F

from medseg import Refused
from medseg.losses import LOSSES, bce_dice, check_target, cross_entropy, cross_entropy_dice, dice


def case(shape=(2, 3, 9, 13), seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
    target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    weight = torch.rand((shape[0], *shape[2:]), generator=generator, dtype=torch.float64) * 10
    return logits, target, weight


@pytest.mark.parametrize("shape", [(2, 3, 9, 13), (1, 2, 4, 5, 6), (3, 4, 7)])
def test_cross_entropy(shape) -> None:
    logits, target, weight = case(shape)
    torch.testing.assert_close(cross_entropy(logits, target), F.cross_entropy(logits, target))
    chosen = logits.softmax(1).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(
        cross_entropy(logits, target, weight=weight), -(weight * chosen.log()).sum() / target.numel()
    )


def test_a_pixel_of_weight_zero_is_ignored() -> None:
    logits, target, weight = case()
    weight[:, :, 5:] = 0
    other = logits.clone()
    other[..., 5:] += 100 * torch.rand_like(other[..., 5:])
    for name, loss in LOSSES.items():
        a, b, t = (logits, other, target) if name != "bce_dice" else (logits[:, :2], other[:, :2], target % 2)
        torch.testing.assert_close(loss(a, t, weight=weight), loss(b, t, weight=weight), msg=name)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("include_background", [True, False])
def test_dice_equals_monai(squared, include_background) -> None:
    logits, target, _ = case((2, 4, 8, 11))
    target[target == 3] = 1  # a class that is absent
    options = {
        "softmax": True,
        "to_onehot_y": True,
        "squared_pred": squared,
        "include_background": include_background,
    }
    mine = {"squared": squared, "include_background": include_background}
    torch.testing.assert_close(
        dice(logits, target, **mine), DiceLoss(**options)(logits, target[:, None]).double()
    )
    torch.testing.assert_close(
        cross_entropy_dice(logits, target, dice_weight=0.5, **mine),
        DiceCELoss(lambda_dice=0.5, **options)(logits, target[:, None]).double(),
    )


def test_dice_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0, 0.0], [0.0, math.log(3), math.log(3)]]])[
        ..., None
    ]  # p = 1/2, 3/4, 3/4
    target = torch.tensor([[0, 1, 1]])[..., None]
    inner = 2 * (0.75 + 0.75) / (0.25 + 2 * 0.5625 + 2)
    assert float(dice(logits, target, include_background=False, smooth=0)) == pytest.approx(1 - inner)
    weight = torch.tensor([[0.0, 1.0, 2.0]])[..., None]
    weighted = 2 * (0.75 + 2 * 0.75) / (3 * 0.5625 + 3)
    assert float(dice(logits, target, weight=weight, include_background=False, smooth=0)) == pytest.approx(
        1 - weighted
    )


def test_perfect_and_absent() -> None:
    target = torch.zeros(1, 4, 6, dtype=torch.long)
    target[:, :2] = 1
    logits = 50 * (F.one_hot(target, 3).movedim(-1, 1).float() - 0.5)
    for name in ("cross_entropy", "dice", "cross_entropy_dice"):
        assert float(LOSSES[name](logits, target)) == pytest.approx(0, abs=1e-5)


def test_bce_dice_one_and_two_channels() -> None:
    logits, target, weight = case((2, 2, 9, 13))
    single = (logits[:, 1] - logits[:, 0])[:, None]
    two = bce_dice(logits, target, weight=weight, dice_weight=0.7)
    torch.testing.assert_close(two, bce_dice(single, target, weight=weight, dice_weight=0.7))
    torch.testing.assert_close(
        two,
        cross_entropy(logits, target, weight=weight)
        + 0.7 * dice(logits, target, weight=weight, include_background=False),
    )
    torch.testing.assert_close(
        bce_dice(single, target, dice_weight=0),
        F.binary_cross_entropy(single[:, 0].sigmoid(), target.double()),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_half_precision(dtype, name, scale) -> None:
    logits, target, weight = case((1, 2, 40, 60), scale=scale)
    narrow = logits.clamp(-6e4, 6e4).to(dtype).requires_grad_()
    exact = narrow.detach().double().requires_grad_()
    # the gradient of a mean is far below the smallest half; training scales the loss for the same reason
    loss = LOSSES[name](narrow, target, weight=weight)
    (loss * target.numel()).backward()
    reference = LOSSES[name](exact, target, weight=weight)
    (reference * target.numel()).backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), reference, rtol=1e-5, atol=1e-5)
    assert torch.isfinite(narrow.grad).all()
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float32: 1e-5}[dtype]
    torch.testing.assert_close(narrow.grad.double(), exact.grad, rtol=tolerance, atol=tolerance)


def test_sums_over_a_large_image_stay_exact_in_half_precision() -> None:
    target = torch.zeros(1, 500, 700, dtype=torch.long)
    target[:, :250] = 1
    logits = torch.zeros(1, 2, 500, 700, dtype=torch.float16)
    assert float(cross_entropy(logits, target)) == pytest.approx(math.log(2), rel=1e-5)
    # p = 1/2 everywhere: 2 * n/4 / (n/4 + n/2)
    assert float(dice(logits, target)) == pytest.approx(1 / 3, rel=1e-5)


def test_gradients() -> None:
    for name, loss in LOSSES.items():
        logits, target, weight = case((1, 2, 3, 4))
        logits.requires_grad_()
        assert torch.autograd.gradcheck(lambda x, f=loss, t=target, w=weight: f(x, t, weight=w), logits), name


def test_integer_types() -> None:
    logits, target, _ = case()
    for dtype in (torch.uint8, torch.int16, torch.int32):
        torch.testing.assert_close(cross_entropy(logits, target.to(dtype)), cross_entropy(logits, target))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_refusals(name) -> None:
    loss = LOSSES[name]
    logits, target, weight = case((2, 2, 9, 13))

    def reason(*args, **kwargs):
        with pytest.raises(Refused) as caught:
            loss(*args, **kwargs)
        return caught.value.reason

    assert reason(logits, target[:, :-2]) == "shape-mismatch"
    assert reason(logits, target[:, None]) == "shape-mismatch"
    assert reason(logits, target, weight=weight[..., :5]) == "shape-mismatch"
    assert reason(logits.long(), target) == "shape-mismatch"
    assert reason(logits, target.double()) == "not-integer"
    assert reason(logits, target.bool()) == "not-integer"
    assert reason(logits, target + 1) == "unknown-class"
    assert reason(logits, target - 1) == "unknown-class"
    wrong = torch.cat([logits, logits], 1) if name == "bce_dice" else logits[:, :1]
    assert reason(wrong, target) == "channel-count"


def test_refusal_tells_of_cropping() -> None:
    with pytest.raises(Refused, match="Crop it to the output of the network"):
        cross_entropy(torch.zeros(1, 2, 4, 6), torch.zeros(1, 8, 10, dtype=torch.long))


def test_check_target_of_nothing() -> None:
    check_target(torch.zeros(0, dtype=torch.long), 2)
