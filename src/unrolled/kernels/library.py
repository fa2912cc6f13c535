"""The compiled library of CPU kernels: finding it, loading it, and the one function that calls it.

The library (`csrc/`) has a plain C interface and is linked against nothing of PyTorch's, so one build serves every
version of it. It starts no threads: it is handed the entry points of the OpenMP runtime that PyTorch has already loaded
and runs on PyTorch's own pool.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.resources
import math
import os
import weakref
from pathlib import Path
from typing import Any

import torch

from unrolled.cells import MODES

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
ISAS = ("avx512", "avx2", "portable")

_FORWARD = [
    *("x", "ids", "table", "w_ih", "w_hh", "b_ih", "b_hh", "h0", "c0", "lengths", "resets"),
    *("out", "cs", "h_n", "c_n", "gates"),
]
_POINTERS = [
    *_FORWARD,
    *("d_out", "d_cs", "d_h_n", "d_c_n"),
    *("dx", "d_table", "dw_ih", "dw_hh", "db_ih", "db_hh", "dh0", "dc0", "grad_norms"),
]


class _Args(ctypes.Structure):
    c_name = "unrolled_args"
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("mode", "dtype", "reverse", "threads")),
        *((name, ctypes.c_int64) for name in "TBIHV"),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    ]


_ERRORS = {-1: "out of memory", -2: "this mode and dtype have no compiled kernel here"}


def _library_path() -> Path | None:
    # Editable installs spread a package over two folders (sources, built files): ask the import system.
    for entry in importlib.resources.files("unrolled.kernels").iterdir():
        if entry.name.startswith("_unrolled_kernels."):
            return Path(str(entry))
    return None


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and the reason."""
    if os.environ.get("UNROLLED_KERNELS", "1") == "0":
        return None, "switched off by UNROLLED_KERNELS=0"
    path = _library_path()
    if path is None:
        return None, "the C++ kernels were not built: no working C++17 compiler was found when unrolled was installed"
    try:
        return load(path), ""
    except OSError as error:
        return None, f"{path.name} could not be loaded: {error}"


def load(path: Path) -> ctypes.CDLL:
    """A compiled library, its layout checked, on PyTorch's threads.

    Raises:
        OSError: it cannot be loaded.
        ImportError: it was compiled from other headers.
    """
    library = ctypes.CDLL(str(path))
    check_layout(library, _Args)
    library.unrolled_forward.argtypes = [ctypes.POINTER(_Args)]
    library.unrolled_backward.argtypes = [ctypes.POINTER(_Args)]
    library.unrolled_gates_size.argtypes = [ctypes.c_int32, ctypes.c_int32, *[ctypes.c_int64] * 3]
    library.unrolled_gates_size.restype = ctypes.c_int64
    library.unrolled_isa.restype = ctypes.c_char_p
    library.unrolled_isa_available.argtypes = [ctypes.c_char_p]
    library.unrolled_use_isa.argtypes = [ctypes.c_char_p]
    library.unrolled_fma_peak.argtypes = [ctypes.c_int32, ctypes.c_int32, ctypes.c_double]
    library.unrolled_fma_peak.restype = ctypes.c_double
    library.unrolled_use_openmp.argtypes = [ctypes.c_void_p] * 3
    library.unrolled_take_memory.argtypes, library.unrolled_take_memory.restype = [ctypes.c_int64], ctypes.c_void_p
    library.unrolled_give_memory_back.argtypes, library.unrolled_give_memory_back.restype = [ctypes.c_void_p], None
    pool = _openmp()
    if pool is not None:
        entry_points = [getattr(pool, name) for name in _OPENMP_NAMES]
        library.unrolled_use_openmp(*[ctypes.cast(f, ctypes.c_void_p) for f in entry_points])
    return library


def check_layout(library: ctypes.CDLL, structure: Any) -> None:
    """Whether the C headers, when the library was compiled, had the structure as this file of Python has it.

    Raises:
        ImportError: they had not; or the library is older than this question.
    """
    fields = {"": (0, ctypes.sizeof(structure))}
    fields |= {name: (getattr(structure, name).offset, getattr(structure, name).size) for name, *_ in structure._fields_}
    offset, size = ctypes.c_int64(), ctypes.c_int64()
    for field, ours in fields.items():
        theirs = None
        if hasattr(library, "unrolled_layout"):
            known = library.unrolled_layout(structure.c_name.encode(), field.encode(), ctypes.byref(offset), ctypes.byref(size))
            theirs = (offset.value, size.value) if known == 0 else None
        if theirs != ours:
            where = f"{structure.c_name}.{field}" if field else structure.c_name
            raise ImportError(
                f"unrolled's compiled kernels are of another version than its Python files: expected {where} at (offset, size) "
                f"{ours}, got {theirs}. Install unrolled again: pip install --force-reinstall --no-deps unrolled, or -e . in "
                "its folder."
            )


_OPENMP_NAMES = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")


