"""Settings of a method that the app offers beside prompt, seed, guidance and steps."""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".ckpt")


@dataclass(frozen=True)
class Control:
    """One top-level key of the configuration, as a slider or, where there are choices, as a menu.

    Attributes:
        key: of the configuration.
        label: in the app.
        minimum, maximum, step: of the slider.
        choices: of the menu.
        where: whether a configuration has a use for it; None: all of the method have.
    """

    key: str
    label: str
    minimum: float = 0
    maximum: float = 1
    step: float = 1
    choices: tuple[str, ...] = ()
    where: Callable[[Any], bool] | None = None

    @property
    def widget(self) -> str:
        """What it is in the app: `slider`, `menu` (one choice), `checks` (any of the choices) or `file`."""
        return "menu" if self.choices else "slider"

    def offered(self, cfg) -> bool:
        """Whether the app shows it for a configuration."""
        return self.where is None or self.where(cfg)

    def options(self, cfg) -> tuple[str, ...]:
        """What there is to choose from."""
        return self.choices

    def value(self, cfg) -> Any:
        """What the app shows at first."""
        return cfg[self.key]

    def changes(self, cfg, value: Any) -> dict:
        """Keys of the configuration that a choice changes.

        Raises:
            UserError: the choice is none.
        """
        return {self.key: int(value) if isinstance(value, float) and value.is_integer() else value}


@dataclass(frozen=True)
class OptionalChoice(Control):
    """A menu whose first entry stands for null."""

    def value(self, cfg) -> str:
        return cfg[self.key] or self.choices[0]

    def changes(self, cfg, value: str) -> dict:
        return {self.key: None if value == self.choices[0] else value}


@dataclass(frozen=True)
class WeightsFile(Control):
    """A file of weights that a person brings; without one everything stays as configured."""

    widget = "file"

    def value(self, cfg) -> None:
        return None

    def changes(self, cfg, value: str | None) -> dict:
        return {self.key: value} if value else {}


@dataclass(frozen=True)
class FrameInitLevel(Control):
    """The noise level of FrameInit; 0 switches it off."""

    def value(self, cfg) -> int:
        return (cfg[self.key] or {}).get("noise_level", 850) if cfg[self.key] else 0

    def changes(self, cfg, value: float) -> dict:
        section = cfg[self.key] or {"type": "FrameInit"}
        return {self.key: {**section, "noise_level": int(value)} if value else None}


FRAMEINIT = FrameInitLevel("noise_init", "FrameInit's noise level (0: off)", 0, 999)
