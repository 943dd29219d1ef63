"""Shell completion: the script that `parity completion bash` prints, run by bash."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("shtab")
BASH = shutil.which("bash")
TYPED = """
source "$1"; shift
registered=$(complete -p parity); function=${registered##*-F }; function=${function%% *}
COMP_WORDS=(parity "$@"); COMP_CWORD=$#; COMP_LINE="parity $*"; COMP_POINT=${#COMP_LINE}
$function parity "${@: -1}" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(run, tmp_path: Path) -> Path:
    code, out, err = run("completion", "bash")
    assert code == 0, err
    (tmp_path / "completion.bash").write_text(out)
    (tmp_path / "model.tflite").touch()
    return tmp_path / "completion.bash"


def offered(script: Path, *words: str) -> list[str]:
    """What bash offers for the last word of `parity WORDS...`, in the folder of the script."""
    if BASH is None:
        pytest.skip("no bash")
    command = [BASH, "--norc", "-c", TYPED, "bash", str(script), *words]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "command not found" not in done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        (["ver"], {"verify"}),
        (["ca"], {"cache", "capsule"}),
        (["tools", ""], {"list", "install", "remove"}),
        (["schema", "r"], {"record"}),
        (["completion", ""], {"bash", "zsh", "tcsh"}),
        (["verify", "--prec"], {"--precision"}),
        (["verify", "mod"], {"model.tflite"}),
        (["verify", "x.onnx", "--reference", "mod"], {"model.tflite"}),
    ],
)
def test_bash_completes(script: Path, words: list[str], answers: set[str]) -> None:
    assert answers <= set(offered(script, *words))


def test_every_command_is_offered(script: Path) -> None:
    from parity import cli

    names = {command.__name__.rpartition(".")[2] for command in cli.COMMANDS}
    assert names <= set(offered(script, ""))


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_a_script(run, shell: str) -> None:
    code, out, err = run("completion", shell)
    assert code == 0, err
    assert "verify" in out
    assert "--precision" in out or shell == "tcsh"
