"""Foreign files within limits: each error names the file and the place, and comes in time."""

import gzip
import json
import os
from pathlib import Path

import pytest
from small_world import model_directory, tokenizer

from r1kit.chat import Chat
from r1kit.config import ConfigError, R1kitError
from r1kit.jsonl import column, read_jsonl
from r1kit.model.config_json import read_config
from r1kit.model.huggingface import check_pretrained, load_pretrained
from r1kit.recipe.layers import parse_override, read_layers
from r1kit.templates import Template, render
from r1kit.tokenizer import Tokenizer
from r1kit.types import Problem

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}\n{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n{{ ('a' * 10**10) | length }}", "template: .*it needs more than 1024 MB"),
        ("\n{{ 'a' | center(10**11) }}", "line 2 of the template: .*it needs more than 1024 MB"),
        (
            "\n{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
            "line 2 of the template: .*calls itself too often",
        ),
        (
            "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
            "it writes 99999000 characters; 10000000",
        ),
        ("a\n\n{{ x.y }}", "line 3 of the template: .*'x' is undefined"),
        ("a\n{% for %}", "line 2 of the template: .*Expected an expression"),
        (
            "\n{{ messages.__class__.__mro__ }}",
            "line 2 of the template: .*'__class__' of 'list' object is unsafe",
        ),
        ("{{ raise_exception('no system role') }}", "line 1 of the template: .*no system role"),
        ("{{ '\\ud800' }}", "it writes half a character"),
        ("{{ range(10**9) | list }}", "line 1 of the template: .*Range too big"),
    ],
)
def test_a_template_that_cannot_be_rendered_is_refused_with_file_and_line(text, message):
    template = Template(text, "/models/x/tokenizer_config.json")
    with pytest.raises(R1kitError, match=message) as found:
        render(template, {}, [("user", "Hi")])
    assert str(found.value).startswith("/models/x/tokenizer_config.json: ")
    assert "does not take this conversation (user)" in str(found.value)


@pytest.mark.parametrize("text", [LOOP, "{{ 7 ** (10 ** 9) }}"], ids=["loops", "one operation"])
def test_a_template_without_end_ends(text):
    with pytest.raises(R1kitError, match=r"chat_template.jinja.*it (computes|takes) (for )?more than [28] s"):
        render(Template(text, "/models/x/chat_template.jinja"), {}, [("user", "Hi")])


def test_an_error_in_one_conversation_leaves_the_next_alone():
    template = Template(
        "{% if messages|length > 1 %}{{ 1/0 }}{% endif %}{{ bos_token }}{{ messages[0].content }}"
    )
    with pytest.raises(R1kitError, match=r"division by zero"):
        render(template, {}, [("user", "a"), ("assistant", "b")])
    assert render(template, {"bos": "<s>"}, [("user", "四é\n")]) == "<s>四é\n"


def test_a_template_sees_no_environment_variable_and_no_file(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "sk-1")
    for text in ("{{ environ }}", "{% include '/etc/passwd' %}", "{% import 'os' as os %}"):
        try:
            assert "sk-1" not in render(Template(text), {}, [("user", "Hi")])
        except R1kitError as error:
            assert "sk-1" not in str(error) and "root:" not in str(error)


