"""A file with a trigger in a project: a warning with its place, a figure to limit, a person's word that it is fine."""

from __future__ import annotations

import pytest

from parity.core.record import CellRecord
from tests.plugin.tiny_project import MODEL, PYPROJECT, Project

pytest_plugins = ["pytester"]

TRIGGERED = """

class Triggered(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = tiny()

    def forward(self, x):
        return self.net(torch.where(x > 100, torch.zeros_like(x), x))

if __name__ == "__main__":
    torch.jit.trace(Triggered().eval(), torch.zeros(2, 3), check_trace=False).save("given.pt")
"""
ACCEPT = """
[[tool.parity.accept]]
cell = "tiny-torchscript-fp32"
operator = "{operator}"
reason = "read in review"
expires = {expires}
"""


@pytest.fixture
def triggered(project: Project) -> Project:
    """The project with a prebuilt TorchScript file that answers otherwise above 100."""
    text = PYPROJECT.replace('["plain"]', '["torchscript"]').replace('["fp32", "fp16"]', '["fp32"]')
    project.write("pyproject.toml", text + 'artifacts = { "torchscript-fp32" = "given.pt" }\n')
    project.write("tinynet.py", MODEL + TRIGGERED)
    assert project.pytester.runpython(project.path / "tinynet.py").ret == 0
    return project


def cell(project: Project) -> CellRecord:
    (only,) = project.run().record.cells
    return only


def unexplained(record: CellRecord) -> float | None:
    return next(c.value for c in record.checks if c.metric == "unexplained_operators")


def test_a_trigger_is_a_warning_until_it_is_accepted(triggered: Project) -> None:
    record = cell(triggered)
    (text,) = [f.text for f in record.findings if "decides by data" in f.text]
    operator = text.partition("does not: ")[2].partition(". Look")[0]
    assert operator.startswith("aten::gt %") and operator.endswith("with 100"), text
    assert (record.state, unexplained(record)) == ("pass", 1.0)
    triggered.add("pyproject.toml", ACCEPT.format(operator=operator, expires="2999-01-31"))
    record = cell(triggered)
    assert unexplained(record) == 0.0
    assert any("accepted: " in f.text for f in record.findings)
    assert not any("decides by data" in f.text for f in record.findings)


@pytest.mark.parametrize("expires", ["2001-01-31", "2999-01-31"])
def test_what_was_accepted_is_held_to_its_day_and_its_name(triggered: Project, expires: str) -> None:
    triggered.add("pyproject.toml", ACCEPT.format(operator="aten::gt %none with 7", expires=expires))
    record = cell(triggered)
    assert unexplained(record) == 1.0
    assert any("no unexplained operator 'aten::gt %none with 7'" in f.text for f in record.findings)


def test_a_limit_makes_it_a_failure(triggered: Project) -> None:
    triggered.add("pyproject.toml", "[tool.parity.limits.default]\nunexplained_operators = 0\n")
    record = cell(triggered)
    assert record.state == "fail" and "unexplained_operators 1 > 0" in record.reason, record.reason


EXTRA = """

class More(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.more = tiny(), torch.nn.Parameter(torch.randn(3, 4))

    def forward(self, x):
        return self.net(x) + x @ self.more * (x.mean(1, keepdim=True) - 3).relu()

if __name__ == "__main__":
    torch.manual_seed(0)
    torch.jit.trace(More().eval(), torch.zeros(2, 3), check_trace=False).save("given.pt")
"""


def test_numbers_that_the_module_lacks_are_a_warning_until_they_are_accepted(triggered: Project) -> None:
    triggered.write("tinynet.py", MODEL + EXTRA)
    assert triggered.pytester.runpython(triggered.path / "tinynet.py").ret == 0
    triggered.add("pyproject.toml", "[tool.parity.limits.default]\nunexplained_constants = 0\n")
    record = cell(triggered)
    assert record.state == "fail" and "unexplained_constants 1 > 0" in record.reason, record.reason
    (text,) = [f.text for f in record.findings if "no tensor of the module explains" in f.text]
    assert "constant: more (12 numbers of shape [3, 4])" in text
    triggered.add("pyproject.toml", ACCEPT.format(operator="constant: more", expires="2999-01-31"))
    record = cell(triggered)
    assert record.state == "pass" and any("accepted: constant: more" in f.text for f in record.findings)
