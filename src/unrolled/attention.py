"""Soft attention: a weighted mean of the vectors of a memory, the weights from how well each matches a query.

The memory (N, P, E) is what was encoded: the locations of an image, the states of an encoder. Queries (N, Q, H), such as a
decoder's states, give context vectors z (N, Q, E) and weights (N, Q, P), which sum to one over the memory. What depends on the
memory alone is computed once by `keys`, so that a decoder does not repeat it at every step. Where a `mask` (N, P) is false, as
on padding, the weight is zero; every memory has a place where it is true.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unrolled.kernels.linear import Linear


class AdditiveAttention(nn.Module):
    """Additive attention (Bahdanau, Cho and Bengio 2015, section A.1.2; over the locations of an image: Xu et al. 2015, Show,
    Attend and Tell, eq. 4-6 and 13).

    e_qp  = v^T tanh(W_q h_q + W_k a_p + b)
    alpha = softmax over p of e_qp
    z_q   = sum over p of alpha_qp a_p

    Args:
        query_size: H, the width of a query.
        memory_size: E, the width of the memory.
        hidden_size: width of the sum inside tanh; `query_size` when left out.

    >>> attention = AdditiveAttention(query_size=6, memory_size=4)
    >>> memory = torch.randn(2, 49, 4)
    >>> z, weights = attention(torch.randn(2, 3, 6), memory, attention.keys(memory))
    >>> z.shape, weights.shape
    (torch.Size([2, 3, 4]), torch.Size([2, 3, 49]))
    """

    def __init__(self, query_size: int, memory_size: int, hidden_size: int | None = None) -> None:
        super().__init__()
        hidden_size = hidden_size or query_size
        self.query = Linear(query_size, hidden_size)
        self.key = Linear(memory_size, hidden_size, bias=False)
        self.score = Linear(hidden_size, 1, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        """W_k a_p: (N, P, E) -> (N, P, hidden_size)."""
        return self.key(memory)

    def forward(self, queries: Tensor, memory: Tensor, keys: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """queries (N, Q, H), memory (N, P, E) and its `keys` -> z (N, Q, E), weights (N, Q, P)."""
        summed = self.query(queries).unsqueeze(2) + keys.unsqueeze(1)  # (N, Q, P, hidden)
        weights = _normalised(self.score(torch.tanh(summed)).squeeze(-1), mask)  # (N, Q, P)
        return weights.to(memory.dtype) @ memory, weights


class MultiplicativeAttention(nn.Module):
    """Multiplicative attention (Luong, Pham and Manning 2015, eq. 8): `general`, or without a matrix of its own `dot`.

    e_qp  = h_q . (W a_p)          general
    e_qp  = h_q . a_p              dot
    alpha = softmax over p of e_qp
    z_q   = sum over p of alpha_qp a_p

    Args:
        query_size: H, the width of a query.
        memory_size: E, the width of the memory.
        learned: whether there is a matrix W; without it H and E must be the same.

    Raises:
        ValueError: unequal widths without a matrix.

    >>> attention = MultiplicativeAttention(query_size=6, memory_size=4)
    >>> memory = torch.randn(2, 49, 4)
    >>> z, weights = attention(torch.randn(2, 3, 6), memory, attention.keys(memory))
    >>> z.shape, weights.shape
    (torch.Size([2, 3, 4]), torch.Size([2, 3, 49]))
    """

    def __init__(self, query_size: int, memory_size: int, learned: bool = True) -> None:
        super().__init__()
        if not learned and query_size != memory_size:
            raise ValueError(
                "MultiplicativeAttention without a matrix expected query_size equal to memory_size, "
                f"got query_size={query_size}, memory_size={memory_size}."
            )
        self.key = Linear(memory_size, query_size, bias=False) if learned else nn.Identity()

    def keys(self, memory: Tensor) -> Tensor:
        """W a_p: (N, P, E) -> (N, P, H)."""
        return self.key(memory)

    def forward(self, queries: Tensor, memory: Tensor, keys: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """queries (N, Q, H), memory (N, P, E) and its `keys` -> z (N, Q, E), weights (N, Q, P)."""
        weights = _normalised(queries.to(keys.dtype) @ keys.mT, mask)  # (N, Q, P)
        return weights.to(memory.dtype) @ memory, weights


class DotAttention(nn.Module):
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1), with several heads (section 3.2.2) where asked for.

    alpha = softmax over p of (W_q h_q) . (W_k a_p) / sqrt(d)      d = hidden_size / heads
    z_q   = sum over p of alpha_qp W_v a_p

    The weights that are returned are the mean over the heads. Without `projected`, h and a meet as they are, one head, and z is
    a mean of the a themselves.

    Args:
        query_size: H, the width of a query.
        memory_size: E, the width of the memory, and of z.
        heads: number of attention heads; each reads its own part of the width.
        projected: whether there are W_q, W_k and W_v; without them H and E must be the same.

    Raises:
        ValueError: a width that the heads do not divide, or unequal widths without projections.

    >>> attention = DotAttention(query_size=6, memory_size=4, heads=2)
    >>> memory = torch.randn(2, 49, 4)
    >>> z, weights = attention(torch.randn(2, 3, 6), memory, attention.keys(memory))
    >>> z.shape, weights.shape
    (torch.Size([2, 3, 4]), torch.Size([2, 3, 49]))
    """

    def __init__(self, query_size: int, memory_size: int, heads: int = 1, projected: bool = True) -> None:
        super().__init__()
        if memory_size % heads:
            raise ValueError(f"DotAttention expected heads that divide memory_size={memory_size}, got heads={heads}.")
        if not projected and (query_size != memory_size or heads != 1):
            raise ValueError(
                "DotAttention without projections expected one head and query_size equal to memory_size, "
                f"got query_size={query_size}, memory_size={memory_size}, heads={heads}."
            )
        self.heads = heads
        self.query: Any = Linear(query_size, memory_size) if projected else nn.Identity()
        self.key: Any = Linear(memory_size, memory_size, bias=False) if projected else nn.Identity()
        self.value: Any = Linear(memory_size, memory_size) if projected else nn.Identity()

    def keys(self, memory: Tensor) -> Tensor:
        """W_k a_p and W_v a_p side by side: (N, P, E) -> (N, P, 2E)."""
        return torch.cat([self.key(memory), self.value(memory)], dim=-1)

    def forward(self, queries: Tensor, memory: Tensor, keys: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """queries (N, Q, H), memory (N, P, E) and its `keys` -> z (N, Q, E), weights (N, Q, P)."""
        key, value = (self._split(part) for part in keys.chunk(2, dim=-1))  # each (N, heads, P, d)
        query = self._split(self.query(queries).to(key.dtype))  # (N, heads, Q, d)
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5  # (N, heads, Q, P)
        weights = _normalised(scores, None if mask is None else mask.unsqueeze(1))
        z = (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2)  # (N, Q, E)
        return z, weights.mean(1)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _normalised(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores (..., Q, P) -> weights that sum to one over P, zero where the mask (..., P) is false."""
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(-2), -torch.inf)
    return torch.softmax(scores, dim=-1)
