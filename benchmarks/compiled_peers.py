"""Trains the plain torch model of models_peers.py through torch.compile, and prints how fast.

    compiled_peers.py torch.compile MODEL FOLDER BATCH STEPS WARM_UP THREADS

Network, loss, optimizer and loader are those of "plain"; the network alone is compiled, forward and backward, by inductor, for
shapes that do not change. It must be one graph. The first step compiles; it is not timed, its seconds are told beside as
compile_seconds (with the step itself, and with nothing in inductor's cache the first time that a folder's model is compiled:
the cache lies in FOLDER). A step that compiles again ends the program.
"""

import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.models_peers import arguments, plain_network, plain_step, timed, told_of  # noqa: E402


def main() -> None:
    chosen = arguments(__doc__, ["torch.compile"], ["mmoe", "ple", "home"])
    torch.set_num_threads(chosen.threads)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(chosen.folder / f"inductor-{chosen.model}")
    network = plain_network(chosen.model, chosen.folder)
    forward = torch.compile(network, fullgraph=True, dynamic=False)
    step = plain_step(network, chosen.folder, chosen.batch, forward)
    began = time.perf_counter()
    step()
    compiling = time.perf_counter() - began
    torch._dynamo.config.error_on_recompile = True
    print(told_of(chosen, timed(step, chosen.steps, chosen.warm_up), compile_seconds=compiling))


if __name__ == "__main__":
    main()
