"""What every command shares: how errors end it, how results are printed, how progress shows.

stdout takes the report, as text or as one JSON object; stderr is for people. Exit codes are those of `errors`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TextIO

import typer

from sattn_edge.errors import InterruptedTwiceError, SattnEdgeError

P = ParamSpec("P")

EXIT_CODES = (
    "Exit codes: 0 ok, 1 our bug, 2 usage or contract, 3 bad input file or data, 4 quality gate failed, "
    "5 a budget was missed, 6 device, backend or engine missing, 7 digest mismatch, 8 source lost, "
    "130 interrupted twice."
)
# What typer raises for an option it refuses; typer carries its own copy of click, so the class has no other name.
_RefusedError: Any = typer.BadParameter.__mro__[2]
_READER_LEFT = 141  # what a shell shows for a command that SIGPIPE ended
_printed_json = False
JSON_HELP = "Print one JSON object instead of text."


def new_app(main: Callable[..., None]) -> typer.Typer:
    """A typer application of one command, `main`, whose errors become exit codes."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(epilog=EXIT_CODES)(handled(main))
    return app


def run_app(app: typer.Typer, prog: str, args: list[str] | None) -> None:
    """Runs an application under the name the user typed, and ends the process with its exit code."""
    global _printed_json
    _printed_json = False
    arguments = sys.argv[1:] if args is None else args
    try:
        code = app(args=arguments, prog_name=prog, standalone_mode=False)
    except _RefusedError as error:
        error.show()
        _print_json_error("UsageError", error.format_message(), error.exit_code, as_json="--json" in arguments)
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def handled(main: Callable[P, None]) -> Callable[P, None]:
    """Wraps a command: an error of ours is printed and ends it with its exit code, anything else is our bug."""

    @functools.wraps(main)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("json_output"))
        try:
            main(*args, **kwargs)
        except SattnEdgeError as error:
            fail(error, as_json=as_json)
        except KeyboardInterrupt:
            fail(InterruptedTwiceError("interrupted", "nothing was written"), as_json=as_json)
        except typer.Exit:
            raise
        except BrokenPipeError as error:
            # The reader of our stdout left (`| head`): not an error of ours. Python would complain again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(_READER_LEFT) from error
        except Exception as error:
            traceback.print_exc()
            sys.stderr.write("\nThis is a bug in sattn-edge: please report it with the lines above.\n")
            _print_json_error("Bug", f"{type(error).__name__}: {error}", 1, as_json=as_json)
            raise typer.Exit(1) from error

    return wrapper


def fail(error: SattnEdgeError, *, as_json: bool) -> None:
    """Prints an error and ends the command with its exit code."""
    label = "\x1b[1;31merror\x1b[0m" if in_colour(sys.stderr) else "error"
    sys.stderr.write(f"{label}: {error}\n")
    _print_json_error(type(error).__name__, str(error), error.exit_code, as_json=as_json)
    raise typer.Exit(error.exit_code) from error


def _print_json_error(kind: str, message: str, code: int, *, as_json: bool) -> None:
    if as_json and not _printed_json:
        print_json({"error": {"kind": kind, "message": message}, "exit_code": code})


def print_json(value: object, *, to_stderr: bool = False) -> None:
    """One JSON object on stdout, or on stderr where stdout is taken; an error after it is not told in JSON again."""
    import msgspec

    global _printed_json
    _printed_json = True

    encoded = msgspec.json.format(msgspec.json.encode(value), indent=2)
    print_lines([encoded.decode()], to_stderr=to_stderr)


def print_lines(lines: list[str], *, to_stderr: bool = False) -> None:
    """A text report on stdout, or on stderr where stdout is taken."""
    stream = sys.stderr if to_stderr else sys.stdout
    stream.write("\n".join(lines) + "\n")
    stream.flush()


def tell(message: str) -> None:
    """A line for the person at the terminal."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def working(message: str) -> Iterator[None]:
    """A spinner while something slow goes on, on a terminal only."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(message):
        yield


def in_colour(stream: TextIO) -> bool:
    """Whether to write colours: on a terminal, unless NO_COLOR is set."""
    return bool(stream.isatty()) and "NO_COLOR" not in os.environ
