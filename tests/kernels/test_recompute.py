"""Computing gates again in backward gives what saving them gives, whatever the segments."""

import pytest
import torch
from tests.kernels import agree

from unrolled.kernels import recompute


@pytest.fixture(params=[1, 10, 10**6], ids=["every step", "a few steps", "one segment"])
def rows(request, monkeypatch):
    monkeypatch.setattr(recompute, "ROWS", request.param)


@pytest.mark.parametrize(
    "size", [(5, 3, 7, 7), (11, 3, 4, 17), (6, 13, 5, 65), (0, 3, 4, 5), (3, 0, 4, 5), (7, 1, 3, 30)], ids=str
)
@pytest.mark.parametrize("mode", agree.MODES)
def test_gates_computed_again_agree_with_the_definition(mode, size, rows):
    for lengths, resets, reverse in agree.OPTIONS:
        agree.assert_all_agree(mode, size, torch.float32, lengths, resets, reverse, how={"save": "outputs"})
    absent = {} if size[0] == 0 else {"biases": False, "states": False}
    agree.assert_all_agree(mode, size, torch.float64, True, True, True, how={"save": "outputs"}, **absent)


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_bfloat16_gates_computed_again_agree_with_the_definition(isa, mode, rows):
    for lengths, resets, reverse in agree.OPTIONS:
        agree.assert_all_agree(mode, (11, 3, 4, 17), torch.bfloat16, lengths, resets, reverse, how={"save": "outputs"})


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_tokens_and_every_c_agree_with_saved_gates(mode, reverse, rows):
    T, B, H = 11, 3, 9
    given = agree.inputs(mode, (T, B, 6, H), torch.float64, True, True)
    ids, embedding = torch.randint(0, 7, (T, B)), torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    rest = [given[n] for n in ("h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh")]
    leaves = [t for t in (embedding, *rest) if t is not None]
    found = []
    for save in ("gates", "outputs"):
        masks = {"lengths": given["lengths"], "resets": given["resets"], "reverse": reverse}
        results = [r for r in agree.run_tokens(mode, ids, embedding, *rest, **masks, save=save) if r is not None]
        found.append([*results, *torch.autograd.grad(sum(r.square().sum() for r in results), leaves)])
    for again, saved in zip(*found, strict=True):
        agree.assert_agree(again, saved, mode, torch.float64)


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_twice_differentiated_it_is_the_definition(mode):
    given = agree.inputs(mode, (4, 2, 3, 5), torch.float64)
    second = []
    for save in ("gates", "outputs"):
        output = agree.by_kernels(mode, given, save=save)[0]
        (first,) = torch.autograd.grad(output.square().sum(), [given["x"]], create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), [given["w_hh"]])[0])
    agree.assert_agree(second[1], second[0], mode, torch.float64)


@pytest.mark.parametrize("autocast", [False, True])
def test_only_the_outputs_and_a_few_c_are_kept(autocast):
    given = agree.inputs("LSTM", (600, 8, 4, 16), torch.float32)
    kept = []

    def note(tensor):
        kept.append(tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        agree.by_kernels("LSTM", given, every_c=False, save="outputs")
    shapes = {g.shape for g in given.values() if g is not None}
    new = [t for t in kept if t.numel() and t.shape not in shapes]
    numbers = 600 * 8 * 16  # one h or c of every step
    assert sum(t.numel() for t in new) < 1.1 * numbers
