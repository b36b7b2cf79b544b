"""TF-T2V (arXiv 2312.15770): text to video, learned from captioned pictures and videos without text.

Sampling is the original's. Its training was not released; after the paper, every update has two branches that share
all weights:

- the content branch learns from captioned pictures (`img_dataset`), each a video of one frame;
- the motion branch learns from clips (`vid_dataset`). A clip without a caption is told one of its frames instead (which
  one is the dataset's choice), as its CLIP vector, and also as its pixels where `video_compositions` has
  `local_image`; one with a caption is told both, which is the paper's semi-supervised setting;
- `Diffusion.coherence`, 0.1 in the paper, weighs the coherence loss on the changes from frame to frame.

What the paper leaves open: the two terms are added, the content branch times `content_weight`; each update takes
batch_sizes['1'] / batch_sizes[F] pictures per clip, drawn at random; the text of a clip without one is the negative
prompt; and with `p_image_zero` a whole batch of clips goes without its pictures, since sampling shows none.

Text that was only ever seen with single pictures does not move them. With `picture_first` sampling uses the branches as
they were trained, one after the other: the text makes a picture, and the picture, in place of the text, a video. What
the picture says of the motion to come then counts, and each branch does only what it has learned.
"""
import torch
from torch.utils.data import Dataset
from torchvision.transforms.functional import to_pil_image

from tools.engines.engine import tasks
from tools.engines.latent_diffusion import part_of, source_of
from tools.engines.text2video import TextToVideo
from tools.models.composer import ENTRIES

CONTENT = "content_"  # prefix of what the pictures add to a batch of clips


@tasks(train=("train_tft2v_entrance",), sample=("inference_tft2v_entrance",))
class TextFreeToVideo(TextToVideo):
    """Text is the condition of sampling; text, or a picture of the clip, that of training."""

    reseeds = True

    def __init__(self, cfg, mode: str):
        super().__init__(cfg, mode)
        self.needs_image_vector = mode == "train" or cfg.picture_first

    def conditions(self, batch: dict, training: bool) -> tuple[dict, dict]:
        positive, negative = super().conditions(batch, training)
        if training and (frames := batch["latents"].shape[2]) > 1:
            captioned = torch.tensor([bool(caption) for caption in batch["caption"]]).to(positive["y"].device)
            positive["y"] = torch.where(captioned.view(-1, 1, 1), positive["y"], negative["y"])
            if torch.rand(()) >= self.cfg.p_image_zero:
                positive |= self.shown(batch, frames)
        return positive, negative

    @property
    def shows_pixels(self) -> bool:
        """Whether the network is told a picture's pixels beside its CLIP vector."""
        return ENTRIES["local_image"] in self.cfg.video_compositions

    def shown(self, batch: dict, frames: int) -> dict[str, torch.Tensor]:
        """What the denoiser of a video of `frames` frames is told of the batch's pictures: `vit_frame` or
        `image_vector`, and `local_image` [B, 3, H, W] in 0..1 where it takes that."""
        told = {"image": self.image_vector(batch)}
        if self.shows_pixels:
            told["local_image"] = batch["local_image"][:, :, None].expand(-1, -1, frames, -1, -1)
        return told

    # Sampling.

    @torch.no_grad()
    def generate(self, items: list, generators: list, progress=None) -> list[torch.Tensor]:
        if not self.cfg.picture_first:
            return super().generate(items, generators, progress)
        batch, source = self.request(items, generators), source_of(generators)
        start = self.initial_noise(generators, frames=1)
        latents = self.denoise(start, self.conditions(batch, training=False), source, part_of(progress, 0, 2))
        conditions = self.picture_conditions(batch, self.decode(latents))
        latents = self.denoise(self.start_noise(batch, generators), conditions, source, part_of(progress, 1, 2))
        return list(self.decode(latents).transpose(1, 2))

    def picture_conditions(self, batch: dict, video: torch.Tensor) -> tuple[dict, dict]:
        """Conditions of a video that goes by the one frame of `video` [B, 3, 1, H, W] and no text."""
        pixels = self.unit_range(video[:, :, 0])
        pictures = self.for_image_encoder([to_pil_image(picture) for picture in pixels.cpu()])
        _, negative = self.conditions(batch, training=False)
        shown = self.shown({"vit_frame": pictures, "local_image": pixels}, self.cfg.max_frames)
        return negative | shown, negative

    # Training.

    @property
    def pixel_features(self) -> tuple[str, ...]:
        return ("local_image",) if self.shows_pixels else ()

    def features(self, batch: dict) -> dict[str, torch.Tensor]:
        """The picture that the clip is told, [B, 3, H, W]; single pictures are told their captions alone."""
        if not self.shows_pixels or batch["video"].shape[1] == 1:
            return {}
        return {"local_image": self.unit_range(batch["ref_frame"])}

    def dataset(self):
        clips, batch_size = super().dataset()
        if self.rank_plan()[0] == 1 or self.cfg.img_dataset is None:
            return clips, batch_size
        pictures, count = self.dataset_of((1, self.cfg.batch_sizes.get("1", batch_size), 1))
        return ClipsWithPictures(clips, pictures, max(1, count // batch_size)), batch_size

    def batch_loss(self, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        clips, pictures = split(batch)
        loss, values = super().batch_loss(clips)
        if not pictures:
            return loss, values
        content, _ = super().batch_loss(pictures)
        return loss + self.cfg.content_weight * content, values | {"motion_loss": loss, "content_loss": content}

    def preview(self, step: int, batch: dict) -> None:
        """Draw clips for the pictures' captions, where there are some: the clips' own need not have any."""
        clips, pictures = split(batch)
        if pictures:
            captions = pictures["caption"][:len(clips["caption"])]
            clips = {key: value[:len(captions)] for key, value in clips.items()} | {"caption": captions}
        super().preview(step, clips)


class ClipsWithPictures(Dataset):
    """Items of clips, with pictures drawn at random under keys that begin with `content_`.

    Args:
        clips, pictures: datasets of items with `caption` and pixels or latents.
        count: pictures per clip.
    """

    def __init__(self, clips: Dataset, pictures: Dataset, count: int):
        self.clips, self.pictures, self.count = clips, pictures, count

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict:
        drawn = [self.pictures[i] for i in torch.randint(len(self.pictures), (self.count,)).tolist()]
        content = {key: [item[key] for item in drawn] for key in ("caption", "video", "latents") if key in drawn[0]}
        return self.clips[index] | {CONTENT + key: torch.stack(values) if key != "caption" else values
                                    for key, values in content.items()}


def split(batch: dict) -> tuple[dict, dict]:
    """Clips and pictures of a batch; no pictures: an empty dictionary."""
    clips = {key: value for key, value in batch.items() if not key.startswith(CONTENT)}
    pictures = {key.removeprefix(CONTENT): value for key, value in batch.items() if key.startswith(CONTENT)}
    if pictures:
        # Collated captions are [per clip][batch], tensors [batch, per clip, ...].
        pictures = {key: value.transpose(0, 1).flatten(0, 1) if isinstance(value, torch.Tensor)
                    else [caption for captions in value for caption in captions] for key, value in pictures.items()}
        pictures["fps"] = torch.ones(len(pictures["caption"]), dtype=torch.long)
    return clips, pictures
