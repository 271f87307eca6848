"""One rank's part of test_against_runs.py: what it holds, and what it hands to collectives in a step, by torch's own account.

measure_ranks.py CONFIG OVERRIDE...      prints a JSON line per rank
"""

import json
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.profiler import ProfilerActivity, profile

from home_dist.config import load_config
from home_dist.data.inputs import open_inputs
from home_dist.distributed import ranks
from home_dist.embeddings.collections import table_shards
from home_dist.insight.trace import read_trace
from home_dist.schema import load_schema
from home_dist.training.build import build

STEPS = 4
SIZES = {"float": 4, "int": 4, "long int": 8, "c10::Half": 2}
# Which of an operator's arguments is what the rank hands over.
GIVEN = {"c10d::alltoall_base_": 1, "c10d::_reduce_scatter_base_": 1, "c10d::_allgather_base_": 1, "c10d::allreduce_": 0}


def main(path: str, *overrides: str) -> None:
    config = load_config(path, ["distributed.threads=1", *overrides])
    formed = ranks.form_ranks(config.distributed)
    inputs = open_inputs(config, load_schema(config.schema_path()), ("train",))
    built = build(inputs, formed)
    batches = inputs.training_reader(formed).epoch(0)

    def step() -> None:
        built.optimizer.zero_grad()
        loss, _ = built.model(next(batches))
        loss.backward()
        built.optimizer.step()

    for _ in range(2):
        step()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for _ in range(STEPS):
            step()
    handed: Counter[str] = Counter()
    with TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f"{folder}/trace.json")
        for event in read_trace(Path(folder, "trace.json")):
            if event["name"] in GIVEN:
                told, place = event["args"], GIVEN[event["name"]]
                shapes, kinds = told["Input Dims"][place], told["Input type"][place]
                # all_reduce takes a list of tensors
                for shape in shapes if shapes and isinstance(shapes[0], list) else [shapes]:
                    size = SIZES.get(kinds, 4)
                    for n in shape:
                        size *= n
                    handed[event["name"]] += size
    state = 0
    lookups = [lookup for module in built.model.modules() for lookup in getattr(module, "_lookups", ())]
    for module in (m for lookup in lookups for m in lookup.modules()):
        inner = getattr(module, "_emb_module", None)
        if inner is not None and hasattr(inner, "get_optimizer_state"):
            state += sum(t.numel() * t.element_size() for entry in inner.get_optimizer_state() for t in entry.values())
    found = {
        "rank": formed.rank,
        "handed": {name: size / STEPS for name, size in handed.items()},
        "tables": sum(s.values.numel() * s.values.element_size() for s in table_shards(built.model)),
        "state": state,
        "dense": sum(p.numel() for n, p in built.model.named_parameters() if ".head." in f".{n}"),
    }
    print(json.dumps(found), flush=True)
    ranks.leave_ranks()


if __name__ == "__main__":
    main(*sys.argv[1:])
