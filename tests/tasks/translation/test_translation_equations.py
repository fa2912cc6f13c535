"""The model is its equations: encoder, where the decoder begins, where attention stands; padding and cutting change nothing."""

from itertools import product

import pytest
import torch
from tests.tasks.translation.tiny import ATTENTIONS, SOURCES, TARGETS, H, model, sources, targets
from tests.tolerance import assert_same
from torch import Tensor, nn

from unrolled import cells
from unrolled.cells import Weights
from unrolled.data.sentences import END, PAD
from unrolled.ensemble import Ensemble
from unrolled.tasks.translation.config import Config
from unrolled.tasks.translation.model import Translator, build

CELLS = {"rnn": cells.rnn_tanh_cell, "lstm": cells.lstm_cell, "gru": cells.gru_cell}
FEEDING = [(attention, fed) for attention in ATTENTIONS for fed in (False, True) if attention in ("dot", "general") or not fed]


class Times(nn.Module):
    """Stands where dropout does, so that the equations show what passes through it."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.7 * x


def stepped(cell: str, x: Tensor, state: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """One step of one sentence: x (I,), parts of the state (H,)."""
    after = CELLS[cell](x[None], *(part[None] for part in state), Weights(*weights))
    return [part[0] for part in (after if isinstance(after, tuple) else (after,))]


def read(translator: Translator, source: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """A sentence (S,) -> the outputs of the encoder, a vector a place, and the last states of its layers and directions."""
    drop, parts = translator.dropout, translator.state_parts
    outputs = [drop(translator.source_embedding.weight[i] * translator.embedding_scale) for i in source]
    last: list[Tensor] = []
    for number, layer in enumerate(translator.encoder_layers):
        below, sides, ends = outputs, [], []
        for direction, weights in enumerate(layer.all_weights):
            state, said = [torch.zeros(layer.hidden_size).double()] * parts, []
            for x in below[:: -1 if direction else 1]:
                state = stepped(translator.first_step.cell, x, state, weights)
                said.append(state[0])
            sides.append(said[:: -1 if direction else 1])
            ends.append(state)
        outputs = [torch.cat(one) for one in zip(*sides, strict=True)]
        if translator.residual and number:
            outputs = [x + y for x, y in zip(outputs, below, strict=True)]
        outputs = [drop(x) for x in outputs]
        last += [torch.cat(part) for part in zip(*ends, strict=True)]
    return outputs, last


def scores(translator: Translator, kind: str, query: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Attention's weights (P,) and what stands for each place in their mean (P, H)."""
    attention = translator.attention
    if kind == "additive":
        return torch.cat([attention.score(torch.tanh(attention.query(query) + attention.key(a))) for a in places]), places
    if kind == "between":
        keys, values = attention.key(places), attention.value(places)
        return keys @ attention.query(query) / H**0.5, values
    return (places if kind == "dot" else places @ attention.key.weight.T) @ query, places


