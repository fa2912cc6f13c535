"""PixelRNN beside what one would write in PyTorch: `python -m benchmarks.pixel_rnn`.

Training: a step forwards and backwards on 28 x 28 pixels of black and white, our layers on the compiled kernels, the same on
torch.nn.LSTM, and the paper's form of it: convolutions of states and inputs, along rows or along the diagonals of a skewed map.
Drawing: images a second, a step of each layer a pixel, beside a loop that runs the whole network for every pixel (one row of
pixels is timed, and taken 28 times). All are run in turn, and say the same of the same images; the least of three times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

from unrolled.cells import lstm_from_gates
from unrolled.inspection.speed import machine
from unrolled.tasks.drawing.image_lstm import DiagonalBiLSTM, RowLSTM
from unrolled.tasks.drawing.pixel_rnn import PixelRNN

SIZE, ROUNDS = 28, 3
MODELS = [("row_lstm", 32, 2), ("row_lstm", 16, 7), ("diagonal_bilstm", 32, 1), ("diagonal_bilstm", 16, 7)]
"""Layers, width and number of them; the last two are the paper's for MNIST (table 4)."""


def by_convolution(layer: RowLSTM | DiagonalBiLSTM, x: Tensor) -> Tensor:
    """What the layer computes, as the paper writes it: x (height, width, B, F) -> (height, width, B, H)."""
    image = x.permute(2, 3, 0, 1)  # (B, F, height, width)
    if isinstance(layer, RowLSTM):
        out = along_rows(layer.lstm, image)
    else:
        right = along_diagonals(layer.right, image.flip(3)).flip(3)[:, :, :-1]
        out = along_diagonals(layer.left, image) + pad(right, (0, 0, 1, 0))  # the right one is moved down by a row
    return out.permute(2, 3, 0, 1)


def along_rows(lstm: Any, image: Tensor) -> Tensor:
    """Section 3.1: each row from the one above, by convolutions 3 wide; that of the inputs has mask B."""
    w_ih, w_hh, b_ih, b_hh = lstm.all_weights[0]
    hidden, features = lstm.hidden_size, image.shape[1]
    left, right, x_left, x_here = w_ih.split([hidden, hidden, features, features], 1)
    k_ss, k_is = torch.stack([left, w_hh, right], -1), torch.stack([x_left, x_here], -1).unsqueeze(2)
    gates_of_x = torch.conv2d(pad(image, (1, 0)), k_is, b_ih + b_hh)
    h = c = image.new_zeros(len(image), hidden, image.shape[3])
    rows = []
    for x_gates in gates_of_x.unbind(2):
        h, c = (part.mT for part in lstm_from_gates((x_gates + conv1d(h, k_ss, padding=1)).mT, c.mT))
        rows.append(h)
    return torch.stack(rows, 2)


def along_diagonals(lstm: Any, image: Tensor) -> Tensor:
    """Section 3.2: each row is moved right by one more than the one above; then a column of the skewed map is a step."""
    w_ih, w_hh, b_ih, b_hh = lstm.all_weights[0]
    up, k_is = w_ih.split([lstm.hidden_size, image.shape[1]], 1)
    k_ss = torch.stack([up, w_hh], -1)  # two high: the row above, and the row itself
    height, width = image.shape[2:]
    skewed = torch.stack([pad(image[:, :, i], (i, height - 1 - i)) for i in range(height)], 2)
    gates_of_x = torch.conv2d(skewed, k_is[:, :, None, None], b_ih + b_hh)
    on_image = torch.stack([pad(torch.ones(width, dtype=image.dtype), (i, height - 1 - i)) for i in range(height)])
    h = c = image.new_zeros(len(image), lstm.hidden_size, height)
    columns = []
    for x_gates, inside in zip(gates_of_x.unbind(3), on_image.unbind(1), strict=True):
        h, c = (part.mT for part in lstm_from_gates((x_gates + conv1d(pad(h, (1, 0)), k_ss)).mT, c.mT))
        h, c = h * inside, c * inside  # beside the image states are zero
        columns.append(h)
    skewed = torch.stack(columns, -1)
    return torch.stack([skewed[:, :, i, i : i + width] for i in range(height)], 2)


