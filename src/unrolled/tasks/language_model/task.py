"""The language model as the training loop sees it, and as a trained run is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from unrolled import checkpoint, export
from unrolled.data import tokenizers
from unrolled.data.sources import Named, names
from unrolled.data.token_streams import open_tokens
from unrolled.errors import ExportError
from unrolled.task import Activations, Carry, Metric, Preview, Processes, Step
from unrolled.tasks.language_model import activations, data
from unrolled.tasks.language_model.config import Config
from unrolled.tasks.language_model.generate import generate
from unrolled.tasks.language_model.loss import measure, training_loss
from unrolled.tasks.language_model.model import LanguageModel


class Task:
    """A language model bound to its run folder, for `unrolled.training.train`."""

    name = "language-model"
    unit = "tokens"
    loss_name = "nats per token"
    selection = Metric("loss", "nats per token")
    prepare = staticmethod(data.prepare)

    def __init__(self, config: Config, folder: Path, tokens: np.ndarray | None = None) -> None:
        self.config, self.folder = config, folder
        self.tokenizer = tokenizers.load(folder)
        self.unit = {"char": "chars", "byte": "bytes"}.get(config.unit, "tokens")
        if tokens is None:
            training, self.validation = data.split(config, open_tokens(folder / data.FOLDER, self.tokenizer.size))
        else:
            training, self.validation = tokens, tokens[:0]
        self.streams = data.streams(config, training)
        self.summary = (
            f"{len(training):,} {self.unit} to learn from, {max(0, len(self.validation) - 1):,} to measure on, "
            f"vocabulary of {self.tokenizer.size:,}"
        )
        self.characters = self.tokenizer.characters_per_token()

    @classmethod
    def on_other_data(cls, config: Config, folder: Path, paths: list[str]) -> Task:
        """The same task with batches of other text, encoded as the run's was: for looking into its gradient.

        Raises:
            DataError: the text cannot be read, or is too little for a batch.
        """
        tokens, _ = data.encode(paths, tokenizers.load(folder), config.encoding)
        return cls(config, folder, tokens)

    def build(self) -> nn.Module:
        return LanguageModel(self.config, self.tokenizer.size)

    def batch(self, step: int) -> dict[str, Any]:
        tokens, skip, advance, fresh = self.streams.chunk(step, self.config.k2 or self.config.k1)
        return {
            "tokens": torch.from_numpy(tokens),
            "skip": skip,
            "advance": advance,
            "fresh": fresh,
            "new": self.config.k1,
        }

    def loss(self, model: nn.Module, batch: dict[str, Any], carry: Carry) -> Step:
        return training_loss(model, batch, carry, self.characters)

    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        if len(self.validation) < 2:
            return {}
        return measure(model, self.validation, self.tokenizer, processes=processes)

    def show(self, model: nn.Module, seed: int) -> str:
        return "".join(generate(model, self.tokenizer, length=200, temperature=0.7, seed=seed)).strip("\n")


class Run:
    """A trained language model from its run folder.

    Raises:
        RunError: the folder is missing, damaged, of a newer format, or of another task.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config: Config = checkpoint.open_config(self.folder, Task.name, Config)
        self.tokenizer = tokenizers.load(self.folder)
        self.model = checkpoint.load_model(self.folder, lambda: LanguageModel(self.config, self.tokenizer.size))
        self.model.eval()

    def preview(self) -> Preview:
        """A longer sample than training showed."""
        return Preview(
            "a longer sample",
            "".join(self.sample(length=1000, temperature=0.7, seed=0)).strip("\n"),
            (
                f"unrolled sample {self.folder} --temperature 0.5 --length 2000",
                f"unrolled evaluate {self.folder} SOME_OTHER_TEXT.txt",
                "unrolled train language-model YOUR_TEXT.txt",
            ),
        )

    def sample(self, prompt: str = "", **settings: Any) -> Iterator[str]:
        """Text after the prompt, as it is generated; `settings` are `generate`'s."""
        return generate(self.model, self.tokenizer, prompt=prompt, **settings)

    def gallery(self, folder: Path, *paths: Named) -> list[Path]:
        """Colour a text by how likely the model took each token to be, as HTML and PNG: its first 40,000 tokens, or a sample of
        its own where no text is named; return the paths.
        """
        from unrolled.tasks.language_model.show import draw  # matplotlib, which takes a second to load

        return draw(folder, self, names(paths))

    def activations(self, *paths: Named) -> Activations:
        """What the hidden units are after each token of a text, its first 40,000; see `activations.read`."""
        return activations.read(self.model, self.tokenizer, names(paths), self.config.encoding)

    def export(self, path: str | Path) -> Path:
        """Write the model as ONNX: `tokens` (batch, time) and a state in, `logits` and the state after them out.

        Raises:
            ExportError: the onnx package is missing, or the model does what ONNX cannot say.
        """
        if self.config.documents:
            raise ExportError(f"{self.folder}: ONNX cannot reset a state inside a sequence, as --documents does.")
        graph = export.Graph("language_model")
        tokens = graph.input("tokens", torch.int64, ["batch", "time"])
        state = export.state_inputs(graph, self.model.layers)
        size = self.tokenizer.size
        encoder = self.model.encoder
        x = export.embedding(graph, encoder, tokens) if encoder else export.one_hot(graph, tokens, size)
        output, state = export.recurrent(graph, self.model.layers, x, state)
        graph.output("logits", export.linear(graph, self.model.decoder, output), torch.float32, ["batch", "time", size])
        export.state_outputs(graph, self.model.layers, state)
        return graph.save(path)

    def evaluate(self, *paths: Named, report: Callable[[str, int, int], None] | None = None) -> dict[str, float]:
        """`loss` (nats per token), `perplexity`, `bits_per_character`, how many tokens were measured, and how many of them and
        what share were unknown; `files_left_out` where folders have files that are not text.

        `report` is called with what is being done, how much of it is done, and the total.
        """
        tokens, left_out = data.encode(names(paths), self.tokenizer, self.config.encoding)
        metrics = measure(self.model, tokens, self.tokenizer, report=partial(report, "steps") if report else None)
        unknown = int((tokens[1:] == self.tokenizer.unknown).sum())
        return {
            **metrics,
            "tokens": len(tokens) - 1,
            "unknown_tokens": unknown,
            "unknown_share": unknown / (len(tokens) - 1),
            **({"files_left_out": len(left_out)} if left_out else {}),
        }
