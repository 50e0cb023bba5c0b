"""The locomotion suite with gradients: control steps of MuJoCo that torch differentiates, and environments on them.

Forward, a control step is the very one of `LocomotionVectorEnv`; backward, it is a vector-Jacobian product through its
time steps (`pwm.envs.derivatives`), computed only where a gradient is asked for. How good the gradient is depends on

- the warm start: each control step starts the contact solver cold, so that its result is a function of position,
  velocity and control alone, which can have a derivative. Within it, time steps start from the one before, which
  matters no more than the solver's tolerance.
- contact stiffness: MuJoCo's contacts yield, so that forces are continuous in the state, but stiff ones change within
  micrometres. The gradient is exact on its side of a contact's beginning, and large just there; steps are not smoothed.
- the time step: accelerations are constant over one. Longer ones make contacts softer and gradients smaller, at the
  price of penetration. The models' are 4 to 8 ms, 2 to 4 a control step.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from torch import Tensor
from torch.autograd.function import once_differentiable

from pwm.envs import check_simulator
from pwm.envs.derivatives import StepDerivatives
from pwm.envs.locomotion import LocomotionVectorEnv, Simulation
from pwm.envs.tasks import Task, get_task
from pwm.errors import UserError


class _ControlStep(torch.autograd.Function):
    """The last state of a path as a function of the first state and the control."""

    @staticmethod
    def forward(ctx, qpos, qvel, control, path, linearised, derivatives, where):
        ctx.path, ctx.linearised, ctx.derivatives, ctx.where = path, linearised, derivatives, where
        return tuple(torch.from_numpy(states[:, -1].copy()) for states in path)

    @staticmethod
    @once_differentiable
    def backward(ctx, of_qpos, of_qvel):
        found = ctx.derivatives.pull_back(*ctx.path, ctx.linearised(), of_qpos.numpy(), of_qvel.numpy())
        for name, cotangent in zip(("position", "velocity", "control"), found, strict=True):
            broken = np.flatnonzero(~np.isfinite(cotangent).all(axis=1))
            if broken.size:
                where = f"{ctx.where}: the gradient with respect to {name}"
                raise FloatingPointError(f"{where} is not finite in environments {broken.tolist()}")
        return *map(torch.from_numpy, found), None, None, None, None


class DifferentiableSimulation:
    """Control steps of a simulation as a function of tensors, with gradients.

    Args:
        simulation: N copies of a model.
        name: of the model, in errors.

    Raises:
        UserError: the model has something that is not differentiated here (`check_differentiable`).
    """

    def __init__(self, simulation: Simulation, name: str) -> None:
        self._simulation, self._name = simulation, name
        self._time_constants = simulation.model.geom_solref[:, 0].copy()  # of contacts, s
        try:
            self._derivatives = StepDerivatives(simulation.model, simulation.threads)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None

    def __call__(self, qpos: Tensor, qvel: Tensor, control: Tensor) -> tuple[Tensor, Tensor]:
        """One control step.

        Args:
            qpos, qvel: float64 `[N, nq]`, `[N, nv]`, quaternions of norm 1, whose gradients are tangent to that.
            control: float64 `[N, nu]`, in the actuators' range.

        Raises:
            FloatingPointError: the physics diverged; or in the backward pass, a gradient is not finite.
        """
        start = [x.detach().numpy() for x in (qpos, qvel)]
        physics = np.concatenate([np.zeros((len(qpos), 1)), *start], axis=1)
        trajectory = self._simulation.advance(physics, control.detach().numpy())
        return self.attach(physics, trajectory, qpos, qvel, control)

    def attach(
        self, physics: np.ndarray, trajectory: np.ndarray, qpos: Tensor, qvel: Tensor, control: Tensor, step: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The same for a control step that the simulation has made already, number `step` of a window.

        Args:
            physics: the state it started from, `[N, S]`.
            trajectory: what `Simulation.advance` returned.
            qpos, qvel, control: as above.
        """
        nq = self._simulation.model.nq
        path = np.concatenate([physics[:, None], trajectory], axis=1)
        split = path[..., 1 : 1 + nq], path[..., 1 + nq :]
        linearised = None
        if torch.is_grad_enabled() and any(x.requires_grad for x in (qpos, qvel, control)):
            linearised = self._derivatives.linearise(*split, control.detach().numpy())  # while the window goes on
        where = f"{self._name}: control step {step}"
        return _ControlStep.apply(qpos, qvel, control, split, linearised, self._derivatives, where)

    def soften(self, factor: float) -> None:
        """Give contacts `factor` times the body's own time constant, at the same damping ratio, from now on."""
        self._simulation.model.geom_solref[:, 0] = factor * self._time_constants
        self._derivatives.inverse.follow_contacts(self._simulation.model)

    def close(self) -> None:
        """Stop the threads of the derivatives."""
        self._derivatives.close()


