"""Cutting a sequence changes how far gradients go, and nothing else."""

import functools
import re

import pytest
import torch
from tests.tolerance import assert_same

import unrolled
from unrolled import bptt
from unrolled.errors import ConfigError
from unrolled.memory import LiveBytes

T, B, I, H = 11, 3, 4, 5


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(T, B, I, dtype=torch.float64)


@pytest.fixture(params=["RNN", "LSTM", "GRU"])
def layer(request: pytest.FixtureRequest) -> torch.nn.Module:
    return getattr(unrolled, request.param)(I, H, num_layers=2, dtype=torch.float64)


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (3, 3), (4, 7), (3, 100), (5, 2), (2, 9), (20, 20)])
def test_carried_chunks_give_the_forward_pass_of_one_long_sequence(layer, x, k1: int, k2: int) -> None:
    whole, _ = layer(x)
    seen = torch.zeros(T, dtype=torch.bool)
    for steps, outputs, _ in bptt.truncated(layer, x, k1=k1, k2=k2):
        assert_same(outputs, whole[steps])
        assert outputs.requires_grad
        seen[steps] = True
    if k2 >= k1:
        assert seen.all()


@pytest.mark.parametrize("k1", [1, 3, 4, T])
def test_with_k2_the_whole_length_the_gradient_is_the_full_one(layer, x, k1: int) -> None:
    scale = torch.randn(T, B, H, dtype=torch.float64)
    expected = torch.autograd.grad((layer(x)[0] * scale).sum(), list(layer.parameters()))
    layer.zero_grad()
    for steps, outputs, _ in bptt.truncated(layer, x, k1=k1, k2=T):
        (outputs * scale[steps]).sum().backward()
    for parameter, want in zip(layer.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert_same(parameter.grad, want)


@pytest.mark.parametrize(("k1", "k2"), [(2, 2), (2, 5), (4, 2)])
def test_the_gradient_goes_back_k2_steps_and_no_further(layer, x, k1: int, k2: int) -> None:
    x.requires_grad_()
    for steps, outputs, _ in bptt.truncated(layer, x, k1=k1, k2=k2):
        (grad,) = torch.autograd.grad(outputs[-1].sum(), x)
        reached = grad.abs().sum(dim=(1, 2)).nonzero().flatten()
        assert reached.min() == max(0, steps.stop - k2)
        assert reached.max() == steps.stop - 1


def test_state_of_one_window_starts_the_next(layer, x) -> None:
    outputs, state = bptt.window(layer, x[:6], None, advance=4)
    assert_same(outputs, layer(x[:6])[0])
    continued, _ = bptt.window(layer, x[4:], state, advance=0)
    assert_same(continued, layer(x)[0][4:])


def test_batch_first_is_cut_along_its_own_axis(x) -> None:
    layer = unrolled.GRU(I, H, batch_first=True, dtype=torch.float64)
    x = x.transpose(0, 1)
    pieces = [outputs for _, outputs, _ in bptt.truncated(layer, x, k1=4, k2=6, dim=1)]
    assert_same(torch.cat(pieces, dim=1), layer(x)[0])


def test_impossible_cuts_are_refused(layer, x) -> None:
    with pytest.raises(ValueError, match="k1=0"):
        next(bptt.truncated(layer, x, k1=0))
    with pytest.raises(ValueError, match="window's 11 steps, got 12"):
        bptt.window(layer, x, None, advance=12)


def gradients(tensors) -> list[torch.Tensor]:
    """The `.grad` of each, which is taken away."""
    taken = [tensor.grad for tensor in tensors]
    for tensor in tensors:
        tensor.grad = None
    return taken


def initial_state(layer):
    h = torch.randn(layer.num_layers, B, H, dtype=torch.float64, requires_grad=True)
    return (h, torch.randn_like(h).requires_grad_()) if isinstance(layer, unrolled.LSTM) else h


class Recorded(torch.nn.Module):
    """A layer that writes down how many steps it was run on, without a graph and with one."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer, self.without, self.graph = layer, [], []

    def forward(self, x, state):
        (self.graph if torch.is_grad_enabled() else self.without).append(len(x))
        return self.layer(x, state)


class TestExact:
    LONG = 31

    def inputs(self) -> torch.Tensor:
        return torch.randn(self.LONG, B, I, dtype=torch.float64, requires_grad=True)

    def least(self, layer, x) -> int:
        with pytest.raises(ConfigError) as error:
            bptt.exact(layer, x, loss=lambda outputs, steps: outputs.square().sum(), memory=1)
        return int(re.search(r"at least ([\d,]+) bytes", str(error.value))[1].replace(",", ""))

    @pytest.mark.parametrize("budget", [1, 1.7, 3, 10, 1000])
    def test_gradients_are_those_of_full_bptt(self, layer, budget: float) -> None:
        x, state = self.inputs(), initial_state(layer)
        scale = torch.randn(self.LONG, B, H, dtype=torch.float64)
        everything = [x, *bptt._tensors(state), *layer.parameters()]
        outputs, last = layer(x, state)
        (outputs.square() * scale).sum().backward()
        expected = gradients(everything)
        result = bptt.exact(
            layer,
            x,
            state,
            loss=lambda outputs, steps: (outputs.square() * scale[steps]).sum(),
            memory=int(self.least(layer, x) * budget),
        )
        for got, want in zip(gradients(everything), expected, strict=True):
            assert_same(got, want)
        assert_same(result.loss, (outputs.square() * scale).sum().detach())
        for got, want in zip(bptt._tensors(result.state), bptt._tensors(last), strict=True):
            assert_same(got, want.detach())
            assert not got.requires_grad

    @pytest.mark.parametrize("budget", [1, 2, 3, 6, 1000])
    @pytest.mark.parametrize("plain", [False, True])
    def test_the_budget_is_kept_even_while_measuring(self, layer, budget: float, plain: bool) -> None:
        x = self.inputs().detach()
        resets = torch.zeros(self.LONG, B, dtype=torch.bool)

        def forward(steps: slice, state):  # with resets it is the plain loop, many small tensors
            return layer(x[steps], state, resets=resets[steps] if plain else None)

        def run(memory: int):
            return bptt.exact(forward, lambda steps: steps, loss=loss, memory=memory, steps=self.LONG)

        def loss(outputs, steps):
            return outputs.exp().log().square().sum()

        with pytest.raises(ConfigError) as error:
            run(0)
        least = int(re.search(r"at least ([\d,]+) bytes", str(error.value))[1].replace(",", ""))
        for parameter in layer.parameters():
            parameter.grad = torch.zeros_like(parameter)
        with LiveBytes() as bytes:
            result = run(least * budget)
        assert bytes.peak <= result.plan.memory <= least * budget

    def test_gradients_of_wide_weights_count(self) -> None:
        layer, x = torch.nn.Linear(200, 200), torch.randn(4, 1, 200)  # 160 kB of weights, 0.8 kB a step
        layer.weight.grad, layer.bias.grad = torch.zeros_like(layer.weight), torch.zeros_like(layer.bias)

        def forward(x, state):
            return layer(x).tanh(), state

        least = self.least(forward, x)
        with LiveBytes() as bytes:
            bptt.exact(forward, x, loss=lambda outputs, _: outputs.square().sum(), memory=least)
        assert layer.weight.nbytes < bytes.peak <= least

    def test_a_state_that_is_part_of_the_outputs_does_not_keep_them(self) -> None:
        wide = 40
        layer = torch.nn.Linear(I, wide)

        def forward(x, state):
            outputs = torch.cumsum(layer(x), dim=0) + state
            return outputs, outputs[-1]

        x, start = torch.randn(400, B, I), torch.zeros(B, wide)
        layer.weight.grad, layer.bias.grad = torch.zeros_like(layer.weight), torch.zeros_like(layer.bias)
        for memory in (120_000, 200_000):
            with LiveBytes() as bytes:
                result = bptt.exact(forward, x, start, loss=lambda outputs, _: outputs.square().sum(), memory=memory)
            assert result.plan.segment > 1
            assert result.plan.kept > 1
            assert bytes.peak <= memory

    def test_the_least_memory_named_works_and_one_byte_less_does_not(self, layer) -> None:
        x = self.inputs()
        least = self.least(layer, x)
        plan = bptt.exact(layer, x, loss=lambda outputs, steps: outputs.square().sum(), memory=least).plan
        assert plan[:2] == (1, 0)
        with pytest.raises(ConfigError, match=f"at least {least:,} bytes.*got {least - 1:,}"):
            bptt.exact(layer, x, loss=lambda outputs, steps: outputs.square().sum(), memory=least - 1)

    def test_refused_memory_leaves_no_trace(self, layer) -> None:
        random = torch.get_rng_state()
        self.least(layer, x := torch.randn(9, B, I, dtype=torch.float64, generator=torch.Generator()))
        assert x.grad is None
        assert gradients(layer.parameters()) == [None] * len(list(layer.parameters()))
        assert torch.equal(torch.get_rng_state(), random)

    @pytest.mark.parametrize("budget", [1.5, 3, 1000])
    def test_dropout_is_the_same_when_run_again(self, budget: float) -> None:
        layer = unrolled.GRU(I, H, num_layers=3, dropout=0.4, dtype=torch.float64)
        x = self.inputs()
        memory = int(self.least(layer, x) * budget)
        torch.manual_seed(5)
        plan = bptt.exact(layer, x, loss=lambda outputs, steps: outputs.square().sum(), memory=memory).plan
        got, drawn_next = gradients([x, *layer.parameters()]), torch.rand(1)
        torch.manual_seed(5)
        state, total = None, 0
        for first in range(0, self.LONG, plan.segment):  # the same pieces, their graphs in one
            outputs, state = layer(x[first : first + plan.segment], state)
            total = total + outputs.square().sum()
        total.backward()
        for one, other in zip(got, gradients([x, *layer.parameters()]), strict=True):
            assert_same(one, other)
        assert torch.equal(torch.rand(1), drawn_next)  # random numbers go on as after one run

    @pytest.mark.parametrize("budget", [1, 1.5, 3, 6])
    def test_steps_are_run_as_often_as_planned(self, budget: float) -> None:
        recorded = Recorded(unrolled.LSTM(I, H, dtype=torch.float64))
        x = self.inputs()
        memory = int(self.least(recorded, x) * budget)
        measured = bptt._Sequence(recorded, x, None, lambda outputs, steps: outputs.square().sum(), 0)
        bptt._plan(measured, self.LONG, memory)
        seen = len(recorded.without), len(recorded.graph)
        recorded.without.clear(), recorded.graph.clear()
        plan = bptt.exact(recorded, x, loss=lambda outputs, steps: outputs.square().sum(), memory=memory).plan
        pieces = -(-self.LONG // plan.segment)
        first_plan = len(recorded.graph) - pieces
        assert first_plan <= seen[1]
        assert sum(recorded.graph[first_plan:]) == self.LONG  # with a graph each step once
        assert len(recorded.without) - first_plan == bptt._advances(pieces, plan.kept)
        assert plan.recomputed == pytest.approx(sum(recorded.without[first_plan:]) / self.LONG)
        assert plan.kept < pieces  # the state before each but the first; more there is not

    @pytest.mark.parametrize(
        ("total", "step_bytes", "kept_bytes", "room"), [(1000, 90, 1000, 3_000), (10_000, 10, 100, 500), (100, 90, 100, 20_000)]
    )
    def test_no_length_of_segments_is_much_faster(self, total: int, step_bytes: int, kept_bytes: int, room: int) -> None:
        measured = {steps: 500 + step_bytes * steps for steps in (1, 2, 4, 8, 16, 32, 64)}

        def steps_run(segment: int, kept: int) -> int:  # forwards and back counts three, a call as eight steps
            segments = -(-total // segment)
            return (bptt._advances(segments, min(kept, segments - 1)) + 3 * segments) * (segment + 8)

        memory = measured[1] + room
        plan = bptt._fastest(total, memory, kept_bytes, measured)
        possible = [(n, (memory - bptt._need(n, measured)) // kept_bytes) for n in range(1, total + 1)]
        least = min(steps_run(segment, kept) for segment, kept in possible if kept >= 0)
        assert steps_run(plan.segment, plan.kept) <= 1.2 * least

    def test_no_placing_of_kept_states_needs_fewer_runs(self) -> None:
        @functools.cache
        def least(pieces: int, free: int) -> int:
            if free == 0:
                return pieces * (pieces - 1) // 2
            strides = range(1, pieces)
            return min((k + least(pieces - k, free - 1) + least(k, free) for k in strides), default=0)

        def ours(pieces: int, free: int) -> int:
            if pieces == 1:
                return 0
            k = bptt._stride(pieces, free)
            return k + (ours(pieces - k, free - 1) if free else 0) + ours(k, free)

        for pieces in range(1, 40):
            for free in range(9):
                assert least(pieces, free) == bptt._advances(pieces, free) == ours(pieces, free)

    def test_pieces_come_from_a_function_or_another_axis(self) -> None:
        layer = unrolled.LSTM(I, H, batch_first=True, dtype=torch.float64)
        x = self.inputs().detach().transpose(0, 1)
        layer(x)[0].square().sum().backward()
        expected = gradients(layer.parameters())
        options = {"loss": lambda outputs, steps: outputs.square().sum(), "memory": 20_000}
        for inputs, how in [(x, {"dim": 1}), (lambda steps: x[:, steps], {"steps": self.LONG})]:
            plan = bptt.exact(layer, inputs, **options, **how).plan
            assert plan.segment < self.LONG
            for got, want in zip(gradients(layer.parameters()), expected, strict=True):
                assert_same(got, want)

    def test_a_whole_model_over_tokens_with_a_learned_initial_state(self) -> None:
        table, layer, decoder = torch.nn.Embedding(9, I), unrolled.GRU(I, H), torch.nn.Linear(H, 9)
        model = torch.nn.ModuleList([table, layer, decoder]).double()
        start = torch.nn.Parameter(torch.randn(1, 1, H, dtype=torch.float64))
        tokens, targets = torch.randint(9, (self.LONG, B)), torch.randint(9, (self.LONG, B))

        def forward(tokens, state):
            outputs, state = layer(table(tokens), state)
            return decoder(outputs), state

        def loss(logits, steps):
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[steps].flatten(), reduction="sum")

        everything = [start, *model.parameters()]
        loss(forward(tokens, start.expand(1, B, H).tanh())[0], slice(None)).backward()
        expected = gradients(everything)
        plan = bptt.exact(forward, tokens, start.expand(1, B, H).tanh(), loss=loss, memory=30_000).plan
        assert plan.segment < self.LONG
        for got, want in zip(gradients(everything), expected, strict=True):
            assert_same(got, want)

    @pytest.mark.parametrize("last", [True, False])
    def test_a_loss_at_one_end_only_reaches_all_that_it_depends_on(self, layer, last: bool) -> None:
        x = self.inputs()
        layer(x)[0][-1 if last else 0].sum().backward()
        expected = gradients([x, *layer.parameters()])
        memory = 2 * self.least(layer, x)
        bptt.exact(
            layer,
            x,
            loss=lambda outputs, steps: (
                outputs[-1 if last else 0].sum() if (steps.stop == self.LONG if last else steps.start == 0) else torch.zeros(())
            ),
            memory=memory,
        )
        for got, want in zip(gradients([x, *layer.parameters()]), expected, strict=True):
            assert_same(got, want)

    def test_gradients_are_added_to_those_there_are(self, layer) -> None:
        x = self.inputs()
        options = {"loss": lambda outputs, steps: outputs.square().sum(), "memory": 50_000}
        bptt.exact(layer, x, **options)
        once = [parameter.grad.clone() for parameter in layer.parameters()]
        bptt.exact(layer, x, **options)
        for parameter, want in zip(layer.parameters(), once, strict=True):
            assert_same(parameter.grad, 2 * want)

    def test_autocast_reaches_the_weights(self) -> None:
        layer = torch.nn.Linear(I, H)
        x = torch.randn(self.LONG, B, I)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            bptt.exact(lambda x, s: (layer(x), s), x, loss=lambda outputs, _: outputs.float().sum(), memory=8_000)
        assert_same(layer.bias.grad, torch.full((H,), float(self.LONG * B)))

    def test_thousands_of_segments_do_not_nest(self) -> None:
        layer = unrolled.RNN(1, 1)
        x = torch.randn(3000, 1, 1)
        memory = self.least(layer, x) + 3000 * 6000
        bptt._fastest, whole = lambda *_: bptt.Plan(1, 2999, 1, memory), bptt._fastest
        try:
            bptt.exact(layer, x, loss=lambda outputs, steps: outputs.sum(), memory=memory)
        finally:
            bptt._fastest = whole
        assert layer.weight_ih_l0.grad is not None

    def test_steps_must_be_known_once(self, layer) -> None:
        x = self.inputs()
        options = {"loss": lambda outputs, steps: outputs.sum(), "memory": 10**6}
        with pytest.raises(ValueError, match="inputs of type function and steps=None"):
            bptt.exact(layer, lambda steps: x[steps], **options)
        with pytest.raises(ValueError, match="inputs of type Tensor and steps=3"):
            bptt.exact(layer, x, steps=3, **options)
        with pytest.raises(ValueError, match="at least one step, got 0"):
            bptt.exact(layer, x[:0], **options)
