"""The streaming engine's C interface (`csrc/unrolled_streaming.h`) as Python calls it, and what it can compute here."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from unrolled.cells import MODES
from unrolled.kernels import context, library

PRECISIONS = ("fp32", "bf16", "int8")
ISAS = ("portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16")
MEMORY, ID, SCORES = -1, -3, -4
"""Codes of errors."""
_INT8_WIDEST = 65536
_declared: ctypes.CDLL | None = None


class Spec(ctypes.Structure):
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


class Choice(ctypes.Structure):
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


class Call(ctypes.Structure):
    c_name = "unrolled_stream_call"
    _fields_ = [("B", ctypes.c_int64), *((name, ctypes.c_void_p) for name in ("x", "h_in", "c_in", "h_out", "c_out", "out"))]


def declared() -> ctypes.CDLL:
    """The compiled library, its functions declared and its structures checked."""
    global _declared
    if _declared is None:
        compiled = library.loaded()
        for structure in (Spec, Choice, Call):
            library.check_layout(compiled, structure)
        pointer, int64 = ctypes.c_void_p, ctypes.c_int64
        for name, result, *arguments in (
            ("create", pointer, ctypes.POINTER(Spec), ctypes.POINTER(ctypes.c_int32)),
            ("destroy", None, pointer),
            ("isa", ctypes.c_char_p, pointer),
            ("bytes", int64, pointer),
            ("available", ctypes.c_int, ctypes.c_char_p, ctypes.c_int32),
            ("run", ctypes.c_int, pointer, ctypes.POINTER(Call)),
            ("bind", ctypes.c_int, pointer, int64, pointer, pointer),
            ("repack", ctypes.c_int, pointer, ctypes.POINTER(Spec)),
            ("step", ctypes.c_int, pointer, int64, pointer, pointer),
            ("logits", ctypes.c_int, pointer, int64, pointer),
            ("feed", ctypes.c_int, pointer, pointer, int64, ctypes.c_int32),
            ("flush", ctypes.c_int, pointer),
            ("seed", None, pointer, ctypes.c_uint64),
            ("generate", int64, pointer, int64, ctypes.POINTER(Choice), pointer),
        ):
            function = getattr(compiled, f"unrolled_stream_{name}")
            function.restype, function.argtypes = result, arguments
        _declared = compiled
    return _declared


def isas(precision: str = "fp32") -> list[str]:
    """The variants of the engine that this machine runs at a precision, plainest first."""
    engine, index = declared(), PRECISIONS.index(precision)
    return [isa for isa in ISAS if engine.unrolled_stream_available(isa.encode(), index)]


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
    if option := getattr(layers, "step_option", ""):
        return f"{name} has {option}={getattr(layers, option)}, which the streaming engine does not do"
    if layers.proj_size:
        return f"{name} has proj_size={layers.proj_size}, which the streaming engine does not do"
    rows = MODES[layers.mode].gates * layers.hidden_size
    for k, weights in enumerate(layers.all_weights):
        shapes = (rows, layers.hidden_size if k else layers.input_size), (rows, layers.hidden_size), (rows,), (rows,)
        for weight, shape in zip(weights, shapes, strict=False):
            if weight.device.type != "cpu":
                return f"{name} is on {weight.device}; the streaming engine runs on the CPU"
            if weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
                return f"{name} has weights of {weight.dtype}; the streaming engine computes in fp32 and would lose digits"
            if tuple(weight.shape) != shape:
                return f"{name} has a weight of shape {tuple(weight.shape)} where its sizes ask for {shape}"
            if not context.in_memory(weight):
                return f"{name} has a weight, a {type(weight).__name__}, that is not plain numbers in memory"
    if precision == "int8" and max(layers.input_size, layers.hidden_size) > _INT8_WIDEST:
        return f"{name} is wider than {_INT8_WIDEST}, beyond which int8 sums could overflow"
    return None


def raise_for(code: int, ids: Tensor | None = None, limit: int = 0) -> None:
    """Raise the error that the engine's code stands for; nothing for 0."""
    if not code:
        return
    if code == ID and ids is not None:
        raise_for_ids(ids, limit)
    if code == MEMORY:
        raise MemoryError("Streamer: no memory for a batch of this size.")
    if code == SCORES:
        raise FloatingPointError(
            "Streamer cannot choose a token: its scores are NaN, infinite or all forbidden. Are the weights finite?"
        )
    raise ValueError(f"Streamer: the compiled engine refused the call (code {code}).")


def raise_for_ids(ids: Tensor, limit: int) -> None:
    """Raise for the first id outside [0, limit)."""
    wrong = ids[(ids < 0) | (ids >= limit)]
    raise ValueError(f"Streamer expected token ids from 0 to {limit - 1}, got {int(wrong[0])}.")
