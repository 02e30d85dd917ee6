"""Case, Dataset and Split, and how groups of cases are shared out into training, validation and test."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import Refused
from .findings import Problems

__all__ = ["SPLITS", "Case", "Dataset", "Listing", "Split", "some"]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Case:
    """One image and what belongs to it.

    Parameters
    ----------
    name : str
        Unique in its dataset.
    image : Path or tuple of Path
        One file, or several on one grid whose channels are joined in this order.
    label : Path, tuple of Path or None
        A label map, several masks of one object each, or none.
    group : str
        The patient, exam or slide. Cases of one group are never parted.
    split : {"train", "val", "test"} or None
        As the dataset declares it.
    site : str or None
        Where it was acquired.
    tags : mapping of str to str
        Anything else, such as ``{"stain": "fluorescence"}``.
    spacing : tuple of float, or None
        Takes the place of the file's own spacing; along the array axes, in ``spacing_unit``.
    spacing_unit : {"um", "mm"} or None
    colours : tuple of ((red, green, blue), value)
        Where the label shows its values as colours: each colour and what it stands for.

    Examples
    --------
    >>> from pathlib import Path
    >>> from medseg import Case
    >>> Case("010_2HC", Path("010_2HC.png"), Path("010_2HC_Annotation.png"), group="010").split is None
    True
    """

    name: str
    image: Path | tuple[Path, ...]
    label: Path | tuple[Path, ...] | None
    group: str
    split: str | None = None
    site: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    spacing: tuple[float, ...] | None = None
    spacing_unit: str | None = None
    colours: tuple[tuple[tuple[int, int, int], int], ...] = ()

    @property
    def images(self) -> tuple[Path, ...]:
        """The files of the image, one or several."""
        return self.image if isinstance(self.image, tuple) else (self.image,)

    @property
    def labels(self) -> tuple[Path, ...]:
        """The files of the label: none, one, or one an object."""
        if self.label is None:
            return ()
        return self.label if isinstance(self.label, tuple) else (self.label,)

    @property
    def path(self) -> Path:
        """The first file of the image, which stands for it where one path is asked for."""
        return self.images[0]


@dataclass(frozen=True)
class Split:
    """The cases of one fold: three tuples that share no group."""

    train: tuple[Case, ...]
    val: tuple[Case, ...]
    test: tuple[Case, ...]


@dataclass(frozen=True)
class Listing:
    """What was found of a data set; its fields are those of `Dataset`, but it may have defects."""

    name: str
    cases: tuple[Case, ...]
    root: Path
    layout: str
    classes: dict[str, int] | None = field(default=None, hash=False)
    kind: str | None = None
    spacing: tuple[float, ...] | None = None
    spacing_unit: str | None = None
    source: Path | None = None
    channels: tuple[str, ...] = ()
    ignore: tuple[int, ...] = ()
    things: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.spacing is not None:
            cases = tuple(
                c if c.spacing else replace(c, spacing=self.spacing, spacing_unit=self.spacing_unit)
                for c in self.cases
            )
            object.__setattr__(self, "cases", cases)

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of all groups, sorted."""
        return tuple(sorted({c.group for c in self.cases}))

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)


