"""A run that is killed and started again ends bit for bit as one that was never killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from interrupted import Killed, MortalRun, killed_and_resumed, same_files, same_weights, unbroken
from safetensors.torch import load_file
from support import TINY, TINY_POLICY, model_config, refusal, run_config, write_episodes

from pwm import collect as collection
from pwm.agent import PolicyTrainer
from pwm.collect import collect
from pwm.config import CollectConfig, DataConfig, EvaluationConfig, ExtractConfig, validate
from pwm.data.episodes import FILES, Episodes
from pwm.extract import extract, make_trainer
from pwm.model_learning import ModelTrainer
from pwm.online import train_online
from pwm.pretrain import build_model, load_model, pretrain
from pwm.runs import Run, load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
FEWER = EvaluationConfig(curve_points=1, curve_episodes=1)  # than `run_config` has; training is to be the same


@pytest.fixture(autouse=True)
def states_lie_in_the_tests_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data(tmp_path):
    return Episodes.open(write_episodes(tmp_path / "data", "hopper"))


@pytest.mark.parametrize("bins", [0, 11])
def test_pretraining(tmp_path, data, bins):
    config = model_config("hopper", bins=bins)
    unbroken(tmp_path / "a", config, lambda run: pretrain(run, [data]))
    killed_and_resumed(tmp_path / "b", config, lambda run: pretrain(run, [data]), kills=[7, 5])
    same_files(tmp_path / "a", tmp_path / "b")
    model, saved = load_model(tmp_path / "a")
    assert saved == config
    start = build_model(config.settings, config.tasks)
    assert not torch.equal(model.encoder[0].linear.weight, start.encoder[0].linear.weight)
    if not bins:  # rewards are learned in units of their deviation in the data
        reward = np.concatenate([row[:n] for row, n in zip(data.reward, data.length, strict=True)])
        assert model.reward_scale.item() == pytest.approx(reward.std(dtype=np.float64), rel=1e-5)


@pytest.mark.parametrize("num_q", [0, 3])
def test_multitask_pretraining(tmp_path, num_q):
    tasks = ("hopper", "cartpole-swingup")
    data = [Episodes.open(write_episodes(tmp_path / task, task)) for task in tasks]
    config = model_config(*tasks, bins=11, num_q=num_q)
    unbroken(tmp_path / "a", config, lambda run: pretrain(run, data))
    killed_and_resumed(tmp_path / "b", config, lambda run: pretrain(run, data), kills=[11])
    same_files(tmp_path / "a", tmp_path / "b")


def fresh_model(config):
    torch.manual_seed(9)
    return build_model(config.settings, config.tasks).eval()


@pytest.mark.parametrize("finetune", [None, {"model_updates": 2, "model_batch_size": 4}], ids=["frozen", "fine-tuned"])
def test_extraction(tmp_path, data, finetune):
    model = model_config("cartpole-swingup", "hopper", bins=11)
    config = run_config("hopper", finetune=finetune)

    def work(run):
        weights = fresh_model(model)
        torch.manual_seed(run.config.seed)
        extract(run, weights, model, data)

    unbroken(tmp_path / "a", config, work)
    killed_and_resumed(tmp_path / "b", config, work, kills=[4, 3])
    same_files(tmp_path / "a", tmp_path / "b", "policy")
    unbroken(tmp_path / "c", config.model_copy(update={"evaluation": FEWER}), work)
    same_weights(tmp_path / "a", tmp_path / "c", "policy")
    rows = pd.read_csv(tmp_path / "a" / "metrics.csv")
    assert rows["updates"].tolist() == [0, 6, 12] and (rows["env_steps"] == 0).all()
    encoder = load_file(tmp_path / "a" / "policy" / "model.safetensors")["model.encoder.0.linear.weight"]
    assert torch.equal(encoder, fresh_model(model).encoder[0].linear.weight) == (finetune is None)


@pytest.mark.parametrize(("bins", "reencode"), [(0, False), (11, True)])
def test_online_training(tmp_path, data, bins, reencode):
    small = {"num_envs": 3, "replay_capacity": 30, "model_updates": 2, "model_batch_size": 8}
    model = model_config("hopper", bins=bins)
    config = run_config("hopper", horizon=4, online=small | {"reencode": reencode})

    def work(run):
        weights = fresh_model(model)
        torch.manual_seed(run.config.seed)
        train_online(run, weights, model, data)

    unbroken(tmp_path / "a", config, work)
    killed_and_resumed(tmp_path / "b", config, work, kills=[5, 3])  # after the ring of 10 steps has wrapped, too
    same_files(tmp_path / "a", tmp_path / "b", "policy")
    unbroken(tmp_path / "c", config.model_copy(update={"evaluation": FEWER}), work)
    same_weights(tmp_path / "a", tmp_path / "c", "policy")
    assert pd.read_csv(tmp_path / "a" / "metrics.csv")["env_steps"].tolist() == [0, 6 * 4 * 3, 12 * 4 * 3]


def test_a_state_of_another_world_model_is_refused(tmp_path, data):
    model, config = model_config("hopper"), run_config("hopper")
    with pytest.raises(Killed):
        extract(MortalRun(tmp_path / "a", config, saves=2), fresh_model(model), model, data)
    weights = fresh_model(model)
    with torch.no_grad():
        weights.reward_scale += 1  # pre-trained again, from other data
    run = Run(tmp_path / "a", config)
    refusal(lambda: extract(run, weights, model, data), str(run.state_folder), "another world model", "delete it")


LEARNERS = {
    "sac": {"algorithm": "sac", "env_steps": 200, "units": (8,), "batch_size": 8, "random_steps": 60, "checkpoints": 2},
    "pwm": {
        "algorithm": "pwm",
        "model": {"world_model": TINY, "updates": 6, "batch_size": 4, "horizon": 3},
        "policy": {"updates": 20, "horizon": 4, **TINY_POLICY, "online": {"num_envs": 3, "model_batch_size": 4}},
        "random_steps": 30,
        "checkpoints": 2,
    },
}


@pytest.mark.parametrize(("learner", "kills"), [("sac", [20, 100]), ("pwm", [3, 10])])
def test_collection_by_a_learner(tmp_path, monkeypatch, learner, kills):
    """Killed in both phases of its learning, and once more when half of its checkpoints' episodes are written."""
    settings = CollectConfig(mixture={"replay": 4, "checkpoints": 4}, learner=LEARNERS[learner])
    config = DataConfig(scale="test", task="hopper", seed=1, settings=settings)
    unbroken(tmp_path / "a", config, lambda run: collect(run, tmp_path / "a"))
    work = lambda run: collect(run, tmp_path / "b")  # noqa: E731
    roll_out, calls = collection.roll_out, iter(range(9))

    def dying(*arguments):
        if next(calls) == 1:
            raise Killed
        roll_out(*arguments)

    monkeypatch.setattr(collection, "roll_out", dying)
    for saves in kills:
        with pytest.raises(Killed):
            work(MortalRun(tmp_path / "b", config, saves))
    with pytest.raises(Killed):
        work(Run(tmp_path / "b", config, save_every=0.0))
    assert not (tmp_path / "b").exists()
    killed_and_resumed(tmp_path / "b", config, work, kills=[])
    a, b = (Episodes.open(tmp_path / name).meta for name in "ab")
    assert a.model_dump() == b.model_dump() and set(a.sha256) == set(FILES)


SIGKILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
import torch
from support import model_config
from pwm.data.episodes import Episodes
from pwm.pretrain import pretrain
from pwm.runs import Run

saves, save = 0, torch.save

def die_while_writing(state, file):
    global saves
    saves += 1
    save(state, file)
    if saves == 6:
        file.truncate(1000)  # half a file
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = die_while_writing
run = Run(Path({out!r}), model_config("hopper"), save_every=0.0)
pretrain(run, [Episodes.open({data!r})])
"""


def test_sigkill_in_the_middle_of_a_save(tmp_path, data):
    config, out = model_config("hopper"), tmp_path / "results" / "b"
    program = SIGKILLED.format(tests=str(ROOT / "tests"), out=str(out), data=str(tmp_path / "data"))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()  # nothing under the results before the run is done
    run = Run(out, config)
    assert run.state_folder.is_relative_to(tmp_path / "state" / "b")
    assert torch.load(run.state_folder / "state.pt", weights_only=True)["state"]["update"] == 5
    pretrain(run, [data])
    unbroken(tmp_path / "a", config, lambda run: pretrain(run, [data]))
    same_files(tmp_path / "a", out)


def test_an_unfinished_optimiser_would_show(tmp_path, data, monkeypatch):
    """The comparison is sharp: a resume that forgets the optimiser's moments ends elsewhere."""
    config = model_config("hopper")
    unbroken(tmp_path / "a", config, lambda run: pretrain(run, [data]))
    monkeypatch.setattr(ModelTrainer, "restore", lambda self, state: self.model.load_state_dict(state["model"]))
    killed_and_resumed(tmp_path / "b", config, lambda run: pretrain(run, [data]), kills=[10])
    with pytest.raises(AssertionError):
        same_files(tmp_path / "a", tmp_path / "b")


def test_another_config_starts_anew(tmp_path, data):
    with pytest.raises(Killed):
        pretrain(MortalRun(tmp_path / "a", model_config("hopper"), saves=3), [data])
    assert Run(tmp_path / "a", model_config("hopper")).load_state()["update"] == 3
    assert Run(tmp_path / "a", model_config("hopper", learning_rate=1e-3)).load_state() is None
    assert Run(tmp_path / "a", model_config("hopper", seed=1)).load_state() is None


