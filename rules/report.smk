# All verdicts of a study → its tables.


rule samples:
    input:
        code="results/code/scripts.report.samples.txt",
        scores=study_scores,
        questions=study_questions,
    output:
        "results/report/{study}/samples.parquet",
    log:
        "results/logs/report/{study}/samples.log",
    benchmark:
        "results/timings/report/{study}/samples.tsv"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=study_settings,
    shell:
        "python -m scripts.report.samples"
        " --scores results/score"
        " --questions results/questions"
        " --output {output:q}"
        " --study {wildcards.study}"
        " --settings {params.settings:q}"
        " 2> {log:q}"


# Tables that follow from the samples alone.
rule tables:
    input:
        code="results/code/scripts.report.{table}.txt",
        samples="results/report/{study}/samples.parquet",
    output:
        "results/report/{study}/{table}.parquet",
    log:
        "results/logs/report/{study}/{table}.log",
    benchmark:
        "results/timings/report/{study}/{table}.tsv"
    wildcard_constraints:
        table=one_of(TABLES_OF_SAMPLES),
    resources:
        mem_mb=8000,
        runtime=30,
    shell:
        "python -m scripts.report.{wildcards.table}" " --samples {input.samples:q}" " --output {output:q}" " 2> {log:q}"


rule ablations:
    input:
        code="results/code/scripts.report.ablations.txt",
        samples="results/report/{study}/samples.parquet",
    output:
        "results/report/{study}/ablations.parquet",
    log:
        "results/logs/report/{study}/ablations.log",
    benchmark:
        "results/timings/report/{study}/ablations.tsv"
    resources:
        mem_mb=8000,
        runtime=30,
    params:
        settings=ablation_settings,
    shell:
        "python -m scripts.report.ablations"
        " --samples {input.samples:q}"
        " --output {output:q}"
        " --settings {params.settings:q}"
        " 2> {log:q}"


# Times are read from the records of generate, which are nobody's input.
rule efficiency:
    input:
        code="results/code/scripts.report.efficiency.txt",
        summary="results/report/{study}/summary.parquet",
        manifests=study_manifests,
    output:
        "results/report/{study}/efficiency.parquet",
    log:
        "results/logs/report/{study}/efficiency.log",
    benchmark:
        "results/timings/report/{study}/efficiency.tsv"
    resources:
        mem_mb=8000,
        runtime=30,
    params:
        settings=efficiency_settings,
    shell:
        "python -m scripts.report.efficiency"
        " --summary {input.summary:q}"
        " --output {output:q}"
        " --settings {params.settings:q}"
        " {input.manifests:q}"
        " 2> {log:q}"
