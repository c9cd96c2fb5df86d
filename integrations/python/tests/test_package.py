"""What the package says of itself."""

import ast
import pathlib
import subprocess
import sys
import time

import numpy as np

import wgpu_attention as wa

STUBS = pathlib.Path(wa.__file__).with_name("_native.pyi")


def parameters(function):
    """The names and the kinds of a function's parameters."""
    args = function.args
    named = [a.arg for a in args.posonlyargs + args.args if a.arg not in ("self", "cls")]
    return named, [a.arg for a in args.kwonlyargs]


def signature(text):
    function = ast.parse(f"def f{text}: ...").body[0]
    return parameters(function)


def test_the_stubs_are_those_of_what_is_there():
    tree = ast.parse(STUBS.read_text())
    public = {n.name: n for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
    assert sorted([*public, "Error", "errors"]) == sorted(wa.__all__)
    for name, node in public.items():
        found = getattr(wa, name)
        assert found.__doc__
        if isinstance(node, ast.FunctionDef):
            assert signature(found.__text_signature__) == parameters(node), name
            continue
        members = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
        there = {n for n in vars(found) if not n.startswith("_")}
        assert there == {n for n in members if not n.startswith("_")}, name
        for member, stub in members.items():
            text = getattr(getattr(found, member), "__text_signature__", None)
            is_property = any(getattr(d, "id", "") == "property" for d in stub.decorator_list)
            if text and not is_property and not member.startswith("__"):
                names, keywords = signature(text.replace("$self, ", "").replace("$self", "").replace("(/, ", "(").replace("(/", "("))
                assert (names, keywords) == parameters(stub), f"{name}.{member}"


def test_types_are_marked_and_exported():
    assert STUBS.with_name("py.typed").exists()
    assert wa.Error is wa.errors.Error


def test_import_is_fast():
    program = "import time; t = time.perf_counter(); import wgpu_attention; print(time.perf_counter() - t)"
    run = lambda: float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)  # noqa: E731
    # The best of some, for a machine may do other things, too.
    assert min(run() for _ in range(5)) < 0.2


def test_devices():
    adapters = wa.devices()
    assert adapters[-1].name == "cpu" and adapters[-1].kind == "cpu"
    for adapter in adapters:
        assert repr(adapter) and adapter.backend
    assert wa.Device.by_name("cpu") == wa.Device.cpu() != wa.Device.by_name(adapters[0].name) or len(adapters) == 1
    assert "CPU" in str(wa.Device.cpu()) or "cpu" in str(wa.Device.cpu()).lower()


def test_many_calls_keep_no_memory():
    import resource

    x = np.ones((1, 1, 4096, 64), np.float32)
    memory = wa.RollingAttention(x[:, :, :4].copy(), device=wa.Device.cpu())

    def calls(n):
        for _ in range(n):
            memory.read(memory.write(x, x))

    calls(20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    calls(200)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20 * 1024, f"{grown} KiB after {time.perf_counter() - start:.1f} s"
