"""Batches made ahead of the step that takes them, by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

Batch = TypeVar("Batch")
_AHEAD = 2  # batches for each worker: one in hand, one ready


@contextmanager
def prefetch(make: Callable[[int], Batch], steps: range, workers: int) -> Iterator[Iterator[Batch]]:
    """The batches of these steps, in order, made ahead by `workers` threads; with 0 each is made when it is asked for.

    Because a batch is a function of its step, it is the same whatever the number of workers. What `make` raises is raised
    where its batch is asked for. When the block ends, so do the threads.

    Threads, because decoding photos and reading mapped files release Python's lock, and a thread neither copies the data
    nor has to be started from a process that computes.

    >>> with prefetch(lambda step: step * step, range(3, 6), workers=2) as batches:
    ...     list(batches)
    [9, 16, 25]
    """
    if not workers:
        yield map(make, steps)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="prefetch") as pool:
        try:
            yield _in_order(pool, make, steps, _AHEAD * workers)
        finally:
            pool.shutdown(cancel_futures=True)


def _in_order(pool: ThreadPoolExecutor, make: Callable[[int], Batch], steps: range, ahead: int) -> Iterator[Batch]:
    waiting: deque[Future[Batch]] = deque()
    to_make = iter(steps)
    for _ in steps:
        waiting.extend(pool.submit(make, step) for step in islice(to_make, ahead - len(waiting)))
        yield waiting.popleft().result()
