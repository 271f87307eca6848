"""What insight costs a run, and how fast exact GAUC over ranks is beside a groupby.

    python benchmarks/insight.py            # 10 million rows of 1 million users on 2 ranks: some minutes
    python benchmarks/insight.py --quick    # under 50 s: a twentieth of the rows, a short run; writes nothing

GAUC: two ranks hold rows of all users in no order; the time is from there to the result on both, with the exchange of rows.
pandas' groupby with scikit-learn's roc_auc_score has all rows in one process. It is timed on some of the users, and its time
for all is that times the ratio of users; on the same users both results must agree. TorchRec's GAUC is another metric (each
session counts the same, equal scores count as lost) and wants sessions in order on one rank: its time includes putting them in
order. It fills all sessions up to the longest, and is timed on a tenth of the users for the memory that takes. TorchEasyRec's
GroupedAUC, which loops over users, is taken from a checkout of it (`--easyrec-path`), as this one module needs nothing else of
it; it is timed on the users that pandas is timed on, in one process.

Cost: HoME on the sample, on 2 ranks (--quick: 1), looked at every 10th step, so that each interval between two lines of
progress has one look in it. The share that a look has of an interval gives its cost in steps, and that the cost for the default
of every 100th. What looking at embedding tables costs comes with a checkpoint, which costs more, and is not in it.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from home_dist.config.insight import InsightSection  # noqa: E402
from home_dist.metrics import gauc_over_ranks  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "insight.json"
RANKS = 2
EVERY = 10


def table(rows: int, users: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and users; some users have many rows, and scores of float32 are not all different."""
    random = np.random.default_rng(0)
    user = (users * random.random(rows) ** 1.2).astype(np.int64)
    score = random.random(rows, dtype=np.float32).round(4)
    return (random.random(rows) < 0.1 + 0.3 * score).astype(np.float32), score, user * 7919


def some(user: np.ndarray, users: int, sampled: int) -> np.ndarray:
    """Which rows belong to `sampled` of the users."""
    return user // 7919 % (users // sampled) == 0


