"""Videos against captions: what is wrong must count as wrong, in the functions and in the command."""
import json
import math

import numpy as np
import pytest

from tools.errors import UserError
from tools.media import write_video
from tools.metrics.__main__ import main
from tools.metrics.attributes import ATTRIBUTES, accuracies, evaluate, judge, object_kept
from tools.metrics.fidelity import first_frame_psnr, psnr
from tools.metrics.geometry import read_clip
from tools.world.draw import render
from tools.world.scene import sample_truth
from tools.world.vocabulary import caption_of

SIZE = (64, 64)
TRUTHS = [sample_truth(31, index) for index in range(6)]
CAPTIONS = [caption_of(truth) for truth in TRUTHS]


def clips():
    return [render(truth, 8, SIZE) for truth in TRUTHS]


def test_right_clips_score_one():
    assert evaluate(clips(), CAPTIONS) == dict.fromkeys((*ATTRIBUTES, "all", "kept"), 1.0) | {"clips": 6}


@pytest.mark.parametrize(("said", "other", "attribute"), [
    ("red", "green", "color"), ("star", "triangle", "shape"), ("left", "right", "motion"),
    ("white", "black", "background"),
])
def test_one_wrong_word_fails_its_attribute_alone(said, other, attribute):
    caption = "a red star moving left on a white background"
    truth = next(t for i in range(3000) if caption_of(t := sample_truth(1, i)) == caption)
    right = judge(render(truth, 8, SIZE), caption.replace(said, other)).right
    assert not right.pop(attribute) and not right.pop("all")
    right.pop("kept")
    assert all(right.values())


def test_a_clip_played_backwards_moves_the_other_way():
    scores = evaluate([clip[::-1] for clip in clips()], CAPTIONS)
    assert scores["motion"] == scores["all"] == 0 and scores["shape"] == scores["kept"] == 1


def test_an_object_that_changes_in_one_frame_is_not_kept():
    video = clips()[0].copy()
    assert object_kept(read_clip(video))
    video[3] = video[3][..., [2, 0, 1]]  # another hue, the same shape
    judgement = judge(video, CAPTIONS[0])
    assert judgement.right["color"] and not judgement.right["kept"]
    assert not object_kept(read_clip(np.full_like(video, 255)))


def test_every_clip_needs_its_caption():
    with pytest.raises(ValueError, match="shorter"):
        evaluate(clips(), CAPTIONS[:-1])
    with pytest.raises(ValueError, match="no clips"):
        accuracies([])
    with pytest.raises(ValueError, match="is not of the form"):
        judge(clips()[0], "a cat")


def test_psnr():
    image = np.full((4, 4, 3), 100, np.uint8)
    assert psnr(image, image) == math.inf
    assert psnr(image + np.uint8(10), image) == pytest.approx(20 * math.log10(25.5))
    video = np.stack([image + np.uint8(1), image])
    assert first_frame_psnr(video, image) == pytest.approx(20 * math.log10(255))
    with pytest.raises(ValueError, match="one shape"):
        psnr(image, image[:2])


@pytest.fixture
def folder(tmp_path):
    for number, (clip, caption) in enumerate(zip(clips()[:3], CAPTIONS)):
        write_video(tmp_path / f"{number}.mp4", clip, 8)
        (tmp_path / f"{number}.json").write_text(json.dumps({"prompt": caption}))
    return tmp_path


def test_the_command_reads_sidecars(folder, capsys):
    (folder / "2.json").write_text(json.dumps({"prompt": CAPTIONS[2].replace(TRUTHS[2].shape, "blob")}))
    main([str(folder), "--json", str(folder / "out" / "report.json")])
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["accuracies"] == dict.fromkeys((*ATTRIBUTES, "all", "kept"), 1.0) | {"clips": 2}
    assert report["skipped"] == 1
    printed = capsys.readouterr()
    assert "100.0%" in printed.out and "no shape 'blob'" in printed.err


def test_the_command_reads_caption_lists(folder, capsys):
    (folder / "list.txt").write_text(f"a/0.mp4|||{CAPTIONS[0]}\nb/1.mp4|||{CAPTIONS[0]}\n")
    main([str(folder / "0.mp4"), str(folder / "1.mp4"), "--captions", str(folder / "list.txt")])
    assert "wrong: " in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["nowhere"], "no file or folder 'nowhere'"),
    (["{folder}/none"], "no MP4 in folder"),
    (["{folder}/0.json", "--captions", "{folder}/gone.txt"], "gone.txt"),
    (["{folder}/bare.mp4"], "none of the 1 videos"),
])
def test_bad_input_gets_one_clear_line(folder, arguments, message):
    (folder / "none").mkdir()
    (folder / "bare.mp4").write_bytes((folder / "0.mp4").read_bytes())
    with pytest.raises(UserError, match=message):
        main([argument.format(folder=folder) for argument in arguments])