def truncate(path):
    path.write_bytes(path.read_bytes()[:100])


def flip_a_bit(path):
    """In the tensor's own bytes, which torch would read without a word."""
    content = path.read_bytes()
    at = content.index(torch.ones(300).numpy().tobytes())
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


@pytest.mark.parametrize("spoil", [truncate, flip_a_bit])
def test_a_damaged_state_falls_back_to_the_one_before(tmp_path, capsys, spoil):
    run = Run(tmp_path / "a", model_config("hopper"), save_every=0.0)
    for count in (1, 2):
        run.save_state(lambda count=count: {"x": torch.ones(300), "count": count})
    newest, older = (run.state_folder / name for name in ("state.pt", "previous.pt"))
    assert run.load_state()["count"] == 2
    spoil(newest)
    assert run.load_state()["count"] == 1 and f"{newest}: cannot be read" in capsys.readouterr().err
    spoil(older)
    refusal(run.load_state, str(run.state_folder), "delete it")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e13])
def test_divergence_stops_pretraining_and_keeps_its_state(tmp_path, data, monkeypatch, value):
    update, losses = ModelTrainer.update, iter([0.1] * 4 + [value])
    broken = lambda *given: update(*given) | {"reward_loss": torch.tensor(next(losses))}  # noqa: E731
    monkeypatch.setattr(ModelTrainer, "update", broken)
    run = Run(tmp_path / "a", model_config("hopper"), save_every=0.0)
    with pytest.raises(FloatingPointError, match=r"update 5: reward_loss is .*: training diverged; .* is in .*state"):
        pretrain(run, [data])
    assert torch.load(run.state_folder / "state.pt", weights_only=True)["state"]["update"] == 4
    assert not (tmp_path / "a" / "model.safetensors").exists()


@pytest.mark.parametrize("online", [None, {"num_envs": 3, "model_updates": 1, "model_batch_size": 8}])
def test_divergence_stops_extraction_and_keeps_its_state(tmp_path, data, monkeypatch, online):
    """A weight of the policy that overflows shows in the losses of the same update, before any state is saved."""
    update = PolicyTrainer.update

    def spoil(trainer, *given):
        if trainer.updates == 5:  # the next one would be evaluated for the curve as well
            with torch.no_grad():
                trainer.critic.values[-1].weight[0, 0] = float("inf")
        return update(trainer, *given)

    monkeypatch.setattr(PolicyTrainer, "update", spoil)
    run, model = Run(tmp_path / "a", run_config("hopper", online=online), save_every=0.0), model_config("hopper")
    with pytest.raises(FloatingPointError, match=r"update 6: (value|critic_loss) is (-?inf|nan): training diverged"):
        (train_online if online else extract)(run, fresh_model(model), model, data)
    state = torch.load(run.state_folder / "state.pt", weights_only=True)["state"]["trainer"]
    assert state["updates"] == 5
    assert all(tensor.isfinite().all() for part in ("actor", "critic") for tensor in state[part].values())
    assert not (tmp_path / "a" / "policy").exists()


def test_wall_time_counts_training_only(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("pwm.runs.time.time", lambda: clock[0])
    config = model_config("hopper")
    run = Run(tmp_path / "a", config, save_every=5.0)
    clock[0] += 4
    run.save_state(dict)  # too early
    assert run.load_state() is None
    with run.pause():
        clock[0] += 50
    clock[0] += 3
    assert run.wall_time == 7
    run.save_state(dict)
    clock[0] += 1000  # killed, and started again later
    again = Run(tmp_path / "a", config)
    assert again.load_state() == {}
    clock[0] += 2
    assert again.wall_time == 9


def test_manifest_says_what_made_the_model(tmp_path, data):
    config = model_config("hopper", seed=5)
    unbroken(tmp_path / "a", config, lambda run: pretrain(run, [data]))
    tensors, saved = load_checkpoint(tmp_path / "a")
    assert saved["format"] == 1 and saved["config"] == config.model_dump(mode="json")
    manifest = pd.read_json(tmp_path / "a" / "manifest.json", typ="series")
    last = pd.read_csv(tmp_path / "a" / "metrics.csv").iloc[-1]
    assert manifest["seed"] == 5 and manifest["updates"] == 20 and manifest["versions"]["torch"] == torch.__version__
    assert manifest["reward_loss"] == pytest.approx(last["reward_loss"])
    assert manifest["train_wall_s"] >= 0 and manifest["device"] == str(next(iter(tensors.values())).device)


def test_trainer_state_is_whole():
    """Whatever a trainer changes in an update is in its state, by the attributes it has."""
    settings = validate(ExtractConfig, run_config("hopper").settings, "settings")
    trainer = make_trainer(settings, fresh_model(model_config("hopper")), torch.device("cpu"))
    constant = {"model", "config", "_offline_step"}
    assert vars(trainer).keys() - constant == trainer.state().keys()
