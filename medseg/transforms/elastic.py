"""The random elastic deformation of the U-Net paper as MONAI transforms, in two and three dimensions."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, get_track_meta
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor, ensure_tuple_rep
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..errors import Refused, refuse_unknown

__all__ = ["RandElastic", "RandElasticd"]

MODES = ("bilinear", "nearest")
LABEL_WORDS = ("label", "mask", "seg", "instance")


class RandElastic(RandomizableTransform):  # type: ignore[misc]
    """Deform an image by smooth random displacements.

    Ronneberger et al. 2015, section 3.1: displacement vectors are drawn on a coarse grid whose outer
    nodes lie on the outer pixels, from a Gaussian with standard deviation ``sigma``, and carried to the
    pixels by cubic interpolation. The image is mirrored at its borders.

    Drawing and applying are two steps: :meth:`randomize` draws, :meth:`apply` deforms by what was drawn last,
    as often as wanted; calling the transform does both.

    Parameters
    ----------
    grid : int or sequence of int
        Number of nodes along each axis, 2 or more.
    sigma : float or sequence of float
        Standard deviation of the displacements, in pixels along each axis. For voxels of 1 x 1 x 3 mm and
        10 mm everywhere it is ``(10, 10, 10 / 3)``.
    prob : float
        Probability that an image is deformed at all.
    mode : {"bilinear", "nearest"}
        Interpolation; ``"bilinear"`` means linear along every axis. ``"nearest"`` picks pixels, so
        integers of any size stay exact.

    Attributes
    ----------
    displacement : ndarray of float64, shape (axes, *grid), or None
        What was drawn last, in pixels: the result at a node is the image at the node plus this.

    Raises
    ------
    Refused
        ``bad-value`` or ``unknown-mode``; when it runs: ``shape-mismatch``.

    Notes
    -----
    Cubic interpolation is Keys' convolution (1981, a = -1/2, nodes repeated at the edge). It is separable
    and linear in the nodes, so the dense field is a product of one thin matrix an axis with the coarse
    grid: exact, quick, and the same on every device.

    In worker processes that nobody has seeded, as those of ``torch.utils.data.DataLoader``, the generator
    is seeded anew from its own state and the worker's seed: copies of one generator would give every
    worker the same deformations.

    References
    ----------
    Ronneberger, Fischer, Brox: U-Net. MICCAI 2015. https://doi.org/10.1007/978-3-319-24574-4_28
    Keys: Cubic convolution interpolation for digital image processing. 1981. https://doi.org/10.1109/TASSP.1981.1163711

    Examples
    --------
    >>> import torch
    >>> from medseg.transforms import RandElastic
    >>> deform = RandElastic(sigma=4.0).set_random_state(seed=0)
    >>> image = torch.rand(1, 40, 60)
    >>> first = deform(image)
    >>> bool((deform.apply(image) == first).all())  # the same draw again
    True
    """

    def __init__(
        self,
        *,
        grid: int | Sequence[int] = 3,
        sigma: float | Sequence[float] = 10.0,
        prob: float = 1.0,
        mode: str = "bilinear",
    ) -> None:
        if not 0 <= prob <= 1:
            raise Refused("bad-value", "prob", got=prob, expected="0 to 1")
        if np.min(grid) < 2 or not np.issubdtype(np.asarray(grid).dtype, np.integer):
            raise Refused("bad-value", "grid", got=grid, expected="whole numbers of 2 or more nodes an axis")
        if np.min(sigma) < 0 or not np.all(np.isfinite(sigma)):
            raise Refused("bad-value", "sigma", got=sigma, expected="0 or more pixels")
        super().__init__(prob)
        self.grid, self.sigma, self.mode = grid, sigma, _known_mode(mode)
        self.displacement: NDArray[np.float64] | None = None
        self._seeded_in: int | None = None

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandElastic:
        """Seed the generator, as in MONAI."""
        super().set_random_state(seed, state)
        self._seeded_in = _worker()
        return self

    def randomize(self, data: Sequence[int]) -> None:
        """Draw whether to deform, and the displacements.

        Parameters
        ----------
        data : sequence of int
            Spatial shape of the image.
        """
        if _worker() != self._seeded_in:
            info = torch.utils.data.get_worker_info()
            fresh = np.random.SeedSequence(
                [int(self.R.randint(2**32, dtype=np.uint64)), info.seed if info else 0]
            )
            self.set_random_state(state=np.random.RandomState(np.random.MT19937(fresh)))
        super().randomize(None)
        axes = len(data)
        grid = _per_axis("grid", self.grid, axes)
        sigma = np.asarray(_per_axis("sigma", self.sigma, axes), np.float64)
        drawn = self.R.standard_normal((axes, *(int(n) for n in grid)))
        self.displacement = drawn * sigma.reshape(-1, *[1] * axes)

    def __call__(self, img: Any, mode: str | None = None, randomize: bool = True) -> Tensor:
        """Deform one image.

        Parameters
        ----------
        img : Tensor, MetaTensor or ndarray, shape (C, *spatial)
            Image, or label map with ``mode="nearest"``.
        mode : {"bilinear", "nearest"}, optional
            Interpolation, in place of the transform's own.
        randomize : bool
            Whether to draw anew.

        Returns
        -------
        Tensor or MetaTensor, shape (C, *spatial)
            The image with its type, device, metadata and affine.
        """
        if randomize:
            self.randomize(img.shape[1:])
        if not self._do_transform:
            return _tensor(img)
        return self.apply(img, mode=mode)

    def apply(self, img: Any, *, mode: str | None = None) -> Tensor:
        """Deform an image by the displacements drawn last; shapes and types as for calling the transform."""
        image = _tensor(img)
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        result = _Deformation(self._drawn(), plain.shape[1:], plain.device)(
            plain, _known_mode(mode or self.mode)
        )
        return _with_meta(result, image)

    def _drawn(self) -> NDArray[np.float64]:
        if self.displacement is None:
            raise Refused("not-drawn", "no displacements yet", do="call randomize(shape) first")
        return self.displacement


class RandElasticd(MapTransform, RandomizableTransform):  # type: ignore[misc]
    """Deform images and label maps of a sample by the same smooth random displacements.

    One draw serves all keys. See :class:`RandElastic` for the deformation.

    Parameters
    ----------
    keys : str or sequence of str
        Keys of images of shape (C, *spatial) with equal spatial shapes.
    grid, sigma, prob
        As for :class:`RandElastic`.
    mode : {"auto", "bilinear", "nearest"} or sequence of them
        Interpolation, for all keys or for each. ``"auto"`` is nearest for integers and booleans, and for keys
        whose name contains label, mask, seg or instance; otherwise bilinear.
    allow_missing_keys : bool
        Whether to pass over keys that a sample lacks.

    Raises
    ------
    Refused
        ``bad-value`` or ``unknown-mode``; when it runs: ``shape-mismatch`` where spatial shapes differ.

    Examples
    --------
    >>> import torch
    >>> from medseg.transforms import RandElasticd
    >>> deform = RandElasticd(["image", "label"]).set_random_state(seed=0)
    >>> sample = deform({"image": torch.rand(1, 40, 60), "label": torch.ones(1, 40, 60, dtype=torch.int32)})
    >>> sample["label"].dtype
    torch.int32
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        grid: int | Sequence[int] = 3,
        sigma: float | Sequence[float] = 10.0,
        prob: float = 1.0,
        mode: str | Sequence[str] = "auto",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.elastic = RandElastic(grid=grid, sigma=sigma, prob=prob)
        self.mode = tuple(_known_mode(m, "auto") for m in ensure_tuple_rep(mode, len(self.keys)))

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandElasticd:
        """Seed the generator, as in MONAI."""
        self.elastic.set_random_state(seed, state)
        return self

    def randomize(self, data: Sequence[int]) -> None:
        """Draw whether to deform, and the displacements, for images of this spatial shape."""
        self.elastic.randomize(data)
        self._do_transform = self.elastic._do_transform

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Draw, and deform every key; the other keys are passed on."""
        shapes = {key: tuple(data[key].shape[1:]) for key in self.key_iterator(data)}
        if not shapes:
            return dict(data)
        if len(set(shapes.values())) > 1:
            raise Refused("shape-mismatch", "images of one sample lie on one grid", got=shapes)
        self.randomize(next(iter(shapes.values())))
        return self.apply(data)

    def apply(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Deform every key by the displacements drawn last."""
        sample = dict(data)
        deformations: dict[torch.device, _Deformation] = {}
        for key, mode in self.key_iterator(sample, self.mode):
            image = _tensor(sample[key])
            if self._do_transform:
                plain = image.as_tensor() if isinstance(image, MetaTensor) else image
                field = deformations.get(plain.device)
                if field is None or field.shape != tuple(plain.shape[1:]):
                    field = _Deformation(self.elastic._drawn(), plain.shape[1:], plain.device)
                    deformations[plain.device] = field
                image = _with_meta(field(plain, _auto_mode(mode, key, plain)), image)
            sample[key] = image
        return sample


