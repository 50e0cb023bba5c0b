"""Online training: what the policy sees, what is stored, how rewards are scaled, and in which order things happen."""

import copy

import numpy as np
import pytest
import torch
from support import make_model, model_config, refusal, run_config, write_episodes

from pwm import extract as extraction
from pwm import online
from pwm.config import ExtractConfig, FinetuneConfig, validate
from pwm.data.episodes import Episodes
from pwm.data.replay import Replay
from pwm.data.windows import WindowSampler
from pwm.envs import get_task
from pwm.evaluate import Evaluation
from pwm.extract import Finetuner, make_trainer, value_check
from pwm.model_learning import world_model_loss
from pwm.online import OnlineEnvironment, fill, train_online
from pwm.pretrain import build_model
from pwm.runs import Run


@pytest.fixture
def data(tmp_path):
    """Episodes of 4, 3 and 5 steps."""
    return Episodes.open(write_episodes(tmp_path / "data", "hopper", lengths=(4, 3, 5)))


def stored(replay):
    """Everything in a replay that is not full, [rows, num_envs, ...] each."""
    return {
        name: value.numpy() for name, value in replay.state().items() if name in ("obs", "reward", "age", "next_obs")
    }


def test_the_replay_begins_with_the_data(data):
    """12 transitions for 3 environments: 4 rows, each environment's column a run of consecutive transitions."""
    replay = Replay(30, 3, 11, 3, seed=0)
    fill(replay, data, num_envs=3, capacity=30)
    reward = np.concatenate([row[:n] for row, n in zip(data.reward, data.length, strict=True)])
    rows = stored(replay)
    np.testing.assert_array_equal(rows["reward"], reward.reshape(3, 4).T)
    np.testing.assert_array_equal(rows["obs"][:, 0], data.obs[0, :4])
    np.testing.assert_array_equal(rows["next_obs"][:, 0], data.obs[0, 1:5])
    assert rows["age"].T.tolist() == [[1, 2, 3, 4], [1, 2, 3, 1], [1, 2, 3, 4]]  # columns cut the third episode in two
    batch = replay.sample(200, 3)
    follows = {tuple(reward[i : i + 3]) for i in (0, 1, 4, 8, 9)}
    assert {tuple(window) for window in batch.reward.T.numpy()} == follows
    new = np.zeros((3, 11), np.float32)
    replay.add(new, np.zeros((3, 3)), np.zeros(3), np.zeros(3), np.zeros(3), new)
    assert stored(replay)["age"][4].tolist() == [1, 1, 1]  # the environments' own steps do not follow from the data


def test_only_the_newest_data_fit_a_small_replay(data):
    replay = Replay(7, 3, 11, 3, seed=0)
    fill(replay, data, num_envs=3, capacity=7)
    reward = np.concatenate([row[:n] for row, n in zip(data.reward, data.length, strict=True)])
    np.testing.assert_array_equal(stored(replay)["reward"], reward[-6:].reshape(3, 2).T)
    few = Replay(100, 64, 11, 3, seed=0)
    fill(few, data, num_envs=64, capacity=100)  # not one row
    assert len(few) == 0


class PlannedEnv:
    """Two environments of the hopper: the first one's episode is cut after the first step, the second's terminates."""

    num_envs, task = 2, get_task("hopper")

    def __init__(self):
        self.time = 0

    def reset(self, seed):
        return self.observe(0), {}

    def observe(self, value):
        return np.full((2, 11), value, np.float32)

    def step(self, action):
        self.time += 1
        cut, dead = np.array([self.time == 1, False]), np.array([False, self.time == 2])
        final = self.observe(self.time)
        obs = np.where((cut | dead)[:, None], 100.0 + self.time, final).astype(np.float32)
        return obs, np.array([2.0, 4.0], np.float32), dead, cut, {"final_obs": final}


@pytest.mark.parametrize("begun", [True, False])
def test_environments_steps_by_hand(data, begun):
    model = make_model(action_dims=(3,), observation_dim=11)
    world = OnlineEnvironment(PlannedEnv(), 40, 0, model, data if begun else None)
    before = len(world.replay)
    assert before == (12 if begun else 0)
    actions = torch.rand(3, 2, 3)
    for t, (ends, terminated, following) in enumerate([([1, 0], [0, 0], [101, 1]), ([0, 1], [0, 1], [2, 102])]):
        got = world(actions[t])
        assert [part.tolist() for part in got[:2]] == [ends, terminated]
        obs = torch.tensor(following, dtype=torch.float32)[:, None].expand(2, 11)
        torch.testing.assert_close(got[2], model.encode(obs, torch.zeros(2, dtype=torch.long)))
        assert not got[2].requires_grad
    assert world.env_steps == 4 and len(world.replay) == before + 4
    new = {name: value[-2:] for name, value in stored(world.replay).items()}
    assert new["obs"][:, :, 0].tolist() == [[0, 0], [101, 1]] and new["next_obs"][:, :, 0].tolist() == [[1, 1], [2, 2]]
    assert new["age"].tolist() == [[1, 1], [1, 2]]
    earlier = [row[:n] for row, n in zip(data.reward, data.length, strict=True)] if begun else []
    assert world.reward_scale.std == pytest.approx(np.concatenate([*earlier, [2, 4, 2, 4]]).std(), rel=1e-3)
    world.scale_rewards()
    assert model.reward_scale.item() == pytest.approx(world.reward_scale.std)


