"""Programs that read or use what a script has of its process: as `python program.py` would have it, on a judge."""

import textwrap

import pytest

from scripts.run.imports import DISTRIBUTIONS, package_versions
from scripts.score import _packages
from scripts.score._code import Trial, attempt
from scripts.score._sandbox import Outcome, Sandbox

pytestmark = pytest.mark.usefixtures("sandbox")

# What each program is told, and what it has to say: the sum of the numbers, for which it finds a function.
SUM = [("1 2\n3\n", "6\n"), ("10 20\n30\n", "60\n")]
TOTAL = "def total(text): return sum(map(int, text.split()))\n"

PROGRAMS = {
    # Its name and arguments.
    "fileinput": """
        import fileinput
        print(total(' '.join(fileinput.input())))
    """,
    "fileinput of a named file": """
        import fileinput
        print(sum(total(line) for line in fileinput.input('/dev/stdin')))
    """,
    "argparse with an optional file": """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument('file', nargs='?', type=argparse.FileType(), default='-')
        parser.add_argument('--debug', action='store_true')
        print(total(parser.parse_args().file.read()))
    """,
    "getopt": "import getopt\nassert getopt.getopt(sys.argv[1:], 'v') == ([], [])\nprint(total(open(0).read()))",
    "no arguments": "import sys\nassert sys.argv[1:] == [] and len(sys.argv) == 1\nprint(total(sys.stdin.read()))",
    "arguments of the prelude": "assert argv == sys.argv and argv[1:] == []\nprint(total(stdin.read()))",
    "a file if one is named": "print(total((open(sys.argv[1]) if len(sys.argv) > 1 else sys.stdin).read()))",
    "its folder": """
        import os
        os.chdir(os.path.dirname(os.path.abspath(__file__)))
        assert os.path.samefile(sys.argv[0], __file__) and not os.path.exists('input.txt')
        print(total(open(0).read()))
    """,
    "its own text": "assert open(__file__).read().startswith('def total')\nprint(total(open(0).read()))",
    "the text of a function": """
        import inspect
        assert inspect.getsource(total).startswith('def total')
        print(total(open(0).read()))
    """,
    "its module, imported": "import __main__\nprint(__main__.total(open(0).read()))",
    "its module, by name": "print(getattr(sys.modules[__name__], 'total')(open(0).read()))",
    "a pickled class": """
        import pickle
        class A: pass
        a = A()
        a.x = total(open(0).read())
        print(pickle.loads(pickle.dumps(a)).x)
    """,
    "guarded main that exits": """
        def main():
            print(total(sys.stdin.read()))
            sys.exit()

        if __name__ == '__main__':
            main()
    """,
    "replaces input for all": """
        import builtins
        lines = iter(sys.stdin.read().splitlines())
        builtins.input = lambda: next(lines)
        print(sum(map(int, input().split())) + int(input()))
    """,
    # Its standard files.
    "/dev/stdin": "print(total(open('/dev/stdin').read()))",
    "/dev/stdin line by line": "with open('/dev/stdin') as lines:\n    print(sum(total(line) for line in lines))",
    "/dev/stdin as sys.stdin": "sys.stdin = open('/dev/stdin')\nprint(total(input()) + total(input()))",
    "/dev/stdin as a path": "from pathlib import Path\nprint(total(Path('/dev/stdin').read_text()))",
    "/dev/stdin as bytes": "from pathlib import Path\nprint(total(Path('/dev/stdin').read_bytes()))",
    "/dev/stdin twice": """
        first = open('/dev/stdin').read()
        assert first == open('/dev/stdin').read()
        print(total(first))
    """,
    "/dev/stdin if it is there": """
        import os
        sys.stdin = open('/dev/stdin' if os.path.exists('/dev/stdin') else 'input.txt')
        print(total(sys.stdin.read()))
    """,
    "/dev/stdin by os.open": "import os\nprint(total(os.read(os.open('/dev/stdin', os.O_RDONLY), 10 ** 6)))",
    "/dev/stdin by codecs": "import codecs\nprint(total(codecs.open('/dev/stdin', 'r', 'utf-8').read()))",
    "/dev/stdin by numpy": """
        import numpy as np
        print(int(np.fromfile('/dev/stdin', sep=' ').sum()))
        assert np.genfromtxt('/dev/stdin', invalid_raise=False).size
    """,
    "/dev/fd/0": "print(total(open('/dev/fd/0').read()))",
    "/dev/fd/0 in binary": "print(sum(total(line) for line in open('/dev/fd/0', 'rb')))",
    "/dev/stdout": "open('/dev/stdout', 'w').write(str(total(open(0).read())))",
    "/dev/stdout, never cut": """
        numbers = open(0).read().split()
        print(numbers[0], flush=True)
        for number in numbers[1:]:
            print(number, file=open('/dev/stdout', 'w'))
        print('/dev/null is', open('/dev/null').read() or 'empty')
    """,
    "/dev/fd/1": "with open('/dev/fd/1', 'a') as stream:\n    print(total(open(0).read()), file=stream)",
    "/dev/stderr": "print('seen by nobody', file=open('/dev/stderr', 'w'))\nprint(total(open(0).read()))",
    "/dev/null": """
        print('seen by nobody', file=open('/dev/null', 'w'))
        print(total(open(0).read() + open('/dev/null').read()))
    """,
    "file 0 as sys.stdin": "sys.stdin = open(0)\nprint(total(input()) + total(input()))",
    "readline, then input": "print(total(sys.stdin.readline()) + total(input()))",
    "all that file 0 holds": """
        import io, os
        input = io.BytesIO(os.read(0, os.fstat(0).st_size)).readline
        print(total(input()) + total(input()))
    """,
    "file 0 mapped": "import mmap\nprint(total(mmap.mmap(0, 0, access=mmap.ACCESS_READ)[:]))",
    "standard output in binary": "sys.stdout.buffer.write(b'%d' % total(sys.stdin.buffer.read()))",
    "the first standard output": "sys.stdout = io.StringIO()\nprint(total(open(0).read()), file=sys.__stdout__)",
    # How it ends.
    "quit": "print(total(open(0).read()))\nquit()",
    "quit by its module": "import builtins\nprint(total(open(0).read()))\nbuiltins.quit()",
    "exit with a number": "print(total(open(0).read()))\nexit(0)",
    "exit is that of site": "assert type(exit) is type(quit) and 'EOF' in repr(exit)\nprint(total(open(0).read()))",
    "SystemExit": "print(total(open(0).read()))\nraise SystemExit",
    "_exit": "import os\nprint(total(open(0).read()), flush=True)\nos._exit(0)",
    "atexit": "import atexit\natexit.register(lambda: print(total(open(0).read())))",
    "atexit as a decorator": "import atexit\n@atexit.register\ndef last(): print(total(sys.stdin.read()))",
    "atexit with a buffer": """
        import atexit, io, sys
        sys.stdout = io.StringIO()
        atexit.register(lambda: sys.__stdout__.write(sys.stdout.getvalue()))
        print(total(sys.stdin.read()))
    """,
    "atexit behind exit": "import atexit\natexit.register(print, total(open(0).read()))\nsys.exit()",
    "a stream left open": "stream = open(1, 'w')\nstream.write(str(total(open(0).read())))",
    "a stream left open in a cycle": """
        class Writer: pass
        writer = Writer()
        writer.me, writer.stream = writer, open(1, 'w', closefd=False)
        writer.stream.write(str(total(open(0).read())))
    """,
    "standard output replaced": "sys.stdout = open(1, 'w')\nprint(total(open(0).read()))",
    "standard output closed": "print(total(open(0).read()))\nsys.stdout.close()",
    "the last words of an object": """
        class Last:
            def __del__(self): print(total(sys.stdin.read()))
        last = Last()
    """,
    "a thread that outlives main": """
        import threading, time
        threading.Thread(target=lambda: (time.sleep(0.1), print(total(sys.stdin.read())))).start()
        sys.exit()
    """,
    "a thread with a large stack": """
        import threading
        sys.setrecursionlimit(10 ** 6)
        threading.stack_size(2 ** 28)
        def f(n): return n and 1 + f(n - 1)
        def main(): print(total(sys.stdin.read()) + f(10 ** 5) - 10 ** 5)
        thread = threading.Thread(target=main)
        thread.start()
        thread.join()
    """,
    "a stack without limit": """
        import resource
        from functools import cache
        sys.setrecursionlimit(10 ** 6)
        resource.setrlimit(resource.RLIMIT_STACK, (resource.getrlimit(resource.RLIMIT_STACK)[1],) * 2)
        @cache
        def f(n): return n and 1 + f(n - 1)
        print(total(open(0).read()) + f(40000) - 40000)
    """,
    "cache": """
        from functools import cache
        @cache
        def f(n): return n and 1 + f(n - 1)
        print(total(open(0).read()) + f(5000) - 5000)
    """,
    # Packages of LiveCodeBench's environment.
    "numpy": "import numpy as np\nprint(np.array(open(0).read().split(), int).sum())",
    "scipy's graphs": """
        import numpy as np
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import dijkstra
        a, b, c = map(int, open(0).read().split())
        print(dijkstra(csr_matrix(np.array([[0, a, 0, 0], [0, 0, b, 0], [0, 0, 0, c], [0] * 4])), indices=0)[3])
    """,
    "scipy's optimization": """
        from scipy.optimize import linprog
        print(round(linprog([1, 1, 1], bounds=[(int(x), None) for x in open(0).read().split()]).fun))
    """,
    "sympy": """
        from sympy import Integer, isprime
        assert isprime(10 ** 9 + 7) and not isprime(10 ** 9 + 8)
        print(sum(map(Integer, open(0).read().split())))
    """,
    "networkx": """
        import networkx as nx
        graph = nx.Graph()
        for n, weight in enumerate(map(int, open(0).read().split())): graph.add_edge(n, n + 1, weight=weight)
        print(nx.shortest_path_length(graph, 0, 3, weight='weight'))
    """,
    "pandas": """
        import pandas as pd
        print(int(pd.read_csv('/dev/stdin', sep=' ', header=None).sum().sum()))
    """,
    "numba": """
        import numba, numpy as np
        @numba.njit
        def f(numbers):
            found = 0
            for number in numbers: found += number
            return found
        print(f(np.array(open(0).read().split(), np.int64)))
    """,
    "regex": "import regex\nprint(total(' '.join(regex.findall(r'\\p{N}+', open(0).read()))))",
}  # fmt: skip
SAID = {"/dev/stdout, never cut": ["1\n2\n3\n/dev/null is empty\n", "10\n20\n30\n/dev/null is empty\n"]}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_has_a_process_of_its_own(name: str):
    tests = [(told, said) for (told, _), said in zip(SUM, SAID.get(name, [said for _, said in SUM]), strict=True)]
    assert attempt(TOTAL + textwrap.dedent(PROGRAMS[name]), "", tests) == Trial(True, "ok")


