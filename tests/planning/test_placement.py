"""A run's ranks place tables as `home-dist plan` says, and end before they allocate where that does not fit."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from home_dist.config import load_config
from home_dist.data.inputs import Inputs, open_inputs
from home_dist.distributed.ranks import Ranks
from home_dist.embeddings.collections import table_shards
from home_dist.embeddings.initial import Drawn
from home_dist.errors import ConfigError
from home_dist.network import Network
from home_dist.planning import plan as planning
from home_dist.planning import show
from home_dist.planning.placement import model_without_memory, placed_tables
from home_dist.planning.topology import machines, of_gpu
from home_dist.schema import build_layout, load_schema
from home_dist.training import build
from tests.factory import make_config, make_data
from tests.ranks import REPOSITORY, run

SCALE = REPOSITORY / "configs" / "kuaishou_scale.toml"


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Ranks(0, 1, 0, 1, torch.device("cpu"), "gloo", 1)
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("topology", "hosts", "overrides"),
    [
        ("64xH100-80GB", None, ["train.batch_size=8192"]),
        ("128xH100-80GB", 16, []),
        ("32xH200-141GB", None, ["embedding.optimizer=sgd"]),
        ("128xA100-40GB", None, ["embedding.tables.video.memory=cached", "embedding.tables.video.cached_rows=0.1"]),
        ("96xCPU-32GB", None, ["embedding.precision=fp16"]),
    ],
)
def test_a_run_places_tables_as_the_plan_says(topology, hosts, overrides, one_rank, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    config = load_config(SCALE, overrides)
    wanted = machines(topology, hosts)
    schema = load_schema(config.schema_path())
    layout = build_layout(schema, config)
    placed = build._placed(model_without_memory(schema, layout, config), Inputs(config, schema, layout, {}), one_rank, wanted)
    planned = planning.plan(config, wanted, {})
    assert placed_tables(placed, layout, wanted.count) == planned.placed
    assert {s.rank for p in planned.placed for s in p.shards} == set(range(wanted.count))


def test_a_run_on_this_machine_reads_footers_as_the_plan_does(one_rank, tmp_path, monkeypatch):
    data = make_data(tmp_path / "data", rows=600, files=2, splits=("train",))
    config = load_config(make_config(tmp_path, data), ["data.validation=", "data.test=", "train.batch_size=4096"])
    inputs = open_inputs(config, load_schema(config.schema_path()), ("train",))
    wanted = machines("2xCPU-32GB")
    state, network = torch.get_rng_state(), model_without_memory(inputs.schema, inputs.layout, config)
    torch.set_rng_state(state)
    before = {n: t.clone() for n, t in network.head.state_dict().items()}
    placed = build._placed(network, inputs, one_rank, wanted)
    assert torch.equal(torch.get_rng_state(), state)  # measuring the dense part changes nothing
    assert placed_tables(placed, inputs.layout, 2) == planning.plan(config, wanted, {}).placed
    after = network.head.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert all(p.grad is None for p in network.head.parameters())


@pytest.mark.parametrize(
    ("name", "memory", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", 85.5, "H100-80GB"),
        ("NVIDIA A100-SXM4-40GB", 42.4, "A100-40GB"),
        ("NVIDIA A100-SXM4-80GB", 85.1, "A100-80GB"),
        ("NVIDIA L40S", 47.7, "L40S-48GB"),
        ("NVIDIA GeForce RTX 4090", 25.4, "NVIDIA GeForce RTX 4090"),
    ],
)
def test_kinds_of_gpus(name, memory, kind):
    assert of_gpu(name, memory)[0] == kind


@pytest.mark.distributed
def test_a_run_that_does_not_fit_ends_before_it_allocates(tmp_path):
    """3 billion rows of 64 float32: 768 GB on two ranks."""
    data = make_data(tmp_path / "data", rows=600, files=2)
    schema = (data / "schema.toml").read_text()
    (data / "schema.toml").write_text(schema.replace('"video", rows = 2000', '"video", rows = 3_000_000_000'))
    assert "3_000_000_000" in (data / "schema.toml").read_text()
    ended = run(2, "train", make_config(tmp_path, data), "--set", "embedding.dim=64")
    assert ended.codes == [2, 2]
    assert "no plan fits 2xCPU" in ended.text
    assert "video: 3,000,000,000 rows x 64 = 780.0 GB" in ended.text
    assert "devices or more" in ended.text
    assert "--topology" not in ended.text
    assert ended.text.count("no plan fits") == 1
    assert "Traceback" not in ended.text


@pytest.mark.parametrize(
    ("ranks", "overrides", "gigabytes"),
    [
        (1, ["embedding.precision=fp16"], 16 + 4),
        (1, ["embedding.precision=fp16", "embedding.optimizer=adagrad"], 16 + 32),
        (1, ["embedding.precision=fp16", "embedding.optimizer=sgd"], 16),
        (1, [], 32 + 4),
        (2, ["embedding.dim=256", "embedding.tables.video.sharding=column_wise"], 512 + 4),
    ],
)
def test_a_plan_has_room_for_the_whole_state_of_the_optimizer(ranks, overrides, gigabytes, tmp_path):
    """10^9 rows of 8 or 256 numbers; a float32 of state per row and shard, or per weight, whatever the weights' precision."""
    data = make_data(tmp_path / "data", rows=600, files=2)
    schema = (data / "schema.toml").read_text()
    (data / "schema.toml").write_text(schema.replace('"video", rows = 2000', '"video", rows = 1_000_000_000'))
    config = load_config(make_config(tmp_path, data), ["embedding.dim=8", "train.batch_size=64", *overrides])
    kind = machines(f"{ranks}xCPU-32GB")
    for memory, fits in (((gigabytes + 1) / 0.92, True), ((gigabytes - 1) / 0.92, False)):
        wanted = replace(kind, device=kind.device.model_copy(update={"memory": memory}))
        if fits:
            planned = planning.plan(config, wanted, {}).estimate.tables
            assert (planned.weights + planned.state).max() == pytest.approx(gigabytes * 1e9, rel=0.01)
        else:
            with pytest.raises(ConfigError, match="no plan fits"):
                planning.plan(config, wanted, {})


