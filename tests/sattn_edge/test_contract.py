from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.contract import Channel, Contract, NetworkHints, contract_from_dict, load_contract
from sattn_edge.errors import ContractError, UsageError
from sattn_edge.model_file import canonical_json

TEXT = """
rate_hz = 50.0
window = 128
hop = 64
labels = ["walking", "sitting"]

[[channel]]
name = "acc_x"
unit = "g"
mean = 0.8
std = 0.4
min = -8.0
max = 8

[[channel]]
name = "acc_y"
mean = 0
std = 1

[network]
stride = 1
pooling = "mean+max"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.toml"


def raw(**changes: Any) -> dict[str, Any]:
    """A contract as plain data; a change of None takes a key out."""
    rows = {"rate_hz": 50.0, "window": 8, "hop": 4, "labels": ["a", "b"], "channel": [{"name": "x"}, {"name": "y"}]}
    return {k: v for k, v in {**rows, **changes}.items() if v is not None}


def test_the_file_of_the_docs(path):
    path.write_text(TEXT)
    contract = load_contract(path)
    assert contract == Contract(
        50.0,
        128,
        64,
        ("walking", "sitting"),
        (Channel("acc_x", "g", 0.8, 0.4, -8.0, 8.0), Channel("acc_y", "", 0.0, 1.0)),
        NetworkHints(1, "mean+max"),
    )
    assert (contract.modal, contract.channel_names) == (2, ("acc_x", "acc_y"))
    assert (contract.means, contract.stds) == ((0.8, 0.0), (0.4, 1.0))
    assert (contract.hop_s, contract.window_s) == (1.28, 2.56)


def test_what_is_left_out():
    contract = contract_from_dict(raw(), "c")
    assert (contract.means, contract.stds) == ((0.0, 0.0), (1.0, 1.0))
    assert contract.network == NetworkHints(2, None)
    assert isinstance(contract_from_dict(raw(rate_hz=50), "c").rate_hz, float)


@pytest.mark.parametrize(("window", "hop"), [(1, 1), (7, 13), (2047, 1), (3, 100)])
def test_any_window_and_hop(window, hop):
    contract = contract_from_dict(raw(window=window, hop=hop), "c")
    assert (contract.window, contract.hop) == (window, hop)


def channel(**keys: Any) -> list[dict[str, Any]]:
    return [{"name": "x", **keys}, {"name": "y"}]


BOTH = {"mean": 0.0, "std": 1.0}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no rate": (raw(rate_hz=None), "c: missing key `rate_hz`; a contract has rate_hz, window, hop, labels and one"),
    "no channel": (raw(channel=None), "c: missing key `channel`"),
    "no name": (raw(channel=[{}]), "c: missing key `name` at `channel[0]`"),
    "window text": (raw(window="8"), "c: Expected `int`, got `str` at `window`"),
    "window half": (raw(window=8.5), "c: Expected `int`, got `float` at `window`"),
    "window bool": (raw(window=True), "c: Expected `int`, got `bool` at `window`"),
    "labels": (raw(labels="ab"), "c: Expected `array`, got `str` at `labels`"),
    "pooling": (raw(network={"pooling": "sum"}), "c: Invalid enum value 'sum' at `network.pooling`"),
    "no table": ([1], "c: Expected `object`, got `array`"),  # type: ignore[dict-item]
    "rate 0": (raw(rate_hz=0), "c: rate_hz is 0.0; samples a second, above 0"),
    "rate nan": (raw(rate_hz=math.nan), "c: rate_hz is nan; samples a second, above 0"),
    "rate inf": (raw(rate_hz=math.inf), "c: rate_hz is inf; "),
    "window 0": (raw(window=0), "c: window is 0; a number of samples, 1 or more"),
    "hop -1": (raw(hop=-1), "c: hop is -1; a number of samples, 1 or more"),
    "stride 0": (raw(network={"stride": 0}), "c: stride is 0; a number of samples, 1 or more"),
    "labels empty": (raw(labels=[]), "c: labels is empty; one label per class, in the order of the logits"),
    "label blank": (raw(labels=["a", " "]), "c: label 1 has an empty name; every label has a name"),
    "label twice": (raw(labels=["a", "b", "a"]), "c: label 'a' stands twice; every label has its own name"),
    "channels empty": (raw(channel=[]), "c: there is no [[channel]]; one per sensor channel, in the network's"),
    "channel blank": (raw(channel=[{"name": ""}]), "c: channel 0 has an empty name"),
    "channel twice": (raw(channel=[{"name": "x"}] * 2), "c: channel 'x' stands twice; every channel has its own"),
    "mean only": (raw(channel=channel(mean=1.0)), "c, channel 'x': only one of mean and std is given; both, or"),
    "std only": (raw(channel=channel(std=1.0)), "c, channel 'x': only one of mean and std is given"),
    "one of two": (raw(channel=channel(**BOTH)), "c, channel 'y': mean and std are missing, other channels have"),
    "std 0": (raw(channel=channel(mean=0, std=0)), "c, channel 'x': std is 0.0; above 0; leave a constant channel"),
    "mean nan": (raw(channel=channel(mean=math.nan, std=1)), "c, channel 'x': mean is nan; a finite number"),
    "max inf": (raw(channel=channel(max=math.inf)), "c, channel 'x': max is inf; a finite number"),
    "range": (raw(channel=channel(min=2, max=2)), "c, channel 'x': min 2.0 is not below max 2.0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_by_name(case):
    value, text = REFUSED[case]
    with pytest.raises(ContractError, match=re.escape(text)) as caught:
        contract_from_dict(value, "c")
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, UsageError)


UNKNOWN = {
    "near": (raw(windw=8), "c: unknown key 'windw'; did you mean 'window'?"),
    "far": (raw(colour=1), "c: unknown key 'colour'; known: channel, hop, labels, network, rate_hz, window"),
    "channel": (raw(channel=channel(units="g")), "c, channel 'x': unknown key 'units'; did you mean 'unit'?"),
    "unnamed": (raw(channel=[{"nam": "x"}]), "c, channel 0: unknown key 'nam'; did you mean 'name'?"),
    "network": (raw(network={"strides": 2}), "c, [network]: unknown key 'strides'; did you mean 'stride'?"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_unknown_key_is_named_with_the_nearest(case):
    value, text = UNKNOWN[case]
    with pytest.raises(ContractError, match=re.escape(text)):
        contract_from_dict(value, "c")


def test_the_smallest_that_is_accepted():
    """The control: what stands right beside the bounds above goes through."""
    rows = [{"name": "x", "mean": 0, "std": 1e-30, "min": -1e-9, "max": 0}]
    contract = contract_from_dict(raw(rate_hz=1e-9, window=1, hop=1, labels=["a"], channel=rows), "c")
    assert contract.channel[0].std == 1e-30


def test_files_that_are_no_contract(path, tmp_path):
    with pytest.raises(ContractError, match=r"none\.toml: can't be read \(.*No such file.*\); a contract is a TOML"):
        load_contract(tmp_path / "none.toml")
    with pytest.raises(ContractError, match="can't be read"):
        load_contract(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ContractError, match=r"c\.toml: can't be read \(.*utf-8.*\)"):
        load_contract(path)
    path.write_text("window: 8\n")
    with pytest.raises(ContractError, match=r"c\.toml: is not TOML \(.*line 1.*\); a contract is a TOML file"):
        load_contract(path)


@pytest.mark.parametrize("value", [f"{'[' * 5000}{']' * 5000}", "9" * 5000])
def test_toml_that_is_too_much(path, value):
    path.write_text(f"window = {value}\n")
    with pytest.raises(ContractError, match=r"c\.toml: "):
        load_contract(path)


# ------------------------------------------------------------------ TOML -> Contract -> JSON -> Contract


def _allowed(name: str) -> bool:
    return bool(name.strip()) and name.isprintable()


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(_allowed)
numbers = st.floats(-1e30, 1e30)


@st.composite
def channels(draw: st.DrawFn) -> list[dict[str, Any]]:
    normal, rows = draw(st.booleans()), []
    for name in draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        row: dict[str, Any] = {"name": name}
        if draw(st.booleans()):
            row["unit"] = draw(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=4))
        if normal:
            row |= {"mean": draw(numbers), "std": draw(st.floats(1e-30, 1e30))}
        if draw(st.booleans()):
            row["min"], row["max"] = sorted(draw(st.lists(numbers, min_size=2, max_size=2, unique=True)))
        rows.append(row)
    return rows


contracts = st.fixed_dictionaries(
    {
        "rate_hz": st.floats(1e-6, 1e9),
        "window": st.integers(1, 2**40),
        "hop": st.integers(1, 2**40),
        "labels": st.lists(names, min_size=1, max_size=5, unique=True),
        "channel": channels(),
    },
    optional={
        "network": st.fixed_dictionaries(
            {"stride": st.integers(1, 9)}, optional={"pooling": st.sampled_from(["mean", "max", "mean+max"])}
        )
    },
)


def toml_value(value: Any) -> str:
    if isinstance(value, str):
        # JSON's strings are TOML's, but for the one control character that JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return f"[{', '.join(map(toml_value, value))}]" if isinstance(value, list) else repr(value)


def toml_text(data: dict[str, Any]) -> str:
    def rows(table: dict[str, Any]) -> list[str]:
        return [f"{k} = {toml_value(v)}" for k, v in table.items() if k not in ("channel", "network")]

    lines = rows(data)
    for row in data["channel"]:
        lines += ["[[channel]]", *rows(row)]
    return "\n".join([*lines, *(["[network]", *rows(data["network"])] if "network" in data else [])])


@settings(deadline=None, max_examples=80)
@given(data=contracts)
def test_a_contract_survives_every_form(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "contract.toml"
    path.write_text(toml_text(data), encoding="utf-8", newline="")
    contract = load_contract(path)
    assert contract == contract_from_dict(data, "data")
    text = canonical_json(contract)
    again = contract_from_dict(msgspec.json.decode(text), "json")
    assert again == contract
    assert canonical_json(again) == text
