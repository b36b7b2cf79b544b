"""ConsistI2V (arXiv 2402.04324): one picture and a caption to a video that keeps to the picture.

The picture's latent is frame 0 of what the network sees, clean at every time; noise is predicted for the frames behind
it. Where sampling starts, FrameInit puts the picture's low frequencies into the noise. A clip's last latent frame is
the first of the next one, for long videos.
"""
import functools
import logging
import random
import time
from pathlib import Path

import torch
from PIL import Image

from tools.config import Config
from tools.datasets.camera_motion import MOTIONS, check_motion, moving_frames
from tools.datasets.lists import NAME_BYTES, read_prompts_or_pairs
from tools.datasets.prompts import make_items, read_prompt_config
from tools.datasets.tensor_transforms import FITS, first_frame
from tools.diffusions.guidance import Guidance, TwoWayGuidance
from tools.engines import consisti2v_keys
from tools.engines.consisti2v_output import save_model, write_grid, write_settings
from tools.engines.controls import FRAMEINIT, Control, OptionalChoice
from tools.engines.engine import tasks
from tools.engines.latent_diffusion import LatentDiffusion, part_of
from tools.errors import UserError
from tools.media import read_image
from tools.models.consisti2v.folder import load_replacement

log = logging.getLogger(__name__)

NAME_WORDS = 10  # of a prompt in a file's name
TRAINED_STRIDE = 5  # the largest
ITEM_KEYS = ("prompt", "n_prompt", "path_to_first_frame", "prompt_config", "test_list_path")


