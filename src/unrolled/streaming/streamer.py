"""One step at a time, natively: a stack of recurrent layers with packed weights, and the loop that writes with it.

A `Streamer` copies the weights of one of our layers, or of torch.nn's, in fp32, bf16 or int8 into the order in which a
step reads them. At a batch of one a step is as fast as those bytes arrive, so fewer bytes are faster:

    fp32    the layer's own numbers
    bf16    weights and the inputs of products rounded to 8 bits of mantissa
    int8    one scale per row of weights; inputs of products scaled at every step by their largest

Sums, biases, state, non-linearities and the token table are fp32 always. bf16 and int8 run on every machine, and fast
where it has avx512_bf16 and avx512_vnni. What they cost in accuracy is for the model's own measure to say.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.kernels.context import in_memory
from unrolled.streaming import generation, interface
from unrolled.streaming.packed_weights import PackedWeights, as_engine_reads

_empty_like = torch.empty_like  # half the time of torch.empty, which parses sizes


class Streamer:
    """A stack of layers, one step at a time, with state kept inside or handed in and out.

    Args:
        layers: an RNN, LSTM or GRU of one direction, ours or torch.nn's. Its dropout is not applied.
        embedding: (V, input_size), if the input is token ids: x is row id.
        one_hot: the input is token ids, and x the id's unit vector: V is input_size.
        decoder_weight: (V_out, H), with `decoder_bias` (V_out,): scores of the next token from the last layer's h.
        precision: "fp32", "bf16" or "int8".
        isa: a variant from `isas(precision)`, for tests and comparisons.

    The copy does not follow the originals: `repack()` copies them again.

    Raises:
        ValueError: something that `supported` gives a reason against, or shapes that do not fit.

    >>> import torch
    >>> streamer = Streamer(torch.nn.GRU(3, 4, num_layers=2), precision="int8")
    >>> for x_t in torch.randn(5, 1, 3):  # 5 steps of a batch of 1
    ...     h_t = streamer.step(x_t)
    >>> h_t.shape, streamer.state.shape
    (torch.Size([1, 4]), torch.Size([2, 1, 4]))
    """

    def __init__(
        self,
        layers: nn.Module,
        *,
        embedding: Tensor | None = None,
        one_hot: bool = False,
        decoder_weight: Tensor | None = None,
        decoder_bias: Tensor | None = None,
        precision: str = "fp32",
        isa: str | None = None,
    ) -> None:
        reason = interface.supported(layers, precision)
        if reason is not None:
            raise ValueError(f"Streamer: {reason}.")
        if isa is not None and isa not in interface.isas(precision):
            raise ValueError(f"Streamer expected isa to be one of {interface.isas(precision)} for {precision}, got {isa!r}.")
        sizes: Any = layers
        self.mode: str = sizes.mode
        self.precision = precision
        self.num_layers: int = sizes.num_layers
        self.input_size: int = sizes.input_size
        self.hidden_size: int = sizes.hidden_size
        self.weights = PackedWeights(layers, embedding, one_hot, decoder_weight, decoder_bias, precision, isa)
        self.tokens, self.outputs = self.weights.tokens, self.weights.outputs
        self._is_lstm = self.mode == "LSTM"
        self._x_dtype = torch.int64 if self.tokens else torch.float32
        self._engine = interface.declared()
        self._step = self._engine.unrolled_stream_step
        self._new_state(1, None)

    # ------------------------------------------------------------------------------------------------------- weights
    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return self.weights.nbytes

    @property
    def isa(self) -> str:
        """The variant of the engine that computes."""
        return self.weights.isa

    def repack(self) -> None:
        """Copy the weights again. State is kept; the random numbers of `generate` start anew."""
        self.weights.repack()

    # --------------------------------------------------------------------------------------------------------- state
    @property
    def state(self) -> Any:
        """h (L, B, H), or for the LSTM (h, c): a copy."""
        self._engine.unrolled_stream_flush(self.weights.handle)
        return self._h.clone() if self._c is None else (self._h.clone(), self._c.clone())

    @property
    def batch(self) -> int:
        """B, of the state."""
        return self._h.shape[1]

    def set_state(self, state: Any = None, *, batch: int = 1) -> None:
        """Start from h, or for the LSTM (h, c), each (L, B, H), which is copied; from zeros of `batch` if None."""
        self._new_state(batch, self._checked_state(state))

    def _checked_state(self, state: Any, batch: int | None = None) -> Any:
        if state is None:
            return None
        parts = state if isinstance(state, (tuple, list)) else (state,)
        if len(parts) != (2 if self.mode == "LSTM" else 1) or not all(isinstance(part, Tensor) for part in parts):
            raise ValueError(f"Streamer expected the state of {'an LSTM, (h, c)' if self.mode == 'LSTM' else 'one tensor h'}.")
        batch = parts[0].shape[1] if batch is None and parts[0].dim() == 3 else batch
        expected = (self.num_layers, batch, self.hidden_size)
        for part, name in zip(parts, "hc", strict=False):
            if tuple(part.shape) != expected:
                raise ValueError(f"Streamer expected {name} of shape (L, B, H) = {expected}, got {tuple(part.shape)}.")
        return state

    def _new_state(self, batch: int, state: Any) -> None:
        parts = state if isinstance(state, (tuple, list)) else () if state is None else (state,)
        batch = parts[0].shape[1] if parts else batch
        shape = (self.num_layers, batch, self.hidden_size)
        h = torch.zeros(shape, dtype=torch.float32, device="cpu")
        c = torch.zeros_like(h) if self._is_lstm else None
        for ours, given in zip((h, c), parts, strict=False):
            if ours is not None:
                ours.copy_(given.detach())
        if self._engine.unrolled_stream_bind(self.weights.handle, batch, h.data_ptr(), None if c is None else c.data_ptr()):
            raise MemoryError(f"Streamer: no memory for a batch of {batch}.")
        self._h, self._c = h, c  # and not before, when another thread may still be writing to the old ones
        self._bound = (batch,) if self.tokens else (batch, self.input_size), _empty_like(h[0])

    # --------------------------------------------------------------------------------------------------------- steps
    def step(self, x_t: Tensor) -> Tensor:
        """Advance the state by x_t, (B, I) or token ids (B,); return the last layer's output (B, H).

        Raises:
            ValueError: another shape or dtype than the state's batch asks for, or an id outside [0, V).
        """
        expected, out_like = self._bound
        if x_t.shape != expected or x_t.dtype is not self._x_dtype or not x_t.is_contiguous() or not in_memory(x_t):
            x_t = self._checked_input(x_t, expected)
        out = _empty_like(out_like)
        code = self._step(self.weights.handle, out.shape[0], x_t.data_ptr(), out.data_ptr())
        if code:
            interface.raise_for(code, x_t, self.tokens)
        return out

    def advance(self, x_t: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One step from a state to a new one: `(h_t (B, H), state)`. The state kept inside is neither used nor changed.

        `state` is h, or for the LSTM (h, c), each (L, B, H); None is zeros.
        """
        batch = x_t.shape[0] if x_t.dim() else 0
        x_t = self._checked_input(x_t, (batch,) if self.tokens else (batch, self.input_size))
        h_n = torch.empty(self.num_layers, batch, self.hidden_size, dtype=torch.float32, device="cpu")
        out, c_n, before = _empty_like(h_n[0]), _empty_like(h_n) if self._is_lstm else None, (None, None)
        if state is not None:
            before = self._readable(state, batch)
        tensors = (x_t, *before, h_n, c_n, out)
        call = interface.Call(batch, *(None if tensor is None else tensor.data_ptr() for tensor in tensors))
        interface.raise_for(self._engine.unrolled_stream_run(self.weights.handle, ctypes.byref(call)), x_t, self.tokens)
        return out, h_n if c_n is None else (h_n, c_n)

    def _readable(self, state: Any, batch: int) -> tuple[Tensor, Tensor]:
        """h and c (or h again where there is none: the engine reads no c) as the engine reads them."""
        self._checked_state(state, batch)
        parts = [as_engine_reads(part) for part in (state if isinstance(state, (tuple, list)) else (state,))]
        return parts[0], parts[-1]

    def logits(self) -> Tensor:
        """The scores of the next token, given the state: (B, V_out)."""
        self.need_decoder()
        out = torch.empty(self.batch, self.outputs, dtype=torch.float32, device="cpu")
        interface.raise_for(self._engine.unrolled_stream_logits(self.weights.handle, out.shape[0], out.data_ptr()))
        return out

    # ---------------------------------------------------------------------------------------------------- generation
    def feed(self, ids: Sequence[int] | Tensor) -> None:
        """Step over tokens without scoring any."""
        self.need_tokens()
        ids = generation.checked_ids(ids, self.tokens)
        given = ids.data_ptr(), ids.numel(), torch.get_num_threads()
        interface.raise_for(self._engine.unrolled_stream_feed(self.weights.handle, *given), ids, self.tokens)

    generate = generation.generate
    stream = generation.stream

    # -------------------------------------------------------------------------------------------------------- checks
    def _checked_input(self, x_t: Tensor, expected: tuple) -> Tensor:
        """What the engine can read, from what needs but a copy; else an error."""
        axes = "(B,) of token ids" if self.tokens else "(B, I)"
        if tuple(x_t.shape) != expected:
            raise ValueError(
                f"Streamer expected x_t of shape {axes} = {expected}, got {tuple(x_t.shape)}. "
                "The batch is that of the state: set_state(batch=...) starts another."
            )
        if x_t.is_floating_point() == bool(self.tokens) or x_t.is_complex() or x_t.dtype is torch.bool:
            raise ValueError(f"Streamer expected x_t of dtype {self._x_dtype}, got {x_t.dtype}.")
        return as_engine_reads(x_t, self._x_dtype)

    def need_tokens(self) -> None:
        """Raise unless the input is token ids."""
        if not self.tokens:
            raise ValueError("Streamer expected an embedding, or one_hot=True, to read tokens; it was built without.")

    def need_decoder(self) -> None:
        """Raise unless there is a decoder."""
        if not self.outputs:
            raise ValueError("Streamer expected a decoder_weight to score tokens; it was built without.")

    def __reduce__(self) -> Any:
        raise TypeError("a Streamer holds native memory: build it again from its layers instead of copying or pickling it")
