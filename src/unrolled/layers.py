"""Whole sequences: RNN, LSTM and GRU, drop-in for torch.nn's, and able to take lengths, resets and single steps.

A call is checked by `recurrence.arguments`, and computed by whom `recurrence.plan` chooses. State comes in and goes out; a
layer remembers nothing between calls.
"""

from __future__ import annotations

import math
import numbers
import warnings
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from unrolled.cells import MODES, Weights
from unrolled.kernels import context, cudnn_weights
from unrolled.options import CHANGE_STEPS, DEFAULTS, Options, check
from unrolled.recurrence import arguments, one_step, plan
from unrolled.recurrence.arguments import LayerWeights
from unrolled.recurrence.hooks import any_hooks, run_pre_hooks


class State(NamedTuple):
    """The state of one layer and direction: h (B, H or proj_size), and for the LSTM c (B, H)."""

    h: Tensor
    c: Tensor | None = None


class Recurrent(nn.Module):
    """What RNN, LSTM and GRU share; use those. Parameter names, shapes and initialisation are torch.nn.RNNBase's.

    Args:
        input_size: I, the width of x_t; for token ids without an embedding, how many there are.
        hidden_size: H, the width of h_t.
        num_layers: L, layers on top of each other; each reads the outputs of the one below.
        bias: whether there are b_ih and b_hh.
        batch_first: whether input and output are (B, T, ...) instead of (T, B, ...). The state is (L*D, B, H) either way.
        dropout: probability of dropping a unit of the output of every layer but the last, in training.
        bidirectional: whether a second set of weights reads backwards; outputs of both stand side by side, (T, B, 2H).
        proj_size: P > 0 projects h_t to width P (LSTM only); 0 does not.
        device: where the parameters are made.
        dtype: their type; torch's default when left out.
        options: what torch.nn's layers lack, see `unrolled.options.Options`. Off, the layer is torch.nn's.

    Raises:
        TypeError: a size that is not a whole number, an unknown option.
        ValueError: a size below 1, a dropout outside [0, 1], a proj_size of hidden_size or more, an option that this cell
            cannot have.
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__()
        _check_sizes(mode, input_size, hidden_size, num_layers, bias, batch_first, dropout, proj_size)
        check(mode, options, bias, proj_size)
        self.mode, self.input_size, self.hidden_size = mode, input_size, hidden_size
        self.num_layers, self.bias, self.batch_first = num_layers, bias, batch_first
        self.dropout, self.bidirectional, self.proj_size = float(dropout), bidirectional, proj_size
        self.save: str
        self.forget_bias: float | None
        self.layer_norm: bool
        self.learned_state: bool
        self.recurrent_dropout: float
        self.zoneout: float
        self.zoneout_cell: float
        vars(self).update({**DEFAULTS, **options})
        output_size = proj_size or hidden_size
        gates = MODES[mode].gates * hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else output_size * self.num_directions
            shapes = {"weight_ih": (gates, width), "weight_hh": (gates, output_size)}
            if bias:
                shapes |= {"bias_ih": (gates,), "bias_hh": (gates,)}
            if proj_size:
                shapes["weight_hr"] = (proj_size, hidden_size)
            if self.layer_norm:
                shapes |= {"gain_ih": (gates,), "gain_hh": (gates,)}
                shapes |= {"gain_c": (hidden_size,), "bias_c": (hidden_size,)} if mode == "LSTM" else {}
            for suffix in self._suffixes(layer):
                for name, shape in shapes.items():
                    setattr(self, name + suffix, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        if self.learned_state:
            for name, width in zip(("initial_h", "initial_c"), (output_size, hidden_size)[: MODES[mode].states], strict=False):
                shape = (num_layers * self.num_directions, width)
                setattr(self, name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        biases = ("bias_ih", "bias_hh") if bias else (None, None)
        names = ("weight_ih", "weight_hh", *biases, "weight_hr" if proj_size else None)
        suffixes = [suffix for layer in range(num_layers) for suffix in self._suffixes(layer)]
        self._weight_names = [[name and name + suffix for name in names] for suffix in suffixes]
        self._flat_names = [name for names in self._weight_names for name in names[:4] if name]
        self.reset_parameters()
        self.flatten_parameters()

    @property
    def num_directions(self) -> int:
        """D: 2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The parameters of each layer and direction, in torch.nn's order."""
        return [[getattr(self, name) for name in names if name] for names in self._weight_names]

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/sqrt(H), 1/sqrt(H)), as torch.nn does.

        Of the options': gains are 1, the bias of c's normalisation and learned states 0, and `forget_bias` is b_ih's.
        """
        bound = 1 / math.sqrt(self.hidden_size)
        for name, parameter in self.named_parameters():
            if name.startswith("gain"):
                nn.init.ones_(parameter)
            elif name.startswith(("bias_c", "initial")):
                nn.init.zeros_(parameter)
            else:
                nn.init.uniform_(parameter, -bound, bound)
            if self.forget_bias is not None and name.startswith(("bias_ih", "bias_hh")):
                value = self.forget_bias if name.startswith("bias_ih") else 0.0
                nn.init.constant_(parameter[self.hidden_size : 2 * self.hidden_size], value)

    def flatten_parameters(self) -> None:
        """On CUDA, lay the weights out in one piece, as cuDNN reads them; they would be copied at every call.

        Making, moving, copying and unpickling the layer do this by themselves. Elsewhere there is nothing to do.
        """
        weights = list(self.parameters())
        if len({w.data_ptr() for w in weights}) == len(weights):  # else some are shared: leave them where they are
            cudnn_weights.flatten(self.mode, self.all_weights, self.bidirectional)

    def _apply(self, fn: Any, recurse: bool = True) -> Recurrent:
        super()._apply(fn, recurse)
        self.flatten_parameters()
        return self

    def extra_repr(self) -> str:
        unlike_default = {
            "proj_size": self.proj_size != 0,
            "num_layers": self.num_layers != 1,
            "bias": not self.bias,
            "batch_first": self.batch_first,
            "dropout": self.dropout != 0,
            "bidirectional": self.bidirectional,
            **{name: getattr(self, name) != default for name, default in DEFAULTS.items()},
        }
        shown = [f"{name}={getattr(self, name)}" for name, differs in unlike_default.items() if differs]
        return ", ".join([str(self.input_size), str(self.hidden_size), *shown])

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        embedding: Tensor | None = None,
        gradient_norms: Tensor | None = None,
    ) -> tuple[Any, Any]:
        """Run the whole sequence; return `(output, state)` as torch.nn does.

        Args:
            input: (T, B, I), or (B, T, I) with `batch_first`, or (T, I) unbatched, or a `PackedSequence`. Integers of one
                axis fewer are token ids: rows of `embedding`, or, without one, one-hot vectors of width I.
            hx: the state before the first step, (L*D, B, H); for the LSTM a pair of such; when left out, zeros, or with
                `learned_state` the parameters.
            lengths: (B,) integers from 0 to T, in any order: sequence b ends after `lengths[b]` steps. Its output is zero
                from there on and its final state is that of its own last step. Takes the place of packing.
            resets: booleans laid out as the input's first two axes, (T, B), or (B, T) with `batch_first`: where true, the
                state, and the gradient through it, is cut to zero just before that step (in the order in which a direction
                reads); with `learned_state`, cut and put to the parameters, whatever `hx` was. For episodes or documents laid
                end to end.
            embedding: (V, I), the table that token ids are rows of. Gives what embedding them first gives, faster.
            gradient_norms: a float32 tensor (L*D, 2, T, B) that `backward()` fills with ||dL/dh_t|| and ||dL/dc_t|| of
                every sequence (the latter zero but for the LSTM): all the gradient that arrives there, from this step's
                loss, the layer above and step t+1. Where it falls off going back, gradients vanish.

        Until backward the output may be written to in place (`relu_`), as backward then computes it again; what is written
        past PyTorch, through `.data` or NumPy, it cannot see, and the gradients would be of those numbers.

        Backward multiplies with the weights of the call. Others put in their place since (`p.data = other`) change nothing, and
        writing to them in place is refused; what is written into their memory past PyTorch (`p.data.copy_`, NumPy) is taken for
        them, as by torch.nn.

        Raises:
            RuntimeError: a width, state or number of axes that does not fit (ValueError for an input that is neither
                2-D nor 3-D, or of another dtype than the weights), as torch.nn raises.
            ValueError: lengths, resets, embedding or gradient_norms of a wrong shape, dtype or range.
            TypeError: an input that is no tensor.

        >>> import torch, unrolled
        >>> output, h_n = unrolled.GRU(3, 4)(torch.randn(5, 2, 3), lengths=torch.tensor([5, 2]))
        >>> bool((output[1, 1] == h_n[0, 1]).all())  # the second sequence ends after its 2 steps
        True
        """
        if isinstance(input, torch.fx.Proxy):  # a tracer of torch.fx takes the layer whole, as it takes torch.nn's
            given = {"lengths": lengths, "resets": resets, "embedding": embedding, "gradient_norms": gradient_norms}
            named = {name: value for name, value in given.items() if value is not None}
            tracer: Any = input.tracer
            whole: Any = tracer.create_proxy("call_module", tracer.path_of_module(self), (input, hx), named)
            return whole
        if isinstance(input, PackedSequence):
            if any(extra is not None for extra in (lengths, resets, embedding, gradient_norms)):
                raise ValueError(
                    f"{type(self).__name__} takes lengths, resets, embedding and gradient_norms with a padded tensor, "
                    "got one of them with a PackedSequence. Unpack it with torch.nn.utils.rnn.pad_packed_sequence."
                )
            call = arguments.unpacked(self, input, hx)
            result = plan.compute(call)
            output, state = arguments.packed_again(input, call, result.output, result.state)
            return output, state[0] if self.mode != "LSTM" else state
        call, batched = arguments.checked(self, input, hx, lengths, resets, embedding, gradient_norms)
        output, state, _ = plan.compute(call)
        if not batched:
            output, state = output.squeeze(1), tuple(part.squeeze(1) for part in state)
        elif self.batch_first:
            output = output.transpose(0, 1)
        return output, state if self.mode == "LSTM" else state[0]

    def states(
        self,
        input: Tensor,
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        embedding: Tensor | None = None,
    ) -> list[State]:
        """Every step's h and c: one `State` per layer and direction, of tensors (T, B, H), or (B, T, H) with `batch_first`.

        Takes what calling the layer takes. For looking inside: which unit does what, and where attention could point.
        The layer's forward pre-hooks run first, as in a call, so that the weights that weight_norm, spectral_norm and pruning
        compute are those of now; hooks that read what `forward` returns do not, as nothing of that shape is returned.

        >>> import torch, unrolled
        >>> layer_0, layer_1 = unrolled.LSTM(3, 4, num_layers=2).states(torch.randn(5, 2, 3))
        >>> layer_1.h.shape, layer_1.c.shape
        (torch.Size([5, 2, 4]), torch.Size([5, 2, 4]))
        """
        masks = {"lengths": lengths, "resets": resets, "embedding": embedding}
        (input, hx), masks = run_pre_hooks(self, (input, hx), masks)
        call, batched = arguments.checked(self, input, hx, **masks, every_step=True)

        def laid_out(part: Tensor) -> Tensor:
            if not batched:
                return part.squeeze(1)
            return part.transpose(0, 1) if self.batch_first else part

        done = plan.compute(call).layers
        return [State(laid_out(one.output), None if one.cs is None else laid_out(one.cs)) for one in done]

    def step(self, x_t: Tensor, state: Any = None, *, embedding: Tensor | None = None) -> tuple[Tensor, Any]:
        """One time step, for streaming: x_t (B, I) or (I,) -> `(h_t, state)`, h_t being the last layer's output (B, H).

        Token ids (B,) or () are rows of `embedding`, or one-hot vectors, as in `forward`.

        Feed the state back in with the next x_t; `None` starts from zeros. Steps give what `forward` gives on the sequence.

        Weights are always those of now, however they were written to (in place, through `.data` or NumPy, in a flat vector
        that they are views of, by another process that shares them): no copy of them is kept. The layer's hooks run as in a
        call with a sequence of one step, which is what a step of a layer with hooks is.

        Raises:
            RuntimeError: the layer is bidirectional: its second direction begins at the end, which a stream has not; or
                it is in training with recurrent dropout.
            TypeError: an x_t that is no tensor.

        >>> import torch, unrolled
        >>> gru, state = unrolled.GRU(3, 4), None
        >>> for x_t in torch.randn(5, 2, 3):  # 5 steps of a batch of 2
        ...     h_t, state = gru.step(x_t, state)
        >>> h_t.shape
        torch.Size([2, 4])
        """
        if not isinstance(x_t, Tensor):
            raise arguments.no_tensor(self, "x_t", x_t)
        alone = embedding is None and not torch.is_grad_enabled() and not any_hooks(self)
        if alone and (done := one_step.step(self, x_t, state)) is not None:
            return done
        if self.training and self.recurrent_dropout:
            raise RuntimeError(
                f"{type(self).__name__}.step expected evaluation mode, got recurrent_dropout={self.recurrent_dropout} "
                "in training, whose mask is one for a whole sequence. Call the layer on the sequence, or eval() first."
            )
        if self.bidirectional:
            raise RuntimeError(
                f"{type(self).__name__}.step expected a layer of one direction, got bidirectional=True, whose second direction "
                "starts at the end of the sequence. Collect the sequence and call the layer on it."
            )
        tokens = x_t.dtype in context.INTEGERS
        batched = x_t.dim() == (1 if tokens else 2)
        time = 1 if batched and self.batch_first else 0
        output, state = self(x_t.unsqueeze(time), state, embedding=embedding)
        return output.squeeze(time), state

    @property
    def step_option(self) -> str:
        """The first option that makes steps, or where they start, other than torch.nn's; empty if there is none."""
        for name in ("learned_state", *CHANGE_STEPS):
            if getattr(self, name):
                return name
        return ""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.flatten_parameters()

    def layer_weights(self) -> tuple[LayerWeights, ...]:
        """The parameters of each layer and direction, by what they are for."""
        return tuple(
            LayerWeights(Weights(*map(self._weight, names[:4])), self._weight(names[4])) for names in self._weight_names
        )

    def norm_weights(self, k: int) -> list[Tensor]:
        """Layer normalisation of layer and direction k: gains of W_ih x and of W_hh h, the LSTM's gain and bias of c."""
        suffix = self._suffixes(k // self.num_directions)[k % self.num_directions]
        names = ("gain_ih", "gain_hh", "gain_c", "bias_c")[: 4 if self.mode == "LSTM" else 2]
        return [getattr(self, name + suffix) for name in names]

    def learned(self) -> list[Tensor]:
        """With `learned_state`: initial_h, and the LSTM's initial_c, (L*D, H)."""
        return [getattr(self, name) for name in ("initial_h", "initial_c")[: MODES[self.mode].states]]

    def _weight(self, name: str | None) -> Any:
        if name is None:
            return None
        found = self._parameters.get(name)  # a third of the time of nn.Module's search, which reparametrized ones need
        return getattr(self, name) if found is None else found

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self.num_directions]


