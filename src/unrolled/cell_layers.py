"""One step as a module: RNNCell, LSTMCell and GRUCell, torch.nn's in all they take, say and answer, on the compiled kernels.

For loops over time that are one's own; what a step computes is in `unrolled.cells`. Each is torch.nn's class with another
`forward`: where the kernels cannot have a step, or something is wrong with it, torch.nn computes it, or refuses it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.cells import Weights, gru_step, lstm_cell, lstm_step, rnn_tanh_step
from unrolled.kernels import cell, context

_MODES = {"tanh": "RNN_TANH", "relu": "RNN_RELU"}


def _step(module: Any, mode: str, input: Any, h: Any, c: Any = None) -> tuple[Tensor, Tensor | None] | None:
    """(h, c) after the step, from None for zeros; None for the whole where torch.nn has to do it."""
    own = module._parameters  # a third of the time of nn.Module's search; weights that are computed are not in it
    try:
        weights = own["weight_ih"], own["weight_hh"], own["bias_ih"], own["bias_hh"]
    except KeyError:
        return None
    if not isinstance(input, Tensor) or (h is not None and not (isinstance(h, Tensor) and h.dim() == input.dim())):
        return None
    if c is not None and not (isinstance(c, Tensor) and c.dim() == input.dim()):
        return None
    if input.dim() != 1:
        return cell.step(mode, input, h, c, weights)
    x, h, c = (None if part is None else part.unsqueeze(0) for part in (input, h, c))
    done = cell.step(mode, x, h, c, weights)  # type: ignore[arg-type]  # input is not None, so neither is x
    return None if done is None else (done[0].squeeze(0), None if done[1] is None else done[1].squeeze(0))


def _whole(module: nn.Module, input: Any, hx: Any) -> Any:
    """The module as one call in the graph of a tracer of torch.fx, which takes torch.nn's modules so too."""
    return input.tracer.create_proxy("call_module", input.tracer.path_of_module(module), (input, hx), {})


def _as(kind: type[nn.Module], module: nn.Module) -> Any:
    """torch.nn's module with the very parameters of this one."""
    theirs = copy.copy(module)
    theirs.__class__ = kind
    return theirs


class LSTMCell(nn.LSTMCell):
    """One step of the LSTM (Hochreiter and Schmidhuber 1997); equations in `unrolled.cells.lstm_cell`.

    Arguments, parameters, states and errors are those of `torch.nn.LSTMCell`: input (B, I) or (I,), hx a pair (h, c) of (B, H)
    or (H,), zeros if left out; returns the pair after the step.

    >>> import torch, unrolled
    >>> cell, state = unrolled.LSTMCell(3, 4), None
    >>> for x_t in torch.randn(5, 2, 3):  # 5 steps of a batch of 2
    ...     state = cell(x_t, state)
    >>> state[0].shape
    torch.Size([2, 4])
    """

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The state (h, c) after the step."""
        if isinstance(input, torch.fx.Proxy):
            return _whole(self, input, hx)
        done = None
        if hx is None or (isinstance(hx, tuple) and len(hx) == 2):
            done = _step(self, "LSTM", input, *(hx or (None, None)))
        if done is None and hx is not None and not context.compiling() and context.transformed():
            weights = Weights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
            return lstm_cell(input, *hx, weights)  # torch.vmap has no rule for torch.nn's
        return super().forward(input, hx) if done is None else done  # type: ignore[return-value]  # of the LSTM there is a c

    def __prepare_scriptable__(self) -> nn.Module:
        return _as(nn.LSTMCell, self)


class GRUCell(nn.GRUCell):
    """One step of the GRU (Cho et al. 2014); equations in `unrolled.cells.gru_cell`.

    Arguments, parameters, states and errors are those of `torch.nn.GRUCell`: input (B, I) or (I,), hx (B, H) or (H,), zeros if
    left out; returns h after the step.

    >>> import torch, unrolled
    >>> unrolled.GRUCell(3, 4)(torch.randn(2, 3)).shape
    torch.Size([2, 4])
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """h after the step."""
        if isinstance(input, torch.fx.Proxy):
            return _whole(self, input, hx)
        done = _step(self, "GRU", input, hx)
        return super().forward(input, hx) if done is None else done[0]

    def __prepare_scriptable__(self) -> nn.Module:
        return _as(nn.GRUCell, self)


class RNNCell(nn.RNNCell):
    """One step of the vanilla RNN (Elman 1990); equations in `unrolled.cells.rnn_tanh_cell`.

    Arguments, parameters, states and errors are those of `torch.nn.RNNCell`; `nonlinearity` is `"tanh"` or `"relu"`. Takes
    and returns what `GRUCell` does.

    >>> import torch, unrolled
    >>> unrolled.RNNCell(3, 4, nonlinearity="relu")(torch.randn(3)).shape
    torch.Size([4])
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """h after the step."""
        if isinstance(input, torch.fx.Proxy):
            return _whole(self, input, hx)
        mode = _MODES.get(self.nonlinearity)
        if mode is None:
            return super().forward(input, hx)
        if torch.is_grad_enabled() and isinstance(input, Tensor) and self._is_small_for(input):
            if isinstance(hx, Tensor) and input.dim() == hx.dim() == 2:  # what is asked of them is asked by the operator too
                step = torch.rnn_tanh_cell if self.nonlinearity == "tanh" else torch.rnn_relu_cell
                return step(input, hx, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)  # type: ignore[arg-type]  # may be None
            return super().forward(input, hx)
        done = _step(self, mode, input, hx)
        return super().forward(input, hx) if done is None else done[0]

    def _is_small_for(self, input: Tensor) -> bool:
        """Whether the gradients of the weights are too small a part of a step for the kernels to pay: torch.nn's step took 0.83
        to 0.99 of their time with these sizes, and 1.08 to 3.3 times it with others.
        """
        batch = input.shape[0] if input.dim() > 1 else 1
        return self.hidden_size < 256 or 8 * batch > self.hidden_size

    def __prepare_scriptable__(self) -> nn.Module:
        return _as(nn.RNNCell, self)


# A whole model that holds them is then read by torch.load with weights_only=True, as one of torch.nn's is.
torch.serialization.add_safe_globals([LSTMCell, GRUCell, RNNCell])


class ProjectedStep(nn.Module):
    """One step of a cell whose input has been projected for the whole sequence, with weights that belong to somebody else.

    A module, though it has nothing of its own: what passes through one can be watched (`unrolled.inspection.gradient_flow`).

    >>> import torch, unrolled
    >>> lstm, state = unrolled.LSTM(3, 4), (torch.zeros(2, 4), torch.zeros(2, 4))
    >>> w_ih, w_hh, b_ih, b_hh = lstm.all_weights[0]
    >>> for x_gates in torch.randn(5, 2, 3) @ w_ih.T + b_ih:
    ...     state = ProjectedStep("lstm")(x_gates, state, w_hh, b_hh)
    >>> state[0].shape
    torch.Size([2, 4])
    """

    def __init__(self, cell: str) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x_gates: Tensor, state: tuple[Tensor, ...], w_hh: Tensor, b_hh: Tensor) -> tuple[Tensor, ...]:
        """x_gates (B, G*H) and the state, (h,) or (h, c), each (B, H) -> the state after the step."""
        if self.cell == "lstm":
            h, c = state
            return lstm_step(x_gates, h, c, w_hh, b_hh)
        (h,) = state
        step = {"rnn": rnn_tanh_step, "gru": gru_step}[self.cell]
        return (step(x_gates, h, w_hh, b_hh),)
