"""Wrong, hedged, hidden and monstrous answers: none of them may be called correct, and none may hold anybody up."""

import threading
import time

import pytest

from r1kit.tasks.mathematics import check_math

PATIENCE = 5.0  # seconds; 1 on a quiet machine, see benchmarks/verifiers.py
OPEN, CLOSE = "<think>", "</think>"
TOWER = "9^{9^{9^{9}}}"

# (gold answer, response)
CASES = [
    # hidden in the thinking, or nowhere
    ("12", f"{OPEN}The answer is \\boxed{{12}}{CLOSE}"),
    ("12", f"{OPEN}\\boxed{{12}}{CLOSE} I am done."),
    ("12", f"{OPEN}\\boxed{{12}}"),
    ("12", f"{OPEN}so it is 12"),
    ("12", f"{OPEN}12{CLOSE}<answer></answer>"),
    ("12", f"{OPEN}12{CLOSE}<answer>13</answer>"),
    ("12", f"\\boxed{{12}}{OPEN}now{CLOSE}\\boxed{{13}}"),
    ("12", ""),
    ("12", " "),
    ("12", "\\boxed{}"),
    ("12", "\\boxed{"),
    ("12", "\\boxed{12"),
    ("12", "<answer>12"),
    ("12", "</answer>12"),
    ("12", "I do not know."),
    # hedging
    ("12", "\\boxed{12} or \\boxed{13}"),
    ("13", "\\boxed{12} or \\boxed{13}"),
    ("13", "\\boxed{12}, or maybe \\boxed{13}"),
    ("13", "The answer is \\boxed{12}. Alternatively, it might be \\boxed{13}."),
    ("12", "\\boxed{12, 13}"),
    ("12", "\\boxed{12 or 13}"),
    ("12", "\\boxed{12\\text{ or }13}"),
    ("12", "\\boxed{11} \\boxed{12}"),
    ("12", "\\boxed{11}, \\boxed{12}, \\boxed{13}"),
    ("12", "\\boxed{12} and \\boxed{13}"),
    ("12", "The answer is 12 or 13."),
    ("13", "The answer is 12 or 13."),
    ("13", "It is either 12 or 13"),
    ("12", "<answer>12</answer><answer>13</answer>"),
    ("13", "<answer>12</answer><answer>13</answer>"),
    ("13", "<answer>12 or 13</answer>"),
    ("13", "<answer>maybe 12, maybe 13</answer>"),
    ("12", "<answer>12 13</answer>"),
    ("12", "\\boxed{12 \\; 13}"),
    ("12", "\\boxed{\\{12, 13\\}}"),
    ("5", "\\boxed{x = 5 \\text{ or } x = 6}"),
    ("5", "\\boxed{\\pm 5}"),
    ("B", "The answer is A or B."),
    ("B", "(A) or (B)"),
    ("B", "\\boxed{A, B}"),
    ("B", "\\boxed{AB}"),
    ("B", "\\boxed{A} or \\boxed{B}"),
    ("B", "A, B, C, D"),
    ("12", "答案是12或者13"),
    ("12", "\\boxed{12或13}"),
    # negation
    ("5", "The answer is not 5"),
    ("5", "The answer is not \\boxed{5}"),
    ("5", "x is not equal to 5"),
    ("5", "答案不是5"),
    ("5", "\\boxed{\\neq 5}"),
    ("5", "\\boxed{x \\neq 5}"),
    ("5", "\\boxed{not 5}"),
    # another value
    ("12", "\\boxed{1}"),
    ("12", "\\boxed{2}"),
    ("12", "\\boxed{-12}"),
    ("12\\%", "\\boxed{12%1}"),
    ("12%", "答案是12%1。"),
    ("12", "\\boxed{12.0001}"),
    ("12", "\\boxed{120}"),
    ("12", "\\boxed{12!}"),
    ("12", "\\boxed{1 2}"),
    ("12", "\\boxed{1,2}"),
    ("12", "\\boxed{12x}"),
    ("12", "\\boxed{12_3}"),
    ("12", "\\boxed{12^{2}}"),
    ("12", "\\boxed{12+1}"),
    ("12", "\\boxed{12 < x}"),
    ("12", "\\boxed{x > 12}"),
    ("12", "\\boxed{\\approx 12.3}"),
    ("12", "\\boxed{[12]13}"),
    ("12", "\\boxed{12 if lucky else 13}"),
    ("12", "\\boxed{12 apples and 13 oranges}"),
    ("12", "\\boxed{the correct answer}"),
    ("12", "\\boxed{\\text{correct}}"),
    ("12", "\\boxed{answer}"),
    ("12", "\\boxed{x}"),
    ("12", "\\boxed{gold}"),
    ("12", "\\boxed{True}"),
    ("12", "\\boxed{nan}"),
    ("12", "\\boxed{\\infty}"),
    ("12", "\\boxed{0/0}"),
    ("12", "\\boxed{12/0}"),
    ("12", "\\boxed{x+1=12}"),
    ("4", "\\boxed{x+1=5}"),
    ("5", "\\boxed{x+1=5}"),
    ("5", "\\boxed{2x=5}"),
    ("1", "\\boxed{9=1}"),
    ("1", "\\boxed{2=1}"),
    ("0", "\\boxed{-1}"),
    ("0", "\\boxed{}"),
    ("0", "\\boxed{0.0000001}"),
    ("0", "\\boxed{10^{-30}}"),
    ("1", "\\boxed{0.999999999999}"),
    ("1/3", "\\boxed{0.333}"),
    ("1/3", "\\boxed{0.3333333333}"),
    ("1/3", "\\boxed{3}"),
    ("\\frac{1}{2}", "\\boxed{\\frac{2}{1}}"),
    ("\\frac{1}{2}", "\\boxed{12}"),
    ("\\frac{3}{4}", "\\boxed{3}"),
    ("\\frac{3}{4}", "\\boxed{34}"),
    ("0.5", "\\boxed{0.5\\%}"),
    ("50\\%", "\\boxed{5}"),
    ("5", "\\boxed{500}"),
    ("1000", "\\boxed{1.000}"),
    ("1000", "\\boxed{1,00}"),
    ("1234", "\\boxed{1, 234}"),
    ("1.5", "\\boxed{15}"),
    ("1.5", "\\boxed{1,5,}"),
    ("2\\frac{1}{3}", "\\boxed{\\frac{2}{3}}"),
    ("3:4", "\\boxed{4:3}"),
    # approximations of irrational numbers
    ("\\pi", "\\boxed{3.14}"),
    ("\\pi", "\\boxed{3.141592653589793}"),
    ("\\pi", "\\boxed{\\frac{22}{7}}"),
    ("\\sqrt{2}", "\\boxed{1.41421356237}"),
    ("\\sqrt{2}", "\\boxed{2}"),
    ("\\sqrt{2}", "\\boxed{\\sqrt{3}}"),
    ("2\\sqrt{3}", "\\boxed{3\\sqrt{2}}"),
    ("2\\sqrt{3}", "\\boxed{2+\\sqrt{3}}"),
    ("e", "\\boxed{2.718281828}"),
    ("\\ln 2", "\\boxed{\\log 2}"),
    ("\\sqrt[3]{2}", "\\boxed{\\sqrt{2}}"),
    # expressions
    ("x", "\\boxed{|x|}"),
    ("|x|", "\\boxed{x}"),
    ("x", "\\boxed{y}"),
    ("x", "\\boxed{X}"),
    ("x^2", "\\boxed{x^3}"),
    ("x^2", "\\boxed{2x}"),
    ("(x+1)^2", "\\boxed{x^2+1}"),
    ("(x+1)^2", "\\boxed{x^2+2x}"),
    ("2x+3", "\\boxed{3x+2}"),
    ("x_1", "\\boxed{x_2}"),
    ("\\sin x", "\\boxed{\\cos x}"),
    ("\\sin x", "\\boxed{x}"),
    ("a+b", "\\boxed{ab}"),
    ("a-b", "\\boxed{b-a}"),
    ("y=2x+3", "\\boxed{y=2x-3}"),
    ("y=2x+3", "\\boxed{x=2y+3}"),
    ("y=2x+3", "\\boxed{0=0}"),
    ("y=2x+3", "\\boxed{y=y}"),
    ("x=5", "\\boxed{y=6}"),
    ("x=1,y=2", "\\boxed{x=2,y=1}"),
    # bases, units, angles
    ("101_2", "\\boxed{101_3}"),
    ("101_2", "\\boxed{5}"),
    ("101_2", "\\boxed{5_{10}}"),
    ("5", "\\boxed{101_2}"),
    ("2516_8", "\\boxed{2516_9}"),
    ("5\\text{ cm}", "\\boxed{5\\text{ m}}"),
    ("5\\text{ cm}", "\\boxed{5\\text{ kg}}"),
    ("5\\text{ cm}", "\\boxed{5\\text{ cm}^2}"),
    ("5\\text{ hours}", "\\boxed{5\\text{ minutes}}"),
    ("90^\\circ", "\\boxed{90\\text{ radians}}"),
    ("7:30", "\\boxed{7:31}"),
    ("12元", "\\boxed{12千克}"),
    ("12", "\\boxed{一百二十}"),
    # tuples, sets, intervals, matrices
    ("(1,2)", "\\boxed{(2,1)}"),
    ("(1,2)", "\\boxed{(1,2,3)}"),
    ("(1,2)", "\\boxed{[1,2]}"),
    ("(1,2)", "\\boxed{(1,2]}"),
    ("[1,2)", "\\boxed{(1,2]}"),
    ("[1,2)", "\\boxed{[1,3)}"),
    ("[1,\\infty)", "\\boxed{(1,\\infty)}"),
    ("(-\\infty,1)", "\\boxed{(1,\\infty)}"),
    ("x>3", "\\boxed{x<3}"),
    ("x>3", "\\boxed{x\\ge 3}"),
    ("(3,\\infty)", "\\boxed{x\\ge 3}"),
    ("(3,\\infty)", "\\boxed{x<3}"),
    ("1<x<2", "\\boxed{1\\le x<2}"),
    ("\\{1,2\\}", "\\boxed{\\{1,2,3\\}}"),
    ("\\{1,2\\}", "\\boxed{\\{1\\}}"),
    ("\\{1,2,3\\}", "\\boxed{\\{1,2,2\\}}"),
    ("1,2", "\\boxed{1}"),
    ("1,2", "\\boxed{1,1}"),
    ("1,2", "\\boxed{1,2,3}"),
    ("1,2", "\\boxed{12}"),
    ("\\emptyset", "\\boxed{0}"),
    ("\\emptyset", "\\boxed{\\{0\\}}"),
    ("(0,1)\\cup(2,3)", "\\boxed{(0,3)}"),
    ("(0,1)\\cup(2,3)", "\\boxed{(0,1)}"),
    ("(0,1)\\cup(2,3)", "\\boxed{(0,1)\\cap(2,3)}"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\boxed{\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}}"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\boxed{\\begin{pmatrix}1&2\\end{pmatrix}}"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\boxed{(1,2,3)}"),
    # choices and words
    ("B", "\\boxed{C}"),
    ("B", "B is wrong, so the answer is C"),
    ("B", "<answer>Banana</answer>"),
    ("A", "A train leaves the station"),
    ("A", "A careful look shows that the answer is D."),
    ("Evelyn", "\\boxed{\\text{Carla}}"),
    ("Evelyn", "\\boxed{Evelyn or Carla}"),
    ("east", "\\boxed{west}"),
    ("even", "\\boxed{odd}"),
    ("yes", "\\boxed{no}"),
    # monsters
    ("12", f"\\boxed{{{TOWER}}}"),
    ("12", "\\boxed{1000000!}"),
    ("12", "\\boxed{\\prod_{i=1}^{100000} i}"),
    ("12", "\\boxed{\\int_0^1 x^x dx}"),
    ("12", "\\boxed{" + "+".join(["1"] * 3000) + "}"),
    ("12", "\\boxed{" + "(" * 500 + "12" + ")" * 500 + "}"),
    ("12", "\\boxed{" + "{" * 300 + "13" + "}" * 300 + "}"),
    ("12", "\\boxed{" + "\\frac{1}{" * 100 + "2" + "}" * 100 + "}"),
    ("12", "\\boxed{" + "\\sqrt{" * 90 + "2" + "}" * 90 + "}"),
    ("12", "\\boxed{\\sum_{n=1}^{\\infty} \\frac{1}{n^{1.0001}}}"),
    ("x+1", f"\\boxed{{x^{{{TOWER}}}}}"),
    ("12", "\\boxed{__import__('os').system('true') or 12}"),
    ("12", "\\boxed{eval('12')}"),
    ("12", "\\boxed{" + "9" * 5000 + "}"),
    ("12", "a" * 100_000),
    ("12", "1 " * 50_000),
    ("12", "\\boxed{" * 5000),
    ("12", "$" * 20_001),
    ("12", "the answer is " * 5000),
    ("12", "\\boxed{\ud800}"),
    ("12", "\\boxed{\x00}"),
    # a gold answer that nobody can read makes nothing right
    ("", ""),
    ("", "\\boxed{}"),
    ("\\frac{1", "\\boxed{\\frac{1}"),
    ("\\frac{1", "\\frac{1"),
    ("???", "\\boxed{???}"),
    ("It follows by induction on n that the sum is bounded for every n", "It follows by induction on n that the sum is bounded for every n"),
]


@pytest.fixture(scope="module", autouse=True)
def _warm_workers():
    check_math("\\int_0^1 x dx", "\\boxed{\\int_0^1 t dt}")


def test_no_case_is_called_correct_and_none_takes_long():
    assert len(CASES) >= 150
    slow, wrong = [], []
    for gold, response in CASES:
        begun = time.monotonic()
        verdict = check_math(gold, response)
        if time.monotonic() - begun > PATIENCE:
            slow.append((gold, response[:60], time.monotonic() - begun))
        if verdict.outcome == "correct":
            wrong.append((gold, response[:60]))
    assert wrong == []
    assert slow == []


def test_any_thread_gets_the_verdicts_of_the_main_thread():
    sample = CASES[::9]
    expected = [check_math(gold, response).outcome for gold, response in sample]
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append([check_math(g, r).outcome for g, r in sample])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 3
