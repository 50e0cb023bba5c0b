"""Tables of what single runs did and took, against numbers by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawing import change
from synthetic_results import write_results
from test_tables import rows_of, write

from workflows.tables import gait, online, run_times


def test_speeds_and_falls_by_hand(tmp_path, monkeypatch):
    paths = write_results(tmp_path, missing=("algorithm == 'shac' and seed == 1",))
    table = pd.read_csv(paths["scores"]).assign(terminated=0, speed=np.nan)
    table.to_csv(paths["scores"], index=False)
    change(paths["scores"], "task == 'hopper' and algorithm == 'shac'", speed=[2.125, -0.5], terminated=[0, 7])
    change(paths["scores"], "task == 'hopper' and algorithm == 'ppo'", speed=[1.0, 1.5, np.nan], terminated=[1, 2, 3])
    written = write(gait, paths, tmp_path / "gait", monkeypatch)
    assert rows_of(written["md"])[2:] == [
        ["hopper", "SHAC", "1,000", "2.12, −0.50", "0, 7 of 10", "2/3"],
        ["hopper", "PPO", "1,000", "1.00, 1.50", "1, 2 of 10", "3"],  # one does not tell
    ]
    assert pd.read_csv(tmp_path / "gait.csv")["seed"].tolist() == [0, 2, 0, 1]


def learnt_online(folder: Path, returns: list[float], decisions: int) -> dict[str, Path]:
    """Results with runs of TD-MPC2 on cheetah-run, one of each seed, that learnt for so many decisions."""
    paths = write_results(folder)
    scores = pd.read_csv(paths["scores"])
    chosen = (scores["task"] == "cheetah-run") & (scores["algorithm"] == "tdmpc2")
    one = scores[chosen].iloc[0].to_dict() | {"env_steps": decisions, "train_wall_s": 600.0}
    runs = pd.DataFrame([one | {"seed": seed, "return_mean": mean} for seed, mean in enumerate(returns)])
    pd.concat([scores[~chosen], runs]).to_csv(paths["scores"], index=False)
    return paths


def test_online_agents_beside_published_seeds_by_hand(tmp_path, monkeypatch):
    """Cheetah-run, of whose published seeds the lowest is at 454.4 and the highest at 613.8 after 100,000 steps."""
    changed = learnt_online(tmp_path, [500.0, 400.0], 50_000)
    written = write(online, changed, tmp_path / "online", monkeypatch)
    (line,) = [row for row in rows_of(written["md"])[2:] if row[0] == "cheetah-run"]
    theirs = ["100,000", "450 (400 to 500; 2/3)", "100,000", "519 (454 to 614; 3)", "1 of 2", "10.0"]
    assert line == ["cheetah-run", "TD-MPC2", *theirs]
    numbers = pd.read_csv(tmp_path / "online.csv").set_index("task").loc["cheetah-run"]
    assert numbers[["mean", "published_low", "published_high"]].tolist() == [450.0, 454.4, 613.8]


@pytest.mark.parametrize(
    ("decisions", "published_steps"),
    [(0, []), (9_000, [100_000]), (50_000, [100_000]), (50_001, [200_000]), (10_000_000, [])],
)
def test_online_agents_are_beside_the_first_published_point_that_is_not_before_their_end(
    tmp_path, monkeypatch, decisions, published_steps
):
    write(online, learnt_online(tmp_path, [500.0], decisions), tmp_path / "online", monkeypatch)
    table = pd.read_csv(tmp_path / "online.csv").query("task == 'cheetah-run'")
    assert table["published_steps"].tolist() == published_steps


def test_run_times_by_hand(tmp_path, monkeypatch):
    paths = write_results(tmp_path, missing=("algorithm == 'shac' and seed == 2",))
    pwm = "task == 'walker-walk' and algorithm == 'pwm' and variant == 'default'"
    change(paths["scores"], pwm, train_wall_s=[30, 60, 120], eval_wall_s=[2, 4, 8], updates=[600, 600, 600])
    change(paths["scores"], "algorithm == 'tdmpc2'", updates=0)  # scored in a finished model: nothing trained
    written = write(run_times, paths, tmp_path / "run_times", monkeypatch)
    numbers = pd.read_csv(tmp_path / "run_times.csv").set_index(["suite", "algorithm", "variant"])
    row = numbers.loc[("mt30", "pwm", "default")]  # nine more runs: a minute for 100 updates, 10 × 500 decisions in 1 s
    assert row[["n", "expected", "device"]].tolist() == [12, 12, "cpu"]
    assert row[[f"train_minutes{part}" for part in ("", "_low", "_high")]].tolist() == [1, 0.5, 2]
    assert row[["updates_per_s_low", "updates_per_s_high"]].tolist() == pytest.approx([100 / 60, 600 / 30])
    assert row[["decisions_per_s", "decisions_per_s_low"]].tolist() == [5000, 625]
    shac = numbers.loc[("locomotion", "shac", "default")]
    assert shac[["n", "expected"]].tolist() == [2, 3] and np.isnan(shac["decisions_per_s"])  # episodes may end early
    cells = {(line[0], line[1]): line[2:] for line in rows_of(written["md"])}
    assert cells["MT30", "PWM"] == [
        "12",
        "cpu",
        "1.00 [0.50 – 2.00]",
        "0.02 [0.02 – 0.13]",
        "1.67 [1.67 – 20.0]",
        "5000 [625 – 5000]",
    ]
    assert cells["MT30", "TD-MPC2"][2:5:2] == ["–", "–"] and cells["Locomotion", "SHAC"][0] == "2/3"
    assert ("MT30", "random policy") not in cells
