"""Captioning as the training loop sees it, and as a trained run is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from unrolled import checkpoint
from unrolled.beam_search import take_rows
from unrolled.data import captions as source
from unrolled.data.features import FeatureCache
from unrolled.data.images import find_images, read_image
from unrolled.data.sentences import END, SentenceTokenizer
from unrolled.data.sources import Named, names
from unrolled.ensemble import Ensemble
from unrolled.errors import DataError, ExportError
from unrolled.metrics import NOT_INSTALLED, CiderReward, caption_scores, scores_installed
from unrolled.task import Carry, Metric, Preview, Processes, Step
from unrolled.tasks.captioning import data
from unrolled.tasks.captioning.config import Config
from unrolled.tasks.captioning.data import Batches, Example
from unrolled.tasks.captioning.generate import Caption, attention_of, generate
from unrolled.tasks.captioning.loss import likelihood_loss, nats, self_critical_loss
from unrolled.tasks.captioning.model import Captioner, build, photo_features

PHOTOS_AT_ONCE = 50
LARGEST_SHOWN = 1024  # pixels on the longer side


class Task:
    """A captioner bound to its run folder, for `unrolled.training.train`."""

    name = "captioning"
    unit = "captions"
    prepare = staticmethod(data.prepare)

    def __init__(self, config: Config, folder: Path, examples: dict[str, list[Example]] | None = None) -> None:
        self.config, self.folder = config, folder
        self.tokenizer = SentenceTokenizer.load(folder)
        examples = examples or data.load(folder)
        self.encoder, self.fine_tuned = data.load_encoder(config, folder / data.STARTING_WEIGHTS)
        training, self.validation = examples["train"], examples["validation"]
        self.cache = None if config.fine_tune_from else FeatureCache(self.encoder)
        if self.cache:  # nothing to do, unless the cache is lost
            found = [
                data.cache_features(self.cache, training, config.flips, _silent),
                data.cache_features(self.cache, self.validation, False, _silent),
            ]
            if [*map(len, found)] != [len(training), len(self.validation)]:
                raise DataError(
                    f"{folder}: features are no longer in {self.cache.folder}, and some photos are not where they were."
                )
        self.batches = Batches(config, training, self.tokenizer, self.encoder, self.cache)
        self.reward = None
        self.scored = scores_installed()
        self.loss_name, self.selection = "nats per caption", Metric("loss", "nats per token")
        if config.objective == "self-critical":
            self.loss_name, self.selection = "REINFORCE", Metric("cider", "CIDEr", lower_is_better=False)
            self.reward = CiderReward([[[*ids, END] for ids in several] for several in self.batches.ids])
        self.summary = (
            f"{len(training):,} photos with {sum(map(len, self.batches.ids)):,} captions to learn from, "
            f"{len(self.validation):,} photos to measure on, vocabulary of {self.tokenizer.size:,}"
        )

    @classmethod
    def on_other_data(cls, config: Config, folder: Path, paths: list[str]) -> Task:
        """The same task with batches of other photos: for looking into its gradient.

        Raises:
            DataError: captions or photos that cannot be read.
        """
        problems: list[str] = []
        found = [data.example(one) for one in source.find(paths, None, config.encoding).photos]
        readable = data.without_unreadable(found, problems.append)
        if not readable:
            raise DataError(f"{', '.join(paths)}: none of its photos can be read. {problems[0]}")
        return cls(config, folder, {"train": readable, "validation": []})

    def build(self) -> nn.Module:
        learns = self.config.fine_tune_from is not None
        encoder = self.encoder.requires_grad_(learns) if learns or self.fine_tuned else None
        model = build(self.config, self.tokenizer.size, self.encoder.channels, encoder)
        start = self.folder / data.STARTING_WEIGHTS
        if start.exists():
            tensors, _ = checkpoint.read_tensors(start)
            if encoder is not None:
                tensors |= {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
            checkpoint.load_weights(start, model, tensors)
        return model

    def batch(self, step: int) -> dict[str, Any]:
        return self.batches.batch(step)

    def loss(self, model: nn.Module, batch: dict[str, Any], carry: Carry) -> Step:
        if self.reward:
            return self_critical_loss(model, batch, self.config, self.reward)  # type: ignore[arg-type]
        return likelihood_loss(model, batch, self.config)  # type: ignore[arg-type]

    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        """`measure`'s metrics, of greedy captions; the loss alone where the package for the scores is not installed."""
        if not self.validation:
            return {}
        settings = {"longest": self.config.longest, "beam": 1, "processes": processes, "scored": self.scored}
        return measure(model, self.tokenizer, self.validation, self.cache, **settings)  # type: ignore[arg-type]

    def show(self, model: nn.Module, seed: int) -> str:
        several = self.validation or self.batches.examples
        chosen = [several[(seed * 7 + i * 31) % len(several)] for i in range(min(4, len(several)))]
        written = _captions(model, self.tokenizer, chosen, self.cache, longest=self.config.longest)  # type: ignore[arg-type]
        return "\n".join(f"{one.name}: {captions[0].text}" for one, captions in zip(chosen, written, strict=True))


