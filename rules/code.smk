# A module of scripts/ → digests of its code and versions of its packages: one input for all jobs that run it.


rule code:
    input:
        module_files,
    output:
        "results/code/{module}.txt",
    log:
        "results/logs/code/{module}.log",
    benchmark:
        "results/timings/code/{module}.tsv"
    localrule: True
    params:
        packages=module_packages,
    shell:
        "(sha256sum {input:q} && printf '%s\\n' {params.packages:q}) > {output:q} 2> {log:q}"
