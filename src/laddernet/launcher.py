"""What a launcher such as torchrun tells each process of a training, in environment variables."""

import os


def launched_size() -> int:
    """Return the number of processes that were started together; 1 without a launcher."""
    named = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    return int(os.environ["WORLD_SIZE"]) if named else 1


def launched_rank() -> int:
    """Return the number of this process among them, from 0."""
    return int(os.environ["RANK"]) if launched_size() > 1 else 0


def restarts() -> int:
    """Return how often torchrun has started them again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) if launched_size() > 1 else 0
