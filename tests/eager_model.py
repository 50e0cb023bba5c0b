"""The world model and its losses as equations: one window, one step and one network at a time, from bare weights.

Nothing here is batched or taken from `pwm`: it is what the fast versions are compared with, values and gradients.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch


def mish(x):
    return x * torch.tanh(torch.log(1.0 + torch.exp(x)))


def relu(x):
    return torch.where(x > 0, x, torch.zeros_like(x))


def softmax(x):
    e = torch.exp(x - x.max())
    return e / e.sum()


def simplices(x, group=8):
    return torch.cat([softmax(x[i : i + group]) for i in range(0, len(x), group)])


def layer_norm(x, weight, bias):
    mean = x.sum() / len(x)
    variance = ((x - mean) ** 2).sum() / len(x)
    return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias


def mlp(layers, x, activation, end=None, factors=None):
    """Linear, dropout by `factors` (first layer), LayerNorm, activation; `end` takes the activation's place at last."""
    for i, (weight, bias, scale, shift) in enumerate(layers):
        x = weight @ x + bias
        if i == 0 and factors is not None:
            x = x * factors
        if scale is not None:
            x = layer_norm(x, scale, shift)
        if i < len(layers) - 1:
            x = activation(x)
        elif end is not None:
            x = end(x)
    return x


def symlog(x):
    return math.copysign(math.log(1.0 + abs(x)), x)


def symexp(x):
    return torch.sign(x) * (torch.exp(torch.abs(x)) - 1.0)


def percentile_range(values):
    """From the 5th to the 95th percentile, linear between the sorted values."""
    ordered = sorted(values)

    def percentile(share):
        place = share * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    return percentile(0.95) - percentile(0.05)


@dataclass
class EagerModel:
    """The networks as lists of layers: weight [out, in], bias, and LayerNorm's scale and shift or None."""

    encoder: list
    dynamics: list
    reward: list
    prior: list
    q: list  # of K lists
    target_q: list
    embeddings: torch.Tensor | None  # [tasks, e]
    action_dims: tuple[int, ...]
    reward_scale: torch.Tensor
    bins: int
    low: float = -10.0
    high: float = 10.0
    activation: Callable = mish
    end: Callable | None = simplices  # of encoder and dynamics

    def embed(self, task):
        if self.embeddings is None:
            return torch.zeros(0)
        e = self.embeddings[task]
        norm = torch.sqrt((e**2).sum())
        return e / norm if norm > 1 else e

    def join(self, z, action, task):
        own = torch.arange(len(action)) < self.action_dims[task]
        return torch.cat([z, self.embed(task).to(z.dtype), torch.where(own, action, torch.zeros_like(action))])

    def encode(self, obs, task):
        return mlp(self.encoder, torch.cat([obs, self.embed(task).to(obs.dtype)]), self.activation, self.end)

    def next(self, z, action, task):
        return mlp(self.dynamics, self.join(z, action, task), self.activation, self.end)

    def reward_output(self, z, action, task):
        return mlp(self.reward, self.join(z, action, task), self.activation)

    def q_output(self, layers, z, action, task, factors=None):
        return mlp(layers, self.join(z, action, task), mish, factors=factors)

    def value(self, layers, z, action, task, factors=None):
        """The value in the task's own units: symexp Σ_i softmax_i · bin_i."""
        p = softmax(self.q_output(layers, z, action, task, factors))
        step = (self.high - self.low) / (self.bins - 1)
        return symexp(sum(p[i] * (self.low + i * step) for i in range(self.bins)))

    def act(self, z, task, noise):
        """The prior's action, zero beyond the task's own, and its entropy."""
        output = mlp(self.prior, torch.cat([z, self.embed(task).to(z.dtype)]), self.activation)
        own, width = self.action_dims[task], len(noise)
        action, gaussian, squashing = torch.zeros(width, dtype=z.dtype), 0.0, 0.0
        for i in range(own):
            log_std = -10.0 + 0.5 * 12.0 * (torch.tanh(output[width + i]) + 1.0)
            a = torch.tanh(output[i] + torch.exp(log_std) * noise[i])
            action = torch.where(torch.arange(width) == i, a, action)
            gaussian = gaussian + 0.5 * noise[i] ** 2 + log_std + 0.5 * math.log(2 * math.pi)
            squashing = squashing + torch.log(1.0 - a**2 + 1e-6)
        return action, own * gaussian + squashing

    def cross_entropy(self, logits, value):
        """−Σ_i p_i log softmax(logits)_i, p on the two bins next to symlog(value)."""
        position = (min(max(symlog(value), self.low), self.high) - self.low) * (self.bins - 1) / (self.high - self.low)
        below = min(int(position), self.bins - 2)
        log_p = torch.log(softmax(logits))
        return -((1.0 - (position - below)) * log_p[below] + (position - below) * log_p[below + 1])

    def reward_error(self, output, reward, task):
        if self.bins:
            return self.cross_entropy(output, float(reward))
        return (output[0] - reward / self.reward_scale[task]) ** 2


