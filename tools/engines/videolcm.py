"""VideoLCM (arXiv 2312.09109): text to video in a few steps."""
from tools.engines.consistency import ConsistencyModel
from tools.engines.engine import tasks
from tools.engines.text2video import TextToVideo
from tools.registry import DIFFUSION

MEAN_TYPES = {"v_prediction": "v", "epsilon": "eps"}


@tasks(train=("train_videolcm_t2v_entrance",), sample=("inference_videolcm_entrance",))
class VideoLCM(ConsistencyModel, TextToVideo):
    """Distils TF-T2V's text-to-video network and samples what came of it.

    As the original's tasks do it, whatever the section `Diffusion` says: the process is Stable Diffusion's, ending in
    pure noise where `zero_terminal_snr` asks for it (in sampling: unless it is switched off).
    """

    reseeds = True

    def process(self):
        cfg = self.cfg
        to_noise = self.mode == "sample" if cfg.zero_terminal_snr is None else cfg.zero_terminal_snr
        parameters = {"num_timesteps": cfg.num_timesteps, "init_beta": 0.00085, "last_beta": 0.012,
                      "zero_terminal_snr": to_noise}
        return DIFFUSION.build({"type": "DiffusionDDIM", "schedule": "linear_sd", "schedule_param": parameters,
                                "mean_type": MEAN_TYPES[cfg.prediction_type_a], "var_type": "fixed_small"})
