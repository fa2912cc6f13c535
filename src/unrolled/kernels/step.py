"""One step of a stack of layers in fp32 on the CPU, weights read where PyTorch keeps them (csrc/step.hpp).

Nothing is packed or kept, so the weights are those of now, however they were written to. Everything that the library is
handed the address of is looked at in that same call.
"""

from __future__ import annotations

import ctypes
import functools
import math
import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unrolled.cells import MODES

from . import context, library

_POINTERS = ("x", "h_in", "c_in", "h_out", "c_out", "out")


class _Args(ctypes.Structure):
    c_name = "unrolled_step_args"
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("mode", "L", "B", "I", "H")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    ]


# Through map, which loops in C: all of it runs before every step.
_dtype, _is_cpu, _shape = (getattr(Tensor, name).__get__ for name in ("dtype", "is_cpu", "shape"))
_address, _is_contiguous, _is_neg, _empty_like = Tensor.data_ptr, Tensor.is_contiguous, Tensor.is_neg, torch.empty_like
_FLOAT, _FLOAT_BYTES = {torch.float32}, torch.float32.itemsize


@functools.lru_cache(256)
def _call_of(
    mode: str, layers: int, batch: int, width: int, hidden: int, bias: bool, states: int
) -> tuple[list, list[int], Any, Tensor, Tensor]:
    """The shapes that x, the states and all weights have to have, their bytes, what packs the call, zeros like its results."""
    rows = MODES[mode].gates * hidden
    shapes: list[tuple] = [(batch, width), *[(layers, batch, hidden)] * states]
    for layer in range(layers):
        shapes += [(rows, hidden if layer else width), (rows, hidden), *[(rows,)] * (2 * bias)]
    pack = struct.Struct(f"={len(_Args._fields_) + 4 * layers}q").pack
    like = torch.zeros(layers, batch, hidden, dtype=torch.float32, device="cpu")
    sizes = [math.prod(shape) * _FLOAT_BYTES for shape in shapes]
    return shapes, sizes, functools.partial(pack, MODES[mode].number, layers, batch, width, hidden), like[0].clone(), like


def run(
    mode: str, x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], hidden: int, bias: bool
) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """x (B, I) and h, or for the LSTM h and c, (L, B, H), or nothing for zeros -> the last layer's h (B, H) and the new state.

    weights are those of all layers, w_ih, w_hh, and with `bias` b_ih, b_hh. None if something is not `readable`.
    """
    if (found := readable(mode, x, state, weights, hidden, bias)) is None:
        return None
    pack, out_like, h_like, (of_x, *others) = found
    out, h = _empty_like(out_like), _empty_like(h_like)
    new = (h, _empty_like(h_like)) if mode == "LSTM" else (h,)
    # Of what has no c, h stands in its place, and nobody reads it. Zeros are multiplied like any state: 0 times NaN is NaN.
    before = (others[0], others[len(state) - 1]) if state else (_address(h_like),) * 2
    pointers = others[len(state) :]
    if not bias:
        pointers = [p for k in range(0, len(pointers), 2) for p in (*pointers[k : k + 2], 0, 0)]
    library.function("step", _Args, ctypes.c_char_p)(pack(of_x, *before, *map(_address, (h, new[-1], out)), *pointers))
    return out, new


def readable(
    mode: str, x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], hidden: int, bias: bool
) -> tuple[Any, Tensor, Tensor, list[int]] | None:
    """Whether all are float32, of the shapes that these sizes ask for, one number behind the other in the CPU's memory.

    Then what packs the call, zeros like its results, and the addresses of x, the state and the weights. The caller has asked
    `context.watched`, and for tensor subclasses.
    """
    if x.dim() != 2 or len(state) not in (0, MODES[mode].states):
        return None
    given, layers = (x, *state, *weights), len(weights) // (4 if bias else 2)
    try:
        shapes, sizes, *found = _call_of(mode, layers, *x.shape, hidden, bias, len(state))
        fits = {*map(_dtype, given)} == _FLOAT and all(map(_is_cpu, given)) and [*map(_shape, given)] == shapes
        # What is of another layout has no contiguity or no address; what has no memory, its own or any more, address 0.
        if fits and all(map(_is_contiguous, given)) and not any(map(_is_neg, given)):
            addresses = [*map(_address, given)]
            there = not context.freed(given, sizes) and (all(addresses) or not x.numel())
            return (*found, addresses) if there else None  # type: ignore[return-value]
    except RuntimeError:
        pass
    return None
