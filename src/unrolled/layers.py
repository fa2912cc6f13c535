"""Whole sequences: RNN, LSTM and GRU, drop-in for torch.nn's, and able to take lengths, resets and single steps.

`recurrence` at the end of the file is the one place that picks how a sequence is computed. State comes in and goes out;
a layer remembers nothing between calls.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear, one_hot
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_map

from unrolled import kernels
from unrolled.cells import Norm, Norms, Weights, norm_widths, normalised
from unrolled.kernels import fused, native, plain, stream
from unrolled.kernels import regularised as compiled_steps
from unrolled.kernels.linear import linear as compiled_linear
from unrolled.kernels.stream import Streamer
from unrolled.regularised import CHANGE_STEPS, DEFAULTS, NOTHING, Options, Regularised, check, draw

STREAMING_ROWS = 64  # up to this batch a step runs on the streaming engine: 3 to 12 times faster at B = 4, alike at 64, H = 512
# A whole call of one step runs there too up to these sizes: 1.2 to 4.2 times faster; beyond, two threads make up for more than
# the engine saves. With one thread it is 1.1 to 1.5 times faster at four times the weights.
ONE_STEP_WEIGHTS, ONE_STEP_PRODUCTS = 2**20, 2**21
GATES = plain.GATES


class State(NamedTuple):
    """The state of one layer and direction: h (B, H or proj_size), and for the LSTM c (B, H)."""

    h: Tensor
    c: Tensor | None = None


class Unrolled(NamedTuple):
    """One layer and direction over a whole sequence."""

    output: Tensor
    """h of every step, (T, B, H or proj_size), zero behind a sequence's end."""
    last: State
    cells: Tensor | None = None
    """The LSTM's c of every step, (T, B, H), where the way it was computed knows it."""


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
        options: what torch.nn's layers lack, see `unrolled.regularised.Options`. Off, the layer is torch.nn's.

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
        self._streamer: Streamer | None = None
        output_size = proj_size or hidden_size
        gates = GATES[mode] * hidden_size
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
            for name, width in zip(("initial_h", "initial_c"), self._widths, strict=False):
                shape = (num_layers * self.num_directions, width)
                setattr(self, name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()
        self.flatten_parameters()

    @property
    def num_directions(self) -> int:
        """D: 2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The parameters of each layer and direction, in torch.nn's order."""
        names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if self.bias else [])]
        names += ["weight_hr"] if self.proj_size else []
        return [
            [getattr(self, name + suffix) for name in names]
            for layer in range(self.num_layers)
            for suffix in self._suffixes(layer)
        ]

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
            fused.in_one_piece(self.mode, self.all_weights, self.bidirectional)

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
        if isinstance(input, PackedSequence):
            if any(extra is not None for extra in (lengths, resets, embedding, gradient_norms)):
                raise ValueError(
                    f"{self._name} takes lengths, resets, embedding and gradient_norms with a padded tensor, "
                    "got one of them with a PackedSequence. Unpack it with torch.nn.utils.rnn.pad_packed_sequence."
                )
            return self._forward_packed(input, hx)
        if not isinstance(input, Tensor):
            raise self._no_tensor("input", input)
        plain = lengths is None and resets is None and embedding is None and gradient_norms is None
        if plain and not torch.is_grad_enabled():
            done = self._one_step(input, hx)
            if done is None:
                done = self._straight_away(input, hx)
            if done is not None:
                return done
        output, unrolled, batched = self._run(input, hx, lengths, resets, embedding, gradient_norms)
        state = [one.last for one in unrolled]
        if not batched:
            return output.squeeze(1), self._join([State(*(s.squeeze(0) for s in one if s is not None)) for one in state])
        return output.transpose(0, 1) if self.batch_first else output, self._join(state)

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

        >>> import torch, unrolled
        >>> layer_0, layer_1 = unrolled.LSTM(3, 4, num_layers=2).states(torch.randn(5, 2, 3))
        >>> layer_1.h.shape, layer_1.c.shape
        (torch.Size([5, 2, 4]), torch.Size([5, 2, 4]))
        """
        if not isinstance(input, Tensor):
            raise self._no_tensor("input", input)
        _, unrolled, batched = self._run(input, hx, lengths, resets, embedding, None, every_step=True)

        def laid_out(part: Tensor) -> Tensor:
            if not batched:
                return part.squeeze(1)
            return part.transpose(0, 1) if self.batch_first else part

        return [State(laid_out(one.output), None if one.cells is None else laid_out(one.cells)) for one in unrolled]

    def step(self, x_t: Tensor, state: Any = None, *, embedding: Tensor | None = None) -> tuple[Tensor, Any]:
        """One time step, for streaming: x_t (B, I) or (I,) -> `(h_t, state)`, h_t being the last layer's output (B, H).

        Token ids (B,) or () are rows of `embedding`, or one-hot vectors, as in `forward`.

        Feed the state back in with the next x_t; `None` starts from zeros. Steps give what `forward` gives on the sequence.

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
            raise self._no_tensor("x_t", x_t)
        if embedding is None and not torch.is_grad_enabled() and (streamer := self._streaming(x_t)) is not None:
            return streamer.advance(x_t, state)
        if self.training and self.recurrent_dropout:
            raise RuntimeError(
                f"{self._name}.step expected evaluation mode, got recurrent_dropout={self.recurrent_dropout} in training, "
                "whose mask is one for a whole sequence. Call the layer on the sequence, or eval() first."
            )
        if self.bidirectional:
            raise RuntimeError(
                f"{self._name}.step expected a layer of one direction, got bidirectional=True, whose second direction "
                "starts at the end of the sequence. Collect the sequence and call the layer on it."
            )
        tokens = not x_t.is_floating_point()
        batched = x_t.dim() == (1 if tokens else 2)
        time = 1 if batched and self.batch_first else 0
        output, state = self(x_t.unsqueeze(time), state, embedding=embedding)
        return output.squeeze(time), state

    def _one_step(self, input: Tensor, hx: Any) -> tuple[Tensor, Any] | None:
        """A whole call of one step, as one streams with torch.nn's layers, on the engine of `step`; None if it cannot be.

        Unlike there weights are read to see whether they still are the same, so that writing through `.data` is seen.
        """
        time = 1 if self.batch_first else 0
        if torch.compiler.is_compiling() or input.layout is not torch.strided or input.is_nested or input.dim() != 3:
            return None
        if input.shape[time] != 1:
            return None
        batch, threads = input.shape[1 - time], torch.get_num_threads()
        weights = self.num_layers * GATES[self.mode] * self.hidden_size * (self.input_size + self.hidden_size)
        if threads == 1:
            fits = weights <= 4 * ONE_STEP_WEIGHTS
        else:
            fits = weights <= ONE_STEP_WEIGHTS and batch * weights <= ONE_STEP_PRODUCTS
        if self.bidirectional or not input.is_cpu or not fits:
            return None
        known = self._streamer is not None and hx is self._streamer.handed_out
        parts = () if hx is None or known else hx if isinstance(hx, tuple) else (hx,)
        shape = (self.num_layers, batch, self.hidden_size)
        if parts and (len(parts) != self._parts or not all(_is_ordinary(part, shape) for part in parts)):
            return None
        if input.shape[2] != self.input_size or native.observed((input, *parts)):
            return None
        x_t = input.select(time, 0)
        streamer = self._streamer
        if streamer is not None and not streamer.watching:
            return None
        if (streamer := self._streaming(x_t)) is None or not streamer.watching:
            return None
        if not streamer.same():
            streamer.repack_unless(streamer.same)
        h_t, state = streamer.advance(x_t, hx)
        return h_t.unsqueeze_(time), state  # in place: a view could not be detached in place

    def _straight_away(self, input: Tensor, hx: Any) -> tuple[Tensor, Any] | None:
        """An ordinary call without gradients, handed to the kernels in as few words as can be; None if it is not ordinary.

        What `_run` comes to, bit for bit. Its checks for what a call could be besides are half the time of a short call, and
        more where another layer's numbers have just driven Python itself out of the caches.
        """
        if torch.compiler.is_compiling() or input.layout is not torch.strided or input.is_nested or input.dim() != 3:
            return None
        dtype, parts = input.dtype, () if hx is None else hx if isinstance(hx, tuple) else (hx,)
        if not input.is_cpu or dtype not in native.dtypes or dtype is torch.bfloat16 or torch._C._is_any_autocast_enabled():
            return None
        if self.bidirectional or self.proj_size or self.beyond_cell or (self.dropout and self.training):
            return None
        steps, batch, width = (input.shape[1], input.shape[0], input.shape[2]) if self.batch_first else input.shape
        if width != self.input_size or steps == 0 or batch == 0 or len(parts) not in (0, self._parts):
            return None
        layers = [self._weights(f"_l{layer}")[0] for layer in range(self.num_layers)]
        weights = [w for one in layers for w in one if w is not None]
        rows, size = GATES[self.mode] * self.hidden_size, self.hidden_size
        wanted: list[tuple[tuple[int, ...], Any]] = [((self.num_layers, batch, size), part) for part in parts]
        for k, one in enumerate(layers):
            wanted += [((rows, size if k else width), one.w_ih), ((rows, size), one.w_hh)]
            wanted += [((rows,), bias) for bias in one[2:] if bias is not None]
        if not all(_is_ordinary(t, shape, dtype) for shape, t in wanted):
            return None
        if kernels.observed((input, *parts, *weights)):
            return None
        output, states = kernels.run_stack(self.mode, input.transpose(0, 1) if self.batch_first else input, parts, layers)
        return output.transpose(0, 1) if self.batch_first else output, states if self._parts == 2 else states[0]

    def _streaming(self, x_t: Tensor) -> Streamer | None:
        """The engine for single steps, with the weights packed as it reads them, kept until they change.

        It knows no gradients and no dropout, and works on one thread: a large batch is better off with the sequence kernels.
        """
        if torch.compiler.is_compiling() or x_t.dtype is not torch.float32 or (self.dropout and self.training):
            return None
        if torch.is_autocast_enabled("cpu"):
            return None
        streamer = self._streamer
        if streamer is not None and x_t.shape in streamer.shapes and not streamer.stale():
            return streamer
        if x_t.dim() != 2 or x_t.shape[0] > STREAMING_ROWS:
            return None
        self._check_input(x_t)
        if stream.supported(self) is not None or self.weight_hh_l0.dtype != torch.float32:
            return None
        if streamer is None:
            self._streamer = streamer = stream.Streamer(self)  # of two threads' here one stays, and each serves its own
        elif streamer.stale():
            streamer.repack_unless(lambda: not streamer.stale())
        return streamer

    @property
    def beyond_cell(self) -> str:
        """The first option that makes steps, or where they start, other than torch.nn's; empty if there is none."""
        for name in ("learned_state", *CHANGE_STEPS):
            if getattr(self, name):
                return name
        return ""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_streamer": None}  # packed weights are no part of a copy

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.flatten_parameters()

    def _run(
        self,
        input: Tensor,
        hx: Any,
        lengths: Tensor | None,
        resets: Tensor | None,
        embedding: Tensor | None,
        gradient_norms: Tensor | None,
        every_step: bool = False,
    ) -> tuple[Tensor, list[Unrolled], bool]:
        """Check everything, make it time-major, run the layers: (last layer's output, all of them, whether batched)."""
        tokens = not input.is_floating_point() and input.dtype != torch.bool
        self._check_tokens(input, embedding) if tokens else self._check_input(input)
        batched = input.dim() == (2 if tokens else 3)
        x = input.long() if tokens else input
        x = x if batched else x.unsqueeze(1)
        if batched and self.batch_first:
            x = x.transpose(0, 1)
            resets = resets.transpose(0, 1) if isinstance(resets, Tensor) and resets.dim() == 2 else resets
        elif not batched and isinstance(resets, Tensor) and resets.dim() == 1:
            resets = resets.unsqueeze(1)
        if isinstance(lengths, Tensor) and lengths.device == x.device and x.device.type not in ("cpu", "meta"):
            # Packing reads them on the CPU. To wait for them once costs less than a loop over the steps in Python.
            lengths = lengths if torch.compiler.is_compiling() else lengths.cpu()
        lengths, resets = _check_masks(lengths, resets, x.shape[0], x.shape[1], x.device)
        if gradient_norms is not None:
            expected = (self.num_layers * self.num_directions, 2, *x.shape[:2])
            if tuple(gradient_norms.shape) != expected or gradient_norms.dtype != torch.float32:
                raise ValueError(
                    f"gradient_norms expected shape {expected} (L*D, 2, T, B) and dtype torch.float32, "
                    f"got {_describe(gradient_norms)}."
                )
        state = self._initial_state(x.shape[1], hx, batched)
        output, unrolled = self._run_layers(x, state, lengths, resets, embedding, gradient_norms, every_step)
        return output, unrolled, batched

    def _run_layers(
        self,
        x: Tensor,
        state: list[State],
        lengths: Tensor | None,
        resets: Tensor | None,
        embedding: Tensor | None = None,
        gradient_norms: Tensor | None = None,
        every_step: bool = False,
    ) -> tuple[Tensor, list[Unrolled]]:
        if self._may_go_at_once(x, lengths, resets, looking=gradient_norms is not None or every_step):
            return self._run_at_once(x, state, lengths, resets, embedding)
        done: list[Unrolled] = []
        cuts: dict[bool, fused.Pieces] = {}
        only_cells = not self.beyond_cell
        for layer in range(self.num_layers):
            for direction, suffix in enumerate(self._suffixes(layer)):
                one = recurrence(
                    self.mode,
                    x,
                    state[len(done)],
                    *self._weights(suffix),
                    lengths=lengths,
                    resets=resets,
                    reverse=direction == 1,
                    embedding=embedding if layer == 0 else None,
                    gradient_norms=None if gradient_norms is None else gradient_norms[len(done)],
                    every_step=every_step,
                    save=self.save,
                    cuts=cuts,
                    regularised=NOTHING if only_cells else self._regularised(suffix, len(done), state[len(done)], x.shape[0]),
                )
                done.append(one)
            outputs = [one.output for one in done[-self.num_directions :]]
            x = torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]  # (T, B, D*H)
            if self.dropout and layer < self.num_layers - 1:
                x = dropout(x, self.dropout, self.training)
        return x, done

    def _may_go_at_once(self, x: Tensor, lengths: Tensor | None, resets: Tensor | None, looking: bool) -> bool:
        """Whether torch's operators run all layers and directions in one call, in which cuDNN computes some at a time."""
        if self.num_layers * self.num_directions == 1 or looking or self.beyond_cell or torch.compiler.is_compiling():
            return False
        if (self.dropout and self.training) or (resets is not None and self.bidirectional) or 0 in x.shape[:2]:
            return False  # cuDNN's dropout does not follow torch's seed; the second direction is cut elsewhere
        dtype = kernels.autocast_dtype(x.device) or self._weight("weight_hh_l0").dtype
        way = way_to_compute(self.mode, dtype, x.device, projected=self.proj_size > 0, uncommon=False)
        return way == "torch" and (lengths is None or bool(lengths.any()))

    def _run_at_once(
        self, x: Tensor, state: list[State], lengths: Tensor | None, resets: Tensor | None, embedding: Tensor | None
    ) -> tuple[Tensor, list[Unrolled]]:
        weights = [self._weights(suffix) for layer in range(self.num_layers) for suffix in self._suffixes(layer)]
        x = _as_vectors(x, self._weight("weight_ih_l0"), embedding)
        masked = lengths is not None or resets is not None
        cut = fused.pieces(x.shape[0], lengths, resets, False, x.device) if masked else None
        h, c = (None if state[0][part] is None else torch.stack([one[part] for one in state]) for part in (0, 1))  # type: ignore[arg-type]
        given = [[weight for weight in (*w, w_hr) if weight is not None] for w, w_hr in weights]
        assert h is not None
        output, h, c = fused.run(self.mode, x, h, c, given, bidirectional=self.bidirectional, cut=cut)
        last = [State(h[k], None if c is None else c[k]) for k in range(len(state))]
        return output, [Unrolled(output, one) for one in last]

    def _regularised(self, suffix: str, number: int, state: State, steps: int) -> Regularised:
        """What this layer and direction does in this call beyond its cell."""
        drawn = draw((self.recurrent_dropout, self.zoneout, self.zoneout_cell), *state, steps, self.training)
        if self.layer_norm:
            norm_c = None
            if self.mode == "LSTM":
                norm_c = Norm(getattr(self, "gain_c" + suffix), getattr(self, "bias_c" + suffix))
            drawn = drawn._replace(norms=Norms(getattr(self, "gain_ih" + suffix), getattr(self, "gain_hh" + suffix), norm_c))
        if self.learned_state:
            drawn = drawn._replace(start=(*(part[number].expand(state.h.shape[0], -1) for part in self._learned()), None)[:2])
        return drawn

    def _learned(self) -> list[Tensor]:
        """initial_h, and the LSTM's initial_c, (L*D, H)."""
        return [getattr(self, name) for name in ("initial_h", "initial_c")[: self._parts]]

    def _forward_packed(self, packed: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        """Pad, run with lengths, and pack again exactly as it came, sorted or not."""
        if packed.data.dim() != 2:
            raise RuntimeError(f"input must have 2 dimensions, got {packed.data.dim()}")
        in_order = PackedSequence(packed.data, packed.batch_sizes)  # longest first, whatever order it came from
        x, lengths = pad_packed_sequence(in_order)  # (T, B, I), (B,)
        self._check_input(x)
        state = self._initial_state(x.shape[1], hx, batched=True)
        if packed.sorted_indices is not None:
            state = [State(*(s.index_select(0, packed.sorted_indices) for s in one if s is not None)) for one in state]
        output, done = self._run_layers(x, state, lengths, None)
        state = [one.last for one in done]
        if packed.unsorted_indices is not None:
            state = [State(*(s.index_select(0, packed.unsorted_indices) for s in one if s is not None)) for one in state]
        data = pack_padded_sequence(output, lengths).data
        return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices), self._join(state)

    def _initial_state(self, batch: int, hx: Any, batched: bool) -> list[State]:
        """Check the given state, or make zeros; one `State` per layer and direction."""
        count = self.num_layers * self.num_directions
        widths = self._widths
        if hx is None and self.learned_state:
            return [State(*(part[k].expand(batch, -1) for part in self._learned())) for k in range(count)]
        if hx is None:
            zeros = [self._weight("weight_hh_l0").new_zeros(batch, width) for width in widths]
            return [State(*zeros)] * count
        parts = hx if isinstance(hx, (tuple, list)) else (hx,)
        if len(parts) != self._parts or not all(isinstance(part, Tensor) for part in parts):
            expected = "a pair (h_0, c_0)" if self._parts == 2 else "one tensor h_0"
            raise RuntimeError(f"{self._name} expected hx to be {expected}, got {_describe(hx)}.")
        checked = []
        for part, width, name in zip(parts, widths, ("h_0", "c_0"), strict=False):
            expected = (count, batch, width) if batched else (count, width)
            if tuple(part.shape) != expected:
                raise RuntimeError(
                    f"{self._name} expected {name} of shape {expected} "
                    f"(num_layers * num_directions{', batch' if batched else ''}, width), got {tuple(part.shape)}."
                )
            checked.append(part if batched else part.unsqueeze(1))
        return [State(*(part[k] for part in checked)) for k in range(count)]

    def _join(self, state: list[State]) -> Any:
        """h alone, or for the LSTM (h, c), each stacked to (L*D, B, H)."""
        # Stacked even where there is one: a view could not be detached in place, as loops over chunks like to.
        joined = tuple(torch.stack([one[part] for one in state]) for part in range(self._parts))  # type: ignore[arg-type]
        return joined if self._parts == 2 else joined[0]

    def _no_tensor(self, name: str, got: Any) -> TypeError:
        return TypeError(
            f"{self._name} expected {name} to be a tensor, got {type(got).__name__}. "
            "torch.as_tensor makes tensors of arrays and lists."
        )

    def _check_input(self, x: Tensor) -> None:
        if x.layout != torch.strided or x.is_nested:
            got, how = ("a nested tensor", "x.to_padded_tensor(0)") if x.is_nested else (str(x.layout), "x.to_dense()")
            hint = ", with the sequences' lengths as lengths" if x.is_nested else ""
            raise ValueError(f"{self._name} expected a dense input, got {got}. Give it {how}{hint}.")
        if x.dim() not in (2, 3):
            raise ValueError(f"{self._name}: Expected input to be 2D or 3D, got {x.dim()}D instead")
        if x.shape[-1] != self.input_size:
            axes = ("B, T, I" if self.batch_first else "T, B, I") if x.dim() == 3 else "T, I"
            sizes = ", ".join(f"{axis}={size}" for axis, size in zip(axes.split(", "), x.shape, strict=True))
            hint = ""
            if x.dim() == 3 and self.input_size in x.shape[:2]:
                hint = f" Is it laid out ({axes})? The last axis must be the features."
            raise RuntimeError(f"{self._name} expected input of width {self.input_size} (input_size), got ({sizes}).{hint}")
        dtype = self.weight_ih_l0.dtype
        if x.dtype != dtype and not kernels.autocast_dtype(x.device):
            raise ValueError(
                f"{self._name} expected input of dtype {dtype}, that of its weights, got {x.dtype}. "
                f"Convert the input with input.to({dtype}), or the layer with layer.to({x.dtype})."
            )

    def _check_tokens(self, ids: Tensor, embedding: Tensor | None) -> None:
        if ids.dim() not in (1, 2):
            raise ValueError(f"{self._name} expected token ids of 1 or 2 axes, got {_describe(ids)}.")
        if embedding is not None and (embedding.dim() != 2 or embedding.shape[1] != self.input_size):
            raise ValueError(
                f"{self._name} expected an embedding of shape (V, input_size={self.input_size}), got {_describe(embedding)}."
            )
        dtype = self.weight_ih_l0.dtype
        if embedding is not None and embedding.dtype != dtype and not kernels.autocast_dtype(embedding.device):
            raise ValueError(
                f"{self._name} expected an embedding of dtype {dtype}, that of its weights, got {embedding.dtype}. "
                f"Convert it with embedding.to({dtype})."
            )
        known = self.input_size if embedding is None else embedding.shape[0]
        if ids.device.type == "cpu" and not torch.compiler.is_compiling() and ids.numel():
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= known:
                raise ValueError(f"{self._name} expected token ids from 0 to {known - 1}, got ids from {low} to {high}.")

    def _weights(self, suffix: str) -> tuple[Weights, Tensor | None]:
        bias = (self._weight("bias_ih" + suffix), self._weight("bias_hh" + suffix)) if self.bias else (None, None)
        weights = Weights(self._weight("weight_ih" + suffix), self._weight("weight_hh" + suffix), *bias)
        return weights, self._weight("weight_hr" + suffix) if self.proj_size else None

    def _weight(self, name: str) -> Tensor:
        found = self._parameters.get(name)  # a third of the time of nn.Module's search, which reparametrized ones need
        return getattr(self, name) if found is None else found

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self.num_directions]

    @property
    def _widths(self) -> list[int]:
        """Of h, and for the LSTM of c."""
        return [self.proj_size or self.hidden_size, self.hidden_size][: self._parts]

    @property
    def _parts(self) -> int:
        return 2 if self.mode == "LSTM" else 1

    @property
    def _name(self) -> str:
        return type(self).__name__


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
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNN expected nonlinearity 'tanh' or 'relu', got {nonlinearity!r}.")
        self.nonlinearity = nonlinearity
        mode = f"RNN_{nonlinearity.upper()}"
        sizes = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__(mode, *sizes, 0, device, dtype, **options)


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
        super().__init__("GRU", *sizes, 0, device, dtype, **options)


