"""What PyTorch is doing around a call: compiling it, watching it, or computing it in another dtype.

Kernels that are handed raw memory are invisible to PyTorch. `watched` is asked once per call, of every tensor, before any is.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

PLAIN = frozenset((Tensor, torch.nn.Parameter))
"""The types of tensors that are numbers in memory and no more."""
INTEGERS = frozenset(getattr(torch, sign + str(8 * size)) for sign in ("int", "uint") for size in (1, 2, 4, 8))
"""What token ids and lengths may be."""
TRACE, PROFILER, FOREIGN = "torch.jit.trace", "the profiler", "a tensor subclass with a dispatch of its own"

compiling = torch.compiler.is_compiling
"""Whether torch.compile or torch.export is tracing this call."""


def transformed() -> bool:
    """Whether a transform of torch.func (vmap, grad, functionalize, ...) is active."""
    return torch._C._are_functorch_transforms_active()


def in_memory(tensor: Tensor) -> bool:
    """Whether it is plain numbers in the CPU's memory: no subclass, no lazily negated or zero tensor, strided."""
    plain = type(tensor) in PLAIN and tensor.is_cpu and tensor.layout is torch.strided
    return plain and not (tensor.is_neg() or tensor.is_conj() or tensor._is_zerotensor())


_storage, _held, _offset = Tensor.untyped_storage, torch.UntypedStorage.nbytes, Tensor.storage_offset
_nbytes = Tensor.nbytes.__get__  # type: ignore[attr-defined]  # a property in C, which stubs have as a plain one


def freed(tensors: Collection[Tensor], nbytes: Iterable[int] | None = None) -> bool:
    """Whether the storage of one of these contiguous tensors, of so many `nbytes`, no longer holds all its numbers.

    `storage.resize_` does that to weights that are not needed for a while (FSDP), and their address may stay what it was.
    """
    needed = map(_nbytes, tensors) if nbytes is None else nbytes  # in maps, which loop in C: this is asked at every call
    if any(map(operator.gt, needed, map(_held, map(_storage, tensors)))):
        return True
    return any(t.nbytes + begin * t.itemsize > t.untyped_storage().nbytes() for t in tensors if (begin := _offset(t)))


def require_memory(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError, naming it, if one of these contiguous tensors is `freed`."""
    if freed(tensors.values()):
        name, t = next((name, t) for name, t in tensors.items() if freed([t]))
        raise ValueError(
            f"expected {name} of {t.nbytes:,} bytes, from byte {t.storage_offset() * t.itemsize:,} of its storage on, "
            f"got a storage of {t.untyped_storage().nbytes():,} bytes. "
            "It was freed or resized: fill it again before it is used."
        )


def forward_mode() -> bool:
    """Whether forward-mode derivatives are being taken: only PyTorch's own operators have them."""
    return forward_ad._current_level >= 0


def watched(tensors: Collection[Tensor | None]) -> str:
    """Who, besides autograd's backward pass, must see what is done to these tensors; empty if nobody.

    Then the work has to go through operators of the dispatcher: torch.compile, a transform of torch.func, forward-mode
    derivatives, a mode, a trace, the profiler, or a tensor that is more, or less, than numbers in memory.
    """
    if torch.compiler.is_compiling():
        return "torch.compile"
    if torch._C._are_functorch_transforms_active():
        return "a transform of torch.func"
    if forward_mode():
        return "forward-mode differentiation"
    if torch._C._len_torch_dispatch_stack() > 0 or torch._C._len_torch_function_stack() > 0:
        return "a dispatch or function mode"
    if torch._C._get_tracing_state() is not None:
        return TRACE
    if torch._C._autograd._profiler_enabled():  # pyright: ignore[reportAttributeAccessIssue]
        return PROFILER
    if not tensors:  # nobody watches whatever it is
        return ""
    given = [t for t in tensors if t is not None]
    if not PLAIN.issuperset(map(type, given)):
        return FOREIGN if any(map(_is_foreign, given)) else "a tensor subclass"
    if any(map(Tensor.is_neg, given)) or any(map(Tensor._is_zerotensor, given)):
        return "a tensor that is negated lazily or holds no memory"
    if any(map(torch._C._functorch.is_legacy_batchedtensor, given)):  # pyright: ignore[reportAttributeAccessIssue]
        return "gradients of several losses at once"  # is_grads_batched, jacobian(vectorize=True)
    return ""


def asked_for(ctx: Any, inputs: Iterable[Tensor | None]) -> list[bool]:
    """Of which inputs this backward pass takes the gradient: `torch.autograd.grad` is given some, `needs_input_grad` names all.

    Args:
        ctx: of an autograd.Function, in its backward.
        inputs: the first that `apply` was called with: tensors, or None.
    """
    edges = iter(ctx.next_functions)  # of tensors, and of nothing else
    return [t is not None and _will_be_run(next(edges)[0]) for t in inputs]


def _will_be_run(node: Any) -> bool:
    try:
        return node is not None and torch._C._will_engine_execute_node(node)  # pyright: ignore[reportAttributeAccessIssue]
    except RuntimeError:  # a leaf that was asked for itself
        return True


def _is_foreign(tensor: Tensor) -> bool:
    """Whether its own class says what an operator does to it, and so knows none of ours: DTensor, quantized weights."""
    own = type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__  # type: ignore[attr-defined]
    return own and not isinstance(tensor, FakeTensor)  # which knows the shapes of all


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What autocast computes in on this device; None where it is off, or the device (meta) knows none."""
    if torch.compiler.is_compiling():  # PyTorch 2.11 cannot trace `is_autocast_available`
        known = device.type != "meta"
    else:
        known = torch._C._is_any_autocast_enabled() and torch.amp.is_autocast_available(device.type)
    on = known and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else None
