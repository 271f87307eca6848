"""`home-dist plan` on devices that are not there."""

import gc
import json
import re
import weakref

import pytest
import torch

from home_dist.config import load_config
from home_dist.embeddings.managed_ids import ManagedIds
from home_dist.errors import ConfigError
from home_dist.ids.managed_sets import ManagedSets
from home_dist.planning import plan as planning
from home_dist.planning import probe, show
from home_dist.planning.checkpoints import Speeds
from home_dist.planning.placement import model_without_memory
from home_dist.planning.probe import LaunchCount
from home_dist.planning.topology import machines
from home_dist.schema import build_layout, load_schema
from tests.factory import make_config, make_data
from tests.ranks import REPOSITORY

SCALE = REPOSITORY / "configs" / "kuaishou_scale.toml"


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    return lambda *overrides: load_config(SCALE, overrides)


@pytest.fixture
def hashed(scale, tmp_path):
    """The same with raw ids of videos, which can be managed."""
    text = (REPOSITORY / "configs" / "kuaishou_scale" / "schema.toml").read_text()
    rows = 'name = "video", rows = 3_000_000_000'
    assert rows in text
    values = ', values = { kind = "hash", type = "integer", seed = 3 }'
    (tmp_path / "schema.toml").write_text(text.replace(rows, rows + values))
    return lambda *overrides: scale(f"data.path={tmp_path}", *overrides)


def test_two_terabytes_on_128_devices(scale):
    planned = planning.plan(scale(), machines("128xH100-80GB"), {"watched": 100})
    whole = sum(planned.estimate.memory.values())
    assert sum(p.rows * p.dim * 4 for p in planned.placed) > 2e12
    assert planned.estimate.memory["tables"].sum() == sum(p.rows * p.dim * 4 for p in planned.placed)
    assert whole.max() < 80e9
    found = json.loads(json.dumps(planning.tree(planned)))
    assert found["topology"] == {"kind": "H100-80GB", "devices": 128, "hosts": 16}
    assert found["mean_lengths"]["watched/watched_video"] == 100
    assert found["bound"] in {**found["seconds"], **found["bounds_seconds"]}
    assert found["step_seconds"] == max(found["bounds_seconds"].values()) >= max(found["seconds"].values())
    intra, inter = found["traffic_bytes"]["intra"]["embeddings"], found["traffic_bytes"]["inter"]["embeddings"]
    assert inter["mean"] > 10 * intra["mean"]  # 120 of the 127 other ranks are on other hosts


def test_what_does_not_fit_is_told_with_what_would_do(scale):
    with pytest.raises(ConfigError) as told:
        planning.plan(scale(), machines("16xH100-80GB"), {})
    text = str(told.value)
    assert "no plan fits 16xH100-80GB" in text
    assert "video: 3,000,000,000 rows x 64 = 780.0 GB" in text
    assert "--topology 32xH100-80GB" in text
    planning.plan(scale(), machines("32xH100-80GB"), {})


def refusal(config, topology) -> str:
    try:
        planning.plan(config, machines(topology), {})
    except ConfigError as error:
        return str(error)
    return ""


REMEDY = re.compile(r"^  .*?: ((?:embedding\.|--topology ).*)$", re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ((), "16xH100-80GB"),
        (("embedding.tables.video.managed=lfu",), "16xH100-80GB"),
        (("embedding.tables.user.dim=96", "embedding.tables.product.dim=32"), "8xH100-80GB"),
        (("embedding.tables.video.managed=lfu",), "4xH100-80GB"),
    ],
)
def test_each_remedy_would_do_as_it_says(options, asked, hashed):
    """None is refused as a setting, or is found to be too little by the sum that proposed it."""
    with pytest.raises(ConfigError) as told:
        planning.plan(hashed(*options), machines(asked), {})
    found = REMEDY.findall(str(told.value))
    assert any("--topology" in text for text in found)
    for text in found:
        topology, changes = asked, []
        if text.startswith("--topology "):
            topology = text.removeprefix("--topology ")
        elif "keep_rows" in text:
            rows = int(re.search(r"the first ([\d,]+) rows of (\w+)", str(told.value))[1].replace(",", ""))
            changes = [f"{text}={rows}"]
        else:
            keys, value = text.split(" instead of ")[0].rsplit(" = ", 1)
            changes = [f"{key}={value.strip(chr(34))}" for key in keys.split(", ")]
        refused = refusal(hashed(*options, *changes), topology)
        assert "no plan fits" not in refused or "Altogether they would fit" in refused, text  # only pins stand against it
        assert not refused or "no plan fits" in refused, text


