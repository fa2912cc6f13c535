"""The compiled regularised steps against the definition, every option with every cell."""

import itertools

import pytest
import torch
from tests.kernels import agree
from tests.tolerance import assert_same

import unrolled
from unrolled.cells import MODES as TABLE
from unrolled.cells import Norm, Norms
from unrolled.kernels import definition, regularised
from unrolled.options import StepOptions

REGULARISERS = ("norms", "mask", "zoneout", "rates", "start")


def drawn(mode, size, dtype, which, seed=2):
    """x_gates, the state and the weights, and a `StepOptions` of the parts named in `which`."""
    T, B, _, H = size
    gates = TABLE[mode].gates * H
    g = torch.Generator().manual_seed(seed)

    def numbers(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()

    lstm = mode == "LSTM"
    leaves = {"x": numbers(T, B, gates), "h": numbers(B, H), "w_hh": numbers(gates, H), "b_hh": numbers(gates)}
    with torch.no_grad():
        leaves["w_hh"] *= H**-0.5
    if lstm:
        leaves["c"] = numbers(B, H)
    parts = {}
    if "norms" in which:
        leaves |= {"gain": numbers(gates)} | ({"gain_c": numbers(H), "bias_c": numbers(H)} if lstm else {})
    if "mask" in which:
        parts["mask"] = (torch.rand(B, H, generator=g) < 0.7).to(dtype) / 0.7
    if "zoneout" in which:
        parts |= {name: torch.rand(T, B, H, generator=g) < 0.3 for name in ("zoneout_h", "zoneout_c")[: 1 + lstm]}
    if "rates" in which:
        parts |= dict.fromkeys(("zoneout_h", "zoneout_c")[: 1 + lstm], 0.3)
    if "start" in which:
        leaves |= {"start_h": numbers(B, H)} | ({"start_c": numbers(B, H)} if lstm else {})
    return leaves, parts


def run(compute, mode, leaves, parts, **masks):
    norms = None
    if "gain" in leaves:
        norm_c = Norm(leaves["gain_c"], leaves["bias_c"]) if mode == "LSTM" else None
        norms = Norms(leaves["gain"], leaves["gain"], norm_c)
    how = StepOptions(norms=norms, reset_to=(leaves.get("start_h"), leaves.get("start_c")), **parts)
    given = [leaves["x"], leaves["h"], leaves.get("c"), leaves["w_hh"], leaves.get("b_hh")]
    return [r for r in compute(mode, *given, **masks, options=how) if r is not None]


def assert_agree(mode, size, dtype, which, lengths=False, resets=False, reverse=False):
    leaves, parts = drawn(mode, size, dtype, which)
    exact = {n: t.detach().double().requires_grad_() for n, t in leaves.items()}
    T, B = size[:2]
    masks = {
        "lengths": torch.randint(0, T + 1, (B,)) if lengths else None,
        "resets": torch.rand(T, B) < 0.3 if resets else None,
        "reverse": reverse,
    }
    norms, exact_norms = torch.zeros(2, T, B), torch.zeros(2, T, B, dtype=torch.float64)
    got = run(regularised.run, mode, leaves, parts, **masks, grad_norms=norms)
    want = run(definition.run_gates, mode, exact, {n: _exact(p) for n, p in parts.items()}, **masks, grad_norms=exact_norms)
    for r, e in zip(got, want, strict=True):
        agree.assert_agree(r, e, f"{mode} {which} result", dtype)
    found, wanted = agree.gradients(got, leaves), agree.gradients(want, exact)
    for name in wanted:
        agree.assert_agree(found[name], wanted[name], f"{mode} {which} gradient of {name}", dtype)
    agree.assert_agree(norms, exact_norms, f"{mode} {which} gradient norms", torch.float32)


def _exact(part):
    return part.double() if isinstance(part, torch.Tensor) and part.is_floating_point() else part


@pytest.mark.parametrize("mode", agree.MODES)
def test_float64_steps_agree_with_the_definition(mode):
    for count in (0, 1, 2, 4):
        for which in itertools.combinations(REGULARISERS, count):
            if {"zoneout", "rates"} <= set(which):
                continue
            for lengths, resets, reverse in agree.OPTIONS:
                assert_agree(mode, (5, 3, 0, 7), torch.float64, which, lengths, resets, reverse)


@pytest.mark.parametrize("mode", agree.MODES)
def test_float32_steps_agree_with_the_definition(isa, mode, threads):
    threads(2)
    for size in ((4, 3, 0, 17), (3, 40, 0, 130), (1, 1, 0, 1)):
        for which in (("norms",), ("mask", "zoneout"), ("norms", "rates", "mask", "start")):
            assert_agree(mode, size, torch.float32, which, True, True)


@pytest.mark.parametrize("mode", agree.MODES)
def test_without_gradients_the_answers_are_the_same(mode):
    leaves, parts = drawn(mode, (5, 3, 0, 7), torch.float64, ("norms", "mask", "zoneout", "start"))
    masks = {"lengths": torch.tensor([5, 0, 3]), "resets": torch.rand(5, 3) < 0.3}
    for reverse in (False, True):
        want = run(regularised.run, mode, leaves, parts, **masks, reverse=reverse)
        with torch.no_grad():
            got = run(regularised.run, mode, leaves, parts, **masks, reverse=reverse)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("mode", agree.MODES)
def test_twice_differentiated_they_are_the_definition(mode):
    leaves, parts = drawn(mode, (3, 2, 0, 4), torch.float64, ("norms", "mask", "zoneout"))
    second = []
    for compute in (regularised.run, definition.run_gates):
        output = run(compute, mode, leaves, parts)[0]
        (first,) = torch.autograd.grad(output.square().sum(), [leaves["w_hh"]], create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), [leaves["x"]])[0])
    agree.assert_agree(second[0], second[1], mode, torch.float64)


