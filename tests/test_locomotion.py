"""Ant, ANYmal and humanoid against MuJoCo's own quantities and closed forms."""

import math

import mujoco
import numpy as np
import pytest

from pwm import envs
from pwm.envs.locomotion import MODELS, LocomotionVectorEnv, build_model

BODIES = ("ant", "anymal", "humanoid")
TORSO = {"ant": "torso", "anymal": "base", "humanoid": "torso"}
FLOOR = {"ant": 0.27, "anymal": 0.25, "humanoid": 0.74}  # m
ACTION_COST = {"ant": 0.0, "anymal": 0.005, "humanoid": 0.002}

all_bodies = pytest.mark.parametrize("body", BODIES)


@pytest.fixture
def model(body: str) -> mujoco.MjModel:
    return build_model(body)


def make_at(task: str, qpos: np.ndarray, qvel: np.ndarray) -> LocomotionVectorEnv:
    """Bodies in the states `[N, nq]`, `[N, nv]`."""
    env = envs.make(task, num_envs=len(qpos))
    env.reset()
    env.restore(env.state() | {"physics": np.hstack([np.zeros((len(qpos), 1)), qpos, qvel])})
    return env


def states_of(env: LocomotionVectorEnv, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    physics = env.state()["physics"]
    return physics[:, 1 : 1 + model.nq], physics[:, 1 + model.nq :]


def random_states(model: mujoco.MjModel, num: int) -> tuple[np.ndarray, np.ndarray]:
    """In the air and near the ground, bent, tilted at random, some below the floor height."""
    rng = np.random.default_rng(1)
    qpos = np.tile(model.key_qpos[0], (num, 1))
    qpos[:, :3] = rng.uniform([-5, -5, 0.2], [5, 5, 1.6], (num, 3))
    quaternion = rng.normal([2, 0, 0, 0], 1, (num, 4))
    qpos[:, 3:7] = quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)
    qpos[:, 7:] += rng.uniform(-0.3, 0.3, (num, model.nq - 7))
    return qpos, rng.uniform(-2, 2, (num, model.nv))


def total_energy(model: mujoco.MjModel, qpos: np.ndarray, qvel: np.ndarray) -> float:
    """Kinetic energy and that of gravity and springs, in J."""
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = qpos, qvel
    mujoco.mj_forward(model, data)
    mujoco.mj_energyPos(model, data)
    mujoco.mj_energyVel(model, data)
    return data.energy.sum()


@all_bodies
def test_reward_is_the_papers(body: str, model: mujoco.MjModel) -> None:
    env = make_at(body, *random_states(model, 200))
    actions = np.random.default_rng(2).uniform(-1, 1, (200, model.nu)).astype(np.float32)
    _, reward, terminated, _, info = env.step(actions)
    going = np.flatnonzero(~terminated)  # the others' states are those of the next episode
    assert 20 < len(going) < 200
    qpos, qvel = states_of(env, model)
    terms = []
    for i in going:
        matrix = np.zeros(9)
        mujoco.mju_quat2Mat(matrix, qpos[i, 3:7])
        if body == "humanoid":
            d = min(max(qpos[i, 2] - (0.74 + 0.1), -1.0), 0.1)
            terms.append(-200 * d * d if d < 0 else 10 * d)
        else:
            terms.append(qpos[i, 2] - FLOOR[body])
        cost = ACTION_COST[body] * sum(float(a) ** 2 for a in actions[i])
        expected = qvel[i, 0] + 0.1 * matrix[8] + matrix[0] + terms[-1] - cost
        assert reward[i] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    if body == "humanoid":
        assert min(terms) < 0 and any(0 < term < 1 for term in terms) and max(terms) == pytest.approx(1)
    np.testing.assert_array_equal(terminated, info["final_obs"][:, 0] < FLOOR[body])


