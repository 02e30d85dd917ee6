"""From words to an exit code: every refusal is one line."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from ..errors import Refused, did_you_mean
from .commands import app

__all__ = ["run"]

INTERRUPTED = 130  # as shells have it
# typer carries its own copy of click from some version on; this base class is the same in both
UsageError: Any = typer.BadParameter.__base__


def run(words: list[str], *, debug: bool, commands: typer.Typer = app, name: str = "medseg") -> int:
    """Run one command of ``medseg``, or of the script that has ``commands``.

    Examples
    --------
    >>> run(["--version"], debug=False)
    medseg 0.1.0
    0
    """
    command = typer.main.get_command(commands)
    if not words:
        words = ["--help"]
    try:
        with _messages(debug):
            # the parts of command.main, which would put words of its own between a Ctrl-C and its message
            with command.make_context(name, list(words)) as context:
                code = command.invoke(context)
            sys.stdout.flush()
        return int(code or 0)
    except Refused as error:
        return _say(str(error), debug)
    except UsageError as error:
        return _say(_usage(error, command), debug)
    except typer.Exit as error:
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort) as error:
        print(f"medseg: {error or 'stopped'}", file=sys.stderr)
        return INTERRUPTED
    except MemoryError:
        return _say("not enough memory. Give --max-ram, or a smaller network or patch.", debug)
    except BrokenPipeError:
        # the reader of a pipe has gone, as `head` does; Python would say so once more as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _say(f"{error.strerror or type(error).__name__}: '{error.filename or error}'.", debug)
    except Exception as error:
        # whatever is wrong in medseg itself: the user is owed one line here, too
        first = (str(error).splitlines() or ["no message"])[0]
        line = f"unexpected {type(error).__name__}: {first.rstrip('.')}."
        return _say(f"{line} Add --debug for the traceback, and report it.", debug)


@contextmanager
def _messages(debug: bool) -> Iterator[None]:
    """Show what medseg logs as notes; other libraries' logs and warnings only with ``--debug``."""
    ours, root = logging.getLogger("medseg"), logging.getLogger()
    notes, quiet, level = _Notes(debug), logging.NullHandler(), ours.level
    ours.addHandler(notes)
    if not debug:
        root.addHandler(quiet)
    ours.setLevel(logging.DEBUG if debug else logging.WARNING)
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")
            yield
    finally:
        ours.removeHandler(notes)
        root.removeHandler(quiet)
        ours.setLevel(level)


class _Notes(logging.Handler):
    """Writes to the stderr of the moment, which a progress bar replaces while it is shown."""

    def __init__(self, debug: bool) -> None:
        super().__init__(logging.DEBUG if debug else logging.WARNING)
        self.debug = debug

    def emit(self, record: logging.LogRecord) -> None:
        """Write one note; the traceback of a case that failed only with ``--debug``."""
        if self.debug and record.exc_info:
            print(f"{record.getMessage()}\n{_traceback(record)}", file=sys.stderr)
        elif self.debug or not record.exc_info:
            print(f"medseg: note: {record.getMessage()}", file=sys.stderr)


def _traceback(record: logging.LogRecord) -> str:
    return "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""


def _say(line: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"medseg: {line}", file=sys.stderr)
    return 1


def _usage(error: Any, command: Any) -> str:
    """One line for wrong words: with the nearest command or option, else with where to read on."""
    message = " ".join(error.format_message().split())
    context = error.ctx
    if message.startswith("No such command") and "'" in message:
        name = message.split("'")[1]
        known = getattr(context.command if context else command, "commands", {})
        return f"unknown command '{name}'. {_capital(did_you_mean(name, known))}"
    if (option := getattr(error, "option_name", None)) and message.startswith("No such option"):
        parameters = context.command.params if context else []
        known = [name for p in parameters for name in (*p.opts, *p.secondary_opts) if name.startswith("-")]
        return f"unknown option '{option}'. {_capital(did_you_mean(option, [*known, '--debug', '--help']))}"
    path = context.command_path if context else "medseg"
    return f"{message[0].lower()}{message[1:].rstrip('.')}. Try '{path} --help'."


def _capital(text: str | None) -> str:
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")
