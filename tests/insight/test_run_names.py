"""Names of runs that are shown together."""

from pathlib import Path

from home_dist.insight.run_names import names_apart

A, B = Path("runs/kind=ple/seed-0"), Path("runs/kind=home/seed-0")


def tree(folder, seed=0, lr=0.1, **model):
    train, sequence = {"seed": seed, "lr": lr}, [{"name": "w", "kind": "din"}]
    return {"run": {"dir": str(folder)}, "model": model, "train": train, "sequence": sequence}


def test_what_differs_between_configurations():
    trees = [tree(A, kind="ple", layers=2, experts=3), tree(B, kind="home", rank=4, experts=3)]
    assert names_apart([A, B], trees) == ["model.kind=ple", "model.kind=home"]
    assert names_apart([A, B], [tree(A, 0, kind="ple"), tree(B, 1, kind="home")]) == [
        "model.kind=ple, seed 0",
        "model.kind=home, seed 1",
    ]
    assert names_apart([A, B], [tree(A, 0), tree(B, 1)]) == ["seed 0", "seed 1"]


def test_keys_of_lists_of_sections_and_keys_that_are_not_set():
    one, two = tree(A), tree(B)
    two["sequence"][0]["kind"] = "sim"
    two["data"] = {"sample": True}
    assert names_apart([A, B], [one, two]) == [
        "sequence.0.kind=din, data.sample not set",
        "sequence.0.kind=sim, data.sample=true",
    ]


def test_folders_where_configurations_do_not_tell():
    assert names_apart([A], [tree(A)]) == ["seed-0"]
    assert names_apart([A, B], [tree(A), tree(B)]) == ["kind=ple/seed-0", "kind=home/seed-0"]
    assert names_apart([Path("x/a"), Path("x/b")], [tree(A), tree(B)]) == ["a", "b"]
    assert names_apart([A, A], [tree(A), tree(A)]) == [str(A), str(A)]
    many = tree(B, **{f"key_{n}": n for n in range(4)})
    assert names_apart([A, B], [tree(A), many]) == ["kind=ple/seed-0", "kind=home/seed-0"]
