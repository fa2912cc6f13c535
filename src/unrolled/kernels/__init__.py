"""Fast recurrent sequences on the CPU. `run` is what layers call; `native` tells what is available and why not."""

from .native import available, isa, isas, why_not
from .ops import autocast_dtype, observed, run, run_stack, run_tokens, supports

__all__ = ["autocast_dtype", "available", "isa", "isas", "observed", "run", "run_stack", "run_tokens", "supports", "why_not"]
