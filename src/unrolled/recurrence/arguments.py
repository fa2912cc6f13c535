"""What a layer is called with, checked once and laid out as every backend reads it: time first, state always in tensors.

`Call` is all that choosing a backend and computing need to know of one call.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from unrolled.cells import MODES, Weights
from unrolled.kernels import context
from unrolled.options import CHANGE_STEPS


class LayerWeights(NamedTuple):
    """The parameters of one layer and direction."""

    cell: Weights
    w_hr: Tensor | None = None
    """(P, H): the LSTM's projection (Sak et al. 2014)."""


class Call(NamedTuple):
    """One call of a layer, checked."""

    layer: Any
    """The RNN, LSTM or GRU: its sizes and options."""
    x: Tensor
    """(T, B, I), or token ids (T, B) int64."""
    h0: Tensor | None
    """(L*D, B, H or proj_size); None is zeros, here and for c0."""
    c0: Tensor | None
    """(L*D, B, H)"""
    weights: tuple[LayerWeights, ...]
    """Of each layer and direction."""
    lengths: Tensor | None
    """(B,) int64 in [0, T], on the CPU where that can be."""
    resets: Tensor | None
    """(T, B) bool."""
    embedding: Tensor | None
    """(V, I), what token ids are rows of; None where they are one-hot."""
    gradient_norms: Tensor | None
    """(L*D, 2, T, B) float32, for backward to fill."""
    every_step: bool
    """Whether c of every step is asked for."""
    dtype: torch.dtype
    """What it is computed in: autocast's choice, or the weights' own."""
    compiling: bool
    watched: str
    """Who must see the operations, as `kernels.context.watched` says; empty if nobody."""
    gradients: bool
    """Whether backward may be called."""
    option: str
    """The first option of the layer that makes this call's steps other than the cell's; empty if none does."""
    packed: bool
    """Whether the input came packed, longest sequence first."""

    @property
    def steps(self) -> int:
        """T"""
        return self.x.shape[0]

    @property
    def batch(self) -> int:
        """B"""
        return self.x.shape[1]


def checked(
    layer: Any,
    input: Tensor,
    hx: Any = None,
    lengths: Any = None,
    resets: Any = None,
    embedding: Tensor | None = None,
    gradient_norms: Tensor | None = None,
    every_step: bool = False,
) -> tuple[Call, bool]:
    """The call, and whether its input has a batch axis. Raises what `Recurrent.forward` says."""
    if not isinstance(input, Tensor):
        raise no_tensor(layer, "input", input)
    compiling = context.compiling()
    tokens = input.dtype in context.INTEGERS
    weights = layer.layer_weights()
    device = input.device
    autocast = context.autocast_dtype(device)
    dtype = weights[0].cell.w_ih.dtype
    if tokens:
        x = input.long()
        _check_tokens(layer, x, embedding, dtype, compiling)
        batched = x.dim() == 2
    else:
        check_input(layer, input, dtype, autocast)
        x, batched = input, input.dim() == 3
    if not batched:
        x = x.unsqueeze(1)
        resets = resets.unsqueeze(1) if isinstance(resets, Tensor) and resets.dim() == 1 else resets
    elif layer.batch_first:
        x = x.transpose(0, 1)
        resets = resets.transpose(0, 1) if isinstance(resets, Tensor) and resets.dim() == 2 else resets
    T, B = x.shape[:2]
    if T == 0:
        raise RuntimeError(f"{_name(layer)}: Expected sequence length to be larger than 0 in RNN, got no steps.")
    if lengths is not None:
        lengths = _checked_lengths(lengths, T, B, device, compiling)
    if resets is not None:
        _check_resets(resets, T, B, device)
    if gradient_norms is not None:
        _check_gradient_norms(gradient_norms, (layer.num_layers * layer.num_directions, 2, T, B))
    h0, c0 = _initial_state(layer, hx, B, batched, None if autocast else dtype)
    given = layer, x, (h0, c0), weights, lengths, resets, embedding, gradient_norms, every_step
    return _call(*given, autocast=autocast, compiling=compiling), batched


def _call(
    layer: Any,
    x: Tensor,
    state: tuple[Tensor | None, Tensor | None],
    weights: tuple[LayerWeights, ...],
    lengths: Tensor | None,
    resets: Tensor | None = None,
    embedding: Tensor | None = None,
    gradient_norms: Tensor | None = None,
    every_step: bool = False,
    *,
    autocast: torch.dtype | None,
    compiling: bool,
    packed: bool = False,
) -> Call:
    """The call, with what is asked once of all its tensors."""
    of_layers = [t for cell, w_hr in weights for t in (*cell, w_hr) if t is not None]
    if gradient_norms is not None:
        state = _observed(layer, state, of_layers[1], x.shape[1], gradient_norms)
    real = [t for t in (x, *state, embedding) if t is not None] + of_layers
    watched = "torch.compile" if compiling else context.watched((*real, lengths, resets, gradient_norms))
    gradients = torch.is_grad_enabled() and any(t.requires_grad for t in real)
    option = ""
    for name in CHANGE_STEPS:
        if getattr(layer, name) and (layer.training or name != "recurrent_dropout"):
            option = name
            break
    dtype = autocast or of_layers[1].dtype
    masks = lengths, resets, embedding, gradient_norms, every_step
    return Call(layer, x, *state, weights, *masks, dtype, compiling, watched, gradients, option, packed)