def _openmp() -> ctypes.CDLL | None:
    """The OpenMP runtime PyTorch is using: never a second one beside it."""
    candidates: list[str | None] = []
    maps = Path("/proc/self/maps")
    if maps.exists():
        mapped = {line.split()[-1] for line in maps.read_text().splitlines() if "/" in line}
        candidates += sorted(p for p in mapped if any(n in Path(p).name for n in ("libgomp", "libiomp", "libomp")))
    candidates.append(None)  # whatever the process exports
    for name in candidates:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if all(hasattr(library, f) for f in _OPENMP_NAMES):
            return library
    return None


def available() -> bool:
    """Whether the compiled kernels can be used in this process."""
    return _load()[0] is not None


def why_not() -> str:
    """Why `available()` is False, in words; empty when it is True."""
    return _load()[1]


def shares_threads() -> bool:
    """Whether an OpenMP runtime to share was found; without one, every call runs on one thread."""
    return available() and _openmp() is not None


def isa() -> str:
    """The instruction set in use: "avx512", "avx2" or "portable"."""
    return loaded().unrolled_isa().decode()


def isas() -> list[str]:
    """The instruction sets this machine can run, best first."""
    library = loaded()
    return [name for name in ISAS if library.unrolled_isa_available(name.encode())]


def use_isa(name: str) -> None:
    """Switch instruction sets, for tests and comparisons. Never between a forward and its backward."""
    if loaded().unrolled_use_isa(name.encode()) != 0:
        raise ValueError(f"expected one of {isas()}, got {name!r}")
    lanes.cache_clear()
    global dtypes
    dtypes = _compiled_dtypes()


def _compiled_dtypes() -> frozenset[torch.dtype]:
    if not available():
        return frozenset()
    return frozenset(d for i, d in enumerate(DTYPES) if loaded().unrolled_has_dtype(i))


@functools.cache
def lanes(dtype: torch.dtype) -> int:
    """Numbers per vector under the instruction set in use: hidden units are padded to a multiple of it."""
    return loaded().unrolled_gates_size(MODES["LSTM"].number, DTYPES.index(dtype), 1, 1, 1) // 4


def gates_size(mode: str, dtype: torch.dtype, steps: int, batch: int, hidden: int) -> int:
    """How many elements forward must be given to save what backward needs."""
    return loaded().unrolled_gates_size(MODES[mode].number, DTYPES.index(dtype), steps, batch, hidden)


def fma_peak(dtype: torch.dtype = torch.float32, threads: int = 1, seconds: float = 0.2) -> float:
    """Floating-point operations per second this machine reaches with multiply-adds in registers and nothing else."""
    return loaded().unrolled_fma_peak(DTYPES.index(dtype), threads, seconds)


def loaded() -> ctypes.CDLL:
    """The library, its layout checked. RuntimeError where it is not available."""
    library, reason = _load()
    if library is None:
        raise RuntimeError(f"the compiled kernels are not available: {reason}")
    return library


_LARGE = 2**20


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """`torch.empty(shape)` for what one call needs and the next needs again.

    Large ones live in memory that the library keeps: the system would take it back and clear it for every call anew. LSTM
    training at B=64, T=128, I=H=512 (67 MB of gates) 1.08 times faster, at B=16, T=512, I=H=1024 1.10 times.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    address = loaded().unrolled_take_memory(nbytes) if nbytes >= _LARGE else None
    if address is None:
        return torch.empty(shape, dtype=dtype, device="cpu")
    memory = (ctypes.c_char * nbytes).from_address(address)
    owner = weakref.finalize(memory, loaded().unrolled_give_memory_back, address)
    owner.atexit = False  # tensors may outlive it
    return torch.frombuffer(memory, dtype=dtype).view(shape)


@functools.cache
def function(name: str, structure: type[ctypes.Structure], argument: Any) -> Any:
    """The library's function of this name, which takes a `structure` as ctypes' `argument` and returns an int.

    Raises:
        ImportError: the library has the structure in another layout.
    """
    compiled = loaded()
    check_layout(compiled, structure)
    found = getattr(compiled, f"unrolled_{name}")
    found.argtypes = [argument]
    return found


def call(
    which: str,
    mode: str,
    dtype: torch.dtype,
    sizes: tuple[int, int, int, int, int],
    reverse: bool,
    tensors: dict[str, torch.Tensor | None],
) -> None:
    """Run `forward` or `backward` on contiguous CPU tensors; `sizes` is T, B, I, H, V. Checks nothing."""
    names = _FORWARD if which == "forward" else _POINTERS
    pointers = [None if (tensor := tensors.get(name)) is None else tensor.data_ptr() for name in names]
    args = _Args(MODES[mode].number, DTYPES.index(dtype), reverse, torch.get_num_threads(), *sizes, *pointers)
    library = loaded()
    function = library.unrolled_forward if which == "forward" else library.unrolled_backward
    code = function(ctypes.byref(args))
    if code:
        raise RuntimeError(f"{mode} {which}: {_ERRORS.get(code, code)}")


# The dtypes that have compiled kernels here (bf16 needs avx512_bf16, and a processor that is fast at it). Found when the
# module is imported, so that torch.compile sees a constant.
dtypes = _compiled_dtypes()
has_amx = available() and bool(loaded().unrolled_has_amx_bf16())
"""Whether this processor multiplies matrices of bf16 in a unit of its own, which oneDNN uses and these kernels do not."""
