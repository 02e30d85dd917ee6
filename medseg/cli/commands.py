"""The commands. What they do lies below; here it is named, and its result is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ..errors import Refused
from ..version import __version__
from .sharing import share_app
from .studies import study_app

__all__ = ["app"]

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Segment medical and microscopy images. Add --debug to any command for the traceback of an error.",
    epilog="Exit codes: 0 all done; 1 refused, and nothing written; 2 some cases failed, a table says which.",
)
bundle_app = typer.Typer(help="Look at trained models.", rich_markup_mode=None)
app.add_typer(bundle_app, name="bundle")
app.add_typer(study_app)
app.add_typer(share_app)

Out = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder to write to.")]
Device = Annotated[
    str, typer.Option(metavar="NAME", help="auto (a GPU where there is one), cpu, cuda, cuda:1.")
]
Data = Annotated[
    Path, typer.Argument(metavar="DATASET", help="Folder of images and labels, or dataset.toml.")
]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Argument(
        metavar="KEY=VALUE", help="Numbers of the plan, such as train.lr=3e-4 or train.steps=500."
    ),
]
Model = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="Folder of a run or of a bundle, zip file, or name.")
]
Gigabytes = Optional[float]  # noqa: UP045


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


@app.command(short_help="Do the whole job on made data: at most 3 minutes.")
def demo(out: Out = Path("medseg-demo")) -> None:
    """Do the whole job on data it makes itself, with a page to look at (at most 3 minutes)."""
    from ..demo import run_demo
    from ..files import check_writable
    from .progress import Display

    check_writable(out)
    with Display() as display:
        result = run_demo(out, on_stage=display.stage, on_step=display.step)
    typer.echo(str(result.scores))
    typer.echo(f"\nThe page:  {result.page.resolve()}")
    typer.echo(f"The model: {result.run.resolve()}   (medseg predict {result.run} IMAGE... -o OUT)")


@app.command(short_help="Show grid, spacing, orientation and values.")
def info(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Images, label maps, DICOM files, or folders of them."),
    ],
) -> int:
    """Show grid, spacing, orientation and values of images and label maps; the series of DICOM."""
    from ..batch import map_cases
    from ..io import find_images, image_info
    from .progress import tell_failures
    from .series import holds_dicom, print_series

    found = []
    for given in files:
        inside = find_images(given) if given.is_dir() else [given]
        if (holds_dicom(given) or not inside) and print_series(given):
            continue
        if not inside:
            raise Refused("empty-folder", f"no image in '{given}'", do="its subfolders are not searched")
        found += inside
    described: list[Any] = []

    def tell(name: str, failure: Any) -> None:
        if not failure:
            print_info(described.pop())

    result = map_cases(lambda f: described.append(image_info(f)), [(str(f), f) for f in found], on_case=tell)
    return tell_failures(result)


def print_info(found: Any) -> None:
    """Print what a file holds, one fact a line."""
    unit = "pixels" if found.unit == "pixel" else found.unit
    axes = ("planes, rows and columns" if len(found.shape) == 3 else "rows and columns").split()
    channels = "1 channel" if found.channels == 1 else f"{found.channels} channels"
    facts = {
        "format": found.format,
        "shape": f"{' x '.join(map(str, found.shape))}, {channels}, {found.dtype}",
        "pixel size": "not known"
        if unit == "pixels"
        else f"{' x '.join(f'{s:.6g}' for s in found.spacing)} {unit}",
        "axes": f"{found.orientation} (first voxel to last)" if found.orientation else " ".join(axes),
    }
    if found.orientation:
        facts["oblique"] = f"{found.oblique_degrees:.3g} degrees" if found.oblique_degrees > 0.01 else "no"
        facts["geometry"] = found.geometry
    if found.min is not None:
        facts["values"] = f"{found.min:.6g} to {found.max:.6g}, mean {found.mean:.6g}"
    if found.n_distinct:
        facts["distinct values"] = found.n_distinct
    if not found.finite:
        facts["not finite"] = "holds NaN or infinite pixels: training and prediction refuse it"
    typer.echo(str(found.path))
    for name, value in facts.items():
        typer.echo(f"  {name:17}{value}")


@app.command(short_help="Check a data set: every defect, with its remedy.")
def check(dataset: Data) -> int:
    """Read every file of a data set and tell each defect with its remedy; errors end with exit code 2."""
    from ..jobs import check_dataset
    from .progress import Display

    with Display() as display:
        found = check_dataset(dataset, progress=display.counter("Checking"))
    typer.echo(str(found))
    return found.exit_code


@app.command(short_help="Derive a plan from a data set, with reasons.")
def plan(
    dataset: Data,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="TOML file to write.")],
    overrides: Overrides = None,
    memory: Annotated[
        Gigabytes, typer.Option(metavar="GB", help="Bound for the memory of a training step, in GB.")
    ] = None,
) -> None:
    """Derive a plan from a data set, with a reason for each number."""
    from ..dataset import load_dataset
    from ..files import check_writable
    from ..planning import check_names
    from ..training import derive_plan
    from .progress import Display

    check_writable(out.parent)
    with Display() as display:
        counter = display.counter("Reading the data set")
        made = derive_plan(load_dataset(dataset), overrides or [], memory_gb=memory, progress=counter)
    check_names(made)
    made.save(out)
    reason = made.reasons.get("target.kind", "")
    typer.echo(f"The labels are {_kind_of(made)}" + (f": {reason}" if reason else ""))
    typer.echo(f"Wrote {out}")


@app.command(short_help="Train on a data set, or go on with a run.")
def train(
    dataset: Data,
    out: Out,
    overrides: Overrides = None,
    plan: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Plan to obey. Without it: that of the run, or one from the data."),
    ] = None,
    start: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Weights to begin with: a bundle, a run, a .pth or .safetensors file.",
        ),
    ] = None,
    fold: Annotated[int, typer.Option(metavar="N", help="Which validation set, counted from 0.")] = 0,
    device: Device = "auto",
) -> int:
    """Train on a data set, or go on with a run that was stopped; then test on unseen cases.

    Ctrl-C saves; the same command goes on.
    """
    from ..batch import BatchResult, Failure
    from ..dataset import load_dataset
    from ..jobs import score_unseen
    from ..training import fit, open_run, plan_for, start_from
    from .progress import Display, tell_failures

    failed: dict[str, Failure] = {}
    with Display() as display:
        cases = load_dataset(dataset)
        counter = display.counter("Reading the data set")
        chosen = plan_for(cases, out, plan, overrides or [], start=start, progress=counter)
        network = start_from(chosen, start) if start else None
        if network is not None:
            typer.echo(f"Begins with {network.started_from}")
        bundle = fit(chosen, cases, out, fold=fold, network=network, on_step=display.step, device=device)
        run = open_run(out)
        unseen = run.split.test or run.split.val
        if not unseen:
            typer.echo(f"Every case was trained on, so nothing is scored.\nThe model: {run.path}")
            return 0
        shown, _ = display.cases("Segmenting unseen cases", len(unseen))

        def on_case(name: str, failure: Failure | None) -> None:
            shown(name)
            failed.update({name: failure} if failure else {})

        scores = score_unseen(run, bundle, on_case=on_case)
    kind = "test" if run.split.test else "validation"
    typer.echo(f"Scores on {len(unseen) - len(failed)} {kind} cases:\n{scores}")
    typer.echo(f"\nThe model: {run.path}\nNext:      medseg report {run.path} -o report.html")
    done = {case.name: None for case in unseen if case.name not in failed}
    return tell_failures(BatchResult(done, tuple(failed.values())))


def _kind_of(plan: Any) -> str:
    """Say in words what a plan takes the labels for."""
    if plan.target.kind == "instances":
        return "instance maps (one value an object)"
    return f"label maps with the classes {', '.join(plan.target.scored)}"


@app.command(short_help="Segment images of any size.")
def predict(
    bundle: Model,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Images, or folders of images.")],
    out: Out,
    max_ram: Annotated[
        Gigabytes,
        typer.Option("--max-ram", metavar="GB", help="Bound for the memory of the whole process, in GB."),
    ] = None,
    flips: Annotated[
        bool, typer.Option("--flips", help="Average over flips and rotations: slower, a little better.")
    ] = False,
    device: Device = "auto",
    colours: Annotated[
        bool, typer.Option("--colours", help="Write PNG maps with a palette, and a table of the colours.")
    ] = False,
) -> int:
    """Segment images of any size; what cannot be done is told, and the rest is done."""
    from ..bundle import load_bundle
    from ..jobs import colour_maps, list_images, predict_files
    from .progress import Display, tell_failures

    found = list_images(images)
    model = load_bundle(bundle, device=device)
    with Display() as display:
        on_case, on_tile = display.cases("Segmenting", len(found))
        result = predict_files(
            model, found, out, max_ram_gb=max_ram, flips=flips, on_case=on_case, on_tile=on_tile
        )
    for case in result.done.values():
        said = (
            "label map"
            if case.objects < 0
            else "1 object"
            if case.objects == 1
            else f"{case.objects} objects"
        )
        typer.echo(f"{out / case.prediction}: {said}")
    if colours and result.done:
        colour_maps(out)
    return tell_failures(result)


@app.command(short_help="Answer a PACS: series in, results back.")
def serve(
    bundle: Model,
    settings: Annotated[Path, typer.Argument(metavar="SETTINGS", help="TOML file that says how.")],
    check: Annotated[
        bool, typer.Option("--check", help="Check the settings, ask the PACS once, and end.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Show what the service does and what it refused, and end.")
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try again what was refused or could not be sent.")
    ] = False,
    device: Device = "auto",
) -> int:
    """Receive series from a PACS, segment each when it is whole, and send results back, until SIGTERM."""
    from .serving import serve_pacs, show_status

    return (
        show_status(settings)
        if status
        else serve_pacs(bundle, settings, check=check, retry=retry, device=device)
    )


@app.command(short_help="Score predictions against references.")
def evaluate(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="File, or folder of maps.")],
    references: Annotated[
        Path,
        typer.Argument(metavar="REFERENCES", help="File, folder of maps of the same names, or data set."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="A .json or .csv file to write.")],
    metrics: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="NAMES", help="Separated by commas, such as dice,iou. By default by the kind of maps."
        ),
    ] = None,
    tolerance_mm: Annotated[
        float, typer.Option(min=0.0, help="Distance in mm within which surfaces agree, for nsd.")
    ] = 1.0,
    ignore: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(metavar="VALUE", help="Value of references that does not count, such as 255."),
    ] = None,
    together: Annotated[
        bool,
        typer.Option("--together", help="Score the pixels of all cases as one image: papers' mean IoU."),
    ] = False,
) -> int:
    """Score predictions against references of the same names."""
    from ..files import check_writable
    from ..jobs import evaluate_files, list_predictions
    from .progress import Display, tell_failures

    if out.suffix.lower() not in (".json", ".csv"):
        raise Refused(
            "unknown-suffix", "scores are a .json or .csv file", got=f"'{out.name}'", do="name it so"
        )
    check_writable(out.parent)
    chosen = [m.strip() for m in metrics.split(",") if m.strip()] if metrics else None
    with Display() as display:
        on_case, _ = display.cases("Scoring", len(list_predictions(predictions)))
        scores, result = evaluate_files(
            predictions,
            references,
            metrics=chosen,
            tolerance_mm=tolerance_mm,
            ignore=ignore or None,
            together=together,
            on_case=on_case,
        )
    if len(scores):
        scores.save(out)
        typer.echo(str(scores))
    return tell_failures(result)


@app.command(short_help="Write a page: worst cases first, curves, scores.")
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Run, or folder of predictions.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="HTML file to write.")] = Path(
        "report.html"
    ),
) -> None:
    """Write one self-contained page: the worst cases first, curves, scores, plan."""
    from ..jobs import report as write_report

    typer.echo(f"Wrote {write_report(folder, out).resolve()}")


@bundle_app.command("join", short_help="Join the models of several folds into one.")
def bundle_join(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE", help="Bundles or runs of one plan.")],
    out: Out,
) -> None:
    """Write one model whose probabilities are the mean of several, such as those of the folds of a plan."""
    from ..bundle import join_bundles, load_bundle

    path = join_bundles([load_bundle(bundle, device="cpu") for bundle in bundles], out)
    typer.echo(f"Wrote {path.resolve()}: {len(bundles)} models")


@bundle_app.command("show", short_help="Show a model, and check it.")
def bundle_show(bundle: Model) -> None:
    """Show a model's card and plan, and check it: checksums, golden output."""
    from ..bundle import load_bundle, verify_bundle

    found = load_bundle(bundle, device="cpu")
    difference = verify_bundle(found)
    typer.echo(f"{found.card}\n{found.plan.to_toml()}")
    typer.echo(f"{found.path}: checksums hold; golden output reproduced to {difference:.1e}")
