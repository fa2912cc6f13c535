"""A layer's call taken apart: each layer in each direction with what it read and the states it came to."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unrolled.cells import MODES, Weights
from unrolled.inspection.gradient_flow import places
from unrolled.kernels import context, definition
from unrolled.layers import Recurrent

GATES = {"RNN_TANH": ("h",), "RNN_RELU": ("h",), "LSTM": ("i", "f", "g", "o"), "GRU": ("r", "z", "n")}
"""The blocks of W_hh, in its order; the vanilla RNN has one."""


class Inside(NamedTuple):
    """One layer in one direction, in the order in which it reads, in float64."""

    place: str
    """`l0`, `l1_reverse`, ..."""
    mode: str
    w: Weights
    w_hr: Tensor | None
    """(P, H): the LSTM's projection."""
    x_gates: Tensor
    """W_ih x_t + b_ih of every step, (T, B, G*H)."""
    h: Tensor
    """Before the first step and after each, (T + 1, B, H or P)."""
    c: Tensor | None
    """The LSTM's, (T + 1, B, H)."""


@torch.no_grad()
def take_apart(
    layer: Recurrent,
    input: Tensor,
    hx: Any = None,
    *,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    embedding: Tensor | None = None,
    most: int = 4,
) -> list[Inside]:
    """The `most` longest sequences of a call, as many steps of them as the shortest of these has.

    `resets` are passed over: the question is what the weights do to a state where nothing cuts it.

    Raises:
        ValueError: the layer has an option that changes its steps, such as layer normalisation.
    """
    if option := layer.step_option.replace("learned_state", ""):
        raise ValueError(f"take_apart expected a layer with torch.nn's steps, got one with {option}.")
    x = input.transpose(0, 1) if layer.batch_first else input
    steps, batch = x.shape[:2]
    lengths = torch.full((batch,), steps) if lengths is None else torch.as_tensor(lengths).cpu()
    chosen = lengths.argsort(descending=True, stable=True)[:most]
    x = x[: int(lengths[chosen].min()), chosen.to(x.device)]
    if hx is None and layer.learned_state:
        hx = tuple(part.unsqueeze(1).expand(-1, batch, -1) for part in layer.learned())
    given = [None, None] if hx is None else [*(hx if isinstance(hx, (tuple, list)) else (hx,)), None]
    found: list[Inside] = []
    below: list[Tensor] = []
    for row, place in enumerate(places(layer)):
        reverse = place.endswith("_reverse")
        if row % layer.num_directions == 0:
            x = torch.cat(below, -1) if below else x  # (T, B, D*H)
            below = []
        w, w_hr = layer.layer_weights()[row]
        w, w_hr = Weights(*(None if t is None else t.double() for t in w)), None if w_hr is None else w_hr.double()  # type: ignore[arg-type]  # biases may be None
        read = x.long() if x.dtype in context.INTEGERS else x.double()
        table = None if embedding is None or row >= layer.num_directions else embedding.double()
        gates = definition.input_gates(layer.mode, read, w, None, table, None)
        gates = gates.flip(0) if reverse else gates
        width = w.w_hh.shape[0] // MODES[layer.mode].gates
        starts = [None if part is None else part[row, chosen.to(part.device)].double() for part in given[:2]]
        h = gates.new_zeros(len(chosen), w.w_hh.shape[1]) if starts[0] is None else starts[0]
        c = (gates.new_zeros(len(chosen), width) if starts[1] is None else starts[1]) if layer.mode == "LSTM" else None
        output, cs, _, _ = definition.run_gates(layer.mode, gates, h, c, w.w_hh, w.b_hh, w_hr)
        below.append(output.flip(0) if reverse else output)
        states = torch.cat([h.unsqueeze(0), output])
        found.append(
            Inside(
                place, layer.mode, w, w_hr, gates, states, None if cs is None or c is None else torch.cat([c.unsqueeze(0), cs])
            )
        )
    return found


def spectral_radii(one: Inside) -> dict[str, float]:
    """The largest |eigenvalue| of W_hh, by gate: of W_hg alone where there are several.

    >>> import torch, unrolled
    >>> rnn = unrolled.RNN(1, 2)
    >>> _ = rnn.weight_hh_l0.data.copy_(0.5 * torch.eye(2))
    >>> spectral_radii(take_apart(rnn, torch.zeros(3, 1, 1))[0])
    {'h': 0.5}
    """
    blocks = one.w.w_hh.chunk(len(GATES[one.mode]))
    square = [block if one.w_hr is None else block @ one.w_hr for block in blocks]
    return {
        gate: float(torch.linalg.eigvals(block.detach()).abs().max())
        for gate, block in zip(GATES[one.mode], square, strict=True)
    }


def saturation(one: Inside) -> dict[str, dict[str, float]]:
    """How often each gate is nearly shut (below 0.1) or nearly open (above 0.9), over all units and steps (Karpathy, Johnson
    and Li 2015, figure 3); of a tanh, how often it is beyond 0.9 either way; of a ReLU, how often it is 0.
    """
    before = one.h[:-1]  # (T, B, H)
    from_h = before @ one.w.w_hh.t() + (0 if one.w.b_hh is None else one.w.b_hh)
    x, h = one.x_gates.chunk(len(GATES[one.mode]), -1), from_h.chunk(len(GATES[one.mode]), -1)
    if one.mode == "RNN_RELU":
        return {"h": {"off": _share(one.h[1:] == 0)}}
    if one.mode == "RNN_TANH":
        return {"h": {"saturated": _share(one.h[1:].abs() > 0.9)}}
    if one.mode == "GRU":
        r, z = torch.sigmoid(x[0] + h[0]), torch.sigmoid(x[1] + h[1])
        gates, candidates = {"r": r, "z": z}, {"n": torch.tanh(x[2] + r * h[2])}
    else:
        i, f, g, o = (a + b for a, b in zip(x, h, strict=True))
        gates, candidates = {"i": i.sigmoid(), "f": f.sigmoid(), "o": o.sigmoid()}, {"g": g.tanh()}
    of_gates = {name: {"shut": _share(gate < 0.1), "open": _share(gate > 0.9)} for name, gate in gates.items()}
    return of_gates | {name: {"saturated": _share(value.abs() > 0.9)} for name, value in candidates.items()}


def _share(where: Tensor) -> float:
    return float(where.double().mean())
