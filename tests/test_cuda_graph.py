"""Updates as CUDA graphs of compiled networks end with the weights that the same updates without have.

On a machine that has little but torch: python -m pytest --noconftest tests/test_cuda_graph.py
"""

import copy

import pytest
import torch

from pwm.agent import PolicyTrainer
from pwm.config import ExtractConfig, PretrainConfig, WorldModelConfig
from pwm.data.batch import Batch
from pwm.model_learning import ModelTrainer
from pwm.nn.actor_critic import Actor, Critic
from pwm.nn.cuda_graph import CudaGraph, graphed
from pwm.nn.world_model import WorldModel
from pwm.planning import Planner

UPDATES = CudaGraph.WARM_UP + 5
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def make_model(tasks: int = 1, **network: object) -> WorldModel:
    """A small model whose every weight matters."""
    torch.manual_seed(0)
    small = {"encoder": (32,), "units": (32, 32), "latent_dim": 32, "task_dim": 4, "dropout": 0.0}
    model = WorldModel(WorldModelConfig(**small | network), 5, [2] * tasks)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.cuda()


def batches(tasks: int) -> list[Batch]:
    """Windows, other ones for every update."""
    torch.manual_seed(1)
    return [
        Batch(
            torch.randn(5, 16, 5).cuda(),
            (torch.rand(4, 16, 2) * 2 - 1).cuda(),
            torch.randn(4, 16).cuda(),
            torch.zeros(4, 16).cuda(),
            torch.randint(tasks, (16,)).cuda(),
        )
        for _ in range(UPDATES)
    ]


def trained_model(tasks: int, compile: bool, **network: object) -> tuple[WorldModel, dict[str, torch.Tensor]]:
    model = make_model(tasks, **network)
    before = copy.deepcopy(model.state_dict())
    # At a rate that falls from update to update, which the graph has to follow.
    config = PretrainConfig(world_model=model.config, horizon=4, compile=compile, learning_rate=1e-2, final_lr=1e-4)
    trainer = ModelTrainer(model, config, torch.full((tasks,), 0.9).cuda())
    torch.manual_seed(2)
    for update, batch in enumerate(batches(tasks)):
        metrics = trainer.update(batch, update / UPDATES)
    assert any((value - before[name]).abs().max() > 1e-2 for name, value in model.state_dict().items())
    return model, metrics


@on_gpu
@pytest.mark.parametrize("network", [{}, {"reward_bins": 11, "num_q": 3}], ids=["own objective", "full objective"])
def test_world_model_update(network):
    tasks = 2 if network else 1
    (eager, metrics), (fast, same) = (trained_model(tasks, compile, **network) for compile in (False, True))
    torch.testing.assert_close(dict(fast.state_dict()), dict(eager.state_dict()), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(same, metrics, rtol=1e-3, atol=1e-4)


@on_gpu
def test_policy_update():
    trainers = []
    for compile in (False, True):
        model = make_model()
        config = ExtractConfig(
            batch_size=16, horizon=4, updates=UPDATES, compile=compile, actor_units=(32,), critic_units=(32,)
        )
        actor, critic = Actor(32, 2, config.actor_units).cuda(), Critic(32, config.critic_units, 3).cuda()
        trainers.append(PolicyTrainer(model, actor, critic, config))
        torch.manual_seed(2)
        task = torch.zeros(16, dtype=torch.long).cuda()
        for batch in batches(1):
            with torch.no_grad():
                z = model.encode(batch.obs[0], task)
            metrics = trainers[-1].update(z, task)
        assert all(torch.isfinite(value) for value in metrics.values())
    eager, fast = trainers
    for part in ("actor", "critic"):
        ours, theirs = getattr(fast, part).state_dict(), getattr(eager, part).state_dict()
        torch.testing.assert_close(dict(ours), dict(theirs), rtol=1e-3, atol=1e-4)
    assert fast.return_scale.state() == pytest.approx(eager.return_scale.state(), rel=1e-4)


@on_gpu
def test_planning():
    """The same actions, with exploration that draws from the search's generator between searches, and the same plan."""
    model, search = make_model(2, reward_bins=11, num_q=3).eval(), {"samples": 40, "elites": 6, "prior_samples": 5}
    planners = [
        Planner(copy.deepcopy(model), 0.9, 3, 4, **search, precision="float32", seed=0, compile=compile)
        for compile in (False, True)
    ]
    first = torch.ones(16, dtype=torch.bool).cuda()
    for batch in batches(2):
        with torch.no_grad():
            z = model.encode(batch.obs[0], batch.task)
        actions = [planner(z, batch.task, first, explore=True) for planner in planners]
        torch.testing.assert_close(actions[1], actions[0], rtol=1e-3, atol=1e-4)
        first = batch.obs[1, :, 0] > 0
    torch.testing.assert_close(planners[1].mean, planners[0].mean, rtol=1e-3, atol=1e-4)
    assert actions[0].std() > 0.1 and planners[0].mean.std() > 0.1


@on_gpu
def test_results_are_not_overwritten_and_state_moves_on():
    total = torch.zeros(3).cuda()

    def step(x):
        total.add_(x)
        return {"total": total * 1.0}

    graph, x = CudaGraph(step), torch.arange(3.0).cuda()
    seen = [graph(x * k)["total"] for k in range(UPDATES)]
    for k, result in enumerate(seen):
        torch.testing.assert_close(result, torch.arange(3.0).cuda() * (k * (k + 1) / 2))


def test_on_a_cpu_the_step_is_as_it_is():
    step = lambda x: {"x": x}  # noqa: E731
    assert graphed(step, True, torch.device("cpu"), [torch.nn.Linear(2, 2)]) is step
    assert graphed(step, False, torch.device("cuda"), []) is step