def recurrence(
    mode: str,
    x: Tensor,
    state: State,
    w: Weights,
    w_hr: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    reverse: bool = False,
    embedding: Tensor | None = None,
    gradient_norms: Tensor | None = None,
    every_step: bool = False,
    save: str = "gates",
    regularised: Regularised = NOTHING,
    cuts: dict[bool, fused.Pieces] | None = None,
) -> Unrolled:
    """One layer in one direction over x (T, B, I), or token ids (T, B). Here fused or plain is chosen.

    `cuts`, by `reverse`, keeps from call to call what `fused.pieces` makes of the same lengths and resets.

    What changes the steps goes through `unrolled.kernels.regularised` on the CPU, else through the plain loop. Of the rest, our
    own kernels serve everything on the CPU but projections and resets to a learned state. Where they were not built, and on
    accelerators, torch's fused operators (on CUDA those are cuDNN's) serve whole sequences, and, through packing, lengths and
    resets: `unrolled.kernels.fused`. The plain loop serves what is left: looks inside, torch.func's transforms, and graphs for
    torch.compile and torch.export, in which those operators come out wrong.
    """
    # Fewer tokens than the table has rows: no table of products. An exported program must not depend on how many there are.
    exporting = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    if not x.is_floating_point() and embedding is not None and (exporting or embedding.shape[0] > x.numel()):
        x = torch.nn.functional.embedding(x, embedding)
    dtype = kernels.autocast_dtype(x.device) or w.w_hh.dtype
    inside = gradient_norms is not None or (every_step and mode == "LSTM")
    empty = x.shape[0] == 0 or x.shape[1] == 0
    way = way_to_compute(mode, dtype, x.device, projected=w_hr is not None, uncommon=empty or inside)
    if way == "kernels" and lengths is None and resets is None and x.is_floating_point() and _onednn_is_faster(mode, dtype, x):
        way = "torch"
    if way == "torch" and (torch.compiler.is_compiling() or (lengths is not None and not lengths.any())):
        way = "plain"  # nothing to pack where no sequence has a step
    if regularised.changes_steps or (regularised.starts_elsewhere and resets is not None and way != "torch"):
        how = {
            "lengths": None if lengths is None else lengths.to(x.device),
            "resets": resets,
            "reverse": reverse,
            "gradient_norms": gradient_norms,
        }
        return _regularised_recurrence(mode, x, state, w, w_hr, embedding=embedding, **how, regularised=regularised)
    if way == "kernels":
        how = {"lengths": lengths, "resets": resets, "reverse": reverse, "grad_norms": gradient_norms, "save": save}
        if x.is_floating_point():
            output, cells, h, c = kernels.run(mode, x, *state, *w, **how, every_c=every_step)
        else:
            output, cells, h, c = kernels.run_tokens(mode, x, embedding, *state, *w, **how, every_c=every_step)
        return Unrolled(output, State(h, c), cells)
    if way == "plain":
        lengths = None if lengths is None else lengths.to(x.device)
        how = {"lengths": lengths, "resets": resets, "reverse": reverse, "gradient_norms": gradient_norms}
        return plain_recurrence(mode, x, state, w, w_hr, embedding=embedding, **how)
    x = _as_vectors(x, w.w_ih, embedding)
    weights = [weight for weight in (*w, w_hr) if weight is not None]
    cut = None if cuts is None else cuts.get(reverse)
    if cut is None and (lengths is not None or resets is not None):
        cut = fused.pieces(x.shape[0], lengths, resets, reverse, x.device)
        if cuts is not None:
            cuts[reverse] = cut
    h, c = (None if part is None else part.unsqueeze(0) for part in (state.h, state.c))
    assert h is not None
    output, h, c = fused.run(mode, x, h, c, [weights], cut=cut, reverse=reverse, start=regularised.start)
    return Unrolled(output, State(h[0], None if c is None else c[0]))


