"""Layers, and models around them, as ONNX files of the standard operators RNN, LSTM and GRU.

`Graph` collects a file's operators; `recurrent`, `embedding`, `one_hot` and `linear` append what a module does, `split`,
`concatenate` and `cast` what torch's functions do, and return the name of the result, so that a model's export reads like its
forward:

    graph = Graph("language_model")
    tokens = graph.input("tokens", torch.int64, ["batch", "time"])
    state = state_inputs(graph, model.layers)
    output, state = recurrent(graph, model.layers, embedding(graph, model.embedding, tokens), state)
    graph.output("logits", linear(graph, model.decoder, output), torch.float32, ["batch", "time", vocabulary])
    state_outputs(graph, model.layers, state)
    graph.save(path)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unrolled import files
from unrolled.conversion import OURS, THEIRS, beyond_torch
from unrolled.errors import ExportError
from unrolled.layers import Recurrent
from unrolled.recurrence.hooks import run_pre_hooks

Layer = Recurrent | nn.RNNBase

OPSET, IR_VERSION = 17, 8  # of 2022: every onnxruntime from 1.12 on reads them
_ORDER = {"RNN": [0], "LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2]}  # ONNX has i o f c and z r h, torch i f g o and r z n
_FLOATS = (torch.float32, torch.float16, torch.float64)


def export_onnx(layer: Layer, path: str | os.PathLike[str], *, lengths: bool = False) -> Path:
    """Write an RNN, LSTM or GRU, ours or torch.nn's, as an ONNX file with dynamic batch and time; return its path.

    Inputs are `input`, laid out as the layer takes it, `h_0` (L*D, B, H), for the LSTM `c_0`, and with `lengths=True`
    `lengths` (B,), int32, from 0 to T. Outputs are `output`, `h_n` and `c_n`. All inputs must be given: zeros for the
    first state, and the last state back in to go on, so that segments or single steps give what the whole gives. Dropout
    acts in training only and is not written. The file appears whole or not at all.

    onnxruntime on the CPU runs float32; a layer of another dtype is written in it, for other programs.

    Raises:
        ExportError: the package onnx is missing; the layer has what ONNX cannot say (`proj_size`, a `forward` of its
            own, options that torch.nn lacks, bfloat16); or `path` cannot be written.

    >>> import tempfile, pathlib, unrolled
    >>> folder = tempfile.TemporaryDirectory()
    >>> unrolled.export_onnx(unrolled.GRU(3, 4), pathlib.Path(folder.name) / "gru.onnx").name
    'gru.onnx'
    >>> folder.cleanup()
    """
    _check(layer)
    graph, dtype = Graph(type(layer).__name__), _dtype(layer)
    axes = ["batch", "time"] if layer.batch_first else ["time", "batch"]
    x = graph.input("input", dtype, [*axes, layer.input_size])
    state = state_inputs(graph, layer)
    ends = graph.input("lengths", torch.int32, ["batch"]) if lengths else None
    output, state = recurrent(graph, layer, x, state, lengths=ends)
    directions = 2 if layer.bidirectional else 1
    graph.output("output", output, dtype, [*axes, directions * layer.hidden_size])
    state_outputs(graph, layer, state)
    return graph.save(path)


class Graph:
    """The operators, constants, inputs and outputs of an ONNX file in the making; values go by their names.

    Raises:
        ExportError: the package onnx is missing.

    >>> graph = Graph("twice")
    >>> x = graph.input("x", torch.float32, ["time"])
    >>> graph.output("y", graph.add("Add", x, x), torch.float32, ["time"])
    >>> [node.op_type for node in graph.model().graph.node]
    ['Add', 'Identity']
    """

    def __init__(self, name: str) -> None:
        _onnx()
        self.name = name
        self.nodes, self.constants, self.inputs, self.outputs = [], [], [], []

    def add(self, operator: str, *inputs: str, count: int = 1, **attributes: Any) -> Any:
        """Append an operator; the name of its result, or a list of `count` names. An input left out is ""."""
        names = [f"{operator}_{len(self.nodes)}_{k}" for k in range(count)]
        self.nodes.append(_onnx().helper.make_node(operator, list(inputs), names, name=names[0], **attributes))
        return names[0] if count == 1 else names

    def constant(self, value: Tensor | Sequence[int]) -> str:
        """Append weights, or the integers some operators take; the name they go by."""
        array = torch.as_tensor(value).detach().cpu().contiguous().numpy()
        self.constants.append(_onnx().numpy_helper.from_array(array, f"constant_{len(self.constants)}"))
        return self.constants[-1].name

    def input(self, name: str, dtype: torch.dtype, axes: Sequence[str | int]) -> str:
        """Declare an input; an axis is a size, or a name where the size is free."""
        self.inputs.append(_onnx().helper.make_tensor_value_info(name, _onnx_type(dtype), list(axes)))
        return name

    def output(self, name: str, value: str, dtype: torch.dtype, axes: Sequence[str | int]) -> None:
        """Declare that `value` is the output called `name`."""
        self.nodes.append(_onnx().helper.make_node("Identity", [value], [name], name=name))
        self.outputs.append(_onnx().helper.make_tensor_value_info(name, _onnx_type(dtype), list(axes)))

    def model(self) -> Any:
        """The `onnx.ModelProto`, checked."""
        from unrolled import __version__

        onnx = _onnx()
        graph = onnx.helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.constants)
        model = onnx.helper.make_model(
            graph,
            opset_imports=[onnx.helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="unrolled",
            producer_version=__version__,
        )
        size = model.ByteSize()
        if size >= 2**31:
            raise ExportError(f"An ONNX file holds less than 2 GiB, got {size / 2**30:.1f} GiB. Export it in float16.")
        onnx.checker.check_model(model, full_check=True)
        return model

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file, whole or not at all.

        Raises:
            ExportError: the disk is full or refuses, or something else than a file has that name.
        """
        path = Path(path)
        if os.path.lexists(path) and not path.is_file():  # a device would be replaced
            raise ExportError(f"{path}: expected the name of a file, got a folder, a pipe or a device. Name another.")
        files.remove_leftovers(path.parent)
        files.write_atomically(path, self.model().SerializeToString(), error=ExportError)
        return path


