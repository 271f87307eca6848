"""What a process that trains is set to before torch is imported, which reads it then."""

import os

_SETTINGS = {
    # Threads that wait for each other sleep instead of spinning: on a machine with other work, spinning threads keep the one
    # that they wait for off its core (a tenth of the samples/s was seen).
    "OMP_WAIT_POLICY": "PASSIVE",
    # Large tensors lie in pages of 2 MB: with those of 4 KB, the first touch of each page takes longer than what is computed
    # in it (two thirds of the time of a search in a history of 100,000 events).
    "THP_MEM_ALLOC_ENABLE": "1",
    # The profiler tells only of errors, not that it begins and ends.
    "KINETO_LOG_LEVEL": "6",
}


def prepare() -> None:
    """What the user has set stays."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
