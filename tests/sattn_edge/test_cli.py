from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from sattn_edge import cli, command
from sattn_edge._version import __version__
from sattn_edge.errors import QualityError, UsageError
from tests.helpers_model import save_model


def run(args: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(args)
    return ended.value.code if isinstance(ended.value.code, int) else 0


@pytest.fixture(autouse=True)
def nothing_printed(monkeypatch):
    monkeypatch.setattr(command, "_printed_json", False)


def test_the_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"sattn-edge {__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", __version__)


def test_the_help_lists_every_command_with_what_it_does(capsys):
    assert run(["--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for name, (_, summary) in cli.COMMANDS.items():
        assert f"{name} {summary}" in out
    assert "Exit codes: 0 ok, 1 our bug" in out


def test_without_a_command_it_shows_the_help(capsys):
    assert run([]) == 2
    assert "Usage: sattn" in "".join(capsys.readouterr())


def test_an_unknown_command(capsys):
    assert run(["rnu"]) == 2
    assert "No such command 'rnu'" in capsys.readouterr().err


def test_a_command_under_the_umbrella_is_the_command_itself(capsys, tmp_path):
    path = save_model(tmp_path)
    assert run(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "small.onnx"


def test_its_help_is_its_own(capsys):
    assert run(["verify", "--help"]) == 0
    out = capsys.readouterr().out
    assert "Usage: sattn verify" in out
    assert "golden windows" in out


def test_its_exit_code_is_handed_on(capsys, tmp_path):
    assert run(["run", str(tmp_path / "no.onnx"), "replay:x.npz"]) == 3
    assert capsys.readouterr().err.startswith("error: ")


# ------------------------------------------------------------------ what all commands share


def ends(main: object, args: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        command.run_app(command.new_app(main), "prog", args)  # type: ignore[arg-type]
    return ended.value.code if isinstance(ended.value.code, int) else 0


def test_an_error_is_one_line_and_its_exit_code(capsys):
    def main(json_output: bool = False) -> None:
        raise QualityError("m", "is off", "0.1", "do it again")

    assert ends(main, []) == 4
    assert capsys.readouterr() == ("", "error: m: is off; 0.1; do it again\n")
    assert ends(main, ["--json-output"]) == 4
    out, _ = capsys.readouterr()
    assert json.loads(out) == {
        "error": {"kind": "QualityError", "message": "m: is off; 0.1; do it again"},
        "exit_code": 4,
    }


def test_an_error_behind_the_json_is_not_a_second_object(capsys):
    def main(json_output: bool = False) -> None:
        command.print_json({"passed": False})
        raise QualityError("m", "is off")

    assert ends(main, ["--json-output"]) == 4
    out, err = capsys.readouterr()
    assert json.loads(out) == {"passed": False}
    assert err == "error: m: is off\n"


def test_a_bug_shows_its_traceback(capsys):
    def main(json_output: bool = False) -> None:
        raise KeyError("x")

    assert ends(main, ["--json-output"]) == 1
    out, err = capsys.readouterr()
    assert "Traceback" in err
    assert "please report it" in err
    assert json.loads(out)["error"] == {"kind": "Bug", "message": "KeyError: 'x'"}


def test_an_interrupt_ends_with_130(capsys):
    def main() -> None:
        raise KeyboardInterrupt

    assert ends(main, []) == 130
    assert capsys.readouterr().err == "error: interrupted: nothing was written\n"


def test_colours_on_a_terminal_only(capsys, monkeypatch):
    def main() -> None:
        raise UsageError("x", "is wrong")

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert ends(main, []) == 2
    assert capsys.readouterr().err == "\x1b[1;31merror\x1b[0m: x: is wrong\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert ends(main, []) == 2
    assert capsys.readouterr().err == "error: x: is wrong\n"


def test_a_spinner_on_a_terminal_only(capsys):
    with command.working("slow"):
        pass
    assert capsys.readouterr() == ("", "")


def test_the_scripts_are_those_of_the_table():
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    scripts = dict(re.findall(r'^(sattn[\w-]*) = "([\w.]+:\w+)"$', text, re.MULTILINE))
    assert scripts.pop("sattn") == "sattn_edge.cli:main"
    assert scripts.items() <= {(f"sattn-{name}", where) for name, (where, _) in cli.COMMANDS.items()}
