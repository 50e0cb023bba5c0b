"""SHAC, the short-horizon actor-critic that ascends through the true simulator (Xu et al. 2022; paper, section 2).

Actor and critics are PWM's, on normalised observations in the place of latents. Heavy libraries are imported inside the
functions, so that reading the settings of all baselines stays fast. Shapes: H horizon, N environments, O observation.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from pwm import config
from pwm.algorithms import Policy
from pwm.config import Config, Positive, Rate, Share, Units
from pwm.envs.tasks import get_task

if TYPE_CHECKING:
    from torch import Tensor

    from pwm.envs.differentiable import DifferentiableVectorEnv
    from pwm.runs import Run

SUITES = ("locomotion", "stiffness")
HARDENING = (0.1, 1 / 3)  # shares of the epochs between which contacts get as hard as the body's own
EXPLODING = 10.0  # gradients of an environment's return beyond so many times the median's norm are counted


class Settings(Config):
    """Hyper-parameters; the defaults are the paper's for the hopper."""

    epochs: Positive = 2000
    num_envs: Positive = 64
    horizon: Positive = 32
    gamma: Share = 0.99
    td_lambda: Share = 0.95
    actor_units: Units = (400, 200, 100)
    critic_units: Units = (400, 200)
    critics: Positive = 3
    actor_lr: Rate = 2e-3
    critic_lr: Rate = 5e-4
    final_lr: Rate = 1e-5  # both reach it linearly
    betas: tuple[Share, Share] = (0.7, 0.95)
    actor_grad_norm: Rate = 1.0
    limit_exploding: bool = False  # to `EXPLODING` times the median, before the actor's whole gradient is clipped
    # Deviation D28: the paper trains on the body's own contacts throughout, as 1 does.
    softness: Annotated[float, Field(ge=1.0, le=10.0)] = 1.0  # times the contacts' time constant, until they harden
    critic_grad_norm: Rate = 100.0
    critic_passes: Positive = 16
    critic_minibatches: Positive = 4


