"""One call from an image to its label map, and what such a call gives."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from ..bundle import Bundle, load_bundle
from ..dataset import Case, read_case
from ..errors import Refused
from ..frames import FramedImage
from ..instances import Panoptic, keep_largest, to_instances, to_panoptic
from ..io import LazyImage, read, suffix_of, write, write_blocks
from ..networks import Coarse, resolve_device
from ..palettes import class_table, instance_table
from ..plan import Plan
from ..transforms import frame_of, normaliser, with_channels
from .inferer import OverlapTileInferer
from .memory import refusing_large_tiles
from .opening import check_axes, open_image, open_large, open_volume, with_model_channels
from .refining import refine, refuse_large_fields

__all__ = ["Prediction", "predict"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """A result on exactly the grid of its image.

    Attributes
    ----------
    labels : ndarray of shape (\\*spatial)
        Label map; the values are those of the training labels (``plan.target.values``).
    probabilities : ndarray of shape (classes, \\*spatial), float32, or None
        Only where they were asked for.
    affine : ndarray of shape (4, 4)
        From array indices to the world, see ``docs/explanation/coordinates.md``.
    unit : str
        Unit of the world: "um", "mm" or "pixel".
    plan : Plan
        Of the model that made it.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None
    affine: np.ndarray
    unit: str
    plan: Plan

    @property
    def border(self) -> int | None:
        """Value of the class that is the rim of objects, where the network was trained for one."""
        return _border_of(self.plan)

    def instances(self) -> np.ndarray:
        """Return the instance map, made as the plan says (``predict.method``, ``predict.min_size``)."""
        return separate(self, self.plan, min_size=self.plan.predict.min_size)

    def panoptic(self) -> Panoptic:
        """Return class and object of each pixel, made as the plan says, see `medseg.to_panoptic`."""
        return to_panoptic(self)

    def result(self) -> np.ndarray:
        """Return what the model was trained for: the instance map, or the label map."""
        return self.instances() if self.plan.target.kind == "instances" else self.labels

    def save(self, path: str | Path, *, colours: bool = False) -> Path:
        """Write the result with the geometry of the image; the suffix tells the format.

        With ``colours`` a PNG has those of the report for its palette; its values stay what they are.
        """
        result = self.result()
        return self.write(result, path, colours=self.colours(result) if colours else None)

    def colours(self, result: np.ndarray) -> np.ndarray:
        """Return the colour of each value of the result, see `medseg.palettes`."""
        if self.plan.target.kind == "instances":
            return instance_table(result)
        return class_table(self.plan.target.ignore)

    def write(self, array: np.ndarray, path: str | Path, *, colours: np.ndarray | None = None) -> Path:
        """Write a map of this grid, such as a changed instance map, with the geometry of the image.

        ``colours`` are for a PNG, see `medseg.write`.
        """
        if array.shape != self.labels.shape:
            raise Refused(
                "shape-mismatch",
                "the map is not on the image's grid",
                got=array.shape,
                expected=self.labels.shape,
            )
        if suffix_of(path) in (".zarr", ".ome.zarr"):
            kind = array.dtype
            return write_blocks(
                path, array.__getitem__, array.shape, kind, affine=self.affine, unit=self.unit
            )
        tensor = torch.from_numpy(np.ascontiguousarray(array)[None])
        image = MetaTensor(tensor, affine=self.affine, meta={"spacing_unit": self.unit})
        return write(image, path, colours=colours)


def _border_of(plan: Plan) -> int | None:
    classes = plan.target.classes
    return classes.index("border") if plan.target.kind == "instances" and "border" in classes else None


def label_values(plan: Plan) -> np.ndarray | None:
    """Return the value of each class in label maps, or None where it is the class's index."""
    values = plan.target.values
    if plan.target.kind != "semantic" or values == tuple(range(len(values))):
        return None
    return np.array(values).astype(np.min_scalar_type(max(values)))


def inferer_of(plan: Plan, *, max_ram_gb: float | None = None, flips: bool = False) -> OverlapTileInferer:
    """Return the inferer that a plan asks for; it averages over those flips that were trained.

    Examples
    --------
    >>> inferer_of(Plan().with_values({"predict.flips": True, "augment.flip_axes": (0,)})).flips
    (0,)
    """
    axes: bool | tuple[int, ...] = False
    if flips or plan.predict.flips:
        axes = (plan.augment.flip_axes or True) if plan.augment.flip_prob else False
        if not axes:
            _log.warning("the network was trained without flips, and is not averaged over any")
    mirror = None if plan.predict.mirror < 0 else plan.predict.mirror
    return OverlapTileInferer(max_ram_gb=max_ram_gb, flips=axes, mirror=mirror)


def separate(prediction: Any, plan: Plan, *, min_size: int) -> np.ndarray:
    """Return the instance map of a prediction, or of a label map or a part of it, as the plan says."""
    return to_instances(prediction, method=plan.predict.method, min_size=min_size, border=_border_of(plan))


def network_of(bundle: Bundle) -> torch.nn.Module:
    """Return the network of a bundle as it predicts, at the resolution of the images."""
    network = bundle.fast_network()
    if bundle.plan.input.downsample:
        network = Coarse(network, bundle.plan.input.downsample, bundle.plan.input.channels).eval()
    return network


