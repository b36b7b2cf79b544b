"""Images and videos come back as they were written, and what is no image or video says so."""
import errno
import os

import av
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.numbered import numbered_frames, numbers_of, write_coded
from tools import media
from tools.errors import UserError

FRAMES = 150
CODINGS = {
    "mp4": {"format": "mp4"},
    "long_gop": {"format": "mp4", "gop": 140},
    "mkv": {"format": "matroska"},
    "avi": {"format": "avi", "codec": "mpeg4", "b_frames": 0},
    "avi_b_frames": {"format": "avi", "codec": "mpeg4", "b_frames": 2},
    "transport_stream": {"format": "mpegts"},
}


@pytest.fixture(scope="module", params=CODINGS)
def numbered(request, tmp_path_factory):
    """A video of FRAMES numbered frames in each coding."""
    path = tmp_path_factory.mktemp("coded") / request.param
    write_coded(path, numbered_frames(range(FRAMES)), **CODINGS[request.param])
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return media.write_video(tmp_path_factory.mktemp("written") / "clip.mp4", numbered_frames(range(FRAMES)), 8)


def test_probe_counts_frames_whether_the_container_states_them_or_not(numbered):
    width, height = numbered_frames([0]).shape[2], numbered_frames([0]).shape[1]
    assert media.probe_video(numbered) == (8.0, FRAMES, width, height)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.lists(st.integers(0, FRAMES - 1), min_size=1, max_size=6))
def test_frames_come_back_by_number_in_any_order(numbered, numbers):
    assert numbers_of(media.read_frames(numbered, numbers)) == numbers


def test_every_single_frame_can_be_sought(written):
    assert [numbers_of(media.read_frames(written, [i]))[0] for i in range(0, FRAMES, 7)] == list(range(0, FRAMES, 7))


def test_seeking_decodes_only_from_the_key_frame_before(tmp_path, monkeypatch):
    write_coded(tmp_path / "v.mp4", numbered_frames(range(400)), format="mp4", gop=12)
    decoded = []
    original = media._sought
    monkeypatch.setattr(media, "_sought", lambda *a, **k: (decoded.append(n) or (n, f) for n, f in original(*a, **k)))
    assert numbers_of(media.read_frames(tmp_path / "v.mp4", [200, 390])) == [200, 390]
    assert len(decoded) <= 2 * (12 + 2)


def test_variable_rate_gives_what_is_on_display(tmp_path):
    write_coded(tmp_path / "v.mkv", numbered_frames(range(5)), format="matroska", b_frames=0, stamps=[0, 1, 5, 6, 7])
    rate = media.probe_video(tmp_path / "v.mkv").fps
    shown = numbers_of(media.read_frames(tmp_path / "v.mkv", range(7)))
    times = np.arange(7) / rate * 8
    assert shown == [int(np.searchsorted([0, 1, 5, 6, 7], t + 0.5, side="right")) - 1 for t in times]


def test_a_few_frames_too_many_are_promised(written):
    assert numbers_of(media.read_frames(written, [FRAMES - 1, FRAMES + 1])) == [FRAMES - 1, FRAMES - 1]


def test_reading_far_past_the_end_is_an_error(written):
    with pytest.raises(UserError, match=f"ends at frame {FRAMES - 1}, frame {FRAMES + 50} cannot"):
        media.read_frames(written, [0, FRAMES + 50])


