"""Every sampling configuration of the small world whose weights come with the project makes a video."""
import json
from pathlib import Path

import pytest

from tests.engines import tiny as tasks
from tools.media import probe_video

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs" / "tiny").glob("*_infer*.yaml"))
FEW = ("num_inference_steps", 2)
STEPS = {"lcm_infer": FEW, "lcm_paper_infer": FEW, "lcm_i2v_infer": FEW}
LARGER = {"t2v_infer"}  # the rest is of the smaller world


def missing_weights(cfg) -> list[str]:
    """Weights that a configuration names and the project does not bring along."""
    named = [cfg.get("test_model"), cfg.get("base_model"), cfg.auto_encoder.get("pretrained"), *cfg.loras,
             *(cfg.get(key) for key in ("identity_adapter_path", "motion_adapter_path", "text_embedding_path"))]
    return [path for path in named if path and not (ROOT / path).is_file()]


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_makes_a_video_with_the_embedded_weights(config, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    key, steps = STEPS.get(config.stem, ("ddim_timesteps", 2))
    given = tasks.resolve(str(config))
    if given.get("refine_dir") or given.TASK_TYPE == "inference_sr600_entrance":
        pytest.skip("refines the videos of another run; tests/engines/test_sr600.py")
    if gone := missing_weights(given):
        pytest.skip(f"no such weights come with the project yet: {', '.join(gone)}")
    lines = Path(given.test_list_path).read_text().splitlines()
    one = tmp_path / "one.txt"
    one.write_text(next(line for line in lines if line and not line.startswith("#")) + "\n")
    tasks.run(str(config), key, steps, "test_list_path", one, "log_dir", tmp_path)
    videos = sorted(tmp_path.rglob("*.mp4"))
    assert videos
    for video in videos:
        assert probe_video(video).frames == (16 if config.stem in LARGER else 8)
        assert json.loads(video.with_suffix(".json").read_text())["weights"]
