"""Overlap-tile inference with mirror extrapolation: tiled results equal to the whole image's."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from ..errors import Refused
from ..frames import FramedImage
from ..networks import fast_format, forward_bytes, geometry_of, runs_parts
from ..networks.geometry import per_axis
from ..scratch import Window
from ..tiling import Geometry, Tile, Tiling, read_mirrored, step_within
from ..transforms import take_tensor
from .blending import blend
from .flips import Part, run_flips
from .memory import free_bytes

__all__ = ["OverlapTileInferer"]

_log = logging.getLogger(__name__)
_AT_ONCE = 1 << 18  # pixels whose logits are computed at once
_SLACK = 1.3  # convolution libraries reorder and pad beyond the tensors that PyTorch shows


class OverlapTileInferer(Inferer):  # type: ignore[misc]
    """Run a network over an image of any size in tiles, with mirrored context at the borders.

    For a network whose layers are local (convolutions, pooling, batch norm) the result does not depend on
    the tiles: it is that of one tile over the whole mirrored image. A network with a layer that sees its
    whole input (instance or group norm, image pooling) has no such result; its tiles are blended, which is
    logged, and `exact` tells.

    Parameters
    ----------
    tile : int or sequence of int, optional
        Part of the image, in pixels, that one tile fills; what it reads is larger by the halo. Rounded up
        to the network's stride. By default as large as memory allows.
    halo : int or sequence of int, optional
        Context a side in place of the network's own. Less than that is no longer exact.
    max_ram_gb : float, optional
        Bound for the memory of the whole process in GB (1e9 bytes). By default half of what is free and at
        most 4 GB beyond what is in use; on a GPU what is free there.
    batch_size : int
        Tiles in one forward pass.
    flips : bool or sequence of int
        Average the probabilities over all flips and, where two axes have the same geometry, rotations by 90
        degrees: 8 versions in 2D (the paper averages over 7 rotated versions), 8 in 3D. Or over the flips of
        some axes only.
    mirror : int or sequence of int, optional
        How far beyond the image context is mirrored, in pixels; by default as far as the network sees. A
        padded network that was trained on patches as large as its images knows their rim by the zeros
        around it, and needs them.

    References
    ----------
    Ronneberger et al., U-Net, MICCAI 2015, figure 2 (overlap-tile strategy) and section 2.

    Examples
    --------
    >>> import torch
    >>> from medseg import OverlapTileInferer
    >>> from medseg.networks import UNet
    >>> network = UNet(2, 1, 2, channels=(4, 8), padding="valid").eval()
    >>> image = torch.rand(1, 1, 61, 47)
    >>> whole = OverlapTileInferer(tile=64)(image, network)
    >>> tiled = OverlapTileInferer(tile=10, batch_size=3)(image, network)
    >>> whole.shape, bool((whole - tiled).abs().max() < 1e-5)
    (torch.Size([1, 2, 61, 47]), True)
    """

    def __init__(
        self,
        *,
        tile: int | Sequence[int] | None = None,
        halo: int | Sequence[int] | None = None,
        max_ram_gb: float | None = None,
        batch_size: int = 1,
        flips: bool | Sequence[int] = False,
        mirror: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise Refused("bad-argument", "batch_size", got=batch_size, expected="at least 1")
        if max_ram_gb is not None and not max_ram_gb > 0:
            raise Refused("bad-argument", "max_ram_gb", got=max_ram_gb, expected="more than 0")
        sizes = [tile] if isinstance(tile, int) else list(tile or [1])
        if min(sizes) < 1:
            raise Refused("bad-argument", "tile", got=tile, expected="at least 1 pixel")
        self.tile, self.halo = tile, halo
        self.max_ram_gb, self.batch_size, self.flips = max_ram_gb, batch_size, flips
        self.mirror = mirror
        self._known: WeakKeyDictionary[nn.Module, Geometry] = WeakKeyDictionary()

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return the logits ``(N, classes, *spatial)`` of images ``(N, C, *spatial)``.

        ``args`` and ``kwargs`` are handed to the network. With ``flips`` the result is the logarithm of the
        averaged probabilities. Unlike `labels` this holds all classes of the whole image.
        """
        out: list[Tensor] = []
        for image in inputs:
            whole: Tensor | None = None
            for tile, part in self.tiles(image, network, *args, **kwargs):
                if whole is None:
                    whole = part.new_empty((part.shape[0], *image.shape[1:]))
                whole[(slice(None), *tile.write)] = part
                del part  # or it would stay while the next tile is computed
            assert whole is not None, "an image has at least one tile"
            out.append(whole)
        return torch.stack(out) if len(out) > 1 else out[0][None]

    def labels(
        self,
        image: Any,
        network: nn.Module,
        *,
        prepare: Callable[[Tensor], Tensor] | None = None,
        probabilities: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the most probable class of each pixel, decided tile by tile.

        Of a `medseg.frames.FramedImage` it is each pixel of the image itself.

        Parameters
        ----------
        image : array or tensor of shape (C, \\*spatial)
            Anything that slices; only the tile at hand is read.
        network : torch.nn.Module
            From ``(N, C, *spatial)`` to logits.
        prepare : callable, optional
            Makes the network's input of what a tile reads, such as a normalisation.
        probabilities : bool
            Whether to keep the probabilities of all classes, too.
        progress : callable, optional
            Called with the number of tiles that are done and of all.

        Returns
        -------
        labels : ndarray of shape (\\*spatial)
            Class indices, the smallest unsigned type that holds them.
        probabilities : ndarray of shape (classes, \\*spatial), float32, or None
        """
        shape = image.frame.shape if isinstance(image, FramedImage) else tuple(image.shape[1:])
        labels: np.ndarray | None = None
        kept: np.ndarray | None = None
        for window, found, shares in self.decided(
            image, network, prepare=prepare, probabilities=probabilities, progress=progress
        ):
            if labels is None:
                labels = np.zeros(shape, found.dtype)
            labels[window] = found
            if shares is not None:
                if kept is None:
                    kept = np.zeros((len(shares), *shape), np.float32)
                    kept[0] = 1.0  # what is cropped away is background
                kept[(slice(None), *window)] = shares
        assert labels is not None, "an image has at least one tile"
        return labels, kept

    def decided(
        self,
        image: Any,
        network: nn.Module,
        *,
        prepare: Callable[[Tensor], Tensor] | None = None,
        probabilities: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[Window, np.ndarray, np.ndarray | None]]:
        """Yield windows of an image with their classes and, if wanted, probabilities.

        The parameters are those of `labels`. What a `medseg.frames.FramedImage` crops away is in no window.
        """
        frame = image.frame if isinstance(image, FramedImage) else None
        for tile, logits in self.tiles(
            image, network, prepare=prepare, beyond=0 if frame is None else 1, progress=progress
        ):
            if frame is not None:
                yield from frame.decide(tile.write, logits, probabilities=probabilities)
            else:
                kind = np.min_scalar_type(logits.shape[0] - 1)
                shares = logits.float().softmax(0).cpu().numpy() if probabilities else None
                yield tile.write, logits.argmax(0).cpu().numpy().astype(kind), shares
            del logits  # or it would stay while the next tile is computed

    def tiles(
        self,
        image: Any,
        network: Callable[..., Tensor],
        *args: Any,
        prepare: Callable[[Tensor], Tensor] | None = None,
        beyond: int = 0,
        progress: Callable[[int, int], None] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[Tile, Tensor]]:
        """Yield each tile with the logits ``(classes, *written + beyond)`` of the part that it fills.

        The parameters are those of `labels`; ``args`` and ``kwargs`` are handed to the network. Blended
        tiles come as one tile over the whole image; large tiles come in slabs where the network can run its
        last layer for one after the other, so that many classes take little memory. ``beyond`` is how many
        pixels behind the written part come with it, as exact as the part itself.
        """
        device = _device_of(network, image)
        beside = image.part_bytes if isinstance(image, FramedImage) else None
        tiling = self.plan_tiles(image.shape, network, beyond=beyond, beside=beside)
        exact = self.exact(network, image.shape) or len(tiling) == 1
        g = tiling.geometry
        alike = len(set(zip(tiling.lead, g.stride, g.minimum))) == 1
        # a foreign network may have layers that want contiguous input
        takes_any = getattr(network, "takes_any_format", False)
        form = fast_format(len(image.shape) - 1) if takes_any else torch.contiguous_format

        in_parts = self._runs_parts(network, image.shape) and not (args or kwargs)

        def call(x: Tensor, box: Part) -> Tensor:
            module: Any = network
            return network(x, *args, **kwargs) if box is None else next(module.parts(x, [box]))

        def run(batch: Tensor, boxes: Sequence[Part]) -> Iterator[Tensor]:
            module: Any = network
            batch = batch.contiguous(memory_format=form)
            if in_parts and not self.flips:
                yield from _inferring(module.parts(batch, boxes))
                return
            flips = range(batch.ndim - 2) if self.flips is True else tuple(self.flips or ())
            how: Any = {"rotate": alike and self.flips is True, "shrink": g.shrink}
            for box in boxes:
                with torch.inference_mode():
                    out = run_flips(batch, call, flips, part=box, **how) if flips else call(batch, box)
                yield out

        def read(tile: Tile) -> Tensor:
            tensors = isinstance(image, Tensor | FramedImage)
            part = read_mirrored(image, tile.read, take=take_tensor if tensors else np.take)
            part = torch.as_tensor(np.asarray(part) if not isinstance(part, Tensor) else part).to(device)
            return prepare(part) if prepare else part.to(torch.float32)

        if not exact:
            _log.warning("a layer of the network sees its whole input: tiles are blended, not exact")
            yield blend(
                tiling, image.shape[1:], lambda tile: next(run(read(tile)[None], [None]))[0], progress
            )
            return
        done = 0
        for batch in _alike(iter(tiling), self.batch_size, in_parts):
            split = in_parts and not self.flips
            slabs = [tile.split(_AT_ONCE) if split else [tile] for tile in batch]
            # the first slab of each tile, then the second of each; the last tile of an axis may have fewer
            together = [[pieces[k : k + 1] for pieces in slabs] for k in range(max(map(len, slabs)))]
            boxes = [_around(itertools.chain(*pieces), beyond) if in_parts else None for pieces in together]
            logits = run(torch.stack([read(tile) for tile in batch]), boxes)
            for pieces, box in zip(together, boxes):
                part = next(logits)
                first = [side.start for side in box] if box else [0] * len(g.stride)
                for number, piece in enumerate(pieces):
                    for tile in piece:
                        keep = (slice(k.start - a, k.stop + beyond - a) for k, a in zip(tile.keep, first))
                        yield tile, part[number][(slice(None), *keep)]
                del part  # or it would stay while the next is computed
            del logits
            done += len(batch)
            if progress:
                progress(done, len(tiling))

    def exact(self, network: Callable[..., Tensor], shape: Sequence[int]) -> bool:
        """Tell whether tiles of this network give the whole image's result; ``shape`` is (C, \\*spatial)."""
        own = self._geometry(network, shape, overridden=False)
        used = self._geometry(network, shape)
        return own.halo is not None and all(a >= b for a, b in zip(used.halo or own.halo, own.halo))

    def plan_tiles(
        self,
        shape: Sequence[int],
        network: Callable[..., Tensor],
        *,
        beyond: int = 0,
        beside: Callable[[Sequence[int]], float] | None = None,
    ) -> Tiling:
        """Return the tiles for an image of shape (C, \\*spatial).

        Each has ``beyond`` pixels more of context, and room is left for what ``beside`` tells: the bytes that
        are needed to make the input of a tile of a given size and to use its output.

        Raises
        ------
        Refused
            ``out-of-memory`` where the smallest tile does not fit.
        """
        spatial = tuple(shape[1:])
        geometry = self._geometry(network, shape)
        if geometry.halo is None:
            # a taper of a few strides on either side, over which neighbours are blended
            geometry = replace(
                geometry, halo=tuple(c + 4 * s for c, s in zip(geometry.shrink, geometry.stride))
            )
        elif self.mirror is not None:
            geometry = replace(geometry, mirror=per_axis(self.mirror, len(spatial)))
        if beyond:
            geometry = replace(geometry, halo=tuple(h + beyond for h in geometry.halo or ()))
        if self.tile is not None:
            return Tiling(spatial, geometry, per_axis(self.tile, len(spatial)))
        bytes_of = forward_bytes(_as_module(network), shape[0])
        copies = self.batch_size * (2 if self.flips else 1) * _SLACK
        budget = free_bytes(_device_of(network, None), self.max_ram_gb)
        if self.max_ram_gb is not None and budget <= 0:
            raise Refused(
                "out-of-memory",
                "the process already uses more memory than max_ram_gb allows",
                got=f"{self.max_ram_gb:g} GB",
                expected=f"more than {self.max_ram_gb - budget / 1e9:.2f} GB",
                do="raise max_ram_gb (--max-ram)",
            )

        in_parts = self._runs_parts(network, shape)

        def cost(size: tuple[int, ...], written: tuple[int, ...]) -> float:
            boxes = None
            if in_parts:
                out = [n - 2 * c for n, c in zip(size, geometry.shrink)]
                keep = tuple(slice((n - w) // 2, (n - w) // 2 + w) for n, w in zip(out, written))
                tile = Tile((), keep, keep)
                boxes = [_around([t], beyond) for t in (tile.split(_AT_ONCE) if not self.flips else [tile])]
            return bytes_of(size, boxes) * copies + (beside(size) if beside else 0.0)

        step = step_within(spatial, geometry, budget, cost)
        return Tiling(spatial, geometry, step)

    def _runs_parts(self, network: Callable[..., Tensor], shape: Sequence[int]) -> bool:
        """Tell whether the network may leave out what a tile throws away, without another result."""
        return runs_parts(network) and self.exact(network, shape)

    def _geometry(
        self, network: Callable[..., Tensor], shape: Sequence[int], *, overridden: bool = True
    ) -> Geometry:
        module = _as_module(network)
        if module not in self._known:  # measuring one that does not know its geometry takes a while
            self._known[module] = geometry_of(module, shape[0], len(shape) - 1)
        own = self._known[module]
        if self.halo is None or not overridden:
            return own
        given = per_axis(self.halo, len(shape) - 1)
        return replace(own, halo=tuple(max(h, c) for h, c in zip(given, own.shrink)))


def _alike(tiles: Iterable[Tile], most: int, in_parts: bool) -> Iterator[list[Tile]]:
    """Put neighbours of one size together; if a part is computed, those whose part begins alike."""

    def key(tile: Tile) -> Any:
        return [b - a for a, b in tile.read], [k.start for k in tile.keep] if in_parts else None

    for _, equal in itertools.groupby(tiles, key):
        while batch := list(itertools.islice(equal, most)):
            yield batch


def _around(tiles: Iterable[Tile], beyond: int) -> list[slice]:
    """Return the box of a network's output that holds what is kept of some tiles."""
    spans = zip(*(tile.keep for tile in tiles))
    return [slice(min(k.start for k in axis), max(k.stop for k in axis) + beyond) for axis in spans]


def _inferring(results: Iterator[Tensor]) -> Iterator[Tensor]:
    """Compute each result in inference mode; whoever takes it is not in it."""
    while True:
        with torch.inference_mode():
            result = next(results, None)
        if result is None:
            return
        yield result
        del result


def _as_module(network: Callable[..., Tensor]) -> nn.Module:
    if not isinstance(network, nn.Module):
        raise Refused(
            "bad-network",
            "the network's context must be known",
            got=type(network).__name__,
            expected="a torch.nn.Module",
        )
    return network


def _device_of(network: Any, image: Any) -> torch.device:
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        return torch.device(tensor.device)
    return image.device if isinstance(image, Tensor) else torch.device("cpu")
