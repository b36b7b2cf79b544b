"""The configurations that the app offers, and what a person may choose in each."""
import logging
from dataclasses import dataclass, field
from pathlib import Path

from tools.config import Config, load_config
from tools.engines.controls import Control
from tools.errors import UserError
from tools.registry import ENGINE, load_components

log = logging.getLogger(__name__)

PICTURE, CLIP = "picture", "clip"


@dataclass(frozen=True)
class Settings:
    """What a person chooses for one video.

    Attributes:
        prompt: the caption.
        source: path of the picture to start from, or of the video or picture to take conditions from; None for
            text-to-video.
        seed: of the video's noise.
        guide_scale: classifier-free guidance.
        steps: denoising steps.
        more: values of the method's own controls by key; those left out stay as configured.
        loras: LoRA files with their strengths, beside those of the configuration.
        few_steps: that many steps, of the configuration that `few_steps_cfg` names; None: those of `steps`.
        refine: refine the video by the configuration that `refine_cfg` names.
    """

    prompt: str
    source: str | None
    seed: int
    guide_scale: float
    steps: int
    more: dict = field(default_factory=dict)
    loras: dict[str, float] = field(default_factory=dict)
    few_steps: int | None = None
    refine: bool = False


class Catalogue:
    """Configurations that make videos of prompts.

    Args:
        folder: where the YAML files are; those that do not describe sampling are left out.

    Attributes:
        configs: by path.
    """

    def __init__(self, folder: str = "configs"):
        load_components()
        self.configs: dict[str, Config] = {}
        for path in sorted(Path(folder).rglob("*.yaml")):
            try:
                cfg = _loaded(str(path))
                if "TASK_TYPE" in cfg and takes_prompts(cfg):
                    self.configs[str(path)] = cfg
            except UserError as error:
                log.warning("%s is left out: %s", path, error)
        if not self.configs:
            raise UserError(f"no YAML file for sampling below '{folder}'; run from the repository's root")
        self._further: dict[str, Config] = {}

    def config(self, name: str) -> Config:
        """A configuration of the folder, or another one that one of them names.

        Raises:
            UserError: there is no such file, or it is wrong.
        """
        if name not in self.configs and name not in self._further:
            self._further[name] = _loaded(name)
        return self.configs.get(name) or self._further[name]

    def starts_from(self, name: str) -> str | None:
        """What a configuration asks for beside the prompt: `picture`, `clip` (a video or picture) or nothing."""
        method = self.method(name)
        return PICTURE if method.needs_picture else CLIP if method.needs_clip else None

    def controls(self, name: str) -> tuple[Control, ...]:
        """Settings of the configuration's method beside those that all have."""
        return tuple(control for control in self.method(name).controls if control.offered(self.config(name)))

    def takes_loras(self, name: str) -> bool:
        """Whether the configuration's network takes LoRA."""
        return "loras" in self.method(name).network_keys

    def few_steps(self, name: str) -> str | None:
        """The configuration that does the same in few steps; None where there is none, or this is one."""
        return None if self.method(name).few_steps else self.config(name).few_steps_cfg

    def refinement(self, name: str) -> str | None:
        """The configuration that refines the videos of this one, where there is one."""
        return self.config(name).refine_cfg

    def most_steps(self, name: str) -> int:
        """The most denoising steps to choose."""
        return max(self.method(name).most_steps(self.config(name)), self._steps(name))

    def defaults(self, name: str) -> Settings:
        """The configuration's own settings, with the first line of its list (empty where there is no list)."""
        cfg = self.config(name)
        prompt, source = "", None
        try:
            engine = engine_of(cfg)
            item = engine.items()[0]
            prompt, source = item.caption, engine.source(item)
        except UserError as error:
            log.info("%s: no example: %s", name, error)
        return Settings(prompt, source if source and Path(source).is_file() else None, cfg.seed,
                        1.0 if cfg.guide_scale is None else cfg.guide_scale, self._steps(name),
                        {control.key: control.value(cfg) for control in self.controls(name)})

    def method(self, name: str) -> type:
        """The engine class of a configuration."""
        cfg = self.config(name)
        return ENGINE.get(cfg.TASK_TYPE).func.for_config(cfg)

    def _steps(self, name: str) -> int:
        return self.config(name)[self.method(name).steps_key]


def engine_of(cfg: Config):
    """The engine that a configuration names, not built."""
    return ENGINE.build({"type": cfg.TASK_TYPE}, cfg=cfg)


def takes_prompts(cfg: Config) -> bool:
    """Whether a configuration's task samples from a prompt."""
    task = ENGINE.get(cfg.TASK_TYPE)
    return task.keywords["mode"] == "sample" and task.func.for_config(cfg).from_prompt


def _loaded(path: str) -> Config:
    cfg = load_config(path)
    load_components(cfg.imports)
    return cfg
