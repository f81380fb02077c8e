# Quantized reasoning: what quantization costs a reasoning model.
# Data flows one way, one word per stage; config/README.md describes the configuration.
from snakemake.utils import min_version

min_version("9.27")


if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/code.smk"
include: "rules/models.smk"
include: "rules/published.smk"
include: "rules/datasets.smk"
include: "rules/questions.smk"
include: "rules/calibrate.smk"
include: "rules/quantize.smk"
include: "rules/magnitudes.smk"
include: "rules/generate.smk"
include: "rules/speed.smk"
include: "rules/score.smk"
include: "rules/report.smk"
include: "rules/page.smk"


rule all:
    default_target: True
    input:
        expand("results/report/{study}/{table}.parquet", study=study_config.studies, table=TABLES),
        expand("results/report/{study}/summary.{form}", study=study_config.studies, form=["md", "tex"]),
        expand("results/report/{study}/{page}", study=study_config.studies, page=PAGES),
