"""The pages in docs/: every command on them is one that the product or the board has."""

from __future__ import annotations

import configparser
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from sattn_edge import errors
from sattn_edge.cli import COMMANDS
from sattn_runtime.doctor.facts import jetpack_of, numbers

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
JETSON = (ROOT / "docs" / "jetson.md").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

ENTRY_POINTS = {
    "sattn-doctor": "sattn_runtime.doctor_commands:doctor_main",
    **{f"sattn-{name}": where for name, (where, _) in COMMANDS.items()},
}

# Commands of the board or the workstation, and where they are from.
OF_THE_BOARD = {
    ".": "the shell: reads a file into itself",
    "/usr/bin/python3": "Ubuntu's own Python; JetPack's TensorRT is for it",
    "apt": "Ubuntu's packages",
    "chmod": "coreutils",
    "fallocate": "util-linux, on every Ubuntu",
    "jetson_clocks": "L4T (package nvidia-l4t-tools)",
    "journalctl": "systemd",
    "mkswap": "util-linux",
    "nvpmodel": "L4T (package nvidia-l4t-nvpmodel)",
    "pip": "of the environment that step 2 makes",
    "scp": "OpenSSH, on the workstation",
    "swapon": "util-linux",
    "systemctl": "systemd",
    "usermod": "Ubuntu's package passwd",
}
# Where options decide whether a line works: those the page may use.
OPTIONS_OF_THE_BOARD = {
    "nvpmodel": {"-q", "-p", "--verbose", "-m"},
    "jetson_clocks": set(),
    "apt": set(),
    "pip": set(),
    "systemctl": {"--now"},
    "journalctl": {"--unit", "--follow"},
    "usermod": {"-aG"},
    "fallocate": {"-l"},
    "/usr/bin/python3": {"-m", "--system-site-packages"},
}
APT_PACKAGES = {"nvidia-jetpack", "python3-libnvinfer", "python3-venv"}


def console_lines(page: str) -> list[str]:
    """The commands of a page's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines)
    return [line.removeprefix("$ ") for line in lines]


def code_spans(page: str) -> list[str]:
    """The pieces of code within its sentences."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))


def unit_files(page: str) -> list[str]:
    return re.findall(r"```ini\n(.*?)```", page, re.DOTALL)


def product_command(prog: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The real command behind a name, caught where it would start to run."""
    module_name, function = ENTRY_POINTS[prog].split(":")
    module = importlib.import_module(module_name)
    caught: list[typer.Typer] = []
    monkeypatch.setattr(module, "run_app", lambda app, *_: caught.append(app))
    getattr(module, function)([])
    return typer.main.get_command(caught[0])


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def parsed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parses a line by the options of its command, without running it. Raises what the command would refuse with."""
    prog, *arguments = shlex.split(line)
    product_command(prog, monkeypatch).make_context(prog, arguments)


LINES = console_lines(JETSON)
OURS = [line for line in LINES if line.startswith("sattn")]
THEIRS = [line for line in LINES if not line.startswith("sattn")]
IN_UNITS = [
    found
    for unit in unit_files(JETSON)
    for found in re.findall(r"^ExecStart=.*?(sattn-\w+ [^'\n]*)", unit, re.MULTILINE)
]
SPANS = [span for span in code_spans(JETSON) if re.match(r"sattn-\w+ ", span) and "DIR" not in span]


def test_the_page_has_what_is_looked_for():
    """None of the lists below is empty because nothing matched."""
    assert len(OURS) >= 10
    assert len(THEIRS) >= 15
    assert len(IN_UNITS) == len(unit_files(JETSON)) == 1
    assert SPANS
    assert {shlex.split(line)[0] for line in OURS} == {"sattn-doctor", "sattn-build", "sattn-verify", "sattn-run"}


@pytest.mark.parametrize("line", [*OURS, *IN_UNITS, *SPANS])
def test_a_line_of_ours_is_one_the_command_takes(line, monkeypatch):
    parsed(line, monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        "sattn-build har.onnx --no-such-option",
        "sattn-run har.onnx",
        "sattn-verify har.onnx extra",
        "sattn-doctor --root",
    ],
)
def test_a_line_that_no_command_takes_is_seen(line, monkeypatch):
    """The control."""
    with pytest.raises(typer.BadParameter.__mro__[2]):
        parsed(line, monkeypatch)


