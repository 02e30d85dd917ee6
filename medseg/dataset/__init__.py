"""Datasets: named lists of cases, recognised from a folder's layout or described in one TOML file."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

from ..errors import Refused
from .cases import Case, Dataset, Listing, Split, check_listing
from .findings import Finding, Problems
from .layouts import from_folder
from .reading import read_case, read_case_label
from .toml import from_toml

__all__ = [
    "Case",
    "Dataset",
    "Finding",
    "Listing",
    "Split",
    "list_dataset",
    "load_dataset",
    "read_case",
    "read_case_label",
]


def load_dataset(
    path_or_name: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> Dataset:
    """Load a dataset from a folder or from a TOML file. No pixel is read.

    Parameters
    ----------
    path_or_name : path or str
        A folder in one of the known layouts, a folder with a ``dataset.toml``, or a ``.toml`` file. With
        ``root`` also a name: ``root/NAME`` or ``root/NAME.toml``.
    root : path, optional
        The folder that relative paths of a TOML file start from; by default its own ``root``, or the folder
        of the file.

    Returns
    -------
    Dataset
        Its cases in natural order of their names.

    Raises
    ------
    Refused
        ``not-found``, ``empty-folder``, ``unknown-layout``, ``image-without-label``, ``label-without-image``,
        ``duplicate-case``, ``ambiguous-label``, ``group-in-two-splits``; for a ``dataset.json``
        ``bad-value``, ``missing-channel``, ``unknown-channel``, ``overlapping-classes``;
        for TOML files also ``bad-toml``,
        ``unknown-key``, ``missing-key``, ``bad-value``, ``unknown-case``, and for the CSV that they name
        ``bad-csv``, ``unknown-column``, ``case-without-row``, ``bad-spacing``.

    Notes
    -----
    Layouts of a folder: the Medical Segmentation Decathlon's and nnU-Net's, ``imagesTr/`` beside
    ``labelsTr/`` with a ``dataset.json``; BIDS; ``images/`` beside ``labels/`` or ``masks/`` with equal
    stems; ``X.png`` beside ``X_mask.png`` (or ``_label``, ``_seg``, ``_Annotation``, ``_instances`` and their
    like); ``ID/images/*.png`` with ``ID/masks/*.png``, one mask an object; PASCAL VOC's ``JPEGImages/`` and
    ``SegmentationClass/``; Cityscapes' ``leftImg8bit/`` and ``gtFine/``; ``train/`` beside ``train_labels/``
    with a ``class_dict.csv`` (CamVid); images without labels. The folder ``imagesTs`` of the first two,
    named itself, is a data set without labels.

    Examples
    --------
    >>> import pathlib, tempfile, medseg
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("a1.png", "a1_mask.png", "a2.png", "a2_mask.png"):
    ...         pathlib.Path(folder, name).touch()
    ...     dataset = medseg.load_dataset(folder)
    >>> [case.name for case in dataset.cases], dataset.layout
    (['a1', 'a2'], 'X and X_mask in one folder')
    """
    listing = _found(path_or_name, root, Problems())
    return Dataset(**{field.name: getattr(listing, field.name) for field in fields(Listing)})


def list_dataset(
    path_or_name: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> tuple[Listing, tuple[Finding, ...]]:
    """List what there is of a dataset as `load_dataset` does, with all that is wrong with it.

    Returns
    -------
    listing : Listing
        Its cases; some may lack a label.
    findings : tuple of Finding
        What `load_dataset` refuses, each case for itself, and what it logs.

    Raises
    ------
    Refused
        Where no case can be listed: ``not-found``, ``empty-folder``, ``unknown-layout``, ``bad-toml``,
        ``bad-value`` and other mistakes in a description.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from medseg.dataset import list_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("a1.png", "a1_mask.png", "a2.png"):
    ...         pathlib.Path(folder, name).touch()
    ...     listing, findings = list_dataset(folder)
    >>> [case.name for case in listing], findings[0].reason, findings[0].case, findings[0].fix
    (['a1', 'a2'], 'image-without-label', 'a2', "Add 'a2_mask.png', or move the image elsewhere.")
    """
    problems = Problems(collect=True)
    listing = _found(path_or_name, root, problems)
    check_listing(listing, problems)
    return listing, tuple(problems.findings)


def _found(
    path_or_name: str | os.PathLike[str], root: str | os.PathLike[str] | None, problems: Problems
) -> Listing:
    path = Path(os.path.abspath(path_or_name)) if root is None else Path(os.path.abspath(root), path_or_name)
    if root is not None and not path.exists():
        given = Path(os.path.abspath(path_or_name))
        path = next((p for p in (path.with_name(f"{path.name}.toml"), given) if p.exists()), path)
    if not path.exists():
        raise Refused(
            "not-found",
            f"no such dataset '{path}'",
            do="check the path",
        )
    if path.is_file():
        if path.suffix.lower() != ".toml":
            raise Refused(
                "unknown-layout", f"'{path}' is no dataset", got="a file", expected="a folder or a .toml file"
            )
        return from_toml(path, Path(os.path.abspath(root)) if root is not None else None, problems)
    if (path / "dataset.toml").is_file():
        return from_toml(path / "dataset.toml", None, problems)
    return from_folder(path, problems)
