"""The compiled products against torch's, over odd sizes, threads and derivatives."""

import re

import pytest
import torch
from tests.tolerance import assert_same
from torch import Tensor
from torch.nn import functional

from unrolled.kernels import linear as compiled

product = compiled._Linear.apply

SIZES = [(1, 1, 1), (0, 3, 4), (5, 15, 16), (7, 16, 17), (3, 0, 5), (2, 3, 0), (300, 33, 65), (517, 130, 23)]


def drawn(sizes, dtype):
    rows, inputs, outputs = sizes
    g = torch.Generator().manual_seed(3)
    shapes = ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))
    scales = (1.0, max(inputs, 1) ** -0.5, 1.0, max(rows, 1) ** -0.5)  # sums of the size of one, whatever is summed
    x, w, bias, d = (torch.randn(s, generator=g, dtype=torch.float64) * k for s, k in zip(shapes, scales, strict=True))
    return [t.to(dtype).requires_grad_() for t in (x, w, bias)], d.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_it_is_linear(sizes, dtype, count, isa, threads) -> None:
    threads(count)
    inputs, d = drawn(sizes, dtype)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    results = product(*inputs), functional.linear(*exact)
    assert_same(*(r.detach() for r in results))
    gradients = torch.autograd.grad(results[0], inputs, d), torch.autograd.grad(results[1], exact, d.double())
    for ours, true in zip(*gradients, strict=True):
        assert_same(ours, true)
    assert_same(product(inputs[0], inputs[1], None).detach(), functional.linear(*exact[:2]).detach())


def test_leading_dimensions_strides_and_the_second_derivative() -> None:
    x = torch.randn(5, 2, 6, dtype=torch.float64).transpose(0, 1).requires_grad_()
    w, bias = torch.randn(6, 3, dtype=torch.float64).t().requires_grad_(), torch.randn(3, dtype=torch.float64).requires_grad_()
    assert_same(product(x, w, bias).detach(), functional.linear(x, w, bias).detach())
    assert torch.autograd.gradcheck(product, (x, w, bias))
    assert torch.autograd.gradgradcheck(product, (x, w, bias))


def test_all_gradients_can_be_differentiated_again() -> None:
    """Finite differences check only those that say that they can be."""
    inputs, d = drawn((5, 7, 3), torch.float64)
    d.requires_grad_()
    second = []
    for function in (product, functional.linear):
        first = torch.autograd.grad(function(*inputs), inputs, d, create_graph=True)
        second.append(torch.autograd.grad(sum(g.square().sum() for g in first), [*inputs[:2], d]))
    for ours, theirs in zip(*second, strict=True):
        assert_same(ours, theirs)


def test_the_number_of_threads_changes_no_bit(threads) -> None:
    inputs, d = drawn((300, 70, 50), torch.float32)
    results = []
    for count in (1, 2, 3):
        threads(count)
        y = product(*inputs)
        results.append([y.detach(), *torch.autograd.grad(y, inputs, d)])
    for ours in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(ours[:3], results[0][:3], strict=True))


def test_the_module_is_torchs_and_goes_where_torchs_goes() -> None:
    ours, theirs = compiled.Linear(64, 128), torch.nn.Linear(64, 128)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 40, 64)
    by_us = ours(x)
    assert by_us.grad_fn.name() == "_LinearBackward"
    assert_same(by_us.detach(), theirs(x).detach())
    compiled_by_torch = torch.compile(ours, fullgraph=True, backend="eager")
    for theirs_to_do in (ours(x[:, :1]), compiled_by_torch(x)):
        assert theirs_to_do.grad_fn.name() != by_us.grad_fn.name()
    assert torch.equal(compiled_by_torch(x), theirs(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x), theirs(x))
    mapped = torch.func.vmap(ours)(x)
    assert_same(mapped.detach(), theirs(x).detach())


def test_what_is_lazily_negated_is_read_as_it_is() -> None:
    layer, x, d = compiled.Linear(64, 96), torch.randn(256, 64), torch.randn(256, 96)
    torch.testing.assert_close(layer(torch._neg_view(x)), layer(-x))
    gradients = [torch.autograd.grad(layer(x), layer.weight, incoming)[0] for incoming in (torch._neg_view(d), -d)]
    torch.testing.assert_close(*gradients)


def test_gradients_of_several_losses_at_once_and_of_none_are_torchs() -> None:
    (x, w, _), _ = drawn((300, 33, 65), torch.float32)
    for d, batched in ((torch.randn(2, 300, 65), True), (torch._efficientzerotensor((300, 65)), False)):
        found = (
            torch.autograd.grad(y, (x, w), d, is_grads_batched=batched) for y in (product(x, w, None), functional.linear(x, w))
        )
        for ours, theirs in zip(*found, strict=True):
            assert_same(ours, theirs)


@pytest.mark.parametrize("change", [lambda t: t[:1, :1].clone(), Tensor.double, Tensor.half], ids=["smaller", "double", "half"])
def test_an_input_of_another_size_or_dtype_than_in_forward_is_refused_in_backward(change) -> None:
    (x, w, _), _ = drawn((300, 33, 65), torch.float32)
    loss = product(x, w, None).sum()
    x.data = change(x.data)
    with pytest.raises(RuntimeError):
        loss.backward()


@pytest.mark.parametrize(
    ("x", "w", "bias"),
    [
        (torch.randn(64, 512), torch.randn(256, 256), None),
        (torch.randn(64, 128), torch.randn(256, 256), None),
        (torch.randn(64, 256), torch.randn(256, 256), torch.randn(3)),
        (torch.randn(64, 256), torch.randn(256, 256), torch.randn(256, dtype=torch.float64)),
        (torch.randn(64, 256), torch.randn(2, 256, 256), None),
        (torch.randn(64, 256), torch.randn(256, 256), torch.empty(256, device="meta")),
        (torch.randn(64, 256), torch.randn(256, 256).to_sparse(), None),
    ],
    ids=["x wider", "x narrower", "bias shorter", "bias float64", "w 3-D", "bias without memory", "w sparse"],
)
def test_operands_that_do_not_fit_are_computed_or_refused_as_by_torch(x, w, bias) -> None:
    try:
        expected = functional.linear(x, w, bias)
    except (RuntimeError, NotImplementedError) as error:
        with pytest.raises(type(error), match=re.escape(str(error).split("\n")[0])):
            compiled.linear(x, w, bias)
    else:
        assert_same(compiled.linear(x, w, bias), expected)
