"""Which part of an answer is its program: fences of every kind, bare code, and texts without a program."""
# ruff: noqa: E501 - one case, one entry

import itertools

import pytest

from r1kit.tasks.fences import read_program

PROGRAM = "def f(x):\n    return x + 1"
DOCSTRINGS = {
    "none": PROGRAM,
    "fence": 'def f(x):\n    """Add one.\n\n```\n>>> f(1)\n2\n```\n"""\n    return x + 1',
    "marked fence": 'def f(x):\n    """Add one.\n\n    ```python\n    f(1)\n    ```\n    """\n    return x + 1',
    "tildes": "def f(x):\n    '''~~~\n    f(1)\n    ~~~'''\n    return x + 1",
    "blank lines": "import math\n\n\ndef f(x):\n\n    y = math.floor(x)\n\n    return y + 1",
}
OPENINGS = [
    "```python",
    "```py",
    "```Python3",
    "``` python",
    "````python",
    "`````",
    "```",
    "~~~python",
    "~~~~",
    "~~~",
    '```python title="a.py"',
    "```{.python}",
    "```{python}",
]
BEFORE = ["", "Here is the program:\n\n", "First I add 1.\n\n```\n2 + 2 = 4\n```\n\nSo:\n"]
AFTER = [
    "",
    "\n",
    "\n\nIt adds one to `x`.",
    "\n\nRun it:\n```bash\npython a.py\n```",
    "\n\nIt prints\n```\n2\n```\n",
    "\n```json\n{}\n```",
]


def runs(program):
    namespace = {}
    exec(program, namespace)
    return namespace["f"](1) == 2


@pytest.mark.parametrize("opening", OPENINGS)
def test_a_fenced_program_is_found_whatever_surrounds_it(opening):
    fence = "".join(itertools.takewhile(lambda sign: sign in "`~", opening))
    for before, after, program in itertools.product(BEFORE, AFTER, DOCSTRINGS.values()):
        answer = f"{before}{opening}\n{program}\n{fence}{after}"
        for text in (answer, answer.replace("\n", "\r\n")):
            assert runs(read_program(text)), text


@pytest.mark.parametrize("program", DOCSTRINGS.values(), ids=DOCSTRINGS)
@pytest.mark.parametrize(
    "layout",
    ["{}", "So:\n```python\n{}", "So:\n~~~\n{}", "So:\n```python\n{}\n\nThis adds one.", "Here it is:\n\n{}", "Solution\n\n{}", "````markdown\n```python\n{}\n```\n````",
     "The code: ```python\n{}\n```", "```python\n{}```", "```python\nx = 1 +\n```python\n{}\n```", "```python\n{}\n```\nUse it:\n```python\nprint(f(2))\n```",
     "<code>\n{}\n</code>", "<pre><code class=\"language-python\">\n{}\n</code></pre>", "[PYTHON]\n{}\n[/PYTHON]", "\\begin{{lstlisting}}[language=Python]\n{}\n\\end{{lstlisting}}",
     "```ipython\n{}\n```", "```python\n{}\n```\u200b",
     "```python\ndef f(x): return 0\n```\nBetter:\n```python\n{}\n```", "{}\n\n```bash\npython a.py\n```", "```\n{}\n```\n```sh\npython a.py\n```"],
)  # fmt: skip
def test_other_layouts_of_a_program(layout, program):
    assert runs(read_program(layout.format(program), "f"))


@pytest.mark.parametrize(
    "answer",
    ["> ```python\n> def f(x):\n>     return x + 1\n> ```\n> That is all.", "Here:\n\n    def f(x):\n        return x + 1\n\nIt adds one.", "Here:\n\tdef f(x):\n\t    return x + 1",
     "```python\ndef f(x):\n    return x + 1\n``` That is it.", "<think>```python\ndef f(x): return 0\n```</think>\n```python\ndef f(x):\n    return x + 1\n```"],
)  # fmt: skip
def test_marks_around_a_program_are_no_part_of_it(answer):
    assert read_program(answer, "f").strip() == PROGRAM


@pytest.mark.parametrize(
    ("answer", "program"),
    [("```python def f(x): return x + 1```", "def f(x): return x + 1"), ("Use ```f = abs``` here", "f = abs"), ("I cannot do it.", "I cannot do it."), ("", ""),
     ("```\n2\n```", "2\n"), ("So:\n\nx = int(input())\nprint(x + 1)\n\nThat is all.", "x = int(input())\nprint(x + 1)"), ("Steps:\n- ```python\n  x = 1\n  ```", "x = 1\n"),
     ("```python\nx = 1\n```\n```python\ny = 2\n```", "y = 2\n"), ("```python\n```", "")],
)  # fmt: skip
def test_what_else_is_read(answer, program):
    assert read_program(answer).strip() == program.strip()


@pytest.mark.parametrize(
    "piece",
    ["```\n", "```python\nx\n", "`", "~", "(\n```\n", "def \n\n", "```python\n'''\n", "x = 1\n", "- ```py\n"],
)
def test_no_text_is_too_much(piece):
    assert isinstance(read_program(piece * (300_000 // len(piece)), "f"), str)
