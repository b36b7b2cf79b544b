"""The training loop: accumulation, precision, clipping, EMA, schedule, logging, previews, checkpoints, exact resume."""
import contextlib
import json
import logging
import math
import time
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from tools import checkpoint, runtime
from tools.engines.adafactor import Adafactor
from tools.engines.annealing import AnnealingLR
from tools.engines.batches import batches
from tools.engines.ema import EMA
from tools.engines.group_norm_guard import guard_group_norms
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
        if cfg.use_fsdp:
            raise UserError("use_fsdp: sharded training is not available; several GPUs train by DDP, which keeps "
                            "the whole model on each; set use_fsdp false")
        self.engine, self.cfg, self.runtime = engine, cfg, engine.runtime
        self.folder = engine.folder
        self.model = engine.trainable()
        guard_group_norms(self.model)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        if not parameters:
            raise UserError("nothing to train: every parameter is fixed (see Pretrain.fix_weight, trainable_modules)")
        self.parameters = parameters
        self.optimizer = self._optimizer(parameters)
        self.scaler = torch.amp.GradScaler(self.runtime.device.type, enabled=self.runtime.precision == "fp16")
        self.schedule = AnnealingLR(self.optimizer, base_lr=float(cfg.lr), warmup_steps=cfg.warmup_steps,
                                    total_steps=cfg.num_steps, decay_mode=cfg.decay_mode)
        self.ema = EMA(self.model, cfg.ema_decay, cfg.ema_warmup) if self._wants_ema() else None
        self.step = engine.first_step
        self.first_step = self.step
        self.batches_done = 0
        self.evaluations: Metrics | None = None

    def run(self) -> None:
        """Train to `num_steps`, from the last checkpoint of the run folder when `resume` is set."""
        random_state = self._resume()
        if random_state is None:
            self.engine.training_begins(self)
        self.wrap()
        data = self.read_batches()
        if random_state is not None:
            # Last, after everything that may draw.
            runtime.set_rng_state(random_state)
        # Nothing is written before this point, where everything that the run needs has proven to be there.
        name = "log.txt" if self.runtime.is_main else f"log_{self.runtime.rank:02d}.txt"
        runtime.start_logging(self.runtime, self.folder / name)
        metrics = Metrics(self.folder, self.step, self.cfg.tensorboard) if self.runtime.is_main else None
        last = self.cfg.num_steps
        log.info("training steps %d to %d in %s", self.step, last, self.folder)
        with tqdm(total=last + 1, initial=self.step, unit="step", disable=not self.runtime.is_main) as bar:
            while self.step <= last:
                began = time.perf_counter()
                values, batch = self.update(data)
                if self.step % self.cfg.log_interval == 0 or self.step == last:
                    self._log(values, metrics, bar, time.perf_counter() - began)
                if self._due(self.cfg.save_ckp_interval):
                    self._require_finite(values)
                    self._save()
                if self._due(self.cfg.viz_interval):
                    self.preview(batch)
                if self.cfg.eval_interval and self._due(self.cfg.eval_interval):
                    self._evaluate()
                self.step += 1
                bar.update()
        self.runtime.barrier()
        if self.runtime.is_main:
            self.engine.training_ends(self)

    def _optimizer(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        rates = {"lr": float(self.cfg.lr), "weight_decay": float(self.cfg.weight_decay)}
        if self.cfg.optimizer == "adafactor":
            return Adafactor(parameters, scale_parameter=False, relative_step=False, **rates)
        return torch.optim.AdamW(parameters, betas=(self.cfg.adam_beta1, self.cfg.adam_beta2),
                                 eps=self.cfg.adam_epsilon, **rates)

    def _wants_ema(self) -> bool:
        wanted = self.cfg.use_ema
        return self.runtime.world_size > 1 if wanted is None else wanted

    def _due(self, interval: int) -> bool:
        return self.step in (self.first_step, self.cfg.num_steps) or self.step % interval == 0

    def wrap(self) -> None:
        """Hand the engine the network that updates run: compiled or shared among ranks, as the configuration says."""
        network = self.model
        if self.cfg.compile:
            network.compile()
        if self.runtime.world_size > 1:
            devices = [self.runtime.device] if self.runtime.device.type == "cuda" else None
            network = DistributedDataParallel(network, device_ids=devices)
        self.network = network
        self.engine.network = network

    def read_batches(self):
        """Batches without end, from where the run stands."""
        dataset, batch_size = self.engine.dataset()
        cfg = self.cfg
        return batches(dataset, batch_size=batch_size, seed=cfg.seed, shuffle=cfg.shuffle, done=self.batches_done,
                       rank=self.runtime.rank, world_size=self.runtime.world_size, num_workers=cfg.num_workers,
                       prefetch_factor=cfg.prefetch_factor, pin_memory=self.runtime.device.type == "cuda")

    def update(self, data) -> tuple[dict, dict]:
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
        self.engine.updated()
        return total, batch

    @property
    def _ddp(self) -> bool:
        return isinstance(self.network, DistributedDataParallel)

    def _log(self, values: dict, metrics, bar, seconds: float) -> None:
        means = {key: float(self.runtime.mean(torch.as_tensor(value, device=self.runtime.device)))
                 for key, value in values.items()}
        self._require_finite(means)
        if metrics:
            lr = self.optimizer.param_groups[0]["lr"]
            metrics.write(self.step, means | {"next_lr": lr, "seconds": seconds})
            bar.set_postfix({"loss": f"{means['loss']:.4f}", "lr": f"{lr:.2e}"})

    def _require_finite(self, values: dict) -> None:
        """End a run that has diverged before it overwrites anything good; a scaler skips bad updates by itself."""
        if not all(math.isfinite(value) for value in values.values()) and not self.scaler.is_enabled():
            raise UserError(f"step {self.step}: the loss is no longer finite ({float(values['loss'])}); lower lr or "
                            f"set grad_clip; checkpoints so far are in {self.folder / 'checkpoints'}")

    def preview(self, batch: dict) -> None:
        """Let the engine draw what it would sample now; training's random streams do not notice."""
        state = runtime.rng_state()
        self.model.eval()
        with torch.no_grad():
            self.engine.preview(self.step, batch)
        runtime.set_rng_state(state)

    def _evaluate(self) -> None:
        """Let the engine measure the model on held-out data, into `evaluation.jsonl`; training does not notice."""
        state = runtime.rng_state()
        self.model.eval()
        with torch.no_grad():
            values = self.engine.evaluate(self.step)
        runtime.set_rng_state(state)
        if values and self.runtime.is_main:
            self.evaluations = self.evaluations or Metrics(self.folder, self.step, self.cfg.tensorboard, "evaluation")
            self.evaluations.write(self.step, values)
            log.info("step %d, held out: %s", self.step, ", ".join(f"{k} {v:.4f}" for k, v in values.items()))

    def _save(self) -> None:
        """Plain weights in the original's layout, and the whole state of the run."""
        folder = self.folder / "checkpoints"
        if self.runtime.is_main:
            self._save_weights(self.model.state_dict(), folder / self.engine.weights_file("non_ema", self.step))
            if self.ema:
                self._save_weights(self.ema.average, folder / self.engine.weights_file("ema", self.step))
            self.engine.saved(self.step)
        rank = self.runtime.rank
        checkpoint.save_file(self._state(), folder / _state_file(rank, self.step))
        # Only when all ranks have the new state may older ones go.
        self.runtime.barrier()
        checkpoint.remove_old(folder, _state_file(rank, "*"), self.cfg.keep_checkpoints)

    def _save_weights(self, state: dict[str, torch.Tensor], path: Path) -> None:
        dtype = runtime.DTYPES[self.cfg.save_dtype]
        weights = {key: value.to(dtype) if value.is_floating_point() else value
                   for key, value in self.engine.weights(state).items()}
        if not weights:
            return
        # {'state_dict', 'step'} is what users have.
        checkpoint.save_file({"state_dict": weights, "step": self.step} | self.engine.beside_weights(self), path)

    def _state(self) -> dict:
        state = {"step": self.step, "first_step": self.first_step, "batches_done": self.batches_done,
                 "rng": runtime.rng_state(), "world_size": self.runtime.world_size,
                 "config": json.dumps(self.cfg, default=str)}
        if self.runtime.is_main:
            # Replicated on all ranks, so one copy is enough.
            state |= {"model": self._changing_entries(), "optimizer": self.optimizer.state_dict(),
                      "scaler": self.scaler.state_dict(), "schedule": self.schedule.state_dict(),
                      "engine": self.engine.training_state()}
            state |= {"ema": self.ema.state_dict()} if self.ema else {}
        return state

    def _changing_entries(self) -> dict[str, torch.Tensor]:
        """The state dict without fixed parameters, which a resumed run has from where this one had them."""
        fixed = {name for name, p in self.model.named_parameters() if not p.requires_grad}
        return {key: value for key, value in self.model.state_dict().items() if key not in fixed}

    def _resume(self) -> dict | None:
        """Take up the last checkpoint, if there is one; returns the state of the random generators to start with."""
        if not self.cfg.resume:
            return None
        folder = self.folder / "checkpoints"
        main = self._resumable(folder)
        if main is None:
            log.info("resume: no checkpoint in %s yet, starting afresh", folder)
            return None
        shared = checkpoint.load_file(main)
        own = main.with_name(_state_file(self.runtime.rank, shared["step"]))
        state = shared if self.runtime.is_main else checkpoint.load_file(own)
        checkpoint.load_into(self.model, shared["model"], f"resume from {main}", only=self._changing_entries())
        self.optimizer.load_state_dict(shared["optimizer"])
        self.scaler.load_state_dict(shared["scaler"])
        self.schedule.load_state_dict(shared["schedule"])
        self.engine.load_training_state(shared.get("engine", {}))
        if self.ema:
            self.ema.load_state_dict(shared["ema"])
        self.step, self.first_step = state["step"] + 1, state["first_step"]
        self.batches_done = state["batches_done"]
        if self.cfg.use_random_seed:
            self.cfg.seed = json.loads(shared["config"])["seed"]
        log.info("resuming after step %d from %s", state["step"], own)
        return state["rng"]

    def _resumable(self, folder: Path) -> Path | None:
        """The main rank's part of the last checkpoint that all ranks have written; a kill may come between two."""
        files = checkpoint.by_age(folder, _state_file(0, "*"))
        if not files:
            return None
        written = checkpoint.load_file(files[-1])["world_size"]
        if written != self.runtime.world_size:
            raise UserError(f"resume: {files[-1]} was written by {written} processes, this run has "
                            f"{self.runtime.world_size}; start as many, or continue from its weights through Pretrain")
        for file in reversed(files):
            step = checkpoint.step_of(file.name)
            if all((folder / _state_file(rank, step)).exists() for rank in range(written)):
                return file
        raise UserError(f"resume: no checkpoint in {folder} is complete; continue from its weights through Pretrain")


def _state_file(rank: int, step: int | str) -> str:
    """Name of one rank's part of a checkpoint; a pattern where `step` is '*'."""
    return f"state_rank{rank:04d}_{step:08d}.pt" if isinstance(step, int) else f"state_rank{rank:04d}_{step}.pt"


class Metrics:
    """JSONL file and TensorBoard events of one run.

    Args:
        folder: the run's folder; `{name}.jsonl` and `tensorboard/` go there.
        next_step: lines of this step and later, left by a run that was killed, are dropped.
        tensorboard: write event files as well.
        name: of the file.
    """

    def __init__(self, folder: Path, next_step: int, tensorboard: bool, name: str = "metrics"):
        self.group = "train" if name == "metrics" else name
        self.file = folder / f"{name}.jsonl"
        kept = [line for line in self._lines() if json.loads(line)["step"] < next_step]
        checkpoint.save_text("".join(line + "\n" for line in kept), self.file)
        self.board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter
            own = folder / "tensorboard" / ("" if name == "metrics" else name)  # a purge is one of the whole folder
            self.board = SummaryWriter(own, purge_step=next_step)

    def _lines(self) -> list[str]:
        """Whole lines of the file; a kill may have cut the last one."""
        text = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        return text.split("\n")[:-1]

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append one line and one event per value."""
        with open(self.file, "a", encoding="utf-8") as opened:
            opened.write(json.dumps({"step": step, **values}) + "\n")
        if self.board:
            for key, value in values.items():
                self.board.add_scalar(f"{self.group}/{key}", value, step)
