"""The words that choose an answer, in the languages that ``r1kit.language`` knows.

Answer words and what links them to a value, conclusions, doubt, negation, bounds, references, refusals.
Every list is one regular expression; none of them knows what an answer means."""

import re

LATIN = "A-Za-zÀ-ɏḀ-ỿ"
GLUED = f"{LATIN}Ͱ-ԯԱ-֏"  # letters of scripts that put spaces between words and numbers

ANSWER_WORDS = (
    r"\b(?:answer|result|solution)s?\b|\bans\b"
    # fr, de, es, it, pt, nl
    r"|\b(?:r[ée]ponses?|r[ée]sultats?|antwort(?:en)?|ergebnis|l[öo]sung|endergebnis|respuestas?|resultados?"
    r"|soluci[óo]n|risposta|risultato|soluzione|respostas?|solu[çc][ãa]o|antwoord|resultaat|uitkomst)\b"
    # pl, tr, vi, id, sv and da, cs, ro, fi, hu
    r"|\b(?:odpowied[źz]|wynik|cevap|cevab[ıi]|yan[ıi]t[ıi]?|sonu[çc]u?|đáp án|đáp số|câu trả lời|kết quả"
    r"|jawaban(?:nya)?|hasil(?:nya)?|svar(?:et)?|resultatet|odpověď|výsledek|r[ăa]spuns(?:ul)?"
    r"|rezultat(?:ul)?"
    r"|vastaus|tulos|v[áa]lasz|eredm[ée]ny|megold[áa]s)\b"
    # ru, uk, bg, sr, el, hy, ka
    r"|\b(?:ответ(?:ом)?|результат|відповідь|отговор(?:ът)?|одговор|απάντηση|αποτέλεσμα|պատասխան[ըն]?"
    r"|პასუხი[ა]?)\b"
    # ja, ko, th, ar, fa, ur, he, hi, mr, ne, bn, ta, zh
    r"|答え|解答|正解|정답|답|결과|คำตอบ|الجواب|الإجابة|الاجابة|جواب|پاسخ|תשובה|उत्तर|উত্তর|விடை|பதில்"
    r"|答案|结果|答(?!应|复|题|谢)"
)
_LINK = (
    r"is|are|was|were|equals?|would be|must be|should be|will be|comes (?:out )?to(?: be)?|becomes|est"
    r"|sont|vaut|ist"
    r"|sind|beträgt|lautet|es|son|è|sono|é|são|zijn|bedraagt|jest|wynosi|là|adalah|ialah|är|er|je|este"
    r"|равен|равно|равна|составляет|дорівнює|е|је|είναι|է|არის|هو|هي|היא|הוא|คือ|は|は、|은|는|हे|हो|हल"
    r"|হল|হলো"
    r"|应该是|应为|等于|是|为"
)
ANSWER_IS = re.compile(
    rf"(?:{ANSWER_WORDS})\s*(?:(?:{_LINK})(?![{LATIN}])\s*[:：=]?|[:：=]|[—–-](?=\s))\s*"
    r"|\b(?:odpowied[źz]|wynik)\s+to\s+|\b(?:vastaus|tulos)\s+on\s+"
    r"|\b(?:answer|result|solution)s?\b(?:\$[^$\n]{0,80}\$|[^.\n:!?$]){0,80}?(?:\b(?:is|are|equals)\b|=)\s*",
    re.IGNORECASE,
)
ANSWER = re.compile(ANSWER_WORDS, re.IGNORECASE)
LABEL = re.compile(
    r"\s*[(\[]?\s*(?:####\s*[:：]?|#{0,6}\s*"
    r"(?:(?:so|thus|hence|therefore|因此|所以|故|综上)\s*[,，]?\s*)?"
    r"(?:(?:the|my|our|la|le|die|das|el|il|lo|a|o|het|den|最终|最后|正确)\s*)?"
    r"(?:(?:final|correct|short|numeric(?:al)?|finale?|endgültige|definitiva|окончательный|最终)\s+)?"
    rf"(?:{ANSWER_WORDS}|\bA)(?:\s+(?:final|finale|definitiva))?\s*"
    rf"(?:\([^()\n]{{0,30}}\)\s*)?(?:(?:{_LINK})\s*)?(?:=>|->|→|[:：=】]+))\s*",
    re.IGNORECASE,
)
BARE_LABEL = re.compile(
    rf"\s*#{{0,6}}\s*(?:(?:the|my|our|最终|最后)\s*)?(?:final\s+)?(?:{ANSWER_WORDS})\s*[.:：]?\s*",
    re.IGNORECASE,
)
LINKS = re.compile(
    r"\b(?:is|are|was|were|equals?|be|makes|gives|get|gets|becomes|ist|sind|beträgt|est|sont|es|son|è|é|is)\b"
    r"|=|[是为]|等于|:\s|：",
    re.IGNORECASE,
)
CONCLUDES = re.compile(
    r"\b(?:therefore|thus|hence|so|finally|consequently|it follows|we conclude|giving|gives|implies|yields"
    r"|means|total|altogether|donc|ainsi|daher|somit|folglich|por lo tanto|entonces|quindi|dunque"
    r"|portanto|logo|dus|więc|zatem|böylece|vậy|do đó|jadi|alltså|altså|tedy|deci|siis|tehát|итак|значит"
    r"|следовательно|отже|следователно|dakle|дакле|άρα|ուստի|ամიტომ)\b"
    r"|таким образом|したがって|よって|따라서|그러므로|إذن|لذلك|بنابراین|لہذا|לכן|इसलिए|म्हणून|त्यसैले"
    r"|ดังนั้น"
    r"|তাই|সুতরাং|எனவே|ამიტომ|因此|所以|故|综上|于是|从而|总共|\\(?:Rightarrow|implies|therefore)|=>|⇒|→",
    re.IGNORECASE,
)
OR = re.compile(
    r"\b(?:or|either|unless|otherwise|else|ou|oder|lub|albo|veya|ya da|hoặc|atau|eller|nebo|sau|tai|vagy"
    r"|или|або|или|ή|կամ|vs|versus)\b|(?<=\d)\s+(?:o|of)\s+(?=[\d$])|または|もしくは|あるいは|또는|혹은"
    r"|أو|یا|או"
    r"|या|किंवा|หรือ|বা|অথবা|அல்லது|ან|或者?|要么|\\(?:lor|vee)",
    re.IGNORECASE,
)
DOUBT = re.compile(
    r"\b(?:maybe|perhaps|possibly|alternatively|might|could be|either|peut-être|vielleicht|quizás|forse"
    r"|talvez"
    r"|misschien|может быть|возможно)\b|也许|可能|要么|かもしれ|아마|ربما|शायद",
    re.IGNORECASE,
)
NEGATED_BEFORE = re.compile(
    r"(?:(?<!than )(?<!or )\bnot|n't|\bcannot|\bnever|\bno longer|\bisnt|\bnicht|\bkeine?|\bpas|\bno es"
    r"|\bno son"
    r"|\bnon è|\bnão é|\bniet"
    r"|\bgeen|\bnie(?: jest)?|\bkhông phải(?: là)?|\bkhông|\bbukan|\binte|\bikke|\bnení|\bne|\bnu este"
    r"|\bei ole"
    r"|\bnem|\bне|\bније|\bδεν είναι|\bδεν|ليست?|אינה|אינו|\bלא|ไม่ใช่|არ არის|\bոչ|不是|不等于|并非|≠"
    r"|\\ne(?:q)?(?![a-z]))\s*(?:equal(?: to)?|be|the|simply|just|е|је)?\W*$",
    re.IGNORECASE,
)
NEGATED_AFTER = re.compile(
    r"[^\d.。!?]{0,12}(?:\b(?:is|are|was) (?:(?:the|a|an) )?(?:not|almost|nearly|close to|n't|never|wrong"
    r"|incorrect|false|too"
    r"|excluded|impossible|opposite)\b"
    r"|\b(?:isn't|aren't|doesn't|does not|cannot be|can't be|değil|appears?|occurs?|is mentioned)"
    r"|ではな|ではあ|じゃな|でない|아닙|아니|이 아|نیست|نہیں|नहीं|नाही|होइन|নয়|அல்ல|இல்லை|չէ|不对|是错"
    r"|不是)",
    re.IGNORECASE,
)
BOUND_BEFORE = re.compile(
    r"(?:at least|at most|more than|less than|fewer than|greater than|larger than|smaller than|no more than"
    r"|no less than|up to|exceeds?|exceeding|beyond|(?:is|are|was|be) (?:over|under|above|below)|mindestens"
    r"|höchstens|mehr als|weniger als|au moins|au plus|plus de|moins de"
    r"|al menos|como máximo|más de|menos de|almeno|al massimo|più di|meno di|pelo menos|no máximo|mais de"
    r"|minstens|hoogstens|meer dan|minder dan|не менее|не более|больше|меньше|少なくとも|最大で|최소|최대"
    r"|至少|至多|最多|最少|超过|大于|小于|不超过|不少于|多于|少于|\b(?:[<>]|≤|≥|≈|approximately)\s*)\W*$",
    re.IGNORECASE,
)
BOUND_AFTER = re.compile(
    r"\W*(?:\bor (?:more|less|fewer|greater|so)\b|at (?:least|most)\b|oder mehr\b|ou plus\b|o más\b"
    r"|以上|以下|以内|이상|이하)",
    re.IGNORECASE,
)
REFERENCE_BEFORE = re.compile(
    r"(?:\b(?:steps?|pages?|pp?\.|lemmas?|theorems?|thm\.?|sections?|sec\.|chapters?|figures?|fig\.|tables?"
    r"|equations?|eqs?\.|parts?|cases?|problems?|questions?|exercises?|examples?|lines?|items?|no\.|refs?\.?"
    r"|references?|versions?|methods?|rules?|appendix|footnotes?|paragraphs?|corollary|propositions?"
    r"|definitions?|axioms?|claims?|remarks?|hints?|attempts?|formulas?|algorithms?|task|quiz|model"
    r"|schritt|seite|gleichung|aufgabe|satz|teil|étape|équation|exercice|paso|página|ecuación|ejercicio"
    r"|passo|pagina|equazione|equação|exercício|stap|vraag|krok|strona|adım|sayfa|bước|trang|langkah|halaman"
    r"|steg|sida|trin|side|strana|pasul|vaihe|sivu|lépés|oldal|шаг|шага|шаге|страниц[аеыу]|стр\.|крок"
    r"|сторінк[аиі]|стъпка|корак|βήμα|σελίδα|քայլ|էջ|ნაბიჯი|გვერდი)|ステップ|手順|단계|ขั้นตอนที่|หน้า"
    r"|الخطوة|صفحة"
    r"|صفحه|گام|مرحله|קدم|שלב|עמוד|चरण|पृष्ठ|ধাপ|পৃষ্ঠা|படி|பக்கம்|步骤|引理|定理|公式|习题|例题?|图|表|方法"
    r"|见第|[#№]|\bsee|\bcf\.|\brefer to)\s*[($\[]*$",
    re.IGNORECASE,
)
REFERENCE_AFTER = re.compile(r"\s*(?:ページ|番目|페이지|단계|번째)")
CONDITION_BEFORE = re.compile(
    r"(?:\b(?:since|because|if|given|assuming|where|when|whenever|unless|provided(?: that)?|weil|wenn"
    r"|da|falls"
    r"|car|si|parce que|porque|cuando|perché|quando|omdat|als|если|так как)|因为|由于|如果|当|若)\s*[($]*$",
    re.IGNORECASE,
)
CONDITION_OF_FORMULA = re.compile(
    r"\b(?:for|for all|for any|for every|for each|with|from|as|by|pour|für)\s*$", re.I
)
CONDITION_AFTER = re.compile(
    r"\W{0,4}(?:only )?\b(?:if|unless|otherwise|assuming|provided)\b|如果", re.IGNORECASE
)
# A clause that only supposes or introduces: "If it were 5, ...", "After 3 hours, ..."
HYPOTHESIS = re.compile(
    r"\W*(?:(?:if|suppose|supposing|assume|assuming|imagine|wenn|falls|si|se|als|если|якщо)\b[^,;，；]*?"
    r"(?:[,;，；]|\bthen\b|\bdann\b|\bentonces\b|\balors\b|[.!?。]*$)|(?:如果|若|假设"
    r"|假如)[^，,。；;]*(?:[，,；;]|[。.]*$))",
    re.IGNORECASE,
)
INTRODUCTION = re.compile(
    r"\W*(?:after|in|of|out of|for|from|during|within|with|at|by|on|per|over|since|as|given|when|because"
    r"|with)\b"
    r"[^,:;]*,\s",
    re.IGNORECASE,
)
REFUSES = re.compile(
    r"\b(?:(?:do|does|did|can|could|would|ca)(?:\s*not|n[o'’]?t)\s+(?:\w+\s+){0,2}?(?:know|answer"
    r"|determine|solve"
    r"|tell|say|find|compute|calculate|decide|give|conclude|help|provide)|cannot\s+(?:\w+\s+){0,2}?(?:answer"
    r"|determine|solve|say|find|compute|be\s+(?:answered|determined|solved|found|computed|known))"
    r"|none (?:of (?:them|these|those) )?work(?:s|ed)?|unable to|not sure|unsure|no idea|no clue"
    r"|not enough information|insufficient|impossible to"
    r"|depends? on|unknown|i give up|no answer|i refuse|je ne sais pas|ich weiß (?:es )?nicht"
    r"|weiß ich nicht|kann ich nicht|no (?:lo )?sé|no puedo|non (?:lo )?so|non posso|não sei|não posso"
    r"|weet (?:ik )?(?:het )?niet|nie wiem|bilmiyorum|không biết|tidak tahu|vet inte|ved (?:det )?ikke|nevím"
    r"|nu știu|en tiedä|nem tudom|не знаю|не могу|не можу|не знам|δεν (?:ξέρω|γνωρίζω)|չգիտեմ|არ ვიცი)"
    r"|わかりません|分かりません|わからない|分からない|모르|모릅|لا أعرف|لا أعلم|نمی‌?دانم|نہیں معلوم"
    r"|معلوم نہیں"
    r"|לא יודע|नहीं पता|पता नहीं|नहीं जानता|माहित नाही|थाहा छैन|ไม่รู้|ไม่ทราบ|জানি না|தெரியாது|தெரியவில்லை"
    r"|不知道|我不会|无法|不确定|不会做|不清楚|无从|不能(?:回答|确定|解答)",
    re.IGNORECASE,
)
RETRACTS = re.compile(
    r"\b(?:that|this|which|it)(?:'s| is| was) (?:wrong|incorrect|not (?:right|correct|true)|a mistake"
    r"|false)\b"
    r"|\bscratch that\b|\bignore (?:that|this)\b|\bi (?:made|was) (?:a mistake|wrong)\b|这是错|答错|算错",
    re.IGNORECASE,
)
CLOSING = re.compile(
    r"\W*(?:(?:i )?hope (?:it|this|that) .*|as (?:required|desired|requested|needed|claimed|wanted|expected)"
    r"|q\.?\s?e\.?\s?d|\\(?:black)?square|\\qed|done|(?:and |so )?we are done|we're done|that's it"
    r"|that is it|thanks?.*"
    r"|thank you.*|let me know.*|feel free.*|this (?:completes|concludes) .*|good luck.*|end|证毕|希望.*"
    r"|完毕)\W*",
    re.IGNORECASE,
)
NOTE = re.compile(
    r"\W*(?:note|notes|check|checking|verification|verify|explanation|remark|confidence"
    r"|source|reference|see also|sanity check|to check|验证|检验|验算|注|备注|说明|解释)\b\s*[:：,，]?"
    r"|\W*(?:验证|检验|验算|注|备注|说明|解释)\s*[:：]",
    re.IGNORECASE,
)
