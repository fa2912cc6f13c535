"""How each backend computes a call: layers and directions one after another, or all of them at once.

`plan.py` has found that the backend can.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import dropout, embedding
from torch.utils._pytree import tree_map

from unrolled import kernels, options
from unrolled.cells import Norm, Norms
from unrolled.kernels import context, definition, regularised, torch_rnn
from unrolled.kernels.linear import linear
from unrolled.kernels.operators import token_table
from unrolled.kernels.packed_segments import PackedSegments, pack_segments
from unrolled.options import StepOptions
from unrolled.recurrence.arguments import Call


class LayerOutput(NamedTuple):
    """One layer and direction over a whole sequence."""

    output: Tensor
    """h of every step, (T, B, H or proj_size), zero behind a sequence's end."""
    cs: Tensor | None
    """The LSTM's c of every step, (T, B, H), where it was asked for."""
    h_n: Tensor
    """(B, H or proj_size)"""
    c_n: Tensor | None
    """(B, H), of the LSTM."""


class Result(NamedTuple):
    """A whole call."""

    output: Tensor
    """The last layer's, (T, B, D*H)."""
    state: tuple[Tensor, ...]
    """h_n, and for the LSTM c_n, (L*D, B, H)."""
    layers: list[LayerOutput]
    """Of each layer and direction, where they were computed one by one."""


def layer_by_layer(call: Call, compute: Callable[[Call, Tensor, int, bool], LayerOutput]) -> Result:
    """The whole call by a function of one layer and direction: `compute(call, x, k, reverse)`."""
    layer, x, done = call.layer, _input(call), []
    for number in range(layer.num_layers):
        outputs = []
        for direction in range(layer.num_directions):
            done.append(compute(call, x, len(done), direction == 1))
            outputs.append(done[-1].output)
        x = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]  # (T, B, D*H)
        if layer.dropout and number < layer.num_layers - 1:
            x = _between_layers(call, x)
    # Stacked even where there is one: a view could not be detached in place, as loops over chunks like to.
    h_n = torch.stack([one.h_n for one in done])
    state = (h_n,) if done[0].c_n is None else (h_n, torch.stack([one.c_n for one in done]))
    return Result(x, state, done)


def _between_layers(call: Call, x: Tensor) -> Tensor:
    """Dropout between layers. Of packed input masks are drawn for steps of sequences alone, in torch.nn's order."""
    rate, training = call.layer.dropout, call.layer.training
    if not (call.packed and training) or call.lengths is None:
        return dropout(x, rate, training)
    alive = torch.arange(call.steps, device=x.device).unsqueeze(1) < call.lengths.to(x.device)  # (T, B)
    return torch.zeros_like(x).index_put((alive,), dropout(x[alive], rate, training))


def _kernel_layer(call: Call, x: Tensor, k: int, reverse: bool) -> LayerOutput:
    """The compiled kernels."""
    w, mode = call.weights[k].cell, call.layer.mode
    h0, c0 = (None if part is None else part[k] for part in (call.h0, call.c0))
    if x.dtype not in context.INTEGERS:
        given = kernels.Inputs(x, None, None, h0, c0, *w, call.lengths, call.resets)
    else:
        table = token_table(call.embedding, w.w_ih, w.b_ih)
        given = kernels.Inputs(None, x, table, h0, c0, None, w.w_hh, None, w.b_hh, call.lengths, call.resets)
    norms = None if call.gradient_norms is None else call.gradient_norms[k]
    how = {
        "watched": call.watched,
        "reverse": reverse,
        "grad_norms": norms,
        "every_c": call.every_step,
        "save": call.layer.save,
    }
    return LayerOutput(*kernels.run(mode, given, **how))


def _regularised_layer(call: Call, x: Tensor, k: int, reverse: bool) -> LayerOutput:
    """The compiled kernels of layers with options. They know fp32 and float64: bf16 is widened."""
    w, mode, (h, c) = call.weights[k].cell, call.layer.mode, _state(call, k)
    drawn, table = _options(call, k, h, c), call.embedding
    widen = call.dtype == torch.bfloat16
    if widen:
        x, h, c, w, table, drawn = tree_map(_widened, (x, h, c, w, table, drawn))
    norms = None if call.gradient_norms is None else call.gradient_norms[k]
    with torch.autocast("cpu", enabled=False):
        x_gates = definition.input_gates(mode, x, w, call.lengths, table, drawn.norms, linear)
        how = {"lengths": call.lengths, "resets": call.resets, "reverse": reverse, "grad_norms": norms}
        results = regularised.run(mode, x_gates, h, c, w.w_hh, w.b_hh, **how, options=drawn, watched=call.watched)
    return LayerOutput(*(r.to(call.dtype) if widen and r is not None else r for r in results))  # type: ignore[arg-type]


