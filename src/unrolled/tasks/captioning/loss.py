"""The two losses, of the captions that people wrote and of the CIDEr of the model's own, and the loss in evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unrolled.data.sentences import END, PAD, START, UNKNOWN
from unrolled.decoding import sample, step_function
from unrolled.ensemble import Ensemble
from unrolled.losses import smoothed_token_loss
from unrolled.metrics import CiderReward
from unrolled.task import Step
from unrolled.tasks.captioning.config import Config
from unrolled.tasks.captioning.model import Captioner, photo_features


def likelihood_loss(model: Captioner | Ensemble, batch: dict[str, Any], config: Config) -> Step:
    """Teacher forcing: the temporal softmax loss, summed over a caption's steps, averaged over the captions, padding ignored.

    With `doubly_stochastic` lambda, plus lambda * sum over places (1 - sum over steps alpha_tp)^2 (Xu et al. 2015, eq. 14).
    Of an ensemble, the mean of its members' losses.
    """
    tokens = batch["tokens"].flatten(0, 1)  # (B, 1 + T)
    targets = tokens[:, 1:]
    counted = targets != PAD
    captions = int(counted.any(1).sum())
    features = photo_features(model, batch["features"], batch["learns"])
    losses, nats = [], 0.0
    for member in model.members:
        output = member(member.encode(features), tokens[:, :-1], counted=counted)  # type: ignore[operator]  # of a ModuleList
        loss, target_nats = smoothed_token_loss(output.logits, targets[counted], config.label_smoothing)
        loss = loss / captions
        nats += float(target_nats.detach()) / len(output.logits) / len(model.members)
        if config.doubly_stochastic and output.weights is not None:
            attended = (output.weights * counted.unsqueeze(-1)).sum(1)  # (B, P)
            loss = loss + config.doubly_stochastic * ((1 - attended) ** 2).sum(-1)[counted.any(1)].mean()
        losses.append(loss)
    return Step(torch.stack(losses).mean(), captions, report={"nats_per_token": nats})


def self_critical_loss(model: Captioner | Ensemble, batch: dict[str, Any], config: Config, reward: CiderReward) -> Step:
    """REINFORCE with a baseline (Rennie et al. 2017, eq. 7): -(r - b) log p(caption), averaged over the drawn captions.

    r is a drawn caption's CIDEr-D; b, where they take the greedy caption's, is the mean of the others drawn for the photo
    (Kool, van Hoof and Welling 2019), which needs no further decoding.
    """
    photos, count = batch["photos"].tolist(), config.samples
    features = photo_features(model, batch["features"], batch["learns"])
    model.eval()
    with torch.no_grad():
        step, state = step_function(model, model.encode(features))
        uniform = torch.rand(config.longest, len(photos), count)
        drawn, _ = sample(step, state, uniform, start=START, end=END, pad=PAD, forbidden=[UNKNOWN])
    drawn = drawn.flatten(0, 1)  # (B, T)
    model.train()
    ids = [row[: row.index(PAD)] if PAD in row else row for row in drawn.tolist()]
    rewards = reward.reward([photo for photo in photos for _ in range(count)], ids).view(-1, count)
    baseline = (rewards.sum(1, keepdim=True) - rewards) / (count - 1)
    advantage = (rewards - baseline).flatten().to(drawn.device)  # (B,)
    counted = drawn != PAD
    before = torch.cat([torch.full_like(drawn[:, :1], START), drawn[:, :-1]], dim=1)
    never, losses = torch.tensor([PAD, START, UNKNOWN], device=drawn.device), []
    for member in model.members:  # each learns from what all of them drew
        output = member(member.encode(features), before, counted=counted)  # type: ignore[operator]  # of a ModuleList
        logits = output.logits.float().index_fill(-1, never, -torch.inf)
        log_p = -cross_entropy(logits, drawn[counted], reduction="none")
        losses.append(-(log_p * advantage.unsqueeze(1).expand_as(drawn)[counted]).sum() / len(drawn))
    return Step(torch.stack(losses).mean(), len(drawn), report={"reward": float(rewards.mean())})


@torch.inference_mode()
def nats(model: Captioner | Ensemble, photos: Any, tokens: Tensor) -> tuple[float, int]:
    """The sum of -log p over every word of captions (N, captions, 1 + T), END and UNKNOWN included, and how many these are."""
    flat = tokens.flatten(0, 1)
    counted = flat[:, 1:] != PAD
    logits = model(photos, flat[:, :-1], counted=counted).logits
    return float(cross_entropy(logits.float(), flat[:, 1:][counted], reduction="sum")), int(counted.sum())
