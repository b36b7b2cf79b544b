"""Training by rewards (InstructVideo, arXiv 2312.12490): a clip is noised part of the way, denoised, and judged.

Every step of training is an edit: real clips enter at a time in the middle of the schedule, the last part of DDIM's
steps is run, a few frames are decoded, a reward scores them. What follows is the objective:

- `reward`: the scores' gradient goes back through decoder and denoiser, as far as the last steps (section 3.2);
- `rwr`: the denoiser is trained on the edited clips, weighted by their scores (arXiv 2302.12192);
- `ddpo`: policy gradient on the steps of the chain, which are drawn (arXiv 2305.13301).
"""
import contextlib

import torch
from torch import Tensor

from tools import noise
from tools.datasets.lists import Item, read_captions
from tools.diffusions.ddim_reward import DiffusionDDIMReward, recomputed
from tools.diffusions.samplers import batch_of
from tools.engines.latent_diffusion import LatentDiffusion
from tools.errors import UserError
from tools.registry import REWARD
from tools.rewards.evaluation import diversity
from tools.rewards.losses import data_alignment, policy_gradient, reward_loss, weighted_regression
from tools.rewards.scoring import require_gradient, score_frames
from tools.rewards.segments import Segments
from tools.rewards.tracker import PerPromptStatTracker
from tools.rewards.video import VideoReward, unit_range


