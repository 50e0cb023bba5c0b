"""The SNU humanoid and its muscles against closed forms, MuJoCo's own quantities, its mirror image and anatomy."""

import math
from pathlib import Path

import mujoco
import numpy as np
import pytest

from pwm import envs
from pwm.envs.locomotion import MODELS, build_model
from pwm.envs.muscles import add_muscles
from pwm.envs.snu_humanoid import SNUHumanoid
from pwm.errors import UserError

JOINTS = ("hip", "knee", "ankle", "hallux", "toes")
# By the start of a muscle's name: which way it turns what. y points left: a positive turn about y moves a leg back.
# Hip and ankle of the right side, axes of the parent's frame in the upright pose: +x adducts or inverts, -y flexes the
# hip or the ankle up, +z turns the toes inwards. Knee and toes: + flexes.
ACTIONS = {
    "gluteus_maximus": {"hip y": +1, "hip z": -1},
    "gluteus_medius": {"hip x": -1},
    "gluteus_minimus": {"hip x": -1},
    "piriformis": {"hip z": -1},
    "obturator": {"hip z": -1},
    "gemellus": {"hip z": -1},
    "quadratus": {"hip z": -1},
    "iliacus": {"hip y": -1},
    "psoas": {"hip y": -1},
    "pectineus": {"hip x": +1, "hip y": -1},
    "adductor": {"hip x": +1},
    "gracilis": {"hip x": +1, "knee": +1},
    "tensor": {"hip x": -1, "hip y": -1},
    "sartorius": {"hip y": -1, "knee": +1},
    "rectus": {"hip y": -1, "knee": -1},
    "vastus": {"knee": -1},
    "semi": {"hip y": +1, "knee": +1},
    "biceps_femoris_long": {"hip y": +1, "knee": +1},
    "biceps_femoris_short": {"knee": +1},
    "gastrocnemius": {"knee": +1, "ankle y": +1},
    "plantaris": {"knee": +1, "ankle y": +1},
    "popliteus": {"knee": +1},
    "soleus": {"ankle y": +1},
    "tibialis_posterior": {"ankle x": +1, "ankle y": +1},
    "flexor_digitorum": {"ankle x": +1, "ankle y": +1, "toes": +1},
    "flexor_hallucis": {"ankle x": +1, "ankle y": +1, "hallux": +1},
    "tibialis_anterior": {"ankle x": +1, "ankle y": -1},
    "extensor_digitorum": {"ankle y": -1, "toes": -1},
    "extensor_hallucis": {"ankle y": -1, "hallux": -1},
    "peroneus_brevis": {"ankle x": -1, "ankle y": +1},
    "peroneus_longus": {"ankle x": -1, "ankle y": +1},
    "peroneus_tertius": {"ankle x": -1, "ankle y": -1},
}


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return build_model("snu-humanoid")


def forward(model: mujoco.MjModel, qpos: np.ndarray, qvel: np.ndarray, activation: np.ndarray) -> mujoco.MjData:
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, activation
    mujoco.mj_forward(model, data)
    return data


