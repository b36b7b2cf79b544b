"""DreamVideo beside its networks: topic vgen-unets-methods, kinds `embedding_manager`, `text_encoder`, `masked_loss`
and the sample files of published layout."""
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from tests.goldens.reader import fill_module, load_case, tensor, uniform
from tests.replays.embedders import clip_files
from tests.replays.modules import component
from tools import checkpoint
from tools.diffusions.ddim import DiffusionDDIM
from tools.embedders.textual_inversion import EmbeddingManager, read_vectors
from tools.embedders.tokens import tokenize
from tools.models.blocks import SpatialTransformer

VOCABULARY = 49408
CONTEXT = 77
VISION = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8}


def replay_manager(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Token ids, starting values, every call's embeddings and rewritten ids, and the two figures of the vectors."""
    table = fill_module(nn.ModuleDict({"token_embedding": nn.Embedding(VOCABULARY, case["config"]["token_dim"])}))
    manager = manager_of(case["config"], table["token_embedding"], case.get("seed"))
    if "state_dict" in case:
        yield "state_dict", [[key, list(value.shape)] for key, value in manager.state_dict().items()], \
            [[key, shape] for key, shape in case["state_dict"].items()]
    for text, token in manager.string_to_token_dict.items():
        yield f"token_id/{text}", torch.tensor(token), expected.get(f"token_id/{text}")
        start = manager.string_to_param_dict[text].detach().clone()
        if f"initial/{text}" in expected:
            yield f"initial/{text}", manager.initial_embeddings.get(text, start), expected[f"initial/{text}"]
    set_vectors(manager, case["params"])
    inputs = {name: tensor(spec) for name, spec in case["inputs"].items()}
    for call in case["calls"]:
        for part, out in manager_call(manager, call, table["token_embedding"], inputs).items():
            yield f"{call['name']}/{part}", out, expected.get(f"{call['name']}/{part}")
    with torch.no_grad():
        yield "norms_squared", manager.get_embedding_norms_squared(), expected.get("norms_squared")
        yield "coarse_loss", manager.embedding_to_coarse_loss(), expected.get("coarse_loss")


def manager_of(config: dict, table: nn.Embedding, seed: int | None) -> EmbeddingManager:
    """The manager over a table of word embeddings."""
    torch.manual_seed(seed or 0)
    return EmbeddingManager(SimpleNamespace(model=SimpleNamespace(token_embedding=table)), **config)


def set_vectors(manager: EmbeddingManager, params: dict) -> None:
    """Overwrite the learned vectors with the case's."""
    with torch.no_grad():
        for text, spec in params.items():
            manager.string_to_param_dict[text].copy_(tensor(spec))


def manager_call(manager, call: dict, table: nn.Embedding, inputs: dict) -> dict:
    """Ids before and after, embeddings, counter; positions beyond `keep_tokens` are not kept."""
    if "progressive_counter" in call:
        manager.progressive_counter = call["progressive_counter"]
    tokens = tokenize(call["texts"], CONTEXT)
    before, extra = tokens.clone(), [inputs[call["embedded_img"]]] if "embedded_img" in call else []
    with torch.no_grad():
        out = getattr(manager, call.get("method", "forward"))(tokens, table(tokens), *extra)
    kept = slice(0, call["keep_tokens"])
    return {"tokens_in": before[:, kept], "tokens_out": tokens[:, kept], "out": out[:, kept],
            "progressive_counter_after": torch.tensor(manager.progressive_counter)}


def replay_text_encoder(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Ids, pooled vector and words of every call, with the manager between table and positions or without."""
    encoder = text_encoder(case)
    manager = manager_of(case["embedmanager"], encoder.model.token_embedding, None)
    set_vectors(manager, case["params"])
    for call in case["calls"]:
        seen = []
        handle = manager.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        with torch.no_grad():
            _, pooled, words = encoder(text=call["texts"], embedding_manager=manager if call["use_manager"] else None)
        handle.remove()
        tokens = seen[0] if seen else tokenize(call["texts"], CONTEXT)
        figures = {"tokens": tokens, "pooled": pooled, "words": words[:, slice(*case["word_slice"])]}
        for part, out in figures.items():
            wanted = expected.get(f"{call['name']}/{part}")
            yield f"{call['name']}/{part}", out[:, :wanted.shape[1]] if part == "tokens" else out, wanted


def text_encoder(case: dict) -> nn.Module:
    """The registered encoder with the case's text tower; its image tower plays no part."""
    config = {"embed_dim": case["config"]["embed_dim"], "text_cfg": case["config"]["text_cfg"], "vision_cfg": VISION,
              "quick_gelu": case["config"]["quick_gelu"]}
    with tempfile.TemporaryDirectory() as folder:
        files = clip_files({"open_clip_config": config}, Path(folder))
        return component("EMBEDDER", case["component"], files | {"layer": case["config"]["layer"]})


def replay_masked_loss(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Loss of each sample under a formula denoiser, inside the mask or everywhere."""
    diffusion = DiffusionDDIM(**case["config"])
    inputs = {name: tensor(spec) for name, spec in case["inputs"].items()}
    mask = (inputs["mask"] > 0).float().expand(-1, -1, 3, -1, -1)

    def denoiser(x, t):
        a, b, per = (case["denoiser"][name] for name in ("a", "b", "per"))
        time = t.double().view(-1, 1, 1, 1, 1)
        return (a * x.double() * torch.sin(time / per) + b).to(x.dtype)

    for call in case["calls"]:
        if "seed" in call:
            torch.manual_seed(call["seed"])
        loss = diffusion.loss(inputs["x0"], inputs["t"], denoiser, noise=inputs.get(call["noise"]),
                              loss_mask=mask if call["mask"] else None)
        yield call["name"], loss, expected.get(call["name"])


def replay_files(case: dict, expected: dict, path: Path) -> Iterator[tuple]:
    """Sample files: their content as described, and the same content after we have written it anew."""
    with tempfile.TemporaryDirectory() as folder:
        for name, spec in case["files"].items():
            copy = Path(folder) / name
            if "state_dict" in spec["layout"]:
                content = checkpoint.load_file(path.with_name(name))
                checkpoint.save_file({"state_dict": content["state_dict"], "step": content["step"]}, copy)
                yield from adapter_file(name, content, checkpoint.load_file(copy), path)
            else:
                vectors = read_vectors(path.with_name(name))
                torch.save(written_anew(vectors), copy)
                yield from embedding_file(name, vectors, read_vectors(copy))


def adapter_file(name: str, content: dict, again: dict, path: Path) -> Iterator[tuple]:
    """An adapter's entries by the weight rule; they are the identity adapters of the network that the case names."""
    joint, _ = load_case(path.with_name("dreamvideo_joint.json"))
    network = fill_module(component("MODEL", joint["component"], joint["config"]))
    spatial = {f"{name}.{key}": value for name, module in network.named_modules()
               if isinstance(module, SpatialTransformer)
               for key, value in module.state_dict().items() if "cross_attn_adapter" in key}
    for part, found in (("read", content), ("written", again)):
        yield f"{name}/{part}/keys", sorted(found["state_dict"]), sorted(spatial)
        yield f"{name}/{part}/step", found["step"], checkpoint.step_of(name)
        for key, value in spatial.items():
            yield f"{name}/{part}/{key}", found["state_dict"].get(key, torch.tensor(torch.nan)), value


def embedding_file(name: str, vectors: dict, again: dict) -> Iterator[tuple]:
    """The vectors by their rule."""
    for part, found in (("read", vectors), ("written", again)):
        for text, vector in found.items():
            yield f"{name}/{part}/{text}", vector, uniform(f"em1.param.{text}", vector.shape, scale=1.0)


def written_anew(vectors: dict) -> dict:
    """What a manager with these vectors writes."""
    text, vector = next(iter(vectors.items()))
    table = nn.Embedding(VOCABULARY, vector.shape[1])
    manager = manager_of({"placeholder_strings": [text], "token_dim": vector.shape[1]}, table, None)
    set_vectors(manager, {text: {"values": vector.tolist()}})
    return manager.content()


TOPIC = "vgen-unets-methods"
HANDLERS = {
    (TOPIC, "embedding_manager"): replay_manager,
    (TOPIC, "text_encoder"): replay_text_encoder,
    (TOPIC, "masked_loss"): replay_masked_loss,
    (TOPIC, "files"): replay_files,
}
