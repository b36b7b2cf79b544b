"""The denoiser of ConsistI2V: published layout, diffusers' spatial layers, and what each first-frame mode promises."""
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn.functional import pad, unfold

from tests.goldens.reader import load_manifest, relative_error
from tests.models.consisti2v import SPATIAL, denoiser_inputs, small_denoiser
from tests.models.examples import rand
from tools.errors import UserError
from tools.models.consisti2v.attention import with_neighbours
from tools.models.consisti2v.positions import RotaryEmbedding
from tools.models.consisti2v.transformers import TemporalTransformer
from tools.registry import MODEL, load_components

TOLERANCE = 1e-5


def out_of(unet, **changed):
    with torch.no_grad():
        return unet(**denoiser_inputs() | changed)


def train_all(unet):
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name not in unet.idle_parameters)


def test_published_size_has_the_published_keys_in_their_order():
    load_components()
    manifest = load_manifest("VideoLDMUNet3DConditionModel")
    with torch.device("meta"):
        unet = MODEL.build({"type": "VideoLDMUNet3DConditionModel", **manifest["config"]})

    shapes = [(key, list(value.shape)) for key, value in unet.state_dict().items()]
    assert shapes == list(manifest["state_dict"].items())
    assert sum(p.numel() for p in unet.parameters()) == manifest["num_parameters"]


@pytest.mark.parametrize(("use_linear", "mode", "size"), [(True, "input_only", (4, 6)), (False, "input_only", (5, 7)),
                                                          (True, "none", (7, 4))])
def test_without_temporal_layers_it_is_stable_diffusions_unet_on_every_frame(use_linear, mode, size):
    """alpha starts at 1, which silences the temporal layers; the stride embedding starts at zero."""
    ours = small_denoiser(use_linear_projection=use_linear, first_frame_condition_mode=mode)
    for name, parameter in ours.named_parameters():
        if name.endswith("alpha") or name.startswith("frame_stride_embedding.linear_2"):
            parameter.data.fill_(name.endswith("alpha"))
    theirs = UNet2DConditionModel(**SPATIAL, sample_size=8, use_linear_projection=use_linear).eval()
    state = ours.state_dict()
    theirs.load_state_dict({key: state[key] for key in theirs.state_dict()}, strict=True)
    inputs = denoiser_inputs(height=size[0], width=size[1])
    if mode == "none":
        inputs.pop("first_frame_latents")
    with torch.no_grad():
        out = ours(**inputs)
        expected = torch.stack([theirs(frame, inputs["timestep"], inputs["encoder_hidden_states"]).sample
                                for frame in inputs["sample"].unbind(2)], dim=2)
    assert relative_error(out, expected) < TOLERANCE


def test_a_fresh_network_is_blind_to_time():
    unet = small_denoiser(fill=False, first_frame_condition_mode="input_only")
    sample = denoiser_inputs()["sample"]
    assert torch.equal(out_of(unet, sample=sample.flip(2)), out_of(unet).flip(2))


def test_clips_of_a_batch_do_not_see_each_other():
    unet, inputs = small_denoiser(), denoiser_inputs()
    alone = [out_of(unet, **{key: value[i:i + 1] for key, value in inputs.items() if torch.is_tensor(value)})
             for i in range(2)]
    torch.testing.assert_close(out_of(unet), torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["input_only", "concat", "conv2d"])
def test_every_frame_sees_the_first_one(mode):
    unet = small_denoiser(first_frame_condition_mode=mode)
    change = (out_of(unet, first_frame_latents=rand("other", 2, 4, 1, 4, 6)) - out_of(unet)).abs()
    assert (change.amax(dim=(0, 1, 3, 4)) > 1e-3).all()


@pytest.mark.parametrize("mode", ["input_only", "concat"])
def test_without_temporal_layers_only_the_keys_show_the_first_frame(mode):
    unet = small_denoiser(first_frame_condition_mode=mode, use_temporal=False)
    change = (out_of(unet, first_frame_latents=rand("other", 2, 4, 1, 4, 6)) - out_of(unet)).abs().max()
    assert (change > 1e-3) == (mode == "concat")


@pytest.mark.parametrize("frames", [2, 7])
@pytest.mark.parametrize("positions", ["rotary", "sinusoidal"])
def test_the_number_of_frames_is_free(frames, positions):
    with torch.no_grad():
        inputs = denoiser_inputs(frames=frames)
        assert small_denoiser(temp_pos_embedding=positions)(**inputs).shape == inputs["sample"].shape


def test_times_and_strides_per_clip_frame_and_for_all_agree():
    unet = small_denoiser()
    per_clip = out_of(unet, timestep=torch.tensor([981, 981]), frame_stride=torch.tensor([3, 3]))
    assert torch.equal(out_of(unet, timestep=981, frame_stride=3), per_clip)
    assert torch.equal(out_of(unet, timestep=torch.full((8,), 981), frame_stride=torch.full((8,), 3)), per_clip)
    with pytest.raises(ValueError, match="frame_stride has 3 values for 8 frames"):
        out_of(unet, frame_stride=torch.tensor([1, 2, 3]))