def test_truncated_video_names_itself(written, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(written.read_bytes()[:written.stat().st_size // 2])
    with pytest.raises(UserError, match=r"broken\.mp4"):
        media.read_frames(broken, range(FRAMES))


def test_what_is_no_video_names_itself(tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("no video at all " * 100)
    for read in (media.probe_video, lambda path: media.read_frames(path, [0])):
        with pytest.raises(UserError, match=r"not a video.*text\.mp4"):
            read(text)
        with pytest.raises(UserError, match=r"no video file.*absent\.mp4"):
            read(tmp_path / "absent.mp4")


def test_a_phone_s_rotation_flag_is_heeded(written, tmp_path):
    identity = b"".join(v.to_bytes(4) for v in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    clockwise = b"".join(v.to_bytes(4) for v in (0, 1 << 16, 0, 0xFFFF0000, 0, 0, 0, 0, 1 << 30))
    content = written.read_bytes()
    at = content.index(identity, content.index(b"tkhd"))
    (tmp_path / "turned.mp4").write_bytes(content[:at] + clockwise + content[at + len(identity):])
    turned = media.read_frames(tmp_path / "turned.mp4", [37])
    np.testing.assert_array_equal(turned[0], np.rot90(media.read_frames(written, [37])[0], k=-1))


def test_written_video_is_h264_for_every_player(written):
    with av.open(str(written)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 8)


def test_the_same_frames_give_the_same_file(tmp_path):
    waves = 128 + 60 * np.sin(np.arange(64) / 5 + np.arange(16)[:, None])[:, :, None, None]
    frames = (waves + 20 * np.random.default_rng(0).standard_normal((16, 64, 64, 3))).clip(0, 255).astype(np.uint8)
    files = {media.write_video(tmp_path / f"{turn}.mp4", frames, 8).read_bytes() for turn in range(10)}
    assert len(files) == 1


def test_frames_may_be_an_iterator_and_the_folder_new(tmp_path):
    path = media.write_video(tmp_path / "new" / "clip.mp4", iter(numbered_frames(range(20))), 12.5)
    assert media.probe_video(path)[:2] == (12.5, 20)


def test_odd_sizes_are_extended_by_a_pixel(tmp_path):
    frames = numbered_frames(range(4))[:, :47, :79]
    path = media.write_video(tmp_path / "odd.mp4", frames, 8)
    back = media.read_frames(path, range(4))
    assert back.shape == (4, 48, 80, 3)
    assert np.abs(back[:, :47, :79].astype(int) - frames).mean() < 4


def test_one_frame_becomes_a_picture(tmp_path):
    frame = numbered_frames([5])
    path = media.write_video(tmp_path / "clip.mp4", frame, 8)
    assert path == tmp_path / "clip.mp4.png"
    np.testing.assert_array_equal(np.asarray(media.read_image(path)), frame[0])
    assert os.listdir(tmp_path) == ["clip.mp4.png"]


def test_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")

    def no_space(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(media.av, "open", no_space)
    with pytest.raises(UserError, match=r"no space left.*clip\.mp4"):
        media.write_video(path, numbered_frames(range(4)), 8)
    assert os.listdir(tmp_path) == ["clip.mp4"]
    assert path.read_bytes() == b"old"


def test_interrupted_writing_leaves_nothing(tmp_path):
    def frames():
        yield from numbered_frames(range(30))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        media.write_video(tmp_path / "clip.mp4", frames(), 8)
    assert os.listdir(tmp_path) == []


def test_image_is_rgb_and_upright(tmp_path):
    image = Image.fromarray(np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4) * 10, "RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    image.save(tmp_path / "a.png", exif=exif)
    read = media.read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(read), np.rot90(np.asarray(image.convert("RGB")), k=-1))


@pytest.mark.parametrize("content", [b"not an image", b"", b"\x89PNG\r\n\x1a\n?"], ids=["text", "empty", "broken"])
def test_what_is_no_image_names_itself(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"not an image: .*a\.png"):
        media.read_image(tmp_path / "a.png")


def test_truncated_image_names_itself(tmp_path):
    media.write_png(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"not an image: .*b\.png"):
        media.read_image(tmp_path / "b.png")


def test_missing_image_names_itself(tmp_path):
    with pytest.raises(UserError, match="no image file"):
        media.read_image(tmp_path / "absent.png")


def test_to_uint8_scales_clamps_and_truncates():
    video = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 2.0]).reshape(6, 1, 1, 1).expand(6, 3, 2, 4)
    out = media.to_uint8(video, [0.5] * 3, [0.5] * 3)
    assert out.shape == (6, 2, 4, 3)
    assert out[:, 0, 0, 0].tolist() == [0, 0, 127, 254, 255, 255]


def test_to_uint8_knows_three_orders():
    video = torch.linspace(-1, 1, 2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    mean, std = [0.5, 0.4, 0.6], [0.5, 0.3, 0.2]
    whole = media.to_uint8(video, mean, std)
    assert whole.shape == (2, 4, 5, 6, 3)
    np.testing.assert_array_equal(whole[1], media.to_uint8(video[1].transpose(0, 1), mean, std))
    np.testing.assert_array_equal(whole[1, 2], media.to_uint8(video[1, :, 2], mean, std))


@pytest.mark.parametrize(("share", "left"), [(0.39, 5), (0.41, 4)])
def test_grey_tail_is_dropped_above_forty_percent(share, left):
    frames = np.full((5, 10, 10, 3), 200, np.uint8)
    frames[-1].reshape(-1)[:round(share * 300)] = 137
    assert len(media.drop_grey_tail(frames)) == left


def test_a_gif_plays_forever_at_the_rate_it_was_given(tmp_path):
    frames = numbered_frames(range(9))
    path = media.write_video(tmp_path / "x.gif", frames, 8)
    with Image.open(path) as gif:
        shown, lasting = [], []
        for number in range(gif.n_frames):
            gif.seek(number)
            lasting.append(gif.info["duration"])
            shown.append(np.asarray(gif.convert("RGB")))
        assert gif.info["loop"] == 0
    assert numbers_of(np.stack(shown)) == list(range(9))
    assert sum(lasting) == pytest.approx(9 * 125, abs=10)