def way_to_compute(mode: str, dtype: torch.dtype, device: torch.device, *, projected: bool, uncommon: bool) -> str:
    """How `recurrence` computes a call: "kernels", "torch" (its fused operators; cuDNN's on CUDA) or "plain".

    `uncommon` is what torch's operators cannot say: looks inside, an empty sequence.

    >>> way_to_compute("GRU", torch.float32, torch.device("cuda"), projected=False, uncommon=False)
    'torch'
    """
    if not projected and kernels.supports(mode, dtype, device):
        return "kernels"
    transformed = not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
    return "plain" if uncommon or transformed or device.type == "meta" else "torch"


def _onednn_is_faster(mode: str, dtype: torch.dtype, x: Tensor) -> bool:
    """Whether an LSTM in bf16 without gradients, which torch's operator leaves to oneDNN, is better off there.

    On an Emerald Rapids, whose AMX oneDNN uses, 1.7 to 4.7 times faster at B = 32 to 64, slower at B of 1 and 8 on two threads.
    Where gradients are wanted it would be 1.4 to 1.7 times faster and have no second derivatives.
    """
    if not native.has_amx or mode != "LSTM" or dtype != torch.bfloat16 or torch.is_grad_enabled() or native.observed((x,)):
        return False
    return x.shape[1] >= 16