def test_one_round_of_online_training(tmp_path, data, monkeypatch):
    """Actor and critic, then the world model, at the rate of that share of training, with the rewards' new scale."""
    monkeypatch.chdir(tmp_path)
    events, rates = [], []
    settings, updates = model_config("hopper"), 4
    block = {"num_envs": 3, "model_updates": 2, "model_batch_size": 8, "model_lr": 1e-3, "model_final_lr": 2e-4}
    config = run_config("hopper", updates=updates, horizon=5, online=block)
    policy_update, model_update = extraction.PolicyTrainer.update, online.Finetuner.update

    def update_policy(trainer, z, task, world):
        torch.testing.assert_close(z, world.encode())
        events.append("policy")
        return policy_update(trainer, z, task, world)

    def update_model(tuner, progress):
        world_scale = tuner.trainer.model.reward_scale.item()
        events.append(("model", progress, tuner.updates))
        metrics = model_update(tuner, progress)
        rates.append(tuner.trainer.optimiser.param_groups[0]["lr"])
        assert world_scale != 1.0
        return metrics

    monkeypatch.setattr(extraction.PolicyTrainer, "update", update_policy)
    monkeypatch.setattr(online.Finetuner, "update", update_model)
    torch.manual_seed(0)
    train_online(Run(tmp_path / "a", config), build_model(settings.settings, settings.tasks), settings, data)
    assert events == [step for k in range(updates) for step in ("policy", ("model", k / updates, 2))]
    assert rates == pytest.approx([1e-3, 8e-4, 6e-4, 4e-4])


def test_finetuning_is_pwms_objective_on_the_windows_drawn(data):
    """As many steps as asked for, at the rate of that share of training; TD-MPC2's networks stay as they are."""
    settings = model_config("hopper", bins=11, num_q=2)
    torch.manual_seed(0)
    model = build_model(settings.settings, settings.tasks)
    twin, drawn, windows = copy.deepcopy(model), [], WindowSampler([data], 4, 3, seed=0)

    def sample():
        drawn.append(windows.sample())
        return drawn[-1]

    finetune = FinetuneConfig(model_updates=3, model_batch_size=4, model_lr=1e-2, model_final_lr=1e-3)
    metrics = Finetuner(model, settings.settings, settings.tasks, finetune, sample).update(progress=0.5)
    optimiser = torch.optim.Adam([p for name, p in twin.named_parameters() if "q_heads" not in name], lr=5.5e-3)
    for batch in drawn:
        with torch.no_grad():
            next_z = twin.encode(batch.obs[1:], batch.task)
        loss, _, _ = world_model_loss(twin, batch, next_z, settings.settings)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), settings.settings.grad_norm)
        optimiser.step()
    assert len(drawn) == 3 and metrics["model_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5, msg=name)
    assert not model.training and not torch.equal(model.encoder[0].linear.weight, fresh(settings))


def fresh(settings):
    """The encoder's first weights before any update."""
    torch.manual_seed(0)
    return build_model(settings.settings, settings.tasks).encoder[0].linear.weight


@pytest.mark.parametrize(("bins", "decode", "rewards"), [(11, False, np.log(3)), (11, True, 2.0), (0, False, 0.5)])
def test_value_check_compares_like_with_like(bins, decode, rewards):
    """Two episodes that pay 2 three times and twice; the model's units are symlog(2) or 2 / 4."""
    config = run_config("hopper", gamma=0.5, decode_reward=decode).settings
    model = make_model(bins, action_dims=(3,), observation_dim=11)
    model.reward_scale.fill_(1.0 if bins else 4.0)
    trainer = make_trainer(validate(ExtractConfig, config, ""), model, torch.device("cpu"))
    first, pay = np.random.default_rng(0).normal(size=(2, 11)).astype(np.float32), np.full((3, 2), 2.0)
    pay[2, 1] = 0.0
    zeros = np.zeros(2)
    columns = value_check(trainer, 0)(Evaluation(*[zeros] * 6, first, pay))
    assert columns["discounted_return"] == pytest.approx(rewards * (1.75 + 1.5) / 2, rel=1e-5)
    z = model.encode(torch.from_numpy(first), torch.zeros(2, dtype=torch.long))
    assert columns["start_value"] == pytest.approx(trainer.critic(z).amin(0).mean().item(), rel=1e-5)


def test_finetuning_beside_online_training_is_refused():
    refusal(
        lambda: validate(ExtractConfig, {"finetune": {}, "online": {}}, "here"), "here", "model_updates", "finetune"
    )
