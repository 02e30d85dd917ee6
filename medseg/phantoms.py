"""Pictures with a known answer: fluorescent cells that touch, and membranes as in serial-section EM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from .errors import Refused

__all__ = ["cells", "em_membranes"]

_FILL = 0.2  # share of the field that cells cover when their number is not given
_TRIES = 200  # places tried for one cell before it counts as not fitting
_Floats = NDArray[np.floating[Any]]


def cells(
    shape: Sequence[int],
    *,
    n: int | None = None,
    rng: np.random.Generator,
    diameter: float = 24.0,
    touching: float = 0.5,
    noise: float = 0.05,
    uneven: float = 0.5,
    spacing: Sequence[float] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Draw fluorescent nuclei and the instance map that made them.

    Deformed ellipses (ellipsoids) of varying size, brightness and texture, some of them in clusters,
    with debris and out-of-focus light, under uneven illumination, blurred by a Gaussian point spread
    function and counted as photons.

    Parameters
    ----------
    shape : sequence of int
        Shape of the image, ``(H, W)`` or ``(D, H, W)``.
    n : int, optional
        Number of cells; by default as many as cover a fifth of the field, fewer where they do not fit.
    rng : numpy.random.Generator
        Source of all randomness; equal generators give equal pictures.
    diameter : float
        Mean diameter, in pixels, or in the unit of `spacing` where that is given.
    touching : float
        Share of the cells, 0 to 1, that touch another one (in groups of two to five). Objects abut and
        never overlap.
    noise : float
        Standard deviation of photon noise at full brightness; read noise is a fifth of it. 0 gives no noise.
    uneven : float
        0 for flat illumination, 1 for a field whose darkest corner gets a fifth of the light.
    spacing : sequence of float, optional
        Size of a pixel along each axis, in the unit of `diameter`.

    Returns
    -------
    image : ndarray of float32, shape `shape`
        Brightness in 0..1.
    instances : ndarray of int32, shape `shape`
        0 for background, 1..n for the cells, each one connected.

    Raises
    ------
    Refused
        ``bad-shape``, ``bad-value``; ``does-not-fit`` if `n` cells find no room.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.phantoms import cells
    >>> image, instances = cells((96, 128), n=9, rng=np.random.default_rng(0), diameter=16)
    >>> image.dtype, instances.max(), image.shape == instances.shape
    (dtype('float32'), np.int32(9), True)
    """
    size = _checked_shape(shape)
    pixel = np.ones(len(size)) if spacing is None else np.asarray(spacing, float)
    if pixel.shape != (len(size),) or not (np.isfinite(pixel) & (pixel > 0)).all():
        raise Refused(
            "bad-value", "spacing is unusable", got=spacing, expected=f"{len(size)} positive numbers"
        )
    width = float(diameter) / pixel  # of a mean cell, in pixels, along each axis
    if not np.isfinite(width).all() or width.min() < 2:
        raise Refused(
            "bad-value", "diameter is too small", got=diameter, expected="at least 2 pixels on each axis"
        )
    for name, value, top in (("touching", touching, 1.0), ("noise", noise, 1.0), ("uneven", uneven, 1.0)):
        if not 0 <= value <= top:
            raise Refused("bad-value", f"{name} is out of range", got=value, expected="0 to 1")
    if n is not None and n < 0:
        raise Refused("bad-value", "n is negative", got=n, expected="0 or more")
    # a cell reaches beyond the border by up to a radius, which matters where the field is small
    wanted = n if n is not None else max(1, round(_FILL * float(np.prod(np.asarray(size) / width)) / 0.7))
    instances, depth = _place(size, wanted, width, touching, strict=n is not None, rng=rng)
    return _expose(instances, depth, width, noise=noise, uneven=uneven, rng=rng), instances


