"""Textual inversion (arXiv 2208.01618): placeholder words whose token embeddings are learned."""
import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tools import checkpoint
from tools.embedders.tokens import tokenize
from tools.errors import UserError
from tools.registry import EMBEDMANAGER

log = logging.getLogger(__name__)

PROGRESS = 2000  # forwards after which `progressive_words` takes one vector more
# CLIP's ids rise with the rarity of the token: below this one, letters and digits spell words that people use.
COMMON_WORDS = 40_000


@EMBEDMANAGER.register(ignored=("temporal_prompt_length",))
class EmbeddingManager(nn.Module):
    """Learned vectors in the place of placeholder words; called by the text encoder before positions are added.

    Args:
        embedder: text encoder whose `model.token_embedding` is the table of words.
        placeholder_strings: each must be one token of its own, and no common word: `*`, `@`, `sks`.
        initializer_words: words whose embeddings (their first token's) the vectors start from, in the order of the
            placeholders; placeholders beyond them start from uniform noise in [0, 1).
        per_image_tokens: not available; refused when true.
        num_vectors_per_token: m; where above 1, a placeholder becomes m tokens and what follows is shifted right.
        progressive_words: use one vector at first, and one more every 2,000 training forwards.
        token_dim: width of the embeddings.

    Attributes:
        string_to_token_dict: placeholder -> token id.
        string_to_param_dict: placeholder -> vectors [m, token_dim].
        initial_embeddings: their values at the start, where they come from a word; not trained.
        progressive_counter: training forwards so far, counted per placeholder.

    Raises:
        UserError: a placeholder is more than one token or already a word; another width than the embedder's;
            per_image_tokens.
    """

    def __init__(self, embedder: nn.Module, placeholder_strings: Sequence[str] = ("*",),
                 initializer_words: Sequence[str] | None = None, per_image_tokens: bool = False,
                 num_vectors_per_token: int = 1, progressive_words: bool = False, token_dim: int = 1024):
        super().__init__()
        if per_image_tokens:
            raise UserError("embedmanager: per_image_tokens adds the Hebrew letters, which CLIP spells with two tokens "
                            "that begin alike: all would be one; list single-token placeholders instead")
        table = embedder.model.token_embedding
        if table.embedding_dim != token_dim:
            raise UserError(f"embedmanager: token_dim {token_dim}, but the text encoder's embeddings are "
                            f"{table.embedding_dim} wide; set token_dim {table.embedding_dim}")
        self.num_vectors, self.progressive_words, self.token_dim = num_vectors_per_token, progressive_words, token_dim
        self.progressive_counter = 0
        words = list(initializer_words or ())
        self.string_to_token_dict = {text: _placeholder_id(text, words) for text in placeholder_strings}
        self.string_to_param_dict, self.initial_embeddings = nn.ParameterDict(), nn.ParameterDict()
        for index, text in enumerate(placeholder_strings):
            if index < len(words):
                start = table.weight[_word_id(words[index])].detach().expand(num_vectors_per_token, -1).clone()
                self.initial_embeddings[text] = nn.Parameter(start.clone(), requires_grad=False)
            else:
                start = torch.rand(num_vectors_per_token, token_dim, device=table.weight.device)
            self.string_to_param_dict[text] = nn.Parameter(start)

    def forward(self, tokens: Tensor, embedded: Tensor) -> Tensor:
        """Put the vectors in the place of the placeholders.

        Args:
            tokens: [B, L] ids; rewritten in place where a placeholder becomes several tokens.
            embedded: [B, L, token_dim] their embeddings.

        Returns:
            [B, L, token_dim]; what is shifted beyond the last position is lost.
        """
        for text, vectors in self.string_to_param_dict.items():
            token, vectors = self.string_to_token_dict[text], vectors.to(embedded)
            if self.num_vectors == 1:
                embedded = torch.where((tokens == token)[..., None], vectors[0], embedded)
            else:
                embedded = _spread(tokens, embedded, token, vectors[:self._in_use()])
        return embedded

    def forward_with_text(self, tokens: Tensor, embedded: Tensor) -> Tensor:
        """As `forward` with one vector, which is added to the word's own embedding."""
        return self._added(tokens, embedded, 0.0)

    def forward_with_text_img(self, tokens: Tensor, embedded: Tensor, embedded_img: Tensor) -> Tensor:
        """As `forward_with_text`, adding an image's vector [1, token_dim] as well."""
        return self._added(tokens, embedded, embedded_img)

    def _added(self, tokens: Tensor, embedded: Tensor, extra: Tensor | float) -> Tensor:
        for text, vectors in self.string_to_param_dict.items():
            hit = (tokens == self.string_to_token_dict[text])[..., None]
            embedded = torch.where(hit, embedded + vectors[0].to(embedded) + extra, embedded)
        return embedded

    def _in_use(self) -> int:
        """How many vectors of a placeholder this forward uses; counts it while training."""
        if not self.progressive_words:
            return self.num_vectors
        self.progressive_counter += int(self.training)
        return min(self.num_vectors, 1 + self.progressive_counter // PROGRESS)

    def embedding_to_coarse_loss(self) -> Tensor:
        """Sum over the placeholders of d d^T, d [m, token_dim] how far they are from where they started, divided by
        their number: [m, m]."""
        away = [self.string_to_param_dict[text] - start for text, start in self.initial_embeddings.items()]
        return sum(d @ d.T for d in away) / len(away)

    def get_embedding_norms_squared(self) -> Tensor:
        """Squared length of every vector, [placeholders * m]."""
        return torch.cat(list(self.string_to_param_dict.values())).pow(2).sum(dim=-1)

    def content(self) -> dict:
        """The vectors in the published layout: {'string_to_token', 'string_to_param'}."""
        tokens = {text: torch.tensor(token) for text, token in self.string_to_token_dict.items()}
        vectors = {text: nn.Parameter(v.detach().cpu().clone()) for text, v in self.string_to_param_dict.items()}
        return {"string_to_token": tokens, "string_to_param": nn.ParameterDict(vectors)}

    @torch.no_grad()
    def load(self, path: str) -> None:
        """Take the vectors of a file in the published layout; all of them are in use from then on.

        Raises:
            UserError: another layout, other placeholders, or vectors of another size.
        """
        vectors = read_vectors(path)
        for text, own in self.string_to_param_dict.items():
            if text not in vectors:
                raise UserError(f"text embedding '{path}' has no placeholder '{text}' (it has: "
                                f"{', '.join(vectors)}); set embedmanager.placeholder_strings to these")
            if vectors[text].shape != own.shape:
                raise UserError(f"text embedding '{path}': '{text}' has {list(vectors[text].shape)} numbers for "
                                f"{list(own.shape)} (vectors, width); it belongs to another text encoder, or "
                                f"num_vectors_per_token is {vectors[text].shape[0]} there")
            own.copy_(vectors[text])
        self.progressive_counter = PROGRESS * self.num_vectors


def require_replaced(captions: Iterable[str], placeholders: Iterable[str], where: str) -> None:
    """Refuse captions in which a placeholder stands without being a token of its own, as in `*.`.

    Args:
        where: what the captions are, for the message.

    Raises:
        UserError: names the first one.
    """
    tokens = {text: _ids(text)[0] for text in placeholders}
    for caption in captions:
        ids = _ids(caption)
        for text, token in tokens.items():
            if mentions(text, caption) > ids.count(token):
                raise UserError(f"{where}: in '{caption}' the placeholder '{text}' would not be replaced, since it is "
                                "no token of its own there; put blanks around it")


def mentions(placeholder: str, caption: str) -> int:
    """How often a placeholder stands in a caption, glued to punctuation or not; never inside a longer word."""
    pattern = re.escape(placeholder.lower())
    return len(re.findall(rf"\b{pattern}\b" if placeholder.isalnum() else pattern, caption.lower()))


def read_vectors(path: str) -> dict[str, Tensor]:
    """Placeholder -> vectors [m, width] of a text embedding file.

    Raises:
        UserError: the file is not there, or no text embedding.
    """
    content = checkpoint.load_file(path)
    vectors = content.get("string_to_param") if isinstance(content, dict) else None
    # Versions of torch lay a ParameterDict out in two ways; both keep the tensors there.
    vectors = getattr(vectors, "_parameters", vectors)
    if not isinstance(vectors, dict) or not all(isinstance(v, Tensor) for v in vectors.values()):
        raise UserError(f"'{path}' is no text embedding file: it has no 'string_to_param'")
    return {text: vector.detach() for text, vector in vectors.items()}


def embedding_file(folder: Path, placeholders: Iterable[str], step: int) -> Path:
    """Published name of a text embedding file, without what a file system cannot have in names."""
    joined = re.sub(r'[<>:"/\\|?*]' if os.name == "nt" else "/", "_", "_".join(placeholders))
    return folder / f"text_embedding_of_{joined}_{step:07d}.pth"


def _spread(tokens: Tensor, embedded: Tensor, token: int, vectors: Tensor) -> Tensor:
    """Every `token` becomes as many positions as there are vectors; rewrites `tokens` in place."""
    if not (tokens == token).any():
        return embedded
    length, rows = tokens.shape[1], []
    for ids, words in zip(tokens, embedded, strict=True):
        repeats = torch.where(ids == token, len(vectors), 1)
        source = torch.arange(length, device=ids.device).repeat_interleave(repeats)[:length]
        new_ids = ids[source]
        first = repeats.cumsum(0) - repeats  # where the copies of every old position begin
        which = torch.arange(len(source), device=ids.device) - first[source]
        rows.append(torch.where((new_ids == token)[:, None], vectors[which], words[source]))
        ids.copy_(new_ids)
    return torch.stack(rows)


def _placeholder_id(text: str, initializer_words: Sequence[str]) -> int:
    ids = _ids(text)
    if len(ids) != 1:
        raise UserError(f"placeholder '{text}' is {len(ids)} tokens of the text encoder; take one that is a single "
                        "token, such as * or @ or sks")
    if "." in text:
        raise UserError(f"placeholder '{text}' has a dot, which names of parameters cannot have; take * or @ or sks")
    if text in initializer_words or (text.isalnum() and ids[0] < COMMON_WORDS):
        raise UserError(f"placeholder '{text}' is already a word of the text encoder, which would lose its meaning; "
                        "take one that means nothing, such as * or @ or sks")
    return ids[0]


def _word_id(word: str) -> int:
    ids = _ids(word)
    if not ids:
        raise UserError("initializer_words: an empty word; name the class of the subject: dog, toy, car")
    if len(ids) > 1:
        log.warning("initializer word '%s' is %d tokens of the text encoder; starting from the first", word, len(ids))
    return ids[0]


def _ids(text: str) -> list[int]:
    """Token ids of a text, without start, end and padding."""
    row = tokenize(text, context_length=77)[0]
    return row[1:int(row.argmax())].tolist()
