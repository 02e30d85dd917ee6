"""A plan from a data set: every number is derived from what the files hold, and says why."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from .dataset import Case, Dataset, load_dataset
from .errors import Refused, refuse_unknown
from .instances import METHODS
from .io import read, read_label
from .losses import LOSSES
from .networks import NETWORKS, build_network, forward_bytes, geometry_of
from .plan import Plan
from .targets import TARGETS
from .transforms import is_grey

__all__ = ["Fingerprint", "check_names", "make_plan", "take_fingerprint", "training_bytes"]

_MOST_IMAGES, _MOST_LABELS = 1000, 100
_MANY_VALUES = 20
_SLACK = 1.5  # the loss, and what convolution libraries need beside the tensors: measured 1.1 to 1.65 times


@dataclass(frozen=True)
class Fingerprint:
    """What the files of a data set hold.

    Attributes
    ----------
    spatial_dims : int
        Axes of an image.
    shape : tuple of int
        Median size an axis.
    coloured : int
        Images whose channels differ, out of ``images``.
    channels : int
        Channels of the images; 3 where any is coloured.
    images, labels : int
        How many files were looked at.
    spacing : tuple of float
        Median spacing an axis.
    unit : str
        Its unit.
    values : tuple of int
        Values in the labels, at most a few more than tell the kind.
    kind : {"instances", "semantic"}
        What the labels are.
    why : str
        How the kind was told.
    diameter : float
        Median diameter of an object (area or volume as a disc or ball) in pixels; NaN where there is none.
    dark : float
        Share of images whose foreground is darker than their background.
    """

    spatial_dims: int
    shape: tuple[int, ...]
    coloured: int
    channels: int
    images: int
    labels: int
    spacing: tuple[float, ...]
    unit: str
    values: tuple[int, ...]
    kind: str
    why: str
    diameter: float
    dark: float


def make_plan(
    dataset: Dataset | Any,
    *,
    network: str = "unet",
    memory_gb: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Derive a plan from a data set.

    Parameters
    ----------
    dataset : Dataset or path
        With labels.
    network : str
        A name from ``medseg.networks.NETWORKS``.
    memory_gb : float, optional
        Bound for the memory of a training step in GB (1e9 bytes): the batch, then the patch, shrinks until
        it holds.
    progress : callable, optional
        Called with the number of files that are read and of all.

    Returns
    -------
    Plan
        With a reason for each derived number; ``plan.save(path)`` writes them as TOML comments.

    Raises
    ------
    Refused
        ``unknown-network``, ``no-labels``, ``mixed-dimensions``, ``out-of-memory``, and what reading refuses.

    Examples
    --------
    >>> import tempfile, pathlib, numpy, medseg
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for i in range(4):
    ...     rng = numpy.random.default_rng(i)
    ...     image, cells = medseg.phantoms.cells((60, 80), n=3 + i, diameter=10, rng=rng)
    ...     _ = medseg.write(image, root / f"images/{i}.tif")
    ...     _ = medseg.write(cells, root / f"labels/{i}.tif")
    >>> plan = medseg.make_plan(medseg.load_dataset(root))
    >>> plan.target.kind, plan.input.channels, plan.train.patch
    ('instances', 1, (64, 80))
    """
    if network not in NETWORKS:
        raise refuse_unknown("network", network, NETWORKS)
    if not isinstance(dataset, Dataset):
        dataset = load_dataset(dataset)
    print_ = take_fingerprint(dataset, progress=progress)
    plan = Plan(name=dataset.name).with_values({"network.name": network}, reason="as asked for")
    plan = _describe_input(plan, print_)
    plan = _describe_target(plan, print_, dataset)
    plan = _describe_training(plan, print_)
    return plan if memory_gb is None else _within(plan, memory_gb)


