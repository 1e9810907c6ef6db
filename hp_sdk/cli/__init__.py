"""The commands, and what they share: exit codes, one-line errors, `-v`.

    def main(argv: Sequence[str] | None = None) -> int:
        parser = new_parser("hp-thing", "What it does.")
        parser.add_argument("source")
        return run_command(parser, _thing, argv)        # _thing(options) -> exit code

Exit codes: 0 ok, 1 unexpected, 2 usage, 3 bad input or data, 4 model missing or damaged,
5 backend or hardware unavailable, 6 verification failed, 7 some items failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata

from hp_sdk.errors import HpError

SOME_FAILED = 7
INTERRUPTED = 130


def new_parser(name: str, description: str) -> argparse.ArgumentParser:
    """An argument parser with the options every command has."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="say more; a traceback when something fails"
    )
    parser.add_argument("--version", action="version", version=f"{name} {_version()}")
    return parser


def run_command(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
    *,
    intermixed: bool = False,
) -> int:
    """Parse `argv`, run the command, turn whatever it raises into one line and an exit code.

    `intermixed` allows options between positional arguments (not with sub-commands).
    """
    parse = parser.parse_intermixed_args if intermixed else parser.parse_args
    options = parse(argv)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format=f"{parser.prog}: %(message)s",
        stream=sys.stderr,
    )
    try:
        code = command(options) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail(parser.prog, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe has left (`| head`); keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except HpError as exc:
        _trace(options)
        return _fail(parser.prog, str(exc), exc.exit_code)
    except Exception as exc:  # noqa: BLE001 - the last line of defence of a program
        _trace(options)
        hint = "" if options.verbose else "; run again with -v for the traceback"
        return _fail(parser.prog, f"unexpected {type(exc).__name__}: {exc}{hint}", 1)
    return code


def report(name: str, message: str) -> None:
    """One line on stderr, whatever line breaks the message has."""
    print(f"{name}: {' '.join(message.split())}", file=sys.stderr)


def _fail(name: str, message: str, code: int) -> int:
    report(name, message)
    return code


def _trace(options: argparse.Namespace) -> None:
    if options.verbose:
        traceback.print_exc()


def _version() -> str:
    try:
        return metadata.version("hp-sdk")
    except metadata.PackageNotFoundError:
        return "(not installed)"
