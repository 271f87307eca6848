"""One run on two ranks that all tests of insight look at, because starting processes takes its time."""

import pytest

from tests.factory import make_config, make_data
from tests.ranks import run, settings

OPTIONS = settings(
    embedding__dropout=0.1,
    model__dropout=0.2,
    log__tensorboard="true",
    embedding__tables__video__sharding="row_wise",
    embedding__tables__tag__sharding="data_parallel",
    data__validation="''",
)
WATCHED = settings(insight__every_steps=3, insight__gradient_samples=20, checkpoint__every_steps=10, checkpoint__keep_last=9)
WATCHED += settings(metrics__slices="['tab', 'rate']", metrics__slice_rows=20)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), rows=700, files=2, row_group=60)


@pytest.fixture(scope="session")
def watched(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    ended = run(2, "train", make_config(folder, data, batch_size=32), *OPTIONS, *WATCHED)
    assert ended.codes == [0, 0], ended.text
    return folder, ended
