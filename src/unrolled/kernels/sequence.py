"""One layer in one direction over a whole sequence by the compiled kernels: checks, memory for the results, the two calls.

`operators.py` offers these to PyTorch; `recompute.py` runs them a segment at a time.
"""

# Arguments are tensors or None by kind of call; `check` does at run time what types cannot.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unrolled.cells import MODES

from . import context, library


class Inputs(NamedTuple):
    """What a sequence is computed from: x with w_ih and b_ih, or ids with the table of W_ih times every embedding."""

    x: Tensor | None
    """(T, B, I)"""
    ids: Tensor | None
    """(T, B) int64, rows of the table."""
    table: Tensor | None
    """(V, G*H), with b_ih in it."""
    h0: Tensor | None
    """(B, H); None is zeros, here and for c0."""
    c0: Tensor | None
    """(B, H), of the LSTM."""
    w_ih: Tensor | None
    """(G*H, I)"""
    w_hh: Tensor
    """(G*H, H)"""
    b_ih: Tensor | None
    """(G*H,)"""
    b_hh: Tensor | None
    """(G*H,)"""
    lengths: Tensor | None
    """(B,) int64 in [0, T]."""
    resets: Tensor | None
    """(T, B) bool."""

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """T, B, I (0 for ids), H, V (0 for x)."""
        T, B = (self.ids if self.x is None else self.x).shape[:2]
        return (
            T,
            B,
            0 if self.x is None else self.x.shape[2],
            self.w_hh.shape[1],
            0 if self.table is None else self.table.shape[0],
        )


class Results(NamedTuple):
    """What forward makes. What a mode or call has nothing of has no elements."""

    output: Tensor
    """(T, B, H): h of every step."""
    cs: Tensor
    """(T, B, H): the LSTM's c of every step, in fp32 at least."""
    h_n: Tensor
    """(B, H)"""
    c_n: Tensor
    """(B, H)"""
    gates: Tensor
    """What backward needs besides; recomputing in segments, the LSTM's c before each of them."""


DIFFERENTIABLE = ("x", "table", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh")
"""The inputs that have gradients, in the order of `needed` and of backward's results."""


# ----------------------------------------------------------------------------------------------------------- checks


def _describe(t: Tensor) -> str:
    return f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')} on {t.device}"


def expect(mode: str, name: str, t: Tensor | None, shape: tuple, dtype: torch.dtype, device: torch.device) -> None:
    if t is None or (t.shape == shape and t.dtype == dtype and t.device == device and t.layout == torch.strided):
        return
    if t.device != device:
        raise ValueError(f"{mode} expected {name} on {device}, where the weights are, got {_describe(t)}")
    if t.dtype != dtype:
        raise ValueError(f"{mode} expected {name} of {dtype}, the dtype of the weights, got {_describe(t)}")
    if t.layout != torch.strided:
        raise ValueError(f"{mode} expected {name} to be dense, got {t.layout}. Call .to_dense() on it")
    raise ValueError(f"{mode} expected {name} of shape {shape}, got {_describe(t)}")


def check(mode: str, given: Inputs, grad_norms: Tensor | None = None) -> None:
    """Raise ValueError unless shapes, dtypes, layouts and devices agree. Reads no values."""
    if mode not in MODES:
        raise ValueError(f"expected mode to be one of {', '.join(MODES)}, got {mode!r}")
    x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets = given
    if w_hh.dim() != 2:
        raise ValueError(f"{mode} expected w_hh of shape (G*H, H), got {_describe(w_hh)}")
    H, device, dtype = w_hh.shape[1], w_hh.device, w_hh.dtype
    rows = MODES[mode].gates * H
    expect(mode, "w_hh", w_hh, (rows, H), dtype, device)
    if x is not None:
        if x.dim() != 3:
            raise ValueError(f"{mode} expected x of shape (T, B, I), got {_describe(x)}")
        if w_ih is None:
            raise ValueError(f"{mode} expected w_ih beside x, got None")
        T, B, width = x.shape
        expect(mode, "x", x, (T, B, width), dtype, device)
        expect(mode, "w_ih", w_ih, (rows, width), dtype, device)
        expect(mode, "b_ih", b_ih, (rows,), dtype, device)
    else:
        if ids is None or table is None:
            raise ValueError(f"{mode} expected either x, or ids with a table, got neither")
        if ids.dim() != 2 or ids.dtype != torch.int64 or ids.device != device:
            raise ValueError(f"{mode} expected ids of shape (T, B), int64 on {device}, got {_describe(ids)}")
        T, B = ids.shape
        if table.dim() != 2 or table.shape[1] != rows or not table.is_floating_point() or table.device != device:
            raise ValueError(f"{mode} expected table of shape (V, {rows}) on {device}, got {_describe(table)}")
    expect(mode, "b_hh", b_hh, (rows,), dtype, device)
    expect(mode, "h0", h0, (B, H), dtype, device)
    if c0 is not None:
        if mode != "LSTM":
            raise ValueError(f"{mode} has no cell state: expected c0 to be None, got {_describe(c0)}")
        expect(mode, "c0", c0, (B, H), dtype, device)
    if lengths is not None:
        if lengths.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"{mode} expected lengths of int64, got {_describe(lengths)}")
        expect(mode, "lengths", lengths, (B,), lengths.dtype, device)
    if resets is not None:
        if resets.dtype not in (torch.bool, torch.uint8):
            raise ValueError(f"{mode} expected resets of bool, got {_describe(resets)}")
        expect(mode, "resets", resets, (T, B), resets.dtype, device)
    if grad_norms is not None:
        expect(mode, "grad_norms", grad_norms, (2, T, B), torch.float32, device)