class RewardTuning(LatentDiffusion):
    """Engine whose training follows a reward; what the denoiser is told is a method's matter.

    Previews and checkpoints are those of every training; `evaluate` samples captions that training does not see, from
    pure noise, because a reward that rises in training alone, or at the cost of diversity, is over-optimised.
    """

    def build(self) -> None:
        super().build()
        if self.mode != "train":
            return
        cfg = self.cfg
        if not isinstance(self.diffusion, DiffusionDDIMReward):
            raise UserError(f"Diffusion.type {cfg.Diffusion['type']}: training by rewards needs DiffusionDDIMReward")
        self.times = self.diffusion.partial_times(cfg.ddim_timesteps, cfg.starting_partial)
        if cfg.ddim_steps and self.times[0][0] not in cfg.ddim_steps:
            raise UserError(f"ddim_steps {cfg.ddim_steps} are not the times of {cfg.ddim_timesteps} DDIM steps, which "
                            f"start at {self.times[0][0]} here; leave ddim_steps out")
        self.reward = REWARD.build(reward_section(cfg)).to(self.runtime.device).eval().requires_grad_(False)
        half = cfg.reward_precision == "fp16"
        self.video_reward = VideoReward(
            self.reward, self.autoencoder, cfg.scale_factor, cfg.decoder_bs,
            Segments(cfg.segments, cfg.selection_method, cfg.lambda_TAR if cfg.exponential_TSN else None),
            recompute=cfg.grad_checkpointing, autocast=self.runtime.autocast if half else contextlib.nullcontext)
        self.tracker = PerPromptStatTracker(**(cfg.reward_tracker or {}))

    def check(self) -> None:
        super().check()
        cfg = self.cfg
        if self.mode != "train":
            return
        REWARD.arguments(reward_section(cfg))
        if cfg.reward_objective == "ddpo" and not cfg.eta:
            raise UserError("reward_objective ddpo needs steps that are drawn: set eta above 0 (1.0 is usual)")
        if unknown := set(cfg.reward_tracker or {}) - {"buffer_size", "min_count"}:
            raise UserError(f"reward_tracker takes buffer_size and min_count, not '{min(unknown)}'")
        if cfg.eval_interval and not cfg.eval_list_path:
            raise UserError("eval_interval is set and eval_list_path is not; name a list of captions that are held out")

    @classmethod
    def further_files(cls, cfg, mode: str) -> list[tuple[str, str]]:
        """The reward's weights, and the captions that are held out."""
        if mode != "train":
            return []
        section = reward_section(cfg)
        default = REWARD.parameters(section["type"]).get("pretrained")
        files = {"reward.pretrained": section.get("pretrained", default.default if default else None),
                 "eval_list_path": cfg.eval_list_path}
        return [(key, path) for key, path in files.items() if path]

    # One update.

    def batch_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        batch = self.with_latents(batch)
        conditions = self.conditions(batch, training=False)
        objective = {"reward": self.reward_gradient, "rwr": self.regression, "ddpo": self.policy}
        return objective[self.cfg.reward_objective](batch["latents"], conditions, batch["caption"])

    def editing_noise(self, shape, generator=None) -> Tensor:
        """Noise [B, c, F, h, w] of the chain's start; one frame's for all (`share_noise`), or with an offset."""
        cfg, device = self.cfg, self.runtime.device
        if cfg.share_noise:
            one = noise.device_randn((*shape[:2], *shape[3:]), device=device, generator=generator)
            return one[:, :, None].expand(*shape)
        drawn = noise.device_randn(shape, device=device, generator=generator)
        if cfg.temporal_offset_noise:
            offset = noise.device_randn((*shape[:3], 1, 1), device=device, generator=generator)
            drawn = drawn + cfg.temporal_offset_noise_strength * offset
        return drawn

    def start(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noised latents, their noise, and the time [B] that they are noised to."""
        t, drawn = batch_of(self.times[0][0], latents), self.editing_noise(latents.shape)
        return self.diffusion.q_sample(latents, t, drawn), drawn, t

    def edit(self, start: Tensor, conditions: tuple[dict, dict]) -> Tensor:
        """Latents at the end of the partial chain, with a gradient through its last steps."""
        cfg = self.cfg
        return self.diffusion.ddim_sample_loop_partial(
            start, self.network, cfg.starting_partial, cfg.grad_checkpointing, cfg.truncated_backprop,
            cfg.trunc_backprop_timestep, **self.guided(conditions), ddim_timesteps=cfg.ddim_timesteps, eta=cfg.eta)

    def guided(self, conditions: tuple[dict, dict]) -> dict:
        """How conditions and guidance go into a sampling loop; two forwards per step unless asked for one."""
        scale = self.cfg.guide_scale
        return {"model_kwargs": conditions[0] if scale is None else list(conditions), "guide_scale": scale,
                "batched_guidance": self.cfg.batched_guidance is True}

    def scores(self, latents: Tensor, captions: list[str]) -> Tensor:
        """[B]; decoded in full precision."""
        with self.runtime.full_precision():
            return self.video_reward(latents.float(), captions)

    def reward_gradient(self, latents: Tensor, conditions, captions: list[str]):
        """1 - reward, differentiated through decoder and denoiser."""
        cfg = self.cfg
        start, drawn, t = self.start(latents)
        scores = self.scores(self.edit(start, conditions), captions)
        require_gradient(self.reward, scores)
        alignment = None
        if cfg.data_align_method == "ddpm":
            with torch.no_grad():
                unexplained = self.diffusion.loss(latents, t, self.network, conditions[0], noise=drawn)
            alignment = data_alignment(unexplained, cfg.data_align_coef)
        loss = reward_loss(scores, weight=cfg.reward_weights["reward"], spatial_weight=cfg.ST_reward_weights["spatial"],
                           limit=cfg.adv_clip_max, alignment=alignment)
        return loss, {"reward": scores.mean()}

    def regression(self, latents: Tensor, conditions, captions: list[str]):
        """The denoising loss of the edited clips, weighted by their scores."""
        with torch.no_grad():
            edited = self.edit(self.start(latents)[0], conditions)
            scores = self.scores(edited, captions)
        advantages = self.normalised(scores, captions) if self.cfg.reward_normalization else scores
        if self.cfg.positive_reward:
            advantages = advantages.clamp(min=0)
        t = noise.device_randint(0, self.diffusion.num_timesteps, (len(edited),), device=edited.device)
        losses = self.diffusion.loss(edited, t, self.network, conditions[0])
        return weighted_regression(advantages, losses), {"reward": scores.mean()}

    def policy(self, latents: Tensor, conditions, captions: list[str]):
        """Policy gradient of every step of a drawn chain; the network without its dropout is the policy."""
        cfg, process = self.cfg, self.diffusion
        self.model.eval()
        start, guided = self.start(latents)[0], self.guided(conditions)
        edited, _, before, samples = process.ddim_sample_loop_with_logprob(
            start, self.network, **guided, ddim_timesteps=cfg.ddim_timesteps, eta=cfg.eta,
            starting_partial=cfg.starting_partial)
        with torch.no_grad():
            scores = self.scores(edited, captions)
        advantages = self.normalised(scores, captions).clamp(-cfg.adv_clip_max, cfg.adv_clip_max)
        denoiser = process.denoiser(self.network, x=start, **guided)
        loss = start.new_zeros(())
        for at, old, x, drawn in zip(self.times, before, samples[:-1], samples[1:], strict=True):
            now = recomputed(process.step_log_prob, denoiser, x, drawn, at, cfg.eta)
            loss = loss + policy_gradient(now, old, advantages, cfg.ddpo_clip) / len(self.times)
        return loss, {"reward": scores.mean()}

    def normalised(self, scores: Tensor, captions: list[str]) -> Tensor:
        """Advantages [B] by the running statistics of each caption, which all ranks share."""
        rank = self.runtime.rank
        told = self.runtime.gather([(rank, *pair) for pair in zip(captions, scores.tolist(), strict=True)])
        advantages = self.tracker.update([caption for _, caption, _ in told], [score for *_, score in told])
        own = [advantage for advantage, (r, *_) in zip(advantages.tolist(), told, strict=True) if r == rank]
        return torch.tensor(own, dtype=scores.dtype, device=scores.device)

    def training_state(self) -> dict:
        return super().training_state() | {"reward_tracker": self.tracker.state_dict()}

    def load_training_state(self, state: dict) -> None:
        super().load_training_state(state)
        self.tracker.load_state_dict(state.get("reward_tracker", {}))

    # Held-out captions.

    def evaluate(self, step: int) -> dict[str, float]:
        """Reward of videos of held-out captions, and how much videos of one caption differ.

        `eval_samples` videos of each caption with seeds that are the same at every step; of each video the middle
        frame of every segment counts, all alike.
        """
        cfg, rank, ranks = self.cfg, self.runtime.rank, self.runtime.world_size
        captions = read_captions(cfg.eval_list_path)[:cfg.eval_captions]
        sums = torch.zeros(3, device=self.runtime.device)
        for number in range(rank, len(captions), ranks):
            seeds = [cfg.seed + number * cfg.eval_samples + i for i in range(cfg.eval_samples)]
            items = [Item(number + 1, captions[number])] * cfg.eval_samples
            videos = torch.stack(self.generate(items, [torch.Generator().manual_seed(seed) for seed in seeds]))
            sums += torch.stack([*self.judge(videos, captions[number]), sums.new_ones(())])
        reward, spread, count = self.runtime.mean(sums)
        return {"reward": float(reward / count), "diversity": float(spread / count)}

    def judge(self, videos: Tensor, caption: str) -> tuple[Tensor, Tensor]:
        """Mean reward and diversity of videos [N, F, 3, H, W] in [-1, 1] of one caption."""
        videos = unit_range(videos)
        index = Segments(self.cfg.segments, "middle", attenuation=None).choose(*videos.shape[:2], videos.device)
        frames = videos[torch.arange(len(videos), device=videos.device)[:, None], index]
        return score_frames(self.reward, frames, [caption] * len(videos)).mean(), diversity(videos)


def reward_section(cfg) -> dict:
    """The section that describes the reward; without one, the component that `reward_type` names."""
    return cfg.reward or {"type": cfg.reward_type}
