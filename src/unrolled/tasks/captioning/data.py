"""The photos and captions of a run: cached features, captions as token ids, batches of photos with all their captions."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor

from unrolled import checkpoint, encoders, files
from unrolled.data import captions as source
from unrolled.data.captions import CaptionedPhoto, Photo
from unrolled.data.features import FeatureCache, digest
from unrolled.data.images import read_image
from unrolled.data.sentences import PAD, SentenceTokenizer, pad_sentences
from unrolled.encoders import Encoder
from unrolled.errors import ConfigError, DataError
from unrolled.metrics import NOT_INSTALLED, scores_installed
from unrolled.task import Rows
from unrolled.tasks.captioning.config import Config

FILE, STARTING_WEIGHTS = "captions.json", "start.safetensors"
SPLITS = ("train", "restval"), ("val",)
Say = Callable[[str], None]


@dataclass
class Example:
    """A photo of the training or the validation set."""

    name: str
    photo: Photo
    key: bytes
    """The digest of its file, under which its features are cached."""
    mirrored: bytes
    """The same for its mirror image."""
    captions: list[str]


def prepare(config: Config, folder: Path, say: Say) -> None:
    """Find photos and captions, learn the vocabulary, compute the features, and save what was found in the run folder.

    Raises:
        DataError: captions or photos that cannot be read, or too few of them.
        ConfigError: an encoder that is not here, or settings that differ from those of the run to start from.
        RunError: the run to start from is missing or damaged.
    """
    _require_scores(config, say)
    training, validation = split(config, say)
    if config.start:
        _check_start(config)
        tokenizer = SentenceTokenizer.load(Path(config.start))
        files.require_file(Path(config.start) / checkpoint.MODEL)
        shutil.copyfile(Path(config.start) / checkpoint.MODEL, folder / STARTING_WEIGHTS)
    else:
        captions = [caption for one in training for caption in one.captions]
        tokenizer = SentenceTokenizer.learn(
            config.unit, captions, minimum_count=config.minimum_count, vocabulary_size=config.vocabulary_size
        )
    parts = {"train": [example(one) for one in training], "validation": [example(one) for one in validation]}
    encoder, _ = load_encoder(config, folder / STARTING_WEIGHTS)
    if config.fine_tune_from:  # features would not last
        parts = {part: without_unreadable(several, say) for part, several in parts.items()}
    else:
        cache = FeatureCache(encoder)
        parts = {part: cache_features(cache, several, config.flips and part == "train", say) for part, several in parts.items()}
    if not parts["train"]:
        raise DataError(f"{', '.join(config.data)}: no photo to learn from is left.")
    content = {
        part: [
            {"name": one.name, "photo": [one.photo.path, one.photo.offset, one.photo.size], "captions": one.captions}
            | {"key": one.key.hex(), "mirrored": one.mirrored.hex()}
            for one in several
        ]
        for part, several in parts.items()
    }
    (folder / FILE).write_text(json.dumps(content), encoding="utf-8")  # in ASCII: paths may be no UTF-8
    tokenizer.save(folder)


def _require_scores(config: Config, say: Say) -> None:
    """Refuse training whose evaluations could not say how good captions are, before anything is made.

    The encoder `small` learns without any package of pretrained ones, so it also learns without that of the scores; not with
    the self-critical objective, whose best weights are those of the best scores.

    Raises:
        DataError: the package is not here.
    """
    if scores_installed():
        return
    if config.encoder != "small" or config.objective == "self-critical":
        raise DataError(NOT_INSTALLED)
    say(f"evaluations will give the loss alone: {NOT_INSTALLED}")


def load_encoder(config: Config, weights: Path) -> tuple[Encoder, bool]:
    """The CNN, and whether it is a fine-tuned one: that of the model's `weights`, if they hold one.

    Raises:
        ConfigError: it is not here.
        RunError: damaged weights.
    """
    encoder = encoders.load(config.encoder, config.photo_size)
    tensors = checkpoint.read_tensors(weights)[0] if weights.exists() else {}
    tuned = {name.removeprefix("encoder."): tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    if tuned:
        checkpoint.load_weights(weights, encoder, tuned)
    return encoder, bool(tuned)


def load(folder: Path) -> dict[str, list[Example]]:
    """The training and validation examples that `prepare` saved.

    Raises:
        RunError: it is missing or damaged.
    """
    saved = files.read_as(folder / FILE, _Saved)
    return {
        part: [
            Example(one.name, Photo(*one.photo), bytes.fromhex(one.key), bytes.fromhex(one.mirrored), one.captions)
            for one in several
        ]
        for part, several in (("train", saved.train), ("validation", saved.validation))
    }


class _SavedExample(BaseModel):
    name: str
    photo: tuple[str, Annotated[int, Field(ge=0, le=2**53)], Annotated[int, Field(ge=-1, le=2**32)]]
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    mirrored: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    captions: Annotated[list[str], Field(min_length=1)]


class _Saved(BaseModel):
    """The content of the file that `prepare` saves."""

    train: Annotated[list[_SavedExample], Field(min_length=1)]
    validation: list[_SavedExample]


def split(config: Config, say: Say) -> tuple[list[CaptionedPhoto], list[CaptionedPhoto]]:
    """(training, validation): as the lists say, or the captions themselves, or a tenth for validation, drawn by the seed."""
    if len(config.data) > 1:
        raise DataError(
            f"expected one captions file or folder to learn from, got {len(config.data)}: {', '.join(config.data)}."
        )
    lists = [config.train_list, config.validation_list]
    where = Path(source.captions_file(config.data[0])) if config.data else Path()
    where = where if where.is_dir() else where.parent
    training_list, validation_list = (name and str(_list_path(name, where)) for name in lists)
    everything = source.find(config.data, config.images, config.encoding)
    if everything.absent:
        say(f"{len(everything.absent):,} photos that have captions are not there, the first {everything.absent[0]!r}")
    by_name = {one.name: one for one in everything.photos}

    def listed(path: str) -> list[CaptionedPhoto]:
        found = [by_name[name] for name in source.read_list(Path(path), by_name, config.encoding) if name in by_name]
        if not found:
            raise DataError(f"{path}: none of its names is a photo that {config.data[0]} has captions for.")
        return found

    if training_list or validation_list:
        validation = listed(validation_list) if validation_list else []
        apart = {one.name for one in validation}
        training = listed(training_list) if training_list else [one for one in everything.photos if one.name not in apart]
        return training, validation
    if everything.splits:  # Karpathy's: the rest is for testing
        parts = [[one for one in everything.photos if everything.splits.get(one.name) in names] for names in SPLITS]
        if parts[0]:
            say(f"the captions' own split: {len(parts[0]):,} photos for training, {len(parts[1]):,} for validation")
            return parts[0], parts[1]
    order = np.random.default_rng(config.seed).permutation(len(everything.photos))
    kept = len(order) // 10
    return [everything.photos[i] for i in sorted(order[kept:])], [everything.photos[i] for i in sorted(order[:kept])]


def _list_path(name: str, beside: Path) -> Path:
    return Path(name) if os.path.exists(name) or not os.path.exists(beside / name) else beside / name


def example(one: CaptionedPhoto) -> Example:
    """With the digests of the photo's file.

    Raises:
        DataError: its file cannot be read.
    """
    content = one.photo.read()
    return Example(one.name, one.photo, digest(content), digest(content, mirrored=True), one.captions)


def cache_features(
    cache: FeatureCache, several: list[Example], mirrored: bool, say: Say, report: Callable[[int, int], None] | None = None
) -> list[Example]:
    """Fill the cache, and return the examples without those whose photos cannot be read, which are named.

    `report` is called with how many are done and of how many; without it progress goes to `say`.
    """
    problems = cache.fill(
        [one.key for one in several],
        lambda position: pixels(cache.encoder, several[position]),
        [one.mirrored for one in several] if mirrored else (),
        report or _every_5_seconds(say, "features of"),
    )
    return _without(several, problems, say)


def without_unreadable(several: list[Example], say: Say) -> list[Example]:
    """The examples without those whose photos cannot be read, which are named."""
    problems: dict[int, str] = {}
    report = _every_5_seconds(say, "checked")
    for position, one in enumerate(several):
        report(position, len(several))
        try:
            read_image(one.photo.read(), name=one.name)
        except DataError as error:
            problems[position] = str(error)
    return _without(several, problems, say)


def _every_5_seconds(say: Say, what: str) -> Callable[[int, int], None]:
    last = time.monotonic()

    def report(done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last > 5 or done == of:
            last = time.monotonic()
            say(f"{what} {done:,} of {of:,} photos")

    return report


def _without(several: list[Example], problems: dict[int, str], say: Say) -> list[Example]:
    if problems:
        say("\n".join(list(problems.values())[:5]))
        say(f"{len(problems):,} of {len(several):,} photos cannot be read and are left out")
    return [one for position, one in enumerate(several) if position not in problems]


def pixels(encoder: Encoder, one: Example, smallest: float = 1.0, rng: np.random.Generator | None = None) -> Tensor:
    """A photo as the encoder takes it; with `rng` a random crop of at least the fraction `smallest` of its area.

    Where the encoder takes other sizes too, crops have the scale of whole photos, so that objects look as large in training as
    in evaluation (Touvron et al. 2019, "Fixing the train-test resolution discrepancy").

    Raises:
        DataError: no image, or a damaged one.
    """
    photo = read_image(one.photo.read(), name=one.name)
    side = encoder.size
    if rng and smallest < 1:
        if encoder.multiple:
            side = max(1, round(side * math.sqrt((smallest + 1) / 2) / encoder.multiple)) * encoder.multiple
        share, aspect = math.sqrt(rng.uniform(smallest, 1)), math.exp(rng.uniform(-0.15, 0.15))
        width = max(1, min(photo.width, round(photo.width * share * aspect)))
        height = max(1, min(photo.height, round(photo.height * share / aspect)))
        left, top = (int(rng.integers(room + 1)) for room in (photo.width - width, photo.height - height))
        photo = photo.crop((left, top, left + width, top + height))
    return encoder.pixels(photo, side)


class Photos(Rows):
    """The photos of a batch, decoded where they are asked for: by the process that learns from them."""

    def __init__(
        self,
        encoder: Encoder,
        examples: list[Example],
        mirrored: np.ndarray,
        smallest: float,
        seeds: list[np.random.SeedSequence],
    ) -> None:
        self.encoder, self.examples, self.mirrored, self.smallest, self.seeds = encoder, examples, mirrored, smallest, seeds

    def __len__(self) -> int:
        return len(self.examples)

    def rows(self, part: slice) -> Tensor:
        """Some of them, as bytes (N, 3, side, side); each is cropped by random numbers of its own."""
        each = zip(self.examples[part], self.mirrored[part], map(np.random.default_rng, self.seeds[part]), strict=True)
        return torch.stack([_mirror(pixels(self.encoder, one, self.smallest, rng), flip) for one, flip, rng in each])


def _mirror(photo: Tensor, mirrored: bool) -> Tensor:
    return photo.flip(-1) if mirrored else photo


class Batches:
    """The training photos with all their captions, `config.batch_size` at a time, in another order in every epoch.

    Args:
        config: the run's settings.
        several: the photos.
        tokenizer: of the captions.
        encoder: the CNN.
        cache: the features of all photos; None with fine-tuning, where batches hold pixels.
    """

    def __init__(
        self, config: Config, several: list[Example], tokenizer: SentenceTokenizer, encoder: Encoder, cache: FeatureCache | None
    ) -> None:
        self.config, self.examples, self.encoder, self.cache = config, several, encoder, cache
        self.ids = [[tokenizer.encode(caption) for caption in one.captions] for one in several]
        self.per_epoch = math.ceil(len(several) / config.batch_size)
        self._order = lru_cache(2)(self._draw_order)  # threads make batches of an epoch and of the next one side by side

    def batch(self, step: int) -> dict[str, Any]:
        """`photos` (N,), positions; `features` (N, P, F), or with fine-tuning `Photos`; `tokens`; and `learns`, whether the CNN
        learns from this batch.
        """
        epoch, index = divmod(step, self.per_epoch)
        photos = self._order(epoch)[index * self.config.batch_size : (index + 1) * self.config.batch_size]
        rng = np.random.default_rng([self.config.seed, epoch, index])
        mirror = rng.random(len(photos)) < 0.5 * self.config.flips
        chosen = [self.examples[i] for i in photos]
        if self.cache:
            features = self.cache.read([one.mirrored if flip else one.key for one, flip in zip(chosen, mirror, strict=True)])
        else:
            features = Photos(self.encoder, chosen, mirror, self.config.crops, rng.bit_generator.seed_seq.spawn(len(chosen)))  # type: ignore[attr-defined]
        tokens = pad_captions([self.ids[i] for i in photos], self.config.longest)
        learns = bool(self.config.fine_tune_from) and epoch + 1 >= (self.config.fine_tune_from or 0)
        return {"photos": torch.from_numpy(photos), "features": features, "tokens": tokens, "learns": learns}

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.config.seed, epoch]).permutation(len(self.examples))


def pad_captions(ids: Sequence[Sequence[Sequence[int]]], longest: int) -> Tensor:
    """Captions of N photos -> (N, captions, 1 + T), each row as `pad_sentences` has it; photos with fewer captions than others
    have rows of PAD.
    """
    rows = pad_sentences((caption for captions in ids for caption in captions), longest)
    counts = torch.tensor([len(captions) for captions in ids])
    tokens = rows.new_full((len(ids), int(counts.max()), rows.shape[1]), PAD)
    tokens[torch.arange(tokens.shape[1]) < counts.unsqueeze(1)] = rows
    return tokens


def _check_start(config: Config) -> None:
    """The run to start from has to have the shape of the one to train."""
    earlier = checkpoint.open_config(Path(config.start or ""), "captioning", Config)
    names = ("encoder", "photo_size", "unit", "cell", "image", "attention")
    names += ("heads", "hidden_size", "num_layers", "members", "tied")
    if differing := [name for name in names if getattr(config, name) != getattr(earlier, name)]:
        differences = "; ".join(
            f"{name}: it has {getattr(earlier, name)!r}, got {getattr(config, name)!r}" for name in differing
        )
        raise ConfigError(f"start: expected the settings of {config.start}'s model. {differences}.", ["start"])
