"""Gradients of the locomotion suite against finite differences, MuJoCo's own derivatives and closed forms."""

import functools
import re

import mujoco
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from support import refusal

from pwm import envs
from pwm.envs import derivatives
from pwm.envs.derivatives import Tangent, _compiled_loop, check_differentiable
from pwm.envs.differentiable import DifferentiableSimulation, DifferentiableVectorEnv, make_differentiable
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


@all_bodies
def test_observations_and_rewards_of_tensors(body: str) -> None:
    """Those of arrays, with exact gradients."""
    samples = [x[::4] for x in samples_of(body, 14)]
    tensors = [torch.from_numpy(x.copy()).requires_grad_() for x in samples]
    for function in (BODIES[body].observe, BODIES[body].reward):
        np.testing.assert_array_equal(function(*tensors).detach().numpy(), function(*samples))
        torch.autograd.gradcheck(function, tensors, eps=1e-7, atol=1e-5)


def shot(env: DifferentiableVectorEnv, actions: torch.Tensor) -> list:
    """A window of steps."""
    env.begin_window()
    return [env.advance(action) for action in actions]


@all_bodies
def test_environment_gives_what_the_plain_one_gives(body: str) -> None:
    """Through resets, too, and from a snapshot anew."""
    plain, env = envs.make(body, 6, seed=5), make_differentiable(body, 6, seed=5)
    np.testing.assert_array_equal(env.reset(seed=5)[0], plain.reset(seed=5)[0])
    late = {"elapsed": np.array([980] * 3 + [0] * 3)}
    for one in (env, plain):
        one.restore(one.state() | late)
    actions = torch.from_numpy(np.random.default_rng(0).uniform(-1.2, 1.2, (60, 6, env.task.action_dim))).float()
    snapshot, ends = env.state(), 0
    first = shot(env, actions[:40]) + shot(env, actions[40:])
    for action, ours in zip(actions, first, strict=True):
        observation, reward, terminated, truncated, info = plain.step(action.numpy())
        for seen, expected in zip(ours, (observation, reward, terminated, truncated, info["final_obs"]), strict=True):
            np.testing.assert_allclose(seen, expected, rtol=1e-6, atol=1e-6)
        ends += (terminated | truncated).sum()
    assert ends >= 3
    for ours, theirs in zip(env.state().values(), plain.state().values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    env.restore(snapshot)
    for again, before in zip(shot(env, actions), first, strict=True):
        for x, y in zip(again, before, strict=True):
            assert torch.equal(x, y)
    env.close()


def test_gradients_end_where_episodes_end() -> None:
    env = make_differentiable("hopper", 3)
    env.reset()
    state = env.state() | {"elapsed": np.array([998, 0, 0])}
    state["physics"][1, 2:6] = -0.5, 0.0, -1.0, -2.0  # its leg drawn up, below the floor
    env.restore(state)
    actions = torch.zeros(4, 3, 3, requires_grad=True)
    seen = shot(env, actions)
    assert [x.truncated.tolist() for x in seen[:2]] == [[0, 0, 0], [1, 0, 0]] and seen[0].terminated[1] == 1

    def reaches(what: torch.Tensor) -> list[list[bool]]:
        """Whether a gradient reaches each step's action, by environment."""
        found = torch.autograd.grad(what.sum(), actions, retain_graph=True)[0]
        return (found.abs().sum(2) > 0).T.tolist()

    assert reaches(seen[3].reward) == [[False, False, True, True], [False, True, True, True], [True] * 4]
    assert reaches(seen[1].final_observation)[0] == [True, True, False, False]
    assert reaches(seen[1].observation)[0] == [False] * 4
    env.begin_window()
    later = env.advance(actions[3].detach())
    assert not later.reward.requires_grad


def test_clipped_actions_have_no_gradient() -> None:
    env = make_differentiable("hopper", 1)
    env.reset()
    env.begin_window()
    action = torch.tensor([[1.5, 0.5, -2.0]], requires_grad=True)
    gradient = torch.autograd.grad(env.advance(action).reward.sum(), action)[0]
    assert (gradient != 0).tolist() == [[False, True, False]]


def test_softened_contacts_are_those_of_the_soft_hopper() -> None:
    """Steps and gradients alike, and the body's own again afterwards; of the same actions, with landings."""
    actions = (0.5 * torch.arange(40 * 4 * 3).sin()).view(40, 4, 3).requires_grad_()

    def gradient(env: DifferentiableVectorEnv) -> torch.Tensor:
        env.reset(seed=1)
        return torch.autograd.grad(sum(x.reward.sum() for x in shot(env, actions)), actions)[0]

    env, soft = make_differentiable("hopper", 4), make_differentiable("hopper-soft", 4)
    before = gradient(env)
    env.soften(3.0)
    torch.testing.assert_close(gradient(env), gradient(soft), rtol=1e-2, atol=1e-2)  # finite differences of 3e-8
    assert (gradient(env) - before).abs().max() > 0.1
    env.soften(1.0)
    assert torch.equal(gradient(env), before)


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


def test_result_does_not_depend_on_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient(threads: str) -> torch.Tensor:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        env = make_differentiable("ant", 5)
        env.reset()
        actions = (0.3 * torch.arange(8 * 5 * 8).sin()).view(8, 5, 8).requires_grad_()
        found = torch.autograd.grad(sum(x.reward.sum() for x in shot(env, actions)), actions)[0]
        env.close()
        return found

    assert torch.equal(gradient("1"), gradient("3"))


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


def test_other_tasks_are_refused() -> None:
    refusal(lambda: make_differentiable("walker-run", 1), "walker-run", "locomotion")


def test_windows_begin_before_steps() -> None:
    env = make_differentiable("hopper", 1)
    with pytest.raises(ResetNeeded):
        env.begin_window()
    env.reset()
    env.begin_window()
    env.reset()
    with pytest.raises(ResetNeeded):
        env.advance(torch.zeros(1, 3))


def test_a_gradient_that_is_not_finite_is_named() -> None:
    env = make_differentiable("hopper", 3)
    env.reset()
    actions = torch.zeros(4, 3, 3, requires_grad=True)
    reward = shot(env, actions)[2].reward * torch.tensor([1.0, float("nan"), 1.0])
    with pytest.raises(FloatingPointError, match=r"hopper: control step 2: the gradient .* in environments \[1\]"):
        reward.sum().backward()
