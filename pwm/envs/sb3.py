"""Our vector environments behind stable-baselines3's interface, for the baselines that come from that library."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvStepReturn

from pwm.envs.vector import TaskVectorEnv


class SB3VecEnv(VecEnv):
    """A `TaskVectorEnv` as a `VecEnv`: one `done`; `terminal_observation` and `TimeLimit.truncated` in its infos."""

    def __init__(self, env: TaskVectorEnv) -> None:
        self.env = env
        self._actions: np.ndarray | None = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> np.ndarray:
        """First observations `[N, O]`; uses the seed given to `seed` since the last reset."""
        observation, _ = self.env.reset(seed=self._seeds[0])
        self._reset_seeds()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions `[N, A]` for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Observations `[N, O]`, rewards `[N]`, dones `[N]` and one info per environment."""
        observation, reward, terminated, truncated, info = self.env.step(self._actions)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(done):
            infos[i] = {"terminal_observation": info["final_obs"][i], "TimeLimit.truncated": bool(truncated[i])}
        return observation, reward, done, infos

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the vector environment, once per environment asked for."""
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> Sequence[bool]:
        """Never: there are no single environments to wrap."""
        return [False for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Not supported: the environments are one object."""
        raise NotImplementedError("set attributes on SB3VecEnv.env")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Not supported: the environments are one object."""
        raise NotImplementedError("call methods of SB3VecEnv.env")
