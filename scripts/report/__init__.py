"""The tables, figures and pages of a study, by the names of their files."""

TABLES_OF_SAMPLES = ["accuracy", "summary", "drops", "lengths", "difficulty", "errors", "budget"]
TABLES = ["samples", *TABLES_OF_SAMPLES, "ablations", "scaling", "loops", "efficiency", "findings", "paper"]
FIGURES = ["pareto", "drops", "lengths", "budget", "scaling", "truncated", "level", "solve_rate", "seeds"]
