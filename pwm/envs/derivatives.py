"""Vector-Jacobian products of MuJoCo time steps, by inverse dynamics and the implicit function theorem.

A time step of length h from (q, v) with controls u ends at v' = v + h a and q' = q ⊕ h v', where a solves
F(q, v, a, u) = 0: MuJoCo's inverse dynamics in its discrete form, with the integrator's damping and the contacts in it,
less the actuators' forces. So no solver is differentiated, and cotangents g of (q', v') become, with
(∂F/∂a)ᵀ λ = h (g_v' + what q' adds to it), those of (q, v, u): −(∂F/∂q)ᵀ λ, −(∂F/∂v)ᵀ λ and −(∂F/∂u)ᵀ λ beside what
reaches them directly. MuJoCo differentiates F by finite differences; integration is differentiated exactly.

Orientations live in tangent space: rotations by small angles in the body's own frame, the coordinates of qvel.

Shapes: N environments, K time steps, S = N K samples, Q quaternions of a model.
"""

import copy
import ctypes
import functools
import itertools
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import mujoco
import numpy as np

from pwm.compiled import compiled
from pwm.errors import UserError

# Deviation D18: the paper's simulator, dflex, differentiates its own semi-implicit steps and smooth contacts.
# Of the finite differences: larger ones err by curvature, smaller ones by rounding. A contact that appears within it
# spoils a column of ∂F/∂q.
EPSILON = 3e-8
INTEGRATORS = (mujoco.mjtIntegrator.mjINT_EULER, mujoco.mjtIntegrator.mjINT_IMPLICITFAST)
ROTATING = (mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_BALL)


def check_differentiable(model: mujoco.MjModel) -> None:
    """Refuse what the derivatives would be wrong for.

    Raises:
        UserError: names the integrator, solver option or element.
    """
    mend = "take it out of the model, or train without gradients of the simulator"
    if model.opt.integrator not in INTEGRATORS:
        name = mujoco.mjtIntegrator(model.opt.integrator).name.removeprefix("mjINT_")
        raise UserError(f"integrator {name} has no gradients here; use Euler or implicitfast")
    if model.opt.noslip_iterations:
        raise UserError(f"noslip_iterations {model.opt.noslip_iterations} have no inverse; set it to 0")
    for what, number in (("flex", model.nflex), ("plugin", model.nplugin)):
        if number:
            raise UserError(f"a {what} has no gradients here; {mend}")
    for i in range(model.nu):
        name = f"actuator '{model.actuator(i).name}'"
        if model.actuator_dyntype[i] != mujoco.mjtDyn.mjDYN_NONE:
            raise UserError(f"{name} has dynamics of its own, which have no gradients here; {mend}")
        if model.actuator_forcelimited[i]:
            raise UserError(f"{name} has a forcerange, which has no gradients here; {mend}")
    for j in np.flatnonzero(model.jnt_actfrclimited):
        raise UserError(f"joint '{model.joint(j).name}' has an actuatorfrcrange, which has no gradients here; {mend}")


class Linearisation(NamedTuple):
    """Derivatives of F; row i of the first three is ∂F/∂xᵢ, so that they are the transposes of Jacobians."""

    position: np.ndarray  # [S, nv, nv]
    velocity: np.ndarray  # [S, nv, nv]
    acceleration: np.ndarray  # [S, nv, nv]
    control: np.ndarray  # −∂F/∂u, the generalised force of each control: [S or 1, nu, nv]


class _Samples(ctypes.Structure):
    """`Samples` of derivatives.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("first", "stride", "end", "nv")),
        ("size", ctypes.c_int64 * 3),
        *((name, ctypes.c_void_p * 3) for name in ("given", "data", "found")),
    )


@functools.cache
def _compiled_loop() -> Callable | None:
    """The loop of derivatives.cpp over MuJoCo's own function. None where it cannot be compiled, as a line says once."""
    try:
        library = compiled(Path(__file__).with_suffix(".cpp"), ["-O2"])
    except UserError as reason:
        print(f"warning: gradients of the simulator take longer: {reason}", file=sys.stderr)
        return None
    simulator = ctypes.CDLL(str(next(Path(mujoco.__file__).parent.glob("libmujoco*"))))
    pointers = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_double, ctypes.POINTER(_Samples)]
    library.linearise.argtypes, library.linearise.restype = pointers, None
    return functools.partial(library.linearise, ctypes.cast(simulator.mjd_inverseFD, ctypes.c_void_p))


