"""VideoLCM (arXiv 2312.09109): text, and what VideoComposer composes, to video in a few steps."""
import torch

from tools.engines.consistency import ConsistencyModel
from tools.engines.engine import tasks
from tools.engines.text2video import TextToVideo
from tools.engines.vcomposer import VideoComposer
from tools.registry import DIFFUSION

MEAN_TYPES = {"v_prediction": "v", "epsilon": "eps"}


class OriginalProcess(ConsistencyModel):
    """The process of the original's tasks, whatever the section `Diffusion` says: Stable Diffusion's.

    It ends in pure noise where `zero_terminal_snr` asks for it (in sampling: unless that is switched off).
    """

    reseeds = True

    def process(self):
        cfg = self.cfg
        to_noise = self.mode == "sample" if cfg.zero_terminal_snr is None else cfg.zero_terminal_snr
        parameters = {"num_timesteps": cfg.num_timesteps, "init_beta": 0.00085, "last_beta": 0.012,
                      "zero_terminal_snr": to_noise}
        return DIFFUSION.build({"type": "DiffusionDDIM", "schedule": "linear_sd", "schedule_param": parameters,
                                "mean_type": MEAN_TYPES[cfg.prediction_type_a], "var_type": "fixed_small"})


@tasks(train=("train_videolcm_t2v_entrance",), sample=("inference_videolcm_entrance",))
class VideoLCM(TextToVideo, OriginalProcess):
    """Distils TF-T2V's text-to-video network, and samples what came of it."""


@tasks(train=("train_videolcm_vcomposer_entrance",), sample=("inference_videolcm_vcomposer_entrance",))
class ComposedVideoLCM(VideoComposer, OriginalProcess):
    """The same for the compositional network. Its training was not released.

    Every update is about one of the sets of `partial_keys`, at random, so that student, teacher and target are told
    the same conditions.
    """

    def batch_loss(self, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        sets = self.cfg.partial_keys
        return super().batch_loss(batch | {"keys": sets[int(torch.randint(len(sets), ()))]})
