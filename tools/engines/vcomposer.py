"""VideoComposer (arXiv 2306.02018) on TF-T2V's network: text and any of nine further conditions to a video.

Sampling makes one video for every set of `partial_keys` and every line of the list, all of a line's from the same
noise. The branch without guidance keeps all maps and the palette, has the negative prompt for its text and zeros for
its image vector, as in the original. The original's guidance was 9 whatever its YAML said, and of the conditions it
fed neither motion vectors nor edges nor palettes; here all are fed and `guide_scale` counts.

The original has no training. What its network and the paper leave open is decided here:

- every update tells the network all conditions that it has modules for, made of the clip itself; the network's own
  dropout (`misc_dropout`, `p_all_zero`, `p_all_keep` of the UNet) leaves any subset of them;
- the mask is drawn anew for every clip, strokes, rectangles or a half, as sampling draws it;
- text falls to the negative prompt with `p_zero` and the image vector to zeros with `p_image_zero`: just what the
  branch without guidance shows the network;
- `conditions_from` is `annotators`, or `truth` for clips of the small world, whose depth, sketches and motion are known
  and whose mask is the object; edges and palettes are read off pixels in both cases.
"""
import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from tools.annotators.base import as_pictures
from tools.datasets.lists import clean_name
from tools.datasets.steered import TEXT, VIDEO, SteeredItem, check_files, read_steered
from tools.datasets.steered_clips import READ_OFF, Clip, ClipReader, RandomDraws
from tools.datasets.transforms import Normalize, Resize, ToTensor
from tools.engines.controls import Control
from tools.engines.engine import tasks
from tools.engines.i2vgen import dropped
from tools.engines.steering import ANNOTATORS, Steering, TruthSteering
from tools.engines.text2video import TextToVideo
from tools.errors import BadItem, UserError
from tools.models.composer import ENTRIES
from tools.registry import ANNOTATOR
from tools.world.conditions import pack, unpack

PACKED = ("words", "path")  # what is kept of a truth
WEIGHTS = ("weights", "simplification")  # options of annotators that name files


@dataclass(frozen=True)
class ConditionSet(Control):
    """The one set of `partial_keys` that a video is to have, of what the denoiser knows."""

    widget = "checks"

    def options(self, cfg) -> tuple[str, ...]:
        return VideoComposer.keys_of(cfg)

    def value(self, cfg) -> list[str]:
        return list(next(iter(cfg.partial_keys), ()))

    def changes(self, cfg, value: list[str]) -> dict:
        if not value:
            raise UserError(f"no condition is chosen; there are: {', '.join(self.options(cfg))}")
        return {self.key: [[key for key in self.options(cfg) if key in value]]}


