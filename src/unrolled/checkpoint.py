"""The run folder: a trained model on disk, written so that a kill at any instant leaves the last good one.

    config.json            the settings, the task's name, the format's version
    model.safetensors      the best weights so far: what sampling, evaluation and export use
    training.safetensors   everything needed to go on: last weights, optimizer, random state, carried state, counters
    metrics.jsonl          one line per report
    lock                   held by the process that trains
    ...                    what the task needs beside them (vocabulary, prepared data, pictures)

Every file is written as `unrolled.files` does: at any instant there is the old one or the new one. Nothing here unpickles.

A run folder may come from anywhere, so all that is read from one is checked before it is used: here tensors by name, shape and
type before anything of their size is made, and what they hold, and JSON by a schema.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

import unrolled
from unrolled import files
from unrolled.config import Saved, TrainingConfig
from unrolled.errors import RunError, nearest

C = TypeVar("C", bound=TrainingConfig)
M = TypeVar("M", bound=nn.Module)
FORMAT_VERSION = 1
MODEL, TRAINING, CONFIG, METRICS = "model.safetensors", "training.safetensors", "config.json", "metrics.jsonl"


def write_config(folder: Path, task: str, config: TrainingConfig) -> None:
    """Write config.json: the settings, the task's name, the versions of unrolled and of the format.

    Raises:
        RunError: the disk is full or refuses.
    """
    saved = Saved.of(task, config, unrolled.__version__, FORMAT_VERSION)
    # Not pydantic's own writer: paths may be no UTF-8.
    files.write_atomically(folder / CONFIG, json.dumps(saved.model_dump(), indent=2).encode())


def read_config(folder: Path) -> Saved:
    """What a run folder says of itself.

    Raises:
        RunError: no such folder, no run in it, a damaged config.json, or a format newer than this version reads.
    """
    if not os.path.isdir(folder):
        if os.path.lexists(folder):
            raise RunError(f"{folder}: expected a run folder, got a file.")
        runs: dict[str, Path] = {}
        with contextlib.suppress(OSError, ValueError):
            runs = {entry.name: entry for entry in folder.parent.iterdir() if (entry / CONFIG).is_file()}
        hint = nearest(folder.name, runs)
        raise RunError(f"{folder}: no such run folder.{hint}")
    path = folder / CONFIG
    if not os.path.lexists(path):
        raise RunError(f"{folder}: not a run folder, it has no {CONFIG}. Give a folder that `unrolled train` wrote.")
    content = files.read_json(path)
    version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise RunError(
            f"{folder}: written in format {version}, this version of unrolled reads up to {FORMAT_VERSION}. "
            "Upgrade with: pip install --upgrade unrolled"
        )
    return files.validated(path, Saved, content)


def open_config(folder: Path, task: str, config_class: type[C]) -> C:
    """The settings of a run of this task.

    Raises:
        RunError: as `read_config`, or a run of another task, or settings this version does not know.
    """
    saved = read_config(folder)
    if saved.task != task:
        raise RunError(f"{folder}: expected a run of {task}, got one of {saved.task}.")
    try:
        return config_class.model_validate(saved.config)
    except ValidationError as error:
        other = f" It was written by unrolled {saved.unrolled_version}, this is {unrolled.__version__}."
        raise RunError(
            f"{folder / CONFIG}: {files.first_problem(error)}.{other if saved.unrolled_version != unrolled.__version__ else ''}"
        ) from None


def save_model(folder: Path, model: nn.Module, step: int) -> None:
    """Write the model's weights, as they are after `step` steps; tied ones once.

    Raises:
        RunError: the disk is full or refuses; the old file stays.
    """
    save_tensors(folder / MODEL, deduplicated_state(model), {"step": step})


def load_model(folder: Path, build: Callable[[], M]) -> M:
    """What `build` makes, with the weights that `save_model` wrote.

    Raises:
        RunError: the file is missing or damaged, or its tensors have other names, shapes or types than the model's.
    """
    path = folder / MODEL
    require_fit(path, build)
    model = build()
    load_weights(path, model, read_tensors(path)[0])
    return model


def require_fit(path: Path, build: Callable[[], nn.Module], prefix: str = "") -> None:
    """Refuse a file whose tensors are not those of the model that `build` makes, without making the model.

    Args:
        path: the file.
        build: makes the model.
        prefix: before the names of the model's tensors in the file; others are passed over.

    Raises:
        RunError: naming the first that differs.
    """
    shapes = {name.removeprefix(prefix): shape for name, shape in read_shapes(path).items() if name.startswith(prefix)}
    require_shapes(path, shapes, {name: tuple(tensor.shape) for name, tensor in blueprint(build).items()})


def blueprint(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """The names, shapes and types of the model that `build` makes, without its memory and without random numbers."""
    with torch.random.fork_rng(), torch.device("meta"):
        return deduplicated_state(build())


def require_shapes(path: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors of other names or shapes than expected.

    Raises:
        RunError: naming the first that differs.
    """
    for name in sorted(expected.keys() ^ found.keys()):
        what = "lacks" if name in expected else "has an unexpected"
        raise RunError(
            f"{path}: {what} tensor {name!r}. It was not written by a run with this config.json, or by another version of "
            "unrolled: train again."
        )
    for name, shape in expected.items():
        if shape != found[name]:
            raise RunError(
                f"{path}: expected {name!r} of shape {shape} (from config.json), got {found[name]}. "
                "Model and config belong to different runs."
            )