class _Deformation:
    """A dense displacement field on one device, shared by the images that it deforms."""

    def __init__(self, displacement: NDArray[np.float64], shape: Sequence[int], device: torch.device) -> None:
        self.shape = tuple(shape)
        if len(displacement) != len(self.shape) or len(self.shape) not in (2, 3):
            raise Refused(
                "shape-mismatch",
                "an image has two or three spatial axes, as many as the displacements",
                got=self.shape,
                expected=f"{len(displacement)} spatial axes",
                do="give images as (C, *spatial) and call randomize(shape) first",
            )
        matrices = [_keys_matrix(n, k) for n, k in zip(self.shape, displacement.shape[1:])]
        # MPS and some other devices have no float64, so the thin matrices travel as float32
        self._matrices = [torch.from_numpy(m.astype(np.float32)).to(device) for m in matrices]
        self._coarse = torch.from_numpy(displacement.astype(np.float32)).to(device)
        self._device = device
        self._index: Tensor | None = None
        self._sampling_grid: Tensor | None = None

    def __call__(self, image: Tensor, mode: str) -> Tensor:
        return self._nearest(image) if mode == "nearest" else self._linear(image)

    def coordinates(self, axis: int) -> Tensor:
        """Where each pixel is read along one axis, in pixels, not yet mirrored; shape (*spatial)."""
        dense = self._coarse[axis]
        for matrix in self._matrices:  # each round replaces the first axis and moves it to the end
            dense = torch.tensordot(dense, matrix, dims=([0], [1]))
        steps = torch.arange(self.shape[axis], dtype=dense.dtype, device=self._device)
        return dense.add_(steps.reshape(-1, *[1] * (len(self.shape) - axis - 1)))

    def _linear(self, image: Tensor) -> Tensor:
        if self._sampling_grid is None:
            grid = torch.empty(*self.shape, len(self.shape), device=self._device)
            for axis, size in enumerate(self.shape):  # grid_sample counts axes from the last, from -1 to 1
                along = self.coordinates(axis).mul_(2 / max(size - 1, 1)).sub_(1)
                grid[..., len(self.shape) - 1 - axis] = along if size > 1 else 0
            self._sampling_grid = grid
        wide = torch.promote_types(image.dtype, torch.float32)
        if image.dtype in (torch.int32, torch.int64):
            wide = torch.float64
        result = F.grid_sample(
            image.to(wide)[None],
            self._sampling_grid.to(wide)[None],
            mode="bilinear",
            padding_mode="reflection",
            align_corners=True,
        )[0]
        return (result if image.is_floating_point() else result.round_()).to(image.dtype)

    def _nearest(self, image: Tensor) -> Tensor:
        if self._index is None:
            index: Tensor | None = None
            for axis, size in enumerate(self.shape):
                along = _mirror(self.coordinates(axis), size)
                index = along if index is None else index.mul_(size).add_(along)
            assert index is not None
            self._index = index.reshape(-1)
        return image.flatten(1).index_select(1, self._index).reshape(image.shape)