def test_ids_of_managed_tables_count(hashed):
    """32 bytes of each row tell which id owns it and which one waits."""
    changes = ((), ("embedding.tables.video.managed=lfu",))
    plain, managed = (planning.plan(hashed(*change), machines("128xH100-80GB"), {}) for change in changes)
    rows = next(p.rows for p in plain.placed if p.table == "video")
    ids = managed.estimate.memory["ids of managed tables"]
    assert ids.sum() == pytest.approx(32 * rows, rel=1e-3)
    assert ids.max() == pytest.approx(ids.min(), rel=1e-3)
    assert "ids of managed tables" not in plain.estimate.memory
    assert managed.checkpoint.written.sum() - plain.checkpoint.written.sum() == pytest.approx(32 * rows, rel=1e-3)
    buffers = ManagedIds(ManagedSets.of(640), 1, torch.device("cpu")).state_dict()
    held = sum(b.nbytes for name, b in buffers.items() if name.startswith(("owners.", "waiting.")))
    assert held == 32 * ManagedSets.of(640).rows


@pytest.mark.parametrize("text", ["watched=nan", "watched=-1", "watched=1e9", "watched", "=3"])
def test_a_mean_length_is_a_number_that_can_be(text):
    with pytest.raises(ConfigError, match=f"--mean-length {text}: write it as NAME=NUMBER.* from 0 to 1,000,000"):
        planning.lengths_given([text])


def test_measuring_leaves_no_copy_of_the_dense_part(tmp_path, monkeypatch):
    measured, parameters = probe._probe, []

    def watched(head, *rest):
        parameters.extend(weakref.ref(p) for p in head.parameters())
        return measured(head, *rest)

    monkeypatch.setattr(probe, "_probe", watched)
    data = make_data(tmp_path / "data", rows=60, files=1, splits=("train",))
    planning.plan(load_config(make_config(tmp_path, data)), machines("2xCPU-32GB"), {})
    gc.collect()
    assert parameters
    assert [p for p in parameters if p() is not None] == []


def test_of_a_pool_the_experts_that_a_sample_uses_count(scale):
    """4 times the experts of which as many are chosen: more parameters, but no more work than that of the routers."""
    pool = ("model.kind=smes", "model.shared_choices=4", "model.task_choices=0")
    found = [planning.plan(scale(*pool, f"model.experts={e}"), machines("128xH100-80GB"), {}).dense for e in (4, 16)]
    config = scale(*pool)
    schema = load_schema(config.schema_path())
    width = model_without_memory(schema, build_layout(schema, config), config).head.features.width
    assert found[1].parameters > 2 * found[0].parameters
    assert found[1].flops - found[0].flops == 2 * 60 * 12 * width  # 60 tasks' routers, of 12 more experts
    assert found[1].kept - found[0].kept < 60 * 12 * 4 * 4