class InverseDynamics:
    """Derivatives of F at many samples, in threads beside the caller's, each with a simulation of its own."""

    def __init__(self, model: mujoco.MjModel, threads: int) -> None:
        self._model = copy.copy(model)
        self._model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_INVDISCRETE
        self._model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CLAMPCTRL
        self._threads, self._free = threads, SimpleQueue()  # simulations that no thread is at
        for _ in range(threads):
            self._free.put(mujoco.MjData(self._model))
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        on_hinges = model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT
        on_hinges[on_hinges] &= ~np.isin(model.jnt_type[model.actuator_trnid[on_hinges, 0]], ROTATING)
        fixed = (model.actuator_gaintype == mujoco.mjtGain.mjGAIN_FIXED) & (
            model.actuator_biastype == mujoco.mjtBias.mjBIAS_NONE
        )
        # Of motors on hinges and slides, forces do not depend on the state.
        self._constant: np.ndarray | None = None
        self._loop: Callable | None = None
        if (on_hinges & fixed).all():
            self._loop = _compiled_loop()
            data = mujoco.MjData(self._model)
            mujoco.mj_forward(self._model, data)
            moment, gain, *_ = self._gains(data)
            self._constant = (moment * gain)[None]

    def linearise(
        self, qpos: np.ndarray, qvel: np.ndarray, qacc: np.ndarray, control: np.ndarray
    ) -> Callable[[], Linearisation]:
        """Begin on derivatives at samples `[S, nq]`, `[S, nv]`, `[S, nv]`, `[S, nu]`.

        Returns:
            What waits for them, and does what has not begun.
        """
        samples, nv, nu = len(qpos), self._model.nv, self._model.nu
        found = Linearisation(
            *(np.empty((samples, nv, nv)) for _ in range(3)),
            np.empty((samples, nu, nv)) if self._constant is None else self._constant,
        )
        given = (qpos, qvel, qacc, control)
        parts = [range(i, samples, self._threads) for i in range(self._threads)]
        work = [functools.partial(self._work, self._model, part, given, found) for part in parts]
        begun = [self._pool.submit(one) for one in work] if self._pool else []

        def wait() -> Linearisation:
            for one, future in itertools.zip_longest(work, begun):
                if future is None or future.cancel():
                    one()
                else:
                    future.result()
            return found

        return wait

    def follow_contacts(self, model: mujoco.MjModel) -> None:
        """Take over the time constants and damping ratios of a model's contacts, for what is asked from now on."""
        self._model = copy.copy(self._model)
        self._model.geom_solref[:] = model.geom_solref

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _work(self, model: mujoco.MjModel, part: range, given: tuple[np.ndarray, ...], found: Linearisation) -> None:
        """Fill in the samples `part`. MuJoCo's calls release Python's lock, and nearly all of the time is theirs."""
        data = self._free.get()
        try:
            if self._loop is None:
                self._fill(model, data, part, given, found)
                return
            ours = (data.qpos, data.qvel, data.qacc)
            given = [np.ascontiguousarray(x) for x in given[:3]]
            sizes = (ctypes.c_int64 * 3)(*(len(x) for x in ours))
            places = ((ctypes.c_void_p * 3)(*(x.ctypes.data for x in xs)) for xs in (given, ours, found[:3]))
            samples = _Samples(part.start, part.step, part.stop, model.nv, sizes, *places)
            self._loop(model._address, data._address, EPSILON, ctypes.byref(samples))
        finally:
            self._free.put(data)

    def _fill(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        part: range,
        given: tuple[np.ndarray, ...],
        found: Linearisation,
    ) -> None:
        """The loop of derivatives.cpp in Python, and with it the forces of controls where they depend on the state."""
        depends = self._constant is None
        qpos, qvel, qacc, control = given
        to_qpos, to_qvel, to_qacc, to_ctrl = data.qpos, data.qvel, data.qacc, data.ctrl
        for i in part:
            to_qpos[:], to_qvel[:], to_qacc[:], to_ctrl[:] = qpos[i], qvel[i], qacc[i], control[i]
            if depends:
                mujoco.mj_inverse(model, data)
                moment, gain, damped, inertia = self._gains(data)
                to_ctrl[:] = control[i]
            of = found.position[i], found.velocity[i], found.acceleration[i]
            mujoco.mjd_inverseFD(model, data, EPSILON, depends, *of, None, None, None, None)
            if depends:
                felt = np.linalg.solve(inertia, found.acceleration[i])
                found.control[i] = moment * gain + damped * (moment @ felt)

    def _gains(self, data: mujoco.MjData) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What the forces of the controls are made of, in a state whose inverse dynamics have been computed.

        A muscle damps as it pulls: to first order in the time step, implicitfast takes its force at the velocity that
        the time step ends with. But contacts feel accelerations without any damping, (1 − h M⁻¹ D) a.

        Returns:
            moment: moment arms `[nu, nv]`.
            gain: force per unit of control at the first velocity `[nu, 1]`.
            damped: what the last velocity adds to it `[nu, 1]`.
            inertia: M − h D, D the derivative of passive and actuator forces with respect to velocity `[nv, nv]`.
        """
        model, h = self._model, self._model.opt.timestep
        moment, inertia, derivative = np.zeros((model.nu, model.nv)), *np.zeros((2, model.nv, model.nv))
        arms = data.moment_rownnz, data.moment_rowadr, data.moment_colind
        mujoco.mju_sparse2dense(moment, data.actuator_moment, *arms)
        mujoco.mj_fullM(model, inertia, data.qM)
        mujoco.mju_sparse2dense(derivative, data.qDeriv, data.D_rownnz, data.D_rowadr, data.D_colind)
        speed, change = data.actuator_velocity.copy(), moment @ data.qacc * h

        def gain(velocity: np.ndarray) -> np.ndarray:
            data.actuator_velocity[:] = velocity
            forces = []
            for control in (1.0, 0.0):
                data.ctrl[:] = control
                mujoco.mj_fwdActuation(model, data)
                forces.append(data.actuator_force.copy())
            return (forces[0] - forces[1])[:, None]

        now = gain(speed)
        return moment, now, (gain(speed + EPSILON * change) - now) / EPSILON, inertia - h * derivative


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a × b of `[..., 3]`, without what makes NumPy's slow on short arrays."""
    return a[..., [1, 2, 0]] * b[..., [2, 0, 1]] - a[..., [2, 0, 1]] * b[..., [1, 2, 0]]


