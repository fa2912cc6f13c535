"""DRAW: a recurrent network that adds to a canvas at every step (Gregor, Danihelka, Graves, Rezende and Wierstra 2015).

For each image x and steps t = 1..T, with a canvas c that starts as learned:

    x^_t    = x - sigmoid(c_{t-1})                              what is still wrong          eq. 3
    r_t     = read(x, x^_t, h^dec_{t-1})                                                     eq. 4
    h^enc_t = LSTM^enc(h^enc_{t-1}, [r_t, h^dec_{t-1}])                                      eq. 5
    z_t     ~ Q(Z | h^enc_t) = Normal(mu_t, sigma_t)                                         eq. 6, 1-2
    h^dec_t = LSTM^dec(h^dec_{t-1}, z_t)                                                     eq. 7
    c_t     = c_{t-1} + write(h^dec_t)                                                       eq. 8

The loss is the bound -log P(x | c_T) + sum over t of KL(Q(Z_t | h^enc_t) || Normal(0, 1)) (eq. 9-12). To generate, z_t is drawn
from Normal(0, 1), and nothing is read.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from unrolled.cell_layers import LSTMCell
from unrolled.gaussian_windows import Windows, read, windows, write
from unrolled.kernels.linear import Linear
from unrolled.tasks.drawing.config import Config
from unrolled.tasks.drawing.pixels import brightness, canvas_of, log_probability

State = tuple[Tensor, Tensor]


class Bound(NamedTuple):
    """What one pass says of N images, each (N,) in nats."""

    reconstruction: Tensor
    """-log P(x | c_T)."""
    kl: Tensor
    """Of all steps together, in closed form."""
    log_weight: Tensor
    """log P(x, z) - log Q(z | x) of the very z that were drawn; its mean is minus the bound."""


class Drawn(NamedTuple):
    """Canvases of N images on the way, and the windows."""

    canvases: Tensor
    """(T + 1, N, C, height, width), 0..1: the first before the first step."""
    writing: Tensor | None
    """(T, N, 4), top, left, bottom, right in pixels; None without attention."""
    reading: Tensor | None = None
    """The same of where it looked; None where nothing was read."""


class Draw(nn.Module):
    """The network.

    Args:
        config: the settings.
        shape: of an image, (channels, height, width).
        classes: how many there are, where it is told the class; else 0.
        mean: of the training images, (C, height, width), 0..1: from which the canvas starts to learn where it starts.
    """

    def __init__(self, config: Config, shape: tuple[int, int, int], classes: int = 0, mean: Tensor | None = None) -> None:
        super().__init__()
        C, H, W = shape
        hidden, self.shape = config.hidden_size, shape
        self.steps, self.latent_size = config.steps, config.latent_size
        self.levels, self.dropout = config.levels, config.dropout
        self.reader: Reader | WholeReader = Reader(hidden, config.read_size) if config.attention else WholeReader()
        self.writer: Writer | WholeWriter = (
            Writer(hidden, config.write_size, shape) if config.attention else WholeWriter(hidden, shape)
        )
        glimpse = 2 * C * (config.read_size**2 if config.attention else H * W)
        self.classes = nn.Embedding(classes, hidden) if classes else None
        told = hidden if classes else 0
        self.encoder = LSTMCell(glimpse + hidden + told, hidden)
        self.decoder = LSTMCell(config.latent_size + told, hidden)
        self.latent = Linear(hidden, 2 * config.latent_size)
        self.start = nn.Parameter(torch.zeros(4, hidden))
        """h and c of the encoder, h and c of the decoder."""
        self.canvas = nn.Parameter(torch.zeros(shape) if mean is None else canvas_of(mean))
        self.log_scale = nn.Parameter(torch.full((C, 1, 1), -2.0)) if config.levels > 2 else None

    def forward(self, images: Tensor, labels: Tensor | None = None, generator: torch.Generator | None = None) -> Bound:
        """The bound of images (N, C, height, width), levels as floats; labels (N,) where it is told the class."""
        canvas, kl, log_ratio, _ = self._encode(images, labels, generator)
        log_p = log_probability(canvas, images, self.levels, self.log_scale)
        return Bound(-log_p, kl, log_p + log_ratio)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, labels: Tensor | None = None, generator: torch.Generator | None = None) -> Drawn:
        """Canvases and windows while it reads images and draws them."""
        return self._encode(images, labels, generator, kept=True)[3]

    @torch.no_grad()
    def draw(self, latents: Tensor, labels: Tensor | None = None) -> Drawn:
        """Canvases and windows of new images, of z (T, N, latent) from Normal(0, 1); labels (N,) where it is told the class."""
        told, (_, decoder), canvas = self._begin(latents.shape[1], labels)
        canvases, writing = [canvas], []
        for z in latents:
            decoder = self.decoder(_joined(z, told), decoder)
            added, window = self.writer(decoder[0])
            canvas = canvas + added
            canvases.append(canvas)
            writing.append(window)
        return _drawn(canvases, writing)

    def _encode(
        self, images: Tensor, labels: Tensor | None, generator: torch.Generator | None, kept: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Drawn]:
        """The last canvas, the KL and log P(z) - log Q(z | x) of each image, and, where `kept`, all canvases and windows."""
        x = brightness(images, self.levels)
        told, (encoder, decoder), canvas = self._begin(len(x), labels)
        masks = self._masks(x)
        canvases, writing, reading = [canvas], [], []
        of_z: list[Tensor] = []
        noise: list[Tensor] = []
        for _ in range(self.steps):
            glimpse, seen = self.reader(x, x - torch.sigmoid(canvas), decoder[0])
            encoder = self.encoder(_joined(glimpse, decoder[0], told), encoder)
            of_z.append(_whole(self.latent(encoder[0] * masks[0] if masks else encoder[0])))
            mean, log_deviation = of_z[-1].chunk(2, dim=1)
            noise.append(torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device))
            decoder = self.decoder(_joined(torch.addcmul(mean, log_deviation.exp(), noise[-1]), told), decoder)
            added, window = self.writer(decoder[0] * masks[1] if masks else decoder[0])
            canvas = canvas + added
            if kept:
                canvases.append(canvas)
                writing.append(window)
                reading.append(seen)
        mean, log_deviation = torch.stack(of_z).chunk(2, dim=2)  # (T, N, latent)
        epsilon = torch.stack(noise)
        variance = (2 * log_deviation).exp()
        kl = 0.5 * (mean.square() + variance - 2 * log_deviation - 1).sum((0, 2))
        z = torch.addcmul(mean, log_deviation.exp(), epsilon)
        log_ratio = (0.5 * (epsilon.square() - z.square()) + log_deviation).sum((0, 2))
        return canvas, kl, log_ratio, _drawn(canvases, writing, reading) if kept else Drawn(canvas, None)

    def _begin(self, count: int, labels: Tensor | None) -> tuple[Tensor | None, tuple[State, State], Tensor]:
        """The class as a vector, the states of both networks, and the canvas, before the first step."""
        told = None
        if self.classes is not None:
            if labels is None:
                raise ValueError("this DRAW is told the class: give labels (N,).")
            told = self.classes(labels)
        h_encoder, c_encoder, h_decoder, c_decoder = self.start.unsqueeze(1).expand(-1, count, -1)
        return told, ((h_encoder, c_encoder), (h_decoder, c_decoder)), self.canvas.expand(count, -1, -1, -1)

    def _masks(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Of the same units at every step."""
        if not self.training or not self.dropout:
            return None
        kept = torch.rand(2, len(x), self.start.shape[1], device=x.device) >= self.dropout
        first, second = kept.to(x.dtype) / (1 - self.dropout)
        return first, second