def test_a_pool_over_ranks(scale):
    """Memory by the experts of a rank, work as before; what travels, as a loop over ranks counts it."""
    pool = ("model.kind=smes", "model.experts=16", "model.shared_choices=4", "model.task_choices=0")
    at = machines("128xH100-80GB")
    whole = planning.plan(scale(*pool), at, {})
    shared = planning.plan(scale(*pool, "distributed.expert_parallel=16"), at, {})
    [cost] = shared.dense.pools
    assert (cost.holders, cost.pairs) == (16, 4)
    assert whole.dense.pools == ()
    assert whole.dense.parameters - shared.dense.parameters == 15 * cost.parameters  # of 16 experts one
    assert shared.dense.flops == whole.dense.flops
    assert shared.dense.kept == pytest.approx(whole.dense.kept, rel=0.01)
    of_dense = "dense parameters and AdamW"
    assert shared.estimate.memory[of_dense][0] == whole.estimate.memory[of_dense][0] - 15 * cost.parameters * 16
    batch, config = shared.config.train.batch_size, scale(*pool)
    schema = load_schema(config.schema_path())
    width = model_without_memory(schema, build_layout(schema, config), config).head.features.width
    to_each = batch * 4 / 16 * (width + config.model.expert_dim) * 4 * 2
    for rank in (0, 37, 127):
        first = rank - rank % 16  # two hosts of 8
        near = sum(other // 8 == rank // 8 for other in range(first, first + 16) if other != rank)
        assert shared.estimate.traffic.intra["samples and experts"][rank] == pytest.approx(near * to_each)
        assert shared.estimate.traffic.inter["samples and experts"][rank] == pytest.approx((15 - near) * to_each)
    # A ring of 8 copies passes on 7/8 of an expert's gradient twice, to another host; the rest is reduced by all ranks.
    rest = (shared.dense.parameters - cost.parameters) * 4
    sent = 2 * rest * 127 / 128 / 8 + 2 * cost.parameters * 4 * 7 / 8
    copied = sum(p.rows * p.dim for p in shared.placed if p.sharding == "data_parallel")
    assert copied == 0
    assert shared.estimate.traffic.inter["dense gradients"][5] == pytest.approx(sent)
    assert shared.checkpoint.written[:16].mean() > shared.checkpoint.written[16:].mean()


def test_what_a_run_refuses_a_plan_refuses(scale, tmp_path):
    with pytest.raises(ConfigError, match=r"expert_parallel = 4: model\.kind = 'home' has no pool of experts to share"):
        planning.plan(scale("distributed.expert_parallel=4"), machines("8xH100-80GB"), {})
    data = make_data(tmp_path / "data", rows=60, files=1, splits=("train",))
    options = [f"embedding.tables.{t}.sharding=row_wise" for t in ("user", "video", "tag")]
    wide = load_config(make_config(tmp_path, data), ["model.kind=stem", "embedding.dim=640", *options])
    with pytest.raises(ConfigError, match=r"rows of 2,560 columns, 4 vectors of 640; FBGEMM's kernels for GPUs take 2,048"):
        planning.plan(wide, machines("2xH100-80GB"), {})
    assert planning.plan(wide, machines("2xCPU-32GB"), {}).placed


def test_tables_of_histories_have_one_width(scale):
    with pytest.raises(ConfigError, match=r"have one width in TorchRec.* video 96, author 64.* Give them one dim"):
        planning.plan(scale("embedding.tables.video.dim=96"), machines("128xH100-80GB"), {})


def test_a_pin_that_does_not_fit_is_named(scale):
    with pytest.raises(ConfigError, match=r"video: .* pinned table_wise: 7\d\d\.\d GB more than a device has room for"):
        planning.plan(scale("embedding.tables.video.sharding=table_wise"), machines("128xH100-80GB"), {})


def test_lengths_come_from_the_footers_of_data_that_is_there(tmp_path):
    data = make_data(tmp_path / "data", rows=600, files=2, splits=("train",))
    planned = planning.plan(load_config(make_config(tmp_path, data)), machines("2xCPU-32GB"), {})
    assert planned.lengths.assumed == ()
    assert 2.5 < planned.lengths.by_key["watched/watched_video"] < 4  # 0 to 6 events, an empty list counts as one


@pytest.mark.parametrize(
    ("text", "hosts", "message"),
    [
        ("H100", None, "write it as COUNTxKIND"),
        ("8xB1", None, "no kind 'B1'; there are H100-80GB"),
        ("12xH100-80GB", 5, "12 devices do not divide among them evenly"),
    ],
)
def test_wrong_topologies(text, hosts, message):
    with pytest.raises(ConfigError, match=message):
        machines(text, hosts)


def test_devices_of_ones_own(tmp_path):
    file = tmp_path / "own.toml"
    entry = 'platform = "cpu"\nmemory = 8\nmemory_speed = 20\nbf16 = 0.1\nfp32 = 0.1\nintra = 1\ninter = 0.1\nper_host = 2\n'
    file.write_text(f"[Mine]\n{entry}")
    found = machines("4xMine", None, file)
    assert (found.hosts, found.per_host, found.device.memory) == (2, 2, 8)
    file.write_text(f"[Mine]\n{entry}colour = 1\n")
    with pytest.raises(ConfigError, match=r"own\.toml: Mine\.colour|own\.toml: colour"):
        machines("4xMine", None, file)


def test_wrong_lengths(scale):
    with pytest.raises(ConfigError, match="write it as NAME=NUMBER"):
        planning.lengths_given(["watched"])
    with pytest.raises(ConfigError, match="--mean-length other: no list feature"):
        planning.plan(scale(), machines("128xH100-80GB"), {"other": 3})


HOST_ALONE = (
    "platform = 'cpu'\nmemory = 1000\nmemory_speed = 1e6\nbf16 = 1e6\nfp32 = 1e6\nintra = 1e6\ninter = 1e6\nper_host = 8\n"
)
"""A device whose own work takes no time to speak of."""


@pytest.fixture
def plan_of_the_host(tmp_path):
    """A plan of 16 such devices with 32 rows per rank: (microseconds of a launch, rows/s of a thread, threads, mean length
    of the histories) -> configuration and plan."""
    path = make_config(tmp_path, make_data(tmp_path / "data", rows=60, files=1, splits=("train",)), batch_size=32)

    def make(launch, decode, threads, events):
        file = tmp_path / "own.toml"
        file.write_text(f"[Fast]\n{HOST_ALONE}launch = {launch}\ndecode = {decode}\n")
        config = load_config(path, [f"data.threads={threads}"] if threads else [])
        lengths = {"tags": 3, "levels": 2, "watched_video": events, "watched_level": events}
        return config, planning.plan(config, machines("16xFast", None, file), lengths)

    return make


# Ids of user, video and tab, the bucket of rate, age, a vector of 3 and 3 labels are 11 values; tags are 3, levels 2. With two
# histories of 20 events a row has 56 values, with two of 90 it has 196, twice the 98 of the rows that were measured.
@pytest.mark.parametrize(("threads", "events", "rows_of_a_rank"), [(3, 20, 3 * 1000), (3, 90, 3 * 500), (None, 20, 4 * 1000)])
def test_a_plan_promises_no_more_than_the_reader_reads(plan_of_the_host, threads, events, rows_of_a_rank):
    _, planned = plan_of_the_host(0.001, 1000, threads, events)
    figures = planning.tree(planned)
    assert figures["reader"]["values_per_row"] == 16 + 2 * events
    assert figures["reader"]["rows_per_second_per_rank"] == rows_of_a_rank
    assert figures["bound"] == "reader"
    assert figures["step_seconds"] == pytest.approx(32 / rows_of_a_rank)
    assert figures["samples_per_second"] == pytest.approx(16 * rows_of_a_rank)


def test_a_step_takes_as_long_as_its_launches(plan_of_the_host):
    config, planned = plan_of_the_host(1000, 1e9, 1, 20)
    figures = planning.tree(planned)
    assert figures["bound"] == "launches"
    assert 200 < figures["launches_per_step"] < 2000
    assert figures["step_seconds"] == pytest.approx(figures["launches_per_step"] * 1e-3)
    e = planned.estimate
    said = [
        p for p in show.parts(planned.machines, planned.placed, planned.dense, e, planned.lengths, config) if isinstance(p, str)
    ]
    assert any("what bounds it: launches" in text for text in said)
    assumed = next(text for text in said if text.startswith("assumed of the host"))
    assert f"1000 us per launch, {figures['launches_per_step']:,} launches in a step" in assumed
    assert "1 thread per rank that decode" in assumed
    assert "98 values (benchmarks/results/reader.md), rows here have 56" in assumed


def test_launches_are_operators_without_views():
    weight, rows = torch.ones(3, 2, requires_grad=True), torch.ones(4, 3)
    with LaunchCount() as launched:
        (rows @ weight).sum().backward()
    # Forward: a product and a sum. Backward: the gradient of the sum, which is 1, and a product. Expanding and transposing are
    # views.
    assert launched.count == 4


@pytest.mark.parametrize("devices", [32, 128, 1024])
def test_many_devices_promise_no_more_than_their_readers(scale, devices):
    figures = planning.tree(planning.plan(scale(), machines(f"{devices}xH100-80GB"), {"watched": 100}))
    # data.threads is left to the host, at most 4 threads decode, 395,000 rows/s each as measured.
    assert figures["samples_per_second"] <= devices * 4 * 395_000
    assert figures["samples_per_second"] <= devices * figures["reader"]["rows_per_second_per_rank"]
    assert figures["step_seconds"] >= figures["launches_per_step"] * 5e-6


def test_a_checkpoint_is_computed_through(scale):
    """2 TB from 128 devices on 16 hosts: the fullest host, or the store, sets the pace."""
    config, devices = scale(), machines("128xH100-80GB")
    plans = [
        planning.plan(config, devices, {"watched": 100}, speeds) for speeds in (Speeds(1.0), Speeds(10.0), Speeds(10.0, 5.0))
    ]
    slow, fast, shared = (p.checkpoint for p in plans)
    tables = sum(p.rows * (p.dim + 1) * 4 for p in plans[0].placed)
    dense = plans[0].dense.parameters * 12
    by_host = slow.written.reshape(16, 8).sum(1)
    assert slow.written.sum() == pytest.approx(tables + dense, rel=1e-6)  # row-wise Adagrad: a number per row and block
    assert slow.host_copies == by_host.max()
    assert slow.stall == fast.stall == pytest.approx(slow.written.max() / 55e9)
    hashing = slow.written.max() / 1.5e9
    assert slow.writing == pytest.approx(by_host.max() / 1e9 + hashing)
    assert fast.writing == pytest.approx(by_host.max() / 10e9 + hashing)
    assert shared.writing == pytest.approx(slow.written.sum() / 5e9 + hashing)
    assert slow.restart["reading"] == pytest.approx(by_host.max() / 1e9)
    assert sum(shared.restart.values()) > 2 * slow.written.sum() / 5e9  # checked, then read
    figures = planning.tree(planning.plan(config, devices, {"watched": 100}))
    assert figures["checkpoint"]["bytes_in_all"] == slow.written.sum()


def test_what_publishing_costs_is_counted(scale, capsys):
    planned = planning.plan(scale("publish.to=/versions", "publish.rows=fp16"), machines("128xH100-80GB"), {})
    cost = planned.version
    rows = [(p.rows, p.dim, sum(planned.lengths.by_key[i.key] for i in p.users)) for p in planned.placed]
    assert cost.full == sum(n * (2 * dim + 16) for n, dim, _ in rows)
    assert cost.marks == max(sum(s.rows for p in planned.placed for s in p.shards if s.rank == r) for r in range(128))
    batch, steps = planned.config.train.batch_size * 128, 10.0 / planned.estimate.step
    assert cost.delta_rows == pytest.approx(sum(min(n, steps * ids * batch) for n, _, ids in rows))
    assert cost.delta < cost.full
    planning.run(planned.config, planned.machines, {}, Speeds())
    assert "a published version, rows as fp16" in capsys.readouterr().out
    assert planning.plan(scale(), planned.machines, {}).version is None
