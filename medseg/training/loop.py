"""The training loop."""

from __future__ import annotations

import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from ..bundle import Bundle, load_bundle, save_bundle
from ..dataset import Dataset, load_dataset
from ..errors import Refused
from ..files import write_text
from ..losses import loss_of
from ..networks import fast_format, geometry_of, resolve_device, training_format
from ..plan import Plan
from ..planning import check_names, training_bytes
from ..sampling import PatchDataset, Samples, load_samples, patch_loader, refusals
from .card import card_text
from .freezing import freezing
from .largest import with_largest
from .optimisation import Loss, Stepper, learning_rate, make_optimizer
from .precision import with_precision
from .run import BEST, BUNDLE, HISTORY, LAST, Run, begin_run, restore, save_checkpoint, start_run
from .starting import encoder_of, fresh_network, start_of
from .validation import main_metric, validate

__all__ = ["StepInfo", "fit"]


@dataclass(frozen=True)
class StepInfo:
    """What `fit` tells after each step, and while it reads the data.

    Attributes
    ----------
    phase : {"reading", "training", "validating"}
        What is being done.
    step, steps : int
        Cases read, or steps done, and of how many.
    loss : float
        Of this step; NaN while reading.
    lr : float
        Learning rate of this step.
    seconds_left : float
        Expected time to the end of the training, validations included; NaN while it is not known.
    scores : dict
        The row of the history that this step added; empty for most.
    """

    phase: str
    step: int
    steps: int
    loss: float = math.nan
    lr: float = math.nan
    seconds_left: float = math.nan
    scores: dict[str, float] | None = None


def fit(
    plan: Plan,
    dataset: Dataset | str | Path,
    out: str | Path,
    *,
    fold: int = 0,
    network: nn.Module | None = None,
    loss: Loss | None = None,
    on_step: Callable[[StepInfo], None] | None = None,
    device: str | torch.device = "auto",
) -> Bundle:
    """Train a network, or go on with a training that was stopped.

    Parameters
    ----------
    plan : Plan
        Every number of the run, see `medseg.make_plan`.
    dataset : Dataset or path
        With labels.
    out : path
        The run's folder. If it holds a run of the same plan on the same cases, that run goes on, and ends
        with the same weights as if it had not been stopped (on the CPU bit for bit). A finished run is
        returned as it is.
    fold : int
        Which of ``plan.split.folds`` validation sets.
    network : torch.nn.Module, optional
        In place of the one that the plan names, such as that of `medseg.training.start_from`; its geometry is
        measured if it does not tell. It has an ``encoder`` where the plan freezes or slows that.
    loss : callable, optional
        ``loss(logits, target)``, in place of the one that the plan names; with ``target.border_weights`` it
        is called with ``weight=`` too.
    on_step : callable, optional
        Called with a `StepInfo` after each step.
    device : str or torch.device
        ``auto`` is a GPU where there is one.

    Returns
    -------
    Bundle
        The best checkpoint by the validation metric, from ``out/bundle``. Its plan says in which precision
        it predicts (``predict.precision``) and why.

    Raises
    ------
    Refused
        ``non-finite-loss`` (the last good checkpoint is kept), ``out-of-memory``, ``illegal-size``,
        ``another-plan``, ``another-split``, ``another-start``, ``not-a-run``, ``unknown-loss``,
        ``bad-network``, and what reading refuses.
    KeyboardInterrupt
        After Ctrl-C, once the step is done and saved. The same call goes on. A second Ctrl-C does not wait.

    References
    ----------
    Ronneberger et al., U-Net, MICCAI 2015, section 3: stochastic gradient descent with a momentum of 0.99 on
    one large tile a step; in a plan ``train.optimizer = "sgd"``, ``train.momentum = 0.99``,
    ``train.batch_size = 1``. The default is AdamW (Loshchilov, Hutter 2019) with warm-up and cosine decay.

    Examples
    --------
    >>> import tempfile, numpy, medseg
    >>> root = tempfile.mkdtemp()
    >>> for i in range(3):
    ...     rng = numpy.random.default_rng(i)
    ...     image, cells = medseg.phantoms.cells((48, 64), n=3 + i, diameter=10, rng=rng)
    ...     _ = medseg.write(image, f"{root}/cells/images/{i}.tif")
    ...     _ = medseg.write(cells, f"{root}/cells/labels/{i}.tif")
    >>> small = {"network.channels": (2, 4), "train.steps": 2, "train.workers": 0}
    >>> plan = medseg.make_plan(f"{root}/cells").with_values(small)
    >>> bundle = medseg.fit(plan, f"{root}/cells", f"{root}/run")
    >>> medseg.predict(bundle, image).labels.shape
    (48, 64)
    """
    dataset = dataset if isinstance(dataset, Dataset) else load_dataset(dataset)
    own = {"train.loss": loss, "network.name": network}
    check_names(plan, but=[key for key, given in own.items() if given is not None])
    if plan.network.members > 1:
        raise Refused(
            "bad-plan",
            "networks are trained one by one",
            got=f"network.members = {plan.network.members}",
            expected="1",
            do="train a run for each fold and join them: medseg bundle join RUN... -o DIR",
        )
    loss = loss_of(plan) if loss is None else loss
    where = resolve_device(device)
    start, given = start_of(network), network is not None
    network = fresh_network(plan) if network is None else network
    run = start_run(plan, dataset, out, fold, start)
    if run.finished:
        return load_bundle(run.path / BUNDLE, device=where, network=network)
    shrink = _checked_shrink(plan, network)
    _refuse_too_big(plan, network, where)
    network.to(where).to(memory_format=_format(plan, network, where)).train()  # type: ignore[call-overload]
    optimizer = make_optimizer(plan, network)
    state = _resume(run, network, optimizer)
    _check_frozen(plan, network, fresh=not given and not state.step)
    tell = on_step or (lambda info: None)

    def reading(done: int, of: int) -> None:
        tell(StepInfo("reading", done, of))

    with _scratch(run) as cache:
        train = load_samples(run.split.train, plan, cache=cache / "train", progress=reading)
        val = load_samples(_spread(run.split.val, plan.train.validate_cases), plan, cache=cache / "val")
        begin_run(run, start)  # not before the data is read: a refusal leaves nothing behind
        _train(run, state, network, optimizer, (train, val), shrink, loss, tell)
        restore(run.path / BEST, network)
        network.eval()
        plan = with_largest(with_precision(plan, network, val), network, val)
    save_bundle(run.path / BUNDLE, plan, network, card=card_text(run, state.best))
    return load_bundle(run.path / BUNDLE, device=where, network=network)


