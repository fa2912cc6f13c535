"""The truncated gradient beside the full one."""

import json
from pathlib import Path

import pytest
import torch
from tests.tolerance import assert_same

import unrolled
from unrolled import bptt
from unrolled.errors import RunError
from unrolled.inspection import truncation
from unrolled.tasks import reopened

T, B, I, H = 9, 3, 2, 4


def gradients(layer, loss) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(layer.parameters())))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (3, 3), (T, T), (1, 4), (2, 5), (4, 7)])
def test_layers_that_are_cut_have_the_gradient_of_truncated_bptt(kind: str, k1: int, k2: int) -> None:
    layer, x = getattr(unrolled, kind)(I, H, num_layers=2), torch.randn(T, B, I)
    losses = [outputs.square().sum() for _, outputs, _ in bptt.truncated(layer, x, k1=k1, k2=k2)]
    expected = gradients(layer, torch.stack(losses).sum())
    with truncation.cut([layer], k2, k1=k1):
        found = gradients(layer, layer(x)[0].square().sum())
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_cutting_changes_no_output_of_unequal_lengths_and_keeps_the_gradient_of_ended_ones(kind: str) -> None:
    layer, x, lengths = getattr(unrolled, kind)(I, H), torch.randn(T, B, I), torch.tensor([T, 2, 4])
    output, state = layer(x, lengths=lengths)
    with truncation.cut([layer], 4):
        cut_output, cut_state = layer(x, lengths=lengths)
    assert_same(cut_output, output)
    h, cut_h = (one[0] if isinstance(one, tuple) else one for one in (state, cut_state))
    assert_same(cut_h, h)
    for of_short, of_cut in zip(gradients(layer, h[0, 1:].sum()), gradients(layer, cut_h[0, 1:].sum()), strict=True):
        assert_same(of_cut, of_short)  # both end within the first chunk
    with truncation.cut([layer], 4, k1=2):
        assert_same(layer(x, lengths=lengths)[0], output)


def test_with_k2_of_all_steps_the_gradient_is_the_full_one_and_with_one_step_it_is_not() -> None:
    rnn, x = unrolled.RNN(I, H), torch.randn(T, B, I)
    found = truncation.measure(rnn, lambda: rnn(x)[0].square().sum())
    assert [row.k2 for row in found.rows] == [1, 2, 4, 8, T]
    assert (found.rows[-1].cosine, found.rows[-1].norm) == (pytest.approx(1), pytest.approx(1))
    assert found.rows[0].cosine < 0.99


def test_a_layer_that_remembers_nothing_needs_one_step_and_one_that_forgets_nothing_all() -> None:
    rnn, x = unrolled.RNN(I, H, nonlinearity="relu"), torch.rand(16, B, I)
    with torch.no_grad():
        rnn.weight_ih_l0.fill_(0.5)
        rnn.weight_hh_l0.zero_()
    # W_hh has a gradient even if it is 0; what is carried through it has none
    assert truncation.measure(rnn, lambda: rnn(x)[0].sum()).suggested == 1
    rnn.weight_hh_l0.data.copy_(torch.eye(H))
    forgets_nothing = truncation.measure(rnn, lambda: rnn(x)[0][-1].sum())
    assert forgets_nothing.suggested == 16
    assert forgets_nothing.sentence.startswith("No k2 below all 16 steps is enough here")


@pytest.mark.parametrize(("times", "got"), [(float("nan"), "NaN or infinite"), (0.0, "zero")])
def test_a_gradient_that_is_none_is_never_enough(times: float, got: str) -> None:
    gru, x = unrolled.GRU(I, H), torch.randn(T, B, I)
    with pytest.raises(RunError, match=f"expected a gradient of the recurrent layers' weights, got .*{got}"):
        truncation.measure(gru, lambda: gru(x)[0].sum() * times)


def test_of_a_text_shorter_than_a_window_there_is_a_shorter_report(trained: Path, real_text: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_bytes(real_text.read_bytes()[:24])
    assert reopened.truncation(trained, [str(tmp_path / "short.txt")]).steps == 8


def test_frozen_weights_are_left_out_and_a_model_s_own_forward_is_put_back() -> None:
    gru, x = unrolled.GRU(I, H), torch.randn(T, B, I)
    gru.weight_ih_l0.requires_grad_(False)
    gru.forward = own = lambda *given, **named: unrolled.GRU.forward(gru, *given, **named)  # type: ignore[method-assign]  # as somebody who wraps it
    assert truncation.measure(gru, lambda: gru(x)[0].sum()).rows[-1].cosine == pytest.approx(1)
    assert gru.forward is own
    with pytest.raises(RunError, match="got frozen ones"):
        truncation.measure(gru.requires_grad_(False), lambda: gru(x)[0].sum())


def test_what_cannot_be_truncated_is_said() -> None:
    gru, x = unrolled.GRU(I, H), torch.randn(T, B, I)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, [T, 5, 2])
    for given in (packed, x[:, 0]):
        with pytest.raises(RunError, match="expected calls of the layers with batches of sequences"):
            truncation.measure(gru, lambda given=given: gru(given)[1].sum())
    both, x = unrolled.GRU(I, H, bidirectional=True), torch.randn(T, B, I)
    with pytest.raises(RunError, match="got a bidirectional one"):
        truncation.measure(both, lambda: both(x)[0].sum())
    cell = unrolled.GRUCell(I, H)
    with pytest.raises(RunError, match="got a model that takes its steps one by one"):
        truncation.measure(cell, lambda: cell(x[0]).sum())


def test_the_command_suggests_a_k2(command, trained: Path, real_text: Path, tmp_path: Path) -> None:
    code, out, errors = command("inspect", "truncation", trained, real_text, "--steps", "40", "--show", tmp_path, "--json")
    assert (code, errors) == (0, "")
    found = json.loads(out)
    assert [row["k2"] for row in found["rows"]] == [1, 2, 4, 8, 16, 32, 40]
    assert found["suggested"] in [row["k2"] for row in found["rows"]]
    assert [row["k1"] for row in found["rows"]] == [1, 2, 4, 8, 16, 16, 16]
    assert "It was trained with k1 = 16, k2 = 16" in found["sentence"]
    assert Path(found["picture"]).read_bytes().startswith(b"\x89PNG")
    code, out, errors = command("inspect", "truncation", trained, real_text, "--steps", "100000")
    assert (code, out) == (2, "")
    assert "expected no more steps than the data have, got 100,000" in errors
