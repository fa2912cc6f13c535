"""Captioning, on photos that the tests draw: coloured shapes, seen through the real encoder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from tests.tolerance import assert_same

from unrolled import cells, encoders, tasks
from unrolled.cells import Weights
from unrolled.data.captions import END, PAD, START, UNKNOWN, Photo
from unrolled.data.images import read_image
from unrolled.errors import ConfigError, DataError
from unrolled.metrics import CiderReward
from unrolled.progress import Progress
from unrolled.tasks.captioning import data, generate, loss
from unrolled.tasks.captioning.config import Config
from unrolled.tasks.captioning.model import Captioner, Ensemble
from unrolled.tasks.captioning.task import Run, Task
from unrolled.training import Counters, Outcome, Step

V, H, F, P = 11, 6, 10, 4
WAYS = ("initial", "every-step", "attention", "attention-between")
TINY = {
    "hidden_size": 32,
    "batch_size": 8,
    "minimum_count": 1,
    "max_steps": 12,
    "warmup_steps": 4,
    "evaluate_every": 6,
    "save_every": 6,
    "sample_every": 0,
    "dropout": 0.1,
}


def model(**how) -> Captioner:
    torch.manual_seed(0)
    return Captioner(Config(hidden_size=H, **how), V, F).double().eval()


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of coloured shapes with two captions each."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "images").mkdir()
    lines = []
    for shape in ("circle", "square"):
        for colour in ("red", "green", "blue", "yellow"):
            for place, where in ((20, "left"), (120, "right")):
                name = f"{colour}-{shape}-{where}.png"
                photo = Image.new("RGB", (224, 160), "white")
                corners = (place, 40, place + 80, 120)
                draw = ImageDraw.Draw(photo)
                draw.ellipse(corners, fill=colour) if shape == "circle" else draw.rectangle(corners, fill=colour)
                photo.save(folder / "images" / name)
                lines += [f"{name}\ta {colour} {shape}", f"{name}\tthe {shape} is {colour}."]
    (folder / "captions.tsv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def captioner(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, shared by tests that only read it."""
    folder = tmp_path_factory.mktemp("captioner") / "run"
    settings = {**TINY, "max_steps": 120, "evaluate_every": 60, "save_every": 60, "learning_rate": 1e-2}
    tasks.train("captioning", shapes, run=folder, **settings)
    return folder


# the equations


@pytest.mark.parametrize("image", WAYS)
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_word_by_word_gives_what_the_whole_caption_gives(cell: str, image: str) -> None:
    captioner = model(cell=cell, image=image)
    seen, words = captioner.see(torch.randn(2, P, F)), torch.randint(V, (6, 5))
    whole = captioner(seen, words)
    state, steps = None, []
    for t in range(5):
        written = captioner(seen, words[:, t : t + 1], state)
        state = written.state
        steps.append(written.logits)
    assert_same(torch.cat(steps, dim=1), whole.logits)
    for last, one in zip(state, whole.state, strict=True):
        assert_same(last, one)


def told(captioner: Captioner, h: torch.Tensor, z: torch.Tensor | None, e: torch.Tensor) -> torch.Tensor:
    deep = captioner.deep(torch.cat([h, e] if z is None else [h, z, e], dim=-1))
    return captioner.output(torch.tanh(deep))


def first_step(image: str) -> tuple[Captioner, torch.Tensor, torch.Tensor, torch.Tensor, list[Weights]]:
    """A vanilla RNN captioner, the places it sees (P, H), a word's embedding (1, H), the logits it gives, its weights."""
    captioner = model(cell="rnn", image=image, attention="additive")
    features = torch.randn(1, P, F)
    seen = captioner.see(features)
    places = torch.relu(captioner.keep(captioner.norm(features.double())))[0]
    assert_same(seen.places[0], places)
    word = torch.tensor([[7]])
    e = captioner.embedding(word)[0] * captioner.embedding_scale
    weights = [Weights(*layer.all_weights[0]) for layer in captioner.layers]
    return captioner, places, e, captioner(seen, word).logits[0], weights


def test_initial_state_is_an_affine_of_the_pooled_feature() -> None:
    captioner, places, e, logits, (low, high) = first_step("initial")
    h0, h1 = captioner.start(places.mean(0, keepdim=True)).chunk(2, dim=-1)
    h = cells.rnn_tanh_cell(cells.rnn_tanh_cell(e, h0, low), h1, high)
    assert_same(logits, told(captioner, h, None, e))


