"""A step, and a call of one step, without gradients: the numbers of the call, whoever watches, whatever the weights."""

import copy
import io

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.utils.prune as prune
from tests.tolerance import assert_same
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import unrolled
from unrolled.kernels import step as kernel
from unrolled.streaming import Streamer

CELLS = [unrolled.RNN, unrolled.LSTM, unrolled.GRU]


@pytest.fixture
def as_before():
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)
    torch.set_default_device(None)


def flat(result) -> list[Tensor]:
    return [part for one in result for part in (one if isinstance(one, tuple) else (one,))]


def gradients_of(layer: nn.Module, x: Tensor) -> list[Tensor]:
    layer.zero_grad()
    layer(x)[0].sum().backward()
    return [p.grad.clone() for p in layer.parameters()]


@pytest.mark.parametrize("default", [torch.float16, torch.bfloat16, torch.float64, "meta"])
@pytest.mark.parametrize(
    "options", [{}, {"layer_norm": True}, {"zoneout": 0.2, "recurrent_dropout": 0.3}, {"learned_state": True}]
)
@pytest.mark.parametrize("kind", CELLS)
def test_the_default_dtype_and_device_do_not_matter(kind, options, default, as_before) -> None:
    layer, x = kind(3, 5, **options), torch.randn(7, 2, 3)
    lengths, resets = torch.tensor([7, 4]), torch.rand(7, 2) < 0.3

    def everything() -> list[Tensor]:
        torch.manual_seed(1)
        norms = torch.zeros(1, 2, 7, 2, dtype=torch.float32, device="cpu")
        layer.zero_grad()
        output, _ = layer(x, lengths=lengths, resets=resets, gradient_norms=norms)
        output.sum().backward()
        found = [output.detach(), norms, *(p.grad.clone() for p in layer.parameters())]
        evaluated = copy.deepcopy(layer).eval()
        with torch.no_grad():
            found += flat(evaluated(x)) + flat(evaluated.states(x)[0][:1])
            state = None
            for x_t in x:
                y, state = evaluated.step(x_t, state)
            return [*found, y, *flat((state,)), *flat(evaluated(x[:1])), *flat(evaluated(x[:1], state))]

    want = everything()
    torch.set_default_device("meta") if default == "meta" else torch.set_default_dtype(default)
    got = everything()
    for ours, theirs in zip(got, want, strict=True):
        assert (ours.dtype, ours.device) == (theirs.dtype, theirs.device)
        assert_same(ours, theirs)


@pytest.mark.parametrize("default", [torch.float16, torch.bfloat16, torch.float64, "meta"])
def test_the_default_dtype_and_device_do_not_matter_for_generated_tokens(default, as_before) -> None:
    layer, table, decoder = unrolled.LSTM(4, 6), torch.randn(9, 4), torch.randn(9, 6)

    def text() -> tuple[list[int], Tensor]:
        streamer = Streamer(layer, embedding=table, decoder_weight=decoder)
        return streamer.generate(40, context=[1, 2], seed=3, forbidden=[0]), streamer.logits()

    want, scores = text()
    torch.set_default_device("meta") if default == "meta" else torch.set_default_dtype(default)
    got, same_scores = text()
    assert got == want
    assert_same(same_scores, scores)


