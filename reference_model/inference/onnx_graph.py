"""A network as an ONNX graph, written node by node.

`export_onnx` documents its inputs and outputs; `onnx_conversion` verifies a file before it is renamed to its final name. PyTorch's
exporter can express this network as well, but takes twenty seconds and 2.3 GB more for the full-size one: too much for
inference start-up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from datasets.geometry import KERNELS, SMALLEST_BINS, STRIDES, output_frames
from reference_model.checkpoints.trained_network import Trained
from reference_model.inference.engines import INPUTS, OUTPUTS
from reference_model.model.alphabet import LABELS
from reference_model.model.features import Features

OPSET = 17
IR_VERSION = 8
"""The IR version of opset 17: older readers of ONNX refuse a newer one."""
NORM_EPSILON = 1e-5
"""PyTorch's default, with which the networks are trained."""


def model_of(trained: Trained) -> onnx.ModelProto:
    """The whole file, unverified; UserError where the weights do not fit the network."""
    trained.check_weights()
    weights = {name: tensor.detach().float().numpy() for name, tensor in trained.weights.items()}
    graph = _Graph()
    bins = Features(trained.features).bins
    x = _convolutions(graph, weights, bins)
    lengths = _lengths(graph)
    start = _start(graph, trained.model.rnn_hidden)
    for layer in range(trained.model.rnn_layers):
        x = _recurrent(graph, weights, layer, x, start, lengths, trained.model.bidirectional)
    scale, shift = _norm(weights, "fc.0.module.0")
    last = weights["fc.0.module.1.weight"]
    x = graph.add("MatMul", [x, graph.constant((last * scale).T)])
    x = graph.add("Add", [x, graph.constant(last @ shift)])
    x = graph.add("LogSoftmax", [x], axis=-1)
    graph.add("Transpose", [x], name=OUTPUTS[0], perm=[1, 0, 2])
    return graph.model(bins, trained.metadata())


def write(trained: Trained, path: Path) -> None:
    """Write the ONNX file, unverified."""
    model = model_of(trained)
    onnx.checker.check_model(model)
    onnx.save(model, path)


class _Graph:
    """Nodes and constants, each under a unique name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, values: Any) -> str:
        """Add a constant; floats are stored as float32. Returns its name."""
        array = np.asarray(values)
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), f"constant_{len(self.constants)}"))
        return self.constants[-1].name

    def add(self, kind: str, inputs: list[str], name: str | None = None, **settings: Any) -> str:
        """Add a node with one output. Returns the output's name."""
        name = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **settings))
        return name

    def model(self, bins: int, metadata: dict[str, str]) -> onnx.ModelProto:
        """The graph, which takes `bins` feature bins, as an ONNX model."""
        value = helper.make_tensor_value_info
        inputs = [
            value(INPUTS[0], TensorProto.FLOAT, ["batch", bins, "frames"]),
            value(INPUTS[1], TensorProto.INT64, ["batch"]),
        ]
        outputs = [
            value(OUTPUTS[0], TensorProto.FLOAT, ["batch", "output_frames", len(LABELS)]),
            value(OUTPUTS[1], TensorProto.INT64, ["batch"]),
        ]
        graph = helper.make_graph(self.nodes, "deepspeech2", inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        helper.set_model_props(model, metadata)
        return model


def _norm(weights: dict[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """A BatchNorm in evaluation as (features,) `scale` and `shift` in float64, to be folded into a neighbour."""
    weight, bias, mean, variance = (
        weights[f"{name}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / np.sqrt(variance + NORM_EPSILON)
    return scale, bias - mean * scale


def _convolutions(graph: _Graph, weights: dict[str, np.ndarray], bins: int) -> str:
    """Features to (output frames, batch, inputs of the first GRU)."""
    x = INPUTS[0]
    if bins < SMALLEST_BINS:
        x = graph.add("Pad", [x, graph.constant(np.array([0, 0, 0, 0, SMALLEST_BINS - bins, 0]))])
    x = graph.add("Unsqueeze", [x, graph.constant(np.array([1]))])
    limits = [graph.constant(np.float32(limit)) for limit in (0, 20)]
    for number, kernel_shape, strides in zip((0, 3), KERNELS, STRIDES, strict=True):
        scale, shift = _norm(weights, f"conv.{number + 1}")
        kernel = graph.constant(weights[f"conv.{number}.weight"] * scale[:, None, None, None])
        bias = graph.constant(weights[f"conv.{number}.bias"] * scale + shift)
        x = graph.add("Conv", [x, kernel, bias], strides=list(strides), kernel_shape=list(kernel_shape))
        x = graph.add("Clip", [x, *limits])
    inputs = weights["rnns.0.rnn.weight_ih_l0"].shape[1]
    x = graph.add("Reshape", [x, graph.constant(np.array([0, inputs, -1]))])
    return graph.add("Transpose", [x], perm=[2, 0, 1])


def _lengths(graph: _Graph) -> str:
    """The output frames of each utterance, at least one, for reversing; the exact number is an output of the graph."""
    # Halves rounded down, also where there is no output frame: ONNX integer division rounds towards zero.
    half = graph.add("Div", [graph.add("Add", [INPUTS[1], graph.constant(1)]), graph.constant(2)])
    graph.add("Sub", [half, graph.constant(-output_frames(-1))], name=OUTPUTS[1])
    return graph.add("Max", [OUTPUTS[1], graph.constant(1)])


def _start(graph: _Graph, hidden: int) -> str:
    """The initial state, (1, batch, hidden) zeros."""
    batch = graph.add("Shape", [INPUTS[1]])
    one, many = graph.constant(np.array([1])), graph.constant(np.array([hidden]))
    return graph.add("Expand", [graph.constant(np.float32(0)), graph.add("Concat", [one, batch, many], axis=0)])


def _recurrent(
    graph: _Graph, weights: dict[str, np.ndarray], layer: int, x: str, start: str, lengths: str, bidirectional: bool
) -> str:
    """One layer of GRUs, with the BatchNorm before it folded into its weights; two directions are summed."""
    norm = f"rnns.{layer}.batch_norm.module"
    inputs = weights[f"rnns.{layer}.rnn.weight_ih_l0"].shape[1]
    scale, shift = _norm(weights, norm) if f"{norm}.weight" in weights else (np.ones(inputs), np.zeros(inputs))

    def direction(x: str, suffix: str) -> str:
        given, kept, given_bias, kept_bias = (
            _gates(weights[f"rnns.{layer}.rnn.{name}_l0{suffix}"])
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        biases = np.concatenate([given_bias + given @ shift, kept_bias])
        constants = [graph.constant(values[None]) for values in (given * scale, kept, biases)]
        hidden = kept.shape[1]
        # PyTorch applies the reset gate after the matrix product.
        x = graph.add("GRU", [x, *constants, "", start], hidden_size=hidden, linear_before_reset=1)
        return graph.add("Squeeze", [x, graph.constant(np.array([1]))])

    def reverse(x: str) -> str:
        return graph.add("ReverseSequence", [x, lengths], time_axis=0, batch_axis=1)

    forward = direction(x, "")
    return graph.add("Add", [forward, reverse(direction(reverse(x), "_reverse"))]) if bidirectional else forward


def _gates(weight: np.ndarray) -> np.ndarray:
    """PyTorch's reset, update and new gates in ONNX's order: update, reset, new."""
    reset, update, new = np.split(weight, 3)
    return np.concatenate([update, reset, new])
