"""PWM's policy losses by their equations: one rollout, one step, one ensemble member at a time (paper, section 2)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Script(NamedTuple):
    """What a real environment will do beside the rollouts, and the latents of what will be seen."""

    ends: Tensor  # [H, B]
    terminated: Tensor  # [H, B]
    seen: Tensor  # [H, B, Z]


class Problem(NamedTuple):
    """Everything that rollouts depend on."""

    model: nn.Module
    actor: nn.Module
    critic: nn.Module
    start: Tensor  # [B, Z]
    task: Tensor  # [B]
    noise: Tensor  # [H, B, A]
    script: Script | None


class Frozen(NamedTuple):
    """What counts as constant in the derivative of J, a row per step: the policy's inputs, re-encoding's shifts."""

    inputs: list[Tensor]
    shifts: list[Tensor | float]


class Path(NamedTuple):
    """One rollout, a row per step: J, latents acted from, rewards, values of the latents reached, segment ends."""

    total: Tensor
    z: list[Tensor]
    reward: list[Tensor]
    value: list[Tensor]
    ends: list[bool]
    frozen: Frozen


def mish(x: Tensor) -> Tensor:
    return x * torch.tanh(torch.log(1 + torch.exp(x)))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean()
    return weight * centred / torch.sqrt((centred**2).mean() + 1e-5) + bias


def act(actor: nn.Module, z: Tensor, noise: Tensor) -> Tensor:
    """tanh(μ(z) + σ ε) of one latent [Z]."""
    *hidden, last = actor.mean
    for linear, _, norm in zip(*[iter(hidden)] * 3, strict=True):
        z = layer_norm(mish(linear.weight @ z + linear.bias), norm.weight, norm.bias)
    mean = last.weight @ z + last.bias
    return torch.tanh(mean + torch.exp(actor.log_std) * noise)


def values(critic: nn.Module, z: Tensor) -> list[Tensor]:
    """V_1(z) … V_K(z) of one latent [Z]."""
    *hidden, last = critic.values
    each = []
    for k in range(critic.members):
        x = z
        for linear, _, norm in zip(*[iter(hidden)] * 3, strict=True):
            x = mish(x @ linear.weight[k] + linear.bias[k, 0])
            x = layer_norm(x, norm.weight[k, 0], norm.bias[k, 0])
        each.append((x @ last.weight[k] + last.bias[k, 0]).squeeze())
    return each


def unroll(problem: Problem, b: int, config, frozen: Frozen | None = None, detach: bool = True) -> Path:
    """Rollout b. With `frozen`, J as a function of which PWM's is the true gradient, all its paths kept."""
    model, actor, critic, start, tasks, noise, script = problem
    reencode = config.online is not None and config.online.reencode
    task, horizon = tasks[b : b + 1], len(noise)
    z, discount, total = start[b], 1.0, 0.0
    path = Path(total, [], [], [], [], Frozen([], []))
    for h in range(horizon):
        given = frozen.inputs[h] if frozen else (z.detach() if detach else z)
        action = act(actor, given, noise[h, b])
        reward = model.reward(z[None], action[None], task)
        reward = (model.decode_reward(reward, task) if config.decode_reward else reward)[0]
        reached = model.next(z[None], action[None], task)[0]
        ended, gone = (bool(script.ends[h, b]), bool(script.terminated[h, b])) if script else (False, False)
        shift = 0.0
        if reencode and script and not ended:
            shift = frozen.shifts[h] if frozen else (script.seen[h, b] - reached).detach()
            reached = reached + shift
        value = torch.zeros_like(reward) if gone else min(values(critic, reached))
        total = total + discount * reward
        discount = discount * config.gamma
        last = h == horizon - 1
        if last and config.terminal_weight == "gamma^(H+1)":
            total = total + discount * config.gamma * value
        elif last or ended:
            total = total + discount * value
        for row, part in zip(path[1:5], (z, reward, value, ended), strict=True):
            row.append(part)
        path.frozen.inputs.append(given.detach().clone())
        path.frozen.shifts.append(shift)
        z, discount = (script.seen[h, b], 1.0) if ended else (reached, discount)
    return path._replace(total=total)


def unroll_all(problem: Problem, config, **how) -> list[Path]:
    return [unroll(problem, b, config, **how) for b in range(len(problem.start))]


def actor_loss(paths: list[Path], history: list[float]) -> Tensor:
    """−mean_b J_b / std of all J ever seen, `history`, which takes these in first."""
    returns = torch.stack([path.total for path in paths])
    history.extend(returns.tolist())
    mean = sum(history) / len(history)
    variance = sum((x - mean) ** 2 for x in history) / len(history)
    return -returns.mean() / (variance + 1e-5) ** 0.5


def td_lambda(reward: list, value: list, ends: list[bool], gamma: float, lam: float) -> list:
    """The forward view: n-step returns weighted (1 − λ) λ^{n−1}, the last one of a segment of N steps λ^{N−1}."""
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


def critic_loss(critic: nn.Module, paths: list[Path], config) -> Tensor:
    """Mean over members, rollouts and steps of (V_k(z_h) − G_h)², with fixed targets G."""
    errors = []
    for path in paths:
        reward, value = ([part.detach() for part in parts] for parts in (path.reward, path.value))
        target = td_lambda(reward, value, path.ends, config.gamma, config.td_lambda)
        for z, goal in zip(path.z, target, strict=True):
            errors += [(member - goal) ** 2 for member in values(critic, z.detach())]
    return sum(errors) / len(errors)


class ScriptedEnvironment:
    """Plays a script beside a rollout; it keeps the actions."""

    def __init__(self, script: Script) -> None:
        self.script, self.actions = list(zip(*script, strict=True)), []

    def __call__(self, action: Tensor) -> tuple[Tensor, ...]:
        assert not action.requires_grad
        self.actions.append(action)
        return self.script[len(self.actions) - 1]
