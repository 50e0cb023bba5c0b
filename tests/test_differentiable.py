"""Gradients of the locomotion suite against finite differences, MuJoCo's own derivatives and closed forms."""

import functools
import re

import mujoco
import numpy as np
import pytest
import torch
from support import refusal

from pwm import envs
from pwm.envs import derivatives
from pwm.envs.derivatives import Tangent, _compiled_loop, check_differentiable
from pwm.envs.differentiable import DifferentiableSimulation
from pwm.envs.locomotion import BODIES, Simulation, build_model

all_bodies = pytest.mark.parametrize("body", BODIES)
Samples = tuple[np.ndarray, np.ndarray, np.ndarray]  # qpos [N, nq], qvel [N, nv], control [N, nu]


def samples_of(body: str, num: int) -> Samples:
    """States that random actions lead to, some at the start and some up to 40 steps later, and random controls."""
    env, rng = envs.make(body, num), np.random.default_rng(0)
    env.reset(seed=0)
    physics = env.state()["physics"]
    for k in range(40):
        env.step(rng.uniform(-0.5, 0.5, env.action_space.shape))
        now = np.arange(num) % 14 * 3 == k
        physics[now] = env.state()["physics"][now]
    model = build_model(body)
    low, high = model.actuator_ctrlrange.T
    control = rng.uniform(low, high, (num, model.nu))
    return physics[:, 1 : 1 + model.nq], physics[:, 1 + model.nq :], 0.7 * control


def contacts(model: mujoco.MjModel, qpos: np.ndarray) -> np.ndarray:
    """The number of contacts in positions `[N, nq]`."""
    data, found = mujoco.MjData(model), []
    for row in qpos:
        data.qpos[:] = row
        mujoco.mj_forward(model, data)
        found.append(data.ncon)
    return np.array(found)


def moved(model: mujoco.MjModel, qpos: np.ndarray, dof: int, by: float) -> np.ndarray:
    """Positions after a step along one coordinate of tangent space."""
    qpos, direction = qpos.copy(), np.eye(model.nv)[dof]
    for row in qpos:
        mujoco.mj_integratePos(model, row, direction, by)
    return qpos


def pulled_back(step: DifferentiableSimulation, samples: Samples, weights: Samples) -> Samples:
    """The gradient of Σ weights · (next qpos, next qvel), that of positions in tangent space."""
    inputs = [torch.from_numpy(x.copy()).requires_grad_() for x in samples]
    found = torch.autograd.grad(step(*inputs), inputs, [torch.from_numpy(x) for x in weights[:2]])
    of_qpos, of_qvel, of_control = (x.numpy() for x in found)
    return step._derivatives.tangent.into(samples[0], of_qpos), of_qvel, of_control


@all_bodies
def test_control_step_against_finite_differences(body: str) -> None:
    samples, epsilon, rng = samples_of(body, 14), 1e-6, np.random.default_rng(1)
    qpos, qvel, control = samples
    model, weights = build_model(body), [rng.normal(size=x.shape) for x in samples]
    touching = contacts(model, qpos)
    assert touching.min() == 0 and (touching > 0).sum() >= 3
    simulation = Simulation(model, len(qpos))

    def weighted(qpos: np.ndarray, qvel: np.ndarray, control: np.ndarray) -> np.ndarray:
        last = simulation.advance(np.hstack([np.zeros((len(qpos), 1)), qpos, qvel]), control)[:, -1, 1:]
        return (last * np.hstack(weights[:2])).sum(1)

    def differences(number: int, shifted) -> np.ndarray:
        columns = [(weighted(*shifted(k, epsilon)) - weighted(*shifted(k, -epsilon))) for k in range(number)]
        return np.stack(columns, 1) / (2 * epsilon)

    controls, dofs = np.eye(model.nu), np.eye(model.nv)
    expected = (
        differences(model.nv, lambda k, by: (moved(model, qpos, k, by), qvel, control)),
        differences(model.nv, lambda k, by: (qpos, qvel + by * dofs[k], control)),
        differences(min(model.nu, 30), lambda k, by: (qpos, qvel, control + by * controls[k])),
    )
    found = pulled_back(DifferentiableSimulation(simulation, body), samples, weights)
    for ours, theirs in zip(found, expected, strict=True):
        ours = ours[:, : theirs.shape[1]]
        error = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
        assert np.median(error) < 1e-4 and np.quantile(error, 0.75) < 1e-3


