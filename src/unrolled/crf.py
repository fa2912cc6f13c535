"""A linear-chain conditional random field: the labels of a sequence are scored as a whole, not one by one."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConditionalRandomField(nn.Module):
    """An output layer for labels that depend on their neighbours (Lafferty, McCallum and Pereira 2001; on top of a recurrent
    network: Huang, Xu and Yu 2015; Lample et al. 2016, section 2.2).

    s(x, y) = start_{y_0} + sum over t of scores_{t, y_t} + sum over t > 0 of transitions_{y_{t-1}, y_t} + end_{y_{T-1}}
    p(y | x) = exp s(x, y) / Z(x)

    Z(x), the sum of exp s(x, y) over all L^T labellings, comes from the forward algorithm, in T steps of L^2. Parameters begin
    at zero, where p is the product of each step's own softmax. Everything is computed in fp32 or fp64, whatever the scores are.

    In each method scores are (B, T, L), such as the output of a linear layer, and lengths (B,) whole numbers from 1 to T: of
    sequence b only the first `lengths[b]` steps count, whatever stands in the others.

    Args:
        labels: L, how many there are.

    >>> crf = ConditionalRandomField(3)
    >>> scores, lengths = torch.randn(2, 5, 3), torch.tensor([5, 4])
    >>> loss = -crf.log_likelihood(scores, crf.decode(scores, lengths), lengths).mean()
    >>> crf.marginals(scores, lengths).sum(-1)
    tensor([[1.0000, 1.0000, 1.0000, 1.0000, 1.0000],
            [1.0000, 1.0000, 1.0000, 1.0000, 0.0000]], grad_fn=<SumBackward1>)
    """

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(labels))
        self.transitions = nn.Parameter(torch.zeros(labels, labels))  # from the row's label to the column's
        self.end = nn.Parameter(torch.zeros(labels))

    def log_likelihood(self, scores: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """log p of a labelling (B, T) for each sequence: (B,), at most 0, in nats and not divided by the length.

        Raises:
            ValueError: shapes that do not fit, or lengths that are not from 1 to T.
        """
        scores, lengths, inside = self._checked(scores, lengths)
        if labels.shape != inside.shape:
            raise ValueError(f"labels expected (B, T) = {tuple(inside.shape)}, got {tuple(labels.shape)}.")
        labels = labels.masked_fill(~inside, 0)
        own = scores.gather(2, labels.unsqueeze(2)).squeeze(2)  # (B, T), zero outside
        moves = self.transitions[labels[:, :-1], labels[:, 1:]].masked_fill(~inside[:, 1:], 0)  # (B, T - 1)
        last = labels.gather(1, lengths.unsqueeze(1) - 1).squeeze(1)
        score = self.start[labels[:, 0]] + own.sum(1) + moves.sum(1) + self.end[last]
        return score - self._log_z(self._forward(scores, self.start, self.transitions), lengths)

    def decode(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """The most likely labelling of each sequence (Viterbi 1967): (B, T), zero beyond its length.

        Raises:
            ValueError: as `log_likelihood`.
        """
        scores, lengths, inside = self._checked(scores.detach(), lengths)
        best, pointers = [self.start.detach() + scores[:, 0]], []
        for score in scores.unbind(1)[1:]:
            value, pointer = (best[-1].unsqueeze(2) + self.transitions.detach()).max(1)  # over the label before: (B, L)
            best.append(value + score)
            pointers.append(pointer)
        label = (_last(best, lengths) + self.end.detach()).argmax(1)  # (B,)
        path = [label]
        for step in reversed(range(len(pointers))):
            before = pointers[step].gather(1, label.unsqueeze(1)).squeeze(1)
            label = torch.where(step + 1 < lengths, before, label)  # still beyond the end of this sequence: wait
            path.append(label)
        return torch.stack(path[::-1], 1).masked_fill(~inside, 0)

    def marginals(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """The probability of each label at each step, all other steps summed over: (B, T, L), zero beyond a sequence's length.

        The forward algorithm from both ends: what leads to a label, times what follows from it, over Z.

        Raises:
            ValueError: as `log_likelihood`.
        """
        scores, lengths, inside = self._checked(scores, lengths)
        forward = self._forward(scores, self.start, self.transitions)
        turned = (lengths.unsqueeze(1) - 1 - torch.arange(scores.shape[1], device=scores.device)) % scores.shape[1]  # (B, T)
        turned = turned.unsqueeze(2).expand_as(scores)
        backward = torch.stack(self._forward(scores.gather(1, turned), self.end, self.transitions.mT), 1).gather(1, turned)
        log_p = torch.stack(forward, 1) + backward - scores - self._log_z(forward, lengths)[:, None, None]  # scores are in both
        return log_p.exp().masked_fill(~inside.unsqueeze(2), 0)

    def _forward(self, scores: Tensor, start: Tensor, transitions: Tensor) -> list[Tensor]:
        """At each step and for each label (B, L), the log of the sum of exp s over all beginnings that lead there."""
        alphas = [start + scores[:, 0]]
        for score in scores.unbind(1)[1:]:
            alphas.append(torch.logsumexp(alphas[-1].unsqueeze(2) + transitions, 1) + score)
        return alphas

    def _log_z(self, alphas: list[Tensor], lengths: Tensor) -> Tensor:
        return torch.logsumexp(_last(alphas, lengths) + self.end, 1)

    def _checked(self, scores: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores that are zero outside, lengths beside them, and which steps (B, T) are inside."""
        if scores.dim() != 3 or scores.shape[2] != len(self.start) or not scores.shape[1]:
            raise ValueError(f"scores expected (B, T, L={len(self.start)}) with T of 1 or more, got {tuple(scores.shape)}.")
        B, T, _ = scores.shape
        if lengths.shape != (B,):
            raise ValueError(f"lengths expected (B={B},), got {tuple(lengths.shape)}.")
        if B and not 1 <= lengths.min() <= lengths.max() <= T:
            raise ValueError(f"lengths expected values from 1 to T={T}, got {int(lengths.min())} to {int(lengths.max())}.")
        lengths = lengths.to(scores.device, torch.int64)
        inside = torch.arange(T, device=scores.device) < lengths.unsqueeze(1)
        scores = scores if scores.dtype == torch.float64 else scores.float()
        return scores.masked_fill(~inside.unsqueeze(2), 0), lengths, inside


def _last(several: list[Tensor], lengths: Tensor) -> Tensor:
    """Of a (B, L) for each step, each sequence's at its last: (B, L)."""
    return torch.stack(several)[lengths - 1, torch.arange(len(lengths), device=lengths.device)]
