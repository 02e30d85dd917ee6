"""The U-Net of Ronneberger et al. (2015) and its modern forms, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn

from ..errors import Refused, refuse_unknown
from .blocks import CONV, Blocks, check_norm, initialise, is_local, through
from .geometry import as_given, per_axis, walk_geometry
from .parts import Box, LevelBoxes, cut_out

__all__ = ["UNet", "UNetForm"]

_UP: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOL: dict[int, Callable[..., nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class UNetForm(TypedDict, total=False):
    """What a U-Net may be beside the one of the paper; see `UNet`."""

    strides: Sequence[int | Sequence[int]] | None
    kernels: Sequence[int | Sequence[int]] | None
    residual: bool
    deep_supervision: bool
    skips: bool


class UNet(nn.Module):
    """U-Net with unpadded or padded convolutions.

    With the defaults it is the network of the paper: 23 convolutional layers (18 of 3x3, 4 up-convolutions
    and one of 1x1), 64 to 1024 channels, input 572 for output 388, skip connections cropped and
    concatenated, ReLU, no normalisation.

    Parameters
    ----------
    spatial_dims : {2, 3}
        Axes of an image.
    in_channels, out_channels : int
        Channels of the image, and classes.
    channels : sequence of int
        Channels a level, from the finest to the coarsest.
    padding : {"valid", "same"}
        Unpadded convolutions as in the paper, or zero-padded ones whose output is as large as the input.
    norm : {None, "batch", "channel", "instance", "group"}
        Normalisation after each convolution of a level. Instance and group norm see the whole input, so
        tiles of such a network cannot be exact.
    dropout : float
        Probability of dropout at the end of the contracting path (its two coarsest levels).
    strides : sequence of (int or sequence of int), optional
        By how much each level is coarser than the one before, for all axes or for each: one entry fewer
        than levels. 2 everywhere by default. ``((1, 2, 2), (2, 2, 2))`` leaves thick slices as they are
        until the pixels in them are as large.
    kernels : sequence of (int or sequence of int), optional
        Size of the convolutions of each level, odd, for all axes or for each. 3 everywhere by default.
    residual : bool
        Add the input of a level's two convolutions to their output.
    deep_supervision : bool
        In training mode return a list of logits, those of the input's grid first, then one for each
        coarser level of the expanding path. In evaluation mode the further heads are not computed. Padded
        convolutions only.
    skips : bool
        Hand the contracting path's features over to the expanding path (by default). Without, it is a plain
        encoder and decoder: what pooling throws away is lost.

    Attributes
    ----------
    geometry : Geometry
        Halo, stride, shrink and minimum, derived from the layers.
    halo : int, tuple of int, or None
        Context in pixels a side that makes tiling exact; None where it cannot be.
    encoder : torch.nn.ModuleList
        The contracting path.

    Raises
    ------
    Refused
        ``bad-network`` or ``unknown-norm``; calls refuse an illegal input size with the next legal one.

    References
    ----------
    Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015,
    section 2 and figure 1. 3D: Cicek et al., 3D U-Net, MICCAI 2016. Initialisation: He et al., Delving Deep
    into Rectifiers, ICCV 2015. Strides and kernels that follow the spacing: Isensee et al., nnU-Net, Nature
    Methods 2021. Deep supervision: Dou et al., 3D deeply supervised network, Medical Image Analysis 2017.
    Residual blocks and channel norm: see `Residual` and `ChannelNorm`.

    Examples
    --------
    >>> import torch
    >>> from medseg.networks import UNet
    >>> network = UNet(2, 1, 2, channels=(4, 8, 16, 32, 64))
    >>> network.output_size(572), network.input_size(388), network.halo
    (388, 572, 92)
    >>> network(torch.zeros(1, 1, 204, 188)).shape
    torch.Size([1, 2, 20, 4])
    >>> slices = {"strides": ((1, 2, 2), 2), "kernels": ((1, 3, 3), 3, 3)}  # three times thicker than pixels
    >>> thick = UNet(3, 1, 2, channels=(2, 4, 4), padding="same", **slices)
    >>> thick.geometry.stride, thick.halo
    ((2, 4, 4), (8, 22, 22))
    """

    takes_any_format = True  # channels last is as good to its layers, and faster
    runs_parts = True

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        padding: Literal["valid", "same"] = "valid",
        norm: str | None = None,
        dropout: float = 0.0,
        **form: Unpack[UNetForm],
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise Refused("bad-network", "spatial_dims", got=spatial_dims, expected="2 or 3")
        if not channels or min(channels) < 1 or in_channels < 1 or out_channels < 1:
            raise Refused(
                "bad-network", "a network needs channels", got=(in_channels, tuple(channels), out_channels)
            )
        if padding not in ("valid", "same"):
            raise refuse_unknown("padding", padding, ["valid", "same"])
        check_norm(norm, channels)
        if unknown := next((key for key in form if key not in UNetForm.__annotations__), None):
            raise TypeError(f"UNet() got an unexpected keyword argument '{unknown}'")
        self.spatial_dims, self.in_channels, self.out_channels = spatial_dims, in_channels, out_channels
        strides = _entries("strides", form.get("strides"), len(channels) - 1, spatial_dims, default=2)
        kernels = _entries("kernels", form.get("kernels"), len(channels), spatial_dims, default=3)
        deep = form.get("deep_supervision", False)
        _check_deep_supervision(deep, padding, len(channels))
        blocks = Blocks(spatial_dims, padding, norm, residual=form.get("residual", False))
        self.padded, self.skips = padding == "same", form.get("skips", True)
        pairs = list(pairwise([in_channels, *channels]))
        self.down = nn.ModuleList(blocks.block(a, b, k) for (a, b), k in zip(pairs, kernels))
        self.pool = nn.ModuleList(_POOL[spatial_dims](s) for s in strides)
        self.drop = nn.Dropout(dropout)
        self.up = nn.ModuleList(
            _UP[spatial_dims](a, b, kernel_size=s, stride=s)
            for a, b, s in zip(channels[:0:-1], channels[-2::-1], strides[::-1])
        )
        self.merge = nn.ModuleList(
            blocks.block(2 * b if self.skips else b, b, k) for b, k in zip(channels[-2::-1], kernels[-2::-1])
        )
        self.head = CONV[spatial_dims](channels[0], out_channels, kernel_size=1)
        coarser = channels[1:-1] if deep else ()
        self.coarse_heads = nn.ModuleList(CONV[spatial_dims](c, out_channels, kernel_size=1) for c in coarser)
        self.apply(initialise)
        self.geometry = walk_geometry(self.run, spatial_dims, local=is_local(norm))

    def forward(self, image: Tensor) -> Any:
        """Return logits ``(N, classes, *output)`` of images ``(N, C, *input)``, or the list of them."""
        self._refuse_illegal(image)
        coarse: list[Tensor] = []

        def supervise(level: int, x: Tensor) -> None:
            coarse.insert(0, self.coarse_heads[level - 1](x))

        deep = self.training and len(self.coarse_heads) > 0
        logits = self.run(image, _call, _crop_and_concatenate, _crop_and_add, supervise if deep else None)
        return [logits, *coarse] if deep else logits

    def parts(self, image: Tensor, boxes: Sequence[Box]) -> Iterator[Tensor]:
        """Yield the logits of some boxes of the output, and compute no more than these need.

        The last layer is run for one box after the other, so that there are never more logits than those of
        one. A norm that sees its whole input gives something else than for the whole.
        """
        self._refuse_illegal(image)
        around = tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes))
        ups: list[Any] = list(self.up)
        levels = LevelBoxes(
            image.shape[2:],
            around,
            blocks=list(self.down),
            merges=list(self.merge)[::-1],
            strides=[layer.stride for layer in ups][::-1],
            padded=self.padded,
        )
        features = self.features(
            image, _call, _crop_and_concatenate, _crop_and_add, skip=levels.skip, narrow=levels.narrow
        )
        del image
        for box in boxes:
            yield self.head(
                cut_out(features, [slice(k.start - a.start, k.stop - a.start) for k, a in zip(box, around)])
            )

    def _refuse_illegal(self, image: Tensor) -> None:
        if image.ndim != self.spatial_dims + 2 or image.shape[1] != self.in_channels:
            raise Refused(
                "channel-mismatch",
                "the network's input",
                got=tuple(image.shape),
                expected=f"(N, {self.in_channels}, {', '.join(['size'] * self.spatial_dims)})",
            )
        self.geometry.output_size(image.shape[2:])

    @property
    def encoder(self) -> nn.ModuleList:
        """The contracting path."""
        return self.down

    def run(
        self,
        x: Any,
        apply: Callable[[nn.Module, Any], Any],
        join: Callable[[Any, Any], Any],
        add: Callable[[Any, Any], Any],
        coarse: Callable[[int, Any], None] | None = None,
    ) -> Any:
        """Walk the layers in their order.

        The forward pass and the derivation of the geometry are the same walk with other meanings of
        ``apply``, ``join`` and ``add``, so that the one cannot drift from the other. ``coarse(level, x)`` is
        told what the levels of the expanding path make, all but the finest.
        """
        return apply(self.head, self.features(x, apply, join, add, coarse=coarse))

    def features(
        self,
        x: Any,
        apply: Callable[[nn.Module, Any], Any],
        join: Callable[[Any, Any], Any],
        add: Callable[[Any, Any], Any],
        *,
        coarse: Callable[[int, Any], None] | None = None,
        skip: Callable[[int, Any], Any] | None = None,
        narrow: Callable[[int, Any], Any] | None = None,
    ) -> Any:
        """Walk all layers but the last, see `run`.

        ``skip(level, x)`` gives what a level hands over, and ``narrow(level, x)`` what is needed of its
        output.
        """
        skips = []
        for level, block in enumerate(self.down):
            if level:
                x = apply(self.pool[level - 1], x)
            x = through(block, x, apply, add)
            if level >= len(self.down) - 2:
                x = apply(self.drop, x)
            if self.skips and level < len(self.down) - 1:
                skips.append(skip(level, x) if skip else x)
        for level, up, merge in zip(reversed(range(len(self.up))), self.up, self.merge):
            x = apply(up, narrow(level + 1, x) if narrow else x)
            x = join(skips.pop(), x) if self.skips else x
            x = through(merge, x, apply, add)
            if level and coarse:
                coarse(level, x)
        return narrow(0, x) if narrow else x

    @property
    def halo(self) -> int | tuple[int, ...] | None:
        """Context in pixels a side that makes tiling exact; a tuple where the axes differ."""
        return None if self.geometry.halo is None else as_given(self.geometry.halo)

    def input_size(self, output: int | Sequence[int]) -> int | tuple[int, ...]:
        """Return the smallest legal input size that gives at least this output size."""
        return as_given(self.geometry.input_size(per_axis(output, self.spatial_dims)), output)

    def output_size(self, input: int | Sequence[int]) -> int | tuple[int, ...]:
        """Return the output size of a legal input size."""
        return as_given(self.geometry.output_size(per_axis(input, self.spatial_dims)), input)


def _entries(
    name: str, given: Sequence[int | Sequence[int]] | None, count: int, dims: int, *, default: int
) -> list[tuple[int, ...]]:
    """Return ``count`` entries of one number an axis, and refuse what cannot be strides or kernels."""
    entries = [default] * count if given is None else given
    if len(entries) != count:
        counted = "one entry a level" if name == "kernels" else "one entry fewer than levels"
        raise Refused("bad-network", f"{name} has {counted}", got=entries, expected=f"{count} entries")
    numbers = [per_axis(entry, dims) for entry in entries]
    for entry in numbers:
        if min(entry) < 1 or (name == "kernels" and not all(k % 2 for k in entry)):
            expected = "odd numbers" if name == "kernels" else "1 or more"
            raise Refused("bad-network", f"an entry of {name}", got=entry, expected=expected)
    return numbers


def _check_deep_supervision(deep: bool, padding: str, levels: int) -> None:
    if deep and padding == "valid":
        raise Refused(
            "bad-network",
            "deep supervision needs outputs that lie on the grid of the input",
            got="padding valid",
            expected="padding same",
        )
    if deep and levels < 3:
        raise Refused(
            "bad-network",
            "deep supervision needs a coarser level to supervise",
            got=f"{levels} levels",
            expected="3 or more",
        )


def _call(layer: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = layer(x)
    return out


def _middle(skip: Tensor, x: Tensor) -> Tensor:
    """Cut from the middle what has the size of ``x``."""
    window = [slice(None), slice(None)]
    for a, b in zip(skip.shape[2:], x.shape[2:]):
        window.append(slice((a - b) // 2, (a - b) // 2 + b))
    return skip[tuple(window)]


def _crop_and_concatenate(skip: Tensor, x: Tensor) -> Tensor:
    """Cut the middle out of the skip connection and put it before ``x`` (figure 1, grey arrows)."""
    return torch.cat([_middle(skip, x), x], dim=1)


def _crop_and_add(shortcut: Tensor, x: Tensor) -> Tensor:
    """Add the middle of the shortcut to ``x``, which nobody else needs, in place."""
    return x.add_(_middle(shortcut, x))
