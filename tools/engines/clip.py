"""Contrastive training of a small CLIP on frames and their captions."""
import torch
import torch.nn.functional as F

from tools.embedders.tokens import tokenize
from tools.engines.engine import Engine, tasks
from tools.registry import EMBEDDER


@tasks(train=("train_clip_entrance",))
class Contrastive(Engine):
    """CLIP's symmetric cross entropy (Radford et al., arXiv 2103.00020).

    Several clips of a batch may have one caption; all of them are right answers then, in equal parts.
    """

    sections = ("embedder",)

    def build(self) -> None:
        self.embedder = EMBEDDER.build(self.cfg.embedder).to(self.runtime.device)
        self.check_picture_size(self.embedder)
        self.model = self.embedder.model

    def trainable(self) -> torch.nn.Module:
        return self.model

    def batch_loss(self, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        tokens = tokenize(batch["caption"], self.model.context_length).to(self.runtime.device)
        images, texts, scale = self.network(batch["vit_frame"], tokens)
        logits = scale * images @ texts.T
        same = (tokens[:, None] == tokens[None]).all(dim=-1).float()
        target = same / same.sum(dim=1, keepdim=True)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        hit = same.gather(1, logits.argmax(dim=1, keepdim=True)).mean()
        return loss, {"retrieved": hit, "scale": scale}