def _rank(rank: int, folder: str, rows: int, users: int, sampled: int) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(f"{folder}/store", RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=300))
    whole = table(rows, users)
    mine = [torch.from_numpy(c[rank::RANKS].copy()) for c in whole]
    few = [torch.from_numpy(c[some(whole[2], users, sampled)][rank::RANKS].copy()) for c in whole]
    del whole
    gauc_over_ranks(*(c[:1000] for c in mine))
    seconds = []
    for _ in range(3):
        dist.barrier()
        began = time.perf_counter()
        found = gauc_over_ranks(*mine)
        seconds.append(time.perf_counter() - began)
    part = gauc_over_ranks(*few)
    if rank == 0:
        result = {"seconds": min(seconds), "value": found.value, "users_used": found.groups_used, "of_sampled": part.value}
        Path(folder, "gauc.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


def with_pandas(rows: tuple[np.ndarray, ...]) -> tuple[float, float]:
    """GAUC and seconds."""
    import pandas as pd  # here, as the ranks need neither of them
    from sklearn.metrics import roc_auc_score

    frame = pd.DataFrame(dict(zip(("label", "score", "user"), rows, strict=True)))
    began = time.perf_counter()
    area = total = 0.0
    for _, group in frame.groupby("user"):
        if group["label"].nunique() == 2:
            area += len(group) * roc_auc_score(group["label"], group["score"])
            total += len(group)
    return area / total, time.perf_counter() - began


def with_torchrec(rows: tuple[np.ndarray, ...]) -> float:
    """Seconds."""
    from torchrec.metrics.gauc import get_auc_states

    began = time.perf_counter()
    order = np.argsort(rows[2], kind="stable")
    label, score = (torch.from_numpy(c[order]).view(1, -1) for c in rows[:2])
    sizes = torch.from_numpy(np.unique(rows[2], return_counts=True)[1])
    get_auc_states(label, score, torch.ones_like(label), sizes)
    return time.perf_counter() - began


def with_easyrec(checkout: Path, rows: tuple[np.ndarray, ...]) -> tuple[float, float]:
    """GAUC, in which each user counts the same, and seconds."""
    place = checkout / "tzrec" / "metrics" / "grouped_auc.py"
    spec = importlib.util.spec_from_file_location("grouped_auc", place)
    if spec is None or spec.loader is None or not place.is_file():
        sys.exit(f"{place} is not there: give --easyrec-path the folder of a checkout of TorchEasyRec")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    metric = module.GroupedAUC()
    label, score, user = (torch.from_numpy(c) for c in rows)
    began = time.perf_counter()
    metric.update(score, label.long(), user)
    return float(metric.compute()), time.perf_counter() - began


def measure_gauc(rows: int, users: int, sampled: int, folder: str, easyrec: Path | None) -> dict[str, Any]:
    mp.spawn(_rank, args=(folder, rows, users, sampled), nprocs=RANKS)
    result = json.loads(Path(folder, "gauc.json").read_text())
    whole = table(rows, users)
    chosen = some(whole[2], users, sampled)
    value, seconds = with_pandas(tuple(c[chosen] for c in whole))
    there = len(np.unique(whole[2]))
    for_all = there / len(np.unique(whole[2][chosen]))
    peer: dict[str, Any] = {}
    if easyrec is not None:
        found, taken = with_easyrec(easyrec, tuple(c[chosen] for c in whole))
        peer = {"easyrec_seconds": taken, "easyrec_seconds_for_all": taken * for_all, "easyrec_value": found}
    return (
        result
        | peer
        | {
            "rows": rows,
            "users": there,
            "pandas_users": sampled,
            "pandas_rows": int(chosen.sum()),
            "pandas_seconds": seconds,
            "pandas_seconds_for_all": seconds * for_all,
            "torchrec_seconds_for_all": 10 * with_torchrec(table(rows // 10, users // 10)),
            "apart": abs(value - result["of_sampled"]),
        }
    )


def measure_cost(steps: int, ranks: int, folder: str) -> dict[str, Any]:
    from benchmarks.sample_run import curves  # here, as the ranks above need no network

    options = {"train.max_steps": steps, "log.every_steps": EVERY, "insight.every_steps": EVERY}
    shares = [line["insight"] for line in curves(Path(folder, "run"), ranks, options)]
    looks = [EVERY * share / (1 - share) for share in shares]
    default = InsightSection().interval(None)
    steps_per_look = statistics.median(looks)
    return {
        "ranks": ranks,
        "steps_per_look": looks,
        "share": steps_per_look / (default + steps_per_look),
        "every_steps": default,
    }


def _easyrec(gauc: dict[str, Any]) -> str:
    if "easyrec_seconds" not in gauc:
        return "TorchEasyRec's loop: not timed; give a checkout of it by --easyrec-path"
    ratio = gauc["easyrec_seconds_for_all"] / gauc["seconds"]
    return (
        f"TorchEasyRec's loop over users: {gauc['easyrec_seconds_for_all']:,.0f} s, from {gauc['easyrec_seconds']:.1f} s for "
        f"{gauc['pandas_users']:,} users, {ratio:,.0f} times as long"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--easyrec-path", type=Path, help="a checkout of TorchEasyRec, to time its metric as well")
    options = parser.parse_args()
    quick = options.quick
    rows, users, sampled = (500_000, 50_000, 300) if quick else (10_000_000, 1_000_000, 20_000)
    steps, ranks = (30, 1) if quick else (200, RANKS)
    with tempfile.TemporaryDirectory() as folder:
        gauc, cost = measure_gauc(rows, users, sampled, folder, options.easyrec_path), measure_cost(steps, ranks, folder)
    result = {"quick": quick, "cores": len(os.sched_getaffinity(0)), "torch": torch.__version__, "gauc": gauc, "insight": cost}
    print(
        f"GAUC of {rows:,} rows, {gauc['users']:,} users: {gauc['seconds']:.2f} s on {RANKS} ranks | pandas and scikit-learn "
        f"{gauc['pandas_seconds_for_all']:,.0f} s, from {gauc['pandas_seconds']:.1f} s for {sampled:,} users | torchrec "
        f"{gauc['torchrec_seconds_for_all']:.1f} s on one rank, another metric\n"
        f"{_easyrec(gauc)}\n"
        f"a look costs {statistics.median(cost['steps_per_look']):.2f} steps of training (HoME on the sample, ranks: {ranks})"
    )
    print(claim("GAUC, speed of pandas and scikit-learn", gauc["pandas_seconds_for_all"] / gauc["seconds"], 50, form=".3g"))
    print(claim("GAUC, distance to the oracle", gauc["apart"], 1e-9, at_most=True, form=".3g"))
    print(claim(f"insight every {cost['every_steps']} steps, share of time", cost["share"], 0.02, at_most=True, form=".3g"))
    if not quick:
        write_result(RESULTS, result)


if __name__ == "__main__":
    main()
