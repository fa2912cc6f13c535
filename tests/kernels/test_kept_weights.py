"""Packed weights that are kept from one call without gradients to the next: whatever changes them is seen."""

import threading

import pytest
import torch
from tests.kernels import agree
from tests.tolerance import assert_same

import unrolled

DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def one_element(w: torch.Tensor) -> None:
    w[-1, -1] += 1


def swap_rows(w: torch.Tensor) -> None:
    w.copy_(w.roll(1, 0).clone())


def swap_columns(w: torch.Tensor) -> None:
    w.copy_(w.roll(1, 1).clone())


def swap_blocks(w: torch.Tensor) -> None:
    w.copy_(w.roll(16, 0).clone())


def flip_signs(w: torch.Tensor) -> None:
    w.neg_()


def flip_two_signs(w: torch.Tensor) -> None:
    w[0, 0] *= -1
    w[0, -1] *= -1


def by_numpy(w: torch.Tensor) -> None:
    w.view(torch.uint8).numpy()[...] ^= 0x80


CHANGES = (one_element, swap_rows, swap_columns, swap_blocks, flip_signs, flip_two_signs, by_numpy)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", agree.MODES)
def test_any_change_of_the_weights_is_seen(mode, dtype, isa, threads) -> None:
    threads(2)
    given = agree.inputs(mode, (3, 5, 40, 65), dtype)
    given = {name: None if t is None else t.detach() for name, t in given.items()}
    for change in (None, *CHANGES):
        for name in ("w_ih", "w_hh"):
            if change:
                change(given[name].data)  # whose version counter is another
            for _ in range(2):
                output = agree.by_kernels(mode, given)[0]
                agree.assert_agree(output, agree.by_definition(mode, agree.in_float64(given))[0].detach(), name, dtype)


def ours_of(theirs: torch.nn.LSTM | torch.nn.GRU) -> torch.nn.Module:
    ours = getattr(unrolled, type(theirs).__name__)(theirs.input_size, theirs.hidden_size)
    ours.load_state_dict(theirs.state_dict())
    return ours


@torch.no_grad()
def test_more_layers_than_are_kept_and_layers_that_come_and_go() -> None:
    x = torch.randn(2, 3, 8)
    layers = [torch.nn.GRU(8, 20) for _ in range(70)]
    ours = [ours_of(layer) for layer in layers]
    for _ in range(2):
        for mine, theirs in zip(ours, layers, strict=True):
            assert_same(mine(x)[0], theirs(x)[0])
    for _ in range(50):  # where one was freed, the next is born
        layer = torch.nn.LSTM(8, 20)
        assert_same(ours_of(layer)(x)[0], layer(x)[0])


def test_threads_that_run_one_layer_at_once() -> None:
    layer, x = unrolled.LSTM(24, 48), torch.randn(4, 2, 24)
    with torch.no_grad():
        expected = layer(x)[0]
    wrong: list[int] = []

    def work(me: int) -> None:
        with torch.no_grad():
            wrong.extend(me for _ in range(200) if not torch.equal(layer(x)[0], expected))

    workers = [threading.Thread(target=work, args=(me,)) for me in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_training_between_evaluations() -> None:
    theirs = torch.nn.GRU(16, 32)
    ours = ours_of(theirs)
    x = torch.randn(5, 3, 16)
    for _ in range(3):
        for layer in (ours, theirs):
            layer(x)[0].sum().backward()
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter.data -= 0.1 * parameter.grad
        with torch.no_grad():
            assert_same(ours(x)[0], theirs(x)[0])
