"""What the study's models are asked: their own chat templates, one BOS or none, the thought opened once at most.

The templates are the published ones (tokenizer_config.json of each repository), cut down to what a conversation
without tools reaches.
"""

import resource
import time

import pytest
import yaml
from transformers import Qwen2Tokenizer

from scripts import template
from scripts.generate.prompts import build_requests, prompt_ids
from scripts.models.arithmetic import build_tokenizer
from scripts.run.errors import UserError
from scripts.run.read import read_models
from scripts.template import check_template
from tests.conftest import ASKED as PLAIN
from tests.conftest import ROOT

BOS = "<｜begin▁of▁sentence｜>"
R1 = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}"
    "{%- for message in messages %}{%- if message['role'] == 'system' %}"
    "{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}"
    "{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}"
    "{{'<｜User｜>' + message['content']}}{%- endif %}"
    "{%- if message['role'] == 'assistant' and message['content'] is not none %}{% set content = message['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor -%}"
    "{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜><think>\\n'}}{% endif %}"
)
QWEN = r"""{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\n') %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
"""
QWQ = (
    QWEN
    + r"""{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n<think>\n' }}
{%- endif %}"""
)
QWEN3 = (
    QWEN
    + r"""{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""
)
QUESTION = "What is 12*34?"
ASKED = {  # repository → template, BOS, the prompt
    "deepseek-ai/DeepSeek-R1-Distill": (R1, BOS, f"{BOS}<｜User｜>{QUESTION}<｜Assistant｜><think>\n"),
    "Qwen/QwQ": (QWQ, None, f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n<think>\n"),
    "Qwen/Qwen3": (QWEN3, None, f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"),
}
GRID = yaml.safe_load((ROOT / "config/paper.yaml").read_text())["studies"]["paper"]["grid"]
MODELS = sorted({model for block in GRID for model in block["models"]})


def tokenizer_of(template: str, bos: str | None) -> Qwen2Tokenizer:
    """A tokenizer of characters with a model's template and special tokens, which adds a BOS to text by itself."""
    tokenizer = build_tokenizer()
    words = [BOS, "<｜User｜>", "<｜Assistant｜>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_tokens(words, special_tokens=True)
    tokenizer.bos_token, tokenizer.chat_template = bos, template
    return tokenizer


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_asked_in_its_own_words(model: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    facts = read_models()[model]
    template, bos, prompt = next(asked for name, asked in ASKED.items() if facts["repository"].startswith(name))
    tokenizer = tokenizer_of(template, bos)
    messages = [{"role": "user", "content": QUESTION}]
    (ids,) = prompt_ids(tokenizer, [messages], PLAIN)
    assert tokenizer.decode(ids) == prompt
    assert ids.count(tokenizer.convert_tokens_to_ids(BOS)) == (0 if bos is None else 1)
    assert ids.count(tokenizer.convert_tokens_to_ids("<think>")) == (0 if model == "qwen3-8b" else 1)
    question = {"benchmark": "b", "id": "1", "messages": messages, "expected_tokens": 1}
    suite = {"seeds": [42], "temperature": 0.6, "top_p": 0.95, "max_model_len": 32768, "paper_seeds": False}
    suite |= PLAIN
    (request,) = build_requests([question], tokenizer, suite | {"top_k": facts["top_k"]}, {}, {})
    assert request.sampling["top_k"] == (30 if model == "qwq-32b" else 0)
    assert request.sampling["max_tokens"] == 32768 - len(ids)


def test_all_models_of_the_study_are_there():
    assert len(MODELS) == 8


USER = "{{ messages[-1]['content'] }}"
HEAVY = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{{ '' }}{% endfor %}{% endfor %}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "a long text": "{{ ('x' * 10 ** 11) | length }}",
    "text that grows": "{% set n = namespace(x='x' * 99) %}{% for i in range(99) %}{% set n.x = n.x * 2 %}{% endfor %}",
}


@pytest.mark.parametrize("name", HEAVY)
def test_a_template_cannot_hold_the_job(name: str, monkeypatch: pytest.MonkeyPatch):
    """Also within one call of C, which no signal's handler interrupts; the job's own memory stays as it is."""
    monkeypatch.setattr(template, "SECONDS", 1)
    tokenizer = tokenizer_of(HEAVY[name] + USER, None)
    began = time.monotonic()
    with pytest.raises(
        UserError, match=r"its chat template (takes more than 1 s|fails .*MemoryError|does not survive)"
    ):
        prompt_ids(tokenizer, [ASK], PLAIN)
    assert time.monotonic() - began < 8
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


ASK = [{"role": "user", "content": QUESTION}]
ILL = {
    "no template": ("", "has no chat template"),
    "a template that is none": ("{% if %}", "fails .*TemplateSyntaxError"),
    "a system prompt is demanded": (
        "{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}" + USER,
        "fails .*no system",
    ),
    "code": ("{{ messages.__class__.__base__.__subclasses__() }}" + USER, "fails .*SecurityError"),
    "the day": ("{{ strftime_now('%d %b %Y') }}" + USER, "writes the day"),
    "the time": ("{% if strftime_now('%H') | int >= 0 %}{{ strftime_now('%c') }}{% endif %}" + USER, "writes the day"),
    "two BOS with a line between": ("{{ bos_token }}\n{{ bos_token }}" + USER, "writes 2 BOS"),
    "BOS again in the turn": ("{{ bos_token }}<|im_start|>user {{ bos_token }}" + USER, "writes 2 BOS"),
    "no BOS": ("<|im_start|>user\n" + USER, "leaves it out"),
    "parts of content": (
        "{{ bos_token }}{% for part in messages[0].content %}{{ part.text }}{% endfor %}",
        "question out",
    ),
    "the question dropped": ("{{ bos_token }}<|im_start|>user", "leaves the question out"),
    "the question changed": ("{{ bos_token }}{{ messages[0].content | upper }}", "leaves the question out"),
}


@pytest.mark.parametrize("name", ILL)
def test_a_template_that_asks_otherwise_is_refused(name: str):
    text, reason = ILL[name]
    with pytest.raises(UserError, match=rf"^models mine: its? .*{reason}"):
        check_template(tokenizer_of(text, build_tokenizer().bos_token), PLAIN, "models mine")


def test_a_marker_that_decoding_drops_is_refused():
    tokenizer = tokenizer_of(R1, BOS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["</think>"]})
    with pytest.raises(UserError, match="calls </think> special"):
        check_template(tokenizer, PLAIN, "models mine")


def test_a_thought_that_is_closed_is_said(caplog: pytest.LogCaptureFixture):
    check_template(tokenizer_of(R1 + "</think>", BOS), PLAIN, "models mine")
    assert "models mine: its chat template closes the thought itself" in caplog.text


@pytest.mark.parametrize("name", ASKED)
def test_the_studys_templates_pass(name: str, caplog: pytest.LogCaptureFixture):
    text, bos, _ = ASKED[name]
    check_template(tokenizer_of(text, bos), PLAIN, name)
    assert not caplog.text


def test_a_bos_that_opens_each_turn_passes():
    """As SmolLM2's, which has a system prompt of its own, too; a date that is not printed does no harm."""
    text = (
        "<|im_start|>system\nYou help.<|im_end|>\n{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
        "{% if tools %}{{ strftime_now('%Y') }}{% endif %}"
    )
    check_template(tokenizer_of(text, "<|im_start|>"), PLAIN, "models mine")


ASKING = (
    "{{ messages[0].content }} {% if thinking %}{{ messages[-1].content }}<think>{% else %}"
    + USER
    + "<think></think>{% endif %}"
)


def test_a_model_states_what_its_template_needs(caplog: pytest.LogCaptureFixture):
    """A system prompt, and arguments without which it would answer at once."""
    asked = PLAIN | {"system": "You are careful.", "template": {"thinking": True}}
    tokenizer = tokenizer_of(
        "{% if messages[0].role != 'system' %}{{ raise_exception('none') }}{% endif %}" + ASKING, None
    )
    with pytest.raises(UserError, match=r"fails on a question: .*none; what it asks for may stand in the keys system"):
        check_template(tokenizer, PLAIN, "models mine")
    check_template(tokenizer, asked | {"template": {}}, "models mine")
    assert "closes the thought itself" in caplog.text and "under `template`" in caplog.text
    caplog.clear()
    check_template(tokenizer, asked, "models mine")
    assert not caplog.text
    question = {"benchmark": "b", "id": "1", "messages": ASK, "expected_tokens": 1}
    suite = {"seeds": [42], "temperature": 0.6, "top_p": 0.95, "max_model_len": 512, "paper_seeds": False, "top_k": 0}
    (request,) = build_requests([question], tokenizer, suite | asked, {}, {})
    assert tokenizer.decode(request.prompt) == f"You are careful. {QUESTION}<think>"


def test_the_markers_that_a_model_states_must_survive_decoding():
    tokenizer = tokenizer_of(QWEN3, None)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[/THINK]"]})
    with pytest.raises(UserError, match=r"calls \[/THINK\] special"):
        check_template(tokenizer, PLAIN | {"think": "[THINK] [/THINK]"}, "models mine")
    tokenizer.add_tokens(["◁/think▷"])
    check_template(tokenizer, PLAIN | {"think": "◁think▷ ◁/think▷"}, "models mine")