def recurrent(
    graph: Graph, layer: Layer, x: str, state: Sequence[str] | None, *, lengths: str | None = None
) -> tuple[str, list[str]]:
    """Append all layers and directions: `(output, [h_n] or [h_n, c_n])`. `x` is laid out as `layer` takes it; without a state
    it begins with zeros.

    Raises:
        ExportError: the layer has what ONNX cannot say.
    """
    _check(layer)
    weight: Any = layer.weight_ih_l0
    run_pre_hooks(layer, (weight.new_zeros(1, 1, layer.input_size),))  # which put the weights of now in their place
    operator, directions = layer.mode.split("_")[0], 2 if layer.bidirectional else 1
    attributes: dict[str, Any] = {"hidden_size": layer.hidden_size, "direction": "forward"}
    if layer.bidirectional:
        attributes["direction"] = "bidirectional"
    if operator == "GRU":
        attributes["linear_before_reset"] = 1  # the reset gate after W_hn, as in torch and in cuDNN
    if layer.mode == "RNN_RELU":
        attributes["activations"] = ["Relu"] * directions
    if layer.batch_first:
        x = graph.add("Transpose", x, perm=[1, 0, 2])
    begin = [split(graph, part, [directions] * layer.num_layers, axis=0) for part in state or []]
    ends: list[list[str]] = [[] for _ in _parts(layer)]
    for k in range(layer.num_layers):
        initial = [part[k] for part in begin] or [""] * len(ends)  # each (D, B, H)
        inputs = [x, *_weights(graph, layer, operator, k), lengths or "", *initial]
        output, *final = graph.add(operator, *inputs, count=1 + len(ends), **attributes)  # (T, D, B, H)
        if directions == 1:
            x = graph.add("Squeeze", output, graph.constant([1]))  # (T, B, H)
        else:
            x = graph.add("Transpose", output, perm=[0, 2, 1, 3])  # (T, B, D, H)
            x = graph.add("Reshape", x, graph.constant([0, 0, directions * layer.hidden_size]))  # (T, B, D*H)
        for end, last, first in zip(ends, final, initial, strict=True):
            end.append(_where_started(graph, lengths, last, first) if lengths and first else last)
    if layer.batch_first:
        x = graph.add("Transpose", x, perm=[1, 0, 2])
    return x, [concatenate(graph, end, axis=0) for end in ends]


def state_inputs(graph: Graph, layer: Layer) -> list[str]:
    """Declare the inputs `h_0` and, for the LSTM, `c_0`."""
    return [graph.input(f"{part}_0", _dtype(layer), _state_axes(layer)) for part in _parts(layer)]


def state_outputs(graph: Graph, layer: Layer, state: Sequence[str]) -> None:
    """Declare the outputs `h_n` and, for the LSTM, `c_n`."""
    for part, value in zip(_parts(layer), state, strict=True):
        graph.output(f"{part}_n", value, _dtype(layer), _state_axes(layer))


def embedding(graph: Graph, module: nn.Embedding, tokens: str) -> str:
    """Append the lookup of each token's row."""
    return graph.add("Gather", graph.constant(module.weight), tokens, axis=0)


def one_hot(graph: Graph, tokens: str, classes: int, dtype: torch.dtype = torch.float32) -> str:
    """Append a last axis with 1 at the token and 0 elsewhere."""
    return graph.add("OneHot", tokens, graph.constant([classes]), graph.constant(torch.tensor([0, 1], dtype=dtype)))


