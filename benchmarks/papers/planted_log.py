"""A generated log whose truth is known, in three worlds, two of which hold nothing that some of HoME's parts could use.

24 features of 40 values each, ids uniform; value v of feature f has a vector u_fv ~ N(0, I) of 4 numbers. 8 features are
"common", 8 "a's" and 8 "b's". A part's vector z is the sum of its features' u over sqrt(8). A net is

    net(z) = sum over j of c_j tanh(r_j . z) + (p . z)(q . z) / 2,   j = 1 .. 12,   all entries standard normal, r, p, q over sqrt(width)

made to mean 0 and variance 1 over samples. Task k has the logit b_k + 2.5 t_k, where b_k makes its share of positives its rate.

| world | t_k |
|---|---|
| "groups and features" | 0.9 g + sqrt(1 - 0.81) own_k; g is one net per group, over the common features and those of the group; own_k is over them, too |
| "groups" | the same, but all nets read all 24 features |
| "unrelated" | own_k alone, over all 24 features: no two tasks have anything in common |

Two groups of four tasks: one sample in 2, 10, 50 and 200 is positive, and one in 3, 20, 100 and 1,000. Users (for GAUC) are drawn
without regard to anything. So in "groups" no feature matters more to one group than to another, and a feature gate cannot help
by that; in "unrelated" there are no groups, and a mask by groups cannot help but by what it does to any tasks.
"""  # noqa: E501

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.id_log import GROUP, describe
from home_dist.metrics import auc

WORLDS = ("groups and features", "groups", "unrelated")
ONE_IN = {"a": (2, 10, 50, 200), "b": (3, 20, 100, 1000)}
TASKS = {f"{group}_one_in_{n}": group for group, of in ONE_IN.items() for n in of}
"""Task -> its true group."""
FEATURES, VALUES, VECTOR, UNITS = 24, 40, 4, 12
OWN = 0.9
SPREAD = 2.5
USERS = 400
CUTS = {"train": (0, 4), "validation": (4, 5), "test": (5, 6)}
"""In sixths of the samples."""

Floats = NDArray[np.float64]


def _net(random: np.random.Generator, z: Floats) -> Floats:
    """z: (N, width). Returns (N,) of mean 0 and variance 1."""
    width = z.shape[1]
    r, p, q = (random.normal(size=(n, width)) / math.sqrt(width) for n in (UNITS, 1, 1))
    out = np.tanh(2 * z @ r.T) @ random.normal(size=UNITS) + ((z @ p.T) * (z @ q.T)).sum(1)
    return (out - out.mean()) / out.std()


def truth(world: str, samples: int, seed: int) -> tuple[NDArray[np.int32], Floats]:
    """Ids (N, 24) and logits (N, 8)."""
    random = np.random.default_rng([seed, WORLDS.index(world)])
    ids = random.integers(0, VALUES, (samples, FEATURES), dtype=np.int32)
    vectors = random.normal(size=(FEATURES, VALUES, VECTOR))
    found = np.stack([vectors[f][ids[:, f]] for f in range(FEATURES)], 1)  # (N, 24, 4)
    common, *own = (found[:, i : i + 8].sum(1) / math.sqrt(8) for i in range(0, FEATURES, 8))
    reads = {group: np.concatenate([common, z], 1) for group, z in zip(ONE_IN, own, strict=True)}
    if world != WORLDS[0]:
        reads = dict.fromkeys(ONE_IN, np.concatenate([common, *own], 1))
    shared = {group: _net(random, z) for group, z in reads.items()}
    logits = []
    for task, group in TASKS.items():
        t = _net(random, reads[group])
        if world != WORLDS[2]:
            t = OWN * shared[group] + math.sqrt(1 - OWN**2) * t
        logits.append(_with_rate(SPREAD * t, rate_of(task)))
    return ids, np.stack(logits, 1)


def rate_of(task: str) -> float:
    return 1 / int(task.rpartition("_")[2])


def _with_rate(logits: Floats, rate: float) -> Floats:
    """Shifted such that the mean chance is `rate`."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-logits - middle))).mean() < rate else (low, middle)
    return logits + low


def grouped(how: str, tasks: Mapping[str, str] = TASKS) -> Mapping[str, str]:
    """Task -> group as it is declared: "right"; "wrong": half of each true group; "random": by a fixed draw."""
    if how == "right":
        return tasks
    groups = list(dict.fromkeys(tasks.values()))
    if how == "wrong":
        return {task: groups[i % len(groups)] for i, task in enumerate(tasks)}
    if how != "random":
        raise ValueError(f"grouped {how!r}: right, wrong or random")
    drawn = np.random.default_rng(1).permutation(len(tasks))
    return {task: groups[n % len(groups)] for task, n in zip(tasks, drawn, strict=True)}


def _drawing(seed: int) -> np.random.Generator:
    """Of labels first."""
    return np.random.default_rng([seed, 9])


def _drawn(logits: Floats, random: np.random.Generator) -> NDArray[np.bool_]:
    return random.random(logits.shape) < 1 / (1 + np.exp(-logits))


def best_auc(world: str, samples: int, seed: int = 0) -> float:
    """Of the logits themselves on the test part, mean over tasks: no model is better but by chance."""
    _, logits = truth(world, samples, seed)
    test = slice(samples * CUTS["test"][0] // 6, None)
    labels, scores = _drawn(logits, _drawing(seed))[test], logits[test]
    return float(np.nanmean([auc(labels[:, k], scores[:, k]) for k in range(len(TASKS))]))


def write_log(folder: Path, world: str, samples: int, how: str = "right", seed: int = 0) -> None:
    """Train (4 of 6), validation and test; the same samples however tasks are grouped."""
    ids, logits = truth(world, samples, seed)
    columns: dict[str, Any] = {f"f{i}": ids[:, i] for i in range(FEATURES)}
    random = _drawing(seed)
    labels = _drawn(logits, random)
    columns |= {task: labels[:, k].astype(np.int8) for k, task in enumerate(TASKS)}
    columns[GROUP] = random.integers(0, USERS, samples)
    table = pa.table(columns)
    for split, (first, last) in CUTS.items():
        (folder / split).mkdir(parents=True)
        part = table.slice(samples * first // 6, samples * (last - first) // 6)
        pq.write_table(part, folder / split / "part-0.parquet", row_group_size=16384)
    describe(folder, {f"f{i}": VALUES for i in range(FEATURES)}, grouped(how))
