"""The hybrid loss of what to say and where to look, and what evaluation measures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from unrolled.task import Processes, Step
from unrolled.tasks.glimpse.config import Config
from unrolled.tasks.glimpse.data import AT_ONCE, to_measure_on
from unrolled.tasks.glimpse.generate import look
from unrolled.tasks.glimpse.model import Glimpses, Looked


def training_loss(model: Glimpses, batch: dict[str, Tensor], config: Config) -> Step:
    """-log P of the class in nats; where attention is hard also REINFORCE and the baseline's squared error.

    The class is told after the last glimpse, with `every_glimpse` after each, and the loss is the mean over these.
    """
    labels = batch["labels"]
    looked: Looked = model(batch["images"])
    scores = looked.scores if config.every_glimpse else looked.scores[-1:]  # (T or 1, N, K)
    right = (scores.detach().argmax(2) == labels).to(scores.dtype)
    nats = cross_entropy(scores.flatten(0, 1), labels.repeat(len(scores)))
    report = {"nats": float(nats.detach()), "accuracy": float(right[-1].mean())}
    if looked.values is None:
        return Step(nats, len(labels), report=report)
    returns = returns_of(right, len(looked.places))
    policy = reinforce(looked.places, looked.means, returns - looked.values.detach(), config.deviation)
    return Step(nats + config.policy_weight * policy + mse_loss(looked.values, returns), len(labels), report=report)


def returns_of(right: Tensor, glimpses: int) -> Tensor:
    """The reward that follows each glimpse, (T, N): 1 where the class was right at the end, 0 where not (right (1, N)).

    With a class after every glimpse (right (T, N)) the reward is the share of them that are right, of which what follows a
    glimpse is its own and later ones.
    """
    if len(right) == 1:
        return right.expand(glimpses, -1)
    return right.flip(0).cumsum(0).flip(0) / glimpses


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
    model: Glimpses,
    images: np.ndarray,
    labels: np.ndarray,
    config: Config,
    *,
    processes: Processes | None = None,
    report: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """`loss` in nats per image and `accuracy`, after the last of `config.glimpses`, of images (N, C, height, width), 0..255.

    `config.samples` paths are drawn for each image, by a seed that is the same every time, and what is measured is the mean of
    their probabilities; with 0 it looks where the policy's means are. The places on a canvas, too, are the same every time.
    `report` is called with how many images are done, and the total. Several `processes` take some of the images each.
    """
    processes = processes or Processes()
    starts = [*range(0, len(images), AT_ONCE)][processes.index :: processes.count]
    nats = right = 0.0
    for number, start in enumerate(starts):
        x, _ = to_measure_on(images, config, start)
        found = look(model, x, config.glimpses, config.samples, seed=start)
        own = torch.from_numpy(np.array(labels[start : start + AT_ONCE]))
        last = found.probabilities[-1]
        nats -= float(last.gather(1, own[:, None]).clamp_min(1e-38).log().double().sum())
        right += float((last.argmax(1) == own).sum())
        if report:
            report(min(len(images), (number + 1) * AT_ONCE * processes.count), len(images))
    gathered = processes.gather((nats, right))
    nats, right = (sum(each) / len(images) for each in zip(*gathered, strict=True))
    return {"loss": nats, "accuracy": right}
