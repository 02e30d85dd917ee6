"""What ``medseg info`` says of DICOM: the series of a folder, and whether each can be read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import typer

from ..errors import Refused

__all__ = ["holds_dicom", "print_series"]


def holds_dicom(path: Path) -> bool:
    """Tell whether a path is a DICOM file of any name, or a folder in which one lies, not deeper."""
    from ..io.dicom import is_dicom

    return any(map(is_dicom, path.iterdir())) if path.is_dir() else is_dicom(path)


def print_series(path: Path) -> int:
    """Print the series below a path, one after the other; return how many there are."""
    from ..io.dicom import check_series, find_series

    found = find_series(path)
    if not found.series:
        return 0
    typer.echo(str(path))
    for series in found.series:
        orientation = f", {series.orientation}" if series.orientation else ""
        kind = series.modality or "no modality"
        facts = {f"series {series.number}": f"{kind}, {series.frames} images{orientation}"}
        if series.description:
            facts["description"] = series.description
        if series.thickness_mm is not None:
            facts["thickness"] = f"{series.thickness_mm:g} mm"
        try:
            checked = check_series(series)
        except Refused as error:
            facts["no volume"] = f"{error.reason}: {error}"
        else:
            spacing = (checked.affine[:3, :3] ** 2).sum(axis=0) ** 0.5
            facts["volume"] = f"{' x '.join(map(str, checked.shape))}, "
            facts["volume"] += f"{' x '.join(f'{s:.6g}' for s in spacing)} mm"
            if checked.notes:
                facts["notes"] = "; ".join(note.text for note in checked.notes)
        for name, value in facts.items():
            typer.echo(f"  {name:17}{value}")
    if found.skipped:
        told = Counter(s.reason for s in found.skipped)
        typer.echo(f"  {'skipped':17}{', '.join(f'{n} {reason}' for reason, n in sorted(told.items()))}")
    return len(found.series)
