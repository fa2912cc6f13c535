"""A copy of a stack's weights in the order in which a step reads them."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import torch
from torch import Tensor

from unrolled.cells import MODES
from unrolled.kernels import context
from unrolled.streaming import interface

TABLE_LIMIT = 64 * 2**20
"""Bytes up to which W_ih times every embedding is kept instead of the embedding."""


class PackedWeights:
    """The weights of a `Streamer`, copied into memory of the engine's. Arguments as there."""

    def __init__(
        self,
        layers: Any,
        embedding: Tensor | None,
        one_hot: bool,
        decoder_weight: Tensor | None,
        decoder_bias: Tensor | None,
        precision: str,
        isa: str | None,
    ) -> None:
        self.handle: int | None = None
        self._layers, self._precision, self._isa = layers, precision, isa
        self._embedding, self._one_hot = embedding, one_hot
        self._decoder_weight, self._decoder_bias = decoder_weight, decoder_bias
        self.tokens: int = layers.input_size if one_hot else 0 if embedding is None else embedding.shape[0]
        self.outputs = 0 if decoder_weight is None else decoder_weight.shape[0]
        self._check_tables()
        self._engine = interface.declared()
        self._seed = int.from_bytes(os.urandom(8), "little")
        self.repack()

    def seed(self, seed: int) -> None:
        """Start the random numbers of `generate`, and where they begin anew after copying."""
        self._seed = seed
        self._engine.unrolled_stream_seed(self.handle, self._seed)

    def repack(self) -> None:
        """Copy the weights again."""
        if self.handle is not None:
            self._engine.unrolled_stream_flush(self.handle)
        self._copy()
        self._engine.unrolled_stream_seed(self.handle, self._seed)

    def _copy(self) -> None:
        layers = self._layers
        if (reason := interface.supported(layers, self._precision)) is not None:
            raise ValueError(f"Streamer: {reason}.")
        self._check_tables()
        keep: list[Tensor] = []  # alive until the library has copied them

        def pointer(tensor: Tensor | None) -> int | None:
            if tensor is None:
                return None
            keep.append(as_engine_reads(tensor))
            return keep[-1].data_ptr()

        addresses = (ctypes.c_void_p * (4 * layers.num_layers))()
        all_weights = layers.all_weights
        for layer, (w_ih, w_hh, *biases) in enumerate(all_weights):
            for place, tensor in enumerate((w_ih, w_hh, *(biases or (None, None)))):
                addresses[4 * layer + place] = pointer(tensor)
        spec = interface.Spec(
            mode=MODES[layers.mode].number,
            precision=interface.PRECISIONS.index(self._precision),
            L=layers.num_layers,
            I=layers.input_size,
            H=layers.hidden_size,
            weights=addresses,
            V=self.tokens,
            V_out=self.outputs,
            decoder=pointer(self._decoder_weight),
            decoder_bias=pointer(self._decoder_bias),
            isa=None if self._isa is None else self._isa.encode(),
        )
        w_ih = as_engine_reads(all_weights[0][0])
        if self._one_hot:
            spec.table = pointer(w_ih.T)
        elif self._embedding is not None:
            if self.tokens * w_ih.shape[0] * 4 <= TABLE_LIMIT:
                spec.table = pointer(as_engine_reads(self._embedding) @ w_ih.T)
            else:
                spec.embedding = pointer(self._embedding)
        if self.handle is not None:
            interface.raise_for(self._engine.unrolled_stream_repack(self.handle, ctypes.byref(spec)))
            return
        error = ctypes.c_int32()
        handle = self._engine.unrolled_stream_create(ctypes.byref(spec), ctypes.byref(error))
        if not handle:
            if error.value == interface.MEMORY:
                raise MemoryError("Streamer: no memory for the packed weights.")
            raise ValueError(f"Streamer: the compiled engine refuses {layers.mode} in {self._precision} at these sizes.")
        self.handle = handle
        self.nbytes: int = self._engine.unrolled_stream_bytes(handle)
        self.isa: str = self._engine.unrolled_stream_isa(handle).decode()

    def _check_tables(self) -> None:
        if self._one_hot and self._embedding is not None:
            raise ValueError("Streamer expected an embedding or one_hot=True, got both.")
        if self._decoder_bias is not None and self._decoder_weight is None:
            raise ValueError("Streamer expected a decoder_weight with decoder_bias, got None.")
        for name, tensor, rows, width in (
            ("embedding", self._embedding, self.tokens, self._layers.input_size),
            ("decoder_weight", self._decoder_weight, self.outputs, self._layers.hidden_size),
        ):
            if tensor is not None and (tuple(tensor.shape) != (rows, width) or not rows):
                raise ValueError(f"Streamer expected {name} of shape (V, {width}), got {tuple(tensor.shape)}.")
        if self._decoder_bias is not None and tuple(self._decoder_bias.shape) != (self.outputs,):
            raise ValueError(
                f"Streamer expected decoder_bias of shape {(self.outputs,)}, got {tuple(self._decoder_bias.shape)}."
            )

    def __del__(self) -> None:
        if getattr(self, "handle", None) is not None:
            self._engine.unrolled_stream_destroy(self.handle)
            self.handle = None


def as_engine_reads(tensor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The tensor itself, or a copy, as numbers one after another in the CPU's memory.

    Raises:
        ValueError: a tensor subclass, or one that holds no numbers, or whose memory was freed.
    """
    tensor = tensor.detach().to("cpu", dtype).resolve_neg().contiguous()
    if not context.in_memory(tensor):
        raise ValueError(f"Streamer expected plain tensors, got a {type(tensor).__name__} that is not numbers in memory.")
    context.require_memory({"what the engine reads": tensor})
    return tensor
