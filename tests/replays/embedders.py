"""Text and image encoders: topic vgen-unets-core, kinds `embedder` and `tokenizer`."""
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import open_clip
import torch

from tests.goldens.reader import fill_module, tensor
from tests.replays.modules import component
from tools.embedders.tokens import tokenize

PARTS = ("image_embedding", "text_embedding", "token_embeddings")


def replay_embedder(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Hand the filled open_clip model over as a checkpoint, then make every call."""
    with tempfile.TemporaryDirectory() as folder:
        embedder = component("EMBEDDER", case["component"], {**case["config"], **clip_files(case, Path(folder))})
    inputs = case["texts"] | {name: tensor(spec) for name, spec in case["images"].items()}
    for name, call in case["calls"].items():
        with torch.no_grad():
            result = call_embedder(embedder, call, inputs)
        for part, out in named_parts(result):
            yield f"{name}/{part}", out, expected.get(f"{name}/{part}")


def clip_files(case: dict, folder: Path) -> dict[str, str]:
    """Write the case's CLIP configuration and the weights that the rule gives it; the embedder's arguments."""
    arch, pretrained = folder / "clip.json", folder / "open_clip_pytorch_model.bin"
    arch.write_text(json.dumps(case["open_clip_config"]))
    torch.save(fill_module(open_clip.CLIP(**case["open_clip_config"])).state_dict(), pretrained)
    return {"arch": str(arch), "pretrained": str(pretrained)}


def call_embedder(embedder, call: dict, inputs: dict):
    """Result of one call, or the attribute that the case asks for."""
    if "attribute" in call:
        return getattr(embedder, call["attribute"])
    values = {name: inputs.get(value, value) if isinstance(value, str) else value
              for name, value in call["args"].items()}
    if values.get("embedding_manager"):
        values["embedding_manager"] = waves_by_token
    return (getattr(embedder, call["method"]) if "method" in call else embedder)(**values)


def waves_by_token(tokens: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """The embedding manager of the cases: adds 0.1 sin(token / 1000 * [1, 2, ..., width])."""
    order = torch.arange(1, embeddings.shape[-1] + 1)
    return embeddings + 0.1 * torch.sin(tokens[..., None] / 1000 * order)


def named_parts(result) -> Iterator[tuple[str, torch.Tensor]]:
    """A tensor is `out`; a triple is image vector (where there is one), text vector and tokens."""
    if isinstance(result, torch.Tensor):
        yield "out", result
    else:
        yield from ((part, value) for part, value in zip(PARTS, result, strict=True) if value is not None)


def replay_tokenizer(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Token ids, padding included."""
    yield "tokens", tokenize(case["texts"], expected["tokens"].shape[1]), expected["tokens"]


HANDLERS = {
    ("vgen-unets-core", "embedder"): replay_embedder,
    ("vgen-unets-core", "tokenizer"): replay_tokenizer,
}
