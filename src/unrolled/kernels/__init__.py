"""Fast recurrent sequences on the CPU. `run` is what layers call; `library` tells what is available and why not."""

from .library import available, isa, isas, why_not
from .operators import run, supports
from .sequence import Inputs

__all__ = ["Inputs", "available", "isa", "isas", "run", "supports", "why_not"]
