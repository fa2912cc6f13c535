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
    these. Behind END nothing counts.
    """
    labels = batch["labels"]
    targets = labels.view(len(labels), -1).T  # (1 or objects + 1, N)
    looked: Looked = model(batch["images"])
    each = len(looked.scores) // len(targets)  # glimpses of a symbol
    if config.every_glimpse:
        scores, targets = looked.scores, targets.repeat_interleave(each, 0)
    else:
        scores = looked.scores[each - 1 :: each]
    there = targets != NOTHING
    right = (scores.detach().argmax(2) == targets).to(scores.dtype)
    nats = cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=NOTHING)
    at_ends = slice(each - 1, None, each) if config.every_glimpse else slice(None)
    whole = ((right == 1) | ~there)[at_ends].all(0)
    report = {"nats": float(nats.detach()), "accuracy": float(whole.float().mean())}
    if looked.values is None:
        return Step(nats, len(labels), report=report)
    glimpses = len(looked.places)
    returns = returns_of(right, glimpses, there)
    counts = there.to(right.dtype).repeat_interleave(glimpses // len(there), 0)
    values = looked.values
    policy = reinforce(looked.places, looked.means, (returns - values.detach()) * counts, config.deviation)
    baseline = ((values - returns).square() * counts).sum() / counts.sum()
    return Step(nats + config.policy_weight * policy + baseline, len(labels), report=report)


def returns_of(right: Tensor, glimpses: int, there: Tensor | None = None) -> Tensor:
    """The reward that follows each glimpse, (T, N): what is rewarded is the share of what was said that was right, of which the
    part counts that is said after the glimpse.

    Args:
        right: (R, N), 1 where what was said was right, else 0; something was said after every T / R glimpses.
        glimpses: T.
        there: (R, N), what counts; by default all.

    >>> returns_of(torch.tensor([[1.0], [0.0], [1.0]]), 6, torch.tensor([[True], [True], [False]])).flatten().tolist()
    [0.5, 0.5, 0.0, 0.0, 0.0, 0.0]
    """
    counts = torch.ones_like(right) if there is None else there.to(right.dtype)
    to_come = (right * counts).flip(0).cumsum(0).flip(0)
    return (to_come / counts.sum(0).clamp_min(1)).repeat_interleave(glimpses // len(right), 0)


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
