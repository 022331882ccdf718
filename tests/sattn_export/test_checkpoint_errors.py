"""Checkpoints that can't be used: a clear error of the documented kind, nothing executed, nothing written."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch
from torch import nn

from sattn_edge.errors import CheckpointError, ContractError, QualityError, SattnEdgeError, UsageError
from tests.sattn_export.helpers_export import Bench, Case, contract_dict, make_bench, make_network, refused, write_toml

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("bad"))


class Evil:
    """Unpickled carelessly, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("form", ["torch.save", "legacy torch.save", "bare pickle", "inside a state_dict"])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_pickle_runs_no_code(form: str, suffix: str, bench: Bench) -> None:
    target = bench.folder / "executed"
    path = bench.folder / f"evil{suffix}"
    evil: Any = Evil(target)
    if form == "inside a state_dict":
        torch.save({**make_network(Case()).state_dict(), "fc.bias": evil}, path)
    elif form == "bare pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=form == "torch.save")
    refused(bench, CheckpointError, "holds pickled Python objects|is damaged, or no checkpoint", path)
    assert not target.exists()
    if form != "bare pickle":
        torch.load(path, weights_only=False)  # the control: loaded carelessly, it does
        assert target.exists()
        target.unlink()


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc(x.mean((1, 2)))
        return y


def test_a_whole_module_and_a_torchscript_archive(bench: Bench) -> None:
    torch.save(Whole(), bench.folder / "whole.pt")
    refused(bench, CheckpointError, r"whole.pt: holds pickled Python objects \(a whole module\?\); only plain tensors",
            bench.folder / "whole.pt")  # fmt: skip
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Whole(), torch.zeros(1, 1, 4, 3)).save(str(bench.folder / "script.pt"))
    refused(
        bench, CheckpointError, "is a TorchScript archive; a state_dict; save model.state", bench.folder / "script.pt"
    )


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


FILLINGS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"no checkpoint at all\n" * 40,
    "cut": _half,
    "one byte": lambda _: b"P",
    "noise": lambda _: np.random.default_rng(0).bytes(3000),
    "zeros": lambda _: bytes(2000),
    "a zip of something": lambda _: _zip_bytes(),
}


def _zip_bytes() -> bytes:
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme/hello.txt", "hello")
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".onnx", ".pt2"])
@pytest.mark.parametrize("filling", FILLINGS)
def test_damaged_files_under_every_suffix(suffix: str, filling: str, bench: Bench) -> None:
    source = bench.folder / f"good{suffix}"
    if not source.exists():
        _write_good(source, bench)
    path = bench.folder / f"bad{suffix}"
    path.write_bytes(FILLINGS[filling](source.read_bytes()))
    bench.output.unlink(missing_ok=True)
    with pytest.raises(SattnEdgeError, match=rf"bad{suffix}: ") as caught:
        bench.export(path, trust_code=True)
    assert caught.value.exit_code == 3
    assert bench.leftovers() == []


def _write_good(path: Path, bench: Bench) -> None:
    state = make_network(bench.case).state_dict()
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    elif path.suffix == ".onnx":
        bench.export()
        path.write_bytes(bench.output.read_bytes())
    else:
        torch.save(state, path)


def test_mutated_checkpoints_props(bench: Bench) -> None:
    """Cut and changed bytes: an error of the tree, or weights that are still a whole network's."""
    from sattn_export.state_dict import read_state_dict

    rng = np.random.default_rng(1)
    for suffix, kwargs in ((".pt", {}), (".pth", {"_use_new_zipfile_serialization": False}), (".safetensors", None)):
        path = bench.folder / f"mutated{suffix}"
        state = make_network(bench.case).state_dict()
        safetensors.torch.save_file(state, path) if kwargs is None else torch.save(state, path, **kwargs)
        data = path.read_bytes()
        bad = 0
        for i in range(120):
            changed = bytearray(data)
            for at in rng.integers(0, min(len(data), 3000), 1 + i % 8):
                changed[at] = rng.integers(0, 256)
            path.write_bytes(bytes(changed))
            try:
                read_state_dict(path)
            except CheckpointError:
                bad += 1
        assert bad > 20


def test_weights_that_are_not_numbers(bench: Bench) -> None:
    path = bench.folder / "nan.pt"
    base: dict[str, Any] = dict(make_network(bench.case).state_dict())
    for key, value, text in (
        ("fc.bias", torch.tensor([0.0, float("nan"), 0.0, 0.0]), "tensor 'fc.bias' holds NaN or Inf; finite weights"),
        ("fc.bias", torch.tensor([1e300, 0, 0, 0], dtype=torch.float64), "tensor 'fc.bias' holds NaN or Inf"),
        ("fc.bias", torch.zeros(4, dtype=torch.int8), "tensor 'fc.bias' is int8; floating-point weights"),
        ("fc.bias", torch.zeros(4, dtype=torch.complex64), "tensor 'fc.bias' is complex64; floating-point"),
        ("fc.bias", torch.zeros(4).to_sparse(), "tensor 'fc.bias' is sparse_coo float32; plain tensors with data"),
        ("fc.bias", torch.zeros(4, device="meta"), "tensor 'fc.bias' is meta float32; plain tensors"),
        ("fc.bias", [0.0] * 4, "'fc.bias' is a list; a state_dict"),
        (7, torch.zeros(4), "7 is a Tensor; a state_dict"),
    ):
        torch.save({**base, key: value}, path)
        refused(bench, CheckpointError, text, path)
    for value, text in (({}, "it holds no tensors"), ([1, 2], "holds a list; a state_dict"), (3.5, "holds a float")):
        torch.save(value, path)
        refused(bench, CheckpointError, text, path)


