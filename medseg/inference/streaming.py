"""Predictions of images that are larger than memory: tile by tile in, block by block out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..bundle import Bundle, load_bundle
from ..errors import Refused
from ..instances.stitching import HALO, Objects, StitchedInstances, stitch_instances
from ..io import LazyImage, write_blocks
from ..networks import resolve_device
from ..plan import Plan
from ..scratch import DiskArray, Window, scratch_file
from .memory import free_bytes, refusing_large_tiles
from .opening import INSTANCE_BYTES, host_bound, open_image, with_model_channels
from .prediction import inferer_of, label_values, network_of, on_network_grid, separate

__all__ = ["Streamed", "predict_to"]

_log = logging.getLogger(__name__)
_RESERVE = 0.15e9  # bytes: decoded strips and chunks, and what the allocator does not give back
_MULTIPLE = 512  # pixels: parts of blocks end where tiles of the written file end

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Streamed:
    """A prediction that lies in a file.

    Attributes
    ----------
    path : Path
        The instance map, or the label map of a model for label maps.
    shape : tuple of int
        Its spatial shape, which is the image's.
    objects : Objects or None
        Sizes and places of the objects of an instance map.
    exact : bool
        Whether the map is that of the whole image; False where a cluster of touching objects was larger than
        memory allowed, which is logged, too.
    """

    path: Path
    shape: tuple[int, ...]
    objects: Objects | None
    exact: bool


def predict_to(
    bundle: Bundle | str | Path,
    image: Any,
    path: str | Path,
    *,
    max_ram_gb: float | None = None,
    flips: bool = False,
    device: str | torch.device = "auto",
    labels: str | Path | None = None,
    progress: Progress | None = None,
) -> Streamed:
    """Segment one image of any size into a file, never holding image or result as a whole.

    The result equals that of `medseg.predict`: its label map, or its instance map with the same numbers.

    Parameters
    ----------
    bundle : Bundle, str or Path
        A trained model, its folder or its name.
    image : path, Case or LazyImage
        A TIFF or Zarr image, see `medseg.io.open_lazy`.
    path : path
        ``.tif``, ``.ome.tif`` or ``.zarr``. Scratch files lie in its folder while the call lasts: 1 byte a
        pixel, and for instance maps about 6 more.
    max_ram_gb : float, optional
        Bound for the memory of the whole process in GB (1e9 bytes). By default half of what is free and at
        most 4 GB beyond what is in use.
    flips : bool
        Average over flips and rotations.
    device : str or torch.device
        ``auto`` is the bundle's own device, or a GPU where there is one.
    labels : path, optional
        Where to write the label map, too, from which an instance map is made.
    progress : callable, optional
        Called with the amount of work that is done and of all.

    Returns
    -------
    Streamed

    Raises
    ------
    Refused
        What `medseg.predict` and `medseg.io.write_blocks` refuse; ``not-lazy``; ``not-local`` for a network
        that sees its whole input.

    Examples
    --------
    >>> import tempfile, numpy, medseg
    >>> from medseg.inference import predict_to
    >>> folder = tempfile.mkdtemp()
    >>> image = medseg.write(numpy.zeros((300, 200), "uint8"), folder + "/image.tif")
    >>> result = predict_to("nuclei", image, folder + "/cells.tif")
    >>> result.path.name, result.shape, len(result.objects), result.exact
    ('cells.tif', (300, 200), 0, True)
    """
    if not isinstance(bundle, Bundle):
        bundle = load_bundle(bundle, device=device)
    elif device != "auto":
        bundle.network.to(resolve_device(device))
    plan, path = bundle.plan, Path(path)
    if plan.predict.largest:
        raise Refused(
            "not-local",
            "the largest part of a class is found in the whole label map, which is not held",
            got=f"predict.largest = {list(plan.predict.largest)}",
            expected="a model that keeps all parts",
            do="use medseg.predict",
        )
    if plan.predict.crf_iterations:
        raise Refused(
            "not-local",
            "a CRF sees the whole image, which is not held",
            got=f"predict.crf_iterations = {plan.predict.crf_iterations}",
            expected="0",
            do="use medseg.predict, or set it to 0 in the model's plan",
        )
    tell, host = _stages(progress), host_bound(bundle, max_ram_gb)
    with ExitStack() as files:
        lazy = open_image(image, plan)
        if lazy is not image:
            files.enter_context(lazy)
        shape, unit, affine = lazy.shape[1:], lazy.unit, lazy.affine
        file = files.enter_context(scratch_file(path.parent))
        found = DiskArray(file, shape, np.min_scalar_type(len(plan.target.classes) - 1))
        _predict_tiles(bundle, lazy, found, max_ram_gb, flips=flips, progress=tell(0.0, 0.6))
        values = label_values(plan)
        named = found if values is None else _Mapped(found, values)
        if labels is not None:
            write_blocks(labels, named.__getitem__, shape, named.dtype, affine=affine, unit=unit)
        if plan.target.kind != "instances":
            write = tell(0.6, 1.0)
            write_blocks(
                path, named.__getitem__, shape, named.dtype, affine=affine, unit=unit, progress=write
            )
            return Streamed(path, shape, None, True)
        file = files.enter_context(scratch_file(path.parent))
        objects = _separate_blocks(plan, found, file, _room(host), tell(0.6, 0.9))
        if not objects.exact:
            _log.warning(
                "%s: a cluster of touching objects is larger than a block; outlines may differ near its cuts",
                lazy.path,
            )
        write = tell(0.9, 1.0)
        write_blocks(
            path, objects.__getitem__, shape, objects.dtype, affine=affine, unit=unit, progress=write
        )
        if unit == "pixel":
            return Streamed(path, shape, objects.table(), objects.exact)
        spacing = np.linalg.norm(affine[:3, : len(shape)], axis=0).tolist()
        return Streamed(path, shape, objects.table(spacing=spacing, unit=unit), objects.exact)


def _predict_tiles(
    bundle: Bundle,
    lazy: LazyImage,
    out: DiskArray,
    max_ram_gb: float | None,
    *,
    flips: bool,
    progress: Progress | None,
) -> None:
    """Fill the label map with class indices, tile by tile."""
    plan, network = bundle.plan, network_of(bundle)
    lazy = with_model_channels(lazy, plan)
    _refuse_large_pieces(lazy, _room(host_bound(bundle, max_ram_gb)))
    framed, prepare = on_network_grid(lazy, plan)
    most = None if max_ram_gb is None else max(max_ram_gb - _RESERVE / 1e9, 1e-9)
    inferer = inferer_of(plan, max_ram_gb=most, flips=flips)
    if not inferer.exact(network, framed.shape):
        raise Refused(
            "not-local",
            "a layer of the network sees its whole input, so that tiles have to be blended in memory",
            do="predict smaller images, or train a network with batch norm",
        )
    with refusing_large_tiles():
        for window, found, _ in inferer.decided(framed, network, prepare=prepare, progress=progress):
            out[window] = found


def _separate_blocks(
    plan: Plan, labels: DiskArray, file: Any, room: float, progress: Progress | None
) -> StitchedInstances:
    """Tell objects apart in blocks as large as memory allows."""
    ndim = len(labels.shape)
    most = room / INSTANCE_BYTES
    # two thirds of the side are the block's own and its first halo; the rest is for clusters at its edge
    side = int(max(most / 1.5, 0.0) ** (1 / ndim)) - 2 * HALO
    if side < HALO:
        raise Refused(
            "out-of-memory",
            "no block of objects fits into this memory",
            got=f"{max(room, 0) / 1e9:.2f} GB left for it",
            expected=f"at least {1.5 * (3 * HALO) ** ndim * INSTANCE_BYTES / 1e9:.2f} GB",
            do="raise max_ram_gb (--max-ram)",
        )
    side = side // _MULTIPLE * _MULTIPLE or side
    how = plan.predict
    return stitch_instances(
        labels,
        lambda part, least: separate(part, plan, min_size=least),
        file,
        core=(side,) * ndim,
        most=most,
        halo=HALO,
        min_size=how.min_size,
        progress=progress,
    )


def _room(max_ram_gb: float | None) -> float:
    """Bytes that one step of the work may take."""
    return free_bytes(torch.device("cpu"), max_ram_gb) - _RESERVE


def _refuse_large_pieces(lazy: LazyImage, room: float) -> None:
    if lazy.piece_bytes > room / 4:
        raise Refused(
            "out-of-memory",
            f"'{lazy.path}' is compressed in pieces that are too large for this memory",
            got=f"{lazy.piece_bytes / 1e9:.2f} GB a piece",
            expected=f"at most {max(room, 0) / 4e9:.2f} GB",
            do="save it in tiles of 512 x 512 pixels",
        )


class _Mapped:
    """A label map whose class indices are replaced by other values as it is read."""

    def __init__(self, array: DiskArray, values: NDArray[Any]) -> None:
        self.array, self.values, self.dtype = array, values, values.dtype

    def __getitem__(self, window: Window) -> NDArray[Any]:
        return np.asarray(self.values[self.array[window]])


def _stages(progress: Progress | None, steps: int = 1000) -> Callable[[float, float], Progress | None]:
    """Share one count among the stages of the work: each has a part of it, in thousandths."""

    def stage(start: float, stop: float) -> Progress | None:
        if progress is None:
            return None
        return lambda done, of: progress(math.floor(steps * (start + (stop - start) * done / of)), steps)

    return stage
