"""The hopper against MuJoCo's own quantities, plain stepping and closed forms."""

import math
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

from pwm import envs
from pwm.envs.locomotion import LocomotionVectorEnv, build_model
from pwm.errors import UserError

STEP = 1 / 60  # s
SUBSTEPS = 4
TORSO_HEIGHT = 1.25  # m, of the upright pose


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return build_model("hopper")


def make_at(qpos: np.ndarray, qvel: np.ndarray) -> LocomotionVectorEnv:
    """Hoppers in the states `[N, 6]`, `[N, 6]`."""
    env = envs.make("hopper", num_envs=len(qpos))
    env.reset()
    env.restore(env.state() | {"physics": np.hstack([np.zeros((len(qpos), 1)), qpos, qvel])})
    return env


def states_of(env: LocomotionVectorEnv) -> tuple[np.ndarray, np.ndarray]:
    physics = env.state()["physics"]
    return physics[:, 1:7], physics[:, 7:]


def random_states(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Poses in the air and in the ground, bent and tilted, some below the floor height."""
    rng = np.random.default_rng(1)
    low, high = [-3, -0.6, -0.8, -1.5, -1.5, -0.7], [3, 0.3, 0.8, 0, 0, 0.7]
    return rng.uniform(low, high, (num, 6)), rng.uniform(-2, 2, (num, 6))


def balance(observation: np.ndarray) -> np.ndarray:
    """A stiff leg: torques against joint angles and joint velocities. `[N, 11]` to `[N, 3]`."""
    return -3.0 * observation[:, 2:5] - 0.3 * observation[:, 8:11]


def test_reward_is_the_papers() -> None:
    env = make_at(*random_states(200))
    actions = np.random.default_rng(2).uniform(-1, 1, (200, 3)).astype(np.float32)
    _, reward, terminated, _, info = env.step(actions)
    going = np.flatnonzero(~terminated)  # the others' states are those of the next episode
    qpos, qvel = states_of(env)
    terms = []
    for i in going:
        distance = min(max(qpos[i, 1] - (-0.45 + 0.15), -1.0), 0.3)
        terms.append(-200 * distance**2 if distance < 0 else distance)
        upright = 1 - (math.degrees(qpos[i, 2]) / 30) ** 2
        expected = qvel[i, 0] + terms[-1] + upright - 0.1 * sum(float(a) ** 2 for a in actions[i])
        assert reward[i] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    seen = [min(terms) < 0, any(0 < term < 0.3 for term in terms), max(terms) == 0.3]
    assert all(seen)  # every branch of the height term
    assert 20 < len(going) < 200
    np.testing.assert_array_equal(terminated, info["final_obs"][:, 0] < -0.45)


def test_observation_is_what_mujoco_measures(model: mujoco.MjModel) -> None:
    env = make_at(*random_states(20))
    observation, _, terminated, _, _ = env.step(np.zeros((20, 3)))
    qpos, qvel = states_of(env)
    data = mujoco.MjData(model)
    names = ("torso", "thigh", "leg", "foot")
    for i in np.flatnonzero(~terminated):
        data.qpos[:], data.qvel[:] = qpos[i], qvel[i]
        mujoco.mj_forward(model, data)
        pitch, velocities = [], []
        for name in names:
            matrix = data.body(name).xmat.reshape(3, 3)
            pitch.append(math.atan2(matrix[0, 2], matrix[2, 2]))  # about y, from z towards x
            velocity = np.zeros(6)  # angular, linear; in the world's frame
            mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, model.body(name).id, velocity, 0)
            velocities.append(velocity)
        height = data.body("torso").xpos[2] - TORSO_HEIGHT
        forward, upward = velocities[0][3], velocities[0][5]
        rates = [velocity[1] for velocity in velocities]
        expected = [height, pitch[0], *-np.diff(pitch), forward, upward, rates[0], *-np.diff(rates)]
        np.testing.assert_allclose(observation[i], expected, rtol=1e-5, atol=1e-5)


def test_batch_equals_plain_stepping_bit_for_bit(model: mujoco.MjModel) -> None:
    env = envs.make("hopper", num_envs=3, seed=4)
    env.reset()
    qpos, qvel = states_of(env)
    data = [mujoco.MjData(model) for _ in range(3)]
    for i in range(3):
        data[i].qpos[:], data[i].qvel[:] = qpos[i], qvel[i]
    for action in np.random.default_rng(3).uniform(-0.3, 0.3, (30, 3, 3)).astype(np.float32):
        assert not env.step(action)[2].any()
        for i in range(3):
            data[i].ctrl[:] = action[i]
            data[i].qacc_warmstart[:] = 0
            mujoco.mj_step(model, data[i], SUBSTEPS)
        qpos, qvel = states_of(env)
        np.testing.assert_array_equal(qpos, [d.qpos for d in data])
        np.testing.assert_array_equal(qvel, [d.qvel for d in data])
    assert data[0].time == pytest.approx(30 * STEP)


def test_result_does_not_depend_on_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(threads: str) -> np.ndarray:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        env = envs.make("hopper", num_envs=5)
        env.reset()
        actions = np.random.default_rng(0).uniform(-1, 1, (60, 5, 3))
        observations = np.stack([env.step(action)[0] for action in actions])
        env.close()
        return observations

    np.testing.assert_array_equal(run("1"), run("3"))
    with pytest.raises(UserError, match="OMP_NUM_THREADS"):
        run("many")


def test_masses_are_those_of_capsules_of_water(model: mujoco.MjModel) -> None:
    sizes = {"torso": (0.05, 0.4), "thigh": (0.05, 0.45), "leg": (0.04, 0.5), "foot": (0.06, 0.39)}
    for name, (radius, length) in sizes.items():
        volume = math.pi * radius**2 * length + 4 / 3 * math.pi * radius**3
        assert model.body(name).mass[0] == pytest.approx(1000 * volume)


def test_in_the_air_nothing_but_gravity_moves_the_centre_of_mass(model: mujoco.MjModel) -> None:
    qpos, qvel = random_states(10)
    qpos[:, 1] = 2.0
    env = make_at(qpos, qvel)
    momenta = [linear_momenta(model, env)]
    for action in np.random.default_rng(5).uniform(-0.3, 0.3, (10, 10, 3)):
        env.step(action)
        momenta.append(linear_momenta(model, env))
    weight = model.body_mass.sum() * 9.81
    expected = np.broadcast_to([0, 0, -weight * STEP], (10, 10, 3))
    np.testing.assert_allclose(np.diff(momenta, axis=0), expected, atol=0.02 * weight * STEP)  # of order h


def linear_momenta(model: mujoco.MjModel, env: LocomotionVectorEnv) -> np.ndarray:
    """Mass times the velocity of the centre of mass, `[N, 3]`."""
    data = mujoco.MjData(model)
    momenta = []
    for qpos, qvel in zip(*states_of(env), strict=True):
        data.qpos[:], data.qvel[:] = qpos, qvel
        mujoco.mj_forward(model, data)
        mujoco.mj_subtreeVel(model, data)
        momenta.append(model.body_mass.sum() * data.subtree_linvel[0])
    return np.array(momenta)


def test_balancing_hopper_stands_for_the_whole_episode_and_is_paid_for_it(model: mujoco.MjModel) -> None:
    env = envs.make("hopper", num_envs=2)
    observation, _ = env.reset()
    for t in range(1, 1001):
        observation, reward, terminated, truncated, info = env.step(balance(observation))
        np.testing.assert_array_equal(truncated, t == 1000)
        assert not terminated.any()
        if t == 999:
            qpos, qvel = states_of(env)
    sole_above_ground = 0.04 + info["final_obs"][:, 0]
    assert (np.abs(sole_above_ground) < 0.02).all()  # stands on its sole, hardly sunk in
    np.testing.assert_allclose(reward, 1 + 0.3 - 0.04, atol=0.03)
    assert np.abs(info["final_obs"][:, 5:]).max() < 0.1  # at rest
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = qpos[0], qvel[0]
    data.ctrl[:] = balance(info["final_obs"])[0]
    mujoco.mj_forward(model, data)
    assert data.qfrc_constraint[1] == pytest.approx(model.body_mass.sum() * 9.81, rel=0.05)  # the ground carries it


def test_limp_hopper_falls_and_the_episode_ends_below_the_floor() -> None:
    env = envs.make("hopper", num_envs=8)
    env.reset()
    fallen = np.zeros(8, bool)
    for _ in range(400):
        _, _, terminated, truncated, info = env.step(np.zeros((8, 3)))
        np.testing.assert_array_equal(terminated, info["final_obs"][:, 0] < -0.45)
        assert not truncated.any() and not info["success"].any()
        fallen |= terminated
    assert fallen.all()


def test_starts_are_upright_within_the_joint_limits(model: mujoco.MjModel) -> None:
    env = envs.make("hopper", num_envs=256)
    env.reset()
    qpos, qvel = states_of(env)
    for spread in (np.abs(qpos).max(axis=0), np.abs(qvel).max(axis=0)):
        assert (spread <= 0.05).all() and (spread > 0.045).all()
    assert (qpos[:, 3:] >= model.jnt_range[3:, 0]).all() and (qpos[:, 3:] <= model.jnt_range[3:, 1]).all()


def test_diverged_physics_stop_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warning there
    qpos, qvel = random_states(2)
    qvel[1] = 1e12
    with pytest.raises(FloatingPointError, match=r"environments \[1\]"):
        make_at(qpos, qvel).step(np.zeros((2, 3)))


def at_rest(stiffness: float) -> tuple[float, float]:
    """Depth of the sole in the ground and the force that carries the body, in m and N, after two seconds of balance."""
    model = build_model("hopper", stiffness)
    data = mujoco.MjData(model)
    while data.time < 2.0:
        data.ctrl[:] = -3.0 * data.qpos[3:] - 0.3 * data.qvel[3:]
        mujoco.mj_step(model, data)
    return -data.contact.dist.min(), data.qfrc_constraint[1]


@pytest.mark.parametrize("stiffness", [4.0, 25.0])
def test_stiffer_contacts_give_way_less(stiffness: float, model: mujoco.MjModel) -> None:
    (depth, force), (stiff_depth, stiff_force) = at_rest(1.0), at_rest(stiffness)
    assert depth / stiff_depth == pytest.approx(stiffness, rel=0.1)
    assert stiff_force == pytest.approx(force, rel=0.02)
    assert stiff_force == pytest.approx(model.body_mass.sum() * 9.81, rel=0.05)


def test_stiffness_changes_nothing_but_contacts_and_the_time_step(model: mujoco.MjModel) -> None:
    stiff = build_model("hopper", 25.0)
    np.testing.assert_allclose(stiff.geom_solref, model.geom_solref * [1 / 5, 1])
    np.testing.assert_array_equal(stiff.jnt_solref, model.jnt_solref)
    assert (model.opt.timestep, stiff.opt.timestep) == pytest.approx((1 / 240, 1 / 1200))
    assert (stiff.geom_solref[:, 0] > 2 * stiff.opt.timestep).all()  # else MuJoCo would soften it
    stiff.opt.timestep, stiff.geom_solref[:] = model.opt.timestep, model.geom_solref
    np.testing.assert_array_equal(saved(stiff), saved(model))


def test_soft_contacts_give_way_more_but_less_than_those_of_dflex() -> None:
    (depth, force), (soft_depth, soft_force) = at_rest(1.0), at_rest(1 / 9)
    springs = 2 * 2e4  # N/m, dflex's contacts under both ends of the foot
    assert 3 * depth < soft_depth < soft_force / springs
    assert soft_force == pytest.approx(force, rel=0.02)


def test_softness_changes_nothing_but_contacts(model: mujoco.MjModel) -> None:
    soft = build_model("hopper", 1 / 9)
    np.testing.assert_allclose(soft.geom_solref, model.geom_solref * [3, 1])
    soft.geom_solref[:] = model.geom_solref
    np.testing.assert_array_equal(saved(soft), saved(model))


def saved(model: mujoco.MjModel) -> np.ndarray:
    """The model's binary file."""
    buffer = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer


@pytest.mark.parametrize("task", ["hopper-stiff", "hopper-soft", "hopper-gymnasium"])
def test_hopper_stands_on_other_contacts_for_the_whole_episode(task: str) -> None:
    env = envs.make(task, num_envs=2)
    observation, _ = env.reset()
    for t in range(1, 1001):
        observation, reward, terminated, truncated, info = env.step(balance(observation))
        assert not terminated.any()
        np.testing.assert_array_equal(truncated, t == 1000)
    np.testing.assert_allclose(reward, 1 + 0.3 - 0.04, atol=0.03)
    assert np.abs(info["final_obs"][:, 5:]).max() < 0.1  # at rest


def test_gymnasiums_hopper_has_its_foot_contacts_and_joints() -> None:
    file = Path(gymnasium.__file__).parent / "envs/mujoco/assets/hopper.xml"
    theirs = mujoco.MjModel.from_xml_path(str(file))
    ours = envs.make("hopper-gymnasium", num_envs=1).scene()[0]
    np.testing.assert_allclose(ours.dof_damping, theirs.dof_damping)
    np.testing.assert_allclose(ours.dof_armature, theirs.dof_armature)
    for name in ("torso", "thigh", "leg", "foot"):
        one, other = ours.geom(name), theirs.geom(f"{name}_geom")
        assert one.friction[0] == other.friction[0]
        np.testing.assert_allclose(one.solimp[:3], other.solimp[:3])
