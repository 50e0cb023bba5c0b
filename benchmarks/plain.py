"""PWM's updates and TD-MPC2's planning as one would first write them: stock layers, one network, one time step and one
environment at a time.

The same equations as `pwm.agent`, `pwm.model_learning` and `pwm.planning` on the same weights, with the same random
numbers, so that both end with the same weights and actions (tests/test_benchmarks.py): what `benchmarks.updates` and
`benchmarks.planning` compare them with.

Shapes: H horizon, B batch, O observation, A action, Z latent, K ensemble; time comes first.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pwm.agent import PolicyTrainer
from pwm.config import ExtractConfig, PretrainConfig
from pwm.data.batch import Batch
from pwm.nn import two_hot
from pwm.nn.actor_critic import Actor, Critic
from pwm.nn.layers import EnsembleMLP, Mish, SimNorm
from pwm.nn.world_model import WorldModel
from pwm.planning import STD_MAX, STD_MIN, TEMPERATURE, Planner


class PlainSimNorm(nn.Module):
    """Softmax over the last axis of [..., D / group, group]."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x.unflatten(-1, (-1, self.group)), dim=-1).flatten(-2)


def stock(network: nn.Module) -> nn.Module:
    """A copy of `network` with torch's own Mish, and SimNorm as it is usually written."""
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Mish):
                setattr(parent, name, nn.Mish())
            elif isinstance(child, SimNorm):
                setattr(parent, name, PlainSimNorm(child.group))
    return network


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(*weight.shape)
    layer.load_state_dict({"weight": weight.T, "bias": bias[0]})
    return layer.to(weight.device)


def _norm(weight: Tensor, bias: Tensor) -> nn.LayerNorm:
    layer = nn.LayerNorm(weight.shape[-1])
    layer.load_state_dict({"weight": weight[0], "bias": bias[0]})
    return layer.to(weight.device)


def critics_of(critic: Critic) -> nn.ModuleList:
    """The ensemble's members as networks of their own."""
    *hidden, last = critic.values
    members = nn.ModuleList()
    for k in range(critic.members):
        layers: list[nn.Module] = []
        for linear, _, norm in zip(*[iter(hidden)] * 3, strict=True):
            layers += [_linear(linear.weight[k], linear.bias[k]), nn.Mish(), _norm(norm.weight[k], norm.bias[k])]
        members.append(nn.Sequential(*layers, _linear(last.weight[k], last.bias[k])))
    return members


def q_functions_of(heads: EnsembleMLP) -> nn.ModuleList:
    """The Q-functions as networks of their own."""
    *hidden, last = heads.layers
    members = nn.ModuleList()
    for k in range(heads.members):
        layers: list[nn.Module] = []
        for layer in hidden:
            norm = _norm(layer.norm.weight[k], layer.norm.bias[k])
            layers.append(_linear(layer.linear.weight[k], layer.linear.bias[k]))
            layers += [nn.Dropout(layer.dropout)] if layer.dropout else []
            layers += [norm, nn.Mish()]
        members.append(nn.Sequential(*layers, _linear(last.weight[k], last.bias[k])))
    return members


def step(optimiser: torch.optim.Optimizer, loss: Tensor, parameters: list[nn.Parameter], limit: float) -> None:
    """One clipped optimiser step on `parameters`, whatever else the loss depends on."""
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, limit)
    optimiser.step()


