"""Settings of parity. Imports no torch."""

from typing import ClassVar

from pydantic import PositiveInt

from unrolled.config import TrainingConfig


class Config(TrainingConfig):
    """A network that counts ones, modulo two."""

    evaluation_settings: ClassVar = ("length",)

    data: tuple[str, ...] = ()
    """Files of the characters 0 and 1."""
    hidden_size: PositiveInt = 16
    """Width of the hidden state."""
    length: PositiveInt = 12
    """Bits of a sequence."""
