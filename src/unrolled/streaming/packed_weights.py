"""A copy of a stack's weights in the order in which a step reads them, and whether it is still what the layers hold."""

from __future__ import annotations

import ctypes
import operator
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unrolled.cells import MODES
from unrolled.kernels import context
from unrolled.streaming import interface

TABLE_LIMIT = 64 * 2**20
"""Bytes up to which W_ih times every embedding is kept instead of the embedding."""
_address = Tensor.data_ptr
_packing = threading.RLock()
"""Held while a streamer copies its weights. One for all: it is seldom, short, and one is easily made anew in a forked child."""


def _after_fork_in_child() -> None:
    global _packing
    _packing = threading.RLock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class _Noted(NamedTuple):
    """What was copied. Never changed, only replaced: a thread that looks at it cannot see halves of two."""

    weights: list[Tensor]
    views: list[Tensor]
    """Of the weights: what they were, so that their memory stays, and no other weight comes to lie there."""
    addresses: list[int]
    watched: bytes
    """The argument of unrolled_stream_same."""
    arrays: tuple
    """What `watched` points to."""


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
        self._extra = [t for t in (embedding, decoder_weight, decoder_bias) if t is not None]
        self.tokens: int = layers.input_size if one_hot else 0 if embedding is None else embedding.shape[0]
        self.outputs = 0 if decoder_weight is None else decoder_weight.shape[0]
        self._check_tables()
        self._engine = interface.declared()
        self._same = self._engine.unrolled_stream_same
        self._noted: _Noted | None = None
        self._seed = int.from_bytes(os.urandom(8), "little")
        self.repack_unless(lambda: False)

    def seed(self, seed: int) -> None:
        """Start the random numbers of `generate`, and where they begin anew after copying."""
        self._seed = seed & (2**64 - 1)
        self._engine.unrolled_stream_seed(self.handle, self._seed)

    def in_place(self) -> bool:
        """Whether the layers' weights are the tensors that were copied, of the same shape and layout, where they were."""
        noted = self._noted
        if noted is None:
            return False
        # Through map, which loops in C: this runs before every single step.
        weights: Any = self._layers._parameters.values()
        if self._extra:
            weights = (*weights, *self._extra)
        try:
            return (
                len(weights) == len(noted.weights)
                and all(map(operator.is_, weights, noted.weights))
                and [*map(_address, weights)] == noted.addresses
                and all(map(Tensor.is_set_to, weights, noted.views))
            )
        except (TypeError, AttributeError, RuntimeError):  # a weight whose memory was taken away
            return False

    def same(self) -> bool:
        """Whether the copy is what the layers' weights are now. Reads them all: however they were written to, it is seen."""
        noted = self._noted
        return noted is not None and self.in_place() and bool(self._same(noted.watched))

    def repack_unless(self, unchanged: Callable[[], bool]) -> None:
        """Copy the weights again unless they are `unchanged`, which is asked when no other thread is copying them."""
        with _packing:
            if unchanged():
                return
            if self.handle is not None:
                self._engine.unrolled_stream_flush(self.handle)
            # Noted before they are copied: a write while they are being copied is seen by the next call. In between there is
            # no note, so that a child which is forked here copies again.
            noted, self._noted = self._note(), None
            self._copy()
            self._engine.unrolled_stream_seed(self.handle, self._seed)
            self._noted = noted

    def _note(self) -> _Noted | None:
        """What the weights are now; None where no later look could tell that they have changed."""
        parameters = list(self._layers._parameters.values())
        if {id(weight) for weight in interface.flat(self._layers)} != {id(parameter) for parameter in parameters}:
            return None  # computed anew at every use, as weight_norm does
        weights = [*parameters, *self._extra]
        views = [weight.detach() for weight in weights]
        if not all(context.in_memory(view) and view.is_contiguous() and view.numel() for view in views):
            return None
        addresses = [view.data_ptr() for view in views]
        starts = (ctypes.c_void_p * len(views))(*addresses)
        sizes = (ctypes.c_int64 * len(views))(*(view.nbytes for view in views))
        arrays = starts, sizes, ctypes.create_string_buffer(interface.FINGERPRINT)
        watched = interface.pack_watched(len(views), *map(ctypes.addressof, arrays))
        self._engine.unrolled_stream_watch(watched)
        return _Noted(weights, views, addresses, watched, arrays)

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
        ValueError: a tensor subclass, or one that holds no numbers.
    """
    tensor = tensor.detach().to("cpu", dtype).resolve_neg().contiguous()
    if not context.in_memory(tensor):
        raise ValueError(f"Streamer expected plain tensors, got a {type(tensor).__name__} that is not numbers in memory.")
    return tensor
