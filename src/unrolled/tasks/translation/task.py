"""Translation as the training loop sees it, and as a trained run is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unrolled import checkpoint
from unrolled.data import pairs, sources
from unrolled.data.pairs import Pairs
from unrolled.data.sentences import END, START
from unrolled.data.sources import Named, names
from unrolled.ensemble import Ensemble
from unrolled.errors import DataError
from unrolled.metrics import TRANSLATION_NOT_INSTALLED, exact_share, translation_scores, translation_scores_installed
from unrolled.task import Carry, Metric, Preview, Processes, Step
from unrolled.tasks.translation import data
from unrolled.tasks.translation.config import Config
from unrolled.tasks.translation.data import Batches, Encoded, Vocabularies, pad
from unrolled.tasks.translation.export import export
from unrolled.tasks.translation.generate import SENTENCES_AT_ONCE, Translation, attention_of, generate
from unrolled.tasks.translation.loss import nats, training_loss
from unrolled.tasks.translation.model import Translator, build

Pair = tuple[str, str]
LINES_DRAWN = 100
"""Of the texts of a gallery, at most."""


class Task:
    """A translator bound to its run folder, for `unrolled.training.train`."""

    name = "translation"
    unit = "tokens"
    loss_name = "nats per token"
    prepare = staticmethod(data.prepare)

    def __init__(self, config: Config, folder: Path, pairs: Encoded | None = None) -> None:
        self.config, self.folder = config, folder
        self.vocabularies = Vocabularies.load(folder)
        self.pairs = pairs or Encoded.open(folder / data.TRAINING, self.vocabularies)
        self.validation = [] if pairs else data.read_validation(folder)
        self.batches = Batches(config, self.pairs)
        self.scored = translation_scores_installed()
        self.selection = Metric("chrf", "chrF", lower_is_better=False) if self.scored else Metric("loss", "nats per token")
        sizes = " and ".join(dict.fromkeys(f"{one.size:,}" for one in self.vocabularies))
        self.summary = (
            f"{len(self.pairs):,} pairs to learn from, {len(self.validation):,} to measure on, vocabulary of {sizes}; "
            f"{self.pairs.target.lengths.sum() / self.batches.per_epoch:,.0f} target tokens a step, "
            f"{self.batches.padding():.1%} padding"
        )

    @classmethod
    def on_other_data(cls, config: Config, folder: Path, paths: list[str]) -> Task:
        """The same task with batches of other pairs: for looking into its gradient.

        Raises:
            DataError: they cannot be read, or none of them has the length of those that it learned from.
        """
        return cls(config, folder, Encoded.read(paths, config, Vocabularies.load(folder)))

    def build(self) -> nn.Module:
        return build(self.config, *(one.size for one in self.vocabularies))

    def batch(self, step: int) -> dict[str, Any]:
        return {**data.batch_of(self.pairs, self.batches[step].tolist()), "step": step}

    def loss(self, model: nn.Module, batch: dict[str, Any], carry: Carry) -> Step:
        return training_loss(model, batch, self.config)  # type: ignore[arg-type]

    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        """`measure`'s metrics, of greedy translations; the loss alone where the package for the scores is not installed."""
        if not self.validation:
            return {}
        settings = {"longest": self.config.longest, "beam": 1}
        metrics = measure(model, self.vocabularies, self.validation, processes=processes, scored=self.scored, **settings)  # type: ignore[arg-type]
        return {name: value for name, value in metrics.items() if not isinstance(value, str)}

    def show(self, model: nn.Module, seed: int) -> str:
        model.eval()
        chosen = self._examples(seed)
        written = generate(model, self.vocabularies, [source for source, _ in chosen], longest=self.config.longest, beam=1)  # type: ignore[arg-type]
        return "\n".join(f"{source} -> {one[0].text}" for (source, _), one in zip(chosen, written, strict=True))

    def _examples(self, seed: int) -> list[Pair]:
        if self.validation:
            return [self.validation[(seed * 7 + i * 31) % len(self.validation)] for i in range(min(4, len(self.validation)))]
        numbers = [(seed * 7 + i * 31) % len(self.pairs) for i in range(min(4, len(self.pairs)))]
        return [
            (self.vocabularies.source.decode(self.pairs.source[n]), self.vocabularies.target.decode(self.pairs.target[n]))
            for n in numbers
        ]