class Transition(NamedTuple):
    """What a step of N environments gives, float32; numbers have gradients, flags have none."""

    observation: Tensor  # [N, O], to act on next; of the new episode, without gradient, where one ended
    reward: Tensor  # [N]
    terminated: Tensor  # [N], 1 or 0
    truncated: Tensor  # [N], 1 or 0
    final_observation: Tensor  # [N, O], what the action led to


class DifferentiableVectorEnv(LocomotionVectorEnv):
    """Locomotion environments whose steps are differentiated, a window of steps at a time.

    `advance` goes through `step` with the same numbers, and gives them gradients with respect to all actions since
    `begin_window`. Gradients are cut where an episode ends: no reward depends on actions of the one before.
    """

    def __init__(self, task: Task, num_envs: int, seed: int) -> None:
        """Raises `UserError` for a body that is not differentiated here."""
        super().__init__(task, num_envs, seed)
        self._differentiable = DifferentiableSimulation(self._simulation, task.name)
        self._window: list[Tensor] = []  # qpos [N, nq] and qvel [N, nv], as functions of the window's actions
        self._window_steps = 0

    def close_extras(self, **kwargs: object) -> None:
        """Stop the threads."""
        self._differentiable.close()
        super().close_extras()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self._window = []
        return super().reset(seed=seed, options=options)

    def restore(self, state: dict[str, np.ndarray]) -> np.ndarray:
        self._window = []
        return super().restore(state)

    def soften(self, factor: float) -> None:
        """Give contacts `factor` times the body's own time constant, between two windows; 1 gives them back."""
        self._differentiable.soften(factor)

    def begin_window(self) -> Tensor:
        """The observations `[N, O]` to act on next; gradients will reach back to here."""
        if self._observation is None:
            raise ResetNeeded("call reset before begin_window")
        self._window, self._window_steps = self._state_tensors(), 0
        return torch.from_numpy(self._observation.copy())

    def advance(self, actions: Tensor) -> Transition:
        """Take one decision in every environment, as `step` does, with gradients.

        Args:
            actions: float32 `[N, A]`; beyond [-1, 1] they are clipped and have no gradient.

        Raises:
            UserError, FloatingPointError: as `step`; or in the backward pass, a gradient is not finite.
        """
        if not self._window:
            raise ResetNeeded("call begin_window before advance")
        physics = self._physics
        observation, _, terminated, truncated, _ = self.step(actions.detach().numpy())
        control = torch.from_numpy(self._centre) + torch.from_numpy(self._half_range) * actions.clamp(-1.0, 1.0)
        qpos, qvel = self._differentiable.attach(
            physics, self._trajectory, *self._window, control, step=self._window_steps
        )
        final = self._body.observe(qpos, qvel, control).float()
        reward = self._body.reward(qpos, qvel, control).float()
        ended = torch.from_numpy(terminated | truncated)[:, None]
        self._window = [torch.where(ended, *pair) for pair in zip(self._state_tensors(), (qpos, qvel), strict=True)]
        self._window_steps += 1
        following = torch.where(ended, torch.from_numpy(observation), final)
        flags = (torch.from_numpy(flag.astype(np.float32)) for flag in (terminated, truncated))
        return Transition(following, reward, *flags, final)

    def _state_tensors(self) -> list[Tensor]:
        return [torch.from_numpy(x.copy()) for x in self._positions_and_velocities()]


def make_differentiable(task: str, num_envs: int, seed: int = 0) -> DifferentiableVectorEnv:
    """Environments of a locomotion task with gradients, as `pwm.envs.make` seeds them.

    Raises:
        UserError: no such task, one of another family, or another version of the simulator than the pinned one.
    """
    known = get_task(task)
    if known.family != "locomotion":
        raise UserError(f"{task}: only locomotion tasks have gradients; choose one of them")
    check_simulator(known.family)
    return DifferentiableVectorEnv(known, num_envs, seed)
