"""The loss in training, and what evaluation measures: loss, BLEU, chrF and how many lines are right."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unrolled.data.sentences import END, PAD, UNKNOWN
from unrolled.ensemble import Ensemble
from unrolled.losses import smoothed_token_loss
from unrolled.task import Step
from unrolled.tasks.translation.config import Config
from unrolled.tasks.translation.model import Translator


def training_loss(model: Translator | Ensemble, batch: dict[str, Tensor], config: Config) -> Step:
    """Teacher forcing: -log P of each token of the target, END among them, averaged over the tokens; padding is not counted.

    `label_smoothing` is that of `losses.smoothed_token_loss`. With `scheduled_sampling` some of the tokens that the decoder
    reads are its own predictions; with `word_dropout` some of what encoder and decoder read is hidden. Of an ensemble, the mean
    of its members' losses.
    """
    tokens, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
    counted = targets != PAD
    count = int(counted.sum())
    share = config.scheduled_sampling * min(1.0, float(batch["step"]) / config.max_steps)
    losses, nats = [], 0.0
    for member in model.members:
        memory = member.encode(hide(batch["source"], config.word_dropout))  # type: ignore[operator]  # of a ModuleList
        inputs = mix_in_predictions(member, memory, tokens, share) if share else tokens
        inputs = hide(inputs, config.word_dropout)
        output = member(memory, inputs, counted=counted)  # type: ignore[operator]
        loss, target_nats = smoothed_token_loss(output.logits, targets[counted], config.label_smoothing)
        losses.append(loss / count)
        nats += float(target_nats.detach()) / count / len(model.members)
    return Step(torch.stack(losses).mean(), count, report={"nats_per_token": nats})


def hide(tokens: Tensor, share: float) -> Tensor:
    """Word dropout: the unknown token in place of a `share` of tokens (N, T). START, END and PAD stay."""
    if not share:
        return tokens
    hidden = (torch.rand(tokens.shape, device=tokens.device) < share) & (tokens > END)
    return torch.where(hidden, UNKNOWN, tokens)


@torch.no_grad()
def mix_in_predictions(model: nn.Module, memory: object, tokens: Tensor, share: float) -> Tensor:
    """Scheduled sampling (Bengio et al. 2015), in parallel: what the decoder predicts after the right tokens (B, T) stands in
    place of a `share` of them (Mihaylova and Martins 2019, section 3.2, one pass). START and PAD stay.
    """
    logits = model(memory, tokens).logits
    logits[..., :END] = -torch.inf  # neither PAD nor START is ever read back
    predicted = torch.cat([tokens[:, :1], logits.argmax(-1)[:, :-1]], dim=1)
    mixed = (torch.rand(tokens.shape, device=tokens.device) < share) & (tokens != PAD)
    mixed[:, 0] = False
    return torch.where(mixed, predicted, tokens)


@torch.inference_mode()
def nats(model: Translator | Ensemble, batch: dict[str, Tensor]) -> tuple[float, int]:
    """The sum of -log P over every token of the targets, END included, and how many these are."""
    targets = batch["tokens"][:, 1:]
    counted = targets != PAD
    logits = model(model.encode(batch["source"]), batch["tokens"][:, :-1], counted=counted).logits
    return float(cross_entropy(logits.float(), targets[counted], reduction="sum")), int(counted.sum())
