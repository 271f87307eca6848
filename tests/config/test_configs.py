"""The configurations in configs/ can be read."""

import pytest

from home_dist.config import load_config
from tests.ranks import REPOSITORY

CONFIGS = sorted((REPOSITORY / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=[p.stem for p in CONFIGS])
def test_each_is_read(path):
    assert load_config(path).run.dir
