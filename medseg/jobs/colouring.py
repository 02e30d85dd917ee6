"""Give the maps of a folder of predictions their colours, and a table that says what they mean."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from ..dataset.cases import some
from ..io import read_label, write
from ..palettes import class_table, instance_table, legend
from .manifest import Manifest
from .predicting import write_csv

__all__ = ["COLOURS", "colour_maps"]

COLOURS = "colours.csv"
_MOST = 255  # values that a palette has colours for
_log = logging.getLogger(__name__)


def colour_maps(folder: str | Path) -> tuple[Path, ...]:
    """Write the PNG maps of a folder of predictions anew with a palette; their values stay what they are.

    Beside label maps comes ``colours.csv``: value, name and colour of each class and of what is ignored.
    Classes have the colours that the report gives them. Maps that are no PNG, or have more than 255 objects,
    are left as they are and told.

    Parameters
    ----------
    folder : path
        What `predict_files` wrote.

    Returns
    -------
    tuple of Path
        The maps that have colours now.

    Raises
    ------
    Refused
        ``not-predictions``, and what reading and writing refuse.

    Notes
    -----
    Pillow and medseg read the values of such a file; programs that make RGB of every palette, such as OpenCV,
    read colours.
    """
    manifest = Manifest.load(folder)
    done, left = [], []
    for case in manifest.cases:
        path = manifest.folder / case.prediction
        labels = np.asarray(read_label(path)[0]) if path.suffix == ".png" else None
        if labels is None or labels.max(initial=0) > _MOST:
            left.append(case.case)
            continue
        semantic = manifest.kind == "semantic"
        table = class_table(manifest.ignore) if semantic else instance_table(labels)
        done.append(write(labels.astype(np.uint8), path, colours=table))
    if left:
        _log.warning(
            "%d of %d maps have no colours: %s; a palette is of a PNG with values up to %d",
            len(left), len(manifest.cases), some(left), _MOST,
        )  # fmt: skip
    if manifest.kind == "semantic":
        write_csv(manifest.folder / COLOURS, legend(manifest.classes, manifest.ignore))
    return tuple(done)