def check_values(mode: str, given: Inputs) -> None:
    """Raise ValueError unless lengths lie in [0, T] and ids in [0, V): the kernels index memory with them."""
    if given.lengths is None and given.ids is None:
        return
    steps, _, _, _, rows = given.sizes
    for name, t, high in (("lengths", given.lengths, steps), ("ids", given.ids, rows - 1)):
        if t is not None and t.numel():
            least, most = (int(v) for v in t.aminmax())
            if least < 0 or most > high:
                raise ValueError(f"{mode} expected {name} between 0 and {high}, got values from {least} to {most}")


def check_backward(mode: str, given: Inputs, incoming: tuple[Tensor | None, ...], output: Tensor) -> None:
    """The same of what backward reads: since forward, `.data` and NumPy may have changed what no version counter has seen."""
    check(mode, given)
    check_values(mode, given)
    T, B, _, H, _ = given.sizes
    device = given.w_hh.device
    expect(mode, "output", output, (T, B, H), given.w_hh.dtype, device)
    d_out, d_cs, d_h_n, d_c_n = incoming if mode == "LSTM" else (incoming[0], None, incoming[2], None)
    for gradient, shape in ((d_out, (T, B, H)), (d_cs, (T, B, H)), (d_h_n, (B, H)), (d_c_n, (B, H))):
        if gradient is not None:
            expect(mode, "an incoming gradient", gradient, shape, gradient.dtype, device)


# ----------------------------------------------------------------------------------------------------------- memory


