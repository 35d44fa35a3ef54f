"""Nowhere in the product is data turned into code: the source itself says so."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("api", "cli", "db", "dialects", "migrations", "models", "scoring", "training", "workers", "deploy")
MODULES = frozenset(
    {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
)
CALLS = frozenset({"eval", "exec", "compile", "__import__"})
# yaml.load builds whatever objects a file names; the others of these run a shell.
ATTRIBUTES = frozenset(
    {("yaml", "load"), ("yaml", "unsafe_load"), ("os", "system"), ("os", "popen"), ("numpy", "load")}
)


def faults(source: str) -> list[str]:
    """What of the source could turn data into code, with its line."""
    return [f"line {node.lineno}: {fault}" for node in ast.walk(ast.parse(source)) for fault in _faults(node)]  # type: ignore[attr-defined]


def _faults(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names):
            yield from (f"import {name.name}" for name in names if name.name.split(".")[0] in MODULES)
        case ast.ImportFrom(module=str(module)) if module.split(".")[0] in MODULES:
            yield f"from {module}"
        case ast.Call(func=ast.Name(id=name)) if name in CALLS:
            yield f"{name}()"
        case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)) if (owner, name) in ATTRIBUTES:
            yield f"{owner}.{name}()"
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load"), keywords=keywords):
            if not any(each.arg == "weights_only" and _is(each.value, True) for each in keywords):
                yield "torch.load() without weights_only=True"
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg == "trust_remote_code" and not _is(keyword.value, False):
                yield "trust_remote_code that is not False"
            if keyword.arg in ("shell", "allow_pickle") and not _is(keyword.value, False):
                yield f"{keyword.arg} that is not False"
            if keyword.arg == "use_safetensors" and not _is(keyword.value, True):
                yield "use_safetensors that is not True"


def _is(node: ast.AST, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("package", PRODUCT)
def test_no_source_turns_data_into_code(package: str) -> None:
    sources = sorted((ROOT / package).rglob("*.py"))

    found = {str(path.relative_to(ROOT)): faults(path.read_text("utf-8")) for path in sources}

    assert sources
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "import shelve as s",
        "eval('1')",
        "exec(code)",
        "yaml.load(text)",
        "os.system('ls')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=wanted)",
        "subprocess.run(command, shell=True)",
        "numpy.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(path, use_safetensors=False)",
    ],
)
def test_what_would_do_it_is_found(source: str) -> None:
    assert len(faults(source)) >= 1


@pytest.mark.parametrize(
    "source", ["re.compile('a')", "model.eval()", "torch.load(path, weights_only=True)", "f(trust_remote_code=False)"]
)
def test_what_only_looks_like_it_is_not(source: str) -> None:
    assert faults(source) == []
