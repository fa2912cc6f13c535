"""The two files that a translator is exported to translate in onnxruntime as the model does here."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tolerance import assert_same
from unrolled import checkpoint, tasks
from unrolled.data.sentences import END, PAD, START, UNKNOWN, SentenceTokenizer
from unrolled.tasks.translation.config import Config
from unrolled.tasks.translation.data import Vocabularies, pad
from unrolled.tasks.translation.export import export
from unrolled.tasks.translation.generate import generate
from unrolled.tasks.translation.model import build

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

H, LONGEST = 6, 7
SETTINGS = [
    *({"attention": attention} for attention in ("none", "additive", "dot", "general", "between")),
    {"attention": "dot", "input_feeding": True},
    {"attention": "general", "input_feeding": True, "cell": "gru", "num_layers": 1, "members": 2, "bidirectional": False},
    {"attention": "none", "cell": "rnn", "members": 2, "reverse_source": True},
    {"attention": "additive", "cell": "gru", "encoder_layers": 2, "tied": False, "residual": True, "num_layers": 3},
    {"attention": "between", "heads": 3, "members": 3, "encoder_size": 4, "shared": False},
    {"attention": "between", "cell": "rnn", "bidirectional": False, "encoder_layers": 2, "reverse_source": True},
    {"attention": "general", "encoder_layers": 3, "residual": True, "num_layers": 2, "vocabulary": "separate"},
]
SENTENCES = [" ".join("abcdef?"[(n * n + 3 * k) % 7] for k in range(n % 11)) for n in range(40)]  # "?" is unknown
WORDS = Vocabularies(*(SentenceTokenizer("word", words, "text") for words in ("abcdef", "uvwxyz")))


def model(settings: dict, scale: float = 0.5):
    """A model of random weights. Where they are large, what it writes depends on what it reads, and scores are far apart."""
    made = build(Config(hidden_size=H, **settings), *(one.size for one in WORDS)).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(std=scale)
        for member in made.members:
            member.output.bias[END] -= 3  # else many say nothing
    return made


class Files:
    """An encoder's file and a decoder's, run as any program would that knows their names."""

    def __init__(self, encoder: Path, decoder: Path) -> None:
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (encoder, decoder)
        )

    def encode(self, source: torch.Tensor) -> dict:
        names = [one.name for one in self.encoder.get_outputs()]
        return dict(zip(names, self.encoder.run(names, {"source": source.numpy()}), strict=True))

    def step(self, tokens: np.ndarray, given: dict) -> tuple[dict, dict]:
        """What comes out, and what goes in at the next step."""
        names = [one.name for one in self.decoder.get_outputs()]
        output = dict(zip(names, self.decoder.run(names, {"tokens": tokens, **given}), strict=True))
        return output, given | {name[:-1] + "0": value for name, value in output.items() if name.endswith("_n")}

    def translate(self, sentences: list[str], vocabularies: Vocabularies, longest: int, copies: bool) -> list[str]:
        """Greedily. With copies, an unknown word is the word of the source that is attended to most."""
        read = [n for n, sentence in enumerate(sentences) if sentence.strip()]
        given = self.encode(pad([*vocabularies.source.encode(sentences[n])[:longest], END] for n in read))
        tokens, written, places = np.full(len(read), START), [], []
        for _ in range(longest + 1):
            output, given = self.step(tokens, given)
            never = [PAD, START] if copies else [PAD, START, UNKNOWN]
            output["logits"][:, never] = -np.inf
            tokens = output["logits"].argmax(-1)
            written.append(tokens)
            places.append(output.get("weights", output["logits"]))
        lines = [""] * len(sentences)
        for row, n in enumerate(read):
            words = vocabularies.source.pieces(sentences[n])[:longest]
            ids = [int(several[row]) for several in written]
            copied = [
                words[at[row, : len(words)].argmax()] for i, at in zip(ids, places, strict=True) if i == UNKNOWN and copies
            ]
            lines[n] = vocabularies.target.decode(ids, copied)
        return lines


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
class TestSettings:
    def test_onnxruntime_writes_the_lines_that_the_model_writes(self, settings: dict, tmp_path: Path) -> None:
        translator = model(settings, scale=2)
        expected = [one[0].text for one in generate(translator, WORDS, SENTENCES, longest=LONGEST, beam=1)]
        assert len(set(expected)) > 2, "sentences whose translations are the same show nothing"
        files = Files(*export(translator, tmp_path / "model.onnx"))
        assert files.translate(SENTENCES, WORDS, LONGEST, settings["attention"] != "none") == expected

    def test_numbers_agree_for_several_rows_of_each_sentence(self, settings: dict, tmp_path: Path) -> None:
        translator, rows = model(settings), 2
        files = Files(*export(translator, tmp_path / "model.onnx"))
        source = torch.tensor([[4, 5, 6, 7, END], [8, END, PAD, PAD, PAD], [END, PAD, PAD, PAD, PAD]])
        tokens = torch.tensor(
            [[START, 4, UNKNOWN], [START, 5, 6], [START, 9, END], [START, 4, 4], [START, 7, 8], [START, 8, 9]]
        )
        with torch.no_grad():
            expected = translator(translator.encode(source), tokens)
        given = {  # the state of each row, keys and values of each sentence
            name: value.repeat(rows, axis=1) if name.endswith("_0") else value for name, value in files.encode(source).items()
        }
        for t in range(tokens.shape[1]):
            output, given = files.step(tokens[:, t].numpy(), given)
            assert_same(torch.from_numpy(output["logits"]), expected.logits[:, t])
            assert ("weights" in output) == (expected.weights is not None)
            if expected.weights is not None:
                assert_same(torch.from_numpy(output["weights"]), expected.weights[:, t])


def test_only_standard_operators_and_named_ends(tmp_path: Path) -> None:
    paths = export(model({"attention": "general", "input_feeding": True, "members": 2}), tmp_path / "model.onnx")
    encoder, decoder = (onnx.load(path).graph for path in paths)
    assert {node.domain for graph in (encoder, decoder) for node in graph.node} == {""}
    size = WORDS.target.size
    memory = {"keys": ["sentences", "source", 2 * H], "values": ["sentences", "source", 2 * H], "mask": ["sentences", "source"]}
    state = {"h": [4, "batch", H], "c": [4, "batch", H], "fed": [2, "batch", H]}
    assert axes(encoder.input) == {"source": ["sentences", "source"]}
    assert axes(encoder.output) == memory | {f"{name}_0": [n, "sentences", H] for name, (n, *_) in state.items()}
    assert axes(decoder.input) == {"tokens": ["batch"], **memory, **{f"{name}_0": each for name, each in state.items()}}
    outputs = {"logits": ["batch", size], "weights": ["batch", "source"], **{f"{name}_n": each for name, each in state.items()}}
    assert axes(decoder.output) == outputs


def axes(values) -> dict[str, list]:
    return {one.name: [dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in values}


def test_a_table_that_embedding_and_output_share_is_written_once(tmp_path: Path) -> None:
    for tied in (True, False):
        decoder = onnx.load(export(model({"tied": tied}), tmp_path / "model.onnx")[1])
        tables = [list(one.dims) for one in decoder.graph.initializer].count([WORDS.target.size, H])
        assert tables == (1 if tied else 2)


def test_files_lie_beside_the_path_that_was_given(tmp_path: Path) -> None:
    for name, stem in (("model.onnx", "model"), ("v1.2", "v1.2"), ("en-de.v1.onnx", "en-de.v1")):
        paths = export(model({}), str(tmp_path / name))
        assert paths == [tmp_path / f"{stem}.encoder.onnx", tmp_path / f"{stem}.decoder.onnx"]
        assert all(path.is_file() for path in paths)


def test_unrolled_export_prints_both_paths_and_the_files_translate_as_the_run(command, tmp_path: Path) -> None:
    table, run = tmp_path / "pairs.tsv", tmp_path / "run"
    table.write_text("".join(f"{n}\t{n:b}\n" for n in range(99)))
    quick = {"hidden_size": 8, "max_steps": 1, "sample_every": 0, "unit": "char", "longest": 9}
    tasks.train("translation", table, run=run, **quick)
    trained = tasks.load(run)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in trained.model.parameters():
            weight.normal_()
    checkpoint.save_model(run, trained.model, 1)

    code, out, errors = command("export", run)
    assert (code, errors) == (0, "")
    paths = [Path(line) for line in out.splitlines()]
    assert paths == [run / "model.encoder.onnx", run / "model.decoder.onnx"]
    lines = ["7", "31", "", "4096", "55 and more than are read"]
    expected = [one.translations[0].text for one in tasks.load(run).translate(lines, beam=1)]
    assert len(set(expected)) > 3
    assert Files(*paths).translate(lines, trained.vocabularies, trained.config.longest, copies=False) == expected
