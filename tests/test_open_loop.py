"""How wrong a model is when it predicts alone: window by window, and by models of which it is known."""

import numpy as np
import pytest
import torch
from support import make_batch, make_model

from pwm.open_loop import linear_fit, of_task, open_loop_error


@pytest.mark.parametrize("bins", [0, 11])
def test_open_loop_errors_window_by_window(bins):
    torch.manual_seed(0)
    model, batch = make_model(bins=bins), make_batch(horizon=3, size=7)
    latent, observation, reward, still = open_loop_error(model, batch)
    wrong, off = torch.zeros(3), torch.zeros(3)
    for b in range(7):
        task = batch.task[b : b + 1]
        z = model.encode(batch.obs[0, b : b + 1], task)
        for h in range(3):
            action = batch.action[h, b : b + 1]
            predicted = model.decode_reward(model.reward(z, action, task), task).item()
            off[h] += (predicted - batch.reward[h, b].item()) ** 2 / 7
            z = model.next(z, action, task)
            seen = model.encode(batch.obs[h + 1, b : b + 1], task)
            wrong[h] += sum((x - y).item() ** 2 for x, y in zip(z[0], seen[0], strict=True)) / 7
    seen = torch.cat([model.encode(obs, batch.task) for obs in batch.obs[1:]])
    spread = sum(column.var().item() for column in seen.T)
    torch.testing.assert_close(latent, wrong / spread, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(reward, off / batch.reward.flatten().var(), rtol=1e-4, atol=1e-6)
    assert observation.shape == (3,)
    spread = batch.obs.flatten(0, 1).var(0)
    moved = torch.stack([((batch.obs[0] - obs) ** 2 / spread).mean() for obs in batch.obs[1:]])
    torch.testing.assert_close(still.float(), moved, rtol=1e-4, atol=1e-6)


def test_what_a_latent_tells_of_the_observation():
    """Nothing is wrong where latent and dynamics are linear and right; a component that it lacks is all wrong."""
    torch.manual_seed(0)
    batch = make_batch(horizon=4, size=200)
    a, b = 0.3 * torch.randn(5, 5), torch.randn(2, 5)

    def follow(obs):
        return torch.stack([obs := obs if k < 0 else obs @ a + batch.action[k] @ b for k in range(-1, 4)])

    batch = batch._replace(obs=follow(batch.obs[0]))
    model, mix = make_model(), torch.randn(5, 16)
    model.encode = lambda obs, task: obs @ mix
    model.unroll = lambda z, action, task: follow(z @ torch.linalg.pinv(mix)) @ mix
    assert open_loop_error(model, batch).observation.max() < 1e-4
    # A world that stands still, and a latent without the first of five components.
    mix[0], model.unroll = 0.0, lambda z, action, task: z.expand(5, -1, -1)
    found = open_loop_error(model, batch._replace(obs=batch.obs[:1].expand(5, -1, -1)))
    torch.testing.assert_close(found.observation.float(), torch.full((4,), 0.2), rtol=0.05, atol=0)
    assert (found.still == 0).all()


def test_a_linear_fit_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(50, 3))
    ones = np.ones((50, 1))
    expected = np.concatenate([x, ones], 1) @ np.linalg.lstsq(np.concatenate([x, ones], 1), y, rcond=None)[0]
    found = linear_fit(torch.from_numpy(x), torch.from_numpy(y))(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_the_windows_of_a_task():
    batch = make_batch(horizon=3, size=40, tasks=3)
    for index in range(3):
        columns = [b for b in range(40) if batch.task[b] == index]
        for part, whole in zip(of_task(batch, index), batch, strict=True):
            assert torch.equal(part, whole[..., columns] if whole.dim() < 3 else whole[:, columns])
