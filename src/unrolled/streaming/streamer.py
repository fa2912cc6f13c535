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
import operator
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unrolled.cells import MODES
from unrolled.kernels import library

PRECISIONS = ("fp32", "bf16", "int8")
ISAS = ("portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16")
TABLE_LIMIT = 64 * 2**20
"""Bytes up to which W_ih times every embedding is kept instead of the embedding."""
_INT8_WIDEST = 65536
_MEMORY, _UNSUPPORTED, _ID, _SCORES, _MISSING, _SETTINGS = -1, -2, -3, -4, -5, -6


class _Spec(ctypes.Structure):
    c_name = "unrolled_stream_spec"
    _fields_ = [
        ("mode", ctypes.c_int32),
        ("precision", ctypes.c_int32),
        ("L", ctypes.c_int64),
        ("I", ctypes.c_int64),
        ("H", ctypes.c_int64),
        ("weights", ctypes.POINTER(ctypes.c_void_p)),
        ("V", ctypes.c_int64),
        ("table", ctypes.c_void_p),
        ("embedding", ctypes.c_void_p),
        ("V_out", ctypes.c_int64),
        ("decoder", ctypes.c_void_p),
        ("decoder_bias", ctypes.c_void_p),
        ("isa", ctypes.c_char_p),
    ]


class _Choice(ctypes.Structure):
    c_name = "unrolled_stream_choice"
    _fields_ = [
        ("temperature", ctypes.c_double),
        ("top_p", ctypes.c_double),
        ("top_k", ctypes.c_int64),
        ("stop", ctypes.c_int64),
        ("forbidden", ctypes.c_void_p),
        ("forbidden_count", ctypes.c_int64),
        ("threads", ctypes.c_int64),
    ]


class _Call(ctypes.Structure):
    c_name = "unrolled_stream_call"
    _fields_ = [(name, ctypes.c_int64) for name in ("B", "x", "h_in", "c_in", "h_out", "c_out", "out")]


class _Watched(ctypes.Structure):
    c_name = "unrolled_stream_watched"
    _fields_ = [(name, ctypes.c_int64) for name in ("count", "from", "bytes", "fingerprint")]


# A _Call and a _Watched, 0 for null. One packed argument is 0.4 microseconds faster than seven.
_pack_call, _pack_watched = struct.Struct("=7q").pack, struct.Struct("=4q").pack
_FINGERPRINT = 256
_address, _version, _empty_like = Tensor.data_ptr, operator.attrgetter("_version"), torch.empty_like
_declared: ctypes.CDLL | None = None
_packing = threading.RLock()
"""Held while a streamer copies its weights. One for all: it is seldom, short, and one is easily made anew in a forked child."""


def _after_fork_in_child() -> None:
    global _packing
    _packing = threading.RLock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class _Copied(NamedTuple):
    """What was copied. Never changed, only replaced: a thread that looks at it cannot see halves of two."""

    versions: list[int]
    addresses: list[int]
    views: list[Tensor]
    """Of the weights, so that their memory stays, and no other weight comes to lie there."""
    watched: bytes | None
    """The argument of unrolled_stream_same, or None where the weights do not lie as it reads them."""
    arrays: tuple
    """What `watched` points to."""


def _library() -> ctypes.CDLL:
    global _declared
    if _declared is None:
        compiled = library.loaded()
        for structure in (_Spec, _Choice, _Call, _Watched):
            library.check_layout(compiled, structure)
        pointer, int64 = ctypes.c_void_p, ctypes.c_int64
        for name, result, *arguments in (
            ("create", pointer, ctypes.POINTER(_Spec), ctypes.POINTER(ctypes.c_int32)),
            ("destroy", None, pointer),
            ("isa", ctypes.c_char_p, pointer),
            ("bytes", int64, pointer),
            ("available", ctypes.c_int, ctypes.c_char_p, ctypes.c_int32),
            ("run", ctypes.c_int, pointer, ctypes.c_char_p),
            ("bind", ctypes.c_int, pointer, int64, pointer, pointer),
            ("repack", ctypes.c_int, pointer, ctypes.POINTER(_Spec)),
            ("watch", None, ctypes.c_char_p),
            ("same", ctypes.c_int, ctypes.c_char_p),
            ("step", ctypes.c_int, pointer, int64, pointer, pointer),
            ("logits", ctypes.c_int, pointer, int64, pointer),
            ("feed", ctypes.c_int, pointer, pointer, int64, ctypes.c_int32),
            ("flush", ctypes.c_int, pointer),
            ("seed", None, pointer, ctypes.c_uint64),
            ("generate", int64, pointer, int64, ctypes.POINTER(_Choice), pointer),
        ):
            function = getattr(compiled, f"unrolled_stream_{name}")
            function.restype, function.argtypes = result, arguments
        _declared = compiled
    return _declared


