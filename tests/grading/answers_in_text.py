"""Responses whose right verdict is known by construction: surrounding text x form of the answer x language.

``generate`` draws cases; half of them are near misses, in which the gold value occurs and is not the answer.
A case names its kind, so that a failure says which rule is broken. Nothing here calls a function of r1kit."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """One response, whether it is right, and the rule that it tries."""

    kind: str
    gold: str
    response: str
    is_right: bool


# {} is the value. Every frame of a language says in so many words what the answer is.
STATED = {
    "en": ["The answer is {}.", "So the final answer is {}.", "The answer to the problem is {}.", "Answer: {}", "A: {}",
           "Final answer: {}", "Final Answer: The final answer is {}.", "#### {}", "{} is the answer.",
           "The answer is {}!",
           "Hence {} is the solution.", "ANSWER: {}", "Answer:\n{}", "### Final answer\n\n{}", "My answer is {}."],
    "zh": ["答案是{}。", "答案：{}", "答：{}", "所以答案为{}。", "故答案为{}", "最终答案：{}",
    "答案是：{}。"],
    "fr": ["La réponse est {}.", "Donc la réponse finale est {}.", "Réponse : {}"],
    "de": ["Die Antwort ist {}.", "Die Antwort lautet {}.", "Antwort: {}", "Also ist das Ergebnis {}."],
    "es": ["La respuesta es {}.", "Respuesta: {}"], "it": ["La risposta è {}.", "Risposta: {}"],
    "pt": ["A resposta é {}.", "Resposta: {}"], "nl": ["Het antwoord is {}.", "Antwoord: {}"],
    "pl": ["Odpowiedź to {}.", "Odpowiedź: {}"], "tr": ["Cevap {}.", "Cevap: {}"],
    "vi": ["Đáp án là {}.", "Đáp số: {}"], "id": ["Jawabannya adalah {}.", "Jawaban: {}"],
    "sv": ["Svaret är {}.", "Svar: {}"], "da": ["Svaret er {}.", "Svar: {}"], "cs": ["Odpověď je {}.",
    "Odpověď: {}"],
    "ro": ["Răspunsul este {}.", "Răspuns: {}"], "fi": ["Vastaus on {}.", "Vastaus: {}"],
    "hu": ["A válasz {}.", "Válasz: {}"],
    "ru": ["Ответ: {}", "Итак, ответ — {}."], "uk": ["Відповідь: {}", "Отже, відповідь — {}."],
    "bg": ["Отговорът е {}.", "Отговор: {}"], "sr": ["Одговор је {}.", "Одговор: {}"],
    "ja": ["答えは{}です。", "答え：{}", "したがって、答えは {} です。"], "ko": ["정답은 {}입니다.",
    "답: {}", "따라서 답은 {}입니다."],
    "ar": ["الجواب هو {}.", "الإجابة: {}"], "fa": ["پاسخ {} است.", "پاسخ: {}"], "ur": ["جواب {} ہے۔",
    "جواب: {}"],
    "he": ["התשובה היא {}.", "תשובה: {}"], "el": ["Η απάντηση είναι {}.", "Απάντηση: {}"],
    "hi": ["उत्तर {} है।", "उत्तर: {}"], "mr": ["उत्तर {} आहे.", "उत्तर: {}"], "ne": ["उत्तर {} हो।",
    "उत्तर: {}"],
    "th": ["คำตอบคือ {}", "คำตอบ: {}"], "bn": ["উত্তর হল {}।", "উত্তর: {}"], "ta": ["விடை {}.", "விடை: {}"],
    "ka": ["პასუხი არის {}.", "პასუხი: {}"], "hy": ["Պատասխանը {} է։", "Պատասխան: {}"],
}  # fmt: skip
DENIED = {
    "en": ["The answer is not {}.", "x is not equal to {}", "{} is not the answer.",
    "{} is the wrong answer.", "It isn't {}."],
    "zh": ["答案不是{}。", "答：不是{}。"], "fr": ["La réponse n'est pas {}."],
    "de": ["Die Antwort ist nicht {}."],
    "es": ["La respuesta no es {}."], "it": ["La risposta non è {}."], "pt": ["A resposta não é {}."],
    "nl": ["Het antwoord is niet {}."], "pl": ["Odpowiedź to nie {}."], "tr": ["Cevap {} değil."],
    "vi": ["Đáp án không phải là {}."], "id": ["Jawabannya bukan {}."], "sv": ["Svaret är inte {}."],
    "da": ["Svaret er ikke {}."], "cs": ["Odpověď není {}."], "ro": ["Răspunsul nu este {}."],
    "fi": ["Vastaus ei ole {}."],
    "hu": ["A válasz nem {}."], "ru": ["Ответ не {}."], "uk": ["Відповідь не {}."],
    "bg": ["Отговорът не е {}."],
    "ja": ["答えは{}ではありません。"], "ko": ["정답은 {}가 아닙니다."], "ar": ["الجواب ليس {}."],
    "fa": ["پاسخ {} نیست."],
    "ur": ["جواب {} نہیں ہے۔"], "he": ["התשובה אינה {}."], "el": ["Η απάντηση δεν είναι {}."],
    "hi": ["उत्तर {} नहीं है।"],
    "th": ["คำตอบไม่ใช่ {}"], "bn": ["উত্তর {} নয়।"], "ta": ["விடை {} அல்ல."], "ka": ["პასუხი არ არის {}."],
    "hy": ["Պատասխանը {} չէ։"],
}  # fmt: skip
HEDGED = [
    "The answer is {} or {}.", "The answer is either {} or {}.", "It is {}, or maybe {}.",
    "Answer: {} or {}", "A: {} or {}",
    "The answer might be {}, or it could be {}.", "So it is either {} or {}.", "答案是{}或者{}",
    "答案要么是{}，要么是{}",
    "Die Antwort ist {} oder {}.", "La réponse est {} ou {}.", "La respuesta es {} o {}.",
    "Ответ: {} или {}", "答えは{}または{}です。",
    "정답은 {} 또는 {}입니다.", "الجواب هو {} أو {}.", "उत्तर {} या {} है।", "Cevap {} veya {}.",
    "The answer is {} and {}.",
    "There are {} boys and {} girls.", "The answer is {} for the first and {} for the second.",
]  # fmt: skip
REFUSED = [
    "I do not know; see page {}.", "I don't know the answer (page {}).",
    "The number {} appears in the text, but I cannot answer.",
    "The answer depends on step {}.", "Sorry, I cannot solve problem {}.",
    "It is impossible to say whether it is {}.",
    "Ich weiß es nicht, siehe Seite {}.", "Je ne sais pas, voir page {}.", "Не знаю, см. страницу {}.",
    "我不知道，见第{}页。",
    "わかりません。{}ページを見てください。", "모르겠습니다. {}페이지를 보세요.", "无法确定，见第{}题。",
    "The answer is unknown, see [{}].",
]  # fmt: skip
NO_VALUE = [
    "The answer is foo{}bar", "The answer is open('h{}o.txt').read()",
    "It follows from Lemma{} that we are done.", "See step {}.",
    "The result is in file data_{}.csv.", "The answer can be found in table {}.",
    "By Theorem {}, the claim holds.",
    "The answer is x{}.", "See https://x.org/{}", "The answer is on page {}.", "It uses equation ({}).",
    "The answer is v{}.1.2",
    "The code is in answer{}.py.", "The answer is in section {}.", "The answer is B-{}.", "It is the {}th.",
    "根据公式{}可知结论成立。",
]  # fmt: skip
BOUNDED = [
    "The answer is at least {}.", "The answer is more than {}.", "We need fewer than {}.",
    "The answer is {} or more.",
    "Answer: at most {}", "答：至少{}个。", "答：超过{}个。", "The answer is greater than ${}$.", "x > {}",
    "The answer is $\\ge {}$.",
    "The answer is {}x.", "The answer is {} + x.", "The answer is ${} - x$.",
    "The answer is {} if she is lucky.",
]  # fmt: skip
# {} is the answer, [] another number.
LAST_DECIDES = [
    "Thus the perimeter is [].\nA: {}", "The answer is [].\nWait, I forgot a term: {}.",
    "The first part's answer is [].\nSum of both parts: {}",
    "So x = [].\nFinally, adding more gives {}.", "So the first cost is [].\nSo the total cost is {}.",
    "A: []\nA: {}",
    "Half of it is $\\boxed{[]}$ pens.\nFinal answer: The final answer is ${}$.", "\\boxed{[]}\n#### {}",
    "First we get \\boxed{[]}. So the total is \\boxed{{}}.",
    "Tom has [] pens. He loses some. Now there are {} pens.", "\\boxed{[]}\nThe final answer is {}.",
    "答案是[]。\n不对，应该再加一项，所以答案是{}。",
]  # fmt: skip
SENTENCES = [
    "The area of $ABC$ is {}.", "The largest $k$ is {}.", "Final Answer: The largest $k$ is {}.",
    "There are {} of them.", "So she has {} apples.",
    "Therefore, $x = {}$.", "Thus the total is ${}$.", "Hence $n={}$.",
    "We conclude\n\\[ x = {} \\]\nas required.", "The area is\n$$\n{}\n$$",
    "Thus the result is\n\\[\nx = {}.\n\\]", "Therefore we get:\n$$\n{}\n$$",
    "We get\n\\begin{align*}\nx &= y \\\\\n&= {}.\n\\end{align*}", "Sum: {}",
    "In total: {}", "The value of $x$ is {}.", "For $n = 987$ the sum is {}.",
    "Since $k=987$, the largest $m$ is ${}$.", "Therefore {} is the answer.",
    "因此，小明一共有{}个苹果。", "所以一共是{}个。", "小明一共有{}元。", "答：他一共有{}元。",
    "答：小明有{}岁。", "所以概率为 ${}$。",
    "So the result is {} cm.", "Total = {}",
    "So she earns ${} $ in total.", "Il y a donc {} pommes.", "Also sind es insgesamt {} Äpfel.",
    "Por lo tanto, hay {} manzanas.", "Следовательно, у неё {} яблок.",
]  # fmt: skip
BOXES = [
    "\\boxed{{}}", "So the answer is $\\boxed{{}}$.", "**\\boxed{{}}**", "\\[\\boxed{x = {}}\\]",
    "\\boxed{\\text{{}}}", "\\boxed{\\textbf{{}}}", "\\boxed{\"{}\"}",
    "\\boxed{'{}'}", "\\boxed{``{}\"}", "\\boxed{“{}”}", "\\boxed{「{}」}", "\\boxed{{} \\text{ apples}}",
    "\\boxed{{}}\n\nI hope this helps.", "Thus \\boxed{987} + y = \\boxed{{}}",
    "First $\\boxed{987}$. Hence the total is $\\boxed{{}}$.", "\\fbox{{}}", "答案是\\boxed{{}}。",
    "The final answer is $\\boxed{{}}$. This answers question 5.",
]  # fmt: skip
JOINS = [
    " \\quad \\text{and} \\quad ", "\\qquad", " & ", " for the first and ", "$ and $", "\\text{ or }", "; ",
    " / ", " \\\\ ", "\n", "\n\n", " as well as ", ", y=",
    " \\text{ and also } ", " then ", ", ", " or else ", " \\hspace{1cm} ", " \\lor ", " 或 ", " 和 ",
    " vs. ",
    ", or maybe ", ". Alternatively, it might be ",
]  # fmt: skip
AND_JOINS = [
    " \\quad \\text{and} \\quad ",
    "\\qquad",
    ", \\quad ",
    "$ and $",
    " and ",
    ", ",
    " 和 ",
    "\\text{ and }",
]
MARKS = ["**{}**", "*{}*", "`{}`", "__{}__", "***{}***", "<b>{}</b>", "<strong>{}</strong>", "${}$",
"**${}$**", "“{}”", "\"{}\"", "「{}」", "\\({}\\)", "{}", "{}", "{}", "_{}_"]  # fmt: skip
ENDS = ["", "", "", "\n\nI hope this helps!", " I hope it is correct.", "\nDone.", "<|endoftext|>",
"<|im_end|>\n", "</s>", "\n\nThank you!", "\nNote: all units are the same."]  # fmt: skip
REASONS = [
    "", "", "<think>maybe \\boxed{987} or so</think>", "We add <<900+87=987>>987 first.\n",
    "Anna or Bob takes 987 of them.\n", "Step 1: we have 987.\nStep 2: subtract.\n",
    "First, $987 - 3 = 984$.\n", "因为一开始有987个，\n",
    "Let $x = 987$ be the number at first. Then we go on.\n\n",
]  # fmt: skip


def _number(draw: random.Random) -> str:
    """A number from 0 to 900, written without signs or units, never 987."""
    return str(draw.choice([draw.randint(2, 9), draw.randint(10, 99), draw.randint(100, 900)]))


def _form(draw: random.Random, number: str) -> tuple[str, str]:
    """A gold answer with this number in it, and how a response may write it."""
    forms: list[tuple[str, str]] = [
        (number, number), (number, number), (f"-{number}", f"-{number}"), (f"{number}.5", f"{number}.5"),
        (f"{number}.0", number),
        (f"{number}000", f"{number},000"), (f"\\frac{{{number}}}{{7}}", f"\\frac{{{number}}}{{7}}"),
        (f"{number}/11", f"{number}/11"),
        (f"{number}\\%", f"{number}%"), (f"\\sqrt{{{number}}}", f"\\sqrt{{{number}}}"),
    ]  # fmt: skip
    return draw.choice(forms)


def _other(draw: random.Random, number: str) -> str:
    """Another number: the next, one with a digit more, or one with its digits turned round."""
    others = [str(int(number) + 1), str(int(number) - 1), number + "1", "1" + number, number[::-1]]
    return draw.choice([other for other in others if int(other) != int(number)])


def _fill(frame: str, value: str, other: str = "987") -> str:
    return frame.replace("[]", other).replace("{}", value)


def _stated(draw: random.Random) -> Case:
    """A stated answer, right or another value, in any language, form and dress."""
    language = draw.choice(list(STATED))
    number = _number(draw)
    gold, written = _form(draw, number)
    right = draw.random() < 0.75
    if not right:
        written = written.replace(number, _other(draw, number), 1)
    mark = draw.choice(MARKS) if "\\" not in written else draw.choice(["${}$", "\\({}\\)", "**${}$**"])
    response = (
        draw.choice(REASONS) + _fill(draw.choice(STATED[language]), _fill(mark, written)) + draw.choice(ENDS)
    )
    return Case(f"stated in {language}", gold, response, right)


def _from(kind: str, frames: list[str], right: bool, plain: bool = False) -> Callable[[random.Random], Case]:
    def make(draw: random.Random) -> Case:
        number = _number(draw)
        is_right = right and draw.random() < 0.75
        written = number if is_right or not right else _other(draw, number)
        text = _fill(draw.choice(frames), written, _other(draw, written))
        reason = "" if plain else draw.choice(REASONS)
        return Case(kind, number, reason + text, is_right)

    return make


def _last_decides(draw: random.Random) -> Case:
    """The last line answers; the number that an earlier line states is wrong."""
    first = _number(draw)
    last = _other(draw, first)
    right = draw.random() < 0.5
    return Case(
        "last line decides", last if right else first, _fill(draw.choice(LAST_DECIDES), last, first), right
    )


def _hedged(draw: random.Random) -> Case:
    one = _number(draw)
    other = _other(draw, one)
    response = draw.choice(HEDGED).replace("{}", one, 1).replace("{}", other, 1)
    return Case("hedged", draw.choice([one, other]), response, False)


def _denied(draw: random.Random) -> Case:
    language = draw.choice(list(DENIED))
    number = _number(draw)
    return Case(f"denied in {language}", number, _fill(draw.choice(DENIED[language]), number), False)


def _boxes_side_by_side(draw: random.Random) -> Case:
    one = _number(draw)
    other = _other(draw, one)
    response = f"$\\boxed{{{one}}}{draw.choice(JOINS)}\\boxed{{{other}}}$"
    return Case("boxes side by side", draw.choice([one, other]), response, False)


def _list_of_boxes(draw: random.Random) -> Case:
    one = _number(draw)
    other = _other(draw, one)
    response = f"$\\boxed{{{one}}}{draw.choice(AND_JOINS)}\\boxed{{{other}}}$"
    right = draw.random() < 0.5
    second = other if right else str(int(other) + 1000)
    gold = draw.choice(
        [f"{one}, {second}", f"\\{{{second},{one}\\}}", f"\\boxed{{{second}}} and \\boxed{{{one}}}"]
    )
    return Case("list of boxes", gold, response, right)


def _letter(draw: random.Random) -> Case:
    frames = [
        "\\boxed{Option {}}", "\\boxed{\\text{Option {}}}", "\\boxed{\\text{Choice ({})}}",
        "\\boxed{\\text{Answer: {}}}", "\\boxed{\\text{The answer is {}}}",
        "\\boxed{\\textrm{{}}}", "\\boxed{\\textsf{{}}}", "{} is the best answer.",
        "Among A, B, C and D, I pick {}.", "The answer is **{}**.", "A: {}", "答案：{}",
        "\\boxed{\\textbf{({})}\\ 12}", "I would go with {}.", "The correct answer is option {}.", "选{}。",
        "({})", "**{}**", "Final answer: ({})",
    ]  # fmt: skip
    misses = ["\\boxed{{}, E}", "{} or E", "The answer is not {}.", "\\boxed{\\text{E: {}-type enzymes}}",
    "\\boxed{{}E}", "{} is not the best answer.", "\\boxed{\\text{{} or E}}"]  # fmt: skip
    letter = draw.choice("BCD")
    if draw.random() < 0.4:
        return Case("letters", letter, _fill(draw.choice(misses), letter), False)
    gold = draw.choice("BCD")
    return Case("letters", gold, _fill(draw.choice(frames), letter), gold == letter)


KINDS: list[Callable[[random.Random], Case]] = [
    _stated, _stated, _stated, _stated, _stated, _last_decides, _hedged, _denied, _boxes_side_by_side,
    _list_of_boxes, _letter,
    _from("sentence", SENTENCES, True), _from("sentence", SENTENCES, True), _from("sentence", SENTENCES,
    True), _from("box", BOXES, True), _from("box", BOXES, True),
    _from("refused", REFUSED, False), _from("no value", NO_VALUE, False, plain=True), _from("bounded",
    BOUNDED, False),
]  # fmt: skip


def generate(count: int, seed: int) -> list[Case]:
    """``count`` cases, equal ones for equal seeds."""
    draw = random.Random(seed)
    return [draw.choice(KINDS)(draw) for _ in range(count)]
