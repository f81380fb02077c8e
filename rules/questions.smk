# A benchmark's source → questions with their right answers.


rule questions:
    input:
        code="results/code/scripts.questions.{benchmark}.txt",
    output:
        "results/questions/{benchmark}.parquet",
    log:
        "results/logs/questions/{benchmark}.log",
    benchmark:
        "results/timings/questions/{benchmark}.tsv"
    resources:
        mem_mb=2000,
        runtime=30,
    shell:
        "python -m scripts.questions.{wildcards.benchmark}" " --output {output:q}" " 2> {log:q}"
