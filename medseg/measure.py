"""Measures of a shape in millimetres or micrometres: the ellipse that fits a mask, and its circumference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from skimage import measure

from .errors import Refused

__all__ = ["Ellipse", "ellipse", "perimeter"]

_FEWEST_POINTS = 6  # five fix an ellipse; with one more there is something to fit


@dataclass(frozen=True)
class Ellipse:
    """An ellipse in the unit of the spacing that it was fitted with.

    Attributes
    ----------
    centre : tuple of float
        (row, column), from the centre of the first pixel.
    semi_axes : tuple of float
        Half of the longer and half of the shorter diameter.
    angle : float
        Of the longer axis in degrees, from the direction of growing columns towards growing rows, in
        (-90, 90].

    Examples
    --------
    >>> from medseg.measure import Ellipse
    >>> round(Ellipse((0.0, 0.0), (50.0, 40.0), 0.0).circumference, 2)
    283.62
    """

    centre: tuple[float, float]
    semi_axes: tuple[float, float]
    angle: float

    @property
    def circumference(self) -> float:
        """Length of the outline, see `perimeter`; NaN where nothing was fitted."""
        return perimeter(*self.semi_axes)

    @property
    def area(self) -> float:
        """Area, in the square of the unit; NaN where nothing was fitted."""
        return math.pi * self.semi_axes[0] * self.semi_axes[1]

    def grown(self, by: float) -> Ellipse:
        """Return the ellipse with both semi-axes longer by so much; a negative number shrinks it."""
        a, b = (axis + by for axis in self.semi_axes)
        if b < 0:
            raise Refused(
                "bad-argument",
                "nothing is left of the ellipse",
                got=by,
                expected=f"more than {-self.semi_axes[1]:g}",
            )
        return Ellipse(self.centre, (a, b), self.angle)


def perimeter(a: float, b: float) -> float:
    """Circumference of an ellipse with these semi-axes.

    Parameters
    ----------
    a, b : float
        Semi-axes, in any unit and order.

    Returns
    -------
    float
        In their unit, by Ramanujan's first formula: exact for a circle, short by 0.0003 % for axes of 2 to
        1 and by 0.4 % for an ellipse without width.

    References
    ----------
    Ramanujan (1914), Modular equations and approximations to pi, Quarterly Journal of Mathematics 45,
    350-372, section 16.

    Examples
    --------
    >>> from medseg.measure import perimeter
    >>> round(perimeter(1.0, 1.0), 4), round(perimeter(2.0, 1.0), 4)
    (6.2832, 9.6884)
    """
    return math.pi * (3 * (a + b) - math.sqrt((3 * a + b) * (a + 3 * b)))


def ellipse(mask: ArrayLike, *, spacing: Sequence[float] | None = None) -> Ellipse:
    """Fit an ellipse to the outline of the largest piece of a mask.

    Parameters
    ----------
    mask : array_like, shape (Y, X)
        What is not 0 is the object. Holes are filled; only its largest connected piece counts.
    spacing : sequence of float, optional
        Size of a pixel along rows and columns; the result is in its unit. By default in pixels.

    Returns
    -------
    Ellipse
        All numbers are NaN where the mask is empty or too small for a fit.

    Raises
    ------
    Refused
        ``bad-shape``, ``bad-spacing``.

    Notes
    -----
    The outline runs half way between the pixels inside and those outside. Where the mask ends at the edge of
    the image there is no outline to see, so these points are left out: a head that is cut off is completed.
    Least squares of the algebraic distance under the constraint that the conic is an ellipse.

    References
    ----------
    Halir, Flusser (1998), Numerically stable direct least squares fitting of ellipses, WSCG 98, 125-132;
    after Fitzgibbon, Pilu, Fisher (1999), IEEE TPAMI 21, 476-480.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.measure import ellipse
    >>> rows, columns = np.indices((200, 300))
    >>> mask = ((rows - 90) / 60) ** 2 + ((columns - 140) / 100) ** 2 <= 1
    >>> found = ellipse(mask, spacing=(0.5, 0.5))
    >>> [round(axis) for axis in found.semi_axes], round(found.circumference)
    ([50, 30], 255)
    """
    inside = np.asarray(mask) != 0
    if inside.ndim != 2:
        raise Refused("bad-shape", "an ellipse is fitted to a plane", got=inside.shape, expected="(Y, X)")
    steps = np.array([1.0, 1.0] if spacing is None else [float(s) for s in spacing])
    if steps.shape != (2,) or not np.isfinite(steps).all() or (steps <= 0).any():
        raise Refused("bad-spacing", "the spacing does not fit", got=spacing, expected="2 numbers above 0")
    points = _outline(inside) * steps
    conic = _conic(points) if len(points) >= _FEWEST_POINTS else None
    nothing = Ellipse((math.nan, math.nan), (math.nan, math.nan), math.nan)
    return nothing if conic is None else conic


def _outline(inside: np.ndarray) -> np.ndarray:
    """Return the outer outline of the largest piece, without the edge of the image, as (row, column)."""
    pieces, count = ndimage.label(inside)
    if not count:
        return np.empty((0, 2))
    largest = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    contours = measure.find_contours(np.pad(ndimage.binary_fill_holes(largest), 1).astype(float), 0.5)
    points = max(contours, key=len) - 1
    last = np.array(inside.shape) - 1
    return np.asarray(points[((points > 0) & (points < last)).all(axis=1)])


def _conic(points: np.ndarray) -> Ellipse | None:
    """Fit A x^2 + B xy + C y^2 + D x + E y + F = 0 with 4AC - B^2 = 1, or None where that has no answer."""
    middle = points.mean(axis=0)
    scale = float(np.abs(points - middle).max())
    if not scale > 0:
        return None
    y, x = ((points - middle) / scale).T  # numbers near 1, or the squares drown in rounding
    quadratic, linear = np.stack([x * x, x * y, y * y], axis=1), np.stack([x, y, np.ones_like(x)], axis=1)
    try:
        onto = -np.linalg.solve(linear.T @ linear, linear.T @ quadratic)
        reduced = quadratic.T @ quadratic + quadratic.T @ linear @ onto
        # the inverse of the constraint's matrix, (0 0 2; 0 -1 0; 2 0 0), applied to the rows
        _, vectors = np.linalg.eig(np.stack([reduced[2] / 2, -reduced[1], reduced[0] / 2]))
    except np.linalg.LinAlgError:
        return None
    vectors = np.real(vectors)
    is_ellipse = 4 * vectors[0] * vectors[2] - vectors[1] ** 2 > 0
    if not is_ellipse.any():
        return None
    first = vectors[:, int(np.argmax(is_ellipse))]
    (a, b, c), (d, e, f) = first, onto @ first
    form = np.array([[a, b / 2], [b / 2, c]])
    centre = np.linalg.solve(form, [-d / 2, -e / 2])
    level = -(f + (d * centre[0] + e * centre[1]) / 2)
    values, axes = np.linalg.eigh(form * np.sign(level))
    if level == 0 or values[0] <= 0:
        return None
    long, short = (math.sqrt(abs(level) / value) * scale for value in values)  # smallest value, longest axis
    across, down = axes[:, 0]
    angle = math.degrees(math.atan2(down, across))
    angle = angle - 180 if angle > 90 else angle + 180 if angle <= -90 else angle
    return Ellipse(
        (float(centre[1] * scale + middle[0]), float(centre[0] * scale + middle[1])), (long, short), angle
    )
