"""Defaults, then the recipe, then flags; and every problem named at once."""

import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from unrolled import config
from unrolled.errors import ConfigError
from unrolled.tasks.captioning.config import Config as CaptioningConfig
from unrolled.tasks.language_model.config import Config
from unrolled.tasks.translation.config import Config as TranslationConfig


def test_flags_win_over_the_recipe_and_the_recipe_over_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('hidden_size = 64\nnum_layers = 3\ncell = "gru"\n')
    loaded = config.load(Config, recipe, {"num_layers": "2"})
    assert (loaded.hidden_size, loaded.num_layers, loaded.cell) == (64, 2, "gru")
    assert loaded.batch_size == Config().batch_size


def test_all_problems_are_reported_together_with_their_place(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('hiden_size = 64\ncell = "lsmt"\nk1 = 0\n')
    with pytest.raises(ConfigError) as error:
        config.load(Config, recipe, {"learning_rate": "-1", "batch_size": "many"})
    lines = sorted(str(error.value).splitlines())
    assert lines == sorted(
        [
            f"hiden_size in {recipe}: unknown key. Did you mean 'hidden_size'?",
            f"cell in {recipe}: expected 'rnn', 'lstm' or 'gru', got 'lsmt'. Did you mean 'lstm'?",
            f"k1 in {recipe}: expected greater than 0, got 0.",
            "learning_rate: expected greater than 0, got '-1'.",
            "batch_size: expected a whole number, got 'many'.",
        ]
    )


@pytest.mark.parametrize("name", ["hidden_size", "num_layers", "batch_size", "k1", "k2", "embedding_size", "max_steps"])
@pytest.mark.parametrize("value", ["0", "-3"])
def test_sizes_of_zero_or_less_are_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: expected greater than 0, got '{value}'"):
        config.load(Config, None, {name: value})


@pytest.mark.parametrize("name", ["learning_rate", "clip_norm", "max_seconds", "evaluate_every", "save_every"])
def test_what_zero_would_stop_or_divide_by_is_above_zero(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: expected greater than 0, got '0'"):
        config.load(Config, None, {name: "0"})


@pytest.mark.parametrize("name", ["warmup_steps", "weight_decay", "patience", "sample_every", "seed"])
def test_what_zero_turns_off_is_not_below_zero(name: str) -> None:
    assert getattr(config.load(Config, None, {name: "0"}), name) == 0
    with pytest.raises(ConfigError, match=rf"{name}: expected greater than or equal to 0, got '-1'"):
        config.load(Config, None, {name: "-1"})


@pytest.mark.parametrize("config_class", [Config, CaptioningConfig, TranslationConfig])
@pytest.mark.parametrize(
    ("name", "most"),
    [("dropout", 0.99), ("label_smoothing", 0.99), ("validation_fraction", 0.99), ("encoder_rate", 1.0), ("crops", 1.0)],
)
def test_a_fraction_is_of_no_more_than_the_whole(config_class: type[config.TrainingConfig], name: str, most: float) -> None:
    if name in config_class.model_fields:
        assert getattr(config.load(config_class, None, {name: most}), name) == most
        with pytest.raises(ConfigError, match=f"^{name}: expected less than (or equal to )?1, got"):
            config.load(config_class, None, {name: most + 0.01})


def test_settings_stay_what_they_were_checked_to_be() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().hidden_size = 0


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"tied": True, "input": "one-hot"}, "tied: expected an embedding"),
        ({"tied": True, "embedding_size": 9}, "tied: expected embedding_size equal to hidden_size = 512, got 9"),
        ({"learning_rate": "nan"}, "learning_rate: expected a finite number, got 'nan'"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        config.load(Config, None, settings)


def test_the_command_names_flags_and_python_arguments() -> None:
    with pytest.raises(ConfigError, match=r"^k1: expected greater than 0, got 0\.\nhiden_size: unknown key\.") as error:
        config.load(Config, None, {"k1": 0, "hiden_size": 3})
    assert error.value.with_flags().splitlines() == [
        "--k1: expected greater than 0, got 0.",
        "--hiden-size: unknown key. Did you mean 'hidden_size'?",
    ]


@pytest.mark.parametrize("kind", ["30.5", "many", "", "1e3"])
def test_what_is_no_whole_number_is_said_in_words(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"^k1: expected a whole number, got '{kind}'.$"):
        config.load(Config, None, {"k1": kind})


@pytest.mark.parametrize(
    "name", [name for name, field in Config.model_fields.items() if re.search(r"\bint\b", str(field.annotation))]
)
def test_no_whole_number_is_without_bounds(name: str) -> None:
    """What is too large for a machine is said before memory is taken, or a loop begun."""
    with pytest.raises(ConfigError, match=f"^{name}: expected less than"):
        config.load(Config, None, {name: str(10**30)})
    with pytest.raises(ConfigError, match=f"^{name}: expected .{{,300}}$"):
        config.load(Config, None, {name: "9" * 5000})


def test_every_setting_has_a_text_for_its_flag() -> None:
    assert [name for name, field in Config.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a = = 1", "not valid TOML"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"a = " + b"9" * 5000, "not valid TOML"),
        (b"\xff", "UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_an_unreadable_recipe_is_named(tmp_path: Path, content: bytes | None, text: str) -> None:
    recipe = tmp_path / "r.toml"
    if content is not None:
        recipe.write_bytes(content)
    with pytest.raises(ConfigError, match=f"r.toml.*{text}"):
        config.load(Config, recipe)


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("k1 = 7", encoding="utf-8-sig")
    assert config.load(Config, tmp_path / "r.toml").k1 == 7


def test_a_pipe_for_a_recipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ConfigError, match="expected a TOML file, got a folder, a pipe or a device"):
            config.load(Config, path)
