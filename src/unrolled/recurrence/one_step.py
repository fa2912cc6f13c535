"""Single steps of a layer on the streaming engine: `step`, and whole calls of one step, as one streams with torch.nn's layers.

Weights are packed as the engine reads them and kept until they change. Before each step all of them are read and their
fingerprint compared, so that every way of writing to them is seen: in place, through `.data`, NumPy, a flat vector, the shared
memory of another process. At H = 64 that takes a quarter of the step, at H = 512 as long as the step itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unrolled.cells import MODES
from unrolled.kernels import context
from unrolled.recurrence.arguments import Call, check_input
from unrolled.recurrence.run import Result
from unrolled.streaming import Streamer, supported

# Up to this batch `step` is faster here than by the sequence kernels: 3 to 12 times at B = 4, alike at 64, H = 512.
MOST_ROWS = 64
# Whole calls up to these sizes are 1.2 to 4.4 times faster here; beyond, the kernels' second thread makes up for what the
# engine saves. With one thread that begins at four times the weights.
MOST_WEIGHTS, MOST_PRODUCTS = 2**20, 2**21
_STEP_DTYPE = torch.float32


class StepEngine:
    """The streaming engine of one layer, built when it is first used. Several threads may call it."""

    def __init__(self) -> None:
        self._streamer: Streamer | None = None

    def step(self, layer: Any, x_t: Tensor, state: Any) -> tuple[Tensor, Any] | None:
        """x_t (B, I) and a state, without gradients -> (h_t, state); None where a call has to do it."""
        if x_t.dtype is not _STEP_DTYPE or layer.step_option:  # which may have been set since the last step
            return None
        streamer = self._streamer
        if state is None or (streamer is not None and state is streamer.returned):
            parts: tuple = (x_t,)
        else:
            parts = (x_t, *state) if isinstance(state, (tuple, list)) else (x_t, state)
            if not all(isinstance(part, Tensor) for part in parts):
                return None
        if context.watched(parts) or (layer.dropout and layer.training) or torch.is_autocast_enabled("cpu"):
            return None
        if streamer is not None and x_t.shape in streamer.shapes and streamer.weights.same():
            return streamer.advance(x_t, state)
        if x_t.dim() != 2 or x_t.shape[0] > MOST_ROWS:
            return None
        check_input(layer, x_t, layer.weight_ih_l0.dtype, None)
        return None if _cannot_keep(layer) is not None else self._packed(layer).advance(x_t, state)

    def refuses(self, call: Call) -> str | None:
        """Why it cannot compute a whole call; None if it can."""
        layer, x = call.layer, call.x
        if x.shape[0] != 1:
            return f"{x.shape[0]} steps: it computes one"
        if call.gradients:
            return "gradients are recorded: it keeps nothing for backward (torch.no_grad() turns them off)"
        if call.watched:
            return f"{call.watched} must see every operation"
        if call.dtype is not _STEP_DTYPE or not x.is_floating_point() or not x.is_cpu:
            return f"input of {x.dtype} on {x.device}, computed in {call.dtype}: it reads vectors of float32 on the CPU"
        if call.lengths is not None or call.resets is not None or call.every_step or call.gradient_norms is not None:
            return "it knows no lengths, resets or looks inside"
        if call.option:
            return f"{call.option}={getattr(layer, call.option)} changes what a step does"
        if layer.dropout and layer.training:
            return f"dropout={layer.dropout} in training: it drops nothing"
        weights = _weights(layer)
        if torch.get_num_threads() == 1:
            fits = weights <= 4 * MOST_WEIGHTS
        else:
            fits = weights <= MOST_WEIGHTS and x.shape[1] * weights <= MOST_PRODUCTS
        if not fits:
            return f"{weights:,} weights at a batch of {x.shape[1]}: the kernels are as fast"
        if not all(t.is_cpu and t.dtype is _STEP_DTYPE for t in (call.h0, call.c0) if t is not None):
            return "the state has to be float32 in the CPU's memory"
        if self._streamer is None or not self._streamer.weights.in_place():
            return _cannot_keep(layer)
        return None

    def run(self, call: Call) -> Result:
        state = None if call.h0 is None else call.h0 if call.c0 is None else (call.h0, call.c0)
        h_t, state = self._packed(call.layer).advance(call.x[0], state)
        return Result(h_t.unsqueeze_(0), state if isinstance(state, tuple) else (state,), [])

    def _packed(self, layer: Any) -> Streamer:
        """The streamer, its weights what the layer's are now."""
        streamer = self._streamer
        if streamer is None:
            self._streamer = streamer = Streamer(layer)  # of two threads' here one stays, and each serves its own
        elif not streamer.weights.same():
            streamer.weights.repack_unless(streamer.weights.same)
        return streamer


def _cannot_keep(layer: Any) -> str | None:
    """Why the weights that the layer has now cannot be kept packed from call to call; None if they can."""
    if (reason := supported(layer)) is not None:
        return reason
    given = [weight for weights in layer.all_weights for weight in weights]
    if {id(weight) for weight in given} != {id(weight) for weight in layer._parameters.values()}:
        return "the weights are computed at every use: they cannot be kept packed"
    if not all(weight.dtype is _STEP_DTYPE and weight.is_contiguous() for weight in given):
        return "the weights have to be float32 and contiguous"
    return None


def _weights(layer: Any) -> int:
    """How many weights the layers have, as if all were as wide as the first."""
    return layer.num_layers * MODES[layer.mode].gates * layer.hidden_size * (layer.input_size + layer.hidden_size)
