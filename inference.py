"""Sample what a YAML file describes: `python inference.py --cfg configs/quickstart.yaml [key value ...]`."""
import sys

from tools import cli


def main() -> None:
    """Parse the command line, start one process per GPU where there are several, build the engine, run it."""
    cfg = cli.prepare(cli.parse(sys.argv[1:], "Sample videos from a list of prompts."))
    if cfg is not None:
        cli.run_task(cfg)


if __name__ == "__main__":
    cli.run_main(main)
