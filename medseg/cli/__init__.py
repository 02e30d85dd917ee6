"""The command line: few lines a command, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 refused, 2 some cases failed.

    ``--debug`` anywhere among the arguments shows the traceback of a refusal.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    from .run import run

    code = run(words, debug=debug)
    if arguments is None:
        sys.exit(code)
    return code
