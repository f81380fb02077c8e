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


# The outputs in pieces beside the page, which loads those that are looked at.
rule explorer:
    input:
        code="results/code/scripts.report.explorer.txt",
        samples="results/report/{study}/samples.parquet",
        outputs=study_samples,
        questions=study_questions,
    output:
        manifest="results/report/{study}/explorer/manifest.json",
        files=directory("results/report/{study}/explorer/files"),
    log:
        "results/logs/report/{study}/explorer.log",
    benchmark:
        "results/timings/report/{study}/explorer.tsv"
    resources:
        mem_mb=8000,
        runtime=600,
    shell:
        "python -m scripts.report.explorer"
        " --samples {input.samples:q}"
        " --generate results/generate"
        " --questions results/questions"
        " --manifest {output.manifest:q}"
        " --files {output.files:q}"
        " 2> {log:q}"


rule figures:
    input:
        code="results/code/scripts.report.figures.txt",
        accuracy="results/report/{study}/accuracy.parquet",
        drops="results/report/{study}/drops.parquet",
        lengths="results/report/{study}/lengths.parquet",
        budget="results/report/{study}/budget.parquet",
        scaling="results/report/{study}/scaling.parquet",
        difficulty="results/report/{study}/difficulty.parquet",
        efficiency="results/report/{study}/efficiency.parquet",
        magnitudes="results/report/{study}/magnitudes.parquet",
    output:
        expand("results/report/{{study}}/figures/{figure}.{format}", figure=FIGURES, format=["svg", "png"]),
    log:
        "results/logs/report/{study}/figures.log",
    benchmark:
        "results/timings/report/{study}/figures.tsv"
    resources:
        mem_mb=4000,
        runtime=30,
        tables=1,
    shell:
        "python -m scripts.report.figures"
        " --accuracy {input.accuracy:q}"
        " --drops {input.drops:q}"
        " --lengths {input.lengths:q}"
        " --budget {input.budget:q}"
        " --scaling {input.scaling:q}"
        " --difficulty {input.difficulty:q}"
        " --efficiency {input.efficiency:q}"
        " --magnitudes {input.magnitudes:q}"
        " {output:q}"
        " 2> {log:q}"


# Machines are read from the records of what the page shows, which are nobody's input.
rule page:
    input:
        code="results/code/scripts.report.page.txt",
        template="scripts/report/_page/page.html",
        style="scripts/report/_page/page.css",
        charts="scripts/report/_page/charts.js",
        explorer="scripts/report/_page/explorer.js",
        tables=expand("results/report/{{study}}/{table}.parquet", table=TABLES),
    output:
        "results/report/{study}/index.html",
    log:
        "results/logs/report/{study}/index.log",
    benchmark:
        "results/timings/report/{study}/index.tsv"
    resources:
        mem_mb=4000,
        runtime=30,
        tables=1,
    shell:
        "python -m scripts.report.page"
        " --template {input.template:q}"
        " --style {input.style:q}"
        " --charts-code {input.charts:q}"
        " --explorer-code {input.explorer:q}"
        " --output {output:q}"
        " --study {wildcards.study}"
        " {input.tables:q}"
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


rule headline:
    input:
        code="results/code/scripts.report.headline.txt",
        summary="results/report/{study}/summary.parquet",
        drops="results/report/{study}/drops.parquet",
    output:
        markdown="results/report/{study}/summary.md",
        tex="results/report/{study}/summary.tex",
    log:
        "results/logs/report/{study}/headline.log",
    benchmark:
        "results/timings/report/{study}/headline.tsv"
    resources:
        mem_mb=2000,
        runtime=30,
        tables=1,
    shell:
        "python -m scripts.report.headline"
        " --summary {input.summary:q}"
        " --drops {input.drops:q}"
        " --output {output.markdown:q}"
        " --tex {output.tex:q}"
        " 2> {log:q}"