def test_tables_in_host_memory_are_planned_for(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    wanted = machines("24xH100-80GB")
    cached = load_config(SCALE, ["embedding.tables.video.memory=cached", "embedding.tables.video.cached_rows=0.05"])
    host = load_config(SCALE, ["embedding.tables.video.memory=host", "embedding.tables.user.memory=host"])
    found = {}
    for config in (cached, host):
        planned = planning.plan(config, wanted, {})
        away = {p.table: p for p in planned.placed if p.memory != "device"}
        size = sum(p.rows * (p.dim + 1) * 4 for p in away.values())  # row-wise Adagrad: one number per row
        assert planned.estimate.tables.in_host.sum() == size
        whole = sum(planned.estimate.memory.values())
        assert whole.max() < 80e9
        assert planned.estimate.seconds["look-up and update of rows in the host's memory"] > 0
        texts = show.parts(planned.machines, planned.placed, planned.dense, planned.estimate, planned.lengths, config)
        assert sum(getattr(t, "title", "") == "sharding plan" for t in texts) == 1
        found[next(iter(away.values())).memory] = planned
    [video] = [p for p in found["cached"].placed if p.table == "video"]
    cache = sum(s.rows * s.columns * 4 * 0.05 + s.rows * 4 for s in video.shards)
    others = sum(p.rows * p.dim * 4 for p in found["cached"].placed if p.table != "video")
    assert found["cached"].estimate.memory["tables"].sum() == pytest.approx(others + cache)
    with pytest.raises(ConfigError, match=r"the hosts have 512\.0 GB for them"):
        planning.plan(load_config(SCALE, ["embedding.tables.video.memory=host"]), machines("2xH100-80GB"), {})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["embedding.tables.video.cached_rows=0.3"], 'only memory = "cached" has a cache'),
        (["embedding.tables.video.memory=host", "embedding.tables.video.sharding=data_parallel"], "updates in place"),
        (["embedding.tables.video.memory=host", "embedding.tables.video.managed=lfu"], "updates in place"),
        (["embedding.prefetch=true"], "no cache to fill"),
        (["embedding.tables.video.memory=cached", "embedding.prefetch=true", "train.accumulate=2"], "train.accumulate = 1"),
        (["embedding.tables.tab.memory=host"], "kept whole on every rank"),
    ],
)
def test_memory_that_has_no_effect_is_refused(overrides, message, tmp_path):
    data = make_data(tmp_path / "data", rows=60, files=1, splits=("train",))

    def laid_out():
        config = load_config(make_config(tmp_path, data), overrides)
        build_layout(load_schema(config.schema_path()), config)

    with pytest.raises(ConfigError, match=message):
        laid_out()


