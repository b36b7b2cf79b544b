"""Cascades: one command makes videos by one task and refines them by others, each described by its own YAML file."""
import gc
import logging
from pathlib import Path

import torch

from tools import checkpoint, runtime
from tools.config import BASE_FILE, Config, is_training, load_config
from tools.defaults import COMMAND_LINE
from tools.defaults import ORIGIN as DEFAULT_ORIGIN
from tools.engines.engine import Engine, tasks
from tools.engines.sample import Sampling
from tools.errors import UserError
from tools.overrides import ORIGIN as OVERRIDE_ORIGIN
from tools.registry import ENGINE, load_components
from tools.yaml_files import to_text

log = logging.getLogger(__name__)

OWN_KEYS = {"TASK_TYPE", "stages", *COMMAND_LINE}


@tasks(sample=("inference_cascade_entrance",))
class Cascade(Engine):
    """Runs the tasks of `stages` one after the other; what the first makes, the next ones refine.

    A stage is a name and a section: `cfg` names a YAML file, the other keys replace that file's. Keys that the
    cascade's own file or the command line sets (`test_list_path`, `log_dir`, `seed`, ...) hold for all stages that do
    not set them. A stage's networks are gone from memory before the next stage loads its own.
    """

    from_prompt = False

    def run(self) -> None:
        runtime.start_logging(self.runtime, None)
        names, engines = self.engines()
        for engine in engines:
            check_stage(engine)
        made = None
        for number, name in enumerate(names, start=1):
            log.info("stage %d of %d: %s", number, len(names), name)
            made = run_stage(engines.pop(0), made)
            free_memory()
        runtime.stop(self.runtime)

    def engines(self) -> tuple[list[str], list[Engine]]:
        """Names and engines of the stages, not built.

        Raises:
            UserError: a stage cannot stand where it stands.
        """
        configurations = self.configurations(self.cfg)
        found = []
        for name, cfg in configurations.items():
            load_components(cfg.imports)
            engine = ENGINE.build({"type": cfg.TASK_TYPE}, cfg=cfg)
            if found:
                check_refines(engine, f"{self.cfg.cfg_file}: stage '{name}' ({cfg.TASK_TYPE})")
            found.append(engine)
        return list(configurations), found

    @staticmethod
    def configurations(cfg: Config) -> dict[str, Config]:
        """The resolved configuration of every stage.

        Raises:
            UserError: there are none, one is no section with `cfg`, trains, is a cascade, or has a wrong key.
        """
        if not cfg.stages:
            raise UserError(f"{cfg.cfg_file}: stages is empty; give name: {{cfg: YAML file}} for each task to run")
        shared = shared_overrides(cfg)
        return {name: _stage(cfg, name, section, shared) for name, section in cfg.stages.items()}


def shared_overrides(cfg: Config) -> dict[str, object]:
    """What the cascade's own file and command line say about keys of its stages; sections with the keys named only."""
    said: dict[str, object] = {}
    for leaf, origin in cfg.provenance.items():
        key, *rest = leaf.split(".")
        if key in OWN_KEYS or origin in (DEFAULT_ORIGIN, BASE_FILE):
            continue
        if isinstance(cfg[key], dict) and rest:
            said.setdefault(key, {})[rest[0]] = cfg[key][rest[0]]
        else:
            said[key] = cfg[key]
    return said


def _stage(cfg: Config, name: str, section, shared: dict[str, object]) -> Config:
    if not isinstance(section, dict) or "cfg" not in section:
        raise UserError(f"{cfg.cfg_file}: stage '{name}' must be a section with cfg: YAML file, not {section!r}")
    said = shared | {key: value for key, value in section.items() if key != "cfg"}
    words = [word for key, value in said.items() for word in (key, to_text(value))]
    try:
        stage = load_config(section["cfg"], words, cfg.debug)
    except UserError as error:
        message = str(error).removeprefix(f"{OVERRIDE_ORIGIN}: ")
        raise UserError(f"{cfg.cfg_file}: stage '{name}': {message}") from error
    if is_training(stage.TASK_TYPE) or stage.TASK_TYPE == cfg.TASK_TYPE:
        raise UserError(f"{cfg.cfg_file}: stage '{name}': {stage.TASK_TYPE} makes no videos")
    return stage


def check_refines(engine: Engine, what: str) -> None:
    """Refuse what cannot follow another stage; messages call it `what`."""
    if not hasattr(engine, "videos"):
        raise UserError(f"{what} cannot follow another one: it does not refine videos")


def check_stage(engine: Engine) -> None:
    """Refuse a stage that cannot run, before an earlier one has: bad settings, weights that are missing."""
    engine.check()
    for path in engine.weight_paths.values():
        checkpoint.locate(path)


def run_stage(engine: Engine, videos: list[Path] | None) -> list[Path]:
    """Run one sampling task, on videos where there are some; returns the paths of all it has made.

    Raises:
        UserError: it has made none.
    """
    if videos is not None:
        engine.videos = videos
    runtime.seed_everything(engine.cfg.seed + engine.runtime.rank)
    sampling = Sampling(engine)
    sampling.run()
    made = [path for path in sampling.outputs() if path.exists()]
    if not made:
        raise UserError(f"{engine.cfg.TASK_TYPE} made no video in {sampling.folder} that could be refined")
    return made


def free_memory() -> None:
    """Let go of what nothing refers to any more, on the GPU as well."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
