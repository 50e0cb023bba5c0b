"""Returns over a horizon: the H-step return that the actor ascends, and the critic's TD(λ) targets."""

import torch
from torch import Tensor


def horizon_return(reward: Tensor, next_value: Tensor, ends: Tensor, gamma: float) -> Tensor:
    """Discounted return of a rollout of H steps in which episodes may end (paper, section 2).

    Without an end inside the window this is J = Σ_{h<H} γ^h r_h + γ^H V(z_H). Where an episode ends, the segment
    closes with its own γ^n V, discounting starts anew, and the segments are added up.

    Args:
        reward: [H, B].
        next_value: [H, B], V(z_{h+1}), already zero where the state terminated. Read only where a segment closes.
        ends: [H, B], 1 where a segment closes after step h. The last row is taken as 1.
        gamma: discount per step.

    Returns:
        [B].
    """
    total = torch.zeros_like(reward[0])
    discount = torch.ones_like(reward[0])
    last = reward.shape[0] - 1
    for h in range(last + 1):
        total = total + discount * reward[h]
        discount = discount * gamma
        end = ends[h] if h < last else torch.ones_like(ends[h])
        # Deviation D3: γ^n V, as in the paper's equation; its public code has γ^(n+1) V.
        total = total + end * discount * next_value[h]
        discount = discount * (1.0 - end) + end
    return total


def td_lambda(reward: Tensor, next_value: Tensor, ends: Tensor, gamma: float, lam: float) -> Tensor:
    """TD(λ) targets G_h = r_h + γ [(1 − λ) V(z_{h+1}) + λ G_{h+1}], closing with V(z_{h+1}) where a segment ends.

    Args and shapes as in `horizon_return`; λ = 0 is the one-step target, λ = 1 the return to the segment's end.

    Returns:
        [H, B].
    """
    targets = torch.empty_like(reward)
    following = next_value[-1]
    for h in reversed(range(reward.shape[0])):
        mixed = (1.0 - lam) * next_value[h] + lam * following
        following = reward[h] + gamma * torch.where(ends[h].bool(), next_value[h], mixed)
        targets[h] = following
    return targets
