# A study's tables → what people look at: the page, figures, outputs side by side, a table for papers.


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