def em_membranes(
    shape: Sequence[int], *, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw neurites cut in serial sections and their membrane label.

    Layout and values are those of the ISBI 2012 challenge on neuronal structures in EM stacks
    (Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142): 8-bit, membranes dark and labelled 0, the
    inside of cells labelled 255. Sections are thick, so an outline moves by some pixels from one to the next.

    Parameters
    ----------
    shape : sequence of int
        ``(H, W)`` or ``(sections, H, W)``; the challenge's own is ``(30, 512, 512)``.
    rng : numpy.random.Generator
        Source of all randomness.

    Returns
    -------
    image, label : ndarray of uint8, shape `shape`
        The micrograph, and 255 for cells, 0 for membranes.

    Raises
    ------
    Refused
        ``bad-shape``.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.phantoms import em_membranes
    >>> image, label = em_membranes((2, 64, 80), rng=np.random.default_rng(0))
    >>> image.dtype, label.shape, np.unique(label).tolist()
    (dtype('uint8'), (2, 64, 80), [0, 255])
    """
    size = _checked_shape(shape)
    sections, height, width = (1, *size) if len(size) == 2 else size
    field = np.array([height, width])
    margin = 60
    count = max(4, round(float(np.prod(field + 2 * margin)) / 1100))
    seeds = rng.uniform(-margin, field + margin, (count, 2))
    drift = rng.normal(0, 1.2, (count, 2))
    # A power diagram (cells of unequal size) is an ordinary Voronoi diagram one dimension up, with the root
    # of the missing weight as the extra coordinate; that lets the k-d tree do the work.
    weights = rng.gamma(1.2, 180.0, count)
    lift = np.sqrt(weights.max() - weights)
    waves = [_smooth((2, height, width), (0, 22, 22), rng) * 9 for _ in range(2)]
    folds = [_smooth((2, height, width), (0, 6, 6), rng) * 1.6 for _ in range(2)]
    grid = np.indices((height, width), dtype=float)
    image = np.empty((sections, height, width), np.uint8)
    label = np.empty((sections, height, width), np.uint8)
    for z in range(sections):
        turn = z / 7
        bend = np.cos(turn) * (waves[0] + folds[0]) + np.sin(turn) * (waves[1] + folds[1])
        places = np.column_stack([(grid + bend).reshape(2, -1).T, np.zeros(height * width)])
        tree = cKDTree(np.column_stack([seeds, lift]))
        distance, nearest = tree.query(places, k=2)
        apart = np.linalg.norm(seeds[nearest[:, 0]] - seeds[nearest[:, 1]], axis=1)
        # distance to the wall between the two nearest cells, in pixels
        inside = ((distance[:, 1] ** 2 - distance[:, 0] ** 2) / (2 * np.maximum(apart, 1))).reshape(
            height, width
        )
        image[z], label[z] = _section(inside, nearest[:, 0].reshape(height, width), rng)
        seeds += drift + rng.normal(0, 0.8, seeds.shape)
    return image.reshape(size), label.reshape(size)


def _section(
    inside: _Floats, owner: NDArray[Any], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One micrograph and its label from the distance to the nearest wall and the cell each pixel lies in."""
    shape = inside.shape
    wall = 1.7 + 0.5 * _smooth(shape, 12, rng)
    slant = np.clip(0.75 + 0.25 * _smooth(shape, 10, rng), 0.35, 1)  # obliquely cut membranes are faint
    picture = 0.66 + 0.05 * _smooth(shape, 25, rng) + 0.05 * _smooth(shape, 1.2, rng)
    picture += np.resize(rng.normal(0, 0.04, 997), int(owner.max()) + 1)[owner]  # cytoplasm differs by cell
    blobs = _smooth(shape, 7, rng)
    mitochondria = (blobs > 1.75) & (inside > 6)
    cristae = 0.08 * np.sin(_smooth(shape, 5, rng) * 9)
    picture = np.where(mitochondria, 0.42 + cristae, picture)
    picture -= 0.2 * (ndimage.binary_dilation(mitochondria, iterations=2) & ~mitochondria)
    vesicles = (rng.random(shape) < 0.0015) & (inside > 5)
    ring = (
        ndimage.gaussian_filter(vesicles * 1.0, 1.7) * 18 - ndimage.gaussian_filter(vesicles * 1.0, 0.9) * 5
    )
    picture -= 0.25 * np.clip(ring, -0.4, 1)
    picture -= 0.5 * slant * np.exp(-np.square(inside / np.maximum(wall, 0.8)) / 1.3)
    picture = ndimage.gaussian_filter(picture, 0.8) + rng.normal(0, 0.06, shape)
    label = np.where(inside > np.maximum(wall, 0.8), 255, 0).astype(np.uint8)
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8), label


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    size = tuple(int(s) for s in shape)
    if len(size) not in (2, 3) or min(size) < 1:
        raise Refused("bad-shape", "a phantom has 2 or 3 axes of at least 1 pixel", got=tuple(shape))
    return size


