"""The losses of captioning against their sums, written out."""

import pytest
import torch
from tests.tasks.captioning.tiny import F, P, model
from tests.tolerance import assert_same
from torch.nn.functional import cross_entropy

from unrolled.data.sentences import END, PAD, START, UNKNOWN
from unrolled.decoding import sample, step_function
from unrolled.metrics import CiderReward
from unrolled.tasks.captioning import data, loss
from unrolled.tasks.captioning.config import Config


def test_the_loss_is_summed_over_steps_averaged_over_captions_and_blind_to_padding() -> None:
    captioner = model(image="initial")
    batch = {
        "features": torch.randn(2, P, F),
        "tokens": data.pad_captions([[[4, 5, 6], [7]], [[8, 9]]], longest=9),
        "learns": False,
    }
    assert batch["tokens"].shape == (2, 2, 5)
    step = loss.likelihood_loss(captioner, batch, Config(label_smoothing=0))
    total = 0.0
    for photo, caption in ((0, [4, 5, 6]), (0, [7]), (1, [8, 9])):
        encoded = captioner.encode(batch["features"][photo : photo + 1])
        log_p = captioner(encoded, torch.tensor([[START, *caption]])).logits[0].float().log_softmax(-1)
        total -= sum(log_p[t, word] for t, word in enumerate([*caption, END]))
    assert_same(step.loss, total / 3)
    assert step.count == 3


def test_label_smoothing_is_cross_entropys() -> None:
    captioner, smooth = model(image="initial"), 0.3
    tokens = data.pad_captions([[[4, 5, 6]], [[7]]], longest=9)
    batch = {"features": torch.randn(2, P, F), "tokens": tokens, "learns": False}
    step = loss.likelihood_loss(captioner, batch, Config(label_smoothing=smooth))
    logits = captioner(captioner.encode(batch["features"]), tokens[:, 0, :-1]).logits.float()  # (B, T, V)
    given = {"ignore_index": PAD, "reduction": "sum"}
    expected = cross_entropy(logits.transpose(1, 2), tokens[:, 0, 1:], label_smoothing=smooth, **given) / 2
    assert_same(step.loss, expected)
    nats = cross_entropy(logits.transpose(1, 2), tokens[:, 0, 1:], **given) / 6  # words and END of both
    assert step.report["nats_per_token"] == pytest.approx(float(nats))


def test_the_doubly_stochastic_penalty_is_its_equation() -> None:
    captioner = model(image="attention")
    batch = {"features": torch.randn(2, P, F), "tokens": data.pad_captions([[[4, 5]], [[6, 7, 8]]], longest=9), "learns": False}
    plain = loss.likelihood_loss(captioner, batch, Config(label_smoothing=0.1))
    step = loss.likelihood_loss(captioner, batch, Config(label_smoothing=0.1, doubly_stochastic=2.0))
    penalty = 0.0
    for photo, caption in ((0, [4, 5]), (1, [6, 7, 8])):
        encoded = captioner.encode(batch["features"][photo : photo + 1])
        attended = captioner(encoded, torch.tensor([[START, *caption]])).weights[0].sum(0)
        penalty += ((1 - attended) ** 2).sum() / 2
    assert_same((step.loss - plain.loss).float(), (2 * penalty).float())


def test_the_self_critical_gradient_is_that_of_reward_minus_baseline_times_log_p() -> None:
    captioner, config = model(image="initial", dropout=0), Config(samples=3, longest=4)
    reward = CiderReward([[[4, 5, END]], [[6, 7, END]]])
    batch = {"photos": torch.tensor([1, 0]), "features": torch.randn(2, P, F), "learns": False}
    torch.manual_seed(1)
    step = loss.self_critical_loss(captioner, batch, config, reward)
    captioner.eval()  # the loss leaves it in training; with no dropout that is the same
    torch.manual_seed(1)
    ids = {"start": START, "end": END, "pad": PAD, "forbidden": [UNKNOWN]}
    drawn, _ = sample(*step_function(captioner, captioner.encode(batch["features"])), torch.rand(4, 2, 3), **ids)
    drawn = drawn.flatten(0, 1)
    total = 0.0
    for row, ids in enumerate(drawn.tolist()):
        ids = [i for i in ids if i != PAD]
        group = [[i for i in other if i != PAD] for other in drawn[row - row % 3 : row - row % 3 + 3].tolist()]
        rewards = reward.reward([int(batch["photos"][row // 3])] * 3, group)
        others = (rewards.sum() - rewards[row % 3]) / 2
        logits = captioner(captioner.encode(batch["features"][row // 3][None]), torch.tensor([[START, *ids[:-1]]])).logits[0]
        logits[:, [PAD, START, UNKNOWN]] = -torch.inf
        log_p = logits.float().log_softmax(-1)
        total -= (rewards[row % 3] - others) * sum(log_p[t, i] for t, i in enumerate(ids)) / 6
    assert_same(step.loss, total)
    assert not set(drawn.flatten().tolist()) & {START, UNKNOWN}
