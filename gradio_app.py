"""The engine in a browser: `python gradio_app.py`, then open the address it prints. Serves this machine only."""
import argparse
import logging
import sys

from tools import cli


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line; imports neither torch nor gradio, so that `--help` answers at once."""
    parser = argparse.ArgumentParser(
        description="Videos from a sentence, a picture or another video in a browser, by the configurations in "
                    "configs/.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--cfg", metavar="FILE", default="configs/quickstart.yaml", help="configuration to begin with")
    parser.add_argument("--configs", metavar="FOLDER", default="configs", help="where the configurations are")
    parser.add_argument("--host", default="127.0.0.1",
                        help="address to serve; 0.0.0.0 opens the app to the network, without any password")
    parser.add_argument("--port", type=int, default=7860, help="port to serve")
    return parser.parse_args(argv)


def main() -> None:
    """Serve the page until Ctrl-C."""
    arguments = parse(sys.argv[1:])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # or it notes every request that gradio makes of itself
    from tools.page import build  # imports torch and gradio
    from tools.studio import Studio
    studio = Studio(arguments.configs)
    chosen = arguments.cfg if arguments.cfg in studio.configs else next(iter(studio.configs))
    folders = sorted({cfg.log_dir for cfg in studio.configs.values()})
    build(studio, chosen).launch(server_name=arguments.host, server_port=arguments.port, share=False, ssr_mode=False,
                                 allowed_paths=folders)


if __name__ == "__main__":
    cli.run_main(main)