class RNN(Recurrent):
    """The vanilla RNN over a sequence, h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh) (Elman 1990).

    Takes the arguments of `torch.nn.RNN` in its order; `nonlinearity` is `"tanh"` or `"relu"`. See `Recurrent.forward`.

    >>> import torch, unrolled
    >>> output, h_n = unrolled.RNN(3, 4)(torch.randn(5, 2, 3))
    >>> output.shape, h_n.shape
    (torch.Size([5, 2, 4]), torch.Size([1, 2, 4]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        sizes = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__(_rnn_mode(nonlinearity), *sizes, device=device, dtype=dtype, **options)

    @property
    def nonlinearity(self) -> str:
        """ "tanh" or "relu". Setting it is seen by the next call."""
        return self.mode.removeprefix("RNN_").lower()

    @nonlinearity.setter
    def nonlinearity(self, name: str) -> None:
        self.mode = _rnn_mode(name)


class LSTM(Recurrent):
    """The LSTM over a sequence (Hochreiter and Schmidhuber 1997); equations in `unrolled.cells.lstm_cell`.

    Takes the arguments of `torch.nn.LSTM` in its order. With `proj_size` P the output is W_hr h_t (Sak et al. 2014).

    >>> import torch, unrolled
    >>> lstm = unrolled.LSTM(3, 4, num_layers=2, bidirectional=True)
    >>> output, (h_n, c_n) = lstm(torch.randn(5, 2, 3), lengths=torch.tensor([5, 2]))
    >>> output.shape, h_n.shape, bool((output[2:, 1] == 0).all())
    (torch.Size([5, 2, 8]), torch.Size([4, 2, 4]), True)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        sizes = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        super().__init__("LSTM", *sizes, device, dtype, **options)