WRONG = {
    "a package that is not there": ("import torch\nprint(total(open(0).read()))", "runtime_error"),
    "a package of the scorer's": ("import pyarrow\nprint(total(open(0).read()))", "runtime_error"),
    "a file that is not there": ("print(total(open('/dev/fd/7').read()))", "runtime_error"),
    "an argument that is not there": ("print(total(open(sys.argv[1]).read()))", "runtime_error"),
    "quits too early": ("quit()\nprint(total(open(0).read()))", "ok"),
    "a wrong answer at the end": ("import atexit\natexit.register(print, 7)\nprint(total(open(0).read()))", "ok"),
    "a wrong answer left open": ("f = open(1, 'w')\nf.write('7')\nprint(total(open(0).read()), flush=True)", "ok"),
    "an error behind the answer": ("print(total(open(0).read()))\nraise ValueError", "runtime_error"),
    "never ends at its end": ("import atexit\n@atexit.register\ndef last():\n    while True: pass", "timeout"),
    "too much output at its end": ("import atexit\natexit.register(lambda: print('x' * 10 ** 8))", "output_limit"),
    "prints to no output": ("print(total(open(0).read()), file=open('/dev/stderr', 'w'))", "ok"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_process_of_its_own_makes_nothing_right(name: str):
    program, status = WRONG[name]
    assert attempt(TOTAL + program, "", SUM, seconds=1 if status == "timeout" else 6) == Trial(False, status)


@pytest.mark.parametrize(
    "name", ["argparse with an optional file", "/dev/stdin as a path", "quit", "atexit", "its folder"]
)
def test_without_bubblewrap_too(name: str):
    assert attempt(TOTAL + textwrap.dedent(PROGRAMS[name]), "", SUM, unsafe=True) == Trial(True, "ok")


def test_one_input_leaves_nothing_to_the_next():
    program = """
        import atexit, os
        print(open('/dev/stdin').readline(), sys.argv.append('x') or len(sys.argv), end='')
        atexit.register(os.close, 0)
    """
    with Sandbox(textwrap.dedent(program)) as sandbox:
        assert [sandbox.run(data) for data in (b"a b", b"c")] == [Outcome("ok", b"a b 2"), Outcome("ok", b"c 2")]


def test_functions_of_a_module_that_is_found():
    program = """
        import sys
        from dataclasses import dataclass
        from sympy import divisors

        @dataclass
        class Pair:
            n: "int"

        class Solution:
            def f(self, n):
                assert sys.modules[__name__].Pair is Pair and __name__ != "__main__"
                return len(divisors(Pair(n).n))
    """
    assert attempt(textwrap.dedent(program), "f", [("12", "6"), ("13", "2")]) == Trial(True, "ok")


def test_the_rules_know_the_version_of_every_package():
    known = package_versions("scripts.score.livecodebench")
    assert {DISTRIBUTIONS.get(name, [name])[0] for name in _packages.NAMES} == set(known)
