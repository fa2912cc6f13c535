"""Hooks of a layer, for what computes without calling it: `step`, `states` and exporting."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules import module as of_all


def any_hooks(layer: nn.Module) -> bool:
    """Whether calling the layer runs more than its `forward`."""
    if layer._forward_pre_hooks or layer._forward_hooks or layer._backward_pre_hooks or layer._backward_hooks:
        return True
    return bool(of_all._has_any_global_hook())


def run_pre_hooks(layer: nn.Module, args: tuple = (), kwargs: dict[str, Any] | None = None) -> tuple[tuple, dict[str, Any]]:
    """Run the forward pre-hooks as calling the layer does; return the arguments that they leave.

    weight_norm, spectral_norm and pruning of `torch.nn.utils` are such hooks: each puts the weights of now in their place.
    """
    kwargs = kwargs or {}
    for key, hook in (*of_all._global_forward_pre_hooks.items(), *layer._forward_pre_hooks.items()):
        if key in layer._forward_pre_hooks_with_kwargs:
            changed = hook(layer, args, kwargs)  # type: ignore[call-arg]
            args, kwargs = (args, kwargs) if changed is None else changed
        elif (changed := hook(layer, args)) is not None:
            args = changed if isinstance(changed, tuple) else (changed,)
    return args, kwargs
