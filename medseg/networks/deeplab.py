"""DeepLab: an encoder that keeps resolution, and parallel atrous convolutions of several rates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import Refused
from ..plan import Plan
from .atrous_vgg import AtrousVGG16
from .blocks import CONV, NORMS, check_norm, initialise
from .dense import check_image
from .geometry import as_given
from .numbers import refuse_other_numbers
from .parts import Box, cut_out
from .reach import reach_along, step_geometry
from .resnet import LAYERS, ResNet
from .vgg import STAGES

__all__ = ["RATES", "Aspp", "DeepLab", "between_features", "deeplab_of", "rates_at"]

RATES = (1, 6, 12, 18)  # at an output stride of 16
_LINEAR = {2: "bilinear", 3: "trilinear"}


def rates_at(output_stride: int) -> tuple[int, ...]:
    """Return the rates of the paper: those of output stride 16, as far in pixels at any other.

    A rate of 1 stands for the convolution of 1, which has none.

    References
    ----------
    Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017, section 3.3: rates
    6, 12, 18 when the output stride is 16, doubled when it is 8.

    Examples
    --------
    >>> rates_at(16), rates_at(8)
    ((1, 6, 12, 18), (1, 12, 24, 36))
    """
    return tuple(r if r == 1 else max(1, r * 16 // output_stride) for r in RATES)


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling: parallel convolutions of several rates, side by side, then mixed.

    Parameters
    ----------
    spatial_dims : {2, 3}
    inputs : int
        Channels that come in.
    width : int
        Channels of each branch, and of what comes out.
    rates : sequence of int
        One branch each: a convolution of 3 with this rate, of 1 where it is 1.
    image_pooling : bool
        One more branch, that of the mean over all places.
    norm : str or None
        Behind each convolution.

    Notes
    -----
    The branches are concatenated and mixed by a convolution of 1, as in version 3. Version 2 adds up the
    scores of its branches; a sum of convolutions of 1 is one convolution of 1 over the concatenation, so that
    it is the more general of both.

    References
    ----------
    Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017, section 3.3 and figure
    5. Version 2: Chen et al., DeepLab, TPAMI 2018, section 3.2 and figure 7.

    Examples
    --------
    >>> pyramid = Aspp(2, 8, 4, rates=(1, 2, 3)).eval()
    >>> pyramid(torch.rand(1, 8, 9, 7)).shape
    torch.Size([1, 4, 9, 7])
    """

    def __init__(
        self,
        spatial_dims: int,
        inputs: int,
        width: int,
        *,
        rates: Sequence[int] = RATES,
        image_pooling: bool = False,
        norm: str | None = "batch",
    ) -> None:
        super().__init__()
        if not rates or min(rates) < 1:
            raise Refused("bad-network", "rates", got=list(rates), expected="one or more, each 1 or more")
        if image_pooling and (norm == "instance" or (norm == "group" and width <= 8)):
            raise Refused(
                "bad-network",
                "a norm over each channel makes nothing of the one mean that image pooling gives",
                got=f"norm {norm}",
                expected="batch, channel or none",
            )
        check_norm(norm, [width])

        def block(channels: int, size: int = 1, rate: int = 1) -> nn.Sequential:
            bias = norm in (None, "channel")
            padding = rate * (size // 2)
            layer = CONV[spatial_dims](channels, width, size, padding=padding, dilation=rate, bias=bias)
            return nn.Sequential(
                layer, *([NORMS[norm](spatial_dims, width)] if norm else []), nn.ReLU(inplace=True)
            )

        self.branches = nn.ModuleList(block(inputs, 1 if r == 1 else 3, r) for r in rates)
        self.pooled = block(inputs) if image_pooling else None
        self.project = block(width * (len(rates) + image_pooling))

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``(N, width, *spatial)`` of features ``(N, inputs, *spatial)``."""
        mixed: Tensor = self.run(
            x, lambda layer, t: layer(t), lambda parts: torch.cat(tuple(parts), dim=1), self.mean
        )
        return mixed

    def run(
        self,
        x: Any,
        apply: Callable[[nn.Module, Any], Any],
        join: Callable[[Sequence[Any]], Any],
        mean: Callable[[Any], Any],
    ) -> Any:
        """Walk the layers: ``join(parts)`` puts the branches side by side, ``mean(x)`` is image pooling."""
        parts = [_chain(branch, x, apply) for branch in self.branches]
        if self.pooled is not None:
            parts.append(mean(x))
        return _chain(self.project, join(parts), apply)

    def mean(self, x: Tensor) -> Tensor:
        """Return the branch of the mean over all places, at each of them."""
        assert self.pooled is not None, "there is image pooling"
        mean = x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)
        for layer in self.pooled:
            if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d) and len(mean) == 1:
                # one value has no deviation: it is normalised as in prediction
                args = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
                mean = functional.batch_norm(mean, *args, eps=layer.eps)
            else:
                mean = layer(mean)
        return mean.expand(-1, -1, *x.shape[2:])


class DeepLab(nn.Module):
    """DeepLab: features at a stride of 8 or 16, atrous spatial pyramid pooling, interpolation to pixels.

    Takes images of any size. Feature ``i`` lies on pixel ``output_stride * i``: the image is extended by
    zeros behind its ends so that there is a feature behind its last pixel, and the logits of the pixels
    between are interpolated. So tiles that begin on a multiple of the stride give the whole image's result.

    Parameters
    ----------
    encoder : ResNet or AtrousVGG16
        Or any module with ``spatial_dims``, ``in_channels``, ``out_channels``, ``output_stride`` and ``run``
        whose feature ``i`` lies on pixel ``output_stride * i``.
    out_channels : int
        Classes.
    rates : sequence of int, optional
        Of the pyramid, in features; by default those of the paper, see `rates_at`.
    image_pooling : bool
        Show the pyramid the mean of the whole image, too. Then tiles cannot be exact.
    width : int
        Channels of the pyramid.
    norm : {"batch", "channel", "instance", "group", None}
        Behind its convolutions. Instance and group norm see the whole input, in the encoder, too.
    dropout : float
        Probability before the last layer.

    Attributes
    ----------
    geometry : Geometry
        Halo and stride, derived from the layers; the halo is None where a layer sees the whole input.
    encoder : torch.nn.Module
        As given.

    Raises
    ------
    Refused
        ``bad-network``; calls refuse ``channel-mismatch``.

    References
    ----------
    Chen, Papandreou, Kokkinos, Murphy, Yuille: DeepLab: Semantic Image Segmentation with Deep Convolutional
    Nets, Atrous Convolution, and Fully Connected CRFs, TPAMI 2018 (versions 1 and 2). Chen, Papandreou,
    Schroff, Adam: Rethinking Atrous Convolution for Semantic Image Segmentation, 2017 (version 3).

    Examples
    --------
    >>> encoder = ResNet(2, 1, layers=(1, 1, 1, 1), channels=(2, 2, 2, 2), output_stride=8)
    >>> network = DeepLab(encoder, 3, rates=(1, 2), width=4).eval()
    >>> network(torch.rand(1, 1, 50, 37)).shape, network.halo
    (torch.Size([1, 3, 50, 37]), 56)
    """

    takes_any_format = True
    runs_parts = True

    def __init__(
        self,
        encoder: ResNet | AtrousVGG16,
        out_channels: int,
        *,
        rates: Sequence[int] | None = None,
        image_pooling: bool = False,
        width: int = 256,
        norm: str | None = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if out_channels < 1 or width < 1:
            raise Refused("bad-network", "a network needs channels", got=(width, out_channels))
        self.encoder = encoder
        self.spatial_dims, self.out_channels = encoder.spatial_dims, out_channels
        self.aspp = Aspp(
            encoder.spatial_dims,
            encoder.out_channels,
            width,
            rates=rates_at(encoder.output_stride) if rates is None else rates,
            image_pooling=image_pooling,
            norm=norm,
        )
        self.drop = nn.Dropout(dropout)
        self.head = CONV[encoder.spatial_dims](width, out_channels, kernel_size=1)
        self.aspp.apply(initialise)
        initialise(self.head)
        reaches = reach_along(
            self.run,
            encoder.spatial_dims,
            add=lambda shortcut, x: x.beside(shortcut),
            join=_widest,
            mean=lambda x: x,
        )
        self.receptive_field = tuple(reach.field for reach in reaches)
        whole = image_pooling or not _all_local(self)
        self.geometry = step_geometry(reaches, local=not whole)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(N, classes, *spatial)`` of images ``(N, C, *spatial)``."""
        whole = tuple(slice(0, n) for n in image.shape[2:])
        return between_features(self._coarse(image), self.encoder.output_stride, whole)

    def parts(self, image: Tensor, boxes: Sequence[Box]) -> Iterator[Tensor]:
        """Yield the logits of some boxes of the output; only their pixels are interpolated."""
        coarse = self._coarse(image)
        for box in boxes:
            yield between_features(coarse, self.encoder.output_stride, box)

    def _coarse(self, image: Tensor) -> Tensor:
        """Return the logits of the features, of which the last lies on the last pixel or behind it."""
        check_image(image, self.spatial_dims, self.encoder.in_channels)
        behind = [(1 - n) % self.encoder.output_stride for n in image.shape[2:]]
        if any(behind):
            image = functional.pad(image, [k for n in reversed(behind) for k in (0, n)])
        logits: Tensor = self.run(
            image,
            lambda layer, x: layer(x),
            lambda shortcut, x: x.add_(shortcut),
            lambda parts: torch.cat(tuple(parts), dim=1),
            self.aspp.mean,
        )
        return logits

    def run(
        self,
        x: Any,
        apply: Callable[[nn.Module, Any], Any],
        add: Callable[[Any, Any], Any],
        join: Callable[[Sequence[Any]], Any],
        mean: Callable[[Any], Any],
    ) -> Any:
        """Walk the layers as far as the logits of the features, see `ResNet.run` and `Aspp.run`.

        The forward pass and the derivation of the geometry are the same walk.
        """
        features = self.encoder.run(x, apply, add)
        return apply(self.head, apply(self.drop, self.aspp.run(features, apply, join, mean)))

    @property
    def halo(self) -> int | tuple[int, ...] | None:
        """Context in pixels a side that makes tiling exact; None where it cannot be."""
        return None if self.geometry.halo is None else as_given(self.geometry.halo)

    def adapt_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give published weights of an encoder the names that they have here; leave one's own alone."""
        if any(name.startswith("encoder.") for name in state):
            return dict(state)
        return {f"encoder.{name}": value for name, value in self.encoder.adapt_weights(state).items()}


def between_features(values: Tensor, stride: int, box: Box) -> Tensor:
    """Interpolate linearly between features, of which ``i`` lies on pixel ``stride * i``.

    Parameters
    ----------
    values : Tensor of shape (N, C, \\*features)
    stride : int
        Pixels from one to the next.
    box : tuple of slice
        The pixels that are wanted; none lies behind the last feature.

    Returns
    -------
    Tensor of shape (N, C, \\*box)
        In float32 where the features are in half precision: classes are decided on what lies between.

    Examples
    --------
    >>> values = torch.tensor([[[[0.0, 4.0, 0.0]]]])
    >>> between_features(values, 4, (slice(0, 1), slice(2, 7)))
    tensor([[[[2., 3., 4., 3., 2.]]]])
    """
    firsts = [k.start // stride for k in box]
    part = cut_out(values, [slice(a, -(-(k.stop - 1) // stride) + 1) for a, k in zip(firsts, box)])
    if part.dtype in (torch.bfloat16, torch.float16):
        part = part.float()
    # with aligned corners the step is exactly 1 / stride, so pixels are the same in any box
    fine = functional.interpolate(
        part,
        size=[(n - 1) * stride + 1 for n in part.shape[2:]],
        mode=_LINEAR[len(box)],
        align_corners=True,
    )
    return cut_out(fine, [slice(k.start - a * stride, k.stop - a * stride) for a, k in zip(firsts, box)])


def deeplab_of(plan: Plan, *, encoder: str) -> nn.Module:
    """Make the DeepLab of a plan, its pyramid half as wide as the last stage: 256 of 512, as in the paper.

    Parameters
    ----------
    plan : Plan
    encoder : str
        ``vgg16``, or a name from `medseg.networks.resnet.LAYERS`.

    Examples
    --------
    >>> few = {"network.name": "deeplab-resnet50", "network.channels": (2, 2, 2, 4)}
    >>> deeplab_of(Plan().with_values(few), encoder="resnet50").geometry.stride
    (16, 16)
    """
    n = plan.network
    refuse_other_numbers(plan, "channels", "norm", "dropout", "rates", "image_pooling", "output_stride")
    norm = None if n.norm == "none" else n.norm
    form: dict[str, Any] = {"channels": n.channels, "output_stride": n.output_stride, "norm": norm}
    where = (plan.input.spatial_dims, plan.input.channels)
    made: ResNet | AtrousVGG16
    if encoder == "vgg16":
        made, last = AtrousVGG16(*where, **form), len(STAGES)
    else:
        made, last = ResNet(*where, layers=LAYERS[encoder], **form), len(n.channels)
    return DeepLab(
        made,
        len(plan.target.classes),
        rates=n.rates or None,
        image_pooling=n.image_pooling,
        width=max(1, n.channels[last - 1] // 2),
        norm=norm,
        dropout=n.dropout,
    )


def _chain(layers: nn.Module, x: Any, apply: Callable[[nn.Module, Any], Any]) -> Any:
    for layer in layers.children():
        x = apply(layer, x)
    return x


def _widest(parts: Sequence[Any]) -> Any:
    widest = parts[0]
    for part in parts[1:]:
        widest = widest.beside(part)
    return widest


def _all_local(network: nn.Module) -> bool:
    kinds = (nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm)
    return not any(isinstance(layer, kinds) for layer in network.modules())
