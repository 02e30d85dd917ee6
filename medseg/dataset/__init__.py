"""Datasets: named lists of cases, recognised from a folder's layout or described in one TOML file."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import Refused
from .cases import Case, Dataset, Split
from .layouts import from_folder
from .reading import read_case
from .toml import from_toml

__all__ = ["Case", "Dataset", "Split", "load_dataset", "read_case"]


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
        ``duplicate-case``, ``ambiguous-label``, ``group-in-two-splits``; for TOML files also ``bad-toml``,
        ``unknown-key``, ``missing-key``, ``bad-value``, ``unknown-case``, and for the CSV that they name
        ``bad-csv``, ``unknown-column``, ``case-without-row``, ``bad-spacing``.

    Notes
    -----
    Layouts of a folder: ``images/`` beside ``labels/`` or ``masks/`` (also ``imagesTr/`` beside
    ``labelsTr/``) with equal stems; ``X.png`` beside ``X_mask.png`` (or ``_masks``, ``_label``, ``_labels``,
    ``_seg``, ``_Annotation``, ``_instances``); ``ID/images/*.png`` with ``ID/masks/*.png``, one mask an
    object; images without labels.

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
        return from_toml(path, Path(os.path.abspath(root)) if root is not None else None)
    if (path / "dataset.toml").is_file():
        return from_toml(path / "dataset.toml", None)
    return from_folder(path)
