"""What a scale will cost: work against FLOPs that are counted while they are done, rates and plans against hand-made
numbers.
"""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from support import model_settings, refusal, run_config

from benchmarks.updates import flops
from pwm import config
from pwm.config import CollectConfig, ExtractConfig, ModelConfig, PretrainConfig, WorldModelConfig
from pwm.data.batch import Batch
from pwm.extract import make_trainer
from pwm.matrix import Matrix, Resources
from pwm.model_learning import ModelTrainer
from pwm.planning import Planner
from pwm.pretrain import build_model
from workflows import gpu_rates, plan, plan_models, rates, work

TASKS = ("cheetah-run", "reacher-easy")
WIDTHS = {"encoder": (64,), "units": (128, 96), "latent_dim": 64}


def settings_of(num_q: int) -> PretrainConfig:
    """A world model wide enough for its products to be nearly all there is to count."""
    bins = {"reward_bins": 101, "num_q": num_q} if num_q else {}
    return PretrainConfig(world_model=WorldModelConfig(**WIDTHS, **bins), batch_size=32, horizon=5)


def counted_update(settings: PretrainConfig, tasks: tuple[str, ...]) -> int:
    """FLOPs of one real update."""
    model, (steps, size) = build_model(settings, tasks), (settings.horizon, settings.batch_size)
    trainer = ModelTrainer(model, settings, torch.full((len(tasks),), 0.99))
    batch = Batch(
        torch.randn(steps + 1, size, model.observation_dim),
        torch.rand(steps, size, model.action_dim),
        torch.randn(steps, size),
        torch.zeros(steps, size),
        torch.zeros(size, dtype=torch.long),
    )
    return flops(lambda: trainer.update(batch, 0.0))


@pytest.mark.parametrize("num_q", [0, 4])
@pytest.mark.parametrize("tasks", [TASKS[:1], TASKS])
def test_flops_of_a_model_update_are_those_counted(num_q, tasks):
    settings = settings_of(num_q)
    found = work.pretraining(settings.model_copy(update={"updates": 7}), tasks)
    assert work.on_core(found)["GFLOP"] == pytest.approx(7 * counted_update(settings, tasks) / 1e9, rel=0.1)
    assert found["model update"] == 7


def test_weights_of_a_world_model_are_those_it_has():
    settings = settings_of(3)
    matrices = [p for name, p in build_model(settings, TASKS).named_parameters() if "embedding" not in name]
    products = sum(p.numel() for p in matrices if p.dim() > 1)
    assert work.Networks.of(settings.world_model, TASKS).weights == pytest.approx(products, rel=0.02)


def test_flops_of_an_extraction_are_those_counted():
    settings, own = settings_of(0), ExtractConfig(batch_size=32, horizon=6, updates=3)
    model = build_model(settings, TASKS)
    trainer = make_trainer(own, model, torch.device("cpu"))
    task = torch.zeros(32, dtype=torch.long)
    counted = flops(lambda: trainer.update(model.encode(torch.randn(32, model.observation_dim), task).detach(), task))
    found = work.extraction(own, settings, TASKS, TASKS[0])
    assert work.on_core(found)["GFLOP"] == pytest.approx(3 * counted / 1e9, rel=0.1)
    assert (found["policy update"], found["decision dmcontrol"]) == (3, 0)


def test_an_online_extraction_acts_and_learns_its_model_too():
    settings = settings_of(0)
    own = ExtractConfig(horizon=6, updates=3, online={"num_envs": 8, "model_updates": 2, "model_batch_size": 32})
    alone = work.extraction(own.model_copy(update={"online": None, "batch_size": 8}), settings, ("hopper",), "hopper")
    found = work.extraction(own, settings, ("hopper",), "hopper")
    assert (found["decision hopper"], found["call"], found["model update"]) == (3 * 6 * 8, 3 * 6, 3 * 2)
    model_updates = 3 * 2 * counted_update(settings, ("hopper",)) / 1e9
    assert work.on_core(found)["GFLOP"] == pytest.approx(work.on_core(alone)["GFLOP"] + model_updates, rel=0.1)


