"""Waiting for a save in the background: as long as it takes, unless a rank that takes part in it is gone."""

import threading
import time

import pytest

from home_dist.config import CheckpointSection
from home_dist.distributed import health
from home_dist.distributed.ranks import lost_contact
from home_dist.training.checkpoint.folder import Checkpoints
from home_dist.training.checkpoint.saver import Saver


@pytest.fixture
def saver(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.distributed.new_group", lambda **_: None)
    found = Saver(Checkpoints(tmp_path, CheckpointSection()), {}, True, patience=0.05)
    over = threading.Event()
    found._thread = threading.Thread(target=over.wait, daemon=True)
    found._thread.start()
    yield found, over
    over.set()


def test_a_slow_save_is_waited_for(saver, monkeypatch):
    waiting, over = saver
    asked = []
    monkeypatch.setattr(health, "someone_is_missing", lambda: asked.append(time.monotonic()))
    threading.Timer(0.4, over.set).start()
    waiting.wait()
    assert len(asked) > 2
    assert not waiting.writing


def test_a_save_without_one_of_its_ranks_is_not(saver, monkeypatch):
    waiting, _ = saver
    monkeypatch.setattr(health, "someone_is_missing", lambda: True)
    with pytest.raises(RuntimeError, match="that all ranks write together") as told:
        waiting.wait()
    # It is told like any other lost contact: who is missing, and what to do.
    assert "lost contact with another rank" in str(lost_contact(told.value))


def test_the_error_of_training_stays_when_its_save_cannot_end(saver, monkeypatch):
    waiting, _ = saver
    monkeypatch.setattr(health, "someone_is_missing", lambda: True)
    error = RuntimeError("Connection closed by peer")
    assert waiting.settle(error) is error
