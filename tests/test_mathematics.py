"""Answers that are right however they are written, on hand-made cases and on public data sets."""

import json
import re
import time

import pytest
from public_data import DATA

from r1kit.tasks.mathematics.check import check_math, final_answer
from r1kit.tasks.mathematics.checker_pool import wait_until_ready
from r1kit.tasks.mathematics.expressions import TooLarge, read_expression, same


@pytest.fixture(scope="module", autouse=True)
def _ready():
    assert wait_until_ready()


# (gold answer, response)
RIGHT = [
    ("42", "<think>maybe \\boxed{13}</think> \\boxed{42}"),
    ("12", "<answer>12</answer>"),
    ("12", "<think>a</think><answer>12</answer>"),
    ("12", "<think>a</think>\n\nThe answer is $12$."),
    ("1/2", "\\boxed{0.5}"),
    ("1/3", "\\boxed{0.\\overline{3}}"),
    ("0.\\overline{3}", "\\boxed{\\frac13}"),
    ("50\\%", "\\boxed{50}"),
    ("0.5", "\\boxed{50\\%}"),
    ("1000", "\\boxed{1,000}"),
    ("1000000", "\\boxed{1 000 000}"),
    ("12345", "\\boxed{12\\,345}"),
    ("10{,}000", "\\boxed{10000}"),
    ("100", "\\boxed{100 dollars}"),
    ("100", "\\boxed{\\$100}"),
    ("100", "100 dollars"),
    ("5 cm", "\\boxed{5}"),
    ("5", "\\boxed{5\\text{ cm}}"),
    ("5\\text{ cm}", "\\boxed{5 centimeters}"),
    ("12", "答案是12元。"),
    ("12", "\\boxed{１２}"),
    ("12", "答：一共12个。"),
    ("12", "\\boxed{12元}"),
    ("12", "\\boxed{十二}"),
    ("2/3", "\\boxed{三分之二}"),
    ("B", "The answer is (B)."),
    ("B", "\\boxed{\\text{(B)}}"),
    ("(B)", "\\boxed{B}"),
    ("B", "<think>c</think> **B**"),
    ("C", "答案：C"),
    ("\\text{(C)}", "\\boxed{C) 12}"),
    ("101_2", "\\boxed{101_2}"),
    ("101_2", "\\boxed{101_{2}}"),
    ("2516_8", "\\boxed{2516_{\\text{eight}}}"),
    ("2516_8", "\\boxed{2516}"),
    ("(0,1]", "\\boxed{(0, 1]}"),
    ("(-\\infty,3)", "\\boxed{x<3}"),
    ("[2,\\infty)", "\\boxed{x \\ge 2}"),
    ("x \\in [1,2]", "\\boxed{[1,2]}"),
    ("(1,2)", "\\boxed{1<x<2}"),
    ("\\{1,2,3\\}", "\\boxed{\\{3,2,1\\}}"),
    ("1,2", "\\boxed{2, 1}"),
    ("1,2", "\\boxed{2} and \\boxed{1}"),
    ("1,2", "\\boxed{x=1 \\text{ or } x=2}"),
    ("\\pm 3", "\\boxed{3,-3}"),
    ("(3,\\frac{\\pi}{2})", "\\boxed{\\left(3, \\pi/2\\right)}"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\boxed{\\begin{bmatrix} 1 & 2 \\\\ 3 & 4 \\end{bmatrix}}"),
    ("y=2x+3", "\\boxed{2x-y+3=0}"),
    ("y = 2x + 3", "\\boxed{y=3+2x}"),
    ("2x+3", "\\boxed{y=2x+3}"),
    ("5", "\\boxed{x=5}"),
    ("x=5", "\\boxed{5}"),
    ("\\sqrt{12}", "\\boxed{2\\sqrt3}"),
    ("2\\pi r", "\\boxed{2*pi*r}"),
    ("\\emptyset", "\\boxed{\\varnothing}"),
    ("\\text{Evelyn}", "\\boxed{Evelyn}"),
    ("east", "\\boxed{\\text{East}}"),
    ("12", "So the total is \\boxed{12}."),
    ("12", "\\boxed {12}"),
    ("12", "\\boxed{12.}"),
    ("12", "\\boxed{12}."),
    ("3:4", "\\boxed{6:8}"),
    ("1.2\\times 10^5", "\\boxed{120000}"),
    ("120000", "\\boxed{1.2e5}"),
    ("2\\frac{1}{2}", "\\boxed{5/2}"),
    ("72", "Natalia sold 48+24 = 72 clips altogether.\n#### 72"),
    ("72", "#### 72"),
    ("90^\\circ", "\\boxed{90}"),
    ("90", "\\boxed{90°}"),
    ("x^2+2x+1", "\\boxed{(x+1)^2}"),
    ("\\frac{1}{x+1}", "\\boxed{(x+1)^{-1}}"),
    ("5", "The answer is 5."),
    ("5", "Therefore, x = 5."),
    ("-3", "\\boxed{−3}"),
    ("(-\\infty,1)\\cup(2,\\infty)", "\\boxed{(2,\\infty)\\cup(-\\infty,1)}"),
    ("3 million", "\\boxed{3000000}"),
    ("7:30", "\\boxed{7:30}"),
    ("f(x)=x^2", "\\boxed{x^2}"),
    ("6", "<think>x</think>\n**Answer:** 6"),
    ("\\frac{\\sqrt{3}}{3}", "\\boxed{\\frac{1}{\\sqrt{3}}}"),
    ("e^{2}", "\\boxed{e^2}"),
    ("\\log_2 3", "\\boxed{\\frac{\\ln 3}{\\ln 2}}"),
    ("10", "\\boxed{10\\text{ square units}}"),
    ("3.50", "\\boxed{\\$3.5}"),
    ("18", "Janet makes $18 every day."),
]
RIGHT += [
    ("5", "\\boxed{5\\text{ apples}}"), ("5", "The answer is 5 apples."), ("5", "\\boxed{\\$5.00}"), ("5", "$5.00"), ("5", "\\boxed{005}"),
    ("5", "\\boxed{+5}"), ("0", "\\boxed{-0}"), ("0", "\\boxed{0.0}"), ("5", "\\boxed{5.000}"), ("5", "**5**"), ("5", "`5`"),
    ("5", "\\[5\\]"), ("5", "\\(x = 5\\)"), ("5", "<think>a</think>\n\nThe final answer is: $\\boxed{5}$. I hope it is correct."),
    ("5", "\\boxed{\\mathbf{5}}"), ("5", "\\boxed{\\mathrm{5}}"), ("5", "\\boxed{\\text{5}}"), ("5", "\\boxed{{5}}"),
    ("5", "\\boxed{\\boxed{5}}"), ("5", "\\fbox{5}"), ("5", "\\boxed{n=5}"), ("5", "\\boxed{\\displaystyle 5}"), ("5", "\\boxed{5\\,}"),
    ("5", "\\boxed{5 }"), ("5", "\\boxed{five}"), ("12", "\\boxed{\\text{twelve}}"), ("21", "\\boxed{\\text{twenty-one}}"), ("5", "5\n\n"),
    ("5", "Answer: 5"), ("5", "The final answer is $5$"), ("5", "Hence $x=5$."), ("5", "= 5"), ("5", "\\boxed{\\frac{10}{2}}"),
    ("1234.5", "\\boxed{1,234.5}"), ("1234567", "\\boxed{1,234,567}"), ("1234567", "\\boxed{1\\ 234\\ 567}"),
    ("1,234.5", "\\boxed{1234.50}"), ("3/2", "\\boxed{1 1/2}"), ("1\\frac{1}{2}", "\\boxed{1.5}"), ("1 \\frac 12", "\\boxed{\\frac{3}{2}}"),
    ("1/2", "\\boxed{½}"), ("1.5", "\\boxed{1½}"), ("\\frac{1}{7}", "\\boxed{0.\\overline{142857}}"), ("1/6", "\\boxed{0.1\\overline{6}}"),
    ("0.1\\dot{6}", "\\boxed{1/6}"), ("1/3", "\\boxed{0.\\dot{3}}"), ("0.0012", "\\boxed{1.2\\times 10^{-3}}"),
    ("0.0012", "\\boxed{1.2 \\cdot 10^{-3}}"), ("1.2 \\times 10^{-3}", "\\boxed{1.2e-3}"), ("3\\times10^8", "\\boxed{300000000}"),
    ("3×10⁸", "\\boxed{3\\cdot10^8}"), ("25\\%", "\\boxed{25}"), ("25\\%", "\\boxed{\\frac{1}{4}}"), ("25\\%", "\\boxed{0.25}"),
    ("25", "\\boxed{25\\%}"), ("25%", "百分之二十五"), ("0.25", "\\boxed{25\\%}"),
    ("1200", "答案是一千二百。"), ("2/3", "答案：三分之二"), ("12", "答案为：１２"),
    ("12", "所以答案是 12 个苹果。"), ("3.5", "答：3.5千米。"), ("350", "共350元。"), ("-3", "\\boxed{－3}"), ("120000", "\\boxed{12万}"),
    ("5", "\\boxed{5个}"), ("5", "最终答案：\\boxed{5}"), ("15", "\\boxed{十五}"), ("20", "二十"), ("60^\\circ", "\\boxed{60}"),
    ("60^{\\circ}", "\\boxed{60\\text{ degrees}}"), ("60", "60°"), ("60^\\circ", "\\boxed{60\\degree}"), ("[0,1)", "\\boxed{0 \\le x < 1}"),
    ("[0,1)", "\\boxed{x \\in [0,1)}"), ("(-\\infty, 2]", "\\boxed{x \\leq 2}"), ("(-\\infty, 2]", "\\boxed{x\\leqslant 2}"),
    ("(2,\\infty)", "\\boxed{(2,+\\infty)}"), ("(-\\infty,0)\\cup(0,\\infty)", "\\boxed{(-\\infty, 0) \\cup (0, +\\infty)}"),
    ("x>2", "\\boxed{2<x}"), ("2x>4", "\\boxed{x>2}"), ("-2<x<2", "\\boxed{(-2,2)}"), ("\\{1,2\\}", "\\boxed{1, 2}"),
    ("\\{1,2\\}", "\\boxed{2 \\text{ and } 1}"), ("1,2", "\\boxed{\\{2,1\\}}"), ("(1,2),(3,4)", "\\boxed{(3,4),(1,2)}"),
    ("(1,2)", "\\boxed{\\left( 1,\\, 2 \\right)}"), ("(1,2)", "\\boxed{x=1,y=2}"), ("(1,2)", "\\boxed{(x,y)=(1,2)}"),
    ("(a,b)=(1,2)", "\\boxed{(1,2)}"), ("1,2", "The solutions are $x=1$ and $x=2$."), ("\\pm 4", "\\boxed{4, -4}"),
    ("4,-4", "\\boxed{\\pm4}"), ("x=\\pm 4", "\\boxed{x = 4 \\text{ or } x = -4}"), ("1\\pm\\sqrt2", "\\boxed{1+\\sqrt{2}, 1-\\sqrt{2}}"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\boxed{\\begin{bmatrix}1\\\\2\\end{bmatrix}}"),
    ("\\begin{pmatrix} \\frac12 \\\\ 0 \\end{pmatrix}", "\\boxed{\\begin{pmatrix} 0.5 \\\\ 0 \\end{pmatrix}}"),
    ("101_2", "\\boxed{(101)_2}"), ("101_2", "\\boxed{101_{\\text{two}}}"), ("101_2", "\\boxed{101_{(2)}}"), ("C", "\\boxed{\\text{C}}"),
    ("\\text{(C)}", "\\boxed{\\textbf{(C)}}"), ("(C)", "The correct option is C."), ("C", "**C) 12**"), ("C", "故选C。"),
    ("C", "\\boxed{\\mathrm{(C)}\\ 12}"), ("C", "\\boxed{C. 12}"), ("x=5", "\\boxed{5=x}"), ("2x+4y=6", "\\boxed{x+2y=3}"),
    ("y=2x+1", "\\boxed{2x - y + 1 = 0}"), ("x^2+y^2=4", "\\boxed{y^2 = 4 - x^2}"), ("(x-1)(x+1)", "\\boxed{x^2-1}"),
    ("x^2-5x+6", "\\boxed{(x-2)(x-3)}"), ("\\frac{a+b}{2}", "\\boxed{\\frac{1}{2}(a+b)}"), ("\\ln 8", "\\boxed{3\\ln 2}"),
    ("\\log_2 8", "\\boxed{3}"), ("\\sin 30^\\circ", "\\boxed{\\frac12}"), ("\\sin 2x", "\\boxed{2\\sin x\\cos x}"),
    ("\\cos^2 x", "\\boxed{1-\\sin^2 x}"), ("\\frac{\\sqrt2}{2}", "\\boxed{\\frac{1}{\\sqrt2}}"),
    ("\\sqrt{3+2\\sqrt2}", "\\boxed{1+\\sqrt2}"), ("2^{10}", "\\boxed{1024}"), ("5!", "\\boxed{120}"), ("\\binom{5}{2}", "\\boxed{10}"),
    ("1+2i", "\\boxed{2i+1}"), ("i^2", "\\boxed{-1}"), ("e^{i\\pi}", "\\boxed{-1}"), ("\\pi/2", "\\boxed{0.5\\pi}"),
    ("2π", "\\boxed{2\\pi}"), ("\\infty", "\\boxed{+\\infty}"), ("-\\infty", "\\boxed{-∞}"), ("\\text{no solution}", "\\boxed{\\emptyset}"),
    ("\\emptyset", "\\boxed{\\text{No solution}}"), ("无解", "\\boxed{\\text{no solutions}}"), ("\\text{Monday}", "\\boxed{Monday}"),
    ("Monday", "The answer is Monday."), ("7:30", "\\boxed{07:30}"), ("7:30\\text{ p.m.}", "\\boxed{7:30 PM}"), ("3:4", "\\boxed{3 : 4}"),
    ("3:4", "\\boxed{9:12}"), ("x^2", "\\boxed{x²}"), ("\\sqrt{2}", "\\boxed{√2}"), ("3-x", "\\boxed{3−x}"),
    ("2\\cdot 3^x", "\\boxed{2 * 3^x}"), ("a \\cdot b", "\\boxed{ab}"), ("\\frac{x}{y}", "\\boxed{x/y}"), ("f(x)=2x", "\\boxed{f(x) = 2x}"),
    ("\\text{5 cm}", "\\boxed{5}"), ("5 \\mathrm{~cm}", "\\boxed{5\\text{ cm}}"), ("12\\text{ cm}^2", "\\boxed{12\\ \\text{cm}^2}"),
    ("12 cm²", "\\boxed{12}"), ("5\\text{ km}", "\\boxed{5\\ \\text{kilometers}}"), ("\\$1,000", "\\boxed{1000}"),
    ("3 million", "\\boxed{3,000,000}"), ("4{,}500", "\\boxed{4500}"), ("-\\frac{1}{2}", "\\boxed{\\frac{-1}{2}}"),
    ("-\\frac{1}{2}", "\\boxed{\\frac{1}{-2}}"), ("\\frac{3}{6}", "\\boxed{\\frac{1}{2}}"), ("\\dfrac{1}{2}", "\\boxed{1/2}"),
    ("5", "$$\\boxed{5}$$"), ("5", "\\boxed{\\,5\\;}"), ("5", "\\boxed{5}\\]"), ("5", "\\boxed{x = 5\\text{ cm}}"),
    ("\\mathbb{R}", "\\boxed{(-\\infty,\\infty)}"), ("2", "So the sum is $1 + 1 = 2$."),
    ("7", "\\boxed{3+4=7}"), ("7", "\\boxed{x=3+4=7}"), ("7", "Therefore $x = 3 + 4 = 7$."), ("(1,2)", "\\boxed{(x, y) = (1, 2)}"),
    ("100", "\\boxed{\\text{one hundred}}"), ("125", "\\boxed{\\text{one hundred and twenty-five}}"), ("5", "The number is $5$, not $6$."),
    ("12", "Final Answer: The final answer is $\\boxed{12}$"), ("12", "The answer is:\n\n$$12$$"),
    ("12", "So we need \\boxed{12} apples, because 3 * 4 = 12 and not 13."), ("12", "**Final Answer**\n\\boxed{12}"), ("12", "Answer:\n12"),
    ("12", "\\begin{align*}x&=12\\end{align*}\n\\boxed{12}"), ("12", "答案: 12"), ("12", "答案是：$12$。"), ("12", "因此，$x=12$。"),
    ("12", "综上，答案为\\boxed{12}。"), ("12", "12。"), ("12", "12."), ("12", "$12$"), ("12", "\\$12"), ("12", "12%"),
    ("12", "<answer>$12$</answer>"), ("12", "<answer>\n12\n</answer>"), ("12", "<answer>The answer is 12.</answer>"),
    ("12", "<answer>\\boxed{12}</answer>"), ("12", "Thus the answer is $\\boxed{12}$, which is 3 times 4."),
    ("\\frac{3}{4}", "The probability is $\\frac{3}{4}$."), ("\\frac{3}{4}", "$\\frac34$"), ("\\frac{3}{4}", "3/4"),
    ("\\frac{3}{4}", "0.75"), ("\\frac{3}{4}", "75\\%"), ("\\frac{3}{4}", "\\boxed{\\tfrac{3}{4}}"),
    ("\\frac{3}{4}", "\\boxed{{3 \\over 4}}"), ("\\frac{3}{4}", "\\boxed{\\frac{3}{4} \\text{ cup}}"),
    ("\\frac{3}{4}", "\\boxed{\\left(\\frac{3}{4}\\right)}"), ("\\frac{3}{4}", "\\boxed{P = \\frac{3}{4}}"),
    ("\\frac{3}{4}", "\\boxed{P(A) = \\frac{3}{4}}"), ("C", "(C)"), ("C", "C."), ("C", "答案选C"),
    ("C", "The answer is $\\boxed{\\text{C}}$"), ("C", "Option C is correct."), ("C", "The correct choice is **C**."),
    ("C", "\\boxed{\\text{(C) } 12}"), ("2 \\pmod 5", "\\boxed{2 \\pmod{5}}"), ("\\log_{10} 100", "2"),
    ("n(n+1)/2", "\\boxed{\\frac{n^2+n}{2}}"), ("2^{n+1}", "\\boxed{2\\cdot 2^n}"), ("\\sqrt{x^2+1}", "\\boxed{(x^2+1)^{1/2}}"),
    ("x^{-1}", "\\boxed{\\frac1x}"), ("e^{x}", "\\boxed{\\exp(x)}"), ("\\frac{\\pi}{6}", "\\boxed{\\frac{1}{6}\\pi}"),
    ("\\arctan 1", "\\boxed{\\frac{\\pi}{4}}"), ("\\tan^{-1} 1", "\\boxed{\\frac{\\pi}{4}}"), ("\\sqrt[3]{8}", "2"), ("8^{1/3}", "2"),
    ("\\lfloor 3.7 \\rfloor", "3"), ("|{-3}|", "3"), ("\\frac{2}{\\sqrt{2}}", "\\sqrt 2"), ("\\{x \\mid x>2\\}", "\\boxed{(2,\\infty)}"),
    ("x \\in (2,\\infty)", "\\boxed{x>2}"), ("x<-1 \\text{ or } x>2", "\\boxed{(-\\infty,-1)\\cup(2,\\infty)}"),
    ("(-\\infty,-1)\\cup(2,\\infty)", "\\boxed{x<-1 \\text{ or } x>2}"), ("[1,\\infty)", "\\boxed{[1, \\infty[}"),
    ("\\{-1,1\\}", "\\boxed{x=\\pm1}"), ("(3,-1)", "\\boxed{(3, -1)}"), ("y=-3x+1", "\\boxed{y = 1 - 3x}"),
    ("3x+y-1=0", "\\boxed{y=-3x+1}"), ("\\text{Sunday}", "**Sunday**"), ("\\text{ellipse}", "\\boxed{\\text{an ellipse}}"),
    ("1,2,3", "\\boxed{1, 2, \\text{ and } 3}"), ("\\begin{bmatrix}1&2\\end{bmatrix}", "\\boxed{\\begin{pmatrix}1&2\\end{pmatrix}}"),
    ("6\\text{ minutes}", "6 min"), ("2 hours", "\\boxed{2\\text{ h}}"), ("3:45 PM", "\\boxed{3:45\\text{ p.m.}}"),
    ("10\\text{ m/s}", "\\boxed{10 \\text{ m/s}}"), ("10\\text{ m/s}", "\\boxed{10}"), ("1.5 \\times 10^{-5}", "\\boxed{0.000015}"),
    ("1.0", "1"), ("-0.5", "-\\frac12"), ("3,\\!000", "3000"), ("\\$3{,}000", "3000 dollars"),
]  # fmt: skip


def rows(name: str) -> list[dict]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("gold", "response"), RIGHT)
def test_a_right_answer_is_correct_however_it_is_written(gold, response):
    assert check_math(gold, response).outcome == "correct"


def test_math500_gold_answers_and_full_solutions_are_correct():
    for row in rows("math500_test.jsonl"):
        for response in (row["answer"], row["solution"], f"<think>hm</think>So \\boxed{{{row['answer']}}}."):
            assert check_math(row["answer"], response).outcome == "correct", (row["answer"], response[-80:])


def test_math500_answers_to_other_problems_are_wrong():
    # Every pair that is called correct has been looked at: the same value written in another way.
    same_value = [
        {"90^\\circ", "90"},
        {"10,\\!080", "10080"}, {"5", "x=5"}, {"1,-2", "-2,1"}, {"40_9", "40"}, {"120^\\circ", "120"}, {"36", "36^\\circ"}, {"36", "\\$36"},
        {"\\frac{1}{4}", "\\frac14"}, {"30^\\circ", "30"}, {"15", "15\\mbox{ cm}^2"}, {"2 \\sqrt{5}", "2\\sqrt{5}"},
    ]  # fmt: skip
    golds = list(dict.fromkeys(row["answer"] for row in rows("math500_test.jsonl")))
    for gold in golds:
        for other in golds[::6]:
            if gold != other and {gold, other} not in same_value:
                assert check_math(gold, f"\\boxed{{{other}}}").outcome == "wrong", (gold, other)


def test_gsm8k_worked_answers_are_correct_and_the_previous_rows_are_not():
    train = rows("gsm8k_train.jsonl")
    values = [row["answer"].rpartition("####")[2].strip().replace(",", "") for row in train]
    for place, row in list(enumerate(train))[::3]:
        assert check_math(row["answer"], row["answer"]).outcome == "correct"
        expected = "correct" if float(values[place]) == float(values[place - 1]) else "wrong"
        assert check_math(row["answer"], f"The answer is {values[place - 1]}.").outcome == expected


def test_cmath_answers_with_chinese_words_around_them_are_correct():
    for row in rows("cmath_test.jsonl")[::2]:
        gold = str(row["answer"])
        assert (
            check_math(
                gold, f"<think>想一想</think>答案是{gold}{'' if gold.endswith('%') else '个'}。"
            ).outcome
            == "correct"
        ), gold
        assert check_math(gold, f"答案是1{gold}。").outcome == "wrong", gold


SPELLINGS = (
    "<think>so \\boxed{{-77}} perhaps</think>\\boxed{{{}}}", "<think>x</think>\n<answer>{}</answer>", "We are done. The answer is ${}$.",
    "<think>想</think>答案是${}$。", "Hence\n\\[ \\boxed{{ {} }} \\]", "### Final answer\n\n**{}**",
)  # fmt: skip


@pytest.mark.parametrize("name", ["aime24", "amc23", "cmath", "gsm8k", "math500"])
def test_every_public_gold_answer_is_right_in_each_spelling(name):
    for row in rows(f"{name}_test.jsonl"):
        gold = str(row["answer"]).rpartition("####")[2].strip()
        for spelling in SPELLINGS:
            if spelling.startswith("###") and name == "math500":
                continue  # bold LaTeX without dollar signs is not how anybody writes
            assert check_math(str(row["answer"]), spelling.format(gold)).outcome == "correct", (
                gold,
                spelling,
            )


@pytest.mark.parametrize(("name", "every"), [("aime24", 1), ("amc23", 1), ("cmath", 5), ("gsm8k", 7)])
def test_public_answers_to_other_problems_are_right_only_where_the_numbers_are_equal(name, every):
    golds = [
        str(row["answer"]).rpartition("####")[2].strip().replace(",", "")
        for row in rows(f"{name}_test.jsonl")
    ]
    numbers = [gold for gold in dict.fromkeys(golds) if re.fullmatch(r"-?\d+(\.\d+)?", gold)]
    for place, gold in enumerate(numbers):
        for other in numbers[place % every :: every]:
            expected = "correct" if float(gold) == float(other) else "wrong"
            assert check_math(gold, f"\\boxed{{{other}}}").outcome == expected, (gold, other)


@pytest.mark.parametrize(
    ("response", "answer"),
    [("<think>\\boxed{1}</think>\\boxed{2}", "2"), ("<think>1", None), ("\\boxed{1} and so \\boxed{2}", "2"),
     ("<think>a</think><answer>The sum is 4</answer>", "4"), ("a</think>We get that the sum is: $x=3$", "x=3")],
)  # fmt: skip
def test_the_final_answer_is_what_stands_last_outside_the_thinking(response, answer):
    assert final_answer(response) == answer


def test_values_agree_exactly_or_to_25_digits():
    assert same(read_expression("\\sqrt{2}\\sqrt{3}"), read_expression("\\sqrt{6}"))
    assert not same(read_expression("\\sqrt{2}"), read_expression("\\frac{665857}{470832}"))
    assert not same(read_expression("10^{100}"), read_expression("10^{100}+1"))


def test_what_is_too_large_to_compute_is_refused_with_little_work():
    begun = time.process_time()
    for text in ("9^{9^{9^{9}}}", "(10^{12})!", "10^{10^{13}}", "e^{e^{e^{9}}}", "\\frac{1}{(9^{9^{9}})!}"):
        with pytest.raises(TooLarge):
            read_expression(text)
    assert time.process_time() - begun < 20  # processor seconds; computing one of them takes hours