class Tangent:
    """Where a model's coordinates lie, and what integration over a time step does to cotangents, exactly.

    For an orientation, q' = q exp(h ω'): δθ' = Rᵀ δθ + h J δω', R the rotation by φ = h ω' and J its right Jacobian.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self.nv, self.nq = model.nv, model.nq
        of_joints = list(zip(model.jnt_type, model.jnt_qposadr, model.jnt_dofadr, strict=True))
        linear = {mujoco.mjtJoint.mjJNT_FREE: 3, mujoco.mjtJoint.mjJNT_BALL: 0}
        plain = [(q + k, v + k) for kind, q, v in of_joints for k in range(linear.get(kind, 1))]
        turning = [(q + linear[kind], v + linear[kind]) for kind, q, v in of_joints if kind in linear]
        self._plain_q, self._plain_v = np.array(plain, int).reshape(-1, 2).T
        quaternion, rotation = np.array(turning, int).reshape(-1, 2).T
        self._quaternion, self._rotation = quaternion[:, None] + np.arange(4), rotation[:, None] + np.arange(3)

    def into(self, qpos: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
        """Of positions `[N, nq]`, into tangent space `[N, nv]`: ½ Gᵀ g, where q̇ = ½ G ω."""
        out = np.empty((len(qpos), self.nv))
        out[:, self._plain_v] = cotangent[:, self._plain_q]
        quaternion, g = qpos[:, self._quaternion], cotangent[:, self._quaternion]
        w, u = quaternion[..., :1], quaternion[..., 1:]
        out[:, self._rotation] = 0.5 * (w * g[..., 1:] - g[..., :1] * u + cross(g[..., 1:], u))
        return out

    def out_of(self, qpos: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
        """The cotangent of positions `[N, nq]` that `into` takes to a given one `[N, nv]`: 2 G t."""
        out = np.empty((len(qpos), self.nq))
        out[:, self._plain_q] = cotangent[:, self._plain_v]
        quaternion, t = qpos[:, self._quaternion], cotangent[:, self._rotation]
        w, u = quaternion[..., :1], quaternion[..., 1:]
        parts = [-(u * t).sum(-1, keepdims=True), w * t + cross(u, t)]
        out[:, self._quaternion] = 2.0 * np.concatenate(parts, axis=-1)
        return out

    def integration(self, velocity: np.ndarray, h: float, cotangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cotangents of q and of v' `[N, nv]`, given that of q' = q ⊕ h v', in tangent space.

        Args:
            velocity: v', `[N, nv]`.
            h: time step, s.
            cotangent: `[N, nv]`.
        """
        of_position, of_velocity = cotangent.copy(), h * cotangent
        if self._rotation.size:
            phi, g = h * velocity[:, self._rotation], cotangent[:, self._rotation]
            angle2 = (phi**2).sum(-1, keepdims=True)
            angle = np.sqrt(angle2)
            sine, half = np.sinc(angle / np.pi), 0.5 * np.sinc(angle / (2 * np.pi)) ** 2  # sin x / x, (1 − cos x) / x²
            third = np.where(angle2 > 1e-6, (1.0 - sine) / angle2.clip(1e-6), 1 / 6 - angle2 / 120)  # (x − sin x) / x³
            once = cross(phi, g)
            twice = cross(phi, once)
            of_position[:, self._rotation] = g + sine * once + half * twice  # R g
            of_velocity[:, self._rotation] = h * (g + half * once + third * twice)  # h Jᵀ g
        return of_position, of_velocity


