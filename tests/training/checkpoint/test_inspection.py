"""What `home-dist checkpoints` tells, against what was written."""

import pytest
import torch
from rich.console import Console
from rich.table import Table

from home_dist.errors import CheckpointError, ConfigError
from home_dist.training.checkpoint import inspection, of_run, pieces
from home_dist.training.run_folder import RunFolder
from tests.training.checkpoint.stored import write_checkpoint

CONFIG = '[run]\ndir = "x"\n[data]\npath = "y"\n[checkpoint]\nkeep_last = 1\nbest = "auc"\n'


@pytest.fixture
def run(tmp_path):
    """Two checkpoints: rows 1 and 40 of a table of 50 rows and one dense tensor have changed between them."""
    random = torch.Generator().manual_seed(0)
    weight, dense = torch.randn(50, 4, generator=random), torch.randn(3, 2, generator=random)
    before = {"tables/user/weight": weight, "dense/a": dense, "dense/same": torch.ones(2), "dense_optimizer/a/exp_avg": dense}
    changed = weight.clone()
    changed[1] += 1
    changed[40, 2] = -changed[40, 2]
    after = {**before, "tables/user/weight": changed, "dense/a": dense * 2, "dense/new": torch.zeros(1)}
    folder = tmp_path / "checkpoints"
    write_checkpoint(folder, before, 3, {"validation/auc": 0.75}, train={"lr": 0.1})
    write_checkpoint(folder, after, 6, {"validation/auc": 0.5}, train={"lr": 0.2})
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path


def text(table: Table) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def row(table: Table, name: str) -> list[str]:
    return next(line for line in text(table).splitlines() if f" {name} " in line).replace("│", " ").split()


def test_ls_marks_the_newest_and_the_best(run):
    (run / "checkpoints" / "step-00000009.writing").mkdir()
    table = of_run.listing(run, of_run.listed(run))
    assert row(table, "step-00000003")[-2:] == ["0.75", "best"]
    assert row(table, "step-00000006")[-2:] == ["0.5", "newest"]
    assert "unfinished" in text(table)
    assert of_run.find(run).name == "step-00000006"
    assert of_run.find(run / "best").name == "step-00000003"


def test_show_gives_shapes_and_norms(run, monkeypatch):
    monkeypatch.setattr(pieces, "_BLOCK_BYTES", 40)
    told, tables, dense = inspection.told(inspection.shown(run / "checkpoints" / "step-00000003"))
    assert "step 3 | samples 48" in told
    assert "validation/auc 0.75" in told
    stored, _ = inspection.open_stored(run / "checkpoints" / "step-00000003")
    weight, a = stored.whole("tables/user/weight"), stored.whole("dense/a")
    assert row(tables, "user") == [
        "user",
        "weight",
        "50",
        "x",
        "4",
        "row_wise",
        f"{weight.norm():.4g}",
        f"{weight.abs().max():.4g}",
    ]
    assert row(dense, "a") == ["a", "3", "x", "2", f"{a.norm():.4g}", f"{a.abs().max():.4g}", "exp_avg", f"{a.norm():.4g}"]


def test_diff_counts_rows_and_distances(run):
    told, table = inspection.differences_told(inspection.compared(*(run / "checkpoints" / f"step-0000000{n}" for n in (3, 6))))
    for line in ("config: train.lr: 0.1 -> 0.2", "metrics: validation/auc: 0.75 -> 0.5", "only in the second: dense/new"):
        assert line in told.splitlines()
    assert "tensors: 2 differ, 2 are the same bit for bit" in told
    (old, _), (new, _) = (inspection.open_stored(run / "checkpoints" / f"step-0000000{n}") for n in (3, 6))
    apart = (old.whole("tables/user/weight") - new.whole("tables/user/weight")).norm()
    assert row(table, "tables/user/weight")[4:8] == ["2", "of", "50", f"{apart:.4g}"]
    assert row(table, "dense/a")[-1] == "1"


def test_verify_names_what_is_damaged_and_offers_the_other(run):
    shard = run / "checkpoints" / "step-00000006" / "__0_0.distcp"
    shard.write_bytes(shard.read_bytes()[:-1])
    lines = []
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp: damaged.*\n?.*newest intact one is .*step-00000003"):
        lines.extend(inspection.verified(run))
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp"):
        list(inspection.verified(shard.parent))
    assert "intact, 4 tensors" in str(next(inspection.verified(run)))


def test_prune_keeps_by_the_run_s_rules_or_others(run):
    assert of_run.pruned(run, None, None, dry=True)[-1] == "kept: 3, 6"  # the best and the newest
    assert of_run.pruned(run, 2, None, dry=False) == ["nothing to remove", "kept: 3, 6"]
    (run / "config.toml").write_text(CONFIG.replace('best = "auc"\n', ""))
    assert of_run.pruned(run, None, None, dry=False) == [f"removed {run}/checkpoints/step-00000003", "kept: 6"]
    assert not (run / "checkpoints" / "step-00000003").exists()


def test_prune_waits_for_no_one_and_removes_nothing_while_a_process_trains(run):
    (run / "config.toml").write_text(CONFIG.replace('best = "auc"\n', ""))
    with RunFolder(run).locked(), pytest.raises(ConfigError, match="another process trains into it"):
        of_run.pruned(run, None, None, dry=False)
    assert (run / "checkpoints" / "step-00000003").exists()
    with RunFolder(run).locked():
        assert of_run.pruned(run, None, None, dry=True)[-1] == "kept: 6"


def test_prune_of_a_run_that_began_with_a_warm_start(run):
    (run / "config.toml").write_text(CONFIG + '[checkpoint.warm_start]\nfrom = "elsewhere"\n')
    assert of_run.pruned(run, 2, None, dry=True) == ["nothing to remove", "kept: 3, 6"]
