"""Toolchains: which interpreter is used, that an environment is whole or absent, and what the configuration takes.

Environments are made by venv and pip of one tiny wheel that lies in a folder, with no package index.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.specifiers import SpecifierSet

from parity import cli
from parity import config as configuration
from parity import formats as targets
from parity.core.errors import ConfigError, ParityError
from parity.core.settings import ToolchainConfig
from parity.process.toolchains import environments, interpreters, resolving
from parity.process.toolchains.definitions import BUILT_IN, Definition, Recipe, recipe
from parity.process.toolchains.resolving import resolve
from parity.session import toolchains

HERE = Path(__file__).parents[2]
NOW = f"{sys.version_info[0]}.{sys.version_info[1]}"


def wheel(folder: Path, name: str = "tiny", version: str = "1.0", python: str = ">=3.10") -> str:
    """A wheel of one module in `folder`; returns the SHA-256 of the file."""
    about = f"{name}-{version}.dist-info"
    content = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: {python}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text)}\n"
    file = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for path, text in {**content, f"{about}/RECORD": record + f"{about}/RECORD,,\n"}.items():
            archive.writestr(path, text)
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of one package that pip finds in a folder, and a cache folder of the test's own."""
    packages = tmp_path / "packages"
    packages.mkdir()
    digest = wheel(packages)
    file = tmp_path / "tiny.txt"
    file.write_text(f"tiny==1.0 \\\n    --hash=sha256:{digest}\n")
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(interpreters, "uv", lambda: ())
    return file


def of(lock: Path, name: str = "onnx2tf") -> Recipe:
    return recipe(name, ToolchainConfig(lock=lock, python=NOW))


