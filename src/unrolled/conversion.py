"""Somebody's model with its torch.nn recurrent layers and cells exchanged for ours, in one line, and back.

Both have one set of parameter names and shapes, so an exchange is a change of the module object's class. The object
stays, and with it its Parameters (optimizers go on working), hooks, training mode, and every reference to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from unrolled.cell_layers import GRUCell, LSTMCell, RNNCell
from unrolled.layers import GRU, LSTM, RNN

OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.RNN: RNN,
    nn.LSTM: LSTM,
    nn.GRU: GRU,
    nn.RNNCell: RNNCell,
    nn.LSTMCell: LSTMCell,
    nn.GRUCell: GRUCell,
}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}
_OPTIONS = ["input_size", "hidden_size", "bias"]
_OF_SEQUENCES = ["num_layers", "batch_first", "dropout", "bidirectional"]
_NAMES = [kind.__name__ for kind in OURS]


@dataclass(frozen=True)
class Report:
    """What `convert` or `restore` did to `model`; print it to read it.

    swapped: name in the model -> the exchange, "torch.nn.LSTM -> unrolled.LSTM".
    left: name in the model -> why this recurrent layer is as it was.
    """

    model: nn.Module
    swapped: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.swapped and not self.left:
            return f"No recurrent layer to swap in {type(self.model).__name__}."
        lines = [f"Swapped {len(self.swapped)}, left {len(self.left)} as they were."]
        lines += [f"  {name or '(the model)'}: {exchange}" for name, exchange in self.swapped.items()]
        lines += [f"  {name or '(the model)'}: left, {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


def convert(model: nn.Module) -> Report:
    """Exchange every torch.nn.RNN, LSTM, GRU and cell of these in `model` for unrolled's, in place; weights and answers stay.

    `model` itself may be such a layer: the object you hold becomes ours. Like `load_state_dict`, this changes the model
    and returns a report; the model is also in `report.model`. A layer that stands at two places of the model is one
    object, is swapped once, and is named at both. Left alone, and named with the reason: subclasses, layers whose weights
    are computed from others (weight norm, spectral norm, pruning, any parametrization), layers of which a parameter is
    also another's (tied), whose `forward` was replaced, quantized and TorchScript layers. In training, dropout between
    layers draws its own random numbers; all else is computed as before.

    Raises:
        TypeError: `model` is not a `torch.nn.Module`.

    >>> import torch, unrolled
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LSTM(4, 5))
    >>> print(unrolled.convert(model))
    Swapped 1, left 0 as they were.
      1: torch.nn.LSTM -> unrolled.LSTM
    >>> isinstance(model[1], unrolled.LSTM)
    True
    """
    return _exchange_all("convert", model, OURS)


def restore(model: nn.Module) -> Report:
    """Exchange every unrolled RNN, LSTM, GRU and cell of these in `model` for torch.nn's: the way back from `convert`.

    Layers that were ours from the start become torch.nn's too, unless they have options that torch.nn lacks: these are
    left, and named. What `convert` leaves alone, `restore` does too.

    Raises:
        TypeError: `model` is not a `torch.nn.Module`.

    >>> import torch, unrolled
    >>> lstm = unrolled.LSTM(4, 5)
    >>> print(unrolled.restore(lstm))
    Swapped 1, left 0 as they were.
      (the model): unrolled.LSTM -> torch.nn.LSTM
    """
    return _exchange_all("restore", model, THEIRS)


_SAME_ANSWERS = ("save", "forget_bias")  # one changes memory, the other was used up when the weights were drawn


def beyond_torch(module: nn.Module, *, training: bool = True) -> str | None:
    """What this layer of ours does that torch.nn's cannot, as a reason; None where torch.nn's can do the same.

    With training=False, what acts in training only does not matter.
    """
    kind = next((kind for kind in type(module).__mro__ if kind in THEIRS), None)
    if kind is None:
        return None
    ours, theirs = vars(_fresh(kind, module)), vars(_fresh(THEIRS[kind], module))
    passed = (*_SAME_ANSWERS, *([] if training else ["recurrent_dropout"]))
    for name, default in ours.items():
        if name not in passed and not name.startswith("_") and name not in theirs and getattr(module, name) != default:
            return f"{name}={getattr(module, name)!r} is not in torch.nn.{kind.__name__}"
    return None


def _exchange_all(name: str, model: Any, wanted: Mapping[type[nn.Module], type[nn.Module]]) -> Report:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name} expected a torch.nn.Module, got {model!r} of type {type(model).__name__}.")
    report, places, owners = Report(model), defaultdict(list), defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        places[module].append(name)
    for module, names in places.items():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners[parameter].append(f"{names[0]}.{name}" if names[0] else name)
    for module, names in places.items():
        kind, reason = type(module), _foreign(module, wanted)
        if kind in wanted:
            reason = beyond_torch(module) or _unlike_new(module) or _tied(module, owners)
            if reason is None:
                _change_class(module, wanted[kind])
                exchange = f"{_full_name(kind)} -> {_full_name(wanted[kind])}"
                report.swapped.update(dict.fromkeys(names, exchange))
        if reason is not None:
            report.left.update(dict.fromkeys(names, reason))
    return report


def _change_class(module: nn.Module, wanted: type[nn.Module]) -> None:
    """Make `module` one of `wanted`, with what a new one has of its own and without what only its old class has."""
    old, new = vars(_fresh(type(module), module)), vars(_fresh(wanted, module))
    for name in old.keys() - new.keys():
        delattr(module, name)
    module.__class__ = wanted
    for name in new.keys() - old.keys():
        setattr(module, name, new[name])
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()  # torch.nn's own list of the weights it calls its kernels with


def _fresh(kind: type[nn.Module], like: Any) -> nn.Module:
    """A new layer of the sizes of `like`, without storage for its weights."""
    sequences = [] if issubclass(kind, nn.RNNCellBase) else _OF_SEQUENCES
    options = {name: getattr(like, name) for name in [*_OPTIONS, *sequences]}
    if kind in (nn.LSTM, LSTM):
        options["proj_size"] = like.proj_size
    if options.get("num_layers") == 1:
        options["dropout"] = 0.0  # it would do nothing, and warn of it
    return kind(**options, device="meta")


def _unlike_new(module: nn.Module) -> str | None:
    """Why the layer computes, or may compute, something else than a new one of its class with its parameters."""
    new = _fresh(type(module), module)
    if replaced := sorted(new._parameters.keys() - module._parameters.keys()):
        return f"{', '.join(replaced)} computed from other tensors (weight norm, spectral norm, pruning or alike)"
    if more := sorted((module._parameters | module._buffers | module._modules).keys() - new._parameters.keys()):
        return f"{', '.join(more)} added to it"
    if "forward" in vars(module):
        return "its forward was replaced"
    for name, parameter in new._parameters.items():
        own = module._parameters[name]
        if parameter is not None and (own is None or own.shape != parameter.shape):
            return f"{name} of another shape than its options say"
    return None


def _tied(module: nn.Module, owners: Mapping[Tensor, list[str]]) -> str | None:
    for parameter in module._parameters.values():
        if parameter is not None and len(owners[parameter]) > 1:
            return f"{owners[parameter][0]} and {owners[parameter][1]} are tied, one parameter"
    return None


def _foreign(module: nn.Module, wanted: Mapping[type[nn.Module], type[nn.Module]]) -> str | None:
    """Why a recurrent module that is like the ones to exchange, but not exactly one, is left; None for all others."""
    if type(module) in wanted.values():
        return None
    name, is_like = type(module).__name__, isinstance(module, tuple(wanted)) and type(module) not in wanted
    if is_like and is_parametrized(module):
        return f"{', '.join(module.parametrizations)} parametrized"  # type: ignore[arg-type]
    if is_like:
        return f"a subclass, {name}"
    if wanted is THEIRS:
        return None
    if isinstance(module, nn.RNNCellBase) and type(module) not in wanted:
        return f"a cell of its own, {name}"
    if type(module).__module__.startswith("torch.ao.nn.quant") and name in _NAMES:
        return f"a quantized {name}"
    if getattr(module, "original_name", None) in _NAMES:
        return f"a TorchScript {module.original_name}"
    return None


def _full_name(kind: type[nn.Module]) -> str:
    return f"{'unrolled' if kind in THEIRS else 'torch.nn'}.{kind.__name__}"
