"""The world model's losses and updates: tensors in, tensors out (paper, section 2).

PWM's own objective is consistency + reward. Where the model has TD-MPC2's Q-functions, the value term and the update of
the policy prior join it: TD-MPC2's full objective, as in the paper's multi-task pre-training.

Shapes: H horizon, B batch, O observation, A action, Z latent; time comes first.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pwm.config import PretrainConfig
from pwm.data.batch import Batch
from pwm.nn import processes
from pwm.nn.cuda_graph import graphed
from pwm.nn.layers import computed
from pwm.nn.optimisation import adam, apply_gradients, frozen, linear_decay, permutation, set_rate
from pwm.nn.world_model import WorldModel


def discount_factor(episode_length: int) -> float:
    """TD-MPC2's discount for a task of so many decisions T: (T/5 − 1) / (T/5), within 0.95 and 0.995."""
    fifth = episode_length / 5
    return min(max((fifth - 1) / fifth, 0.95), 0.995)


def _weights(steps: int, rho: float, like: Tensor) -> Tensor:
    """ρ^t / steps."""
    return rho ** torch.arange(steps, dtype=like.dtype, device=like.device) / steps


# On a CPU: rows of a layer's activations that stay in its cache, and in memory that is not new every time.
BLOCK_ROWS = 1024


