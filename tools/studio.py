"""One sampling engine held ready for request after request, for `gradio_app.py`; knows nothing of the browser."""
import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from tools.config import Config, load_config
from tools.datasets.lists import SEPARATOR
from tools.engines.controls import Control
from tools.engines.sample import Sampling
from tools.errors import UserError
from tools.registry import ENGINE, load_components

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What a person chooses for one video.

    Attributes:
        prompt: the caption.
        picture: path of the picture to start from; None for text-to-video.
        seed: of the video's noise.
        guide_scale: classifier-free guidance.
        steps: denoising steps.
        more: values of the method's own controls by key; those left out stay as configured.
    """

    prompt: str
    picture: str | None
    seed: int
    guide_scale: float
    steps: int
    more: dict = field(default_factory=dict)


class Studio:
    """Makes videos by the configurations of a folder, one at a time; the engine of the last one stays in memory.

    Args:
        folder: where the YAML files are; those that do not describe sampling are left out.
    """

    def __init__(self, folder: str = "configs"):
        load_components()
        self.configs: dict[str, Config] = {}
        for path in sorted(Path(folder).rglob("*.yaml")):
            try:
                cfg = load_config(str(path))
                load_components(cfg.imports)
                if "TASK_TYPE" in cfg and takes_prompts(cfg):
                    self.configs[str(path)] = cfg
            except UserError as error:
                log.warning("%s is left out: %s", path, error)
        if not self.configs:
            raise UserError(f"no YAML file for sampling below '{folder}'; run from the repository's root")
        self._name, self._engine = None, None
        self._lock = threading.Lock()

    def wants_picture(self, name: str) -> bool:
        """Whether the configuration starts from a picture."""
        return self._engine_class(name).needs_picture

    def controls(self, name: str) -> tuple[Control, ...]:
        """Settings of the configuration's method beside those that all have."""
        return self._engine_class(name).controls

    def _engine_class(self, name: str) -> type:
        cfg = self.configs[name]
        return ENGINE.get(cfg.TASK_TYPE).func.for_config(cfg)

    def defaults(self, name: str) -> Settings:
        """The configuration's own settings, with the first line of its list (empty where there is no list)."""
        cfg = self.configs[name]
        prompt, picture = "", None
        try:
            item = engine_of(cfg).items()[0]
            prompt, picture = item.caption, item.path
        except UserError as error:
            log.info("%s: no example: %s", name, error)
        return Settings(prompt, picture if picture and Path(picture).is_file() else None, cfg.seed,
                        1.0 if cfg.guide_scale is None else cfg.guide_scale,
                        cfg[self._engine_class(name).steps_key],
                        {control.key: control.value(cfg) for control in self.controls(name)})

    def make(self, name: str, settings: Settings, progress: Callable[[int, int], None]) -> Path:
        """Make one video as `inference.py` would of a list with this one line, which is kept beside it.

        Args:
            name: one of `configs`.
            settings: what to make.
            progress: called with (steps done, steps in all).

        Returns:
            Path of the video (of a PNG for a single frame); its sidecar lies beside it.

        Raises:
            UserError: no prompt or picture, weights missing, a size that cannot work.
        """
        if not settings.prompt.strip():
            raise UserError("a prompt is needed: say what the video is to show")
        if not self.wants_picture(name):
            settings = replace(settings, picture=None)
        elif not settings.picture:
            raise UserError("a picture is needed: the video starts from it")
        folder = Path(self.configs[name].log_dir) / "gradio" / datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        with self._lock:
            try:
                sampling = Sampling(self._ready(name, self._write_request(name, folder, settings)))
                return sampling.make(sampling.requests(), progress)[0]
            except UserError:
                shutil.rmtree(folder)  # holds nothing but the request
                raise

    def _write_request(self, name: str, folder: Path, settings: Settings) -> dict:
        """Write the list of one line and the picture to `folder`; returns what they change in the configuration."""
        folder.mkdir(parents=True)
        line = f"{' '.join(settings.prompt.split())}|{settings.seed}\n"
        if settings.picture:
            line = f"{shutil.copy(settings.picture, folder)}{SEPARATOR}{line}"
        list_file = folder / f"{folder.name}.txt"
        list_file.write_text(line, encoding="utf-8")
        changes = {"log_dir": str(folder.parent), "seed": settings.seed, "round": 1, "resume": False,
                   "guide_scale": settings.guide_scale, self._engine_class(name).steps_key: settings.steps}
        for control in self.controls(name):
            value = settings.more.get(control.key, control.value(self.configs[name]))
            changes |= control.changes(self.configs[name], value)
        return changes | self._engine_class(name).list_changes(str(list_file))

    def _ready(self, name: str, changes: dict):
        """The engine of a configuration with its weights, told of this request; another one is dropped to make room."""
        if name == self._name:
            self._engine.cfg.update(changes)
            self._engine.check()
            return self._engine
        self._name, self._engine = None, None
        cfg = self.configs[name]
        engine = engine_of(Config(cfg | changes, cfg.provenance | dict.fromkeys(changes, "request")))
        engine.check()
        engine.build()
        self._name, self._engine = name, engine
        return engine


def engine_of(cfg: Config):
    """The engine that a configuration names, not built."""
    return ENGINE.build({"type": cfg.TASK_TYPE}, cfg=cfg)


def takes_prompts(cfg: Config) -> bool:
    """Whether a configuration's task samples from a prompt."""
    task = ENGINE.get(cfg.TASK_TYPE)
    return task.keywords["mode"] == "sample" and task.func.for_config(cfg).from_prompt
