"""Test a finished run on the cases that it did not see."""

from __future__ import annotations

from collections.abc import Callable

from ..batch import Failure
from ..bundle import Bundle
from ..errors import Refused
from ..metrics import Scores
from ..training import Run
from .manifest import Manifest
from .predicting import predict_files
from .scoring import score_manifest

__all__ = ["score_unseen"]

UNSEEN, SCORES = "unseen", "scores.json"


def score_unseen(
    run: Run, bundle: Bundle, *, on_case: Callable[[str, Failure | None], None] | None = None
) -> Scores:
    """Predict and score a run's test cases, or its validation cases where it has no others.

    The maps, ``predictions.json`` and ``scores.json`` go to ``RUN/unseen``.

    Parameters
    ----------
    run : Run
        See `medseg.training.open_run`.
    bundle : Bundle
        Its model.
    on_case : callable, optional
        Called after each case with its name, and its `Failure` or None; once more for a case that was
        predicted but cannot be scored.

    Returns
    -------
    Scores
    """
    cases = run.split.test or run.split.val
    if not cases:
        raise Refused(
            "nothing-unseen",
            f"every case of '{run.path}' was trained on",
            do="predict images that were not, and score them by medseg evaluate",
        )
    folder = run.path / UNSEEN
    result = predict_files(bundle, {case.name: case for case in cases}, folder, on_case=on_case)
    if not result.done:
        raise Refused(
            "nothing-done",
            f"none of the {len(cases)} unseen cases could be segmented",
            got=result.failed[0].message,
            do="correct the images and run the same command again",
        )
    scores, scored = score_manifest(Manifest.load(folder))
    if on_case is not None:
        for failure in scored.failed:
            on_case(failure.case, failure)
    scores.save(folder / SCORES)
    return scores
