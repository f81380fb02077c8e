"""Sums of two integers of 2 to 4 digits, the easiest tier.

Prompt: "What is 12*34?". Source: generated here, evaluation split. Licence: Apache-2.0.
"""

from scripts.questions._arithmetic import questions
from scripts.questions._table import write_questions
from scripts.run.stage import Output, stage


@stage
def main(output: Output) -> None:
    write_questions(output, "addition", questions("addition", 200, seed=0, evaluation=True))


if __name__ == "__main__":
    main()