class PlainPolicy:
    """`PolicyTrainer.update` on offline data, at the learning rates that training starts with.

    Args:
        trainer: whose weights are copied.
    """

    def __init__(self, trainer: PolicyTrainer) -> None:
        self.config: ExtractConfig = trainer.config
        self.model: WorldModel = stock(trainer.model)
        self.actor: Actor = stock(trainer.actor)
        self.critics = critics_of(trainer.critic)
        betas = self.config.betas
        self.actor_optimiser = torch.optim.Adam(self.actor.parameters(), self.config.actor_lr, betas)
        self.critic_optimiser = torch.optim.Adam(self.critics.parameters(), self.config.critic_lr, betas)
        self.returns = copy.deepcopy(trainer.return_scale)

    def value(self, z: Tensor) -> Tensor:
        """min_k V_k(z): [B]."""
        return torch.stack([critic(z).squeeze(-1) for critic in self.critics]).amin(0)

    def update(self, z: Tensor, task: Tensor) -> None:
        """One policy update from start latents z [B, Z] of tasks [B]."""
        config = self.config
        noise = torch.randn(config.horizon, z.shape[0], self.model.action_dim, device=z.device)
        latents, rewards, values = [], [], []
        total, discount = torch.zeros(len(z), device=z.device), 1.0
        for epsilon in noise:
            action = self.actor(z.detach(), epsilon)
            reward, next_z = self.model.reward(z, action, task), self.model.next(z, action, task)
            latents.append(z)
            rewards.append(reward)
            values.append(self.value(next_z))
            total, discount = total + discount * reward, discount * config.gamma
            z = next_z
        total = total + discount * values[-1]
        self.returns.update(total.detach())
        step(
            self.actor_optimiser,
            -total.mean() / self.returns.std.to(z.dtype),
            list(self.actor.parameters()),
            config.actor_grad_norm,
        )
        self.actor.clamp_log_std()

        targets, following = [], values[-1]
        for reward, value in zip(reversed(rewards), reversed(values), strict=True):
            following = reward + config.gamma * ((1 - config.td_lambda) * value + config.td_lambda * following)
            targets.append(following)
        target = torch.stack(targets[::-1]).detach().flatten()
        z = torch.stack(latents).detach().flatten(0, 1)
        parameters = list(self.critics.parameters())
        for _ in range(config.critic_passes):
            for rows in torch.randperm(len(z), device=z.device).chunk(config.critic_minibatches):
                errors = [(critic(z[rows]).squeeze(-1) - target[rows]).square().mean() for critic in self.critics]
                loss = torch.stack(errors).mean()
                step(self.critic_optimiser, loss, parameters, config.critic_grad_norm)


class PlainModel:
    """`ModelTrainer.update`, at the learning rate that training starts with.

    Args:
        model: whose weights are copied.
        config: the objective.
        discount: γ of each task [tasks].
    """

    def __init__(self, model: WorldModel, config: PretrainConfig, discount: Tensor) -> None:
        self.model: WorldModel = stock(model)
        self.config, self.discount = config, discount
        self.with_value = bool(model.config.num_q and config.value_coef)
        trained = [self.model.encoder, self.model.dynamics, self.model.reward_head]
        trained += [self.model.task_embedding] if self.model.task_embedding is not None else []
        if self.with_value:
            self.q_functions, self.targets = q_functions_of(model.q_heads), q_functions_of(model.target_q_heads)
            trained.append(self.q_functions)
            prior = self.model.policy_prior.parameters()
            self.prior_optimiser = torch.optim.Adam(prior, config.learning_rate, eps=1e-5)
        self.parameters = list(nn.ModuleList(trained).parameters())
        self.optimiser = torch.optim.Adam(self.parameters, config.learning_rate)
        self.value_scale = torch.ones((), device=discount.device)

    def q_values(self, networks: list[nn.Module], z: Tensor, action: Tensor, task: Tensor) -> list[Tensor]:
        """Values in the tasks' own units, [B] each."""
        config, joint = self.model.config, self.model.joint(z, action, task)
        outputs = [network(joint) for network in networks]
        return [two_hot.symexp(two_hot.expectation(q, config.reward_low, config.reward_high)) for q in outputs]

    def update(self, batch: Batch) -> None:
        """One update on one batch of windows."""
        config, model, device = self.config, self.model, batch.obs.device
        horizon, targets = len(batch.action), []
        with torch.no_grad():
            encoded = [model.encode(obs, batch.task) for obs in batch.obs[1:]]
            if self.with_value:
                noise = torch.randn(batch.action.shape, device=device)
                pair = [self.targets[k] for k in torch.randperm(len(self.q_functions))[:2]]
                for h, next_z in enumerate(encoded):
                    action, _ = model.prior(next_z, batch.task, noise[h])
                    value = torch.minimum(*self.q_values(pair, next_z, action, batch.task))
                    discount = self.discount[batch.task] * (1 - batch.terminated[h])
                    targets.append(batch.reward[h] + discount * value)
        z, loss = model.encode(batch.obs[0], batch.task), 0.0
        latents = [z]
        for h, (action, next_z) in enumerate(zip(batch.action, encoded, strict=True)):
            weight = config.rho**h / horizon
            output = model.reward_output(z, action, batch.task)
            loss = loss + weight * config.reward_coef * model.reward_loss(output, batch.reward[h], batch.task).mean()
            if self.with_value:
                joint = model.joint(z, action, batch.task)
                errors = [model.q_loss(q(joint), targets[h]).mean() for q in self.q_functions]
                loss = loss + weight * config.value_coef * torch.stack(errors).mean()
            z = model.next(z, action, batch.task)
            latents.append(z)
            loss = loss + weight * config.consistency_coef * F.mse_loss(z, next_z)
        step(self.optimiser, loss, self.parameters, config.grad_norm)
        if self.with_value:
            self.update_prior([z.detach() for z in latents], batch)
            for target, source in zip(self.targets.parameters(), self.q_functions.parameters(), strict=True):
                target.data.lerp_(source.data, config.target_rate)

    def update_prior(self, latents: list[Tensor], batch: Batch) -> None:
        """One update of TD-MPC2's policy prior."""
        config, model = self.config, self.model
        noise = torch.randn(len(latents), len(batch.task), model.action_dim, device=batch.obs.device)
        pair = [self.q_functions[k] for k in torch.randperm(len(self.q_functions))[:2]]
        loss = 0.0
        for h, z in enumerate(latents):
            action, entropy = model.prior(z, batch.task, noise[h])
            value = sum(self.q_values(pair, z, action, batch.task)) / 2
            if h == 0:
                spread = value.detach().quantile(0.95) - value.detach().quantile(0.05)
                self.value_scale = torch.lerp(self.value_scale, spread.clamp(min=1.0), config.target_rate)
            gain = value / self.value_scale + config.entropy_coef * entropy
            loss = loss - config.rho**h / len(latents) * gain.mean()
        step(self.prior_optimiser, loss, list(model.policy_prior.parameters()), config.grad_norm)