def blocks(*parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Runs along the first axis of tensors [T, B, ...], the first of which says B; all at once where it is on a GPU."""
    steps = max(1, BLOCK_ROWS // parts[0].shape[1]) if parts[0].device.type == "cpu" else len(parts[0])
    return zip(*(part.split(steps) for part in parts), strict=True)


def world_model_loss(
    model: WorldModel, batch: Batch, next_z: Tensor, config: PretrainConfig, value_target: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """L = 1/H Σ_t ρ^t [c_z mse(z_{t+1}, E(s_{t+1})) + c_r ℓ(R(z_t, a_t), r_t) + c_v mean_k CE(Q_k(z_t, a_t), y_t)].

    z_0 = E(s_0), z_{t+1} = F(z_t, a_t): only z_0 and the model's own predictions are unrolled.

    Args:
        model: the world model.
        batch: windows of H+1 observations.
        next_z: E(s_1) … E(s_H) [H, B, Z], read without gradient.
        config: ρ and the coefficients.
        value_target: y [H, B], see `td_target`; None leaves the value term out.

    Returns:
        The scalar loss; its terms, ρ-weighted but without coefficients; all latents [H + 1, B, Z].
    """
    task = batch.task
    z = model.unroll(model.encode(batch.obs[0], task), batch.action, task)
    weight = _weights(len(batch.action), config.rho, z)
    consistency = sum(
        (w * F.mse_loss(reached, seen, reduction="none").mean((1, 2))).sum()
        for reached, seen, w in blocks(z[1:], next_z.detach(), weight)
    )
    reward = sum(
        (w * model.reward_loss(model.reward_output(latent, action, task), r, task).mean(1)).sum()
        for latent, action, r, w in blocks(z[:-1], batch.action, batch.reward, weight)
    )
    loss = config.consistency_coef * consistency + config.reward_coef * reward
    terms = {"consistency_loss": consistency.detach(), "reward_loss": reward.detach()}
    if value_target is not None:
        value = sum(
            (w * model.q_loss(model.q_output(latent, action, task), y).mean((0, 2))).sum()
            for latent, action, y, w in blocks(z[:-1], batch.action, value_target, weight)
        )
        loss = loss + config.value_coef * value
        terms["value_loss"] = value.detach()
    return loss, terms, z


@torch.no_grad()
def td_target(
    model: WorldModel, batch: Batch, next_z: Tensor, discount: Tensor, noise: Tensor, members: Tensor
) -> Tensor:
    """y = r + γ (1 − terminated) min_{k ∈ members} Q̄_k(z', a'), a' ~ π(z') of the policy prior: [H, B].

    Args:
        model: the world model with Q-functions.
        batch: the windows.
        next_z: z' = E(s_1) … E(s_H) [H, B, Z].
        discount: γ of each window's task [B].
        noise: standard normal ε of the prior [H, B, A].
        members: indices of the two target Q-functions [2].
    """
    values = []
    for z, epsilon in blocks(next_z, noise):
        action, _ = model.prior(z, batch.task, epsilon)
        values.append(model.q_value(z, action, batch.task, members, target=True).amin(0))
    return batch.reward + discount * (1.0 - batch.terminated) * torch.cat(values)


def policy_prior_loss(
    model: WorldModel, z: Tensor, task: Tensor, noise: Tensor, members: Tensor, scale: Tensor, config: PretrainConfig
) -> tuple[Tensor, Tensor]:
    """−1/(H+1) Σ_t ρ^t mean_b [mean_{k ∈ members} Q_k(z_t, a_t) / S + c_h · entropy], a_t ~ π(z_t), S as below.

    Args:
        model: the world model with Q-functions; the loss is meant for the prior's weights alone.
        z: latents [H + 1, B, Z], read without gradient.
        task: task indices [B].
        noise: standard normal ε [H + 1, B, A].
        members: indices of the two Q-functions [2].
        scale: the running spread of the values, [].
        config: ρ, the entropy's coefficient and the rate at which the scale follows.

    Returns:
        The scalar loss, and S: `scale` moved towards the distance from the 5th to the 95th percentile of the values of
        z_0, which counts as 1 where it is less.
    """
    values, entropies = [], []
    for latent, epsilon in blocks(z.detach(), noise):
        action, entropy = model.prior(latent, task, epsilon)
        values.append(model.q_value(latent, action, task, members).mean(0))
        entropies.append(entropy)
    value, entropy = torch.cat(values), torch.cat(entropies)
    low, high = (_quantile(value[0].detach(), share) for share in (0.05, 0.95))
    scale = torch.lerp(scale, (high - low).clamp(min=1.0), config.target_rate)
    weight = _weights(len(z), config.rho, z)
    return -(weight * (value / scale + config.entropy_coef * entropy).mean(1)).sum(), scale


def _quantile(x: Tensor, share: float) -> Tensor:
    """torch.quantile of x [B], as operations that vmap and compilers know."""
    ordered, last = x.sort().values, len(x) - 1
    below = min(int(share * last), last - 1)
    place = x.new_full((), share) * last  # rounded as torch.quantile rounds it
    return ordered[below].lerp(ordered[below + 1], place - below)


class ModelTrainer:
    """World-model updates: the model with its optimisers.

    Args:
        model: the world model; without Q-functions, or with a `value_coef` of 0, PWM's own objective is used.
        config: the objective and its rates.
        discount: γ of each task [tasks], read by the value term alone.
    """

    def __init__(self, model: WorldModel, config: PretrainConfig, discount: Tensor) -> None:
        self.model, self.config = model, config
        self.discount = discount.to(model.action_mask.device)
        self.with_value = bool(model.config.num_q and config.value_coef)
        rest = [model.dynamics, model.reward_head]
        rest += [model.task_embedding] if model.task_embedding is not None else []
        rest += [model.q_heads] if self.with_value else []
        groups = [
            {"params": list(model.encoder.parameters()), "scale": config.encoder_lr_scale},
            {"params": list(nn.ModuleList(rest).parameters()), "scale": 1.0},
        ]
        self.optimiser = adam(groups, config.learning_rate, self.discount.device)
        self.prior_optimiser: torch.optim.Adam | None = None
        if self.with_value:
            prior = model.policy_prior.parameters()
            self.prior_optimiser = adam(prior, config.learning_rate, self.discount.device, eps=1e-5)
        self.value_scale = torch.ones((), device=self.discount.device)
        self._graphed_step = graphed(self._step, config.compile, self.discount.device, model.children())

    def update(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """One gradient step on one batch of windows.

        Args:
            batch: the windows.
            progress: share of training done, which sets the learning rate.

        Returns:
            The loss, its terms and the gradient norm; with the value term also those of the policy prior.
        """
        rate = linear_decay(self.config.learning_rate, self.config.final_lr, progress)
        for optimiser in filter(None, (self.optimiser, self.prior_optimiser)):
            set_rate(optimiser, rate)
        self.model.train()
        metrics = self._graphed_step(*batch)
        self.model.eval()
        return metrics

    def _step(self, *parts: Tensor) -> dict[str, Tensor]:
        config, model, batch = self.config, self.model, Batch(*parts)
        with computed(config.precision, config.compile, batch.obs.device):
            loss, terms, z = self._model_loss(*batch)
        parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        norm = self._descend(self.optimiser, parameters, loss)
        metrics = {"model_loss": loss.detach(), **terms, "model_grad_norm": norm}
        if self.with_value:
            metrics |= self._update_prior(z.detach(), batch.task)
            model.update_target(config.target_rate)
        return dict(zip(metrics, processes.mean([*metrics.values()]), strict=True))

    def _model_loss(self, *parts: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """`world_model_loss` of a batch, with what is drawn for it."""
        model, batch, target = self.model, Batch(*parts), None
        with torch.no_grad():
            next_z = model.encode(batch.obs[1:], batch.task)
        if self.with_value:
            noise = processes.randn(*batch.action.shape, device=batch.action.device)
            members = self._draw_members()
            target = td_target(model, batch, next_z, self.discount[batch.task], noise, members)
        return world_model_loss(model, batch, next_z, self.config, target)

    def _draw_members(self) -> Tensor:
        """Two different Q-functions at random."""
        return permutation(self.model.config.num_q, self.discount.device)[:2]

    def _update_prior(self, z: Tensor, task: Tensor) -> dict[str, Tensor]:
        """One step of the policy prior on the latents z [H + 1, B, Z] of the model's own update."""
        config, model = self.config, self.model
        with frozen(model.q_heads), computed(config.precision, config.compile, z.device):
            loss, scale = self._prior_loss(z, task, self.value_scale)
        (scale,) = processes.mean([scale])  # of the values in every process's share
        self.value_scale.copy_(scale)
        norm = self._descend(self.prior_optimiser, list(model.policy_prior.parameters()), loss)
        return {"prior_loss": loss.detach(), "prior_grad_norm": norm, "value_scale": scale}

    def _prior_loss(self, z: Tensor, task: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """`policy_prior_loss` with what is drawn for it."""
        noise = processes.randn(*z.shape[:2], self.model.action_dim, device=z.device)
        members = self._draw_members()
        return policy_prior_loss(self.model, z, task, noise, members, scale, self.config)

    def _descend(self, optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter], loss: Tensor) -> Tensor:
        """One step down the loss; the gradient's norm."""
        gradients = processes.mean(torch.autograd.grad(loss, parameters))
        return apply_gradients(optimiser, parameters, gradients, self.config.grad_norm)

    def state(self) -> dict:
        """Everything needed to go on exactly."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "prior_optimiser": self.prior_optimiser.state_dict() if self.prior_optimiser else None,
            "value_scale": self.value_scale,
        }

    def restore(self, state: dict) -> None:
        """Go on from `state()`; before the first update."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.prior_optimiser:
            self.prior_optimiser.load_state_dict(state["prior_optimiser"])
        self.value_scale.copy_(state["value_scale"])
