"""The layers on a GPU beside torch.nn's: `python -m benchmarks.cuda`.

Whole sequences, where both call cuDNN; padding by `lengths` against packing; resets inside a sequence against stepping in
Python and against none; a whole training step of a character language model. Peers take turns in one process; medians, the
GPU waited for before and after each call; fp32 as PyTorch has it by default (cuDNN multiplies in TF32) and bf16.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import unrolled
from benchmarks.sequences import TorchLanguageModel, training_step
from unrolled.tasks.language_model.config import Config
from unrolled.tasks.language_model.model import LanguageModel

SHAPES = [(100, 64, 128, 128), (128, 64, 512, 512), (512, 16, 1024, 1024), (100, 1, 256, 256)]  # T, B, I, H
STACKED = {"num_layers": 2, "bidirectional": True}
CUDA = torch.device("cuda")


def medians(calls: dict[str, Callable[[], object]], rounds: int = 15) -> dict[str, float]:
    """Seconds a call takes, peers in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 2):  # the first two warm up
        for name, call in calls.items():
            torch.cuda.synchronize()
            started = time.perf_counter()
            call()
            torch.cuda.synchronize()
            if turn > 1:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def pair(cell: str, I: int, H: int, dtype: torch.dtype, **how: Any) -> tuple[nn.Module, nn.Module]:
    """Our layer and torch.nn's with the same weights."""
    theirs = getattr(nn, cell)(I, H, device=CUDA, dtype=dtype, **how)
    ours = getattr(unrolled, cell)(I, H, device=CUDA, dtype=dtype, **how)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def trained(call: Callable[[], Tensor]) -> Callable[[], None]:
    return lambda: call().sum().backward()


def inferred(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return torch.no_grad()(call)


def whole(cell: str, shape: tuple[int, int, int, int], dtype: torch.dtype, **how: Any) -> None:
    T, B, I, H = shape
    ours, theirs = pair(cell, I, H, dtype, **how)
    x = torch.randn(T, B, I, device=CUDA, dtype=dtype)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=1e-2, atol=1e-2)
    line = f"  {cell:<5} {','.join(map(str, shape)):<18} {'2 x 2' if how else '':<5} {str(dtype).removeprefix('torch.'):<9}"
    for passes in (inferred, trained):
        found = medians({"ours": passes(lambda: ours(x)[0]), "torch.nn": passes(lambda: theirs(x)[0])})
        line += f" {1e3 * found['ours']:8.2f} ms {found['torch.nn'] / found['ours']:6.2f}  "
    print(line, flush=True)


def padding(cell: str, T: int = 100, B: int = 64, H: int = 256) -> None:
    """Sequences that are on average 30% padding, forward and backward."""
    ours, theirs = pair(cell, H, H, torch.float32)
    x, lengths = torch.randn(T, B, H, device=CUDA), torch.randint(int(0.4 * T), T + 1, (B,))

    def packed() -> Tensor:
        output, _ = theirs(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return pad_packed_sequence(output, total_length=T)[0]

    torch.testing.assert_close(ours(x, lengths=lengths)[0], packed(), rtol=1e-2, atol=1e-2)
    calls = {
        "ours by lengths": trained(lambda: ours(x, lengths=lengths)[0]),
        "ours, padding computed too": trained(lambda: ours(x)[0]),
        "torch.nn packed": trained(packed),
    }
    report(f"{cell}, {100 - 100 * lengths.float().mean() / T:.0f}% padding, forward and backward, T={T} B={B} I=H={H}", calls)


def resets(T: int = 128, B: int = 128, H: int = 256) -> None:
    """Episodes that end inside the sequence: 3% of the steps are preceded by a reset."""
    ours, cell = unrolled.LSTM(H, H, device=CUDA), nn.LSTMCell(H, H, device=CUDA)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in ours.state_dict().items()})
    x, cut = torch.randn(T, B, H, device=CUDA), torch.rand(T, B, device=CUDA) < 0.03

    def stepping() -> Tensor:
        h = c = torch.zeros(B, H, device=CUDA)
        outputs = []
        for t in range(T):
            keep = (~cut[t]).float()[:, None]
            h, c = cell(x[t], (h * keep, c * keep))
            outputs.append(h)
        return torch.stack(outputs)

    torch.testing.assert_close(ours(x, resets=cut)[0], stepping(), rtol=1e-2, atol=1e-2)
    calls = {
        "ours with resets": trained(lambda: ours(x, resets=cut)[0]),
        "ours without resets": trained(lambda: ours(x)[0]),
        "torch LSTMCell in a Python loop": trained(stepping),
    }
    report(f"LSTM, 3% resets, forward and backward, T={T} B={B} I=H={H}", calls)


def language_model(precision: str, B: int = 64, T: int = 256, V: int = 67, E: int = 128, H: int = 512) -> None:
    """A whole training step."""
    theirs = TorchLanguageModel(V, E, H).to(CUDA)
    ours = LanguageModel(Config(hidden_size=H, embedding_size=E), V).to(CUDA)
    ours.load_state_dict(theirs.state_dict())
    tokens = torch.randint(V, (B, T + 1), device=CUDA)

    title = f"character LSTM language model, whole training step in {precision}, B={B} T={T} V={V} E={E} H={H}"
    report(
        title,
        {"ours": training_step(ours, tokens, precision), "the same on torch.nn": training_step(theirs, tokens, precision)},
    )


def report(title: str, calls: dict[str, Callable[[], object]]) -> None:
    found = medians(calls)
    first = next(iter(found.values()))
    print(title)
    for name, seconds in found.items():
        print(f"  {name:<44} {1e3 * seconds:9.2f} ms   {seconds / first:6.2f} times ours", flush=True)


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("nothing to measure: PyTorch sees no CUDA device here")
    torch.manual_seed(0)
    facts = {"GPU": torch.cuda.get_device_name(), "torch": torch.__version__, "cuDNN": torch.backends.cudnn.version()}
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    # torch.nn's in bf16; ours, should there be any, is to be seen.
    warnings.filterwarnings("ignore", "RNN module weights are not part of single", module=r"torch\.nn")
    print("T,B,I,H; 2 x 2 is two layers in both directions. Inference, then forward and backward: ours, torch.nn / ours")
    for cell in ("LSTM", "GRU", "RNN"):
        for shape in SHAPES:
            for dtype in (torch.float32, torch.bfloat16):
                whole(cell, shape, dtype)
        for dtype in (torch.float32, torch.bfloat16):
            whole(cell, (128, 64, 512, 512), dtype, **STACKED)
    padding("LSTM")
    padding("GRU")
    resets()
    language_model("fp32")
    language_model("bf16")


if __name__ == "__main__":
    main()
