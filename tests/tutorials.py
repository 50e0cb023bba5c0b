"""The pages of docs/ that add something, followed to the letter: their code blocks are the files."""

import re
import subprocess
from pathlib import Path

import yaml
from project_copy import ROOT, environment

from pwm.yaml_files import merge, read_yaml

TUTORIALS = ("add-a-baseline", "add-a-figure", "add-a-task")


def follow(page: str, folder: Path, commands: bool = True) -> None:
    """Do in a copy of the project what `docs/<page>.md` says, block by block.

    A block's file is the last path that the paragraph before it names. YAML is laid over a file that is there, a diff
    is applied, any other block is a new file; Bash lines are run.
    """
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"((?:[^\n]+\n)*)\n```(\w+)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    assert 2 * len(blocks) == text.count("\n```")
    for paragraph, kind, block in blocks:
        if kind == "bash":
            for line in block.splitlines() if commands else ():
                run(line, folder)
        elif kind == "diff":
            run("git apply -", folder, block)
        else:
            path = folder / re.findall(r"`([^`\s]*/[^`\s]+)`", paragraph)[-1]
            if kind == "yaml" and path.exists():
                block = yaml.safe_dump(merge(read_yaml(path), yaml.safe_load(block)), sort_keys=False)
            else:
                assert not path.exists(), f"{path} is there already"
            path.write_text(block, encoding="utf-8")


def run(line: str, folder: Path, given: str | None = None) -> str:
    """Run a line of Bash in `folder`, which must succeed; its output and errors."""
    done = subprocess.run(
        line, shell=True, cwd=folder, env=environment(), input=given, capture_output=True, text=True, timeout=600
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, f"{line}\n{told}"
    return told
