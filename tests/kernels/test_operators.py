"""The operators as PyTorch sees them: autograd twice, compile, export, vmap, autocast, inference, bad input."""

import pytest
import torch
from tests.kernels import agree
from torch.utils._python_dispatch import TorchDispatchMode

import unrolled

OPERATORS = torch.ops.unrolled


def tensors(mode, given, reverse=False, save=True):
    g = given
    return (
        g["x"],
        None,
        None,
        g["h0"],
        g["c0"],
        g["w_ih"],
        g["w_hh"],
        g["b_ih"],
        g["b_hh"],
        g["lengths"],
        g["resets"],
        None,
        mode,
        reverse,
        save,
        True,
    )


def call(mode, given, reverse=False):
    """run as a function of its differentiable inputs."""
    names = [n for n, t in given.items() if t is not None and t.requires_grad]

    def function(*values):
        results = agree.by_kernels(mode, {**given, **dict(zip(names, values, strict=True))}, reverse)
        return tuple(r for r in results if r is not None)

    return function, tuple(given[n] for n in names)


@pytest.mark.parametrize("mode", agree.MODES)
def test_gradients_match_finite_differences_and_so_do_theirs(mode):
    for options in ((False, False, False), (True, True, True)):
        given = agree.inputs(mode, (4, 3, 2, 3), torch.float64, *options[:2], seed=3)
        function, values = call(mode, given, options[2])
        assert torch.autograd.gradcheck(function, values)
        assert torch.autograd.gradgradcheck(function, values, atol=1e-4)


@pytest.mark.parametrize("mode", agree.MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operators_pass_opcheck(mode, dtype):
    given = agree.inputs(mode, (4, 3, 5, 6), dtype, True, True)
    torch.library.opcheck(OPERATORS.sequence.default, tensors(mode, given), atol=1e-4, rtol=1e-4)
    results = OPERATORS.sequence(*tensors(mode, given))
    output, cs, h_n, c_n, gates = (r.detach() for r in results)
    inputs = [None if t is None else t.detach() for t in tensors(mode, given)[:11]]
    needed = [t is not None for t in (inputs[0], *inputs[2:9])]
    lstm = mode == "LSTM"
    arguments = (
        torch.randn_like(output),
        torch.randn_like(cs) if lstm else None,
        torch.randn_like(h_n),
        torch.randn_like(c_n) if lstm else None,
        *inputs,
        output,
        cs,
        gates,
        mode,
        False,
        needed,
        True,
    )
    torch.library.opcheck(OPERATORS.sequence_backward.default, arguments)


@pytest.mark.parametrize("mode", agree.MODES)
def test_compile_takes_the_whole_graph_and_gives_the_same(mode):
    given = agree.inputs(mode, (4, 3, 5, 6), torch.float32, True, True)
    function, values = call(mode, given)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for c, e in zip(compiled(*values), function(*values), strict=True):
        assert torch.equal(c, e)
    for c, e in zip(
        torch.autograd.grad(compiled(*values)[0].sum(), values, allow_unused=True),
        torch.autograd.grad(function(*values)[0].sum(), values, allow_unused=True),
        strict=True,
    ):
        assert (c is None and e is None) or torch.equal(c, e)


class Layer(torch.nn.Module):
    def __init__(self, mode, given):
        super().__init__()
        self.mode = mode
        self.weights = torch.nn.ParameterList([given[n].detach() for n in ("w_ih", "w_hh", "b_ih", "b_hh")])

    def forward(self, x):
        return agree.run(self.mode, x, None, None, *self.weights)[0]


@pytest.mark.parametrize("mode", agree.MODES)
def test_export_keeps_the_operator(mode):
    given = agree.inputs(mode, (4, 3, 5, 6), torch.float32)
    layer = Layer(mode, given)
    steps = torch.export.Dim("steps", min=2, max=100)
    program = torch.export.export(layer, (given["x"].detach(),), dynamic_shapes={"x": {0: steps}})
    x = torch.randn(9, 3, 5)
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("mode", agree.MODES)
def test_vmap_and_per_sample_gradients_equal_a_loop(mode):
    given = agree.inputs(mode, (4, 3, 5, 6), torch.float32)
    xs = torch.randn(3, 4, 3, 5)

    def loss(w, x):
        return agree.by_kernels(mode, {**given, "w_ih": w, "x": x})[0].square().sum()

    w = given["w_ih"].detach()
    torch.testing.assert_close(torch.func.vmap(lambda x: loss(w, x))(xs), torch.stack([loss(w, x) for x in xs]))
    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(w, xs)
    leaf = w.clone().requires_grad_()
    torch.testing.assert_close(per_sample, torch.stack([torch.autograd.grad(loss(leaf, x), leaf)[0] for x in xs]))


def test_autocast_runs_in_its_dtype_and_gradients_keep_theirs():
    given = agree.inputs("LSTM", (4, 3, 5, 6), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = agree.by_kernels("LSTM", given)[0]
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), agree.by_kernels("LSTM", given)[0], rtol=2e-2, atol=2e-2)
    assert torch.autograd.grad(output.sum(), given["w_ih"])[0].dtype == torch.float32


