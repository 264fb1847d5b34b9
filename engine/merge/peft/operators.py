"""What PEFT does with several tensors of one shape, in float32 and in its order of operations.

Sums that decide signs are taken in the order PEFT takes them in, so that they round alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from engine.merge.table import Site

    Operator = Callable[[Sequence[Tensor], Sequence[float], Site], Tensor]


def linear(tensors: Sequence[Tensor], weights: Sequence[float], site: Site) -> Tensor:
    """Σ w_i·X_i."""
    del site
    return _weighted(torch.stack(list(tensors)), weights).sum(0)


def magnitude_prune(tensors: Sequence[Tensor], weights: Sequence[float], site: Site) -> Tensor:
    """Σ w_i·trim(X_i)."""
    return linear([_trimmed(tensor, site) for tensor in tensors], weights, site)


def dare_linear(tensors: Sequence[Tensor], weights: Sequence[float], site: Site) -> Tensor:
    """Σ w_i·drop(X_i)/density."""
    return linear([_dropped(tensor, site) for tensor in tensors], weights, site)


def ties(tensors: Sequence[Tensor], weights: Sequence[float], site: Site) -> Tensor:
    """Trimmed, signs elected, and the mean of those that agree."""
    return _agreeing([_trimmed(tensor, site) for tensor in tensors], weights, site)


def dare_ties(tensors: Sequence[Tensor], weights: Sequence[float], site: Site) -> Tensor:
    """As `ties`, with DARE's dropping for the trimming."""
    return _agreeing([_dropped(tensor, site) for tensor in tensors], weights, site)


def _agreeing(tensors: Sequence[Tensor], weights: Sequence[float], site: Site) -> Tensor:
    """Weights count neither in the election nor in the mean's divisor, which is the number that agree."""
    stack = torch.stack(list(tensors))
    signs = stack.sign()
    votes = (signs if site.options.majority_sign == "frequency" else stack).sum(0)
    agree = signs == torch.where(votes >= 0, 1, -1)
    return (_weighted(stack, weights) * agree).sum(0) / agree.sum(0).clamp(min=1)


def _weighted(stack: Tensor, weights: Sequence[float]) -> Tensor:
    column = torch.tensor(weights, dtype=stack.dtype, device=stack.device)
    return stack * column.reshape(-1, *(1 for _ in stack.shape[1:]))


def _trimmed(tensor: Tensor, site: Site) -> Tensor:
    """The floor(density·elements) largest; which of equal ones stay is for torch.topk to say."""
    density = _density(site)
    if density >= 1:
        return tensor
    kept = torch.topk(tensor.abs().flatten(), int(density * tensor.numel())).indices
    mask = torch.zeros(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
    mask[kept] = 1
    return tensor * mask.reshape(tensor.shape)


def _dropped(tensor: Tensor, site: Site) -> Tensor:
    density = _density(site)
    if density >= 1:
        return tensor
    chances = torch.full(tensor.shape, density)
    mask = torch.bernoulli(chances, generator=site.random).to(tensor.device)
    return tensor * mask / density


def _density(site: Site) -> float:
    density = site.options.density
    assert density is not None  # the plan asks for it
    return density