def test_remembered_text_changes_nothing():
    unet, inputs = small_denoiser(), denoiser_inputs()
    with torch.no_grad(), unet.condition_cache():
        unet(**inputs)
        again = unet(**inputs | {"timestep": torch.tensor([500, 400])})
    assert torch.equal(again, out_of(unet, timestep=torch.tensor([500, 400])))


def test_recomputing_activations_gives_equal_gradients():
    """With first frame, neighbours and every kind of layer, in which the original's switch lost or broke something."""
    gradients = []
    for use_checkpoint in (False, True):
        unet = small_denoiser(use_checkpoint=use_checkpoint).train()
        train_all(unet)
        (unet(**denoiser_inputs()) * rand("weight", 2, 4, 3, 4, 6)).mean().backward()
        gradients.append({name: p.grad for name, p in unet.named_parameters() if p.requires_grad})
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


@pytest.mark.parametrize(("positions", "idle"), [("rotary", "rotary_bias"), ("sinusoidal", "pos_enc")])
def test_every_parameter_with_a_function_trains(positions, idle):
    unet = small_denoiser(temp_pos_embedding=positions).train()
    train_all(unet)
    unet(**denoiser_inputs()).square().mean().backward()
    without = {name for name, p in unet.named_parameters() if p.grad is None}
    assert without == {name for name, p in unet.named_parameters() if not p.requires_grad}
    assert without == {name for name, _ in unet.named_parameters()
                       if idle in name or ("conv3ds" in name and "time_emb_proj" in name)}


@pytest.mark.parametrize(("start", "kept"), [(1.25, 1.0), (-0.5, 0.0), (0.5, 0.5)])
def test_alpha_beyond_its_range_comes_back_and_keeps_its_gradient(start, kept):
    layer = TemporalTransformer(32, 24, heads=4)
    layer.alpha.data.fill_(start)
    layer(rand("x", 6, 32, 2, 3), rand("text", 2, 5, 24), frames=3).square().mean().backward()
    assert layer.alpha.item() == kept and layer.alpha.grad.abs() > 1e-6


def test_neighbours_are_the_window_around_each_position_of_the_padded_first_frame():
    height, width = 3, 4
    x = rand("x", 2 * height * width, 5, 6)
    first = x[:, 0].view(2, height, width, 6).permute(0, 3, 1, 2)
    windows = unfold(pad(first, (1, 1, 1, 1), mode="replicate"), 3).view(2, 6, 9, height * width)
    expected = windows[:, :, [0, 1, 2, 3, 5, 6, 7, 8]].permute(0, 3, 2, 1).flatten(0, 1)
    assert torch.equal(with_neighbours(x, (height, width)), torch.cat([x, expected], dim=1))


def test_rotated_products_depend_on_the_distance_alone():
    turn = RotaryEmbedding(16)
    q, k = (rand(name, 1, 32).expand(10, 32) for name in "qk")
    products = turn(q.clone()) @ turn(k.clone()).T
    for offset in (-3, 0, 5):
        diagonal = products.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=0)
    assert torch.equal(turn(q)[:, 16:], q[:, 16:])


def test_half_precision_turns_by_exact_angles():
    turn, q = RotaryEmbedding(16), rand("q", 16, 32).bfloat16()
    assert relative_error(turn.bfloat16()(q).float(), RotaryEmbedding(16)(q.float())) < 2e-2
    assert turn(q).dtype == torch.bfloat16


def test_autocast_runs_with_single_precision_weights():
    unet = small_denoiser()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = out_of(unet)
    assert relative_error(out.float(), out_of(unet)) < 0.05


@pytest.mark.parametrize(("options", "message"), [
    ({"first_frame_condition_mode": "concatenate"}, r"must be one of none, concat.*did you mean 'concat'"),
    ({"block_out_channels": [32]}, "down_block_types has 2 entries for the 1 levels"),
    ({"block_out_channels": [48, 64]}, "width 48 is no multiple of 32 .the groups of the temporal layers"),
    ({"attention_head_dim": [3, 4]}, "width 32 is no multiple of 3"),
    ({"attention_head_dim": [2]}, "must have one entry per level, 2"),
    ({"down_block_types": ["CrossAttnDownBlock3D", "DownBlock2D"]}, "down_block_types 'CrossAttnDownBlock3D' must be"),
    ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift 'scale_shift' is not supported"),
])
def test_impossible_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        small_denoiser(**options)


@pytest.mark.parametrize(("options", "changed", "message"), [
    ({}, {"first_frame_latents": None}, "mode 'concat' needs the input 'first_frame_latents'"),
    ({"first_frame_condition_mode": "none"}, {}, "mode 'none' takes no 'first_frame_latents'"),
    ({}, {"frame_stride": None}, "needs the input 'frame_stride'"),
])
def test_missing_and_surplus_inputs_are_named(options, changed, message):
    with pytest.raises(UserError, match=message):
        out_of(small_denoiser(**options), **changed)


def test_sinusoidal_positions_end():
    unet = small_denoiser(temp_pos_embedding="sinusoidal")
    with pytest.raises(UserError, match="513 frames: sinusoidal temporal positions end at 512"):
        unet.down_blocks[0].tempo_attns[0].transformer_blocks[0].attn1.pos_enc(513)
