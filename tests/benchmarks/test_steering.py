"""The measures of steering: full marks for the clip itself, none for another one; captions as the check asks."""
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tools.benchmarks import text_free
from tools.benchmarks.steering import CHECKS, fresh, run_check
from tools.registry import load_components
from tools.world.vocabulary import parse_caption

CFG = SimpleNamespace(vid_dataset={"type": "ProceduralVideoDataset", "resolution": [64, 64], "shapes": ["circle"]},
                      max_frames=5, resolution=[64, 64], mean=[0.5] * 3, std=[0.5] * 3)


class Remake:
    """An engine that gives back the clips that it is steered by, or the next one's."""

    def __init__(self, other: bool):
        self.cfg, self.other, self.asked = CFG, other, []

    def to_device(self, batch):
        return batch

    def sample_latents(self, batch, generators):
        self.asked += batch["keys"]
        return batch["video"].roll(1, dims=0) if self.other else batch["video"]

    def decode(self, latents):
        return latents.transpose(1, 2)


@pytest.fixture(scope="module", autouse=True)
def datasets():
    load_components()


@pytest.mark.parametrize("name", CHECKS)
def test_the_clip_itself_has_full_marks_and_another_one_has_not(name):
    check = CHECKS[name]
    engine = Remake(other=False)
    good, shown = run_check(engine, check, clips=4, seed=50, batch=3)
    assert engine.asked == ["y", check.key] * 2 and len(shown) == 4
    assert all(value > 0.95 for key, value in good.items() if key != "dynamic") and good["dynamic"] > 0.5
    bad, _ = run_check(Remake(other=True), check, clips=4, seed=50, batch=4)
    assert min(value for key, value in bad.items() if key != "dynamic") < 0.6


@pytest.mark.parametrize("name", CHECKS)
def test_captions_say_what_the_clip_shows_or_the_contrary(name):
    for item in fresh(CFG, CHECKS[name], clips=6, seed=50):
        asked, truth = parse_caption(item["caption"]), item["truth"]
        moved = truth["position"][-1] - truth["position"][0]
        differing = {word for word in ("color", "motion", "shape") if getattr(asked, word) != truth[word]}
        assert differing == {"motion_against_text": {"motion"}, "palette_against_text": {"color"}}.get(name, set())
        assert torch.any(moved.abs() > 1) or not CHECKS[name].travelling


def test_the_gap_is_measured_between_the_two_others():
    assert text_free.gap_closed(0.2, 0.5, 0.8) == pytest.approx(0.5)
    assert np.isnan(text_free.gap_closed(0.5, 0.6, 0.5))


def test_every_network_is_sampled_by_its_own_configuration(monkeypatch, tmp_path, capsys):
    (tmp_path / "x.yaml").write_text("TASK_TYPE: inference_tft2v_entrance\nguide_scale: 3\n")
    moving, told = {"a": 0.1, "b": 0.4, "c": 0.9}, {}

    def measured(cfg, *_):
        told[cfg.test_model] = (cfg.picture_first, cfg.guide_scale)
        return {"motion": moving[cfg.test_model]}

    monkeypatch.setattr(text_free, "measure_videos", measured)
    text_free.main(["--pictures", f"{tmp_path}/x.yaml test_model a", "--full", f"{tmp_path}/x.yaml test_model c",
                    "--text-free", f"{tmp_path}/x.yaml test_model b picture_first true guide_scale 2"])
    assert told == {"a": (False, 3), "b": (True, 2), "c": (False, 3)}
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"motion_gap_closed": 0.375}
