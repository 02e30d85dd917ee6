"""A run on disk: its plan, its split, its checkpoints, its history, and the bundle at its end."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..dataset import Case, Dataset, Split, load_dataset
from ..errors import Refused
from ..files import check_writable, sweep, write_text
from ..plan import Plan, load_plan
from ..tensors import load_tensors, save_tensors
from .starting import Start

__all__ = ["Run", "begin_run", "open_run", "restore", "save_checkpoint", "start_run"]

PLAN, SPLIT, START, HISTORY, LAST, BEST, BUNDLE = (
    "plan.toml",
    "split.json",
    "start.json",
    "history.json",
    "last.safetensors",
    "best.safetensors",
    "bundle",
)


@dataclass(frozen=True)
class Run:
    """A folder in which a training happens or has happened.

    Attributes
    ----------
    path : Path
        The folder.
    plan : Plan
        What is trained.
    split : Split
        Which cases train, choose the checkpoint, and are kept unseen.
    fold : int
        Which validation set.
    source : str
        Where the data set lies.
    root : str, optional
        Where the files of its cases lie, if that is not beside its TOML file.
    """

    path: Path
    plan: Plan
    split: Split
    fold: int
    source: str
    root: str | None = None

    @property
    def history(self) -> list[dict[str, float]]:
        """One row a validation."""
        file = self.path / HISTORY
        return list(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else []

    @property
    def start(self) -> dict[str, Any] | None:
        """The weights that the training began with: source, checksum and names; None where all were fresh."""
        file = self.path / START
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None

    @property
    def finished(self) -> bool:
        """Whether the training has come to its end and left a bundle."""
        return (self.path / BUNDLE / PLAN).is_file()


def start_run(plan: Plan, dataset: Dataset, out: str | Path, fold: int, start: Start | None = None) -> Run:
    """Open the run in a folder, or prepare a new one, of which `begin_run` writes the first files.

    A run of another plan or split, or that began with other weights, is refused.
    """
    path = Path(out)
    split = dataset.split(
        fold=fold, folds=plan.split.folds, test_fraction=plan.split.test_fraction, seed=plan.split.seed
    )
    source = str(Path(dataset.source or dataset.root).resolve())
    run = Run(path, plan, split, fold, source, _given_root(dataset))
    about = _split_text(run)
    _sweep(path)
    if (path / PLAN).is_file():
        _refuse_other(path, plan, about)
        _refuse_other_start(run, start)
        return run
    # these are written before the plan: without it they are of a run that was killed before it began
    if path.is_dir() and any(p.name not in (START, SPLIT) for p in path.iterdir()):
        raise Refused(
            "not-a-run",
            f"'{path}' holds other files",
            expected="an empty or new folder, or a run to go on with",
            do="choose another folder",
        )
    check_writable(path)
    return run


def begin_run(run: Run, start: Start | None = None) -> None:
    """Write start, split and plan of a new run; those of a run that goes on are there."""
    if not (run.path / PLAN).is_file():
        if start is None:
            (run.path / START).unlink(missing_ok=True)
        else:
            write_text(run.path / START, json.dumps(_about_start(start), indent=1) + "\n")
        write_text(run.path / SPLIT, _split_text(run))
        run.plan.save(run.path / PLAN)


def open_run(path: str | Path) -> Run:
    """Open a run that `fit` has begun.

    Raises
    ------
    Refused
        ``not-a-run``.
    """
    path = Path(path)
    if not ((path / PLAN).is_file() and (path / SPLIT).is_file()):
        raise Refused(
            "not-a-run",
            f"'{path}' is not a run",
            expected=f"a folder with {PLAN} and {SPLIT}",
            do="name the folder that 'medseg train' wrote",
        )
    about = json.loads((path / SPLIT).read_text(encoding="utf-8"))
    cases = {case.name: case for case in load_dataset(about["source"], root=about["root"]).cases}
    try:
        parts = {part: tuple(cases[name] for name in about[part]) for part in ("train", "val", "test")}
    except KeyError as error:
        raise Refused(
            "dataset-changed", f"the data set of '{path}' no longer has case {error}", got=about["source"]
        ) from error
    return Run(path, load_plan(path / PLAN), Split(**parts), about["fold"], about["source"], about["root"])


def save_checkpoint(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, about: Mapping[str, Any]
) -> None:
    """Write weights, the optimiser's state and a description in one file, whole or not at all."""
    tensors = {f"network/{name}": t for name, t in network.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": t for name, t in state.items() if torch.is_tensor(t)}
    save_tensors(path, tensors, about)


def restore(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Read a checkpoint into a network and an optimiser; return its description."""
    tensors, about = load_tensors(path)
    weights = {k.removeprefix("network/"): t for k, t in tensors.items() if k.startswith("network/")}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise Refused(
            "another-network",
            f"the checkpoint '{path}' belongs to another network",
            do="choose another folder",
        ) from error
    if optimizer is not None:
        owners = [p for group in optimizer.param_groups for p in group["params"]]
        states: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimizer/"):
                _, number, name = key.split("/", 2)
                owner = owners[int(number)]
                # in the memory format of its weights, as it was: another may be added up in another order
                like = torch.empty_like(owner).copy_(tensor) if tensor.shape == owner.shape else tensor
                states.setdefault(int(number), {})[name] = like.detach()
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return about


def _sweep(path: Path) -> None:
    """Delete the half-written files of a run that was killed."""
    for name in (PLAN, SPLIT, START, HISTORY, LAST, BEST):
        sweep(path / name)
    for left in path.glob(f".{BUNDLE}-*"):
        shutil.rmtree(left, ignore_errors=True)


def _refuse_other(path: Path, plan: Plan, about: str) -> None:
    stored = load_plan(path / PLAN)
    if stored != plan:
        ours, theirs = _flat(plan), _flat(stored)
        changed = [
            f"{key} = {ours[key]}, the run has {theirs[key]}" for key in ours if ours[key] != theirs[key]
        ]
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise Refused(
            "another-plan",
            f"'{path}' holds a run of another plan",
            got="; ".join(changed[:3]) + more,
            do="choose another folder, or leave plan and numbers out to go on with the run",
        )
    if (path / SPLIT).is_file() and json.loads((path / SPLIT).read_text()) != json.loads(about):
        raise Refused(
            "another-split",
            f"'{path}' holds a run on other cases or of another fold",
            do="choose another folder",
        )


def _refuse_other_start(run: Run, start: Start | None) -> None:
    """Refuse to go on with weights that a run did not begin with; a checkpoint has no need of them."""
    began = run.start
    if start is None:
        if began is None or (run.path / LAST).is_file() or run.finished:
            return
        got = "no weights"
    elif began is not None and began["sha256"] == start.sha256:
        return
    else:
        got = f"those of '{start.source}' ({start.sha256[:8]})"
    expected = "fresh ones" if began is None else f"those of '{began['source']}' ({began['sha256'][:8]})"
    raise Refused(
        "another-start",
        f"'{run.path}' holds a run that began with other weights",
        got=got,
        expected=expected,
        do="choose another folder, or start from the same weights",
    )


def _about_start(start: Start) -> dict[str, Any]:
    taken, left_out, fresh = start.loaded.loaded, start.loaded.left_out, start.loaded.untouched
    about = {"source": start.source, "sha256": start.sha256}
    return about | {"taken": taken, "left_out": left_out, "fresh": fresh}


def _flat(plan: Plan) -> dict[str, Any]:
    tables = tomllib.loads(plan.to_toml())
    return {
        f"{table}.{key}" if isinstance(content, dict) else table: value
        for table, content in tables.items()
        for key, value in (content.items() if isinstance(content, dict) else [(table, content)])
    }


def _given_root(dataset: Dataset) -> str | None:
    """Return where the files of a TOML file's cases lie, if that is not beside it."""
    source = dataset.source
    if source is None or source.suffix != ".toml" or source.parent == dataset.root:
        return None
    return str(dataset.root.resolve())


def _split_text(run: Run) -> str:
    def names(cases: tuple[Case, ...]) -> list[str]:
        return [case.name for case in cases]

    split = run.split
    about = {
        "source": run.source,
        "root": run.root,
        "fold": run.fold,
        "train": names(split.train),
        "val": names(split.val),
        "test": names(split.test),
    }
    return json.dumps(about, indent=1) + "\n"
