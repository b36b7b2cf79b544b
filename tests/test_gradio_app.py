"""The browser's app: what its page holds, and that its handler makes what `inference.py` would, by a formula engine."""
import json
import subprocess
import sys
from pathlib import Path

import gradio
import pytest
from PIL import Image

import gradio_app
from tools import noise
from tools.datasets.lists import clean_name, read_pairs, read_prompts
from tools.engines.controls import FRAMEINIT, Control, OptionalChoice
from tools.engines.engine import Engine, tasks
from tools.errors import UserError
from tools.media import probe_video
from tools.studio import Settings, Studio

ROOT = Path(__file__).parents[1]


class FormulaEngine(Engine):
    """Makes noise of the request's seed, four frames of 16x16, in as many steps as asked for."""

    needs_picture = False
    builds = 0

    def check(self):
        if self.cfg.resolution[0] % 8:
            raise UserError("resolution: not a multiple of 8")

    def build(self):
        type(self).builds += 1

    def items(self):
        return (read_pairs if self.needs_picture else read_prompts)(self.cfg.test_list_path)

    def output_name(self, request, rank, world_size):
        return f"{request.index:04d}_{clean_name(request.item.caption)}.mp4"

    @property
    def weight_files(self):
        return {}

    def generate(self, items, generators, progress=None):
        for step in range(self.cfg.ddim_timesteps):
            progress(step + 1, self.cfg.ddim_timesteps)
        return [noise.cpu_randn((4, 3, 16, 16), generator=g).clamp(-1, 1) for g in generators]


@tasks(sample=("test_app_text",))
class TextEngine(FormulaEngine):
    """Starts from a sentence."""


@tasks(sample=("test_app_picture",))
class PictureEngine(FormulaEngine):
    """Starts from a picture."""

    needs_picture = True
    controls = (Control("frame_stride", "Stride", 1, 5), FRAMEINIT,
                OptionalChoice("camera_motion", "Camera", choices=("still", "zoom_in")))


@pytest.fixture
def studio(tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "cat.png")
    (tmp_path / "pairs.txt").write_text(f"{tmp_path}/cat.png|||a cat|5\n")
    (tmp_path / "prompts.txt").write_text("a dog\n")
    configs = tmp_path / "configs"
    configs.mkdir()
    for name, task, file in (("picture", "test_app_picture", "pairs"), ("text", "test_app_text", "prompts"),
                             ("training", "train_t2v_entrance", "prompts")):
        (configs / f"{name}.yaml").write_text(
            f"TASK_TYPE: {task}\ntest_list_path: {tmp_path}/{file}.txt\nlog_dir: {tmp_path}/out\nddim_timesteps: 3\n"
            "guide_scale: 2.5\nseed: 11\n")
    return Studio(str(configs))


def name_of(studio, word: str) -> str:
    return next(name for name in studio.configs if word in name)


def ignore(*_arguments, **_options):
    pass


def test_configurations_that_sample_are_offered(studio):
    assert [Path(name).stem for name in studio.configs] == ["picture", "text"]


def test_defaults_are_the_configurations_with_its_first_example(studio, tmp_path):
    own = {"frame_stride": 3, "noise_init": 0, "camera_motion": "still"}
    assert studio.defaults(name_of(studio, "picture")) == Settings("a cat", f"{tmp_path}/cat.png", 11, 2.5, 3, own)
    assert studio.defaults(name_of(studio, "text")) == Settings("a dog", None, 11, 2.5, 3)


def test_handler_makes_a_video_with_its_sidecar_and_reports_progress(studio, tmp_path):
    seen = []
    settings = Settings("a  red\ncat", str(tmp_path / "cat.png"), seed=7, guide_scale=4.0, steps=2)

    video, sidecar, note = gradio_app.make_video(
        studio, name_of(studio, "picture"), settings, lambda fraction, desc: seen.append((fraction, desc)))

    assert probe_video(video).frames == 4
    assert seen == [(0.0, "preparing"), (0.5, "step 1 of 2"), (1.0, "step 2 of 2")]
    record = json.loads(Path(sidecar).read_text())
    assert (record["prompt"], record["seed"], record["config"]["guide_scale"]) == ("a red cat", 7, 4.0)
    assert Path(record["item"]["path"]).is_file()
    assert "seed 7" in note


