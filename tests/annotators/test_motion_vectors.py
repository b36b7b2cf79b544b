"""Motion: a picture that moves by known steps is found to move so, whatever the vectors come from."""
import cv2
import numpy as np
import pytest
import torch

from tests.numbered import write_coded
from tools.annotators.base import as_frames
from tools.annotators.motion_vectors import BLOCK, MotionVectors, _upright, block_centers, vector_map
from tools.errors import UserError

STEP = (3, -2)  # pixels per frame, right and up
HEIGHT, WIDTH = 96, 128


@pytest.fixture(scope="module")
def moving() -> np.ndarray:
    """uint8 [6, 96, 128, 3]: a soft texture that slides by STEP."""
    canvas = np.random.default_rng(0).integers(0, 256, (HEIGHT + 40, WIDTH + 40, 3)).astype(np.float32)
    canvas = cv2.normalize(cv2.GaussianBlur(canvas, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return np.stack([canvas[10 - STEP[1] * i:, 20 - STEP[0] * i:][:HEIGHT, :WIDTH] for i in range(6)])


@pytest.fixture(scope="module")
def h264(moving, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("motion") / "moving.mp4"
    write_coded(path, moving, format="mp4", b_frames=0)
    return str(path)


def steps_of(motion: torch.Tensor) -> np.ndarray:
    """Median motion of each frame at the places that have any, [F, 2], away from the edges, where things appear."""
    inner = motion[:, :, BLOCK:-BLOCK, BLOCK:-BLOCK]
    return np.array([np.median(frame[:, (frame != 0).any(0)], axis=1) for frame in inner.numpy()])


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("source", ["auto", "mpeg4", "flow"])
def test_frames_that_slide(moving, source, dense):
    motion = MotionVectors(source, dense)(as_frames(moving))
    assert motion.shape == (6, 2, HEIGHT, WIDTH) and motion[0].abs().sum() == 0
    np.testing.assert_allclose(steps_of(motion[1:]), [STEP] * 5, atol=0.3)


@pytest.mark.parametrize("source", ["auto", "codec", "mpeg4", "flow"])
def test_a_file_that_slides(h264, source):
    motion = MotionVectors(source, dense=True)(h264)
    assert motion.shape == (6, 2, HEIGHT, WIDTH) and motion[0].abs().sum() == 0
    # H.264 may refer to any earlier frame, so only the direction is sure there.
    found = steps_of(motion[1:])
    if source in ("auto", "codec"):
        found = found / np.abs(found).max(axis=1, keepdims=True) * max(STEP)
    np.testing.assert_allclose(found, [STEP] * 5, atol=0.4)


def test_auto_takes_the_files_own_vectors_and_flow_where_there_are_none(h264, moving, tmp_path, caplog):
    assert torch.equal(MotionVectors()(h264), MotionVectors("codec")(h264))
    pictures = str(tmp_path / "pictures.avi")
    write_coded(pictures, moving, format="avi", codec="mjpeg", b_frames=0, pixels="yuvj420p")
    with caplog.at_level("INFO"):
        assert torch.equal(MotionVectors()(pictures), MotionVectors("flow")(pictures))
    assert "using dense flow" in caplog.text
    with pytest.raises(UserError, match=r"codec of '.*pictures\.avi' exports none; use source mpeg4 or flow"):
        MotionVectors("codec")(pictures)


def test_published_weights_know_one_pixel_per_block(moving):
    for source in ("mpeg4", "flow"):
        rows, columns = (MotionVectors(source)(as_frames(moving[:2]))[1] != 0).any(0).nonzero().T
        assert (rows % BLOCK == BLOCK // 2).all() and (columns % BLOCK == BLOCK // 2).all()
        assert len(rows) >= HEIGHT * WIDTH / BLOCK ** 2 * 0.9


@pytest.mark.parametrize("source", ["mpeg4", "flow"])
def test_what_stands_still_has_no_motion(moving, source):
    still = as_frames(np.repeat(moving[:1], 3, axis=0))
    assert MotionVectors(source, dense=True)(still).abs().max() < 0.01


@pytest.mark.parametrize("size", [(33, 47), (16, 16), (9, 20)])
def test_any_size_and_a_single_frame(moving, size):
    frames = as_frames(moving[:3, :size[0], :size[1]])
    for source in ("mpeg4", "flow"):
        assert MotionVectors(source)(frames).shape == (3, 2, *size)
        assert MotionVectors(source)(frames[:1]).abs().sum() == 0


def test_vectors_of_the_future_point_forward_too():
    def row(source, motion):
        return [source, 16, 16, 0, 0, 8, 8, *motion, 4]

    past, future = (vector_map(np.array([row(*each)], float), 16, 16) for each in ((-1, (-8, 4)), (1, (8, -4))))
    assert np.array_equal(past, future) and past[8, 8].tolist() == [2, -1]


def test_a_turned_field_turns_its_vectors(moving):
    motion = MotionVectors("flow", dense=True)
    field = motion(as_frames(moving[:2]))[1].permute(1, 2, 0).numpy()
    turned = motion(as_frames(np.rot90(moving[:2], axes=(1, 2))))[1].permute(1, 2, 0).numpy()
    difference = np.abs(_upright(field, 1) - turned)[BLOCK:-BLOCK, BLOCK:-BLOCK]
    assert np.median(difference) < 0.1


def test_block_centers_hold_the_mean():
    field = np.random.default_rng(0).random((20, 40, 2), np.float32)
    sparse = block_centers(field)
    assert np.allclose(sparse[8, 24], field[:16, 16:32].mean((0, 1)))
    assert np.count_nonzero(sparse.any(-1)) == 6


def test_pictures_show_direction_as_hue(moving):
    annotator = MotionVectors("mpeg4")
    picture = annotator.draw(annotator(as_frames(moving)))[3]
    hue = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)[..., 0]
    expected = np.degrees(np.arctan2(STEP[1], STEP[0])) % 360 / 2
    assert abs(np.median(hue[picture.any(-1)]) - expected) < 6


def test_bad_input():
    with pytest.raises(UserError, match="source 'optical' must be one of auto, codec, mpeg4, flow"):
        MotionVectors("optical")
    with pytest.raises(UserError, match=r"no video file 'none\.mp4'"):
        MotionVectors()("none.mp4")
    with pytest.raises(UserError, match="frames have no codec"):
        MotionVectors("codec")(torch.zeros(2, 3, 16, 16))
