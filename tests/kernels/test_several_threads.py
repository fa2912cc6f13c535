"""What is kept between calls (packed weights, memory, locks) serves threads that share a layer, and forked children."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from tests.tolerance import assert_same
from torch import Tensor

import unrolled
from unrolled.streaming import Streamer

T, B, I, H = 20, 3, 8, 24


def together(work: list[Callable[[], None]]) -> None:
    """Run all at once, each in a thread; fail as the first that fails."""
    errors: list[BaseException] = []

    def one(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=one, args=(job,)) for job in work]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]


def calls(layer: torch.nn.Module, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """One call of each kind that keeps something; each gives a tensor to compare."""

    def without_gradients(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return torch.no_grad()(call)

    def train() -> Tensor:
        given = x.clone().requires_grad_()
        return torch.autograd.grad(layer(given)[0].square().sum(), given)[0]

    return {
        "step": without_gradients(lambda: layer.step(x[0])[0]),
        "one step": without_gradients(lambda: layer(x[:1])[0]),
        "sequence": without_gradients(lambda: layer(x)[0]),
        "training": train,
    }


@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU"])
def test_writes_that_change_no_number_change_no_result(cell: str) -> None:
    layer, x = getattr(unrolled, cell)(I, H), torch.randn(T, B, I)
    kinds, state, done = calls(layer, x), layer.state_dict(), threading.Event()
    kinds["training"] = calls(deepcopy(layer), x)["training"]  # of the layer itself autograd refuses it, rightly
    expected = {name: call() for name, call in kinds.items()}

    def write() -> None:
        while not done.is_set():
            layer.load_state_dict(state)
            with torch.no_grad():
                for weight in layer.parameters():
                    weight.mul_(1.0)
                    weight.data.mul_(1.0)

    def compute() -> None:
        try:
            for _ in range(300):
                for name, call in kinds.items():
                    assert torch.equal(call(), expected[name]), name
        finally:
            done.set()

    together([write, compute, compute])


@pytest.mark.parametrize("through", ["in place", "data", "state_dict", "assign"])
def test_every_thread_sees_weights_that_another_has_written(through: str) -> None:
    layer, x = unrolled.GRU(I, H), torch.randn(T, B, I)
    kinds, rounds, threads = calls(layer, x), 40, 3
    others = [{name: torch.randn_like(w) / 5 for name, w in layer.state_dict().items()} for _ in range(rounds)]
    expected: dict[str, Tensor] = {}
    meet = threading.Barrier(threads)

    def write(weights: dict[str, Tensor]) -> None:
        if through in ("state_dict", "assign"):
            layer.load_state_dict({name: w.clone() for name, w in weights.items()}, assign=through == "assign")
            return
        with torch.no_grad():
            for name, w in weights.items():
                (layer.get_parameter(name) if through == "in place" else layer.get_parameter(name).data).copy_(w)

    def work(me: int) -> None:
        try:
            for weights in others:
                if me == 0:
                    write(weights)
                    fresh = unrolled.GRU(I, H)
                    fresh.load_state_dict(weights)
                    expected.update({name: call() for name, call in calls(fresh, x).items()})
                meet.wait()
                for name, call in kinds.items():
                    assert torch.equal(call(), expected[name]), name
                meet.wait()
        except BaseException:
            meet.abort()
            raise

    together([lambda me=me: work(me) for me in range(threads)])


def test_a_streamer_that_starts_anew_while_another_thread_steps() -> None:
    layers = torch.nn.LSTM(I, 64)
    streamer, done = Streamer(layers), threading.Event()

    def start_anew() -> None:
        for k in range(300):
            streamer.set_state(batch=1 + 40 * (k % 2))
            streamer.repack()
        done.set()

    def step(batch: int) -> None:
        x_t = torch.randn(batch, I)
        while not done.is_set():
            with contextlib.suppress(ValueError):  # the state is of another batch now
                assert streamer.step(x_t).isfinite().all()
            assert streamer.state[0].shape[2] == 64

    together([start_anew, lambda: step(1), lambda: step(41)])
    streamer.set_state(batch=2)
    x_t = torch.randn(2, I)
    assert_same(streamer.step(x_t), layers(x_t[None])[0][0].detach())


FORKING = """
import copy, os, sys, threading, time, torch, unrolled
from unrolled.streaming import Streamer

threads, children = int(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(0)
torch.set_num_threads(threads)
layer, x = unrolled.LSTM(8, 64), torch.randn(40, 8, 8)  # for threads of ours, and too little for threads of torch's
learner = copy.deepcopy(layer)
writer = Streamer(torch.nn.LSTM(9, 400), one_hot=True, decoder_weight=torch.randn(9, 400))
end = False

def everything():
    with torch.no_grad():
        results = [layer.step(x[0])[0], layer(x[:1])[0], layer(x)[0]]
    return *results, *torch.autograd.grad(learner(x)[0].square().sum(), learner.parameters())

def write():  # holds the lock of its stream nearly all the time
    while not end:
        writer.generate(20, temperature=0)

def change():  # has weights being packed nearly all the time
    while not end:
        with torch.no_grad():
            layer.weight_hh_l0.mul_(1.0)
            layer.step(x[0])

def call():
    while not end:
        everything()

expected = everything()
def fork():
    for _ in range(children):
        time.sleep(0.003)
        child = os.fork()
        if child == 0:
            try:
                for _ in range(2):
                    assert all(torch.allclose(a, b, 1e-4, 1e-5) for a, b in zip(everything(), expected, strict=True))
                writer.set_state()
                first = writer.generate(20, temperature=0)
                writer.set_state()
                assert writer.generate(20, temperature=0) == first
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        for _ in range(2000):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            time.sleep(0.01)
        else:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return "a child hangs"
        if status:
            return f"a child failed: {status}"

workers = [threading.Thread(target=job) for job in (write, change, call)]
for worker in workers:
    worker.start()
problem = fork()
end = True
for worker in workers:
    worker.join()
sys.exit(problem)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_child_computes_whatever_other_threads_were_doing(threads: int) -> None:
    """With two threads the parent has an OpenMP pool, whose threads a child has not."""
    command = [sys.executable, "-c", FORKING, str(threads), "25"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
