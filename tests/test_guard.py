"""The guard of the benchmarks' ratios, with scripts that print what a test wants."""

import json

import pytest

from benchmarks import guard


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A folder with one script, whose runs print the given lines one after the other; and what was recorded of it."""

    def made(runs: list[str], recorded: dict[str, float]):
        lines = json.dumps(runs)
        (tmp_path / "speed.py").write_text(
            "import json, pathlib\n"
            "counter = pathlib.Path(__file__).with_name('runs')\n"
            "run = int(counter.read_text()) if counter.exists() else 0\n"
            "counter.write_text(str(run + 1))\n"
            f"print(json.loads({lines!r})[run])\n"
        )
        (tmp_path / "guard.json").write_text(json.dumps({"speed.py": recorded}))
        monkeypatch.setattr(guard, "HERE", tmp_path)
        monkeypatch.setattr(guard, "REFERENCE", tmp_path / "guard.json")
        monkeypatch.setattr(guard, "WATCHED", {"speed.py": "bank|memory"})
        return lambda: int((tmp_path / "runs").read_text())

    return made


def lines(speed: float, memory: float) -> str:
    return (
        f"claim: speed of the bank = {speed:.2f} (goal >= 1): met\n"
        f"claim: memory of the loop = {memory:.2f} (goal <= 0.6): met\n"
        "claim: of something else = 0.01 (goal >= 1): short"
    )


KNOWN = {"speed of the bank": 1.5, "memory of the loop": 0.5}


def test_what_has_not_fallen_by_a_fifth_passes_at_once(scripts):
    runs = scripts([lines(1.21, 0.59)], KNOWN)
    assert guard.check()
    assert runs() == 1


def test_a_disturbed_run_is_repeated(scripts, capsys):
    runs = scripts([lines(0.9, 0.5), lines(1.4, 0.5)], KNOWN)
    assert guard.check()
    assert runs() == 2
    assert "run 1 of 3: speed of the bank" in capsys.readouterr().out


@pytest.mark.parametrize("fallen", [lines(1.19, 0.5), lines(1.5, 0.61)])
def test_what_has_fallen_in_all_runs_fails(scripts, fallen):
    runs = scripts([fallen] * 3, KNOWN)
    assert not guard.check()
    assert runs() == 3


def test_a_claim_that_is_gone_is_told(scripts):
    scripts(["claim: speed of the bank = 2.00 (goal >= 1): met"], KNOWN)
    with pytest.raises(SystemExit, match="tells nothing of 'memory of the loop' any more"):
        guard.check()


def test_the_worst_of_three_runs_is_recorded(scripts, tmp_path):
    scripts([lines(1.3, 0.5), lines(1.2, 0.55), lines(1.4, 0.45)], {})
    guard.record()
    assert json.loads((tmp_path / "guard.json").read_text()) == {
        "speed.py": {"speed of the bank": 1.2, "memory of the loop": 0.55}
    }
