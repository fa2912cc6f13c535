"""Several captioners on one CNN, and sentences chosen by agreement."""

from pathlib import Path

import pytest
import torch
from tests.tasks.captioning.tiny import TINY, F, H, P, V
from tests.tolerance import assert_same

from unrolled import tasks
from unrolled.data.images import read_image
from unrolled.data.sentences import END, PAD, START, UNKNOWN
from unrolled.decoding import sample, step_function
from unrolled.tasks.captioning import data, loss
from unrolled.tasks.captioning.config import Config
from unrolled.tasks.captioning.model import build
from unrolled.tasks.captioning.task import Run


def test_an_ensemble_predicts_by_the_mean_probability_and_each_member_learns_by_its_own_loss() -> None:
    config = Config(hidden_size=H, members=2, heads=2)
    ensemble, features = build(config, V, F, None).double().eval(), torch.randn(3, P, F).double()
    words = torch.randint(4, V, (6, 5))
    encoded = ensemble.encode(features)
    alone = [one(one.encode(features), words) for one in ensemble.members]
    together = ensemble(encoded, words)
    mean = torch.stack([one.logits.softmax(-1) for one in alone]).mean(0)
    assert_same(together.logits.exp().detach(), mean.detach())
    assert_same(together.weights.detach(), torch.stack([one.weights for one in alone]).mean(0).detach())
    step_by_step, state = [], None
    for t in range(words.shape[1]):
        output = ensemble(encoded, words[:, t : t + 1], state)
        step_by_step.append(output.logits)
        state = output.state
    assert_same(torch.cat(step_by_step, 1).detach(), together.logits.detach())
    batch = {"features": features, "tokens": data.pad_captions([[[4, 5]], [[6, 7, 8]], [[9]]], longest=9), "learns": False}
    losses = [loss.likelihood_loss(one, batch, config).loss for one in ensemble.members]
    assert_same(loss.likelihood_loss(ensemble, batch, config).loss.detach(), torch.stack(losses).mean().detach())


def test_a_run_of_an_ensemble_captions_and_goes_on(shapes: Path, tmp_path: Path) -> None:
    settings = {**TINY, "members": 2, "max_steps": 4, "save_every": 2, "evaluate_every": 4}
    tasks.train("captioning", shapes, run=tmp_path / "run", **settings)
    run = Run(tmp_path / "run")
    together = list(run.caption(shapes / "images", consensus=3))
    alone = next(run.caption(together[3].image, consensus=3))
    assert alone.captions[0].text == together[3].captions[0].text
    better = {"start": str(tmp_path / "run"), "objective": "self-critical", "samples": 2}
    assert tasks.train("captioning", shapes, run=tmp_path / "better", **{**settings, **better}).counters.step == 4


def test_consensus_takes_the_sentence_that_agrees_best_with_drawn_ones(captioner: Path, shapes: Path) -> None:
    run = Run(captioner)
    one = next(run.caption(shapes / "images" / "red-circle-left.png", beam=4, captions=4, consensus=30))
    likeliest = next(run.caption(shapes / "images" / "red-circle-left.png", beam=4, captions=4))
    assert sorted(c.text for c in one.captions) == sorted(c.text for c in likeliest.captions)
    encoded = run.model.encode(run.encoder(run.encoder.pixels(read_image(one.image))[None]))
    uniform = torch.rand(run.config.longest + 1, 1, 30, generator=torch.Generator().manual_seed(0))
    ids = {"start": START, "end": END, "pad": PAD, "forbidden": [UNKNOWN]}
    drawn, _ = sample(*step_function(run.model, encoded), uniform, **ids)
    drawn = [[i for i in row if i not in (PAD, END)] for row in drawn[0].tolist()]
    likely = {c.text: c.score for c in likeliest.captions}
    agreement = run.cider.agreement([c.tokens for c in one.captions], drawn).tolist()
    scores = [score + 0.3 * likely[c.text] for score, c in zip(agreement, one.captions, strict=True)]
    assert scores == sorted(scores, reverse=True) == pytest.approx([c.score for c in one.captions], rel=1e-4)
