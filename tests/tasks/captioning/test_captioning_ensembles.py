"""Several captioners on one CNN, and sentences chosen by agreement."""

from pathlib import Path

import pytest
import torch
from tests.tasks.captioning.tiny import TINY, F, H, P, V
from tests.tolerance import assert_same

from unrolled import tasks
from unrolled.data.images import read_image
from unrolled.data.sentences import END, PAD
from unrolled.tasks.captioning import data, generate, loss
from unrolled.tasks.captioning.config import Config
from unrolled.tasks.captioning.model import Ensemble
from unrolled.tasks.captioning.task import Run


def test_an_ensemble_writes_by_the_mean_probability_and_each_member_learns_by_its_own_loss() -> None:
    config = Config(hidden_size=H, members=2, heads=2)
    ensemble, features = Ensemble(config, V, F).double().eval(), torch.randn(3, P, F).double()
    words = torch.randint(4, V, (6, 5))
    seen = ensemble.see(features)
    alone = [one(one.see(features), words) for one in ensemble.members]
    together = ensemble(seen, words)
    mean = torch.stack([one.logits.softmax(-1) for one in alone]).mean(0)
    assert_same(together.logits.exp().detach(), mean.detach())
    assert_same(together.weights.detach(), torch.stack([one.weights for one in alone]).mean(0).detach())
    step_by_step, state = [], None
    for t in range(words.shape[1]):
        written = ensemble(seen, words[:, t : t + 1], state)
        step_by_step.append(written.logits)
        state = written.state
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
    seen = run.model.see(run.encoder(run.encoder.pixels(read_image(one.image))[None]))
    chances = torch.rand(run.config.longest + 1, 1, 30, generator=torch.Generator().manual_seed(0))
    drawn = [[i for i in row if i not in (PAD, END)] for row in generate.draw(run.model, seen, chances)[0].tolist()]
    likely = {c.text: c.score for c in likeliest.captions}
    agreement = run.judge.agreement([c.tokens for c in one.captions], drawn).tolist()
    scores = [score + 0.3 * likely[c.text] for score, c in zip(agreement, one.captions, strict=True)]
    assert scores == sorted(scores, reverse=True) == pytest.approx([c.score for c in one.captions], rel=1e-4)
    with pytest.raises(ValueError, match="consensus expected a judge"):
        generate.write(run.model, run.tokenizer, seen, longest=4, consensus=3)