def test_controls_of_a_method_change_its_configuration(studio, tmp_path):
    name, own = name_of(studio, "picture"), {"frame_stride": 5.0, "noise_init": 700, "camera_motion": "zoom_in"}
    configs = []
    for more in (own, own | {"noise_init": 0, "camera_motion": "still"}, {}):
        video = studio.make(name, Settings("a cat", str(tmp_path / "cat.png"), 1, 1.0, 1, more), ignore)
        configs.append(json.loads(video.with_suffix(".json").read_text())["config"])
    keys = ("frame_stride", "noise_init", "camera_motion")
    assert [tuple(config[key] for key in keys) for config in configs] == [
        (5, {"type": "FrameInit", "noise_level": 700}, "zoom_in"), (5, None, None), (3, None, None)]


def test_same_seed_makes_the_same_video_in_another_folder(studio):
    name = name_of(studio, "text")
    videos = [studio.make(name, Settings("a dog", None, seed, 1.0, 1), ignore) for seed in (1, 1, 2)]

    assert len(set(videos)) == 3
    assert videos[0].read_bytes() == videos[1].read_bytes() != videos[2].read_bytes()


def test_engine_stays_in_memory_until_another_configuration_is_used(studio, tmp_path):
    picture, text = name_of(studio, "picture"), name_of(studio, "text")
    settings = Settings("a", str(tmp_path / "cat.png"), 0, 1.0, 1)
    TextEngine.builds = PictureEngine.builds = 0

    for name in (text, text, picture, text):
        studio.make(name, settings, ignore)

    assert (TextEngine.builds, PictureEngine.builds) == (2, 1)


@pytest.mark.parametrize(("word", "settings", "message"), [
    ("text", Settings("  ", None, 0, 1.0, 1), "prompt is needed"),
    ("picture", Settings("a cat", None, 0, 1.0, 1), "picture is needed"),
])
def test_what_is_missing_is_named_and_nothing_is_written(studio, tmp_path, word, settings, message):
    with pytest.raises(UserError, match=message):
        studio.make(name_of(studio, word), settings, ignore)
    assert not (tmp_path / "out").exists()


def test_refused_request_leaves_nothing_behind(studio, tmp_path):
    name = name_of(studio, "text")
    studio.configs[name].resolution = [60, 64]
    with pytest.raises(UserError, match="not a multiple of 8"):
        studio.make(name, Settings("a dog", None, 0, 1.0, 1), ignore)
    assert list((tmp_path / "out/gradio").iterdir()) == []


def test_folder_without_configurations_is_named(tmp_path):
    with pytest.raises(UserError, match="no YAML file for sampling"):
        Studio(str(tmp_path))


def test_page_offers_every_choice(studio):
    page = gradio_app.build(studio, name_of(studio, "text"))
    labels = {block.label: block for block in page.blocks.values() if getattr(block, "label", None)}

    assert {"Configuration", "Prompt", "Picture to start from", "Seed", "Guidance", "Denoising steps"} <= set(labels)
    assert not labels["Picture to start from"].visible and not labels["Camera"].visible
    assert labels["Prompt"].value == "a dog"


def test_help_needs_neither_torch_nor_gradio():
    code = ("import sys, gradio_app\ntry:\n    gradio_app.parse(['--help'])\n"
            "except SystemExit:\n    sys.exit(bool({'torch', 'gradio'} & set(sys.modules)))")
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "--port" in run.stdout


def test_only_this_machine_is_served_unless_asked():
    assert gradio_app.parse([]).host == "127.0.0.1"


def test_button_makes_the_video_and_shows_the_seed_it_drew(studio):
    page = gradio_app.build(studio, name_of(studio, "text"))
    press = next(f.fn for f in page.fns.values() if f.api_name == "make_video")

    video, _, note, seed = press(name_of(studio, "text"), "a dog", None, 3, 1.5, 2, True, ignore)

    assert probe_video(video).frames == 4
    assert f"seed {seed}" in note
    assert seed != 3


def test_button_tells_what_is_wrong(studio):
    page = gradio_app.build(studio, name_of(studio, "text"))
    press = next(f.fn for f in page.fns.values() if f.api_name == "make_video")
    with pytest.raises(gradio.Error, match="prompt is needed"):
        press(name_of(studio, "text"), "", None, 3, 1.5, 2, False, ignore)
