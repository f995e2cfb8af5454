"""Export with 8-bit GRUs: weights stored as bytes, states and inputs quantised dynamically.

ONNX Runtime's own dynamic quantisation does not support GRUs, and GRUs hold 99 % of the weights here. So each GRU
becomes one matrix product over all frames for its inputs and a Scan over frames for its state, both in integers
(MatMulInteger), with sums and activations in float32. Convolutions and the last layer stay in float32.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from common.errors import EXIT_OK, UserError
from common.progress import Progress
from datasets.dataset import default_data_dir
from reference_model.checkpoints.trained_network import Trained
from reference_model.inference.engines import Engine, OnnxEngine, TorchEngine
from reference_model.inference.inference_options import OFFLINE_BATCH
from reference_model.inference.inference_run import Plan, run
from reference_model.inference.locate import Clips, find_clips
from reference_model.inference.onnx_graph import OPSET, write
from reference_model.model.features import Features
from reference_model.model.greedy import greedy

ZERO_POINT = 128
"""Weights are unsigned bytes around this: with signed ones, CPUs without VNNI saturate sums at 16 bits."""


def export_int8(trained: Trained, path: Path, data: str, trials: int) -> int:
    """Write the quantised network to `path` and print the change of WER on `data`; returns the exit status."""
    clips = find_clips(data, None, default_data_dir(), lambda text: None)
    cpu = torch.device("cpu")
    path.parent.mkdir(parents=True, exist_ok=True)
    plain, part = (path.with_name(f".{path.name}.{name}.onnx") for name in ("plain", "part"))
    try:
        write(trained, plain)
        model = quantised(onnx.load(plain))
        onnx.checker.check_model(model)
        onnx.save(model, part)
        before = _measure(TorchEngine(trained, cpu, "fp32"), trained, clips, trials, "fp32")
        after = _measure(OnnxEngine(part, cpu), trained, clips, trials, "int8")
        measured = {"int8_wer": f"{after[0]:.4f}", "fp32_wer": f"{before[0]:.4f}", "int8_measured_on": clips.name}
        onnx.helper.set_model_props(model, trained.metadata() | {"weights": "int8"} | measured)
        onnx.save(model, part)
        sizes = plain.stat().st_size, part.stat().st_size
        os.replace(part, path)
    finally:
        plain.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
    print(f"wrote {path}: {sizes[1]:,} bytes ({sizes[1] / sizes[0]:.2f} of fp32), opset {OPSET}")
    print(
        f"WER on {clips.name}, {before[1]} utterances: fp32 {before[0]:.2f} %, int8 {after[0]:.2f} % "
        f"({after[0] - before[0]:+.2f} points)"
    )
    return EXIT_OK


def _measure(engine: Engine, trained: Trained, clips: Clips, trials: int, label: str) -> tuple[float, int]:
    """WER in percent and the number of utterances."""
    plan = Plan(scenario="offline", batch_size=1 if trials != -1 else OFFLINE_BATCH, trials=trials, warmup=0)
    total = len(plan.batches([utterance.duration_s for utterance in clips.manifest]))
    with Progress(f"WER of {label}", total, "batches") as progress:
        outcome = run(engine, Features(trained.features), greedy, clips.manifest, plan, progress.update)
    wer = outcome.score(clips.manifest).wer
    assert wer is not None, "a manifest is never empty"
    return wer, len(outcome.texts)


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with every GRU replaced; UserError where a GRU is not in the form that this exporter writes."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    dropped: set[str] = set()
    for node in graph.node:
        if node.op_type == "GRU":
            made, initialisers = _gru(node, constants)
            nodes += made
            graph.initializer.extend(initialisers)
            dropped |= set(node.input[1:4])
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name not in dropped or tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    return model


def _gru(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """Nodes and constants that replace a GRU over (frames, batch, inputs); gate order of ONNX: update, reset, new."""
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    direction = settings.get("direction", b"forward")
    given, recurrent, bias = (constants.get(name) for name in node.input[1:4])
    if given is None or recurrent is None or bias is None or direction != b"forward":
        raise UserError("a GRU in the ONNX file is not in the form that this exporter writes", where=node.name)
    if settings.get("linear_before_reset") != 1:
        raise UserError("a GRU in the ONNX file is not of PyTorch's kind", where=node.name)
    tag, hidden = node.output[0], int(settings["hidden_size"])
    input_bias, state_bias = np.split(bias[0], 2)
    constant: list[TensorProto] = [
        numpy_helper.from_array(np.array([0], np.int64), f"{tag}/axes0"),
        numpy_helper.from_array(np.array([1], np.int64), f"{tag}/axes1"),
        numpy_helper.from_array(np.array([hidden] * 3, np.int64), f"{tag}/gates"),
        numpy_helper.from_array(np.array(ZERO_POINT, np.uint8), f"{tag}/zero"),
    ]
    project = _product(f"{tag}/x", node.input[0], given[0], input_bias, f"{tag}/projected", tag, constant)
    step = _product(f"{tag}/h", f"{tag}/state", recurrent[0], state_bias, f"{tag}/kept", tag, constant)

    def make(kind: str, inputs: list[str], outputs: list[str], **settings: Any) -> onnx.NodeProto:
        return helper.make_node(kind, [f"{tag}/{n}" for n in inputs], [f"{tag}/{n}" for n in outputs], **settings)

    step += [
        make("Split", ["given", "gates"], ["gz", "gr", "gn"], axis=1),
        make("Split", ["kept", "gates"], ["kz", "kr", "kn"], axis=1),
        make("Add", ["gz", "kz"], ["sz"]),
        make("Sigmoid", ["sz"], ["z"]),
        make("Add", ["gr", "kr"], ["sr"]),
        make("Sigmoid", ["sr"], ["r"]),
        make("Mul", ["r", "kn"], ["rk"]),
        make("Add", ["gn", "rk"], ["sn"]),
        make("Tanh", ["sn"], ["n"]),
        make("Sub", ["state", "n"], ["d"]),
        make("Mul", ["z", "d"], ["zd"]),
        make("Add", ["n", "zd"], ["next"]),
        make("Identity", ["next"], ["out"]),
    ]
    body = helper.make_graph(
        step,
        f"{tag}/step",
        [
            helper.make_tensor_value_info(f"{tag}/state", TensorProto.FLOAT, ["batch", hidden]),
            helper.make_tensor_value_info(f"{tag}/given", TensorProto.FLOAT, ["batch", 3 * hidden]),
        ],
        [
            helper.make_tensor_value_info(f"{tag}/next", TensorProto.FLOAT, ["batch", hidden]),
            helper.make_tensor_value_info(f"{tag}/out", TensorProto.FLOAT, ["batch", hidden]),
        ],
    )
    nodes = [
        *project,
        helper.make_node("Squeeze", [node.input[5], f"{tag}/axes0"], [f"{tag}/start"]),
        make("Scan", ["start", "projected"], ["last", "all"], body=body, num_scan_inputs=1),
        helper.make_node("Unsqueeze", [f"{tag}/all", f"{tag}/axes1"], [tag]),
    ]
    if len(node.output) > 1 and node.output[1]:
        nodes.append(helper.make_node("Unsqueeze", [f"{tag}/last", f"{tag}/axes0"], [node.output[1]]))
    return nodes, constant


def _product(
    name: str, x: str, weight: np.ndarray, bias: np.ndarray, out: str, tag: str, constant: list[TensorProto]
) -> list[onnx.NodeProto]:
    """x @ weight.T + bias with `weight` (outputs, inputs) in bytes, one scale per output; appends to `constant`."""
    largest = np.abs(weight).max(1)
    scale = (np.where(largest > 0, largest, 1.0) / 127).astype(np.float32)
    whole = (np.rint(weight / scale[:, None]) + ZERO_POINT).astype(np.uint8)
    for suffix, value in (("w", np.ascontiguousarray(whole.T)), ("s", scale), ("b", bias)):
        constant.append(numpy_helper.from_array(value, f"{name}/{suffix}"))
    return [
        helper.make_node("DynamicQuantizeLinear", [x], [f"{name}/q", f"{name}/qs", f"{name}/qz"]),
        helper.make_node("MatMulInteger", [f"{name}/q", f"{name}/w", f"{name}/qz", f"{tag}/zero"], [f"{name}/i"]),
        helper.make_node("Cast", [f"{name}/i"], [f"{name}/f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}/qs", f"{name}/s"], [f"{name}/ss"]),
        helper.make_node("Mul", [f"{name}/f", f"{name}/ss"], [f"{name}/p"]),
        helper.make_node("Add", [f"{name}/p", f"{name}/b"], [out]),
    ]
