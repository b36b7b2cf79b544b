"""Two processes on one machine, by torchrun and gloo."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.engines import tiny as tasks

ROOT = Path(__file__).parents[2]
PROMPTS = ["a red star", "a blue circle|77", "a green square"]

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """What two processes leave behind that train, resume and sample."""
    folder = tmp_path_factory.mktemp("ranks")
    training = tiny.training(folder, "t2v", save_ckp_interval=2, use_ema=None, grad_accumulation=2)
    sampling = tiny.sampling(folder, "t2v", PROMPTS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m",
               "tests.engines.two_ranks", training, sampling, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def trained(folder: Path, run: str, rank: int) -> dict[str, torch.Tensor]:
    return torch.load(folder / run / f"rank{rank}.pt", weights_only=True)


def test_ranks_train_one_model(folder):
    first, second = (trained(folder, "alone", rank) for rank in range(2))
    assert tasks.same(first, second)
    assert tasks.same(first, tasks.weights(folder / "runs" / "train", 5))
    assert not tasks.same(first, tasks.weights(folder / "runs" / "train", 0))


def test_every_rank_takes_up_its_own_part_of_a_checkpoint(folder):
    assert tasks.same(trained(folder, "alone", 0), trained(folder, "resumed", 0))
    assert tasks.same(trained(folder, "resumed", 0), trained(folder, "resumed", 1))


def test_shared_files_are_written_once(folder):
    run = folder / "runs" / "train"
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert {"state_rank0000_00000005.pt", "state_rank0001_00000005.pt", "ema_00000005.pth"} <= names
    assert [line["step"] for line in tasks.metrics(run)] == [0, 1, 2, 3, 4, 5]


def test_no_prompt_is_done_twice_and_pixels_are_those_of_one_process(tiny, folder, tmp_path):
    shared = sorted((folder / "runs" / "sample_list").glob("*.mp4"), key=lambda path: path.name[11:])
    assert [path.name[:16] for path in shared] == ["rank_02_00_0000_", "rank_02_01_0001_", "rank_02_00_0002_"]
    assert json.loads(shared[1].with_suffix(".json").read_text())["seed"] == 77
    alone = sorted(tasks.run(tiny.sampling(tmp_path, "t2v", PROMPTS)).glob("*.mp4"))
    assert [path.read_bytes() for path in alone] == [path.read_bytes() for path in shared]