class Decoder(nn.Module):
    """A step and a linear map."""

    def __init__(self, kind=unrolled.GRU) -> None:
        super().__init__()
        self.recurrent, self.out = kind(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.recurrent.step(x, h)
        return self.out(y), h


@pytest.fixture
def watched():
    model, x, h = Decoder().eval(), torch.randn(2, 3), torch.randn(1, 2, 4)
    want = model(x, h)[0].detach()
    with torch.no_grad():
        model(torch.randn(2, 3), h)  # its weights are packed
        yield model, x, h, want


def other(x: Tensor) -> Tensor:
    return torch.randn_like(x)


def test_a_trace_holds_the_step(watched) -> None:
    model, x, h, want = watched
    assert_same(torch.jit.trace(model, (other(x), other(h)))(x, h)[0], want)
    assert_same(make_fx(lambda a, b: model(a, b)[0])(other(x), other(h))(x, h), want)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "layer",
    [
        unrolled.LSTM(3, 4, proj_size=2),
        unrolled.GRU(3, 4, layer_norm=True),
        unrolled.RNN(3, 4, zoneout=0.1, bidirectional=True),
        unrolled.LSTM(3, 4, 2, layer_norm=True, zoneout_cell=0.2, learned_state=True),
    ],
)
def test_traces_of_projections_and_options_hold_sequences_of_any_length(layer) -> None:
    x = torch.randn(9, 4, 3)
    traced = torch.jit.trace(layer.eval(), torch.randn(6, 2, 3))  # and its own check, without gradients
    got, want = (
        torch.autograd.grad(one(x)[0].square().sum(), [*layer.parameters()], allow_unused=True) for one in (traced, layer)
    )
    assert_same(traced(x)[0], layer(x)[0])
    for one, other in zip(got, want, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_fake_tensors_go_through_the_options(watched) -> None:
    layer = unrolled.GRU(3, 4, layer_norm=True)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, torch.no_grad():
        assert layer(fake.from_tensor(torch.randn(6, 2, 3)))[0].shape == (6, 2, 4)
    assert_same(layer(torch._neg_view(x := torch.randn(6, 2, 3)))[0], layer(-x)[0])


def test_a_legacy_onnx_export_holds_the_step(watched) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model, x, h, want = watched
    file = io.BytesIO()
    torch.onnx.export(model, (other(x), other(h)), file, dynamo=False, input_names=["x", "h"])
    got = runtime.InferenceSession(file.getvalue()).run(None, {"x": x.numpy(), "h": h.numpy()})[0]
    assert_same(torch.tensor(got), want)


def test_a_step_can_be_mapped_over_a_batch(watched) -> None:
    model, x, h, want = watched
    assert_same(torch.vmap(lambda a, b: model(a[None], b[:, None])[0][0], in_dims=(0, 1))(x, h), want)


def test_modes_see_a_step(watched) -> None:
    model, x, h, want = watched
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        assert model.recurrent.step(fake.from_tensor(x), fake.from_tensor(h))[0].shape == (2, 4)
    with FlopCounterMode(display=False):
        assert_same(model(x, h)[0], want)


@pytest.mark.parametrize("through", ["step", "call"])
def test_lazily_negated_and_zero_tensors_are_read_as_their_values(watched, through: str) -> None:
    model, x, h, _ = watched
    gru = model.recurrent

    def run(x: Tensor, h: Tensor) -> Tensor:
        return gru.step(x, h)[0] if through == "step" else gru(x[None], h)[0][0]

    assert_same(run(torch._neg_view(-x), h), run(x, h))
    assert_same(run(x, torch._neg_view(-h)), run(x, h))
    assert_same(run(torch._efficientzerotensor((2, 3)), h), run(torch.zeros(2, 3), h))


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("kind", CELLS)
def test_forward_mode_derivatives_are_those_of_finite_differences(kind, gradients: bool) -> None:
    layer, x, v = kind(3, 4, 2).double(), *torch.randn(2, 5, 2, 3, dtype=torch.float64)
    with torch.set_grad_enabled(gradients):
        for run in (lambda z: layer(z)[0], lambda z: layer.step(z[0])[0], lambda z: layer(z[:1])[0]):
            with forward_ad.dual_level():
                tangent = forward_ad.unpack_dual(run(forward_ad.make_dual(x, v))).tangent
            assert tangent is not None
            torch.testing.assert_close(tangent, (run(x + 1e-6 * v) - run(x - 1e-6 * v)) / 2e-6, rtol=1e-5, atol=1e-7)


def test_forward_mode_of_torch_func_is_torchs() -> None:
    ours, theirs, x = unrolled.GRU(3, 4), nn.GRU(3, 4), torch.randn(5, 2, 3)
    theirs.load_state_dict(ours.state_dict())
    for derive in (
        lambda layer: torch.func.jvp(lambda z: layer(z)[0], (x,), (torch.ones_like(x),))[1],
        lambda layer: torch.func.jacfwd(lambda z: layer(z)[0])(x),
        lambda layer: torch.func.hessian(lambda z: layer(z)[0].sum())(x),
    ):
        torch.testing.assert_close(derive(ours), derive(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 2), (4000,), (300, 64)])