@pytest.mark.parametrize("task", ["cheetah-run", "humanoid"])
def test_flops_of_a_planned_decision_are_those_counted(task):
    settings = settings_of(3)
    model = build_model(settings, (task,)).eval()
    search = {"iterations": 3, "samples": 64, "elites": 4, "prior_samples": 8}
    planner = Planner(model, 0.99, horizon=3, **search, precision="float32", seed=0)
    index, first = torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.bool)
    counted = flops(lambda: planner(model.encode(torch.randn(1, model.observation_dim), index), index, first))
    found = work.Networks.of(settings.world_model, (task,)).plan(search, 3, model.action_dim)
    assert found == pytest.approx(counted, rel=0.05)


def test_decisions_of_a_data_set_by_hand():
    learner = {"algorithm": "sac", "env_steps": 3000, "random_steps": 1000, "num_envs": 10, "updates_per_step": 0.5}
    mixture = {"random": 40, "replay": 5, "checkpoints": 60}
    own = config.validate(CollectConfig, {"mixture": mixture, "learner": learner | {"checkpoints": 2}}, "here")
    found = work.collected(own, "cheetah-run")
    # 40 + 60 episodes by 20 environments, 2 x 20 episodes of the checkpoints by themselves, 3000 steps of the learner.
    assert found["decision dmcontrol"] == 140 * 500 + 3000
    assert found["call"] == 140 * 500 / 20 + 3000 / 10
    assert found["SAC update"] == 2000 * 0.5


def test_an_unknown_baseline_is_counted_in_jobs():
    run = run_config("reacher-easy", algorithm="random")
    found = work.training(run, None)
    episodes = run.evaluation.curve_episodes
    assert found == {"job of random": 1, "decision dmcontrol": 500 * episodes, "call": 500}


# Rates


def test_cpu_time_goes_on_at_its_pace_after_the_last_look():
    assert rates.cpu_seconds(wall=10.0, seen=8.0) == 8.0
    assert rates.cpu_seconds(wall=31.0, seen=12.4) == pytest.approx(24.8)  # last looked at after 15.5 s
    assert rates.cpu_seconds(wall=91.0, seen=45.5) == pytest.approx(45.5 * 91 / 75.5)


def finished(folder: Path, seconds: dict[str, float], updates: dict[str, int]) -> Path:
    """results/<scale> with models that took so many seconds for so many updates."""
    for name, took in seconds.items():
        where = folder / "models/mt30/default" / name / "seed0"
        where.mkdir(parents=True)
        model = ModelConfig(
            scale="s", suite="mt30", variant="default", tasks=("reacher-easy",), seed=0,
            settings=model_settings(updates=updates[name]),
        )  # fmt: skip
        (where / "config.yaml").write_text(config.dump(model))
        hardware = {"machine": "x86_64", "processor": "Abacus", "cpus": 2}
        (where / "manifest.json").write_text(json.dumps({"commit": "abc", "hardware": hardware}))
        file = folder / "benchmarks/pretrain/mt30/default" / name / "seed0.tsv"
        file.parent.mkdir(parents=True)
        pd.DataFrame({"s": [took], "cpu_time": [took]}).to_csv(file, sep="\t", index=False)
    return folder


UPDATES = {"a": 100, "b": 400, "c": 700}


def test_rates_are_found_again(tmp_path):
    """4 s a job and 4 ms an update (with its products: there is one size of them)."""
    folder = finished(tmp_path / "s", {name: 4 + 0.004 * updates for name, updates in UPDATES.items()}, UPDATES)
    table = rates.rate_table([folder])
    known = dict(zip(table["unit"], table["seconds"], strict=True))
    job = work.pretraining(model_settings(updates=1), ("reacher-easy",))
    assert known["job"] == pytest.approx(4.0)
    assert sum(amount * known[unit] for unit, amount in work.on_core(job).items()) == pytest.approx(0.004)
    assert {*table["machine"]} == {"Abacus, 2 cores"} and {*table["commit"]} == {"abc"} and {*table["jobs"]} == {3}
    slower = finished(tmp_path / "t", {name: 8 + 0.008 * updates for name, updates in UPDATES.items()}, UPDATES)
    told = rates.prediction([folder], slower)
    assert "| pretrain | 3 | 0.6 | 0.6 | 0.3 | 0.50 | 50% |" in told


def test_a_config_of_another_version_is_left_out_and_nothing_is_refused(tmp_path, capsys):
    folder = finished(tmp_path / "s", dict.fromkeys(UPDATES, 5.0), UPDATES)
    file = folder / "models/mt30/default/a/seed0/config.yaml"
    file.write_text(file.read_text() + "older: 1\n")
    assert len(rates.measured(folder)) == 2
    assert "left out" in capsys.readouterr().err
    refusal(lambda: rates.measured(tmp_path / "none"), "no finished jobs", "make reproduce SCALE=none")