@tasks(train=("train_tft2v_vcomposer_entrance",), sample=("inference_tft2v_vcomposer_entrance",))
class VideoComposer(TextToVideo):
    """Text, maps, palette and image vector are the conditions."""

    reseeds = needs_clip = True
    controls = (ConditionSet("partial_keys", "Conditions (y: the text)"),)

    @property
    def needs_image_vector(self) -> bool:
        """Whether a set of conditions has the image vector."""
        asked = self.cfg.partial_keys if self.mode == "sample" else [self.keys]
        return any("image" in keys for keys in asked)

    @staticmethod
    def keys_of(cfg) -> tuple[str, ...]:
        """What the denoiser of a configuration can be told, as its forward calls it."""
        return tuple(key for key, entry in ENTRIES.items() if entry in cfg.video_compositions)

    @property
    def keys(self) -> tuple[str, ...]:
        """What the denoiser can be told."""
        return self.keys_of(self.cfg)

    @property
    def map_keys(self) -> list[str]:
        """Those of them that are made by `steering`: all but text and image vector."""
        return [key for key in self.keys if key in self.steering.producers]

    @property
    def from_truth(self) -> bool:
        """Whether conditions come from the truth of the small world."""
        return self.cfg.conditions_from == "truth"

    @cached_property
    def steering(self) -> Steering:
        """What makes conditions of clips."""
        return (TruthSteering if self.from_truth else Steering)(annotator_options(self.cfg, self.runtime.device))

    @classmethod
    def further_files(cls, cfg, mode: str) -> list[tuple[str, str]]:
        """Weights of the annotators."""
        asked = itertools.chain(*cfg.partial_keys) if mode == "sample" else cls.keys_of(cfg)
        names = () if cfg.conditions_from == "truth" else dict.fromkeys(ANNOTATORS[k] for k in asked if k in ANNOTATORS)
        options = annotator_options(cfg, "cpu")
        known = [(name, ANNOTATOR.parameters(name), options.get(name, {})) for name in names]
        files = [(f"annotators.{name}.{key}", given.get(key, parameters[key].default))
                 for name, parameters, given in known for key in WEIGHTS if key in parameters]
        return [(key, path) for key, path in files if path]

    def check(self) -> None:
        super().check()
        if self.mode == "sample" and self.from_truth:
            raise UserError("conditions_from truth: the files of a list have no truth; set conditions_from annotators")
        if self.mode == "train" and not self.from_truth:
            for key in self.map_keys:
                self.steering.require(key)

    # Conditions.

    def conditions(self, batch: dict, training: bool) -> tuple[dict, dict]:
        positive, negative = super().conditions(batch, training)
        keys = batch.get("keys", self.keys)
        if TEXT not in keys:
            positive[TEXT] = negative[TEXT]
        if not (self.cfg.use_fps_condition or self.cfg.UNet.get("use_fps_condition")):
            del positive["fps"], negative["fps"]
        maps = self.maps(batch, [key for key in keys if key in self.map_keys])
        positive, negative = positive | maps, negative | maps
        if "image" in keys:
            vector = self.image_vector(batch)
            negative["image"] = torch.zeros_like(vector)
            positive["image"] = dropped(vector, self.cfg.p_image_zero) if training else vector
        return positive, negative

    def maps(self, batch: dict, keys: list[str]) -> dict[str, torch.Tensor]:
        """Maps [B, C, F, H, W] and palettes [B, F, colours] of a batch, those at hand or made now."""
        made = batch if all(key in batch for key in keys) else self.made(batch)
        return {key: made[key] for key in keys}

    def made(self, batch: dict) -> dict[str, torch.Tensor]:
        """All maps and palettes of a batch of training clips."""
        if not self.from_truth:
            return self.features(batch)
        kept = batch if "path" in batch else self.features(batch)
        scenes = unpack(kept["words"], kept["path"], tuple(self.cfg.resolution))
        return self.stacked([self.steering(self.map_keys, Clip(len(scene.path.radii), scene=scene))
                             for scene in scenes])

    def stacked(self, told: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Conditions of single clips as those of a batch, on the run's device."""
        return {key: torch.stack([one[key] for one in told]).to(self.runtime.device) for key in told[0]}

    # Training.

    @property
    def pixel_features(self) -> tuple[str, ...]:
        """What is kept of a clip beside its latents; it names the cache, so that options count."""
        return PACKED if self.from_truth else (*self.map_keys, str(self.steering.options))

    @torch.no_grad()
    def features(self, batch: dict) -> dict[str, torch.Tensor]:
        """The truth of a batch of the small world, or the conditions that annotators read off its pixels."""
        if self.from_truth:
            if "truth" not in batch:
                raise UserError("conditions_from truth: the dataset does not know the truth of its clips; take "
                                "ProceduralVideoDataset, or conditions_from annotators")
            return pack(batch["truth"])
        return self.stacked([self.steering(self.map_keys, self.clip_of(video)) for video in batch["video"]])

    def clip_of(self, video: torch.Tensor) -> Clip:
        """A training clip from normalised pixels [F, 3, H, W], with a mask of its own."""
        draws = RandomDraws(torch.Generator().manual_seed(int(torch.randint(2**62, ()))))
        mask = torch.from_numpy(draws.mask(video.shape[3], video.shape[2]))[None, None]
        return Clip(len(video), self.unit_range(video), mask=mask)

    # Sampling.

    @cached_property
    def reader(self) -> ClipReader:
        """What reads the files of a line."""
        cfg = self.cfg
        rate = cfg.sample_fps[0] if isinstance(cfg.sample_fps, list) else cfg.sample_fps
        return ClipReader(cfg.resolution, cfg.max_frames, rate, original=cfg.condition_loading == "original")

    def items(self) -> list[SteeredItem]:
        """Lines `video|||caption`, each with every set of conditions."""
        cfg = self.cfg
        return read_steered(cfg.test_list_path, cfg.data_dir, cfg.partial_keys, cfg.video_compositions)

    def source(self, item: SteeredItem) -> str | None:
        return item.files.get(VIDEO)

    @classmethod
    def list_changes(cls, list_file: str) -> dict:
        return super().list_changes(list_file) | {"data_dir": ""}

    def draw_conditions(self, request) -> dict[str, np.ndarray]:
        """The frames that conditions are read off, and what is read, by the draws that the request's video has."""
        item = request.item
        clip = self.reader(item, request.generator())
        drawn = {} if clip.frames is None else {VIDEO: as_pictures(clip.frames.expand(clip.length, -1, -1, -1))}
        drawn |= {key: self.steering.draw(key, told) for key, told in self.steering(item.keys, clip).items()}
        if clip.picture is not None:
            drawn["image"] = np.asarray(clip.picture)[None].repeat(clip.length, axis=0)
        return {key: _resized(frames, self.cfg.resolution) for key, frames in drawn.items()}

    def resolved(self, request):
        item = request.item
        try:
            check_files(item, self.cfg.max_frames, pad=self.reader.original)
            for key in item.keys:
                if key in READ_OFF or not item.is_own(key):
                    self.steering.require(key)
        except UserError as error:
            raise BadItem(f"list file '{self.cfg.test_list_path}', line {item.line}, conditions {' '.join(item.keys)}: "
                          f"{error}") from error
        return request

    def request(self, items: list[SteeredItem], generators: list) -> dict:
        """As for text to video; all items have the same set of conditions."""
        keys = items[0].keys
        clips = [self.reader(item, generator) for item, generator in zip(items, generators, strict=True)]
        batch = super().request(items, generators) | {"keys": keys}
        batch |= self.stacked([self.steering(keys, clip) for clip in clips])
        if "image" in keys:
            batch["vit_frame"] = self.for_image_encoder([clip.picture for clip in clips])
        return batch

    def for_image_encoder(self, pictures: list[Image.Image]) -> torch.Tensor:
        """Pictures as CLIP sees them: the middle, or in the original's way the whole picture, stretched twice."""
        if not self.reader.original:
            return super().for_image_encoder(pictures)
        cfg = self.cfg
        steps = (Resize(cfg.resolution), Resize(cfg.vit_resolution), ToTensor(), Normalize(cfg.vit_mean, cfg.vit_std))
        for step in steps:
            pictures = step(pictures)
        return pictures.to(self.runtime.device)

    @torch.no_grad()
    def generate(self, items: list, generators: list, progress=None) -> list[torch.Tensor]:
        """As for text to video; different sets of conditions are denoised one after the other."""
        videos = []
        for _, group in itertools.groupby(zip(items, generators, strict=True), key=lambda pair: pair[0].keys):
            part, draws = zip(*group, strict=True)
            videos += super().generate(list(part), list(draws), progress)
        return videos

    def output_name(self, request, rank: int, world_size: int) -> str:
        name = f"condition_{'_'.join(request.item.keys)}_{clean_name(request.item.caption)}"
        return f"rank_{world_size:02d}_{rank:02d}_{request.index:04d}_{name}.mp4"


def _resized(frames: np.ndarray, size: list[int]) -> np.ndarray:
    """uint8 [F, H, W, 3] at size = [width, height]."""
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.NEAREST)) for frame in frames])


def annotator_options(cfg, device) -> dict[str, dict]:
    """Options of every annotator: those of the original's keys, then what `annotators` says."""
    network = {"device": str(device), "chunk": cfg.chunk_size}
    options = {"depth": network | {"std": cfg.depth_std, "clamp": cfg.depth_clamp},
               "sketch": network | {"mean": cfg.sketch_mean, "std": cfg.sketch_std}}
    return options | {name: options.get(name, {}) | dict(given) for name, given in cfg.annotators.items()}
