"""``medseg study``: studies of DICOM in, results that other software opens out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

__all__ = ["study_app"]

study_app = typer.Typer(rich_markup_mode=None)


@study_app.command(short_help="Segment studies of DICOM, one after the other.")
def study(
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="Folder of a run or of a bundle, zip file, or name.")
    ],
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="Folders of DICOM files: a study, or many.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder to write to.")],
    series: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="RULES", help="Which series: KEY=VALUE,... or a TOML file."),
    ] = None,
    show: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="NAMES",
            help="What pages show of patients, such as patient-id,folder. By default nothing.",
        ),
    ] = None,
    results: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAMES", help="Of segmentation,report,rtstruct,nifti,nrrd. By default all."),
    ] = None,
    kind: Annotated[
        str, typer.Option(metavar="NAME", help="DICOM segmentation: binary, or labelmap for many organs.")
    ] = "binary",
    flips: Annotated[
        bool, typer.Option("--flips", help="Average over flips and rotations: slower, a little better.")
    ] = False,
    doubt: Annotated[
        bool, typer.Option(help="Look twice, to tell which results are to be looked at first.")
    ] = True,
    jobs: Annotated[int, typer.Option(metavar="N", help="Studies at the same time.")] = 1,
    memory: Annotated[float, typer.Option(metavar="GB", help="Memory that one study may take.")] = 8.0,
    minutes: Annotated[
        float, typer.Option(metavar="M", help="Time on the clock that one study may take.")
    ] = 30.0,
    cpu_minutes: Annotated[
        float, typer.Option(metavar="M", help="Processor time that one study may take.")
    ] = 120.0,
    again: Annotated[
        bool, typer.Option("--again", help="Try refused studies again although their files are the same.")
    ] = False,
    asked_by: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="Who asked, for the audit. By default the user."),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="auto (a GPU where there is one), cpu, cuda, cuda:1.")
    ] = "auto",
) -> int:
    """Segment all studies in folders; what cannot be done is listed, and the rest is done.

    Each study has a process of its own, with limits. The same command goes on with a run that was stopped.
    """
    from ..radiology import Limits, StudyOptions, run_studies
    from ..radiology.options import RESULTS
    from .progress import Display, tell_failures

    chosen = StudyOptions(
        results=_names(results) or tuple(RESULTS),
        kind=kind,  # type: ignore[arg-type]  # it refuses what is none
        show=_names(show),
        flips=flips,
        doubt=doubt,
    )
    with Display() as display:
        result = run_studies(
            bundle,
            folders,
            out,
            progress=lambda title, done, of: display.counter(title)(done, of),
            again=again,
            series=series,
            limits=Limits(memory, minutes, cpu_minutes),
            jobs=jobs,
            options=chosen,
            asked_by=_user() if asked_by is None else asked_by,
            device=device,
        )
    _print_table(result)
    code = tell_failures(result.batch)
    typer.echo(f"\nThe page: {(out / 'night.html').resolve()}")
    return code


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _user() -> str:
    """Name of the user that the process belongs to; not what the environment says it is."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _print_table(result: Any) -> None:
    """Print the studies that are done, most doubtful first, and how many are new."""
    from ..radiology.night_page import by_doubt

    done = by_doubt(result.outcomes)
    if done:
        typer.echo(f"{'study':18}{'doubt':>6}  {'warnings':>8}  volumes in mL")
    for outcome in done:
        doubt = (outcome.record["doubt"] or {}).get("score")
        structures = outcome.record["structures"]
        sizes = ", ".join(f"{s['name']} {s['volume_ml']:.4g}" for s in structures[:4])
        more = f", and {len(structures) - 4} more" if len(structures) > 4 else ""
        told = "" if doubt is None else f"{doubt:.2f}"
        typer.echo(f"{outcome.id:18}{told:>6}  {len(outcome.record['warnings']):>8}  {sizes}{more}")
    failed = len(result.outcomes) - len(done)
    typer.echo(f"{len(done)} done, {failed} could not be done; {len(result.new)} of them in this run")
