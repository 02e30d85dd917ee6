"""Training patches: each is a pure function of the plan's seed and its number, whoever makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from monai.data import MetaTensor
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from .chains import augmenting_chain, loading_chain, target_chain
from .dataset import Case
from .errors import Refused
from .looks import draw_order, look_of
from .plan import Plan

__all__ = ["PatchDataset", "Samples", "load_samples", "patch_loader", "refusals"]

_CACHE_SHARE = 0.25  # of the memory that is free, for decoded images


@contextmanager
def refusals() -> Iterator[None]:
    """Hand on a refusal that a transform made; MONAI wraps it into a ``RuntimeError`` of its own.

    Examples
    --------
    >>> from medseg import Refused
    >>> try:
    ...     with refusals():
    ...         try:
    ...             raise Refused("not-found", "no file")
    ...         except Refused as error:
    ...             raise RuntimeError("applying transform") from error
    ... except Refused as error:
    ...     print(error)
    no file.
    """
    try:
        yield
    except RuntimeError as error:
        inner: BaseException | None = error
        while inner is not None and not isinstance(inner, Refused):
            inner = inner.__cause__ or inner.__context__
        if inner is None:
            raise
        raise inner from None


def load_samples(
    cases: Sequence[Case],
    plan: Plan,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """Return prepared samples by number: each case is read once.

    They are kept in memory as far as a quarter of what is free allows, and beyond that in files, of which a
    patch reads its own part.

    Parameters
    ----------
    cases : sequence of Case
        With labels.
    plan : Plan
        Says how images are prepared.
    cache : path, optional
        Folder for such files; without one, cases that do not fit are read anew each time.
    progress : callable, optional
        Called with the number of cases that are read and of all.

    Returns
    -------
    Samples
        ``samples[i]`` is ``{"image": (C, *spatial) float32, "label": (1, *spatial) integers}``, and with
        ``train.foreground`` the ``places`` of `medseg.transforms.ClassPlacesd`.

    Raises
    ------
    Refused
        What `medseg.read` and `medseg.io.read_label` refuse, and ``shape-mismatch``, ``unknown-label``.
    """
    items = [
        {
            "image": c.image,
            "label": c.label,
            "colours": c.colours,
            "spacing": c.spacing,
            "spacing_unit": c.spacing_unit,
        }
        for c in cases
    ]
    chain = loading_chain(plan)
    free = psutil.virtual_memory().available * _CACHE_SHARE
    kept: list[dict[str, Any] | None] = []
    looks: list[str] = []
    used = 0
    with refusals():
        for done, item in enumerate(items, start=1):
            # every case is opened once before training: a broken one is told now, not after an hour
            sample = chain(item)
            looks.append(look_of(sample["image"], sample["label"][0]) if plan.train.balance else "")
            used += sum(sample[key].numel() * sample[key].element_size() for key in ("image", "label"))
            if used > free:
                sample = _in_files(sample, cache, done) if cache else None
            kept.append(sample)
            if progress:
                progress(done, len(items))
    return Samples(items, chain, kept, looks)


def _in_files(sample: dict[str, Any], folder: Path, number: int) -> dict[str, Any]:
    """Put the arrays of a sample into files; what is looked at is read, and may be dropped again."""
    folder.mkdir(parents=True, exist_ok=True)
    out = dict(sample)
    for key in ("image", "label"):
        path = folder / f"{key}-{number:05}.npy"
        np.save(path, np.asarray(sample[key]))
        # copied on writing: nothing can change the file by way of the tensor
        out[key] = MetaTensor(torch.from_numpy(np.load(path, mmap_mode="c")))
    return out


class Samples(Sequence[Mapping[str, Any]]):
    """Prepared samples by number: those that are kept, and the others read anew each time.

    Parameters
    ----------
    items : sequence of mapping
        Paths.
    chain : callable
        Prepares one of them.
    kept : sequence of mapping or None
        Those that are prepared.
    looks : sequence of str
        What each looks like, see `medseg.looks.look_of`; empty where ``train.balance`` is 0.
    """

    def __init__(
        self,
        items: Sequence[Mapping[str, Any]],
        chain: Callable[[Any], Mapping[str, Any]],
        kept: Sequence[Mapping[str, Any] | None],
        looks: Sequence[str],
    ) -> None:
        self.items, self.chain, self.kept, self.looks = items, chain, kept, looks

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        sample = self.kept[index]
        return self.chain(self.items[index]) if sample is None else sample


class PatchDataset(Dataset[dict[str, Tensor]]):
    """Patch number ``i`` of a training, for any ``i``.

    Its case, its place and its deformation follow from ``(seed, i)`` alone. So two workers never repeat
    each other's random numbers, any number of workers gives the same training, and a training that goes
    on at a later step sees what it would have seen.

    Parameters
    ----------
    samples : sequence of mapping
        From `load_samples`.
    plan : Plan
        Patch size, augmentation, targets and seed.
    shrink : sequence of int
        Pixels a side that the network's output is smaller; targets are cropped by them.
    length : int
        Number of patches.
    """

    def __init__(
        self, samples: Sequence[Mapping[str, Any]], plan: Plan, *, shrink: Sequence[int], length: int
    ) -> None:
        self.samples, self.seed, self.length = samples, plan.train.seed, length
        self.looks = getattr(samples, "looks", [""] * len(samples))
        self.balance = plan.train.balance
        self.augment, self.target = augmenting_chain(plan, margin=shrink), target_chain(plan)
        self.window = tuple(slice(c, -c or None) for c in shrink)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        epoch, place = divmod(index, len(self.samples))
        order = draw_order(self.looks, self.balance, [self.seed, 0, epoch])
        state = np.random.SeedSequence([self.seed, 1, index]).generate_state(1)[0]
        self.augment.set_random_state(seed=int(state))
        sample = self.target(self.augment(dict(self.samples[int(order[place])])))
        patch = {
            "image": torch.as_tensor(sample["image"]).float(),
            "target": torch.as_tensor(sample["label"])[(0, *self.window)].long(),
        }
        if "weight" in sample:
            patch["weight"] = torch.as_tensor(sample["weight"])[(0, *self.window)].float()
        return {key: value.as_subclass(Tensor).contiguous() for key, value in patch.items()}


def patch_loader(
    patches: PatchDataset, plan: Plan, *, start: int, pin_memory: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Give the batches of a training from step ``start`` on, in their order.

    Raises
    ------
    Refused
        What reading an image or making a patch refuses, in a worker process too.
    """
    size = plan.train.batch_size
    loader = DataLoader(
        _Telling(patches),
        batch_size=size,
        sampler=range(start * size, len(patches)),
        collate_fn=_batch,
        num_workers=plan.train.workers,
        pin_memory=pin_memory,
        worker_init_fn=_quiet_worker if plan.train.workers else None,
        # the loader draws a seed for its workers, which nothing here uses: not from the global generator
        generator=torch.Generator().manual_seed(plan.train.seed),
    )
    for batch in loader:
        if isinstance(batch, Refused):
            raise batch
        yield batch


class _Telling(Dataset[dict[str, Tensor] | Refused]):
    """Patches, or the refusal in place of one.

    An exception that leaves a worker process comes as text with its traceback; a refusal that is handed
    over as a value stays the one line that it is.
    """

    def __init__(self, patches: PatchDataset) -> None:
        self.patches = patches

    def __getitem__(self, index: int) -> dict[str, Tensor] | Refused:
        try:
            with refusals():
                return self.patches[index]
        except Refused as refusal:
            return refusal


def _batch(patches: list[dict[str, Tensor] | Refused]) -> dict[str, Tensor] | Refused:
    for patch in patches:
        if isinstance(patch, Refused):
            return patch
    return default_collate(patches)  # type: ignore[no-any-return]


def _quiet_worker(_: int) -> None:
    """Leave Ctrl-C to the main process, which saves and then ends its workers."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
