"""Single steps of a layer without gradients: `step`, and whole calls of one step, as one streams with torch.nn's layers.

They read the weights where they lie (`kernels/step.py`): every way of writing to them is seen, as nothing is kept of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unrolled.kernels import context, library
from unrolled.kernels import step as kernel
from unrolled.recurrence.arguments import Call
from unrolled.recurrence.run import Result

# Up to this batch faster than the sequence kernels: 2 to 3 times at B = 4, 1.2 to 2 times at 16, alike at 64.
MOST_ROWS = 64
# Whole calls on several threads: beyond these sizes the kernels' second thread makes up for what this saves.
MOST_WEIGHTS, MOST_PRODUCTS = 2**20, 2**21


def step(layer: Any, x_t: Tensor, state: Any) -> tuple[Tensor, Any] | None:
    """x_t (B, I) and a state, without gradients -> (h_t, state); None where a call has to do it."""
    if layer.step_option or layer.bidirectional or layer.proj_size or (layer.dropout and layer.training):
        return None
    parts = () if state is None else state if isinstance(state, (tuple, list)) else (state,)
    weights = [*map(layer._parameters.get, layer._flat_names)]
    given = (x_t, *parts, *weights)
    if not context.PLAIN.issuperset(map(type, given)) or context.watched(()) or torch._C._is_any_autocast_enabled():
        return None
    if torch.float32 not in library.dtypes or not x_t.dim() or x_t.shape[0] > MOST_ROWS:
        return None
    if (done := kernel.run(layer.mode, x_t, parts, weights, layer.hidden_size, layer.bias)) is None:
        return None
    return done[0], done[1] if layer.mode == "LSTM" else done[1][0]


def refuses(call: Call) -> str | None:
    """Why it cannot compute a whole call; None if it can."""
    layer, x = call.layer, call.x
    if call.watched:  # and first: a number of steps that is written out is none that a traced graph could leave open
        return f"{call.watched} must see every operation"
    if x.shape[0] != 1:
        return f"{x.shape[0]} steps: it computes one"
    if call.gradients:
        return "gradients are recorded: it keeps nothing for backward (torch.no_grad() turns them off)"
    if not library.dtypes:
        return library.why_not()
    if layer.bidirectional or layer.proj_size:
        return "it knows one direction, and no projection"
    if call.lengths is not None or call.resets is not None or call.every_step or call.gradient_norms is not None:
        return "it knows no lengths, resets or looks inside"
    if call.option:
        return f"{call.option}={getattr(layer, call.option)} changes what a step does"
    if layer.dropout and layer.training:
        return f"dropout={layer.dropout} in training: it drops nothing"
    count, batch = sum(weight.numel() for cell, _ in call.weights for weight in cell[:2]), x.shape[1]
    small = count <= MOST_WEIGHTS and batch * count <= MOST_PRODUCTS
    if batch > MOST_ROWS or not (small or torch.get_num_threads() == 1):
        return f"{count:,} weights at a batch of {batch}: the kernels are as fast"
    if call.dtype is not torch.float32 or kernel.readable(*_given(call)) is None:
        return f"input of {x.dtype} on {x.device}, computed in {call.dtype}: it reads vectors of float32 in the CPU's memory"
    return None


def run(call: Call) -> Result:
    done = kernel.run(*_given(call))
    assert done is not None  # `refuses` has asked
    return Result(done[0].unsqueeze_(0), done[1], [])


def _given(call: Call) -> tuple:
    """What the kernel takes of a call."""
    layer, state = call.layer, [part.contiguous() for part in (call.h0, call.c0) if part is not None]
    weights = [weight for cell, _ in call.weights for weight in cell if weight is not None]
    return layer.mode, call.x[0].contiguous(), state, weights, layer.hidden_size, layer.bias
