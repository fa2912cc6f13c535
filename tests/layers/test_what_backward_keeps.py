"""What a call keeps for backward: the caller may write to what it was given, and after backward it holds nothing."""

import gc
import weakref

import numpy as np
import pytest
import torch
from tests.layers.twins import KINDS, OPTIONS, B, H, I, Seeing, T, twins
from tests.tolerance import assert_same
from torch.profiler import ProfilerActivity

import unrolled


def gradients(layer) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in layer.parameters()])


@pytest.mark.parametrize("kind", ["rnn", "relu", "gru", "lstm"])
@pytest.mark.parametrize("save", ["gates", "outputs"])
def test_the_output_may_be_written_to(kind: str, save: str) -> None:
    """As torch.nn's of an RNN and a GRU on the CPU may."""
    ours, _ = twins(kind)
    ours.save = save
    x, found = torch.randn(T, B, I, dtype=torch.float64), []
    for inplace in (False, True):
        ours.zero_grad()
        output, _ = ours(x)
        torch.nn.ReLU(inplace=inplace)(output).square().sum().backward()
        found.append(gradients(ours))
    assert_same(found[1], found[0])


@pytest.mark.parametrize("kind", ["rnn", "relu", "gru", "lstm"])
@pytest.mark.parametrize("options", [{}, {"save": "outputs"}, {"zoneout": 0.1}], ids=str)
@pytest.mark.parametrize("watching", ["a mode", "the profiler"])
def test_the_output_may_be_written_to_whoever_watches(kind: str, options: dict, watching: str) -> None:
    ours, _, extra = KINDS[kind]
    layer, x, found = ours(I, H, **extra, **options).eval(), torch.randn(T, B, I), []
    for inplace in (False, True):
        layer.zero_grad()
        watch = Seeing() if watching == "a mode" else torch.profiler.profile(activities=[ProfilerActivity.CPU])
        with watch:
            output, _ = layer(x)
            torch.nn.ReLU(inplace=inplace)(output).square().sum().backward()
        found.append(gradients(layer))
    assert_same(found[1], found[0])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_resets_that_are_written_to_before_backward_are_refused(options: dict) -> None:
    resets = torch.rand(T, B) < 0.3
    output, _ = unrolled.GRU(I, H, **options)(torch.randn(T, B, I), resets=resets)
    resets.fill_(True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("what", ["ids", "lengths"])
def test_ids_and_lengths_that_numpy_made_too_large_are_refused_before_memory_is_read(what: str) -> None:
    numbers = np.full((T, B) if what == "ids" else (B,), 2)
    given = torch.from_numpy(numbers)
    layer, embedding = unrolled.GRU(I, H), torch.randn(9, I, requires_grad=True)
    if what == "ids":
        output, _ = layer(given, embedding=embedding)
    else:
        output, _ = layer(torch.randn(T, B, I), lengths=given)
    numbers.fill(2**40)
    with pytest.raises(ValueError, match=f"{what} between 0 and"):
        output.sum().backward()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_nothing_is_kept_after_backward(kind: str, options: dict) -> None:
    if kind == "projected" and options == {"save": "outputs"}:
        pytest.skip("activation checkpointing is for the plain cells")
    ours, _, extra = KINDS[kind]
    layer, x = ours(I, H, **extra, **options), torch.randn(50, B, I, requires_grad=True) * 1
    output, _ = layer(x, resets=torch.rand(50, B) < 0.1)
    loss, storages = output.mean(), [weakref.ref(output), weakref.ref(x)]
    loss.backward()
    del output, x
    gc.collect()
    assert loss.grad_fn is not None
    assert [one() for one in storages] == [None, None]