def predict(
    bundle: Bundle | str | Path,
    image: Any,
    *,
    max_ram_gb: float | None = None,
    flips: bool = False,
    device: str | torch.device = "auto",
    probabilities: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Segment one image of any size.

    A file that is large against the memory stays in its file, if it is TIFF or Zarr; a volume is held in the
    type that it is stored in, or not at all; the label map is held as a whole. For results that are too large
    for that see `medseg.inference.predict_to`.

    Parameters
    ----------
    bundle : Bundle, str or Path
        A trained model, its folder or its name.
    image : path, Case, LazyImage, MetaTensor or array
        A file; a case, whose data set may give its spacing; ``(C, *spatial)``; or an array of the image's
        axes, with channels last or first or none.
    max_ram_gb : float, optional
        Bound for the memory of the whole process, see `OverlapTileInferer`.
    flips : bool
        Average over flips and rotations: slower, a little better.
    device : str or torch.device
        ``auto`` is the bundle's own device, or a GPU where there is one.
    probabilities : bool
        Whether to keep the probabilities of all classes.
    progress : callable, optional
        Called with the number of tiles that are done and of all.

    Returns
    -------
    Prediction

    Raises
    ------
    Refused
        What `medseg.read` refuses; ``channel-mismatch``, ``too-many-dimensions``, ``non-finite``,
        ``empty-image``, ``out-of-memory``.

    Examples
    --------
    >>> import tempfile, numpy, medseg
    >>> from medseg.bundle import save_bundle
    >>> from medseg.networks import build_network
    >>> plan = medseg.Plan().with_values({"network.channels": (2, 4)})
    >>> path = save_bundle(tempfile.mkdtemp() + "/b", plan, build_network(plan), card="")
    >>> medseg.predict(path, numpy.random.rand(31, 47)).labels.shape
    (31, 47)
    """
    if not isinstance(bundle, Bundle):
        bundle = load_bundle(bundle, device=device)
    elif device != "auto":
        bundle.network.to(resolve_device(device))
    plan = bundle.plan
    large = open_large(image, bundle, max_ram_gb) or open_volume(image, plan)
    with large or nullcontext():
        pixels = as_image(large or image, plan)
        inferer = inferer_of(plan, max_ram_gb=max_ram_gb, flips=flips)
        framed, prepare = on_network_grid(pixels, plan)
        refined = plan.predict.crf_iterations > 0
        if refined:
            refuse_large_fields(plan, tuple(pixels.shape[1:]), max_ram_gb)
        with refusing_large_tiles():
            labels, kept = inferer.labels(
                framed,
                network_of(bundle),
                prepare=prepare,
                probabilities=probabilities or refined,
                progress=progress,
            )
            if refined and kept is not None:
                at = next(bundle.network.parameters()).device
                labels, kept = refine(kept, pixels, plan, device=at, max_ram_gb=max_ram_gb)
    kept = kept if probabilities else None
    labels = keep_largest(labels, [plan.target.classes.index(name) for name in plan.predict.largest])
    values = label_values(plan)
    if values is not None:
        labels = values[labels]
    affine = np.asarray(getattr(pixels, "affine", np.eye(4)))
    unit = pixels.unit if isinstance(pixels, LazyImage) else getattr(pixels, "meta", {}).get("spacing_unit")
    return Prediction(labels, kept, affine, unit or "pixel", plan)


def on_network_grid(pixels: Tensor | LazyImage, plan: Plan) -> tuple[Any, Callable[[Tensor], Tensor] | None]:
    """Return an image as its network sees it, and what is still to be done with each part of it."""
    affine = np.asarray(getattr(pixels, "affine", np.eye(4)))
    plain: Any = pixels.as_tensor() if isinstance(pixels, MetaTensor) else pixels
    frame = frame_of(plain, affine, plan.input)
    prepare = normaliser(frame.cropped(plain), plan.input)
    return (plain, prepare) if frame.is_plain else (FramedImage(plain, frame, prepare), None)


def as_image(image: Any, plan: Plan) -> Tensor | LazyImage:
    """Return any image as ``(C, *spatial)`` with the channels that the plan's network takes."""
    path = image.path if isinstance(image, Case) else image
    name = f"'{path}'" if isinstance(path, str | Path) else "the image"
    if isinstance(image, LazyImage):
        return with_model_channels(open_image(image, plan), plan)
    if isinstance(image, Case):
        image = read_case(image)
    elif isinstance(image, str | Path):
        image = read(image)
    elif not isinstance(image, Tensor):
        image = _from_array(np.asarray(image), plan.input.spatial_dims)
    check_axes(image, plan, name)
    if image.is_floating_point() and not image.isfinite().all():
        raise Refused("non-finite", f"{name} holds NaN or infinite pixels", do="replace them by a number")
    tensor: Tensor = with_channels(image, plan.input.channels, name)
    return tensor


def _from_array(array: np.ndarray, dims: int) -> Tensor:
    """Give an array a leading channel axis; a last axis of 3 or 4 on an image is colour."""
    if array.dtype.kind not in "buif":
        raise Refused("bad-image", "an image holds numbers", got=array.dtype)
    if array.ndim == dims:
        array = array[None]
    elif array.ndim == dims + 1 and array.shape[-1] in (3, 4) and array.shape[0] not in (1, 3, 4):
        array = np.moveaxis(array, -1, 0)
    if array.ndim == dims + 1 and array.shape[0] == 4:
        array = array[:3]  # the fourth channel of a colour image is its opacity
    if array.dtype in (np.uint16, np.uint32, np.uint64, np.float16) or not array.dtype.isnative:
        array = array.astype(np.int64 if array.dtype.kind == "u" else np.float32)  # few operations know them
    return torch.from_numpy(np.ascontiguousarray(array))