def plain_recurrence(
    mode: str,
    x: Tensor,
    state: State,
    w: Weights,
    w_hr: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    reverse: bool = False,
    embedding: Tensor | None = None,
    gradient_norms: Tensor | None = None,
    regularised: Regularised = NOTHING,
) -> Unrolled:
    """The same by its definition: the cell's step in a loop, for every device, dtype and order of derivative."""
    x_gates = _input_gates(mode, x, w, lengths, embedding, regularised.norms)  # (T, B, G*H): the whole sequence in one product
    how = {"lengths": lengths, "resets": resets, "reverse": reverse, "grad_norms": gradient_norms}
    output, cs, h, c = plain.run_gates(mode, x_gates, *state, w.w_hh, w.b_hh, w_hr, **how, regularised=regularised)
    return Unrolled(output, State(h, c), cs)


def _regularised_recurrence(
    mode: str,
    x: Tensor,
    state: State,
    w: Weights,
    w_hr: Tensor | None,
    *,
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    embedding: Tensor | None,
    gradient_norms: Tensor | None,
    regularised: Regularised,
) -> Unrolled:
    """`plain_recurrence`, compiled where that can be."""
    how = {"lengths": lengths, "resets": resets, "reverse": reverse}
    asked = kernels.autocast_dtype(x.device) or w.w_hh.dtype
    if asked == torch.bfloat16 and x.device.type == "cpu" and not torch.compiler.is_compiling():
        # The compiled steps know fp32 and float64.
        widened = tree_map(lambda t: t.float() if _is_real(t) else t, (x, state, w, w_hr, embedding, regularised))
        x, state, w, w_hr, embedding, regularised = widened
        how |= {"embedding": embedding, "gradient_norms": gradient_norms, "regularised": regularised}
        with torch.autocast("cpu", enabled=False):
            one = _regularised_recurrence(mode, x, state, w, w_hr, **how)
        return tree_map(lambda t: t.to(asked) if _is_real(t) else t, one)
    if w_hr is None and compiled_steps.serves(mode, x, w):
        x_gates = _input_gates(mode, x, w, lengths, embedding, regularised.norms, compiled_linear)
        how |= {"grad_norms": gradient_norms, "regularised": regularised}
        output, cs, h, c = compiled_steps.run(mode, x_gates, *state, w.w_hh, w.b_hh, **how)
        return Unrolled(output, State(h, c), cs)
    how |= {"embedding": embedding, "gradient_norms": gradient_norms, "regularised": regularised}
    return plain_recurrence(mode, x, state, w, w_hr, **how)