def _train(
    run: Run,
    state: _State,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    samples: tuple[Samples, Samples],
    shrink: Sequence[int],
    loss: Loss,
    tell: Callable[[StepInfo], None],
) -> None:
    """Take the steps that are left, validating and saving on the way."""
    (train, val), plan, steps = samples, run.plan, run.plan.train.steps
    where = next(network.parameters()).device
    patches = PatchDataset(train, plan, shrink=shrink, length=steps * plan.train.batch_size)
    loader = patch_loader(patches, plan, start=state.step, pin_memory=where.type == "cuda")
    clock = _Clock(state.step, steps)
    stepper = Stepper(plan, where, _format(plan, network, where))
    with _finish_step_on_ctrl_c() as stopped, refusals(), freezing(plan, network) as freeze:
        for batch in loader:
            lr = learning_rate(plan, state.step)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["factor"]
            freeze(state.step)
            with _step_randomness(plan.train.seed, state.step, where):
                value = stepper.step(batch, network, loss, optimizer)
            if not math.isfinite(value):
                raise _not_finite(run, f"the loss of step {state.step + 1} is", lr)
            state.step += 1
            state.losses.append(value)
            row = None
            if state.step % plan.train.validate_every == 0 or state.step == steps:
                tell(StepInfo("validating", state.step, steps, value, lr, clock.left(state.step)))
                row = _validate_and_save(run, state, network, optimizer, val, loss)
            tell(StepInfo("training", state.step, steps, value, lr, clock.left(state.step), row))
            if stopped.is_set():
                _save_last(run, state, network, optimizer)
                raise KeyboardInterrupt(
                    f"stopped and saved after step {state.step}. Run the same again to go on."
                )


@contextmanager
def _scratch(run: Run) -> Iterator[Path]:
    """Give a folder for prepared samples that do not fit into memory, and take it away again."""
    folder = run.path.parent / f".{run.path.name}-samples"
    shutil.rmtree(folder, ignore_errors=True)  # of a training that was killed
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _State:
    """What a checkpoint describes beside tensors; all randomness follows from ``step``."""

    step: int
    best: dict[str, float]
    history: list[dict[str, float]]
    losses: list[float]


def _resume(run: Run, network: nn.Module, optimizer: torch.optim.Optimizer) -> _State:
    if not (run.path / LAST).is_file():
        return _State(0, {}, [], [])
    about = restore(run.path / LAST, network, optimizer)
    if run.history != about["history"]:  # killed between the two files
        _write_history(run, about["history"])
    return _State(about["step"], about["best"], about["history"], about["losses"])


def _write_history(run: Run, history: list[dict[str, float]]) -> None:
    lines = ",\n ".join(json.dumps(row) for row in history)
    write_text(run.path / HISTORY, f"[{lines}]\n")


