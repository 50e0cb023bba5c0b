"""The horizon's return and the TD(λ) targets against loops over one environment at a time."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pwm.nn.returns import horizon_return, td_lambda


def forward_view(reward, value, ends, gamma, lam):
    """TD(λ) of one environment: n-step returns weighted (1 − λ) λ^{n−1}, the last of a segment λ^{N−1}."""
    horizon, targets = len(reward), []
    for t in range(horizon):
        close = next((h for h in range(t, horizon) if ends[h]), horizon - 1)
        steps = close - t + 1
        total = 0.0
        for n in range(1, steps + 1):
            n_step = sum(gamma**k * reward[t + k] for k in range(n)) + gamma**n * value[t + n - 1]
            total += (lam ** (n - 1) if n == steps else (1 - lam) * lam ** (n - 1)) * n_step
        targets.append(total)
    return targets


def segment_sum(reward, value, ends, gamma):
    """J of one environment: every segment's discounted rewards and closing value, discounting anew in each."""
    total, power = 0.0, 0
    for h in range(len(reward)):
        total += gamma**power * reward[h]
        power += 1
        if ends[h] or h == len(reward) - 1:
            total += gamma**power * value[h]
            power = 0
    return total


def window(seed, horizon, batch, probability):
    rng = np.random.default_rng(seed)
    reward, value = rng.normal(size=(2, horizon, batch))
    ends = rng.random((horizon, batch)) < probability
    terminated = ends & (rng.random((horizon, batch)) < 0.5)
    return reward, value * ~terminated, ends


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    horizon=st.integers(1, 8),
    batch=st.integers(1, 4),
    probability=st.sampled_from([0, 0.3, 1]),
)
def test_returns_against_loops(seed, horizon, batch, probability):
    reward, value, ends = window(seed, horizon, batch, probability)
    gamma = 0.9
    tensors = [torch.from_numpy(part.astype(float)) for part in (reward, value, ends)]
    before = [part.clone() for part in tensors]
    for lam in (0.0, 0.6, 1.0):
        want = [forward_view(reward[:, i], value[:, i], ends[:, i], gamma, lam) for i in range(batch)]
        np.testing.assert_allclose(td_lambda(*tensors, gamma, lam).numpy(), np.array(want).T, rtol=1e-10, atol=1e-12)
    want = [segment_sum(reward[:, i], value[:, i], ends[:, i], gamma) for i in range(batch)]
    np.testing.assert_allclose(horizon_return(*tensors, gamma).numpy(), want, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_returns_by_hand():
    reward = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    value = torch.tensor([[10.0], [0.0], [30.0]], dtype=torch.float64)  # terminated after the second step
    ends = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    assert horizon_return(reward, value, ends, 0.5).item() == (1 + 0.5 * 2 + 0) + (4 + 0.5 * 30)
    assert td_lambda(reward, value, ends, 0.5, 0.0).flatten().tolist() == [6.0, 2.0, 19.0]  # r + γ V
    assert td_lambda(reward, value, ends, 0.5, 1.0).flatten().tolist() == [2.0, 2.0, 19.0]  # to the segment's end
    assert horizon_return(reward, value, 0 * ends, 0.5).item() == 1 + 0.5 * 2 + 0.25 * 4 + 0.125 * 30