def test_wrong_names(bench: Bench) -> None:
    torch.save({}, bench.folder / "net.bin")
    refused(bench, CheckpointError, "has suffix '.bin'; one of .pt, .pth, .safetensors, .pt2, .onnx",
            bench.folder / "net.bin")  # fmt: skip
    refused(bench, CheckpointError, "is not there", bench.folder / "nobody.pt")
    refused(bench, CheckpointError, "is a folder", bench.folder)
    refused(bench, UsageError, "--weights: given with .* only with package.module:factory", weights=bench.folder)


def test_an_upper_case_suffix_is_one_too(bench: Bench) -> None:
    (bench.folder / "UPPER.PT").write_bytes(Path(bench.checkpoint).read_bytes())
    assert bench.export(bench.folder / "UPPER.PT").lowered.attention.changed == 2


def test_a_model_file_called_pt(bench: Bench) -> None:
    bench.export(output=bench.folder / "whole.onnx")
    (bench.folder / "renamed.pt").write_bytes((bench.folder / "whole.onnx").read_bytes())
    refused(bench, CheckpointError, "renamed.pt: is damaged, or no checkpoint", bench.folder / "renamed.pt")


# --- the contract ---------------------------------------------------------------------------------------------


def _channel(**changes: Any) -> dict[str, Any]:
    rows = contract_dict(Case())["channel"]
    rows[1] = {**rows[1], **changes}
    return {"channel": rows}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"windw": 32}, "unknown key 'windw'; did you mean 'window'"),
        ({"network": {"strid": 2}}, "unknown key 'strid'; did you mean 'stride'"),
        (_channel(mena=1.0), "unknown key 'mena'; did you mean 'mean'"),
        (_channel(mean=float("nan")), "channel 'ch1': mean is nan; a finite number"),
        (_channel(std=float("inf")), "channel 'ch1': std is inf; a finite number"),
        (_channel(std=0.0), "channel 'ch1': std is 0.0; above 0"),
        (_channel(std=1e-60), "channel 'ch1': mean -0.5 and std 1e-60 do not fit float32"),
        (_channel(mean=1e60), "channel 'ch1': mean 1e.60 and std 0.5 do not fit float32"),
        ({"window": 3}, "3 samples are too short for 2 blocks of stride 2; at least 4"),
        ({"labels": ["a"]}, "it names 1; the network has 4 classes"),
        (contract_dict(Case(modal=4)), r"it names 4 \(ch0, ch1, ch2, ch3\); the network takes 3"),
        ({"window": 100_000}, "one window of 100000 samples and 3 channels takes 1,200,000 bytes; at most 1,048,576"),
    ],
)  # fmt: skip
def test_contracts_that_do_not_hold(changes: dict[str, Any], text: str, bench: Bench) -> None:
    path = write_toml(bench.folder / "bad.toml", contract_dict(bench.case, **changes))
    assert refused(bench, ContractError, text, contract=path)


def test_contracts_that_are_none(bench: Bench) -> None:
    refused(bench, ContractError, "nobody.toml: can't be read", contract=bench.folder / "nobody.toml")
    (bench.folder / "text.toml").write_text("this is = = not toml")
    refused(bench, ContractError, "text.toml: is not TOML", contract=bench.folder / "text.toml")
    refused(bench, ContractError, "net.pt: can't be read", contract=Path(bench.checkpoint))


# --- the output -----------------------------------------------------------------------------------------------


def test_outputs_that_can_not_be_written(bench: Bench) -> None:
    for output, text in (
        (bench.folder / "out.pt", "--output: got .*out.pt'; a name that ends in .onnx"),
        (bench.folder / "missing" / "out.onnx", "folder '.*missing' is not there; make it first"),
        (Path(bench.checkpoint) / "out.onnx", "folder '.*net.pt' is not there"),
    ):
        refused(bench, UsageError, text, output=output)
    (bench.folder / "folder.onnx").mkdir()
    refused(bench, UsageError, "'.*folder.onnx' is a folder", output=bench.folder / "folder.onnx")
    assert not any((bench.folder / "folder.onnx").iterdir())


def test_a_folder_that_takes_no_files(bench: Bench) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc here")
    refused(bench, UsageError, "'/proc/self/out.onnx' can't be written", output=Path("/proc/self/out.onnx"))


def test_the_output_is_none_of_the_inputs(bench: Bench) -> None:
    path = bench.folder / "same.onnx"
    for key, value in (("checkpoint", path), ("contract", path), ("data", str(path)), ("weights", path)):
        path.write_bytes(b"keep me")
        with pytest.raises(UsageError, match="is also an input; another name"):
            bench.export(**{key: value}, output=path)
        assert path.read_bytes() == b"keep me"


def test_an_existing_file_survives_a_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph does not give what the checkpoint gives: exit code 4, and what stood there still stands."""
    bench.output.write_bytes(b"the old file")
    from sattn_export.passes.normalise import NormaliseInput

    before = NormaliseInput.__init__
    monkeypatch.setattr(
        NormaliseInput, "__init__", lambda self, means, stds: before(self, means, [2 * s for s in stds])
    )
    with pytest.raises(QualityError, match=r"out.onnx: its logits differ from the checkpoint's") as caught:
        bench.export()
    assert caught.value.exit_code == 4
    assert bench.output.read_bytes() == b"the old file"
    assert [p for p in bench.folder.iterdir() if p.name.endswith(".part")] == []


def test_infinite_logits_are_a_quality_error(bench: Bench) -> None:
    state = dict(make_network(bench.case).state_dict())
    state["fc.weight"] = torch.full_like(state["fc.weight"], 3e38)
    torch.save(state, bench.folder / "huge.pt")
    refused(bench, QualityError, "its logits are NaN or Inf on the golden windows", bench.folder / "huge.pt")
