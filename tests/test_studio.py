"""The app without its page: what it offers of configurations, and which engine is built when; by formula engines."""
import json
from pathlib import Path

import pytest

from tests.formula import FewEngine, PictureEngine, RefiningEngine, TextEngine, make_studio, name_of
from tools.catalogue import Settings
from tools.errors import UserError
from tools.studio import Studio

DOG = Settings("a dog", None, 1, 1.0, 2)


@pytest.fixture
def studio(tmp_path):
    return make_studio(tmp_path)


def ignore(*_arguments):
    pass


def config_of(video: Path) -> dict:
    """The configuration in a video's sidecar."""
    return json.loads(video.with_suffix(".json").read_text())["config"]


def make(studio, word: str, settings: Settings) -> Path:
    """The video of a request, refined where it is asked for."""
    return studio.make(name_of(studio, word), settings, ignore)[-1]


# What configurations offer.

def test_configurations_that_sample_from_prompts_are_offered(studio):
    assert [Path(name).stem for name in studio.configs] == ["few", "picture", "text"]


def test_defaults_are_the_configurations_with_its_first_example(studio, tmp_path):
    own = {"frame_stride": 3, "noise_init": 0, "camera_motion": "still"}
    assert studio.defaults(name_of(studio, "picture")) == Settings("a cat", f"{tmp_path}/cat.png", 11, 2.5, 3, own)
    assert studio.defaults(name_of(studio, "text")) == Settings("a dog", None, 11, 2.5, 3)
    assert studio.defaults(name_of(studio, "few")) == Settings("a dog", None, 11, 1.0, 4)


def test_few_steps_are_offered_where_they_shorten_anything(studio):
    few = {word: studio.few_steps(name_of(studio, word)) for word in ("text", "few", "picture")}
    assert {word: name and Path(name).stem for word, name in few.items()} == {
        "text": "few", "few": None, "picture": None}
    assert [studio.most_steps(name_of(studio, word)) for word in ("text", "few")] == [200, 16]


def test_folder_without_configurations_is_named(tmp_path):
    with pytest.raises(UserError, match="no YAML file for sampling"):
        Studio(str(tmp_path))


# What a request changes.

def test_controls_of_a_method_change_its_configuration(studio, tmp_path):
    own = {"frame_stride": 5.0, "noise_init": 700, "camera_motion": "zoom_in"}
    configs = [config_of(make(studio, "picture", Settings("a cat", str(tmp_path / "cat.png"), 1, 1.0, 1, more)))
               for more in (own, own | {"noise_init": 0, "camera_motion": "still"}, {})]
    keys = ("frame_stride", "noise_init", "camera_motion")
    assert [tuple(config[key] for key in keys) for config in configs] == [
        (5, {"type": "FrameInit", "noise_level": 700}, "zoom_in"), (5, None, None), (3, None, None)]


def test_same_seed_makes_the_same_video_in_another_folder(studio):
    videos = [make(studio, "text", Settings("a dog", None, seed, 1.0, 1)) for seed in (1, 1, 2)]
    assert len(set(videos)) == 3
    assert videos[0].read_bytes() == videos[1].read_bytes() != videos[2].read_bytes()


def test_no_guidance_stays_none(studio):
    assert [config_of(make(studio, "few", Settings("a dog", None, 1, scale, 1)))["guide_scale"]
            for scale in (1.0, 2.0)] == [None, 2.0]


# Which engine is built when.

def test_engine_stays_in_memory_until_another_configuration_is_used(studio, tmp_path):
    settings = Settings("a", str(tmp_path / "cat.png"), 0, 1.0, 1)
    TextEngine.builds = PictureEngine.builds = 0
    for word in ("text", "text", "picture", "text"):
        make(studio, word, settings)
    assert (TextEngine.builds, PictureEngine.builds) == (2, 1)


def test_engine_is_built_anew_when_and_only_when_the_network_changes(studio, tmp_path):
    def lora(strength):
        return {"loras": {str(tmp_path / "a.pth"): strength}}

    (tmp_path / "a.pth").write_bytes(b"fits")
    TextEngine.builds, counts = 0, []
    for changes in ({}, {"seed": 2}, lora(1.0), lora(1.0) | {"steps": 1, "prompt": "a cat"}, lora(0.5), {}):
        make(studio, "text", Settings(**{**vars(DOG), **changes}))
        counts.append(TextEngine.builds)
    assert counts == [1, 1, 2, 2, 3, 4]


