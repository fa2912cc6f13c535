"""What watching gradients costs a training step: ours, noted by the kernels, beside autograd hooks on torch.nn's cell.

    python -m benchmarks.watching

Both train the same language model (embedding, one recurrent layer, output layer, AdamW, clipping) on the same random tokens.
Theirs steps torch.nn's cell in Python, with a hook on every h_t that notes the norm of its gradient, as one writes it; ours
notes these too, and those of the last step's loss alone. Medians, all taking turns in one process, in CPU time, so that a busy
machine counts little. `--watch gradients` watches one step of many: the last column is what that comes to.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import unrolled
from unrolled.inspection.gradient_flow import Recorder
from unrolled.inspection.speed import machine
from unrolled.inspection.watching import EVERY

SHAPES = [(64, 32, 128), (64, 32, 512), (256, 16, 256)]
"""T, B, H; the embedding is as wide as the state."""
VOCABULARY = 100


class Ours(nn.Module):
    def __init__(self, cell: str, hidden: int) -> None:
        super().__init__()
        self.layer = getattr(unrolled, cell.upper())(hidden, hidden)
        self.table, self.output = nn.Embedding(VOCABULARY, hidden), nn.Linear(hidden, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.layer(tokens, embedding=self.table.weight)[0])


class Theirs(nn.Module):
    def __init__(self, cell: str, hidden: int, norms: list[Tensor] | None) -> None:
        super().__init__()
        self.cell = getattr(nn, f"{cell.upper()}Cell")(hidden, hidden)
        self.table, self.output, self.norms = nn.Embedding(VOCABULARY, hidden), nn.Linear(hidden, VOCABULARY), norms

    def forward(self, tokens: Tensor) -> Tensor:
        state, outputs = None, []
        for x in self.table(tokens):
            state = self.cell(x, state)
            h = state[0] if isinstance(state, tuple) else state
            if self.norms is not None:
                h.register_hook(self.note)
            outputs.append(h)
        return self.output(torch.stack(outputs))

    def note(self, gradient: Tensor) -> None:
        assert self.norms is not None
        self.norms.append(gradient.norm(dim=1))


def training_step(
    model: nn.Module, tokens: Tensor, *, watched: bool = False, norms: list[Tensor] | None = None
) -> Callable[[], None]:
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-3)
    recorder = Recorder(model)

    def step() -> None:
        if watched:
            with recorder:
                logits = model(tokens[:-1])
        else:
            logits = model(tokens[:-1])
        cross_entropy(logits.flatten(0, 1), tokens[1:].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()
        if watched:
            recorder.flows()
        if norms is not None:  # what the hooks noted
            torch.stack(norms).mean(1).tolist()
            norms.clear()

    return step


def measure(cell: str, T: int, B: int, H: int, seconds: float) -> dict[str, float]:
    """Median CPU milliseconds of a step, by who and whether it is watched."""
    tokens = torch.randint(0, VOCABULARY, (T + 1, B))
    norms: list[Tensor] = []
    steps = {
        "ours": training_step(Ours(cell, H), tokens),
        "ours, watched": training_step(Ours(cell, H), tokens, watched=True),
        "torch.nn": training_step(Theirs(cell, H, None), tokens),
        "torch.nn, hooks": training_step(Theirs(cell, H, norms), tokens, norms=norms),
    }
    for step in steps.values():
        step()
    taken: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken["ours"]) < 5:
        for name, step in steps.items():
            begin = time.process_time()
            step()
            taken[name].append(1000 * (time.process_time() - begin))
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=["lstm", "gru", "rnn"], choices=["lstm", "gru", "rnn"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each cell and shape")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"{'':<22}{'ours':>10}{'watched':>10}{'torch.nn':>10}{'hooks':>10}   a watched step costs   every {EVERY}th")
    for cell in given.cells:
        for T, B, H in SHAPES:
            ms = measure(cell, T, B, H, given.seconds)
            ours, hooks = ms["ours, watched"] / ms["ours"] - 1, ms["torch.nn, hooks"] / ms["torch.nn"] - 1
            shape = f"{cell} {T}, {B}, {H}"
            print(
                f"{shape:<22}"
                + "".join(f"{value:>7.1f} ms" for value in ms.values())
                + f"   {ours:>+7.1%}; hooks {hooks:>+7.1%}   {ours / EVERY:>+7.2%}"
            )


if __name__ == "__main__":
    main()
