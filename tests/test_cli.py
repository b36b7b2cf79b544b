"""The shared command line: flags and overrides in any order, quick help, exit codes."""
import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.cli import parse, prepare, run_main
from tools.errors import UserError

ROOT = Path(__file__).parent.parent


def test_flags_and_overrides_mix():
    words = ["seed", "-1", "--cfg", "a.yaml", "x.y", "[-1, 2]", "--debug", "--imports", "b.py", "c.py", "k", "--v"]
    arguments = parse(words, "")
    assert (arguments.cfg, arguments.debug, arguments.imports) == ("a.yaml", True, ["b.py", "c.py"])
    assert arguments.overrides == ["seed", "-1", "x.y", "[-1, 2]", "k", "--v"]


def test_odd_words_are_left_for_the_configuration_to_refuse():
    assert parse(["--cfg", "a.yaml", "seed"], "").overrides == ["seed"]


def test_old_commands_are_understood():
    assert parse(["--init_method", "tcp://localhost:1", "--cfg=a.yaml"], "").cfg == "a.yaml"


@pytest.mark.parametrize("argv", [["--cgf", "a.yaml"], ["--cfg"], ["-x"]])
def test_unknown_flags_are_refused(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(argv, "")
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_help_answers_at_once_without_torch():
    script = "import sys; from tools.cli import parse, run_main\n" \
             "try: parse(['--help'], 'd')\n" \
             "finally: print(sorted({'torch', 'numpy', 'diffusers', 'open_clip'} & set(sys.modules)))"
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    # A whole second on a machine of one's own; a busy machine gets more, and the absence of torch is what matters.
    assert time.perf_counter() - began < 5
    assert done.stdout.rstrip().endswith("[]")
    for word in ("--cfg", "--check", "--print-config", "key value", "tools/defaults.py", "inference_i2vgen_entrance"):
        assert word in done.stdout


def test_print_config_prints_and_ends(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("seed: 3\n")
    assert prepare(parse(["--cfg", "a.yaml", "--print-config", "round", "2"], "")) is None
    printed = capsys.readouterr().out
    assert "seed: 3  # a.yaml" in printed
    assert "round: 2  # command line" in printed


def test_configuration_is_handed_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("imports: [own.py]\n")
    cfg = prepare(parse(["--cfg", "a.yaml", "--debug", "--imports", "more.py"], ""))
    assert cfg.debug
    assert cfg.imports == ["own.py", "more.py"]


def test_list_names_own_components(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text("from tools.registry import MODEL\n\n\n@MODEL.register()\n"
                              "class OwnForList:\n    def __init__(self, width):\n        pass\n")
    assert prepare(parse(["--list", "--imports", "own.py"], "")) is None
    printed = capsys.readouterr().out.splitlines()
    assert "  OwnForList(width)" in printed
    assert "DIFFUSION" in printed


@pytest.mark.parametrize(("error", "code", "line"), [
    (UserError("list.txt, line 3: no caption"), 2, "error: list.txt, line 3: no caption\n"),
    (OSError(errno.ENOSPC, "No space left on device", "out.mp4"), 2, "error: No space left on device: 'out.mp4'\n"),
    (KeyboardInterrupt(), 130, ""),
])
def test_exit_codes(error, code, line, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_main(main)
    assert ended.value.code == code
    assert capsys.readouterr().err == line


def test_programming_mistakes_keep_their_traceback():
    def main():
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        run_main(main)
