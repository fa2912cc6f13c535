"""Large buffers come from memory that the library keeps, and are nobody else's while anything looks at them."""

import gc
import threading
from collections.abc import Callable

import pytest
import torch

import unrolled
from unrolled.kernels import library

SIZE = 5 * 2**20  # 20 MB of float32


@pytest.fixture
def addresses() -> Callable[[int], list[int]]:
    """Where so many buffers of `SIZE` lie that are there at the same time; afterwards the library has them back."""
    gc.collect()  # what other tests left is given back now, not in between

    def taken(count: int) -> list[int]:
        held = [library.empty((SIZE,), torch.float32) for _ in range(count)]
        return [one.data_ptr() for one in held]

    return taken


def test_what_is_given_back_is_taken_again(addresses) -> None:
    """Whatever others have left: the smallest that fits is taken first, so all that fits exactly is taken again."""
    first = library.empty((SIZE,), torch.float32)
    assert (first.shape, first.dtype) == ((SIZE,), torch.float32)
    del first
    before = addresses(5)
    assert len(set(before)) == 5
    for _ in range(3):
        assert set(addresses(5)) == set(before)
    assert set(addresses(2)) <= set(before)


def test_a_view_keeps_its_memory() -> None:
    view = library.empty((SIZE,), torch.float32).fill_(3)[-5:]
    gc.collect()
    for _ in range(3):
        library.empty((SIZE,), torch.float32).fill_(7)
    assert view.tolist() == [3] * 5


def test_threads_do_not_share() -> None:
    wrong: list[int] = []

    def work(me: int) -> None:
        for _ in range(10):
            mine = library.empty((SIZE,), torch.float32).fill_(me)
            wrong.extend(me for _ in range(int((mine != me).any())))

    workers = [threading.Thread(target=work, args=(me,)) for me in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_outputs_without_gradients_use_memory_again_but_not_while_anybody_has_them() -> None:
    layer, x = unrolled.GRU(8, 64), torch.randn(100, 50, 8)  # 1.3 MB of outputs
    gc.collect()
    with torch.no_grad():

        def outputs() -> list[torch.Tensor]:
            return [layer(x + k)[0] for k in range(6)]

        held = outputs()
        for k, output in enumerate(held):
            assert torch.equal(output, layer(x + k)[0])
        places = {output.data_ptr() for output in held}
        assert len(places) == 6
        del held, output
        assert places & {output.data_ptr() for output in outputs()}


def test_gates_of_one_graph_survive_another() -> None:
    layer, x = unrolled.LSTM(8, 256), torch.randn(100, 64, 8)  # 26 MB of gates
    parameters = list(layer.parameters())

    def loss() -> torch.Tensor:
        return layer(x)[0].square().mean()

    kept = loss()
    first = torch.autograd.grad(kept, parameters, retain_graph=True)
    torch.autograd.grad(loss() + loss(), parameters)
    for a, b in zip(first, torch.autograd.grad(kept, parameters), strict=True):
        assert torch.equal(a, b)
