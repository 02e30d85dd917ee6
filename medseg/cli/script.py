"""A script's ``main`` as a command line of its own, with the messages and exit codes of ``medseg``."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..batch import BatchResult
from ..metrics import Scores
from .progress import tell_failures
from .run import run

__all__ = ["Data", "Out", "Quick", "run_script"]

Data = Annotated[Path, typer.Argument(metavar="DATA", help="Folder with the data.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.")]
Quick = Annotated[bool, typer.Option("--quick", help="A trial of some minutes, to see that all fits.")]


def run_script(main: Callable[..., Any], arguments: list[str] | None = None) -> int:
    """Run a script's ``main`` with the words of a command line, and return its exit code.

    Parameters
    ----------
    main : callable
        Its parameters become the command's, as typer understands them; `Data`, `Out` and `Quick` annotate
        those that most scripts have. Of a `BatchResult` that it gives back the failures are told, of a
        tuple of `Scores` and `BatchResult` both. The first paragraph of its docstring is the help text.
    arguments : list of str, optional
        The words; by default those of the process, which then ends with the exit code.

    Returns
    -------
    int
        0 done, 1 refused (one line on stderr), 2 some cases failed, 130 stopped.

    Examples
    --------
    >>> def main(data: Data, out: Out, *, quick: Quick = False) -> None:
    ...     "Do something."
    ...     print(data, out, quick)
    >>> run_script(main, ["cells", "-o", "results", "--quick"])
    cells results True
    0
    """

    @functools.wraps(main)
    def command(*given: Any, **options: Any) -> int:
        return _tell(main(*given, **options))

    commands = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    commands.command(help=(inspect.getdoc(main) or "").split("\n\n")[0])(command)
    words = list(sys.argv[1:] if arguments is None else arguments)
    file = Path(inspect.getfile(main)).name
    code = run([w for w in words if w != "--debug"], debug="--debug" in words, commands=commands, name=file)
    if arguments is None:
        sys.exit(code)
    return code


def _tell(result: Any) -> int:
    """Print what a script gave back; return the exit code."""
    scores, batch = result if isinstance(result, tuple) else (None, result)
    if isinstance(scores, Scores):
        typer.echo(str(scores))
    return tell_failures(batch) if isinstance(batch, BatchResult) else 0