def sums_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of c, of the token table, and of sums: bf16 is too coarse for them."""
    return torch.float32 if dtype == torch.bfloat16 else dtype


def gates_size(mode: str, dtype: torch.dtype, T: int, B: int, H: int) -> int:
    """Elements that forward saves for backward: the kernels pad hidden units to whole vectors.

    Arithmetic that holds for symbolic sizes too, hence not asked of the library.
    """
    if not MODES[mode].saved:
        return 0
    lanes = library.lanes(dtype)
    return T * B * ((H + lanes - 1) // lanes * lanes) * MODES[mode].saved


def new_results(mode: str, given: Inputs, save: bool, every_c: bool, segment: int = 0, empty=None) -> Results:
    """Memory for forward's results, large ones from `empty(shape, dtype=)`; torch's by default."""
    T, B, _, H, _ = given.sizes
    w_hh, lstm = given.w_hh, mode == "LSTM"
    dtype, wide = w_hh.dtype, sums_dtype(w_hh.dtype)
    empty = empty or w_hh.new_empty
    output = w_hh.new_empty(T, B, H)
    cs = empty((T, B, H) if lstm and (save or every_c) else (0,), dtype=wide)
    h_n, c_n = w_hh.new_empty(B, H), w_hh.new_empty((B, H) if lstm else (0,))
    if segment:
        gates = w_hh.new_empty((-(-T // segment), B, H) if lstm else (0,), dtype=wide)
    else:
        gates = empty((gates_size(mode, dtype, T, B, H) if save else 0,), dtype=dtype)
    return Results(output, cs, h_n, c_n, gates)


def new_gradients(given: Inputs, needed: list[bool], norms: bool) -> tuple[Tensor, ...]:
    """Memory for the gradients of `DIFFERENTIABLE` and for the norms (2, T, B); without elements where not needed."""
    T, B, _, _, _ = given.sizes
    nothing = given.w_hh.new_empty
    gradients = [
        nothing((0,)) if (t := getattr(given, name)) is None or not wanted else t.new_empty(t.shape)
        for name, wanted in zip(DIFFERENTIABLE, needed, strict=True)
    ]
    return (*gradients, nothing((2, T, B) if norms else (0,), dtype=torch.float32))


# ------------------------------------------------------------------------------------------------------------ calls


def _contiguous(t: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return t if t is None or (t.dtype == dtype and t.is_contiguous()) else t.to(dtype).contiguous()


def _readable(given: Inputs) -> dict[str, Tensor]:
    """The inputs as the kernels read them; `check` has seen that all but these have the dtype they are read in."""
    tensors = {name: t.contiguous() for name, t in zip(Inputs._fields, given, strict=True) if t is not None}
    wide = sums_dtype(given.w_hh.dtype)
    for name, dtype in (("table", wide), ("c0", wide), ("lengths", torch.int64)):
        if name in tensors:
            tensors[name] = tensors[name].to(dtype)
    context.require_memory(tensors)
    return tensors


def forward(mode: str, given: Inputs, results: Results, reverse: bool, save: bool, every_c: bool) -> Results:
    """The compiled forward pass into `results`. The caller has checked `given`."""
    output, cs, h_n, c_n, gates = results
    dtype = given.w_hh.dtype
    tensors = _readable(given) | {"out": output, "h_n": h_n}
    c_last = c_n
    if mode == "LSTM":
        wide = sums_dtype(dtype)
        c_last = c_n if c_n.dtype == wide else torch.empty_like(c_n, dtype=wide)
        tensors |= {"cs": cs if save or every_c else None, "c_n": c_last}
    if save:
        tensors["gates"] = gates
    library.call("forward", mode, dtype, given.sizes, reverse, tensors)
    if c_last is not c_n:
        c_n.copy_(c_last)
    return results


def inference(mode: str, given: Inputs, reverse: bool, every_c: bool) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """`forward` into memory of its own, for a call without gradients: (output, cs, h_n, c_n), None for what there is not."""
    T, B, _, H, _ = given.sizes
    w_hh, cs, c_n = given.w_hh, None, None
    output, h_n = library.empty((T, B, H), w_hh.dtype), w_hh.new_empty(B, H)
    if mode == "LSTM":
        cs = library.empty((T, B, H), sums_dtype(w_hh.dtype)) if every_c else None
        c_n = torch.empty_like(h_n)
    forward(mode, given, Results(output, cs, h_n, c_n, None), reverse, False, every_c)
    return output, cs, h_n, c_n


def backward(
    mode: str,
    incoming: tuple,
    given: Inputs,
    saved: tuple[Tensor, Tensor, Tensor],
    gradients: tuple[Tensor, ...],
    reverse: bool,
    needed: list[bool],
    norms: bool,
) -> tuple[Tensor, ...]:
    """The compiled backward pass into `gradients`, from those of (output, cs, h_n, c_n) and what forward saved of
    (output, cs, gates)."""
    (d_out, d_cs, d_h_n, d_c_n), (output, cs, gates) = incoming, saved
    dtype, wide, lstm = given.w_hh.dtype, sums_dtype(given.w_hh.dtype), mode == "LSTM"
    *of_inputs, norms_out = gradients
    into = {
        ("d_table" if name == "table" else "d" + name): t
        for name, t, wanted in zip(DIFFERENTIABLE, of_inputs, needed, strict=True)
        if wanted
    }
    narrow = {name: into[name] for name in ("d_table", "dc0") if name in into and into[name].dtype != wide}
    into |= {name: torch.empty_like(t, dtype=wide) for name, t in narrow.items()}
    tensors = _readable(given) | {
        "out": output.contiguous(),
        "cs": cs.contiguous() if lstm else None,
        "gates": gates,
        "d_out": _contiguous(d_out, dtype),
        "d_cs": _contiguous(d_cs, wide) if lstm else None,
        "d_h_n": _contiguous(d_h_n, dtype),
        "d_c_n": _contiguous(d_c_n, wide) if lstm else None,
        "grad_norms": norms_out if norms else None,
    }
    library.call("backward", mode, dtype, given.sizes, reverse, tensors | into)
    for name, t in narrow.items():
        t.copy_(into[name])
    return gradients
