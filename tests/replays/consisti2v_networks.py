"""Networks of ConsistI2V: topic consisti2v, one kind per component."""
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tests.goldens.reader import as_array, fill_module, tensor, uniform, weight_rule
from tests.replays.stages import record_stages
from tools.autoencoders.diffusers_kl import DiffusersAutoencoderKL
from tools.embedders.clip_text import CLIPTextEmbedder
from tools.models.blocks import FrameConv3d
from tools.models.consisti2v.attention import TemporalAttention
from tools.models.consisti2v.blocks import DownLevel, Signals, TemporalResnetBlock
from tools.models.consisti2v.options import UNetOptions
from tools.models.consisti2v.positions import PositionalEncoding, RotaryEmbedding
from tools.models.consisti2v.transformers import SpatialTransformer, TemporalTransformer
from tools.models.consisti2v.unet import VideoLDMUNet3DConditionModel


def inputs_of(case: dict) -> dict:
    """The case's inputs: tensors, or plain numbers where it says so."""
    return {name: spec["values"] if spec.get("python") else tensor(spec) for name, spec in case["inputs"].items()}


def filled(case: dict, module: nn.Module) -> tuple[nn.Module, tuple]:
    """The module with its weights by the rule, and the comparison of its parameters' names, order and shapes."""
    keys = [[key, list(value.shape)] for key, value in module.state_dict().items()]
    return fill_module(module).eval(), ("state_dict", keys, [[key, shape] for key, shape in case["state_dict"].items()])


@torch.no_grad()
def compared(case: dict, expected: dict, module: nn.Module, call) -> Iterator[tuple]:
    """Fill the module, make the call; its output, the stages and the parameters that the case recorded."""
    module, keys = filled(case, module)
    yield keys
    stages = case.get("stages", {})
    with record_stages(module, stages) as seen:
        output = call(module)
    yield "output", output, expected["output"]
    for path, stage in stages.items():
        recorded = in_case_layout(module, path, seen[path], stage["shape"])
        yield f"stage.{path}", recorded.flatten()[::stage["every"]], expected[f"stage.{path}"]
    parameters = dict(module.named_parameters())
    for name in case.get("record_parameters_after", ()):
        yield f"after.{name}", parameters[name], expected[f"after.{name}"]


def in_case_layout(module: nn.Module, path: str, out: Tensor, shape: list[int]) -> Tensor:
    """An activation as the case holds it: frames on the batch axis.

    Temporal convolutions work on [b, c, f, h w], temporal transformers on [(b h w), f, d] here.
    """
    modules = dict(module.named_modules())
    owners = [modules[".".join(path.split(".")[:depth])] for depth in range(path.count(".") + 1)]
    if isinstance(modules[path], FrameConv3d):
        return out.transpose(1, 2).reshape(shape)
    if any(isinstance(owner, TemporalTransformer) for owner in [module, *owners]):
        return out.unflatten(0, (-1, shape[1])).transpose(1, 2).reshape(shape)
    return out


def replay_unet(case: dict, expected: dict, path) -> Iterator[tuple]:
    """The whole denoiser."""
    yield from compared(case, expected, VideoLDMUNet3DConditionModel(**case["config"]),
                        lambda unet: unet(**inputs_of(case)))