class Translated(NamedTuple):
    """What a run answers about a line."""

    source: str
    translations: list[Translation]
    """Best first."""
    left_out: int
    """How many tokens at the end of the source were not read, for it was longer than `longest`."""


class Run:
    """A trained translator from its run folder.

    Raises:
        RunError: the folder is missing, damaged, of a newer format, or of another task.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config: Config = checkpoint.open_config(self.folder, Task.name, Config)
        self.vocabularies = Vocabularies.load(self.folder)
        sizes = [one.size for one in self.vocabularies]
        self.model: Translator | Ensemble = checkpoint.load_model(self.folder, lambda: build(self.config, *sizes))
        self.model.eval()

    def decoding(self, **given: Any) -> dict[str, Any]:
        """The arguments of `generate`: the run's settings, unless given otherwise."""
        return {name: getattr(self.config, name) for name in ("longest", "beam", "length_power", "coverage")} | given

    def translate(self, sentences: str | Iterable[str], **settings: Any) -> Iterator[Translated]:
        """Translations of one sentence or several, in order, some read ahead of those that have been given back.

        Args:
            sentences: one string, or an iterable of them.
            settings: `generate`'s: `beam`, `n_best`, `length_power`, `coverage`, `longest`; the run's when left out.

        Raises:
            DataError: something that is no string.
            TypeError: another setting.
        """
        if unknown := settings.keys() - {*self.decoding(), "n_best"}:
            raise TypeError(f"translate() takes the settings n_best, {', '.join(self.decoding())}; got {', '.join(unknown)}.")
        decoding = self.decoding(**settings)
        waiting: list[str] = []

        def translated() -> Iterator[Translated]:
            lengths = [len(self.vocabularies.source.encode(line)) for line in waiting]
            found = generate(self.model, self.vocabularies, waiting, **decoding)
            for line, length, several in zip(waiting, lengths, found, strict=True):
                yield Translated(line, several, max(0, length - decoding["longest"]))
            waiting.clear()

        if not isinstance(sentences, (str, Iterable)):
            raise DataError(
                f"expected a sentence to translate or several, got {type(sentences).__name__}: {str(sentences)[:100]}."
            )
        for sentence in [sentences] if isinstance(sentences, str) else sentences:
            if not isinstance(sentence, str):
                raise DataError(
                    f"expected sentences to translate, got one of type {type(sentence).__name__}: {str(sentence)[:100]}."
                )
            waiting.append(sentence)
            if len(waiting) == 8 * SENTENCES_AT_ONCE:  # enough to sort by length
                yield from translated()
        yield from translated()

    def attention(self, translated: Translated) -> tuple[list[str], list[str], Tensor | None]:
        """The tokens of a sentence, those of its best translation, and the attention weights (target, source), for
        `inspection.alignment.draw`; None without attention.
        """
        return attention_of(self.model, self.vocabularies, translated.source, translated.translations[0], self.config.longest)

    def gallery(self, folder: Path, *texts: Named) -> list[Path]:
        """Draw which source tokens each token of a translation attended to, as a PNG for each line of the texts, the first
        hundred; or of a few sentences that it was measured on where no text is named. Return the paths.
        """
        from unrolled.inspection import alignment  # matplotlib, which takes a second to load

        found = sources.find(names(texts), encoding=self.config.encoding) if texts else []
        lines = islice((line for one in found for line in pairs.lines(one)), LINES_DRAWN)
        translated = self.translate(line.partition("\t")[0] for line in (lines if texts else self._some_sentences()))
        return [alignment.draw(folder / f"{number:06}.png", *self.attention(one)) for number, one in enumerate(translated, 1)]

    def _some_sentences(self) -> list[str]:
        """The first that it was measured on, or trained on if there are no such."""
        chosen = [source for source, _ in data.read_validation(self.folder)[:5]]
        ids = Encoded.open(self.folder / data.TRAINING, self.vocabularies).source[: 0 if chosen else 5]
        return chosen or [self.vocabularies.source.decode(each) for each in ids]

    def preview(self) -> Preview:
        """Translations of a few sentences that it was measured on."""
        lines = [f"{one.source}\n  {one.translations[0].text}" for one in self.translate(self._some_sentences())]
        return Preview("translations", "\n".join(lines), (f"unrolled translate {self.folder} YOUR_TEXT.txt",))

    def export(self, path: str | Path) -> list[Path]:
        """Write the model as ONNX: NAME.encoder.onnx and NAME.decoder.onnx for the path NAME.onnx, whose inputs and outputs
        `tasks.translation.export` lists.

        Raises:
            ExportError: the package onnx is missing, or a file cannot be written.
        """
        return export(self.model, path)

    def evaluate(self, *paths: Named, report: Callable[[str, int, int], None] | None = None) -> dict[str, Any]:
        """`loss` in nats per token, `perplexity`, and of the translations `bleu`, `chrf`, with sacrebleu's signatures, `exact`;
        what share of the targets' tokens is unknown (`unknown_share`); how many `pairs` were measured, and of how many the
        source was cut (`sources_cut`), being longer than `longest`. Without sacrebleu, `not_measured` stands in place of its
        scores and says how to get them.

        Args:
            paths: SOURCE and TARGET, or a table.
            report: called with what is being done, how many lines are done, and the total.

        Raises:
            DataError: the data cannot be read.
        """
        pairs = list(Pairs(tuple(names(paths)), self.config.encoding))
        if not pairs:
            raise DataError(f"{', '.join(names(paths))}: expected pairs of sentences to measure on, got none.")
        share = self.vocabularies.target.unknown_share(target for _, target in pairs)
        each = partial(report, "lines") if report else None
        cut = sum(len(self.vocabularies.source.encode(source)) > self.config.longest for source, _ in pairs)
        metrics = measure(self.model, self.vocabularies, pairs, each, **self.decoding())
        return {**metrics, "unknown_share": share, "pairs": len(pairs), "sources_cut": cut}