@pytest.mark.parametrize("mode", agree.MODES)
def test_inference_gives_the_same_and_saves_nothing(mode):
    given = agree.inputs(mode, (4, 3, 5, 6), torch.float32, True, True)
    with torch.inference_mode():
        quiet = agree.by_kernels(mode, given, every_c=False)
    usual = agree.by_kernels(mode, given)
    assert quiet[1] is None
    torch.testing.assert_close(quiet[0], usual[0], rtol=1e-6, atol=1e-6)  # i tanh(g) with one rounding fewer
    torch.testing.assert_close(quiet[2], usual[2], rtol=1e-6, atol=1e-6)
    if quiet[3] is not None:
        torch.testing.assert_close(quiet[3], usual[3], rtol=1e-6, atol=1e-6)
    assert OPERATORS.sequence(*tensors(mode, given, save=False))[4].numel() == 0


@pytest.mark.parametrize("mode", agree.MODES)
def test_backward_twice_over_the_same_graph_gives_the_same(mode):
    given = agree.inputs(mode, (4, 3, 5, 6), torch.float32)
    loss = agree.by_kernels(mode, given)[0].square().sum()
    first = torch.autograd.grad(loss, given["w_hh"], retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, given["w_hh"])[0])


class Operators(TorchDispatchMode):
    """Notes every operator that runs."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.add(str(function))
        return function(*args, **(kwargs or {}))


def results_and_gradients(layer, x, **masks):
    layer.zero_grad()
    output, state = layer(x, **masks)
    state = state if isinstance(state, tuple) else (state,)
    (output.square().sum() + sum(part.square().sum() for part in state)).backward()
    return [output.detach(), *(part.detach() for part in state), *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("kind", [unrolled.RNN, unrolled.LSTM, unrolled.GRU])
@pytest.mark.parametrize("save", ["gates", "outputs"])
def test_who_looks_meets_operators_and_nobody_looking_gives_the_same_bits(kind, save):
    torch.manual_seed(1)
    layer = kind(5, 6, num_layers=2, bidirectional=True, save=save)
    masks = {"lengths": torch.tensor([4, 0, 2]), "resets": torch.rand(4, 3) < 0.3}
    for x in (torch.randn(4, 3, 5), torch.randint(5, (4, 3))):
        alone = results_and_gradients(layer, x, **masks)
        with Operators() as mode:
            watched = results_and_gradients(layer, x, **masks)
        assert {"unrolled.sequence.default", "unrolled.sequence_backward.default"} <= mode.seen
        assert all(map(torch.equal, alone, watched))
        with torch.no_grad():
            alone = layer(x, **masks)[0]
            with Operators() as mode:
                watched = layer(x, **masks)[0]
        assert "unrolled.sequence.default" in mode.seen
        assert torch.equal(alone, watched)


def test_the_profiler_names_the_operator():
    layer, x = unrolled.GRU(3, 4), torch.randn(5, 2, 3)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        layer(x)[0].sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {"unrolled::sequence", "unrolled::sequence_backward"} <= names


def test_tensors_that_are_not_as_they_lie_in_memory_are_read_as_they_are():
    layer, negative, zero = unrolled.LSTM(3, 5), torch._neg_view(torch.randn(4, 2, 3)), torch._efficientzerotensor(4, 2, 3)
    incoming = torch._neg_view(torch.randn(4, 2, 5)), torch._efficientzerotensor(4, 2, 5)
    for x in (negative, zero):
        plain = torch.empty(x.shape).copy_(x)
        with torch.no_grad():
            assert torch.equal(layer(x)[0], layer(plain)[0])
        for d in incoming:
            grads = [
                torch.autograd.grad(layer(x_)[0], layer.weight_hh_l0, d_)[0]
                for x_, d_ in ((x, d), (plain, torch.empty(d.shape).copy_(d)))
            ]
            assert torch.equal(*grads)


@pytest.mark.parametrize("mode", ["GRU", "LSTM"])
def test_a_result_changed_in_place_before_backward_is_noticed(mode: str):
    layer, x = getattr(unrolled, mode)(3, 4), torch.randn(5, 2, 3)
    found = []
    for change in (False, True):
        layer.zero_grad()
        output, _ = layer(x)
        loss = output.sum()
        if change:
            with torch.no_grad():
                output.add_(1)
        loss.backward()
        found.append([parameter.grad for parameter in layer.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))  # h was computed again
    output, _ = layer(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_the_state_can_be_detached_in_place():
    layer, x = unrolled.LSTM(3, 4), torch.randn(5, 2, 3)
    results = []
    for detach in (torch.Tensor.detach, torch.Tensor.detach_):
        _, state = layer(x)
        layer(x, tuple(detach(part) for part in state))[0].sum().backward()
        results.append([parameter.grad for parameter in layer.parameters()])
        layer.zero_grad()
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resets": torch.zeros(3, 4, dtype=torch.bool)}, r"resets of shape \(4, 3\), got \(3, 4\) bool"),
        ({"resets": torch.zeros(4, 3)}, "resets of bool, got .* float32"),
        ({"lengths": torch.tensor([1, 2, 9])}, "lengths between 0 and 4, got values from 1 to 9"),
        ({"lengths": torch.tensor([1, 2, -1])}, "lengths between 0 and 4, got values from -1 to 2"),
        ({"lengths": torch.tensor([1, 2, float("nan")])}, "lengths of int64, got .* float32"),
        ({"lengths": torch.tensor([1, 2])}, r"lengths of shape \(3,\), got \(2,\)"),
        (
            {"h0": torch.zeros(3, 6, dtype=torch.float64)},
            "h0 of torch.float32, the dtype of the weights, got .* float64",
        ),
        ({"x": torch.zeros(4, 3, 8)}, r"w_ih of shape \(24, 8\), got \(24, 5\)"),
        ({"x": torch.zeros(4, 3, 5, device="meta")}, "x on cpu, where the weights are, got .* on meta"),
        ({"x": torch.zeros(4, 5)}, r"x of shape \(T, B, I\), got \(4, 5\)"),
        ({"w_hh": torch.zeros(24)}, r"w_hh of shape \(G\*H, H\), got \(24,\)"),
    ],
)
def test_bad_input_is_refused_in_words(change, message):
    given = agree.inputs("LSTM", (4, 3, 5, 6), torch.float32) | change
    with pytest.raises((ValueError, RuntimeError), match=message):
        agree.by_kernels("LSTM", given)


def test_ids_outside_the_table_are_refused():
    given = agree.inputs("GRU", (4, 3, 5, 6), torch.float32)
    weights = [given[n] for n in ("w_ih", "w_hh", "b_ih", "b_hh")]
    with pytest.raises(ValueError, match="ids between 0 and 6, got values from 7 to 7"):
        agree.run_tokens("GRU", torch.full((4, 3), 7), torch.randn(7, 5), None, None, *weights)
    with Operators(), pytest.raises(ValueError, match="ids between 0 and 6, got values from 7 to 7"):
        agree.run_tokens("GRU", torch.full((4, 3), 7), torch.randn(7, 5), None, None, *weights)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize("T", [1, 5])
@pytest.mark.parametrize("kind", [unrolled.RNN, unrolled.LSTM, unrolled.GRU])
def test_traces_are_the_layer(kind, T):
    layer, x = kind(4, 7, num_layers=2, bidirectional=True), torch.randn(T, 3, 4, requires_grad=True)
    traced = torch.jit.trace(layer, (x,))
    torch.testing.assert_close(traced(x)[0], layer(x)[0], rtol=1e-5, atol=1e-6)
    got, want = (torch.autograd.grad(one(x)[0].sin().sum(), [x, *layer.parameters()]) for one in (traced, layer))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