def _observed(layer: Any, state: tuple, w_hh: Tensor, batch: int, gradient_norms: Tensor) -> tuple:
    """The state as one that has a gradient, which brings backward to every step: of frozen layers norms are asked for too.

    The norms are zero until it comes: where no loss depends on a step, nothing arrives.
    """
    with torch.no_grad():
        gradient_norms.zero_()
    h0, c0 = state
    if not torch.is_grad_enabled() or context.compiling() or (h0 is not None and h0.requires_grad):
        return state
    if h0 is None:
        rows = layer.num_layers * layer.num_directions
        h0 = w_hh.new_zeros(rows, batch, w_hh.shape[1])
        c0 = w_hh.new_zeros(rows, batch, layer.hidden_size) if layer.mode == "LSTM" else None
    return h0.detach().requires_grad_(), c0


# ------------------------------------------------------------------------------------------------------------- packed


def unpacked(layer: Any, packed: PackedSequence, hx: Any) -> Call:
    """The call that computes a packed input: padded, with lengths, longest first whatever order it came from."""
    if packed.data.dim() != 2:
        raise RuntimeError(f"input must have 2 dimensions, got {packed.data.dim()}")
    x, lengths = pad_packed_sequence(PackedSequence(packed.data, packed.batch_sizes))  # (T, B, I), (B,)
    weights, compiling, autocast = layer.layer_weights(), context.compiling(), context.autocast_dtype(x.device)
    check_input(layer, x, weights[0].cell.w_ih.dtype, autocast, time_first=True)
    h0, c0 = _initial_state(layer, hx, x.shape[1], True, None if autocast else weights[0].cell.w_ih.dtype)
    if packed.sorted_indices is not None:
        h0, c0 = (None if part is None else part.index_select(1, packed.sorted_indices) for part in (h0, c0))
    return _call(layer, x, (h0, c0), weights, lengths, autocast=autocast, compiling=compiling, packed=True)


def packed_again(packed: PackedSequence, call: Call, output: Tensor, state: tuple[Tensor, ...]) -> tuple[PackedSequence, tuple]:
    """Output and state packed exactly as the input came, sorted or not."""
    if packed.unsorted_indices is not None:
        state = tuple(part.index_select(1, packed.unsorted_indices) for part in state)
    data = pack_padded_sequence(output, call.lengths).data  # type: ignore[arg-type]
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices), state


# ------------------------------------------------------------------------------------------------------------- checks


def _initial_state(
    layer: Any, hx: Any, batch: int, batched: bool, dtype: torch.dtype | None
) -> tuple[Tensor | None, Tensor | None]:
    """h_0 and c_0 as given, or the layer's learned ones; None for zeros. Of this dtype, or None: of any."""
    if hx is None:
        if not layer.learned_state:
            return None, None
        learned = [part.unsqueeze(1).expand(-1, batch, -1) for part in layer.learned()]
        return learned[0], learned[1] if len(learned) == 2 else None
    parts, count = hx if isinstance(hx, (tuple, list)) else (hx,), MODES[layer.mode].states
    if len(parts) != count or not all(isinstance(part, Tensor) for part in parts):
        expected = "a pair (h_0, c_0)" if count == 2 else "one tensor h_0"
        raise RuntimeError(f"{_name(layer)} expected hx to be {expected}, got {describe(hx)}.")
    dims = 3 if batched else 2
    if any(part.dim() != dims for part in parts):
        kind, got = ("batched 3-D", "unbatched 2-D")[not batched], ", ".join(f"{part.dim()}-D" for part in parts)
        names, got = ("hx and cx", f"({got}) tensors") if count == 2 else ("hx", f"{got} tensor")
        raise RuntimeError(f"{_name(layer)}: For {kind} input, {names} should also be {dims}-D but got {got}")
    rows = layer.num_layers * layer.num_directions
    given: list[Tensor | None] = [None, None]
    for k, (part, width) in enumerate(zip(parts, (layer.proj_size or layer.hidden_size, layer.hidden_size), strict=False)):
        expected = (rows, batch, width) if batched else (rows, width)
        if part.shape != expected:
            raise RuntimeError(
                f"{_name(layer)}: Expected hidden{f'[{k}]' if count == 2 else ''} size {expected}, got {list(part.shape)}: "
                f"{('h_0', 'c_0')[k]} is (num_layers * num_directions{', batch' if batched else ''}, width)."
            )
        if dtype is not None and part.dtype is not dtype:
            raise ValueError(
                f"{_name(layer)} expected {('h0', 'c0')[k]} of {dtype}, the dtype of the weights, got {tuple(part.shape)} "
                f"{str(part.dtype).removeprefix('torch.')} on {part.device}. Convert it with .to({dtype})."
            )
        given[k] = part if batched else part.unsqueeze(1)
    return given[0], given[1]