def take_fingerprint(dataset: Dataset, *, progress: Callable[[int, int], None] | None = None) -> Fingerprint:
    """Read a data set and tell what its files hold; of a large one, evenly spread files."""
    if not dataset.labelled:
        raise Refused(
            "no-labels", f"data set '{dataset.name}' has no labels", do="a plan is made for training"
        )
    images = _spread(dataset.cases, _MOST_IMAGES)
    labelled = {id(case) for case in _spread(images, _MOST_LABELS)}
    shapes, channels, spacings, units, objects, dark = [], [], [], [], [], []
    coloured = 0
    values: set[int] = set()
    evidence: list[_LabelEvidence] = []
    for done, case in enumerate(images, start=1):
        image = read(case.image)
        shapes.append(tuple(image.shape[1:]))
        channels.append(image.shape[0])
        coloured += image.shape[0] == 3 and not is_grey(image)
        spacings.append(np.linalg.norm(np.asarray(image.affine)[:3, : image.ndim - 1], axis=0))
        units.append(str(image.meta.get("spacing_unit", "pixel")))
        if id(case) in labelled:
            label = np.asarray(read_label(case.label)[0])  # type: ignore[arg-type]
            found = _look_at(label)
            evidence.append(found)
            values |= set(found.values[: _MANY_VALUES + 1])
            objects += found.diameters
            if label.shape != image.shape[1:]:
                raise Refused(
                    "shape-mismatch",
                    f"the label of '{case.image}' has another shape",
                    got=label.shape,
                    expected=tuple(image.shape[1:]),
                    do="pair each image with its own label",
                )
            if 0 < (label > 0).mean() < 1:
                grey = np.asarray(image).mean(0)
                dark.append(grey[label > 0].mean() < grey[label == 0].mean())
        if progress:
            progress(done, len(images))
    dims = {len(s) for s in shapes}
    if len(dims) > 1:
        raise Refused("mixed-dimensions", f"data set '{dataset.name}' mixes 2D and 3D images", do="part them")
    kind, why = _kind(dataset, evidence, values)
    found_channels = {c for c in channels if c not in (1, 3)}
    return Fingerprint(
        spatial_dims=dims.pop(),
        shape=tuple(int(n) for n in np.median(shapes, axis=0)),
        coloured=coloured,
        channels=max(found_channels) if found_channels else (3 if coloured else 1),
        images=len(images),
        labels=len(evidence),
        spacing=tuple(float(s) for s in np.median(spacings, axis=0)),
        unit=max(set(units), key=units.count),
        values=tuple(sorted(values)),
        kind=kind,
        why=why,
        diameter=float(np.median(objects)) if objects else math.nan,
        dark=float(np.mean(dark)) if dark else 0.0,
    )


@dataclass(frozen=True)
class _LabelEvidence:
    values: tuple[int, ...]
    single: float
    diameters: list[float]


def _look_at(label: np.ndarray) -> _LabelEvidence:
    """Values of a label map, how many of them are one connected piece, and how large the pieces are."""
    from scipy import ndimage

    found, counts = np.unique(label, return_counts=True)
    pieces = 0
    some = [int(v) for v in found if v > 0][:_MANY_VALUES]
    for value in some:
        pieces += ndimage.label(label == value)[1] == 1
    if len(some) == 1:  # a mask: its pieces are the objects
        counts = np.bincount(ndimage.label(label > 0)[0].ravel())
        sizes = counts[1:]
    else:
        sizes = counts[found > 0]
    ball = 4 / 3 * math.pi if label.ndim == 3 else math.pi
    diameters = (2 * (sizes / ball) ** (1 / label.ndim)).tolist()
    values = tuple(int(v) for v in found if v > 0)
    return _LabelEvidence(values, pieces / len(some) if some else 1.0, diameters)


def _kind(dataset: Dataset, evidence: list[_LabelEvidence], values: set[int]) -> tuple[str, str]:
    """Tell instance maps from label maps."""
    if dataset.kind:
        return dataset.kind, "declared by the data set"
    if dataset.classes:
        return "semantic", "the data set declares classes"
    if any(isinstance(case.label, tuple) for case in dataset.cases):
        return "instances", "one mask file an object"
    if len(values) > _MANY_VALUES:
        return "instances", f"more than {_MANY_VALUES} values in the labels"
    counts = {len(e.values) for e in evidence}
    numbered = all(e.values == tuple(range(1, len(e.values) + 1)) for e in evidence)
    single = float(np.mean([e.single for e in evidence]))  # an object may be cut in two by another
    if max(counts, default=0) > 2 and len(counts) > 1 and numbered and single > 0.9:
        return "instances", "labels count 1, 2, 3 ... differently far in each image, each value in one piece"
    return "semantic", f"the labels hold the values {sorted(values)}"


def _describe_input(plan: Plan, found: Fingerprint) -> Plan:
    axes = found.spatial_dims
    plan = plan.with_values(
        {"input.spatial_dims": axes, "train.patch": (64,) * axes}, reason=f"the images have {axes} axes"
    )
    share = f"{found.coloured} of {found.images} images are coloured"
    plan = plan.with_values({"input.channels": found.channels}, reason=share)
    return plan.with_values(
        {"input.spacing": found.spacing, "input.spacing_unit": found.unit}, reason="median of the images"
    )


def _describe_target(plan: Plan, found: Fingerprint, dataset: Dataset) -> Plan:
    plan = plan.with_values({"target.kind": found.kind}, reason=found.why)
    if found.kind == "instances":
        target = TARGETS["foreground"]
        plan = plan.with_values(
            {"target.name": "foreground", "target.classes": target.classes, "target.values": (0, 1)},
            reason="objects of one kind, told apart by the gap between them",
        )
        sigma = float(np.clip(found.diameter / 6, 2, 5)) if math.isfinite(found.diameter) else 5.0
        return plan.with_values({"target.border_weights": True}, reason="objects may touch").with_values(
            {"target.sigma": round(sigma, 1)},
            reason=f"the paper's 5 pixels, less for small objects: median diameter {found.diameter:.0f}",
        )
    named = dataset.classes or {f"class_{v}": v for v in found.values}
    named = {name: value for name, value in named.items() if value != 0}
    if len(found.values) == 1 and not dataset.classes:
        named = {"foreground": found.values[0]}
    if not named:
        raise Refused("no-labels", f"the labels of '{dataset.name}' hold background only")
    return plan.with_values(
        {"target.classes": ("background", *named), "target.values": (0, *named.values())}, reason=found.why
    ).with_values({"train.loss": "cross_entropy_dice"}, reason="classes may be rare")


