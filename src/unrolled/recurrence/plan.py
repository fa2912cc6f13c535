"""Who computes a call: one table, asked from the top. The first backend that has nothing against the call runs it.

    single step            one step without gradients, weights read where they lie
    compiled kernels       sequences on the CPU
    regularised kernels    the same for options that change what a step does
    torch, whole stack     PyTorch's operator for all layers and directions: cuDNN's on CUDA
    torch, layer by layer  the same for each layer, where something has to happen between layers
    definition             the cell's step in a loop

Each says why it cannot have a call (`refuses`); `explain` prints that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from unrolled import kernels
from unrolled.kernels import context, library
from unrolled.recurrence import arguments, one_step, run
from unrolled.recurrence.arguments import Call
from unrolled.recurrence.run import Result


class Backend(NamedTuple):
    """One way to compute a call."""

    name: str
    refuses: Callable[[Call], str | None]
    """Why it cannot have this call; None if it can."""
    run: Callable[[Call], Result]


def _kernels_refuse(call: Call) -> str | None:
    layer, device = call.layer, call.x.device
    if call.option:
        return _option_changes_steps(call)
    if layer.proj_size:
        return f"proj_size={layer.proj_size}: they have no projection"
    if call.watched and (reason := _other_operators_needed(call)):
        return reason
    if not kernels.supports(layer.mode, call.dtype, device):
        return _not_supported(call)
    if layer.learned_state and call.resets is not None:
        return "resets go back to a learned state"
    if library.has_amx and _onednn_is_faster(call):
        return "oneDNN is faster at an LSTM in bf16 without gradients on this processor"
    return None


def _regularised_refuse(call: Call) -> str | None:
    layer = call.layer
    if not call.option and not (layer.learned_state and call.resets is not None):
        return "the layer has no option that changes steps in this call"
    if layer.proj_size:
        return f"proj_size={layer.proj_size}: they have no projection"
    if torch.float32 not in library.dtypes or call.x.device.type != "cpu":
        return _not_supported(call)
    if call.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return f"dtype {call.dtype}: they compute in float32 and float64"
    if 0 in call.x.shape[:2]:
        return "the sequence is empty"
    if context.transformed():
        return "a transform of torch.func is active"
    if call.watched and (reason := _other_operators_needed(call)):
        return reason
    return None


def _torch_refuses(call: Call) -> str | None:
    layer = call.layer
    if call.option:
        return _option_changes_steps(call)
    if call.compiling:
        return "torch.compile is tracing: in its graphs these operators come out wrong"
    if context.forward_mode():
        return _FORWARD_MODE
    if call.watched == context.FOREIGN:
        return _FOREIGN
    if call.gradient_norms is not None or (call.every_step and layer.mode == "LSTM"):
        return "they show no state inside the sequence"
    if 0 in call.x.shape[:2]:
        return "the sequence is empty"
    if context.transformed():
        return "a transform of torch.func is active"
    if call.x.device.type == "meta":
        return "meta tensors hold no numbers"
    if call.lengths is not None and not call.lengths.any():
        return "no sequence has a step"
    return None


def _torch_stack_refuses(call: Call) -> str | None:
    layer = call.layer
    if layer.num_layers * layer.num_directions == 1:
        return "there is one layer in one direction"
    if call.every_step:
        return "they show no state inside the sequence"
    if layer.dropout and layer.training:
        return "dropout between layers: cuDNN's does not follow torch's seed"
    if call.resets is not None and (layer.bidirectional or layer.learned_state):
        return "resets in two directions or to a learned state are laid out for each layer"
    return _torch_refuses(call)


def _option_changes_steps(call: Call) -> str:
    value = "" if call.compiling else f"={getattr(call.layer, call.option)}"  # torch.compile may have a symbol of the rate
    return f"{call.option}{value} changes what a step does"


_FOREIGN = f"{context.FOREIGN}, which may know no fused operators"
_FORWARD_MODE = "forward-mode derivatives are taken: only the definition's operators all have them"


def _other_operators_needed(call: Call) -> str | None:
    """Why operators of our own cannot be seen by who is watching; None if they can."""
    if call.watched == context.FOREIGN:
        return _FOREIGN
    if context.forward_mode():
        return _FORWARD_MODE
    return "torch.onnx.export is tracing: ONNX has no operators of ours" if torch.onnx.is_in_onnx_export() else None


def _not_supported(call: Call) -> str:
    if call.x.device.type != "cpu":
        return f"input on {call.x.device}: they run on the CPU"
    if not library.dtypes:  # and not `available`, which torch.compile cannot trace
        return "they are not there" if call.compiling else library.why_not()
    return f"dtype {call.dtype}: they compute in float32, float64 and bfloat16"


def _onednn_is_faster(call: Call) -> bool:
    """On an Emerald Rapids, whose matrix unit (AMX) oneDNN uses, 1.7 to 4.7 times at B = 32 to 64, slower at B of 1 and 8.

    Where gradients are wanted it would be 1.4 to 1.7 times faster and have no second derivatives.
    """
    if call.layer.mode != "LSTM" or call.dtype != torch.bfloat16 or torch.is_grad_enabled() or call.watched:
        return False
    return call.batch >= 16 and call.lengths is None and call.resets is None and call.x.is_floating_point()


BACKENDS = (
    Backend("single step", one_step.refuses, one_step.run),
    Backend("compiled kernels", _kernels_refuse, run.by_kernels),
    Backend("regularised kernels", _regularised_refuse, run.by_regularised_kernels),
    Backend("torch, whole stack", _torch_stack_refuses, run.by_torch_stack),
    Backend("torch, layer by layer", _torch_refuses, run.by_torch_layer),
    Backend("definition", lambda call: None, run.by_definition),
)


def compute(call: Call) -> Result:
    """The result of a call, by the first backend that does not refuse it."""
    for backend in BACKENDS:
        if backend.refuses(call) is None:
            return backend.run(call)
    raise AssertionError("the definition computes every call")


def explain(layer: Any, input: Tensor | PackedSequence, hx: Any = None, **how: Any) -> None:
    """Print who would compute a call of an `unrolled` layer, and why each faster backend would not.

    Takes what calling the layer takes, and raises what that raises; computes nothing.

    >>> import torch, unrolled
    >>> with torch.no_grad():
    ...     explain(unrolled.LSTM(3, 4, proj_size=2), torch.randn(5, 2, 3))
    single step            no: 5 steps: it computes one
    compiled kernels       no: proj_size=2: they have no projection
    regularised kernels    no: the layer has no option that changes steps in this call
    torch, whole stack     no: there is one layer in one direction
    torch, layer by layer  runs
    definition             would run next
    """
    if not hasattr(layer, "layer_weights"):
        raise TypeError(f"explain expected a layer of unrolled, got {type(layer).__name__}. unrolled.convert swaps torch.nn's.")
    if isinstance(input, PackedSequence):
        call = arguments.unpacked(layer, input, hx)
    else:
        call, _ = arguments.checked(layer, input, hx, **how)
    able = iter(("runs", "would run next"))
    for backend in BACKENDS:
        reason = backend.refuses(call)
        print(f"{backend.name:<21}  {f'no: {reason}' if reason else next(able, 'could too')}")
