"""All benchmarks; their tables go into docs/performance.md, too: python -m benchmarks"""

import argparse
from pathlib import Path

import torch

from benchmarks import environments, gradients, planning, sampling, together, updates
from pwm.envs.vector import thread_count
from pwm.hardware import processor
from pwm.runs import default_device
from workflows.readme import fill

PAGE = Path("docs/performance.md")


def machine() -> str:
    """One line on where this runs."""
    return f"{processor()}, {thread_count()} cores, torch {torch.__version__}."


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__).parse_args()
    device = default_device()
    where = "" if device.type == "cpu" else "_gpu"
    sections = {
        f"updates{where}": lambda: f"{machine()} {updates.report(device)}",
        f"planning{where}": lambda: f"{machine()} {planning.report(device)}",
        "sampling": sampling.report,
        "environments": environments.report,
        "gradients": gradients.report,
    }
    if where:
        sections["together_gpu"] = lambda: f"{machine()} {together.report(12, device)}"
    for section, report in sections.items():
        found = report()
        print(f"\n{found}\n")
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), section, found), encoding="utf-8")
