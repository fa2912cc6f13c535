"""Each setting of the loop does what its text says: two computations that must agree, one of them by hand."""

from pathlib import Path

import pytest
import torch
from tests.tolerance import assert_same
from torch import nn

from unrolled import checkpoint
from unrolled.config import TrainingConfig
from unrolled.optimizer import learning_rate
from unrolled.task import Counters, Metric, Processes, Step
from unrolled.training import train

STEPS = 6


class Sum(nn.Module):
    """Its loss is a factor times the sum of all numbers of `learned`, so that every gradient is that factor."""

    def __init__(self) -> None:
        super().__init__()
        self.learned = nn.Parameter(torch.randn(1, 1))
        self.idle, self.idle_vector, self.idle_slowly = (nn.Parameter(torch.randn(*size)) for size in ((3, 2), (4,), (3, 2)))
        self.learned_slowly = nn.Parameter(self.learned.detach().clone())
        for parameter in (self.learned_slowly, self.idle_slowly):
            parameter.learning_rate_share = 0.25  # type: ignore[attr-defined]

    def forward(self, factor: torch.Tensor) -> torch.Tensor:
        idle = sum(0 * parameter.sum() for parameter in (self.idle, self.idle_vector, self.idle_slowly))
        return factor * (self.learned.sum() + self.learned_slowly.sum()) + idle


class Task:
    """Train `Sum` with a gradient of our choice at every step."""

    name, unit, summary = "sum", "points", "no data"
    loss_name, selection = "sum", Metric()

    def __init__(self, factors: list[float], **settings) -> None:
        self.factors, self.dtypes = factors, []
        given = {"max_steps": len(factors), "evaluate_every": 1000, "save_every": 1000, "sample_every": 0, "warmup_steps": 2}
        self.config = TrainingConfig(**{**given, "device": "cpu", **settings})

    def build(self) -> nn.Module:
        return Sum()

    def batch(self, step: int) -> dict:
        return {"factor": torch.tensor([self.factors[step]])}

    def loss(self, model: nn.Module, batch: dict, carry: dict) -> Step:
        self.dtypes.append((batch["factor"].view(1, 1) @ batch["factor"].view(1, 1)).dtype)
        return Step(model(batch["factor"]).sum(), 1)

    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        return {}

    def show(self, model: nn.Module, seed: int) -> str:
        return ""


def trained(folder: Path, factors: list[float] | None = None, **settings) -> tuple[dict[str, torch.Tensor], Task]:
    task = Task(factors or [1.0] * STEPS, **settings)
    train(task, folder)
    tensors, _ = checkpoint.read_tensors(folder / checkpoint.TRAINING)
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}, task


def weights_before(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {name: tensor.clone() for name, tensor in Sum().state_dict().items()}


def rates(config: TrainingConfig) -> torch.Tensor:
    return torch.tensor([learning_rate(config, Counters(step=step)) for step in range(config.max_steps)], dtype=torch.float64)


def test_matrices_decay_by_rate_times_weight_decay_and_vectors_do_not(tmp_path: Path) -> None:
    after, task = trained(tmp_path, weight_decay=3.0, learning_rate=0.1)
    before, rate = weights_before(), rates(task.config)
    assert_same(after["idle"], (before["idle"] * (1 - 3.0 * rate).prod()).float())
    assert torch.equal(after["idle_vector"], before["idle_vector"])


def test_without_weight_decay_what_has_no_gradient_stays(tmp_path: Path) -> None:
    after, _ = trained(tmp_path, weight_decay=0.0, learning_rate=0.1)
    assert torch.equal(after["idle"], weights_before()["idle"])


def test_a_parameter_learns_and_decays_at_its_share_of_the_rate(tmp_path: Path) -> None:
    after, task = trained(tmp_path / "no_decay", weight_decay=0.0, learning_rate=0.1)
    before, rate = weights_before(), rates(task.config)
    whole, slow = (before[name] - after[name] for name in ("learned", "learned_slowly"))
    assert_same(whole, torch.full((1, 1), rate.sum().item()))  # AdamW's step is the rate where gradients do not change
    assert_same(slow, 0.25 * whole)
    after, _ = trained(tmp_path / "decay", weight_decay=3.0, learning_rate=0.1)
    assert_same(after["idle_slowly"], (before["idle_slowly"] * (1 - 0.25 * 3.0 * rate).prod()).float())


def test_steps_are_adamws_of_each_steps_gradient_alone(tmp_path: Path) -> None:
    factors = [1.0, -2.0, 0.5, 3.0, 0.1, -1.0]
    after, task = trained(tmp_path, factors, weight_decay=0.3, learning_rate=0.1, clip_norm=1e6)
    learned, mean, square = weights_before()["learned"].double(), 0.0, 0.0
    for step, (gradient, rate) in enumerate(zip(factors, rates(task.config), strict=True), start=1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        unbiased, scale = mean / (1 - 0.9**step), (square / (1 - 0.99**step)) ** 0.5
        learned = learned * (1 - 0.3 * rate) - rate * unbiased / (scale + 1e-8)
    assert_same(after["learned"], learned)


def test_gradients_beyond_the_norm_are_scaled_down_to_it(tmp_path: Path) -> None:
    """The two that learn have a gradient of `factor` each: the norm is that times the root of 2."""
    root, how = 2**0.5, {"weight_decay": 0.0, "learning_rate": 0.1}
    clipped, _ = trained(tmp_path / "clipped", [1.0, 100.0, 0.5, 7.0, 1.0], clip_norm=2.0, **how)
    by_hand, _ = trained(tmp_path / "by_hand", [1.0, 2.0 / root, 0.5, 2.0 / root, 1.0], clip_norm=1e6, **how)
    left, _ = trained(tmp_path / "left", [1.0, 100.0, 0.5, 7.0, 1.0], clip_norm=1e6, **how)
    assert_same(clipped["learned"], by_hand["learned"])
    assert not torch.allclose(left["learned"], by_hand["learned"], rtol=1e-3)
    reported = [line["gradient_norm"] for line in checkpoint.read_metrics(tmp_path / "clipped") if line["part"] == "train"]
    assert reported == pytest.approx([root])  # of the last step, before anything was scaled


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_products_are_computed_in_the_precision(tmp_path: Path, precision: str, dtype: torch.dtype) -> None:
    after, task = trained(tmp_path, precision=precision)
    assert task.dtypes == [dtype] * STEPS
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}


def test_the_seed_draws_the_weights(tmp_path: Path) -> None:
    for seed in (3, 4):
        after, _ = trained(tmp_path / str(seed), seed=seed, weight_decay=0.0)
        assert torch.equal(after["idle"], weights_before(seed)["idle"])
