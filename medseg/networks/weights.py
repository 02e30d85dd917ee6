"""Weights from files of others: read without running anything, and given to a network by name."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from ..bundle_files import WEIGHTS, BundleFiles, bundle_names, find_bundle, is_bundle, sizes_in_zip
from ..errors import Refused, did_you_mean
from ..tensors import load_tensors, tensors_from_bytes

__all__ = ["Loaded", "adapt_state", "load_weights", "read_weights"]

_TORCH = (".pt", ".pth", ".ckpt", ".bin", ".tar")  # people call it .pth.tar, though it is no archive of tar
_SUFFIXES = (".safetensors", *_TORCH)
# under these keys a checkpoint keeps its weights, beside the optimiser's state and other things
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights")
# put before every name by DataParallel, by torch.compile, and by medseg's own checkpoints
_PREFIXES = ("module.", "_orig_mod.", "network/")
_STATE = "torch.save(network.state_dict(), path)"


@dataclass(frozen=True)
class Loaded:
    """Which tensors went from a file into a network.

    Attributes
    ----------
    loaded : tuple of str
        Names that both have.
    left_out : tuple of str
        Names of the file that the network does not have, or has in another shape.
    untouched : tuple of str
        Names of the network that are as they were.
    """

    loaded: tuple[str, ...]
    left_out: tuple[str, ...]
    untouched: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors taken"]
        for names, what in ((self.left_out, "left out"), (self.untouched, "fresh")):
            if names:
                parts.append(f"{len(names)} {what} ({_first(names)})")
        return ", ".join(parts)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read named tensors from a file, a bundle or a run. Nothing in it is executed.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file; a ``.pt``, ``.pth``, ``.pth.tar``, ``.ckpt`` or ``.bin`` file of PyTorch,
        which is read with ``weights_only=True``; the folder or zip file of a bundle, or a run that holds one.
        Of a checkpoint the weights are taken (``state_dict``, ``model`` and the like), and a ``module.``
        before every name is taken off. The name of a bundle that is shipped will do, too.

    Returns
    -------
    dict of str to Tensor
        On the CPU: dense, finite, real or whole numbers.

    Raises
    ------
    Refused
        ``not-found``, ``unknown-suffix``, ``unreadable`` (truncated, damaged, or something else than its
        name says), ``unsafe-file`` (it asks for code to be run), ``no-weights``, ``bad-weights`` (tensors of
        another kind), ``non-finite``, ``out-of-memory``, ``unknown-bundle``, ``bad-bundle``.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/weights.pth"
    >>> torch.save({"epoch": 3, "state_dict": {"module.head.bias": torch.ones(2)}}, path)
    >>> read_weights(path)
    {'head.bias': tensor([1., 1.])}
    """
    path = Path(path)
    if path.is_dir() or is_bundle(path):
        return _checked(_from_bundle(path), path)
    if not path.exists():
        hint = did_you_mean(str(path), bundle_names()) if len(path.parts) == 1 and not path.suffix else None
        do = hint or "check the path; nothing is downloaded"
        raise Refused("not-found", f"no weights '{path}'", do=do)
    if path.suffix.lower() not in _SUFFIXES:
        raise Refused(
            "unknown-suffix",
            f"weights are not read from '{path.name}'",
            expected=f"a bundle, a run or a file that ends in {', '.join(_SUFFIXES)}",
        )
    if (size := path.stat().st_size) > psutil.virtual_memory().available:
        raise Refused(
            "out-of-memory", f"the weights '{path}' do not fit into memory", got=f"{size / 1e9:.1f} GB"
        )
    if path.suffix.lower() in _TORCH:
        return _checked(_names_bared(_unwrapped(_from_torch(path), path)), path)
    tensors, _ = load_tensors(path)
    own = {name: t for name, t in sorted(tensors.items()) if not name.startswith("optimizer/")}
    return _checked(_names_bared(own), path)


def load_weights(
    network: nn.Module, state: Mapping[str, Tensor], *, optional: Collection[str] = ()
) -> Loaded:
    """Give a network the tensors of its names; all of them or, where it refuses, none.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place. Where it has a method ``adapt_weights(state)``, that turns foreign weights into
        its own first.
    state : mapping of str to Tensor
        From `read_weights`.
    optional : collection of str
        Beginnings of names that may have another shape in the file; the network keeps its own then.

    Returns
    -------
    Loaded
        What was loaded, left out and left untouched.

    Raises
    ------
    Refused
        ``another-network`` where not one name fits, or a shape does not; the first names are told.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1))
    >>> other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 1))
    >>> loaded = load_weights(network, other.state_dict(), optional=["1."])
    >>> loaded.loaded, loaded.untouched
    (('0.weight', '0.bias'), ('1.weight', '1.bias'))
    >>> print(loaded)
    2 tensors taken, 2 left out (1.weight, 1.bias), 2 fresh (1.weight, 1.bias)
    """
    state, own = adapt_state(network, state), network.state_dict()
    taken: dict[str, Tensor] = {}
    for name in own:
        if name not in state:
            continue
        tensor = state[name]
        if _fits(tensor, own[name]):
            taken[name] = tensor
        elif not any(name.startswith(beginning) for beginning in optional):
            raise Refused(
                "another-network",
                f"the weights '{name}' belong to another network",
                got=_told(tensor),
                expected=_told(own[name]),
                do="build the network with the numbers that its weights were made with",
            )
    if not taken:
        raise Refused(
            "another-network",
            "no weights have a name that the network knows",
            got=_first(list(state)),
            expected=_first(list(own)),
            do="use weights of this network, or the network of these weights",
        )
    network.load_state_dict(taken, strict=False)
    return Loaded(
        tuple(taken),
        tuple(name for name in state if name not in taken),
        tuple(name for name in own if name not in taken),
    )


