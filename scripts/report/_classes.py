"""What a loss is called: the classes of drops, and the margins between them, which a study may state."""

import pandas as pd

STATUSES = ("off", "verified", "unverified")  # of a baseline beside what was published of it
MARGINS = {"lossless": 1, "risky": 3}  # points that a lossless cell may lose, and that a risky one loses more than


def classify(low: float, high: float, margins: dict[str, float]) -> str:
    """lossless, fair or risky where the whole interval is; undetermined where it crosses a margin."""
    lossless, risky = -margins["lossless"], -margins["risky"]
    if low >= lossless:
        return "lossless"
    if high < risky:
        return "risky"
    return "fair" if low >= risky and high < lossless else "undetermined"


def meanings(margins: dict[str, float]) -> dict[str, str]:
    """Each class in words."""
    lossless, risky = points(margins["lossless"]), points(margins["risky"])
    between = f"{margins['lossless']:g} to {risky}"
    return {
        "lossless": f"loses {lossless} at most",
        "fair": between,
        "risky": f"more than {risky}",
        "undetermined": "the interval crosses a boundary",
    }


def margins_of(drops: pd.DataFrame) -> dict[str, float]:
    """The margins of a study, as its table of drops states them; of one without drops those that it would have."""
    return {name: float(drops[f"margin_{name}"].iloc[0]) for name in MARGINS} if len(drops) else dict(MARGINS)


def outlook(row: dict) -> str:
    """What would settle the class of a row of drops; empty where it is settled, or one seed cannot tell."""
    if row["class"] != "undetermined" or pd.isna(row["seed_share"]):
        return ""
    if pd.isna(row["seeds_needed"]):
        return "no number of seeds"
    return f"about {row['seeds_needed']:,} seeds"


def points(number: float) -> str:
    return f"{number:g} point{'' if number == 1 else 's'}"


def words(margins: dict[str, float]) -> str:
    """What stands below a table of classes."""
    lossless, risky = f"{-margins['lossless']:g}", f"{-margins['risky']:g}"
    return (
        f"Class: where the whole interval is, lossless (from {lossless}), fair ({risky} to {lossless}), risky (below "
        f"{risky}); else undetermined."
    )
