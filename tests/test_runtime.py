"""Devices, precision, seeds, launching, logging."""
import logging
import random
from unittest import mock

import numpy as np
import pytest
import torch

from tools import runtime
from tools.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def gpus(monkeypatch):
    """A machine with two GPUs, as far as torch is asked; commands that torchrun's machinery was given."""
    for name in ("LOCAL_RANK", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with mock.patch("torch.distributed.run.main") as main, mock.patch("sys.argv", ["train_net.py", "--cfg", "a.yaml"]):
        yield main


def test_a_cpu_runs_in_float32_unless_asked():
    assert runtime.start("cpu") == runtime.Runtime(CPU, "fp32")
    assert runtime.start("cpu", "bf16").precision == "bf16"


@pytest.mark.parametrize(("device", "precision", "message"), [
    ("cuda", "auto", "torch sees no GPU"), ("cpu", "fp16", "fp16 needs a GPU"), ("cpu", "fp8", "'fp8' is none of")])
def test_impossible_wishes_are_refused(monkeypatch, device, precision, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        runtime.start(device, precision)


def test_a_device_that_torch_does_not_know_is_refused():
    with pytest.raises(UserError, match="device: 'gpu'"):
        runtime.start("gpu")


@pytest.mark.parametrize(("half", "bf16", "expected"), [(True, True, "bf16"), (True, False, "fp16"),
                                                        (False, True, "fp32")])
def test_gpus_run_in_16_bits_by_default(monkeypatch, half, bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    assert runtime._precision("auto", half, torch.device("cuda")) == expected


def test_autocast_follows_the_precision():
    with runtime.Runtime(CPU, "bf16").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with runtime.Runtime(CPU, "fp32").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_one_process_agrees_with_itself():
    alone = runtime.Runtime(CPU, "fp32")
    assert (alone.agree(7), alone.mean(torch.tensor(3)).item(), alone.is_main) == (7, 3.0, True)
    alone.barrier()


def test_all_gpus_are_used_by_torchrun(gpus):
    assert runtime.launch_on_all_devices(debug=False)
    gpus.assert_called_once_with(["--standalone", "--nproc_per_node=2", "train_net.py", "--cfg", "a.yaml"])


def test_several_machines_meet_where_the_environment_says(gpus, monkeypatch):
    for name, value in {"WORLD_SIZE": "3", "RANK": "1", "MASTER_ADDR": "here", "MASTER_PORT": "99"}.items():
        monkeypatch.setenv(name, value)
    runtime.launch_on_all_devices(debug=False)
    gpus.assert_called_once_with(["--nnodes=3", "--node_rank=1", "--master_addr=here", "--master_port=99",
                                  "--nproc_per_node=2", "train_net.py", "--cfg", "a.yaml"])


@pytest.mark.parametrize(("debug", "device"), [(True, "auto"), (False, "cpu"), (False, "cuda:1")])
def test_one_process_where_one_is_asked_for(gpus, debug, device):
    assert not runtime.launch_on_all_devices(debug, device)
    gpus.assert_not_called()


def test_the_exit_code_of_a_failed_process_is_the_commands(gpus):
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    gpus.side_effect = ChildFailedError("train_net.py", {0: mock.Mock(exitcode=2, timestamp=1, message="")})
    with pytest.raises(SystemExit) as ended:
        runtime.launch_on_all_devices(debug=False)
    assert ended.value.code == 2


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(())), float(np.random.randn()),
            random.gauss(0, 1), float(torch.randn(()))]


def test_seeds_decide_every_draw():
    found = []
    for seed in (1, 1, 2):
        runtime.seed_everything(seed)
        found.append(draws())
    assert found[0] == found[1] != found[2]


def test_the_state_of_all_generators_survives_a_safe_file(tmp_path):
    runtime.seed_everything(2**40)
    draws()
    torch.save(runtime.rng_state(), tmp_path / "state.pt")
    expected = draws()
    runtime.set_rng_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draws() == expected


@pytest.mark.usefixtures("own_logging")
def test_logging_replaces_its_own_handlers_and_writes_the_file(tmp_path):
    main = runtime.Runtime(CPU, "fp32")
    runtime.start_logging(main, None)  # takes away what an earlier run in this process left behind
    others = len(logging.getLogger().handlers) - 1
    runtime.start_logging(main, None)
    runtime.start_logging(main, tmp_path / "new" / "log.txt")
    assert len(logging.getLogger().handlers) == others + 2
    logging.getLogger("tools.x").info("said")
    assert (tmp_path / "new" / "log.txt").read_text().rstrip().endswith("I said")
