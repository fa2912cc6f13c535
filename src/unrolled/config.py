"""Settings: one class per task whose fields, with their texts, are its flags, its TOML keys and its documentation.

Values come from the defaults, then from a recipe (a TOML file), then from flags; the later win. Checking is pydantic's; here
its findings become one text that names every problem at once.
"""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, ValidationError
from pydantic_core import ErrorDetails

from unrolled.errors import ConfigError, nearest

C = TypeVar("C", bound="TrainingConfig")
Count = Annotated[int, Field(gt=0, le=2**53)]
"""A number of steps, rows or tokens: as JSON, TensorBoard and PyTorch can all hold it."""
CountOrZero = Annotated[int, Field(ge=0, le=2**53)]
"""The same, where 0 turns something off."""
Width = Annotated[int, Field(gt=0, le=2**20)]
"""Of a layer, whose weights grow with its square."""
Depth = Annotated[int, Field(gt=0, le=256)]
"""How many layers there are: each is made one by one."""


class TrainingConfig(BaseModel):
    """The settings of the training loop; each task's config adds its own fields to these."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    evaluation_settings: ClassVar[tuple[str, ...]] = ()
    """Names of the task's settings that do not shape the model, but are read when it is evaluated and used: these can be set
    anew for a trained model, `unrolled evaluate RUN DATA --set beam=5`."""

    data: tuple[str, ...] = ()
    """What to learn from: the command's DATA arguments."""
    max_steps: Count = 5000
    """Stop after this many optimizer steps; the learning rate reaches zero there."""
    max_seconds: float | None = Field(None, gt=0)
    """Stop after this many seconds of training, evaluations and samples included, unless max_steps comes first."""
    batch_size: Count = 32
    """Sequences per step, over all processes together."""
    learning_rate: float = Field(2e-3, gt=0)
    """Peak learning rate of AdamW: linear warm-up, then cosine decay to zero."""
    warmup_steps: CountOrZero = 100
    """Steps of linear learning-rate warm-up."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay of AdamW, of matrices only (no biases, no norms)."""
    clip_norm: float = Field(1.0, gt=0)
    """Gradient clipping: maximum norm of all gradients together."""
    evaluate_every: Count = 250
    """Steps between evaluations on the validation set; the best weights are kept."""
    patience: CountOrZero = 10
    """Early stopping: after this many evaluations without improvement; 0 turns it off."""
    save_every: Count = 250
    """Steps between checkpoints; a crash loses at most these."""
    sample_every: CountOrZero = 250
    """Steps between short samples on the screen; 0 shows none."""
    watch: Literal["nothing", "gradients"] = "nothing"
    """What to follow besides the loss. gradients: how many steps back they reach, every 50th step, in the reports and on the
    screen, with a warning where they vanish or explode."""
    workers: int = Field(1, ge=0, le=1000)
    """Threads that prefetch batches, in each process; 0 prepares each batch when it is needed."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: mixed precision, matrix products in bfloat16 and weights in fp32; faster where the processor has it."""
    device: str = "auto"
    """Where to train: auto (an accelerator if there is one), cpu, cuda, ..."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the initial weights, dropout and data order: the same seed and threads give the same weights, bit for bit."""


def load(config_class: type[C], recipe: Path | None = None, flags: Mapping[str, Any] | None = None) -> C:
    """Settings from the defaults, overridden by the recipe's, overridden by the flags'.

    Raises:
        ConfigError: the recipe cannot be read, or any key or value is wrong; every problem is named, each on its line.
    """
    from_recipe = read_recipe(recipe) if recipe else {}
    from_flags = dict(flags or {})
    try:
        return config_class.model_validate({**from_recipe, **from_flags})
    except ValidationError as error:

        def place(name: str) -> str:
            return name if name in from_flags or not recipe else f"{name} in {recipe}"

        problems = [_explain(detail, config_class.model_fields, place) for detail in error.errors(include_url=False)]
        raise ConfigError("\n".join(problems), from_flags) from None


def read_recipe(path: Path) -> dict[str, Any]:
    """The keys and values of a TOML recipe.

    Raises:
        ConfigError: it cannot be read, is not UTF-8 or not TOML.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe might be waited for, a device read without end
            raise ConfigError(f"recipe {path}: expected a TOML file, got a folder, a pipe or a device.")
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"recipe {path}: cannot be read ({error.strerror}). Give the path of a TOML file.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"recipe {path}: expected UTF-8 text, got an invalid byte at offset {error.start}.") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"recipe {path}: is not valid TOML: {error}.") from None


def changed(old: TrainingConfig, given: Mapping[str, Any]) -> list[str]:
    """One line for every given value that differs from the old config's."""
    merged = load(type(old), None, {**old.model_dump(), **given})
    return [
        f"{name}: the run has {getattr(old, name)!r}, got {getattr(merged, name)!r}"
        for name in given
        if getattr(merged, name) != getattr(old, name)
    ]


def change_for_evaluation(config: C, given: Mapping[str, Any]) -> C:
    """The settings of a trained model with some of its `evaluation_settings` changed.

    Raises:
        ConfigError: a name that is unknown or cannot be set, or an impossible value; each problem is on its line.

    >>> change_for_evaluation(TrainingConfig(), {"seed": 1})
    Traceback (most recent call last):
    unrolled.errors.ConfigError: seed: cannot be changed once a model is trained. This task has nothing to set at evaluation.
    """
    allowed = config.evaluation_settings
    can_be = f"At evaluation can be set: {', '.join(allowed)}." if allowed else "This task has nothing to set at evaluation."
    problems = [
        f"{name}: cannot be changed once a model is trained. {can_be}"
        if name in type(config).model_fields
        else f"{name}: unknown setting.{nearest(name, allowed)} {can_be}"
        for name in given
        if name not in allowed
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    try:
        return type(config).model_validate({**config.model_dump(), **given})
    except ValidationError as error:
        problems = [_explain(detail, type(config).model_fields, str) for detail in error.errors(include_url=False)]
        raise ConfigError("\n".join(problems)) from None


def _explain(detail: ErrorDetails, known: Mapping[str, Any], place: Callable[[str], str]) -> str:
    """One pydantic finding as one line: where (`place` of the setting's name), what was expected, what was received."""
    if not detail["loc"]:  # a rule over several fields, already a sentence
        return detail["msg"].removeprefix("Value error, ")
    name = str(detail["loc"][0])
    where = place(name)
    if detail["type"] == "extra_forbidden":
        return f"{where}: unknown key.{nearest(name, known)}"
    message = _KINDS.get(detail["type"].split("_")[0], "") if detail["type"].endswith(_NOT_OF_KIND) else ""
    message = message or detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    value = detail["input"]
    got = repr(value) if len(repr(value)) < 100 else f"{repr(value)[:60]}... ({len(repr(value))} characters)"
    hint = (
        nearest(value, known[name].annotation.__args__) if detail["type"] == "literal_error" and isinstance(value, str) else ""
    )
    return f"{where}: expected {message[0].lower() + message[1:]}, got {got}.{hint}"


_NOT_OF_KIND = ("_parsing", "_type", "_from_float", "_parsing_size")
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text"}
"""What pydantic calls by the names of Python's types."""


class Saved(BaseModel):
    """The content of a run folder's config.json."""

    model_config = ConfigDict(strict=True)

    format_version: int = Field(gt=0)
    task: str
    unrolled_version: str
    config: dict[str, Any]

    @classmethod
    def of(cls, task: str, config: TrainingConfig, version: str, format_version: int) -> Self:
        values = config.model_dump(mode="json")
        return cls(format_version=format_version, task=task, unrolled_version=version, config=values)