class Learner:
    """Actor and critics, trained in differentiable environments.

    Args:
        env: the environments, reset.
        settings: hyper-parameters.
        device: where the networks are.
    """

    def __init__(self, env: "DifferentiableVectorEnv", settings: Settings, device: Any) -> None:
        from stable_baselines3.common.running_mean_std import RunningMeanStd
        from torch.optim import Adam

        from pwm.nn.actor_critic import Actor, Critic

        self.env, self.settings, self.device = env, settings, device
        self.actor = Actor(env.task.observation_dim, env.task.action_dim, settings.actor_units).to(device)
        self.critic = Critic(env.task.observation_dim, settings.critic_units, settings.critics).to(device)
        self.actor_optimiser = Adam(self.actor.parameters(), settings.actor_lr, settings.betas, fused=True)
        self.critic_optimiser = Adam(self.critic.parameters(), settings.critic_lr, settings.betas, fused=True)
        self.moments = RunningMeanStd(shape=(env.task.observation_dim,))
        self.updates = 0

    @property
    def env_steps(self) -> int:
        """Decisions so far, over all environments."""
        return self.updates * self.settings.horizon * self.env.num_envs

    @property
    def softness(self) -> float:
        """The next window's time constant of contacts, in units of the body's own: falls to 1 over `HARDENING`."""
        begin, end = (share * self.settings.epochs for share in HARDENING)
        hardened = min(max((self.updates - begin) / (end - begin), 0.0), 1.0)
        return self.settings.softness + hardened * (1.0 - self.settings.softness)

    def update(self) -> dict[str, "Tensor | float"]:
        """One epoch: H steps in every environment, an actor step along their gradient, the critics' passes.

        The actor ascends Σ_{h<H} γ^h r_h + γ^H min_k V_k(s_H) a step and environment, in segments where episodes end:
        dJ/dθ = Σ_h (dJ/da_h) ∂π(s_h)/∂θ, the first factor through the simulator and the policy's later actions.

        Returns:
            Metrics: mean return of the window (`value`), losses, gradient norms before clipping, the number of
            environments whose gradient exploded (`exploding`), and the share of saturated actions (|a| > 0.99).
        """
        import torch

        from pwm.agent import critic_loss, fit_critic, frozen
        from pwm.nn.optimisation import apply_gradients, linear_decay, set_rate
        from pwm.nn.returns import horizon_return, td_lambda

        own = self.settings
        progress = self.updates / own.epochs
        for optimiser, start in ((self.actor_optimiser, own.actor_lr), (self.critic_optimiser, own.critic_lr)):
            set_rate(optimiser, linear_decay(start, own.final_lr, progress))
        self.env.soften(self.softness)
        parameters = list(self.actor.parameters())
        noise = torch.randn(own.horizon, *self.env.action_space.shape).to(self.device)
        with frozen(self.actor, self.critic):
            obs, action, reward, final, ends, terminated = self._roll_out(noise)
            value = self.critic.minimum(final.flatten(0, 1)).view_as(reward) * (1.0 - terminated)
            returns = horizon_return(reward, value, ends, own.gamma)
            ascent = torch.stack(torch.autograd.grad(returns.sum() / (returns.numel() * own.horizon), action))
        ascent, exploding = self._limited(ascent)
        obs = obs.detach().flatten(0, 1)
        gradients = torch.autograd.grad(self.actor(obs, noise.flatten(0, 1)), parameters, -ascent.flatten(0, 1))
        actor_norm = apply_gradients(self.actor_optimiser, parameters, gradients, own.actor_grad_norm)
        self.actor.clamp_log_std()
        target = td_lambda(reward.detach(), value.detach(), ends, own.gamma, own.td_lambda)
        loss, critic_norm = fit_critic(
            lambda x, goal: critic_loss(self.critic, x, goal),
            self.critic_optimiser,
            obs,
            target.flatten(),
            own,
        )
        self.updates += 1
        return {
            "value": returns.detach().mean(),
            "critic_loss": loss,
            "actor_grad_norm": actor_norm,
            "critic_grad_norm": critic_norm,
            "exploding": exploding,
            "saturation": (torch.stack(action).detach().abs() > 0.99).float().mean(),
        }

    def _limited(self, ascent: "Tensor") -> "tuple[Tensor, Tensor]":
        """Gradients of returns with respect to actions [H, N, A], limited by environment if that is set, and the number
        of those beyond the limit."""
        norm = ascent.square().sum((0, 2)).sqrt()
        limit = EXPLODING * norm.median()
        if self.settings.limit_exploding:
            ascent = ascent * (limit / norm.clamp(min=1e-30)).clamp(max=1.0).unsqueeze(-1)
        return ascent, (norm > limit).sum()

    def _roll_out(self, noise: "Tensor") -> "tuple[Tensor, ...]":
        """H steps with gradients: observations acted on [H, N, O], actions (a list of H, each of which acts on
        what follows), rewards, observations reached, ends, terminated.

        Observations are normalised by the moments of all windows before, which then take in those of this one.
        """
        import torch

        mean, var = (torch.from_numpy(x.copy()).float() for x in (self.moments.mean, self.moments.var))
        normalise = lambda x: ((x - mean) / (var + 1e-5).sqrt()).to(self.device)  # noqa: E731
        raw, seen, actions, steps = self.env.begin_window(), [], [], []
        for epsilon in noise:
            obs = normalise(raw)
            action = self.actor(obs, epsilon)
            actions.append(action if action.requires_grad else action.requires_grad_())
            seen.append(raw.detach().numpy())
            raw, reward, terminated, truncated, final = self.env.advance(action.cpu())
            parts = (reward, terminated + truncated, terminated)
            reward, ends, terminated = (x.to(self.device) for x in parts)
            steps.append((obs, reward, normalise(final), ends, terminated))
        self.moments.update(np.concatenate(seen))
        obs, *rest = (torch.stack(parts) for parts in zip(*steps, strict=True))
        return obs, actions, *rest

    def tensors(self) -> "dict[str, Tensor]":
        """What the deterministic policy needs."""
        import torch

        moments = {"obs_mean": self.moments.mean, "obs_var": self.moments.var}
        weights = {f"actor.{name}": value for name, value in self.actor.state_dict().items()}
        return weights | {name: torch.from_numpy(value.copy()) for name, value in moments.items()}

    def state(self) -> dict[str, Any]:
        """Everything needed to go on exactly."""
        import torch

        parts = ("actor", "critic", "actor_optimiser", "critic_optimiser")
        return {name: getattr(self, name).state_dict() for name in parts} | {
            "moments": [torch.from_numpy(self.moments.mean), torch.from_numpy(self.moments.var), self.moments.count],
            "env": {name: torch.from_numpy(value) for name, value in self.env.state().items()},
            "updates": self.updates,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        for name in ("actor", "critic", "actor_optimiser", "critic_optimiser"):
            getattr(self, name).load_state_dict(state[name])
        mean, var, self.moments.count = state["moments"]
        self.moments.mean, self.moments.var = mean.cpu().numpy(), var.cpu().numpy()
        self.env.restore({name: value.cpu().numpy() for name, value in state["env"].items()})
        self.updates = state["updates"]


def train(run: "Run") -> None:
    """Train for a number of epochs; `updates` counts them."""
    import torch

    from pwm.envs.differentiable import make_differentiable
    from pwm.evaluate import curve_point, curve_updates, episode_seed

    settings = config.validate(Settings, run.config.settings, "settings")
    seed = episode_seed("training", run.config.seed)
    env = make_differentiable(run.config.task, settings.num_envs, seed)
    env.reset(seed=seed)
    learner = Learner(env, settings, run.device)

    def point(**metrics: Any) -> None:
        with torch.random.fork_rng(devices=[]):  # a new network draws its first weights
            policy = _policy(learner.tensors(), settings, run.config.task)
        curve_point(run, policy, learner.env_steps, learner.updates, **metrics)

    if state := run.load_state():
        learner.restore(state)
    else:
        point()
    points = curve_updates(settings.epochs, run.config.evaluation.curve_points)
    for _ in run.progress(settings.epochs, learner.updates):
        metrics = learner.update()
        run.watch(learner.updates, metrics)
        if learner.updates in points:
            point(**metrics)
        run.save_state(learner.state)
    run.finish(Path("policy"), learner.tensors(), task=run.config.task)
    env.close()


def load_policy(folder: Path) -> Policy:
    """The deterministic policy of a finished run."""
    from pwm.evaluate import load_trained

    tensors, _, run_config, settings = load_trained(folder, Settings)
    return _policy(tensors, settings, run_config.task)


def _policy(tensors: "dict[str, Tensor]", settings: Settings, task: str) -> Policy:
    import torch

    from pwm.nn.actor_critic import Actor

    size = get_task(task)
    actor = Actor(size.observation_dim, size.action_dim, settings.actor_units)
    weights = {name.removeprefix("actor."): v.cpu() for name, v in tensors.items() if name.startswith("actor.")}
    actor.load_state_dict(weights)
    mean, std = tensors["obs_mean"].float(), (tensors["obs_var"] + 1e-5).sqrt().float()

    @torch.no_grad()
    def policy(obs: np.ndarray, first: np.ndarray) -> np.ndarray:
        return actor((torch.from_numpy(obs) - mean) / std).numpy()

    return policy