@pytest.mark.parametrize("body", ["hopper", "ant", "humanoid"])
def test_control_step_against_mujocos_own_transitions(body: str) -> None:
    """The chain of the centred Jacobians of all time steps."""
    samples, rng = samples_of(body, 6), np.random.default_rng(2)
    model, weights = build_model(body), [rng.normal(size=x.shape) for x in samples]
    simulation = Simulation(model, len(samples[0]))
    found = pulled_back(DifferentiableSimulation(simulation, body), samples, weights)
    data, nv, errors = mujoco.MjData(model), model.nv, []
    for i, (qpos, qvel, control) in enumerate(zip(*samples, strict=True)):
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, control
        whole, of_control = np.eye(2 * nv), np.zeros((2 * nv, model.nu))
        for _ in range(simulation.control_steps):
            by_state, by_control = np.zeros((2 * nv, 2 * nv)), np.zeros((2 * nv, model.nu))
            mujoco.mj_forward(model, data)
            mujoco.mjd_transitionFD(model, data, 1e-6, True, by_state, by_control, None, None)
            whole, of_control = by_state @ whole, by_state @ of_control + by_control
            mujoco.mj_step(model, data)
        of_last = Tangent(model).into(data.qpos[None].copy(), weights[0][i : i + 1])[0]
        cotangent = np.concatenate([of_last, weights[1][i]])
        for ours, theirs in ((np.hstack([x[i] for x in found[:2]]), whole), (found[2][i], of_control)):
            expected = cotangent @ theirs
            errors.append(np.linalg.norm(ours - expected) / np.linalg.norm(expected))
    assert np.median(errors) < 1e-4


SLIDER = """<mujoco><option timestep="{step}" gravity="0 0 0" integrator="implicitfast"/><worldbody><body>
<joint name="x" type="slide" axis="1 0 0" damping="3"/><geom size=".1" mass="2"/></body></worldbody>
<actuator><motor joint="x" gear="5"/></actuator></mujoco>"""
PENDULUM = """<mujoco><option timestep="{step}" integrator="implicitfast"/><worldbody><body>
<joint name="angle" axis="0 1 0" armature=".1"/><geom size=".1" pos="0 0 -.5" mass="2"/></body></worldbody>
<actuator><motor joint="angle" gear="2"/></actuator></mujoco>"""


