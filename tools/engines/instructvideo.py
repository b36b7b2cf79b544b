"""InstructVideo (arXiv 2312.12490): text-to-video with human feedback; the original's files, names and keys."""
import functools
import os
import re
import time
from pathlib import Path

import torch

from tools import checkpoint
from tools.config import is_training
from tools.datasets.lists import Item, read_keyed_captions, read_prompts, within_name
from tools.engines.engine import tasks
from tools.engines.reward_tuning import RewardTuning
from tools.engines.text2video import TextToVideo
from tools.errors import UserError
from tools.media import probe_video, read_frames
from tools.models.lora_files import merged_state

DATA_TYPE = "vid_diff_reward"


@tasks(train=("t2v_instructvideo_entrance",), sample=("inference_instructvideo_entrance",))
class InstructVideo(RewardTuning, TextToVideo):
    """Text is the condition, the empty text its absence.

    A network with `use_lora` trains its pairs and is sampled with the pairs merged. Any other text-to-video network
    can take its place: with `lora_rank` it trains pairs of its own, without it all of its weights.
    """

    clip_section = "vid_reward_dataset"

    def __init__(self, cfg, mode: str):
        super().__init__(cfg, mode)
        self.optimizer_states: dict = {}

    @classmethod
    def adopt(cls, cfg) -> None:
        """Put the keys of the original's evaluation where sampling looks: weights, list, folder of the videos."""
        if is_training(cfg.TASK_TYPE):
            return
        cfg.test_model = cfg.get("test_model") or cfg.infer_checkpoint
        if cfg.webvid_eval_text:
            cfg.test_list_path = os.path.join(cfg.webvid_dir, cfg.webvid_cap_file, f"{cfg.webvid_eval_text}.txt")
            cfg.log_dir = str(evaluation_folder(cfg).parent)

    # What the network is told, and which weights it has.

    @functools.cached_property
    def null_words(self) -> torch.Tensor:
        return self.words([""])

    def conditions(self, batch: dict, training: bool) -> tuple[dict, dict]:
        told = ("y", "fps") if self.cfg.UNet.get("use_fps_condition") else ("y",)
        return tuple({key: part[key] for key in told} for part in super().conditions(batch, training))

    @classmethod
    def network_options(cls, cfg) -> dict:
        merged = cfg.UNet.get("use_lora") and not is_training(cfg.TASK_TYPE)
        return super().network_options(cfg) | ({"use_lora": False} if merged else {})

    def sampled_state(self) -> dict[str, torch.Tensor]:
        state = super().sampled_state()
        return merged_state(state, self.cfg.UNet.get("lora_alpha")) if self.cfg.UNet.get("use_lora") else state

    def latent_shape(self) -> tuple[int, int, int, int]:
        channels, _, height, width = super().latent_shape()
        return channels, max(self.cfg.frame_lens), height, width

    def initial_noise(self, generators: list) -> torch.Tensor:
        """Drawn where the network runs, as in the original."""
        return torch.cat([self.editing_noise((1, *self.latent_shape()), g) for g in generators])

    # Training.

    def check(self) -> None:
        super().check()
        kinds = self.cfg.data_type
        if self.mode == "train" and kinds and kinds[self.runtime.rank % len(kinds)] != DATA_TYPE:
            raise UserError(f"data_type {kinds}: the only kind of data there is, is {DATA_TYPE}")

    def pretrain_options(self) -> dict:
        given = super().pretrain_options()
        if self.cfg.Pretrain["type"] == "pretrain_instructvideo":
            own = self.cfg.Pretrain.get("grad_scale")
            given |= {"grad_scale": own if isinstance(own, dict) else self.cfg.grad_scale,
                      "optimizer_states": self.optimizer_states}
        return given

    def training_begins(self, trainer) -> None:
        """Take up the optimiser's moments where the first weights came with some of the same parameters."""
        state = self.optimizer_states.get("optimizer")
        sizes = [len(group["params"]) for group in trainer.optimizer.param_groups]
        if not state or [len(group["params"]) for group in state["param_groups"]] != sizes:
            return
        moments = {"state": state["state"], "param_groups": trainer.optimizer.state_dict()["param_groups"]}
        trainer.optimizer.load_state_dict(moments)
        if self.optimizer_states.get("scaler"):
            trainer.scaler.load_state_dict(self.optimizer_states["scaler"])

    @functools.cached_property
    def folder(self) -> Path:
        """`{temp_dir}/{folders of the YAML but the first, joined by dots}.{its name}_{time of the start}`."""
        path = Path(self.cfg.cfg_file)
        parents = () if path.is_absolute() else [part for part in path.parent.parts if part != ".."][1:]
        name = ".".join([*parents, path.name.split(".")[0]])
        root = Path(self.cfg.temp_dir)
        earlier = checkpoint.by_age(root, f"{name}_*/checkpoints") if self.cfg.resume else []
        return earlier[-1].parent if earlier else root / f"{name}_{time_stamp(self.runtime)}"

    def weights_file(self, kind: str, step: int) -> str:
        return super().weights_file(kind, step) if self.cfg.lora_rank else f"{kind}_{step:07d}.pth"

    def beside_weights(self, trainer) -> dict:
        return {"optimizer": trainer.optimizer.state_dict(), "scaler": trainer.scaler.state_dict()}

    # Sampling.

    @property
    def list_name(self) -> str:
        return evaluation_folder(self.cfg).name if self.evaluates else super().list_name

    @property
    def evaluates(self) -> bool:
        """Whether the original's evaluation keys say what is sampled."""
        return bool(self.cfg.webvid_eval_text)

    def log_file(self, rank: int) -> str:
        return "log.txt" if self.evaluates and rank == 0 else super().log_file(rank)

    def items(self) -> list[Item]:
        """Captions of `path|||caption|||frames` lines by the name of their clip, or those of a list of prompts."""
        if not self.evaluates:
            return read_prompts(self.cfg.test_list_path)
        items = read_keyed_captions(self.cfg.test_list_path)
        return items[:self.cfg.webvid_test_caps or len(items)]

    def prompt(self, item: Item) -> str:
        return super().prompt(item) + self.cfg.suffix

    def output_name(self, request, rank: int, world_size: int) -> str:
        if not self.evaluates:
            return super().output_name(request, rank, world_size)
        caption = within_name(re.sub(r"[\s/\\]", "-", request.item.caption), request.item.caption)
        return f"{request.index:04d}_{Path(request.item.path).stem}_{caption}.mp4"

    def sampled(self, sampling) -> None:
        """All videos of an evaluation in one file beside them: uint8 [N, F, H, W, 3]."""
        if self.evaluates:
            videos = [torch.from_numpy(read_frames(path, range(probe_video(path).frames)))
                      for path in sampling.outputs() if path.exists()]
            checkpoint.save_file(torch.stack(videos), sampling.folder / f"{self.list_name}.pt")


def evaluation_folder(cfg) -> Path:
    """Where the original's evaluation writes its videos."""
    return Path(f"{cfg.webvid_dir_save}{cfg.webvid_test_caps}")


def time_stamp(runtime) -> str:
    """`MMDD-hh-mm` of the start, the same on all ranks."""
    digits = f"{runtime.agree(int(time.strftime('%m%d%H%M'))):08d}"
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}"
