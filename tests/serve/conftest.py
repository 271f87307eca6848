import pytest

from home_dist.publish.of_checkpoint import publish_checkpoint
from home_dist.publish.scoring import open_version
from tests.publish.raw_data import raw_data
from tests.publish.trained import CUT, source, trained_on
from tests.serve.server import rows_of


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    return trained_on(1, raw_data(tmp_path_factory.mktemp("serve") / "data"), CUT)


@pytest.fixture(scope="session")
def place(trained):
    """A folder with one version."""
    to = str(trained.parent / "versions")
    publish_checkpoint(source(trained, 4), to, "fp32")
    return to


@pytest.fixture(scope="session")
def model(place):
    return open_version(place)


@pytest.fixture(scope="session")
def rows(trained, model):
    return rows_of(trained, model)
