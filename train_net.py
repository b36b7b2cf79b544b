"""Train what a YAML file describes: `python train_net.py --cfg configs/t2v_train.yaml [key value ...]`."""
import sys

from tools import cli


def main() -> None:
    """Parse the command line, start one process per GPU where there are several, build the engine, run it."""
    cfg = cli.prepare(cli.parse(sys.argv[1:], "Train, adapt or distil a video diffusion model."))
    if cfg is not None:
        cli.run_task(cfg)


if __name__ == "__main__":
    cli.run_main(main)