def _smooth(shape: tuple[int, ...], sigma: Any, rng: np.random.Generator) -> _Floats:
    """Gaussian random field of mean 0 and variance 1, correlated over `sigma` pixels."""
    field: _Floats = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    spread = float(field.std())
    return (field - field.mean()) / spread if spread > 0 else field * 0


def _stamp(width: _Floats, rng: np.random.Generator) -> tuple[_Floats, _Floats]:
    """One cell as a level function on an odd box (0 at its centre, 1 on its outline), and its radii."""
    ndim = len(width)
    scale = float(np.clip(rng.lognormal(0, 0.22), 0.5, 1.7))
    stretch = np.exp(rng.normal(0, 0.17, ndim))
    radii = scale * stretch / np.prod(stretch) ** (1 / ndim) / 2  # in mean diameters
    turn, _ = np.linalg.qr(rng.standard_normal((ndim, ndim)))
    reach = float(radii.max()) * 1.4
    half = np.ceil(reach * width).astype(int) + 3
    grid = np.stack(np.meshgrid(*[np.arange(-h, h + 1) for h in half], indexing="ij"))
    axes = (slice(None), *[None] * ndim)
    local = np.tensordot(turn, grid / width[axes], axes=1) / radii[axes]
    level = np.sqrt((local**2).sum(axis=0))
    direction = local / np.maximum(level, 1e-6)
    bulge = np.ones(level.shape)
    for _ in range(4):
        wave = rng.normal(0, 1.6, ndim)
        bulge += rng.normal(0, 0.055) * np.cos(
            np.tensordot(wave, direction, axes=1) + rng.uniform(0, 2 * np.pi)
        )
    return level / np.clip(bulge, 0.7, 1.3), radii * width.min()


def _place(
    shape: tuple[int, ...], n: int, width: _Floats, touching: float, *, strict: bool, rng: np.random.Generator
) -> tuple[NDArray[np.int32], _Floats]:
    """Put `n` cells down, clusters first; instance map and the level function of the cell at each pixel."""
    instances = np.zeros(shape, np.int32)
    level = np.full(shape, np.inf)
    left = round(touching * n)
    clusters: list[int] = []
    while left >= 2:
        # never leave one over: a cluster of one would not touch anything
        most = min(left, 5)
        clusters.append(int(rng.choice([s for s in range(2, most + 1) if left - s != 1])))
        left -= clusters[-1]
    alone = n - sum(clusters)
    done = 0
    centres: list[tuple[NDArray[np.int_], float]] = []
    for members in [*clusters, *[1] * alone]:
        centres.clear()
        for member in range(members):
            stamp, radii = _stamp(width, rng)
            gap = 2.5 / float(radii.mean())
            for _ in range(_TRIES):
                if member == 0:
                    centre = rng.integers(0, shape)
                else:
                    start, reach = centres[rng.integers(len(centres))]
                    way = rng.standard_normal(len(shape))
                    step = (reach + float(radii.mean())) / float(width.min()) * width
                    centre = np.rint(
                        start + way / np.linalg.norm(way) * step * rng.uniform(0.75, 1.0)
                    ).astype(int)
                if _put(instances, level, stamp, centre, label=done + 1, gap=gap if member == 0 else None):
                    done += 1
                    centres.append((centre, float(radii.mean())))
                    break
            else:
                if strict:
                    raise Refused(
                        "does-not-fit",
                        f"only {done} of {n} cells fit into shape {shape}",
                        do="ask for fewer or smaller cells",
                    )
                break
    return _whole(instances), level