def losses(model, batch, rho, value_target=None, factors=None):
    """The three terms, each Σ_b Σ_t ρ^t … / (H B), and the latents z[b][t]; `factors` [k, t, b] drop features out."""
    horizon, size = batch.action.shape[:2]
    consistency = reward = value = 0.0
    latents = []
    for b in range(size):
        task = int(batch.task[b])
        z = model.encode(batch.obs[0, b], task)
        latents.append([z])
        for t in range(horizon):
            weight, action = rho**t / (horizon * size), batch.action[t, b]
            output = model.reward_output(z, action, task)
            reward = reward + weight * model.reward_error(output, batch.reward[t, b], task)
            if value_target is not None:
                for k, layers in enumerate(model.q):
                    output = model.q_output(layers, z, action, task, None if factors is None else factors[k, t, b])
                    error = model.cross_entropy(output, float(value_target[t, b]))
                    value = value + weight / len(model.q) * error
            z = model.next(z, action, task)
            target = model.encode(batch.obs[t + 1, b], task).detach()
            consistency = consistency + weight * ((z - target) ** 2).sum() / len(z)
            latents[-1].append(z)
    return consistency, reward, value, latents


def td_targets(model, batch, discount, noise, members):
    """y[t][b] = r + γ (1 − terminated) min over the two target Q-functions at the prior's action."""
    horizon, size = batch.action.shape[:2]
    targets = torch.zeros(horizon, size, dtype=batch.obs.dtype)
    for t in range(horizon):
        for b in range(size):
            task = int(batch.task[b])
            z = model.encode(batch.obs[t + 1, b], task)
            action, _ = model.act(z, task, noise[t, b])
            values = [model.value(model.target_q[k], z, action, task) for k in members]
            going_on = 1.0 - batch.terminated[t, b]
            targets[t, b] = batch.reward[t, b] + discount[task] * going_on * min(values)
    return targets.detach()


def prior_loss(model, latents, tasks, noise, members, scale, settings, factors=None):
    """The prior's loss on the latents z[t][b], and the scale it used; `factors` by [k, t, b]."""
    steps, size = len(latents), len(latents[0])
    values, entropies = {}, {}
    for t in range(steps):
        for b in range(size):
            z, task = latents[t][b].detach(), int(tasks[b])
            action, entropies[t, b] = model.act(z, task, noise[t, b])
            both = [
                model.value(model.q[k], z, action, task, None if factors is None else factors[i, t, b])
                for i, k in enumerate(members)
            ]
            values[t, b] = (both[0] + both[1]) / 2
    seen = max(1.0, percentile_range([float(values[0, b].detach()) for b in range(size)]))
    scale = scale + settings.target_rate * (seen - scale)
    total = 0.0
    for t, b in values:
        gain = values[t, b] / scale + settings.entropy_coef * entropies[t, b]
        total = total - settings.rho**t * gain / (steps * size)
    return total, scale


def eager(model):
    """The equations on the very weights of a `WorldModel`, so that gradients reach them."""
    weights = dict(model.named_parameters())

    def layers(name, member=None):
        found = []
        for i in range(9):
            own = {key.removeprefix(f"{name}.{i}."): w for key, w in weights.items() if key.startswith(f"{name}.{i}.")}
            if own:
                parts = [own.get(f"linear.{part}", own.get(part)) for part in ("weight", "bias")]
                parts += [own.get(f"norm.{part}") for part in ("weight", "bias")]
                if member is not None:
                    parts = [None if p is None else p[member].squeeze(0) for p in parts]
                    parts[0] = parts[0].T
                found.append(parts)
        return found

    config = model.config
    activation = mish if config.activation == "mish" else relu
    end = {"simnorm": lambda x: simplices(x, config.simnorm_dim), "none": activation, "linear": None}[config.latent]
    table = weights.get("task_embedding.weight")
    return EagerModel(
        layers("encoder"),
        layers("dynamics"),
        layers("reward_head"),
        layers("policy_prior"),
        [layers("q_heads.layers", k) for k in range(config.num_q)],
        [layers("target_q_heads.layers", k) for k in range(config.num_q)],
        table,
        tuple(int(row.sum()) for row in model.action_mask),
        model.reward_scale,
        config.reward_bins,
        config.reward_low,
        config.reward_high,
        activation=activation,
        end=end,
    )


def official(state, action_dims, bins):
    """The equations on a checkpoint in TD-MPC2's current keys, or PWM's."""

    def layers(name, member=None):
        count = 1 + max(
            (int(m[1]) for key in state if (m := re.match(rf"{re.escape(name)}\.(\d+)\.", key))), default=-1
        )
        parts = ("weight", "bias", "ln.weight", "ln.bias")
        found = [[state.get(f"{name}.{i}.{part}") for part in parts] for i in range(count)]
        return found if member is None else [[None if p is None else p[member] for p in layer] for layer in found]

    members = range(len(state["_Qs.params.0.bias"])) if "_Qs.params.0.bias" in state else ()
    return EagerModel(
        layers("_encoder.state") or layers("_encoder"),
        layers("_dynamics"),
        layers("_reward"),
        layers("_pi"),
        [layers("_Qs.params", k) for k in members],
        [layers("_target_Qs_params", k) for k in members],
        state.get("_task_emb.weight"),
        action_dims,
        torch.ones(()),
        bins,
    )
