"""A labeller as an ONNX file.

name                     axes                       of
lengths                  (B,) int32                 all
words                    (B, T) int64               words: numbers as in encoding.json, from 2 on; 0 padding, 1 unknown
characters               (B, T, C) or (B, T) int64  words' letters, or characters, numbered likewise
numbers                  (B, T, F) float32          numbers, not normalised: the file does that; of pictures
                                                    (B, T, height, width, channels)
h_0, c_0, h_n, c_n       (L, B, H)                  one direction, per step: the state in and out, so that it streams
scores                   (B, T, L) or (B, L)        out: before softmax, or of several labels at once the sigmoid
start, transitions, end  (L,), (L, L), (L,)         out, with a CRF: what Viterbi adds to the scores
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from unrolled.errors import ExportError
from unrolled.export import Graph, cast, concatenate, embedding, linear, recurrent, state_inputs, state_outputs
from unrolled.tasks.labelling.data import PAD, Encoding
from unrolled.tasks.labelling.model import Characters, Images, Labeller, Numbers, Words

FLOAT, AXES = torch.float32, ["batch", "time"]


def export(model: Labeller, encoding: Encoding, path: str | Path) -> Path:
    """Write the file; return where it is.

    Raises:
        ExportError: the package onnx is missing, there is no recurrence, or the file cannot be written.
    """
    layers = model.layers
    if layers is None:
        raise ExportError("a labeller without recurrence (cell = none) is a baseline, and cannot be exported.")
    graph = Graph("labelling")
    lengths = graph.input("lengths", torch.int32, ["batch"])
    x = _front(graph, model.front, encoding, lengths)
    streams = model.per_step and not layers.bidirectional
    state = state_inputs(graph, layers) if streams else None  # type: ignore[arg-type]  # of a Module
    x, state = recurrent(graph, layers, x, state, lengths=lengths)  # type: ignore[arg-type]
    if not model.per_step:
        count = 2 if layers.bidirectional else 1
        ends = [graph.constant(torch.tensor([n])) for n in (-count, 2**31, 0)]
        top = graph.add("Slice", state[0], *ends)  # (D, B, H)
        x = graph.add("Reshape", graph.add("Transpose", top, perm=[1, 0, 2]), graph.constant([0, -1]))
    axes = [*(AXES if model.per_step else AXES[:1]), len(encoding.labels)]
    graph.output("scores", linear(graph, model.output, x), FLOAT, axes)
    if streams:
        state_outputs(graph, layers, state)  # type: ignore[arg-type]
    if model.crf is not None:
        for name, weight in model.crf.named_parameters():
            graph.output(name, graph.constant(weight), FLOAT, list(weight.shape))
    return graph.save(path)


def _front(graph: Graph, front: nn.Module, encoding: Encoding, lengths: str) -> str:
    if isinstance(front, Words):
        return _words(graph, front)
    if isinstance(front, Characters):
        return embedding(graph, front.embedding, graph.input("characters", torch.int64, AXES))
    if isinstance(front, Numbers):
        return _numbers(graph, front, lengths)
    assert isinstance(front, Images)
    return _images(graph, front, encoding.shape)


def _words(graph: Graph, front: Words) -> str:
    """`Words.forward`, every word read where it stands."""
    words = graph.input("words", torch.int64, AXES)
    x = embedding(graph, front.embedding, words)
    if front.letters is None:
        return x
    characters = graph.input("characters", torch.int64, [*AXES, "letters"])
    shape = graph.add("Shape", characters)
    each = graph.add(
        "Reshape", characters, concatenate(graph, [graph.constant([-1]), graph.add("Shape", characters, start=2)], axis=0)
    )
    real = graph.add("Not", graph.add("Equal", each, graph.constant(torch.tensor(PAD))))
    lengths = graph.add("ReduceSum", cast(graph, real, torch.int32), graph.constant([1]), keepdims=0)
    _, state = recurrent(graph, front.letters, embedding(graph, front.letter, each), None, lengths=lengths)  # type: ignore[arg-type]
    spelled = graph.add("Transpose", state[0], perm=[1, 0, 2])  # (B*T, 2, C)
    first = graph.add("Slice", shape, graph.constant([0]), graph.constant([2]))
    spelled = graph.add("Reshape", spelled, concatenate(graph, [first, graph.constant([-1])], axis=0))
    return concatenate(graph, [x, spelled], axis=2)


def _numbers(graph: Graph, front: Numbers, lengths: str) -> str:
    """`Numbers.forward`."""
    x = graph.input("numbers", FLOAT, [*AXES, len(front.mean)])
    x = graph.add("Div", graph.add("Sub", x, graph.constant(front.mean)), graph.constant(front.deviation))
    if front.kind == "none":
        return x
    if isinstance(front.map, nn.Linear):
        return graph.add("Relu", linear(graph, front.map, x))
    time = graph.add("Squeeze", graph.add("Shape", x, start=1, end=2), graph.constant([0]))
    steps = graph.add("Range", graph.constant(torch.tensor(0)), time, graph.constant(torch.tensor(1)))
    inside = graph.add("Less", steps, graph.add("Unsqueeze", cast(graph, lengths, torch.int64), graph.constant([1])))
    x = graph.add("Mul", x, graph.add("Unsqueeze", cast(graph, inside, FLOAT), graph.constant([2])))
    x = graph.add("Transpose", x, perm=[0, 2, 1])
    x = graph.add("Conv", x, *map(graph.constant, front.map.parameters()), pads=[2, 2])
    return graph.add("Relu", graph.add("Transpose", x, perm=[0, 2, 1]))


def _images(graph: Graph, front: Images, shape: list[int]) -> str:
    """`Images.forward`, pictures behind a sequence's end too: nothing reads what is found there."""
    pictures = graph.input("numbers", FLOAT, [*AXES, *shape])
    x = graph.add("Reshape", pictures, graph.constant([-1, *shape]))  # (B*T, height, width, channels)
    x = graph.add("Div", graph.add("Sub", x, graph.constant(front.mean)), graph.constant(front.deviation))
    x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
    sides = shape[:2]
    for layer in front.body:
        if isinstance(layer, nn.Conv2d):
            x = graph.add("Conv", x, *map(graph.constant, layer.parameters()), strides=[2, 2], pads=[1, 1, 1, 1])
            sides = [-(-side // 2) for side in sides]
        elif isinstance(layer, nn.GroupNorm):
            x = _group_norm(graph, layer, x, sides)
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            rows, columns = (_averages(side, int(layer.output_size)) for side in sides)  # type: ignore[arg-type]  # a number there
            x = graph.add("MatMul", graph.add("MatMul", graph.constant(rows), x), graph.constant(columns.mT.contiguous()))
        elif isinstance(layer, nn.Flatten):
            x = graph.add("Reshape", x, graph.constant([0, -1]))
        elif isinstance(layer, nn.Linear):
            x = linear(graph, layer, x)
        else:
            x = graph.add("Relu", x)
    first = graph.add("Shape", pictures, start=0, end=2)
    return graph.add("Reshape", x, concatenate(graph, [first, graph.constant([front.size])], axis=0))


def _group_norm(graph: Graph, layer: nn.GroupNorm, x: str, sides: list[int]) -> str:
    """Each group is one channel of an instance normalisation (Wu and He 2018), then each channel has its own scale."""
    groups, ones = layer.num_groups, torch.ones(layer.num_groups)
    apart = graph.add("Reshape", x, graph.constant([0, groups, -1]))
    apart = graph.add("InstanceNormalization", apart, graph.constant(ones), graph.constant(0 * ones), epsilon=layer.eps)
    x = graph.add("Reshape", apart, graph.constant([0, layer.num_channels, *sides]))
    scale, shift = (graph.constant(one.detach()[:, None, None]) for one in (layer.weight, layer.bias))
    return graph.add("Add", graph.add("Mul", x, scale), shift)


def _averages(side: int, parts: int) -> torch.Tensor:
    """What `AdaptiveAvgPool2d` does along one side, as a product: (parts, side)."""
    rows = torch.zeros(parts, side)
    for n in range(parts):
        start, end = n * side // parts, -(-(n + 1) * side // parts)
        rows[n, start:end] = 1 / (end - start)
    return rows
