"""Every kernel, instruction set and odd size against the definition in float64: results and all gradients."""

import pytest
import torch
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st
from tests.kernels import agree

from unrolled.kernels import library


@pytest.mark.parametrize("size", agree.SIZES, ids=str)
@pytest.mark.parametrize("mode", agree.MODES)
def test_float32_agrees_with_the_definition(isa, mode, size):
    for lengths, resets, reverse in agree.OPTIONS:
        agree.assert_all_agree(mode, size, torch.float32, lengths, resets, reverse)


@pytest.mark.parametrize("mode", agree.MODES)
def test_float64_agrees_with_the_definition(mode):
    for size in agree.SIZES[:7]:
        agree.assert_all_agree(mode, size, torch.float64, True, True, True)
        agree.assert_all_agree(mode, size, torch.float64)


@pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN_TANH"])  # a relu near zero may fall on either side in bf16
def test_bfloat16_agrees_with_the_definition(isa, mode):
    for size in agree.SIZES:
        for lengths, resets, reverse in agree.OPTIONS:
            agree.assert_all_agree(mode, size, torch.bfloat16, lengths, resets, reverse)


@pytest.mark.parametrize("mode", agree.MODES)
def test_bfloat16_without_products_of_it_is_fp32_rounded_at_the_end(monkeypatch, mode):
    monkeypatch.setattr(library, "dtypes", library.dtypes - {torch.bfloat16})
    given = agree.inputs(mode, (6, 5, 9, 20), torch.float32, True, True)
    rounded = {name: t.detach().bfloat16() if t.is_floating_point() else t for name, t in given.items() if t is not None}
    inputs = {name: t.float().requires_grad_() if t.is_floating_point() else t for name, t in rounded.items()}
    names = [name for name, t in inputs.items() if t.is_floating_point()]

    def run(given, autocast):
        given = {**dict.fromkeys(("c0",)), **given}
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            arguments = [given[name] for name in ("x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh")]
            return agree.run(mode, *arguments, lengths=given["lengths"], resets=given["resets"], reverse=True)

    want = run(inputs, False)
    leaves = {name: t.requires_grad_() if t.is_floating_point() else t for name, t in rounded.items()}
    for given, autocast in ((leaves, False), (inputs, True)):
        got = run(given, autocast)
        assert [None if t is None else t.dtype for t in got[::2]] == [torch.bfloat16] * 2
        for one, other in zip(got, want, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert torch.equal(one, other.to(one.dtype))
        loss, exact = (sum(r.float().sum() for r in results if r is not None) for results in (got, want))
        gradients = torch.autograd.grad(loss, [given[name] for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            (other,) = torch.autograd.grad(exact, inputs[name], retain_graph=True)
            assert torch.equal(gradient, other.to(gradient.dtype))


@pytest.mark.parametrize("mode", agree.MODES)
def test_biases_and_states_may_be_absent(isa, mode):
    agree.assert_all_agree(mode, (5, 3, 7, 17), torch.float32, biases=False, states=False)


@pytest.mark.parametrize("mode", agree.MODES)
def test_large_layers_split_over_units_agree_with_the_definition(isa, mode, threads):
    threads(2)
    for size in ((20, 1, 40, 300), (20, 3, 40, 200), (6, 33, 40, 130)):
        agree.assert_all_agree(mode, size, torch.float32, True, True)
        agree.assert_all_agree(mode, size, torch.float32, False, True, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_megabytes_of_saved_gates_agree_with_the_definition(isa, mode, dtype, threads):
    threads(2)
    size = (160, 70, 3, 48)  # 2.1 million of them, written past the caches
    agree.assert_all_agree(mode, size, dtype, True, True, reverse=mode == "GRU")


@pytest.mark.parametrize("size", [(7, 9, 300, 20), (7, 9, 20, 300), (7, 9, 290, 270)], ids=str)
def test_gradients_of_wide_and_narrow_weights_agree_with_the_definition(isa, size):
    for mode in agree.MODES:  # rows that are read where they are, and rows that are copied together first
        agree.assert_all_agree(mode, size, torch.float32, True, True)


@settings(max_examples=40, deadline=None)
@hypothesis_given(data=st.data())
def test_any_shape_length_reset_and_stride_agrees(data):
    mode = data.draw(st.sampled_from(agree.MODES))
    size = tuple(data.draw(st.integers(0, most)) for most in (6, 9, 35, 40))
    given = agree.inputs(mode, size, torch.float32, data.draw(st.booleans()), data.draw(st.booleans()))
    reverse = data.draw(st.booleans())
    exact = agree.in_float64(given)
    T, B, width, _ = size
    kind = data.draw(st.sampled_from(["transposed", "strided", "expanded"]))
    x = given["x"].detach()
    if kind == "transposed":
        given["x"] = x.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    elif kind == "strided":
        given["x"] = torch.stack([x, x], -1)[..., 0].requires_grad_()
        given["w_hh"] = given["w_hh"].detach().t().contiguous().t().requires_grad_()
    else:
        given["x"] = x[:, :1].expand(T, B, width).detach().requires_grad_()
        exact["x"] = given["x"].detach().double().requires_grad_()
    results, expected = agree.by_kernels(mode, given, reverse), agree.by_definition(mode, exact, reverse)
    for name, r, e in zip(("output", "cs", "h_n", "c_n"), results, expected, strict=True):
        if r is not None:
            agree.assert_agree(r, e, name, torch.float32)
    found, wanted = agree.gradients(results, given), agree.gradients(expected, exact)
    for name in wanted:
        agree.assert_agree(found[name], wanted[name], f"gradient of {name}", torch.float32)


@pytest.mark.parametrize("mode", agree.MODES)
@pytest.mark.parametrize("options", agree.OPTIONS)
def test_tokens_give_what_their_embeddings_give(isa, mode, options):
    lengths, resets, reverse = options
    T, B, width, H = 5, 7, 6, 19
    given = agree.inputs(mode, (T, B, width, H), torch.float32, lengths, resets)
    ids = torch.randint(0, 11, (T, B))
    embedding = torch.randn(11, width, requires_grad=True)
    rest = [given[n] for n in ("h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh")]
    masks = {"lengths": given["lengths"], "resets": given["resets"], "reverse": reverse}
    leaves = [t for t in (embedding, *rest) if t is not None]
    by_rows = agree.run(mode, embedding[ids], *rest, **masks)
    by_table = agree.run_tokens(mode, ids, embedding, *rest, **masks)
    for name, r, e in zip(("output", "cs", "h_n", "c_n"), by_table, by_rows, strict=True):
        if r is not None:
            agree.assert_agree(r, e, name, torch.float32)
    for r, e in zip(
        torch.autograd.grad(by_table[0].square().sum(), leaves),
        torch.autograd.grad(by_rows[0].square().sum(), leaves),
        strict=True,
    ):
        agree.assert_agree(r, e, "gradient", torch.float32)


@pytest.mark.parametrize("mode", agree.MODES)
def test_a_reset_equals_running_the_pieces_apart(mode):
    given = agree.inputs(mode, (9, 4, 5, 20), torch.float32, states=False)
    given["resets"] = torch.zeros(9, 4, dtype=torch.bool)
    given["resets"][4] = True
    whole = agree.by_kernels(mode, given)[0]
    pieces = [agree.by_kernels(mode, given | {"x": given["x"][part], "resets": None})[0] for part in (slice(0, 4), slice(4, 9))]
    torch.testing.assert_close(whole, torch.cat(pieces), rtol=0, atol=0)


@pytest.mark.parametrize("mode", agree.MODES)
def test_padding_does_not_change_the_result(mode):
    given = agree.inputs(mode, (9, 3, 5, 20), torch.float32)
    given["lengths"] = torch.tensor([9, 0, 4])
    output, _, h_n, _ = agree.by_kernels(mode, given)
    assert output[:, 1].abs().max() == 0
    assert output[4:, 2].abs().max() == 0
    torch.testing.assert_close(h_n[1], given["h0"][1])
    alone = {**given, "x": given["x"][:4, 2:3], "h0": given["h0"][2:3], "lengths": None}
    alone["c0"] = None if given["c0"] is None else given["c0"][2:3]
    torch.testing.assert_close(agree.by_kernels(mode, alone)[0], output[:4, 2:3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", agree.MODES)
def test_the_same_call_twice_gives_the_same_bits(isa, mode, threads):
    given = agree.inputs(mode, (20, 20, 40, 70), torch.float32, True, True)
    runs = {}
    for n in (1, 2, 2):
        threads(n)
        results = agree.by_kernels(mode, given)
        now = [r.detach() for r in results if r is not None] + list(agree.gradients(results, given).values())
        if n in runs:
            for a, b in zip(now, runs[n], strict=True):
                assert torch.equal(a, b)
        runs[n] = now
    for a, b in zip(runs[1], runs[2], strict=True):
        assert (a - b).abs().max() <= 1e-5 * max(1.0, a.abs().max().item())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("mode", agree.MODES)
def test_nan_and_inf_pass_through_as_the_definition_passes_them(isa, mode, value):
    for where in ("x", "h0", "w_hh", "b_ih"):
        given = agree.inputs(mode, (4, 3, 5, 19), torch.float32)
        with torch.no_grad():
            given[where].view(-1)[1] = value
        results, expected = agree.by_kernels(mode, given), agree.by_definition(mode, given)
        for r, e in zip(results, expected, strict=True):
            if r is not None:
                torch.testing.assert_close(r, e, rtol=1e-5, atol=1e-5, equal_nan=True)
        found, wanted = agree.gradients(results, given), agree.gradients(expected, given)
        for name in wanted:
            assert torch.equal(found[name].isnan(), wanted[name].isnan()), (where, name)


@pytest.mark.parametrize("mode", agree.MODES)
def test_zero_sizes_do_not_crash(isa, mode):
    for size in ((0, 3, 4, 5), (3, 0, 4, 5), (3, 2, 0, 5), (3, 2, 4, 0), (0, 0, 0, 0)):
        for lengths, resets, reverse in agree.OPTIONS:
            agree.assert_all_agree(mode, size, torch.float32, lengths, resets, reverse)
