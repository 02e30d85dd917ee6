"""A trained model as a folder or one zip file: plan, weights, card, checksums; nothing in it is executed."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .bundle_files import (
    CARD,
    GOLDEN,
    PLAN,
    SUMS,
    WEIGHTS,
    BundleFiles,
    bundle_names,
    find_bundle,
    sha256,
)
from .errors import Refused
from .files import write_text
from .networks import Ensemble, build_network, fast_network, geometry_of, has_bfloat16, resolve_device
from .plan import Plan
from .tensors import save_tensors, tensors_from_bytes

__all__ = ["Bundle", "bundle_names", "join_bundles", "load_bundle", "save_bundle", "verify_bundle"]

_GOLDEN_TOLERANCE = 1e-3  # processors sum in different orders; a wrong weight is off by far more


@dataclass(frozen=True)
class Bundle:
    """A trained model that is ready to predict.

    Attributes
    ----------
    name : str
        Name of the plan.
    plan : Plan
        Every number that it was trained with.
    network : torch.nn.Module
        In evaluation mode, on ``device``.
    device : torch.device
        Where it runs.
    card : str
        What it is, in Markdown: data, licence, scores.
    path : Path
        Where it was read from.
    """

    name: str
    plan: Plan
    network: nn.Module
    device: torch.device
    card: str
    path: Path
    _fast: dict[Any, nn.Module] = field(default_factory=dict, init=False, repr=False, compare=False)

    def fast_network(self) -> nn.Module:
        """Return the network as it predicts: channels last, and in bfloat16 where plan and device say so.

        It is made at the first call and kept while ``network`` keeps its device and its weights. In
        bfloat16 it computes if ``plan.predict.precision`` is that, on a processor or GPU that has it.

        Examples
        --------
        >>> import torch
        >>> bundle = load_bundle("nuclei", device="cpu")
        >>> bundle.fast_network()(torch.rand(1, 3, 64, 48)).shape
        torch.Size([1, 3, 64, 48])
        """
        tensors = [*self.network.parameters(), *self.network.buffers()]
        device = next((t.device for t in tensors), self.device)
        bfloat16 = self.plan.predict.precision == "bfloat16" and has_bfloat16(device)
        # PyTorch counts the changes of a tensor, but not of those made in inference mode
        changes = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)
        key = (str(device), bfloat16, changes)
        if key not in self._fast:
            self._fast.clear()
            channels, dims = self.plan.input.channels, self.plan.input.spatial_dims
            self._fast[key] = fast_network(self.network, channels, dims, bfloat16=bfloat16)
        return self._fast[key]


def save_bundle(path: str | Path, plan: Plan, network: nn.Module, *, card: str) -> Path:
    """Write a bundle as a folder, whole or not at all.

    Parameters
    ----------
    path : str or Path
        The folder; an earlier one of that name is replaced.
    plan : Plan
        The network's plan.
    network : torch.nn.Module
        Its weights are stored as they are; it is left as it was.
    card : str
        Markdown text.

    Returns
    -------
    Path
        ``path``.

    Examples
    --------
    >>> import tempfile
    >>> from medseg import Plan, load_bundle
    >>> from medseg.networks import build_network
    >>> plan = Plan(name="example").with_values({"network.channels": (2, 4)})
    >>> path = save_bundle(tempfile.mkdtemp() + "/example", plan, build_network(plan), card="# Example")
    >>> load_bundle(path).name
    'example'
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise Refused("unwritable", f"cannot write '{path}'", got=error.strerror) from error
    try:
        plan.save(beside / PLAN)
        save_tensors(beside / WEIGHTS, network.state_dict())
        write_text(beside / CARD, card)
        save_tensors(beside / GOLDEN, _golden(plan, network))
        names = [PLAN, WEIGHTS, CARD, GOLDEN]
        sums = [f"{sha256((beside / name).read_bytes())}  {name}\n" for name in names]
        write_text(beside / SUMS, "".join(sums))
        beside.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
            path.replace(old / path.name)
            beside.replace(path)
            shutil.rmtree(old)
        else:
            beside.replace(path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return path


def load_bundle(
    path_or_name: str | Path, *, device: str | torch.device = "auto", network: nn.Module | None = None
) -> Bundle:
    """Read a bundle: a folder, a zip file, a run that holds one, or the name of one that is shipped.

    Parameters
    ----------
    path_or_name : str or Path
        Where it lies, or its name.
    device : str or torch.device
        ``auto`` is a GPU where there is one.
    network : torch.nn.Module, optional
        The network that the weights belong to, where it is not one of ``medseg.networks.NETWORKS``.

    Raises
    ------
    Refused
        ``unknown-bundle``, ``bad-bundle`` (a file is missing or its checksum differs, weights that do not
        fit the plan), ``no-such-device``.

    Notes
    -----
    Only TOML, safetensors and text are read; no file names a class or holds code, so a bundle from a
    stranger is safe to open.
    """
    path = find_bundle(path_or_name)
    files = BundleFiles(path)
    files.check_sums()
    plan = Plan.from_toml(files.text(PLAN), source=f"'{path}/{PLAN}'")
    network = build_network(plan) if network is None else network
    tensors, _ = tensors_from_bytes(files.read(WEIGHTS), f"{path}/{WEIGHTS}")
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise Refused(
            "bad-bundle",
            f"the weights of '{path}' do not belong to its plan",
            got=str(error).splitlines()[1].strip() if "\n" in str(error) else error,
            do="use the bundle as it was written",
        ) from error
    where = resolve_device(device)
    return Bundle(plan.name, plan, network.to(where).eval(), where, files.text(CARD), path)


def join_bundles(bundles: Sequence[Bundle], path: str | Path, *, card: str | None = None) -> Path:
    """Write one bundle whose probabilities are the mean of several, such as those of a cross validation.

    Parameters
    ----------
    bundles : sequence of Bundle
        Of plans that differ in nothing that a prediction depends on. It predicts in bfloat16 if all of them
        do, and keeps only the largest part of the classes of which all of them do.
    path : str or Path
        The folder; an earlier one of that name is replaced.
    card : str, optional
        Markdown text; by default the cards of all.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    Refused
        ``cannot-join`` for fewer than two bundles, or of different plans.

    References
    ----------
    Isensee et al., nnU-Net, Nature Methods 18 (2021): the five networks of a cross validation as an ensemble.

    Examples
    --------
    >>> import tempfile
    >>> from medseg import Plan, load_bundle
    >>> from medseg.networks import build_network
    >>> plan, folder = Plan(name="example").with_values({"network.channels": (2, 4)}), tempfile.mkdtemp()
    >>> paths = [save_bundle(f"{folder}/{i}", plan, build_network(plan), card="") for i in range(2)]
    >>> joined = load_bundle(join_bundles([load_bundle(p) for p in paths], f"{folder}/both"))
    >>> joined.plan.network.members
    2
    """
    if len(bundles) < 2:
        raise Refused("cannot-join", "a joined bundle has two or more members", got=len(bundles))
    first = bundles[0].plan
    for bundle in bundles[1:]:
        for table in ("input", "network", "target", "predict"):
            ours, theirs = _shared(first, table), _shared(bundle.plan, table)
            if ours != theirs:
                raise Refused(
                    "cannot-join",
                    f"'{bundles[0].path}' and '{bundle.path}' have different plans",
                    got=f"[{table}] {theirs}",
                    expected=f"[{table}] {ours}",
                    do="train every fold with the same plan file",
                )
    members: list[nn.Module] = []
    for bundle in bundles:
        network = copy.deepcopy(bundle.network).cpu()
        members += network.members if isinstance(network, Ensemble) else [network]
    rounded = all(b.plan.predict.precision == "bfloat16" for b in bundles)
    largest = tuple(n for n in first.predict.largest if all(n in b.plan.predict.largest for b in bundles))
    plan = first.with_values({"network.members": len(members)}, reason="joined")
    plan = plan.with_values(
        {"predict.precision": "bfloat16" if rounded else "float32", "predict.largest": largest},
        reason="as measured for every member",
    )
    text = f"# {plan.name}\n\nThe mean of {len(members)} networks.\n\n" + "\n\n".join(
        f"## Member {number}\n\n{bundle.card}" for number, bundle in enumerate(bundles, start=1)
    )
    return save_bundle(path, plan, Ensemble(members), card=text if card is None else card)


def _shared(plan: Plan, table: str) -> Any:
    """Return a table of a plan without what the training of each member measures."""
    values = getattr(plan, table)
    return replace(values, precision="float32", largest=()) if table == "predict" else values


def verify_bundle(bundle: Bundle) -> float:
    """Run a bundle on its golden input and return the largest difference from its golden output.

    Raises
    ------
    Refused
        ``bad-bundle`` where the difference is more than rounding.

    Examples
    --------
    >>> import tempfile
    >>> from medseg import Plan, load_bundle
    >>> from medseg.networks import build_network
    >>> plan = Plan(name="example").with_values({"network.channels": (2, 4)})
    >>> path = save_bundle(tempfile.mkdtemp() + "/example", plan, build_network(plan), card="# Example")
    >>> verify_bundle(load_bundle(path, device="cpu"))
    0.0
    """
    golden, _ = tensors_from_bytes(BundleFiles(bundle.path).read(GOLDEN), GOLDEN)
    with torch.inference_mode():
        output = bundle.network(golden["input"].to(bundle.device)).cpu()
    difference = float((output - golden["output"]).abs().max())
    scale = max(1.0, float(golden["output"].abs().max()))
    if not difference <= _GOLDEN_TOLERANCE * scale:
        raise Refused(
            "bad-bundle",
            f"'{bundle.path}' does not give its golden output here",
            got=f"a difference of {difference:.3g}",
            expected=f"at most {_GOLDEN_TOLERANCE * scale:.3g}",
            do="report it with your versions of torch and of medseg",
        )
    return difference


def _golden(plan: Plan, network: nn.Module) -> dict[str, torch.Tensor]:
    """Return a small input and what the network makes of it, on the CPU."""
    channels, dims = plan.input.channels, plan.input.spatial_dims
    was_training = network.training
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    geometry = geometry_of(network, channels, dims)
    size = geometry.input_size((16,) * dims)
    image = torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(0))
    network.cpu().eval()
    with torch.inference_mode():
        output = network(image)
    network.to(device).train(was_training)
    return {"input": image, "output": output}
