"""How much of the workflow is run on the cluster."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make slurm` runs the whole scale `test`, the test suite a part of it."""
    parser.addoption("--whole-scale", action="store_true", help="run the whole scale `test` on the Slurm cluster")
