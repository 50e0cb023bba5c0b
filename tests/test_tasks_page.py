"""What docs/tasks.md says of the bodies is what the models are."""

import re
from pathlib import Path

from pwm.envs.locomotion import CONTROL_FREQUENCY, build_model
from pwm.envs.tasks import LOCOMOTION

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tasks.md"


def test_the_table_of_bodies() -> None:
    row = r"^\| ([a-z-]+) \| (\d+)(?: muscles)? \| (\d+) \| ([\d.]+) \| (\d+) \|$"
    rows = re.findall(row, PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    expected = []
    for task in LOCOMOTION:
        model = build_model(task.body)
        steps = round(1 / (CONTROL_FREQUENCY * model.opt.timestep))
        sizes = (task.action_dim, task.observation_dim, f"{model.body_subtreemass[0]:.1f}", steps)
        expected.append((task.name, *map(str, sizes)))
    assert rows == expected
