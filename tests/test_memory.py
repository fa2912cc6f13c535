"""Bytes are counted while tensors live, once each, and only those made inside; and how many there can be."""

import subprocess
import sys

import torch

from unrolled.memory import LiveBytes, capacity


def test_views_and_writes_in_place_cost_nothing() -> None:
    before = torch.zeros(1000)
    with LiveBytes() as bytes:
        kept = [before[:10], before.view(10, 100), before.add_(1)]
        assert bytes.peak == 0
        kept.append(torch.zeros(100)[:1])
    assert (bytes.live, bytes.peak) == (400, 400)


def test_a_graph_counts_until_it_is_freed() -> None:
    weight = torch.ones(1000, requires_grad=True)
    with LiveBytes() as bytes:
        loss = weight.exp().exp().sum()  # each exp keeps its result
        assert bytes.live == 8004
        (gradient,) = torch.autograd.grad(loss, weight)
        assert bytes.live == 4004
        del loss, gradient
    assert bytes.live == 0
    assert bytes.peak >= 12000


def test_capacity_is_no_more_than_a_process_may_have() -> None:
    limit = 2**33
    code = (
        "import resource, torch; from unrolled import memory\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))\n"
        "print(memory.capacity(torch.device('cpu')))"
    )
    most = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    there = capacity(torch.device("cpu"))
    assert there is not None
    assert most == min(limit, there)
