"""Consistency distillation of any method, and sampling in a few steps.

`ConsistencyModel` stands behind a method's class, in the place of `LatentDiffusion`, with another objective and another
sampler. What the denoiser is told, lists, pictures, passes and names stay the method's, so that text, picture and
composer conditions need nothing of their own here:

    class FewStepImageToVideo(ImageToVideo, ConsistencyModel): ...

The tasks `train_lcm_entrance` and `inference_lcm_entrance` make that class from the task that `lcm_task` names.

`lcm_variant` chooses between the original's training and the papers':

- `reference`: the student is handed its guidance, but no layer listens; teacher and target keep their dropout.
- `paper`: student and target are told the guidance that they are to reproduce; teacher and target have no dropout.

Sources: LCM (arXiv 2310.04378, section 4); VideoLCM (arXiv 2312.09109).
"""
import copy
import functools
import inspect

import torch

from tools import noise
from tools.diffusions.ddim import DiffusionDDIM
from tools.diffusions.lcm import (
    SolverGrid,
    consistency,
    guidance_embedding,
    guided_prediction,
    multistep,
    pseudo_huber,
)
from tools.diffusions.samplers import randn_like
from tools.engines.ema import move_towards
from tools.engines.engine import tasks
from tools.engines.latent_diffusion import LatentDiffusion
from tools.errors import UserError
from tools.models.unet import GUIDANCE_WIDTH
from tools.registry import ENGINE, MODEL

MOST_STEPS = 16  # more of them gain nothing
FIXED_GUIDANCE = 9.0  # w of VideoLCM; an ordinary guidance scale is 1 + w


