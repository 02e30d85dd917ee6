"""What a training begins with: fresh weights, or those of a file, a bundle or another run."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..bundle_files import PLAN, BundleFiles, find_bundle, is_bundle
from ..errors import Refused
from ..networks import NETWORKS, build_network
from ..networks.weights import Loaded, adapt_state, load_weights, read_weights
from ..plan import Plan

__all__ = ["Start", "encoder_of", "fresh_network", "plan_of", "start_from", "start_of"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Where the weights come from that a network's training begins with.

    Attributes
    ----------
    source : str
        Name of the file or folder.
    sha256 : str
        Checksum of the weights that were taken.
    loaded : Loaded
        Which were taken, left out, and left fresh.
    """

    source: str
    sha256: str
    loaded: Loaded

    def __str__(self) -> str:
        return f"'{self.source}': {self.loaded}"


def start_from(plan: Plan, source: str | Path) -> nn.Module:
    """Make the network that a plan names, and begin its weights with those of a file, a bundle or a run.

    All that both have is taken. Fresh are the layers that answer for the classes, where the source has other
    classes, and what the source does not have; they follow from ``train.seed``. The encoder is taken as a
    whole, or refused. Weights for one channel are spread over several, and those of several added up for one:
    for images whose channels are all alike the first layer then gives what it gave.

    Parameters
    ----------
    plan : Plan
        Of the training that is to come.
    source : path or str
        What `medseg.networks.read_weights` reads, such as weights of VGG16 or ResNet in torchvision's names;
        a bundle or a finished run, of the same network or of one that shares its encoder; a shipped
        bundle's name.

    Returns
    -------
    torch.nn.Module
        For ``medseg.fit(network=...)``; its ``started_from`` is the `Start`, which the run records: a run
        that began with other weights does not go on with it.

    Raises
    ------
    Refused
        ``another-network`` where the weights are of another network; ``channel-mismatch`` where neither has
        one channel; and what `medseg.networks.read_weights` refuses.

    Examples
    --------
    >>> import tempfile
    >>> from medseg import Plan
    >>> from medseg.bundle import save_bundle
    >>> small = Plan(name="cells").with_values({"network.channels": (2, 4)})
    >>> path = save_bundle(tempfile.mkdtemp() + "/cells", small, build_network(small), card="")
    >>> classes = {"target.classes": ("ground", "liver", "spleen"), "target.values": (0, 1, 2)}
    >>> network = start_from(small.with_values(classes), path)
    >>> network.started_from.loaded.untouched
    ('head.weight', 'head.bias')
    """
    network, theirs = fresh_network(plan), plan_of(source)
    if theirs is not None and theirs.network.members > 1:
        raise Refused(
            "another-network",
            f"'{source}' holds {theirs.network.members} networks",
            do="start from the run of one fold",
        )
    state = adapt_state(network, read_weights(source))
    names = tuple(state)
    own = network.state_dict()
    target = plan.target
    more = {"target.classes": (*target.classes, "one more"), "target.values": (*target.values, 2**40)}
    heads = _names_that_change(plan, more)
    state = _with_channels(plan, state, own, source)
    if theirs is not None and theirs.target.classes != target.classes:
        state = {name: tensor for name, tensor in state.items() if name not in heads}
    inside = _encoder_names(network)
    optional = set(heads)
    if inside and theirs is not None and theirs.network.name != plan.network.name:
        optional = set(own) - inside  # layers of one name may be of other shapes in another network
    loaded = load_weights(network, state, optional=optional)
    loaded = dataclasses.replace(loaded, left_out=tuple(n for n in names if n not in loaded.loaded))
    _check_encoder(inside, own, loaded, source)
    start = Start(Path(source).name, _checksum(network, loaded.loaded), loaded)
    network.started_from = start  # type: ignore[assignment]
    _log.info("started from %s", start)
    return network


def start_of(network: nn.Module | None) -> Start | None:
    """Return what a network's weights began with, if `start_from` made it."""
    start = getattr(network, "started_from", None)
    return start if isinstance(start, Start) else None


def fresh_network(plan: Plan) -> nn.Module:
    """Make the network that a plan names; its weights follow from ``train.seed``.

    Examples
    --------
    >>> plan = Plan().with_values({"network.channels": (2, 4)})
    >>> one, other = fresh_network(plan), fresh_network(plan)
    >>> bool((one.head.weight == other.head.weight).all())
    True
    """
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(plan.train.seed)
        return build_network(plan)


