"""MiDaS' DPT-Large (arXiv 2103.13413): relative depth from one picture, on transformers' DPT.

Weights come in two layouts, which `published_names` maps onto each other: VGen's file
`midas_v3_dpt_large.pth` and transformers' own (`Intel/dpt-large`). Of the latter the last layer norm is dropped, which
depth does not pass, and a unit that never runs may be missing.
"""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tools.checkpoint import load_state
from tools.frozen import check_fit, load_frozen, on_meta

STAGES = 4
FACTORS = (4, 2, 1, 0.5)  # by which each stage resizes the grid of patches
EPS = 1e-5  # of the layer norms in VGen's file; transformers' port of the same weights has 1e-12
QKV = ("query", "key", "value")
NEVER_RUN = "neck.fusion_stage.layers.0.residual_layer1."


class MiDaS(nn.Module):
    """Inverse depth up to scale and shift, as the network gives it.

    Args:
        image_size: side of the pictures that the positions were learned for; others are interpolated.
        patch_size: of the vision transformer.
        dim, num_heads, num_layers: of the vision transformer.
        neck_dims: channels of the four stages before fusion.
        fusion_dim: channels of the fusion.
    """

    def __init__(self, image_size: int = 384, patch_size: int = 16, dim: int = 1024,
                 neck_dims: Sequence[int] = (256, 512, 1024, 1024), fusion_dim: int = 256, num_heads: int = 16,
                 num_layers: int = 24):
        from transformers import DPTConfig, DPTForDepthEstimation  # seconds to import

        super().__init__()
        self.patch_size, self.num_layers = patch_size, num_layers
        self.network = DPTForDepthEstimation(DPTConfig(
            hidden_size=dim, num_hidden_layers=num_layers, num_attention_heads=num_heads, intermediate_size=4 * dim,
            layer_norm_eps=EPS, image_size=image_size, patch_size=patch_size, neck_hidden_sizes=list(neck_dims),
            reassemble_factors=list(FACTORS), fusion_hidden_size=fusion_dim, is_hybrid=False))
        self.network.dpt.layernorm = nn.Identity()

    @property
    def multiple(self) -> int:
        """Sides of pictures must be multiples of this: the last stage halves the grid of patches and doubles it."""
        return 2 * self.patch_size

    def forward(self, pictures: Tensor) -> Tensor:
        """[n, 3, H, W] in [-1, 1], H and W multiples of `multiple`, to [n, 1, H, W], at least 0, larger is nearer.

        The model's own forward takes squares alone, which is why its parts are called one by one.
        """
        rows, columns = (side // self.patch_size for side in pictures.shape[-2:])
        tokens = self.network.dpt.embeddings(pictures).last_hidden_states
        stages = []
        for number, layer in enumerate(self.network.dpt.encoder.layer, start=1):
            tokens = layer(tokens)
            if number % (self.num_layers // STAGES) == 0:
                stages.append(tokens)
        fused = self.network.neck(stages, rows, columns)
        return self.network.head(fused)[:, None]

    def key_table(self) -> dict[str, list[str]]:
        """Key in VGen's file -> keys of transformers' whose tensors it holds one below the other, in file order."""
        own, table = self.network.state_dict().keys(), {}
        for published, name in published_names(self.num_layers).items():
            if name in own:
                table[published] = [name]
            modules = [f"{name}.{part}" for part in QKV] if published.endswith("to_qkv") else [name]
            for kind in ("weight", "bias"):
                if f"{modules[0]}.{kind}" in own:
                    table[f"{published}.{kind}"] = [f"{module}.{kind}" for module in modules]
        return table

    def published_state(self) -> dict[str, Tensor]:
        """The weights under the names and in the shapes of VGen's file."""
        own = self.network.state_dict()
        return {key: _flip_last(key, torch.cat([own[part] for part in parts]))
                for key, parts in self.key_table().items()}

    def from_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights in the layout of VGen's file, complete, under transformers' names."""
        own: dict[str, Tensor] = {}
        for key, parts in self.key_table().items():
            own |= zip(parts, _flip_last(key, state[key]).chunk(len(parts)), strict=True)
        return own


def published_names(num_layers: int) -> dict[str, str]:
    """Name in VGen's file -> transformers' name, of every module and lone parameter, in that file's order.

    `attn.to_qkv` stands for three modules, which transformers names by QKV after the name given here.
    """
    names = {"cls_embedding": "dpt.embeddings.cls_token", "pos_embedding": "dpt.embeddings.position_embeddings",
             "patch_embedding": "dpt.embeddings.patch_embeddings.projection"}
    for i in range(num_layers):
        layer = f"dpt.encoder.layer.{i}"
        names |= {f"blocks.{i}.norm1": f"{layer}.layernorm_before",
                  f"blocks.{i}.attn.to_qkv": f"{layer}.attention.attention",
                  f"blocks.{i}.attn.proj": f"{layer}.attention.output.dense",
                  f"blocks.{i}.norm2": f"{layer}.layernorm_after",
                  f"blocks.{i}.mlp.0": f"{layer}.intermediate.dense", f"blocks.{i}.mlp.2": f"{layer}.output.dense"}
    for i, factor in enumerate(FACTORS):
        names |= {f"fc{i + 1}.0": f"neck.reassemble_stage.readout_projects.{i}.0",
                  f"conv{i + 1}.0": f"neck.reassemble_stage.layers.{i}.projection"}
        resized = factor != 1
        if resized:
            names[f"conv{i + 1}.1"] = f"neck.reassemble_stage.layers.{i}.resize"
        names[f"conv{i + 1}.{1 + resized}"] = f"neck.convs.{i}"
        fusion = f"neck.fusion_stage.layers.{STAGES - 1 - i}"
        names |= {f"fusion{i + 1}.layer{unit}.residual.{2 * k - 1}": f"{fusion}.residual_layer{unit}.convolution{k}"
                  for unit in (1, 2) for k in (1, 2)}
        names[f"fusion{i + 1}.conv_out"] = f"{fusion}.projection"
    return names | {f"head.{i}": f"head.head.{i}" for i in (0, 2, 4)}


def _flip_last(key: str, value: Tensor) -> Tensor:
    """The last layer is a transposed convolution in VGen's file and a plain one in transformers; both are 1x1."""
    return value.transpose(0, 1) if key == "head.4.weight" else value


def load_midas(path: str, **config) -> MiDaS:
    """The network with the weights of a file in either layout, frozen.

    Args:
        path: a local file or hub name.
        config: arguments of `MiDaS`, for weights that are not DPT-Large's.

    Raises:
        UserError: the file is missing or holds another network.
    """
    state, what = load_state(path), f"depth: '{path}'"
    network = on_meta(MiDaS, **config)
    if any(key.startswith("dpt.") for key in state):
        unused = {key: torch.zeros(value.shape) for key, value in network.network.state_dict().items()
                  if key.startswith(NEVER_RUN)}
        state = unused | {key: value for key, value in state.items() if not key.startswith("dpt.layernorm.")}
    else:
        check_fit(network.published_state(), state, what)
        state = network.from_published(state)
    load_frozen(network.network, state, what)
    return network.eval()
