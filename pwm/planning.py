"""Acting by TD-MPC2's policy prior, or by planning with it: MPPI in a world model's latent (paper, section 3).

One call plans for all environments at once. Shapes: B environments, S action sequences, E elites, H horizon, A action,
Z latent; sequences come first, then time.
"""

import torch
from torch import Tensor

from pwm.model_learning import blocks
from pwm.nn.cuda_graph import graphed
from pwm.nn.layers import computed, products_in
from pwm.nn.optimisation import permutation
from pwm.nn.world_model import WorldModel

STD_MIN, STD_MAX = 0.05, 2.0  # of the Gaussian that sequences are drawn from; it begins with the larger
TEMPERATURE = 0.5  # an elite's weight is proportional to exp(0.5 · value)
WIDE_ACTION, MORE_ITERATIONS = 20, 2  # actions of 20 dimensions or more are searched in two more iterations


class PriorActor:
    """a ~ π(z), or the prior's mode in evaluation.

    Args:
        model: a world model with a policy prior.
        precision: of the matrix products.
        seed: of all that is drawn, apart from torch's global generator.
    """

    def __init__(self, model: WorldModel, precision: str, seed: int) -> None:
        self.model, self.precision = model, precision
        self.generator = torch.Generator(model.action_mask.device).manual_seed(seed)

    @torch.no_grad()
    def __call__(self, z: Tensor, task: Tensor, first: Tensor, explore: bool = False) -> Tensor:
        """The action for every environment.

        Args:
            z: latents [B, Z] of the observations.
            task: task indices [B].
            first: where an episode begins [B], bool.
            explore: with noise, for training.

        Returns:
            [B, A] in [−1, 1], zero beyond the task's own.
        """
        noise = self.normal(len(z), self.model.action_dim) if explore else None
        with products_in(self.precision, z.device):
            return self.model.prior(z, task, noise)[0]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers; the last two axes are B and A."""
        return torch.randn(*shape, generator=self.generator, device=self.generator.device)

    def state(self) -> dict:
        """Everything needed to go on exactly."""
        return {"generator": self.generator.get_state()}

    def restore(self, state: dict) -> None:
        """Go on from `state()`."""
        self.generator.set_state(state["generator"].cpu())


class Planner(PriorActor):
    """MPPI: draw action sequences, weigh the best by their value, fit the Gaussian to them, and again.

    A sequence is worth Σ_{t<H} γ^t R(z_t, a_t) + γ^H · mean of two Q_k(z_H, a), a ~ π(z_H), in the task's own units.

    Args:
        model: a world model with Q-functions.
        discount: γ.
        horizon: H.
        iterations: fits of the Gaussian.
        samples: S, sequences per iteration.
        elites: E, how many of them the fit is to.
        prior_samples: how many of them the policy prior acts out in the model; the rest come from the Gaussian.
        precision, seed: as above.
        compile: fused layers on a CPU; on a GPU the search as one CUDA graph of compiled networks, for a number of
            environments that does not change.
    """

    def __init__(
        self,
        model: WorldModel,
        discount: float,
        horizon: int,
        iterations: int,
        samples: int,
        elites: int,
        prior_samples: int,
        precision: str,
        seed: int,
        compile: bool = False,
    ) -> None:
        super().__init__(model, precision, seed)
        self.compile, self.discount, self.horizon = compile, discount, horizon
        widest = int(model.action_mask.sum(-1).max())
        self.iterations = iterations + MORE_ITERATIONS * (widest >= WIDE_ACTION)
        self.samples, self.elites, self.prior_samples = samples, elites, prior_samples
        self.mean: Tensor | None = None  # [H, B, A], where the last search ended
        device = self.generator.device
        self._fastest_search = graphed(self._search, compile, device, model.children(), self.generator)

    @torch.no_grad()
    def __call__(self, z: Tensor, task: Tensor, first: Tensor, explore: bool = False) -> Tensor:
        """As `PriorActor`: the first action of one of the elites; `explore` adds the Gaussian's noise to it."""
        mask = self.model.action_mask[task]
        last = z.new_zeros(self.horizon, *mask.shape) if self.mean is None else self.mean
        found = self._fastest_search(z, task, first, last)
        self.mean, action = found["mean"], found["action"]
        if explore:
            action = action + found["std"] * self.normal(*mask.shape)
        return action.clamp(-1.0, 1.0) * mask

    def _search(self, z: Tensor, task: Tensor, first: Tensor, last: Tensor) -> dict[str, Tensor]:
        """From the `last` fit's mean: that of this one [H, B, A], an elite's first `action` [B, A], the `std` there."""
        with computed(self.precision, self.compile, z.device):
            proposed, mean, std = self._start(z, task, first, last)
            for _ in range(self.iterations):
                mean, std, elites, weight = self._fit(z, task, proposed, mean, std)
        return {"mean": mean, "action": self._choose(elites, weight), "std": std[..., 0, :, :]}

    def _start(self, z: Tensor, task: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The prior's sequences [P, H, B, A] and the Gaussian's first mean and standard deviation [H, B, A]."""
        # Warm start: the last plan, one step on; none where an episode begins.
        mean = torch.cat([last[1:], torch.zeros_like(last[:1])]) * ~first.unsqueeze(-1)
        return self._propose(z, task), mean, torch.full_like(mean, STD_MAX)

    def _fit(
        self, z: Tensor, task: Tensor, proposed: Tensor, mean: Tensor, std: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The Gaussian's next mean and standard deviation, the elites [E, H, B, A] it is fitted to, their weights."""
        mask = self.model.action_mask[task]
        noise = self.normal(self.samples - self.prior_samples, self.horizon, *mask.shape)
        actions = torch.cat([proposed, (mean + std * noise).clamp(-1.0, 1.0) * mask])
        value, index = self.value(z, actions, task).topk(self.elites, dim=0)
        elites = actions.gather(0, index[:, None, :, None].expand(-1, self.horizon, -1, mask.shape[1]))
        weight = torch.softmax(TEMPERATURE * value, dim=0)  # [E, B]
        share = weight[:, None, :, None]
        mean = (share * elites).sum(0)
        std = (share * (elites - mean).square()).sum(0).sqrt().clamp(STD_MIN, STD_MAX)
        return mean, std, elites, weight

    def _choose(self, elites: Tensor, weight: Tensor) -> Tensor:
        """The first action of an elite, drawn by its weight."""
        # The smallest of exponential times with rates `weight`: elite k in a share `weight` of all draws.
        chosen = (self.exponential(*weight.shape) / weight).argmin(0)
        return elites[chosen, 0, torch.arange(elites.shape[2], device=elites.device)]

    def _propose(self, z: Tensor, task: Tensor) -> Tensor:
        """Sequences of the policy prior, acted out in the model: [P, H, B, A]."""
        z, actions = z.expand(self.prior_samples, -1, -1), []
        for _ in range(self.horizon):
            if actions:
                z = self.model.next(z, actions[-1], task)
            noise = self.normal(*z.shape[:2], self.model.action_dim)
            actions.append(self.model.prior(z, task, noise)[0])
        return torch.stack(actions, dim=1)

    def value(self, z: Tensor, actions: Tensor, task: Tensor) -> Tensor:
        """What action sequences [S, H, B, A] from z [B, Z] are worth: [S, B]."""
        model, values = self.model, []
        pair = self.pair()
        noise = self.normal(len(actions), *actions.shape[2:])
        for epsilon, sequences in blocks(noise, actions):
            latent, total, weight = z.expand(len(sequences), -1, -1), 0.0, 1.0
            for action in sequences.unbind(1):
                total = total + weight * model.decode_reward(model.reward(latent, action, task), task)
                latent = model.next(latent, action, task)
                weight *= self.discount
            action, _ = model.prior(latent, task, epsilon)
            values.append(total + weight * model.q_value(latent, action, task, pair).mean(0))
        return torch.cat(values)

    def pair(self) -> Tensor:
        """Two different Q-functions at random."""
        return permutation(self.model.config.num_q, self.generator.device, self.generator)[:2]

    def exponential(self, *shape: int) -> Tensor:
        """Exponential numbers of rate 1; the last axis is B."""
        return torch.empty(*shape, device=self.generator.device).exponential_(generator=self.generator)

    def state(self) -> dict:
        """Everything needed to go on exactly."""
        return super().state() | {"mean": self.mean}

    def restore(self, state: dict) -> None:
        """Go on from `state()`."""
        super().restore(state)
        self.mean = state["mean"]
