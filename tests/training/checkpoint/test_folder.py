"""What is refused, by name, and what is offered instead; what the rules keep."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from home_dist.config import CheckpointSection
from home_dist.data import ReaderPosition
from home_dist.errors import CheckpointError
from home_dist.files.json_files import json_text
from home_dist.training.checkpoint.folder import Checkpoints
from home_dist.training.checkpoint.loading import read_offering, set_damaged_aside
from home_dist.training.checkpoint.manifest import entry, write_manifest
from home_dist.training.checkpoint.reading import open_stored
from home_dist.training.checkpoint.state import TrainState
from tests.training.checkpoint.stored import write_checkpoint

TENSORS = {"dense/x": torch.arange(100.0), "tables/user/weight": torch.ones(6, 4)}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def add_file(path):
    (path.parent / "extra.pt").write_bytes(b"anything")


DAMAGE = {
    "flipped shard": ("__0_0.distcp", flip, r"__0_0\.distcp.*content has changed"),
    "truncated shard": ("__0_0.distcp", lambda p: p.write_bytes(p.read_bytes()[:100]), r"__0_0\.distcp.*100 bytes instead of"),
    "missing shard": ("__0_0.distcp", lambda p: p.unlink(), r"__0_0\.distcp.*missing"),
    "tampered metadata": (".metadata", flip, r"\.metadata.*content has changed"),
    "tampered state": ("state.json", flip, r"state\.json.*content has changed"),
    "no JSON": ("manifest.json", lambda p: p.write_bytes(b"\x80"), r"manifest\.json.*damaged"),
    "a path in the manifest": ("manifest.json", lambda p: p.write_text('{"files": {"../x": {}}}'), "no name of a file"),
    "foreign file": ("state.json", add_file, r"extra\.pt.*foreign"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_by_name_and_the_newest_intact_one_offered(name, tmp_path):
    file, damage, message = DAMAGE[name]
    intact = write_checkpoint(tmp_path, TENSORS, step=3)
    other = write_checkpoint(tmp_path, TENSORS, step=6)
    newest = write_checkpoint(tmp_path, TENSORS, step=9)
    (other / "__0_0.distcp").unlink()  # is not offered
    damage(newest / file)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_stored(newest)
    checkpoints = Checkpoints(tmp_path, CheckpointSection())
    assert f"The newest intact checkpoint is {intact}:" in str(checkpoints.with_offer(newest, caught.value))
    lines: list[str] = []
    set_damaged_aside(checkpoints, lines.append)
    notes = [line for line in lines if line.startswith("note: ")]
    assert [str(p.name) in note for p, note in zip((newest, other), notes, strict=True)] == [True, True]
    assert lines[-1].startswith(f"{intact}: intact, checked in")
    assert checkpoints.newest() == intact
    assert newest.with_name(newest.name + ".damaged").is_dir()


def test_another_format_is_refused(tmp_path):
    path = write_checkpoint(tmp_path, TENSORS)
    tree = json.loads((path / "state.json").read_text()) | {"format": 1}
    (path / "state.json").write_text(json.dumps(tree))
    manifest = json.loads((path / "manifest.json").read_text())
    write_manifest(path, manifest["files"] | {"state.json": entry(path / "state.json")})
    with pytest.raises(CheckpointError, match="format 1, but this home_dist reads format 2"):
        read_offering(path)


@given(
    st.sets(st.integers(1, 60), min_size=1, max_size=12),
    st.integers(1, 4),
    st.one_of(st.none(), st.integers(1, 12)),
    st.one_of(st.none(), st.sampled_from(["auc", "log_loss"])),
)
def test_rules_keep_the_last_every_nth_and_the_best(steps, last, every, best):
    """Against a plain list; values go up and down with the step."""
    value = {s: (s * 37) % 11 + s / 100 for s in steps}

    class Known(Checkpoints):
        def complete(self):
            return [self.path(s) for s in sorted(steps)]

        def best(self):
            if self.keep.best is None:
                return None
            pick = max if self.keep.best == "auc" else min
            return self.path(pick(steps, key=value.__getitem__))

    checkpoints = Known(Path("x"), CheckpointSection(keep_last=last, keep_every=every, best=best))
    expected = set(sorted(steps)[-last:]) | {s for s in steps if every and s % every == 0}
    if best:
        expected.add((max if best == "auc" else min)(steps, key=value.__getitem__))
    assert {int(p.name.split("-")[1]) for p in checkpoints.kept()} == expected
    assert {int(p.name.split("-")[1]) for p in checkpoints.prune(dry=True)} == steps - expected


def test_prune_and_best_on_disk(tmp_path):
    auc = {2: 0.6, 4: 0.8, 6: 0.7, 8: float("nan"), 10: 0.5}
    for step, value in auc.items():
        write_checkpoint(tmp_path, TENSORS, step, {"validation/auc": value, "validation/log_loss": value})
    assert Checkpoints(tmp_path, CheckpointSection(best="log_loss")).best().name == "step-00000010"
    checkpoints = Checkpoints(tmp_path, CheckpointSection(keep_last=1, keep_every=6, best="auc"))
    (tmp_path / "step-00000012.writing").mkdir()
    assert checkpoints.best().name == "step-00000004"
    assert [p.name for p in checkpoints.prune()] == ["step-00000002", "step-00000008"]
    assert [p.name for p in checkpoints.complete()] == ["step-00000004", "step-00000006", "step-00000010"]
    assert [p.name for p in checkpoints.clear_unfinished()] == ["step-00000012.writing"]


def test_the_state_is_valid_json_and_comes_back_where_figures_are_not_defined():
    def refuse(name):
        raise ValueError(f"{name} is no JSON")

    position = ReaderPosition(0, 3, 8, 1024, "")
    meter = [{"sums": [[1.0, math.nan]], "steps": 3}, {"sums": None, "steps": 0}]
    state = TrainState(3, 3072, False, position, 2, {"loss": math.nan, "validation/auc": 0.7}, meter)
    tree = json.loads(json_text(state.to_json()), parse_constant=refuse)
    again = TrainState.from_json(tree)
    assert again.metrics.pop("validation/auc") == 0.7
    assert math.isnan(again.metrics["loss"])
    assert again.meter[0]["sums"][0][0] == 1.0
    assert math.isnan(again.meter[0]["sums"][0][1])
    assert again.meter[1] == {"sums": None, "steps": 0}
