"""A measured speed as a table and as JSON."""

import math
from dataclasses import asdict
from typing import Any

from rich.table import Table

from home_dist.config import RunConfig
from home_dist.distributed.ranks import Ranks
from home_dist.experts.kernels import Kernel
from home_dist.speed.measure import Speed

_PERCENTILES = (50, 90, 99)


def table(speed: Speed, config: RunConfig, ranks: Ranks) -> Table:
    title = f"{config.model.kind}, batch {speed.batch:,} x {speed.ranks} ranks, {len(speed.seconds)} steps after warm-up"
    rows = Table(title=title)
    rows.add_column("")
    rows.add_column("", justify="right")
    rows.add_column("")
    all_ranks = f"per rank; {speed.samples_per_second:,.0f} in all"
    rows.add_row("samples/s", f"{speed.samples_per_second_per_rank:,.0f}", all_ranks)
    forward = f"samples/s in all, a forward without gradients; that of training steps {speed.forward_per_second:,.0f}"
    rows.add_row("evaluation", f"{speed.evaluation:,.0f}", forward)
    times = " / ".join(f"{speed.percentile(p) * 1e3:,.1f}" for p in _PERCENTILES)
    rows.add_row(
        "step, ms", f"{speed.step * 1e3:,.1f}", f"mean; {times} at {_PERCENTILES[0]} / {_PERCENTILES[1]} / {_PERCENTILES[2]} %"
    )
    rows.add_row("waiting for data", f"{speed.waiting:.1%}", f"reads {speed.read:,.0f} bytes of Parquet per sample")
    rows.add_row("peak memory, MB", f"{speed.peak_memory / 1e6:,.0f}", "of the rank with most")
    rows.add_row("launches per step", f"{speed.breakdown.launches:,.0f}", _launches(ranks))
    rows.add_row("MFLOP per sample", f"{speed.flops / 1e6:,.2f}", "of matrix products, forward and backward")
    limit = f"of {speed.products_limit / 1e9:,.0f} GFLOP/s that a large product reaches"
    rows.add_row("products used", f"{speed.products_used:.1%}", limit)
    sent = sum(e.bytes for e in speed.breakdown.exchanges.values()) / speed.batch
    rows.add_row("bytes per sample", f"{speed.looked_up:,.0f}", f"of embedding rows; {sent:,.0f} handed to collectives")
    limit = f"of {speed.memory_limit / 1e9:,.1f} GB/s that a copy reaches, by the {speed.moved / 1e6:,.0f} MB a step must move"
    rows.add_row("memory used", f"{speed.memory_used:.1%}", limit)
    if speed.ranks > 1:
        hidden = speed.breakdown.hidden_share
        rows.add_row("exchange", f"{speed.breakdown.communicating:,.1f} ms", f"per step, of which {hidden:.0%} hidden")
    return rows


def _launches(ranks: Ranks) -> str:
    return "kernels" if ranks.device.type == "cuda" else "operators that call no other; on a GPU: kernels"


def tree(speed: Speed, config: RunConfig, ranks: Ranks, device: str, kernel: Kernel) -> dict[str, Any]:
    """All figures, for a JSON file."""
    figures = {
        "device": device,
        "kernel": str(kernel),
        "ranks": speed.ranks,
        "threads": ranks.threads,
        "model": config.model.kind,
        "batch_size": speed.batch,
        "steps": len(speed.seconds),
        "samples_per_second": speed.samples_per_second,
        "samples_per_second_per_rank": speed.samples_per_second_per_rank,
        "evaluation_samples_per_second": speed.evaluation,
        "forward_samples_per_second": speed.forward_per_second,
        "step_seconds": {"mean": speed.step, **{f"p{p}": speed.percentile(p) for p in _PERCENTILES}},
        "waiting_for_data": speed.waiting,
        "peak_memory_bytes": speed.peak_memory,
        "launches_per_step": speed.breakdown.launches,
        "flops_per_sample": speed.flops,
        "bytes_per_sample": {
            "parquet": speed.read,
            "embedding_rows": speed.looked_up,
            "collectives": {n: e.bytes / speed.batch for n, e in speed.breakdown.exchanges.items()},
        },
        "least_handed_bytes_per_step": speed.least_handed,
        "limits": {"products_flops": speed.products_limit, "memory_bytes": speed.memory_limit},
        "used": {"products": speed.products_used, "memory": speed.memory_used},
        "breakdown": {**asdict(speed.breakdown), "hidden_share": speed.breakdown.hidden_share},
    }
    return _without_nan(figures)


def _without_nan(value: Any) -> Any:
    """NaN becomes None: JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