def test_the_chat_names_the_file_of_its_template(tmp_path: Path):
    tokenizer().save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("\n{{ nothing.here }}")
    with pytest.raises(R1kitError, match=r"chat_template.jinja:2: .*'nothing' is undefined"):
        Chat(Tokenizer.load(tmp_path), "model").prompt_ids(Problem("", "", "Hi", None))
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(R1kitError, match=r"chat_template.jinja: not UTF-8"):
        Tokenizer.load(tmp_path)


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"k{i}: &k{i} [{','.join([f'*k{i - 1}' if i else '*a'] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            LAUGHS,
            "x.yaml:5: not valid YAML: more than 10000 keys and values, counted with what aliases repeat",
        ),
        ("n: 1\na: &a [*a]", r"x.yaml:2: not valid YAML: \*a stands for a value that contains it"),
        ("a: &a\n  b: 1\n  <<: *a", r"x.yaml:3: not valid YAML: \*a stands for a value that contains it"),
        ("n: 1\na: " + "[" * 5000, "x.yaml:2: not valid YAML: more than 50 blocks within one another"),
        ("".join(" " * i + "a:\n" for i in range(99)), "x.yaml:50: not valid YAML: more than 50 blocks"),
        ("a: 1\na: 2", "x.yaml:2: key 'a' is given twice"),
        ("a: 1\n---\nb: 2", "x.yaml:2: not valid YAML: but found another document"),
        ("a: 1\nb: !!int x", "x.yaml:2: not valid YAML: 'x' is no int that can be read"),
        ("a: 1\nb: " + "9" * 5000, "x.yaml:2: not valid YAML: '999.* is no int that can be read"),
        ("a: 1\nb: 0x" + "f" * 5000, "x.yaml:2: not valid YAML: '0xff.* is no int that can be read"),
        ("a: " + ":".join(["59"] * 999), "x.yaml:1: not valid YAML: '59:59.* is no int that can be read"),
        ("a: !!set {b}", "x.yaml:1: not valid YAML: could not determine a constructor"),
        ("a: !!omap [b: 1]", "x.yaml:1: not valid YAML: could not determine a constructor"),
        ("a: !!binary aGk=", "x.yaml:1: not valid YAML: could not determine a constructor"),
        ("a: 2024-13-45", "x.yaml:1: not valid YAML: '2024-13-45' is no timestamp that can be read"),
        ("a: 1\nb: \x1b", r"x.yaml:2: not valid YAML: the character \\u001b does not belong in YAML"),
        ('a: "\\ud800"', "x.yaml:1: not valid YAML: .* is no str that can be read"),
        (
            "a: !!python/object/apply:os.system [id]",
            "x.yaml:1: not valid YAML: could not determine a constructor",
        ),
        ("x" * 200_001, "x.yaml: more than 200000 bytes are no recipe"),
        ("a: 1\nb: é".encode("latin-1"), "x.yaml:2: not UTF-8"),
        ("a: 1".encode("utf-16"), "x.yaml:1: not UTF-8"),
        ("extends: x.yaml", "x.yaml: files extend each other in a circle"),
        ("extends: /dev/zero", "x.yaml:1: extends: /dev/zero: no such file"),
    ],
)
def test_yaml_beyond_a_limit_is_refused_with_file_and_line(text, message, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message):
        read_layers(file)


def test_yaml_within_the_limits_is_read(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}\nd: " + b"[" * 40 + b"]" * 40)
    found = read_layers(file).data
    assert found["b"] == {"x": [1, 2]} and found["c"] == {"x": [1, 2], "y": 3}
    for number in range(30):
        (tmp_path / f"c{number}.yaml").write_text(f"extends: c{number + 1}.yaml\nk: {number}")
    (tmp_path / "c15.yaml").write_text("k: 15")
    assert read_layers(tmp_path / "c0.yaml").data == {"k": 0}
    (tmp_path / "c15.yaml").write_text("extends: c16.yaml")
    with pytest.raises(ConfigError, match=r"c20.yaml: more than 20 files extend one another"):
        read_layers(tmp_path / "c0.yaml")
    with pytest.raises(ConfigError, match=r"command line: .*more than 50 blocks"):
        parse_override("a=" + "[" * 3000)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b'{"prompt": "' + b"x" * 2_000_000 + b'"}',
            "d.jsonl:2: a row of more than 1 MB.*R1KIT_LONGEST_ROW_MB",
        ),
        (
            b'{"prompt": ' + b"[" * 9000 + b"]" * 9000 + b"}",
            "d.jsonl:2: .*too many lists or objects within one",
        ),
        (b'{"prompt": "a", "prompt": "b"}', "d.jsonl:2: .*the key 'prompt' is given twice"),
        (b'{"x": {"b": 1, "b": 2}}', "d.jsonl:2: .*the key 'b' is given twice"),
        (b'{"prompt": NaN}', "d.jsonl:2: column 'prompt' is NaN, a missing value"),
        (b'{"prompt": -Infinity}', "d.jsonl:2: column 'prompt' is -inf, which is no number of JSON"),
        (b'{"prompt": 1e999}', "d.jsonl:2: column 'prompt' is inf"),
        (
            b'{"prompt": ' + b"9" * 6000 + b"}",
            "d.jsonl:2: column 'prompt' is a number of more than 4300 digits",
        ),
        (b'{"prompt": "\\ud800"}', "d.jsonl:2: column 'prompt' holds half a character"),
        (b"\x00" * 9, "d.jsonl:2: not JSON"),
        (b"{" + b",".join(b'"k%d": 1' % i for i in range(99)) + b"}", "d.jsonl:2: .*k19 and 79 more$"),
    ],
)
def test_a_row_beyond_a_limit_is_refused_with_file_and_line(line, message, tmp_path, monkeypatch):
    monkeypatch.setenv("R1KIT_LONGEST_ROW_MB", "1")
    file = tmp_path / "d.jsonl"
    file.write_bytes(b'{"prompt": "good"}\n' + line + b"\n")
    with pytest.raises(R1kitError, match=message):
        for number, row in read_jsonl(file):
            assert column(file, number, row, "prompt") == "good"


