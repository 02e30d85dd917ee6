"""Surfaces of a volume's objects, small enough to travel inside a page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from skimage.measure import marching_cubes

from .place import Mask

__all__ = ["Mesh", "Solid", "solid"]

MOST_VERTICES = 8000  # of one case: about 200 kB of text
FINEST_GRID = 128  # voxels along the longest side of the grid that a surface is first taken from
FEWEST_VERTICES = 60

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Mesh:
    """One surface as text: little-endian int16 corners (x, y, z) and uint16 triangles, base64."""

    layer: str
    points: str
    triangles: str


@dataclass(frozen=True)
class Solid:
    """What a 3D view shows.

    Attributes
    ----------
    meshes : tuple of Mesh
        Corners are in 32767ths of `radius`, from the middle of all of them, in world axes.
    radius : float
        Half the longest side of the box around all corners.
    cross : tuple of float
        The place where the planes cross, in the same unit.
    """

    meshes: tuple[Mesh, ...]
    radius: float
    cross: tuple[float, ...]


def solid(
    layers: Mapping[str, tuple[NDArray[Any], int | None]],
    affine: NDArray[np.float64],
    cross: Sequence[int],
    *,
    most: int = MOST_VERTICES,
) -> Solid | None:
    """Make the surfaces of some classes of label maps.

    Parameters
    ----------
    layers : mapping of str to (ndarray, int or None)
        Name of a surface -> the map, shape (X, Y, Z), and the value it is of; None is of everything above 0,
        with a seam between objects that touch.
    affine : ndarray, shape (4, 4)
        From voxels to world coordinates.
    cross : sequence of int
        The voxel where the planes cross.
    most : int
        Vertices of all surfaces together, about.

    Returns
    -------
    Solid or None
        None where there is nothing to draw.

    Notes
    -----
    Marching cubes (Lewiner et al. 2003, doi:10.1080/10867651.2003.10487582) on the share of each class in
    blocks of voxels that are as near to cubes as whole factors allow, then ten steps of Taubin's smoothing
    (1995, doi:10.1145/218380.218473), which does not shrink. Specks that no block shows are drawn as one
    block, so that no false object is lost.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    crops: dict[str, tuple[Mask, Points]] = {}
    for name, (labels, value) in layers.items():
        box = _box(labels, value)
        if box is not None:
            part = labels[box]
            mask = part == value if value is not None else (part > 0) & ~_seams(part)
            crops[name] = (mask, np.array([float(s.start) for s in box]))
    found: dict[str, tuple[Points, NDArray[np.int64]]] = {}
    left = most
    for n, name in enumerate(sorted(crops, key=lambda name: crops[name][0].size)):
        mask, start = crops[name]
        share = max(FEWEST_VERTICES, left // (len(crops) - n))
        points, triangles = _surface(mask, spacing, share)
        left -= len(points)
        world = (points + start) @ affine[:3, :3].T + affine[:3, 3]
        found[name] = (world, triangles)
    if not any(len(points) for points, _ in found.values()):
        return None
    every = np.concatenate([points for points, _ in found.values()])
    low, high = every.min(axis=0), every.max(axis=0)
    middle, radius = (low + high) / 2, max(float((high - low).max()) / 2, 1e-6)

    def packed(points: Points) -> str:
        return _text(np.round((points - middle) / radius * 32767).clip(-32767, 32767), "<i2")

    place = (affine[:3, :3] @ np.asarray(cross, float) + affine[:3, 3] - middle) / radius
    return Solid(
        tuple(Mesh(name, packed(found[name][0]), _text(found[name][1], "<u2")) for name in crops),
        radius,
        tuple(round(float(p), 4) for p in place),
    )


def _text(array: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype=kind).tobytes()).decode()


def _box(labels: NDArray[Any], value: int | None) -> tuple[slice, ...] | None:
    """Bounding box of one value, or of all, found a plane at a time."""
    flags = [np.zeros(s, bool) for s in labels.shape]
    for i in range(len(labels)):
        hit = labels[i] == value if value is not None else labels[i] > 0
        flags[0][i] = hit.any()
        flags[1] |= hit.any(axis=1)
        flags[2] |= hit.any(axis=0)
    if not flags[0].any():
        return None
    ends = [np.flatnonzero(f) for f in flags]
    return tuple(slice(int(e[0]), int(e[-1]) + 1) for e in ends)


def _seams(ids: NDArray[Any]) -> Mask:
    """Voxels whose next neighbour along an axis belongs to another object."""
    seam = np.zeros(ids.shape, bool)
    for axis in range(ids.ndim):
        here = tuple(slice(None, -1) if a == axis else slice(None) for a in range(ids.ndim))
        there = tuple(slice(1, None) if a == axis else slice(None) for a in range(ids.ndim))
        seam[here] |= (ids[here] != ids[there]) & (ids[here] > 0) & (ids[there] > 0)
    return seam


def _surface(mask: Mask, spacing: NDArray[np.float64], most: int) -> tuple[Points, NDArray[np.int64]]:
    """Corners in voxels of the mask, and triangles."""
    extent = spacing * mask.shape
    width = max(float(spacing.min()), float(extent.max()) / FINEST_GRID)
    while True:
        factors = np.maximum(1, np.round(width / spacing)).astype(int)
        share = np.pad(_shares(mask, factors), 1)
        if share.max() <= 0.5:
            return np.zeros((0, 3)), np.zeros((0, 3), np.int64)
        points, triangles, _, _ = marching_cubes(share, 0.5)
        if len(points) <= most or (factors >= mask.shape).all():
            break
        width = max(float((factors * spacing).min()), width) * max(1.1, float(np.sqrt(len(points) / most)))
    smooth = _smoothed(points.astype(np.float64), triangles)
    # the middle of block b, of f voxels, is voxel f b + (f - 1) / 2; one block is padding
    return (smooth - 1) * factors + (factors - 1) / 2, triangles


def _shares(mask: Mask, factors: NDArray[np.int_]) -> NDArray[np.float32]:
    """Share of each block that is inside; specks that would be lost count as a block."""
    if (factors == 1).all():
        return mask.astype(np.float32)
    padded = np.pad(mask, [(0, int(-s % f)) for s, f in zip(mask.shape, factors)])
    split = [n for s, f in zip(padded.shape, factors) for n in (s // f, int(f))]
    blocks = padded.reshape(split)
    share: NDArray[np.float32] = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
    pieces, count = ndimage.label(share > 0)
    if count:
        highest = ndimage.maximum(share, pieces, np.arange(1, count + 1))
        lost = np.concatenate([[False], np.asarray(highest) <= 0.5])[pieces]
        peak = np.concatenate([[0], np.asarray(highest)])[pieces]
        share[lost & (share == peak)] = 0.75
    return share


def _smoothed(points: Points, triangles: NDArray[np.int64]) -> Points:
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    ends = np.concatenate([edges, edges[:, ::-1]])
    n = len(points)
    near = sparse.csr_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n, n))
    near.data[:] = 1
    degree = np.maximum(np.asarray(near.sum(axis=1)).ravel(), 1)[:, None]
    for step in (0.5, -0.53) * 5:
        points = points + step * (near @ points / degree - points)
    return points