def by_torch_layer(call: Call) -> Result:
    """PyTorch's operator for each layer and direction."""
    packed: list[PackedSegments | None] = [None, None]
    if call.lengths is not None or call.resets is not None:
        directions = (False, True)[: call.layer.num_directions]
        packed = [pack_segments(call.steps, call.lengths, call.resets, reverse, call.x.device) for reverse in directions]

    def compute(call: Call, x: Tensor, k: int, reverse: bool) -> LayerOutput:
        w, w_hr = call.weights[k]
        h, c = _state(call, k)
        x = definition.as_vectors(x, w.w_ih, call.embedding)
        given = [weight for weight in (*w, w_hr) if weight is not None]
        state = h.unsqueeze(0), None if c is None else c.unsqueeze(0)
        how = {"packed": packed[reverse], "reverse": reverse, "start": _options(call, k, h, c).reset_to}
        output, h_n, c_n = torch_rnn.run(call.layer.mode, x, *state, [given], **how)
        return LayerOutput(output, None, h_n[0], None if c_n is None else c_n[0])

    return layer_by_layer(call, compute)


def _defined_layer(call: Call, x: Tensor, k: int, reverse: bool) -> LayerOutput:
    """The cell's step in a loop: every device, dtype, option and order of derivative."""
    (w, w_hr), (h, c) = call.weights[k], _state(call, k)
    how = {
        "embedding": call.embedding,
        "lengths": None if call.lengths is None else call.lengths.to(x.device),
        "resets": call.resets,
        "reverse": reverse,
        "grad_norms": None if call.gradient_norms is None else call.gradient_norms[k],
    }
    return LayerOutput(*definition.run(call.layer.mode, x, h, c, w, w_hr, **how, options=_options(call, k, h, c)))


by_kernels = partial(layer_by_layer, compute=_kernel_layer)
by_regularised_kernels = partial(layer_by_layer, compute=_regularised_layer)
by_definition = partial(layer_by_layer, compute=_defined_layer)


def by_torch_stack(call: Call) -> Result:
    """PyTorch's operator for all layers and directions, of which cuDNN computes some at a time."""
    layer, w_ih = call.layer, call.weights[0].cell.w_ih
    x, packed = definition.as_vectors(_input(call), w_ih, call.embedding), None
    if call.lengths is not None or call.resets is not None:
        packed = pack_segments(call.steps, call.lengths, call.resets, False, x.device)
    given = [[weight for weight in (*w, w_hr) if weight is not None] for w, w_hr in call.weights]
    states = [_state(call, k) for k in range(len(given))]
    h, c = (None if states[0][part] is None else torch.stack([s[part] for s in states]) for part in (0, 1))  # type: ignore[arg-type]
    how = {"bidirectional": layer.bidirectional, "packed": packed}
    output, *state = torch_rnn.run(layer.mode, x, h, c, given, **how)  # type: ignore[arg-type]
    return Result(output, tuple(part for part in state if part is not None), [])


def _input(call: Call) -> Tensor:
    """x; fewer tokens than the embedding has rows are looked up rather than multiplied with all of it.

    An exported program must not depend on how many there are.
    """
    x, table = call.x, call.embedding
    if table is None or x.dtype not in context.INTEGERS:
        return x
    exporting = call.compiling and not torch.compiler.is_dynamo_compiling()
    return embedding(x, table) if exporting or table.shape[0] > x.numel() else x


def _state(call: Call, k: int) -> tuple[Tensor, Tensor | None]:
    """h and c before the first step, (B, H or proj_size) and (B, H)."""
    if call.h0 is not None:
        return call.h0[k], None if call.c0 is None else call.c0[k]
    (w, w_hr), batch = call.weights[k], call.batch
    hidden = w.w_hh.shape[1] if w_hr is None else w_hr.shape[1]
    # Like x, whose batch may be a symbol of a trace's.
    h = call.x.new_zeros(batch, w.w_hh.shape[1], dtype=w.w_hh.dtype)
    return h, call.x.new_zeros(batch, hidden, dtype=w.w_hh.dtype) if call.layer.mode == "LSTM" else None


def _options(call: Call, k: int, h: Tensor, c: Tensor | None) -> StepOptions:
    """What this layer and direction does in this call beyond its cell, its random masks drawn."""
    layer, drawn = call.layer, options.NO_OPTIONS
    if call.option:
        rates = layer.recurrent_dropout, layer.zoneout, layer.zoneout_cell
        drawn = options.draw(rates, h, c, call.steps, layer.training)
    if layer.layer_norm:
        gain_ih, gain_hh, *of_c = layer.norm_weights(k)
        drawn = drawn._replace(norms=Norms(gain_ih, gain_hh, Norm(*of_c) if of_c else None))
    if layer.learned_state and call.resets is not None:
        start = [part[k].expand(call.batch, -1) for part in layer.learned()]
        drawn = drawn._replace(reset_to=(start[0], start[1] if len(start) == 2 else None))
    return drawn


def _widened(value: object) -> object:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