class Reader(nn.Module):
    """Two patches through one window, placed by the decoder's state: of the image, and of what is still wrong (eq. 27)."""

    def __init__(self, hidden: int, filters: int) -> None:
        super().__init__()
        self.filters = filters
        self.window = Linear(hidden, 5)

    def forward(self, x: Tensor, wrong: Tensor, h: Tensor) -> tuple[Tensor, Windows | None]:
        """x and what is wrong of it, (N, C, height, width) each -> (N, 2 * C * n * n), the window."""
        window = windows(_whole(self.window(h)), self.filters, *x.shape[2:])
        return read(torch.cat([x, wrong], dim=1), window).flatten(1), window


class WholeReader(nn.Module):
    """The image and what is still wrong, whole (eq. 17)."""

    def forward(self, x: Tensor, wrong: Tensor, h: Tensor) -> tuple[Tensor, Windows | None]:
        return torch.cat([x.flatten(1), wrong.flatten(1)], dim=1), None


class Writer(nn.Module):
    """A patch and the window that it goes through, both from the decoder's state (eq. 28-29)."""

    def __init__(self, hidden: int, filters: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.filters, self.shape = filters, shape
        self.window = Linear(hidden, 5)
        self.patch = Linear(hidden, shape[0] * filters * filters)

    def forward(self, h: Tensor) -> tuple[Tensor, Windows | None]:
        """h (N, H) -> what is added to the canvas (N, C, height, width), the window."""
        window = windows(_whole(self.window(h)), self.filters, *self.shape[1:])
        return write(self.patch(h).view(-1, self.shape[0], self.filters, self.filters), window), window


class WholeWriter(nn.Module):
    """The whole canvas from the decoder's state (eq. 18)."""

    def __init__(self, hidden: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.map = Linear(hidden, shape[0] * shape[1] * shape[2])

    def forward(self, h: Tensor) -> tuple[Tensor, Windows | None]:
        return self.map(h).view(-1, *self.shape), None


def _whole(x: Tensor) -> Tensor:
    """Not in bf16, in which a pixel has no place and a sum of nats few digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _joined(*parts: Tensor | None) -> Tensor:
    present = [part for part in parts if part is not None]
    return torch.cat(present, dim=1) if len(present) > 1 else present[0]


def _drawn(canvases: list[Tensor], writing: list[Windows | None], reading: list[Windows | None] | None = None) -> Drawn:
    def corners(several: list[Windows | None] | None) -> Tensor | None:
        found = [window.corners() for window in several or [] if window is not None]
        return torch.stack(found) if found else None

    return Drawn(torch.sigmoid(torch.stack(canvases)), corners(writing), corners(reading))