# Plans


def job(name: str, *needs: str, threads: int = 1, gpu: int = 0, **units: float) -> plan.Job:
    """A job of so much work."""
    return plan.Job(name, needs, work.Work(units), Resources(threads=threads, gpu=gpu), 0.0)


HOURS = {"a": 2.0, "b": 1.0, "c": 3.0, "d": 4.0}


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (1, 10.0),
        # a and b begin; d follows b until 5; c, which needs both, follows a until 5.
        (2, 5.0),
        (9, 5.0),  # a, then c
    ],
)
def test_wall_time_by_hand(cores, expected):
    order = [job("a"), job("b"), job("c", "a", "b"), job("d")]
    assert plan.wall_time(order, HOURS, cores, gpus=0) == expected


def test_wall_time_with_threads_and_gpus_by_hand():
    assert plan.wall_time([job("a", threads=2), job("b", threads=2)], HOURS, cores=3, gpus=0) == 3.0
    assert plan.wall_time([job("a", threads=8), job("b", threads=8)], HOURS, cores=3, gpus=0) == 3.0
    assert plan.wall_time([job("a", gpu=1), job("b", gpu=1), job("d")], HOURS, cores=3, gpus=1) == 4.0


GPU = pd.DataFrame(
    [
        ("model update", "float32", 10.0, 5.0),
        ("model update", "float32", 1000.0, 20.0),
        ("model update", "bfloat16, compiled", 10.0, 1.0),
    ],
    columns=["work", "version", "gflop", "milliseconds"],
).assign(what="", device="Abacus", source="by hand")


@pytest.mark.parametrize(
    ("version", "gflop", "expected"),
    [
        ("float32", 1.0, 5.0),  # as the smallest
        ("float32", 10.0, 5.0),
        ("float32", 100.0, 10.0),  # half-way, in logarithms
        ("float32", 4000.0, 80.0),  # at the rate of the largest
        ("float32, compiled", 100.0, 10.0),  # not measured: as eager
        ("bfloat16, compiled", 5.0, 1.0),
    ],
)
def test_time_of_an_update_on_a_gpu_by_hand(version, gflop, expected):
    assert gpu_rates.milliseconds(GPU, "model update", version, gflop) == pytest.approx(expected)


def test_updates_take_place_on_the_gpu_where_one_is_asked_for():
    known, products = {"GFLOP": 0.02, "job": 3.0, "model update": 7.0}, {"GFLOP of model update, float32": 1000.0}
    units = products | {"model update": 100, "GFLOP of SAC": 50, "job": 1}
    assert plan.seconds(job("a", **units), known, GPU) == pytest.approx(1050 * 0.02 + 700 + 3)
    # 100 updates of 10 GFLOP, and on a core the rest.
    assert plan.seconds(job("a", gpu=1, **units), known, GPU) == pytest.approx(0.5 + 50 * 0.02 + 3)
    assert plan.seconds(job("a", gpu=2, **units), known, GPU) == pytest.approx(0.25 + 50 * 0.02 + 3)


def test_a_model_s_plan_by_hand():
    """With nothing but an hour a job: pre-training, then policies, then scores."""
    text = plan_models.table("sizes", a_rate("job", 3600.0), GPU.assign(milliseconds=1e-9))
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines()}
    # 1 + 30 hours on the one GPU, 1 score after the last; on 8 GPUs 30 policies in 4 rounds.
    assert rows["mt30, 317M"][2:] == ["1", "1", "32", "6"]
    settings = PretrainConfig(batch_size=2, horizon=3)
    # hopper: 11 observations, 3 actions; ant: 37 and 8. Half of them each.
    bytes_read = 4 * 2 * (4 * (11 + 37) / 2 + 3 * ((3 + 8) / 2 + 2))
    assert plan_models.batch_bytes(settings, ("hopper", "ant")) == bytes_read


def a_rate(unit: str, seconds: float) -> pd.DataFrame:
    """results/rates.csv with one rate."""
    row = {"unit": unit, "seconds": seconds, "jobs": 1, "scale": "demo", "machine": "Abacus, 2 cores", "commit": "abc"}
    return pd.DataFrame([row])