def _describe_training(plan: Plan, found: Fingerprint) -> Plan:
    largest = 256 if found.spatial_dims == 2 else 64
    geometry = geometry_of(build_network(plan), plan.input.channels, plan.input.spatial_dims)
    patch = geometry.round_up([min(n, largest) for n in found.shape])
    plan = plan.with_values(
        {"train.patch": patch},
        reason=f"median image {'x'.join(map(str, found.shape))}, at most {largest}, a legal size",
    )
    if 0.02 < found.dark < 0.98:
        plan = plan.with_values(
            {"augment.invert_prob": 0.3},
            reason=f"objects are darker than their ground in {found.dark:.0%} of the images",
        )
    if 0 < found.coloured < found.images:
        plan = plan.with_values({"augment.grey_prob": 0.2}, reason="some images are coloured, some are grey")
    if found.kind == "instances" and math.isfinite(found.diameter):
        size = max(4, int((found.diameter / 4) ** found.spatial_dims))
        plan = plan.with_values({"predict.min_size": size}, reason="a quarter of the median diameter")
    return plan


def _within(plan: Plan, memory_gb: float) -> Plan:
    """Shrink batch and then patch until a training step stays within the memory."""
    network = build_network(plan)
    geometry = geometry_of(network, plan.input.channels, plan.input.spatial_dims)
    reason = f"a training step stays within {memory_gb:g} GB"
    while (needed := training_bytes(plan, network)) > memory_gb * 1e9:
        patch, batch = plan.train.patch, plan.train.batch_size
        if batch > 1:
            plan = plan.with_values({"train.batch_size": batch // 2}, reason=reason)
            continue
        longest = max(range(len(patch)), key=lambda axis: patch[axis])
        smaller = list(patch)
        smaller[longest] -= geometry.stride[longest]
        legal = smaller[longest] >= geometry.minimum[longest]
        shrunk = plan.with_values({"train.patch": tuple(smaller)}, reason=reason) if legal else plan
        if not legal or not _trainable(shrunk, network):
            raise Refused(
                "out-of-memory",
                "the network is too big for this memory even on its smallest patch",
                got=f"memory_gb = {memory_gb:g}",
                expected=f"at least {needed / 1e9:.2f} GB",
                do="use fewer network.channels",
            )
        plan = shrunk
    return plan


def _trainable(plan: Plan, network: Any) -> bool:
    """Tell whether a patch is large enough to be normalised at the deepest level."""
    try:
        return training_bytes(plan, network) > 0
    except Refused:
        return False


def check_names(plan: Plan, *, but: Collection[str] = ()) -> None:
    """Refuse a plan that names a network, loss, target or method that there is not.

    Parameters
    ----------
    plan : Plan
        The names lie in ``medseg.networks.NETWORKS``, ``medseg.losses.LOSSES``,
        ``medseg.targets.TARGETS`` and ``medseg.instances.METHODS``.
    but : collection of str
        Keys that are not looked up, because the caller brings his own.

    Raises
    ------
    Refused
        ``unknown-network``, ``unknown-loss``, ``unknown-target`` or ``unknown-method``.

    Examples
    --------
    >>> from medseg import Plan
    >>> check_names(Plan())
    """

    def unknown(key: str, known: Collection[str]) -> bool:
        return key not in but and plan.value(key) not in known

    if unknown("network.name", NETWORKS):
        raise refuse_unknown("network", plan.network.name, NETWORKS)
    if unknown("train.loss", LOSSES):
        raise refuse_unknown("loss", plan.train.loss, LOSSES)
    if plan.target.kind == "instances":
        if unknown("target.name", TARGETS):
            raise refuse_unknown("target", plan.target.name, TARGETS)
        if unknown("predict.method", METHODS):
            raise refuse_unknown("method", plan.predict.method, METHODS)


def training_bytes(plan: Plan, network: Any = None) -> int:
    """Return the memory of a training step: activations, weights, gradients and the optimiser's state.

    Examples
    --------
    >>> from medseg import Plan
    >>> training_bytes(Plan()) > 1e8
    True
    """
    network = build_network(plan) if network is None else network
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    try:
        activations = forward_bytes(network, plan.input.channels, backward=True)(plan.train.patch)
    except ValueError as error:
        if isinstance(error, Refused) or "more than 1 value" not in str(error):
            raise
        raise Refused(
            "illegal-size",
            "'train.patch' leaves one pixel at the deepest level, which cannot be normalised",
            got=list(plan.train.patch),
            do="use a larger train.patch, fewer network.channels or network.norm=none",
        ) from error
    return int(activations * plan.train.batch_size * _SLACK + 4 * weights)


def _spread(cases: Any, most: int) -> list[Case]:
    """Return at most so many items, evenly spread."""
    every: list[Case] = list(cases)
    if len(every) <= most:
        return every
    return [every[i] for i in np.linspace(0, len(every) - 1, most).round().astype(int)]