@dataclass(frozen=True)
class Dataset(Listing):
    """A named list of cases.

    Parameters
    ----------
    name : str
    cases : tuple of Case
    root : Path
        The folder that the files lie in.
    layout : str
        How the cases were found, in a few words.
    classes : dict of str to int, or None
        Name and value in the label files; None where they are to be found from the labels.
    kind : {"instances", "semantic"} or None
        What the values of the labels are: objects or classes.
    spacing : tuple of float, or None
        Takes the place of the files' own spacing; along the array axes, in ``spacing_unit``. It is given to
        every case that has none of its own.
    spacing_unit : {"um", "mm"} or None
    source : Path, optional
        The folder or TOML file that it was loaded from.
    channels : tuple of str
        Names of the channels, such as ``("T1", "T2")``; empty where they are not known.
    ignore : tuple of int
        Values in the label files of pixels that do not count, such as ``(255,)``. With 0 among them the data
        set has no background: every class is one that is scored.
    things : tuple of str
        Names of the classes whose objects can be counted; the others are stuff.

    Raises
    ------
    Refused
        ``duplicate-case``, ``group-in-two-splits`` or ``image-without-label`` where only some cases have one.

    Examples
    --------
    >>> from pathlib import Path
    >>> from medseg import Case, Dataset
    >>> cases = tuple(Case(n, Path(f"{n}.png"), Path(f"{n}_mask.png"), group=n[0]) for n in ("a1", "b1"))
    >>> split = Dataset("letters", cases, Path("."), "by hand").split(fold=0, folds=2)
    >>> sorted(c.name for c in split.train + split.val)
    ['a1', 'b1']
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_listing(self, Problems())
        bare = [c.name for c in self.cases if c.label is None]
        if bare and len(bare) < len(self.cases):
            raise without("image", bare, len(self.cases), len(self.cases) - len(bare), self.name)

    @property
    def labelled(self) -> bool:
        """Whether the cases have labels; either all have or none has."""
        return bool(self.cases) and all(c.label is not None for c in self.cases)

    def split(self, *, fold: int = 0, folds: int = 5, test_fraction: float = 0.0, seed: int = 0) -> Split:
        """Share the cases out, never parting a group.

        A hash of seed and group name puts the groups in an order; each fold is a stretch of it. So the result
        does not depend on the order of files, and a case that is added moves few others.

        Declared splits are obeyed: "test" is the test set (``test_fraction`` is not used then), "val" the
        validation set of fold 0, the only one there is then. Where only "train" or "test" are declared,
        validation cases are drawn from all that are not test.

        Parameters
        ----------
        fold, folds : int
            Which of how many validation sets. With fewer groups than folds, each group is a fold; of one fold
            all that is no test is training, and nothing validates.
        test_fraction : float
            Share of the groups that is set aside, the same for every fold; at least one group unless it is 0.
        seed : int
            Another seed, another order.

        Returns
        -------
        Split

        Raises
        ------
        Refused
            ``no-labels``, ``too-few-groups`` or ``bad-value``.
        """
        if not self.labelled:
            raise Refused(
                "no-labels",
                f"dataset '{self.name}' has no labels to train on",
                got=f"{len(self.cases)} cases, layout '{self.layout}'",
                do="name label files in a known layout or in a dataset.toml; see medseg.load_dataset",
            )
        if folds < 1 or not 0 <= fold < folds or not 0.0 <= test_fraction < 1.0:
            raise Refused(
                "bad-value",
                "this is no split",
                got=f"fold {fold} of {folds}, test_fraction {test_fraction}",
                expected="0 <= fold < folds, 0 <= test_fraction < 1",
            )
        declared = declared_splits(self.cases)
        test = {g for g, s in declared.items() if s == "test"}
        val = {g for g, s in declared.items() if s == "val"}
        free = [g for g in self.groups if g not in test]
        if not test and test_fraction > 0:
            # val and train were declared for a purpose: the test set is taken from the others
            test = self._test_groups([g for g in free if g not in declared], test_fraction, seed)
            free = [g for g in free if g not in test]
        if val and fold:
            raise Refused(
                "bad-value",
                f"dataset '{self.name}' declares its validation set",
                got=f"fold {fold}",
                expected="0",
            )
        val = val or (self._val_groups(free, fold, folds, seed) if folds > 1 else set())
        if not set(free) - val:
            raise self._too_few(len(free), 2, "training and validation")
        return Split(
            train=tuple(c for c in self.cases if c.group not in test and c.group not in val),
            val=tuple(c for c in self.cases if c.group in val),
            test=tuple(c for c in self.cases if c.group in test),
        )

    def _test_groups(self, groups: list[str], fraction: float, seed: int) -> set[str]:
        if len(groups) < 3:
            if len(groups) < len(self.groups):
                raise Refused(
                    "too-few-groups",
                    f"dataset '{self.name}' declares splits, and too few groups are left over for a test set",
                    got=f"{len(groups)} of {len(self.groups)} groups without a split",
                    expected="at least 3",
                    do="set split.test_fraction=0, or declare a test split",
                )
            raise self._too_few(len(groups), 3, "training, validation and test")
        count = min(max(1, round(len(groups) * fraction)), len(groups) - 2)
        return set(in_hash_order(groups, f"test {seed}")[:count])

    def _val_groups(self, groups: list[str], fold: int, folds: int, seed: int) -> set[str]:
        folds = min(folds, len(groups))
        if len(groups) < 2 or fold >= folds:
            raise self._too_few(len(groups), max(2, fold + 1), f"fold {fold}")
        order = in_hash_order(groups, f"fold {seed}")
        return set(order[fold * len(order) // folds : (fold + 1) * len(order) // folds])

    def _too_few(self, got: int, expected: int, purpose: str) -> Refused:
        return Refused(
            "too-few-groups",
            f"dataset '{self.name}' has too few groups for {purpose}",
            got=f"{got} groups, {len(self.cases)} cases",
            expected=f"at least {expected}",
            do="add patients, or use fewer folds; cases of one group are never parted",
        )


def in_hash_order(groups: Iterable[str], salt: str) -> list[str]:
    """Sort names by a hash, which is the same on every machine."""
    return sorted(groups, key=lambda g: hashlib.blake2b(f"{salt}:{g}".encode(), digest_size=16).digest())


def check_listing(listing: Listing, problems: Problems) -> None:
    """Tell what no data set may have: two cases of one name, a group in two splits."""
    double = [name for name, n in Counter(c.name for c in listing.cases).items() if n > 1]
    if double:
        problems.refuse(
            Refused(
                "duplicate-case",
                f"dataset '{listing.name}' has several images of one name",
                got=some(double),
                do="keep one of them, or name cases so that they differ",
            ),
        )
    declared_splits(listing.cases, problems)


def declared_splits(cases: Iterable[Case], problems: Problems | None = None) -> dict[str, str]:
    """Return group -> declared split; a group that is declared in two is refused."""
    problems = problems or Problems()
    declared: dict[str, str] = {}
    for case in cases:
        if case.split is None:
            continue
        if case.split not in SPLITS:
            problems.refuse(
                Refused(
                    "bad-value",
                    f"case '{case.name}' has an unknown split",
                    got=case.split,
                    expected=" or ".join(SPLITS),
                ),
                case.name,
            )
        elif declared.setdefault(case.group, case.split) != case.split:
            problems.refuse(
                Refused(
                    "group-in-two-splits",
                    f"group '{case.group}' is declared in two splits",
                    got=f"{declared[case.group]} and {case.split} (case '{case.name}')",
                    do="put all cases of a group in one split",
                ),
                case.name,
            )
    return declared


def some(names: Iterable[str], limit: int = 3) -> str:
    """Return the first few names and how many there are."""
    listed = sorted(names)
    text = ", ".join(f"'{n}'" for n in listed[:limit])
    return f"{text} and {len(listed) - limit} more" if len(listed) > limit else text


def without(
    what: str, names: Iterable[str], images: int, labels: int, where: object, *, do: str | None = None
) -> Refused:
    """Build the refusal of images without labels or labels without images."""
    other = "label" if what == "image" else "image"
    listed = list(names)
    return Refused(
        f"{what}-without-{other}",
        f"'{where}': {len(listed)} of the {what}s {'has' if len(listed) == 1 else 'have'} no {other}",
        got=f"{images} images and {labels} labels; no {other} for {some(listed)}",
        do=do or f"add the {other}s, or move those {what}s elsewhere",
    )
