"""The training loop: accumulation, precision, clipping, EMA, schedule, logging, previews, checkpoints, exact resume."""
import contextlib
import json
import logging
import time
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from tools import checkpoint, runtime
from tools.engines.annealing import AnnealingLR
from tools.engines.batches import batches
from tools.engines.ema import EMA
from tools.errors import UserError

log = logging.getLogger(__name__)


class Trainer:
    """Runs the updates of one engine.

    The engine says what is trained (`trainable()`), on what (`dataset()`), and what a batch costs (`batch_loss`).
    Update number `step` runs from the engine's first step to `num_steps` inclusive, as in the original.

    Args:
        engine: the method, with its components built.
    """

    def __init__(self, engine):
        cfg = engine.cfg
        self.engine, self.cfg, self.runtime = engine, cfg, engine.runtime
        self.folder = engine.folder
        self.model = engine.trainable()
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        if not parameters:
            raise UserError("nothing to train: every parameter is fixed (see Pretrain.fix_weight)")
        self.parameters = parameters
        self.optimizer = torch.optim.AdamW(parameters, lr=float(cfg.lr), weight_decay=float(cfg.weight_decay))
        self.scaler = torch.amp.GradScaler(self.runtime.device.type, enabled=self.runtime.precision == "fp16")
        self.schedule = AnnealingLR(self.optimizer, base_lr=float(cfg.lr), warmup_steps=cfg.warmup_steps,
                                    total_steps=cfg.num_steps, decay_mode=cfg.decay_mode)
        self.ema = EMA(self.model, cfg.ema_decay, cfg.ema_warmup) if self._wants_ema() else None
        self.step = engine.first_step
        self.first_step = self.step
        self.batches_done = 0

    def run(self) -> None:
        """Train to `num_steps`, from the last checkpoint of the run folder when `resume` is set."""
        self._resume()
        self._wrap()
        data = self._batches()
        # Nothing is written before this point, where everything that the run needs has proven to be there.
        name = "log.txt" if self.runtime.is_main else f"log_{self.runtime.rank:02d}.txt"
        runtime.start_logging(self.runtime, self.folder / name)
        metrics = Metrics(self.folder, self.step, self.cfg.tensorboard) if self.runtime.is_main else None
        last = self.cfg.num_steps
        log.info("training steps %d to %d in %s", self.step, last, self.folder)
        with tqdm(total=last + 1, initial=self.step, unit="step", disable=not self.runtime.is_main) as bar:
            while self.step <= last:
                began = time.perf_counter()
                values, batch = self._update(data)
                if self.step % self.cfg.log_interval == 0 or self.step == last:
                    self._log(values, metrics, bar, time.perf_counter() - began)
                if self._due(self.cfg.save_ckp_interval):
                    self._save()
                if self._due(self.cfg.viz_interval):
                    self._preview(batch)
                self.step += 1
                bar.update()
        self.runtime.barrier()

    def _wants_ema(self) -> bool:
        wanted = self.cfg.use_ema
        return self.runtime.world_size > 1 if wanted is None else wanted

    def _due(self, interval: int) -> bool:
        return self.step in (self.first_step, self.cfg.num_steps) or self.step % interval == 0

    def _wrap(self) -> None:
        network = self.model
        if self.cfg.compile:
            network = torch.compile(network)
        if self.runtime.world_size > 1:
            devices = [self.runtime.device] if self.runtime.device.type == "cuda" else None
            network = DistributedDataParallel(network, device_ids=devices)
        self.network = network
        self.engine.network = network

    def _batches(self):
        dataset, batch_size = self.engine.dataset()
        cfg = self.cfg
        return batches(dataset, batch_size=batch_size, seed=cfg.seed, shuffle=cfg.shuffle, done=self.batches_done,
                       rank=self.runtime.rank, world_size=self.runtime.world_size, num_workers=cfg.num_workers,
                       prefetch_factor=cfg.prefetch_factor, pin_memory=self.runtime.device.type == "cuda")

    def _update(self, data) -> tuple[dict, dict]:
        """One optimiser update; returns values to log (on the device) and the last batch."""
        self.model.train()
        micro = self.cfg.grad_accumulation
        total = {}
        for i in range(micro):
            batch = self.engine.to_device(next(data))
            self.batches_done += 1
            hold = self.network.no_sync() if self._ddp and i + 1 < micro else contextlib.nullcontext()
            with hold:
                with self.runtime.autocast():
                    loss, values = self.engine.batch_loss(batch)
                self.scaler.scale(loss / micro).backward()
            for key, value in {"loss": loss, **values}.items():
                total[key] = total.get(key, 0) + value.detach() / micro
        self.scaler.unscale_(self.optimizer)
        if self.cfg.grad_clip:
            total["grad_norm"] = clip_grad_norm_(self.parameters, self.cfg.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if self.ema:
            self.ema.update()
        return total, batch

    @property
    def _ddp(self) -> bool:
        return isinstance(self.network, DistributedDataParallel)

    def _log(self, values: dict, metrics, bar, seconds: float) -> None:
        means = {key: float(self.runtime.mean(torch.as_tensor(value, device=self.runtime.device)))
                 for key, value in values.items()}
        if not all(map(torch.isfinite, map(torch.tensor, means.values()))) and not self.scaler.is_enabled():
            raise UserError(f"step {self.step}: the loss is no longer finite ({means['loss']}); lower lr or set "
                            f"grad_clip; checkpoints so far are in {self.folder / 'checkpoints'}")
        if metrics:
            lr = self.optimizer.param_groups[0]["lr"]
            metrics.write(self.step, means | {"next_lr": lr, "seconds": seconds})
            bar.set_postfix({"loss": f"{means['loss']:.4f}", "lr": f"{lr:.2e}"})

    def _preview(self, batch: dict) -> None:
        """Let the engine draw what it would sample now; training's random streams do not notice."""
        state = runtime.rng_state()
        self.model.eval()
        with torch.no_grad():
            self.engine.preview(self.step, batch)
        runtime.set_rng_state(state)

    def _save(self) -> None:
        """Plain weights in the original's layout, and the whole state of the run."""
        folder = self.folder / "checkpoints"
        if self.runtime.is_main:
            # Plain numbers only, so that any safe loader reads it: {'state_dict', 'step'} is what users have.
            weights = self.engine.weights(self.model)
            checkpoint.save_file({"state_dict": weights, "step": self.step},
                                 folder / f"non_ema_{self.step:08d}.pth")
            if self.ema:
                checkpoint.save_file({"state_dict": self.ema.average, "step": self.step},
                                     folder / f"ema_{self.step:08d}.pth")
        self.runtime.barrier()
        checkpoint.save_file(self._state(), folder / f"state_{self._rank_tag}{self.step:08d}.pt")
        checkpoint.remove_old(folder, f"state_{self._rank_tag}*.pt", self.cfg.keep_checkpoints)

    @property
    def _rank_tag(self) -> str:
        return f"rank{self.runtime.rank:04d}_"

    def _state(self) -> dict:
        state = {"step": self.step, "first_step": self.first_step, "batches_done": self.batches_done,
                 "rng": runtime.rng_state(), "world_size": self.runtime.world_size,
                 "config": json.dumps(self.cfg, default=str)}
        if self.runtime.is_main:
            # Replicated on all ranks, so one copy is enough.
            state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                      "scaler": self.scaler.state_dict(), "schedule": self.schedule.state_dict()}
            state |= {"ema": self.ema.state_dict()} if self.ema else {}
        return state

    def _resume(self) -> None:
        if not self.cfg.resume:
            return
        folder = self.folder / "checkpoints"
        own = checkpoint.newest(folder, f"state_{self._rank_tag}*.pt")
        if own is None:
            log.info("resume: no checkpoint in %s yet, starting afresh", folder)
            return
        state = checkpoint.load_file(own)
        if state["world_size"] != self.runtime.world_size:
            raise UserError(f"resume: {own} was written by {state['world_size']} processes, this run has "
                            f"{self.runtime.world_size}; start as many, or continue from its weights through Pretrain")
        shared = state if self.runtime.is_main else checkpoint.load_file(
            folder / f"state_rank0000_{state['step']:08d}.pt")
        checkpoint.load_into(self.model, shared["model"], f"resume from {own}")
        self.optimizer.load_state_dict(shared["optimizer"])
        self.scaler.load_state_dict(shared["scaler"])
        self.schedule.load_state_dict(shared["schedule"])
        if self.ema:
            self.ema.load_state_dict(shared["ema"])
        self.step, self.first_step = state["step"] + 1, state["first_step"]
        self.batches_done = state["batches_done"]
        log.info("resuming after step %d from %s", state["step"], own)
        # Last, after everything that may draw.
        runtime.set_rng_state(state["rng"])


class Metrics:
    """JSONL file and TensorBoard events of one run.

    Args:
        folder: the run's folder; `metrics.jsonl` and `tensorboard/` go there.
        next_step: lines of this step and later, left by a run that was killed, are dropped.
        tensorboard: write event files as well.
    """

    def __init__(self, folder: Path, next_step: int, tensorboard: bool):
        self.file = folder / "metrics.jsonl"
        kept = []
        if self.file.exists():
            kept = [line for line in self.file.read_text().splitlines() if json.loads(line)["step"] < next_step]
        checkpoint.save_text("".join(line + "\n" for line in kept), self.file)
        self.board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter
            self.board = SummaryWriter(folder / "tensorboard", purge_step=next_step)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append one line and one event per value."""
        with open(self.file, "a", encoding="utf-8") as opened:
            opened.write(json.dumps({"step": step, **values}) + "\n")
        if self.board:
            for key, value in values.items():
                self.board.add_scalar(f"train/{key}", value, step)
