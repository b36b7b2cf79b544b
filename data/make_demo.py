"""Draw this folder's pictures and clips, and write the lists that name them: `python -m data.make_demo`."""
import itertools
import json
from pathlib import Path

import numpy as np
import yaml

from tools import media
from tools.world.draw import object_cover, render
from tools.world.scene import Truth, sample_truth
from tools.world.vocabulary import NEW_COLORS, NEW_SHAPES, World, caption_of

DATA = Path("data")
SERIES = 20240  # the seed of no training set and no test
SIZE = (64, 64)
FPS = 8

PICTURES = [
    "a red star moving left on a white background",
    "a blue circle moving up on a gray background",
    "a yellow triangle moving right on a black background",
    "a green square growing on a white background",
    "a purple star shrinking on a striped background",
    "an orange circle moving down on a black background",
]
CLIPS = {  # caption -> frames; the last is shorter than a training clip of 16
    "a green star moving right on a white background": 40,
    "an orange square moving up on a gray background": 24,
    "a purple circle growing on a black background": 12,
}

PHOTOS = 6  # of the subject that no base model has seen
LARGE = World(radius=(0.22, 0.28), travel=(0.30, 0.38))  # as in configs/tiny/common.yaml
SUBJECT = World(shapes=tuple(NEW_SHAPES), colors=tuple(NEW_COLORS), radius=(0.22, 0.28), travel=(0.30, 0.38))


def main() -> None:
    draw_subject()
    pictures = {}
    for caption in PICTURES:
        name = f"{file_stem(caption)}.png"
        media.write_png(DATA / "tiny_images" / name, render(find(caption), 1, SIZE)[0])
        pictures[name] = caption
    clips = {}
    for caption, frames in CLIPS.items():
        name = f"{file_stem(caption)}.mp4"
        media.write_video(DATA / "tiny_clips" / name, render(find(caption), frames, SIZE), FPS)
        clips[name] = caption
    write_list("tiny_i2v_list.txt", "Picture and what happens next; paths start at the working directory.",
               [f"{DATA}/tiny_images/{name}|||{caption}" for name, caption in pictures.items()])
    write_list("img_list.txt", "Pictures to train on; data_dir_list names their folder, data/tiny_images.",
               [f"{name}|||{caption}" for name, caption in pictures.items()])
    write_list("vid_list.txt", "Clips to train on; data_dir_list names their folder, data/tiny_clips.",
               [f"{name}|||{caption}" for name, caption in clips.items()])
    records = [json.dumps({"text": caption, "file": name, "fps": FPS}) + "\n" for name, caption in clips.items()]
    (DATA / "webvid.jsonl").write_text("".join(records), encoding="utf-8")
    prompts = {"seeds": "random", "prompts": list(pictures.values()), "n_prompts": [""],
               "path_to_first_frames": [f"{DATA}/tiny_images/{name}" for name in pictures]}
    (DATA / "consisti2v_prompts.yaml").write_text(yaml.safe_dump(prompts, sort_keys=False), encoding="utf-8")


def draw_subject() -> None:
    """Photos of a striped hexagon, with masks: white where it is."""
    folder, lines = DATA / "tiny_subject", []
    for number in range(PHOTOS):
        truth = sample_truth(SERIES, number, SUBJECT)
        mask = 255 * (object_cover(truth, 1, SIZE)[0] > 0.5)
        media.write_png(folder / f"{number}.png", render(truth, 1, SIZE)[0])
        media.write_png(folder / "masks" / f"{number}.png", mask.astype(np.uint8))
        lines.append(f"{number}.png|||a * {truth.motion} on a {truth.background} background")
    write_list("tiny_subject.txt", "Photos of a subject to learn, in data/tiny_subject with their masks.", lines)


def find(caption: str) -> Truth:
    """First clip of the series that bears this caption."""
    truths = (sample_truth(SERIES, index, LARGE) for index in itertools.count())
    return next(truth for truth in truths if caption_of(truth) == caption)


def file_stem(caption: str) -> str:
    """Colour and shape: `a red star moving ...` -> `red_star`."""
    return "_".join(caption.split()[1:3])


def write_list(name: str, comment: str, lines: list[str]) -> None:
    (DATA / name).write_text("\n".join([f"# {comment}", *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
