"""The browser's app: its command line, what its page holds, and what its buttons do, by formula engines."""
import json
import subprocess
import sys
from pathlib import Path

import gradio
import pytest

import gradio_app
from tests.formula import make_studio, name_of
from tools import page as pages
from tools.catalogue import Settings
from tools.media import probe_video

ROOT = Path(__file__).parents[1]
NO_FEW, NO_LORA = (False, 4, False), (None, 1.0)


@pytest.fixture
def studio(tmp_path):
    return make_studio(tmp_path)


def ignore(*_arguments, **_options):
    pass


def labelled(page) -> dict:
    """Components of a page by their label."""
    return {block.label: block for block in page.blocks.values() if getattr(block, "label", None)}


def button(page, name: str):
    """What a button of the page calls."""
    return next(f.fn for f in page.fns.values() if f.api_name == name)


def test_handler_makes_a_video_with_its_sidecar_and_reports_progress(studio, tmp_path):
    seen = []
    settings = Settings("a  red\ncat", str(tmp_path / "cat.png"), seed=7, guide_scale=4.0, steps=2)
    video, [sidecar], note = pages.make_video(
        studio, name_of(studio, "picture"), settings, lambda fraction, desc: seen.append((fraction, desc)))
    assert probe_video(video).frames == 4
    assert seen == [(0.0, "preparing"), (0.5, "video: step 1 of 2"), (1.0, "video: step 2 of 2")]
    record = json.loads(Path(sidecar).read_text())
    assert (record["prompt"], record["seed"], record["config"]["guide_scale"]) == ("a red cat", 7, 4.0)
    assert Path(record["item"]["path"]).is_file()
    assert "seed 7" in note


def test_page_offers_every_choice_that_the_configuration_has(studio):
    parts = labelled(pages.build(studio, name_of(studio, "text")))
    visible = {label for label, part in parts.items() if part.visible}
    assert {"Configuration", "Prompt", "Seed", "Guidance", "Denoising steps", "Few steps", "How few", "LoRA",
            "Strength of the LoRA", "Refine the video to a larger size"} <= visible
    assert not {"Picture to start from", "Camera", "Conditions", "Video or picture to take conditions from"} & visible
    assert "Key frame" not in parts  # no configuration has a use for it
    assert parts["Prompt"].value == "a dog"
    assert (parts["Guidance"].minimum, parts["Denoising steps"].maximum) == (1, 200)


def test_page_follows_the_configuration(studio):
    page = pages.build(studio, name_of(studio, "text"))
    follow = next(f for f in page.fns.values() if any(event == "change" for _, event in f.targets))
    for word, steps, few, camera in (("few", 16, False, False), ("picture", 200, False, True)):
        changes = dict(zip((part.label or part.value for part in follow.outputs), follow.fn(name_of(studio, word)),
                           strict=True))
        assert changes["Denoising steps"]["maximum"] == steps and changes["Few steps"]["visible"] == few
        assert changes["Camera"]["visible"] == changes["Picture to start from"]["visible"] == camera


def test_button_makes_the_video_and_shows_the_seed_it_drew(studio):
    name = name_of(studio, "text")
    press = button(pages.build(studio, name), "make_video")
    video, _, note, seed = press(name, "a dog", None, None, 3, 1.5, 2, *NO_FEW, *NO_LORA, True, ignore)
    assert probe_video(video).frames == 4
    assert f"seed {seed}" in note
    assert seed != 3


def test_button_makes_and_refines_in_few_steps_and_shows_the_refined_video(studio, tmp_path):
    name = name_of(studio, "text")
    (tmp_path / "style.pth").write_bytes(b"fits")
    press = button(pages.build(studio, name), "make_video")
    video, sidecars, _, seed = press(name, "a dog", None, None, 3, 1.5, 2, True, 8, True, str(tmp_path / "style.pth"),
                                     0.5, False, ignore)
    refined, base = (json.loads(Path(path).read_text()) for path in sidecars)
    assert video.endswith("_sr.mp4") and seed == 3
    assert refined["item"]["path"] == video.replace("_sr.mp4", ".mp4")
    assert (base["config"]["num_inference_steps"], list(base["config"]["loras"].values())) == (8, [0.5])


def test_a_hidden_menu_takes_what_any_configuration_offers(studio):
    """A request need not have looked at its configuration first."""
    for word, choices in (("few", ["still", "zoom_in"]), ("picture", ["still", "zoom_in"])):
        camera = labelled(pages.build(studio, name_of(studio, word)))["Camera"]
        assert [value for _, value in camera.choices] == choices and camera.value == "still"


def test_button_tells_what_is_wrong(studio, tmp_path):
    name = name_of(studio, "text")
    press = button(pages.build(studio, name), "make_video")
    with pytest.raises(gradio.Error, match="prompt is needed"):
        press(name, "", None, None, 3, 1.5, 2, *NO_FEW, *NO_LORA, False, ignore)
    (tmp_path / "other.pth").write_bytes(b"does not fit")
    with pytest.raises(gradio.Error, match="belongs to another base"):
        press(name, "a dog", None, None, 3, 1.5, 2, *NO_FEW, str(tmp_path / "other.pth"), 1.0, False, ignore)


def test_help_needs_neither_torch_nor_gradio():
    code = ("import sys, gradio_app\ntry:\n    gradio_app.parse(['--help'])\n"
            "except SystemExit:\n    sys.exit(bool({'torch', 'gradio'} & set(sys.modules)))")
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "--port" in run.stdout


def test_only_this_machine_is_served_unless_asked():
    assert gradio_app.parse([]).host == "127.0.0.1"
