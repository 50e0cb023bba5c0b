"""Returns over a horizon: the H-step return that the actor ascends, and the critic's TD(λ) targets."""

import torch
from torch import Tensor


def horizon_return(reward: Tensor, next_value: Tensor, ends: Tensor, gamma: float, last_weight: float = 1.0) -> Tensor:
    """Discounted return of a rollout of H steps in which episodes may end (paper, section 2).

    Without an end inside the window this is J = Σ_{h<H} γ^h r_h + γ^H V(z_H). Where an episode ends, the segment
    closes with its own γ^n V, discounting starts anew, and the segments are added up.

    Args:
        reward: [H, B].
        next_value: [H, B], V(z_{h+1}), already zero where the state terminated. Read only where a segment closes.
        ends: [H, B], 1 where a segment closes after step h. The last row is taken as 1.
        gamma: discount per step.
        last_weight: factor on the values that close the window; γ makes them the public code's γ^{n+1} V.

    Returns:
        [B].
    """
    discount = torch.ones_like(reward[0])
    discounts = []
    for end in ends.bool():
        discounts.append(discount)
        discount = torch.where(end, 1.0, discount * gamma)
    weight = torch.stack(discounts)  # of r_h: γ to the power of the steps since the segment began
    # Deviation D3: γ^n V, as in the paper's equation, unless the setting `terminal_weight` says otherwise.
    # Deviation D16: an episode that ends with the window keeps its rewards, which the public code drops.
    closing = torch.cat([ends[:-1], torch.full_like(ends[-1:], last_weight)]) * gamma * weight
    return (weight * reward + closing * next_value).sum(0)


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
