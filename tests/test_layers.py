"""The layers against torch.nn's, against the cells, and in what torch.nn's cannot do."""

import copy
import itertools
import pickle
import shutil

import pytest
import torch
from tests.tolerance import assert_same
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import unrolled
from unrolled.kernels import fused
from unrolled.layers import State, plain_recurrence, recurrence, way_to_compute
from unrolled.regularised import NOTHING

T, B, I, H = 5, 3, 4, 7
KINDS = {
    "rnn": (unrolled.RNN, nn.RNN, {}),
    "relu": (unrolled.RNN, nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (unrolled.LSTM, nn.LSTM, {}),
    "projected": (unrolled.LSTM, nn.LSTM, {"proj_size": 3}),
    "gru": (unrolled.GRU, nn.GRU, {}),
}
VARIANTS = [
    {},
    {"bidirectional": True},
    {"num_layers": 2, "batch_first": True},
    {"num_layers": 2, "bidirectional": True, "bias": False},
]


def twins(kind: str, dtype: torch.dtype = torch.float64, **variant):
    """One of our layers and torch's with the same weights."""
    ours, theirs, extra = KINDS[kind]
    theirs = theirs(I, H, **extra, **variant).to(dtype)
    ours = ours(I, H, **extra, **variant).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def flat(result) -> list[torch.Tensor]:
    output, state = result
    return [output, *(state if isinstance(state, tuple) else (state,))]


def assert_all_same(got, want) -> None:
    for one, other in zip(got, want, strict=True):
        assert_same(one, other)


def initial_state(layer) -> torch.Tensor | tuple[torch.Tensor, ...]:
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    h = torch.randn(count, B, layer.proj_size or H, dtype=torch.float64)
    return (h, torch.randn(count, B, H, dtype=torch.float64)) if layer.mode == "LSTM" else h


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
class TestAgainstTorch:
    def test_answers_and_gradients(self, kind: str, variant: dict) -> None:
        ours, theirs = twins(kind, **variant)
        x = torch.randn(*((B, T, I) if ours.batch_first else (T, B, I)), dtype=torch.float64, requires_grad=True)
        for hx in (None, initial_state(ours)):
            got, want = flat(ours(x, hx)), flat(theirs(x, hx))
            assert_all_same(got, want)
            ours_inputs, their_inputs = [x, *ours.parameters()], [x, *theirs.parameters()]
            scale = [torch.randn_like(part) for part in want]
            assert_all_same(torch.autograd.grad(got, ours_inputs, scale), torch.autograd.grad(want, their_inputs, scale))

    def test_packed_sequences(self, kind: str, variant: dict) -> None:
        ours, theirs = twins(kind, **variant)
        pieces = [torch.randn(length, I, dtype=torch.float64) for length in (2, 5, 3)]
        for packed in (
            pack_sequence(pieces, enforce_sorted=False),
            pack_sequence(sorted(pieces, key=len, reverse=True)),
        ):
            got, want = ours(packed, initial := initial_state(ours)), theirs(packed, initial)
            assert_same(got[0].data, want[0].data)
            assert_all_same(flat(got)[1:], flat(want)[1:])
            assert_same(pad_packed_sequence(got[0])[0], pad_packed_sequence(want[0])[0])

    def test_lengths_are_packing(self, kind: str, variant: dict) -> None:
        ours, theirs = twins(kind, **variant)
        x = torch.randn(*((B, T, I) if ours.batch_first else (T, B, I)), dtype=torch.float64)
        lengths, hx = torch.tensor([2, 5, 3]), initial_state(ours)
        packed = pack_padded_sequence(x, lengths, batch_first=ours.batch_first, enforce_sorted=False)
        output, state = theirs(packed, hx)
        output, _ = pad_packed_sequence(output, batch_first=ours.batch_first)
        assert_all_same(flat(ours(x, hx, lengths=lengths)), flat((output, state)))

    def test_unbatched_input(self, kind: str, variant: dict) -> None:
        ours, theirs = twins(kind, **variant)
        x = torch.randn(T, I, dtype=torch.float64)
        assert_all_same(flat(ours(x)), flat(theirs(x)))

    def test_same_seed_same_initial_weights(self, kind: str, variant: dict) -> None:
        made = []
        for maker in KINDS[kind][:2]:
            torch.manual_seed(7)
            made.append(maker(I, H, **KINDS[kind][2], **variant))
        ours, theirs = made
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
        assert repr(ours) == repr(theirs)
        assert [[tuple(w.shape) for w in one] for one in ours.all_weights] == [
            [tuple(w.shape) for w in one] for one in theirs.all_weights
        ]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
class TestFusedAgainstDefinition:
    """`recurrence` (what layers run) against `plain_recurrence` (the cells in a loop)."""

    def run(self, kind: str, reverse: bool, lengths, resets=None) -> None:
        layer, _ = twins(kind)
        weights, w_hr = layer._weights("_l0")
        x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
        hx = initial_state(layer)
        state = State(*(part[0] for part in (hx if isinstance(hx, tuple) else (hx,))))
        results = []
        for compute in (recurrence, plain_recurrence):
            one = compute(layer.mode, x, state, weights, w_hr, lengths=lengths, resets=resets, reverse=reverse)
            values = [one.output, *(part for part in one.last if part is not None)]
            loss = sum((value * (1 + k)).square().sum() for k, value in enumerate(values))
            results.append([*values, *torch.autograd.grad(loss, [x, *layer.parameters()])])
        assert_all_same(*results)

    def test_whole_sequences(self, kind: str, reverse: bool) -> None:
        self.run(kind, reverse, None)

    def test_lengths_with_zero(self, kind: str, reverse: bool) -> None:
        self.run(kind, reverse, torch.tensor([0, 5, 3]))

    def test_resets(self, kind: str, reverse: bool) -> None:
        self.run(kind, reverse, torch.tensor([4, 5, 0]), torch.rand(T, B) < 0.4)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
class TestBeyondTorch:
    def test_padding_does_not_change_the_result(self, kind: str, variant: dict) -> None:
        layer, _ = twins(kind, **variant)
        x = torch.randn(B, T, I, dtype=torch.float64)
        lengths = torch.tensor([0, 5, 2])
        time_first = (lambda z: z) if layer.batch_first else (lambda z: z.transpose(0, 1))
        one, two = x.clone(), x.clone()
        for b, length in enumerate(lengths):
            two[b, length:] = float("nan")
        results = [flat(layer(time_first(x), lengths=lengths)) for x in (one, two)]
        assert_all_same(*results)
        gradients = [torch.autograd.grad(sum(r.square().sum() for r in result), layer.parameters()) for result in results]
        assert_all_same(*gradients)

    def test_a_sequence_of_length_zero_leaves_the_state(self, kind: str, variant: dict) -> None:
        layer, _ = twins(kind, **variant)
        hx = initial_state(layer)
        x = torch.randn(*((B, T, I) if layer.batch_first else (T, B, I)), dtype=torch.float64)
        output, state = layer(x, hx, lengths=torch.zeros(B, dtype=torch.int64))
        assert not output.any()
        assert_all_same(flat((output, state))[1:], flat((output, hx))[1:])

    def test_resets_equal_running_the_pieces_apart(self, kind: str, variant: dict) -> None:
        layer, _ = twins(kind, **{**variant, "num_layers": 1})
        x = torch.randn(*((B, T, I) if layer.batch_first else (T, B, I)), dtype=torch.float64)
        time = 1 if layer.batch_first else 0
        resets = torch.zeros(T, B, dtype=torch.bool)
        if layer.bidirectional:  # the second direction reads from the end: its cut before step 1 is the first's before 2
            return
        resets[2] = True
        whole, _ = layer(x, resets=resets.T if layer.batch_first else resets)
        first, _ = layer(x.narrow(time, 0, 2))
        second, _ = layer(x.narrow(time, 2, T - 2))
        assert_same(whole, torch.cat([first, second], dim=time))

    def test_steps_give_the_sequence(self, kind: str, variant: dict) -> None:
        layer, _ = twins(kind, **{**variant, "bidirectional": False})
        x = torch.randn(T, B, I, dtype=torch.float64)
        expected = layer(x.transpose(0, 1) if layer.batch_first else x)
        state, outputs = None, []
        for x_t in x:
            output, state = layer.step(x_t, state)
            outputs.append(output)
        stacked = torch.stack(outputs, dim=1 if layer.batch_first else 0)
        assert_all_same(flat((stacked, state)), flat(expected))
        output, state = layer.step(x[0, 0])
        assert_same(output, outputs[0][0])
        ids, table = torch.randint(9, (B,)), torch.randn(9, I, dtype=torch.float64)
        assert_all_same(flat(layer.step(ids, embedding=table)), flat(layer.step(table[ids])))
        assert_all_same(flat(layer.step(ids[0], embedding=table)), flat(layer.step(table[ids[0]])))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
class TestTokens:
    """Integers are rows of an embedding, or one-hot vectors."""

    def test_tokens_are_their_embedding(self, kind: str, variant: dict) -> None:
        layer, _ = twins(kind, **variant)
        table = torch.randn(9, I, dtype=torch.float64, requires_grad=True)
        ids = torch.randint(9, (B, T) if layer.batch_first else (T, B))
        lengths, resets = torch.tensor([0, 5, 2]), torch.rand(ids.shape) < 0.3
        for how in ({}, {"lengths": lengths}, {"lengths": lengths, "resets": resets}):
            inputs = [table, *layer.parameters()]
            got, want = flat(layer(ids, embedding=table, **how)), flat(layer(table[ids], **how))
            assert_all_same(got, want)
            scale = [torch.randn_like(part) for part in want]
            assert_all_same(torch.autograd.grad(got, inputs, scale), torch.autograd.grad(want, inputs, scale))
        assert_all_same(flat(layer(ids[0], embedding=table)), flat(layer(table[ids[0]])))

    def test_tokens_without_an_embedding_are_one_hot(self, kind: str, variant: dict) -> None:
        layer, _ = twins(kind, **variant)
        ids = torch.randint(I, (B, T) if layer.batch_first else (T, B))
        vectors = nn.functional.one_hot(ids, I).double()
        assert_all_same(flat(layer(ids)), flat(layer(vectors)))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
class TestInside:
    def test_states_of_every_step_are_those_that_shorter_runs_end_in(self, kind: str, variant: dict) -> None:
        layer, _ = twins(kind, **variant)
        x = torch.randn(T, B, I, dtype=torch.float64)
        every = layer.states(x.transpose(0, 1) if layer.batch_first else x)
        time = 1 if layer.batch_first else 0
        for t in range(T):
            part = x[: t + 1]
            _, last = layer(part.transpose(0, 1) if layer.batch_first else part)
            for part_number, whole in enumerate(last if isinstance(last, tuple) else (last,)):
                if layer.bidirectional:  # the second direction has read more by then; its last step is the first
                    assert_same(every[0][part_number].select(time, t), whole[0])
                else:
                    for k, state in enumerate(every):
                        assert_same(state[part_number].select(time, t), whole[k])

    def test_gradient_norms_are_those_of_the_states_gradients(self, kind: str, variant: dict) -> None:
        """Against autograd asked for the gradient of each state in a chain of the cell's single steps."""
        layer, _ = twins(kind, **{**variant, "num_layers": 1, "bidirectional": False, "batch_first": False})
        x, resets = torch.randn(T, B, I, dtype=torch.float64), torch.rand(T, B) < 0.3
        scale = torch.randn(T, B, layer.proj_size or H, dtype=torch.float64)
        norms = torch.full((1, 2, T, B), -1.0)
        output, _ = layer(x, resets=resets, gradient_norms=norms)
        (output * scale).sum().backward()
        zeros = torch.zeros(B, layer.proj_size or H, dtype=torch.float64), torch.zeros(B, H, dtype=torch.float64)
        state, seen, loss = State(*zeros[: layer._parts]), [], torch.zeros((), dtype=torch.float64)
        for t in range(T):
            one = plain_recurrence(layer.mode, x[t : t + 1], state, *layer._weights("_l0"), resets=resets[t : t + 1])
            state = one.last
            seen.append([part for part in state if part is not None])
            loss = loss + (state.h * scale[t]).sum()
        for t, parts in enumerate(seen):
            for k, gradient in enumerate(torch.autograd.grad(loss, parts, retain_graph=True, allow_unused=True)):
                expected = torch.zeros(B) if gradient is None else gradient.norm(dim=-1).float()
                torch.testing.assert_close(norms[0, k, t], expected, rtol=1e-5, atol=1e-6)
        if layer.mode != "LSTM":
            assert not norms[0, 1].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_follow_torch(kind: str, dtype: torch.dtype) -> None:
    ours, theirs = twins(kind, dtype)
    x = torch.randn(T, B, I).to(dtype)
    assert_all_same(flat(ours(x)), flat(theirs(x)))
    assert ours(x)[0].dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_empty_batch_and_single_step(kind: str) -> None:
    ours, theirs = twins(kind)
    one = torch.randn(1, B, I, dtype=torch.float64)
    assert_all_same(flat(ours(one)), flat(theirs(one)))
    output, state = ours(torch.empty(T, 0, I, dtype=torch.float64))
    assert output.shape == (T, 0, ours.proj_size or H)
    assert flat((output, state))[1].shape == (1, 0, ours.proj_size or H)
    output, state = ours(torch.empty(0, B, I, dtype=torch.float64))
    assert output.shape == (0, B, ours.proj_size or H)


@pytest.mark.parametrize("kind", KINDS)
def test_copy_and_pickle_keep_the_layer(kind: str) -> None:
    ours, _ = twins(kind, num_layers=2)
    x = torch.randn(T, B, I, dtype=torch.float64)
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert_all_same(flat(copied(x)), flat(ours(x)))


@pytest.mark.parametrize("kind", ["rnn", "relu", "lstm", "gru"])
def test_steps_without_gradients_follow_the_weights_as_they_change(kind: str) -> None:
    """There the streaming engine keeps a packed copy of the weights."""
    layer, _ = twins(kind, torch.float32, num_layers=2)
    x = torch.randn(T, B, I)

    def by_steps() -> list[torch.Tensor]:
        with torch.no_grad():
            state, outputs = None, []
            for x_t in x:
                output, state = layer.step(x_t, state)
                outputs.append(output)
            return flat((torch.stack(outputs), state))

    assert_all_same(by_steps(), flat(layer(x)))
    with torch.no_grad():
        layer.weight_hh_l1.mul_(0.5)
    assert_all_same(by_steps(), flat(layer(x)))
    layer.load_state_dict(twins(kind, torch.float32, num_layers=2)[0].state_dict())
    assert_all_same(by_steps(), flat(layer(x)))
    layer = copy.deepcopy(pickle.loads(pickle.dumps(layer)))
    assert_all_same(by_steps(), flat(layer(x)))
    with pytest.raises(RuntimeError, match="width 4"), torch.no_grad():
        layer.step(torch.zeros(B, 9))


class Tagger(nn.Module):
    """A layer amid others, given all that it takes."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.encoder, self.layer, self.decoder = nn.Embedding(11, I), layer, nn.Linear(2 * H, 6)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor, resets: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.layer(ids, lengths=lengths, resets=resets, embedding=self.encoder.weight)[0].relu())


@pytest.fixture(params=["rnn", "lstm", "gru"])
def tagger(request) -> Tagger:
    return Tagger(twins(request.param, torch.float32, bidirectional=True)[0])


def batch(steps: int) -> tuple[torch.Tensor, ...]:
    return torch.randint(11, (steps, B)), torch.tensor([steps, 0, 3]), torch.rand(steps, B) < 0.3


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles with g++, which is not here")
def test_a_model_compiled_by_inductor_trains_to_the_same(tagger: Tagger) -> None:
    twin, inputs = copy.deepcopy(tagger), batch(T)
    for step in (torch.compile(tagger, fullgraph=True), twin):  # fullgraph: a graph break would be an error
        optimizer = torch.optim.SGD(getattr(step, "_orig_mod", step).parameters(), lr=0.1)
        for _ in range(3):
            step(*inputs).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_all_same(tagger.parameters(), twin.parameters())


def test_an_exported_model_takes_any_number_of_steps(tagger: Tagger) -> None:
    steps = torch.export.Dim("steps", min=2, max=100)
    axes = {"ids": {0: steps}, "lengths": None, "resets": {0: steps}}
    program = torch.export.export(tagger, batch(T), dynamic_shapes=axes)
    inputs = batch(2 * T)
    assert_same(program.module()(*inputs), tagger(*inputs))


def test_integers_of_any_width_do_for_ids_and_lengths() -> None:
    layer, table = unrolled.GRU(I, H), torch.randn(9, I)
    ids, lengths = torch.randint(9, (T, B)), torch.tensor([5, 0, 2])
    expected = flat(layer(ids, lengths=lengths, embedding=table))
    for dtype in (torch.int8, torch.int16, torch.int32):
        assert_all_same(flat(layer(ids.to(dtype), lengths=lengths.to(dtype), embedding=table)), expected)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_sizes_beyond_32_bits_work_or_are_refused(kind: str) -> None:
    layer, _ = twins(kind, torch.float32)
    long = torch.zeros(1, 1, I).expand(2**31 + 5, 0, I)
    assert layer(long)[0].shape == (2**31 + 5, 0, layer.hidden_size)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"memory|Storage size calculation overflowed"):
        layer(torch.zeros(1, 1, I).expand(2**42, 2, I))


def test_dropout_acts_between_layers_in_training_only() -> None:
    layer = unrolled.LSTM(I, H, num_layers=2, dropout=0.5)
    x = torch.randn(T, B, I)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    torch.manual_seed(3)
    first = layer(x)[0]
    torch.manual_seed(3)
    assert torch.equal(layer(x)[0], first)
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    layer.dropout = 1.0
    layer.train()
    silent, _ = unrolled.LSTM(H, H)(torch.zeros(T, B, H))
    assert layer(x)[0].shape == silent.shape


def test_positional_arguments_follow_torch() -> None:
    for ours, theirs, arguments in [
        (unrolled.RNN, nn.RNN, (I, H, 2, "relu", False, True, 0.1, True)),
        (unrolled.LSTM, nn.LSTM, (I, H, 2, False, True, 0.1, True, 3)),
        (unrolled.GRU, nn.GRU, (I, H, 2, False, True, 0.1, True)),
    ]:
        ours, theirs = ours(*arguments), theirs(*arguments)
        assert {name: w.shape for name, w in ours.named_parameters()} == {
            name: w.shape for name, w in theirs.named_parameters()
        }
        assert (ours.batch_first, ours.dropout, ours.mode) == (theirs.batch_first, theirs.dropout, theirs.mode)


def test_autocast_gives_bfloat16() -> None:
    layer, x = unrolled.GRU(I, H), torch.randn(T, B, I)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(layer(x)[0].float().to(torch.bfloat16), layer(x)[0].to(torch.bfloat16))
    assert layer(x)[0].dtype == torch.float32


class TestOtherDevices:
    """What can be said of CUDA without one: which way is chosen, what cuDNN is handed, and shapes on the meta device."""

    @pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
    def test_cudnn_serves_what_it_can_express(self, mode: str, dtype: torch.dtype) -> None:
        cuda = torch.device("cuda")
        for projected in (False, True):
            assert way_to_compute(mode, dtype, cuda, projected=projected, uncommon=False) == "torch"
            assert way_to_compute(mode, dtype, cuda, projected=projected, uncommon=True) == "plain"

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_way_gives_shapes_on_meta(self, kind: str) -> None:
        for variant in VARIANTS:
            layer, _ = twins(kind, **variant)
            x = torch.randn(*((B, T, I) if layer.batch_first else (T, B, I)), dtype=torch.float64)
            for how in ({}, {"lengths": torch.tensor([5, 0, 2])}, {"resets": torch.rand(x.shape[:2]) < 0.5}):
                expected = [part.shape for part in flat(layer(x, **how))]
                there = {name: value.to("meta") for name, value in how.items()}
                got = flat(copy.deepcopy(layer).to("meta")(x.to("meta"), **there))
                assert [part.shape for part in got] == expected
                assert all(part.device.type == "meta" for part in got)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("masks", [(), ("lengths",), ("resets",), ("lengths", "resets"), ("lengths", "resets", "start")])
    def test_torchs_operators_agree_with_the_definition(self, kind: str, reverse: bool, masks: tuple[str, ...]) -> None:
        """On CUDA these are cuDNN's; here the same calls run on the CPU, masks and all."""
        layer, _ = twins(kind)
        (w, w_hr), masked = layer._weights("_l0"), set(masks)
        for lengths, often in itertools.product(([4, 0, 5], [5, 1, 2], [0, 0, 3]), (0.0, 0.3, 1.0)):
            hx, begin = (initial_state(layer) for _ in range(2))
            state, start = (State(*(part[0] for part in (s if isinstance(s, tuple) else (s,)))) for s in (hx, begin))
            state = State(*(None if part is None else part.requires_grad_() for part in state))
            x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
            how = {"lengths": torch.tensor(lengths), "resets": torch.rand(T, B) < often}
            how = {name: how[name] for name in how if name in masked} | {"reverse": reverse}
            spoilt = x.detach().clone()  # a NaN behind the end reaches nothing
            if "lengths" in masked:
                spoilt[torch.arange(T)[:, None] >= how["lengths"]] = torch.nan
            spoilt.requires_grad_()
            weights = [weight for weight in (*w, w_hr) if weight is not None]
            begins = start if "start" in masked else (None, None)
            cut = fused.pieces(T, how.get("lengths"), how.get("resets"), reverse, x.device) if masked else None
            h, c = (None if part is None else part[None] for part in state)
            got = fused.run(layer.mode, spoilt, h, c, [weights], cut=cut, reverse=reverse, start=begins)
            got = (got[0], *(None if part is None else part[0] for part in got[1:]))
            regularised = NOTHING._replace(start=begins)
            output, last, _ = plain_recurrence(layer.mode, x, state, w, w_hr, **how, regularised=regularised)
            got, want = ([one for one in parts if one is not None] for parts in (got, (output, *last)))
            assert_all_same(got, want)
            scale = [torch.randn_like(part) for part in want]
            inputs = [part for part in (*state, *weights) if part is not None]
            gradients = torch.autograd.grad(got, [spoilt, *inputs], scale, allow_unused=True, materialize_grads=True)
            assert_all_same(
                gradients, torch.autograd.grad(want, [x, *inputs], scale, allow_unused=True, materialize_grads=True)
            )

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("variant", VARIANTS, ids=str)
    @pytest.mark.parametrize("batch_sizes", [None, torch.tensor([3, 2, 2, 1])])
    def test_what_stands_for_cudnns_gradients_where_they_are_differentiated(
        self, kind: str, variant: dict, batch_sizes
    ) -> None:
        layer, _ = twins(kind, **variant)
        hx, weights = initial_state(layer), [weight for one in layer.all_weights for weight in one]
        h0 = [part.requires_grad_() for part in (hx if isinstance(hx, tuple) else (hx,))]
        x = torch.randn(*((T, B, I) if batch_sizes is None else (8, I)), dtype=torch.float64, requires_grad=True)
        inputs, stack = [x, *weights, *h0], fused._Stack(layer.mode, layer.num_layers, layer.bidirectional)
        results = fused._operator(stack, x, batch_sizes, h0, weights)
        scale = [torch.randn_like(part).requires_grad_() for part in results]
        arrived = (*scale, None, None)  # as cuDNN's node meets them
        want = torch.autograd.grad(results, inputs, scale, create_graph=True)
        hook = fused._second_derivatives(stack, x, batch_sizes, h0, weights)
        with torch.no_grad():
            assert hook(want, arrived) is None
        got = hook((want[0], None, *want[2:], None), arrived)  # the second input needs none, and cuDNN has one edge more
        assert (got[1], got[-1], len(got)) == (None, None, len(want) + 1)
        kept = [number for number in range(len(want)) if number != 1]
        assert_all_same([got[number] for number in kept], [want[number] for number in kept])
        inner = [torch.randn_like(want[number]) for number in kept]
        second = [
            torch.autograd.grad([gradients[number] for number in kept], [*inputs, *scale], inner) for gradients in (got, want)
        ]
        assert_all_same(*second)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("variant", VARIANTS, ids=str)
    @pytest.mark.parametrize("masks", [(), ("lengths",), ("resets",), ("lengths", "resets")])
    def test_all_layers_at_once_are_one_after_the_other(self, kind: str, variant: dict, masks, monkeypatch) -> None:
        monkeypatch.setattr("unrolled.kernels.supports", lambda *_: False)
        layer, _ = twins(kind, **variant)
        runs, once = [], layer._run_at_once
        calls = []
        x = torch.randn(*((B, T, I) if layer.batch_first else (T, B, I)), dtype=torch.float64, requires_grad=True)
        how = {"lengths": torch.tensor([4, 0, 5]), "resets": torch.rand(x.shape[:2]) < 0.3}
        how, hx = {name: how[name] for name in masks}, initial_state(layer)
        monkeypatch.setattr(layer, "_run_at_once", lambda *arguments: calls.append(1) or once(*arguments))
        for at_once in (True, False):
            if not at_once:
                monkeypatch.setattr(layer, "_may_go_at_once", lambda *_, **__: False)
            results = flat(layer(x, hx, **how))
            runs.append([*results, *torch.autograd.grad(sum(part.sin().sum() for part in results), [x, *layer.parameters()])])
        assert_all_same(*runs)
        assert len(calls) == (layer.num_layers * layer.num_directions > 1 and not ("resets" in masks and layer.bidirectional))

    @pytest.mark.parametrize("autocast", [False, True])
    def test_onednn_where_it_has_a_matrix_unit_gives_the_same(self, monkeypatch: pytest.MonkeyPatch, autocast: bool) -> None:
        layer, calls, run = unrolled.LSTM(I, H, num_layers=2, bidirectional=True), [], fused.run
        monkeypatch.setattr(fused, "run", lambda *a, **k: calls.append(1) or run(*a, **k))
        x = torch.randn(T, 16, I)
        layer, x = (layer, x) if autocast else (layer.bfloat16(), x.bfloat16())
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            want = layer(x)
            monkeypatch.setattr("unrolled.kernels.native.has_amx", True)
            got = layer(x)
            assert len(calls) == 4
            assert_all_same(flat(got), flat(want))
            assert all(part.dtype == torch.bfloat16 for part in flat(got))
            assert_all_same(flat(layer(x, lengths=torch.full((16,), T))), flat(want))
            layer(x[:, :15])
        layer(x)
        assert len(calls) == 4  # neither lengths, nor few sequences, nor gradients

    def test_weights_are_laid_out_for_cudnn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layer, calls = unrolled.LSTM(I, H, num_layers=2, bidirectional=True, proj_size=3), []
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)
        monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
        monkeypatch.setattr(fused.cudnn_rnn, "get_cudnn_mode", lambda mode: 2)
        monkeypatch.setattr(torch, "_cudnn_rnn_flatten_weight", lambda *arguments: calls.append(arguments))
        layer.flatten_parameters()
        assert [(len(weights), *others) for weights, *others in calls] == [(20, 5, I, 2, H, 3, 2, False, True)]

    @pytest.mark.parametrize("bias", [False, True])
    def test_a_layer_of_a_stack_is_not_taken_for_one_piece(self, bias: bool) -> None:
        """Without biases PyTorch would: cuDNN read the next layer's weights as this one's biases."""
        sizes = [(3 * H * I), (3 * H * H), (3 * H * H), (3 * H * H)] + [3 * H] * 4
        memory = torch.zeros(sum(sizes)).split(sizes)  # as cuDNN has two layers: matrices, then biases
        first, second = (memory[0], memory[1].view(3 * H, H)), (memory[2], memory[3].view(3 * H, H))
        biases = (memory[4:6], memory[6:8]) if bias else ((), ())
        both = [*first, *biases[0], *second, *biases[1]]
        assert fused._are_one_piece(fused._Stack("GRU", 2, False), both)
        assert not fused._are_one_piece(fused._Stack("GRU", 1, False), [*first, *biases[0]])
        assert not fused._are_one_piece(fused._Stack("GRU", 1, False), [*second, *biases[1]])
        assert not fused._are_one_piece(fused._Stack("GRU", 2, False), [weight.clone() for weight in both])

    def test_neighbours_by_chance_are_not_taken_for_one_piece(self) -> None:
        """As CUDA's allocator lays out the weights of a small layer just made; PyTorch would copy them at every call."""
        memory = bytearray(4 * 100)
        apart = [torch.frombuffer(memory, dtype=torch.float32, count=25, offset=100 * k) for k in range(4)]
        together = torch.frombuffer(memory, dtype=torch.float32).split(25)
        assert [weight.data_ptr() for weight in apart] == [weight.data_ptr() for weight in together]
        assert fused._are_one_piece(fused._Stack("GRU", 1, False), together)
        assert not fused._are_one_piece(fused._Stack("GRU", 1, False), apart)


