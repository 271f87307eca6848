"""What was measured, as tables and as JSON."""

import math
from dataclasses import asdict
from typing import Any

from rich.table import Table

from home_dist.config import RunConfig
from home_dist.distributed.ranks import Ranks
from home_dist.experts.kernels import Kernel
from home_dist.speed.measure import Speed

_PERCENTILES = (50, 90, 99)


def table(found: Speed, config: RunConfig, ranks: Ranks) -> Table:
    title = f"{config.model.kind}, batch {found.batch:,} x {found.ranks} ranks, {len(found.seconds)} steps after warm-up"
    rows = Table(title=title)
    rows.add_column("")
    rows.add_column("", justify="right")
    rows.add_column("")
    all_ranks = f"per rank; {found.samples_per_second:,.0f} in all"
    rows.add_row("samples/s", f"{found.samples_per_second_per_rank:,.0f}", all_ranks)
    forward = f"samples/s in all, without gradients; the forward of training {found.forward_per_second:,.0f}"
    rows.add_row("evaluation", f"{found.evaluation:,.0f}", forward)
    times = " / ".join(f"{found.percentile(p) * 1e3:,.1f}" for p in _PERCENTILES)
    rows.add_row(
        "step, ms", f"{found.step * 1e3:,.1f}", f"mean; {times} at {_PERCENTILES[0]} / {_PERCENTILES[1]} / {_PERCENTILES[2]} %"
    )
    rows.add_row("waiting for data", f"{found.waiting:.1%}", f"reads {found.read:,.0f} bytes of Parquet per sample")
    rows.add_row("peak memory, MB", f"{found.peak_memory / 1e6:,.0f}", "of the rank with most")
    rows.add_row("launches per step", f"{found.breakdown.launches:,.0f}", _launches(ranks))
    rows.add_row("MFLOP per sample", f"{found.flops / 1e6:,.2f}", "of matrix products, forward and backward")
    limit = f"of {found.products_limit / 1e9:,.0f} GFLOP/s that a large product reaches"
    rows.add_row("products used", f"{found.products_used:.1%}", limit)
    sent = sum(e.bytes for e in found.breakdown.exchanges.values()) / found.batch
    rows.add_row("bytes per sample", f"{found.looked_up:,.0f}", f"of embedding rows; {sent:,.0f} handed to collectives")
    limit = f"of {found.memory_limit / 1e9:,.1f} GB/s that a copy reaches, by the {found.moved / 1e6:,.0f} MB a step must move"
    rows.add_row("memory used", f"{found.memory_used:.1%}", limit)
    if found.ranks > 1:
        hidden = found.breakdown.hidden_share
        rows.add_row("exchange", f"{found.breakdown.communicating:,.1f} ms", f"per step, of which {hidden:.0%} hidden")
    return rows


def _launches(ranks: Ranks) -> str:
    return "kernels" if ranks.device.type == "cuda" else "operators that call no other; on a GPU: kernels"


def tree(found: Speed, config: RunConfig, ranks: Ranks, device: str, kernel: Kernel) -> dict[str, Any]:
    """Everything, for a file."""
    figures = {
        "device": device,
        "kernel": str(kernel),
        "ranks": found.ranks,
        "threads": ranks.threads,
        "model": config.model.kind,
        "batch_size": found.batch,
        "steps": len(found.seconds),
        "samples_per_second": found.samples_per_second,
        "samples_per_second_per_rank": found.samples_per_second_per_rank,
        "evaluation_samples_per_second": found.evaluation,
        "forward_samples_per_second": found.forward_per_second,
        "step_seconds": {"mean": found.step, **{f"p{p}": found.percentile(p) for p in _PERCENTILES}},
        "waiting_for_data": found.waiting,
        "peak_memory_bytes": found.peak_memory,
        "launches_per_step": found.breakdown.launches,
        "flops_per_sample": found.flops,
        "bytes_per_sample": {
            "parquet": found.read,
            "embedding_rows": found.looked_up,
            "collectives": {n: e.bytes / found.batch for n, e in found.breakdown.exchanges.items()},
        },
        "least_handed_bytes_per_step": found.least_handed,
        "limits": {"products_flops": found.products_limit, "memory_bytes": found.memory_limit},
        "used": {"products": found.products_used, "memory": found.memory_used},
        "breakdown": {**asdict(found.breakdown), "hidden_share": found.breakdown.hidden_share},
    }
    return _without_nan(figures)


def _without_nan(value: Any) -> Any:
    """JSON has none."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
