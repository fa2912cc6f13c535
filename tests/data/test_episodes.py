"""Episodes laid end to end are read as if each were alone, and none is lost, repeated or cut but at the end."""

import itertools

import pytest
import torch
from tests.tolerance import assert_same

import unrolled
from unrolled.data.episodes import lay_end_to_end

LENGTHS = (4, 2, 7, 5, 1, 9, 3, 8)


@pytest.fixture(autouse=True)
def _the_same_order_every_time() -> None:
    torch.manual_seed(0)


def numbered() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each episode a random sequence, and its own number with the step's."""
    return [(torch.randn(n, 3), torch.stack([torch.full((n,), e), torch.arange(n)], 1)) for e, n in enumerate(LENGTHS)]


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("steps", [1, 4, 8])
def test_every_episode_is_read_as_if_it_were_alone(cell: str, steps: int) -> None:
    episodes, layer, state = numbered(), getattr(unrolled, cell)(3, 5, num_layers=2), None
    alone = [layer(x)[0] for x, _ in episodes]
    for (x, where), resets in lay_end_to_end(episodes, batch_size=3, steps=steps):
        output, state = layer(x, state, resets=resets)
        assert output.shape == (steps, 3, 5)
        for t in range(steps):
            for b in range(3):
                episode, step = where[t, b].tolist()
                assert_same(output[t, b], alone[episode][step])


def test_streams_go_on_from_batch_to_batch_and_repeat_nothing() -> None:
    seen = []
    batches = list(lay_end_to_end(numbered(), batch_size=2, steps=3))
    for b in range(2):
        row = torch.cat([where[:, b] for (_, where), _ in batches]).tolist()
        starts = torch.cat([resets[:, b] for _, resets in batches]).tolist()
        assert starts == [step == 0 for _, step in row]
        for (episode, step), (next_episode, next_step) in itertools.pairwise(row):
            assert (next_episode, next_step) == (episode, step + 1) or (step == LENGTHS[episode] - 1 and next_step == 0)
        seen += [tuple(one) for one in row]
    assert len(set(seen)) == len(seen)
    assert len(seen) > sum(LENGTHS) - max(LENGTHS) - 2 * 3


@pytest.mark.parametrize("steps", [1, 4, 5, 6, 12])
def test_streams_are_read_as_far_as_whole_batches_go(steps: int) -> None:
    batches = list(lay_end_to_end([(torch.zeros(n),) for n in (7, 5)], batch_size=1, steps=steps))
    assert len(batches) == 12 // steps
    assert {resets.shape for _, resets in batches} == {(steps, 1)}


def test_the_order_is_the_generators() -> None:
    order = lambda seed: [  # noqa: E731
        where.tolist() for (_, where), _ in lay_end_to_end(numbered(), 2, 3, generator=torch.Generator().manual_seed(seed))
    ]
    assert order(1) == order(1)
    assert order(1) != order(2)


@pytest.mark.parametrize(
    ("episodes", "batch_size", "steps", "message"),
    [
        ([(torch.zeros(3),)], 2, 1, "expected at least batch_size = 2 episodes, got 1"),
        ([(torch.zeros(3),), (torch.zeros(0),)], 2, 1, r"one length of at least 1, got \[0\] in episode 1"),
        ([(torch.zeros(3), torch.zeros(2))], 1, 1, r"one length of at least 1, got \[2, 3\] in episode 0"),
        ([(torch.zeros(3),)] * 2, 2, 4, "streams of at least steps = 4, got 2 episodes of together 6 steps"),
        ([(torch.zeros(3),)], 1, 0, "batch_size and steps of at least 1, got 1 and 0"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(episodes: list, batch_size: int, steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(lay_end_to_end(episodes, batch_size, steps))
