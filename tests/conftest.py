"""Settings that every test needs, made before torch is imported."""

import os
import sys

# Ranks of a test share the machine's few cores: more threads than that slow each other down by a factor.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

from tests import forked

# The same examples in every run, and no time limit per example: machines differ, results must not.
settings.register_profile(
    "home_dist", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("home_dist")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # a worker of pytest-xdist shares what the process that leads it has begun
        forked.begin()


@pytest.fixture(autouse=True)
def _threads_of_the_environment() -> None:
    """What runs in the tests' own process, such as a command or a rank, may set torch's threads. With another number of them
    products round otherwise, and later tests that compare to the bit would depend on the order of tests."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
