"""A plan from a data set: every number is derived from what the files hold, and says why."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from ..dataset import Dataset, load_dataset
from ..dataset.cases import declared_splits
from ..errors import Refused, refuse_unknown
from ..instances import METHODS
from ..losses import LOSSES
from ..networks import NETWORKS, plan_geometry
from ..plan import Plan
from ..targets import TARGETS
from .fingerprint import Fingerprint, take_fingerprint
from .memory import within
from .networks import has_levels, with_network, with_training
from .volumes import CANONICAL, VolumePrint, levels_of, patch_within

__all__ = ["check_names", "make_plan", "target_values"]

_NO_INTERIOR = 8.0  # pixels of diameter under which a border leaves next to nothing inside
_SMALLEST_SIDE = 128  # images are not made smaller than that, in pixels
_SIDE, _LARGEST_SIDE = 64, 160  # of the cube that a patch of a volume is at most as large as
_MOST_CHANNELS, _MOST_BATCH = 320, 8
_LEAST_LEVELS = 3  # of a network whose coarser levels are supervised
_LEAST_GROUPS = 3  # for training, validation and test
_SCENES = {"person", "pedestrian", "car", "road", "sky"}  # classes of photographs of the world around us
_MOST_USED = 0.75  # share of volumes that is left, under which margins of zeros are cut away


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
    plan = with_network(_describe_input(Plan(name=dataset.name), print_), network)
    plan = _describe_target(plan, print_, dataset)
    plan = _describe_resolution(plan, print_)
    plan = with_training(_describe_scene(_describe_training(plan, print_, memory_gb)))
    plan = _describe_split(plan, dataset)
    return plan if memory_gb is None else within(plan, memory_gb)


def target_values(name: str) -> dict[str, Any]:
    """Return what follows in a plan from the name of a target of instance maps.

    Examples
    --------
    >>> target_values("interior-border")["target.classes"]
    ('background', 'interior', 'border')
    """
    target = TARGETS[name]
    return {
        "target.classes": target.classes,
        "target.border_weights": target.border_weights,
        "predict.method": target.method,
        # weights belong to the cross entropy; Dice counts pixels
        "train.loss": "cross_entropy" if target.border_weights else "cross_entropy_dice",
    }


def _describe_input(plan: Plan, found: Fingerprint) -> Plan:
    axes = found.spatial_dims
    plan = plan.with_values(
        {"input.spatial_dims": axes, "train.patch": (64,) * axes}, reason=f"the images have {axes} axes"
    )
    share = f"{found.coloured} of {found.images} images are coloured"
    plan = plan.with_values({"input.channels": found.channels}, reason=share)
    if found.volumes is None:
        return plan.with_values(
            {"input.spacing": found.spacing, "input.spacing_unit": found.unit}, reason="median of the images"
        )
    return _describe_volumes(plan, found.volumes)


def _describe_volumes(plan: Plan, found: VolumePrint) -> Plan:
    """Choose the grid in the patient and the brightness."""
    plan = plan.with_values(
        {"input.orientation": CANONICAL}, reason="the files place the volumes in a patient"
    )
    plan = plan.with_values({"input.spacing": found.spacing}, reason=found.spacing_reason)
    plan = plan.with_values({"input.spacing_unit": "mm"}, reason="unit of the files")
    plan = plan.with_values({"input.resample": True}, reason="voxels are as large in every case")
    if found.used < _MOST_USED:
        plan = plan.with_values(
            {"input.crop": "nonzero"}, reason=f"{1 - found.used:.0%} of a volume is a margin of zeros"
        )
    if not found.is_ct:
        return plan.with_values({"input.normalise": "zscore"}, reason=f"no CT: {found.why}")
    plan = plan.with_values(
        {"input.window": found.window}, reason="percentiles 0.5 and 99.5 inside the labels"
    )
    plan = plan.with_values(
        {"input.mean": found.mean, "input.deviation": found.deviation}, reason="in the labels"
    )
    return plan.with_values({"input.normalise": "window"}, reason=f"CT: {found.why}")


def _describe_target(plan: Plan, found: Fingerprint, dataset: Dataset) -> Plan:
    plan = plan.with_values({"target.kind": found.kind}, reason=found.why)
    void = {"target.ignore": dataset.ignore} if dataset.ignore else {}
    if found.kind == "instances":
        name, reason = "interior-border", "objects of one kind, told apart by their borders"
        if found.diameter < _NO_INTERIOR:
            name, reason = (
                "foreground",
                "objects too small for an interior, told apart by the gap between them",
            )
        plan = plan.with_values({"target.name": name, "target.values": (0, 1)}, reason=reason)
        plan = plan.with_values(target_values(name), reason=f"for the target '{name}'")
        sigma = float(np.clip(found.diameter / 6, 2, 5)) if math.isfinite(found.diameter) else 5.0
        plan = plan.with_values(
            {"target.sigma": round(sigma, 1)},
            reason=f"the paper's 5 pixels, less for small objects: median diameter {found.diameter:.0f}",
        )
        return plan.with_values(void, reason="declared by the data set")
    named = dataset.classes or {f"class_{v}": v for v in found.values}
    ground = next((name for name, value in named.items() if value == 0), "background")
    named = {name: value for name, value in named.items() if value != 0}
    if len(found.values) == 1 and not dataset.classes:
        named = {"foreground": found.values[0]}
    if not named:
        raise Refused("no-labels", f"the labels of '{dataset.name}' hold background only")
    if 0 not in dataset.ignore:
        named = {ground: 0, **named}
    plan = plan.with_values(
        {"target.classes": tuple(named), "target.values": tuple(named.values())}, reason=found.why
    ).with_values(void, reason="declared by the data set")
    if things := [name for name in dataset.things if name in plan.target.scored]:
        plan = plan.with_values({"target.things": tuple(things)}, reason="declared by the data set")
    return plan.with_values({"train.loss": "cross_entropy_dice"}, reason="classes may be rare")


def _describe_resolution(plan: Plan, found: Fingerprint) -> Plan:
    """Choose pixels so coarse that the context of the network spans an object; in images, not in volumes."""
    geometry = plan_geometry(plan)
    if found.spatial_dims != 2 or geometry.halo is None or not math.isfinite(found.thickness):
        return plan
    context = 2 * min(geometry.halo)
    factor = min(math.ceil(found.thickness / context), min(found.shape) // min(context, _SMALLEST_SIDE))
    if factor < 2:
        return plan
    seen = f"objects are {found.thickness:.0f} pixels thick, the network sees {context} at once"
    return plan.with_values({"input.downsample": (factor, factor)}, reason=seen)


def _describe_split(plan: Plan, dataset: Dataset) -> Plan:
    """Set nothing aside where there is next to nothing, or where the data set has shared all out."""
    declared = declared_splits(dataset.cases)
    groups = len(dataset.groups)
    if declared and "test" not in declared.values() and groups - len(declared) < _LEAST_GROUPS:
        names = " and ".join(sorted(set(declared.values())))
        reason = f"the data set declares {names}, and leaves nothing over for a test"
        return plan.with_values({"split.test_fraction": 0.0}, reason=reason)
    if groups >= _LEAST_GROUPS:
        return plan
    reason = f"{groups} group{'s' if groups > 1 else ''} of cases: nothing can be kept unseen"
    plan = plan.with_values({"split.test_fraction": 0.0}, reason=reason)
    return plan.with_values({"split.folds": 1}, reason=reason) if groups == 1 else plan


def _describe_levels(plan: Plan, wanted: Sequence[int], spacing: Sequence[float]) -> Plan:
    """Choose the levels of a network for volumes."""
    strides, kernels = levels_of(wanted, spacing)
    widths = tuple(min(plan.network.channels[0] * 2**level, _MOST_CHANNELS) for level in range(len(kernels)))
    near = "x".join(f"{s:g}" for s in spacing)
    plan = plan.with_values(
        {"network.channels": widths, "network.strides": strides, "network.kernels": kernels},
        reason=f"spacing {near}: thick slices are not pooled until voxels are even, 4 are left an axis",
    )
    deep = plan.network.padding == "same" and len(widths) >= _LEAST_LEVELS
    return plan.with_values(
        {"network.residual": True, "network.deep_supervision": deep},
        reason="best of the forms compared in docs/explanation/volumes-network.md",
    )


def _describe_patches(plan: Plan, found: Fingerprint, memory_gb: float | None) -> Plan:
    """Choose patch, levels, batch and changes of volumes: of as many millimetres along each axis."""
    spacing = plan.input.spacing if plan.input.spacing_unit != "pixel" else (1.0, 1.0, 1.0)
    shape = found.volumes.shape if found.volumes else found.shape
    side = _SIDE if memory_gb is None else _LARGEST_SIDE
    wanted = patch_within(shape, spacing, side**3)
    if has_levels(plan.network.name):
        plan = _describe_levels(plan, wanted, spacing)
    geometry = plan_geometry(plan)
    patch = geometry.round_up(wanted)
    plan = plan.with_values(
        {"train.patch": patch},
        reason=f"median volume {'x'.join(map(str, shape))}, at most {side}^3 voxels, a legal size",
    )
    if plan.network.padding == "same":
        plan = plan.with_values(
            {"predict.mirror": 0},
            reason="around patches the network pads with zeros: so it does around volumes",
        )
    batch = min(max(round(2 * side**3 / math.prod(patch)), 2), _MOST_BATCH)
    plan = plan.with_values({"train.batch_size": batch}, reason="small patches, more of them")
    extent = min(n * s for n, s in zip(patch, spacing)) / min(spacing)
    plan = plan.with_values(
        {"augment.elastic_sigma": round(min(10.0, extent / 16), 1)}, reason="a sixteenth of the patch"
    )
    if plan.target.kind == "semantic":
        plan = plan.with_values({"train.foreground": 0.33}, reason="small structures are seen, too")
    if found.volumes is None:
        return plan
    plan = plan.with_values(
        {"augment.rotate_degrees": 20.0, "augment.scale": (0.8, 1.25)}, reason="patients lie much alike"
    )
    names = " ".join(plan.target.classes).lower()
    if "left" in names or "right" in names:
        return plan.with_values({"augment.flip_prob": 0.0}, reason="left and right are classes")
    return plan.with_values(
        {"augment.flip_axes": (0,)}, reason="a body is like its mirror image, left to right"
    )


def _describe_training(plan: Plan, found: Fingerprint, memory_gb: float | None) -> Plan:
    if found.spatial_dims == 3:
        return _describe_objects(_describe_patches(plan, found, memory_gb), found)
    largest = 256
    geometry = plan_geometry(plan)
    coarse = plan.input.downsample or (1,) * found.spatial_dims
    # where a patch is the whole image, it needs the mirrored rim that tiles have: with zeros around it a
    # network learns that the image ends there, and then fails on tiles
    rim = geometry.halo if plan.input.downsample and geometry.halo else (0,) * found.spatial_dims
    wanted = [math.ceil(n / f) + 2 * r for n, f, r in zip(found.shape, coarse, rim)]
    patch = geometry.round_up([min(n, largest) for n in wanted])
    plan = plan.with_values(
        {"train.patch": patch},
        reason=f"median image {'x'.join(map(str, found.shape))}, at most {largest}, a legal size"
        + (", after input.downsample and with a mirrored rim" if plan.input.downsample else ""),
    )
    return _describe_objects(plan, found)


def _describe_objects(plan: Plan, found: Fingerprint) -> Plan:
    """Choose what follows from how objects and images look."""
    if found.volumes is None and 0.02 < found.dark < 0.98:
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


def _describe_scene(plan: Plan) -> Plan:
    """Leave photographs of scenes the right way up, and their colours what they are."""
    names = {name.lower() for name in plan.target.classes}
    if plan.input.spatial_dims != 2 or plan.target.kind != "semantic" or not names & _SCENES:
        return plan
    upright = {"augment.rotate_degrees": 10.0, "augment.flip_axes": (1,)}
    plan = plan.with_values(upright, reason="scenes have an up and a down")
    if plan.augment.invert_prob:
        return plan.with_values({"augment.invert_prob": 0.0}, reason="no scene is a negative")
    return plan


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
