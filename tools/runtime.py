"""Where a run happens: device, precision, process group, seeds, logging."""
import contextlib
import logging
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from tools.errors import UserError

log = logging.getLogger("onereel")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """Device and place among the ranks of one process.

    Attributes:
        device: where networks run.
        precision: autocast type, `fp32` (no autocast), `bf16` or `fp16`.
        rank, world_size: of the process group; 0 and 1 without one.
    """

    device: torch.device
    precision: str
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes shared files."""
        return self.rank == 0

    def autocast(self):
        """Context in which networks run: autocast to the chosen precision, or nothing for float32."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.precision])

    def full_precision(self):
        """Context that suspends `autocast`: the frozen encoders and the autoencoder run in float32."""
        return torch.autocast(self.device.type, enabled=False)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()

    def agree(self, number: int) -> int:
        """The main rank's number, on all ranks."""
        if self.world_size == 1:
            return number
        told = torch.tensor(number, device=self.device)
        dist.broadcast(told, src=0)
        return int(told)

    def gather(self, values: list) -> list:
        """The lists of all ranks, one after the other, on all ranks."""
        if self.world_size == 1:
            return values
        parts: list[list] = [[]] * self.world_size
        dist.all_gather_object(parts, values)
        return [value for part in parts for value in part]

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean of a tensor over the ranks."""
        value = value.detach().float()
        if self.world_size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value = value / self.world_size
        return value


def start(device: str = "auto", precision: str = "auto", half: bool = True, debug: bool = False) -> Runtime:
    """Choose device and precision and join the process group that torchrun describes, if any.

    Args:
        device: `auto` (CUDA, else CPU), or a torch device name.
        precision: `fp32`, `bf16`, `fp16`, or `auto`: float32 on a CPU or when `half` is False, else bf16 where the GPU
            has it and fp16 elsewhere.
        half: the original's `use_fp16`.
        debug: no process group whatever the environment says.

    Raises:
        UserError: a device that is not there, or an unknown precision.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    kind = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if kind.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device: '{device}' asked for, but torch sees no GPU; use device cpu")
    try:
        chosen = torch.device(f"cuda:{local_rank}" if kind == "cuda" else kind)
    except RuntimeError as error:
        raise UserError(f"device: '{device}' is unknown to torch; use auto, cpu, cuda, cuda:1 or mps") from error
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    rank, world_size = 0, 1
    if under_torchrun() and not debug:
        if not dist.is_initialized():
            dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        rank, world_size = dist.get_rank(), dist.get_world_size()
    return Runtime(chosen, _precision(precision, half, chosen), rank, world_size)


def stop(runtime: Runtime) -> None:
    """Leave the process group; where the run failed, torchrun ends the group instead."""
    if runtime.world_size > 1:
        dist.destroy_process_group()


def _precision(precision: str, half: bool, device: torch.device) -> str:
    if precision == "auto":
        if device.type != "cuda" or not half:
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if precision not in DTYPES:
        raise UserError(f"precision: '{precision}' is none of auto, {', '.join(DTYPES)}")
    if precision == "fp16" and device.type == "cpu":
        raise UserError("precision: fp16 needs a GPU; use fp32 or bf16 on a CPU")
    return precision


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch_on_all_devices(debug: bool, device: str = "auto") -> bool:
    """Start this very command once per GPU through torchrun's machinery, where there is more than one.

    The original's environment is honoured: WORLD_SIZE and RANK count machines, MASTER_ADDR and MASTER_PORT say where
    they meet.

    Returns:
        True when the work has been done by the started processes, False when this process is to do it.
    """
    if debug or under_torchrun() or device not in ("auto", "cuda"):
        return False
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    machines = int(os.environ.get("WORLD_SIZE", 1))
    if gpus * machines <= 1:
        return False
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    where = ["--standalone"] if machines == 1 else [
        f"--nnodes={machines}", f"--node_rank={os.environ.get('RANK', 0)}",
        f"--master_addr={os.environ.get('MASTER_ADDR', 'localhost')}",
        f"--master_port={os.environ.get('MASTER_PORT', 29500)}"]
    try:
        main([*where, f"--nproc_per_node={gpus}", *sys.argv])
    except ChildFailedError as error:
        # The process has said why; its exit code is this command's.
        sys.exit(error.get_first_failure()[1].exitcode)
    return True


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**63)


def rng_state() -> dict:
    """State of every generator, as plain values and tensors that a safe load accepts."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict) -> None:
    """Put every generator back to what `rng_state` returned."""
    torch.set_rng_state(state["torch"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def start_logging(runtime: Runtime, file: Path | None) -> None:
    """Log to the terminal (main rank: progress, others: warnings) and to `file`."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for handler in list(root.handlers):
        if getattr(handler, "onereel", False):
            root.removeHandler(handler)
            handler.close()
    formatter = logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S")
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.INFO if runtime.is_main else logging.WARNING)
    handlers = [terminal]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(file, encoding="utf-8"))
    for handler in handlers:
        handler.onereel = True
        handler.setFormatter(formatter)
        root.addHandler(handler)
    for chatty in ("httpx", "PIL", "matplotlib", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
