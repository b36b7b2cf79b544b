"""The small world: the same seed gives the same clip, and a clip is what its truth says."""
import colorsys
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from tools.datasets.procedural import ProceduralVideoDataset
from tools.errors import UserError
from tools.registry import DATASETS
from tools.world.draw import background, render, unit_area
from tools.world.scene import Truth, sample_truth, track
from tools.world.vocabulary import BACKGROUNDS, COLORS, MOTIONS, SHAPES, World, caption_of, parse_caption

WITH_TURNING = World(motions=tuple(MOTIONS))


def a_truth(**changes) -> Truth:
    return Truth(**{"shape": "square", "color": "blue", "background": "white", "motion": "moving left",
                    "x": (0.1, -0.1), "y": (0, 0), "radius": (0.2, 0.2), "angle": (0, 0)} | changes)


def test_a_clip_depends_on_seed_and_index_alone():
    first, again = ProceduralVideoDataset(seed=3), ProceduralVideoDataset(seed=3, length=5)
    again[0]
    for index in (7, 10 ** 9):
        assert torch.equal(first[index]["video"], again[index]["video"])
    assert not torch.equal(first[7]["video"], first[8]["video"])
    assert not torch.equal(first[7]["video"], ProceduralVideoDataset(seed=4)[7]["video"])


def test_the_series_stays_what_it_was():
    """Models and figures refer to seeds: these clips must never change."""
    assert [caption_of(sample_truth(0, i)) for i in range(4)] == [
        "an orange circle moving down on a white background",
        "a green star shrinking on a striped background",
        "a yellow circle moving left on a gray background",
        "a purple square shrinking on a black background"]
    truth = sample_truth(0, 0)
    assert (*truth.x, *truth.y) == pytest.approx((0.1238255, 0.1238255, -0.1944686, 0.2065552), abs=1e-6)
    assert (*truth.radius, *truth.angle) == pytest.approx((0.2102237, 0.2102237, 0.1305217, 0.1305217), abs=1e-6)


def test_items_have_the_shapes_of_every_dataset_and_collate():
    dataset = DATASETS.build({"type": "ProceduralVideoDataset", "resolution": [48, 32], "max_frames": 5,
                              "vit_resolution": [28, 28]})
    item = dataset[2]
    assert item["video"].shape == (5, 3, 32, 48) and item["video"].dtype == torch.float32
    assert item["ref_frame"].shape == (3, 32, 48) and item["vit_frame"].shape == (3, 28, 28)
    batch = default_collate([dataset[0], dataset[1]])
    assert batch["truth"]["position"].shape == (2, 5, 2) and batch["truth"]["size"].shape == (2, 5)
    assert len(batch["caption"]) == len(set(batch["key"])) == 2
    assert len(dataset) == 100000


def test_pixels_are_normalised_as_asked():
    plain = ProceduralVideoDataset(mean=[0, 0, 0], std=[1, 1, 1], vit_mean=[0, 0, 0], vit_std=[1, 1, 1])[5]
    item = ProceduralVideoDataset()[5]
    expected = render(ProceduralVideoDataset().truth(5), 16, (64, 64))
    assert np.array_equal((plain["video"] * 255).round().byte().permute(0, 2, 3, 1).numpy(), expected)
    torch.testing.assert_close(item["video"], plain["video"] * 2 - 1)
    torch.testing.assert_close(plain["vit_frame"], plain["video"][0])


@pytest.mark.parametrize(("choice", "frame"), [({}, 0), ({"get_first_frame": False}, 8)])
def test_reference_frame(choice, frame):
    item = ProceduralVideoDataset(**choice)[1]
    assert torch.equal(item["ref_frame"], item["video"][frame])


def test_random_reference_frames_vary_and_repeat():
    dataset = ProceduralVideoDataset(get_random_frame=True, resolution=[16, 16])
    chosen = [next(f for f, frame in enumerate(item["video"]) if torch.equal(frame, item["ref_frame"]))
              for item in (dataset[i] for i in range(20))]
    assert len(set(chosen)) > 5
    assert torch.equal(dataset[3]["ref_frame"], dataset[3]["ref_frame"])


