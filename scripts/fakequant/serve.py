"""Serve a checkpoint through vLLM's OpenAI API, with the plugin: python -m scripts.fakequant.serve --model CHECKPOINT

All options are those of vLLM's server.
"""

import runpy

import scripts.fakequant.plugin  # noqa: F401 - registers the plugin

if __name__ == "__main__":
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