def replay_temporal_resnet(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Temporal convolutions alone."""
    config = case["config"]
    yield from compared(case, expected, TemporalResnetBlock(config["in_channels"]),
                        lambda block: block(inputs_of(case)["input_tensor"], config["n_frames"]))


def replay_transformer(case: dict, expected: dict, path) -> Iterator[tuple]:
    """A spatial or temporal transformer; the context has a row per frame."""
    config = case["config"]
    shared = {"channels": config["in_channels"], "context_dim": config["cross_attention_dim"],
              "heads": config["num_attention_heads"], "groups": config["norm_num_groups"],
              "use_linear": config["use_linear_projection"], "depth": config["num_layers"]}
    if config.get("is_temporal"):
        module = TemporalTransformer(**shared, rotary=config["rotary_emb"],
                                     neighbours=config["augment_temporal_attention"])
    else:
        module = SpatialTransformer(**shared, first_frame=case["call_constants"]["condition_on_first_frame"])
    inputs = inputs_of(case)
    yield from compared(case, expected, module, lambda transformer: transformer(
        inputs["hidden_states"], inputs["encoder_hidden_states"], config["n_frames"]))


def replay_temporal_attention(case: dict, expected: dict, path) -> Iterator[tuple]:
    """One temporal attention: with the text, or with neighbours [b, c, h, w, 8] that the case gives."""
    config, inputs = case["config"], inputs_of(case)
    module = TemporalAttention(config["query_dim"], config.get("cross_attention_dim"), config["heads"],
                               config["dim_head"], rotary=config["rotary_emb"])
    frames, rows = config["n_frames"], inputs["hidden_states"]
    context, around = (inputs.get(name) for name in ("encoder_hidden_states", "adjacent_slices"))

    def given_surroundings(k: Tensor, v: Tensor, size) -> tuple[Tensor, Tensor]:
        projected = module.key_value(around.permute(0, 2, 3, 4, 1).flatten(0, 2))
        return tuple(torch.cat(parts, dim=1) for parts in zip((k, v), projected, strict=True))

    def call(attention: TemporalAttention) -> Tensor:
        tokens = rows.unflatten(0, (-1, frames)).transpose(1, 2).flatten(0, 1)
        text = None if context is None else context[::frames]
        out = attention(tokens, text, None if around is None else tuple(around.shape[2:4]))
        return out.unflatten(0, (-1, rows.shape[1])).transpose(1, 2).flatten(0, 1)

    if around is not None:
        module.with_surroundings = given_surroundings
    yield from compared(case, expected, module, call)


def replay_rotary(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Initial frequencies, then rotations with frequencies by the rule."""
    module, inputs = RotaryEmbedding(case["config"]["dim"]), inputs_of(case)
    yield "freqs_default", module.freqs.clone(), expected["freqs_default"]
    module, keys = filled(case, module)
    yield keys
    yield "rotated_default_positions", module(inputs["t"]), expected["rotated_default_positions"]
    yield "rotated_seq_pos", module(inputs["t"], inputs["seq_pos"]), expected["rotated_seq_pos"]


def replay_sinusoids(case: dict, expected: dict, path) -> Iterator[tuple]:
    """The table of the first positions."""
    module, keys = filled(case, PositionalEncoding(case["config"]["dim"]))
    yield keys
    yield "output", module(case["length"]), expected["output"]


@torch.no_grad()
def replay_down_block(case: dict, expected: dict, path) -> Iterator[tuple]:
    """A level of the encoder in mode conv2d; what the caller keeps as skip is what the level starts with."""
    config, inputs = case["config"], inputs_of(case)
    options = UNetOptions(
        block_out_channels=[config["out_channels"]], down_block_types=["CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D"], layers_per_block=config["num_layers"],
        norm_num_groups=config["resnet_groups"], attention_head_dim=config["num_attention_heads"],
        temp_pos_embedding="rotary" if config["rotary_emb"] else "sinusoidal",
        **{key: config[key] for key in ("cross_attention_dim", "use_linear_projection", "n_frames", "n_temp_heads",
                                        "first_frame_condition_mode", "augment_temporal_attention")})
    level, keys = filled(case, DownLevel(options, config["in_channels"], config["out_channels"],
                                         config["num_attention_heads"], last=False, emb_width=config["temb_channels"]))
    yield keys
    signals = Signals(config["n_frames"], inputs["temb"], inputs["encoder_hidden_states"],
                      inputs["first_frame_latents"])
    start = level.enter(inputs["hidden_states"], signals)
    output, skips = level(start, signals)
    yield "output", output, expected["output"]
    yield "hidden_states_after_call", start, expected["hidden_states_after_call"]
    for index, skip in enumerate(skips):
        yield f"res_{index}", as_array(skip), expected[f"res_{index}"]


@torch.no_grad()
def replay_autoencoder(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Posterior moments and pictures of the image autoencoder."""
    autoencoder, inputs = DiffusersAutoencoderKL(config=case["config"]), inputs_of(case)
    yield filled(case, autoencoder.model)[1]
    posterior = autoencoder.encode(inputs["pixels"])
    yield "mean", posterior.mean, expected["mean"]
    yield "logvar", posterior.logvar, expected["logvar"]
    yield "decoded", autoencoder.decode(inputs["latents"]), expected["decoded"]


@torch.no_grad()
def replay_text_encoder(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Tokens of given ids, with weights under their published names."""
    embedder = CLIPTextEmbedder(config=case["config"])
    state = {key: torch.from_numpy(uniform(key, shape, *weight_rule(key, shape)))
             for key, shape in case["state_dict"].items()}
    embedder.load_published(state, case["name"])
    yield "state_dict", embedder.published_state().keys(), state.keys()
    yield "last_hidden_state", embedder.embed(inputs_of(case)["input_ids"]), expected["last_hidden_state"]


HANDLERS = {("consisti2v", kind): handler for kind, handler in {
    "VideoLDMUNet3DConditionModel": replay_unet,
    "TemporalResnetBlock": replay_temporal_resnet,
    "Transformer2DConditionModel": replay_transformer,
    "TemporalConditionalAttention": replay_temporal_attention,
    "RotaryEmbedding": replay_rotary,
    "PositionalEncoding": replay_sinusoids,
    "VideoLDMCrossAttnDownBlock": replay_down_block,
    "AutoencoderKL": replay_autoencoder,
    "CLIPTextModel": replay_text_encoder,
}.items()}
