"""Batches made ahead by threads are those made in the loop, in order; nothing of them is left running."""

import threading
import time

import pytest

from unrolled.data.prefetch import prefetch


def prefetching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_batch_comes_once_and_in_order(workers: int) -> None:
    def make(step: int) -> int:
        time.sleep(0.002 * (step % 3))  # later ones are ready before earlier ones
        return step

    with prefetch(make, range(5, 40), workers) as batches:
        assert list(batches) == list(range(5, 40))
    assert prefetching() == []


def test_batches_are_made_ahead_by_other_threads_but_not_all_at_once() -> None:
    made: list[int] = []

    def make(step: int) -> threading.Thread:
        made.append(step)
        return threading.current_thread()

    with prefetch(make, range(100), workers=2) as batches:
        assert next(batches) is not threading.main_thread()
        while len(made) < 4:
            time.sleep(0.001)
        time.sleep(0.02)
        assert sorted(made) == [0, 1, 2, 3]
    assert prefetching() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_where_its_batch_is_asked_for_and_as_it_is(workers: int) -> None:
    error = ValueError("a damaged photo")

    def make(step: int) -> int:
        if step == 3:
            raise error
        return step

    with pytest.raises(ValueError, match="a damaged photo") as raised, prefetch(make, range(10), workers) as batches:  # noqa: PT012
        assert [next(batches) for _ in range(3)] == [0, 1, 2]
        next(batches)
    assert raised.value is error
    assert prefetching() == []


def test_an_interrupted_loop_leaves_nothing_running() -> None:
    with pytest.raises(KeyboardInterrupt), prefetch(lambda step: time.sleep(0.01), range(1000), workers=3) as batches:  # noqa: PT012
        next(batches)
        raise KeyboardInterrupt
    assert prefetching() == []