def _save_last(run: Run, state: _State, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if not all(bool(t.isfinite().all()) for t in network.state_dict().values()):
        raise _not_finite(run, f"weights after step {state.step} are", optimizer.param_groups[0]["lr"])
    about = {"step": state.step, "best": state.best, "history": state.history, "losses": state.losses}
    save_checkpoint(run.path / LAST, network, optimizer, about)


def _validate_and_save(
    run: Run, state: _State, network: nn.Module, optimizer: torch.optim.Optimizer, val: Any, loss: Loss
) -> dict[str, float]:
    """Validate, keep the best weights, write the checkpoint, then the history: each may be the last."""
    scores = validate(network, val, run.plan, loss)
    row = {
        "step": state.step,
        "loss": sum(state.losses) / len(state.losses),
        "lr": learning_rate(run.plan, state.step - 1),
        **{key: value for key, value in scores.items() if math.isfinite(value)},
    }
    if not math.isfinite(scores["val_loss"]) and len(val):
        raise _not_finite(run, f"the validation loss after step {state.step} is", row["lr"])
    metric = main_metric(run.plan)
    state.losses = []
    state.history.append(row)
    if not len(val) or not state.best or row.get(metric, -math.inf) > state.best.get(metric, -math.inf):
        state.best = row
        save_checkpoint(run.path / BEST, network, torch.optim.SGD([torch.zeros(1)]), {"step": state.step})
    _save_last(run, state, network, optimizer)
    _write_history(run, state.history)
    return row


@contextmanager
def _step_randomness(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Give a step (dropout) its own random numbers, and the caller's generators back afterwards."""
    number = (seed * 1_000_003 + step) % 2**63
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        # torch.manual_seed would seed devices that are not given back, too
        torch.default_generator.manual_seed(number)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield


class _Clock:
    """Tells how long the rest takes, from the steps of this call."""

    def __init__(self, step: int, steps: int) -> None:
        self.start, self.first, self.steps = time.monotonic(), step, steps

    def left(self, step: int) -> float:
        done = step - self.first
        return (time.monotonic() - self.start) / done * (self.steps - step) if done else math.nan


@contextmanager
def _finish_step_on_ctrl_c() -> Iterator[threading.Event]:
    """Let Ctrl-C wait for the end of the step, so that what is saved is the state of a whole step."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped  # only the main thread is told of Ctrl-C
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: Any) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handle)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def _check_frozen(plan: Plan, network: nn.Module, *, fresh: bool) -> None:
    """Refuse a network without an encoder, or with a fresh one, where the encoder is to stay as it is."""
    if plan.train.frozen_steps:
        encoder_of(network)
    if plan.train.frozen_steps and fresh:
        raise Refused(
            "bad-plan",
            "an encoder with fresh weights has nothing worth keeping",
            got=f"train.frozen_steps = {plan.train.frozen_steps}",
            do="start from a trained model, with --from or fit(network=start_from(...)), or set it to 0",
        )


def _checked_shrink(plan: Plan, network: nn.Module) -> tuple[int, ...]:
    geometry = geometry_of(network, plan.input.channels, plan.input.spatial_dims)
    geometry.output_size(plan.train.patch)  # refuses a patch that is no legal input size
    return geometry.shrink


def _format(plan: Plan, network: nn.Module, device: torch.device) -> torch.memory_format:
    if device.type == "cuda":
        return fast_format(plan.input.spatial_dims)
    return training_format(network, plan.input.channels, plan.train.patch)


def _refuse_too_big(plan: Plan, network: nn.Module, device: torch.device) -> None:
    needed = training_bytes(plan, network)
    cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if cuda else psutil.virtual_memory().available
    if needed > free:
        raise Refused(
            "out-of-memory",
            "a training step does not fit into memory",
            got=f"{free / 1e9:.1f} GB free",
            expected=f"{needed / 1e9:.1f} GB",
            do="use fewer network.channels, or a smaller train.patch or train.batch_size",
        )


def _not_finite(run: Run, what: str, lr: float) -> Refused:
    kept = "the last good checkpoint is kept" if (run.path / LAST).is_file() else "nothing was saved"
    return Refused(
        "non-finite-loss",
        f"{what} not finite",
        got=f"a learning rate of {lr:.2g}",
        do=f"lower train.lr in a new folder; {kept}",
    )


def _spread(cases: tuple[Any, ...], most: int) -> tuple[Any, ...]:
    """Return at most so many cases, evenly spread; 0 takes all."""
    if most == 0 or len(cases) <= most:
        return cases
    return tuple(cases[i * len(cases) // most] for i in range(most))