@pytest.mark.parametrize("xml", [SLIDER, PENDULUM])
def test_closed_forms(xml: str) -> None:
    """A damped mass on a rail, v' = (m v + 5 h u) / (m + 3 h), and a pendulum, v' = v + h (2 u − m g l sin q) / I."""
    h = 1 / 240
    model = mujoco.MjModel.from_xml_string(xml.format(step=h))
    q, v, u = (np.random.default_rng(0).normal(size=(5, 1)) for _ in range(3))
    inertia = 0.1 + 2 * (0.5**2 + 0.4 * 0.1**2)
    by_q, by_v, by_u = (np.ones_like(q), 0 * q), (0 * q, np.ones_like(q)), (0 * q, 0 * q)
    position, speed = q, v
    for _ in range(4):
        if xml == SLIDER:
            change = [x[1] * 2 / (2 + 3 * h) for x in (by_q, by_v, by_u)]
            change[2] += 5 * h / (2 + 3 * h)
            speed = (2 * speed + 5 * h * u) / (2 + 3 * h)
        else:
            slope = -2 * 9.81 * 0.5 * np.cos(position) / inertia
            change = [x[1] + h * slope * x[0] for x in (by_q, by_v, by_u)]
            change[2] += 2 * h / inertia
            speed = speed + h * (2 * u - 2 * 9.81 * 0.5 * np.sin(position)) / inertia
        by_q, by_v, by_u = ((x[0] + h * c, c) for x, c in zip((by_q, by_v, by_u), change, strict=True))
        position = position + h * speed
    step = DifferentiableSimulation(Simulation(model, 5), "closed form")
    last = step(*map(torch.from_numpy, (q, v, u)))
    np.testing.assert_allclose(np.hstack(last), np.hstack([position, speed]), rtol=1e-9)
    for k, expected in enumerate(zip(by_q, by_v, by_u, strict=True)):
        weights = [np.full((5, 1), float(k == i)) for i in range(2)]
        found = pulled_back(step, (q, v, u), [*weights, None])
        np.testing.assert_allclose(np.hstack(found), np.hstack(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("body", ["hopper", "ant"])
def test_long_return_against_finite_differences(body: str) -> None:
    """32 steps of rewards, along random directions in the space of all actions."""
    model, num, epsilon, rng = build_model(body), 8, 1e-6, np.random.default_rng(3)
    simulation = Simulation(model, num)
    step = DifferentiableSimulation(simulation, body)
    start = [BODIES[body].start(model, np.random.default_rng(i)) for i in range(num)]
    qpos, qvel = (np.stack(x) for x in zip(*start, strict=True))
    actions = rng.uniform(-0.3, 0.3, (32, num, model.nu))

    def total(actions: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        """Returns `[N]`, and the contacts at every step."""
        state, rewards, touching = list(map(torch.from_numpy, (qpos, qvel))), 0.0, []
        for control in actions:
            state = step(*state, control)
            rewards = rewards + BODIES[body].reward(*state, control)
            touching.append(contacts(model, state[0].detach().numpy()))
        return rewards, np.stack(touching)

    given = torch.from_numpy(actions).requires_grad_()
    gradient = torch.autograd.grad(total(given)[0].sum(), given)[0].numpy()
    ours, theirs, same = [], [], np.ones(num, bool)
    for _ in range(6):
        direction = rng.normal(size=actions.shape)
        (plus, at_plus), (minus, at_minus) = (
            total(torch.from_numpy(actions + by * direction)) for by in (epsilon, -epsilon)
        )
        theirs.append((plus - minus).numpy() / (2 * epsilon))
        ours.append((gradient * direction).sum((0, 2)))
        same &= (at_plus == at_minus).all(0)
    ours, theirs = np.array(ours)[:, same], np.array(theirs)[:, same]
    assert same.sum() >= 4
    cosine = (ours * theirs).sum(0) / np.linalg.norm(ours, axis=0) / np.linalg.norm(theirs, axis=0)
    assert cosine.min() > 0.99


@pytest.mark.parametrize("threads", [1, 3])
def test_without_a_compiler_gradients_are_the_same_and_a_line_says_so(
    threads: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    samples, rng = samples_of("ant", 6), np.random.default_rng(5)
    weights = [rng.normal(size=x.shape) for x in samples]

    def gradient() -> Samples:
        simulation = Simulation(build_model("ant"), 6)
        simulation.threads = threads
        return pulled_back(DifferentiableSimulation(simulation, "ant"), samples, weights)

    compiled = gradient()
    monkeypatch.setattr(derivatives, "_compiled_loop", functools.cache(_compiled_loop.__wrapped__))
    monkeypatch.setenv("PATH", "")
    for ours, theirs in zip(gradient(), compiled, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert re.fullmatch(r"warning: gradients of the simulator take longer: .* install g\+\+\n", capsys.readouterr().err)


def test_without_a_wanted_gradient_nothing_is_linearised(monkeypatch: pytest.MonkeyPatch) -> None:
    step = DifferentiableSimulation(Simulation(build_model("hopper"), 3), "hopper")
    monkeypatch.setattr(step._derivatives, "linearise", None)
    inputs = [torch.from_numpy(x.copy()) for x in samples_of("hopper", 3)]
    step(*inputs)
    with torch.no_grad():
        step(*(x.requires_grad_() for x in inputs))
    with pytest.raises(TypeError):
        step(*inputs)


def refused(change, *parts: str) -> None:
    """A pendulum that was changed is refused by name."""
    spec = mujoco.MjSpec.from_string(PENDULUM.format(step=0.004))
    spec.actuators[0].name = "motor"
    change(spec)
    refusal(lambda: DifferentiableSimulation(Simulation(spec.compile(), 1), "pendulum"), "pendulum", *parts)


def test_models_that_are_not_differentiated_are_refused() -> None:
    def integrator(spec: mujoco.MjSpec) -> None:
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_RK4

    def noslip(spec: mujoco.MjSpec) -> None:
        spec.option.noslip_iterations = 2

    def dynamics(spec: mujoco.MjSpec) -> None:
        spec.actuators[0].dyntype = mujoco.mjtDyn.mjDYN_FILTER

    def limited_actuator(spec: mujoco.MjSpec) -> None:
        spec.actuators[0].forcelimited, spec.actuators[0].forcerange = True, [-1, 1]

    def limited_joint(spec: mujoco.MjSpec) -> None:
        spec.joints[0].actfrclimited, spec.joints[0].actfrcrange = True, [-1, 1]

    refused(integrator, "integrator RK4", "implicitfast")
    refused(noslip, "noslip_iterations 2")
    refused(dynamics, "actuator 'motor'", "dynamics")
    refused(limited_actuator, "actuator 'motor'", "forcerange")
    refused(limited_joint, "joint 'angle'", "actuatorfrcrange")
    check_differentiable(build_model("snu-humanoid"))
