"""The hybrid loss of what to say and where to look, and what evaluation measures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unrolled.label_metrics import levenshtein
from unrolled.task import Processes, Step
from unrolled.tasks.glimpse.config import Config
from unrolled.tasks.glimpse.data import AT_ONCE, sequences_to_measure_on, to_measure_on
from unrolled.tasks.glimpse.generate import look
from unrolled.tasks.glimpse.model import Glimpses, Looked
from unrolled.tasks.glimpse.reader import Reader
from unrolled.tasks.glimpse.sequences import NOTHING, until


def training_loss(model: Glimpses | Reader, batch: dict[str, Tensor], config: Config) -> Step:
    """-log P of the class, or of a symbol, in nats; where attention is hard also REINFORCE and the baseline's squared error.

    What is said counts after the last glimpse (of each symbol), with `every_glimpse` after each; the loss is the mean over
    these. Behind END nothing counts. The reward is the probability of what is right: what is earned on average by saying what
    is drawn from the probabilities, if being right is worth 1 and else nothing.
    """
    labels = batch["labels"]
    targets = labels.view(len(labels), -1).T  # (1 or objects + 1, N)
    looked: Looked = model(batch["images"])
    each = len(looked.scores) // len(targets)  # glimpses of a symbol
    ends = slice(each - 1, None, each)
    if config.every_glimpse:
        scores, targets = looked.scores, targets.repeat_interleave(each, 0)
    else:
        scores, ends = looked.scores[ends], slice(None)
    there = targets != NOTHING
    of_each = cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=NOTHING, reduction="none").view_as(targets)
    nats = of_each.sum() / there.sum()
    whole = ((scores.detach().argmax(2) == targets) | ~there)[ends].all(0)
    report = {"nats": float(nats.detach()), "accuracy": float(whole.float().mean())}
    if looked.values is None:
        return Step(nats, len(labels), report=report)
    glimpses, rewards = len(looked.places), (-of_each.detach()).exp()
    returns = returns_of(rewards, glimpses, there)
    if config.every_glimpse and not config.objects:
        returns = returns - known_of(rewards, scores.shape[2])  # less noise: it learns sooner where to look
    counts = there.to(rewards.dtype).repeat_interleave(glimpses // len(there), 0)
    policy = reinforce(looked.places, looked.means, (returns - looked.values.detach()) * counts, config.deviation)
    baseline = ((looked.values - returns).square() * counts).sum() / counts.sum()
    return Step(nats + config.policy_weight * policy + baseline, len(labels), report=report)


def returns_of(rewards: Tensor, glimpses: int, there: Tensor | None = None) -> Tensor:
    """What follows each glimpse, (T, N), of a mean of rewards: the part of it that is earned after the glimpse.

    Args:
        rewards: (R, N), one after every T / R glimpses.
        glimpses: T.
        there: (R, N), those that count; by default all.

    >>> returns_of(torch.tensor([[1.0], [0.0], [1.0]]), 6, torch.tensor([[True], [True], [False]])).flatten().tolist()
    [0.5, 0.5, 0.0, 0.0, 0.0, 0.0]
    """
    counts = torch.ones_like(rewards) if there is None else there.to(rewards.dtype)
    to_come = (rewards * counts).flip(0).cumsum(0).flip(0)
    return (to_come / counts.sum(0).clamp_min(1)).repeat_interleave(glimpses // len(rewards), 0)


def known_of(rewards: Tensor, classes: int) -> Tensor:
    """What would follow each glimpse if no more came of it than of the one before, (T, N); of a first one what chance gives.

    It does not depend on where that glimpse is, so that it may be taken from the return; it does depend on the image's class,
    which the baseline is not told.
    """
    before = torch.cat([torch.full_like(rewards[:1], 1 / classes), rewards[:-1]])
    return before * torch.arange(len(rewards), 0, -1, device=rewards.device).unsqueeze(1) / len(rewards)


def reinforce(places: Tensor, means: Tensor, advantages: Tensor, deviation: float) -> Tensor:
    """A number whose gradient estimates that of minus the expected reward (Williams 1992; Mnih et al. 2014, eq. 3).

    -(1/N) sum over images and glimpses of log Normal(l_t; mu_t, deviation) * (R - b_t), without the constant of log Normal.

    Args:
        places: (T, N, 2), as drawn.
        means: (T, N, 2), of the policy.
        advantages: (T, N), the reward less what was expected, without gradient.
        deviation: of the policy, in each direction.
    """
    log_p = -(places.detach() - means).square().sum(2) / (2 * deviation**2)
    return -(log_p * advantages).sum() / places.shape[1]


@torch.inference_mode()
def measure(
    model: Glimpses | Reader,
    images: np.ndarray,
    labels: np.ndarray,
    config: Config,
    *,
    processes: Processes | None = None,
    report: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """`loss` in nats per image and `accuracy`, after the last of `config.glimpses`, of images (N, C, height, width), bytes.

    Of sequences both are of whole ones; `symbol_error_rate` is the Levenshtein distance between what was read and what was to
    be read, by the number of symbols.

    `config.samples` paths are drawn for each image, by a seed that is the same every time, and what is measured is the mean of
    their probabilities; with 0 it looks where the policy's means are. The places on a canvas, too, are the same every time.
    `report` is called with how many images are done, and the total. Several `processes` take some of the images each.
    """
    processes = processes or Processes()
    starts = [*range(0, len(images), AT_ONCE)][processes.index :: processes.count]
    nats = right = 0.0
    errors = symbols = 0
    for number, start in enumerate(starts):
        if config.objects:
            x, wanted = sequences_to_measure_on(images, labels, config, start)
        else:
            x, wanted = to_measure_on(images, config, start)[0], labels[start : start + AT_ONCE, None]
        found = look(model, x, config.glimpses, config.samples, seed=start)
        targets = torch.from_numpy(np.array(wanted))  # (N, 1 or objects + 1)
        said = found.probabilities[config.glimpses - 1 :: config.glimpses].transpose(0, 1)  # (N, 1 or objects + 1, K)
        there, best = targets != NOTHING, said.argmax(2)
        log_p = said.gather(2, targets.clamp_min(0).unsqueeze(2)).squeeze(2).clamp_min(1e-38).log()
        nats -= float((log_p * there).double().sum())
        right += float(((best == targets) | ~there).all(1).sum())
        if config.objects:
            end = said.shape[2] - 1
            for one, other in zip(best.tolist(), targets.tolist(), strict=True):
                errors += levenshtein(until(one, end), true := until(other, end))
                symbols += len(true)
        if report:
            report(min(len(images), (number + 1) * AT_ONCE * processes.count), len(images))
    gathered = processes.gather((nats, right, errors, symbols))
    nats, right, errors, symbols = (sum(each) for each in zip(*gathered, strict=True))
    measured = {"loss": nats / len(images), "accuracy": right / len(images)}
    return {**measured, "symbol_error_rate": errors / symbols} if config.objects else measured
