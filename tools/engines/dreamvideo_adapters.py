"""DreamVideo's adapters: the files that sampling takes them from, and what the app offers of them."""
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools import checkpoint
from tools.engines.controls import Control, WeightsFile
from tools.errors import UserError

ROLES = {"identity": "subject", "motion": "motion"}  # kind of adapter -> whose training made it
LISTS = {"identity": "spatial_adapter_list", "motion": "temporal_adapter_list"}  # -> what the UNet has of the kind
# What says which adapters and words are in the network; other values, another network.
KEYS = (*(f"{kind}_adapter_{key}" for kind in ROLES for key in ("index", "path")), "text_embedding_path")
CONFIGURED = "as configured"


def adapter_files(cfg) -> Iterator[tuple[str, str]]:
    """(kind, path) of the adapters to load, in the order in which later ones win.

    Raises:
        UserError: an adapter named twice over, or by a step of a training run that is not named.
    """
    for kind, whose in ROLES.items():
        index, path = cfg[f"{kind}_adapter_index"], cfg[f"{kind}_adapter_path"]
        if index is not None and path:
            raise UserError(f"{kind}_adapter_index and {kind}_adapter_path both name an adapter; give one of them")
        if index is not None:
            folder = trained_folder(cfg, kind)
            if folder is None:
                raise UserError(f"{kind}_adapter_index {index} is a step of the training run of {whose}_cfg, which is "
                                f"not set; set it, or give {kind}_adapter_path")
            path = str(folder / f"adapter_{index:08d}.pth")
        if path:
            yield kind, path


def trained_folder(cfg, kind: str) -> Path | None:
    """Where the training run of `subject_cfg` or `motion_cfg` writes adapters; None where none is named."""
    whose = ROLES[kind]
    training = cfg[f"{whose}_cfg"]
    if not training:
        return None
    return Path(cfg.cfg_prefix) / cfg[f"{whose}_log_dir"] / Path(training).name.split(".")[0] / "checkpoints"


def has_adapters(cfg, kind: str) -> bool:
    """Whether the network has adapters of a kind."""
    return bool(cfg.UNet.get(LISTS[kind]))


@dataclass(frozen=True)
class AdapterStep(Control):
    """A menu of the steps at which the training run has written adapters of the kind `key` begins with."""

    widget = "menu"

    @property
    def kind(self) -> str:
        return self.key.partition("_")[0]

    def offered(self, cfg) -> bool:
        return has_adapters(cfg, self.kind) and trained_folder(cfg, self.kind) is not None

    def options(self, cfg) -> tuple[str, ...]:
        """The steps on disk, by number; first of all what the configuration names, where that is none of them."""
        steps = [str(checkpoint.step_of(str(path)))
                 for path in sorted(trained_folder(cfg, self.kind).glob("adapter_*.pth"))]
        configured = self.value(cfg)
        return tuple(steps if configured in steps else [configured, *steps])

    def value(self, cfg) -> str:
        index = cfg[self.key]
        return CONFIGURED if index is None else str(index)

    def changes(self, cfg, value: str) -> dict:
        return {} if value == CONFIGURED else {self.key: int(value), f"{self.kind}_adapter_path": None}


@dataclass(frozen=True)
class AdapterFile(WeightsFile):
    """An adapter file of one's own, in place of the training run's."""

    def changes(self, cfg, value: str | None) -> dict:
        return super().changes(cfg, value) | ({self.key.replace("_path", "_index"): None} if value else {})


def _controls_of(kind: str) -> tuple[Control, ...]:
    whose = ROLES[kind]

    def where(cfg) -> bool:
        return has_adapters(cfg, kind)

    return (AdapterStep(f"{kind}_adapter_index", f"step of the {whose}'s training"),
            AdapterFile(f"{kind}_adapter_path", f"adapter file of a {whose}", where=where),
            Control(f"{kind}_adapter_scale", f"strength of the {whose}", maximum=2, step=0.05, where=where))


# Files come after steps: who gives a file means that file.
CONTROLS = (*_controls_of("identity"), *_controls_of("motion"),
            Control("motion_adapter_from", "noise below which the motion rests", step=0.05,
                    where=lambda cfg: has_adapters(cfg, "motion")),
            Control("appearance_guide_strength_cond", "appearance", maximum=2, step=0.05,
                    where=lambda cfg: cfg.use_clip_adapter_condition))
