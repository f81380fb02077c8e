"""Problems of all three tiers for calibration, never scored.

Prompt: "What is 12*34?". Source: generated here, training split. Licence: Apache-2.0.
"""

from scripts.questions._arithmetic import TIERS, questions
from scripts.questions._table import write_questions
from scripts.run.stage import Output, stage


@stage
def main(output: Output) -> None:
    write_questions(
        output, "calibration", [row for tier in TIERS for row in questions(tier, 64, seed=1, evaluation=False)]
    )


if __name__ == "__main__":
    main()
