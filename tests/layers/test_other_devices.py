"""What can be said of CUDA without one: which way is chosen, what cuDNN is handed, and shapes on the meta device."""

import copy
import itertools

import pytest
import torch
from tests.layers.twins import KINDS, VARIANTS, B, H, I, T, assert_all_same, flat, initial_state, twins

import unrolled
from unrolled.kernels import cudnn_weights, definition, torch_rnn
from unrolled.kernels.packed_segments import pack_segments
from unrolled.options import NO_OPTIONS
from unrolled.recurrence import arguments, plan


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_cudnn_serves_what_it_can_express(kind: str, dtype: torch.dtype) -> None:
    """Asked of a call whose tensors say that they are on a GPU."""

    class OnCuda(torch.Tensor):
        device = torch.device("cuda")

    def chosen(layer, **more) -> str:
        call, _ = arguments.checked(layer, torch.randn(T, B, I, dtype=dtype), **more)
        call = call._replace(x=call.x.as_subclass(OnCuda))
        return next(backend.name for backend in plan.BACKENDS if backend.refuses(call) is None)

    one, stack = (twins(kind, dtype, num_layers=n, dropout=0.5 * (n == 2))[0] for n in (1, 2))
    assert chosen(one) == chosen(stack) == "torch, layer by layer"
    assert chosen(stack.eval()) == "torch, whole stack"
    assert chosen(stack, lengths=torch.tensor([1, 0, 2]), resets=torch.rand(T, B) < 0.5) == "torch, whole stack"
    assert chosen(stack, gradient_norms=torch.zeros(2, 2, T, B)) == "definition"
    assert chosen(stack, every_step=True) == ("definition" if "LSTM" in one.mode else "torch, layer by layer")


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_gives_shapes_on_meta(kind: str) -> None:
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
def test_torchs_operators_agree_with_the_definition(kind: str, reverse: bool, masks: tuple[str, ...]) -> None:
    """On CUDA these are cuDNN's; here the same calls run on the CPU, masks and all."""
    layer, _ = twins(kind)
    (w, w_hr), masked = layer.layer_weights()[0], set(masks)
    for lengths, often in itertools.product(([4, 0, 5], [5, 1, 2], [0, 0, 3]), (0.0, 0.3, 1.0)):
        hx, begin = (initial_state(layer) for _ in range(2))
        state, start = ([part[0] for part in (s if isinstance(s, tuple) else (s,))] for s in (hx, begin))
        state, start = ((*parts, None)[:2] for parts in ([part.requires_grad_() for part in state], start))
        x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
        how = {"lengths": torch.tensor(lengths), "resets": torch.rand(T, B) < often}
        how = {name: how[name] for name in how if name in masked} | {"reverse": reverse}
        spoilt = x.detach().clone()  # a NaN behind the end reaches nothing
        if "lengths" in masked:
            spoilt[torch.arange(T)[:, None] >= how["lengths"]] = torch.nan
        spoilt.requires_grad_()
        weights = [weight for weight in (*w, w_hr) if weight is not None]
        begins = start if "start" in masked else (None, None)
        packed = pack_segments(T, how.get("lengths"), how.get("resets"), reverse, x.device) if masked else None
        h, c = (None if part is None else part[None] for part in state)
        got = torch_rnn.run(layer.mode, spoilt, h, c, [weights], packed=packed, reverse=reverse, start=begins)
        got = (got[0], *(None if part is None else part[0] for part in got[1:]))
        options = NO_OPTIONS._replace(reset_to=begins)
        output, _, *last = definition.run(layer.mode, x, *state, w, w_hr, **how, options=options)
        got, want = ([one for one in parts if one is not None] for parts in (got, (output, *last)))
        assert_all_same(got, want)
        scale = [torch.randn_like(part) for part in want]
        inputs = [part for part in (*state, *weights) if part is not None]
        gradients = torch.autograd.grad(got, [spoilt, *inputs], scale, allow_unused=True, materialize_grads=True)
        assert_all_same(gradients, torch.autograd.grad(want, [x, *inputs], scale, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("batch_sizes", [None, torch.tensor([3, 2, 2, 1])])
def test_what_stands_for_cudnns_gradients_where_they_are_differentiated(kind: str, variant: dict, batch_sizes) -> None:
    layer, _ = twins(kind, **variant)
    hx, weights = initial_state(layer), [weight for one in layer.all_weights for weight in one]
    h0 = [part.requires_grad_() for part in (hx if isinstance(hx, tuple) else (hx,))]
    x = torch.randn(*((T, B, I) if batch_sizes is None else (8, I)), dtype=torch.float64, requires_grad=True)
    inputs, stack = [x, *weights, *h0], cudnn_weights.Stack(layer.mode, layer.num_layers, layer.bidirectional)
    results = torch_rnn._operator(stack, x, batch_sizes, h0, weights)
    scale = [torch.randn_like(part).requires_grad_() for part in results]
    arrived = (*scale, None, None)  # as cuDNN's node meets them
    want = torch.autograd.grad(results, inputs, scale, create_graph=True)
    hook = torch_rnn._second_derivatives(stack, x, batch_sizes, h0, weights)
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
def test_what_stands_for_cudnns_gradients_does_not_count_the_call_before_twice(kind: str) -> None:
    """A state that is carried over comes from the same weights: that way is the earlier call's."""
    layer, _ = twins(kind)
    weights, x = [weight for one in layer.all_weights for weight in one], torch.randn(T, B, I, dtype=torch.float64)
    state = layer(x)[1]
    h0 = list(state) if isinstance(state, tuple) else [state]
    stack = cudnn_weights.Stack(layer.mode, 1, False)
    own_h0, own_weights = ([t.detach().requires_grad_() for t in one] for one in (h0, weights))
    results = torch_rnn._operator(stack, x, None, own_h0, own_weights)
    scale = [torch.randn_like(part) for part in results]
    want = (None, *torch.autograd.grad(results, [*own_weights, *own_h0], scale))
    got = torch_rnn._second_derivatives(stack, x, None, h0, weights)(want, tuple(scale))
    assert got[0] is None
    assert_all_same(got[1:], want[1:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("masks", [(), ("lengths",), ("resets",), ("lengths", "resets")])
def test_all_layers_at_once_are_one_after_the_other(kind: str, variant: dict, masks) -> None:
    layer, _ = twins(kind, **variant)
    x = torch.randn(*((B, T, I) if layer.batch_first else (T, B, I)), dtype=torch.float64, requires_grad=True)
    how = {"lengths": torch.tensor([4, 0, 5]), "resets": torch.rand(x.shape[:2]) < 0.3}
    how, hx = {name: how[name] for name in masks}, initial_state(layer)
    backends, runs = {backend.name: backend for backend in plan.BACKENDS}, []
    call, _ = arguments.checked(layer, x, hx, **how)
    refused = backends["torch, whole stack"].refuses(call)
    assert bool(refused) == (layer.num_layers * layer.num_directions == 1 or ("resets" in masks and layer.bidirectional))
    for name in ("torch, layer by layer", "torch, layer by layer" if refused else "torch, whole stack"):
        output, state, _ = backends[name].run(call)
        results = [output, *state]
        runs.append([*results, *torch.autograd.grad(sum(part.sin().sum() for part in results), [x, *layer.parameters()])])
    assert_all_same(*runs)


@pytest.mark.parametrize("autocast", [False, True])
def test_onednn_where_it_has_a_matrix_unit_gives_the_same(monkeypatch: pytest.MonkeyPatch, autocast: bool) -> None:
    layer, calls, run = unrolled.LSTM(I, H, num_layers=2, bidirectional=True), [], torch_rnn.run
    monkeypatch.setattr(torch_rnn, "run", lambda *a, **k: calls.append(1) or run(*a, **k))
    x = torch.randn(T, 16, I)
    layer, x = (layer, x) if autocast else (layer.bfloat16(), x.bfloat16())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        want = layer(x)
        monkeypatch.setattr("unrolled.kernels.library.has_amx", True)
        got = layer(x)
        assert len(calls) == 1
        assert_all_same(flat(got), flat(want))
        assert all(part.dtype == torch.bfloat16 for part in flat(got))
        assert_all_same(flat(layer(x, lengths=torch.full((16,), T))), flat(want))
        layer(x[:, :15])
    layer(x)
    assert len(calls) == 1  # neither lengths, nor few sequences, nor gradients


def test_weights_are_laid_out_for_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, calls = unrolled.LSTM(I, H, num_layers=2, bidirectional=True, proj_size=3), []
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    monkeypatch.setattr(cudnn_weights.cudnn_rnn, "get_cudnn_mode", lambda mode: 2)
    monkeypatch.setattr(torch, "_cudnn_rnn_flatten_weight", lambda *arguments: calls.append(arguments))
    layer.flatten_parameters()
    assert [(len(weights), *others) for weights, *others in calls] == [(20, 5, I, 2, H, 3, 2, False, True)]


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_of_a_stack_is_not_taken_for_one_piece(bias: bool) -> None:
    """Without biases PyTorch would: cuDNN read the next layer's weights as this one's biases."""
    sizes = [(3 * H * I), (3 * H * H), (3 * H * H), (3 * H * H)] + [3 * H] * 4
    memory = torch.zeros(sum(sizes)).split(sizes)  # as cuDNN has two layers: matrices, then biases
    first, second = (memory[0], memory[1].view(3 * H, H)), (memory[2], memory[3].view(3 * H, H))
    biases = (memory[4:6], memory[6:8]) if bias else ((), ())
    both = [*first, *biases[0], *second, *biases[1]]
    assert cudnn_weights._are_flat(cudnn_weights.Stack("GRU", 2, False), both)
    assert not cudnn_weights._are_flat(cudnn_weights.Stack("GRU", 1, False), [*first, *biases[0]])
    assert not cudnn_weights._are_flat(cudnn_weights.Stack("GRU", 1, False), [*second, *biases[1]])
    assert not cudnn_weights._are_flat(cudnn_weights.Stack("GRU", 2, False), [weight.clone() for weight in both])


def test_neighbours_by_chance_are_not_taken_for_one_piece() -> None:
    """As CUDA's allocator lays out the weights of a small layer just made; PyTorch would copy them at every call."""
    memory = bytearray(4 * 100)
    apart = [torch.frombuffer(memory, dtype=torch.float32, count=25, offset=100 * k) for k in range(4)]
    together = torch.frombuffer(memory, dtype=torch.float32).split(25)
    assert [weight.data_ptr() for weight in apart] == [weight.data_ptr() for weight in together]
    assert cudnn_weights._are_flat(cudnn_weights.Stack("GRU", 1, False), together)
    assert not cudnn_weights._are_flat(cudnn_weights.Stack("GRU", 1, False), apart)