@pytest.mark.parametrize("mode", agree.MODES)
def test_backward_can_run_twice(mode):
    leaves, parts = drawn(mode, (3, 2, 0, 4), torch.float64, ("norms", "mask", "zoneout"))
    output = run(regularised.run, mode, leaves, parts)[0]
    first = torch.autograd.grad(output.sum(), list(leaves.values()), retain_graph=True, allow_unused=True)
    again = torch.autograd.grad(output.sum(), list(leaves.values()), allow_unused=True)
    assert all(a is b or torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("mode", agree.MODES)
@pytest.mark.parametrize("which", [("norms", "rates", "start"), ("mask", "zoneout")], ids=str)
def test_operators_pass_opcheck(mode, which):
    """Shapes without data, autograd and dynamic sizes say what the kernels do, and all that they answer is written."""
    leaves, parts = drawn(mode, (4, 3, 0, 6), torch.float64, which)
    names = ("x", "h", "c", "w_hh", "b_hh", "gain", "gain_c", "bias_c", "start_h", "start_c")
    stays = (stay if isinstance(stay := parts.get(name), torch.Tensor) else None for name in ("zoneout_h", "zoneout_c"))
    given = [*map(leaves.get, names), parts.get("mask"), *stays, torch.tensor([4, 1, 0]), torch.rand(4, 3) < 0.3]
    shares = [parts.get(name, 0.0) if "rates" in which else 0.0 for name in ("zoneout_h", "zoneout_c")]
    operators = torch.ops.unrolled
    how = mode, False, *shares
    torch.library.opcheck(operators.regularised.default, (*given, torch.zeros(2, 4, 3), *how, True))
    results = [r.detach() for r in operators.regularised(*given, None, *how, True)]
    inputs = [None if t is None else t.detach() for t in given]
    incoming = [torch.randn_like(r) if r.numel() else None for r in results[:4]]
    torch.library.opcheck(operators.regularised_backward.default, (*incoming, *inputs, *results[4:], *how, True))


@pytest.mark.parametrize("options", [{"layer_norm": True}, {"zoneout": 0.2}], ids=str)
def test_gradients_to_be_differentiated_do_not_count_the_call_before_twice(options: dict) -> None:
    """A state that is carried over comes from the same weights: that way is the earlier call's."""
    layer = unrolled.GRU(2, 3, dtype=torch.float64, **options).eval()
    x = torch.randn(4, 2, 2, dtype=torch.float64)
    found = []
    for create_graph in (False, True):
        _, state = layer(x)
        output, _ = layer(x, state)
        found.append(torch.autograd.grad(output.square().sum(), list(layer.parameters()), create_graph=create_graph))
    for one, other in zip(*found, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("name", ["weight_hh_l0", "bias_hh_l0", "gain_hh_l0", "gain_c_l0", "bias_c_l0"])
@pytest.mark.parametrize("change", [lambda w: w.float(), lambda w: w[:1]], ids=["float32", "one row"])
def test_weights_that_do_not_fit_are_refused(name: str, change) -> None:
    layer = unrolled.LSTM(3, 40, layer_norm=True, dtype=torch.float64)
    setattr(layer, name, torch.nn.Parameter(change(getattr(layer, name).detach())))
    with pytest.raises((ValueError, RuntimeError)):
        layer(torch.randn(2, 2, 3, dtype=torch.float64))


def test_gradients_and_kept_states_of_other_sizes_are_refused_by_the_backward_operator() -> None:
    given = [torch.randn(5, 2, 9), torch.randn(2, 3), None, torch.randn(9, 3), *[None] * 11]
    how = "GRU", False, 0.0, 0.0
    output, _, _, _, p, h, c, seen = torch.ops.unrolled.regularised(*given, None, *how, True)
    for d_out, h_kept in ((output[:2], h), (output, h[:2])):
        with pytest.raises(ValueError, match=r"expected (an incoming gradient|what forward kept) of shape"):
            torch.ops.unrolled.regularised_backward(d_out, None, None, None, *given, p, h_kept, c, seen, *how, False)


def test_a_gradient_that_is_negated_lazily_has_its_sign() -> None:
    layer, x = unrolled.GRU(3, 4, zoneout=0.1).eval(), torch.randn(5, 2, 3, requires_grad=True)
    d = torch.randn(5, 2, 4)
    (expected,) = torch.autograd.grad(layer(x)[0], x, -d)
    (got,) = torch.autograd.grad(layer(x)[0], x, torch._neg_view(d))
    assert_same(got, expected)


def test_gradient_norms_are_filled_where_gradients_are_to_be_differentiated() -> None:
    layer, x = unrolled.LSTM(3, 4, layer_norm=True), torch.randn(5, 2, 3, requires_grad=True)
    found = []
    for create_graph in (False, True):
        found.append(torch.full((1, 2, 5, 2), -7.0))
        output, _ = layer(x, gradient_norms=found[-1])
        torch.autograd.grad(output.square().sum(), x, create_graph=create_graph)
    assert_same(found[1], found[0])
