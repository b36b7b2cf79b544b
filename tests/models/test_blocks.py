"""Single blocks: properties that the figures of whole networks do not show by themselves."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.goldens.reader import fill_module
from tests.models.examples import rand
from tools.models.blocks import (
    Attention,
    ResBlock,
    SpatialTransformer,
    TemporalConv,
    TemporalTransformer,
    sinusoidal_embedding,
    to_channels_last,
    to_frames,
    to_video,
)


@given(st.lists(st.floats(0, 999, width=32), min_size=1, max_size=4), st.integers(2, 65))
@settings(max_examples=25, deadline=None)
def test_sinusoids_have_the_formulas_angles_and_unit_length(values, dim):
    embedding, half = sinusoidal_embedding(torch.tensor(values), dim), dim // 2
    angles = torch.tensor(values).double()[:, None] * 10000.0 ** (-torch.arange(half).double() / half)

    torch.testing.assert_close(embedding[:, :half].double(), angles.cos(), atol=2e-4, rtol=0)
    torch.testing.assert_close(embedding[:, half:2 * half].double(), angles.sin(), atol=2e-4, rtol=0)
    assert embedding.dtype == torch.float32 and not embedding[:, 2 * half:].any()


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_rows_that_share_a_context_need_it_once(rows):
    attention = fill_module(Attention(16, 10, heads=2, dim_head=8))
    x, context = rand("tokens", 6, 5, 16), rand("context", rows, 4, 10)
    with torch.no_grad():
        torch.testing.assert_close(attention(x, context), attention(x, context.repeat_interleave(6 // rows, dim=0)),
                                   atol=1e-6, rtol=0)


def test_temporal_attention_knows_no_order():
    block = fill_module(TemporalTransformer(32, 2, 16))
    x, order = rand("video", 1, 32, 5, 2, 3), torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        torch.testing.assert_close(block(x)[:, :, order], block(x[:, :, order]), atol=1e-5, rtol=0)


def test_temporal_convolution_reaches_one_frame_per_stage():
    block = fill_module(TemporalConv(32).eval())
    x = rand("video", 1, 32, 12, 1, 1)
    for stage in (block.conv1, block.conv2, block.conv3, block.conv4):
        stage[0] = torch.nn.Identity()  # its statistics are shared by all frames
    changed = x.clone()
    changed[:, :, 0] += 1
    with torch.no_grad():
        difference = (block(x) - block(changed)).abs().amax(dim=(0, 1, 3, 4))
    assert (difference[:5] > 0).all() and not difference[5:].any()


@pytest.mark.parametrize("block", [TemporalConv(32, still_identity=True),
                                   TemporalTransformer(32, 2, 16, still_identity=True)])
def test_a_still_passes_unchanged_where_asked_for(block):
    fill_module(block.eval())
    still, clip = rand("still", 2, 32, 1, 2, 3), rand("clip", 2, 32, 3, 2, 3)
    with torch.no_grad():
        assert torch.equal(block(still), still)
        assert not torch.equal(block(clip), clip)


@pytest.mark.parametrize("block", [TemporalConv(32, use_image_dataset=True),
                                   TemporalTransformer(32, 2, 16, use_image_dataset=True)])
def test_a_switched_off_branch_still_takes_part_in_the_backward_pass(block):
    fill_module(block.eval())
    x = rand("clip", 2, 32, 3, 2, 3).requires_grad_()
    out = block(x)
    out.sum().backward()

    assert torch.equal(out, x) and torch.equal(x.grad, torch.ones_like(x))
    assert all(p.grad is not None and not p.grad.any() for p in block.parameters())


def test_layout_changes_are_views_in_channels_last_memory():
    x = rand("frames", 6, 8, 3, 4).contiguous(memory_format=torch.channels_last)
    video = to_video(x, 2)

    assert video.shape == (2, 8, 3, 3, 4) and video.data_ptr() == x.data_ptr()
    assert to_frames(video).data_ptr() == x.data_ptr() and torch.equal(to_frames(video), x)


@pytest.mark.parametrize("block", [SpatialTransformer(32, 2, 16), ResBlock(32, 8, 0.0, 64)])
def test_memory_layout_changes_no_number(block):
    fill_module(block.eval())
    x = rand("frames", 4, 32, 3, 4)
    more = (rand("emb", 2, 8), 2) if isinstance(block, ResBlock) else ()
    with torch.no_grad():
        plain = block(x, *more)
        last = to_channels_last(block)(x.contiguous(memory_format=torch.channels_last), *more)
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(plain, last, atol=1e-5, rtol=0)