def test_a_lora_is_kept_where_its_sidecar_names_it(studio, tmp_path):
    file = tmp_path / "style.safetensors"
    file.write_bytes(b"fits")
    [(kept, strength)] = config_of(make(studio, "text", Settings(**{**vars(DOG), "loras": {str(file): 0.75}})))[
        "loras"].items()
    file.unlink()
    assert Path(kept).read_bytes() == b"fits" and Path(kept).name == "style.safetensors" and strength == 0.75


def test_a_lora_that_does_not_fit_costs_its_request_alone(studio, tmp_path):
    (tmp_path / "other.pth").write_bytes(b"does not fit")
    before = make(studio, "text", DOG)
    folders = len(list((tmp_path / "out/gradio").glob("2*")))
    with pytest.raises(UserError, match=r"LoRA '.*other\.pth' belongs to another base"):
        make(studio, "text", Settings(**{**vars(DOG), "loras": {str(tmp_path / "other.pth"): 1.0}}))
    assert len(list((tmp_path / "out/gradio").glob("2*"))) == folders
    assert make(studio, "text", DOG).read_bytes() == before.read_bytes()


# Few steps and refinement.

def test_few_steps_are_another_configurations_with_the_same_prompt_and_seed(studio):
    video = make(studio, "text", Settings("a fox", None, 7, 9.0, 50, few_steps=2))
    config, sidecar = config_of(video), json.loads(video.with_suffix(".json").read_text())
    assert (config["TASK_TYPE"], config["num_inference_steps"], config["guide_scale"]) == ("test_app_few", 2, None)
    assert (sidecar["prompt"], sidecar["seed"]) == ("a fox", 7)
    assert "out/gradio" in str(video)


def test_a_video_is_refined_by_another_engine_and_both_stay(studio):
    seen = []
    TextEngine.builds = RefiningEngine.builds = FewEngine.builds = 0
    base, refined = studio.make(name_of(studio, "text"), Settings(**{**vars(DOG), "few_steps": 1, "refine": True}),
                                lambda *told: seen.append(told))
    assert refined.parent == base.parent and refined.name == base.name.replace(".mp4", "_sr.mp4")
    assert all(path.is_file() and path.with_suffix(".json").is_file() for path in (base, refined))
    assert json.loads(refined.with_suffix(".json").read_text())["item"]["path"] == str(base)
    assert seen == [("video", 1, 1), ("refinement", 1, 3), ("refinement", 2, 3), ("refinement", 3, 3)]
    assert (TextEngine.builds, FewEngine.builds, RefiningEngine.builds) == (0, 1, 1)


@pytest.mark.parametrize(("key", "value", "settings", "message"), [
    ("few_steps_cfg", None, {"few_steps": 4}, "nothing does the same in few steps; set few_steps_cfg"),
    ("few_steps_cfg", "nowhere.yaml", {"few_steps": 4}, "no YAML file 'nowhere.yaml'"),
    ("refine_cfg", None, {"refine": True}, "nothing refines its videos; set refine_cfg"),
    ("refine_cfg", "nowhere.yaml", {"refine": True}, "no YAML file 'nowhere.yaml'"),
    ("refine_cfg", "picture", {"refine": True}, r"refine_cfg '.*picture\.yaml' .* does not refine videos"),
])
def test_what_cannot_follow_is_named_before_anything_is_made(studio, tmp_path, key, value, settings, message):
    studio.configs[name_of(studio, "text")][key] = name_of(studio, value) if value == "picture" else value
    with pytest.raises(UserError, match=message):
        make(studio, "text", Settings(**{**vars(DOG), **settings}))
    assert not list(tmp_path.rglob("out/**/*.mp4"))


# Requests that are refused.

@pytest.mark.parametrize(("word", "settings", "message"), [
    ("text", Settings("  ", None, 0, 1.0, 1), "prompt is needed"),
    ("picture", Settings("a cat", None, 0, 1.0, 1), "picture is needed"),
])
def test_what_is_missing_is_named_and_nothing_is_written(studio, tmp_path, word, settings, message):
    with pytest.raises(UserError, match=message):
        make(studio, word, settings)
    assert not (tmp_path / "out").exists()


def test_refused_request_leaves_nothing_behind_and_keeps_the_engine(studio, tmp_path):
    cfg, TextEngine.builds = studio.configs[name_of(studio, "text")], 0
    make(studio, "text", DOG)
    folders = set((tmp_path / "out/gradio").iterdir())
    good, cfg.resolution = cfg.resolution, [60, 64]
    with pytest.raises(UserError, match="not a multiple of 8"):
        make(studio, "text", DOG)
    assert set((tmp_path / "out/gradio").iterdir()) == folders
    cfg.resolution = good
    make(studio, "text", DOG)
    assert TextEngine.builds == 1