class StepDerivatives:
    """Vector-Jacobian products of control steps of one model, whose time steps were kept."""

    def __init__(self, model: mujoco.MjModel, threads: int) -> None:
        """Raises `UserError` for a model that `check_differentiable` refuses."""
        check_differentiable(model)
        self.tangent = Tangent(model)
        self.inverse = InverseDynamics(model, threads)
        self._timestep = model.opt.timestep

    def linearise(self, qpos: np.ndarray, qvel: np.ndarray, control: np.ndarray) -> Callable[[], Linearisation]:
        """Begin on what `pull_back` needs of paths, which are its arguments."""
        steps = qpos.shape[1] - 1
        acceleration = np.diff(qvel, axis=1) / self._timestep
        samples = (x.reshape(len(qpos) * steps, -1) for x in (qpos[:, :-1], qvel[:, :-1], acceleration))
        return self.inverse.linearise(*samples, np.repeat(control, steps, axis=0))

    def pull_back(
        self, qpos: np.ndarray, qvel: np.ndarray, found: Linearisation, of_qpos: np.ndarray, of_qvel: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cotangents of the first state and the control, from those of the last state.

        Args:
            qpos, qvel: the states before and after every time step, `[N, K + 1, nq]`, `[N, K + 1, nv]`.
            found: of these and the control held throughout, by `linearise`.
            of_qpos, of_qvel: cotangents `[N, nq]`, `[N, nv]`.

        Returns:
            `[N, nq]`, `[N, nv]`, `[N, nu]`.
        """
        num_envs, steps, h = len(qpos), qpos.shape[1] - 1, self._timestep
        by_step = [x.reshape(num_envs, -1, *x.shape[1:]) if len(x) > 1 else x[None] for x in found]
        g_q, g_v = self.tangent.into(qpos[:, -1], of_qpos), of_qvel
        g_u = np.zeros((num_envs, found.control.shape[1]))
        for k in reversed(range(steps)):
            by_position, by_velocity, by_acceleration = (x[:, k] for x in by_step[:3])
            force = by_step[3][:, k % by_step[3].shape[1]]
            g_q, through_position = self.tangent.integration(qvel[:, k + 1], h, g_q)
            g_v = g_v + through_position
            multiplier = np.linalg.solve(by_acceleration, h * g_v[..., None])
            g_q = g_q - (by_position @ multiplier)[..., 0]
            g_v = g_v - (by_velocity @ multiplier)[..., 0]
            g_u += (force @ multiplier)[..., 0]
        return self.tangent.out_of(qpos[:, 0], g_q), g_v, g_u

    def close(self) -> None:
        """Stop the threads."""
        self.inverse.close()
