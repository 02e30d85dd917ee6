"""The commands. What they do lies below; here it is named, and its result is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ..version import __version__

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Segment medical and microscopy images. Add --debug to any command for the traceback of an error.",
)
bundle_app = typer.Typer(no_args_is_help=True, help="Look at trained models.", rich_markup_mode=None)
app.add_typer(bundle_app, name="bundle")

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Ram = Annotated[Optional[float], typer.Option("--max-ram", help="Bound for the process's memory in GB.")]  # noqa: UP045


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medseg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(out: Out = Path("medseg-demo")) -> None:
    """Do the whole job on data it makes itself, with a page to look at (at most 3 minutes)."""
    from ..demo import run_demo
    from .progress import Display

    with Display() as display:
        result = run_demo(out, on_stage=display.stage, on_step=display.step)
    typer.echo(str(result.scores))
    typer.echo(f"\nThe page:  {result.page.resolve()}")
    typer.echo(f"The model: {result.run.resolve()}   (medseg predict {result.run} IMAGE... -o OUT)")


@app.command()
def info(files: Annotated[list[Path], typer.Argument(help="Images or label maps.")]) -> int:
    """Show grid, spacing, orientation and values of files."""
    from ..batch import map_cases
    from ..io import image_info
    from .progress import tell_failures

    result = map_cases(lambda path: print_info(image_info(path)), [(str(f), f) for f in files])
    return tell_failures(result)


def print_info(found: Any) -> None:
    """Print what a file holds, one fact a line."""
    unit = "pixels" if found.unit == "pixel" else found.unit
    facts = {
        "format": found.format,
        "shape": f"{' x '.join(map(str, found.shape))}, {found.channels} channel(s), {found.dtype}",
        "spacing": f"{' x '.join(f'{s:.6g}' for s in found.spacing)} {unit}",
        "orientation": found.orientation or "rows and columns",
        "values": f"{found.min:.6g} to {found.max:.6g}, mean {found.mean:.6g}",
    }
    if found.n_distinct:
        facts["distinct values"] = found.n_distinct
    typer.echo(str(found.path))
    for name, value in facts.items():
        typer.echo(f"  {name:16}{value}")


@app.command()
def plan(
    dataset: Annotated[Path, typer.Argument(help="Folder or dataset.toml.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="TOML file to write.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(metavar="[KEY=VALUE]...")] = None,  # noqa: UP045
    memory: Annotated[Optional[float], typer.Option(help="Bound for training in GB.")] = None,  # noqa: UP045
) -> None:
    """Derive a plan from a data set, with a reason for each number."""
    from ..planning import make_plan
    from .progress import Display

    with Display() as display:
        made = make_plan(dataset, memory_gb=memory, progress=display.counter("Reading the data set"))
    typer.echo(f"Wrote {made.with_overrides(overrides or []).save(out)}")


@app.command()
def train(
    dataset: Annotated[Path, typer.Argument(help="Folder or dataset.toml.")],
    out: Out,
    overrides: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="[KEY=VALUE]...", help="Numbers of the plan, such as train.lr=3e-4."),
    ] = None,
    plan: Annotated[Optional[Path], typer.Option(help="Plan to obey; by default derived.")] = None,  # noqa: UP045
    fold: Annotated[int, typer.Option(help="Which validation set.")] = 0,
    device: Device = "auto",
) -> None:
    """Train on a data set, or go on with a run that was stopped; then test on unseen cases."""
    from ..dataset import load_dataset
    from ..jobs import score_unseen
    from ..training import fit, open_run, plan_for
    from .progress import Display

    with Display() as display:
        cases = load_dataset(dataset)
        chosen = plan_for(cases, out, plan, overrides or [], progress=display.counter("Reading the data set"))
        bundle = fit(chosen, cases, out, fold=fold, on_step=display.step, device=device)
        run = open_run(out)
        unseen = display.counter("Segmenting unseen cases", total=len(run.split.test or run.split.val))
        scores = score_unseen(run, bundle, on_case=unseen)
    typer.echo(str(scores))
    typer.echo(f"\nThe model: {run.path}\nNext:      medseg report {run.path} -o report.html")


@app.command()
def predict(
    bundle: Annotated[str, typer.Argument(help="Run, bundle folder, zip file or name.")],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    out: Out,
    max_ram: Ram = None,
    flips: Annotated[bool, typer.Option(help="Average over flips and rotations.")] = False,
    device: Device = "auto",
) -> int:
    """Segment images of any size; what cannot be done is told, and the rest is done."""
    from ..bundle import load_bundle
    from ..jobs import predict_files
    from .progress import Display, tell_failures

    model = load_bundle(bundle, device=device)
    with Display() as display:
        counter = display.counter("Segmenting", total=None)
        result = predict_files(model, images, out, max_ram_gb=max_ram, flips=flips, on_case=counter)
    for case in result.done.values():
        found = f"{case.objects} objects" if case.objects >= 0 else "labels"
        typer.echo(f"{out / case.prediction}: {found}")
    return tell_failures(result)


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="File, or folder of maps.")],
    references: Annotated[Path, typer.Argument(help="File, folder of maps, or data set.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="scores.json or scores.csv.")],
    metrics: Annotated[Optional[str], typer.Option(help="Names, separated by commas.")] = None,  # noqa: UP045
) -> int:
    """Score predictions against references of the same names."""
    from ..jobs import evaluate_files
    from .progress import Display, tell_failures

    chosen = [m.strip() for m in metrics.split(",")] if metrics else None
    with Display() as display:
        scores, result = evaluate_files(
            predictions, references, metrics=chosen, on_case=display.counter("Scoring", total=None)
        )
    if len(scores):
        scores.save(out)
        typer.echo(str(scores))
    return tell_failures(result)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Run, or folder of predictions.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file.")] = Path("report.html"),
) -> None:
    """Write one self-contained page: the worst cases first, curves, scores, plan."""
    from ..jobs import report as write_report

    typer.echo(f"Wrote {write_report(folder, out).resolve()}")


@bundle_app.command("show")
def bundle_show(bundle: Annotated[str, typer.Argument(help="Run, bundle folder, zip file or name.")]) -> None:
    """Show a model's card and plan, and check it: checksums, golden output."""
    from ..bundle import load_bundle, verify_bundle

    found = load_bundle(bundle, device="cpu")
    difference = verify_bundle(found)
    typer.echo(f"{found.card}\n{found.plan.to_toml()}")
    typer.echo(f"{found.path}: checksums hold; golden output reproduced to {difference:.1e}")