class GRU(Recurrent):
    """The GRU over a sequence (Cho et al. 2014); equations in `unrolled.cells.gru_cell`.

    Takes the arguments of `torch.nn.GRU` in its order.

    >>> import torch, unrolled
    >>> gru = unrolled.GRU(3, 4, batch_first=True)
    >>> gru(torch.randn(2, 5, 3))[0].shape
    torch.Size([2, 5, 4])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        sizes = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__("GRU", *sizes, device=device, dtype=dtype, **options)


def _rnn_mode(nonlinearity: str) -> str:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"RNN expected nonlinearity 'tanh' or 'relu', got {nonlinearity!r}.")
    return f"RNN_{nonlinearity.upper()}"


def _check_sizes(
    mode: str,
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bias: bool,
    batch_first: bool,
    dropout: float,
    proj_size: int,
) -> None:
    """Refuse what torch.nn refuses, with the same types of error."""
    name = mode.split("_")[0]
    for label, value in {"bias": bias, "batch_first": batch_first}.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name}: {label} should be of type bool, got: {type(value).__name__}")
    for label, value in {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name}: {label} should be of type int, got: {type(value).__name__}")
        if value <= 0:
            raise ValueError(f"{name}: {label} must be greater than zero, got {value}.")
    if not isinstance(dropout, numbers.Number) or isinstance(dropout, bool) or not 0 <= dropout <= 1:  # type: ignore[operator]
        raise ValueError(
            f"{name}: dropout should be a number in range [0, 1] representing the probability of an element being zeroed, "
            f"got {dropout!r}."
        )
    if proj_size and mode != "LSTM":
        raise ValueError(f"{name}: proj_size argument is only supported for LSTM, not RNN or GRU")
    if proj_size < 0:
        raise ValueError(f"{name}: proj_size should be a positive integer or zero to disable projections, got {proj_size}.")
    if proj_size >= hidden_size:
        raise ValueError(f"{name}: proj_size has to be smaller than hidden_size, got {proj_size} and {hidden_size}.")
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            f"{name}: dropout acts between layers, so dropout={dropout} does nothing with num_layers=1.", stacklevel=4
        )


LAYERS = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
"""By the names that the settings of the tasks have for them."""