@pytest.mark.parametrize("history", ["new", "used before"])
@pytest.mark.parametrize("through", ["step", "call"])
@pytest.mark.parametrize("kind", CELLS)
def test_a_weight_of_another_shape_is_refused(kind, through: str, history: str, shape: tuple) -> None:
    layer = kind(64, 64)
    with torch.no_grad():
        if history == "used before":
            layer.step(torch.randn(2, 64))
        layer.weight_hh_l0 = nn.Parameter(torch.randn(shape))
        with pytest.raises((RuntimeError, ValueError)):
            layer.step(torch.randn(2, 64)) if through == "step" else layer(torch.randn(1, 2, 64))


def flat_vector(layer: nn.Module) -> None:
    """The weights have become views of it, before."""
    layer.vector.mul_(0.5)


WRITES = {
    "data": lambda layer: [p.data.mul_(0.5) for p in layer.parameters()],
    "numpy": lambda layer: [p.detach().numpy().__imul__(0.5) for p in layer.parameters()],
    "flat vector": flat_vector,
    "one number": lambda layer: layer.weight_hh_l0.data[-1, -1].add_(3),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("kind", CELLS)
def test_a_step_sees_every_way_of_writing_to_weights(kind, write: str) -> None:
    layer, x, state = kind(3, 4), torch.randn(2, 3), torch.randn(1, 2, 4)
    layer.vector = nn.utils.parameters_to_vector(layer.parameters()).detach()
    nn.utils.vector_to_parameters(layer.vector, layer.parameters())
    state = (state, state) if kind is unrolled.LSTM else state
    with torch.no_grad():
        before = layer.step(x, state)[0]
        WRITES[write](layer)
        got = layer.step(x, state)[0]
    assert not torch.allclose(got, before)
    assert_same(got, layer(x[None], state)[0][0].detach())


NORMS = {
    "weight_norm": lambda layer: nn.utils.weight_norm(layer, "weight_ih_l0"),
    "spectral_norm": lambda layer: nn.utils.spectral_norm(layer, "weight_ih_l0"),
    "prune": lambda layer: prune.l1_unstructured(layer, "weight_ih_l0", 0.5),
    "parametrized": lambda layer: nn.utils.parametrizations.weight_norm(layer, "weight_ih_l0"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", NORMS)
def test_weights_that_hooks_compute_are_those_of_now(norm: str) -> None:
    x = torch.randn(2, 3)

    def made() -> nn.Module:
        layer = unrolled.LSTM(3, 4)
        NORMS[norm](layer)
        return layer.eval()

    saved = made().state_dict()

    def loaded() -> nn.Module:
        layer = made()
        layer.load_state_dict(saved)
        return layer

    want = loaded()(x[None])[0][0].detach()
    with torch.no_grad():
        assert_same(loaded().step(x)[0], want)
        assert_same(loaded().states(x[None])[0].h[0], want)
        assert_same(loaded()(x[None])[0][0], want)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", NORMS)
def test_what_is_exported_are_the_weights_of_now(norm: str, tmp_path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    layer, x, zeros = unrolled.LSTM(3, 4), torch.randn(1, 2, 3), torch.zeros(1, 2, 4)
    NORMS[norm](layer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(1.5)
    session = runtime.InferenceSession(str(unrolled.export_onnx(layer.eval(), tmp_path / "layer.onnx")))
    got = session.run(None, {"input": x.numpy(), "h_0": zeros.numpy(), "c_0": zeros.numpy()})[0]
    assert_same(torch.tensor(got), layer(x)[0].detach())


def test_hooks_run_on_a_step_as_on_a_call() -> None:
    layer, x, ran = unrolled.GRU(3, 4), torch.randn(2, 3), []
    layer.register_forward_hook(lambda module, args, result: ran.append(1) or (result[0] + 1, result[1]))
    layer.register_forward_pre_hook(lambda module, args, kwargs: ((2 * args[0], *args[1:]), kwargs), with_kwargs=True)
    with_gradients = layer.step(x)[0].detach()
    with torch.no_grad():
        assert_same(layer.step(x)[0], with_gradients)
    assert len(ran) == 2
    assert_same(layer.states(x[None])[0].h[0] + 1, with_gradients)  # which runs those before, and has no call's result
    assert len(ran) == 2


def test_a_hook_sees_the_keyword_arguments_and_may_leave_all_as_it_is() -> None:
    layer, x, seen = unrolled.GRU(3, 4), torch.randn(5, 2, 3), []
    resets = torch.rand(5, 2) < 0.5
    want = layer.states(x, resets=resets)[0].h
    layer.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["resets"]), with_kwargs=True)
    assert_same(layer.states(x, resets=resets)[0].h, want)
    assert seen == [resets]


def test_fx_takes_a_layer_whole() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = nn.GRU(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return self.out(self.rnn(x, h)[0])

    model, x, h = Model(), torch.randn(5, 2, 3), torch.randn(1, 2, 4)
    want = model(x, h)
    unrolled.convert(model)
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["rnn", "out"]
    assert_same(traced(x, h), want)


def test_a_nonlinearity_that_is_set_later_is_seen() -> None:
    layer, x = unrolled.RNN(3, 4), torch.randn(1, 2, 3)
    relu = unrolled.RNN(3, 4, nonlinearity="relu")
    relu.load_state_dict(layer.state_dict())
    with torch.no_grad():
        layer.step(x[0])
        layer.nonlinearity = "relu"
        assert (layer.nonlinearity, layer.mode) == ("relu", "RNN_RELU")
        for call in (lambda one: one.step(x[0])[0], lambda one: one(x)[0], lambda one: one(x.repeat(3, 1, 1))[0]):
            assert_same(call(layer), call(relu))
    with pytest.raises(ValueError, match="expected nonlinearity 'tanh' or 'relu', got 'gelu'"):
        layer.nonlinearity = "gelu"


@pytest.mark.parametrize("option", ["zoneout", "zoneout_cell"])
def test_an_option_that_is_set_after_the_first_step_is_seen(option: str) -> None:
    layer, x = unrolled.LSTM(3, 4).eval(), torch.randn(1, 2, 3)
    with torch.no_grad():
        layer.step(x[0])
        setattr(layer, option, 0.5)
        assert_same(layer.step(x[0])[0], layer(x)[0][0])


def without_memory(weight: Tensor) -> None:
    weight.untyped_storage().resize_(0)


@pytest.mark.parametrize(
    "change",
    [without_memory, torch._neg_view, Tensor.double, Tensor.t, Tensor.to_sparse],
    ids=["without memory", "negated", "double", "transposed", "sparse"],
)
def test_a_weight_that_does_not_lie_in_memory_as_it_should_is_not_read_there(change) -> None:
    x, state, weights = torch.randn(2, 1), torch.zeros(1, 2, 2), [torch.randn(shape) for shape in ((2, 1), (2, 2), (2,), (2,))]
    how = "RNN_TANH", x, (state,), weights, 2, True
    assert kernel.readable(*how) is not None
    changed = change(weights[1])
    weights[1] = weights[1] if changed is None else changed
    assert kernel.readable(*how) is None
