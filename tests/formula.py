"""Engines that make noise of the request's seed by formula, and a folder of configurations of them, to test the app."""
from pathlib import Path
from typing import ClassVar

from PIL import Image

from tools import noise
from tools.datasets.earlier_runs import captioned
from tools.datasets.lists import clean_name, read_pairs, read_prompts
from tools.engines.controls import FRAMEINIT, Control, OptionalChoice
from tools.engines.engine import Engine, tasks
from tools.errors import UserError
from tools.studio import Studio


class FormulaEngine(Engine):
    """Makes four frames of 16x16, in as many steps as asked for."""

    network_keys = ("loras",)
    builds = 0
    weight_paths: ClassVar = {}
    weight_files: ClassVar = {}

    def check(self):
        if self.cfg.resolution[0] % 8:
            raise UserError("resolution: not a multiple of 8")

    def build(self):
        for file in self.cfg.loras:
            if Path(file).read_bytes() != b"fits":
                raise UserError(f"LoRA '{file}' belongs to another base")
        type(self).builds += 1

    def items(self):
        return (read_pairs if self.needs_picture else read_prompts)(self.cfg.test_list_path)

    def output_name(self, request, rank, world_size):
        return f"{request.index:04d}_{clean_name(request.item.caption)}.mp4"

    def generate(self, items, generators, progress=None):
        steps = self.cfg[self.steps_key]
        for step in range(steps):
            progress(step + 1, steps)
        return [noise.cpu_randn((4, 3, 16, 16), generator=g).clamp(-1, 1) for g in generators]


@tasks(sample=("test_app_text",))
class TextEngine(FormulaEngine):
    """Starts from a sentence."""


@tasks(sample=("test_app_picture",))
class PictureEngine(FormulaEngine):
    """Starts from a picture."""

    needs_picture = True
    controls = (Control("frame_stride", "Stride", 1, 5), FRAMEINIT,
                OptionalChoice("camera_motion", "Camera", choices=("still", "zoom_in")),
                Control("key_frame", "Key frame", choices=("middle", "first"), where=lambda cfg: cfg.round > 1))


@tasks(sample=("test_app_few",))
class FewEngine(FormulaEngine):
    """Starts from a sentence, in few steps."""

    steps_key = "num_inference_steps"
    few_steps = True

    @classmethod
    def most_steps(cls, cfg):
        return 16


@tasks(sample=("test_app_refine",))
class RefiningEngine(FormulaEngine):
    """Refines, or so it says."""

    from_prompt = False
    videos = None

    def items(self):
        return captioned(self.videos)

    def output_name(self, request, rank, world_size):
        return f"{Path(request.item.path).stem}_sr.mp4"


def make_studio(folder: Path) -> Studio:
    """A studio of four configurations: picture, text (with few steps and refinement), few, and one that trains."""
    Image.new("RGB", (20, 20), "red").save(folder / "cat.png")
    (folder / "pairs.txt").write_text(f"{folder}/cat.png|||a cat|5\n")
    (folder / "prompts.txt").write_text("a dog\n")
    configs = folder / "configs"
    configs.mkdir()
    further = f"few_steps_cfg: {configs}/few.yaml\nrefine_cfg: {configs}/refine.yaml\n"
    for name, task, file, more in (
            ("picture", "test_app_picture", "pairs", ""), ("text", "test_app_text", "prompts", further),
            ("few", "test_app_few", "prompts", f"{further}guide_scale: null\n"),
            ("refine", "test_app_refine", "prompts", ""), ("training", "train_t2v_entrance", "prompts", "")):
        (configs / f"{name}.yaml").write_text(
            f"TASK_TYPE: {task}\ntest_list_path: {folder}/{file}.txt\nlog_dir: {folder}/out\nddim_timesteps: 3\n"
            + ("" if "guide_scale" in more else "guide_scale: 2.5\n") + f"seed: 11\n{more}")
    return Studio(str(configs))


def name_of(studio: Studio, word: str) -> str:
    """The configuration with that word in its name."""
    return next(name for name in studio.configs if word in Path(name).stem)