def test_options_within_sentences_are_options_of_some_command(monkeypatch):
    known = set().union(
        *(options_of(product_command(prog, monkeypatch)) for prog in ENTRY_POINTS if "demo" not in prog)
    )
    used = {span.split()[0] for span in code_spans(JETSON) if span.startswith("--")}
    assert used
    assert used <= known


@pytest.mark.parametrize("line", THEIRS)
def test_a_line_of_the_boards_is_on_the_list(line):
    words = [word for word in shlex.split(line) if word != "sudo"]
    assert words[0] in OF_THE_BOARD, line
    options = {word for word in words[1:] if word.startswith("-")}
    if words[0] in OPTIONS_OF_THE_BOARD:
        assert options <= OPTIONS_OF_THE_BOARD[words[0]], line
    if words[:2] == ["apt", "install"]:
        assert set(words[2:]) <= APT_PACKAGES, line


def test_the_list_holds_nothing_that_the_page_does_not_use():
    assert {next(word for word in shlex.split(line) if word != "sudo") for line in THEIRS} == set(OF_THE_BOARD)


def test_extras_are_those_of_the_distribution():
    named = set(re.findall(r"sattn-edge\[(\w+)\]", JETSON))
    assert named == {"jetson6", "jetson7", "pycuda"}
    assert named <= set(PYPROJECT["project"]["optional-dependencies"])


def test_the_unit_file():
    (text,) = unit_files(JETSON)
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    assert unit.sections() == ["Unit", "Service", "Install"]
    service = unit["Service"]
    assert (service["Type"], service["Restart"], service["NotifyAccess"]) == ("notify", "on-failure", "all")
    assert float(service["TimeoutStopSec"]) > 2  # what draining may take
    assert float(service["WatchdogSec"]) >= 2
    assert "--resume" in service["ExecStart"]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")]
    given_up = {int(code) for code in service["RestartPreventExitStatus"].split()}
    assert given_up <= {kind.exit_code for kind in kinds}
    assert errors.UnavailableError.exit_code in given_up
    assert errors.SourceLostError.exit_code not in given_up  # a source may come back
    assert service["ExecStart"].startswith("/bin/sh -c '")
    assert service["ExecStart"].endswith("'")


def verify_unit(text: str, folder: Path) -> str:
    """What systemd itself has to say about a unit, of commands that this machine has."""
    unit = folder / "sattn.service"
    unit.write_text(text.replace("/usr/bin/jetson_clocks", "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return "\n".join(line for line in (done.stdout + done.stderr).splitlines() if "sattn.service" in line)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (package systemd)")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    (text,) = unit_files(JETSON)
    assert verify_unit(text, tmp_path) == ""
    # The control: it sees what is not right.
    assert "WatchdogSek" in verify_unit(text.replace("WatchdogSec", "WatchdogSek"), tmp_path)


def test_the_table_of_releases_is_the_doctors():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in JETSON.splitlines() if line.startswith("| ")
    ]
    assert len(rows) == 7
    for jetpack, l4t, _, cuda, tensorrt, python, here in rows[1:]:
        known = jetpack_of(numbers(l4t.split(",")[0].split(" to ")[0]) or (0,))
        assert known is not None, jetpack
        assert known.name.startswith(jetpack.split(",")[0].split(".")[0])
        assert (known.cuda, known.python) == (cuda, python)
        assert known.tensorrt.startswith(tensorrt.split(",")[0]), jetpack
        assert known.supported == (here == "yes")


def test_what_has_not_run_on_hardware_is_said_first():
    first = JETSON.splitlines()[2]
    assert first.startswith("**Nothing on this page has run on a Jetson, or on any GPU, yet.**")