def test_at_every_step_the_photo_is_an_extra_term() -> None:
    captioner, places, e, logits, (low, high) = first_step("every-step")
    w_xh, w_ih = low.w_ih[:, :H], low.w_ih[:, H:]
    h = torch.tanh(e @ w_xh.T + places.mean(0) @ w_ih.T + low.b_ih + low.b_hh)  # h_0 = 0: no W_hh term yet
    assert_same(logits, told(captioner, cells.rnn_tanh_cell(h, torch.zeros_like(h), high), None, e))


def attended(captioner: Captioner, places: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    attention = captioner.attention
    scores = [attention.score(torch.tanh(attention.query(h[0]) + attention.key(a))) for a in places]
    alpha = torch.cat(scores).softmax(0)
    return torch.sigmoid(captioner.gate(h)) * (alpha @ places)


def test_show_attend_and_tell_looks_before_each_step() -> None:
    captioner, places, e, logits, (low, high) = first_step("attention")
    h0, h1 = torch.tanh(captioner.start(places.mean(0, keepdim=True))).chunk(2, dim=-1)
    z = attended(captioner, places, h0)
    h = cells.rnn_tanh_cell(cells.rnn_tanh_cell(torch.cat([e, z], -1), h0, low), h1, high)
    assert_same(logits, told(captioner, h, z, e))


def test_attention_between_looks_after_the_first_layer() -> None:
    captioner, places, e, logits, (low, high) = first_step("attention-between")
    h0, h1 = torch.tanh(captioner.start(places.mean(0, keepdim=True))).chunk(2, dim=-1)
    h = cells.rnn_tanh_cell(e, h0, low)
    z = attended(captioner, places, h)
    assert_same(logits, told(captioner, cells.rnn_tanh_cell(torch.cat([h, z], -1), h1, high), z, e))


# the losses


def test_the_loss_is_summed_over_steps_averaged_over_captions_and_blind_to_padding() -> None:
    captioner = model(image="initial")
    batch = {"features": torch.randn(2, P, F), "tokens": data.lay_out([[[4, 5, 6], [7]], [[8, 9]]], longest=9), "learns": False}
    assert batch["tokens"].shape == (2, 2, 5)
    step = loss.likelihood_loss(captioner, batch, Config(label_smoothing=0))
    total = 0.0
    for photo, caption in ((0, [4, 5, 6]), (0, [7]), (1, [8, 9])):
        seen = captioner.see(batch["features"][photo : photo + 1])
        log_p = captioner(seen, torch.tensor([[START, *caption]])).logits[0].float().log_softmax(-1)
        total -= sum(log_p[t, word] for t, word in enumerate([*caption, END]))
    assert_same(step.loss, total / 3)
    assert step.count == 3


def test_the_doubly_stochastic_penalty_is_its_equation() -> None:
    captioner = model(image="attention")
    batch = {"features": torch.randn(2, P, F), "tokens": data.lay_out([[[4, 5]], [[6, 7, 8]]], longest=9), "learns": False}
    plain = loss.likelihood_loss(captioner, batch, Config(label_smoothing=0.1))
    step = loss.likelihood_loss(captioner, batch, Config(label_smoothing=0.1, doubly_stochastic=2.0))
    penalty = 0.0
    for photo, caption in ((0, [4, 5]), (1, [6, 7, 8])):
        seen = captioner.see(batch["features"][photo : photo + 1])
        looked = captioner(seen, torch.tensor([[START, *caption]])).weights[0].sum(0)
        penalty += ((1 - looked) ** 2).sum() / 2
    assert_same((step.loss - plain.loss).float(), (2 * penalty).float())


def test_the_self_critical_gradient_is_that_of_reward_minus_baseline_times_log_p() -> None:
    captioner, config = model(image="initial", dropout=0), Config(samples=3, longest=4)
    reward = CiderReward([[[4, 5, END]], [[6, 7, END]]])
    batch = {"photos": torch.tensor([1, 0]), "features": torch.randn(2, P, F), "learns": False}
    torch.manual_seed(1)
    step = loss.self_critical_loss(captioner, batch, config, reward)
    captioner.eval()  # the loss leaves it in training; with no dropout that is the same
    torch.manual_seed(1)
    drawn = generate.draw(captioner, captioner.see(batch["features"]), torch.rand(4, 2, 3)).flatten(0, 1)
    total = 0.0
    for row, ids in enumerate(drawn.tolist()):
        ids = [i for i in ids if i != PAD]
        group = [[i for i in other if i != PAD] for other in drawn[row - row % 3 : row - row % 3 + 3].tolist()]
        rewards = reward.reward([int(batch["photos"][row // 3])] * 3, group)
        others = (rewards.sum() - rewards[row % 3]) / 2
        logits = captioner(captioner.see(batch["features"][row // 3][None]), torch.tensor([[START, *ids[:-1]]])).logits[0]
        log_p = generate.only_words(logits.float()).log_softmax(-1)
        total -= (rewards[row % 3] - others) * sum(log_p[t, i] for t, i in enumerate(ids)) / 6
    assert_same(step.loss, total)
    assert not set(drawn.flatten().tolist()) & {START, UNKNOWN}


# decoding


@pytest.mark.parametrize(
    "how", [{"beam": 1}, {"beam": 3}, {"beam": 4, "captions": 3}, {"consensus": 5}, {"temperature": 0.9, "captions": 3}]
)
def test_a_batch_gives_the_captions_of_one_at_a_time(captioner: Path, shapes: Path, how: dict) -> None:
    run = Run(captioner)
    together = list(run.caption(shapes / "images", **how))
    assert len(together) == 16
    for one in together[:5]:
        alone = next(run.caption(one.image, **how))
        assert [caption.text for caption in alone.captions] == [caption.text for caption in one.captions]
        assert len(one.captions) == how.get("captions", 1)


def test_padding_and_unknown_are_never_written() -> None:
    captioner = model(image="initial").float()
    with torch.no_grad():
        captioner.output.bias[[PAD, START, UNKNOWN]] = 50.0  # by far the likeliest, were they allowed
    vocabulary = data.Vocabulary("word", list("abcdefg"))
    seen = captioner.see(torch.randn(3, P, F))
    for how in ({"beam": 2}, {"temperature": 1.0, "captions": 4}):
        for captions in generate.write(captioner, vocabulary, seen, longest=6, **how):
            for caption in captions:
                assert not set(caption.tokens) & {PAD, START, UNKNOWN, END}
                assert len(caption.tokens) <= 6 + 1


def test_a_sentence_is_drawn_as_often_as_the_model_says() -> None:
    captioner = model(image="initial").float()
    seen = captioner.see(torch.randn(1, P, F))
    drawn = generate.draw(captioner, seen, torch.rand(1, 1, 20_000, generator=torch.Generator().manual_seed(0)))
    expected = generate.only_words(captioner(seen, torch.tensor([[START]])).logits[0, 0]).softmax(-1).detach()
    share = torch.bincount(drawn.flatten(), minlength=len(expected)) / 20_000
    assert float((share - expected).abs().max()) < 0.015  # four standard errors of a half


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
    batch = {"features": features, "tokens": data.lay_out([[[4, 5]], [[6, 7, 8]], [[9]]], longest=9), "learns": False}
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
        generate.write(run.model, run.vocabulary, seen, longest=4, consensus=3)


# the run


def test_it_learns_to_name_what_is_in_the_photos(captioner: Path, shapes: Path) -> None:
    said = {Path(one.image).stem: one.captions[0].text for one in Run(captioner).caption(shapes / "images")}
    right = sum(all(part in said[name] for part in name.split("-")[:2]) for name in said)
    assert right >= 13, said  # of 16: two were kept for validation


def test_resuming_is_exact(shapes: Path, tmp_path: Path) -> None:
    whole = tasks.train("captioning", shapes, run=tmp_path / "whole", **TINY)
    taken: list[int] = []
    original = Task.batch

    def stop(self: Task, step: int) -> dict:
        if step == 8:
            raise KeyboardInterrupt
        taken.append(step)
        return original(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "batch", stop)
        with pytest.raises(KeyboardInterrupt):
            tasks.train("captioning", shapes, run=tmp_path / "stopped", **TINY)
    outcome = tasks.resume(tmp_path / "stopped")
    assert outcome.metrics == whole.metrics
    names = [(tmp_path / name / "training.safetensors").read_bytes() for name in ("whole", "stopped")]
    first, second = (safetensors_of(content) for content in names)
    assert all(torch.equal(first[name], second[name]) for name in first)


def safetensors_of(content: bytes) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    return load(content)


def test_the_second_phase_begins_with_the_first_ones_weights_and_resumes_exactly(
    captioner: Path, shapes: Path, tmp_path: Path
) -> None:
    settings = {
        **TINY,
        "objective": "self-critical",
        "start": str(captioner),
        "learning_rate": 1e-3,
        "max_steps": 4,
        "save_every": 2,
    }
    begun = Task(Config(data=(str(shapes),), **settings), captioner)
    shutil.copy(captioner / "model.safetensors", tmp_path / data.STARTING_WEIGHTS)
    begun.folder = tmp_path
    assert_same(begun.build().output.weight, Run(captioner).model.output.weight)
    whole = tasks.train("captioning", shapes, run=tmp_path / "whole", **settings)
    original = Task.loss

    def stop(self: Task, model, batch, carry) -> Step:
        step = original(self, model, batch, carry)
        if stop.seen == 3:
            raise KeyboardInterrupt
        stop.seen += 1
        return step

    stop.seen = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "loss", stop)
        with pytest.raises(KeyboardInterrupt):
            tasks.train("captioning", shapes, run=tmp_path / "stopped", **settings)
    assert tasks.resume(tmp_path / "stopped").metrics == whole.metrics
    assert whole.metrics["loss"] == -whole.metrics["cider"]


def test_the_encoder_learns_from_its_epoch_on_and_not_before(shapes: Path, tmp_path: Path) -> None:
    settings = {**TINY, "max_steps": 4, "save_every": 2, "evaluate_every": 4, "batch_size": 7, "fine_tune_from": 2}
    tasks.train("captioning", shapes, run=tmp_path / "run", **settings)  # 15 photos: 3 steps are an epoch
    run = Run(tmp_path / "run")
    assert run.model.encoder is run.encoder
    frozen, learned = encoders.load().body.state_dict(), run.encoder.body.state_dict()
    assert any(not torch.equal(frozen[name], learned[name]) for name in frozen)
    run.farewell(Outcome(run.folder, Counters(), "finished", {}), Progress(quiet=True))  # features of the CNN as it is now
    task = Task(run.config, tmp_path / "run")
    built = task.build()
    for step, learns in ((2, False), (3, True)):
        task.loss(built, task.batch(step), {}).loss.backward()
        assert all((p.grad is not None) == learns for p in built.encoder.parameters())


def test_photos_that_cannot_be_read_are_left_out_where_the_cnn_learns(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "shapes")
    (tmp_path / "shapes" / "images" / "red-circle-left.png").write_bytes(b"no image")
    told: list[str] = []
    (tmp_path / "run").mkdir()
    data.prepare(Config(**TINY, data=(str(tmp_path / "shapes"),), fine_tune_from=1), tmp_path / "run", told.append)
    kept = [one.name for several in data.load(tmp_path / "run").values() for one in several]
    assert len(kept) == 15
    assert "red-circle-left.png" not in kept
    assert "cannot be read and are left out" in told[-1]


def test_a_run_may_begin_with_a_cnn_that_has_learned_and_leave_it_so(shapes: Path, tmp_path: Path) -> None:
    settings = {**TINY, "max_steps": 2, "save_every": 2, "evaluate_every": 2}
    tasks.train("captioning", shapes, run=tmp_path / "first", **settings, fine_tune_from=1)
    tasks.train("captioning", shapes, run=tmp_path / "second", **settings, start=str(tmp_path / "first"))
    first, second = Run(tmp_path / "first"), Run(tmp_path / "second")
    task = Task(second.config, second.folder)
    assert first.encoder.fingerprint() == second.encoder.fingerprint() == task.encoder.fingerprint()
    assert first.encoder.fingerprint() != encoders.load().fingerprint()
    assert task.batch(0)["features"].dim() == 3  # taken once, with the CNN as it is
    assert not torch.equal(first.model.output.weight, second.model.output.weight)
    key = task.batches.examples[0]
    assert_same(second.encoder(data.pixels(second.encoder, key)[None]).half().float(), task.cache.read([key.key]))


def test_a_part_of_a_photo_is_another_one_each_time_and_no_larger_than_it(shapes: Path) -> None:
    encoder, chance = encoders.load(), np.random.default_rng(0)
    photo = Photo(str(shapes / "images" / "red-circle-left.png"))
    one = data.Example("red", photo, b"", b"", [])
    parts = [data.pixels(encoder, one, 0.3, chance) for _ in range(5)]
    assert len({part.numpy().tobytes() for part in parts}) == 5
    assert torch.equal(data.pixels(encoder, one, 1.0, chance), data.pixels(encoder, one))
    assert parts[0].shape == (3, 192, 192)  # 224 * sqrt(the mean share of 0.65), to the next multiple of 32


def test_starting_from_a_model_of_another_shape_is_refused(captioner: Path, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hidden_size: it has 32, got 16"):
        tasks.train("captioning", shapes, run=tmp_path / "run", **{**TINY, "hidden_size": 16}, start=str(captioner))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_layers": 1}, "attention-between expected num_layers of 2 or more, got 1"),
        ({"heads": 5}, "a hidden_size that 5 divides, got dot and 512"),
        ({"objective": "self-critical"}, "Name it with start"),
        ({"image": "initial", "doubly_stochastic": 1.0}, "expected image = attention, got initial"),
    ],
)
def test_settings_at_odds_are_refused(shapes: Path, tmp_path: Path, settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tasks.train("captioning", shapes, run=tmp_path / "run", **settings)


# the commands


def test_the_commands_train_caption_and_evaluate(command, shapes: Path, tmp_path: Path) -> None:
    flags = [part for name, value in TINY.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    code, _, errors = command("train", "captioning", shapes, "--run", tmp_path / "run", *flags)
    assert code == 0, errors
    assert "photos with" in errors
    photo = shapes / "images" / "red-circle-left.png"
    code, out, _ = command("caption", tmp_path / "run", photo, "--captions", "2", "--json", "--show", tmp_path / "seen")
    answer = json.loads(out)
    assert code == 0
    assert answer["image"] == str(photo)
    assert [set(caption) for caption in answer["captions"]] == [{"caption", "score"}] * 2
    assert [path.name for path in (tmp_path / "seen").iterdir()] == ["0001-red-circle-left.png"]
    code, out, _ = command("evaluate", tmp_path / "run", shapes, "--json")
    assert code == 0
    assert {"loss", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", "photos"} <= set(json.loads(out))
    code, other, _ = command("evaluate", tmp_path / "run", shapes, "--json", "--beam", "2", "--consensus", "3")
    assert code == 0
    assert json.loads(other)["loss"] == json.loads(out)["loss"]


def test_evaluating_tells_how_far_it_is(captioner: Path, shapes: Path) -> None:
    told: list[tuple[str, int, int]] = []
    Run(captioner).evaluate(str(shapes), report=lambda *one: told.append(one))
    assert told[-1] == ("captions", 16, 16)


def test_what_a_run_cannot_do_is_said_with_what_it_can(command, captioner: Path) -> None:
    code, out, errors = command("sample", captioner)
    assert (code, out) == (2, "")
    assert errors == f"error: {captioner}: a run of this task cannot sample. It can caption, evaluate.\n"


def test_a_damaged_photo_is_skipped_in_a_folder_and_an_error_alone(
    command, captioner: Path, shapes: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    good = (shapes / "images" / "red-circle-left.png").read_bytes()
    (folder / "a.png").write_bytes(good)
    (folder / "b.png").write_bytes(good[: len(good) // 2])
    (folder / "c.png").write_bytes(b"")
    code, out, errors = command("caption", captioner, folder)
    assert code == 0
    assert out.startswith((f"{folder / 'a.png'}\ta ", f"{folder / 'a.png'}\tthe "))
    assert "b.png" in errors
    assert "skipped 2 images that cannot be read" in errors
    code, out, errors = command("caption", captioner, folder / "b.png")
    assert (code, out) == (2, "")
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1


def test_damaged_and_absent_photos_are_left_out_of_training_and_told(command, shapes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    shutil.copytree(shapes, folder)
    (folder / "images" / "red-circle-left.png").write_bytes(b"no image")
    (folder / "images" / "blue-square-left.png").unlink()
    flags = [part for name, value in TINY.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    code, _, errors = command("train", "captioning", folder, "--run", tmp_path / "run", *flags, "--max-steps", "2")
    assert code == 0, errors
    assert "red-circle-left.png" in errors
    assert "1 photos that have captions are not there: 'blue-square-left.png'" in errors
    kept = data.load(tmp_path / "run")
    assert sum(len(part) for part in kept.values()) == 14


def test_what_cannot_be_learned_from_leaves_nothing_behind(shapes: Path, tmp_path: Path) -> None:
    for name, content in (("empty.tsv", ""), ("gone.tsv", "gone.jpg\ta dog\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError):
            tasks.train("captioning", tmp_path / name, run=tmp_path / "run", **TINY)
        assert not (tmp_path / "run").exists()