def test_an_environment_is_made_once_of_its_lock_and_tells_what_it_is(lock: Path) -> None:
    said: list[str] = []
    assert environments.find(of(lock)) is None
    made = environments.install(of(lock), said.append)
    assert made.python_version.startswith(NOW) and made.made_by == "pip" and made.packages["tiny"] == "1.0"
    assert made.lock == hashlib.sha256(lock.read_bytes()).hexdigest()
    assert subprocess.run([made.python, "-c", "import tiny"], check=False).returncode == 0
    assert said[0].startswith("onnx2tf: making ") and said[-1].startswith("onnx2tf: ready after ")
    again: list[str] = []
    assert environments.install(of(lock), again.append) == made and not again

    chain = resolve("onnx2tf", ToolchainConfig(lock=lock, python=NOW))
    assert chain.identity == {"name": "onnx2tf", "lock": made.lock, "python": made.python_version}
    assert chain.python == made.python and not chain.is_own and not chain.why
    assert chain.versions(("Tiny", "torch")) == {"Tiny": "1.0", "torch": "absent"}

    # Whatever is not whole is not there: without its marker, or without its interpreter.
    marker = made.folder / environments.MARKER
    text = marker.read_text()
    marker.write_text(text[: len(text) // 2])
    assert environments.find(of(lock)) is None
    marker.write_text(text)
    interpreter = Path(made.python)
    interpreter.unlink()
    assert environments.find(of(lock)) is None
    assert environments.install(of(lock), said.append).python == made.python

    assert environments.remove("litert") == []
    assert environments.remove("onnx2tf") == [made.folder]
    assert environments.find(of(lock)) is None and not made.folder.exists()


def test_what_a_lock_does_not_hash_is_refused_and_leaves_nothing(lock: Path) -> None:
    good = lock.read_text()
    lock.write_text(good.replace(good[-20:-2], "0" * 18))
    with pytest.raises(ParityError, match=r"^onnx2tf: THESE PACKAGES DO NOT MATCH THE HASHES") as caught:
        environments.install(of(lock), lambda line: None)
    assert "\n" not in str(caught.value)
    assert environments.every() == [] and not list(environments.home().glob("onnx2tf-*"))
    lock.write_text("absent==1.0 --hash=sha256:" + "0" * 64)
    with pytest.raises(ParityError, match=r"^onnx2tf: No matching distribution found for absent==1\.0$"):
        environments.install(of(lock), lambda line: None)
    lock.write_text("tiny==1.0\n")
    with pytest.raises(ConfigError, match=r"'tiny==1\.0' has no hash"):
        of(lock)
    lock.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="names no package"):
        of(lock)
    lock.unlink()
    with pytest.raises(ConfigError, match=r"tiny\.txt cannot be read: No such file or directory"):
        of(lock)


INSTALL = """
import sys
from pathlib import Path
from parity.core.settings import ToolchainConfig
from parity.process.toolchains import environments, interpreters
from parity.process.toolchains.definitions import recipe
interpreters.uv = lambda: ()
chosen = recipe("onnx2tf", ToolchainConfig(lock=Path(sys.argv[1]), python=sys.argv[2]))
print(environments.install(chosen, lambda line: print(line, flush=True)).made_by, flush=True)
"""


def installing(lock: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", INSTALL, str(lock), NOW]
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


def test_one_that_was_killed_in_the_middle_is_no_environment_and_the_next_makes_it_whole(lock: Path) -> None:
    process = installing(lock)
    assert process.stdout is not None
    assert "making" in process.stdout.readline()
    deadline = time.monotonic() + 60
    while not list(environments.home().glob("onnx2tf-*/bin/python")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)  # its installer lives on, and holds the lock
    process.wait()
    assert list(environments.home().glob("onnx2tf-*/bin/python")) and environments.every() == []
    assert not resolve("onnx2tf", ToolchainConfig(lock=lock, python=NOW)).python
    said: list[str] = []
    made = environments.install(of(lock), said.append)
    assert said[0] == "onnx2tf: another process is at it; waiting"
    assert subprocess.run([made.python, "-c", "import tiny"], check=False).returncode == 0


def test_two_at_once_make_one(lock: Path) -> None:
    pair = [installing(lock), installing(lock)]
    said = [process.communicate(timeout=180)[0].splitlines() for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert [lines[-1] for lines in said] == ["pip", "pip"]
    assert sum("making" in line for lines in said for line in lines) == 1
    assert sum("waiting" in line for lines in said for line in lines) == 1
    assert len(environments.every()) == 1


def test_packages_are_identified_by_what_they_became(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT_IN, "onnx2tf", Definition("onnx2tf", "", (NOW,), (), carried=("tiny",)))
    setting = ToolchainConfig(packages=("tiny>=1",))
    chosen = recipe("onnx2tf", setting)
    assert not chosen.locked and chosen.pythons[0] == NOW
    first = environments.install(chosen, lambda line: None)
    assert first.lock == environments.digest(first.packages) != chosen.identity
    assert resolve("onnx2tf", setting).lock == first.lock


def test_an_interpreter_is_searched_where_people_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreters, "uv", lambda: ())
    assert interpreters.find((NOW,)).minor == NOW

    def script(file: Path, version: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'#!/bin/sh\necho \'["{version}", "/x", {{}}]\'\n')
        file.chmod(0o755)

    other = "3.9" if NOW != "3.9" else "3.8"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    with pytest.raises(ParityError, match=rf"needs Python {other}, .*: uv python install {other}, or pyenv install"):
        interpreters.find((other,))
    for patch in ("9", "10", "2"):
        script(tmp_path / "pyenv" / "versions" / f"{other}.{patch}" / "bin" / "python", f"{other}.{patch}")
    assert interpreters.find((other,)).version == f"{other}.10"
    script(tmp_path / "bin" / f"python{other}", f"{other}.1")
    assert interpreters.find((other,)).version == f"{other}.1"
    script(tmp_path / "bin" / f"python{other}", "3.7.1")  # another version than its name says
    assert interpreters.find((other,)).version == f"{other}.10"
    script(tmp_path / "bin" / f"python{other}", 'broken"')  # and a shim that only complains
    assert interpreters.find((other,)).version == f"{other}.10"
    named = tmp_path / "mine"
    script(named, "3.12.5")
    assert interpreters.find((str(named),)) == interpreters.Interpreter(str(named), "3.12.5")
    for bad, why in ((tmp_path / "no", "No such file"), (tmp_path, "Permission denied"), (HERE / "LICENSE", "denied")):
        with pytest.raises(ParityError, match=why):
            interpreters.find((str(bad),))


def test_the_own_environment_is_used_where_it_satisfies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    have = {"onnx2tf": "1.29.24", "tensorflow": "2.19.0", "onnxsim": "0.4.36"}

    def version(name: str) -> str:
        if name not in have:
            raise resolving.metadata.PackageNotFoundError(name)
        return have[name]

    monkeypatch.setattr(resolving.metadata, "version", version)
    chain = resolve("onnx2tf")
    assert chain.is_own and chain.python == sys.executable and chain.lock == ""
    have["onnx2tf"] = "2.6.9"  # another program by the same name
    chain = resolve("onnx2tf")
    assert not chain.python and chain.why == "toolchain onnx2tf is not installed: parity tools install onnx2tf"
    assert resolving.unsatisfied("onnx2tf") == ("onnx2tf>=1.28,<2, not 2.6.9",)
    del have["tensorflow"]
    assert len(resolving.unsatisfied("onnx2tf")) == 2
    have |= {"onnx2tf": "1.29.24", "tensorflow-cpu": "2.18.0"}
    assert resolving.unsatisfied("onnx2tf") == ("tensorflow-cpu>=2.19, not 2.18.0",)
    have["tensorflow-cpu"] = "2.19.0"  # the same program without kernels for GPUs
    assert resolve("onnx2tf").is_own
    # A setting of the project's is what is used, whatever lies here.
    assert not resolve("onnx2tf", ToolchainConfig(packages=("onnx2tf==2.6.9",))).python
    named = resolve("onnx2tf", ToolchainConfig(python=sys.executable))
    assert named.python == sys.executable and len(named.lock) == 64


def test_every_built_in_lock_pins_what_its_source_asks_for() -> None:
    tomllib = pytest.importorskip("tomllib")
    folder = HERE / "parity" / "process" / "toolchains"
    assert {file.stem for file in folder.glob("*.toml")} == set(BUILT_IN) == {f.stem for f in folder.glob("*.txt")}
    for name, definition in BUILT_IN.items():
        text = recipe(name, None).text
        source = tomllib.loads((folder / f"{name}.toml").read_text())
        for wanted in source["project"]["dependencies"]:
            requirement, _, marker = wanted.partition(" ;")
            assert "darwin" in marker or f"\n{requirement}" in "\n" + text, f"{name}: {requirement}: make locks"
        assert all(version in SpecifierSet(source["project"]["requires-python"]) for version in definition.pythons)
        linux = {"sys_platform": "linux", "platform_machine": "x86_64", "python_full_version": "3.11.7"}
        entries = re.findall(r"^([\w.-]+==\S+)(?: ; (.*?))? \\$", text, re.MULTILINE)
        first = [pin for pin, marker in entries if not marker or Marker(marker).evaluate(linux)]
        assert first and not [pin for pin in first if pin.startswith(("nvidia", "cuda"))], f"{name} draws CUDA"


PROJECT = """
[tool.parity]
{extra}
[tool.parity.models.net]
factory = "nets:net"
inputs = [{{ name = "x", shape = [1, 3] }}]
outputs = [{{ name = "y" }}]
cells = ["tflite-fp32", "onnx-fp32"]
"""


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (
            '[tool.parity.toolchains.onnx2tff]\npackages = ["a"]',
            "unknown toolchain 'onnx2tff' (did you mean 'onnx2tf'?)",
        ),
        ("[tool.parity.toolchains.onnx2tf]", 'needs packages = ["NAME==1.0"], lock = "path" or python = '),
        ('[tool.parity.toolchains.onnx2tf]\npackages = ["a"]\nlock = "b"', "cannot stand beside packages"),
        ('[tool.parity.toolchains.onnx2tf]\npackages = ["--pre"]', "'--pre' is no requirement"),
        ('[tool.parity.toolchains.onnx2tf]\npython = "3.12"', "'3.12' is a version: it goes with packages or lock"),
        ('[tool.parity.toolchains.onnx2tf]\npythn = "x"', "unknown key 'pythn' (did you mean 'python'?)"),
        ('[tool.parity.routes.litert]\npython = "x"', "is now [tool.parity.toolchains.litert], with the same python"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(tmp_path: Path, extra: str, reason: str) -> None:
    file = tmp_path / "pyproject.toml"
    with pytest.raises(ConfigError) as caught:
        configuration.parse(PROJECT.format(extra=extra), file, targets.facts())
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("pyproject.toml:")


def test_a_toolchain_is_chosen_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read = configuration.parse(PROJECT.format(extra=""), tmp_path / "pyproject.toml", targets.facts())
    tflite, onnx = read.cells
    names = {step.toolchain for route in toolchains.routes_of(read, tflite) for step in route.steps}
    assert names == {"", "onnx2tf", "litert"}
    by_litert = toolchains.choose(read, ["tflite=litert"])
    assert [route.name for route in toolchains.routes_of(by_litert, tflite)] == ["torch.export+litert-torch"]
    assert toolchains.unavailable(by_litert, tflite) == (
        "toolchain litert is not installed: parity tools install litert"
    )
    assert toolchains.routes_of(by_litert, onnx) == toolchains.routes_of(read, onnx)
    newer = toolchains.choose(read, ["tflite=onnx2tf==2.6.9"])
    assert newer.toolchains == {"onnx2tf": ToolchainConfig(packages=("onnx2tf==2.6.9",))}
    assert toolchains.unavailable(newer, tflite) == (
        "toolchain onnx2tf is not installed: parity tools install onnx2tf==2.6.9"
    )
    by_version = toolchains.choose(read, ["tflite=litert==0.10.0"]).toolchains["litert"]
    assert by_version.packages == ("litert-torch==0.10.0",)
    for wrong, reason in (
        ("litert", "write TARGET=NAME, as in tflite=litert"),
        ("tflit=litert", "no target 'tflit'"),
        ("tflite=lite", "no toolchain 'lite' (did you mean 'litert'?)"),
        ("tflite=coreai", "tflite has no route by 'coreai'; its toolchains: onnx2tf, litert"),
        ("onnx=onnx2tf", "onnx has no route by 'onnx2tf'; its toolchains: none"),
        ("tflite=onnx2tf==", "'' is no version"),
        ("tflite=onnx2tf==--pre", "'--pre' is no version"),
    ):
        with pytest.raises(ConfigError) as caught:
            toolchains.choose(read, [wrong])
        assert reason in str(caught.value)


def test_the_search_for_a_python_goes_on_where_a_version_refuses_the_first(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that wants another Python than the built-in lock's."""
    others = [v for v in ("3.10", "3.11", "3.12", "3.13") if v != NOW and _is_here(v)]
    if not others:
        pytest.skip("one Python alone is here")
    folder = Path(os.environ["PIP_FIND_LINKS"])
    wheel(folder, "picky", "1.0", f"=={others[0]}.*")
    monkeypatch.setitem(BUILT_IN, "onnx2tf", Definition("onnx2tf", "", (NOW, others[0]), (), carried=("tiny",)))
    chosen = recipe("onnx2tf", ToolchainConfig(packages=("picky",)))
    said: list[str] = []
    made = environments.install(chosen, said.append)
    assert made.python_version.startswith(others[0]) and made.packages["picky"] == "1.0"
    assert any(line.endswith("trying another Python") for line in said)
    assert environments.find(chosen) == made
    with pytest.raises(ParityError, match=r"^onnx2tf: .*picky.* requires a different Python"):
        environments.install(recipe("onnx2tf", ToolchainConfig(packages=("picky",), python=NOW)), said.append)


def test_where_a_python_cannot_be_had_another_toolchain_does(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(interpreters, "uv", lambda: ())  # which could fetch one
    monkeypatch.setitem(BUILT_IN, "onnx2tf", Definition("onnx2tf", "", ("3.99",), ("nowhere",)))
    monkeypatch.setitem(BUILT_IN, "litert", Definition("litert", "", (NOW,), ("nowhere",)))
    extra = f'[tool.parity.toolchains.litert]\nlock = "{lock}"\npython = "{NOW}"'
    (tmp_path / "nets.py").write_text("def net(): ...\n")
    (tmp_path / "pyproject.toml").write_text(PROJECT.format(extra=extra))
    monkeypatch.chdir(tmp_path)
    read = configuration.load(tmp_path / "pyproject.toml", targets.facts())
    tflite = read.cells[0]
    why = toolchains.unavailable(read, tflite)
    assert why == ("toolchain onnx2tf is not installed: parity tools install onnx2tf, or parity tools install litert")
    assert cli.main(["tools", "install", "onnx2tf"]) == 1
    assert "onnx2tf: needs Python 3.99, and none is on PATH" in capsys.readouterr().err
    assert cli.main(["tools", "install"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("litert: ") and "needs Python 3.99" in err and "another toolchain does, too: litert" in err
    assert [route.name for route in toolchains.usable(read, tflite)] == ["torch.export+litert-torch"]


def _is_here(version: str) -> bool:
    try:
        return interpreters.find((version,)).minor == version
    except ParityError:
        return False


def test_paths_of_a_setting_start_at_the_project(tmp_path: Path) -> None:
    extra = textwrap.dedent("""
        [tool.parity.toolchains.litert]
        python = "env/bin/python"
        [tool.parity.toolchains.onnx2tf]
        packages = ["onnx2tf==2.6.9"]
        python = "3.12"
        [tool.parity.toolchains.coreai]
        lock = "locks/coreai.txt"
    """)
    read = configuration.parse(PROJECT.format(extra=extra), tmp_path / "pyproject.toml", targets.facts()).toolchains
    assert read == {
        "litert": ToolchainConfig(python=str(tmp_path / "env/bin/python")),
        "onnx2tf": ToolchainConfig(packages=("onnx2tf==2.6.9",), python="3.12"),
        "coreai": ToolchainConfig(lock=tmp_path / "locks/coreai.txt"),
    }
    assert read["litert"].is_environment and not read["onnx2tf"].is_environment


def test_tools_by_the_command_line(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["tools", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n{name} " in "\n" + listed for name in BUILT_IN)
    assert cli.main(["tools", "install"]) == 2
    assert "no pyproject.toml with a [tool.parity] table" in capsys.readouterr().err
    assert cli.main(["tools", "install", "onx2tf"]) == 1
    assert "no toolchain 'onx2tf' (did you mean 'onnx2tf'?)" in capsys.readouterr().err
    assert cli.main(["tools", "remove", "onx2tf"]) == 1
    assert "did you mean 'onnx2tf'" in capsys.readouterr().err

    extra = f'[tool.parity.toolchains.onnx2tf]\nlock = "{lock}"\npython = "{NOW}"'
    (tmp_path / "nets.py").write_text("def net(): ...\n")
    (tmp_path / "pyproject.toml").write_text(PROJECT.format(extra=extra))
    assert cli.main(["tools", "list"]) == 0
    assert "onnx2tf      no: parity tools install onnx2tf\n" in capsys.readouterr().out
    assert cli.main(["tools", "install"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("onnx2tf: ") and "onnx2tf: making " in err
    assert cli.main(["tools", "install"]) == 0
    assert capsys.readouterr().out == "nothing to install: every cell has what it needs\n"
    assert cli.main(["tools", "list"]) == 0
    assert "onnx2tf      installed: " in capsys.readouterr().out
    assert cli.main(["tools", "remove", "onnx2tf"]) == 0
    assert "onnx2tf: deleted " in capsys.readouterr().out
    assert cli.main(["tools", "remove", "onnx2tf"]) == 0
    assert capsys.readouterr().out == "onnx2tf: nothing of it is here\n"