@all_bodies
def test_observation_is_what_mujocos_sensors_measure(body: str) -> None:
    spec = mujoco.MjSpec.from_file(str(MODELS / f"{body}.xml"))
    frame = {"objtype": mujoco.mjtObj.mjOBJ_XBODY, "objname": TORSO[body]}
    for kind in ("POS", "QUAT", "LINVEL", "ANGVEL", "ZAXIS", "XAXIS"):
        spec.add_sensor(name=kind, type=getattr(mujoco.mjtSensor, f"mjSENS_FRAME{kind}"), **frame)
    joints = [joint.name for joint in spec.joints if joint.type == mujoco.mjtJoint.mjJNT_HINGE]
    for kind in ("POS", "VEL"):
        for joint in joints:
            sensor = getattr(mujoco.mjtSensor, f"mjSENS_JOINT{kind}")
            spec.add_sensor(name=f"{joint} {kind}", type=sensor, objtype=mujoco.mjtObj.mjOBJ_JOINT, objname=joint)
    model = spec.compile()
    names = [model.sensor(i).name for i in range(model.nsensor)]
    env = make_at(body, *random_states(model, 20))
    actions = np.random.default_rng(3).uniform(-1, 1, (20, model.nu)).astype(np.float32)
    observation, _, terminated, _, _ = env.step(actions)
    qpos, qvel = states_of(env, model)
    data = mujoco.MjData(model)
    for i in np.flatnonzero(~terminated):
        data.qpos[:], data.qvel[:] = qpos[i], qvel[i]
        mujoco.mj_forward(model, data)
        read = {name: data.sensor(name).data for name in names}
        angles, velocities = ([read[f"{joint} {kind}"][0] for joint in joints] for kind in ("POS", "VEL"))
        quaternion = read["QUAT"] * np.sign(read["QUAT"] @ qpos[i, 3:7])  # q and -q are the same orientation
        torso = [read["POS"][2], *quaternion, *read["LINVEL"], *read["ANGVEL"]]
        axes = [read["ZAXIS"][2], read["XAXIS"][0]]
        expected = [*torso, *angles, *(0.1 * np.array(velocities)), *axes, *actions[i]]
        np.testing.assert_allclose(observation[i], expected, rtol=1e-5, atol=1e-5)


@all_bodies
def test_last_action_is_nought_at_the_start(body: str, model: mujoco.MjModel) -> None:
    env = envs.make(body, num_envs=4)
    assert not env.reset()[0][:, -model.nu :].any()
    qpos, qvel = random_states(model, 4)
    qpos[:2, 2] = 0.1  # below the floor: these episodes end, and others begin
    env = make_at(body, qpos, qvel)
    observation, _, terminated, _, info = env.step(np.full((4, model.nu), 2.0))
    np.testing.assert_array_equal(terminated[:2], True)
    assert not observation[terminated, -model.nu :].any()
    np.testing.assert_array_equal(info["final_obs"][:, -model.nu :], 1.0)  # clipped