def adapt_state(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as the network names and shapes them, where it has a method ``adapt_weights(state)``.

    Weights that are the network's own already must come back as they are.

    Examples
    --------
    >>> adapt_state(nn.Linear(1, 1), {"weight": torch.ones(1, 1)})
    {'weight': tensor([[1.]])}
    """
    adapt = getattr(network, "adapt_weights", None)
    return dict(adapt(dict(state)) if callable(adapt) else state)


def _from_bundle(path: Path) -> dict[str, Tensor]:
    place = find_bundle(path)
    files = BundleFiles(place)
    files.check_sums()
    tensors, _ = tensors_from_bytes(files.read(WEIGHTS), f"{place}/{WEIGHTS}")
    return dict(sorted(tensors.items()))  # the format has no order of its own


def _from_torch(path: Path) -> Any:
    """Read what ``torch.save`` wrote, unless it holds more than tensors and plain containers of them."""
    # torch stores without compressing; what is compressed may blow up to any size
    sizes = sizes_in_zip(path)
    if sum(sizes.values()) > path.stat().st_size:
        raise Refused("unreadable", f"'{path}' is a compressed archive", expected=f"what {_STATE} writes")
    try:
        damaged = _damaged(path) if sizes else None  # files of before 2020 are no zip files, and have no sums
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file makes its reader fail in any way that there is
        raise _retold(path, error) from error
    raise Refused(
        "unreadable",
        f"'{path}' is damaged",
        got=f"another checksum of its part '{damaged}'",
        do="copy or download it again",
    )


def _damaged(path: Path) -> str | None:
    """Return the first part of a zip file that is not what was written; PyTorch does not look."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _retold(path: Path, error: Exception) -> Refused:
    """Say in one line what PyTorch says in twenty."""
    asked = re.search(r"(?:GLOBAL|[Cc]lass|[Ff]unction)\W+([\w.]+\.[\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and asked:
        return Refused(
            "unsafe-file",
            f"'{path}' holds more than weights, and is not opened",
            got=f"a call of {asked[1]}",
            expected="tensors by name",
            do=f"where you trust it, load it yourself and write its weights with {_STATE}",
        )
    return Refused(
        "unreadable",
        f"'{path}' is not a whole file of weights",
        got=f"{type(error).__name__} while reading",
        expected=f"what {_STATE} writes",
        do="copy or download it again",
    )


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the weights in what a checkpoint holds."""
    seen: list[Any] = []  # a checkpoint may hold itself
    while isinstance(content, Mapping) and not any(content is one for one in seen):
        seen.append(content)
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            return {str(name): t for name, t in content.items() if isinstance(t, Tensor)}
        content = inner
    raise Refused(
        "no-weights",
        f"'{path}' holds no weights",
        got=f"a {type(content).__name__}",
        expected="tensors by name",
        do=f"write them with {_STATE}",
    )


def _names_bared(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off what wrappers have put before every name."""
    while prefix := next((p for p in _PREFIXES if state and all(n.startswith(p) for n in state)), None):
        state = {name.removeprefix(prefix): t for name, t in state.items()}
    return state


def _checked(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Refuse tensors that are no weights."""
    if not state:
        raise Refused("no-weights", f"'{path}' holds no weights", got="not one tensor")
    for name, t in state.items():
        if t.layout != torch.strided or t.is_quantized or t.is_complex() or t.is_meta:
            found = f"{t.dtype} in {t.layout}"
            raise Refused("bad-weights", f"'{name}' of '{path}'", got=found, expected="dense real numbers")
        if t.numel() * t.element_size() > t.untyped_storage().nbytes():
            # one number can stand for a tensor of any size; copying it would fill the memory
            raise Refused("bad-weights", f"'{name}' of '{path}' is larger than its data", got=tuple(t.shape))
        # numbers of a byte are not asked themselves
        if t.is_floating_point() and not bool((t.float() if t.element_size() == 1 else t).isfinite().all()):
            raise Refused(
                "non-finite",
                f"'{name}' of '{path}' holds NaN or infinity",
                do="use weights of a sound training",
            )
    return {name: t.detach() for name, t in state.items()}


def _fits(tensor: Tensor, own: Tensor) -> bool:
    return tensor.shape == own.shape and tensor.is_floating_point() == own.is_floating_point()


def _told(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _first(names: Collection[str]) -> str:
    """Tell the first names of many."""
    return ", ".join(list(names)[:3]) + (", ..." if len(names) > 3 else "")