def test_a_plan_by_hand():
    """With an hour a job, hours are jobs, the longest chain of them four jobs long."""
    text = plan.plan("test", a_rate("job", 3600.0), GPU, cores=10_000, gpus=1)
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for cells in (line.split("|") for line in text.splitlines())
        if len(cells) > 3
    }
    runs, models = str(len(Matrix("test").runs())), str(len(Matrix("test").models()))
    assert rows["evaluate"] == [runs, runs, "–", "–", "1"] and rows["pretrain"][:2] == [models, models]
    assert "on 10000 cores: 4 hours of wall time" in text  # collect, pretrain, extract, evaluate
    assert "Not counted, since never measured: GFLOP (" in text
    alone = plan.plan("test", a_rate("job", 3600.0), GPU, cores=1, gpus=1)
    assert f"on 1 cores: {rows['all'][1]} hours" in alone


def test_runs_that_learn_together_are_one_job_whose_updates_serve_all():
    together, apart = ({job.name: job for job in plan.jobs(Matrix(scale))} for scale in ("online", "online-cpu"))
    lengths = [
        Matrix(scale).resolved(Matrix(scale).runs()[0]).settings["env_steps"] for scale in ("online", "online-cpu")
    ]
    (one,) = [job for name, job in together.items() if name.startswith("tdmpc2")]
    runs = [job for name, job in apart.items() if name.startswith("tdmpc2/")]
    assert len(runs) == 12 and one.disk == pytest.approx(sum(job.disk for job in runs))
    products = "GFLOP of model update, bfloat16, compiled"
    assert one.work["model update"] == lengths[0] and runs[0].work["model update"] == lengths[1]
    assert one.work[products] / lengths[0] == pytest.approx(sum(job.work[products] for job in runs) / lengths[1])
    assert one.ask.gpu == 1
    assert {job.needs for name, job in together.items() if name.startswith("evaluate/")} == {("tdmpc2_together",)}


def test_disk_by_hand():
    bytes_by_job = {job.name: job.disk for job in plan.jobs(Matrix("test"))}
    # 20 episodes of 1001 observations of 11 numbers, 1000 actions of 3, rewards and ends; 4 bytes each.
    assert bytes_by_job["collect/hopper"] == 4 * 20 * (1001 * 11 + 1000 * 5)
    # Encoder 11-16-16, dynamics 19-16-16, reward 19-16-1.
    assert bytes_by_job["pretrain/locomotion/default/hopper/seed0"] == 4 * (
        11 * 16 + 256 + 19 * 16 + 256 + 19 * 16 + 16
    )


def test_the_paper_s_data_are_counted_as_they_come():
    sizes = {job.name: job.disk for job in plan.jobs(plan.Matrix("paper")) if job.rule == "import"}
    assert {*sizes} == {"import/mt30", "import/mt80"}
    assert sizes["import/mt80"] == 34e9 + 50 * 4 * 40_000 * (101 * 39 + 100 * 6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scale", "tset"], "unknown scale 'tset'"),
        (["--cores", "0"], "--cores is 0; give a number above 0"),
        (["--gpu-rates", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["--scale", "paper", "--gpus", "0"], "--gpus is 0"),
        (["--rates", "nowhere.csv"], "nowhere.csv cannot be read"),
    ],
)
def test_bad_input_is_one_line(monkeypatch, capsys, tmp_path, words, message):
    a_rate("job", 1.0).to_csv(tmp_path / "rates.csv", index=False)
    monkeypatch.setattr(sys, "argv", ["plan", "--rates", str(tmp_path / "rates.csv"), *words])
    with pytest.raises(SystemExit) as caught:
        plan.main()
    error = capsys.readouterr().err
    assert caught.value.code == 2 and message in error and error.count("\n") == 1


def test_a_clean_clone_can_plan_every_scale():
    """The committed rates count everything but what was never measured, which the plan names."""
    known = plan.read_rates(Path(__file__).parents[1] / rates.RATES)
    on_gpus = plan.read_gpu_rates(Path(__file__).parents[1] / gpu_rates.GPU_RATES)
    for scale in ("demo", "laptop", "paper"):
        units = {unit for one in plan.jobs(plan.Matrix(scale)) for unit in work.on_core(one.work)}
        lacking = units - {*known["unit"]}
        assert lacking <= {"imported episode", "gradients update"}
        text = plan.plan(scale, known, on_gpus, 8, 1)
        assert all(f"Not counted, since never measured: {unit} (" in text for unit in lacking)
