"""The network and its loss: padding, state, several labels, unlabelled steps."""

import numpy as np
import pytest
import torch

from tolerance import assert_same
from unrolled.tasks.labelling.config import Config
from unrolled.tasks.labelling.data import UNLABELLED, Encoding, Example, batch_of
from unrolled.tasks.labelling.generate import predict
from unrolled.tasks.labelling.loss import total_nats
from unrolled.tasks.labelling.model import Labeller

LABELS = ["a", "b", "c"]
ENCODINGS = {
    "words": Encoding(kind="words", labels=LABELS, words=["the", "dog"], characters=list("dehot")),
    "characters": Encoding(kind="characters", labels=LABELS, characters=list("abc")),
    "numbers": Encoding(kind="numbers", labels=LABELS, mean=[1.0, 2.0], deviation=[3.0, 0.5]),
}
SEVERAL = {
    "words": [["the", "dog", "dodo", "the", "x"], ["dog"], ["hot", "the", "dog"]],
    "characters": ["abcab", "c", "ab?"],
    "numbers": [np.random.default_rng(n).normal(size=(n, 2)).astype(np.float32) for n in (5, 1, 3)],
}
SETTINGS = [
    {"cell": "lstm"},
    {"cell": "gru", "num_layers": 2, "bidirectional": False},
    {"cell": "rnn", "per": "sequence"},
    {"cell": "lstm", "per": "sequence", "num_layers": 2, "bidirectional": False},
    {"cell": "none", "per": "sequence"},
    {"cell": "gru", "front": "conv", "front_size": 5},
    {"cell": "gru", "front": "linear", "front_size": 5},
]


def model(kind: str, **settings) -> Labeller:
    return Labeller(Config(hidden_size=7, embedding_size=5, character_size=4, **settings), ENCODINGS[kind]).eval()


@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_padding_does_not_change_the_scores(kind: str, settings: dict) -> None:
    made, encoding = model(kind, **settings), ENCODINGS[kind]
    together = made(encoding.collate(SEVERAL[kind])).scores
    for row, one in enumerate(SEVERAL[kind]):
        alone = made(encoding.collate([one])).scores[0]
        assert_same(together[row, : len(one)] if made.per_step else together[row], alone)


def test_its_state_carries_one_direction_from_part_to_part() -> None:
    made, encoding = model("numbers", bidirectional=False, num_layers=2), ENCODINGS["numbers"]
    whole, state = SEVERAL["numbers"][0], None
    parts = []
    for step in range(len(whole)):
        scores, state = made(encoding.collate([whole[step : step + 1]]), state)
        parts.append(scores)
    assert_same(torch.cat(parts, 1), made(encoding.collate([whole])).scores)


def test_numbers_are_normalised_by_the_statistics_of_training() -> None:
    made = model("numbers", front="none")
    x = made.front(ENCODINGS["numbers"].collate([np.array([[4.0, 3.0]], np.float32)]))
    assert_same(x, torch.tensor([[[1.0, 2.0]]]))


def test_word_dropout_hides_words_and_not_their_letters() -> None:
    made = model("words", word_dropout=0.99, dropout=0.0).train()
    seen = made.front(ENCODINGS["words"].collate([["the"] * 200]))[0]
    known, unknown = made.front.embedding.weight[2], made.front.embedding.weight[1]
    hidden = (seen[:, :5] == unknown).all(1)
    assert hidden.sum() > 150
    assert (seen[~hidden, :5] == known).all()
    assert_same(seen[:, 5:], seen[:1, 5:].expand(200, -1))


def test_steps_without_a_label_are_in_no_loss() -> None:
    made, encoding, config = model("characters"), ENCODINGS["characters"], Config()
    whole = batch_of([Example("abca", np.array([0, 1, 2, 0]))], encoding, config)
    some = {**whole, "labels": torch.tensor([[0, UNLABELLED, 2, UNLABELLED]])}
    scores = made(whole).scores
    nats, count = total_nats(made, scores, some, config)
    log_p = torch.log_softmax(scores, -1)[0]
    assert count == 2
    assert_same(nats, -(log_p[0, 0] + log_p[2, 2]))


def test_a_crf_has_the_loss_of_whole_sequences_and_decodes_them() -> None:
    config = Config(crf=True)
    made, encoding = model("characters", crf=True), ENCODINGS["characters"]
    with torch.no_grad():
        made.crf.transitions[0, 0] = -1000.0  # never the first label twice in a row
        made.output.bias[:] = torch.tensor([5.0, 0.0, 0.0])
    batch = batch_of([Example("abcab", np.array([0, 1, 0, 1, 0])), Example("c", np.array([2]))], encoding, config)
    prediction = predict(made, batch, config)
    assert prediction.labels[0, ::2].tolist() == [0, 0, 0]
    assert 0 not in prediction.labels[0, 1::2].tolist()
    nats, count = total_nats(made, made(batch).scores, batch, config)
    assert count == 6
    assert_same(nats, -made.crf.log_likelihood(made(batch).scores, batch["labels"].long(), batch["lengths"]).sum())


def test_several_labels_have_a_sigmoid_each_summed_over_a_step() -> None:
    config = Config(multi=True)
    made, encoding = model("characters", multi=True), ENCODINGS["characters"]
    truth = np.array([[1, 0, 1], [0, 0, 0]], bool)
    batch = batch_of([Example("ab", truth), Example("c", truth[:1])], encoding, config)
    scores = made(batch).scores
    p = torch.sigmoid(scores)
    each = -torch.where(batch["labels"], p, 1 - p).log().sum(-1)
    nats, count = total_nats(made, scores, batch, config)
    assert count == 3
    assert_same(nats, each[0].sum() + each[1, 0])
    assert torch.equal(predict(made, batch, config).labels, p > 0.5)