def isas(precision: str = "fp32") -> list[str]:
    """The variants of the engine that this machine runs at a precision, plainest first."""
    library, index = _library(), PRECISIONS.index(precision)
    return [isa for isa in ISAS if library.unrolled_stream_available(isa.encode(), index)]


def supported(layers: Any, precision: str = "fp32") -> str | None:
    """Why a `Streamer` cannot be built from these layers at this precision; None if it can."""
    name = type(layers).__name__
    if precision not in PRECISIONS:
        return f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}"
    if not library.available():
        return f"the compiled kernels are not available: {library.why_not()}"
    if getattr(layers, "mode", None) not in MODES:
        return f"{name} is not an RNN, LSTM or GRU"
    if layers.bidirectional:
        return f"{name} is bidirectional, and its second direction starts at the end of the sequence, which a stream has not"
    if option := getattr(layers, "beyond_cell", ""):
        return f"{name} has {option}={getattr(layers, option)}, which the streaming engine does not do"
    if layers.proj_size:
        return f"{name} has proj_size={layers.proj_size}, which the streaming engine does not do"
    for parameter in _flat(layers):
        if parameter.device.type != "cpu":
            return f"{name} is on {parameter.device}; the streaming engine runs on the CPU"
        if parameter.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"{name} has weights of {parameter.dtype}; the streaming engine computes in fp32 and would lose digits"
    if precision == "int8" and max(layers.input_size, layers.hidden_size) > _INT8_WIDEST:
        return f"{name} is wider than {_INT8_WIDEST}, beyond which int8 sums could overflow"
    return None