@pytest.mark.parametrize("body", [*BODIES, "hopper-stiff", "hopper-soft", "hopper-gymnasium"])
def test_result_does_not_depend_on_the_threads(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(threads: str) -> np.ndarray:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        env = envs.make(body, num_envs=5)
        env.reset()
        actions = np.random.default_rng(0).uniform(-1, 1, (40, 5, env.task.action_dim))
        observations = np.stack([env.step(action)[0] for action in actions])
        env.close()
        return observations

    np.testing.assert_array_equal(run("1"), run("3"))


def test_masses() -> None:
    def capsule(radius: float, length: float) -> float:
        return 1000 * math.pi * radius**2 * (length + 4 / 3 * radius)

    ant = build_model("ant").body_mass.sum()
    assert ant == pytest.approx(
        1000 * 4 / 3 * math.pi * 0.25**3 + 8 * capsule(0.08, 0.2 * 2**0.5) + 4 * capsule(0.08, 0.4 * 2**0.5)
    )
    # The maker's description: base 26.4 kg, and per leg a hip with a drive, a thigh with a drive, a shank with a foot.
    assert build_model("anymal").body_mass.sum() == pytest.approx(26.36 + 4 * (2.78 + 3.07 + 0.59))
    assert build_model("humanoid").body_mass.sum() == pytest.approx(40.84, abs=0.01)  # dm_control's humanoid


LIMITS = {  # degrees (ANYmal: radians), of joints whose names hold the word
    "ant": {"hip": (-40, 40), "ankle": (30, 100)},
    "anymal": {"LF_HAA": (-0.72, 0.49), "LH_HAA": (-0.72, 0.49), "RF_HAA": (-0.49, 0.72), "RH_HAA": (-0.49, 0.72)},
    "humanoid": {
        "abdomen_z": (-45, 45),
        "abdomen_y": (-75, 30),
        "abdomen_x": (-35, 35),
        "hip_x": (-25, 5),
        "hip_z": (-60, 35),
        "hip_y": (-80, 20),
        "knee": (-160, 2),
        "ankle": (-50, 50),
        "shoulder": (-60, 60),
        "elbow": (-90, 50),
    },
}
TORQUES = {  # Nm, of motors whose names hold the word
    "ant": {"": 200},
    "anymal": {"": 80},
    "humanoid": {
        "abdomen": 70,
        "hip_x": 70,
        "hip_z": 70,
        "hip_y": 210,
        "knee": 140,
        "ankle": 35,
        "shoulder": 35,
        "elbow": 70,
    },
}


@all_bodies
def test_limits_of_joints_and_motors(body: str, model: mujoco.MjModel) -> None:
    unit = 1 if body == "anymal" else math.pi / 180
    with_range = 0
    for word, limits in LIMITS[body].items():
        for joint in range(1, model.njnt):
            if word in model.joint(joint).name:
                np.testing.assert_allclose(model.jnt_range[joint], np.array(limits) * unit)
                with_range += 1
    limited, stops = (4, 0) if body == "anymal" else (0, model.nu)
    assert (model.jnt_limited.sum(), model.ntendon) == (limited, stops) and with_range == limited + stops
    data = mujoco.MjData(model)
    data.qpos[:] = model.key_qpos[0]
    data.ctrl[:] = 5.0  # clipped to 1
    mujoco.mj_forward(model, data)
    for word, torque in TORQUES[body].items():
        for motor in range(model.nu):
            if word in model.actuator(motor).name:
                driven = model.jnt_dofadr[model.actuator_trnid[motor, 0]]
                assert data.qfrc_actuator[driven] == pytest.approx(torque)
    assert not data.qfrc_actuator[:6].any()  # nothing pushes the torso
    assert np.count_nonzero(data.qfrc_actuator) == model.nu


@pytest.mark.parametrize("body", ["ant", "humanoid"])
def test_stops_are_springs_beyond_the_range(body: str) -> None:
    """1000 Nm/rad, and none within."""
    model = build_model(body)
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    data.qpos[:] = model.key_qpos[0]
    data.qpos[7:] = rng.uniform(-3.0, 3.0, model.nu)
    mujoco.mj_forward(model, data)
    q, (low, high) = data.qpos[7:], model.jnt_range[1:].T
    own = -model.jnt_stiffness[1:] * (q - model.qpos_spring[7:])
    np.testing.assert_allclose(data.qfrc_spring[6:] - own, 1000.0 * (q.clip(low, high) - q), atol=1e-9)


def mirrored(body: str, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """Where each hinge goes when the body is seen in a mirror, left for right, and the sign of its angle there."""
    names = [model.joint(joint).name for joint in range(1, model.njnt)]
    swap = {"left": "right", "right": "left", "LF": "RF", "RF": "LF", "LH": "RH", "RH": "LH"}
    signs = {"ant": ("hip",), "anymal": ("HAA",), "humanoid": ("abdomen_z", "abdomen_x")}[body]
    order = [names.index("_".join(swap.get(word, word) for word in name.split("_"))) for name in names]
    return np.array(order), np.array([-1.0 if any(word in name for word in signs) else 1.0 for name in names])


@all_bodies
def test_mirrored_body_moves_as_in_a_mirror(body: str, model: mujoco.MjModel) -> None:
    order, signs = mirrored(body, model)
    reflection = np.array([1.0, -1.0, 1.0])

    def reflect(qpos: np.ndarray, qvel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        quaternion = qpos[:, 3:7] * [1, -1, 1, -1]
        angular = -qvel[:, 3:6] * reflection  # an axial vector
        position = np.hstack([qpos[:, :3] * reflection, quaternion, qpos[:, 7:][:, order] * signs])
        return position, np.hstack([qvel[:, :3] * reflection, angular, qvel[:, 6:][:, order] * signs])

    start = envs.make(body, num_envs=4)
    start.reset()
    qpos, qvel = states_of(start, model)
    env, image = make_at(body, qpos, qvel), make_at(body, *reflect(qpos, qvel))
    for action in np.random.default_rng(4).uniform(-0.5, 0.5, (12, 4, model.nu)):
        assert not env.step(action)[2].any()
        image.step(action[:, order] * signs)
    for seen, expected in zip(states_of(image, model), reflect(*states_of(env, model)), strict=True):
        np.testing.assert_allclose(seen, expected, atol=1e-4)
    assert (np.abs(states_of(env, model)[0] - qpos).max(axis=1) > 0.1).all()


@all_bodies
def test_passive_body_loses_energy(body: str, model: mujoco.MjModel) -> None:
    env = make_at(body, model.key_qpos[:1] + 0.0, np.zeros((1, model.nv)))
    energies = []
    for _ in range(40):
        energies.append(total_energy(model, *(array[0] for array in states_of(env, model))))
        assert not env.step(np.zeros((1, model.nu)))[2].any()
    weight = 9.81 * model.body_mass.sum()
    assert energies[0] - energies[-1] > 0.05 * weight  # J; it has fallen by more than 5 cm
    assert max(energies) < energies[0] + 1e-3 * weight  # contacts may give back what they took
    assert body != "anymal" or np.diff(energies).max() < 0.01 * weight  # that damp, at most 1 cm of height


def settle(body: str, control: float, seconds: float) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """The undisturbed body after so many seconds of one control in all motors."""
    model = build_model(body)
    data = mujoco.MjData(model)
    data.qpos[:] = model.key_qpos[0]
    data.ctrl[:] = control
    while data.time < seconds:
        mujoco.mj_step(model, data)
    return model, data


def assert_carried_by_the_ground(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """At rest, but for the slow creep of MuJoCo's friction, on contacts that carry the whole weight."""
    assert np.abs(data.qvel).max() < 0.1
    mujoco.mj_forward(model, data)
    assert data.qfrc_constraint[2] == pytest.approx(9.81 * model.body_mass.sum(), rel=0.02)
    assert 0 > data.contact.dist.min() > -0.002


def test_limp_ant_sags_into_the_stops_of_its_ankles() -> None:
    """How far without friction: four springs of 1000 Nm/rad carry torso and thighs, and half of each shank."""
    model, data = settle("ant", control=0.0, seconds=8.0)
    ankles, length = data.qpos[8::2], 0.4 * 2**0.5
    np.testing.assert_allclose(data.qpos[2], length * np.sin(ankles) + 0.08, atol=0.005)  # over the sole of each shank
    carried = model.body_mass.sum() - 2 * model.body("front_left_shank").mass[0]
    sag = 9.81 * carried * length * np.cos(ankles) / 4000
    assert (ankles < np.radians(30)).all() and (ankles > np.radians(30) - sag).all()
    forces = []
    for _ in range(240):  # its contacts swing on for long
        mujoco.mj_step(model, data)
        forces.append(data.qfrc_constraint[2])
    assert np.mean(forces) == pytest.approx(9.81 * model.body_mass.sum(), rel=0.02)


def test_anymal_stands_on_its_springs() -> None:
    model, data = settle("anymal", control=0.0, seconds=1.0)
    assert_carried_by_the_ground(model, data)
    assert 0.45 < data.qpos[2] < 0.55  # 0.549 m with the stance's angles exactly
    feet = [data.geom(f"{leg}_foot").xpos for leg in ("LF", "RF", "LH", "RH")]
    np.testing.assert_allclose([foot[2] for foot in feet], 0.03, atol=0.002)  # their radius
    x, y = np.abs(feet)[:, :2].T
    assert (x > 0.35).all() and (y > 0.25).all()  # below and outside the hips at 0.36 and 0.19 m


def test_upright_humanoids_soles_are_below_its_torso_by_the_lengths_of_its_links() -> None:
    model = build_model("humanoid")
    data = mujoco.MjData(model)
    data.qpos[:] = model.key_qpos[0]
    mujoco.mj_forward(model, data)
    soles = [data.geom(f"{side}_{part}_sole").xpos[2] for side in ("left", "right") for part in ("inner", "outer")]
    links = 0.26 + 0.165 + 0.04 + 0.403 + 0.39  # torso, waist, pelvis, thigh, shin
    np.testing.assert_allclose(data.body("torso").xpos[2] - np.array(soles), links)
    assert min(soles) - 0.027 == pytest.approx(0.065)  # it starts in the air, clear of the start's noise in most cases


def test_limp_humanoid_falls_and_the_episode_ends_below_the_floor() -> None:
    env = envs.make("humanoid", num_envs=8)
    env.reset()
    fallen = np.zeros(8, bool)
    for _ in range(200):
        _, _, terminated, truncated, info = env.step(np.zeros((8, 21)))
        np.testing.assert_array_equal(terminated, info["final_obs"][:, 0] < 0.74)
        assert not truncated.any() and not info["success"].any()
        fallen |= terminated
    assert fallen.all()


@all_bodies
def test_starts_are_disturbed_within_limits(body: str, model: mujoco.MjModel) -> None:
    env = envs.make(body, num_envs=256)
    env.reset()
    qpos, qvel = states_of(env, model)
    place = np.abs(qpos[:, :3] - model.key_qpos[0, :3]).max(axis=0)
    assert (place <= 0.1).all() and (place > 0.09).all()
    tilt = np.degrees(2 * np.arccos(np.abs(qpos[:, 3])))
    assert 7 < tilt.max() <= 7.5
    spread = np.abs(qpos[:, 7:] - model.key_qpos[0, 7:]).max(axis=0)
    assert (spread <= 0.2 + 1e-9).all() and (spread > 0.15).all()
    limited = model.jnt_range[1:, 0] < model.jnt_range[1:, 1]
    low, high = model.jnt_range[1:][limited].T
    assert (qpos[:, 7:][:, limited] >= low).all() and (qpos[:, 7:][:, limited] <= high).all()
    assert 0.24 < np.abs(qvel).max() <= 0.25