def on_torch(model: PixelRNN) -> PixelRNN:
    """The same network on torch.nn.LSTM."""
    for layer in model.layers.modules():
        for name, lstm in [*layer.named_children()]:
            if hasattr(lstm, "layer_weights"):
                theirs = torch.nn.LSTM(lstm.input_size, lstm.hidden_size)
                theirs.load_state_dict(lstm.state_dict())
                setattr(layer, name, theirs)
    return model


def in_the_papers_form(model: PixelRNN) -> PixelRNN:
    for layer in model.layers:
        layer.forward = partial(by_convolution, layer)  # type: ignore[arg-type]
    return model


def step(model: PixelRNN, images: Tensor) -> Tensor:
    model.zero_grad()
    loss = -model.log_likelihood(images).mean()
    loss.backward()
    return loss.detach()


@torch.no_grad()
def one_row_by_whole_passes(model: PixelRNN, count: int, uniform: Tensor) -> Tensor:
    """The first row of pixels, drawn by a loop that runs the network for each of them; uniform is (count, 1, 28, 28)."""
    images = torch.zeros(count, *model.shape)
    for column in range(SIZE):
        scores = model(images)[:, 0, 0, column, 0]
        images[:, 0, 0, column] = (uniform[:, 0, 0, column] < scores.sigmoid()).float()
    return images[:, 0, 0]


def in_turn(*runs: Callable[[], Tensor]) -> tuple[list[float], list[Tensor]]:
    """The least seconds of each, and what they returned."""
    best, results = [float("inf")] * len(runs), []
    for _ in range(ROUNDS):
        results = []
        for number, run in enumerate(runs):
            started = time.perf_counter()
            results.append(run())
            best[number] = min(best[number], time.perf_counter() - started)
    return best, results


def main() -> None:
    parser = argparse.ArgumentParser(description="PixelRNN's training steps and drawing, beside plain PyTorch.")
    parser.add_argument("--batch", type=int, default=32, help="images of a training step (32)")
    parser.add_argument("--count", type=int, default=16, help="images drawn together (16)")
    parser.add_argument("--threads", type=int, default=1, help="threads (1)")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(", ".join(f"{name} {value}" for name, value in machine().items()), f", {asked.threads} threads")
    print(f"{'':24}{'training step, B=' + str(asked.batch):>34}{'drawing, B=' + str(asked.count) + ', images/s':>36}")
    print(f"{'layers, H, L':24}{'ours ms':>10}{'torch.nn':>11}{'paper':>13}{'ours':>14}{'whole passes':>15}{'ratio':>7}")
    for kind, hidden, layers in MODELS:
        torch.manual_seed(0)
        model = PixelRNN(kind, 1, SIZE, SIZE, 2, hidden, layers)  # type: ignore[arg-type]
        peers = [PixelRNN(kind, 1, SIZE, SIZE, 2, hidden, layers) for _ in range(2)]  # type: ignore[arg-type]
        for peer in peers:
            peer.load_state_dict(model.state_dict())
        models = [model, on_torch(peers[0]), in_the_papers_form(peers[1])]
        images = (torch.rand(asked.batch, 1, SIZE, SIZE) < 0.2).float()
        seconds, losses = in_turn(*[partial(step, one, images) for one in models])
        torch.testing.assert_close(losses, [losses[0]] * 3, rtol=1e-4, atol=1e-4)
        for one, name in zip(models[1:], ("torch.nn", "paper"), strict=True):
            ours, theirs = (m.first.parametrizations.weight.original.grad for m in (model, one))
            torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3 * float(ours.abs().max()), msg=name)
        model.eval()
        uniform = torch.rand(asked.count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
        drawing, drawn = in_turn(
            lambda m=model: m.sample(asked.count, torch.Generator().manual_seed(1)),
            lambda m=model, u=uniform: one_row_by_whole_passes(m, asked.count, u),
        )
        assert torch.equal(drawn[0][:, 0, 0], drawn[1]), "the two ways have drawn other pixels"
        rates = asked.count / drawing[0], asked.count / (SIZE * drawing[1])
        ours, *others = (1e3 * s for s in seconds)
        print(
            f"{f'{kind}, {hidden}, {layers}':24}{ours:10.0f}"
            + "".join(f"{ms:{width}.0f} ({ms / ours:.1f})" for ms, width in zip(others, (5, 7), strict=True))
            + f"{rates[0]:14.1f}{rates[1]:15.3f}{rates[0] / rates[1]:7.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
