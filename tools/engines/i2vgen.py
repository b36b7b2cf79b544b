"""I2VGen-XL (arXiv 2311.04145): one picture and a caption to a video.

The original never released the training. What its report, its YAML and its network leave open is decided here:

- the local image is the first frame's own latent (the draw that the denoiser is to reproduce), the CLIP picture is the
  same frame, the frame rate is the clip's;
- text is dropped to the negative prompt with `p_zero`, the image vector to zeros with `p_image_zero`, independently:
  just what the unconditional branch of sampling shows the network (`use_zero_infer`);
- the local image is kept unless `p_local_image_zero` asks otherwise, since both branches of sampling see it.
"""
from pathlib import Path

import torch

from tools.datasets.lists import clean_name, read_pairs
from tools.datasets.transforms import train_transforms
from tools.engines.controls import FRAMEINIT
from tools.engines.engine import tasks
from tools.engines.text2video import TextToVideo
from tools.media import read_image


@tasks(train=("train_i2v_vs_img_text_entrance",), sample=("inference_i2vgen_entrance",))
class ImageToVideo(TextToVideo):
    """Adds to the text the picture: as a CLIP vector and as the latent of the first frame."""

    needs_image_vector = needs_picture = True
    controls = (FRAMEINIT,)

    def conditions(self, batch: dict, training: bool) -> tuple[dict, dict]:
        positive, negative = super().conditions(batch, training)
        vector, local = self.image_vector(batch), self._local(batch)
        null = torch.zeros_like(vector)
        if training:
            vector = dropped(vector, self.cfg.p_image_zero)
            local = dropped(local, self.cfg.p_local_image_zero)
        elif not self.cfg.use_zero_infer:
            null = None
        return (positive | {"image": vector, "local_image": local},
                negative | {"image": null, "local_image": local})

    def _local(self, batch: dict) -> torch.Tensor:
        """Latent of the first frame, [B, c, F, h, w] with one and the same picture in all frames."""
        if "local_image" in batch:
            return batch["local_image"]
        first = batch["latents"][:, :, :1]
        return first.expand_as(batch["latents"])

    def reference_latents(self, batch: dict) -> torch.Tensor:
        return self._local(batch)

    def request(self, items: list, generators: list) -> dict:
        cfg, device = self.cfg, self.runtime.device
        pictures = [read_image(item.path) for item in items]
        pixels = train_transforms(cfg.resolution, cfg.mean, cfg.std)
        local = [self.encode(pixels([picture])[None].to(device), generator)
                 for picture, generator in zip(pictures, generators, strict=True)]
        return super().request(items, generators) | {
            "vit_frame": self.for_image_encoder(pictures),
            "local_image": torch.cat(local).expand(-1, -1, cfg.max_frames, -1, -1),
        }

    def items(self) -> list:
        """Lines `picture|||caption`."""
        return read_pairs(self.cfg.test_list_path)

    def check(self) -> None:
        super().check()
        if self.mode == "sample":
            for item in self.items():
                if item.caption:
                    read_image(item.path)

    def output_name(self, request, rank: int, world_size: int) -> str:
        picture = Path(request.item.path).name.split(".")[0]
        return f"{picture}_{world_size:02d}_{rank:02d}_{clean_name(request.item.caption)}_{request.index:02d}.mp4"


def dropped(condition: torch.Tensor, probability: float) -> torch.Tensor:
    """The condition with whole samples set to zero at the given probability."""
    if not probability:
        return condition
    kept = (torch.rand(len(condition)) >= probability).to(condition)
    return condition * kept.view(-1, *[1] * (condition.dim() - 1))