def write(translator: Translator, kind: str, source: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The logits (T, V) of one sentence, and attention's weights (T, P)."""
    drop, parts = translator.dropout, translator.state_parts
    outputs, last = read(translator, source)
    places = torch.stack([translator.project(x) for x in outputs])
    begin = torch.cat(last) if translator.start is None else torch.tanh(translator.start(torch.cat(last)))
    states = [list(part) for part in begin.view(-1, parts, H)]
    fed, logits, attended = torch.zeros(H).double(), [], []

    def look(query: Tensor) -> Tensor:
        e, values = scores(translator, kind, query, places)
        attended.append(e.softmax(0))
        return attended[-1] @ values

    for token in tokens:
        e = drop(translator.embedding.weight[token] * translator.embedding_scale)
        x = torch.cat([e, fed]) if translator.input_feeding else e
        z = None
        for number, layer in enumerate(translator.layers):
            below = x
            if number == 0 and kind == "additive":
                z = look(states[0][0])
                x = torch.cat([x, z])
            if number == 1 and kind == "between":
                z = look(x)
                x = torch.cat([x, z])
            states[number] = stepped(translator.first_step.cell, x, states[number], layer.all_weights[0])
            x = states[number][0] + below if translator.residual and number else states[number][0]
            x = drop(x)
        if kind in ("dot", "general"):
            z = look(x)
        fed = drop(torch.tanh(translator.deep(torch.cat([x, e] if z is None else [x, z, e]))))
        logits.append(translator.output(fed))
    return torch.stack(logits), torch.stack(attended) if attended else torch.empty(0)


@pytest.mark.parametrize(("attention", "feeding"), FEEDING)
@pytest.mark.parametrize(
    "how",
    [
        {"cell": "rnn"},
        {"cell": "lstm", "encoder_layers": 2, "residual": True, "tied": False},
        {"cell": "gru", "bidirectional": False, "encoder_layers": 2},
        {"cell": "gru", "encoder_size": 5, "num_layers": 3, "residual": True},
    ],
    ids=["rnn", "residual", "one direction", "other widths"],
)
def test_every_attention_is_its_equations_dropout_in_its_places(attention: str, feeding: bool, how: dict) -> None:
    translator = model(attention=attention, input_feeding=feeding, **how)
    translator.dropout = Times()
    source, tokens = sources(4), targets(1, 3)
    output = translator(translator.encode(source), tokens)
    logits, weights = write(translator, attention, source[0], tokens[0])
    assert_same(output.logits[0], logits)
    if attention == "none":
        assert output.weights is None
    else:
        assert_same(output.weights[0], weights)


@pytest.mark.parametrize(("attention", "feeding"), FEEDING)
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_token_by_token_gives_what_the_whole_target_gives(cell: str, attention: str, feeding: bool) -> None:
    translator = model(cell=cell, attention=attention, input_feeding=feeding)
    memory, tokens = translator.encode(sources(3, 5)), targets(4, 5)
    whole = translator(memory, tokens)
    state, steps = translator.initial_state(memory, copies=2), []
    for t in range(5):
        output = translator(memory, tokens[:, t : t + 1], state)
        state = output.state
        steps.append(output.logits)
    assert_same(torch.cat(steps, dim=1), whole.logits)
    assert len(state) == len(whole.state) == 2 * (2 if cell == "lstm" else 1) + feeding
    for last, one in zip(state, whole.state, strict=True):
        assert_same(last, one)


@pytest.mark.parametrize(("attention", "feeding"), FEEDING)
@pytest.mark.parametrize("how", [{}, {"reverse_source": True}, {"bidirectional": False, "encoder_layers": 2, "residual": True}])
def test_padding_of_the_source_changes_nothing(attention: str, feeding: bool, how: dict) -> None:
    translator = model(attention=attention, input_feeding=feeding, **how)
    together, tokens = sources(2, 6, 1), targets(3, 4)
    output = translator(translator.encode(together), tokens)
    for row, length in enumerate((2, 6, 1)):
        alone = translator(translator.encode(together[row : row + 1, : length + 1]), tokens[row : row + 1])
        assert_same(output.logits[row], alone.logits[0])
        if attention != "none":
            assert_same(output.weights[row, :, : length + 1], alone.weights[0])
            assert not output.weights[row, :, length + 1 :].any()


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_reversed_source_is_read_from_its_end_and_its_places_stay(attention: str) -> None:
    translator, plain = (model(attention=attention, reverse_source=reverse, bidirectional=False) for reverse in (True, False))
    source = torch.tensor([[4, 5, 6, 7, END], [8, 9, END, PAD, PAD]])
    reversed_by_hand = torch.tensor([[7, 6, 5, 4, END], [9, 8, END, PAD, PAD]])
    tokens = targets(2, 3)
    said, expected = (one(one.encode(ids), tokens) for one, ids in ((translator, source), (plain, reversed_by_hand)))
    assert_same(said.logits, expected.logits)
    if attention != "none":
        assert_same(said.weights[0], expected.weights[0][:, [3, 2, 1, 0, 4]])
        assert_same(said.weights[1], expected.weights[1][:, [1, 0, 2, 3, 4]])


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_the_decoder_begins_with_the_encoders_state_as_it_is_where_it_fits(cell: str) -> None:
    fits = model(cell=cell, bidirectional=False, encoder_layers=2, num_layers=2)
    assert fits.start is None
    source = sources(3)
    _, last = read(fits, source[0])
    for one, expected in zip(fits.initial_state(fits.encode(source)), last, strict=True):
        assert_same(one[0], expected)
    for how in ({"bidirectional": True}, {"encoder_layers": 1}, {"encoder_size": 5}):
        mapped = model(cell=cell, **{"bidirectional": False, "encoder_layers": 2, "num_layers": 2} | how)
        _, last = read(mapped, source[0])
        state = torch.cat(mapped.initial_state(mapped.encode(source)), dim=-1)[0]
        assert_same(state, torch.tanh(mapped.start.weight @ torch.cat(last) + mapped.start.bias))


def test_embeddings_are_tied_and_shared_where_asked_for_and_not_elsewhere() -> None:
    for tied, shared, vocabulary in product((True, False), (True, False), ("joint", "separate")):
        one = Translator(Config(hidden_size=64, tied=tied, shared=shared, vocabulary=vocabulary), 400, 400)
        assert (one.output.weight is one.embedding.weight) == tied
        assert (one.source_embedding is one.embedding) == (shared and vocabulary == "joint")
        assert one.embedding_scale == (8 if tied else 1)
        for table in (one.embedding, one.source_embedding):
            assert float(table.weight.detach().std()) == pytest.approx(
                1 / 8, rel=0.03
            )  # of 25,600 numbers: six standard errors


def test_an_ensemble_predicts_by_the_mean_probability_of_members_that_differ() -> None:
    config = Config(hidden_size=H, members=3, shared=False)
    ensemble, source, tokens = build(config, SOURCES, TARGETS).double().eval(), sources(3, 2), targets(2, 4)
    assert isinstance(ensemble, Ensemble)
    alone = [one(one.encode(source), tokens) for one in ensemble.members]
    together = ensemble(ensemble.encode(source), tokens)
    assert_same(together.logits.exp(), sum(one.logits.softmax(-1) for one in alone).float() / 3)
    assert_same(together.weights, sum(one.weights for one in alone) / 3)
    assert not torch.equal(alone[0].logits, alone[1].logits)
    assert isinstance(build(Config(hidden_size=H), SOURCES, SOURCES), Translator)


@pytest.mark.parametrize(("attention", "feeding"), FEEDING)
def test_gradients_reach_every_parameter_in_every_configuration(attention: str, feeding: bool) -> None:
    choices = product(("rnn", "lstm", "gru"), (True, False), (None, 5), (1, 2))
    for cell, bidirectional, encoder_size, layers in choices:
        residual = layers == 2
        how = {"cell": cell, "bidirectional": bidirectional, "encoder_size": encoder_size, "encoder_layers": layers}
        translator = model(attention=attention, input_feeding=feeding, residual=residual, tied=not residual, **how)
        source = sources(3, 1)
        translator(translator.encode(source), targets(2, 4)).logits.log_softmax(-1)[..., 4].sum().backward()
        without = [name for name, p in translator.named_parameters() if p.grad is None or not p.grad.any()]
        assert not without, how


def share_dropped(x: Tensor, whole: Tensor) -> float:
    """How much of `whole` is zero in x; the rest must be scaled up by what is missing."""
    kept = x != 0
    assert_same(x[kept], whole[kept] / 0.6)
    return 1 - float(kept.sum() / whole.numel())


def test_in_training_each_sentence_loses_units_of_its_own_at_all_steps() -> None:
    translator, x = model(dropout=0.4), torch.rand(300, 5, 20).double() + 0.5
    assert torch.equal(translator.dropout(x), x)
    translator.train()
    dropped = translator.dropout(x)
    assert share_dropped(dropped, x) == pytest.approx(0.4, abs=0.03)  # of 6,000 units: five standard errors
    assert torch.equal(dropped[:, 0] == 0, dropped[:, 4] == 0)
    assert not torch.equal(dropped[0] == 0, dropped[1] == 0)
