"""A recurrent policy balances a pole whose speed it cannot see: REINFORCE through whole rollouts, with `resets`.

    python examples/cartpole.py [--updates 150] [--by-cells] [--compare]

The cart-pole of Barto, Sutton and Anderson 1983 with the constants of its well-known implementations, in torch, B carts at a
time. Only positions are observed - of the cart and of the pole - so a policy without memory cannot tell a falling pole from
a rising one. Episodes end inside a rollout: the next begins at once in the same row, and `resets` cuts the state there.
Acting is `step`; learning is one call of the layer over the rollout (T, B). `--by-cells` learns by torch.nn.GRUCell in a
Python loop instead; `--compare` prints steps/s of both. Policy gradient: Williams 1992, with a learned baseline.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

import unrolled

T, B, H, DISCOUNT, LIMIT = 128, 64, 64, 0.99, 200  # LIMIT: steps after which an episode counts as won


class CartPole:
    """B carts. State (B, 4): position, speed, angle, angular speed; two actions: push left or right, 10 N for 0.02 s."""

    def __init__(self) -> None:
        self.state, self.age = torch.empty(B, 4).uniform_(-0.05, 0.05), torch.zeros(B)

    def observe(self) -> Tensor:
        return self.state[:, [0, 2]] * torch.tensor([1.0, 10.0])  # (B, 2): no speeds

    def act(self, action: Tensor) -> Tensor:
        """Push; return which episodes have ended (B,). Those carts start anew."""
        x, v, angle, spin = self.state.unbind(1)
        sin, cos = angle.sin(), angle.cos()
        push = (20.0 * action - 10.0 + 0.05 * spin**2 * sin) / 1.1
        turn = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
        move = push - 0.05 * turn * cos / 1.1
        self.state = torch.stack([x + 0.02 * v, v + 0.02 * move, angle + 0.02 * spin, spin + 0.02 * turn], dim=1)
        self.age = self.age + 1
        ended = (self.state[:, 0].abs() > 2.4) | (self.state[:, 2].abs() > 0.2095) | (self.age >= LIMIT)
        self.state = torch.where(ended[:, None], torch.empty(B, 4).uniform_(-0.05, 0.05), self.state)
        self.age = torch.where(ended, 0.0, self.age)
        return ended


class Policy(nn.Module):
    """Observations -> a GRU -> scores of the two actions, and the return that is to be expected."""

    def __init__(self, by_cells: bool = False) -> None:
        super().__init__()
        self.gru, self.head = unrolled.GRU(2, H), nn.Linear(H, 3)
        self.cell = nn.GRUCell(2, H) if by_cells else None
        if self.cell is not None:
            self.cell.load_state_dict({name.removesuffix("_l0"): w for name, w in self.gru.state_dict().items()})

    def step(self, observation: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if self.cell is None:
            h, state = self.gru.step(observation, state)
            return self.head(h), state
        state = self.cell(observation, state[0])[None]
        return self.head(state[0]), state

    def forward(self, observations: Tensor, state: Tensor, resets: Tensor) -> Tensor:
        if self.cell is None:
            return self.head(self.gru(observations, state, resets=resets)[0])
        h, outputs = state[0], []
        for observation, reset in zip(observations, resets, strict=True):
            h = self.cell(observation, h * ~reset[:, None])
            outputs.append(h)
        return self.head(torch.stack(outputs))


def train(updates: int, by_cells: bool = False, seed: int = 0) -> tuple[list[float], list[float]]:
    """(mean length of the episodes that ended in each rollout, seconds of each update's learning)."""
    torch.manual_seed(seed)
    policy, carts = Policy(by_cells), CartPole()
    optimizer = torch.optim.Adam(policy.parameters(), lr=5e-3)
    state, fresh, age = torch.zeros(1, B, H), torch.ones(B, dtype=torch.bool), torch.zeros(B)
    lengths, seconds = [], []
    for _ in range(updates):
        first, seen, done, starts, ends, finished = state, [], [], [], [], []
        with torch.no_grad():
            for _ in range(T):
                starts.append(fresh)
                seen.append(carts.observe())
                scores, state = policy.step(seen[-1], state * ~fresh[:, None])
                done.append(torch.distributions.Categorical(logits=scores[:, :2]).sample())
                fresh, age = carts.act(done[-1]), age + 1
                ends.append(fresh)
                finished += age[fresh].tolist()
                age = torch.where(fresh, 0.0, age)
            after = policy.step(carts.observe(), state)[0][:, 2] * 10  # what the episodes under way are still worth
        started = time.perf_counter()
        returns, ahead = [], after
        for ended in reversed(ends):  # 1 for each step that the pole stands
            ahead = 1 + DISCOUNT * ahead * ~ended
            returns.insert(0, ahead)
        observations, actions, target = torch.stack(seen), torch.stack(done), torch.stack(returns)  # (T, B, ...)
        output = policy(observations, first, torch.stack(starts))  # the rollout in one call
        value, chosen = output[..., 2] * 10, output[..., :2].log_softmax(-1).gather(-1, actions[..., None])[..., 0]
        better = (target - value).detach()
        better = (better - better.mean()) / (better.std() + 1e-6)
        entropy = torch.distributions.Categorical(logits=output[..., :2]).entropy().mean()
        loss = -(better * chosen).mean() + 0.005 * (target - value).square().mean() - 0.01 * entropy
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - started)
        lengths.append(statistics.mean(finished) if finished else float(LIMIT))
    return lengths, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=150)
    parser.add_argument("--by-cells", action="store_true", help="learn by torch.nn.GRUCell in a Python loop")
    parser.add_argument("--compare", action="store_true", help="time both ways")
    arguments = parser.parse_args()
    train(1)  # what is loaded at first use is nobody's time
    for by_cells in (False, True) if arguments.compare else (arguments.by_cells,):
        started = time.perf_counter()
        lengths, seconds = train(arguments.updates, by_cells)
        whole = arguments.updates * T * B / (time.perf_counter() - started)
        for at in range(0, len(lengths), 10):
            print(f"  update {at:4d}: episodes of {statistics.mean(lengths[at : at + 10]):6.1f} steps")
        rate = T * B / statistics.median(seconds)
        print(
            f"{'torch.nn.GRUCell' if by_cells else 'unrolled.GRU'}: {rate:,.0f} steps/s learning, {whole:,.0f} with the carts"
        )


if __name__ == "__main__":
    main()
