"""`python -m tools.annotators`: its options, what it writes, and how it ends on bad input."""
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.goldens.reader import fill_module
from tools.annotators.__main__ import ANNOTATORS, main
from tools.annotators.base import as_frames
from tools.annotators.canny import Canny
from tools.annotators.networks.pidinet import PiDiNet
from tools.cli import run_main
from tools.media import probe_video, read_frames, write_video
from tools.registry import ANNOTATOR
from tools.world.draw import render
from tools.world.scene import sample_truth

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """18 frames of 48x64, more than are annotated at a time."""
    return write_video(tmp_path_factory.mktemp("videos") / "in.mp4", render(sample_truth(3, 0), 18, (64, 48)), 10)


def test_help_answers_without_torch():
    script = ("import sys, tools.annotators.__main__ as a, tools.metrics.__main__ as m\n"
              "print(a.parser().format_help(), m.parser().format_help())\n"
              "sys.exit(any(name in sys.modules for name in ('torch', 'cv2', 'av', 'transformers')))")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in [*ANNOTATORS, "dreamvideo", "first_frame"])


def test_options_are_those_of_the_classes():
    for name, (_, options) in ANNOTATORS.items():
        importlib.import_module(f"tools.annotators.{name}")
        known = ANNOTATOR.parameters(name)
        assert {option[2:].replace("-", "_") for option in options} <= set(known), name


@pytest.mark.parametrize("name", ["canny", "masks", "motion_vectors", "palette"])
def test_without_weights(name, video, tmp_path):
    main([name, str(video), str(tmp_path / "out.mp4")])
    info = probe_video(tmp_path / "out.mp4")
    assert (info.frames, info.fps) == (18, 10)
    assert (info.width, info.height) == ((200, 50) if name == "palette" else (64, 48))
    main([name, str(video), str(tmp_path / "out.npz")])
    with np.load(tmp_path / "out.npz") as written:
        expected = {"canny": (1, 48, 64), "masks": (4, 48, 64), "motion_vectors": (2, 48, 64), "palette": (156,)}
        assert written["maps"].shape == (18, *expected[name]) and written["fps"] == 10


def test_numbers_are_those_of_a_call(video, tmp_path):
    main(["canny", str(video), str(tmp_path / "out.npz"), "--low-threshold", "50", "--high-threshold", "90"])
    frames = as_frames(read_frames(video, range(18)))
    with np.load(tmp_path / "out.npz") as written:
        assert np.array_equal(written["maps"], Canny(50, 90)(frames).numpy())


def test_with_weights(video, tmp_path, capsys):
    torch.save(fill_module(PiDiNet(inplane=6, dil=3)).state_dict(), tmp_path / "pidinet.pth")
    main(["sketch", str(video), str(tmp_path / "out.mp4"), "--weights", str(tmp_path / "pidinet.pth"),
          "--simplification", "", "--chunk", "5"])
    assert probe_video(tmp_path / "out.mp4").frames == 18
    assert str(tmp_path / "out.mp4") in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["canny", "{tmp}/none.mp4", "{tmp}/out.mp4"], "no video file"),
    (["canny", "{tmp}/text.mp4", "{tmp}/out.mp4"], "not a video"),
    (["canny", "{video}", "{tmp}/out.png"], "must end in .mp4 or .npz"),
    (["canny", "{video}", "{video}"], "is the video itself"),
    (["canny", "{video}", "{tmp}/out.mp4", "--low-threshold", "5"], "low_threshold and high_threshold"),
    (["depth", "{video}", "{tmp}/out.mp4"], "weights 'models/midas_v3_dpt_large.pth' are not there"),
    (["depth", "{video}", "{tmp}/out.mp4", "--weights", "hf://nobody"], "write hf://owner/repo/file"),
    (["sketch", "{video}", "{tmp}/out.mp4", "--weights", "{video}"], "refused: not a plain tensor file"),
    (["masks", "{video}", "{tmp}/out.mp4", "--kind", "round"], "kind 'round' must be one of"),
])
def test_bad_input_ends_with_one_line_and_nothing_written(arguments, message, video, tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("no video")
    before = video.read_bytes()
    with pytest.raises(SystemExit) as ended:
        run_main(lambda: main([argument.format(tmp=tmp_path, video=video) for argument in arguments]))
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:] and message in lines[-1]
    assert [file.name for file in tmp_path.iterdir()] == ["text.mp4"] and video.read_bytes() == before