def _mirror(coordinates: Tensor, size: int) -> Tensor:
    """Round to pixels and reflect at the outer pixels, as often as needed (numpy's "reflect")."""
    index = coordinates.add_(0.5).floor_().long()
    if size == 1:
        return index.zero_()
    return index.remainder_(2 * (size - 1)).sub_(size - 1).abs_().neg_().add_(size - 1)


def _keys_matrix(size: int, nodes: int) -> NDArray[np.float64]:
    """Cubic convolution from ``nodes`` to ``size`` points with common ends; shape (size, nodes)."""
    position = np.linspace(0, nodes - 1, size)
    first = np.minimum(np.floor(position).astype(int), nodes - 2)
    t = position - first
    taps = (
        -0.5 * t + t**2 - 0.5 * t**3,
        1 - 2.5 * t**2 + 1.5 * t**3,
        0.5 * t + 2 * t**2 - 1.5 * t**3,
        -0.5 * t**2 + 0.5 * t**3,
    )
    matrix = np.zeros((size, nodes))
    for offset, tap in zip((-1, 0, 1, 2), taps):
        np.add.at(matrix, (np.arange(size), np.clip(first + offset, 0, nodes - 1)), tap)
    return matrix


def _auto_mode(mode: str, key: Hashable, image: Tensor) -> str:
    if mode != "auto":
        return mode
    is_label = not image.is_floating_point() or any(word in str(key).lower() for word in LABEL_WORDS)
    return "nearest" if is_label else "bilinear"


def _known_mode(mode: str, *more: str) -> str:
    if mode not in (*MODES, *more):
        raise refuse_unknown("mode", mode, (*MODES, *more))
    return mode


def _per_axis(name: str, value: Any, axes: int) -> Sequence[Any]:
    values = [value] * axes if np.ndim(value) == 0 else list(value)
    if len(values) != axes:
        raise Refused("shape-mismatch", name, got=value, expected=f"one number, or {axes}: one an axis")
    return values


def _tensor(img: Any) -> Tensor:
    tensor: Tensor = convert_to_tensor(img, track_meta=get_track_meta())
    return tensor


def _with_meta(result: Tensor, image: Tensor) -> Tensor:
    if isinstance(image, MetaTensor):
        return MetaTensor(result).copy_meta_from(image)  # type: ignore[no-any-return]
    return result


def _worker() -> int | None:
    """Number of the data loader's worker this runs in; None in the main process."""
    info = torch.utils.data.get_worker_info()
    return None if info is None else int(info.id)
