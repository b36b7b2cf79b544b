"""CLIP token ids: OpenCLIP's byte-pair encoding, padded with id 0."""
import functools
import logging
from collections.abc import Sequence

import open_clip
import torch
from torch import Tensor

log = logging.getLogger(__name__)


@functools.lru_cache(maxsize=1)
def _tokenizer() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer()


@functools.lru_cache(maxsize=1)
def warn_of_cut(context_length: int) -> None:
    log.warning("a caption is longer than the text encoder's %d tokens; its end is not seen. Later ones are cut "
                "without notice", context_length)


def tokenize(texts: str | Sequence[str], context_length: int) -> Tensor:
    """Ids of [start] text [end] 0 0 ...

    Text is repaired, HTML-unescaped, lower-cased and freed of repeated white space first. A longer text is cut, its
    last id replaced by [end], and the first such cut is logged as a warning.

    Returns:
        [B, context_length] int64.
    """
    texts = [texts] if isinstance(texts, str) else texts
    tokenizer = _tokenizer()
    ids = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        words = tokenizer.encode(text)
        if len(words) > context_length - 2:
            warn_of_cut(context_length)
            words = words[:context_length - 2]
        words = [tokenizer.sot_token_id, *words, tokenizer.eot_token_id]
        row[:len(words)] = torch.tensor(words)
    return ids