class CaptionedImage(NamedTuple):
    """What a run answers about a photo."""

    image: str
    """Its path."""
    captions: list[Caption]
    """Best first."""
    photo: Image.Image | None = None
    """The photo itself, where it is to be shown; a large one smaller."""
    words: Sequence[str] = ()
    """Of the best caption, where it is to be shown."""
    weights: Tensor | None = None
    """The attention weights of each of these words, (T, P); None without attention."""


class Run:
    """A trained captioner from its run folder.

    Raises:
        RunError: the folder is missing, damaged, of a newer format, or of another task.
        ConfigError: its encoder is not installed here.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config: Config = checkpoint.open_config(self.folder, Task.name, Config)
        self.tokenizer = SentenceTokenizer.load(self.folder)
        self.encoder, fine_tuned = data.load_encoder(self.config, self.folder / checkpoint.MODEL)
        encoder = self.encoder if fine_tuned else None
        self.model = checkpoint.load_model(
            self.folder, lambda: build(self.config, self.tokenizer.size, self.encoder.channels, encoder)
        )
        self.model.eval()

    @cached_property
    def cider(self) -> CiderReward:
        """CIDEr with the document frequencies of the captions that the run was trained on."""
        examples = data.load(self.folder)["train"]
        return CiderReward([[self.tokenizer.encode(caption) for caption in one.captions] for one in examples])

    def decoding(self, **given: Any) -> dict[str, Any]:
        """The arguments of `generate`: the run's settings, unless given otherwise."""
        settings = {"longest": self.config.longest, "beam": self.config.beam, "consensus": self.config.consensus, **given}
        return {**settings, "cider": self.cider} if settings["consensus"] else settings

    @cached_property
    def cache(self) -> FeatureCache:
        return FeatureCache(self.encoder)

    def gallery(self, folder: Path, *images: Named) -> list[Path]:
        """Draw where it looked for each word of a caption, as a PNG for each photo, or for a few that it was measured on where
        none is named; return the paths.
        """
        from unrolled.inspection import attention_maps  # matplotlib, which takes a second to load

        captioned = self.caption(*images, show=True) if images else self._some_captioned()
        return [
            attention_maps.draw(folder / f"{number:04}-{Path(one.image).stem}.png", one.photo, one.words, one.weights)
            for number, one in enumerate(captioned, 1)
            if one.photo is not None
        ]

    def _some_captioned(self) -> Iterator[CaptionedImage]:
        """The first photos that it was measured on, or trained on if there are no such."""
        examples = data.load(self.folder)
        for one in (examples["validation"] or examples["train"])[:5]:
            photo = read_image(one.photo.read(), name=one.name)
            yield from self._caption([(one.name, photo)], self.encoder.pixels(photo)[None], True, {})

    def preview(self) -> Preview:
        """Captions of a few photos that it was measured on."""
        examples = data.load(self.folder)
        chosen = (examples["validation"] or examples["train"])[:5]
        chosen = data.cache_features(self.cache, chosen, False, _silent)  # anew, if the CNN has learned
        written = _captions(self.model, self.tokenizer, chosen, self.cache, **self.decoding())
        text = "\n".join(f"{one.name}: {captions[0].text}" for one, captions in zip(chosen, written, strict=True))
        return Preview("captions", text, (f"unrolled caption {self.folder} YOUR_PHOTO.jpg",))

    def export(self, path: str | Path) -> Path:
        """Not available for captioners.

        Raises:
            ExportError: always; it says why.
        """
        raise ExportError(f"{self.folder}: a captioner cannot be exported: unrolled.export writes no encoder of images.")

    def caption(
        self, *paths: Named, skipped: Callable[[str], None] | None = None, show: bool = False, **settings: Any
    ) -> Iterator[CaptionedImage]:
        """Captions of photos and of every image in folders, in order; `settings` are `generate`'s.

        Args:
            paths: images and folders.
            skipped: called with what is wrong with each image that cannot be read and is left out.
            show: whether to give the photos and the attention weights, too, for `inspection.attention_maps.draw`.

        Raises:
            DataError: no such file, no image in a folder, or none of the images can be read.
        """
        images = [str(path) for path in find_images(names(paths))]
        problems: list[str] = []
        for begin in range(0, len(images), PHOTOS_AT_ONCE):
            photos: list[tuple[str, Image.Image | None]] = []
            pixels: list[Tensor] = []
            for path in images[begin : begin + PHOTOS_AT_ONCE]:
                try:
                    photo = read_image(path)
                except DataError as error:
                    problems.append(str(error))
                    if skipped and len(images) > 1:
                        skipped(str(error))
                    continue
                pixels.append(self.encoder.pixels(photo))
                photo.thumbnail((LARGEST_SHOWN, LARGEST_SHOWN))  # some wait here together, and each may have 500 MB
                photos.append((path, photo if show else None))
            if photos:
                yield from self._caption(photos, torch.stack(pixels), show, settings)
        if len(problems) == len(images):
            raise DataError(
                problems[0] if len(problems) == 1 else f"none of the {len(images):,} images can be read: {problems[0]}"
            )

    @torch.inference_mode()
    def _caption(
        self, photos: list[tuple[str, Image.Image | None]], pixels: Tensor, show: bool, settings: dict[str, Any]
    ) -> Iterator[CaptionedImage]:
        features = self.encoder(pixels)
        encoded = self.model.encode(features)
        written = generate(self.model, self.tokenizer, encoded, **self.decoding(**settings))
        for n, ((path, photo), captions) in enumerate(zip(photos, written, strict=True)):
            if not show:
                yield CaptionedImage(path, captions)
                continue
            one = take_rows(encoded, torch.tensor([n]))
            yield CaptionedImage(path, captions, photo, *attention_of(self.model, self.tokenizer, one, captions[0]))

    def evaluate(
        self, *paths: Named, images: str | None = None, report: Callable[[str, int, int], None] | None = None, **settings: Any
    ) -> dict[str, float]:
        """`bleu_1` to `bleu_4`, `rouge_l` and `cider` of the captions written; `loss` in nats per token; what share of
        the words was unknown; how many photos.

        Args:
            paths: a captions file or its folder; then files that list the photos to take, one a line.
            images: the folder or .tar of the photos; looked for beside the captions when left out.
            report: called with what is being done, how many photos are done, and the total.
            settings: `generate`'s: `beam`, `consensus`, ...; the run's settings when left out.
        """
        if not scores_installed():
            raise DataError(NOT_INSTALLED)
        paths = tuple(names(paths))
        found, report = source.find(paths, images, self.config.encoding), report or (lambda what, done, of: None)
        examples, problems = [data.example(one) for one in found.photos], []
        several = data.cache_features(self.cache, examples, False, problems.append, partial(report, "features"))
        if not several:
            raise DataError(f"{', '.join(paths)}: none of its photos can be read. {problems[0]}")
        metrics = measure(
            self.model, self.tokenizer, several, self.cache, partial(report, "captions"), **self.decoding(**settings)
        )
        share = {"unknown_share": self.tokenizer.unknown_share(caption for one in several for caption in one.captions)}
        left_out = len(found.absent) + len(found.photos) - len(several)
        return {**metrics, **share, "photos": len(several), "photos_left_out": left_out}


