"""The README's first command, without the installation, and what its video shows."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tools.media import probe_video, read_frames, read_image
from tools.metrics.attributes import judge
from tools.metrics.fidelity import first_frame_psnr

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder that the quickstart wrote."""
    folder = tmp_path_factory.mktemp("quickstart")
    subprocess.run([sys.executable, "inference.py", "--cfg", "configs/quickstart.yaml", "log_dir", str(folder)],
                   cwd=ROOT, check=True, capture_output=True, timeout=300)
    return folder / "quickstart"


@pytest.fixture(scope="module")
def video(made):
    """Path of its one video."""
    [path] = made.glob("*.mp4")
    return path


def test_readme_names_the_quickstart():
    assert "inference.py --cfg configs/quickstart.yaml" in (ROOT / "README.md").read_text()


def test_the_video_has_sixteen_frames(video):
    info = probe_video(video)
    assert (info.frames, info.width, info.height) == (16, 64, 64)


@pytest.fixture(scope="module")
def right(video):
    """Which attributes of the prompt the video shows."""
    caption = json.loads(video.with_suffix(".json").read_text())["prompt"]
    return judge(read_frames(video, range(16)), caption).right


@pytest.mark.parametrize("attribute", ["shape", "color", "background", "motion"])
def test_the_video_shows_the_prompts(right, attribute):
    assert right[attribute]


def test_the_object_keeps_its_shape(right):
    assert right["kept"]


def test_the_video_starts_from_the_picture(video):
    item = json.loads(video.with_suffix(".json").read_text())["item"]
    picture = np.asarray(read_image(ROOT / item["path"]))
    assert first_frame_psnr(read_frames(video, [0]), picture) > 20


def test_the_sidecar_says_how_to_make_it_again(video):
    sidecar = json.loads(video.with_suffix(".json").read_text())
    assert sidecar["seed"] == sidecar["config"]["seed"]
    assert set(sidecar["weights"]) == {"UNet", "auto_encoder", "embedder"}
