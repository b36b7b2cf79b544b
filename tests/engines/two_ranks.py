"""What the test of several processes runs in each of them.

    torchrun --nproc_per_node 2 -m tests.engines.two_ranks TRAIN.yaml SAMPLE.yaml FOLDER
"""
import sys
from pathlib import Path
from unittest import mock

import torch

from tests.engines import tiny as tasks
from tools import runtime


def main(training: str, sampling: str, folder: str) -> None:
    """Train, train again from the checkpoint of step 2, sample; every rank leaves its weights in the folder."""
    # Three runs share one process group here; a command has one run and leaves the group at its end.
    with mock.patch.object(runtime, "stop"):
        train(training, Path(folder) / "alone", "resume", "false")
        train(training, Path(folder) / "resumed", "resume", "true")
    tasks.run(sampling)


def train(file: str, folder: Path, *overrides: str) -> None:
    """One run; a resumed one has lost what was saved after step 2, as if it had been killed then."""
    engine = tasks.engine(file, *overrides)
    if engine.runtime.is_main:
        for step in (4, 5):
            for state in (engine.folder / "checkpoints").glob(f"state_*{step:08d}.pt"):
                state.unlink()
    engine.runtime.barrier()
    rank = engine.runtime.rank
    engine.run()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(engine.model.state_dict(), folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
