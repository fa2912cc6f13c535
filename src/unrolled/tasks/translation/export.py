"""A translator as two ONNX files, of the encoder and of one step of the decoder.

What the encoder gives bears the names by which the decoder takes it. N sentences of S tokens are read, END last and PAD behind
it; B rows are written, as many for each sentence, the first B / N for the first. The M members of an ensemble lie one after the
other, in states along the first axis, in keys and values along the last.

    name             axes                   encoder  decoder
    source           (N, S) int64           in
    keys, values     (N, S, M*H)            out      in             with attention
    mask             (N, S) bool            out      in             with attention: false on padding
    h_0, c_0         (M*L, N, H)            out      in, B for N    c_0 for the LSTM
    fed_0            (M, N, H)              out      in, B for N    with input feeding
    tokens           (B,) int64                      in             the last of each row, at first START
    logits           (B, V)                          out            of the next
    weights          (B, S)                          out            of attention
    h_n, c_n, fed_n  as h_0, c_0, fed_0              out            in at the next step
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from unrolled.attention import AdditiveAttention, DotAttention
from unrolled.data.sentences import PAD
from unrolled.decoder import Attention
from unrolled.ensemble import Ensemble
from unrolled.export import Graph, cast, concatenate, embedding, linear, recurrent, split
from unrolled.tasks.translation.model import Translator

FLOAT = torch.float32
Attend = Callable[[str], tuple[str, str]]
"""From queries (B, 1, H) to z (B, 1, H) and the weights (B, S)."""


def export(model: Translator | Ensemble, path: str | Path) -> list[Path]:
    """Write NAME.encoder.onnx and NAME.decoder.onnx for the path NAME.onnx; return where they are.

    Raises:
        ExportError: the package onnx is missing, or a file cannot be written.
    """
    path = Path(path)
    name = path.name.removesuffix(".onnx")
    members: list[Translator] = list(model.members)  # type: ignore[arg-type]  # of a ModuleList
    graphs = [encoder(members), decoder(members)]  # both, before either is written
    return [graph.save(path.with_name(f"{name}.{graph.name}.onnx")) for graph in graphs]


def encoder(members: Sequence[Translator]) -> Graph:
    """`Translator.encode` and `initial_state`."""
    graph, first = Graph("encoder"), members[0]
    source = graph.input("source", torch.int64, ["sentences", "source"])
    mask = graph.add("Not", graph.add("Equal", source, graph.constant(torch.tensor(PAD))))
    lengths = graph.add("ReduceSum", cast(graph, mask, torch.int32), graph.constant([1]), keepdims=0)  # (N,)

    def as_read(x: str) -> str:
        """With reverse_source from the end to the beginning, or back; END stays where it is."""
        if not first.reverse_source:
            return x
        before_end = graph.add("Sub", cast(graph, lengths, torch.int64), graph.constant([1]))
        return graph.add("ReverseSequence", x, before_end, batch_axis=0, time_axis=1)

    read = as_read(source)
    vectors, states = zip(*(_encode(graph, member, read, lengths) for member in members), strict=True)
    if first.attention is not None:
        several = [_keys_and_values(graph, member.attention, as_read(a)) for member, a in zip(members, vectors, strict=True)]
        for name, parts in zip(("keys", "values"), zip(*several, strict=True), strict=True):
            graph.output(name, concatenate(graph, parts, axis=2), FLOAT, _memory_axes(members))
        graph.output("mask", mask, torch.bool, ["sentences", "source"])
    if first.input_feeding:
        shape = [graph.constant([1]), graph.add("Shape", source, end=1), graph.constant([_size(members)])]
        zeros = graph.add("ConstantOfShape", concatenate(graph, shape, axis=0))
        states = tuple([*state, zeros] for state in states)
    for name, parts in zip(_state_names(first), zip(*states, strict=True), strict=True):
        graph.output(f"{name}_0", concatenate(graph, parts, axis=0), FLOAT, _state_axes(members, name, "sentences"))
    return graph


def decoder(members: Sequence[Translator]) -> Graph:
    """`Decoder.forward` for one token; of several members as `Ensemble.forward` takes them together."""
    graph, first = Graph("decoder"), members[0]
    tokens = graph.input("tokens", torch.int64, ["batch"])
    attending = _attending(graph, members) if first.attention is not None else [None] * len(members)
    states: list[list[list[str]]] = [[] for _ in members]  # of each member, of h, c and t~: those of the layers, (1, B, H)
    for name in _state_names(first):
        axes = _state_axes(members, name, "batch")
        pieces = split(graph, graph.input(f"{name}_0", FLOAT, axes), [1] * axes[0], axis=0)
        count = len(pieces) // len(members)
        for number, state in enumerate(states):
            state.append(pieces[number * count : (number + 1) * count])
    each = zip(members, states, attending, strict=True)
    steps = [_step(graph, member, tokens, state, attend) for member, state, attend in each]
    logits, weights, states_after = zip(*steps, strict=True)
    graph.output("logits", _together(graph, logits), FLOAT, ["batch", first.output.out_features])
    if first.attention is not None:
        mean = graph.add("Mean", *weights) if len(members) > 1 else weights[0]
        graph.output("weights", mean, FLOAT, ["batch", "source"])
    for name, parts in zip(_state_names(first), zip(*states_after, strict=True), strict=True):
        pieces = [piece for of_member in parts for piece in of_member]
        graph.output(f"{name}_n", concatenate(graph, pieces, axis=0), FLOAT, _state_axes(members, name, "batch"))
    return graph


def _encode(graph: Graph, member: Translator, source: str, lengths: str) -> tuple[str, list[str]]:
    """What attention reads, (N, S, H), and the first state of the decoder, h and c, each (L, N, H)."""
    x = _embedded(graph, member, embedding(graph, member.source_embedding, source))
    last: list[str] = []
    for number, layer in enumerate(member.encoder_layers):
        below = x
        x, state = recurrent(graph, layer, x, None, lengths=lengths)  # type: ignore[arg-type]  # of a ModuleList
        for part in state:  # (D, N, H/D)
            by_sentence = graph.add("Transpose", part, perm=[1, 0, 2])
            last.append(graph.add("Reshape", by_sentence, graph.constant([0, -1])))
        if member.residual and number > 0:
            x = graph.add("Add", x, below)
    start = concatenate(graph, last, axis=1)
    if member.start is not None:
        start = graph.add("Tanh", linear(graph, member.start, start))
    size, parts = member.output.in_features, member.state_parts
    start = graph.add("Reshape", start, graph.constant([0, len(member.layers), parts, size]))
    start = graph.add("Transpose", start, perm=[2, 1, 0, 3])  # (parts, L, N, H)
    state = [graph.add("Squeeze", part, graph.constant([0])) for part in split(graph, start, [1] * parts, axis=0)]
    return linear(graph, member.project, x) if isinstance(member.project, nn.Linear) else x, state


def _step(
    graph: Graph, member: Translator, tokens: str, state: list[list[str]], attend: Attend | None
) -> tuple[str, str | None, list[list[str]]]:
    """Logits (B, V), attention weights (B, S), and the state after the token, as it came."""
    table = graph.constant(member.embedding.weight)
    embedded = _embedded(graph, member, graph.add("Gather", table, tokens, axis=0))
    embedded = x = graph.add("Unsqueeze", embedded, graph.constant([1]))  # (B, 1, H)
    if member.input_feeding:
        *state, [fed] = state
        x = concatenate(graph, [x, _turned(graph, fed)], axis=2)
    after: list[list[str]] = [[] for _ in state]
    z, weights = None, None
    for number, layer in enumerate(member.layers):
        below, before = x, [part[number] for part in state]
        if number == 0 and attend and member.place == "before":
            z, weights = attend(_turned(graph, before[0]))
        if z and number == {"before": 0, "between": 1}[member.place]:
            x = concatenate(graph, [x, z], axis=2)
        x, last = recurrent(graph, layer, x, before)  # type: ignore[arg-type]
        for part, one in zip(after, last, strict=True):
            part.append(one)
        if member.residual and number > 0:
            x = graph.add("Add", x, below)
        if number == 0 and attend and member.place == "between":
            z, weights = attend(x)
    if attend and member.place == "after":
        z, weights = attend(x)
    readout = concatenate(graph, [x, embedded] if z is None else [x, z, embedded], axis=2)
    deep = graph.add("Tanh", linear(graph, member.deep, readout))  # t~, (B, 1, H)
    if member.input_feeding:
        after.append([_turned(graph, deep)])
    tied = member.output.weight is member.embedding.weight
    output = table if tied else graph.constant(member.output.weight)  # one table in the file for both
    deep = graph.add("Squeeze", deep, graph.constant([1]))
    return graph.add("Gemm", deep, output, graph.constant(member.output.bias), transB=1), weights, after


def _keys_and_values(graph: Graph, attention: Attention | None, vectors: str) -> tuple[str, str]:
    """What queries are compared with and what is averaged, each (N, S, H)."""
    assert attention is not None
    keys = linear(graph, attention.key, vectors) if isinstance(attention.key, nn.Linear) else vectors
    return keys, linear(graph, attention.value, vectors) if isinstance(attention, DotAttention) else vectors


def _attending(graph: Graph, members: Sequence[Translator]) -> list[Attend]:
    """The attention of each member, over keys and values that are inputs."""
    count, size = len(members), _size(members)
    keys, values = (
        split(graph, graph.input(name, FLOAT, _memory_axes(members)), [size] * count, axis=2) for name in ("keys", "values")
    )
    mask = graph.input("mask", torch.bool, ["sentences", "source"])
    by_sentence = concatenate(graph, [graph.add("Shape", mask, end=1), graph.constant([-1, size])], axis=0)
    padding = graph.add("Unsqueeze", graph.add("Not", mask), graph.constant([1]))  # (N, 1, S)

    def attend(attention: Attention, keys: str, values: str, h: str) -> tuple[str, str]:
        queries = graph.add("Reshape", h, by_sentence)  # (N, B/N, H)
        z, weights = _attend(graph, attention, queries, keys, values, padding)
        return graph.add("Reshape", z, graph.constant([-1, 1, size])), graph.add("Flatten", weights, axis=2)

    several = zip(members, keys, values, strict=True)
    return [partial(attend, member.attention, *memory) for member, *memory in several]


def _attend(graph: Graph, attention: Attention, queries: str, keys: str, values: str, padding: str) -> tuple[str, str]:
    """z (N, Q, H) and the weights (N, Q, S) of queries (N, Q, H)."""
    if isinstance(attention, DotAttention):
        each = attention.key.out_features // attention.heads
        shape = graph.constant([0, 0, attention.heads, each])
        queries = linear(graph, attention.query, queries)
        queries, keys, values = (
            graph.add("Transpose", graph.add("Reshape", part, shape), perm=[0, 2, 1, 3]) for part in (queries, keys, values)
        )  # (N, heads, Q or S, H/heads)
        scores = graph.add("MatMul", queries, graph.add("Transpose", keys, perm=[0, 1, 3, 2]))
        scores = graph.add("Mul", scores, graph.constant(torch.tensor(each**-0.5)))
        weights = _normalised(graph, scores, graph.add("Unsqueeze", padding, graph.constant([1])))
        z = graph.add("Transpose", graph.add("MatMul", weights, values), perm=[0, 2, 1, 3])
        z = graph.add("Reshape", z, graph.constant([0, 0, -1]))
        return z, graph.add("ReduceMean", weights, axes=[1], keepdims=0)
    if isinstance(attention, AdditiveAttention):
        queries = graph.add("Unsqueeze", linear(graph, attention.query, queries), graph.constant([2]))
        summed = graph.add("Add", queries, graph.add("Unsqueeze", keys, graph.constant([1])))  # (N, Q, S, H)
        scores = linear(graph, attention.score, graph.add("Tanh", summed))
        scores = graph.add("Squeeze", scores, graph.constant([3]))
    else:
        scores = graph.add("MatMul", queries, graph.add("Transpose", keys, perm=[0, 2, 1]))
    weights = _normalised(graph, scores, padding)
    return graph.add("MatMul", weights, values), weights


def _normalised(graph: Graph, scores: str, padding: str) -> str:
    seen = graph.add("Where", padding, graph.constant(torch.tensor(-torch.inf)), scores)
    return graph.add("Softmax", seen, axis=-1)


def _together(graph: Graph, logits: Sequence[str]) -> str:
    """Logits; of several members log probabilities, of their mean probability."""
    if len(logits) == 1:
        return logits[0]
    log_p = [graph.add("Unsqueeze", graph.add("LogSoftmax", one, axis=-1), graph.constant([0])) for one in logits]
    total = graph.add("ReduceLogSumExp", concatenate(graph, log_p, axis=0), axes=[0], keepdims=0)
    return graph.add("Sub", total, graph.constant(torch.tensor(math.log(len(logits)))))


def _embedded(graph: Graph, member: Translator, x: str) -> str:
    if member.embedding_scale == 1:
        return x
    return graph.add("Mul", x, graph.constant(torch.tensor(member.embedding_scale)))


def _turned(graph: Graph, x: str) -> str:
    """(1, B, H) to (B, 1, H), and back."""
    return graph.add("Transpose", x, perm=[1, 0, 2])


def _size(members: Sequence[Translator]) -> int:
    return members[0].output.in_features


def _state_names(member: Translator) -> list[str]:
    return ["h", "c"][: member.state_parts] + ["fed"] * member.input_feeding


def _state_axes(members: Sequence[Translator], name: str, rows: str) -> tuple[int, str, int]:
    return len(members) * (1 if name == "fed" else len(members[0].layers)), rows, _size(members)


def _memory_axes(members: Sequence[Translator]) -> list[str | int]:
    return ["sentences", "source", len(members) * _size(members)]