class Streamer:
    """A stack of layers, one step at a time, with state kept inside or handed in and out.

    Args:
        layers: an RNN, LSTM or GRU of one direction, ours or torch.nn's. Its dropout is not applied.
        embedding: (V, input_size), if the input is token ids: x is row id.
        one_hot: the input is token ids, and x the id's unit vector: V is input_size.
        decoder_weight: (V_out, H), with `decoder_bias` (V_out,): scores of the next token from the last layer's h.
        precision: "fp32", "bf16" or "int8".
        isa: a variant from `isas(precision)`, for tests and comparisons.

    The copy does not follow the originals: `stale()` says whether they have changed, `repack()` copies them again.

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
        self._handle: int | None = None
        reason = supported(layers, precision)
        if reason is not None:
            raise ValueError(f"Streamer: {reason}.")
        if isa is not None and isa not in isas(precision):
            raise ValueError(f"Streamer expected isa to be one of {isas(precision)} for {precision}, got {isa!r}.")
        self._library = _library()
        self._layers: Any = layers
        self._isa_asked = isa
        self.mode: str = self._layers.mode
        self.precision = precision
        self.num_layers: int = self._layers.num_layers
        self.input_size: int = self._layers.input_size
        self.hidden_size: int = self._layers.hidden_size
        self._embedding, self._one_hot = embedding, one_hot
        self._decoder_weight, self._decoder_bias = decoder_weight, decoder_bias
        self._check_shapes()
        self.tokens = self.input_size if one_hot else 0 if embedding is None else embedding.shape[0]
        self.outputs = 0 if decoder_weight is None else decoder_weight.shape[0]
        self._is_lstm = self.mode == "LSTM"
        self._x_dtype = torch.int64 if self.tokens else torch.float32
        self._extra = [t for t in (embedding, decoder_weight, decoder_bias) if t is not None]
        self._copied: _Copied | None = None
        self.shapes: dict[torch.Size, tuple] = {}  # by shape of x_t: tensors as `advance` returns them, bytes of h, batch
        self._handed_out: tuple[Any, Any, Any] = (None, None, None)
        self._seed = int.from_bytes(os.urandom(8), "little")
        self.repack()

    # ------------------------------------------------------------------------------------------------------- weights
    def repack(self) -> None:
        """Copy the weights again. State is kept; the random numbers of `generate` start anew."""
        self.repack_unless(lambda: False)

    def repack_unless(self, unchanged: Callable[[], bool]) -> None:
        """Copy the weights again unless they are `unchanged`, which is asked when no other thread is copying them."""
        with _packing:
            if unchanged():
                return
            if self._handle is not None:
                self._library.unrolled_stream_flush(self._handle)
            # Noted before they are copied: a write while they are being copied is seen by the next call. In between there is
            # no note, so that a child which is forked here copies again.
            copied, self._copied = self._note(), None
            self._copy()
            self._copied = copied

    def _copy(self) -> None:
        keep: list[Tensor] = []  # alive until the library has copied them

        def pointer(tensor: Tensor | None) -> int | None:
            if tensor is None:
                return None
            keep.append(tensor.detach().to("cpu", torch.float32).contiguous())
            return keep[-1].data_ptr()

        addresses = (ctypes.c_void_p * (4 * self.num_layers))()
        all_weights = self._layers.all_weights
        for layer, (w_ih, w_hh, *biases) in enumerate(all_weights):
            for place, tensor in enumerate((w_ih, w_hh, *(biases or (None, None)))):
                addresses[4 * layer + place] = pointer(tensor)
        spec = _Spec(
            mode=MODES[self.mode].number,
            precision=PRECISIONS.index(self.precision),
            L=self.num_layers,
            I=self.input_size,
            H=self.hidden_size,
            weights=addresses,
            V=self.tokens,
            V_out=self.outputs,
            decoder=pointer(self._decoder_weight),
            decoder_bias=pointer(self._decoder_bias),
            isa=None if self._isa_asked is None else self._isa_asked.encode(),
        )
        w_ih = all_weights[0][0].detach().to("cpu", torch.float32)
        if self._one_hot:
            spec.table = pointer(w_ih.T)
        elif self._embedding is not None:
            if self.tokens * w_ih.shape[0] * 4 <= TABLE_LIMIT:
                spec.table = pointer(self._embedding.detach().to("cpu", torch.float32) @ w_ih.T)
            else:
                spec.embedding = pointer(self._embedding)
        if self._handle is not None:
            self._raise(self._library.unrolled_stream_repack(self._handle, ctypes.byref(spec)))
            self._library.unrolled_stream_seed(self._handle, self._seed)
            return
        error = ctypes.c_int32()
        handle = self._library.unrolled_stream_create(ctypes.byref(spec), ctypes.byref(error))
        if not handle:
            if error.value == _MEMORY:
                raise MemoryError("Streamer: no memory for the packed weights.")
            raise ValueError(f"Streamer: the compiled engine refuses {self.mode} in {self.precision} at these sizes.")
        self._handle = handle
        self.nbytes: int = self._library.unrolled_stream_bytes(handle)
        self.isa: str = self._library.unrolled_stream_isa(handle).decode()
        library = self._library
        self._step, self._run, self._same = (getattr(library, f"unrolled_stream_{name}") for name in ("step", "run", "same"))
        self._library.unrolled_stream_seed(handle, self._seed)
        self._new_state(1, None)

    def stale(self) -> bool:
        """Whether a weight has been written to, moved or replaced since it was copied.

        Seen through the tensors' version counters and addresses, so writing through `.data` goes unnoticed. Weights that
        have no counter (made under `torch.inference_mode`) or are computed at every use (weight_norm) are always taken to
        have changed.
        """
        copied = self._copied
        if copied is None:
            return True
        # Through map, which loops in C: this runs before every single step.
        weights: Any = self._layers._parameters.values()
        if self._extra:
            weights = (*weights, *self._extra)
        try:
            return [*map(_version, weights)] != copied[0] or [*map(_address, weights)] != copied[1]
        except (TypeError, AttributeError, RuntimeError):  # a weight that became None, lost its counter, or was taken out now
            return True

    def same(self) -> bool:
        """Whether the weights that were copied hold what they held. Reads them all, and so sees writing through `.data` too."""
        copied = self._copied
        return copied is not None and copied.watched is not None and bool(self._same(copied.watched))

    def _note(self) -> _Copied | None:
        """What the weights are now; None where no later look could tell that they have changed."""
        copied = self._note_versions()
        self.watching = copied is not None and copied.watched is not None
        return copied

    def _note_versions(self) -> _Copied | None:
        parameters = list(self._layers._parameters.values())
        if {id(weight) for weight in _flat(self._layers)} != {id(parameter) for parameter in parameters}:
            return None  # computed anew at every use, as weight_norm does
        weights = (*parameters, *self._extra)
        try:
            versions = [weight._version for weight in weights]
        except RuntimeError:  # inference tensors do not track version counters
            return None
        views = [weight.detach() for weight in weights]
        addresses = [view.data_ptr() for view in views]
        watched, arrays = None, ()
        some = [view for view in views if view.numel()]
        if some and all(view.is_cpu and view.is_contiguous() for view in some):
            starts = (ctypes.c_void_p * len(some))(*(view.data_ptr() for view in some))
            sizes = (ctypes.c_int64 * len(some))(*(view.nbytes for view in some))
            arrays = starts, sizes, ctypes.create_string_buffer(_FINGERPRINT)
            watched = _pack_watched(len(some), *map(ctypes.addressof, arrays))
            self._library.unrolled_stream_watch(watched)
        return _Copied(versions, addresses, views, watched, arrays)

    # --------------------------------------------------------------------------------------------------------- state
    @property
    def state(self) -> Any:
        """h (L, B, H), or for the LSTM (h, c): a copy."""
        self._library.unrolled_stream_flush(self._handle)
        return self._h.clone() if self._c is None else (self._h.clone(), self._c.clone())

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
        h, c = torch.zeros(shape), torch.zeros(shape) if self.mode == "LSTM" else None
        for ours, given in zip((h, c), parts, strict=False):
            if ours is not None:
                ours.copy_(given.detach())
        if self._library.unrolled_stream_bind(self._handle, batch, h.data_ptr(), None if c is None else c.data_ptr()):
            raise MemoryError(f"Streamer: no memory for a batch of {batch}.")
        self._h, self._c = h, c  # and not before, when another thread may still be writing to the old ones
        self._bound = (batch,) if self.tokens else (batch, self.input_size), torch.empty(batch, self.hidden_size)

    # --------------------------------------------------------------------------------------------------------- steps
    def step(self, x_t: Tensor) -> Tensor:
        """Advance the state by x_t, (B, I) or token ids (B,); return the last layer's output (B, H).

        Raises:
            ValueError: another shape or dtype than the state's batch asks for, or an id outside [0, V).
        """
        expected, out_like = self._bound
        if x_t.shape != expected or x_t.dtype is not self._x_dtype or not x_t.is_contiguous() or not x_t.is_cpu:
            x_t = self._checked_input(x_t, expected)
        out = torch.empty_like(out_like)  # half the time of torch.empty, which parses sizes
        code = self._step(self._handle, out.shape[0], x_t.data_ptr(), out.data_ptr())
        if code:
            self._raise(code, x_t)
        return out

    @property
    def handed_out(self) -> Any:
        """The state that the last `advance` gave."""
        return self._handed_out[0]

    def advance(self, x_t: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One step from a state to a new one: `(h_t (B, H), state)`. The state kept inside is neither used nor changed.

        `state` is h, or for the LSTM (h, c), each (L, B, H); None is zeros.
        """
        like = self.shapes.get(x_t.shape)
        if like is None or x_t.dtype is not self._x_dtype or not x_t.is_contiguous() or not x_t.is_cpu:
            x_t, like = self._from_afar(x_t)
        out_like, h_like, nbytes, batch = like
        h = c = 0
        if state is not None:
            known, h_t, c_t = self._handed_out  # by the call before: needs no second look, unless it was resized since
            if state is not known or h_t.nbytes != nbytes or c_t.nbytes != nbytes:
                h_t, c_t = self._readable(state, batch)
            h, c = h_t.data_ptr(), c_t.data_ptr()
        out, h_n = _empty_like(out_like), _empty_like(h_like)
        if self._is_lstm:
            c_n = _empty_like(h_like)
            new: Any = (h_n, c_n)
        else:
            new = c_n = h_n
        h_to = h_n.data_ptr()
        c_to = c_n.data_ptr() if self._is_lstm else h_to
        code = self._run(self._handle, _pack_call(batch, x_t.data_ptr(), h, c, h_to, c_to, out.data_ptr()))
        if code:
            self._raise(code, x_t)
        self._handed_out = (new, h_n, c_n)
        return out, new

    def _from_afar(self, x_t: Tensor) -> tuple[Tensor, tuple]:
        """An input of a shape not seen yet, or not as the engine reads it, and tensors like those that come of it."""
        batch = x_t.shape[0] if x_t.dim() else 0
        x_t = self._checked_input(x_t, (batch,) if self.tokens else (batch, self.input_size))
        if len(self.shapes) >= 64:
            self.shapes.clear()
        h = torch.empty(self.num_layers, batch, self.hidden_size)
        self.shapes[x_t.shape] = like = (torch.empty_like(h[0]), h, h.nbytes, batch)
        return x_t, like

    def _readable(self, state: Any, batch: int) -> tuple[Tensor, Tensor]:
        """h and c (or h again where there is none) as the engine reads them."""
        self._checked_state(state, batch)
        parts = [self._contiguous(part) for part in (state if isinstance(state, (tuple, list)) else (state,))]
        return parts[0], parts[-1]

    def logits(self) -> Tensor:
        """The scores of the next token, given the state: (B, V_out)."""
        self._need_decoder()
        out = torch.empty(self._h.shape[1], self.outputs)
        self._raise(self._library.unrolled_stream_logits(self._handle, out.shape[0], out.data_ptr()))
        return out

    # ---------------------------------------------------------------------------------------------------- generation
    def feed(self, ids: Sequence[int] | Tensor) -> None:
        """Step over tokens without scoring any."""
        self._need_tokens()
        ids = self._ids(ids, self.tokens)
        self._raise(self._library.unrolled_stream_feed(self._handle, ids.data_ptr(), ids.numel(), torch.get_num_threads()), ids)

    def generate(
        self,
        length: int,
        *,
        context: Sequence[int] | Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        forbidden: Sequence[int] = (),
        stop: int | None = None,
    ) -> list[int]:
        """Up to `length` tokens, each chosen as `unrolled.decoding.choose` chooses, and fed back.

        Starts from the state as it is, after stepping over `context`; calling again goes on where it ended, and chunks of
        any sizes give the same tokens. Fewer than `length` come back when the model chose `stop`, which is not among them.

        Args:
            seed: starts the random numbers (xoshiro256** seeded by splitmix64); None goes on with them, from a seed of
                the operating system's at first. The same seed gives the same tokens on the same machine, precision and
                instruction set.
            forbidden: ids never chosen.

        Raises:
            ValueError: an impossible temperature, top_k or top_p, or an id outside [0, V).
            FloatingPointError: no token can be chosen: the scores are NaN, infinite, or all forbidden.
        """
        self._need_tokens()
        self._need_decoder()
        if self.tokens < self.outputs:
            raise ValueError(
                f"Streamer.generate expected every token the decoder can score ({self.outputs}) to be one it can read back, "
                f"got an input of {self.tokens} tokens."
            )
        if not temperature >= 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
            raise ValueError(
                "expected temperature of at least 0, top_k of at least 1 and top_p in (0, 1], "
                f"got temperature={temperature}, top_k={top_k}, top_p={top_p}."
            )
        if length < 0:
            raise ValueError(f"Streamer.generate expected a length of at least 0, got {length}.")
        if self._h.shape[1] != 1:
            raise ValueError(f"Streamer.generate expected the state of one sequence, got a batch of {self._h.shape[1]}.")
        banned = self._ids(list(forbidden), self.outputs)
        if stop is not None:
            self._ids([stop], self.outputs)
        if context is not None:
            self.feed(context)
        if seed is not None:
            self._seed = seed & (2**64 - 1)
            self._library.unrolled_stream_seed(self._handle, self._seed)
        choice = _Choice(
            temperature=temperature,
            top_p=top_p or 0.0,
            top_k=min(top_k or 0, 2**62),
            stop=-1 if stop is None else stop,
            forbidden=banned.data_ptr(),
            forbidden_count=banned.numel(),
            threads=torch.get_num_threads(),
        )
        ids = torch.empty(length, dtype=torch.int64)
        count = self._library.unrolled_stream_generate(self._handle, length, ctypes.byref(choice), ids.data_ptr())
        if count < 0:
            self._raise(count)
        return ids[:count].tolist()

    def stream(
        self, length: int, *, chunk: int = 16, context: Any = None, seed: int | None = None, **how: Any
    ) -> Iterator[int]:
        """`generate`, token by token as they come; `chunk` are made at a time."""
        if chunk < 1:
            raise ValueError(f"Streamer.stream expected a chunk of at least 1, got {chunk}.")
        while length > 0:
            asked = min(chunk, length)
            ids = self.generate(asked, context=context, seed=seed, **how)
            yield from ids
            if len(ids) < asked:
                return
            length, context, seed = length - asked, None, None

    # -------------------------------------------------------------------------------------------------------- checks
    def _check_shapes(self) -> None:
        if self._one_hot and self._embedding is not None:
            raise ValueError("Streamer expected an embedding or one_hot=True, got both.")
        if self._decoder_bias is not None and self._decoder_weight is None:
            raise ValueError("Streamer expected a decoder_weight with decoder_bias, got None.")
        for name, tensor, width in (
            ("embedding", self._embedding, self.input_size),
            ("decoder_weight", self._decoder_weight, self.hidden_size),
        ):
            if tensor is not None and (tensor.dim() != 2 or tensor.shape[1] != width or not tensor.shape[0]):
                raise ValueError(f"Streamer expected {name} of shape (V, {width}), got {tuple(tensor.shape)}.")
        if self._decoder_weight is not None and self._decoder_bias is not None:
            expected, got = (self._decoder_weight.shape[0],), tuple(self._decoder_bias.shape)
            if got != expected:
                raise ValueError(f"Streamer expected decoder_bias of shape {expected}, got {got}.")

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
        return x_t.detach().to("cpu", self._x_dtype).contiguous()

    def _contiguous(self, part: Tensor) -> Tensor:
        if part.dtype is torch.float32 and part.is_contiguous() and part.is_cpu:
            return part
        return part.detach().to("cpu", torch.float32).contiguous()

    def _ids(self, ids: Sequence[int] | Tensor, limit: int) -> Tensor:
        tensor = torch.as_tensor(ids, dtype=torch.int64).reshape(-1).contiguous()
        if tensor.numel() and (int(tensor.min()) < 0 or int(tensor.max()) >= limit):
            self._raise_ids(tensor, limit)
        return tensor

    def _need_tokens(self) -> None:
        if not self.tokens:
            raise ValueError("Streamer expected an embedding, or one_hot=True, to read tokens; it was built without.")

    def _need_decoder(self) -> None:
        if not self.outputs:
            raise ValueError("Streamer expected a decoder_weight to score tokens; it was built without.")

    def _raise(self, code: int, ids: Tensor | None = None) -> None:
        if not code:
            return
        if code == _ID and ids is not None:
            self._raise_ids(ids, self.tokens)
        if code == _MEMORY:
            raise MemoryError("Streamer: no memory for a batch of this size.")
        if code == _SCORES:
            raise FloatingPointError(
                "Streamer cannot choose a token: its scores are NaN, infinite or all forbidden. Are the weights finite?"
            )
        raise ValueError(f"Streamer: the compiled engine refused the call (code {code}).")

    def _raise_ids(self, ids: Tensor, limit: int) -> None:
        wrong = ids[(ids < 0) | (ids >= limit)]
        raise ValueError(f"Streamer expected token ids from 0 to {limit - 1}, got {int(wrong[0])}.")

    # ------------------------------------------------------------------------------------------------------ lifetime
    def _free(self) -> None:
        if self._handle is not None:
            self._library.unrolled_stream_destroy(self._handle)
            self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self._free()

    def __reduce__(self) -> Any:
        raise TypeError("a Streamer holds native memory: build it again from its layers instead of copying or pickling it")


def _flat(layers: Any) -> list[Tensor]:
    return [parameter for one in layers.all_weights for parameter in one]