def test_gpus_get_kernels_of_host_memory(monkeypatch):
    from home_dist.embeddings.sharding import sharders, table_constraints

    monkeypatch.chdir(REPOSITORY)
    more = ["embedding.tables.video.memory=cached", "embedding.tables.user.memory=host", "embedding.prefetch=true"]
    config = load_config(SCALE, more)
    layout = build_layout(load_schema(config.schema_path()), config)
    on = {device: table_constraints(layout, config.embedding, device) for device in ("cuda", "cpu")}
    assert on["cuda"]["video"].compute_kernels == ["fused_uvm_caching"]
    assert on["cuda"]["video"].cache_params.load_factor == 0.2
    assert on["cuda"]["user"].compute_kernels == ["fused_uvm"]
    assert all(c.compute_kernels == ["fused"] and c.cache_params is None for c in on["cpu"].values())
    assert [s.fused_params["prefetch_pipeline"] for s in sharders(config.embedding, 0)[:2]] == [True, True]


def test_the_network_is_planned_as_it_is_built(monkeypatch):
    """`place` has the network's tables on the meta device: it allocates nothing."""
    monkeypatch.chdir(REPOSITORY)
    config = load_config(SCALE)
    network = model_without_memory(
        load_schema(config.schema_path()), build_layout(load_schema(config.schema_path()), config), config
    )
    assert isinstance(network, Network)
    assert all(p.device.type == "meta" for p in network.table_parameters())


def test_the_prefetching_pipeline_checks_a_step_before_its_update():
    """TorchRec's prefetching needs CUDA streams; what stands between backward and update can be tried without."""
    from home_dist.training.pipeline import _AfterBackward

    class Recorded:
        def zero_grad(self, set_to_none=True):
            done.append(("zero_grad", set_to_none))

        def step(self, closure=None):
            done.append("step")

    done: list[object] = []
    optimizer = _AfterBackward(Recorded(), lambda: done.append("check"))
    optimizer.zero_grad()
    optimizer.step()
    assert done == [("zero_grad", True), "check", "step"]


@pytest.mark.parametrize("loaded", [False, True])
def test_initial_values_are_drawn_once_or_not_at_all(loaded, one_rank, tmp_path, monkeypatch):
    """Where a checkpoint follows, neither TorchRec nor the run draws values for tables."""
    data = make_data(tmp_path / "data", rows=60, files=1, splits=("train",))
    config = load_config(make_config(tmp_path, data), ["data.validation=", "data.test="])
    inputs = open_inputs(config, load_schema(config.schema_path()), ("train",))
    filled: list[str] = []
    plain = Drawn.fill
    monkeypatch.setattr(Drawn, "fill", lambda self, *given: (filled.append("once"), plain(self, *given))[1])
    built = build.build(inputs, one_rank, loaded)
    shards = list(table_shards(built.model))
    assert {s.table for s in shards} == {"user", "video", "tag"}
    assert len(filled) == (0 if loaded else len(shards))
    for shard in shards:
        if loaded:
            assert not shard.values.any()  # FBGEMM makes zeros
        else:
            assert float(shard.values.std()) == pytest.approx(config.embedding.init_std, rel=0.05)