def _input_gates(
    mode: str,
    x: Tensor,
    w: Weights,
    lengths: Tensor | None,
    embedding: Tensor | None,
    norms: Norms | None,
    linear: Callable[..., Tensor] = linear,
) -> Tensor:
    """W_ih x_t + b_ih of every step, normalised where that is asked for; for token ids a row of a table."""

    def with_bias(product: Tensor) -> Tensor:
        if norms is not None:
            return normalised(product, norms.ih, w.b_ih, norm_widths(GATES[mode], len(norms.ih) // GATES[mode]))
        return product if w.b_ih is None else product + w.b_ih

    if not x.is_floating_point():
        table = w.w_ih.t() if embedding is None else linear(embedding, w.w_ih)  # (V, G*H)
        return torch.nn.functional.embedding(x, with_bias(table))
    x = x if lengths is None else _without_padding(x, lengths)
    return linear(x, w.w_ih, w.b_ih) if norms is None else with_bias(linear(x, w.w_ih))


def _as_vectors(x: Tensor, w_ih: Tensor, embedding: Tensor | None) -> Tensor:
    """x, or what its token ids stand for: rows of the embedding or one-hot vectors."""
    if x.is_floating_point():
        return x
    return one_hot(x, w_ih.shape[1]).to(w_ih.dtype) if embedding is None else torch.nn.functional.embedding(x, embedding)


def _is_ordinary(given: Any, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> bool:
    """Whether it is a tensor of this shape in the CPU's memory."""
    return (
        isinstance(given, Tensor)
        and given.shape == shape
        and given.dtype is dtype
        and given.is_cpu
        and given.layout is torch.strided
    )


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _without_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """Zeros for what lies behind each sequence's end: a NaN there must not reach the weights' gradients as 0 * NaN."""
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)  # (T, 1)
    return x.masked_fill((steps >= lengths).unsqueeze(-1), 0)


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
            raise TypeError(f"{name} expected {label} of type bool, got {_describe(value)}.")
    for label, value in {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} expected {label} of type int, got {_describe(value)}.")
        if value <= 0:
            raise ValueError(f"{name} expected {label} greater than zero, got {value}.")
    if not isinstance(dropout, numbers.Number) or isinstance(dropout, bool) or not 0 <= dropout <= 1:  # type: ignore[operator]
        raise ValueError(f"{name} expected dropout to be a probability from 0 to 1, got {dropout!r}.")
    if not 0 <= proj_size < hidden_size:
        raise ValueError(f"{name} expected proj_size from 0 (none) to hidden_size - 1 = {hidden_size - 1}, got {proj_size}.")
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            f"{name}: dropout acts between layers, so dropout={dropout} does nothing with num_layers=1.", stacklevel=4
        )


def _check_masks(
    lengths: Tensor | None, resets: Tensor | None, steps: int, batch: int, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    if lengths is not None:
        whole_numbers = isinstance(lengths, Tensor) and not lengths.is_floating_point() and lengths.dtype != torch.bool
        if not whole_numbers or tuple(lengths.shape) != (batch,):
            raise ValueError(f"lengths expected integers of shape (B={batch},), got {_describe(lengths)}.")
        if lengths.device.type == "cpu" and not torch.compiler.is_compiling() and batch:
            low, high = int(lengths.min()), int(lengths.max())
            if low < 0 or high > steps:
                raise ValueError(f"lengths expected values from 0 to T={steps}, got values from {low} to {high}.")
        lengths = lengths.long()
    if resets is not None and not (
        isinstance(resets, Tensor) and resets.dtype == torch.bool and tuple(resets.shape) == (steps, batch)
    ):
        raise ValueError(
            f"resets expected booleans for every step and sequence, (T={steps}, B={batch}), got {_describe(resets)}."
        )
    if resets is not None and resets.device != device:
        raise ValueError(f"resets expected on {device}, where the input is, got {resets.device}. Move them with .to({device}).")
    return lengths, resets


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r} of type {type(value).__name__}"


LAYERS = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
"""By the names that the settings of the tasks have for them."""