class PlainPlanner:
    """`Planner` in evaluation, where an episode begins, one environment after the other.

    Args:
        planner: whose model, sizes and ways to draw numbers are used.
    """

    def __init__(self, planner: Planner) -> None:
        self.planner, self.model = planner, stock(planner.model)
        self.q_functions = q_functions_of(planner.model.q_heads).eval()

    @torch.no_grad()
    def plan(self, z: Tensor, task: Tensor) -> Tensor:
        """Actions [B, A] from latents z [B, Z]."""
        return torch.cat([self.plan_one(z[b : b + 1], task[b : b + 1]) for b in range(len(z))])

    def plan_one(self, z: Tensor, task: Tensor) -> Tensor:
        """The action [1, A] from z [1, Z]."""
        p, model = self.planner, self.model
        mask = model.action_mask[task]
        mean, std = torch.zeros(p.horizon, mask.shape[1]), torch.full((p.horizon, mask.shape[1]), STD_MAX)
        mean, std = mean.to(z), std.to(z)
        state, tasks, proposed = z.repeat(p.prior_samples, 1), task.repeat(p.prior_samples), []
        for t in range(p.horizon):
            if t:
                state = model.next(state, proposed[-1], tasks)
            proposed.append(model.prior(state, tasks, p.normal(p.prior_samples, 1, mask.shape[1])[:, 0])[0])
        for _ in range(p.iterations):
            noise = p.normal(p.samples - p.prior_samples, p.horizon, 1, mask.shape[1])[:, :, 0]
            drawn = torch.clamp(mean + std * noise, -1, 1) * mask
            actions = torch.cat([torch.stack(proposed, dim=1), drawn])
            value = self.value(z.repeat(p.samples, 1), actions, task.repeat(p.samples))
            best = torch.argsort(value, descending=True)[: p.elites]
            score = torch.exp(TEMPERATURE * (value[best] - value[best].max()))
            score = (score / score.sum())[:, None, None]
            mean = (score * actions[best]).sum(0)
            std = torch.sqrt((score * (actions[best] - mean) ** 2).sum(0)).clamp(STD_MIN, STD_MAX)
        chosen = (p.exponential(p.elites, 1)[:, 0] / score.flatten()).argmin()
        return actions[best[chosen], :1]

    def value(self, z: Tensor, actions: Tensor, task: Tensor) -> Tensor:
        """Of sequences [S, H, A] from z [S, Z]: [S]."""
        p, model, total = self.planner, self.model, 0.0
        pair = p.pair()
        for t in range(p.horizon):
            reward = model.decode_reward(model.reward(z, actions[:, t], task), task)
            total = total + p.discount**t * reward
            z = model.next(z, actions[:, t], task)
        action, _ = model.prior(z, task, p.normal(len(z), 1, actions.shape[2])[:, 0])
        joint, config = model.joint(z, action, task), model.config
        outputs = [self.q_functions[k](joint) for k in pair]
        values = [two_hot.symexp(two_hot.expectation(q, config.reward_low, config.reward_high)) for q in outputs]
        return total + p.discount**p.horizon * (values[0] + values[1]) / 2
