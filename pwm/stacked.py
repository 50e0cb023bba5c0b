"""Several runs' world models trained and planned in as one: on a GPU one small network leaves most of it idle.

The weights of R models of one architecture lie in one tensor each [R, ...], and every kernel serves all of them, by
torch.func's vmap over the very functions that train one model and plan in it. Narrower tasks are zero-padded to the
widest: a weight that reads only zeros gets no gradient, and actions beyond a task's own are masked.

Shapes: R runs, then as in `pwm.model_learning` and `pwm.planning`.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pwm.config import PretrainConfig
from pwm.model_learning import ModelTrainer
from pwm.nn.cuda_graph import graphed
from pwm.nn.optimisation import permutation
from pwm.nn.world_model import WorldModel
from pwm.planning import Planner


def padded(model: WorldModel, observation_dim: int, action_dim: int) -> WorldModel:
    """A single task's model for wider observations and actions; what it computes is the same, zeros beyond its own."""
    wide = WorldModel(model.config, observation_dim, (action_dim,)).to(model.action_mask.device)
    state = wide.state_dict()
    for name, tensor in model.state_dict().items():
        for of_wide, own in _parts(name, state[name], tensor):
            of_wide.zero_()
            of_wide[tuple(map(slice, own.shape))] = own
    return wide.train(model.training)


def unpadded(wide: WorldModel, model: WorldModel) -> None:
    """The inverse of `padded`: what `wide` has learnt, in `model`'s own sizes."""
    state = wide.state_dict()
    for name, tensor in model.state_dict().items():
        for of_wide, own in _parts(name, state[name], tensor):
            own.copy_(of_wide[tuple(map(slice, own.shape))])


def _parts(name: str, wide: Tensor, own: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Tensors of a wide model and its own that begin alike: the prior's last layer gives means and spreads in turn."""
    if name.startswith("policy_prior") and wide.shape[0] != own.shape[0]:
        return list(zip(wide.chunk(2), own.chunk(2), strict=True))
    return [(wide, own)]


class Stack:
    """R modules of one architecture and of the same sizes.

    Args:
        modules: the modules, which are left as they are.
        compile: `each` by torch.compile on a GPU.
    """

    def __init__(self, modules: Sequence[nn.Module], compile: bool = False) -> None:
        self.size = len(modules)
        self.whole = copy.deepcopy(modules[0])  # of the others, too: every tensor [R, ...]
        states = [module.state_dict() for module in modules]
        for name, tensor in self._tensors().items():
            tensor.data = torch.stack([state[name] for state in states])
        self.compile = compile and next(self.whole.parameters()).is_cuda

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self.whole.named_parameters()), **dict(self.whole.named_buffers())}

    def each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of tensors that calls `whole` as if it were one of the modules, for all of them: its arguments and
        results are [R, ...]. What it draws at random is drawn for each."""
        call = _Call(self.whole, function)
        mapped = torch.vmap(
            lambda tensors, *given: torch.func.functional_call(call, tensors, given), randomness="different"
        )
        if self.compile:
            mapped = torch.compile(mapped, dynamic=False)
        return lambda *given: mapped({f"module.{name}": tensor for name, tensor in self._tensors().items()}, *given)

    @torch.no_grad()
    def take(self, r: int, module: nn.Module) -> nn.Module:
        """`module` with the tensors of the r-th."""
        module.load_state_dict({name: tensor[r] for name, tensor in self.whole.state_dict().items()})
        return module


class _Call(nn.Module):
    """`functional_call` wants a module: one that holds another and calls a function that reads it."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *given: Tensor) -> Any:
        return self.function(*given)


class StackTrainer(ModelTrainer):
    """`ModelTrainer` of a stack of world models: batches and metrics are [R, ...], and each has its own gradient norm.

    Args:
        models: the stack.
        config: their objective.
        discount: γ of their tasks, which is the same.
    """

    def __init__(self, models: Stack, config: PretrainConfig, discount: float) -> None:
        super().__init__(models.whole, config.model_copy(update={"compile": False}), torch.tensor([discount]))
        self.value_scale = self.value_scale.repeat(models.size)
        self._model_loss, self._prior_loss = models.each(self._model_loss), models.each(self._prior_loss)
        self._graphed_step = graphed(self._step, config.compile, self.discount.device, ())

    def _descend(self, optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter], loss: Tensor) -> Tensor:
        gradients = [gradient.contiguous() for gradient in torch.autograd.grad(loss.sum(), parameters)]  # Adam wants it
        norm = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        share = (self.config.grad_norm / (norm + 1e-6)).clamp(max=1.0)  # as torch's clip_grads_with_norm_
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient * share.view(-1, *[1] * (gradient.dim() - 1))
        optimiser.step()
        return norm


class StackPlanner(Planner):
    """`Planner` of a stack of world models, one plan for each environment of each run, as long as the widest takes.

    Args:
        models: the stack; the rest as for `Planner`, but for `seed`: torch's global generator draws.
    """

    def __init__(self, models: Stack, discount: float, horizon: int, compile: bool = False, **search: Any) -> None:
        super().__init__(models.whole, discount, horizon, **search, seed=0, compile=False)
        self.runs = models.size
        self._encode = models.each(lambda obs, task: self.model.encode(obs, task))
        parts = self._start, self._fit, self._choose
        self._start, self._fit, self._choose = map(models.each, parts)
        self._fastest_search = graphed(self._plan, compile, self.generator.device, ())

    @torch.no_grad()
    def __call__(self, obs: Tensor, first: Tensor, explore: bool = False) -> Tensor:
        """Actions [R, B, A] for observations [R, B, O], where `first` [R, B] says that an episode begins."""
        if self.mean is None:
            self.mean = obs.new_zeros(self.runs, self.horizon, obs.shape[1], self.model.action_dim)
        found = self._fastest_search(obs, first, self.mean)
        self.mean, action = found["mean"], found["action"]
        if explore:
            action = action + found["std"] * torch.randn_like(action)
        return action.clamp(-1.0, 1.0) * self.model.action_mask  # [R, 1, A]

    def _plan(self, obs: Tensor, first: Tensor, last: Tensor) -> dict[str, Tensor]:
        task = torch.zeros(first.shape, dtype=torch.long, device=obs.device)
        return self._search(self._encode(obs, task), task, first, last)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.generator.device)

    def exponential(self, *shape: int) -> Tensor:
        return -torch.rand(*shape, device=self.generator.device).log()

    def pair(self) -> Tensor:
        return permutation(self.model.config.num_q, self.generator.device)[:2]
