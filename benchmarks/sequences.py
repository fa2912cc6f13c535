"""What only these layers do, beside how one does it with torch.nn: `python -m benchmarks.sequences`.

Padding by `lengths` against packing; resets inside a sequence against stepping in Python and against none; a whole training
step of a character language model; and calls so short that PyTorch's own doings take longer than the products. Peers take
turns in one process; medians; fp32 unless said.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import unrolled
from unrolled.inspection.speed import machine
from unrolled.kernels import library
from unrolled.tasks.language_model.config import Config
from unrolled.tasks.language_model.model import LanguageModel


def report(title: str, calls: dict[str, Callable[[], object]], rounds: int = 15) -> None:
    """Medians of `calls`, and each one's ratio to the first."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in times.items()}
    first = next(iter(medians.values()))
    print(title)
    for name, seconds in medians.items():
        print(f"  {name:<44} {1e3 * seconds:9.2f} ms   {seconds / first:6.2f} times ours")


def padding(cell: str, T: int = 100, B: int = 64, H: int = 256) -> None:
    """Sequences that are on average 30% padding, forward and backward."""
    ours, theirs = getattr(unrolled, cell)(H, H), getattr(nn, cell)(H, H)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, H)
    lengths = torch.randint(int(0.4 * T), T + 1, (B,))

    def packed() -> Tensor:
        output, _ = theirs(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return pad_packed_sequence(output, total_length=T)[0]

    torch.testing.assert_close(ours(x, lengths=lengths)[0], packed(), rtol=1e-4, atol=1e-5)
    report(
        f"{cell}, {100 - 100 * lengths.float().mean() / T:.0f}% padding, forward and backward, T={T} B={B} I=H={H}",
        {
            "ours by lengths": lambda: ours(x, lengths=lengths)[0].sum().backward(),
            "ours, padding computed too": lambda: ours(x)[0].sum().backward(),
            "torch packed": lambda: packed().sum().backward(),
        },
    )


def resets(T: int = 128, B: int = 128, H: int = 256) -> None:
    """Episodes that end inside the sequence: 3% of the steps are preceded by a reset."""
    ours, cell = unrolled.LSTM(H, H), nn.LSTMCell(H, H)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in ours.state_dict().items()})
    x, cut = torch.randn(T, B, H), torch.rand(T, B) < 0.03

    def stepping() -> Tensor:
        h = c = torch.zeros(B, H)
        outputs = []
        for t in range(T):
            keep = (~cut[t]).float()[:, None]
            h, c = cell(x[t], (h * keep, c * keep))
            outputs.append(h)
        return torch.stack(outputs)

    torch.testing.assert_close(ours(x, resets=cut)[0], stepping(), rtol=1e-4, atol=1e-5)
    norms = torch.zeros(1, 2, T, B)
    report(
        f"LSTM, 3% resets, forward and backward, T={T} B={B} I=H={H}",
        {
            "ours with resets": lambda: ours(x, resets=cut)[0].sum().backward(),
            "ours without resets": lambda: ours(x)[0].sum().backward(),
            "ours with resets and gradient norms": lambda: ours(x, resets=cut, gradient_norms=norms)[0].sum().backward(),
            "torch LSTMCell in a Python loop": lambda: stepping().sum().backward(),
        },
        rounds=7,
    )


class TorchLanguageModel(nn.Module):
    """The same model on torch.nn."""

    def __init__(self, V: int, E: int, H: int) -> None:
        super().__init__()
        self.encoder, self.layers, self.decoder = nn.Embedding(V, E), nn.LSTM(E, H, batch_first=True), nn.Linear(H, V)

    def forward(self, tokens: Tensor) -> tuple[Tensor, object]:
        hidden, state = self.layers(self.encoder(tokens))
        return self.decoder(hidden), state


def training_step(model: nn.Module, tokens: Tensor, precision: str) -> Callable[[], None]:
    """Forward, loss, backward, clip, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits, _ = model(tokens[:, :-1])
        cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def language_model(precision: str, B: int = 32, T: int = 64, V: int = 67, E: int = 128, H: int = 512) -> None:
    """A whole training step of the 105-second recipe's model."""
    theirs = TorchLanguageModel(V, E, H)
    ours = LanguageModel(Config(hidden_size=H, embedding_size=E), V)
    ours.load_state_dict(theirs.state_dict())
    tokens = torch.randint(V, (B, T + 1))

    title = f"character LSTM language model, whole training step in {precision}, B={B} T={T} V={V} E={E} H={H}"
    report(
        title,
        {"ours": training_step(ours, tokens, precision), "the same on torch.nn": training_step(theirs, tokens, precision)},
    )
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    peak = library.fma_peak(dtype, torch.get_num_threads())
    seconds = 3 * 2 * T * B * 4 * H * H / peak  # h_t W_hh, dh_t and dW_hh: what no way of computing it can do without
    print(f"  {'the recurrent products alone, at the peak':<44} {1e3 * seconds:9.2f} ms")


def short_calls(H: int = 64, calls: int = 50, rounds: int = 25) -> None:
    """Microseconds a call of few steps at a batch of one, beside torch.nn's layer."""
    print(f"Short calls, B=1 I=H={H}, microseconds: ours, torch.nn's, and torch.nn / ours")
    for name in ("LSTM", "GRU", "RNN"):
        for layers, T, training in ((1, 1, False), (1, 10, False), (2, 10, False), (1, 10, True), (2, 10, True)):
            theirs = getattr(nn, name)(H, H, num_layers=layers)
            x, times = torch.randn(T, 1, H), dict[nn.Module, list[float]]()
            ours = getattr(unrolled, name)(H, H, num_layers=layers)
            ours.load_state_dict(theirs.state_dict())
            torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=1e-4, atol=1e-5)
            with torch.set_grad_enabled(training):
                for turn in range(rounds * 2):
                    layer = (ours, theirs)[turn % 2]
                    started = time.perf_counter()
                    for _ in range(calls):
                        output, _ = layer(x)
                        if training:
                            output.sum().backward()
                    times.setdefault(layer, []).append((time.perf_counter() - started) / calls)
            mine, other = (1e6 * statistics.median(times[layer]) for layer in (ours, theirs))
            what = f"{name}, {layers} layer{'s' * (layers > 1)}, T={T}, {'training' if training else 'inference'}"
            print(f"  {what:<44} {mine:9.1f} {other:9.1f} {other / mine:9.2f}")


def main() -> None:
    torch.manual_seed(0)
    facts = {**machine(), "threads": torch.get_num_threads()}
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    padding("LSTM")
    padding("GRU")
    resets()
    language_model("fp32")
    language_model("bf16")
    short_calls()


if __name__ == "__main__":
    main()
