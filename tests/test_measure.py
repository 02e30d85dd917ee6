"""The ellipse of a mask against ellipses that are known, scipy's elliptic integral and real annotations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ellipe

from medseg import Refused
from medseg.measure import Ellipse, ellipse, perimeter


def drawn(
    shape: tuple[int, int],
    centre: tuple[float, float],
    semi: tuple[float, float],
    angle: float,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> np.ndarray:
    """Pixels whose centres lie in the ellipse; everything but the shape is in the unit of the spacing."""
    rows, columns = np.indices(shape)
    y, x = rows * spacing[0] - centre[0], columns * spacing[1] - centre[1]
    turn = math.radians(angle)
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    return (along / semi[0]) ** 2 + (across / semi[1]) ** 2 <= 1


def exact(a: float, b: float) -> float:
    """The circumference by the complete elliptic integral of the second kind."""
    a, b = max(a, b), min(a, b)
    return 4 * a * float(ellipe(1 - (b / a) ** 2))


@pytest.mark.parametrize("b", [1.0, 0.9, 0.75, 0.5])
def test_the_formula_is_the_elliptic_integral_for_heads(b: float) -> None:
    assert perimeter(7.0, 7.0 * b) == pytest.approx(exact(7.0, 7.0 * b), rel=3e-6)
    assert perimeter(7.0 * b, 7.0) == perimeter(7.0, 7.0 * b)


def test_how_far_the_formula_is_off() -> None:
    assert perimeter(1.0, 0.0) == pytest.approx(4.0 * (1 - 0.0042), rel=1e-4)


@pytest.mark.parametrize(
    ("spacing", "semi", "angle"),
    [
        ((1.0, 1.0), (90.0, 60.0), 0.0),
        ((1.0, 1.0), (90.0, 60.0), 35.0),
        ((1.0, 1.0), (90.0, 60.0), -70.0),
        ((0.4, 0.25), (30.0, 21.0), 0.0),
        ((0.4, 0.25), (30.0, 21.0), 90.0),
        ((0.25, 0.4), (30.0, 21.0), 120.0),
        ((0.1, 0.5), (30.0, 26.0), -20.0),
    ],
)
def test_known_ellipses(spacing: tuple[float, float], semi: tuple[float, float], angle: float) -> None:
    shape = tuple(int(240 / s) + 7 if s == 1 else int(70 / s) for s in spacing)
    centre = (shape[0] * spacing[0] * 0.49, shape[1] * spacing[1] * 0.52)
    found = ellipse(drawn(shape, centre, semi, angle, spacing), spacing=spacing)  # type: ignore[arg-type]
    near = 0.4 * max(spacing)
    assert found.centre == pytest.approx(centre, abs=near)
    assert found.semi_axes == pytest.approx(semi, abs=near)
    assert found.semi_axes[0] >= found.semi_axes[1]
    assert math.remainder(found.angle - angle, 180) == pytest.approx(0, abs=2)
    assert -90 < found.angle <= 90
    assert found.circumference == pytest.approx(exact(*semi), rel=0.005)
    assert found.area == pytest.approx(math.pi * semi[0] * semi[1], rel=0.01)


def test_an_ellipse_that_the_image_cuts_off_is_completed() -> None:
    semi, spacing = (45.0, 33.0), (0.5, 0.75)
    whole = drawn((200, 150), (50.0, 56.0), semi, 25.0, spacing)
    for cut, lost in ((np.s_[50:, :], 50), (np.s_[:, 20:118], 0)):
        mask = whole[cut]
        assert mask[0].any() or mask[:, 0].any()
        found = ellipse(mask, spacing=spacing)
        assert found.circumference == pytest.approx(exact(*semi), rel=0.01)
        assert found.centre[0] == pytest.approx(50.0 - lost * spacing[0], abs=0.5)


def test_holes_and_crumbs_do_not_count() -> None:
    mask = drawn((150, 220), (70.0, 110.0), (80.0, 55.0), 15.0)
    clean = ellipse(mask)
    mask[60:80, 90:130] = False
    mask[2:6, 2:9] = True
    assert ellipse(mask) == clean
    assert ellipse(mask.astype(np.uint8) * 255) == clean


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((20, 30), bool),
        np.ones((20, 30), bool),  # no outline within the image
        np.eye(5, dtype=bool)[:1],
        np.zeros((0, 4), bool),
        np.pad(np.ones((1, 6), bool), ((0, 4), (0, 0))),  # a line at the edge
    ],
    ids=["empty", "full", "a pixel", "no pixels", "a line at the edge"],
)
def test_nothing_to_fit(mask: np.ndarray) -> None:
    found = ellipse(mask)
    assert math.isnan(found.circumference)
    assert math.isnan(found.area)
    assert all(map(math.isnan, (*found.centre, *found.semi_axes, found.angle)))


def test_huge_and_far_away() -> None:
    mask = drawn((1500, 2100), (900.0, 1300.0), (700.0, 480.0), 10.0)
    found = ellipse(mask, spacing=(1e-4, 1e-4))
    assert found.circumference == pytest.approx(exact(0.07, 0.048), rel=1e-3)


def test_an_ellipse_grows_and_shrinks() -> None:
    found = Ellipse((1.0, 2.0), (5.0, 3.0), 10.0)
    assert found.grown(-1.5) == Ellipse((1.0, 2.0), (3.5, 1.5), 10.0)
    assert found.grown(2.0).semi_axes == (7.0, 5.0)
    with pytest.raises(Refused) as caught:
        found.grown(-3.5)
    assert caught.value.reason == "bad-argument"


def test_refusals() -> None:
    with pytest.raises(Refused) as caught:
        ellipse(np.zeros((3, 4, 5)))
    assert caught.value.reason == "bad-shape"
    for spacing in ((1.0,), (1.0, 0.0), (1.0, math.nan), (1.0, 1.0, 1.0)):
        with pytest.raises(Refused) as caught:
            ellipse(np.zeros((3, 4)), spacing=spacing)
        assert caught.value.reason == "bad-spacing"
