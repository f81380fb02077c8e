"""One answer as the engine draws it: at once, or in turns where ends of its thought are replaced by "Wait"."""

import hashlib
from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from scripts.generate.prompts import Request

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import CompletionOutput


class Answer:
    """What a request is answered, turn by turn.

    A turn is drawn from all tokens before it as one prompt, with a seed of its own: what vLLM drew before it, its
    generator does not remember.

    Attributes:
        drawn: tokens that the engine has drawn of it.
    """

    def __init__(self, request: Request, samples: Mapping[str, dict], tokenizer: PreTrainedTokenizerBase) -> None:
        """Begin it; of one that thinks again the store's samples hold the first turn, which is that without limits."""
        self.request, self.tokenizer = request, tokenizer
        self.begun, self.turns, self.drawn = array("i"), 0, 0
        if request.limits and request.limits.again:
            self._turn(samples[request.plain]["token_ids"])

    def asked(self) -> tuple[dict, "SamplingParams"]:
        """What to ask vLLM next."""
        from vllm import SamplingParams
        from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind

        options = dict(self.request.sampling)
        if loops := options.pop("repetition_detection", None):
            options["repetition_detection"] = RepetitionDetectionParams(**loops)
        again = options.pop("think_again", None)
        if again:
            options["max_tokens"] -= len(self.begun)
            named = f"{options['seed']}/{self.turns}".encode()
            options["seed"] = int.from_bytes(hashlib.sha256(named).digest()[:8], "big") >> 1
            if self.turns < again["times"]:
                options["stop_token_ids"] = [self.request.limits.closed]
        sampling = SamplingParams(**options, output_kind=RequestOutputKind.FINAL_ONLY)
        return {"prompt_token_ids": [*self.request.prompt, *self.begun]}, sampling

    def take(self, output: "CompletionOutput") -> dict | None:
        """The finished answer as a row of the store; None: another turn is to be asked."""
        ids, text, ended = self.begun + array("i", output.token_ids), output.text, output.finish_reason
        self.drawn += len(output.token_ids)
        if self.turns:
            if output.stop_reason == self.request.limits.closed:
                if self._turn(ids):
                    return None
                ended = "length"
            text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return {"output": text, "token_ids": ids, "output_tokens": len(ids), "finish_reason": ended}

    def _turn(self, ids: array) -> bool:
        """Let the thought go on where it was closed, if there is room."""
        limits = self.request.limits
        if (end := limits.turn(self.request.prompt, ids)) is None:
            return False
        self.begun = array("i", [*ids[:end], *limits.wait])
        self.turns += 1
        return True
