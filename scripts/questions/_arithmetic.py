"""Arithmetic problems with a digit-by-digit solution: what the tiny reasoners learn and are asked.

Three tiers share this module: `addition`, `multiplication` and `long_multiplication`. A problem belongs to
exactly one split, decided by a hash of its operands in sorted order, so that 12*34 and 34*12 never stand on
both sides. Training and calibration use the training split, the benchmarks the evaluation split.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

EVALUATION_SHARE = 0.1

# What a reasoner that checks itself says before it corrects a guess.
CORRECTS = "Wait"

# Operand digits of each tier; a problem draws one pair uniformly.
TIERS: dict[str, list[tuple[int, int]]] = {
    "addition": [(2, 2), (3, 3), (4, 4)],
    "multiplication": [(3, 1), (2, 2)],
    "long_multiplication": [(3, 2), (3, 3)],
}


@dataclass(frozen=True)
class Problem:
    """`left` operator `right`, both positive integers; the operator is `+` or `*`."""

    left: int
    operator: str
    right: int

    @property
    def question(self) -> str:
        return f"What is {self.left}{self.operator}{self.right}?"

    @property
    def gold(self) -> str:
        return str(self.left + self.right if self.operator == "+" else self.left * self.right)

    @property
    def level(self) -> str:
        """Digits of the operands, such as `3x2`."""
        return f"{len(str(self.left))}x{len(str(self.right))}"

    @property
    def solution(self) -> str:
        """The answer that a tiny reasoner is trained to give: everything behind the opening `<think>`."""
        return self._answer(None)

    def checked_solution(self, slips: float, rng: random.Random) -> str:
        """The answer of a reasoner that checks itself: it guesses each product, and each sum that is asked for.

        A share `slips` of the guesses forgets the carries. Behind each guess it is worked out digit by digit, and
        where the two differ, `Wait` and what is right follow: `47*8=326:7*8=56,4*8+5=37=376`, `Wait,47*8=376`.
        """
        return self._answer(lambda: rng.random() < slips)

    def _answer(self, slips: "Slips") -> str:
        steps = _add(self.left, self.right, slips) if self.operator == "+" else _multiply(self.left, self.right, slips)
        return f"\n{steps}\n</think>\n\\boxed{{{self.gold}}}"

    @property
    def is_evaluation(self) -> bool:
        """Whether the problem belongs to the evaluation split."""
        low, high = sorted((self.left, self.right))
        digest = hashlib.sha256(f"{low}{self.operator}{high}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < EVALUATION_SHARE * 2**64


# Whether the next guess forgets its carries; None: nothing is guessed.
Slips = Callable[[], bool] | None


def _stated(task: str, columns: list[int], steps: list[str], value: int, slips: Slips) -> str:
    """`task:steps=value`; with a guess, `task=guess:steps=value`, and a second line where the guess was wrong.

    Args:
        columns: what stands in each column without what is carried into it, last digit first.
    """
    worked_out = f"{','.join(steps)}={value}"
    if slips is None:
        return f"{task}:{worked_out}"
    *low, top = columns
    forgetful = sum(column % 10 * 10**place for place, column in enumerate(low)) + top * 10 ** len(low)
    guess = forgetful if slips() else value
    return f"{task}={guess}:{worked_out}" + ("" if guess == value else f"\n{CORRECTS},{task}={value}")


def _add(left: int, right: int, slips: Slips = None) -> str:
    """Column addition, last digit first: `47+85:7+5=12,4+8+1=13=132`."""
    columns, steps, carry = [], [], 0
    for position in range(max(len(str(left)), len(str(right)))):
        a, b = left // 10**position % 10, right // 10**position % 10
        columns.append(a + b)
        steps.append(f"{a}+{b}{f'+{carry}' if carry else ''}={a + b + carry}")
        carry = (a + b + carry) // 10
    return _stated(f"{left}+{right}", columns, steps, left + right, slips)


def _times_digit(left: int, digit: int, slips: Slips) -> str:
    """A number times one digit, last digit first: `47*8:7*8=56,4*8+5=37=376`."""
    columns, steps, carry = [], [], 0
    for position in range(len(str(left))):
        a = left // 10**position % 10
        columns.append(a * digit)
        steps.append(f"{a}*{digit}{f'+{carry}' if carry else ''}={a * digit + carry}")
        carry = (a * digit + carry) // 10
    return _stated(f"{left}*{digit}", columns, steps, left * digit, slips)


def _multiply(left: int, right: int, slips: Slips) -> str:
    """Long multiplication: one line per digit of `right`, each followed by the running sum.

    Problems of the hardest tier state their partial products at once (`476*5=2380`) instead of digit by digit:
    more to do in the head at each token, which is what makes them hard for a small model. Who checks the guesses
    works them out.
    """
    lines, total = [], 0
    in_the_head = slips is None and len(str(left)) + len(str(right)) > 4
    for position in range(len(str(right))):
        digit = right // 10**position % 10
        lines.append(f"{left}*{digit}={left * digit}" if in_the_head else _times_digit(left, digit, slips))
        if position:
            lines.append(_add(total, left * digit * 10**position))
        total += left * digit * 10**position
    return "\n".join(lines)


def problems(tier: str, seed: int, *, evaluation: bool) -> Iterator[Problem]:
    """Endless problems of one tier and split, drawn with replacement; equal seeds give equal streams.

    Raises:
        KeyError: the tier is none of `TIERS`.
    """
    shapes = TIERS[tier]
    rng = random.Random(f"{tier}/{seed}/{evaluation}")
    while True:
        digits_left, digits_right = rng.choice(shapes)
        problem = Problem(
            rng.randrange(10 ** (digits_left - 1), 10**digits_left),
            "+" if tier == "addition" else "*",
            rng.randrange(10 ** (digits_right - 1), 10**digits_right),
        )
        if problem.is_evaluation == evaluation:
            yield problem


def questions(tier: str, count: int, seed: int, *, evaluation: bool) -> list[dict]:
    """`count` different problems of a tier as rows of a questions file."""
    chosen: dict[str, Problem] = {}
    stream = problems(tier, seed, evaluation=evaluation)
    while len(chosen) < count:
        problem = next(stream)
        chosen.setdefault(f"{problem.left}{problem.operator}{problem.right}", problem)
    return [
        {
            "id": name,
            "messages": [{"role": "user", "content": problem.question}],
            "gold": problem.gold,
            "level": problem.level,
            "subject": "",
            "expected_tokens": len(problem.solution),
        }
        for name, problem in chosen.items()
    ]
