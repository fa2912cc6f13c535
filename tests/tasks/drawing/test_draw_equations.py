"""DRAW step by step: the paper's equations and its bound, by hand and by distributions."""

from typing import Any

import pytest
import torch
from tests.tolerance import assert_same
from torch.distributions import Bernoulli, Normal, kl_divergence

from unrolled.cells import Weights, lstm_cell
from unrolled.gaussian_windows import read, windows, write
from unrolled.tasks.drawing.config import Config
from unrolled.tasks.drawing.draw import Draw, Reader, Writer

B, SHAPE, CLASSES = 3, (2, 6, 5), 4


def model_of(**settings: Any) -> Draw:
    """A tiny DRAW in float64, with numbers of chance where it starts from zeros."""
    small = {"steps": 3, "hidden_size": 5, "latent_size": 4, "read_size": 3, "write_size": 2}
    config = Config(**{**small, **settings})
    model = Draw(config, SHAPE, CLASSES if config.conditional else 0).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return model


def images_of(levels: int = 2) -> torch.Tensor:
    return torch.randint(levels, (B, *SHAPE)).double()


def weights(cell: Any) -> Weights:
    return Weights(cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)


def test_the_bound_is_reconstruction_and_kl_of_every_step() -> None:
    """Against the cells' definition, torch's distributions and eq. 3-12 written out."""
    model, x = model_of(), images_of()
    assert isinstance(model.reader, Reader)
    assert isinstance(model.writer, Writer)
    encoder, decoder = ([part.expand(B, -1) for part in pair] for pair in (model.start[:2], model.start[2:]))
    canvas, generator = model.canvas.expand(B, -1, -1, -1), torch.Generator().manual_seed(7)
    kl, log_ratio = torch.zeros(B).double(), torch.zeros(B).double()
    for _ in range(model.steps):
        wrong = x - torch.sigmoid(canvas)
        window = windows(model.reader.window(decoder[0]), 3, *SHAPE[1:])
        glimpse = torch.cat([read(x, window).flatten(1), read(wrong, window).flatten(1)], dim=1)
        encoder = lstm_cell(torch.cat([glimpse, decoder[0]], dim=1), *encoder, weights(model.encoder))
        mean, log_deviation = model.latent(encoder[0]).chunk(2, dim=1)
        posterior, prior = Normal(mean, log_deviation.exp()), Normal(torch.zeros_like(mean), 1.0)
        z = mean + log_deviation.exp() * torch.randn(mean.shape, generator=generator, dtype=torch.float64)
        kl = kl + kl_divergence(posterior, prior).sum(1)
        log_ratio = log_ratio + (prior.log_prob(z) - posterior.log_prob(z)).sum(1)
        decoder = lstm_cell(z, *decoder, weights(model.decoder))
        window = windows(model.writer.window(decoder[0]), 2, *SHAPE[1:])
        canvas = canvas + write(model.writer.patch(decoder[0]).view(B, SHAPE[0], 2, 2), window)
    log_p = Bernoulli(logits=canvas).log_prob(x).sum((1, 2, 3))

    bound = model(x, generator=torch.Generator().manual_seed(7))
    assert_same(bound.reconstruction, -log_p)
    assert_same(bound.kl, kl)
    assert_same(bound.log_weight, log_p + log_ratio)


@pytest.mark.parametrize("settings", [{}, {"attention": False}, {"conditional": True}, {"levels": 5}], ids=str)
def test_gradients_of_the_bound_are_those_of_differences(settings: dict) -> None:
    model, x = model_of(steps=2, hidden_size=3, latent_size=2, **settings), images_of(settings.get("levels", 2))
    labels = torch.arange(B)

    def loss(*parameters: torch.Tensor) -> torch.Tensor:
        names = dict(zip(dict(model.named_parameters()), parameters, strict=True))
        given = (x, labels, torch.Generator().manual_seed(1))
        bound = torch.func.functional_call(model, names, given)
        return bound.reconstruction + bound.kl

    assert torch.autograd.gradcheck(loss, tuple(model.parameters()), fast_mode=True)


def test_what_is_drawn_is_what_the_decoder_writes() -> None:
    """Generating from the z that an image was encoded to ends in the canvas that it was reconstructed by."""
    model, x = model_of(), images_of()
    read_and_drawn = model.reconstruct(x, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        generator, latents = torch.Generator().manual_seed(3), []
        encode = model.latent.forward

        def remember(h: torch.Tensor) -> torch.Tensor:
            found = encode(h)
            mean, log_deviation = found.chunk(2, dim=1)
            noise = torch.randn(mean.shape, generator=generator, dtype=torch.float64)
            latents.append(mean + log_deviation.exp() * noise)
            return found

        model.latent.forward = remember  # type: ignore[method-assign]
        model.reconstruct(x, generator=torch.Generator().manual_seed(3))
        del model.latent.forward
    drawn = model.draw(torch.stack(latents))
    assert_same(drawn.canvases, read_and_drawn.canvases)
    assert drawn.writing is not None
    assert read_and_drawn.writing is not None
    assert_same(drawn.writing, read_and_drawn.writing)


def test_the_class_is_told_to_both_networks() -> None:
    model, x = model_of(conditional=True), images_of()
    latents = torch.randn(model.steps, B, model.latent_size).double()
    zeros, ones = torch.zeros(B, dtype=torch.int64), torch.ones(B, dtype=torch.int64)
    assert not torch.equal(model.draw(latents, zeros).canvases[-1], model.draw(latents, ones).canvases[-1])
    seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
    first, second = model(x, zeros, seeds[0]), model(x, ones, seeds[1])
    assert not torch.equal(first.kl, second.kl)
    with pytest.raises(ValueError, match="told the class"):
        model(x)


def test_dropout_is_of_training_alone_and_changes_it() -> None:
    model, x = model_of(dropout=0.5), images_of()
    runs = [model.train(training)(x, generator=torch.Generator().manual_seed(0)).kl for training in (False, False, True)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
