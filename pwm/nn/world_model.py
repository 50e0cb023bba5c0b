"""The world model of TD-MPC2 and PWM: encoder E, latent dynamics F and reward R (paper, section 2).

The multi-task sizes also carry TD-MPC2's Q-functions, their targets and its policy prior, so that one checkpoint serves
both methods. Shapes: B batch, O observation, A action, Z latent, K Q-functions; `...` is leading time, if any.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pwm.config import WorldModelConfig
from pwm.nn import two_hot
from pwm.nn.layers import EnsembleMLP, Linear, Mish, NormedLinear, SimNorm, Standardise, products_in

# Range of the policy prior's log standard deviation in TD-MPC2.
LOG_STD_MIN, LOG_STD_MAX = -10.0, 2.0


class WorldModel(nn.Module):
    """E(s, e) → z, F(z, a, e) → z', R(z, a, e), of one task or many; with `num_q` also Q_k(z, a, e) and prior π(z, e).

    Observations and actions are zero-padded to the widest task; actions beyond a task's own are masked to zero. With
    several tasks a learned embedding e of norm ≤ 1 joins every input, as in TD-MPC2 before the action; with one there
    is none.

    Args:
        config: widths of the networks, the heads and the variants.
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
        # Divides a task's rewards before they are learned: their standard deviation for a scalar head, else 1.
        self.register_buffer("reward_scale", torch.ones(tasks))

        self.standardise = Standardise(tasks, observation_dim) if config.standardise_obs else None
        latent, bins, units = config.latent_dim, max(config.reward_bins, 1), config.units
        joint = latent + self.task_dim + self.action_dim
        self.encoder = _to_latent(config, [observation_dim + self.task_dim, *config.encoder])
        self.dynamics = _to_latent(config, [joint, *units])
        self.reward_head = nn.Sequential(*_hidden(config, [joint, *units]), Linear(units[-1], bins))
        self.policy_prior: nn.Sequential | None = None
        self.q_heads: EnsembleMLP | None = None
        self.target_q_heads: EnsembleMLP | None = None  # learned by no gradient, and without dropout
        if config.num_q:
            hidden = _hidden(config, [latent + self.task_dim, *units])
            self.policy_prior = nn.Sequential(*hidden, Linear(units[-1], 2 * self.action_dim))
            self.q_heads = EnsembleMLP(config.num_q, joint, units, bins, config.dropout)
            self.target_q_heads = EnsembleMLP(config.num_q, joint, units, bins, dropout=0.0).requires_grad_(False)
        self._initialise()

    def _initialise(self) -> None:
        """Truncated normal weights of std 0.02, zero biases; the last layers of R and Q start at zero weight."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.uniform_(module.weight, -0.02, 0.02)
        nn.init.zeros_(self.reward_head[-1].weight)
        if self.q_heads is not None:
            self.target_q_heads.load_state_dict(self.q_heads.state_dict())
        if self.config.latent == "spectral":
            for network in (self.encoder, self.dynamics):
                nn.utils.parametrizations.spectral_norm(network[-1].linear)

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

    def _conditions(self, action: Tensor, task: Tensor) -> Tensor:
        """What stands behind z in an input: the embedding and the masked action, [..., B, e + A]."""
        e, action = self.embed(task), action * self.action_mask[task]
        return action if e is None else torch.cat([e.expand(*action.shape[:-1], -1), action], dim=-1)

    def joint(self, z: Tensor, action: Tensor, task: Tensor) -> Tensor:
        """The input of F, R and Q, [..., B, Z + e + A]."""
        return torch.cat([z, self._conditions(action, task)], dim=-1)

    def encode(self, obs: Tensor, task: Tensor) -> Tensor:
        """E: observations [..., B, O] of tasks [B] → latents [..., B, Z]; never in low precision, which blurs obs."""
        if self.standardise is not None:
            obs = self.standardise(obs, task)
        with products_in("float32", obs.device):
            return self.encoder(self._with_task(obs, task))

    def next(self, z: Tensor, action: Tensor, task: Tensor) -> Tensor:
        """F: latents [..., B, Z] and actions [..., B, A] → next latents [..., B, Z]."""
        return self.dynamics(self.joint(z, action, task))

    def unroll(self, z: Tensor, action: Tensor, task: Tensor) -> Tensor:
        """F along given actions [H, B, A], open loop from z [B, Z]: all latents [H + 1, B, Z], z first."""
        latents = [z]
        for conditions in self._conditions(action, task).unbind(0):
            latents.append(self.dynamics(torch.cat([latents[-1], conditions], dim=-1)))
        return torch.stack(latents)

    def reward_output(self, z: Tensor, action: Tensor, task: Tensor) -> Tensor:
        """R before decoding: [..., B, bins], or [..., B, 1] for a scalar head."""
        return self.reward_head(self.joint(z, action, task))

    def reward(self, z: Tensor, action: Tensor, task: Tensor) -> Tensor:
        """The reward as the policy gradient reads it, [..., B].

        Scalar head: reward divided by `reward_scale`. Bins: expectation over the bins, without the final symexp.
        """
        output = self.reward_output(z, action, task)
        if not self.config.reward_bins:
            return output.squeeze(-1)
        return two_hot.expectation(output, self.config.reward_low, self.config.reward_high)

    def decode_reward(self, reward: Tensor, task: Tensor) -> Tensor:
        """What `reward` returns [..., B], in the tasks' own units."""
        return two_hot.symexp(reward) if self.config.reward_bins else reward * self.reward_scale[task]

    def reward_loss(self, output: Tensor, reward: Tensor, task: Tensor) -> Tensor:
        """Loss of `reward_output` against rewards [..., B] in the tasks' units: squared error or soft cross-entropy."""
        if not self.config.reward_bins:
            return F.mse_loss(output.squeeze(-1), reward / self.reward_scale[task], reduction="none")
        return two_hot.two_hot_loss(output, reward, self.config.reward_low, self.config.reward_high)

    def q_output(self, z: Tensor, action: Tensor, task: Tensor) -> Tensor:
        """All Q-functions before decoding: [K, ..., B, bins]; with dropout in training."""
        return self.q_heads(self.joint(z, action, task))

    def q_value(
        self, z: Tensor, action: Tensor, task: Tensor, members: Tensor | None = None, target: bool = False
    ) -> Tensor:
        """Values in the tasks' own units, [K, ..., B], or [k, ..., B] of the members whose indices [k] are given.

        Args:
            z, action, task: as for `reward`.
            members: which of the K.
            target: of the target networks.
        """
        heads = self.target_q_heads if target else self.q_heads
        output = heads(self.joint(z, action, task), members)
        return two_hot.symexp(two_hot.expectation(output, self.config.reward_low, self.config.reward_high))

    def q_loss(self, output: Tensor, value: Tensor) -> Tensor:
        """Soft cross-entropy of `q_output` against values [..., B] in the tasks' own units: [K, ..., B]."""
        return two_hot.two_hot_loss(output, value, self.config.reward_low, self.config.reward_high)

    def prior(self, z: Tensor, task: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """TD-MPC2's policy prior: a ~ tanh N(μ(z), σ(z)²) with log σ = −10 + 6 (tanh x + 1).

        The entropy is that of TD-MPC2's release: the Gaussian's part weighs once per action of the task. Later versions
        of the public code leave the part of the tanh out.

        Args:
            z: [..., B, Z].
            task: [B].
            noise: standard normal ε [..., B, A], or None for the mode.

        Returns:
            Actions [..., B, A], zero beyond the task's own; entropies −A log N(ε) + Σ log(1 − a²), [..., B].
        """
        mask = self.action_mask[task]
        mean, spread = self.policy_prior(self._with_task(z, task)).chunk(2, dim=-1)
        log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(spread) + 1.0)
        noise = torch.zeros_like(mean) if noise is None else noise
        x = (mean + log_std.exp() * noise) * mask
        gaussian = ((0.5 * noise.square() + log_std + 0.5 * math.log(2 * math.pi)) * mask).sum(-1)
        slope = torch.cosh(x.clamp(-20.0, 20.0)) ** -2  # 1 − tanh² x, exact where tanh x rounds to 1
        return torch.tanh(x), gaussian * mask.sum(-1) + torch.log(slope + 1e-6).sum(-1)

    @torch.no_grad()
    def update_target(self, rate: float) -> None:
        """Move the target Q-functions by a share `rate` towards the Q-functions."""
        for target, source in zip(self.target_q_heads.parameters(), self.q_heads.parameters(), strict=True):
            target.lerp_(source, rate)


def _activation(config: WorldModelConfig) -> nn.Module:
    return Mish() if config.activation == "mish" else nn.ReLU()


def _hidden(config: WorldModelConfig, widths: Sequence[int]) -> list[nn.Module]:
    """The hidden layers of an MLP, from its input's width on."""
    return [NormedLinear(a, b, _activation(config), config.layer_norm) for a, b in itertools.pairwise(widths)]


def _to_latent(config: WorldModelConfig, widths: Sequence[int]) -> nn.Sequential:
    """E or F: an MLP that ends as `config.latent` says. Its spectral norm is put on once weights are initialised."""
    inputs, latent = widths[-1], config.latent_dim
    end = {
        "simnorm": lambda: NormedLinear(inputs, latent, SimNorm(config.simnorm_dim), config.layer_norm),
        "none": lambda: NormedLinear(inputs, latent, _activation(config), config.layer_norm),
        "spectral": lambda: NormedLinear(inputs, latent, nn.Identity(), config.layer_norm),
        "linear": lambda: Linear(inputs, latent),
    }
    return nn.Sequential(*_hidden(config, widths), end[config.latent]())
