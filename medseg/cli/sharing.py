"""``medseg share``: results of studies without their patients."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from ..errors import Refused
from ..files import check_private

__all__ = ["share_app"]

share_app = typer.Typer(rich_markup_mode=None)


@share_app.command(short_help="Copy the results of studies without their patients.")
def share(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="Results of a study, or of a night of them.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder to write to.")],
    key: Annotated[
        Path, typer.Option(metavar="FILE", help="Secret that new UIDs follow from; made if it is not there.")
    ],
) -> None:
    """Write copies that do not tell whose they are: no names, numbers and dates, and other UIDs.

    With the same key the same patient stays one patient. Pages and lists are left out, and named.
    """
    from ..io.dicom.sharing import pseudonym, share_results

    studies = [study for folder in folders for study in _studies(folder)]
    if not studies:
        raise Refused(
            "no-files",
            "there are no results of studies",
            expected="a folder of medseg study's",
            do="name one",
        )
    secret = _secret(key)
    left: set[str] = set()
    for study in studies:
        _, left_out = share_results(study, out / pseudonym(secret, study.name)[:16], key=secret)
        left |= {path.name for path in left_out}
    typer.echo(f"Wrote {len(studies)} studies to {out.resolve()}")
    if left:
        typer.echo(f"Left out: {', '.join(sorted(left))}")


def _studies(folder: Path) -> list[Path]:
    """The folder itself, or those within it that hold DICOM objects."""
    if not folder.is_dir():
        raise Refused("not-a-folder", "there is no such result folder", do="name one of medseg study's")
    if any(folder.glob("*.dcm")):
        return [folder]
    return sorted({path.parent for path in folder.glob("[!.]*/*.dcm")})


def _secret(path: Path) -> bytes:
    """Read a secret, or make one that only its owner can read."""
    if not path.exists():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32) + "\n")
    return check_private(path).read_bytes().strip()
