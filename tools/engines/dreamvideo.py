"""DreamVideo (arXiv 2312.04433): a subject from a few photos and a motion from a few clips, together in one video.

One task trains all stages; their YAML files say what is trained:

- step 1 of the subject, textual inversion: a placeholder word's vector, in a frozen text-to-video network
  (`use_textInversion`);
- step 2 of the subject: identity adapters in the spatial layers, beside that word
  (`freeze_text_embedding`, `text_embedding_path`, `train_adapter`);
- the motion: adapters in the temporal layers, which see one frame of the clip as a CLIP vector so that they need not
  learn what it looks like (`use_clip_adapter_condition`, dropped with `p_image_zero`).

Sampling puts the base, the adapters of either kind or both, and the word together.
"""
import functools
import logging
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from tools import checkpoint
from tools.datasets.lists import clean_name, read_prompts_or_pairs
from tools.datasets.transforms import mask_transforms
from tools.embedders.textual_inversion import embedding_file, mentions, require_replaced
from tools.engines.dreamvideo_adapters import CONTROLS, KEYS, adapter_files
from tools.engines.engine import tasks
from tools.engines.i2vgen import dropped
from tools.engines.text2video import TextToVideo
from tools.errors import UserError
from tools.media import read_image
from tools.models.dreamvideo import merge_adapters
from tools.registry import EMBEDMANAGER

log = logging.getLogger(__name__)


class Customised(nn.Module):
    """What is trained: a denoiser with adapters, and learned words beside it; called as the denoiser."""

    def __init__(self, denoiser: nn.Module, manager: nn.Module | None):
        super().__init__()
        self.denoiser, self.manager = denoiser, manager

    def forward(self, *inputs, **conditions) -> Tensor:
        return self.denoiser(*inputs, **conditions)


