"""The world model of TD-MPC2 and PWM: encoder E, latent dynamics F and reward R (paper, section 2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pwm.config import WorldModelConfig
from pwm.nn import two_hot
from pwm.nn.layers import NormedLinear, SimNorm, world_model_mlp


class WorldModel(nn.Module):
    """E(s, e) → z, F(z, a, e) → z', R(z, a, e), for one task or many.

    Observations and actions are zero-padded to the widest task; actions beyond a task's own are masked to zero. With
    several tasks a learned embedding e of norm ≤ 1 is appended to every input; with one there is none.

    Args:
        config: widths of the networks and the reward head.
        observation_dim: widest observation, O.
        action_dims: number of actions of each task; its length is the number of tasks.
    """

    def __init__(self, config: WorldModelConfig, observation_dim: int, action_dims: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.observation_dim = observation_dim
        self.action_dim = max(action_dims)
        tasks = len(action_dims)
        self.task_dim = config.task_dim if tasks > 1 else 0
        self.task_embedding = nn.Embedding(tasks, self.task_dim) if self.task_dim else None
        mask = (torch.arange(self.action_dim) < torch.tensor(action_dims).unsqueeze(-1)).float()
        self.register_buffer("action_mask", mask)  # [tasks, A]
        # Rewards are divided by this before they are learned: the data's standard deviation for a scalar head, else 1.
        self.register_buffer("reward_scale", torch.ones(()))

        latent, joint = config.latent_dim, config.latent_dim + self.action_dim + self.task_dim

        def to_latent(inputs: int) -> NormedLinear:
            return NormedLinear(inputs, latent, SimNorm(config.simnorm_dim))

        encoder_inputs = observation_dim + self.task_dim
        self.encoder = world_model_mlp(encoder_inputs, config.encoder, to_latent(config.encoder[-1]))
        self.dynamics = world_model_mlp(joint, config.units, to_latent(config.units[-1]))
        self.reward_head = world_model_mlp(joint, config.units, nn.Linear(config.units[-1], max(config.reward_bins, 1)))
        self._initialise()

    def _initialise(self) -> None:
        """Truncated normal weights of std 0.02, zero biases; the reward's last layer starts at zero weight."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.uniform_(module.weight, -0.02, 0.02)
        nn.init.zeros_(self.reward_head[-1].weight)

    def embed(self, task: Tensor) -> Tensor | None:
        """Embeddings of task indices [B], each scaled down to norm 1 where it is longer: [B, e]; None for one task."""
        if self.task_embedding is None:
            return None
        # Deviation D7: scaled where it is read, with its gradient; the public code rescales the weights in place.
        e = self.task_embedding(task)
        return e / e.norm(dim=-1, keepdim=True).clamp(min=1.0)

    def _with_task(self, x: Tensor, task: Tensor) -> Tensor:
        e = self.embed(task)
        return x if e is None else torch.cat([x, e.expand(*x.shape[:-1], -1)], dim=-1)

    def _joint(self, z: Tensor, action: Tensor, task: Tensor) -> Tensor:
        return self._with_task(torch.cat([z, action * self.action_mask[task]], dim=-1), task)

    def encode(self, obs: Tensor, task: Tensor) -> Tensor:
        """E: observations [..., B, O] of tasks [B] → latents [..., B, Z]."""
        return self.encoder(self._with_task(obs, task))

    def next(self, z: Tensor, action: Tensor, task: Tensor) -> Tensor:
        """F: latents [..., B, Z] and actions [..., B, A] → next latents [..., B, Z]."""
        return self.dynamics(self._joint(z, action, task))

    def reward_output(self, z: Tensor, action: Tensor, task: Tensor) -> Tensor:
        """R before decoding: [..., B, bins], or [..., B, 1] for a scalar head."""
        return self.reward_head(self._joint(z, action, task))

    def reward(self, z: Tensor, action: Tensor, task: Tensor) -> Tensor:
        """The reward as the policy gradient reads it, [..., B].

        Scalar head: reward divided by `reward_scale`. Bins: expectation over the bins, without the final symexp.
        """
        output = self.reward_output(z, action, task)
        if not self.config.reward_bins:
            return output.squeeze(-1)
        return two_hot.expectation(output, self.config.reward_low, self.config.reward_high)

    def decode_reward(self, reward: Tensor) -> Tensor:
        """What `reward` returns, in the task's own units."""
        return two_hot.symexp(reward) if self.config.reward_bins else reward * self.reward_scale

    def reward_loss(self, output: Tensor, reward: Tensor) -> Tensor:
        """Loss of `reward_output` against rewards [...] in the task's units: squared error or soft cross-entropy."""
        if not self.config.reward_bins:
            return F.mse_loss(output.squeeze(-1), reward / self.reward_scale, reduction="none")
        return two_hot.two_hot_loss(output, reward, self.config.reward_low, self.config.reward_high)
