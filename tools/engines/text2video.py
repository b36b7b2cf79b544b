"""ModelScopeT2V (arXiv 2308.06571): text to video."""
import torch

from tools.datasets.lists import clean_name, read_prompts
from tools.engines.engine import tasks
from tools.engines.latent_diffusion import LatentDiffusion


@tasks(train=("train_t2v_entrance",), sample=("inference_text2video_entrance",))
class TextToVideo(LatentDiffusion):
    """Text and frame rate are the conditions; the null text is the negative prompt, in training as in sampling."""

    def conditions(self, batch: dict, training: bool) -> tuple[dict, dict]:
        text = self.words(batch["caption"])
        null = self.null_words.expand_as(text)
        if training:
            dropped = torch.rand(len(text)) < self.cfg.p_zero
            text = torch.where(dropped.view(-1, 1, 1).to(text.device), null, text)
        fps = self.frame_rates(batch)
        return {"y": text, "fps": fps}, {"y": null, "fps": fps}

    def items(self) -> list:
        """Lines of the prompt list."""
        return read_prompts(self.cfg.test_list_path)

    def output_name(self, request, rank: int, world_size: int) -> str:
        """The original's file name."""
        return f"rank_{world_size:02d}_{rank:02d}_{request.index:04d}_{clean_name(request.item.caption)}.mp4"
