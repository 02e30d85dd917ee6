"""One call for a night: studies found, done in children with limits, listed on one page."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..bundle_files import PLAN, BundleFiles, find_bundle
from ..plan import Plan
from ..version import __version__
from .children import ChildSetup
from .finding import check_folders
from .limits import Limits
from .models import check_plan, model_of
from .night import Night, Progress
from .options import StudyOptions
from .outcomes import NightResult, Outcome
from .study import rules_of

__all__ = ["open_night", "run_studies"]

_JOB = "medseg.radiology.job:StudyJob"


def open_night(
    bundle: str | Path,
    out: str | Path,
    *,
    series: str | Path | None = None,
    limits: Limits | None = None,
    jobs: int = 1,
    options: StudyOptions | None = None,
    device: str = "auto",
    job: str = _JOB,
) -> Night:
    """Open a folder of results for studies, see `run_studies` for the parameters; use it with ``with``.

    ``job`` names what the children do, as "module:name" of a `StudyJob`.

    Examples
    --------
    >>> import tempfile
    >>> with open_night("hippocampus", tempfile.mkdtemp()) as night:
    ...     night.asked_by = "the night shift"
    ...     found = night.find([])
    ...     night.run(found).outcomes
    ()
    """
    options, limits = options or StudyOptions(), limits or Limits()
    path = find_bundle(bundle)
    BundleFiles(path).check_sums()
    plan = Plan.from_toml(BundleFiles(path).text(PLAN), source=f"'{path}/{PLAN}'")
    check_plan(plan)
    model = model_of(path)
    rules = _rules(series)
    settings = {
        "model": model["weights_sha256"],
        "plan": model["plan_sha256"],
        "rules": json.dumps(rules, sort_keys=True),
        "options": json.dumps(options.settings(), sort_keys=True),
    }
    setup = {
        "bundle": os.fspath(path),
        "series": rules,
        "options": options.settings(),
        "device": device,
        "threads": max(1, (os.cpu_count() or 1) // max(1, jobs)),
    }
    about = {"medseg": __version__, "model": model}
    children = ChildSetup(job, setup)
    return Night(Path(out), children, settings, limits=limits, jobs=jobs, about=about, model=plan.name)


def run_studies(
    bundle: str | Path,
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    on_study: Callable[[Outcome], None] | None = None,
    progress: Progress | None = None,
    again: bool = False,
    asked_by: str = "",
    **how: Any,
) -> NightResult:
    """Segment all studies in folders, each in a child process with limits, and write a page on all of them.

    Killed at any moment and called again with the same words, it goes on where it was.

    Parameters
    ----------
    bundle : path or str
        A model, see `process_study`.
    folders : sequence of path
        Each a study or a folder of studies, in any depth; files are sorted by what their headers say.
    out : path
        Gets a folder of results for each study, ``night.html``, ``quarantine/`` with a list of what could not
        be done and why, ``audit.jsonl``, and the journal that a further call goes on from. The studies
        themselves are only read.
    on_study, progress : callable, optional
        See `Night.run`.
    again : bool
        Whether refused studies are tried again although their files are the same.
    asked_by : str
        Who asked, for the audit.
    **how
        ``series``: rules for the series, as text (``modality=CT,thickness_mm=1:3``) or a TOML file;
        ``limits``: `Limits` of one study; ``jobs``: children at the same time; ``options``: `StudyOptions`;
        ``device``: see `medseg.load_bundle`.

    Returns
    -------
    NightResult

    Raises
    ------
    Refused
        What no study could be done with: ``unknown-bundle``, ``bad-bundle``, ``not-organs``, ``bad-rule``,
        ``not-found``, ``in-use``, ``other-settings``, ``unwritable``.
    """
    from .night_page import write_night

    check_folders(folders)  # before anything is written
    with open_night(bundle, out, **how) as night:
        night.asked_by = asked_by
        found = night.find(folders, progress=progress)
        result = night.run(found, again=again, on_study=on_study, progress=progress)
        options = how.get("options") or StudyOptions()
        write_night(Path(out), result, model=night.model, options=options)
    return result


def _rules(series: Any) -> dict[str, Any] | None:
    """Rules as a child takes them, read once: a file may change during the night."""
    rules = rules_of(series)
    return None if rules is None else asdict(rules)
