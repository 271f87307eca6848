"""What the ranks of test_runs.py do: add up over all of them, then end in the way their first argument says."""

import os
import signal
import sys
import time

import torch
import torch.distributed as dist


def main(how: str, *rest: str) -> None:
    dist.init_process_group("gloo")
    ones = torch.ones(1)
    dist.all_reduce(ones)
    rank = dist.get_rank()
    if rank == 0:
        print(f"sum {ones.item():.0f} threads {os.environ['OMP_NUM_THREADS']} rest {list(rest)}")
    dist.barrier()
    if how != "ok":
        if rank == 1 and how == "fail":
            print("error: rank 1 refuses", file=sys.stderr, flush=True)
            os._exit(3)  # as home-dist's ranks: gloo's threads may abort an interpreter that ends with a group
        if rank == 1 and how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(300)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
