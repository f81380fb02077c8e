"""The tables, figures and pages of a study, by the names of their files."""

TABLES_OF_SAMPLES = ["accuracy", "summary", "drops", "lengths", "difficulty", "errors", "budget", "baselines"]
TABLES = ["samples", *TABLES_OF_SAMPLES, "ablations", "scaling", "loops", "efficiency", "findings", "paper"]
TABLES += ["magnitudes"]
FIGURES = ["pareto", "memory", "speed", "drops", "lengths", "budget", "scaling", "truncated"]
FIGURES += ["level", "solve_rate", "seeds", "magnitudes"]
