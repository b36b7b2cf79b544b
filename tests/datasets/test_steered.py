"""Lists of the compositional model: what a line may name, what is refused, and what is read."""
import numpy as np
import pytest
import torch
from PIL import Image

from tools import media
from tools.datasets.steered import SteeredItem, check_files, read_steered
from tools.datasets.steered_clips import WHITE_DEPTH, ClipReader, vectors_at
from tools.errors import UserError
from tools.models.composer import ENTRIES

EVERYTHING = list(ENTRIES.values())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Frame i of `clip.mp4` is grey level 5 i; also a shorter clip, a wide one, a picture and vectors."""
    monkeypatch.chdir(tmp_path)
    for name, frames, size in (("clip", 40, (24, 32)), ("short", 3, (24, 32)), ("wide", 40, (16, 64)),
                               ("other", 30, (24, 32))):
        levels = np.arange(frames, dtype=np.uint8) * 5
        media.write_video(f"{name}.mp4", np.broadcast_to(levels[:, None, None, None], (frames, *size, 3)), 8)
    Image.new("RGB", (32, 24), (250, 0, 0)).save("red.png")
    Image.new("L", (32, 24), 128).save("grey.png")
    np.save("vectors.npy", np.ones((2, 12, 16)))
    np.save("words.npy", np.array(["a"]))
    return tmp_path


def item(keys: str, **files: str) -> SteeredItem:
    return SteeredItem(1, "a boat", keys=tuple(keys.split()), files=files)


def listed(text: str, sets=(("y", "depth"),), entries=EVERYTHING):
    with open("list.txt", "w") as file:
        file.write(text)
    return read_steered("list.txt", "clips", sets, entries)


def test_every_line_comes_with_every_set(folder):
    items = listed("a.mp4|||a boat|7\n# none\nb.mp4|||a cat\n", [("y", "depth"), ("y", "sketch", "image")])
    assert [(i.line, i.keys, i.files, i.seed) for i in items] == [
        (1, ("y", "depth"), {"video": "clips/a.mp4"}, 7), (1, ("y", "sketch", "image"), {"video": "clips/a.mp4"}, 7),
        (3, ("y", "depth"), {"video": "clips/b.mp4"}, None),
        (3, ("y", "sketch", "image"), {"video": "clips/b.mp4"}, None)]


def test_a_line_may_name_files_for_single_conditions(folder):
    only, = listed("sketch = drawn.png; image=style=1.jpg ;|||a boat\n", [("y", "single_sketch", "image", "depth")])
    assert only.files == {"sketch": "clips/drawn.png", "image": "clips/style=1.jpg"}
    assert only.file_of("single_sketch") == "clips/drawn.png" and only.is_own("single_sketch")
    assert only.file_of("depth") is None


@pytest.mark.parametrize(("text", "sets", "entries", "words"), [
    ("a.mp4|||b", [("y", "dept")], EVERYTHING, ["no condition 'dept'", "did you mean 'depth'"]),
    ("a.mp4|||b", [("y", "depth")], ["text"], ["'depth'", "video_compositions lacks 'depthmap'"]),
    ("a.mp4|||b", [], EVERYTHING, ["partial_keys is empty"]),
    ("sketch=a.png; depht=b.png|||b", [("y",)], EVERYTHING, ["line 1", "'depht=b.png'", "did you mean 'depth'"]),
    ("sketch=a.png; sketch=b.png|||b", [("y",)], EVERYTHING, ["line 1", "'sketch' is given twice"]),
    ("sketch=|||b", [("y",)], EVERYTHING, ["line 1", "condition=path"]),
])
def test_lists_that_cannot_be_read_are_refused(folder, text, sets, entries, words):
    with pytest.raises(UserError) as error:
        listed(text + "\n", sets, entries)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("good", [
    item("y depth sketch motion", video="clip.mp4"),
    item("y depth local_image image", video="red.png"),
    item("y image", image="short.mp4"),
    item("y depth histogram", video="clip.mp4", histogram="wide.mp4"),
    item("y motion", motion="vectors.npy"),
    item("masked", video="clip.mp4", masked="grey.png"),
])
def test_what_can_steer_passes(folder, good):
    check_files(good, 16, pad=False)


@pytest.mark.parametrize(("bad", "words"), [
    (item("y depth", video="short.mp4"), ["'short.mp4' has 3 frames", "'depth' needs 16", "max_frames 3"]),
    (item("y depth", video="gone.mp4"), ["gone.mp4"]),
    (item("y depth", sketch="red.png"), ["'depth' is asked for", "no file"]),
    (item("y motion", video="red.png"), ["'motion' cannot be read off the picture 'red.png'"]),
    (item("y motion", motion="words.npy"), ["words.npy", "finite numbers"]),
    (item("y sketch", sketch="vectors.npy"), ["arrays are for 'motion' alone"]),
    (item("y depth sketch", depth="clip.mp4", sketch="other.mp4"), ["contradict", "40 frames", "30"]),
    (item("y depth sketch", depth="clip.mp4", sketch="wide.mp4"), ["contradict", "32x24", "64x16"]),
    (item("y masked", masked="grey.png"), ["no video whose rest is to be kept"]),
])
def test_what_cannot_steer_is_refused(folder, bad, words):
    with pytest.raises(UserError) as error:
        check_files(bad, 16, pad=False)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def levels(frames: torch.Tensor) -> list[int]:
    return (frames.mean(dim=(1, 2, 3)) * 255 / 5).round().int().tolist()


def test_every_slot_holds_a_frame_of_the_clip_from_a_drawn_start(folder):
    reader = ClipReader((16, 16), 6, sample_fps=4)
    starts = set()
    for seed in range(6):
        clip = reader(item("y depth", video="clip.mp4"), torch.Generator().manual_seed(seed))
        shown = levels(clip.frames)
        starts.add(shown[0])
        assert clip.frames.shape == (6, 3, 16, 16) and np.diff(shown).tolist() == [2] * 5
    assert len(starts) > 2


def test_a_style_of_another_length_does_not_choose_the_frames(folder):
    clip = ClipReader((16, 16), 6, sample_fps=1)(item("y image depth", video="clip.mp4", image="short.mp4"),
                                                 torch.Generator().manual_seed(0))
    assert np.diff(levels(clip.frames)).tolist() == [7] * 5 and clip.picture.size == (32, 24)


def test_the_originals_way_leaves_the_end_black(folder):
    clip = ClipReader((16, 16), 6, sample_fps=8, original=True)(item("y depth", video="short.mp4"), torch.Generator())
    assert levels(clip.frames) == [0, 0, 0, 0, 0, 0]
    clip = ClipReader((16, 16), 48, sample_fps=8, original=True)(item("y depth", video="clip.mp4"), torch.Generator())
    assert levels(clip.frames)[:3] == [0, 1, 2] and not clip.frames[39:].any()


def test_files_of_single_conditions_are_taken_as_they_are(folder):
    clip = ClipReader((32, 24), 4, sample_fps=4)(
        item("y depth sketch single_sketch motion masked histogram image", video="clip.mp4", depth="clip.mp4",
             sketch="grey.png", masked="grey.png", motion="vectors.npy", histogram="red.png", image="red.png"),
        torch.Generator().manual_seed(0))
    assert clip.given.keys() == {"depth", "sketch", "single_sketch", "motion"}
    torch.testing.assert_close(clip.given["depth"], clip.frames[:, :1] * WHITE_DEPTH, atol=2e-2, rtol=0)
    assert clip.given["sketch"].shape == (1, 1, 24, 32) and abs(clip.given["sketch"].mean() - 128 / 255) < 1e-3
    assert clip.mask.shape == (1, 1, 24, 32) and clip.mask.all()
    assert clip.sources["histogram"].mean(dim=(0, 2, 3)).tolist() == pytest.approx([250 / 255, 0, 0], abs=1e-3)
    assert clip.picture.getpixel((0, 0)) == (250, 0, 0)


def test_vectors_grow_with_the_picture_and_start_at_rest():
    fields = vectors_at(np.ones((1, 2, 12, 16), np.float32), 3, (32, 48))
    assert not fields[0].any() and fields.shape == (3, 2, 48, 32)
    assert (fields[1:, 0] == 2).all() and (fields[1:, 1] == 4).all()


def test_masks_differ_between_requests_and_not_between_runs(folder):
    reader = ClipReader((32, 24), 2, sample_fps=8)
    masks = [reader(item("masked", video="clip.mp4"), torch.Generator().manual_seed(seed)).mask for seed in (1, 2, 1)]
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[1])
