"""A version on top of an older one answers as one that is read whole, whatever deltas hold; the older one stays as it was."""

import gc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from home_dist.publish.folder import VersionsFolder
from home_dist.publish.of_checkpoint import publish_checkpoint
from home_dist.publish.on_top import SharedTable, open_on_top, settle
from home_dist.publish.scoring import open_version
from tests.factory import make_config
from tests.publish.raw_data import raw_data
from tests.publish.test_live import COMMON, TABLES, publishing
from tests.publish.trained import CUT, MANAGED, source, trained_on
from tests.ranks import run, settings

pytestmark = pytest.mark.distributed
KINDS = {
    "managed": [*MANAGED, *settings(embedding__tables__video__max_age=3)],
    "columns_int8": settings(**{f"embedding__tables__{t}__sharding": "column_wise" for t in TABLES}, publish__rows="int8"),
}


@pytest.fixture(scope="module", params=KINDS)
def published(request, tmp_path_factory):
    """(place, rows of data): one full version, and deltas on it."""
    folder = tmp_path_factory.mktemp(request.param)
    config, to = make_config(folder, raw_data(folder / "data"), batch_size=16), str(folder / "out")
    ended = run(2, "train", config, *COMMON, *publishing(to), *settings(train__epochs=1), *KINDS[request.param])
    assert ended.codes == [0, 0], ended.text
    tables = [pq.read_table(p) for p in sorted((folder / "data" / "test").iterdir())]
    return to, pa.concat_tables(tables)


def names(to):
    return [f"v{n:06d}" for n in VersionsFolder(to).versions()]


def equal(model, other, table):
    assert model.manifest == other.manifest
    one, two = model.predict(table), other.predict(table)
    assert one.equals(two)
    for name, own in model.program.run.tables.items():
        whole = other.program.run.tables[name]
        ids = torch.arange(len(whole.values))
        there = whole(ids).abs().sum(1) > 0  # rows that no version holds are zeros there
        assert torch.equal(own(ids)[there], whole(ids)[there])


def test_version_after_version_is_what_reading_it_whole_gives(published):
    to, table = published
    versions = names(to)
    assert len(versions) >= 4
    assert VersionsFolder(to).manifest(versions[-1]).kind == "delta"
    model = open_version(to, versions[0])
    for number, name in enumerate(versions[1:]):
        older, before = model, model.predict(table)
        model = open_on_top(older, to, name)
        assert older.predict(table).equals(before)
        equal(model, open_version(to, name), table)
        assert not settle(model)  # the older one is here
        if number % 2:
            del older
            gc.collect()
            assert settle(model)
            assert all(not len(t.over[0]) for t in model.program.run.tables.values() if isinstance(t, SharedTable))
            equal(model, open_version(to, name), table)


def test_deltas_are_passed_over_together(published):
    to, table = published
    versions = names(to)
    model = open_on_top(open_version(to, versions[0]), to)
    equal(model, open_version(to), table)
    assert open_on_top(model, to) is None
    assert open_on_top(model, to, versions[1]) is None


def test_damaged_deltas_are_refused_and_the_open_version_stays(published, tmp_path):
    to, table = published
    model = open_version(to, names(to)[0])
    before, path = model.predict(table), next((tmp_path.parent / to / names(to)[1]).glob("rows-*.bin"))
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    try:
        with pytest.raises(Exception, match="SHA-256 is not the manifest's"):
            open_on_top(model, to)
    finally:
        path.write_bytes(content)
    assert model.predict(table).equals(before)


def test_small_tables_of_deltas_from_checkpoints(tmp_path):
    """They hold changed rows of replicated tables alone."""
    trained, to = trained_on(1, raw_data(tmp_path / "data"), CUT), str(tmp_path / "out")
    publish_checkpoint(source(trained, 2), to, "fp16")
    publish_checkpoint(source(trained, 4), to, "fp16", delta=True)
    table = pq.read_table(next((tmp_path / "data" / "test").iterdir()))
    equal(open_on_top(open_version(to, "v000001"), to), open_version(to), table)
    publish_checkpoint(source(trained, 4), to, "fp16")
    assert open_on_top(open_version(to, "v000002"), to) is None