def linear(graph: Graph, module: nn.Linear, x: str) -> str:
    """Append the product with the weights over the last axis, and the bias."""
    product = graph.add("MatMul", x, graph.constant(module.weight.mT))
    return product if module.bias is None else graph.add("Add", product, graph.constant(module.bias))


def split(graph: Graph, x: str, sizes: Sequence[int], *, axis: int) -> list[str]:
    """Append the cut of an axis into pieces of these sizes."""
    return [x] if len(sizes) == 1 else graph.add("Split", x, graph.constant(sizes), count=len(sizes), axis=axis)


def concatenate(graph: Graph, pieces: Sequence[str], *, axis: int) -> str:
    """Append the pieces, one after the other along an axis."""
    return pieces[0] if len(pieces) == 1 else graph.add("Concat", *pieces, axis=axis)


def cast(graph: Graph, x: str, dtype: torch.dtype) -> str:
    """Append the conversion to another dtype."""
    return graph.add("Cast", x, to=_onnx_type(dtype))


def _weights(graph: Graph, layer: Layer, operator: str, k: int) -> list[str]:
    """Constants W (D, G*H, I), R (D, G*H, H), and B (D, 2*G*H) or "", with the gates in ONNX's order."""
    rows: dict[str, list[Tensor]] = {"weight_ih": [], "weight_hh": [], "bias": []}
    for suffix in [f"_l{k}", f"_l{k}_reverse"][: 2 if layer.bidirectional else 1]:
        for name in ("weight_ih", "weight_hh"):
            rows[name].append(_in_order(getattr(layer, name + suffix), operator))
        if layer.bias:
            both = [_in_order(getattr(layer, name + suffix), operator) for name in ("bias_ih", "bias_hh")]
            rows["bias"].append(torch.cat(both))
    return [graph.constant(torch.stack(directions)) if directions else "" for directions in rows.values()]


def _in_order(weight: Tensor, operator: str) -> Tensor:
    gates = weight.detach().chunk(len(_ORDER[operator]))
    return torch.cat([gates[k] for k in _ORDER[operator]])


def _where_started(graph: Graph, lengths: str, last: str, first: str) -> str:
    """A sequence of length 0 keeps its first state; onnxruntime says zeros for it."""
    started = graph.add("Greater", lengths, graph.constant(torch.zeros(1, dtype=torch.int32)))  # (B,)
    return graph.add("Where", graph.add("Unsqueeze", started, graph.constant([1])), last, first)


def _dtype(layer: Layer) -> torch.dtype:
    weight = layer.weight_ih_l0  # may be computed from others, so not among the parameters
    assert isinstance(weight, Tensor)
    return weight.dtype


def _parts(layer: Layer) -> list[str]:
    return ["h", "c"] if layer.mode == "LSTM" else ["h"]


def _state_axes(layer: Layer) -> list[str | int]:
    return [layer.num_layers * (2 if layer.bidirectional else 1), "batch", layer.hidden_size]


def _check(layer: Any) -> None:
    exported = {kind for kind in (*OURS, *THEIRS) if not issubclass(kind, torch.nn.RNNCellBase)}
    kind = next((kind for kind in type(layer).__mro__ if kind in exported), None)
    name = type(layer).__name__
    if kind is None:
        raise ExportError(
            f"export_onnx expected an RNN, LSTM or GRU of unrolled or torch.nn, got a {name}. "
            "Export the recurrent layers in it, or build a graph with unrolled.export.Graph."
        )
    if type(layer).forward is not kind.forward or "forward" in vars(layer):
        raise ExportError(f"{name} has a forward of its own, unknown to export_onnx. Export a {kind.__name__}.")
    if layer.proj_size:
        raise ExportError(
            f"{name} with proj_size={layer.proj_size} cannot be exported: ONNX's LSTM has no projection. "
            "Train with proj_size=0 and a smaller hidden_size."
        )
    if reason := beyond_torch(layer, training=False):
        raise ExportError(f"{name} cannot be exported: {reason}, nor in ONNX's {kind.__name__}.")
    if _dtype(layer) not in _FLOATS:
        raise ExportError(
            f"{name} of dtype {_dtype(layer)} cannot be exported: ONNX's {kind.__name__} has float16, float32 and "
            "float64. Export layer.float()."
        )


def _onnx() -> Any:
    try:
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        raise ExportError(
            "Writing ONNX files needs the package onnx, which is not installed: pip install 'unrolled[onnx]'."
        ) from None
    return onnx


def _onnx_type(dtype: torch.dtype) -> int:
    return _onnx().helper.np_dtype_to_tensor_dtype(torch.empty(0, dtype=dtype).numpy().dtype)
