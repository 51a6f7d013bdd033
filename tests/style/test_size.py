"""Files and functions of the package stay small enough to be read at once."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "sharded_emb"

# "about 300" in DESIGN.md: a little over is not worth a split
MOST_FILE_LINES = 320
FEWER_FUNCTION_LINES_THAN = 60
MOST_PARAMETERS = 5


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """What a caller can give it, in any way, besides self and cls."""
    arguments = function.args
    names = [argument.arg for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def overrides(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a base class, maybe somebody else's, has settled the parameters."""
    return any(ast.unparse(decorator).rpartition(".")[2] == "override" for decorator in function.decorator_list)


def kernel(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether Triton compiles it: what it is given are addresses and numbers, one by one."""
    return any("triton.jit" in ast.unparse(decorator) for decorator in function.decorator_list)


def size_problems(source: str, path: Path) -> list[str]:
    """Which limits a file breaks."""
    problems = []
    lines = len(source.splitlines())
    if lines > MOST_FILE_LINES:
        problems.append(f"{path}: want at most {MOST_FILE_LINES} lines, got {lines}; split it")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            place = f"{path}:{node.lineno}: {node.name}"
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length >= FEWER_FUNCTION_LINES_THAN:
                problems.append(f"{place}: want fewer than {FEWER_FUNCTION_LINES_THAN} lines, got {length}; split it")
            if len(parameters(node)) > MOST_PARAMETERS and not overrides(node) and not kernel(node):
                count = len(parameters(node))
                problems.append(f"{place}: want at most {MOST_PARAMETERS} parameters, got {count}; make a dataclass")
    return problems


@pytest.mark.parametrize("path", sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py")), ids=str)
def test_files_and_functions_are_small(path: Path) -> None:
    assert size_problems((PACKAGE / path).read_text(), path) == []


def body(lines: int) -> str:
    return "\n".join(["def f():", *["    x = 1"] * (lines - 1)])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\n" * 321, "want at most 320 lines, got 321"),
        (body(60), "f: want fewer than 60 lines, got 60"),
        ("async " + body(75), "f: want fewer than 60 lines, got 75"),
        ("def f(a, b, c, d, e, g): ...", "f: want at most 5 parameters, got 6"),
        ("def f(a, b, /, c, *, d, e, g): ...", "f: want at most 5 parameters, got 6"),
        ("class C:\n    def __init__(self, a, b, c, d, e, g): ...", "__init__: want at most 5 parameters, got 6"),
        ("def f():\n    def g(a, b, c, d, e, h): ...", "g: want at most 5 parameters, got 6"),
    ],
)
def test_what_is_too_large_is_found(source: str, message: str) -> None:
    (problem,) = size_problems(source, Path("x.py"))
    assert message in problem


@pytest.mark.parametrize(
    "source",
    [
        "\n" * 320,
        body(59),
        "class C:\n    def f(self, a, b, c, *, d, e): ...",
        "class C:\n    @typing.override\n    def f(self, a, b, c, d, e, g): ...",
        "@triton.jit(do_not_specialize=['b'])\ndef f(a, b, c, d, e, g): ...",
    ],
)
def test_what_is_small_enough_passes(source: str) -> None:
    assert size_problems(source, Path("x.py")) == []