def random_state(model: mujoco.MjModel, seed: int, height: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A bent and tilted pose, its velocity and activations."""
    rng = np.random.default_rng(seed)
    qpos = model.key_qpos[0].copy()
    mujoco.mj_integratePos(model, qpos, rng.uniform(-0.4, 0.4, model.nv), 1.0)
    qpos[[11, 22]] = rng.uniform(0.0, 1.5, 2)
    qpos[2] = height
    return qpos, rng.uniform(-2, 2, model.nv), rng.uniform(0, 1, model.nu)


def moment_arms(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """d length / d q, `[152, 24]`."""
    dense = np.zeros((model.nu, model.nv))
    mujoco.mju_sparse2dense(
        dense, data.actuator_moment.ravel(), data.moment_rownnz, data.moment_rowadr, data.moment_colind.ravel()
    )
    return dense


def fibre_lengths(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """In optimal lengths: the length range stands for 0 to 2."""
    low, high = model.actuator_lengthrange.T
    return 2 * (data.actuator_length - low) / (high - low)


def test_sizes_and_names(model: mujoco.MjModel) -> None:
    assert (model.nq, model.nv, model.nu, model.na) == (29, 24, 152, 0)
    names = [model.actuator(i).name for i in range(152)]
    assert len(set(names)) == 152
    assert [name.removesuffix("_r") + "_l" for name in names[:76]] == names[76:]
    np.testing.assert_array_equal(model.actuator_ctrlrange, np.tile([0.0, 1.0], (152, 1)))


def test_mass_is_the_stated_share_of_75_kg(model: mujoco.MjModel) -> None:
    percent = {"pelvis": 11.17, "femur": 14.16, "tibia": 4.33, "foot": 1.37}
    mass = {
        body: model.body(body if body == "pelvis" else f"{body}_r").mass[0] for body in ("pelvis", "femur", "tibia")
    }
    mass["foot"] = sum(model.body(f"{body}_r").mass[0] for body in ("talus", "hallux", "toes"))
    for segment, share in percent.items():
        assert mass[segment] == pytest.approx(0.75 * share, abs=0.01)
    assert model.body_mass.sum() == pytest.approx(38.2, abs=0.05)


@pytest.mark.parametrize(("height", "touches"), [(2.0, False), (0.6, True)])
def test_mirrored_state_and_activations_give_the_mirrored_acceleration(
    model: mujoco.MjModel, height: float, touches: bool
) -> None:
    # y, turns about x and about z change sign; right and left change places
    hip, ankle = [-1, 1, -1], [-1, 1, -1]
    sign = np.array([1, -1, 1, -1, 1, -1, *2 * (*hip, 1, *ankle, 1, 1)])
    turn = [1, -1, 1, -1]
    sign_qpos = np.array([1, -1, 1, *turn, *2 * (*turn, 1, *turn, 1, 1)])
    swap = np.r_[0:6, 15:24, 6:15]
    swap_qpos = np.r_[0:7, 18:29, 7:18]
    for seed in range(5):
        qpos, qvel, activation = random_state(model, seed, height)
        here = forward(model, qpos, qvel, activation)
        there = forward(model, (sign_qpos * qpos)[swap_qpos], (sign * qvel)[swap], np.roll(activation, 76))
        assert (here.ncon > 0) == touches
        expected = (sign * here.qacc)[swap]
        np.testing.assert_allclose(there.qacc, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_observation_is_what_mujoco_measures(model: mujoco.MjModel) -> None:
    for seed in range(5):
        data = forward(model, *random_state(model, seed, 1.0))
        pelvis = data.body("pelvis")
        velocity = np.zeros(6)  # angular, linear; in the world's frame
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, pelvis.id, velocity, 0)
        positions, velocities = [], []
        for side in "rl":
            for joint in JOINTS:
                positions.extend(data.joint(f"{joint}_{side}").qpos)
                velocities.extend(0.1 * data.joint(f"{joint}_{side}").qvel)
        axes = pelvis.xmat.reshape(3, 3)
        head, up = axes[0, 0], axes[2, 2]
        expected = [pelvis.xpos[2], *pelvis.xquat, *velocity[3:], *velocity[:3], *positions, *velocities, up, head]
        observed = SNUHumanoid().observe(data.qpos[None], data.qvel[None], data.ctrl[None])
        assert observed.shape == (1, 53)
        np.testing.assert_allclose(observed[0], expected, atol=1e-12)


def test_reward_and_end_are_the_papers(model: mujoco.MjModel) -> None:
    body = SNUHumanoid()
    for height in (0.459, 0.461):
        qpos, qvel, activation = random_state(model, 3, height)
        data = forward(model, qpos, qvel, activation)
        axes = data.body("pelvis").xmat.reshape(3, 3)
        expected = qvel[0] + 0.1 * axes[2, 2] + axes[0, 0] - 0.001 * math.fsum(activation)
        assert body.reward(qpos[None], qvel[None], activation[None])[0] == pytest.approx(expected)
        assert body.terminated(qpos[None], qvel[None])[0] == (height < 0.46)


def test_starts_stand_above_the_ground(model: mujoco.MjModel) -> None:
    data = mujoco.MjData(model)
    for seed in range(20):
        data.qpos[:], data.qvel[:] = SNUHumanoid().start(model, np.random.default_rng(seed))
        mujoco.mj_forward(model, data)
        assert (data.contact.dist > -0.02).all() and (data.qpos[[11, 22]] > 0).all()
        assert max(data.geom(f"heel_{side}").xpos[2] for side in "rl") < 0.2
        feet = (data.body("talus_r").xpos + data.body("talus_l").xpos) / 2
        assert np.linalg.norm(data.subtree_com[1][:2] - feet[:2]) < 0.2


def force_length(length: float) -> float:
    """Two parabolas a side: 0 at 0.5 and 1.6, a half between there and 1, 1 at 1 (MuJoCo's documentation)."""
    end, middle = (0.5, 0.75) if length <= 1 else (1.6, 1.3)
    if not 0.5 <= length <= 1.6:
        return 0.0
    if (length - middle) * (end - middle) >= 0:
        return 0.5 * ((length - end) / (middle - end)) ** 2
    return 1 - 0.5 * ((1 - length) / (1 - middle)) ** 2


def force_velocity(speed: float) -> float:
    """Of the speed in maximal ones: 0 at -1, 1 at 0, from 0.4 on 1.4."""
    if speed <= -1:
        return 0.0
    if speed <= 0:
        return (speed + 1) ** 2
    return 1.4 - max(0.4 - speed, 0.0) ** 2 / 0.4


def passive_force(length: float) -> float:
    """A parabola to a half at 1.3, then straight on."""
    stretch = max(length - 1, 0.0) / 0.3
    return 0.5 * stretch**2 if stretch <= 1 else stretch - 0.5


def test_muscle_forces_are_hills(model: mujoco.MjModel) -> None:
    seen = []
    for seed in range(10):
        data = forward(model, *random_state(model, seed, 2.0))
        for i, length in enumerate(fibre_lengths(model, data)):
            optimal = (model.actuator_lengthrange[i, 1] - model.actuator_lengthrange[i, 0]) / 2
            speed = data.actuator_velocity[i] / (10 * optimal)
            active = data.ctrl[i] * force_length(length) * force_velocity(speed)
            expected = -model.actuator_gainprm[i, 2] * (active + passive_force(length))
            assert data.actuator_force[i] == pytest.approx(expected, rel=1e-9, abs=1e-9)
            seen.append([length, speed])
    assert np.min(seen, axis=0)[0] < 0.6 and np.max(seen, axis=0)[0] > 1.4  # every piece of the curves
    assert np.min(seen, axis=0)[1] < -0.1 and np.max(seen, axis=0)[1] > 0.1


def test_moment_arm_is_the_change_of_length(model: mujoco.MjModel) -> None:
    qpos, qvel, activation = random_state(model, 7, 2.0)
    arms = moment_arms(model, forward(model, qpos, qvel, activation))
    for dof in range(6, model.nv):
        lengths = []
        for step in (1e-6, -1e-6):
            moved = qpos.copy()
            mujoco.mj_integratePos(model, moved, np.eye(model.nv)[dof], step)
            lengths.append(forward(model, moved, qvel, activation).actuator_length)
        np.testing.assert_allclose(arms[:, dof], np.subtract(*lengths) / 2e-6, atol=1e-8)


def test_muscles_turn_the_joints_as_in_anatomy(model: mujoco.MjModel) -> None:
    arms = moment_arms(model, forward(model, model.qpos0, np.zeros(24), np.zeros(152)))
    axes = ("hip x", "hip y", "hip z", "knee", "ankle x", "ankle y", "ankle z", "hallux", "toes")
    for i in range(76):
        name = model.actuator(i).name
        (actions,) = [actions for start, actions in ACTIONS.items() if name.startswith(start)]
        for axis, turn in actions.items():
            pulls = -arms[i, 6 + axes.index(axis)]  # a muscle shortens
            assert pulls * turn > 0.001, (name, axis)
        assert np.abs(arms[i, :6]).max() < 1e-9  # nothing pulls on the world
        assert np.abs(arms[i]).max() < 0.09


def test_fibres_are_near_their_optimal_length_when_it_stands(model: mujoco.MjModel) -> None:
    lengths = fibre_lengths(model, forward(model, model.key_qpos[0], np.zeros(24), np.zeros(152)))
    assert lengths.min() > 0.6 and lengths.max() < 1.2


def test_muscles_alone_cannot_move_the_centre_of_mass_nor_spin_the_body(model: mujoco.MjModel) -> None:
    free = build_model("snu-humanoid")
    free.opt.timestep = 1e-4
    data = mujoco.MjData(free)
    data.qpos[:], data.qvel[:], data.ctrl[:] = random_state(free, 5, 3.0)
    momenta = []
    for _ in range(2):
        mujoco.mj_forward(free, data)
        mujoco.mj_subtreeVel(free, data)
        momenta.append(np.r_[free.body_mass.sum() * data.subtree_linvel[0], data.subtree_angmom[1]])
        mujoco.mj_step(free, data, 200)
    weight = free.body_mass.sum() * 9.81
    np.testing.assert_allclose(momenta[1] - momenta[0], [0, 0, -weight * 0.02, 0, 0, 0], atol=0.02)


def test_equal_activation_lets_it_stand_carried_by_the_ground(model: mujoco.MjModel) -> None:
    data = mujoco.MjData(model)
    data.qpos[:] = model.key_qpos[0]
    data.ctrl[:] = 0.5
    heights, forces = [], []
    for _ in range(2000):  # a whole episode
        mujoco.mj_step(model, data)
        heights.append(data.qpos[2])
        forces.append(data.qfrc_constraint[2])
    assert min(heights) > 0.93 and max(heights) < 0.99
    assert np.mean(forces[-200:]) == pytest.approx(model.body_mass.sum() * 9.81, rel=0.02)
    assert np.abs(data.qvel).max() < 0.2


def test_actions_are_activations_held_for_two_time_steps(model: mujoco.MjModel) -> None:
    env = envs.make("snu-humanoid", num_envs=2, seed=1)
    observation, _ = env.reset()
    assert observation.shape == (2, 53)
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = SNUHumanoid().start(model, np.random.default_rng(2))  # the second environment's
    for action in np.random.default_rng(3).uniform(-1.2, 1.2, (20, 2, 152)).astype(np.float32):
        observation, _, _, _, _ = env.step(action)
        data.ctrl[:] = 0.5 + 0.5 * action[1].clip(-1, 1)
        data.qacc_warmstart[:] = 0
        mujoco.mj_step(model, data, 2)
    np.testing.assert_allclose(observation[1, 11:33], data.qpos[7:], atol=1e-6)
    assert data.time == pytest.approx(20 / 60)


def test_limp_body_falls(model: mujoco.MjModel) -> None:
    data = mujoco.MjData(model)
    data.qpos[:] = model.key_qpos[0]
    mujoco.mj_step(model, data, 360)  # 3 s
    assert SNUHumanoid().terminated(data.qpos[None], data.qvel[None])[0]
    assert np.abs(data.qvel).max() < 20 and data.qpos[2] > 0.05


GOOD_ROW = "soleus,100,0.05,0.2,tibia 0 0 -0.1 > talus -0.05 0 0"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("soleus,strong,0.05,0.2,tibia 0 0 -0.1 > talus -0.05 0 0", "muscle 'soleus': give three numbers"),
        ("soleus,100,0.05,0.2,tibia 0 0 -0.1 > talus -0.05 0", "give three numbers and a path"),
        ("soleus,100,0.05", "give three numbers and a path"),
        ("soleus,100,-0.05,0.2,tibia 0 0 -0.1 > talus -0.05 0 0", "make them positive"),
        ("soleus,nan,0.05,0.2,tibia 0 0 -0.1 > talus -0.05 0 0", "make them positive"),
        ("soleus,100,0.05,0.2,tibia 0 0 -0.1 > tibia 0 0 0", "lead it over a joint"),
        ("soleus,100,0.05,0.2,tibia 0 0 -0.1 > heel 0 0 0", "attached to 'heel'"),
    ],
)
def test_malformed_row_is_refused_in_one_line(tmp_path: Path, row: str, message: str) -> None:
    header = "# a comment\nname,peak_force_N,optimal_length_m,slack_length_m,path\n"
    table = tmp_path / "table.csv"
    table.write_text(header + GOOD_ROW.replace("soleus", "first") + "\n" + row + "\n")
    spec = mujoco.MjSpec.from_file(str(MODELS / "snu-humanoid.xml"))
    with pytest.raises(UserError, match=message) as refused:
        add_muscles(spec, table)
    assert "\n" not in str(refused.value) and "table.csv" in str(refused.value)


def test_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("name,force\nsoleus,100\n")
    with pytest.raises(UserError, match="columns"):
        add_muscles(mujoco.MjSpec.from_file(str(MODELS / "snu-humanoid.xml")), table)