def _put(
    instances: NDArray[np.int32],
    level: _Floats,
    stamp: _Floats,
    centre: NDArray[np.int_],
    *,
    label: int,
    gap: float | None,
) -> bool:
    """Draw one cell if the place suits it: free all round, or (gap None) overlapping others a little.

    Where two cells compete for a pixel, the one in which it lies deeper gets it, so the seam is as between
    real cells that press on each other.
    """
    shape = np.array(instances.shape)
    if (centre < 0).any() or (centre >= shape).any() or instances[tuple(centre)]:
        return False
    half = np.array(stamp.shape) // 2
    low, high = np.maximum(centre - half, 0), np.minimum(centre + half + 1, shape)
    box = tuple(slice(a, b) for a, b in zip(low, high))
    cut = stamp[tuple(slice(a, b) for a, b in zip(low - centre + half, high - centre + half))]
    body, taken = cut < 1, instances[box] > 0
    if gap is not None:
        if (taken & (cut < 1 + gap)).any():
            return False
        won = body
    else:
        shared = int((body & taken).sum())
        if not max(1, 0.03 * body.sum()) <= shared <= 0.22 * body.sum():
            return False
        won = body & (cut < level[box])
        # a lobe beyond the neighbour would be a second piece of the same cell
        if ndimage.label(won)[1] != 1:
            return False
    instances[box][won] = label
    level[box][won] = cut[won]
    return True


def _whole(instances: NDArray[np.int32]) -> NDArray[np.int32]:
    """Keep the largest piece of each cell, so that one id is one connected object."""
    for label, box in enumerate(ndimage.find_objects(instances), start=1):
        if box is None:
            continue
        pieces, count = ndimage.label(instances[box] == label)
        if count > 1:
            largest = int(np.argmax(np.bincount(pieces.ravel())[1:])) + 1
            instances[box][(pieces > 0) & (pieces != largest)] = 0
    return instances


def _expose(
    instances: NDArray[np.int32],
    level: _Floats,
    width: _Floats,
    *,
    noise: float,
    uneven: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Photograph the cells: dye, stray light, illumination, optics, photons."""
    shape = instances.shape
    n = int(instances.max(initial=0))
    dye = np.clip(rng.lognormal(-0.75, 0.32, n + 1), 0.2, 0.95)
    dye = np.where(rng.random(n + 1) < 0.05, np.minimum(dye * 1.9, 1.15), dye)  # condensed chromatin
    dye[0] = 0
    chromatin = 1 + 0.16 * _smooth(shape, width / 14, rng) + 0.1 * _smooth(shape, width / 6, rng)
    dome = 1 - 0.3 * np.square(np.where(instances > 0, level, 0))
    seam = instances != ndimage.grey_erosion(instances, size=(3,) * len(shape), mode="nearest")
    light = dye[instances] * chromatin * dome * np.where(seam & (instances > 0), 0.75, 1)
    # debris: specks brighter than their size; blur: cells above and below the focal plane
    specks = _impulses(shape, max(1, n // 5), width / 14, rng) * rng.uniform(0.35, 0.6)
    ghosts = _impulses(shape, max(1, n // 5), width / 2.2, rng) * 0.17
    light = ndimage.gaussian_filter(light, np.maximum(width / 22, 0.6)) + specks + ghosts
    light = light + 0.06 * ndimage.gaussian_filter(light, width * 1.2) / 0.2 + 0.035
    brightest = rng.random(len(shape)) * 0.6 + 0.2
    far = np.zeros(shape)
    for axis, at in enumerate(brightest):
        line = (np.arange(shape[axis]) + 0.5) / shape[axis] - at
        far = far + np.square(line).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    light *= 1 - 0.8 * uneven * np.sqrt(far / max(float(far.max()), 1e-9))
    light = np.clip(light, 0, None)
    if noise > 0:
        light = rng.poisson(light / noise**2) * noise**2 + rng.normal(0, noise / 5, shape)
    return np.asarray(np.clip(light, 0, 1), dtype=np.float32)


def _impulses(shape: tuple[int, ...], count: int, sigma: _Floats, rng: np.random.Generator) -> _Floats:
    """`count` Gaussian spots at random places, of heights 0.3 to 1."""
    spots = np.zeros(shape)
    places = tuple(rng.integers(0, s, count) for s in shape)
    np.add.at(spots, places, rng.uniform(0.3, 1, count))
    height = float(np.prod(np.sqrt(2 * np.pi) * np.maximum(sigma, 0.4)))
    return np.asarray(ndimage.gaussian_filter(spots, sigma, mode="constant")) * height
