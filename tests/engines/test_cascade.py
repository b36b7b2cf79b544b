"""Cascades: one command makes what two make, with the first networks gone before the second ones come."""
import functools
import gc
import logging
import weakref
from pathlib import Path

import numpy as np
import pytest

from tests.engines import tiny as tasks
from tools.check import check
from tools.engines.cascade import Cascade
from tools.errors import UserError
from tools.media import write_video

pytestmark = pytest.mark.usefixtures("own_logging")

PROMPTS = ["a red star", "a blue circle|9"]


def write_cascade(tiny, folder: Path, base: dict | None = None, refine: dict | None = None, **changes) -> str:
    """A cascade of text to video and refinement, and the files that it names, in a folder; the path of its YAML."""
    files = {method: tiny.sampling(folder, method, PROMPTS, f"{method}.yaml", ddim_timesteps=1, sr_steps=1)
             for method in ("t2v", "sr")}
    stages = {"base": {"cfg": files["t2v"]} | (base or {}), "refine": {"cfg": files["sr"]} | (refine or {})}
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    return tasks.write_yaml(folder / "cascade.yaml", {
        "TASK_TYPE": "inference_cascade_entrance", "stages": stages, "test_list_path": str(prompts),
        "log_dir": str(folder / "runs"), "device": "cpu", **changes})


@pytest.fixture
def cascade(tiny, tmp_path):
    """`write_cascade` into the test's folder."""
    return functools.partial(write_cascade, tiny, tmp_path)


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory) -> Path:
    """Where a cascade has run; its videos are in runs/prompts."""
    folder = tmp_path_factory.mktemp("cascade")
    tasks.run(write_cascade(tiny, folder))
    return folder


def refined(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*_sr.mp4"))}


def test_one_command_gives_what_two_give(tmp_path, made):
    folder = made / "runs" / "prompts"
    assert sorted(path.name for path in folder.glob("*.mp4")) == [
        "rank_01_00_0000_a_red_star.mp4", "rank_01_00_0000_a_red_star_sr.mp4", "rank_01_00_0001_a_blue_circle.mp4",
        "rank_01_00_0001_a_blue_circle_sr.mp4"]
    other = ("log_dir", tmp_path, "test_list_path", made / "prompts.txt")
    tasks.run(str(made / "t2v.yaml"), *other)
    tasks.run(str(made / "sr.yaml"), *other, "refine_dir", tmp_path / "prompts")
    assert refined(tmp_path / "prompts") == refined(folder)


def test_the_first_networks_are_gone_before_the_second_ones_are_built(cascade, monkeypatch):
    engine = tasks.engine(cascade())
    alive, engines_of = [], Cascade.engines

    def watched(self):
        names, engines = engines_of(self)
        first, second = engines
        build_first, build_second, models = type(first).build.__get__(first), type(second).build.__get__(second), []

        def build():
            build_first()
            models.extend(weakref.ref(part) for part in (first.model, first.autoencoder, first.embedder))

        def build_and_look():
            alive.append([model() is not None for model in models])
            build_second()

        first.build, second.build = build, build_and_look
        return names, engines

    monkeypatch.setattr(Cascade, "engines", watched)
    gc.disable()
    try:
        engine.run()
    finally:
        gc.enable()
    assert alive == [[False] * 3]


def test_keys_of_the_cascade_hold_for_all_stages_that_do_not_set_them(cascade):
    file = cascade(refine={"seed": 3, "UNet": {"dropout": 0.2}}, seed=11, decoder_bs=1)
    stages = Cascade.configurations(tasks.resolve(file, "decoder_bs", 2, "stages.refine.sr_steps", 1))
    base, refine = stages["base"], stages["refine"]
    assert (base.seed, refine.seed, base.decoder_bs, refine.decoder_bs) == (11, 3, 2, 2)
    assert refine.sr_steps == 1 and refine.UNet["dropout"] == 0.2 and base.UNet["dropout"] == 0.1
    assert (base.TASK_TYPE, refine.TASK_TYPE) == ("inference_text2video_entrance", "inference_sr600_entrance")


def test_interrupted_cascades_make_only_what_is_missing(made):
    folder = made / "runs" / "prompts"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.mp4")}
    lost = folder / "rank_01_00_0001_a_blue_circle_sr.mp4"
    lost.with_suffix(".json").unlink()
    tasks.run(str(made / "cascade.yaml"), "resume", "true")
    assert [path for path, time in before.items() if path.stat().st_mtime_ns != time] == [lost]


def test_what_the_first_stage_could_not_make_is_not_refined_and_the_rest_is(tmp_path, cascade, caplog):
    """Two refinements in a row, of a list that names a video which is not there."""
    write_video(tmp_path / "there.mp4", np.zeros((2, 32, 32, 3), np.uint8), 8)
    (tmp_path / "videos.txt").write_text(f"{tmp_path / 'absent.mp4'}|||a\n{tmp_path / 'there.mp4'}|||b\n")
    cascade()
    file = cascade(base={"cfg": str(tmp_path / "sr.yaml")}, test_list_path=str(tmp_path / "videos.txt"))
    with caplog.at_level(logging.ERROR):
        folder = tasks.run(file)
    assert sorted(refined(folder)) == ["there_0001_sr.mp4", "there_0001_sr_sr.mp4"]
    assert "absent.mp4" in caplog.text


@pytest.mark.parametrize(("changes", "message"), [
    ({"stages": {}}, "stages is empty"),
    ({"stages": {"base": "configs/t2v_infer.yaml"}}, "stage 'base' must be a section with cfg"),
    ({"base": {"cfg": "nowhere.yaml"}}, "stage 'base': no YAML file 'nowhere.yaml'"),
    ({"base": {"sed": 7}}, r"stage 'base': unknown key 'sed' \(did you mean 'seed'\?\)"),
    ({"base": {"max_frames": "many"}}, "stage 'base': 'max_frames' must be an integer"),
    ({"base": {"TASK_TYPE": "train_t2v_entrance"}}, "stage 'base': train_t2v_entrance makes no videos"),
    ({"refine": {"TASK_TYPE": "inference_text2video_entrance"}}, "cannot follow another one"),
    ({"refine": {"test_model": "nowhere.pth"}}, "nowhere.pth"),
])
def test_stages_that_cannot_run_are_refused_before_anything_is_made(cascade, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        tasks.run(cascade(**changes))
    assert not (tmp_path / "runs").exists()


def test_every_stage_is_checked(cascade):
    report = check(tasks.resolve(cascade()))
    assert "stage base: task inference_text2video_entrance: sampling, 1 x 3 frames of 32x32" in report
    assert "stage refine: task inference_sr600_entrance: sampling, 1 x 32 frames of 64x64" in report
