"""What the latent diffusion methods of the VGen family share: components, text, latents, loss, denoising."""
import functools
import logging
from collections.abc import Callable

import torch
from PIL import Image

from tools import checkpoint, noise
from tools.autoencoders.video import decode_video, encode_video
from tools.datasets.transforms import vit_transforms
from tools.diffusions.guidance import Guidance
from tools.diffusions.noise_strategies import Vanilla
from tools.embedders.features import image_vectors, text_tokens
from tools.engines.engine import Engine
from tools.engines.latent_cache import cached_latents
from tools.errors import UserError
from tools.models import lora, lora_files
from tools.models.attention import set_attention_backend
from tools.models.trainable import choose_trainable
from tools.registry import AUTO_ENCODER, DIFFUSION, EMBEDDER, MODEL, NOISE_INIT, PRETRAIN, VISUAL

log = logging.getLogger(__name__)


class LatentDiffusion(Engine):
    """Engine with an autoencoder, an embedder, a denoiser and a diffusion process.

    A method states its conditions; a different objective or sampler overrides `loss` or `denoise`.
    """

    sections = ("UNet", "Diffusion", "auto_encoder", "embedder")
    network_keys = ("loras",)
    needs_image_vector = False
    pixel_features: tuple[str, ...] = ()  # names of what `features` gives

    def build(self) -> None:
        cfg, device = self.cfg, self.runtime.device
        set_attention_backend(cfg.attention_backend)
        self.autoencoder = AUTO_ENCODER.build(cfg.auto_encoder).to(device).eval().requires_grad_(False)
        self.embedder = EMBEDDER.build(self.section(cfg, "embedder")).to(device).eval().requires_grad_(False)
        if self.needs_image_vector:
            self.check_picture_size(self.embedder)
        self.diffusion = self.process()
        if (cfg.opti_timesteps or 0) > self.diffusion.num_timesteps:
            raise UserError(f"opti_timesteps {cfg.opti_timesteps} is more than the schedule's "
                            f"{self.diffusion.num_timesteps} steps")
        self.model = MODEL.build(cfg.UNet, **self.network_options(cfg))
        if self.mode == "sample":
            checkpoint.load_into(self.model, self.sampled_state(),
                                 f"test_model '{cfg.get('test_model')}' into {cfg.UNet['type']}")
            self.adapt()
            self.model.eval().requires_grad_(False)
            if cfg.compile:
                self.model.compile()
        else:
            if cfg.Pretrain:
                self.model, self.first_step = PRETRAIN.build(cfg.Pretrain, **self.pretrain_options())
            self.adapt()
            choose_trainable(self.model, cfg.trainable_modules)
        if self.noise_init is not None:
            self.noise_init.check(self.diffusion.num_timesteps)
        self.network = self.model.to(device)
        self.visual = VISUAL.build(cfg.visual_train) if self.mode == "train" and cfg.visual_train else None

    @property
    def noise_init(self):
        """What leads the noise that sampling starts from; None where nothing does."""
        wanted = self.mode == "sample" and self.cfg.noise_init
        return NOISE_INIT.build(self.cfg.noise_init) if wanted else None

    def process(self):
        """The diffusion process."""
        return DIFFUSION.build(self.cfg.Diffusion)

    @classmethod
    def network_options(cls, cfg) -> dict:
        """Arguments of the denoiser that the engine gives; they replace those of the YAML section.

        A network may name top-level keys that it reads, as in the original, under its argument `config`.
        """
        keys = getattr(MODEL.get(cfg.UNet["type"]), "config_keys", ())
        return {"config": {key: cfg.get(key) for key in keys}} if keys else {}

    def sampled_state(self) -> dict[str, torch.Tensor]:
        """Weights that are sampled from."""
        return checkpoint.load_state(self.cfg.test_model)

    def pretrain_options(self) -> dict:
        """Arguments that the engine gives to the strategy which puts the first weights into the denoiser."""
        return {"model": self.model}

    def adapt(self) -> None:
        """Merge LoRA files into the denoiser, and put the pairs that are trained instead of its weights beside them."""
        cfg = self.cfg
        lora_files.merge(self.model, [(lora_files.load(file, self.model), scale) for file, scale in cfg.loras.items()])
        if self.mode == "train" and cfg.UNet.get("use_lora"):
            lora.train_pairs_only(self.model)
        if self.mode == "train" and cfg.lora_rank:
            lora.attach(self.model, cfg.lora_rank, cfg.lora_alpha)
            lora.train_pairs_only(self.model)
            if cfg.lora_start:
                lora_files.load_pairs(self.model, lora_files.load(cfg.lora_start, self.model))

    # What a method fills in.

    def conditions(self, batch: dict, training: bool) -> tuple[dict, dict]:
        """What the denoiser is told, as keyword arguments of its forward.

        Args:
            batch: `caption`, list of B texts; `latents` [B, c, F, h, w] in training; what else the method needs.
            training: draw the dropout of conditions.

        Returns:
            Positive and negative conditions; training uses the positive ones alone.
        """
        raise NotImplementedError

    def loss(self, latents: torch.Tensor, conditions: dict,
             loss_mask: torch.Tensor | None = None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean diffusion loss at the times of `draw_times`, and what else to log; loss_mask as in
        `DiffusionDDIM.loss`."""
        losses = self.diffusion.loss(x0=latents, t=self.draw_times(len(latents)), model=self.network,
                                     model_kwargs=conditions,
                                     use_div_loss=self.cfg.use_div_loss, loss_mask=loss_mask)
        return losses.mean(), {}

    def draw_times(self, count: int) -> torch.Tensor:
        """[count] int64 training times: uniform, or logit-normal (arXiv 2403.03206, section 3.1)."""
        cfg, device = self.cfg, self.runtime.device
        steps = cfg.opti_timesteps or self.diffusion.num_timesteps
        if cfg.timestep_logit_normal is None:
            return noise.device_randint(0, steps, (count,), device=device)
        mean, std = cfg.timestep_logit_normal
        shares = torch.sigmoid(mean + std * noise.device_randn((count,), device=device))
        return (shares * steps).long().clamp(max=steps - 1)

    def denoise(self, start: torch.Tensor, conditions: tuple[dict, dict], generator=None,
                progress=None) -> torch.Tensor:
        """Latents from noise by DDIM with guidance; in two forwards per step where one does not fit into memory."""
        cfg = self.cfg
        guidance = self.guidance()

        def sample(batched: bool) -> torch.Tensor:
            with self.runtime.autocast(), self.condition_cache():
                return self.diffusion.ddim_sample_loop(
                    noise=start, model=self.model,
                    model_kwargs=conditions[0] if guidance is None else list(conditions), guide_scale=guidance,
                    ddim_timesteps=cfg.ddim_timesteps, eta=cfg.eta, generator=generator, progress=progress,
                    batched_guidance=batched)

        return self.within_memory(sample)

    def guidance(self) -> float | Guidance | None:
        """Scale of guidance, or the rule that joins as many branches as there are sets of conditions; None for none."""
        scale, rescale = self.cfg.guide_scale, self.cfg.guide_rescale
        return Guidance(scale, rescale) if scale is not None and rescale else scale

    def within_memory(self, sample: Callable[[bool], torch.Tensor]) -> torch.Tensor:
        """`sample(True)` has both branches of guidance in one forward, `sample(False)` in two, if the first does not
        fit or the configuration says so."""
        if self.cfg.batched_guidance != "auto":
            return sample(self.cfg.batched_guidance)
        try:
            return sample(True)
        except torch.OutOfMemoryError:
            log.warning("not enough memory for both branches of guidance in one forward; going on with two")
            torch.cuda.empty_cache()
        return sample(False)

    def preview_latents(self, start: torch.Tensor, conditions: list[dict], guide_scale: float | None) -> torch.Tensor:
        """Latents that a preview shows, from noise [B, c, F, h, w]; plainly by DDIM, with a guidance of its own."""
        return self.diffusion.ddim_sample_loop(noise=start, model=self.model, model_kwargs=conditions,
                                               guide_scale=guide_scale, ddim_timesteps=self.cfg.ddim_timesteps)

    # Training.

    def trainable(self) -> torch.nn.Module:
        return self.model

    def weights(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """All of them, or the pairs where those are trained alone."""
        return lora_files.pairs_of(state, self.cfg.lora_rank, self.cfg.lora_alpha) if self.cfg.lora_rank else state

    def weights_file(self, kind: str, step: int) -> str:
        return super().weights_file(f"lora_{kind}" if self.cfg.lora_rank else kind, step)

    def dataset_of(self, plan: tuple[int, int, int]):
        dataset, batch_size = super().dataset_of(plan)
        if self.cfg.cache_latents:
            dataset = cached_latents(self, dataset, self.cfg.cache_latents, plan)
        return dataset, batch_size

    def batch_loss(self, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch = self.with_latents(batch)
        positive, _ = self.conditions(batch, training=True)
        return self.loss(batch["latents"], positive)

    def with_latents(self, batch: dict) -> dict:
        """The batch with `latents` [B, c, F, h, w] and `features` of its pixels, computed where they are not kept."""
        if "latents" in batch:
            return batch
        return batch | {"latents": self.encode(batch["video"])} | self.features(batch)

    def features(self, batch: dict) -> dict[str, torch.Tensor]:
        """What a method needs of a batch's pixels beside their latents, [B, ...] each; kept with cached latents."""
        return {}

    def preview(self, step: int, batch: dict) -> None:
        if self.visual is not None:
            self.visual.run(self, step, self.with_latents(batch) if self.pixel_features else batch)

    # Text and pixels.

    @torch.no_grad()
    def words(self, texts: list[str]) -> torch.Tensor:
        """Token embeddings [B, L, d].

        Captions of earlier batches are not kept: the last bits depend on what is encoded together, and a resumed run
        must see the tokens of the run it continues.
        """
        with self.runtime.full_precision():
            return text_tokens(self.embedder, texts)

    @functools.cached_property
    def null_words(self) -> torch.Tensor:
        """Token embeddings [1, L, d] of the negative prompt."""
        return self.words([self.cfg.negative_prompt])

    def image_vector(self, batch: dict) -> torch.Tensor:
        """CLIP image vectors [B, 1, E] of the batch's pictures, kept ones or computed now."""
        vector = batch.get("image_vector")
        if vector is None:
            with torch.no_grad(), self.runtime.full_precision():
                vector = image_vectors(self.embedder, batch["vit_frame"])
        return vector.unsqueeze(1)

    def for_image_encoder(self, pictures: list[Image.Image]) -> torch.Tensor:
        """Pictures as sampling shows them to CLIP, [B, 3, h, w]."""
        cfg = self.cfg
        vit = vit_transforms(cfg.resolution, cfg.vit_resolution, cfg.vit_mean, cfg.vit_std, always_square=True)
        return torch.stack([vit(picture) for picture in pictures]).to(self.runtime.device)

    @torch.no_grad()
    def encode(self, video: torch.Tensor, generator=None) -> torch.Tensor:
        """Pixels [B, F, 3, H, W] to scaled latents [B, c, F, h, w]."""
        with self.runtime.full_precision():
            return encode_video(self.autoencoder, video, self.cfg.scale_factor, self.cfg.chunk_size, generator)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, c, F, h, w] to pixels [B, 3, F, H, W] in [-1, 1]."""
        return decode_video(self.autoencoder, latents, self.cfg.scale_factor, self.cfg.decoder_bs)

    def unit_range(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels [..., 3, H, W] in 0..1."""
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (self.cfg.mean, self.cfg.std))
        return (pixels * std + mean).clamp(0, 1)

    def frame_rates(self, batch: dict) -> torch.Tensor:
        """[B] frames per second that the clips have (training) or are asked for (sampling)."""
        if "fps" in batch:
            return batch["fps"]
        fps = self.rank_plan()[2] if self.mode == "train" else self.cfg.target_fps
        return torch.full((len(batch["caption"]),), fps, dtype=torch.long, device=self.runtime.device)

    def condition_cache(self):
        """Context in which the denoiser keeps what depends on its conditions alone."""
        cache = getattr(self.model, "condition_cache", None)
        return cache() if cache else torch.no_grad()

    # Sampling.

    def check(self) -> None:
        cfg = self.cfg
        if self.mode == "sample" and not cfg.test_model:
            raise UserError("test_model is not set; name the checkpoint of the denoiser")

    @property
    def weight_paths(self) -> dict[str, str]:
        """Weights that sampling loads, by role."""
        files = self.denoiser_paths | {
            "auto_encoder": AUTO_ENCODER.arguments(self.cfg.auto_encoder).get("pretrained"),
            "embedder": EMBEDDER.arguments(self.section(self.cfg, "embedder")).get("pretrained")}
        files |= {f"lora_{number}": file for number, file in enumerate(self.cfg.loras)}
        return {role: path for role, path in files.items() if path}

    @property
    def denoiser_paths(self) -> dict[str, str | None]:
        """Those of them that the denoiser is made of, LoRA aside; None for what is not set."""
        return {"UNet": self.cfg.test_model}

    @functools.cached_property
    def weight_files(self) -> dict[str, dict]:
        """Weights of this run by role: path and digest, for sidecars."""
        return {role: {"path": path, "sha256": checkpoint.digest(path)} for role, path in self.weight_paths.items()}

    def latent_shape(self) -> tuple[int, int, int, int]:
        """[c, F, h, w] of the latents that are sampled."""
        width, height = self.cfg.resolution
        return 4, self.cfg.max_frames, height // self.cfg.scale, width // self.cfg.scale

    def prompt(self, item) -> str:
        """The text that stands for an item."""
        return item.caption + self.cfg.positive_prompt

    def request(self, items: list, generators: list) -> dict:
        """Batch of conditions' raw material for sampling; draws of a request come from its generator."""
        return {"caption": [self.prompt(item) for item in items]}

    def initial_noise(self, generators: list, frames: int | None = None) -> torch.Tensor:
        """Noise [B, c, F, h, w] as the process has it: a draw for each request, which do not depend on the device.

        frames: F, where it is not that of the video.
        """
        channels, whole, height, width = self.latent_shape()
        strategy = getattr(self.diffusion, "strategy", Vanilla())
        draw = functools.partial(noise.cpu_randn, generator=source_of(generators))
        shape = len(generators), channels, frames or whole, height, width
        return strategy(draw, shape).to(self.runtime.device)

    def with_offset(self, start: torch.Tensor, generators: list, strength: float) -> torch.Tensor:
        """Noise [B, c, F, h, w] with offset noise of that strength, one draw per channel and frame of a request."""
        if not strength:
            return start
        offsets = [noise.device_randn((1, *start.shape[1:3], 1, 1), device=start.device, generator=g)
                   for g in generators]
        return start + strength * torch.cat(offsets)

    def reference_latents(self, batch: dict) -> torch.Tensor | None:
        """Clean latents [B, c, F, h, w] of the still or moving picture that the video starts from, if it has one."""
        return None

    def start_noise(self, batch: dict, generators: list) -> torch.Tensor:
        """What denoising starts from, [B, c, F, h, w]: the noise, led by the picture where `noise_init` says so.

        Raises:
            UserError: `noise_init` is set for a method without a picture.
        """
        drawn, init = self.initial_noise(generators), self.noise_init
        if init is None:
            return drawn
        reference = self.reference_latents(batch)
        if reference is None:
            raise UserError(f"noise_init {self.cfg.noise_init['type']} needs a picture that the video starts from, "
                            f"which {self.cfg.TASK_TYPE} does not have; set noise_init null")
        return init(drawn, reference, self.diffusion, functools.partial(self.initial_noise, generators))

    @torch.no_grad()
    def generate(self, items: list, generators: list, progress=None) -> list[torch.Tensor]:
        """Videos [F, 3, H, W] in [-1, 1] of the items.

        Args:
            items: lines of a list.
            generators: one CPU generator each, None for the global stream.
            progress: called with (steps done, steps in all).
        """
        latents = self.sample_latents(self.request(items, generators), generators, progress)
        return list(self.decode(latents).transpose(1, 2))

    def sample_latents(self, batch: dict, generators: list, progress=None) -> torch.Tensor:
        """Latents [B, c, F, h, w] of what `request` gave."""
        conditions = self.conditions(batch, training=False)
        return self.denoise(self.start_noise(batch, generators), conditions, source_of(generators), progress)


def source_of(generators: list) -> torch.Generator | list[torch.Generator] | None:
    """One generator that all samples of a batch share, or the list that gives every sample draws of its own."""
    return generators[0] if all(g is generators[0] for g in generators) else generators


def part_of(progress, number: int, count: int):
    """Progress of part `number` of `count` equally long ones as progress of the whole."""
    if progress is None or count == 1:
        return progress
    return lambda done, total: progress(number * total + done, count * total)
