# Outputs and right answers of one benchmark → a verdict per output.


rule score:
    input:
        code="results/code/scripts.score.{benchmark}.txt",
        questions="results/questions/{benchmark}.parquet",
        samples="results/generate/{model}/{quantizer}/{scheme}/{suite}.parquet",
        manifests=score_manifests,
        datasets=score_folders,
    output:
        "results/score/{model}/{quantizer}/{scheme}/{suite}/{benchmark}.parquet",
    log:
        "results/logs/score/{model}/{quantizer}/{scheme}/{suite}/{benchmark}.log",
    benchmark:
        "results/timings/score/{model}/{quantizer}/{scheme}/{suite}/{benchmark}.tsv"
    threads: score_threads
    resources:
        mem_mb=score_memory,
        runtime=score_minutes,
    params:
        options=score_options,
    shell:
        "python -m scripts.score.{wildcards.benchmark}"
        " --questions {input.questions:q}"
        " --samples {input.samples:q}"
        " --output {output:q}"
        " {params.options:q}"
        " {input.datasets:q}"
        " 2> {log:q}"