@tasks(train=("train_dreamvideo_entrance",), sample=("inference_dreamvideo_entrance",))
class DreamVideo(TextToVideo):
    """Text with learned words and, for motion adapters, the CLIP vector of a picture are the conditions."""

    controls = CONTROLS
    network_keys = (*TextToVideo.network_keys, *KEYS)

    @classmethod
    def for_config(cls, cfg) -> type["DreamVideo"]:
        return PicturedDreamVideo if cfg.use_clip_adapter_condition else cls

    def __init__(self, cfg, mode: str):
        super().__init__(cfg, mode)
        self.needs_image_vector = cfg.use_clip_adapter_condition
        self.manager = None

    def build(self) -> None:
        super().build()
        if self.mode == "train" and self.nothing_of_the_denoiser:
            self.model.requires_grad_(False)
        if self.cfg.use_textInversion:
            self.manager = self.learned_words().to(self.runtime.device)
        self.customised = Customised(self.model, self.manager).train(self.mode == "train")

    @property
    def nothing_of_the_denoiser(self) -> bool:
        """Whether the configuration leaves the denoiser as it is, whatever its first weights were loaded by."""
        return self.cfg.fix_spatial_weight and self.cfg.fix_temporal_weight and not self.cfg.train_adapter

    def learned_words(self) -> nn.Module:
        """The manager of placeholders, with the vectors of `text_embedding_path`."""
        cfg = self.cfg
        if cfg.embedmanager is None:
            raise UserError("use_textInversion needs the section 'embedmanager' (placeholder_strings, token_dim)")
        manager = EMBEDMANAGER.build(cfg.embedmanager, embedder=self.embedder)
        frozen = self.mode == "sample" or cfg.freeze_text_embedding
        if cfg.text_embedding_path:
            manager.load(self.text_embedding)
        elif frozen:
            raise UserError("text_embedding_path is not set; name the file that textual inversion has written, "
                            "embeddings/text_embedding_of_..._*.pth, or set use_textInversion false")
        return manager.requires_grad_(False) if frozen else manager

    @property
    def text_embedding(self) -> str:
        """File of the learned words."""
        prefix, path = self.cfg.cfg_prefix, self.cfg.text_embedding_path
        return str(Path(prefix) / path) if prefix else path

    @property
    def placeholders(self) -> list[str]:
        """Words that are replaced by learned vectors."""
        return list(self.cfg.embedmanager.get("placeholder_strings", ["*"])) if self.cfg.use_textInversion else []

    # Conditions.

    def words(self, texts: list[str]) -> Tensor:
        if self.manager is None:
            return super().words(texts)
        with self.runtime.full_precision():
            return self.embedder(text=texts, embedding_manager=self.manager)[-1]

    @functools.cached_property
    def null_words(self) -> Tensor:
        return super().words([self.cfg.negative_prompt])

    def conditions(self, batch: dict, training: bool) -> tuple[dict, dict]:
        positive, negative = ({"y": part["y"]} for part in super().conditions(batch, training))
        if not self.cfg.use_clip_adapter_condition:
            return positive, negative
        vector = self.image_vector(batch)
        positive["y_image"] = dropped(vector, self.cfg.p_image_zero) if training else vector
        negative["y_image"] = torch.zeros_like(vector)
        if self.mode == "sample":
            positive["ag_strength"] = self.cfg.appearance_guide_strength_cond
            negative["ag_strength"] = self.cfg.appearance_guide_strength_uncond
        return positive, negative

    # Training.

    def trainable(self) -> nn.Module:
        return self.customised

    def transforms(self) -> dict:
        return super().transforms() | {"mask_transforms": mask_transforms(self.cfg.resolution, self.cfg.scale),
                                       "use_mask_diffusion": self.cfg.use_mask_diffusion}

    def dataset(self):
        dataset, batch_size = super().dataset()
        captions = [entry.caption for entry in getattr(dataset, "entries", ())]
        require_replaced(captions, self.placeholders, "training captions")
        if captions and self.trains_words and not any(mentions(p, c) for p in self.placeholders for c in captions):
            raise UserError(f"no training caption has a placeholder ({', '.join(self.placeholders)}), so nothing can "
                            "be learned; write captions like 'a *'")
        return dataset, batch_size

    @property
    def trains_words(self) -> bool:
        """Whether the placeholders' vectors are trained."""
        return self.manager is not None and any(p.requires_grad for p in self.manager.parameters())

    def batch_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        batch = self.with_latents(batch)
        if self.cfg.save_latents:
            self.keep_latents(batch["key"], batch["latents"])
        if self.cfg.use_mask_diffusion and "mask" not in batch:
            raise UserError("use_mask_diffusion: the data has no masks; use ImageCustomDataset with a folder 'masks'")
        positive, _ = self.conditions(batch, training=True)
        return self.loss(batch["latents"], positive, batch["mask"] if self.cfg.use_mask_diffusion else None)

    def keep_latents(self, keys: list[str], latents: Tensor) -> None:
        """Write each clip's latents once, for `inverse_noise_strength`.

        As in the original a file holds the whole batch [B, c, F, h, w]; here the clip that it is named after is first.
        """
        for index, key in enumerate(keys):
            file = self.folder / "latents" / f"{Path(key).name.split('.')[0]}.pth"
            if not file.exists():
                checkpoint.save_file(latents.roll(-index, dims=0).cpu(), file)

    def weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is trained of the denoiser, under its names there: the published layout of adapter files."""
        return {name: state[f"denoiser.{name}"] for name, p in self.model.named_parameters() if p.requires_grad}

    def weights_file(self, kind: str, step: int) -> str:
        return f"{'' if kind == 'non_ema' else f'{kind}_'}adapter_{step:08d}.pth"

    def saved(self, step: int) -> None:
        if self.trains_words:
            file = embedding_file(self.folder / "embeddings", self.placeholders, step)
            checkpoint.save_file(self.manager.content(), file)

    def training_state(self) -> dict:
        counter = getattr(self.manager, "progressive_counter", None)
        return {} if counter is None else {"progressive_counter": counter}

    def load_training_state(self, state: dict) -> None:
        if "progressive_counter" in state:
            self.manager.progressive_counter = state["progressive_counter"]

    def preview(self, step: int, batch: dict) -> None:
        if self.cfg.sample_preview:
            super().preview(step, batch)

    # Sampling.

    def check(self) -> None:
        cfg = self.cfg
        if self.mode == "train":
            super().check()
            if cfg.cache_latents and (cfg.use_mask_diffusion or cfg.save_latents):
                raise UserError("cache_latents keeps neither masks nor the names of clips; set cache_latents 0, or "
                                "use_mask_diffusion and save_latents false")
            return
        for key in ("inverse_noise_strength", "motion_adapter_from"):
            if not 0 <= cfg[key] <= 1:
                raise UserError(f"{key} must lie in 0..1, not {cfg[key]}")
        if cfg.inverse_noise_strength and not cfg.latents_path:
            raise UserError("inverse_noise_strength needs latents_path, a file that training with save_latents wrote")
        for _, path in adapter_files(self.cfg):
            checkpoint.locate(path)

    def sampled_state(self) -> dict[str, Tensor]:
        base = self.cfg.base_model
        adapters = {f"{kind} adapter '{path}'": checkpoint.load_state(path) for kind, path in adapter_files(self.cfg)}
        return merge_adapters(self.model, f"base_model '{base}'", checkpoint.load_state(base), adapters)

    @property
    def denoiser_paths(self) -> dict[str, str | None]:
        files = {"base": self.cfg.base_model} | {f"{kind}_adapter": path for kind, path in adapter_files(self.cfg)}
        return files | {"text_embedding": self.text_embedding if self.cfg.use_textInversion else None}

    def items(self) -> list:
        """Lines `picture|||caption`, the picture below `test_data_dir`; captions alone where no adapter sees one."""
        return read_prompts_or_pairs(self.cfg.test_list_path)

    def source(self, item) -> str | None:
        return item.path and str(Path(self.cfg.test_data_dir) / item.path)

    @classmethod
    def list_changes(cls, list_file: str) -> dict:
        return super().list_changes(list_file) | {"test_data_dir": ""}

    def resolved(self, request):
        where = f"list file '{self.cfg.test_list_path}', line {request.item.line}"
        require_replaced([request.item.caption], self.placeholders, where)
        if self.cfg.use_clip_adapter_condition:
            if request.item.path is None:
                raise UserError(f"{where}: the motion adapters are told a picture; write picture|||prompt")
            read_image(self.source(request.item))
        return request

    def request(self, items: list, generators: list, folder: str | Path | None = None) -> dict:
        """folder: where the pictures are; None: `test_data_dir`."""
        batch = super().request(items, generators)
        if not self.cfg.use_clip_adapter_condition:
            return batch
        folder = Path(self.cfg.test_data_dir if folder is None else folder)
        return batch | {"vit_frame": self.for_image_encoder([read_image(folder / item.path) for item in items])}

    def initial_noise(self, generators: list, frames: int | None = None) -> Tensor:
        """Noise with offset noise; some of it may be what the inversion of a training clip's latents ends in."""
        start, share = super().initial_noise(generators, frames), self.cfg.inverse_noise_strength
        start = self.with_offset(start, generators, self.cfg.noise_strength)
        return share**0.5 * self.inverted + (1 - share) ** 0.5 * start if share else start

    def sample_latents(self, batch: dict, generators: list, progress=None) -> Tensor:
        if hasattr(self.model, "scale_adapters"):
            cfg = self.cfg
            self.model.scale_adapters(cfg.identity_adapter_scale, cfg.motion_adapter_scale,
                                      cfg.motion_adapter_from * self.diffusion.num_timesteps)
        return super().sample_latents(batch, generators, progress)

    @functools.cached_property
    def inverted(self) -> Tensor:
        """DDIM's noise [1, c, F, h, w] for the first clip of `latents_path`, under the empty text and unguided."""
        path, shape = self.cfg.latents_path, self.latent_shape()
        latents = checkpoint.load_file(path)
        if not isinstance(latents, Tensor) or latents.shape[1:] != shape:
            found = list(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
            raise UserError(f"latents_path '{path}' holds {found}, but the videos' latents are [B, "
                            f"{', '.join(map(str, shape))}]; use latents of max_frames frames at this resolution")
        with self.runtime.autocast():
            return self.diffusion.ddim_reverse_sample_loop(
                latents[:1].to(self.runtime.device), self.model, {"y": super().words([""])},
                ddim_timesteps=self.cfg.ddim_timesteps)

    @property
    def list_name(self) -> str:
        """Videos go into a folder named after the configuration."""
        return self.folder.name

    def output_name(self, request, rank: int, world_size: int) -> str:
        return f"{self.video_name(request.item, request.index)}.mp4"

    def video_name(self, item, number: int) -> str:
        """The original's name of a video."""
        kept = "*" if os.name != "nt" else ""
        return f"{clean_name(item.caption, kept)}_{self.cfg.seed}_{number}"


class PicturedDreamVideo(DreamVideo):
    """With motion adapters, which are told what the video looks like."""

    needs_picture = True
