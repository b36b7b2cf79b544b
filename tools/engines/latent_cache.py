"""Latents of a fixed part of a dataset, encoded once: pays where encoding costs more than an update."""
import collections
import hashlib
import json
import logging
from pathlib import Path

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from tools import checkpoint
from tools.embedders.features import image_vectors
from tools.engines.batches import batches

log = logging.getLogger(__name__)

ENCODED_TOGETHER = 8  # clips


class LatentClips(Dataset):
    """Items {latents [c, F, h, w], caption, fps and image_vector [E] where they are known or asked for}."""

    def __init__(self, content: dict):
        self.content = content

    def __len__(self) -> int:
        return len(self.content["caption"])

    def __getitem__(self, index: int) -> dict:
        return {key: values[index] for key, values in self.content.items()}


def cached_latents(engine, dataset: Dataset, count: int, plan: tuple[int, int, int]) -> LatentClips:
    """The first `count` items of the dataset as latents, from the run's folder or encoded now.

    Args:
        engine: gives `encode`, the embedder and the configuration that names the cache.
        dataset: of pixels.
        count: how many items are kept in memory.
        plan: (frames, batch size, frame rate) that the dataset is for.
    """
    file = Path(engine.cfg.log_dir) / "latents" / f"{_name(engine, count, plan)}.pt"
    if file.is_file():
        log.info("latents of %d samples from %s", count, file)
        return LatentClips(checkpoint.load_file(file))
    content = _encode(engine, dataset, count)
    checkpoint.save_file(content, file)
    return LatentClips(content)


def _name(engine, count: int, plan: tuple[int, int, int]) -> str:
    """Digest of all that the latents depend on."""
    cfg = engine.cfg
    frames, _, fps = plan
    parts = {"count": count, "frames": frames, "fps": fps, "seed": cfg.seed, "scale_factor": cfg.scale_factor,
             "dataset": cfg.img_dataset if frames == 1 else cfg.vid_dataset, "autoencoder": cfg.auto_encoder,
             "weights": engine.weight_digest("auto_encoder"), "image_vector": engine.needs_image_vector,
             "embedder": engine.weight_digest("embedder"), "resolution": cfg.resolution, "chunk_size": cfg.chunk_size,
             "vit_resolution": cfg.vit_resolution, "pixels": [cfg.mean, cfg.std, cfg.vit_mean, cfg.vit_std]}
    if engine.pixel_features:
        parts["features"] = engine.pixel_features
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@torch.no_grad()
def _encode(engine, dataset: Dataset, count: int) -> dict:
    cfg = engine.cfg
    source = batches(dataset, batch_size=ENCODED_TOGETHER, seed=cfg.seed, shuffle=False, done=0, rank=0, world_size=1,
                     num_workers=cfg.num_workers, prefetch_factor=cfg.prefetch_factor, pin_memory=False)
    generator = torch.Generator().manual_seed(cfg.seed)
    captions, parts = [], collections.defaultdict(list)
    with tqdm(total=count, desc="encoding", unit="clip", disable=not engine.runtime.is_main) as bar:
        while len(captions) < count:
            batch = engine.to_device(next(source))
            captions += batch["caption"]
            parts["latents"].append(engine.encode(batch["video"], generator).cpu())
            for key, value in engine.features(batch).items():
                parts[key].append(value.cpu())
            if "fps" in batch:
                parts["fps"].append(batch["fps"].cpu())
            if engine.needs_image_vector:
                parts["image_vector"].append(image_vectors(engine.embedder, batch["vit_frame"]).cpu())
            bar.update(len(batch["caption"]))
    return {"caption": captions[:count]} | {key: torch.cat(values)[:count] for key, values in parts.items()}