def check_tensors(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors of other names, shapes or types than expected, and numbers that are not finite.

    Raises:
        RunError: naming the first that differs.
    """
    shapes, wanted = ({name: tuple(tensor.shape) for name, tensor in one.items()} for one in (found, expected))
    require_shapes(path, shapes, wanted)
    for name, tensor in expected.items():
        if found[name].dtype != tensor.dtype:
            raise RunError(f"{path}: expected {name!r} of type {tensor.dtype}, got {found[name].dtype}. Restore the file.")
        if tensor.is_floating_point() and not found[name].isfinite().all():
            raise RunError(f"{path}: {name!r} has values that are not finite numbers. Restore the file or train again.")


def load_weights(path: Path, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the model's parameters after checking that they are the ones it has.

    Raises:
        RunError: other names, shapes or types, or values that are not finite.
    """
    expected = deduplicated_state(model)
    check_tensors(path, tensors, expected)
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(tensors[name])


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Tensors and a JSON object in one file, so that they can never be of different moments.

    Raises:
        RunError: the disk is full or refuses; the old file stays.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"facts": json.dumps(facts)}  # one key: safetensors writes several in another order each time
    content = safetensors.torch.save(contiguous, metadata)
    advice = "go on with --resume" if (path.parent / TRAINING).exists() else "begin again"  # without it, nothing to go on with
    files.write_atomically(path, content, advice=f"Make room, and {advice}.")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` wrote.

    Raises:
        RunError: missing, truncated or not a safetensors file.
    """
    with _opened(path) as file:
        facts = files.parse_json((file.metadata() or {}).get("facts", "{}").encode())
        if not isinstance(facts, dict):
            raise ValueError(f"expected an object in its metadata, got {type(facts).__name__}")
        return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118  (not a dict)


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors in a file, from its header.

    Raises:
        RunError: as `read_tensors`.
    """
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not os.path.lexists(path):
        raise RunError(f"{path}: missing. The run has not saved anything yet, or the file was removed.")
    files.require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: damaged ({files.reason(error)}). Restore the file or train again.") from None


class Report(BaseModel):
    """A line of metrics.jsonl."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    step: int = Field(ge=0, le=2**53)
    seconds: float = Field(0.0, ge=0)
    part: Literal["train", "validation"]
    __pydantic_extra__: dict[str, float | None] = Field(init=False)  # type: ignore[assignment]  # as pydantic documents it


def append_metrics(folder: Path, line: Mapping[str, Any]) -> None:
    """Add a report to metrics.jsonl; what is not finite becomes null, as JSON has it.

    Not flushed to disk: a kill may cut its last line short, which `read_metrics` skips.
    """
    with open(folder / METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps({name: finite_or_none(value) for name, value in line.items()}) + "\n")


def last_evaluation(folder: Path) -> dict[str, float]:
    """The figures of the last evaluation that metrics.jsonl reports; none where it has none."""
    last = next((line for line in reversed(read_metrics(folder)) if line["part"] == "validation"), {})
    return {name: value for name, value in last.items() if name not in Report.model_fields}


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Every line of metrics.jsonl that is a report, with its values that are numbers.

    It is there for people to see: what is damaged in it, or cut short by a kill, is passed over.
    """
    lines: list[dict[str, Any]] = []
    with contextlib.suppress(RunError, OSError):
        files.require_file(folder / METRICS)
        with open(folder / METRICS, "rb") as file:
            for text in file:
                with contextlib.suppress(ValueError):
                    lines.append(Report.model_validate(files.parse_json(text)).model_dump(exclude_none=True))
    return lines


def truncate_metrics(folder: Path, step: int) -> None:
    """Forget reports of later steps than the one being resumed from: they will be made again."""
    kept = [json.dumps(line) + "\n" for line in read_metrics(folder) if line["step"] <= step]
    files.write_atomically(folder / METRICS, "".join(kept).encode())


def finite_or_none(value: Any) -> Any:
    """A number as JSON can have it: None if it is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def deduplicated_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, a tensor that has several names under its first only."""
    first_name: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first_name.setdefault(id(tensor), name)
    kept = set(first_name.values())
    return {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if name in kept}