@tasks(train=("train_lcm_entrance",), sample=("inference_lcm_entrance",))
class ConsistencyModel(LatentDiffusion):
    """Distils the network that `Pretrain` loads, and samples what came of it in `num_inference_steps` steps.

    Attributes:
        teacher: the network as it was loaded, never changed.
        target: follows the student, `lcm_target_decay` of its past per update.
    """

    steps_key = "num_inference_steps"
    few_steps = True
    frozen_copies = 2

    def __new__(cls, cfg, mode: str):
        return super().__new__(cls.for_config(cfg))

    @classmethod
    def for_config(cls, cfg) -> type:
        return cls if cls is not ConsistencyModel else few_step(cfg.lcm_task)

    @classmethod
    def most_steps(cls, cfg) -> int:
        return min(MOST_STEPS, cfg.ddim_timesteps)

    def check(self) -> None:
        super().check()
        cfg = self.cfg
        if self.mode == "train" and not (cfg.Pretrain and cfg.Pretrain.get("resume_checkpoint", True)):
            raise UserError("nothing to distil: Pretrain must name the weights of the teacher")
        if cfg.num_inference_steps > cfg.ddim_timesteps:
            raise UserError(f"num_inference_steps {cfg.num_inference_steps} is more than ddim_timesteps "
                            f"{cfg.ddim_timesteps}, the times that the consistency model is distilled at")
        if self.told_guidance:
            self._check_listens()
        elif cfg.lcm_guide_scales:
            raise UserError("lcm_guide_scales: a network that is not told its guidance can learn but one; set "
                            "lcm_variant paper, or set_fixed_guidance instead")
        self._check_scales()

    def _check_listens(self) -> None:
        """Refuse networks that have no input for the guidance."""
        name = self.cfg.UNet["type"]
        if "guidance_embedding" not in MODEL.parameters(name) or "t_w" not in _inputs(MODEL.get(name)):
            raise UserError(f"lcm_variant paper: {name} has no input for the guidance that it is to reproduce; set "
                            "lcm_variant reference")

    def _check_scales(self) -> None:
        """Refuse ranges that are none, and scales that the student has not seen."""
        cfg, scales = self.cfg, self.cfg.lcm_guide_scales
        if not scales:
            return
        low, high = scales
        if low > high:
            raise UserError(f"lcm_guide_scales {list(scales)}: the first must not be above the second")
        if self.mode == "sample" and (cfg.guide_scale is None or not low <= cfg.guide_scale <= high):
            raise UserError(f"guide_scale {cfg.guide_scale} is outside of lcm_guide_scales {list(scales)}, the range "
                            "that the consistency model was distilled for")

    @property
    def told_guidance(self) -> bool:
        """Whether student and target listen to the guidance."""
        return self.cfg.lcm_variant == "paper"

    @classmethod
    def network_options(cls, cfg) -> dict:
        return super().network_options(cfg) | ({"guidance_embedding": True} if cfg.lcm_variant == "paper" else {})

    def build(self) -> None:
        super().build()
        if not isinstance(self.diffusion, DiffusionDDIM):
            raise UserError(f"Diffusion {self.cfg.Diffusion['type']} cannot be distilled; DiffusionDDIM can")
        self.grid = SolverGrid.of(self.diffusion.tables.alphas_cumprod, self.cfg.ddim_timesteps)
        if self.mode == "train":
            # Student, teacher and target must be told the same: a network must not drop conditions by itself.
            self.model.drops_conditions = False
            self.teacher, self.target = self._copy(), self._copy()

    def _copy(self) -> torch.nn.Module:
        """The student as it stands, not to be trained."""
        network = copy.deepcopy(self.model).requires_grad_(False)
        network.train(not self.told_guidance and not self.cfg.set_target_eval)
        if self.cfg.compile:
            network.compile()
        return network

    # Training.

    def batch_loss(self, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch = self.with_latents(batch)
        # Nothing is dropped: both branches of guidance are the teacher's, as sampling would show them to it.
        positive, negative = self.conditions(batch, training=False)
        return self.distil(batch["latents"], positive, negative), {}

    def distil(self, latents: torch.Tensor, positive: dict, negative: dict) -> torch.Tensor:
        """Distance between what the student says at a time and what the target says one teacher's step before it.

        Both map to the clean clip (LCM, section 4.1 to 4.3); latents [B, c, F, h, w].
        """
        process = self.diffusion
        drawn = randn_like(latents)
        index = noise.device_randint(0, len(self.grid.times), (len(latents),), device=latents.device)
        w = self._draw_guidance(len(latents)).to(latents.device)
        t, earlier = self.grid.pair(index)
        noisy = process.q_sample(latents, t, drawn)
        student = self._clean(self.network, noisy, t, positive | self._guidance_input(w))
        with torch.no_grad():
            conditional, unconditional = (self._predict(self.teacher, noisy, t, told) for told in (positive, negative))
            x0, eps = guided_prediction(process, conditional, unconditional, w, noisy, t)
            previous = self.grid.step(x0, eps, index)
            told = positive | (self._guidance_input(w) if self.told_guidance else {})
            target = self._clean(self.target, previous, earlier, told)
        return pseudo_huber(student, target)

    def _predict(self, network, xt: torch.Tensor, t: torch.Tensor, told: dict) -> torch.Tensor:
        return network(xt, self.diffusion.model_time(t), **told)

    def _clean(self, network, xt: torch.Tensor, t: torch.Tensor, told: dict) -> torch.Tensor:
        return consistency(self.diffusion, self._predict(network, xt, t, told), xt, t)

    def _draw_guidance(self, count: int) -> torch.Tensor:
        """Guidance w [count] that the teacher's steps are made with; a scale of lcm_guide_scales is 1 + w."""
        scales = self.cfg.lcm_guide_scales
        if not scales:
            return torch.full((count,), self._fixed_guidance)
        low, high = scales
        return low - 1 + (high - low) * torch.rand(count)

    @property
    def _fixed_guidance(self) -> float:
        fixed = self.cfg.set_fixed_guidance
        return FIXED_GUIDANCE if fixed is None else fixed

    def _guidance_input(self, w: torch.Tensor | None) -> dict:
        """The argument that tells a network its guidance w [B], for networks that have one."""
        inputs = _inputs(type(self.model))
        if "t_w" not in inputs and not any(p.kind is p.VAR_KEYWORD for p in inputs.values()):
            return {}
        return {"t_w": None if w is None else guidance_embedding(w, GUIDANCE_WIDTH)}

    def updated(self) -> None:
        move_towards(self.target, self.model, self.cfg.lcm_target_decay)

    def training_state(self) -> dict:
        return super().training_state() | {"target": self.target.state_dict()}

    def load_training_state(self, state: dict) -> None:
        super().load_training_state(state)
        self.target.load_state_dict(state["target"])

    # Sampling.

    def denoise(self, start: torch.Tensor, conditions: tuple[dict, dict], generator=None,
                progress=None) -> torch.Tensor:
        """Latents from noise in `num_inference_steps` evaluations: guidance was distilled into the network."""
        return self._sample(start, conditions[0], self.cfg.guide_scale, generator, progress)

    def preview_latents(self, start: torch.Tensor, conditions: list[dict], guide_scale: float | None) -> torch.Tensor:
        return self._sample(start, conditions[0], guide_scale)

    def _sample(self, start, positive: dict, guide_scale: float | None, generator=None, progress=None) -> torch.Tensor:
        told = positive | self._guidance_input(self._wanted_guidance(len(start), guide_scale, start.device))
        with self.runtime.autocast(), self.condition_cache():
            return multistep(self.diffusion.denoiser(self.model, told, start), start, self.cfg.num_inference_steps,
                             self.cfg.ddim_timesteps, generator=generator, progress=progress)

    def _wanted_guidance(self, count: int, guide_scale: float | None, device) -> torch.Tensor | None:
        """Guidance w [count] to ask a network that listens for: what guide_scale says, where several were learned."""
        if not self.told_guidance:
            return None
        w = guide_scale - 1.0 if self.cfg.lcm_guide_scales and guide_scale is not None else self._fixed_guidance
        return torch.full((count,), w, device=device)


def few_step(task: str) -> type[ConsistencyModel]:
    """The few-step class of the method that a task (of training or of sampling) belongs to.

    Raises:
        UserError: no such task, or its method cannot be distilled.
    """
    method = getattr(ENGINE.get(task), "func", None)
    if not inspect.isclass(method) or not issubclass(method, LatentDiffusion) or issubclass(method, ConsistencyModel):
        raise UserError(f"lcm_task '{task}' is no method that can be distilled; name a text- or image-conditioned one, "
                        "for instance train_t2v_entrance")
    own = {"objective": method.loss is not LatentDiffusion.loss or _replaces(method, "batch_loss"),
           "sampler": _replaces(method, "denoise")}
    for what, is_own in own.items():
        if is_own:
            raise UserError(f"lcm_task '{task}': the method has its own {what}, in whose place a distilled one cannot "
                            "stand; name another task")
    return _combined(method)


def _replaces(method: type[LatentDiffusion], hook: str) -> bool:
    """Whether the method does a hook's work alone, without calling the class behind it."""
    own = [vars(cls)[hook] for cls in method.__mro__[:method.__mro__.index(LatentDiffusion)] if hook in vars(cls)]
    # `__class__` is the cell that every `super()` reads.
    return any("__class__" not in function.__code__.co_freevars for function in own)


@functools.cache
def _combined(method: type[LatentDiffusion]) -> type[ConsistencyModel]:
    return type(f"FewStep{method.__name__}", (method, ConsistencyModel), {"__doc__": f"{method.__name__}, distilled."})


def _inputs(network: type) -> dict[str, inspect.Parameter]:
    """Arguments of a network's forward."""
    return dict(inspect.signature(network.forward).parameters)
