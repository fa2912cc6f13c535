"""Run a function in several processes that belong together, as `torchrun` starts them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

SECONDS = 60
"""After which processes that have not ended are said to hang."""
_OURS = [
    "unrolled.training",
    *(f"unrolled.tasks.{name}.task" for name in ("language_model", "captioning", "translation", "labelling")),
]
_PRELOADED = [*_OURS, "torch.distributed.tensor", "torch._dynamo"]
"""What every process would load for itself, PyTorch's parts for distributed models above all: two seconds."""


def launch(function: Callable[..., Any], *arguments: Any, count: int = 2) -> list[Any]:
    """What the function returned or raised in each process; None where a process was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cache, started = os.environ.get("UNROLLED_CACHE", ""), []
    for rank in range(count):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(theirs, rank, count, port, cache, function, arguments))
        process.start()
        theirs.close()
        started.append((process, ours))
    deadline = time.monotonic() + SECONDS
    for process, _ in started:
        process.join(max(0.0, deadline - time.monotonic()))
    hanging = [rank for rank, (process, _) in enumerate(started) if process.is_alive()]
    for process, _ in started:
        process.kill()
    assert not hanging, f"processes {hanging} of {count} hang"
    answers: list[Any] = []
    for _, ours in started:
        try:
            answers.append(ours.recv())
        except EOFError:
            answers.append(None)
    return answers


def _run(
    answer: Connection, rank: int, count: int, port: int, cache: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", UNROLLED_CACHE=cache, OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    try:
        answer.send(function(*arguments))
    except BaseException as error:
        answer.send(error)
