"""From words to an exit code: every refusal is one line."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

import typer

from ..errors import Refused, did_you_mean
from .commands import app

__all__ = ["run"]

INTERRUPTED = 130  # as shells have it
# typer carries its own copy of click from some version on; this base class is the same in both
UsageError: Any = typer.BadParameter.__base__


def run(words: list[str], *, debug: bool) -> int:
    """Run one command.

    Examples
    --------
    >>> run(["--version"], debug=False)
    medseg 0.1.0
    0
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    command = typer.main.get_command(app)
    try:
        code = command.main(words, prog_name="medseg", standalone_mode=False)
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
        return 1


def _say(line: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"medseg: {line}", file=sys.stderr)
    return 1


def _usage(error: Any, command: Any) -> str:
    """One line for wrong words: with the nearest command or option, else with where to read on."""
    message = " ".join(error.format_message().split())
    if message.startswith("No such command") and "'" in message:
        name = message.split("'")[1]
        known = getattr(error.ctx.command if error.ctx else command, "commands", {})
        return f"unknown command '{name}'. {_capital(did_you_mean(name, known))}"
    path = error.ctx.command_path if error.ctx else "medseg"
    return f"{message} Try '{path} --help'."


def _capital(text: str | None) -> str:
    return text[0].upper() + text[1:] if text else ""