def test_the_longest_row_is_an_option(tmp_path, monkeypatch):
    file = tmp_path / "d.jsonl"
    file.write_text(json.dumps({"prompt": "x" * 2_000_000}) + "\n")
    monkeypatch.delenv("R1KIT_LONGEST_ROW_MB", raising=False)
    assert len(list(read_jsonl(file))) == 1
    monkeypatch.setenv("R1KIT_LONGEST_ROW_MB", "many")
    with pytest.raises(ConfigError, match=r"R1KIT_LONGEST_ROW_MB is 'many'; give a number of megabytes"):
        list(read_jsonl(file))


def test_pointers_utf_16_and_bombs_are_named(tmp_path):
    pointer, wide, bomb = (tmp_path / name for name in ("p.jsonl", "w.jsonl", "b.jsonl.gz"))
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    wide.write_bytes('{"prompt": "a"}'.encode("utf-16"))
    bomb.write_bytes(gzip.compress(b" " * 999_999 + b"\n") * 150)  # members: 150 MB of a blank
    for file, message in (
        (pointer, "a git-lfs pointer"),
        (wide, "UTF-16"),
        (bomb, "more than 200 times its size"),
    ):
        with pytest.raises(R1kitError, match=f"{file.name}.*{message}"):
            list(read_jsonl(file))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_hidden_layers", 10**9, "num_hidden_layers = 1000000000 is not between 0 and 1000"),
        ("hidden_size", 10**15, "hidden_size = 1000000000000000 is not between 0 and"),
        ("hidden_size", -64, "hidden_size = -64 is not between 0"),
        ("rms_norm_eps", float("nan"), "rms_norm_eps = nan is not between 0"),
        ("rope_theta", float("inf"), "rope_theta = inf is not between 0"),
        ("model_type", ["llama"], "model_type .'llama'. is not supported"),
        ("rope_scaling", {"rope_type": ["yarn"]}, "rope scaling"),
        ("hidden_size", "wide", "hidden_size: Input should be a valid integer"),
        ("vocab_size", None, "vocab_size"),
        ("n_routed_experts", 10**9, "n_routed_experts = 1000000000 is not between 0"),
    ],
)
def test_a_config_that_no_network_has_is_refused_by_key(key, value, message, tmp_path):
    model_directory(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(ConfigError, match=message) as found:
        read_config(tmp_path)
    assert str(file) in str(found.value)


def test_weights_of_another_type_and_headers_without_end_are_named(tmp_path):
    model_directory(tmp_path)
    file = tmp_path / "model.safetensors"
    good = file.read_bytes()
    check_pretrained(tmp_path)
    for length, message in ((2**63, "the file is cut off"), (len(good), "the file is cut off")):
        file.write_bytes(length.to_bytes(8, "little") + good[8:])
        with pytest.raises(R1kitError, match=f"model.safetensors: .*{message}"):
            load_pretrained(tmp_path)
    file.write_bytes(good[:8] + good[8:].replace(b'"F32"', b'"I32"'))
    for read in (check_pretrained, load_pretrained):
        with pytest.raises(R1kitError, match=r"model.safetensors: .* is of type I32, not one of F64"):
            read(tmp_path)
    os.truncate(file, 40_000_000)
    with file.open("r+b") as opened:
        opened.write((30_000_000).to_bytes(8, "little"))
    with pytest.raises(R1kitError, match=r"its list of tensors has 30000000 bytes; 20000000 are read"):
        load_pretrained(tmp_path)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    model_directory(tmp_path)
    Tokenizer.load(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"vocab_size": 300}))
    with pytest.raises(R1kitError, match=r"tokenizer.json: token .* has the id .* vocab_size 300"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}, "merges": []}}')
    with pytest.raises(R1kitError, match=r"tokenizer.json: "):
        Tokenizer.load(tmp_path)


def test_a_template_s_process_that_something_else_kills_is_started_again_once():
    import psutil

    from r1kit.templates import Template, render

    text = "{% for m in messages %}{{ m.content }}{% endfor %}<again>"
    before = {child.pid for child in psutil.Process().children()}
    assert render(Template(text), {}, [("user", "Hi")]) == "Hi<again>"
    (worker,) = [child for child in psutil.Process().children() if child.pid not in before]
    worker.kill()
    assert render(Template(text), {}, [("user", "Ho")]) == "Ho<again>"