def measure(
    model: Captioner | Ensemble,
    tokenizer: SentenceTokenizer,
    several: Sequence[Example],
    cache: FeatureCache | None,
    report: Callable[[int, int], None] | None = None,
    processes: Processes | None = None,
    scored: bool = True,
    **settings: Any,
) -> dict[str, float]:
    """`loss` in nats per token over every caption that people wrote, and the scores of the captions that the model writes.

    Without `scored` there is the loss alone. `report` is called with how many photos are done, and the total. Several
    `processes` take some of the photos each.
    """
    processes = processes or Processes()
    own = several[processes.index :: processes.count]
    total, count, written = 0.0, 0, []
    for begin, encoded in _encode(model, own, cache):
        chosen = own[begin : begin + PHOTOS_AT_ONCE]
        ids = [[tokenizer.encode(caption) for caption in one.captions] for one in chosen]
        one, tokens = nats(model, encoded, data.pad_captions(ids, settings["longest"]).to(_device(model)))
        total, count = total + one, count + tokens
        if scored:
            written += [captions[0].text for captions in generate(model, tokenizer, encoded, **settings)]
        if report:
            report(begin + len(chosen), len(own))
    totals, counts, texts = zip(*processes.gather((total, count, written)), strict=True)
    scores: dict[str, float] = {}
    if scored and processes.index == 0:  # the scores are of all captions together, and not worth sharing out
        candidates = {str(n): texts[n % processes.count][n // processes.count] for n in range(len(several))}
        scores = caption_scores(candidates, {str(n): one.captions for n, one in enumerate(several)})
    return {"loss": sum(totals) / sum(counts), **processes.gather(scores)[0]}


def _captions(
    model: Captioner | Ensemble,
    tokenizer: SentenceTokenizer,
    several: Sequence[Example],
    cache: FeatureCache | None,
    **settings: Any,
) -> list[list[Caption]]:
    return [one for _, encoded in _encode(model, several, cache) for one in generate(model, tokenizer, encoded, **settings)]


def _encode(model: Captioner | Ensemble, several: Sequence[Example], cache: FeatureCache | None) -> Iterator[tuple[int, Any]]:
    """The photos, some at a time, with the position of the first of them: features from the cache, or by the model's CNN."""
    model.eval()
    for begin in range(0, len(several), PHOTOS_AT_ONCE):
        chosen = several[begin : begin + PHOTOS_AT_ONCE]
        if cache:
            features = cache.read([one.key for one in chosen])
        else:
            features = torch.stack([data.pixels(model.encoder, one) for one in chosen])  # type: ignore[arg-type]
        with torch.inference_mode():
            yield begin, model.encode(photo_features(model, features.to(_device(model)), learns=False))


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _silent(text: str) -> None:
    """Discard a message."""