class TestErrors:
    """Each wrong call raises what torch.nn raises, and says what, expected, received."""

    def same_error(self, kind: str, text: str, *arguments, **variant) -> None:
        ours, theirs = twins(kind, torch.float32, **variant)
        with pytest.raises((RuntimeError, ValueError)) as their_error:
            theirs(*arguments)
        with pytest.raises(their_error.type, match=text):
            ours(*arguments)

    @pytest.mark.parametrize("value", [torch.randn(3, 2, 4).numpy(), [[1.0]], None], ids=["array", "list", "None"])
    def test_what_is_no_tensor(self, value) -> None:
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients), pytest.raises(TypeError, match="RNN expected input to be a tensor"):
                unrolled.RNN(4, 5)(value)
            with torch.set_grad_enabled(gradients), pytest.raises(TypeError, match="RNN expected x_t to be a tensor"):
                unrolled.RNN(4, 5).step(value)

    def test_width(self) -> None:
        self.same_error("lstm", r"LSTM expected input of width 4 \(input_size\), got \(T=5, B=3, I=9\)", torch.zeros(T, B, 9))

    def test_width_with_a_layout_hint(self) -> None:
        self.same_error("gru", r"got \(B=4, T=5, I=3\)\. Is it laid out", torch.zeros(I, T, B), batch_first=True)

    def test_axes(self) -> None:
        self.same_error("rnn", "2D or 3D, got 4D", torch.zeros(1, 1, 1, I))

    def test_dtype(self) -> None:
        self.same_error("lstm", "dtype torch.float32.*got torch.float64", torch.zeros(T, B, I, dtype=torch.float64))

    def test_state_shape(self) -> None:
        text = r"h_0 of shape \(1, 3, 7\).*got \(1, 2, 7\)"
        self.same_error("gru", text, torch.zeros(T, B, I), torch.zeros(1, 2, H))

    def test_state_axes_of_unbatched_input(self) -> None:
        self.same_error("gru", r"shape \(1, 7\)", torch.zeros(T, I), torch.zeros(1, 1, H))

    def test_lstm_wants_a_pair(self) -> None:
        with pytest.raises(RuntimeError, match=r"pair \(h_0, c_0\), got a tensor"):
            unrolled.LSTM(I, H)(torch.zeros(T, B, I), torch.zeros(1, B, H))

    @pytest.mark.parametrize(
        ("lengths", "text"),
        [
            (torch.tensor([1.0, 2.0, float("nan")]), "integers of shape"),
            (torch.tensor([1, 2]), r"shape \(B=3,\), got a tensor of shape \(2,\)"),
            (torch.tensor([1, 2, 6]), "from 0 to T=5, got values from 1 to 6"),
            (torch.tensor([1, -2, 5]), "got values from -2 to 5"),
        ],
    )
    def test_lengths(self, lengths: torch.Tensor, text: str) -> None:
        with pytest.raises(ValueError, match=text):
            unrolled.LSTM(I, H)(torch.zeros(T, B, I), lengths=lengths)

    @pytest.mark.parametrize("resets", [torch.zeros(T, B), torch.zeros(T, B + 1, dtype=torch.bool)])
    def test_resets(self, resets: torch.Tensor) -> None:
        with pytest.raises(ValueError, match=r"booleans for every step and sequence, \(T=5, B=3\), got a tensor"):
            unrolled.GRU(I, H)(torch.zeros(T, B, I), resets=resets)

    def test_lengths_that_are_no_tensor(self) -> None:
        with pytest.raises(ValueError, match=r"integers of shape .*got a list of 2"):
            unrolled.GRU(I, H)(torch.zeros(T, B, I), lengths=[5, 2])

    @pytest.mark.parametrize("name", ["lengths", "resets", "embedding", "gradient_norms"])
    def test_packed_sequences_take_nothing_beside_them(self, name: str) -> None:
        packed = pack_sequence([torch.zeros(2, I)])
        with pytest.raises(ValueError, match="with a padded tensor, got one of them with a PackedSequence"):
            unrolled.GRU(I, H)(packed, **{name: torch.zeros(1)})

    def test_token_ids_outside_the_table(self) -> None:
        with pytest.raises(ValueError, match="from 0 to 3, got ids from 0 to 4"):
            unrolled.GRU(I, H)(torch.tensor([[0], [4]]))
        with pytest.raises(ValueError, match="from 0 to 8, got ids from -1 to 0"):
            unrolled.GRU(I, H)(torch.tensor([[0], [-1]]), embedding=torch.zeros(9, I))

    def test_embedding_of_another_width(self) -> None:
        with pytest.raises(ValueError, match=r"embedding of shape \(V, input_size=4\), got a tensor of shape \(9, 5\)"):
            unrolled.GRU(I, H)(torch.tensor([[0]]), embedding=torch.zeros(9, 5))

    def test_embedding_of_another_dtype(self) -> None:
        with pytest.raises(ValueError, match=r"embedding of dtype torch.float32.*got torch.float64"):
            unrolled.GRU(I, H)(torch.zeros(T, B, dtype=torch.int64), embedding=torch.zeros(9, I, dtype=torch.float64))

    @pytest.mark.parametrize("argument", ["hx", "lengths", "resets", "gradient_norms"])
    def test_what_lies_on_another_device(self, argument: str) -> None:
        given = {
            "hx": torch.zeros(1, B, H),
            "lengths": torch.full((B,), T),
            "resets": torch.zeros(T, B, dtype=torch.bool),
            "gradient_norms": torch.zeros(1, 2, T, B),
        }
        with pytest.raises(ValueError, match=r"on cpu, where the (weights are|input is), got .*meta"):
            unrolled.GRU(I, H)(torch.zeros(T, B, I), **{argument: given[argument].to("meta")})

    def test_state_of_another_dtype(self) -> None:
        with pytest.raises(ValueError, match=r"h0 of torch.float32, the dtype of the weights, got .* float64"):
            unrolled.GRU(I, H)(torch.zeros(T, B, I), torch.zeros(1, B, H, dtype=torch.float64))

    def test_gradient_norms_of_another_shape(self) -> None:
        with pytest.raises(ValueError, match=r"gradient_norms expected shape \(1, 2, 5, 3\)"):
            unrolled.GRU(I, H)(torch.zeros(T, B, I), gradient_norms=torch.zeros(T, B))

    @pytest.mark.parametrize(
        "arguments",
        [
            {"input_size": 0},
            {"hidden_size": -1},
            {"hidden_size": 2.5},
            {"num_layers": 0},
            {"dropout": 1.5},
            {"bias": 1},
            {"proj_size": 9},
        ],
        ids=str,
    )
    def test_constructor(self, arguments: dict) -> None:
        given = {"input_size": I, "hidden_size": H, **arguments}
        with pytest.raises((TypeError, ValueError)) as theirs:
            nn.LSTM(**given)
        with pytest.raises(theirs.type, match=next(iter(arguments))):
            unrolled.LSTM(**given)

    def test_dropout_with_one_layer_warns(self) -> None:
        with pytest.warns(UserWarning, match="num_layers=1"):
            unrolled.LSTM(I, H, dropout=0.5)

    def test_a_stream_has_no_end_to_start_from(self) -> None:
        with pytest.raises(RuntimeError, match="bidirectional=True"):
            unrolled.LSTM(I, H, bidirectional=True).step(torch.zeros(B, I))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(5, 2, 3).to_sparse(), r"GRU expected a dense input, got torch.sparse_coo. Give it x.to_dense\(\)."),
        (torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)]), "got a nested tensor. Give it .* as lengths"),
    ],
)
def test_input_that_is_not_dense_is_refused_in_words(x, message):
    with pytest.raises(ValueError, match=message):
        unrolled.GRU(3, 4)(x)
