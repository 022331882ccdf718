"""The table of `sattn-inspect --kernels`, for a program and for a person."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest

from sattn_edge.lowering import Lowered, Target, lower
from sattn_edge.model_file import ModelFile, parse_model_file
from sattn_runtime.tensorrt import kernels_report
from sattn_runtime.tensorrt.blocks import find_lowered_blocks
from sattn_runtime.tensorrt.fusion import TAIL
from sattn_runtime.tensorrt.kernels_report import WIDTH, CompiledFor, KernelsReport, as_data, as_text
from sattn_runtime.tensorrt.layers import SHAPE_CALL, EngineLayer, EngineTensor
from tests.helpers_data import make_contract
from tests.helpers_model import model_file

RTX = CompiledFor("tensorrt-rtx", "1.7.1.116", "SM86")


@cache
def har() -> ModelFile:
    return parse_model_file(model_file(make_contract()), "har.onnx")


def kernel(name: str, kind: str, reads: str, writes: str, *nodes: str) -> EngineLayer:
    """A kernel that reads a map of one type; one that generates code reads a gate in float32 too."""
    gate = (EngineTensor("gate", (1, 4), "float32"),) if kind == "kgen" else ()
    inputs = (*gate, EngineTensor("map", (1, 4, 9), reads))
    return EngineLayer(name, kind, inputs, (EngineTensor("out", (1, 4, 9), writes),), nodes)


def engine(lowered: Lowered) -> list[EngineLayer]:
    """What the compiler makes of a block: the first whole, the second in two kernels, and the head."""
    first, second = (
        {role: [node.name for node in nodes] for role, nodes in block.roles.items()}
        for block in find_lowered_blocks(lowered.model)
    )
    whole = [name for names in first.values() for name in names]
    tail = [name for role in ("pool", *TAIL) for name in second.get(role, [])]
    return [
        kernel("__myl_AddMulReshReplReplConcGathMul_myl0_0", "kgen", "float32", "float16", *whole),
        kernel("__myl_FcAdd_myl0_1", "runtime_fusion", "float16", "float16", *second["product"]),
        kernel("__myl_SlicReshSigm_myl0_2", "kgen", "float16", "float32", *tail, "pool"),
        kernel("classifier_myl0_3", "gemm", "float32", "float32", "classifier"),
    ]


def reported(form: str = "gemm", precision: str = "fp16", made: CompiledFor = RTX) -> KernelsReport:
    lowered = lower(har().proto, Target("tensorrt", form, precision))
    return kernels_report.make(har(), lowered, engine(lowered), made)


def test_the_data_are_what_a_program_needs() -> None:
    data = json.loads(json.dumps(as_data(reported())))
    rows, blocks = data.pop("layers"), data.pop("blocks")
    assert data == {
        "model": "har.onnx",
        "backend": "tensorrt-rtx",
        "compiler": "1.7.1.116",
        "arch": "sm86",
        "attention": "gemm",
        "precision": "fp16",
        "batch": 1,
        "kernels": 4,
        "shape_kernels": 0,
        "products": {"block1.conv": "float16", "classifier": "float32"},
        "contradiction": None,
    }
    assert [(block["name"], block["fused"], block["kernels"]) for block in blocks] == [
        ("block0.attention", True, [0]),
        ("block1.attention", True, [1, 2]),
    ]
    assert blocks[1]["reason"] == "taps to ReLU in kernel 2"
    assert blocks[1]["roles"]["product"] == [1]
    assert rows[1] == {
        "name": "__myl_FcAdd_myl0_1",
        "type": "runtime_fusion",
        "dtype": "float16",
        "output_dtype": "float16",
        "nodes": ["block1.conv"],
    }
    assert [row["dtype"] for row in rows] == ["float32", "float16", "float16", "float32"]


def test_blocks_have_the_names_of_the_model_file_in_every_form() -> None:
    for form in ("reference", "gemm"):
        names = [block["name"] for block in as_data(reported(form))["blocks"]]
        assert names == ["block0.attention", "block1.attention"]


def test_what_is_not_told_is_null() -> None:
    report = replace(reported(), layers=(EngineLayer("a", ""),))
    (row,) = as_data(report)["layers"]
    assert row == {"name": "a", "type": None, "dtype": None, "output_dtype": None, "nodes": []}


def test_another_precision_than_asked_is_said() -> None:
    lowered = lower(har().proto, Target("tensorrt", "gemm", "fp16"))
    layers = [replace(layer, inputs=(EngineTensor("x", (), "float32"),)) for layer in engine(lowered)]
    report = kernels_report.make(har(), lowered, layers, RTX)
    words = "1 of 1 products read float32 instead of float16: block1.conv"
    assert as_data(report)["contradiction"] == words
    assert f"  not as asked: {words}" in as_text(report)


def test_the_page_for_a_person() -> None:
    assert as_text(reported()) == [
        "har.onnx by TensorRT-RTX 1.7.1.116, sm86: gemm, fp16, batch 1",
        "",
        "kernels: 4",
        "     kernel              type            in    out   computes",
        "  0  AddMulReshReplR...  kgen            fp32  fp16  block 1: product to ReLU",
        "  1  FcAdd               runtime_fusion  fp16  fp16  block 2: block1.conv",
        "  2  SlicReshSigm        kgen            fp16  fp32  block 2: pooling to ReLU,",
        "                                                     pool",
        "  3  classifier          gemm            fp32  fp32  classifier",
        "",
        "attention blocks: 2, all fused",
        "  1  block0.attention  fused  taps to ReLU in kernel 0",
        "  2  block1.attention  fused  taps to ReLU in kernel 2",
        "",
        "products",
        "  fp16  block1.conv",
        "  fp32  classifier",
        "",
        "This is TensorRT-RTX, for desktop GPUs: it needs no GPU to compile, but makes no",
        "engines for a Jetson, whose TensorRT may fuse otherwise.",
    ]


def test_a_block_in_parts_is_told_by_its_parts() -> None:
    lowered = lower(har().proto, Target("tensorrt", "reference", "fp32"))
    kernels = [
        kernel(f"{node.name}_myl0_{i}", "correlation", "float32", "float32", node.name)
        for i, node in enumerate(lowered.model.graph.node)
    ]
    text = as_text(kernels_report.make(har(), lowered, kernels, RTX))
    assert "attention blocks: 2, none fused" in text
    parts = ("gate convolution", "sigmoid", "multiply", "BatchNorm", "ReLU")
    told = "; ".join(f"{part} in kernel {i}" for i, part in enumerate(parts, 4))
    assert f"1 block0.attention apart {told} 2 block1.attention apart" in " ".join(" ".join(text).split())
    assert any("correlation" in line and "block 1: gate" in line for line in text)


def test_only_some_of_the_blocks_may_be_fused() -> None:
    lowered = lower(har().proto, Target("tensorrt", "gemm", "fp16"))
    layers = engine(lowered)
    parted = replace(layers[2], nodes=layers[2].nodes[:-2])
    report = kernels_report.make(
        har(), lowered, [*layers[:2], parted, kernel("r", "kgen", "float32", "float32", "block1.relu")], RTX
    )
    assert "attention blocks: 2, 1 fused" in as_text(report)


@pytest.mark.parametrize("form", ["gemm", "reference", "composed"])
def test_the_page_is_no_wider_than_a_terminal(form: str) -> None:
    lines = as_text(reported(form, made=CompiledFor("tensorrt-rtx", "1.7.1.116", "SM120", (1, 4, 8))))
    assert max(len(line) for line in lines) <= WIDTH
    assert not any(line != line.rstrip() for line in lines)


def test_control_a_name_that_can_not_be_broken_is_shown_whole() -> None:
    report = reported()
    long = EngineLayer("k", "kgen", nodes=("n" * 200,))
    lines = as_text(replace(report, layers=(*report.layers, long)))
    assert any("n" * 200 in line for line in lines)


def test_names_do_not_steer_the_terminal() -> None:
    report = replace(reported(), blocks=(), parts=(), layers=(EngineLayer("k\x1b[2J", "kgen", nodes=("n\x1b[2J",)),))
    assert all(line.isprintable() for line in as_text(report))
    assert "n\N{REPLACEMENT CHARACTER}[2J" in "\n".join(as_text(report))


def test_a_free_batch_has_a_kernel_for_sizes() -> None:
    report = reported(made=CompiledFor("tensorrt-rtx", "1.7.1.116", "SM86", (1, 4, 8)))
    ranged = replace(report, layers=(*report.layers, EngineLayer("__mye6450_0_myl0_0", SHAPE_CALL)))
    text = as_text(ranged)
    assert text[0].endswith("batch 1 to 8")
    assert text[2] == "kernels: 5, 1 of them to work out sizes"
    assert any(
        line.split() == ["4", "__mye6450_0", "shape_call", "-", "-", "sizes,", "for", "the", "free", "batch"]
        for line in text
    )
    assert (as_data(ranged)["kernels"], as_data(ranged)["shape_kernels"], as_data(ranged)["batch"]) == (5, 1, [1, 4, 8])


def test_a_gpu_at_hand_has_no_architecture_to_name() -> None:
    report = reported(made=CompiledFor("tensorrt", "10.3.0"))
    assert as_text(report)[0] == "har.onnx by TensorRT 10.3.0: gemm, fp16, batch 1"
    assert not any("Jetson" in line for line in as_text(report))
    assert as_data(report)["arch"] is None


def test_kernels_of_neither_block_nor_product_name_their_nodes() -> None:
    report = reported()
    others = (EngineLayer("a", "kgen", nodes=("n1", "n2")), EngineLayer("b", "kgen", nodes=("n1", "n2", "n3")))
    lines = [line for line in as_text(replace(report, layers=others, blocks=(), parts=())) if "kgen" in line]
    assert [line.split("-  ")[-1].strip() for line in lines] == ["n1, n2", "n1 and 2 nodes more"]


def test_a_network_without_blocks_has_none() -> None:
    report = replace(reported(), blocks=(), parts=())
    assert "attention blocks: none" in as_text(report)
