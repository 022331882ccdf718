"""The README's commands and its Python work as they stand."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's files and the model the README's first command makes."""
    pytest.importorskip("tensorrt_rtx")  # what it compiles needs no GPU
    path = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "sattn_edge" / "demo_data", path / "sattn-demo")
    for line in "".join(_blocks("console")).splitlines():
        command, *arguments = shlex.split(line.removeprefix("$ "))
        done = subprocess.run(
            [sys.executable, "-m", "sattn_edge", command.removeprefix("sattn-"), *arguments],
            cwd=path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout, line
    return path


def test_commands_run_and_write_what_they_say(folder: Path) -> None:
    assert len(_blocks("console")) == 9
    assert (folder / "har.onnx").is_file()
    assert (folder / "lowered.onnx").is_file()
    assert (folder / "decisions.jsonl").is_file()
    assert (folder / "log.jsonl").is_file()
    assert (folder / "trace.json").is_file()


def test_the_attention_in_the_journal_is_as_described(folder: Path) -> None:
    (told,) = (json.loads(f"{{{block}}}") for block in _blocks("json"))
    rows = [json.loads(line) for line in (folder / "attention.jsonl").read_text().splitlines()]
    judged = [row for row in rows if row["type"] == "window" and row["label"] is not None]
    assert judged
    for row in judged:
        assert row["attention"].keys() == told["attention"].keys()
        assert len(row["attention"]["relative"]) == 32
        assert row["first_sample"] <= row["attention"]["peak_sample"] <= row["last_sample"]


def test_python_runs(folder: Path) -> None:
    (code,) = _blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 7  # (500 - 200) // 50 + 1


def test_contract_in_the_readme_is_one(tmp_path: Path) -> None:
    from sattn_edge.contract import load_contract

    (tmp_path / "c.toml").write_text(_blocks("toml")[0])
    contract = load_contract(tmp_path / "c.toml")
    assert contract.labels == load_contract(ROOT / "sattn_edge/demo_data/watch.toml").labels
    assert contract.channel_names == ("ax",)  # the rest is left out in the README
