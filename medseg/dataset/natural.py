"""Layouts of natural images: PASCAL VOC, Cityscapes, and pairs of folders with a table of colours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..errors import Refused
from ..io.paths import find_images, natural_key, stem_of
from .cases import Case, Listing, some
from .colours import CLASS_DICT, LABEL_MAP, read_legend
from .findings import Finding, Problems
from .pairing import by_stem, joined, tell_bare

__all__ = ["from_natural", "is_natural", "with_class_dict"]

# Everingham et al.: The PASCAL Visual Object Classes Challenge, IJCV 2010; 0 is the background, 255 void
VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
VOID = 255
# Cordts et al.: The Cityscapes Dataset, CVPR 2016: the 19 classes that are scored, by their value in labelIds
CITYSCAPES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
_CITY_THINGS = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
_CITY_VALUES = 34
_SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
_LEFT, _FINE = "leftImg8bit", "gtFine"
_LABEL_ENDINGS = ("_labels", "_annot", "annot", "_masks")


def is_natural(root: Path, folders: Iterable[str]) -> bool:
    """Tell whether a folder with these subfolders is in a layout of this module.

    Examples
    --------
    >>> is_natural(Path("VOC2012"), ["JPEGImages", "SegmentationClass", "ImageSets"])
    True
    """
    names = set(folders)
    return (
        {"JPEGImages", "SegmentationClass"} <= names
        or {_LEFT, _FINE} <= names
        or ((root / CLASS_DICT).is_file() and bool(_split_folders(names)))
    )


def from_natural(root: Path, folders: Iterable[str], problems: Problems) -> Listing:
    """List the cases of a folder of which `is_natural` is true."""
    names = set(folders)
    if "JPEGImages" in names:
        return from_voc(root, problems)
    if _LEFT in names:
        return from_cityscapes(root, problems)
    return from_camvid(root, problems)


def from_voc(root: Path, problems: Problems) -> Listing:
    """List the segmented images of PASCAL VOC, or of an export in its layout.

    The cases are those that ``ImageSets/Segmentation/train.txt``, ``val.txt`` and ``test.txt`` name, in these
    splits; without such files, all that have a label. Classes are those of ``labelmap.txt``, else VOC's.
    """
    images = by_stem(find_images(root / "JPEGImages"), problems)
    labels = by_stem(find_images(root / "SegmentationClass"), problems)
    split_of = _listed(root / "ImageSets" / "Segmentation", problems)
    wanted = list(split_of) or sorted(labels, key=natural_key)
    if not wanted:
        raise Refused("empty-folder", f"no image of '{root}' is segmented", do="check the path")
    lacking = [name for name in wanted if name not in images]
    if lacking:
        each = [
            Finding(
                "error",
                "not-found",
                name,
                f"'ImageSets/Segmentation/{split_of.get(name, 'train')}.txt' names '{name}', which is not in "
                f"'JPEGImages'."
                if split_of
                else f"the label 'SegmentationClass/{labels[name].name}' has no image in 'JPEGImages'.",
                "Add the image, or take the name away.",
            )
            for name in lacking
        ]
        refusal = Refused(
            "not-found",
            f"'{root}' lists images that are not in 'JPEGImages'",
            got=f"{len(lacking)} of {len(wanted)}: {some(lacking)}",
            do="add them, or take the names out of 'ImageSets/Segmentation'",
        )
        problems.refuse(refusal, each=each)
    unused = [name for name in labels if name not in wanted]
    if unused:
        problems.warn(
            "unlisted-case",
            f"{len(unused)} labels are in no list of 'ImageSets/Segmentation': {some(unused)}.",
            "To use them, add their names to train.txt.",
        )
    hidden = [n for n in wanted if split_of.get(n) == "test" and n not in labels]
    cases = tuple(
        Case(name, images[name], labels.get(name), group=name, split=split_of.get(name))
        for name in sorted(set(wanted) - set(lacking) - set(hidden), key=natural_key)
    )
    tell_bare(root, cases, len(labels), problems, "SegmentationClass/{}.png")
    classes = {name: value for value, name in enumerate(VOC_CLASSES, start=1)}
    listing = Listing(
        root.name,
        cases,
        root,
        "PASCAL VOC",
        classes,
        "semantic",
        source=root,
        ignore=(VOID,),
        things=VOC_CLASSES,
    )
    if not (root / LABEL_MAP).is_file():
        return listing
    legend = read_legend(root / LABEL_MAP)
    cases = tuple(replace(case, colours=legend.colours) for case in cases)
    return replace(
        listing, cases=cases, classes=legend.classes, ignore=legend.ignore, things=tuple(legend.classes)
    )


def _listed(folder: Path, problems: Problems) -> dict[str, str]:
    """Return name -> split of the lists of names."""
    found: dict[str, str] = {}
    for split in ("train", "val", "test"):
        path = folder / f"{split}.txt"
        if not path.is_file():
            continue
        for name in path.read_text("utf-8", errors="replace").split():
            other = found.setdefault(name, split)
            if other != split:
                problems.refuse(
                    Refused(
                        "group-in-two-splits",
                        f"'{name}' is named in '{other}.txt' and '{split}.txt'",
                        do="keep it in one of them: what is trained on must not validate",
                    ),
                    name,
                )
    return found


def from_cityscapes(root: Path, problems: Problems) -> Listing:
    """List the images of Cityscapes with their fine labels, in the official splits.

    Labels are ``*_gtFine_labelIds.png``, else ``*_gtFine_labelTrainIds.png``, whose numbers are read as those
    of labelIds: road, 0 there, would be taken for a background. Of ``test``, whose labels are not public,
    only images that have one are cases.
    """
    images: dict[str, Path] = {}
    splits: dict[str, tuple[str, str]] = {}
    labels: dict[str, dict[str, Path]] = {"labelIds": {}, "labelTrainIds": {}}
    for split in ("train", "val", "test"):
        for city in _subfolders(root / _LEFT / split):
            for file in find_images(city):
                name = stem_of(file).removesuffix(f"_{_LEFT}")
                images[name], splits[name] = file, (split, city.name)
        for city in _subfolders(root / _FINE / split):
            for file in find_images(city):
                name, _, kind = stem_of(file).partition(f"_{_FINE}_")
                if kind in labels:
                    labels[kind][name] = file
    kind = "labelIds" if labels["labelIds"] or not labels["labelTrainIds"] else "labelTrainIds"
    images = {n: f for n, f in images.items() if splits[n][0] != "test" or n in labels[kind]}
    if not images:
        raise Refused(
            "empty-folder",
            f"'{root / _LEFT}' holds no image",
            expected="train/CITY/*.png",
            do="check the path",
        )
    groups = {name: "_".join(name.split("_")[:2]) for name in images}
    order = {name: images[name] for name in sorted(images, key=natural_key)}
    label = f"{_FINE}/SPLIT/CITY/{{}}_{_FINE}_{kind}.png"
    cases = joined(root, order, labels[kind], problems, label=label, groups=groups)
    greys = ((n, value) for n, value in [*enumerate(CITYSCAPES.values()), (VOID, VOID)])
    colours = tuple(((n, n, n), value) for n, value in greys) if kind == "labelTrainIds" else ()
    cases = tuple(replace(c, split=splits[c.name][0], site=splits[c.name][1], colours=colours) for c in cases)
    ignore = (*sorted(set(range(_CITY_VALUES)) - set(CITYSCAPES.values())), VOID)
    return Listing(
        root.name,
        cases,
        root,
        "Cityscapes",
        dict(CITYSCAPES),
        "semantic",
        source=root,
        ignore=ignore,
        things=_CITY_THINGS,
    )


def _subfolders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []


def _split_folders(names: Iterable[str]) -> dict[str, str]:
    """Return folder of images -> folder of labels, of those that are called after a split."""
    known = set(names)
    pairs = {}
    for folder in _SPLITS:
        beside = [folder + ending for ending in _LABEL_ENDINGS if folder + ending in known]
        if folder in known and beside:
            pairs[folder] = beside[0]
    return pairs


def from_camvid(root: Path, problems: Problems) -> Listing:
    """List ``train/`` beside ``train_labels/``, ``val/`` and ``test/`` alike, with a ``class_dict.csv``.

    A label has the name of its image, or that with ``_L``.
    """
    cases: list[Case] = []
    for folder, beside in _split_folders(p.name for p in _subfolders(root)).items():
        images = by_stem(find_images(root / folder), problems)
        labels = by_stem(find_images(root / beside), problems)
        named = {
            name.removesuffix("_L")
            if name not in images and name.removesuffix("_L") in images
            else name: file
            for name, file in labels.items()
        }
        found = joined(root, images, named, problems, label=f"{beside}/{{}}.png")
        cases += [replace(case, split=_SPLITS[folder]) for case in found]
    if not cases:
        raise Refused("empty-folder", f"'{root}' holds no image", do="check the path")
    cases.sort(key=lambda case: natural_key(case.name))
    listing = Listing(root.name, tuple(cases), root, f"splits with {CLASS_DICT}", source=root)
    return with_class_dict(listing)


def with_class_dict(listing: Listing) -> Listing:
    """Give a listing the classes and colours of the ``class_dict.csv`` in its folder, where there is one."""
    path = listing.root / CLASS_DICT
    if not path.is_file():
        return listing
    legend = read_legend(path)
    cases = tuple(replace(case, colours=legend.colours) for case in listing.cases)
    return replace(
        listing,
        cases=cases,
        classes=legend.classes,
        ignore=legend.ignore,
        kind="semantic",
        layout=f"{listing.layout}, {CLASS_DICT}" if CLASS_DICT not in listing.layout else listing.layout,
    )