@tasks(train=("train_consisti2v_entrance",), sample=("inference_consisti2v_entrance",))
class ConsistI2V(LatentDiffusion):
    """Text, the first frame's latent and the frame stride are the conditions.

    Training drops the text to "" with `p_zero`, and with `p_local_image_zero` shows the first frame noised like the
    others. Guidance goes by text alone, or where `guide_scale_img` is above 1 by text and picture apart; the branch
    without picture is shown frame 0 of the noise that sampling starts from, at every time.
    """

    needs_picture = True
    controls = (
        Control("guide_scale_img", "Guidance by the picture (1: by text alone)", 1, 20, 0.1),
        Control("frame_stride", "Frame stride: larger moves more", 1, 5),
        FRAMEINIT,
        OptionalChoice("camera_motion", "Camera", choices=("still", *MOTIONS)),
        Control("picture_fit", "Picture that has another shape", choices=FITS),
        Control("autoregress_steps", "Clips in a row", 1, 10),
    )

    @classmethod
    def adopt(cls, cfg: Config) -> None:
        consisti2v_keys.adopt(cfg)

    def __init__(self, cfg: Config, mode: str):
        super().__init__(cfg, mode)
        self._asked: list | None = None
        self._items: list = []

    def build(self) -> None:
        super().build()
        cfg = self.cfg
        if self.mode == "sample" and cfg.unet_path:
            load_replacement(self.model, cfg.unet_path, cfg.unet_ckpt_prefix)
        if self.mode == "train":
            self._continue_original()
            self._count_epochs()

    @property
    def takes_first_frame(self) -> bool:
        """Whether the network is conditioned on a picture; without one it makes videos from text alone."""
        return self.model.options.takes_first_frame

    # Conditions and loss.

    def conditions(self, batch: dict, training: bool) -> tuple[dict, dict]:
        texts = batch["caption"]
        told = {}
        if self.takes_first_frame:
            told["first_frame_latents"] = batch["first_frame"] if "first_frame" in batch else batch["latents"][:, :, :1]
        if self.model.options.use_frame_stride_condition:
            told["frame_stride"] = self.frame_strides(batch)
        if training:
            texts = ["" if _dropped(self.cfg.p_zero) else text for text in texts]
        negative = batch.get("negative") or [self.cfg.negative_prompt] * len(texts)
        told["encoder_hidden_states"] = self.words(texts)
        return told, told if training else told | {"encoder_hidden_states": self.words(negative)}

    def frame_strides(self, batch: dict) -> torch.Tensor:
        """[B] frames of the source video per frame of the clip; `frame_stride` where the dataset does not tell."""
        if "stride" in batch:
            return batch["stride"]
        return torch.full((len(batch["caption"]),), self.cfg.frame_stride, device=self.runtime.device)

    def features(self, batch: dict) -> dict[str, torch.Tensor]:
        return {"stride": batch["stride"]} if "stride" in batch else {}

    def loss(self, latents: torch.Tensor, conditions: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean squared error of what is predicted for the frames after the first; noise is drawn for all of them."""
        process = self.diffusion
        fresh = process.sample_noise(latents)
        t = self.draw_times(len(latents))
        behind = slice(None)
        if self.takes_first_frame:
            behind = slice(1, None)
            first = conditions["first_frame_latents"]
            noisy = process.q_sample(first, t, fresh[:, :, :1])
            hidden = [_dropped(self.cfg.p_local_image_zero) for _ in first]
            hidden = torch.tensor(hidden, device=first.device).view(-1, 1, 1, 1, 1)
            conditions = conditions | {"first_frame_latents": torch.where(hidden, noisy, first)}
        losses = process.loss(latents[:, :, behind], t, self.network, conditions, noise=fresh[:, :, behind])
        return losses.mean(), {}

    # Sampling.

    def guidance(self) -> Guidance | None:
        cfg = self.cfg
        text = 1.0 if cfg.guide_scale is None else cfg.guide_scale
        if cfg.guide_scale_img > 1 and self.takes_first_frame:
            return TwoWayGuidance(text, cfg.guide_rescale, image=cfg.guide_scale_img)
        return Guidance(text, cfg.guide_rescale) if text > 1 else None

    def denoise(self, start: torch.Tensor, conditions: tuple[dict, dict], generator=None,
                progress=None) -> torch.Tensor:
        """The clean first frame and the frames denoised behind it, [B, c, F, h, w]; `start` has noise for all F."""
        if not self.takes_first_frame:
            return super().denoise(start, conditions, generator, progress)
        told, negative = conditions
        if isinstance(self.guidance(), TwoWayGuidance):
            conditions = told, negative, negative | {"first_frame_latents": start[:, :, :1]}
        behind = super().denoise(start[:, :, 1:], conditions, generator, progress)
        return torch.cat([told["first_frame_latents"].to(behind), behind], dim=2)

    def sample_latents(self, batch: dict, generators: list, progress=None) -> torch.Tensor:
        """Latents of `autoregress_steps` clips, each of which starts from the last frame of the one before."""
        clips, count = [], self.cfg.autoregress_steps
        for number in range(count):
            clip = super().sample_latents(batch, generators, part_of(progress, number, count))
            clips.append(clip[:, :, 1:] if number else clip)
            batch = {key: value for key, value in batch.items() if key != "moving"} | {"first_frame": clip[:, :, -1:]}
        return torch.cat(clips, dim=2)

    def preview_latents(self, start: torch.Tensor, conditions: list[dict], guide_scale: float | None) -> torch.Tensor:
        return self.denoise(start, tuple(conditions))

    def reference_latents(self, batch: dict) -> torch.Tensor | None:
        if "moving" in batch:
            return batch["moving"]
        return batch["first_frame"].expand(-1, -1, self.cfg.max_frames, -1, -1) if self.takes_first_frame else None

    def request(self, items: list, generators: list) -> dict:
        batch = super().request(items, generators)
        batch["negative"] = [self.cfg.negative_prompt if item.negative is None else item.negative for item in items]
        if not self.takes_first_frame:
            return batch
        clips = torch.cat([self.encode(self.pixels(read_image(item.path))[None].to(self.runtime.device), generator)
                           for item, generator in zip(items, generators, strict=True)])
        return batch | {"first_frame": clips[:, :, :1]} | ({"moving": clips} if clips.shape[2] > 1 else {})

    def pixels(self, picture: Image.Image) -> torch.Tensor:
        """The first frame [1, 3, H, W]; with camera motion led by FrameInit all frames [F, 3, H, W] of the crop."""
        cfg = self.cfg
        width, height = cfg.resolution
        if cfg.camera_motion is None:
            return first_frame(picture, height, width, cfg.picture_fit)[None]
        crops = moving_frames(picture, cfg.camera_motion, cfg.max_frames, height, width)
        return crops if self.noise_init is not None else crops[:1]

    # What is sampled, and where it goes.

    def items(self) -> list:
        """Items of the command line, of a prompt file, or of a list of `picture|||caption` lines.

        They are read once, because a prompt file may ask for seeds to be drawn.
        """
        asked = [self.cfg.get(key) for key in ITEM_KEYS]
        if self._asked != asked:
            self._asked, self._items = asked, self._read_items()
        return self._items

    def _read_items(self) -> list:
        cfg = self.cfg
        if cfg.prompt is not None:
            return make_items([cfg.prompt], cfg.n_prompt, cfg.path_to_first_frame, None)
        if cfg.prompt_config:
            return read_prompt_config(cfg.prompt_config)
        return read_prompts_or_pairs(cfg.test_list_path)

    @classmethod
    def list_changes(cls, list_file: str) -> dict:
        alone = {"prompt": None, "prompt_config": None, "output_name": None, "save_model": False, "format": "mp4"}
        return super().list_changes(list_file) | alone

    def check(self) -> None:
        super().check()
        cfg = self.cfg
        check_motion(cfg.camera_motion)
        if self.mode == "train":
            self._check_clips()
            return
        if cfg.frame_stride > TRAINED_STRIDE:
            log.warning("frame_stride %d is beyond what the published weights have seen, 1 to %d", cfg.frame_stride,
                        TRAINED_STRIDE)
        mode = cfg.UNet.get("first_frame_condition_mode", "none")
        if mode == "none" and cfg.autoregress_steps > 1:
            raise UserError("autoregress_steps above 1 chains clips by their first frame, which "
                            "first_frame_condition_mode none does not have")
        for item in self.items() if mode != "none" else ():
            if not item.path:
                raise UserError(f"prompt '{item.caption}' has no first frame; give path_to_first_frame, or a list of "
                                "picture|||caption lines")
            read_image(item.path)

    @functools.cached_property
    def list_name(self) -> str:
        """The list's name; with the original's `output_name` a folder of each run's own, as the original's are."""
        cfg = self.cfg
        if cfg.output_name:
            began = time.localtime(self.runtime.agree(int(time.time())))
            return f"{cfg.output_name}-{time.strftime('%Y-%m-%dT%H-%M-%S', began)}/sample"
        return Path(cfg.prompt_config).stem if cfg.prompt_config else super().list_name

    def output_name(self, request, rank: int, world_size: int) -> str:
        """The original's: `{index}-{name}`, `{index}-{k}-{name}` where there are several videos of a prompt."""
        index, number = divmod(request.index, self.cfg.round)
        words = request.item.caption.replace("/", "").split(" ")[:NAME_WORDS]
        name = "-".join(words).replace(":", "").encode()[:NAME_BYTES].decode(errors="ignore")
        numbers = f"{index}-{number + 1}" if self.cfg.round > 1 else f"{index}"
        return f"{numbers}-{name}.{self.cfg.format}"

    def sampled(self, sampling) -> None:
        """With `output_name`, a grid of all videos and the settings beside their folder."""
        folder = sampling.folder.parent
        if self.cfg.output_name:
            write_grid(sampling.outputs(), folder / f"sample.{self.cfg.format}", self.cfg.output_fps)
            write_settings(self.cfg, sampling.listed, folder / "config.yaml")
        if self.cfg.save_model:
            save_model((folder if self.cfg.output_name else sampling.folder) / "model", self)

    # Training.

    def training_ends(self, trainer) -> None:
        """The whole model as a published folder, `final_checkpoint`."""
        if self.cfg.save_model:
            save_model(self.folder / "final_checkpoint", self, trainer.ema and trainer.ema.average)

    def _check_clips(self) -> None:
        if self.cfg.UNet.get("first_frame_condition_mode", "none") != "none" and 1 in self.cfg.frame_lens:
            raise UserError(f"frame_lens {self.cfg.frame_lens}: ConsistI2V learns the frames behind the first, so that "
                            "a clip needs 2 or more")

    @functools.cached_property
    def _data(self) -> tuple:
        return super().dataset()

    def dataset(self) -> tuple:
        return self._data

    def _count_epochs(self) -> None:
        """Settings of the original that depend on the number of clips or of processes."""
        cfg = self.cfg
        if cfg.scale_lr:
            cfg.lr *= cfg.grad_accumulation * self.rank_plan()[1] * self.runtime.world_size
        if cfg.max_train_steps == -1:
            cfg.num_steps = max(cfg.max_train_epoch, 1) * self._epoch() - 1
        if cfg.checkpointing_steps == -1 and cfg.train_data:
            cfg.save_ckp_interval = max(cfg.checkpointing_epochs, 1) * self._epoch()

    def _epoch(self) -> int:
        """Updates in which every clip is seen once."""
        dataset, batch_size = self.dataset()
        batches = -(-len(dataset) // (batch_size * self.runtime.world_size))
        return -(-batches // self.cfg.grad_accumulation)

    def _continue_original(self) -> None:
        """Weights and step of a `checkpoint-N` folder of the original; its optimiser starts anew."""
        folder = self.cfg.resume_from_checkpoint
        if not folder:
            return
        number = Path(folder).name.rpartition("-")[2]
        if not number.isdigit():
            raise UserError(f"resume_from_checkpoint '{folder}' must be a folder checkpoint-N")
        load_replacement(self.model, f"{folder}/unet", None)
        self.first_step = int(number)


def _dropped(probability: float) -> bool:
    """Whether a condition is dropped; draws from Python's generator where that is possible at all."""
    return probability > 0 and random.random() <= probability
