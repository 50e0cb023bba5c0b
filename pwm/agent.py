"""PWM's policy losses and updates: tensors in, tensors out (paper, section 2).

Shapes: H horizon, B batch, O observation, A action, Z latent, K critics; time comes first.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pwm.config import ExtractConfig
from pwm.nn.actor_critic import Actor, Critic
from pwm.nn.cuda_graph import graphed
from pwm.nn.layers import computed
from pwm.nn.optimisation import adam, apply_gradients, frozen, linear_decay, permutation, set_rate
from pwm.nn.returns import horizon_return, td_lambda
from pwm.nn.world_model import WorldModel

# actions [B, A] → (segment ends [B], terminated [B], latents of the observations to act on next, after resets [B, Z])
Environment = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


class Rollout(NamedTuple):
    """H steps of the model under the policy: latents acted from, actions, latents reached, and where episodes ended."""

    z: Tensor  # [H, B, Z]
    action: Tensor  # [H, B, A]
    next_z: Tensor  # [H, B, Z]
    ends: Tensor  # [H, B]
    terminated: Tensor  # [H, B]


def rollout(
    model: WorldModel,
    actor: Actor,
    z: Tensor,
    task: Tensor,
    noise: Tensor,
    environment: Environment | None = None,
    reencode: bool = False,
) -> Rollout:
    """Unroll the policy through the model with its gradient; the policy's own input z is detached.

    Args:
        model, actor: F and π.
        z: start latents [B, Z].
        task: task indices [B].
        noise: standard normal [H, B, A], the policy's ε.
        environment: steps the real environment beside the model, which tells where episodes end; there the latent is
            that of the new episode's first observation and carries no gradient. None: no episode ends.
        reencode: lay the rollout through the real states instead of the model's: within an episode z_{h+1} has the
            value E(s_{h+1}) of the real observation and the gradient of F(z_h, a_h). So the policy acts on what it sees
            when it is evaluated, rewards and values are read there, and the model is left to give the Jacobians (Heess
            et al. 2015, SVG(∞)). The latent that an episode's last step reached stays the model's.
    """
    steps: list[tuple[Tensor, ...]] = []
    never = torch.zeros(z.shape[0], device=z.device)
    for epsilon in noise:
        action = actor(z.detach(), epsilon)
        next_z = model.next(z, action, task)
        following = next_z
        ends, terminated = never, never
        if environment is not None:
            ends, terminated, seen = environment(action.detach())
            ended = ends.bool().unsqueeze(-1)
            if reencode:
                next_z = torch.where(ended, next_z, next_z + (seen - next_z).detach())
            following = torch.where(ended, seen, next_z)
        steps.append((z, action, next_z, ends, terminated))
        z = following
    return Rollout(*(torch.stack(parts) for parts in zip(*steps, strict=True)))


class Objective(NamedTuple):
    """What a rollout is worth: J with its gradient, and the detached parts the critic learns from."""

    returns: Tensor  # J [B]
    reward: Tensor  # [H, B]
    next_value: Tensor  # [H, B], zero where the state terminated


def objective(
    model: WorldModel, critic: Critic, path: Rollout, task: Tensor, config: ExtractConfig, episodes_end: bool
) -> Objective:
    """J = Σ_{h<H} γ^h R(z_h, a_h) + γ^H min_k V_k(z_H), per rollout, closed early where an episode ends.

    Args:
        model, critic: R and V.
        path: the rollout.
        task: task indices [B].
        config: γ, the weight of the value that closes the window, and the units of the reward.
        episodes_end: whether they may end inside the window; if not, only V(z_H) is computed with its gradient.
    """
    reward = model.reward(path.z, path.action, task)
    if config.decode_reward:
        reward = model.decode_reward(reward, task)
    horizon, batch = reward.shape
    if episodes_end:  # every segment's last latent carries gradient
        value = critic.minimum(path.next_z.flatten(0, 1)).view(horizon, batch)
    else:
        with torch.no_grad():
            inner = critic.minimum(path.next_z[:-1].flatten(0, 1)).view(horizon - 1, batch)
        value = torch.cat([inner, critic.minimum(path.next_z[-1]).unsqueeze(0)])
    value = value * (1.0 - path.terminated)
    last_weight = 1.0 if config.terminal_weight == "gamma^H" else config.gamma
    returns = horizon_return(reward, value, path.ends, config.gamma, last_weight)
    return Objective(returns, reward.detach(), value.detach())


def critic_loss(critic: Critic, z: Tensor, target: Tensor) -> Tensor:
    """Mean over the members of (V_k(z) − G)², z [B, Z], target [B]."""
    return (critic(z) - target).square().mean()


class CriticPasses(Protocol):
    """The settings of `fit_critic`."""

    critic_passes: int
    critic_minibatches: int
    critic_grad_norm: float


def fit_critic(
    loss: Callable[[Tensor, Tensor], Tensor],
    optimiser: torch.optim.Optimizer,
    z: Tensor,
    target: Tensor,
    config: CriticPasses,
) -> tuple[Tensor, Tensor]:
    """Several passes of minibatches towards fixed targets.

    Args:
        loss: of a minibatch of `z` and `target`.
        optimiser: of the critic's parameters.
        z: what the critic sees, [N, Z].
        target: [N].
        config: numbers of passes and minibatches, and the limit of the gradient's norm.

    Returns:
        The last minibatch's loss and gradient norm.
    """
    (group,) = optimiser.param_groups
    for _ in range(config.critic_passes):
        # Deviation D2: minibatches are drawn anew in every pass; the public code's are runs of steps, fixed.
        for rows in permutation(len(z), z.device).chunk(config.critic_minibatches):
            value = loss(z.index_select(0, rows), target.index_select(0, rows))
            gradients = torch.autograd.grad(value, group["params"])
            norm = apply_gradients(optimiser, group["params"], gradients, config.critic_grad_norm)
    return value.detach(), norm


class RunningVariance:
    """Mean and variance of all values ever seen (Chan et al.'s parallel update). The memory is unbounded by intent:
    a short window shrinks the scale late in training and blows the policy gradient up.
    """

    def __init__(
        self, mean: float = 0.0, variance: float = 1.0, count: float = 1e-4, device: torch.device | None = None
    ) -> None:
        self.mean, self.variance, self.count = torch.tensor([mean, variance, count], dtype=torch.float64, device=device)

    def update(self, x: Tensor) -> None:
        """Take in all entries of x."""
        count, mean, variance = x.numel(), x.mean().double(), x.var(unbiased=False).double()
        total = self.count + count
        delta = mean - self.mean
        squares = self.variance * self.count + variance * count + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.variance.copy_(squares / total)
        self.count += count

    @property
    def std(self) -> Tensor:
        """Standard deviation, kept off zero, []."""
        return (self.variance + 1e-5).sqrt()

    def state(self) -> tuple[float, float, float]:
        """The arguments that make an equal one."""
        return self.mean.item(), self.variance.item(), self.count.item()


class PolicyTrainer:
    """Policy extraction: actor and critic, trained through a world model that is not changed here."""

    def __init__(self, model: WorldModel, actor: Actor, critic: Critic, config: ExtractConfig) -> None:
        self.model, self.actor, self.critic, self.config = model, actor, critic, config
        device = actor.log_std.device
        self.actor_optimiser = adam(actor.parameters(), config.actor_lr, device, betas=config.betas)
        self.critic_optimiser = adam(critic.parameters(), config.critic_lr, device, betas=config.betas)
        self.return_scale = RunningVariance(device=device)
        self.updates = 0
        networks = (*model.children(), actor.mean, critic)
        self._offline_step = graphed(self._step, config.compile and config.online is None, device, networks)

    @property
    def progress(self) -> float:
        """Share of training done."""
        return self.updates / self.config.updates

    def update(self, z: Tensor, task: Tensor, environment: Environment | None = None) -> dict[str, Tensor]:
        """One policy update from start latents z [B, Z]: an actor step, then the critic's passes on the same rollout.

        Returns:
            Metrics: mean J (`value`), losses, gradient norms, and the share of saturated actions (|a| > 0.99).
        """
        config = self.config
        for optimiser, start in ((self.actor_optimiser, config.actor_lr), (self.critic_optimiser, config.critic_lr)):
            set_rate(optimiser, linear_decay(start, config.final_lr, self.progress))
        self.updates += 1
        return self._offline_step(z, task) if environment is None else self._step(z, task, environment)

    def _step(self, z: Tensor, task: Tensor, environment: Environment | None = None) -> dict[str, Tensor]:
        config = self.config
        noise = torch.randn(config.horizon, z.shape[0], self.model.action_dim, device=z.device)
        reencode = config.online is not None and config.online.reencode
        parameters = list(self.actor.parameters())
        with frozen(self.model, self.critic):
            with computed(config.precision, config.compile, z.device):
                path = rollout(self.model, self.actor, z, task, noise, environment, reencode)
                worth = objective(self.model, self.critic, path, task, config, environment is not None)
            self.return_scale.update(worth.returns.detach())
            loss = -worth.returns.mean() / self.return_scale.std.to(z.dtype)
            gradients = torch.autograd.grad(loss, parameters)
        actor_norm = apply_gradients(self.actor_optimiser, parameters, gradients, config.actor_grad_norm)
        self.actor.clamp_log_std()
        loss, critic_norm = self._update_critic(path, worth)
        return {
            "value": worth.returns.detach().mean(),
            "critic_loss": loss,
            "actor_grad_norm": actor_norm,
            "critic_grad_norm": critic_norm,
            "saturation": (path.action.detach().abs() > 0.99).float().mean(),
        }

    def _update_critic(self, path: Rollout, worth: Objective) -> tuple[Tensor, Tensor]:
        """Towards fixed TD(λ) targets; the last loss and gradient norm."""
        config = self.config
        target = td_lambda(worth.reward, worth.next_value, path.ends, config.gamma, config.td_lambda).flatten()
        z = path.z.detach().flatten(0, 1)

        def loss(z: Tensor, target: Tensor) -> Tensor:
            with computed(config.precision, config.compile, z.device):
                return critic_loss(self.critic, z, target)

        return fit_critic(loss, self.critic_optimiser, z, target, config)

    def state(self) -> dict:
        """Everything needed to go on exactly, but for the world model."""
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "actor_optimiser": self.actor_optimiser.state_dict(),
            "critic_optimiser": self.critic_optimiser.state_dict(),
            "return_scale": self.return_scale.state(),
            "updates": self.updates,
        }

    def restore(self, state: dict) -> None:
        """Go on from `state()`; before the first update."""
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self.actor_optimiser.load_state_dict(state["actor_optimiser"])
        self.critic_optimiser.load_state_dict(state["critic_optimiser"])
        self.return_scale = RunningVariance(*state["return_scale"], device=self.actor.log_std.device)
        self.updates = state["updates"]
