"""The language model, on real text."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.tolerance import assert_same
from torch import nn

import unrolled
from unrolled import kernels, tasks
from unrolled.data import tokenizers
from unrolled.data.token_streams import TokenStreams
from unrolled.errors import ConfigError, DataError
from unrolled.task import Processes
from unrolled.tasks.language_model import data, loss
from unrolled.tasks.language_model.config import Config
from unrolled.tasks.language_model.generate import generate
from unrolled.tasks.language_model.model import LanguageModel
from unrolled.tasks.language_model.task import Run

V = 11


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_one_hot_input_is_an_embedding_whose_table_is_the_identity(cell: str) -> None:
    one_hot = LanguageModel(Config(cell=cell, hidden_size=7, input="one-hot"), V)
    embedded = LanguageModel(Config(cell=cell, hidden_size=7, embedding_size=V), V)
    embedded.load_state_dict({**one_hot.state_dict(), "encoder.weight": torch.eye(V)})
    assert one_hot.encoder is None
    tokens = torch.randint(V, (3, 5))
    assert_same(one_hot(tokens)[0], embedded(tokens)[0])


def test_tied_weights_are_one_parameter() -> None:
    model = LanguageModel(Config(hidden_size=8, tied=True), V)
    assert isinstance(model.encoder, nn.Embedding)
    assert model.decoder.weight is model.encoder.weight
    assert sum(p.shape == (V, 8) for p in model.parameters()) == 1


def test_a_tied_table_begins_at_the_scale_of_an_output_layer() -> None:
    table = LanguageModel(Config(hidden_size=64, tied=True), 500).decoder.weight
    assert float(table.std()) == pytest.approx(1 / 8, rel=0.03)  # of 32,000 numbers: seven standard errors


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_in_training_dropout_acts_between_layers_and_before_the_output_layer(cell: str, num_layers: int) -> None:
    model = LanguageModel(Config(cell=cell, hidden_size=7, num_layers=num_layers, dropout=0.4), V)
    between = 0.4 if num_layers > 1 else 0.0
    layers = getattr(unrolled, cell.upper())(7, 7, num_layers, batch_first=True, dropout=between)
    layers.load_state_dict(model.layers.state_dict())
    tokens = torch.randint(V, (3, 5))
    torch.manual_seed(1)
    hidden, _ = layers(model.encoder(tokens))
    expected = model.decoder(nn.functional.dropout(hidden, 0.4))
    torch.manual_seed(1)
    assert_same(model(tokens)[0], expected)
    assert_same(model.eval()(tokens)[0], model.decoder(layers.eval()(model.encoder(tokens))[0]))


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize(("k1", "k2"), [(8, 8), (4, 8), (2, 8), (8, 3)])
def test_training_windows_carry_the_state_of_one_long_text(cell: str, k1: int, k2: int) -> None:
    """Whatever the truncation, the losses are those of reading each stream in one go."""
    model = LanguageModel(Config(cell=cell, hidden_size=7, num_layers=2), V).double()
    tokens = np.random.default_rng(0).integers(V, size=150)
    streams = TokenStreams(tokens, batch_size=3, k1=k1, seed=0)
    whole = torch.from_numpy(np.stack([tokens[b * streams.stream_length :][: streams.stream_length] for b in range(3)]))
    losses = nn.functional.cross_entropy(model(whole)[0][:, :-1].transpose(1, 2), whole[:, 1:], reduction="none")
    carry: dict = {}
    for n in range(streams.chunks):
        chunk, skip, advance, fresh = streams.chunk(n, k2)
        batch = {"tokens": torch.from_numpy(chunk), "skip": skip, "advance": advance, "fresh": fresh, "new": k1}
        step = loss.training_loss(model, batch, carry, None)
        carry, new = step.carry, min(k1, k2)
        stop = (n + 1) * k1
        assert step.count == 3 * new
        assert float(step.loss.detach()) == pytest.approx(float(losses[:, stop - new : stop].detach().mean()), rel=1e-5)


def test_training_reports_bits_per_character_where_tokens_are_characters() -> None:
    model = LanguageModel(Config(hidden_size=7), V)
    tokens = torch.randint(V, (3, 6))
    batch = {"tokens": tokens, "skip": 0, "advance": 5, "fresh": True, "new": 5}
    step = loss.training_loss(model, batch, {}, np.full(V, 2))
    assert step.report == {"bits_per_character": pytest.approx(float(step.loss.detach()) / math.log(2) / 2)}
    assert loss.training_loss(model, batch, {}, None).report == {}


@pytest.mark.parametrize("streams", [1, 4, 32])
def test_measuring_in_streams_predicts_every_token_once(monkeypatch: pytest.MonkeyPatch, streams: int) -> None:
    """With a long enough warm-up the pieces know what one reader of the whole text knows."""
    monkeypatch.setattr(loss, "WARM_UP", 40)
    model = LanguageModel(Config(cell="gru", hidden_size=7), V)
    tokenizer = tokenizers.CharTokenizer("abcdefghi", documents=False)
    tokens = np.random.default_rng(1).integers(1, V, size=1235)  # what is unknown costs more than the model says
    ids = torch.from_numpy(tokens)
    with torch.no_grad():
        logits, _ = model(ids[None, :-1])
    expected = float(nn.functional.cross_entropy(logits[0], ids[1:]))
    measured = loss.measure(model, tokens, tokenizer, streams=streams)
    assert measured["loss"] == pytest.approx(expected, abs=1e-4)
    assert measured["perplexity"] == pytest.approx(math.exp(expected), rel=1e-3)
    characters = int((tokens[1:] != tokenizer.end).sum())
    assert measured["bits_per_character"] == pytest.approx(expected * 1234 / math.log(2) / characters, rel=1e-3)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_first_of_several_streams_begins_with_nothing_before_it(monkeypatch: pytest.MonkeyPatch, cell: str) -> None:
    monkeypatch.setattr(loss, "WARM_UP", 40)
    model = LanguageModel(Config(cell=cell, hidden_size=7), V)
    tokens = np.random.default_rng(1).integers(V, size=1235)
    ids = torch.from_numpy(tokens)
    sums: list[float] = []

    class OneOfSeven(Processes):
        """Takes the first stream alone."""

        def gather(self, value: float) -> list[float]:
            sums.append(value)
            return [value]

    tokenizer = tokenizers.CharTokenizer("abcdefghi", documents=False)
    loss.measure(model, tokens, tokenizer, streams=7, processes=OneOfSeven(0, 7))
    length = math.ceil(1234 / 7)
    with torch.no_grad():
        logits, _ = model(ids[None, :length])
    expected = nn.functional.cross_entropy(logits[0].double(), ids[1 : length + 1], reduction="sum")
    assert_same(torch.tensor(sums).float(), expected[None].float())


def test_an_untrained_model_knows_nothing_and_a_trained_one_more(trained: Path, real_text: Path) -> None:
    run = tasks.load(trained)
    measured = run.evaluate(str(real_text))
    _, counts = np.unique(list(real_text.read_text()), return_counts=True)
    frequencies = counts / counts.sum()
    unigram = float(-(frequencies * np.log(frequencies)).sum())
    assert measured["loss"] < unigram  # it learned more than how often each character occurs
    torch.manual_seed(0)
    run.model = LanguageModel(run.config, run.tokenizer.size)
    assert run.evaluate(str(real_text))["loss"] == pytest.approx(math.log(run.tokenizer.size), abs=0.3)


@pytest.mark.parametrize("unit", ["char", "byte", "word", "bpe"])
def test_every_unit_trains_samples_and_measures(unit: str, real_text: Path, tmp_path: Path, tiny: dict) -> None:
    tiny |= {"unit": unit, "vocabulary_size": 300, "batch_size": 2, "max_steps": 10}
    outcome = tasks.train("language-model", [str(real_text)], run=tmp_path / "run", **tiny)
    run = tasks.load(outcome.folder)
    assert len("".join(run.sample(length=30, seed=1))) > 10
    measured = run.evaluate(str(real_text))
    assert measured["loss"] < math.log(run.tokenizer.size) + 0.5
    assert ("bits_per_character" in measured) == (unit != "word")
    assert measured["unknown_tokens"] == 0 or unit == "word"


def test_validation_is_the_contiguous_tail() -> None:
    training, validation = data.split(Config(validation_fraction=0.1), np.arange(1000))
    assert training.tolist() == list(range(900))
    assert validation.tolist() == list(range(899, 1000))  # 100 targets, the first predicted from the token before it
    assert len(data.split(Config(validation_fraction=0), np.arange(10))[1]) == 0


def test_without_validation_the_last_weights_are_the_run(real_text: Path, tmp_path: Path, tiny: dict) -> None:
    outcome = tasks.train("language-model", [str(real_text)], run=tmp_path / "run", **tiny, validation_fraction=0)
    assert outcome.metrics == {}
    assert "".join(tasks.load(outcome.folder).sample(length=5, seed=0))


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_with_documents_nothing_leaks_from_one_file_into_the_next(cell: str) -> None:
    model = LanguageModel(Config(cell=cell, hidden_size=7, num_layers=2, documents=True), V)
    first, second = torch.randint(2, V, (2, 1, 6))
    end = torch.tensor([[tokenizers.Tokenizer.end]])
    whole, state = model(torch.cat([first, end, second], dim=1))
    apart, apart_state = model(torch.cat([end, second], dim=1))
    assert_same(whole[:, 6:], apart)
    for one, other in zip(*((s if isinstance(s, tuple) else (s,)) for s in (state, apart_state)), strict=True):
        assert_same(one, other)
    leaky = LanguageModel(Config(cell=cell, hidden_size=7, num_layers=2), V)
    leaky.load_state_dict(model.state_dict())
    assert not torch.allclose(leaky(torch.cat([first, end, second], dim=1))[0][:, 6:], apart)


def test_documents_wants_several_files(real_text: Path, tmp_path: Path, tiny: dict) -> None:
    with pytest.raises(DataError, match=r"documents \(--documents\) expected several files to keep apart, got one"):
        tasks.train("language-model", [str(real_text)], run=tmp_path / "run", **tiny, documents=True)
    assert list(tmp_path.iterdir()) == []


def test_two_files_are_documents_enough(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("abcdef" * 10)
    (tmp_path / "run").mkdir()
    config = Config(data=(str(tmp_path / "*.txt"),), documents=True, k1=4, batch_size=2, validation_fraction=0)
    data.prepare(config, tmp_path / "run", print)
    tokens = data.open_tokens(tmp_path / "run" / data.FOLDER, vocabulary_size=8)
    assert np.flatnonzero(tokens == tokenizers.Tokenizer.end).tolist() == [60, 121]


def test_unknown_tokens_are_counted_among_those_that_are_predicted(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "unseen.txt").write_text("☃☃i☃")
    measured = tasks.load(trained).evaluate(str(tmp_path / "unseen.txt"))
    assert (measured["tokens"], measured["unknown_tokens"]) == (3, 2)


@pytest.mark.parametrize("strange", ["☃", "\U0001f600"])
def test_what_the_vocabulary_lacks_costs_what_it_takes_to_spell(trained: Path, tmp_path: Path, strange: str) -> None:
    """Else a model that knows few letters would look the better, the less it knows of a text."""
    (tmp_path / "unseen.txt").write_text("i" + strange * 999)
    measured = tasks.load(trained).evaluate(tmp_path / "unseen.txt")
    assert measured["unknown_share"] == 1
    assert measured["bits_per_character"] > 20
    assert measured["loss"] == pytest.approx(measured["bits_per_character"] * math.log(2))


def test_names_are_given_alone_or_in_a_list(trained: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text("some text")
    run, names = tasks.load(trained), [tmp_path / "a", tmp_path / "b"]
    assert run.evaluate(names) == run.evaluate(*map(str, names))
    with pytest.raises(DataError, match="expected data, got none"):
        run.evaluate()


class TestSampling:
    @pytest.fixture
    def run(self, trained: Path) -> Run:
        return tasks.load(trained)

    def test_a_seed_writes_the_same_again(self, run: Run) -> None:
        write = lambda seed: "".join(run.sample("def ", length=60, seed=seed))  # noqa: E731
        assert write(1) == write(1)
        assert write(1) != write(2)
        assert len(write(1)) == 60

    @pytest.mark.skipif(not kernels.available(), reason="the streaming engine was not built here")
    @pytest.mark.parametrize("precision", ["bf16", "int8"])
    def test_fewer_bits_write_nearly_the_same(self, run: Run, precision: str) -> None:
        exact = "".join(run.sample("def ", length=40, temperature=0))
        assert "".join(run.sample("def ", length=40, temperature=0, precision=precision))[:3] == exact[:3]

    @pytest.mark.skipif(not kernels.available(), reason="the streaming engine was not built here")
    def test_the_engine_and_the_loop_in_python_write_the_same(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        write = lambda: "".join(run.sample("import ", length=60, temperature=0))  # noqa: E731
        native = write()
        monkeypatch.setattr("unrolled.streaming.supported", lambda *_: "for a test")
        assert write() == native
        with pytest.raises(ConfigError, match=r"^precision: expected fp32 of .*for a test\), got int8"):
            run.sample(precision="int8")

    def test_greedy_is_the_likeliest_continuation_of_the_whole_text(self, run: Run) -> None:
        prompt = "import "
        written = "".join(run.sample(prompt, length=20, temperature=0))
        ids = torch.from_numpy(run.tokenizer.encode(prompt + written))
        with torch.no_grad():
            logits, _ = run.model(ids[None])
        logits[..., :2] = -torch.inf
        assert run.tokenizer.decode(logits[0, len(prompt) - 1 : -1].argmax(-1).tolist()) == written

    def test_an_unseen_character_in_the_prompt_is_refused(self, run: Run) -> None:
        with pytest.raises(DataError, match=r"never saw in its text\. Leave out '☃'"):
            run.sample("snow ☃")

    @pytest.mark.parametrize("prompt", ["", "ab"])
    @pytest.mark.parametrize("documents", [False, True])
    def test_the_model_reads_the_end_of_a_document_or_a_newline_and_the_prompt(self, documents: bool, prompt: str) -> None:
        read: list[list[int]] = []

        class Reads(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.anchor = nn.Parameter(torch.zeros(1))

            def forward(self, tokens: torch.Tensor, state=None):
                read.append(tokens[0].tolist())
                return torch.zeros(*tokens.shape, 5), state

        tokenizer = tokenizers.CharTokenizer("ab\n", documents=documents)
        "".join(generate(Reads(), tokenizer, prompt=prompt, length=2, seed=0))
        beginning = [tokenizer.end] if documents else [] if prompt else tokenizer.encode("\n").tolist()
        assert read[0] == [*beginning, *tokenizer.encode(prompt).tolist()]

    def test_it_stops_by_itself_at_the_end_of_a_document(self) -> None:
        tokenizer = tokenizers.CharTokenizer("ab", documents=True)

        class Ends(nn.Module):
            """Writes a, b, then END."""

            def __init__(self) -> None:
                super().__init__()
                self.anchor = nn.Parameter(torch.zeros(1))

            def forward(self, tokens: torch.Tensor, state=None):
                following = {1: 2, 2: 3, 3: 1}
                logits = torch.full((*tokens.shape, 4), -9.0)
                for b, row in enumerate(tokens):
                    for t, token in enumerate(row):
                        logits[b, t, following[int(token)]] = 9.0
                return logits, state

        assert "".join(generate(Ends(), tokenizer, length=50, seed=0)) == "ab"
        assert "".join(generate(Ends(), tokenizer, prompt="a", length=50, temperature=0)) == "b"
        single = tokenizers.CharTokenizer("ab", documents=False)
        assert len("".join(generate(Ends(), single, prompt="a", length=50, temperature=0))) == 50


def test_documents_train_the_end_token(tmp_path: Path, tiny: dict) -> None:
    for n in range(40):
        (tmp_path / f"{n:02}.txt").write_text("abcdef")
    tiny |= {"max_steps": 80, "learning_rate": 2e-2, "validation_fraction": 0.2, "batch_size": 2}
    tasks.train("language-model", [str(tmp_path / "*.txt")], run=tmp_path / "run", **tiny)
    run = tasks.load(tmp_path / "run")
    assert "".join(run.sample(length=100, temperature=0)) == "abcdef"
