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
        tables=1,
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
        mem_mb=2000,
        runtime=30,
        tables=1,
    params:
        options=table_options,
    shell:
        "python -m scripts.report.{wildcards.table}"
        " --samples {input.samples:q}"
        " --output {output:q}"
        " {params.options:q}"
        " 2> {log:q}"


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
        mem_mb=2000,
        runtime=30,
        tables=1,
    params:
        settings=ablation_settings,
    shell:
        "python -m scripts.report.ablations"
        " --samples {input.samples:q}"
        " --output {output:q}"
        " --settings {params.settings:q}"
        " 2> {log:q}"


rule scaling:
    input:
        code="results/code/scripts.report.scaling.txt",
        samples="results/report/{study}/samples.parquet",
    output:
        "results/report/{study}/scaling.parquet",
    log:
        "results/logs/report/{study}/scaling.log",
    benchmark:
        "results/timings/report/{study}/scaling.tsv"
    resources:
        mem_mb=2000,
        runtime=30,
        tables=1,
    params:
        settings=scaling_settings,
    shell:
        "python -m scripts.report.scaling"
        " --samples {input.samples:q}"
        " --output {output:q}"
        " --settings {params.settings:q}"
        " 2> {log:q}"


rule loops:
    input:
        code="results/code/scripts.report.loops.txt",
        samples="results/report/{study}/samples.parquet",
        outputs=study_samples,
    output:
        "results/report/{study}/loops.parquet",
    log:
        "results/logs/report/{study}/loops.log",
    benchmark:
        "results/timings/report/{study}/loops.tsv"
    resources:
        mem_mb=8000,
        runtime=600,
        tables=1,
    shell:
        "python -m scripts.report.loops"
        " --samples {input.samples:q}"
        " --generate results/generate"
        " --output {output:q}"
        " 2> {log:q}"


rule study_magnitudes:
    input:
        code="results/code/scripts.report.magnitudes.txt",
        magnitudes=study_magnitudes,
    output:
        "results/report/{study}/magnitudes.parquet",
    log:
        "results/logs/report/{study}/magnitudes.log",
    benchmark:
        "results/timings/report/{study}/magnitudes.tsv"
    resources:
        mem_mb=2000,
        runtime=30,
        tables=1,
    shell:
        "python -m scripts.report.magnitudes"
        " --output {output:q}"
        " --study {wildcards.study}"
        " {input.magnitudes:q}"
        " 2> {log:q}"


# Times are read from the records of generate, which are nobody's input.
rule efficiency:
    input:
        code="results/code/scripts.report.efficiency.txt",
        summary="results/report/{study}/summary.parquet",
        lengths="results/report/{study}/lengths.parquet",
        manifests=study_manifests,
        speeds=study_speeds,
    output:
        "results/report/{study}/efficiency.parquet",
    log:
        "results/logs/report/{study}/efficiency.log",
    benchmark:
        "results/timings/report/{study}/efficiency.tsv"
    resources:
        mem_mb=2000,
        runtime=30,
        tables=1,
    params:
        settings=efficiency_settings,
    shell:
        "python -m scripts.report.efficiency"
        " --summary {input.summary:q}"
        " --lengths {input.lengths:q}"
        " --output {output:q}"
        " --settings {params.settings:q}"
        " {input.manifests:q}"
        " {input.speeds:q}"
        " 2> {log:q}"


rule findings:
    input:
        code="results/code/scripts.report.findings.txt",
        samples="results/report/{study}/samples.parquet",
        paper="resources/paper/tables.csv",
        manifests=study_manifests,
    output:
        "results/report/{study}/findings.parquet",
    log:
        "results/logs/report/{study}/findings.log",
    benchmark:
        "results/timings/report/{study}/findings.tsv"
    resources:
        mem_mb=2000,
        runtime=30,
        tables=1,
    params:
        settings=finding_settings,
    shell:
        "python -m scripts.report.findings"
        " --samples {input.samples:q}"
        " --paper {input.paper:q}"
        " --output {output:q}"
        " --settings {params.settings:q}"
        " {input.manifests:q}"
        " 2> {log:q}"


rule paper:
    input:
        code="results/code/scripts.report.paper.txt",
        samples="results/report/{study}/samples.parquet",
        paper="resources/paper/tables.csv",
    output:
        "results/report/{study}/paper.parquet",
    log:
        "results/logs/report/{study}/paper.log",
    benchmark:
        "results/timings/report/{study}/paper.tsv"
    resources:
        mem_mb=2000,
        runtime=30,
        tables=1,
    shell:
        "python -m scripts.report.paper"
        " --samples {input.samples:q}"
        " --paper {input.paper:q}"
        " --output {output:q}"
        " 2> {log:q}"