@pytest.mark.parametrize("size", [(64, 64), (96, 40), (17, 33)])
def test_the_object_stays_inside_the_frame(size):
    for index in range(200):
        path = track(sample_truth(1, index, WITH_TURNING), 7, size)
        assert (path.centers - path.radii[:, None] > 0).all()
        assert (path.centers + path.radii[:, None] < size).all()


def test_motion_spans_the_clip_at_any_number_of_frames():
    for index in range(40):
        truth = sample_truth(2, index)
        short, long = track(truth, 2, (64, 64)), track(truth, 31, (64, 64))
        np.testing.assert_allclose(short.centers, long.centers[[0, -1]], atol=1e-4)
        np.testing.assert_allclose(short.radii, long.radii[[0, -1]], atol=1e-4)
        distance = np.abs(short.centers[1] - short.centers[0]).max()
        ratio = max(short.radii) / min(short.radii)
        assert 22 <= distance <= 28.1 if MOTIONS[truth.motion] else 1.8 <= ratio <= 2.2
    assert track(truth, 1, (64, 64)).centers.shape == (1, 2)


@pytest.mark.parametrize("motion", MOTIONS)
def test_motions_do_what_they_are_called(motion):
    truth = sample_truth(0, 0, World(motions=(motion,)))
    path = track(truth, 9, (64, 64))
    moved = {"moving left": -path.centers[:, 0], "moving right": path.centers[:, 0], "moving up": -path.centers[:, 1],
             "moving down": path.centers[:, 1], "growing": path.radii, "shrinking": -path.radii,
             "turning": path.angles * np.sign(path.angles[-1] - path.angles[0])}[motion]
    assert (np.diff(moved) > 0).all()


def test_every_word_turns_up_about_as_often():
    for field in ("shape", "color", "background", "motion"):
        words = [getattr(sample_truth(9, i), field) for i in range(1200)]
        counts = [words.count(word) for word in getattr(World(), field + "s")]
        assert sum(counts) == 1200 and min(counts) > 0.7 * 1200 / len(counts)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_a_shape_covers_its_area_around_its_centre(shape, angle):
    truth = a_truth(shape=shape, color="green", background="black", angle=(angle, angle), x=(0.1, 0.1))
    clip = render(truth, 1, (64, 64))
    cover = clip[0, :, :, 1] / COLORS["green"][1]
    assert cover.sum() == pytest.approx(unit_area(shape) * 12.8 ** 2, rel=0.01)
    assert (cover.sum(0) @ (np.arange(64) + 0.5)) / cover.sum() == pytest.approx(32 + 6.4, abs=0.05)


def test_drawing_does_not_depend_on_resolution():
    truth = sample_truth(0, 1)
    small, large = render(truth, 3, (64, 64)), render(truth, 3, (256, 256))
    averaged = large.reshape(3, 64, 4, 64, 4, 3).mean((2, 4))
    assert np.abs(averaged - small).mean() < 1


def test_backgrounds_differ_and_stripes_have_eight_bands():
    rows = {name: background(name, 64) for name in BACKGROUNDS}
    for one, other in itertools.combinations(rows.values(), 2):
        assert np.sqrt(np.mean((one.astype(float) - other) ** 2)) > 40
    assert [int(v) for v in rows["striped"][3::8]] == [225, 170] * 4
    assert len(background("striped", 37)) == 37


def test_captions_say_what_there_is_and_parse_back():
    for index in range(300):
        truth = sample_truth(6, index, WITH_TURNING)
        said = parse_caption(caption_of(truth))
        assert all(getattr(said, role) == getattr(truth, role) for role in ("shape", "color", "background", "motion"))
    assert parse_caption("A  Red star turning on a gray background.").motion == "turning"


@pytest.mark.parametrize(("caption", "hint"), [
    ("a red stra moving left on a white background", "did you mean 'star'"),
    ("a red star moving lift on a white background", "did you mean 'moving left'"),
    ("a red star", "is not of the form"),
])
def test_other_captions_are_refused_with_the_nearest_word(caption, hint):
    with pytest.raises(ValueError, match=hint):
        parse_caption(caption)


def test_a_smaller_world_has_only_its_words():
    dataset = ProceduralVideoDataset(shapes=["circle", "star"], colors=["red"], motions=["turning", "growing"])
    truths = [dataset.truth(i) for i in range(60)]
    assert {t.color for t in truths} == {"red"} and {t.shape for t in truths} == {"circle", "star"}
    assert all(t.shape == "star" for t in truths if t.motion == "turning")