def measure(
    model: Translator | Ensemble,
    vocabularies: Vocabularies,
    pairs: Sequence[Pair],
    report: Callable[[int, int], None] | None = None,
    *,
    longest: int,
    processes: Processes | None = None,
    scored: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """`loss` in nats per token and `perplexity` of the targets, and `translation_scores` of what the model writes.

    Tokens of a source beyond `longest` are not read, as when it is translated; targets count whole. Without `scored` there is
    the loss alone. `report` is called with how many lines are done, and the total. Several `processes` take some of the lines
    each.
    """
    model.eval()
    processes = processes or Processes()
    device = next(model.parameters()).device
    order = sorted(range(len(pairs)), key=lambda n: len(pairs[n][0]))  # alike lengths together, every process some of each
    own = order[processes.index :: processes.count]
    tokens = {n: [START, *vocabularies.target.encode(pairs[n][1]), END] for n in own}
    total, count, done = 0.0, 0, 0
    texts: dict[int, str] = {}
    for chosen in _batches(own, {n: len(ids) for n, ids in tokens.items()}, SENTENCES_AT_ONCE * (longest + 2)):
        sources = [pairs[n][0] for n in chosen]
        read = ([*vocabularies.source.encode(source)[:longest], END] for source in sources)
        one = nats(model, {"source": pad(read).to(device), "tokens": pad(tokens[n] for n in chosen).to(device)})
        total, count, done = total + one[0], count + one[1], done + len(chosen)
        if scored:
            written = generate(model, vocabularies, sources, longest=longest, **settings)
            texts.update(zip(chosen, (several[0].text for several in written), strict=True))
        if report:
            report(done, len(own))
    totals, counts, parts = zip(*processes.gather((total, count, texts)), strict=True)
    loss = sum(totals) / sum(counts)
    metrics: dict[str, Any] = {"loss": loss, "perplexity": float(torch.tensor(loss).clamp(max=700).exp())}
    if scored:
        every = {n: text for part in parts for n, text in part.items()}
        references = [target for _, target in pairs]
        translations = [every[n] for n in range(len(pairs))]
        if translation_scores_installed():
            metrics |= translation_scores(translations, references)
        else:
            metrics |= {"exact": exact_share(translations, references), "not_measured": TRANSLATION_NOT_INSTALLED}
    return metrics


def _batches(numbers: Sequence[int], lengths: Mapping[int, int], most: int) -> Iterator[list[int]]:
    """`SENTENCES_AT_ONCE` each, or fewer, so that padded to the longest they have `most` tokens; a longer one is alone."""
    batch: list[int] = []
    for n in numbers:
        widest = max(lengths[one] for one in [*batch, n])
        if batch and (len(batch) == SENTENCES_AT_ONCE or (len(batch) + 1) * widest > most):
            yield batch
            batch = []
        batch.append(n)
    if batch:
        yield batch