def check_input(
    layer: Any, x: Tensor, dtype: torch.dtype, autocast: torch.dtype | None, time_first: bool | None = None
) -> None:
    """Raise unless x is a dense tensor (T, B, I), (B, T, I) or (T, I) of the weights' dtype."""
    dims = x.dim()
    if x.layout is torch.strided and not x.is_nested and dims in (2, 3) and x.shape[-1] == layer.input_size:
        if x.dtype is dtype or autocast:
            return
        raise ValueError(
            f"{_name(layer)}: RNN input dtype ({x.dtype}) does not match weight dtype ({dtype}). "
            f"Convert input: input.to({dtype}), or convert model: model.to({x.dtype})"
        )
    if x.layout != torch.strided or x.is_nested:
        got, call = ("a nested tensor", "x.to_padded_tensor(0)") if x.is_nested else (str(x.layout), "x.to_dense()")
        hint = ", with the sequences' lengths as lengths" if x.is_nested else ""
        raise ValueError(f"{_name(layer)} expected a dense input, got {got}. Give it {call}{hint}.")
    if dims not in (2, 3):
        raise ValueError(
            f"{_name(layer)}: Expected input to be 2D or 3D, got {dims}D {'tensor ' * (layer.mode[:3] == 'RNN')}instead"
        )
    axes = ("B, T, I" if layer.batch_first and not time_first else "T, B, I") if dims == 3 else "T, I"
    sizes = ", ".join(f"{axis}={size}" for axis, size in zip(axes.split(", "), x.shape, strict=True))
    hint = ""
    if dims == 3 and layer.input_size in x.shape[:2]:
        hint = f" Is it laid out ({axes})? The last axis must be the features."
    raise RuntimeError(
        f"{_name(layer)}: input.size(-1) must be equal to input_size. Expected {layer.input_size}, got {x.shape[-1]}: "
        f"({sizes}).{hint}"
    )


def _check_tokens(layer: Any, ids: Tensor, embedding: Tensor | None, dtype: torch.dtype, compiling: bool) -> None:
    if ids.dim() not in (1, 2):
        raise ValueError(f"{_name(layer)} expected token ids of 1 or 2 axes, got {describe(ids)}.")
    if embedding is not None and (embedding.dim() != 2 or embedding.shape[1] != layer.input_size):
        raise ValueError(
            f"{_name(layer)} expected an embedding of shape (V, input_size={layer.input_size}), got {describe(embedding)}."
        )
    if embedding is not None and embedding.dtype != dtype and not context.autocast_dtype(embedding.device):
        raise ValueError(
            f"{_name(layer)} expected an embedding of dtype {dtype}, that of its weights, got {embedding.dtype}. "
            f"Convert it with embedding.to({dtype})."
        )
    known = layer.input_size if embedding is None else embedding.shape[0]
    if ids.device.type == "cpu" and not compiling and ids.numel():
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= known:
            raise ValueError(f"{_name(layer)} expected token ids from 0 to {known - 1}, got ids from {low} to {high}.")


def _checked_lengths(lengths: Any, steps: int, batch: int, device: torch.device, compiling: bool) -> Tensor:
    if isinstance(lengths, (list, tuple)) and all(isinstance(length, int) for length in lengths):
        lengths = torch.tensor(lengths, dtype=torch.int64, device="cpu")
    if not isinstance(lengths, Tensor) or lengths.dtype not in context.INTEGERS or tuple(lengths.shape) != (batch,):
        raise ValueError(f"lengths expected integers of shape (B={batch},), got {describe(lengths)}.")
    lengths = lengths.long()
    if lengths.device == device and device.type not in ("cpu", "meta") and not compiling:
        # Packing reads them on the CPU. To wait for them once costs less than a loop over the steps in Python.
        lengths = lengths.cpu()
    if lengths.device.type == "cpu" and not compiling and batch:
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > steps:
            raise ValueError(f"lengths expected values from 0 to T={steps}, got values from {low} to {high}.")
    return lengths


def _check_resets(resets: Any, steps: int, batch: int, device: torch.device) -> None:
    if not (isinstance(resets, Tensor) and resets.dtype == torch.bool and tuple(resets.shape) == (steps, batch)):
        raise ValueError(
            f"resets expected booleans for every step and sequence, (T={steps}, B={batch}), got {describe(resets)}."
        )
    if resets.device != device:
        raise ValueError(f"resets expected on {device}, where the input is, got {resets.device}. Move them with .to({device}).")


def _check_gradient_norms(norms: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(norms.shape) != expected or norms.dtype != torch.float32:
        raise ValueError(
            f"gradient_norms expected shape {expected} (L*D, 2, T, B) and dtype torch.float32, got {describe(norms)}."
        )


def no_tensor(layer: Any, name: str, got: Any) -> TypeError:
    """The error for an argument that is no tensor."""
    return TypeError(
        f"{_name(layer)} expected {name} to be a tensor, got {type(got).__name__}. "
        "torch.as_tensor makes tensors of arrays and lists."
    )


def describe(value: Any) -> str:
    """A value as an error message names it."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r} of type {type(value).__name__}"


def _name(layer: Any) -> str:
    return type(layer).__name__