def test_colours_turn_evenly_from_the_one_that_is_named():
    truth = a_truth(color="red", hue=90.0)
    middles = [frame[rows, columns] for frame, (columns, rows) in zip(
        render(truth, 4, (64, 64)), track(truth, 4, (64, 64)).centers.astype(int), strict=True)]
    hues = [colorsys.rgb_to_hsv(*(pixel / 255))[0] * 360 for pixel in middles]
    assert tuple(middles[0]) == COLORS["red"]
    assert np.unwrap(hues, period=360) - hues[0] == pytest.approx([0, 30, 60, 90], abs=2)


def test_worlds_with_turning_colours_show_the_clips_of_those_without():
    plain, turning = World(), World(hue=(20, 120))
    truths = [(sample_truth(0, i, plain), sample_truth(0, i, turning)) for i in range(20)]
    assert all(dataclasses.replace(b, hue=0.0) == a for a, b in truths)
    assert all(20 <= b.hue <= 120 for _, b in truths) and len({b.hue for _, b in truths}) == 20


@pytest.mark.parametrize(("section", "message"), [
    ({"hue": [30, 300]}, r"hue must be \[low, high\] with 0 <= low <= high <= 180 degrees, not \[30, 300\]"),
    ({"hue": [0, 90], "colors": ["red-and-yellow"]}, "hue turns plain colours only"),
    ({"colors": ["red", "grean"]}, "did you mean 'green'"),
    ({"shapes": []}, "'shapes' must be a list of at least one"),
    ({"motions": "growing"}, "'motions' must be a list"),
    ({"shapes": ["circle"], "motions": ["turning"]}, "nobody sees a circle turn"),
    ({"max_frames": 0}, "max_frames must be at least 1"),
    ({"resolution": [64, 8]}, "resolution must be at least 16"),
    ({"color": ["red"]}, "did you mean 'colors'"),
])
def test_bad_sections_get_one_clear_line(section, message):
    with pytest.raises(UserError, match=message):
        DATASETS.build({"type": "ProceduralVideoDataset"} | section)


def test_masks_have_the_size_of_latents_of_other_strides():
    dataset = ProceduralVideoDataset(length=4, max_frames=2, resolution=(32, 32), masks=True, scale=4, seed=9)
    assert dataset[0]["mask"].shape == (2, 3, 8, 8)


def test_masks_show_where_the_object_is_at_the_size_of_the_latents():
    dataset = ProceduralVideoDataset(length=4, max_frames=3, masks=True, seed=9)
    plain = ProceduralVideoDataset(length=4, max_frames=3, seed=9)
    for index in range(4):
        item = dataset[index]
        assert item["mask"].shape == (3, 3, 8, 8) and set(item["mask"].unique().tolist()) == {0.0, 1.0}
        assert torch.equal(item["video"], plain[index]["video"]) and "mask" not in plain[index]
        truth = item["truth"]
        for frame, (x, y), radius in zip(item["mask"][:, 0], truth["position"], truth["size"], strict=True):
            assert frame[int(y) // 8, int(x) // 8] == 1
            rows, columns = frame.nonzero().T
            assert (8 * rows + 4 - y).abs().max() < radius + 8 and (8 * columns + 4 - x).abs().max() < radius + 8


def test_captions_may_have_a_form_of_their_own():
    dataset = ProceduralVideoDataset(length=1, caption="a * {motion} on {background}", motions=["growing"])
    assert dataset[0]["caption"].startswith("a * growing on ")
    with pytest.raises(UserError, match=r"caption 'a \{size\} thing'"):
        ProceduralVideoDataset(caption="a {size} thing")


def test_stray_motions_are_the_clips_own_in_half_of_the_captions_and_repeat():
    dataset = ProceduralVideoDataset(seed=5, max_frames=1, caption="{stray_motion}",
                                     motions=["moving left", "moving up"])
    items = [dataset[index] for index in range(200)]
    own = sum(item["caption"] == item["truth"]["motion"] for item in items)
    assert 0.65 < own / 200 < 0.85  # a half, and a half of the rest
    assert dataset[7]["caption"] == items[7]["caption"]
