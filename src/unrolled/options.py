"""What a layer does to its states besides the cell: layer normalisation, recurrent dropout, zoneout, where a reset goes.

The equations are in `cells.py`. `Options` are a layer's settings, `StepOptions` is what one layer and direction does in one
call, its random masks drawn.
"""

from __future__ import annotations

import numbers
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from unrolled.cells import Norms


class StepOptions(NamedTuple):
    """What one layer and direction does in one call beyond its cell. Empty: nothing."""

    norms: Norms | None = None
    mask: Tensor | None = None
    """(B, H): recurrent dropout's factor of h_{t-1} on its way into W_hh, one for the whole sequence."""
    zoneout_h: Tensor | float = 0.0
    """Zoneout of h: masks (T, B, H), true where h_{t-1} is kept, or in evaluation the rate."""
    zoneout_c: Tensor | float = 0.0
    """Zoneout of the LSTM's c."""
    reset_to: tuple[Tensor | None, Tensor | None] = (None, None)
    """h and c (B, H) that a reset goes back to; None is zeros."""


NO_OPTIONS = StepOptions()


class Options(TypedDict, total=False):
    """What a layer can do beyond torch.nn's, off by default; keyword arguments of RNN, LSTM and GRU."""

    save: str
    """What is kept for backward: "gates", or "outputs", which is no more than h: gates are computed again."""
    forget_bias: float | None
    """LSTM: what b_ih + b_hh of the forget gate begin as (Jozefowicz, Zaremba and Sutskever 2015: 1). None draws them."""
    learned_state: bool
    """Whether sequences, also those that a reset begins, start from parameters `initial_h`, `initial_c` instead of zeros."""
    layer_norm: bool
    """Layer normalisation (Ba, Kiros and Hinton 2016): `unrolled.cells.layer_norm_lstm_cell` and alike."""
    recurrent_dropout: float
    """Rate of variational dropout of h_{t-1} in its product with W_hh (Gal and Ghahramani 2016): one mask per sequence."""
    zoneout: float
    """Rate at which units of h keep their last value (Krueger et al. 2017), `unrolled.cells.zoneout`."""
    zoneout_cell: float
    """LSTM: the same for c."""


DEFAULTS = Options(
    save="gates", forget_bias=None, learned_state=False, layer_norm=False, recurrent_dropout=0.0, zoneout=0.0, zoneout_cell=0.0
)
CHANGE_STEPS = ("layer_norm", "recurrent_dropout", "zoneout", "zoneout_cell")


def check(mode: str, options: Options, bias: bool, proj_size: int) -> None:
    """Raise TypeError or ValueError for an option that is unknown, or that a layer of this mode cannot have."""
    name = mode.split("_")[0]
    if unknown := sorted(options.keys() - DEFAULTS.keys()):
        raise TypeError(f"{name} got an unexpected argument {unknown[0]!r}; its options are {', '.join(DEFAULTS)}.")
    given = {**DEFAULTS, **options}
    for option in ("layer_norm", "learned_state"):
        if not isinstance(given[option], bool):
            raise TypeError(f"{name} expected {option} of type bool, got {given[option]!r}.")
    for option in ("recurrent_dropout", "zoneout", "zoneout_cell"):
        rate = given[option]
        if not isinstance(rate, numbers.Real) or isinstance(rate, bool) or not 0 <= float(rate) < 1:
            raise ValueError(f"{name} expected {option} to be a probability from 0 to below 1, got {rate!r}.")
    if mode != "LSTM" and given["zoneout_cell"]:
        raise ValueError(f"{name} has no cell state: expected zoneout_cell=0, got {given['zoneout_cell']}. Use zoneout.")
    if given["forget_bias"] is not None:
        if mode != "LSTM":
            raise ValueError(f"{name} has no forget gate: expected forget_bias=None, got {given['forget_bias']}.")
        if not bias:
            raise ValueError(f"LSTM expected bias=True with forget_bias={given['forget_bias']}, got bias=False.")
    if given["save"] not in ("gates", "outputs"):
        raise ValueError(f"{name} expected save to be 'gates' or 'outputs', got {given['save']!r}.")
    if given["save"] == "outputs" and (others := [o for o in CHANGE_STEPS if given[o]] + ["proj_size"] * (proj_size > 0)):
        raise ValueError(f"{name} expected save='gates' with {others[0]}, got save='outputs', which is for the plain cells.")


def draw(rates: tuple[float, float, float], h: Tensor, c: Tensor | None, steps: int, training: bool) -> StepOptions:
    """The masks of one call for states like h and c (B, H), from torch's random numbers.

    `rates` are those of recurrent dropout, zoneout, and zoneout of c. Recurrent dropout scales what it keeps by
    1 / (1 - rate); in evaluation there are no masks, and zoneout takes its expectation.
    """
    dropped, mask = rates[0], None
    if dropped and training:
        mask = torch.empty_like(h, requires_grad=False).bernoulli_(1 - dropped).div_(1 - dropped)

    def stay(rate: float, like: Tensor | None) -> Tensor | float:
        if not rate or like is None or not training:
            return rate
        return torch.empty(steps, *like.shape, dtype=torch.bool, device=like.device).bernoulli_(rate)

    return StepOptions(None, mask, stay(rates[1], h), stay(rates[2], c))
