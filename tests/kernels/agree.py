"""What every kernel test needs: inputs of odd sizes, and agreement with the float64 definition."""

import itertools

import torch
from tests.tolerance import TOLERANCE

from unrolled.cells import MODES as TABLE
from unrolled.kernels import Inputs, context, definition, operators

MODES = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")
# (T, B, I, H): 1, around the vector widths of 2, 4, 8 and 16, beyond a panel of 64, crossing register tiles.
SIZES = (
    (1, 1, 1, 1),
    (5, 3, 7, 7),
    (4, 2, 15, 15),
    (3, 9, 17, 16),
    (3, 4, 16, 17),
    (6, 13, 33, 65),
    (2, 40, 5, 64),
    (7, 1, 63, 130),
    (3, 2, 100, 31),
    (5, 30, 150, 33),
)
OPTIONS = tuple(itertools.product((False, True), repeat=3))  # lengths, resets, reverse


def run(mode, x, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, *, lengths=None, resets=None, **how):
    """`kernels.run` on x (T, B, I), as a layer calls it."""
    given = Inputs(x, None, None, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets)
    return operators.run(mode, given, watched=context.watched(given), **how)


def run_tokens(mode, ids, embedding, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, *, lengths=None, resets=None, **how):
    """`kernels.run` on x = embedding[ids], as a layer calls it."""
    table = operators.token_table(embedding, w_ih, b_ih)
    given = Inputs(None, ids, table, h0, c0, None, w_hh, None, b_hh, lengths, resets)
    return operators.run(mode, given, watched=context.watched(given), **how)


def inputs(mode, size, dtype=torch.float32, lengths=False, resets=False, seed=0, biases=True, states=True):
    T, B, width, H = size
    g = torch.Generator().manual_seed(seed)
    rows = TABLE[mode].gates * H

    def numbers(*shape, scale=1.0):
        return (torch.randn(*shape, generator=g, dtype=torch.float64) * scale).to(dtype).requires_grad_()

    scale = max(H, 1) ** -0.5
    return {
        "x": numbers(T, B, width),
        "h0": numbers(B, H) if states else None,
        "c0": numbers(B, H) if states and mode == "LSTM" else None,
        "w_ih": numbers(rows, width, scale=scale),
        "w_hh": numbers(rows, H, scale=scale),
        "b_ih": numbers(rows, scale=scale) if biases else None,
        "b_hh": numbers(rows, scale=scale) if biases else None,
        "lengths": torch.randint(0, T + 1, (B,), generator=g) if lengths else None,
        "resets": torch.rand(T, B, generator=g) < 0.25 if resets else None,
    }


def in_float64(given):
    return {
        name: t.detach().double().requires_grad_() if t is not None and t.is_floating_point() else t
        for name, t in given.items()
    }


def by_definition(mode, given, reverse=False, grad_norms=None):
    x, w_ih, b_ih = given["x"], given["w_ih"], given["b_ih"]
    gates_x = torch.nn.functional.linear(x, w_ih, b_ih)
    h0, c0 = given["h0"], given["c0"]
    zeros = gates_x.new_zeros(x.shape[1], given["w_hh"].shape[1])
    h0, c0 = zeros if h0 is None else h0, zeros if c0 is None and mode == "LSTM" else c0
    masks = {name: given[name] for name in ("lengths", "resets")}
    return definition.run_gates(
        mode, gates_x, h0, c0, given["w_hh"], given["b_hh"], **masks, reverse=reverse, grad_norms=grad_norms
    )


def by_kernels(mode, given, reverse=False, **more):
    positional = [given[n] for n in ("x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh")]
    return run(mode, *positional, lengths=given["lengths"], resets=given["resets"], reverse=reverse, **more)


def gradients(results, given, seed=1):
    """The gradient of one fixed random projection of every result, for every differentiable input."""
    g = torch.Generator().manual_seed(seed)
    loss = 0.0
    for r in results:
        if r is not None:
            loss = loss + (r.double() * torch.randn(r.shape, generator=g, dtype=torch.float64)).sum()
    leaves = {n: t for n, t in given.items() if t is not None and t.requires_grad}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {n: torch.zeros_like(t) if f is None else f for (n, t), f in zip(leaves.items(), found, strict=True)}


def assert_agree(actual, expected, name, dtype):
    """Within the table's tolerance of the largest number in `expected`: sums over T and B cancel."""
    assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)} is not {tuple(expected.shape)}"
    scale = max(1.0, expected.abs().max().item() if expected.numel() else 1.0)
    torch.testing.assert_close(
        actual.double() / scale, expected.double() / scale, **TOLERANCE[dtype], msg=lambda m: f"{name}: {m}"
    )


def assert_all_agree(mode, size, dtype, lengths=False, resets=False, reverse=False, how=None, **of_inputs):
    """`how` are arguments of `run`."""
    given = inputs(mode, size, dtype, lengths, resets, **of_inputs)
    exact = in_float64(given)
    T, B = size[:2]
    norms, exact_norms = torch.zeros(2, T, B), torch.zeros(2, T, B, dtype=torch.float64)
    results, expected = (
        by_kernels(mode, given, reverse, grad_norms=norms, **how or {}),
        by_definition(mode, exact, reverse, exact_norms),
    )
    for name, r, e in zip(("output", "cs", "h_n", "c_n"), results, expected, strict=True):
        assert (r is None) == (e is None), name
        if r is not None:
            assert_agree(r, e, name, dtype)
    found, wanted = gradients(results, given), gradients(expected, exact)
    for name in wanted:
        assert_agree(found[name], wanted[name], f"gradient of {name}", dtype)
    assert_agree(norms, exact_norms, "gradient norms", torch.float32 if dtype == torch.float64 else dtype)
