"""The life cycle of a run: device and ranks, components, then one of the two loops."""
import functools
import logging
import random
from pathlib import Path

import numpy as np
import torch

from tools import checkpoint, runtime
from tools.engines.controls import Control
from tools.engines.sample import Sampling
from tools.engines.train import Trainer
from tools.errors import UserError
from tools.registry import DATASETS, ENGINE

log = logging.getLogger(__name__)


def tasks(*, train: tuple[str, ...] = (), sample: tuple[str, ...] = ()):
    """Class decorator: registers an engine under the TASK_TYPE names that train it and that sample it."""

    def add(cls):
        for mode, names in (("train", train), ("sample", sample)):
            for name in names:
                ENGINE.register(name)(functools.partial(cls, mode=mode))
        return cls

    return add


class Engine:
    """One run of one method.

    A method fills in what differs: `build` makes its components, `trainable` and `batch_loss` say what an update does,
    `prepare` and `generate` what sampling does. The loops are in `train.py` and `sample.py` and are nobody's to copy.

    Args:
        cfg: resolved configuration.
        mode: `train` or `sample`.

    Attributes:
        sections: keys of the YAML sections that `build` makes components of; the one that is trained comes first.
        frozen_copies: copies of the trained module that training keeps beside it and does not train.
        steps_key: the key that says in how many steps sampling denoises.
        reseeds: `seeding sequential` starts the random streams anew for every prompt, as the original's task does.
        few_steps: samples in so few steps that there is nothing to shorten.
        network_keys: keys that a request may change and `build` goes by; another value asks for a new engine.
        needs_picture: every video starts from a picture.
        needs_clip: every video takes its conditions from a video or a picture; `draw_conditions` shows them.
        from_prompt: makes a video of a prompt, perhaps with a picture; the app offers such methods.
        controls: settings that the app offers beside those that all methods have.
        clip_section: key of the section that describes the training clips.
    """

    sections: tuple[str, ...] = ()
    steps_key = "ddim_timesteps"
    reseeds = False
    frozen_copies = 0
    few_steps = False
    network_keys: tuple[str, ...] = ()
    needs_picture = needs_clip = False
    from_prompt = True
    controls: tuple[Control, ...] = ()
    clip_section = "vid_dataset"

    @classmethod
    def for_config(cls, cfg) -> type["Engine"]:
        """The class that runs a configuration: this one, unless the task is put together from another task."""
        return cls

    @classmethod
    def adopt(cls, cfg) -> None:
        """Fill in this project's keys from those of the method's own project, where its YAML files have others."""

    def __init__(self, cfg, mode: str):
        self.adopt(cfg)
        self.cfg, self.mode = cfg, mode
        self.runtime = runtime.start(cfg.device, cfg.precision, cfg.use_fp16, cfg.debug)
        if cfg.use_random_seed:
            cfg.seed = self.runtime.agree(random.SystemRandom().randint(0, 10000))
            log.info("seed drawn: %d", cfg.seed)
        self.first_step = 0
        self.network = None

    @classmethod
    def section(cls, cfg, name: str):
        """The section of the YAML that describes a component, without what only the engine reads in it."""
        return cfg.get(name)

    @property
    def folder(self) -> Path:
        """Where a training run writes: `{log_dir}/{config name}`."""
        return Path(self.cfg.log_dir) / Path(self.cfg.cfg_file).name.split(".")[0]

    def run(self) -> None:
        """Build everything and train or sample."""
        runtime.seed_everything(self.cfg.seed + self.runtime.rank)
        if self.mode == "train":
            runtime.start_logging(self.runtime, None)
            self.check()
            self.build()
            Trainer(self).run()
        else:
            Sampling(self).run()
        runtime.stop(self.runtime)

    @property
    def list_name(self) -> str:
        """Name of the folder below `log_dir` that sampling writes to: that of the list."""
        return Path(self.cfg.test_list_path).name.split(".")[0]

    @classmethod
    def list_changes(cls, list_file: str) -> dict:
        """Keys of a configuration that make it sample one list into the folder `{log_dir}/{list name}`."""
        return {"test_list_path": list_file}

    @classmethod
    def most_steps(cls, cfg) -> int:
        """The most denoising steps that the app offers for a configuration."""
        return 200

    def source(self, item) -> str | None:
        """File that the video of a line starts from, or takes its conditions from."""
        return item.path

    def draw_conditions(self, request) -> dict[str, np.ndarray]:
        """What the denoiser of a request is told beside the text, for the eye: uint8 [F, H, W, 3] by name.

        Needs nothing that `build` makes. For methods that `needs_clip`.
        """
        raise NotImplementedError

    def resolved(self, request):
        """A request of the list with what its line leaves open filled in.

        Raises:
            UserError: it cannot be made; it is reported and left out, and the others go on.
        """
        return request

    def stream_seed(self, request) -> int | None:
        """Seed with which `seeding sequential` starts the random streams anew for a request; None: they go on."""
        return self.cfg.seed + self.runtime.rank if self.reseeds else None

    @classmethod
    def sample_size(cls, cfg) -> tuple[int, int, int, int]:
        """Videos, frames, width and height that are denoised together when a configuration samples."""
        return cfg.batch_size, cfg.max_frames, *cfg.resolution

    @classmethod
    def further_files(cls, cfg, mode: str) -> list[tuple[str, str]]:
        """(key, path) of files that a run reads beside those that its sections name; for `--check`."""
        return []

    def sampled(self, sampling: Sampling) -> None:
        """Called on the main rank when all videos are written, to add what users expect beside them."""

    def log_file(self, rank: int) -> str:
        """Name of the log beside the videos."""
        return f"log_{rank:02d}.txt"

    def check(self) -> None:
        """Refuse settings that cannot work, before anything is loaded or written."""

    def build(self) -> None:
        """Make the components on their device."""
        raise NotImplementedError

    def trainable(self) -> torch.nn.Module:
        """The module whose parameters are trained and saved."""
        raise NotImplementedError

    def weights(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the plain weights file holds of the trained module's state dict, in the layout that users have."""
        return state

    def weights_file(self, kind: str, step: int) -> str:
        """Name of that file; kind: `non_ema` or `ema`."""
        return f"{kind}_{step:08d}.pth"

    def beside_weights(self, trainer: Trainer) -> dict:
        """What else that file holds, for users who expect it there."""
        return {}

    def training_begins(self, trainer: Trainer) -> None:
        """Called once, before the first update of a run that starts afresh."""

    def training_ends(self, trainer: Trainer) -> None:
        """Called on the main rank after the last update, to write what users expect of a finished run."""

    def batch_loss(self, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Scalar loss of one batch, through `self.network`, and further scalars to log."""
        raise NotImplementedError

    def updated(self) -> None:
        """Called after every update of the optimiser."""

    def training_state(self) -> dict:
        """What a resumed run needs beside the trained module; the same on all ranks."""
        return {}

    def load_training_state(self, state: dict) -> None:
        """Continue from what `training_state` returned."""

    def saved(self, step: int) -> None:
        """Called on the main rank at every checkpoint, to write what users expect in files of their own."""

    def preview(self, step: int, batch: dict) -> None:
        """Draw what the model does now; nothing by default."""

    def evaluate(self, step: int) -> dict[str, float]:
        """Figures of what the model does now on data that it is not trained on; none by default."""
        return {}

    def weight_digest(self, section: str) -> str | None:
        """Digest of the weights file that a section names; None where it names none."""
        path = (self.cfg[section] or {}).get("pretrained")
        return checkpoint.digest(path) if path else None

    def to_device(self, batch: dict) -> dict:
        """Batch with its tensors on the run's device."""
        device = self.runtime.device
        return {key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
                for key, value in batch.items()}

    def rank_plan(self) -> tuple[int, int, int]:
        """Frames, batch size and frame rate of this rank (joint image and video training: ranks differ)."""
        cfg, rank = self.cfg, self.runtime.rank
        frames = cfg.frame_lens[rank % len(cfg.frame_lens)]
        rates = cfg.sample_fps if isinstance(cfg.sample_fps, list) else [cfg.sample_fps]
        fps = 1 if frames == 1 else rates[rank % len(rates)]
        if str(frames) not in cfg.batch_sizes:
            raise UserError(f"batch_sizes has no entry for the {frames} frames of frame_lens")
        return frames, cfg.batch_sizes[str(frames)], fps

    def dataset(self):
        """Dataset of this rank and its batch size."""
        return self.dataset_of(self.rank_plan())

    def dataset_of(self, plan: tuple[int, int, int]):
        """Dataset for (frames, batch size, frame rate), and the batch size."""
        frames, batch_size, fps = plan
        name = "img_dataset" if frames == 1 else self.clip_section
        section = self.cfg[name]
        if section is None:
            raise UserError(f"section '{name}' is missing; frame_lens {self.cfg.frame_lens} asks for it")
        known = DATASETS.parameters(section.get("type"))
        given = {"sample_fps": fps, "max_frames": frames}
        if "vit_transforms" in known:
            given |= self.transforms()
        return DATASETS.build(section, **{k: v for k, v in given.items() if k in known}), batch_size

    def check_picture_size(self, embedder) -> None:
        """Refuse a `vit_resolution` that the image encoder does not take."""
        height, width = embedder.image_size() if hasattr(embedder, "image_size") else reversed(self.cfg.vit_resolution)
        if [width, height] != list(self.cfg.vit_resolution):
            raise UserError(f"vit_resolution {list(self.cfg.vit_resolution)} is not what the image encoder takes; "
                            f"set vit_resolution: [{width}, {height}]")

    def transforms(self) -> dict:
        """Picture transforms that the datasets take from the run's settings."""
        from tools.datasets.transforms import train_transforms, vit_transforms
        cfg = self.cfg
        return {
            "transforms": train_transforms(cfg.resolution, cfg.mean, cfg.std),
            "vit_transforms": vit_transforms(cfg.resolution, cfg.vit_resolution, cfg.vit_mean, cfg.vit_std),
        }
