"""The loss of translation against its sums, written out, and what scheduled sampling lets the decoder read."""

import pytest
import torch
from tests.tasks.translation.tiny import SOURCES, TARGETS, H, model, sources
from tests.tolerance import assert_same
from torch.nn.functional import cross_entropy

from unrolled.data.sentences import END, PAD, START, UNKNOWN
from unrolled.tasks.translation.config import Config
from unrolled.tasks.translation.loss import hide, mix_in_predictions, nats, training_loss
from unrolled.tasks.translation.model import build


def batch(step: int = 0) -> dict:
    tokens = torch.tensor([[START, 4, 5, 6, END], [START, 7, END, PAD, PAD], [START, END, PAD, PAD, PAD]])
    return {"source": sources(2, 4, 1), "tokens": tokens, "step": step}


@pytest.mark.parametrize("smooth", [0.0, 0.3])
def test_the_loss_is_cross_entropys_mean_over_tokens_smoothing_and_padding_as_there(smooth: float) -> None:
    translator, pairs = model(), batch()
    step = training_loss(translator, pairs, Config(label_smoothing=smooth))
    logits = translator(translator.encode(pairs["source"]), pairs["tokens"][:, :-1]).logits.float().transpose(1, 2)
    targets, given = pairs["tokens"][:, 1:], {"ignore_index": PAD}
    assert_same(step.loss, cross_entropy(logits, targets, label_smoothing=smooth, **given))
    assert step.report["nats_per_token"] == pytest.approx(float(cross_entropy(logits, targets, **given).detach()))
    assert step.count == 4 + 2 + 1
    total, count = nats(translator, pairs)
    assert (total / count, count) == (pytest.approx(step.report["nats_per_token"]), 7)


def test_of_an_ensemble_each_member_learns_by_its_own_loss() -> None:
    config = Config(hidden_size=H, members=2, shared=False, dropout=0, label_smoothing=0.2)
    ensemble, pairs = build(config, SOURCES, TARGETS).double(), batch()
    step = training_loss(ensemble, pairs, config)
    alone = [training_loss(one, pairs, config) for one in ensemble.members]
    assert_same(step.loss, sum(one.loss for one in alone) / 2)
    assert step.report["nats_per_token"] == pytest.approx(sum(one.report["nats_per_token"] for one in alone) / 2)


def read_by(step: int, share: float, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The tokens that the decoder reads while the loss is computed, call by call."""
    translator, seen = model(), []
    forward = translator.forward
    monkeypatch.setattr(
        translator, "forward", lambda memory, tokens, **how: (seen.append(tokens), forward(memory, tokens, **how))[1]
    )
    training_loss(translator, batch(step), Config(scheduled_sampling=share, max_steps=10))
    return seen


def test_scheduled_sampling_grows_from_none_to_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    right = batch()["tokens"][:, :-1]
    for step, share in ((5, 0.0), (0, 1.0)):
        (seen,) = read_by(step, share, monkeypatch)
        assert torch.equal(seen, right)
    first, mixed = read_by(10, 1.0, monkeypatch)
    assert torch.equal(first, right)
    assert not torch.equal(mixed, right)
    shares = []
    monkeypatch.setattr(
        "unrolled.tasks.translation.loss.mix_in_predictions", lambda *given: (shares.append(given[3]), given[2])[1]
    )
    for step in (1, 5, 10, 20):
        training_loss(model(), batch(step), Config(scheduled_sampling=0.6, max_steps=10))
    assert shares == pytest.approx([0.06, 0.3, 0.6, 0.6])


def test_a_share_of_the_tokens_is_what_the_model_predicts_and_never_start_or_padding() -> None:
    translator = model()
    with torch.no_grad():
        translator.output.bias[[PAD, START]] = 50.0  # by far the likeliest, were they allowed
    tokens = torch.randint(4, 13, (200, 11))
    tokens[:, 0], tokens[:50, 6:] = START, PAD
    memory = translator.encode(sources(*[3] * 200))
    logits = translator(memory, tokens).logits
    logits[..., [PAD, START]] = -torch.inf
    predicted = logits.argmax(-1)[:, :-1]
    mixed = mix_in_predictions(translator, memory, tokens, 0.3)
    assert torch.equal(mixed[:, 0], tokens[:, 0])
    assert torch.equal(mixed == PAD, tokens == PAD)
    later, differs, real = mixed[:, 1:], predicted != tokens[:, 1:], tokens[:, 1:] != PAD
    replaced = later != tokens[:, 1:]
    assert torch.equal(later[replaced], predicted[replaced])
    assert float(replaced.sum() / (differs & real).sum()) == pytest.approx(0.3, abs=0.05)  # of 1,600: four standard errors
    assert torch.equal(mix_in_predictions(translator, memory, tokens, 1.0)[:, 1:][real], predicted[real])


def test_word_dropout_hides_a_share_of_what_is_read_and_nothing_of_what_is_to_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randint(END + 1, 13, (200, 11))
    tokens[:, 0], tokens[:, 7], tokens[:, 8:] = START, END, PAD
    hidden = hide(tokens, 0.3)
    words = tokens > END
    assert torch.equal(hidden[~words], tokens[~words])
    assert float((hidden == UNKNOWN)[words].float().mean()) == pytest.approx(0.3, abs=0.06)  # of 1,200: four standard errors
    translator, pairs, read = model(), batch(), []
    monkeypatch.setattr("unrolled.tasks.translation.loss.hide", lambda *given: (read.append(given), hide(*given))[1])
    step = training_loss(translator, pairs, Config(word_dropout=0.9))
    (source, _), (tokens_read, share) = read
    assert torch.equal(source, pairs["source"])
    assert torch.equal(tokens_read, pairs["tokens"][:, :-1])
    assert share == 0.9
    assert step.count == 7
    state = torch.get_rng_state()
    assert hide(tokens, 0.0) is tokens
    assert torch.equal(torch.get_rng_state(), state)
