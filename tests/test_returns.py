"""The horizon's return and the TD(λ) targets against loops over one environment at a time."""

import eager_policy
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pwm.nn.returns import horizon_return, td_lambda


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
        want = [eager_policy.td_lambda(reward[:, i], value[:, i], ends[:, i], gamma, lam) for i in range(batch)]
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


def test_last_weight_is_that_of_the_value_closing_the_window():
    """γ gives γ^(H+1) V(z_H) as in the public code; a segment that closed before keeps its γ^n."""
    reward, value = torch.zeros(3, 2), torch.tensor([[10.0, 10.0], [20.0, 20.0], [40.0, 40.0]])
    ends = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert horizon_return(reward, value, ends, 0.5, 0.5).tolist() == [0.5**4 * 40, 0.5**2 * 20 + 0.5**2 * 40]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), horizon=st.integers(1, 8), gamma=st.floats(0, 1))
def test_lambda_0_is_exactly_the_one_step_target(seed, horizon, gamma):
    reward, value, ends = (torch.from_numpy(part.astype(np.float32)) for part in window(seed, horizon, 3, 0.3))
    assert torch.equal(td_lambda(reward, value, ends, gamma, 0.0), reward + gamma * value)
