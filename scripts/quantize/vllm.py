"""What vLLM rounds itself: the model's own files, and the engine's options beside them."""

from scripts.engine import write_engine
from scripts.manifest import write_manifest
from scripts.quantize._link import link_checkpoint
from scripts.run.stage import Input, Output, Settings, stage


@stage
def main(model: Input, checkpoint: Output, manifest: Output, settings: Settings) -> None:
    link_checkpoint(model, checkpoint)
    write_engine(checkpoint, settings)
    write_manifest(checkpoint, manifest)


if __name__ == "__main__":
    main()
