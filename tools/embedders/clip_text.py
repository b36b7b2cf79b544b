"""CLIP's text encoder (arXiv 2103.00020) as transformers has it, from a published folder."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tools import published
from tools.checkpoint import HUBS, load_into, load_state, locate
from tools.embedders.tokens import tokenize, warn_of_cut
from tools.registry import EMBEDDER

# The text encoder of Stable Diffusion 2: OpenCLIP's ViT-H/14 without its last block.
STABLE_DIFFUSION_2 = {
    "vocab_size": 49408, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
    "num_attention_heads": 16, "max_position_embeddings": 77, "hidden_act": "gelu", "projection_dim": 512,
    "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
}
PREFIX = "text_model."  # before every published name; transformers had it in its own names up to version 4
IDLE = "embeddings.position_ids"  # a table of numbers that older files carry


@EMBEDDER.register("CLIPTextModel")
class CLIPTextEmbedder(nn.Module):
    """Captions to the tokens of the last block after the final norm, [B, L, d]; padded places are kept.

    Args:
        pretrained: part of a published folder: `models/ConsistI2V/text_encoder`, `hf://owner/repo/text_encoder`.
        tokenizer: folder of vocab.json and merges.txt; not set: `tokenizer` beside `pretrained`.
        config: constructor options of transformers' CLIPTextConfig where nothing is loaded; those that are left out
            are Stable Diffusion 2's.

    Attributes:
        model: transformers' network. config: its options as config.json holds them. tokenizer_files: by name; empty
            where captions go through OpenCLIP's tokenizer, for want of another.

    Raises:
        UserError: a folder is incomplete or of another network.
    """

    def __init__(self, pretrained: str | None = None, tokenizer: str | None = None, config: dict | None = None):
        super().__init__()
        # Imported where it is needed: transformers takes seconds, which runs without it need not spend.
        from transformers import CLIPTextConfig, CLIPTextModel
        self.config = published.read_config(pretrained) if pretrained else STABLE_DIFFUSION_2 | (config or {})
        self.model = CLIPTextModel(CLIPTextConfig.from_dict(self.config)).eval()
        self.length = self.config["max_position_embeddings"]
        self.tokenizer, self.tokenizer_files = None, {}
        if pretrained:
            self.load_published(load_state(pretrained), f"embedder.pretrained '{pretrained}'")
            tokenizer = tokenizer or f"{pretrained.rstrip('/').rpartition('/')[0]}/tokenizer"
        if tokenizer:
            self.tokenizer_files = _tokenizer_files(tokenizer)
            self.tokenizer = _tokenizer(self.tokenizer_files)
            self.length = min(self.length, self.tokenizer.model_max_length)

    def load_published(self, state: dict[str, Tensor], what: str) -> None:
        """Load weights under their published names; `what` names the file in messages.

        Raises:
            UserError: they do not fit.
        """
        own = PREFIX if any(key.startswith(PREFIX) for key in self.model.state_dict()) else ""
        names = {key: key.removeprefix(PREFIX) for key in state}
        load_into(self.model, {own + name: state[key] for key, name in names.items() if name != IDLE}, what)

    def published_state(self) -> dict[str, Tensor]:
        """The weights under their published names."""
        return {PREFIX + key.removeprefix(PREFIX): value for key, value in self.model.state_dict().items()
                if not key.endswith(IDLE)}

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Ids [B, L] of [start] text [end] and padding; a longer text is cut before its [end], with one warning."""
        if self.tokenizer is None:
            return tokenize(texts, self.length)
        ids = torch.full((len(texts), self.length), self.tokenizer.pad_token_id)
        for row, text in zip(ids, texts, strict=True):
            words = self.tokenizer(text, verbose=False).input_ids  # we warn of cuts ourselves
            if len(words) > self.length:
                warn_of_cut(self.length)
                words = words[:self.length - 1] + words[-1:]
            row[:len(words)] = torch.tensor(words)
        return ids

    def forward(self, text: str | Sequence[str]) -> Tensor:
        """Captions -> token embeddings [B, L, d]."""
        ids = self.tokenize([text] if isinstance(text, str) else text)
        return self.embed(ids.to(next(self.model.parameters()).device))

    def embed(self, ids: Tensor) -> Tensor:
        """Ids [B, n] -> token embeddings [B, n, d]."""
        return self.model(input_ids=ids).last_hidden_state


def _tokenizer_files(folder: str) -> dict[str, object]:
    """Local files by name: vocabulary and merges, and of the settings those that are there."""
    required, settings = published.TOKENIZER_FILES[:2], published.TOKENIZER_FILES[2:]
    files = {name: locate(f"{folder}/{name}") for name in required}
    if folder.startswith(HUBS):
        return files | {name: locate(f"{folder}/{name}") for name in settings}
    beside = {name: files["vocab.json"].with_name(name) for name in settings}
    return files | {name: file for name, file in beside.items() if file.is_file()}


def _tokenizer(files: dict):
    """transformers' tokenizer; where the two files of settings name different padding, as Stable Diffusion 2's do, the
    map of special tokens is right."""
    from transformers import CLIPTokenizer
    special = published.read_json(str(files["special_tokens_map.json"])) if "special_tokens_map.json" in files else {}
    padding = special.get("pad_token")
    given = {} if padding is None else {"pad_token": padding["content"] if isinstance(padding, dict) else padding}
    return CLIPTokenizer.from_pretrained(files["vocab.json"].parent, **given)
