"""One sampling engine held ready for request after request, for the app; knows nothing of the browser."""
import contextlib
import functools
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from tools import checkpoint
from tools.catalogue import PICTURE, Catalogue, Settings, engine_of
from tools.config import Config
from tools.datasets.lists import SEPARATOR
from tools.engines.cascade import check_refines, check_stage, free_memory
from tools.engines.sample import Sampling
from tools.errors import UserError
from tools.files import replacing
from tools.grids import video_grid
from tools.media import write_video

Progress = Callable[[str, int, int], None]


class Studio(Catalogue):
    """Makes videos by the configurations of a folder, one at a time; the engine of the last one stays in memory."""

    def __init__(self, folder: str = "configs"):
        super().__init__(folder)
        self._name, self._engine, self._is_built = None, None, False
        self._lock = threading.Lock()

    # Requests.

    def make(self, name: str, settings: Settings, progress: Progress) -> list[Path]:
        """Make one video as `inference.py` would of a list with this one line, which is kept beside it.

        Args:
            name: one of `configs`.
            settings: what to make.
            progress: called with ("video" or "refinement", steps done, steps in all).

        Returns:
            Path of the video (of a PNG for a single frame), then that of the refined one where it is asked for; their
            sidecars lie beside them.

        Raises:
            UserError: no prompt, picture or clip; a file is missing or does not fit; a size that cannot work. Nothing
                is left behind but what was made before.
        """
        if not settings.prompt.strip():
            raise UserError("a prompt is needed: say what the video is to show")
        maker, settings = self._maker(name, settings)
        settings = self._with_source(name, settings)
        with self._lock, self._request_folder(name) as folder:
            changes = self._write_request(maker, folder, settings)
            refiner, refinement = self._refinement_of(name, changes) if settings.refine else (None, {})
            made = [self._sample(maker, changes, functools.partial(progress, "video"))]
            if refiner:
                made.append(self._sample(refiner, refinement, functools.partial(progress, "refinement"), made[:]))
            return made

    def preview(self, name: str, settings: Settings) -> Path:
        """Draw the conditions that a request's video would be made with, side by side in a video (or one PNG).

        Args:
            name: one of `configs`, which starts from a clip.
            settings: of the request; the prompt may be empty.

        Raises:
            UserError: no clip, one that does not do, or weights of an annotator are missing.
        """
        settings = self._with_source(name, replace(settings, prompt=settings.prompt.strip() or "preview"))
        with self._lock, self._request_folder(name) as folder:
            engine = self._told(name, self._write_request(name, folder, settings))
            drawn = engine.draw_conditions(Sampling(engine).requests()[0])
            return write_video(folder / "conditions.mp4", video_grid(list(drawn.values()), list(drawn)),
                               engine.cfg.output_fps)

    def _maker(self, name: str, settings: Settings) -> tuple[str, Settings]:
        """The configuration that makes the video, and its settings: guidance of few steps is a matter of training."""
        if settings.few_steps is None:
            return name, settings
        few = self.few_steps(name)
        if few is None:
            raise UserError(f"{name}: nothing does the same in few steps; set few_steps_cfg")
        guide_scale = self.config(few).guide_scale
        return few, replace(settings, steps=settings.few_steps, guide_scale=1.0 if guide_scale is None else guide_scale)

    def _with_source(self, name: str, settings: Settings) -> Settings:
        """The settings without a file that nobody looks at."""
        wanted = self.starts_from(name)
        if wanted and not settings.source:
            raise UserError("a picture is needed: the video starts from it" if wanted == PICTURE else
                            "a video or a picture is needed: conditions are taken from it")
        return settings if wanted else replace(settings, source=None)

    @contextlib.contextmanager
    def _request_folder(self, name: str) -> Iterator[Path]:
        """A folder of a request's own, gone again where nothing could be made of it."""
        folder = self._folder(name) / datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        folder.mkdir(parents=True)
        try:
            yield folder
        except UserError:
            if not any(folder.rglob("*.json")):  # no sidecar: no video
                shutil.rmtree(folder)
            raise

    def _folder(self, name: str) -> Path:
        return Path(self.config(name).log_dir) / "gradio"

    def _write_request(self, name: str, folder: Path, settings: Settings) -> dict:
        """Write the list of one line and its file to `folder`; returns what they change in the configuration."""
        cfg, method = self.config(name), self.method(name)
        line = f"{' '.join(settings.prompt.split())}|{settings.seed}\n"
        if settings.source:
            line = f"{shutil.copy(settings.source, folder)}{SEPARATOR}{line}"
        list_file = folder / f"{Path(name).stem}.txt"
        list_file.write_text(line, encoding="utf-8")
        unguided = cfg.guide_scale is None and settings.guide_scale == 1
        changes = {"log_dir": str(folder), "seed": settings.seed, "round": 1, "resume": False,
                   "guide_scale": None if unguided else settings.guide_scale, method.steps_key: settings.steps}
        for control in self.controls(name):
            value = settings.more.get(control.key, control.value(cfg))
            changes |= control.changes(cfg, keep(value, folder.parent) if control.widget == "file" else value)
        if self.takes_loras(name):
            brought = {keep(file, folder.parent): strength for file, strength in settings.loras.items()}
            changes["loras"] = cfg.loras | brought
        return changes | method.list_changes(str(list_file))

    def _refinement_of(self, name: str, changes: dict) -> tuple[str, dict]:
        """The configuration that refines the video of a request, and what the request changes in it.

        Raises:
            UserError: there is none, it does not refine, or its weights are missing; before the video is made.
        """
        refiner = self.refinement(name)
        if refiner is None:
            raise UserError(f"{name}: nothing refines its videos; set refine_cfg")
        shared = {key: changes[key] for key in ("log_dir", "seed", "round", "resume", "test_list_path")}
        engine = self._fresh(refiner, shared)
        check_refines(engine, f"refine_cfg '{refiner}' ({engine.cfg.TASK_TYPE})")
        check_stage(engine)
        return refiner, shared

    # The engine in memory.

    def _sample(self, name: str, changes: dict, progress: Callable[[int, int], None],
                videos: list[Path] | None = None) -> Path:
        """Make the one video of a request, or refine the one of `videos`."""
        engine = self._told(name, changes)
        if videos is not None:
            engine.videos = videos
        sampling = Sampling(engine)
        requests = sampling.requests()
        if not self._is_built:
            self._engine = None  # one half built is of no use
            engine.build()
            self._engine, self._is_built = engine, True
        return sampling.make(requests, progress)[0]

    def _told(self, name: str, changes: dict):
        """The engine of a configuration, told of this request; not built where the one in memory does not do.

        That one makes room before anything is loaded, unless the request itself is refused.
        """
        engine, held = self._fresh(name, changes), self._engine
        if held is not None and name == self._name and all(held.cfg.get(key) == engine.cfg.get(key)
                                                           for key in held.network_keys):
            held.cfg.update(engine.cfg)
            return held
        held = self._engine = None
        free_memory()
        self._name, self._engine, self._is_built = name, engine, False
        return engine

    def _fresh(self, name: str, changes: dict):
        """A checked engine of a configuration, told of a request, not built."""
        cfg = self.config(name)
        engine = engine_of(Config(cfg | changes, cfg.provenance | dict.fromkeys(changes, "request")))
        engine.check()
        return engine


def keep(file: str | None, folder: Path) -> str | None:
    """A copy of a file of weights that stays, so that sidecars name it for good; the same one for the same content."""
    if not file:
        return None
    kept = folder / "weights" / checkpoint.digest(file) / Path(file).name
    if not kept.exists():
        with replacing(kept) as temporary:
            shutil.copy(file, temporary)
    return str(kept)