def plan_of(source: str | Path) -> Plan | None:
    """Return the plan of a bundle or a finished run; None for a file of weights.

    Examples
    --------
    >>> plan_of("nuclei").network.name
    'unet'
    """
    if not is_bundle(source):
        return None
    place = find_bundle(source)
    return Plan.from_toml(BundleFiles(place).text(PLAN), source=f"'{place}/{PLAN}'")


def encoder_of(network: nn.Module) -> nn.Module:
    """Return the part of a network that transfer learning keeps.

    Raises
    ------
    Refused
        ``bad-network`` where the network does not tell.

    Examples
    --------
    >>> from medseg.networks import UNet
    >>> len(encoder_of(UNet(2, 1, 2, channels=(2, 4))))
    2
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module) or not any(True for _ in encoder.parameters()):
        raise Refused(
            "bad-network",
            f"{type(network).__name__} does not tell which part of it is the encoder",
            expected="an attribute 'encoder': a module with weights",
            do="give it one, or set train.frozen_steps=0 and train.encoder_lr=1.0",
        )
    return encoder


def _names_that_change(plan: Plan, values: dict[str, Any]) -> list[str]:
    """Return the names of the weights whose shapes are others with other values of the plan."""

    def shapes(plan: Plan) -> dict[str, torch.Size]:
        with torch.device("meta"):
            return {name: t.shape for name, t in NETWORKS[plan.network.name](plan).state_dict().items()}

    before, after = shapes(plan), shapes(plan.with_values(values))
    return [name for name in before if after.get(name) != before[name]]


def _with_channels(
    plan: Plan, state: dict[str, Tensor], own: dict[str, Tensor], source: str | Path
) -> dict[str, Tensor]:
    """Give the first layers the channels of the plan's images, where that leaves their meaning."""
    wanted, out = plan.input.channels, dict(state)
    for name in _names_that_change(plan, {"input.channels": wanted + 1, "input.normalise": "none"}):
        given = state.get(name)
        if (
            given is None
            or given.ndim != own[name].ndim
            or given.ndim < 3
            or given.shape[1] == own[name].shape[1]
        ):
            continue
        channels = given.shape[1]
        if wanted == 1:
            out[name] = given.sum(1, keepdim=True)
        elif channels == 1:
            out[name] = given.expand(-1, wanted, *given.shape[2:]) / wanted
        else:
            raise Refused(
                "channel-mismatch",
                f"'{source}' is for images of {channels} channels",
                got=f"input.channels = {wanted}",
                do=f"use images of {channels} channels or of one, with input.channels={channels}",
            )
    return out


def _encoder_names(network: nn.Module) -> set[str]:
    """Return the names of the weights and statistics of a network's encoder; none where it has no encoder."""
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module):
        return set()
    mine = {id(t) for t in (*encoder.parameters(), *encoder.buffers())}
    named = (*network.named_parameters(), *network.named_buffers())
    return {name for name, tensor in named if id(tensor) in mine}


def _check_encoder(inside: set[str], own: Collection[str], loaded: Loaded, source: str | Path) -> None:
    """Refuse weights that fill only a part of the encoder, or of which it is only a part."""
    # files of old versions lack the count of batches, which nothing is computed with
    missing = [n for n in loaded.untouched if n in inside and not n.endswith("num_batches_tracked")]
    stages = [_stage(name) for name in own if name in inside]
    # behind the last stage a file has its own head
    more = [n for n in loaded.left_out if _stage(n) in stages and _stage(n) != stages[-1]]
    if missing or more:
        what = f"lacks {', '.join(missing[:3])}" if missing else f"has {', '.join(more[:3])}, too"
        raise Refused(
            "another-network",
            f"the encoder of '{source}' is another one",
            got=f"one that {what}",
            do="name the network of these weights in network.name, or use weights of this one",
        )


def _stage(name: str) -> str:
    """Return what stands before the first number in a name.

    Examples
    --------
    >>> _stage("encoder.layer3.5.conv1.weight"), _stage("encoder.conv1.weight")
    ('encoder.layer3', 'encoder.conv1.weight')
    """
    parts = name.split(".")
    return ".".join(parts[: next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))])


def _checksum(network: nn.Module, names: Collection[str]) -> str:
    digest, state = hashlib.sha256(), network.state_dict()
    for name in sorted(names):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(
            tensor.view(torch.uint8).numpy().tobytes() if tensor.ndim else repr(tensor.item()).encode()
        )
    return digest.hexdigest()
