"""Variants of every kind of answer, written to attack the rules: by kind, the gold answer, responses that are
right, and near misses.

What a response of the second list gets is anything but correct."""

VARIANTS: dict[str, list[tuple[str, list[str], list[str]]]] = {
    'large numbers': [
        ('\\frac{1}{1200!}',
         [
            '\\boxed{\\frac{1201}{1201!}}', '\\boxed{(1200!)^{-1}}',
         ],
         [
            '\\boxed{\\frac{1}{1201!}}', '\\boxed{\\frac{2}{1200!}}', '\\boxed{0}',
            '\\boxed{\\frac{1}{1199!}}',
         ]),
        ('3^{-4000}',
         [
            '\\boxed{\\frac{1}{9^{2000}}}', '\\boxed{\\frac{1}{3^{4000}}}',
            '\\boxed{\\left(\\frac13\\right)^{4000}}',
         ],
         [
            '\\boxed{3^{-4001}}', '\\boxed{3^{-3999}}', '\\boxed{0}',
         ]),
        ('1-\\frac{1}{5^{1800}}',
         [
            '\\boxed{\\frac{5^{1800}-1}{5^{1800}}}', '\\boxed{1-5^{-1800}}', '\\boxed{1-25^{-900}}',
         ],
         [
            '\\boxed{1-\\frac{1}{5^{1801}}}', '\\boxed{1}', '\\boxed{1+\\frac{1}{5^{1800}}}',
         ]),
        ('\\left(\\frac{2}{3}\\right)^{2024}',
         [
            '\\boxed{\\frac{2^{2024}}{3^{2024}}}', '\\boxed{\\frac{4^{1012}}{9^{1012}}}',
         ],
         [
            '\\boxed{\\left(\\frac{2}{3}\\right)^{2025}}', '\\boxed{\\frac{2^{2024}}{3^{2025}}}',
            '\\boxed{0}',
         ]),
        ('e^{-2000}',
         [
            '\\boxed{\\frac{1}{e^{2000}}}', '\\boxed{(e^{-1000})^2}', '\\boxed{\\exp(-2000)}',
         ],
         [
            '\\boxed{e^{-2001}}', '\\boxed{0}', '\\boxed{e^{2000}}',
         ]),
        ('\\frac{2^{3000}+1}{3}',
         [
            '\\boxed{\\frac{4^{1500}+1}{3}}',
         ],
         [
            '\\boxed{\\frac{2^{3000}-1}{3}}', '\\boxed{\\frac{2^{3000}}{3}}',
            '\\boxed{\\frac{2^{3000}+2}{3}}',
         ]),
        ('2024!-1',
         [
            '\\boxed{-1+2024!}', '\\boxed{2024\\cdot 2023!-1}',
         ],
         [
            '\\boxed{2024!}', '\\boxed{2024!+1}', '\\boxed{2023!-1}',
         ]),
        ('\\binom{3000}{1500}',
         [
            '\\boxed{\\frac{3000!}{1500!\\cdot1500!}}', '\\boxed{\\frac{3000!}{(1500!)^2}}',
            '\\boxed{2\\binom{2999}{1499}}',
         ],
         [
            '\\boxed{\\binom{3000}{1499}}', '\\boxed{\\binom{3001}{1500}}',
            '\\boxed{\\binom{2999}{1500}}',
         ]),
        ('\\sqrt{10^{800}+1}',
         [
            '\\boxed{\\sqrt{1+10^{800}}}',
         ],
         [
            '\\boxed{10^{400}}', '\\boxed{\\sqrt{10^{800}-1}}',
         ]),
        ('0.99^{2000}',
         [
            '\\boxed{\\left(\\frac{99}{100}\\right)^{2000}}',
         ],
         [
            '\\boxed{0.99^{2001}}', '\\boxed{0.98^{2000}}',
         ]),
        ('10^{100}',
         [
            ('\\boxed{1000000000000000000000000000000000000000000000000000000000000000000000000'
         '0000000000000000000000000000}'),
            '\\boxed{100^{50}}',
         ],
         [
            '\\boxed{10^{101}}',
            ('\\boxed{1000000000000000000000000000000000000000000000000000000000000000000000000'
         '000000000000000000000000000}'),
            '\\boxed{10^{100}+1}',
         ]),
        ('123456789012345678901234567890',
         [
            '\\boxed{123456789012345678901234567890}',
            '\\boxed{123,456,789,012,345,678,901,234,567,890}',
         ],
         [
            '\\boxed{123456789012345678901234567891}', '\\boxed{1.2345678901234568 \\times 10^{29}}',
         ]),
        ('\\pi\\cdot 10^{-700}',
         [
            '\\boxed{\\frac{\\pi}{10^{700}}}',
         ],
         [
            '\\boxed{\\frac{\\pi}{10^{699}}}', '\\boxed{0}',
         ]),
        ('7^{7^7}',
         [
            '\\boxed{7^{823543}}',
         ],
         [
            '\\boxed{7^{49}}', '\\boxed{7^{823542}}',
         ]),
        ('\\ln(2^{5000})',
         [
            '\\boxed{5000\\ln 2}',
         ],
         [
            '\\boxed{5001\\ln 2}', '\\boxed{5000}',
         ]),
        ('\\log_2(3^{1000})',
         [
            '\\boxed{1000\\log_2 3}',
         ],
         [
            '\\boxed{1000\\log_3 2}', '\\boxed{999\\log_2 3}',
         ]),
    ],
    'pieces': [
        ('|x-37|',
         [
            '\\boxed{|37-x|}', '\\boxed{\\sqrt{(x-37)^2}}', '\\boxed{\\max(x-37,37-x)}',
         ],
         [
            '\\boxed{37-x}', '\\boxed{x-37}', '\\boxed{|x+37|}', '\\boxed{|x|-37}',
         ]),
        ('|2y+90|',
         [
            '\\boxed{2|y+45|}', '\\boxed{|-2y-90|}',
         ],
         [
            '\\boxed{2y+90}', '\\boxed{2|y|+90}',
         ]),
        ('\\sqrt{t^2-40t+400}',
         [
            '\\boxed{|t-20|}', '\\boxed{|20-t|}',
         ],
         [
            '\\boxed{20-t}', '\\boxed{t-20}',
         ]),
        ('\\lfloor n/250 \\rfloor',
         [
            '\\boxed{\\left\\lfloor \\frac{n}{250}\\right\\rfloor}',
         ],
         [
            '\\boxed{\\lfloor n/251 \\rfloor}', '\\boxed{0}', '\\boxed{\\lceil n/250\\rceil}',
            '\\boxed{\\frac{n}{250}}',
         ]),
        ('\\max(x, 60)',
         [
            '\\boxed{\\frac{x+60+|x-60|}{2}}',
         ],
         [
            '\\boxed{60}', '\\boxed{x}', '\\boxed{\\min(x,60)}',
         ]),
        ('|x-10|+|x+10|',
         [
            '\\boxed{|x+10|+|10-x|}',
         ],
         [
            '\\boxed{20}', '\\boxed{2x}', '\\boxed{2|x|}',
         ]),
        ('|x^2-400|',
         [
            '\\boxed{|400-x^2|}', '\\boxed{|x-20||x+20|}',
         ],
         [
            '\\boxed{400-x^2}', '\\boxed{x^2-400}',
         ]),
        ('\\sqrt[4]{(x-30)^4}',
         [
            '\\boxed{|x-30|}',
         ],
         [
            '\\boxed{30-x}',
         ]),
        ('\\ln|x-9|',
         [
            '\\boxed{\\ln|9-x|}',
         ],
         []),
        ('\\frac{|x-15|}{x-15}',
         [
            '\\boxed{\\frac{x-15}{|x-15|}}',
         ],
         [
            '\\boxed{-1}', '\\boxed{1}',
         ]),
    ],
    'real domain': [
        ('\\sqrt{\\frac{2}{k}}',
         [
            '\\boxed{\\frac{\\sqrt2}{\\sqrt k}}', '\\boxed{\\frac{\\sqrt{2k}}{k}}',
         ],
         [
            '\\boxed{\\frac{\\sqrt{2}}{k}}', '\\boxed{\\sqrt{2k}}',
         ]),
        ('b^{5/2}',
         [
            '\\boxed{\\sqrt{b^5}}', '\\boxed{b^2\\sqrt b}',
         ],
         [
            '\\boxed{b^{2/5}}', '\\boxed{b^3}', '\\boxed{\\sqrt{b^3}}',
         ]),
        ('\\sqrt{x}\\sqrt{y}',
         [
            '\\boxed{\\sqrt{xy}}',
         ],
         [
            '\\boxed{\\sqrt{x+y}}', '\\boxed{xy}',
         ]),
        ('\\ln x^3',
         [
            '\\boxed{3\\ln x}',
         ],
         [
            '\\boxed{\\ln 3x}', '\\boxed{(\\ln x)^3}',
         ]),
        ('\\ln(ab)',
         [
            '\\boxed{\\ln a+\\ln b}',
         ],
         [
            '\\boxed{\\ln a\\ln b}', '\\boxed{\\ln(a+b)}',
         ]),
        ('\\sqrt[3]{a^6}',
         [
            '\\boxed{a^2}',
         ],
         [
            '\\boxed{a^3}',
         ]),
        ('\\sqrt{r}-2',
         [],
         [
            '\\boxed{\\sqrt r+2}', '\\boxed{\\sqrt{r-2}}', '\\boxed{2-\\sqrt r}',
         ]),
        ('\\sqrt{4-x}',
         [],
         [
            '\\boxed{\\sqrt{x-4}}', '\\boxed{2-x}',
         ]),
        ('x^{2/3}',
         [
            '\\boxed{\\sqrt[3]{x^2}}', '\\boxed{(\\sqrt[3]{x})^2}',
         ],
         [
            '\\boxed{x^{3/2}}', '\\boxed{\\sqrt{x^3}}',
         ]),
        ('\\frac{1}{\\sqrt{x}+1}',
         [
            '\\boxed{\\frac{\\sqrt x-1}{x-1}}',
         ],
         [
            '\\boxed{\\frac{1}{\\sqrt x-1}}', '\\boxed{\\frac{\\sqrt x+1}{x-1}}',
         ]),
    ],
    'upright letters': [
        ('\\frac{\\mathrm{e}^2-1}{\\mathrm{e}}',
         [
            '\\boxed{e-\\frac1e}', '\\boxed{\\frac{e^2-1}{e}}',
            '\\boxed{\\mathrm{e}-\\mathrm{e}^{-1}}',
         ],
         [
            '\\boxed{e+\\frac1e}', '\\boxed{\\frac{e^2+1}{e}}',
         ]),
        ('3\\operatorname{e}^{\\mathrm{i}\\pi/4}',
         [
            '\\boxed{3e^{i\\pi/4}}',
         ],
         [
            '\\boxed{3e^{-i\\pi/4}}', '\\boxed{3e^{i\\pi/3}}',
         ]),
        ('4-\\mathrm{i}',
         [
            '\\boxed{4-i}', '\\boxed{4-\\text{i}}', '\\boxed{-i+4}',
         ],
         [
            '\\boxed{4+i}', '\\boxed{4-\\mathrm{e}}',
         ]),
        ('2\\mathrm{\\pi}',
         [
            '\\boxed{2\\pi}',
         ],
         [
            '\\boxed{\\pi}',
         ]),
        ('2\\uppi',
         [
            '\\boxed{2\\pi}',
         ],
         [
            '\\boxed{3\\pi}',
         ]),
        ('\\mathrm{e}',
         [
            '\\boxed{e}', '\\boxed{\\text{e}}', '\\boxed{\\operatorname{e}}',
         ],
         [
            '\\boxed{2.718}', '\\boxed{2.71828}', '\\boxed{i}',
         ]),
        ('5\\mathrm{x}+1',
         [
            '\\boxed{5x+1}',
         ],
         [
            '\\boxed{5x}', '\\boxed{6}',
         ]),
        ('\\mathbf{e}^{3}',
         [
            '\\boxed{e^3}',
         ],
         [
            '\\boxed{e^2}',
         ]),
        ('\\textrm{e}^{-2}',
         [
            '\\boxed{e^{-2}}', '\\boxed{\\frac{1}{e^2}}',
         ],
         [
            '\\boxed{e^2}',
         ]),
        ('\\exp(2)',
         [
            '\\boxed{e^2}', '\\boxed{\\mathrm{e}^2}',
         ],
         [
            '\\boxed{2e}',
         ]),
    ],
    'emphasis': [
        ('64',
         [
            'So the number of pages is **64**.', '**Answer: 64**', 'The answer is **64 pages**.',
            'Therefore, the total is ***64***.', 'The answer is **$64$**.',
            'The answer is $\\mathbf{64}$.', 'The answer is **64**', 'Thus, the final result is `64`.',
            'The answer is <strong>64</strong>.', '**The answer is: 64.**',
            'The answer: **64** pages.', '__Final answer:__ 64', 'So $x$ = **64**.', '> **64**',
            '> The answer is **64**.', '## Answer\n**64**', '**Final Answer**\n\n**64**',
            'The answer is \\textbf{64}.', 'The answer is $\\textbf{64}$.',
            'The answer is **\\(64\\)**.', '*Answer*: 64', 'Answer — **64**', '**Answer** — 64',
            'The answer is: **64**',
         ],
         [
            'So the number of pages is **65**.', '**Answer: 65**', 'The answer is **65 pages**.',
            'The answer is **not 64**.', 'The answer is **64** or **65**.',
            'The answer is not **64**.', 'The answer is <strong>65</strong>.', '## Answer\n**65**',
            '**64** is wrong.', 'The answer is **at least 64**.',
         ]),
        ('1250',
         [
            'So the number of pages is **1250**.', '**Answer: 1250**', 'The answer is **1250 pages**.',
            'Therefore, the total is ***1250***.', 'The answer is **$1250$**.',
            'The answer is $\\mathbf{1250}$.', 'The answer is **1250**',
            'Thus, the final result is `1250`.', 'The answer is <strong>1250</strong>.',
            '**The answer is: 1250.**', 'The answer: **1250** pages.', '__Final answer:__ 1250',
            'So $x$ = **1250**.', '> **1250**', '> The answer is **1250**.', '## Answer\n**1250**',
            '**Final Answer**\n\n**1250**', 'The answer is \\textbf{1250}.',
            'The answer is $\\textbf{1250}$.', 'The answer is **\\(1250\\)**.', '*Answer*: 1250',
            'Answer — **1250**', '**Answer** — 1250', 'The answer is: **1250**',
         ],
         [
            'So the number of pages is **1251**.', '**Answer: 1251**', 'The answer is **1251 pages**.',
            'The answer is **not 1250**.', 'The answer is **1250** or **1251**.',
            'The answer is not **1250**.', 'The answer is <strong>1251</strong>.',
            '## Answer\n**1251**', '**1250** is wrong.', 'The answer is **at least 1250**.',
         ]),
        ('-3',
         [
            'So the number of pages is **-3**.', '**Answer: -3**', 'The answer is **-3 pages**.',
            'Therefore, the total is ***-3***.', 'The answer is **$-3$**.',
            'The answer is $\\mathbf{-3}$.', 'The answer is **-3**', 'Thus, the final result is `-3`.',
            'The answer is <strong>-3</strong>.', '**The answer is: -3.**',
            'The answer: **-3** pages.', '__Final answer:__ -3', 'So $x$ = **-3**.', '> **-3**',
            '> The answer is **-3**.', '## Answer\n**-3**', '**Final Answer**\n\n**-3**',
            'The answer is \\textbf{-3}.', 'The answer is $\\textbf{-3}$.',
            'The answer is **\\(-3\\)**.', '*Answer*: -3', 'Answer — **-3**', '**Answer** — -3',
            'The answer is: **-3**',
         ],
         [
            'So the number of pages is **3**.', '**Answer: 3**', 'The answer is **3 pages**.',
            'The answer is **not -3**.', 'The answer is **-3** or **3**.', 'The answer is not **-3**.',
            'The answer is <strong>3</strong>.', '## Answer\n**3**', '**-3** is wrong.',
            'The answer is **at least -3**.',
         ]),
        ('2.75',
         [
            'So the number of pages is **2.75**.', '**Answer: 2.75**', 'The answer is **2.75 pages**.',
            'Therefore, the total is ***2.75***.', 'The answer is **$2.75$**.',
            'The answer is $\\mathbf{2.75}$.', 'The answer is **2.75**',
            'Thus, the final result is `2.75`.', 'The answer is <strong>2.75</strong>.',
            '**The answer is: 2.75.**', 'The answer: **2.75** pages.', '__Final answer:__ 2.75',
            'So $x$ = **2.75**.', '> **2.75**', '> The answer is **2.75**.', '## Answer\n**2.75**',
            '**Final Answer**\n\n**2.75**', 'The answer is \\textbf{2.75}.',
            'The answer is $\\textbf{2.75}$.', 'The answer is **\\(2.75\\)**.', '*Answer*: 2.75',
            'Answer — **2.75**', '**Answer** — 2.75', 'The answer is: **2.75**',
         ],
         [
            'So the number of pages is **2.57**.', '**Answer: 2.57**', 'The answer is **2.57 pages**.',
            'The answer is **not 2.75**.', 'The answer is **2.75** or **2.57**.',
            'The answer is not **2.75**.', 'The answer is <strong>2.57</strong>.',
            '## Answer\n**2.57**', '**2.75** is wrong.', 'The answer is **at least 2.75**.',
         ]),
    ],
    'Chinese': [
        ('36',
         [
            '答：小红还剩36本书。', '答：这本书有36页。', '因此，一共需要36天。', '所以小华买了36支铅笔。', '所以这个长方形的面积是36平方厘米。',
            '答：长方形的周长为36厘米。', '综上所述，答案是36。', '所以，原来有36千克。', '答：平均每天看36页。', '答案：36元', '因此答案为 **36**。',
            '最后答案是：36', '因此$x=36$。', '所以他花了36元钱。', '由此可知，共有36人。', '正确答案是36。', '答：妈妈买回来36个梨。',
            '这道题的答案是36。', '计算结果是36。', '所以甲数是36。', '答：共有 36 种不同的方法。', '故 $a=36$.', '所以最终结果为：36。',
            '答：36只。', '12+24=36（本）\n答：一共有36本。',
         ],
         [
            '答：小红还剩37本书。', '因此，一共需要37天。', '答：不是36天。', '所以不等于36。', '答案是36或37。', '答案可能是36也可能是37。',
            '不知道，请看第36页。', '答：大于36。', '答：不到36个。', '无法计算，第36题。', '答：37只。',
         ]),
        ('128',
         [
            '答：小红还剩128本书。', '答：这本书有128页。', '因此，一共需要128天。', '所以小华买了128支铅笔。', '所以这个长方形的面积是128平方厘米。',
            '答：长方形的周长为128厘米。', '综上所述，答案是128。', '所以，原来有128千克。', '答：平均每天看128页。', '答案：128元',
            '因此答案为 **128**。', '最后答案是：128', '因此$x=128$。', '所以他花了128元钱。', '由此可知，共有128人。', '正确答案是128。',
            '答：妈妈买回来128个梨。', '这道题的答案是128。', '计算结果是128。', '所以甲数是128。', '答：共有 128 种不同的方法。', '故 $a=128$.',
            '所以最终结果为：128。', '答：128只。', '12+24=128（本）\n答：一共有128本。',
         ],
         [
            '答：小红还剩129本书。', '因此，一共需要129天。', '答：不是128天。', '所以不等于128。', '答案是128或129。',
            '答案可能是128也可能是129。', '不知道，请看第128页。', '答：大于128。', '答：不到128个。', '无法计算，第128题。', '答：129只。',
         ]),
        ('4.5',
         [
            '答：小红还剩4.5本书。', '答：这本书有4.5页。', '因此，一共需要4.5天。', '所以小华买了4.5支铅笔。', '所以这个长方形的面积是4.5平方厘米。',
            '答：长方形的周长为4.5厘米。', '综上所述，答案是4.5。', '所以，原来有4.5千克。', '答：平均每天看4.5页。', '答案：4.5元',
            '因此答案为 **4.5**。', '最后答案是：4.5', '因此$x=4.5$。', '所以他花了4.5元钱。', '由此可知，共有4.5人。', '正确答案是4.5。',
            '答：妈妈买回来4.5个梨。', '这道题的答案是4.5。', '计算结果是4.5。', '所以甲数是4.5。', '答：共有 4.5 种不同的方法。', '故 $a=4.5$.',
            '所以最终结果为：4.5。', '答：4.5只。', '12+24=4.5（本）\n答：一共有4.5本。',
         ],
         [
            '答：小红还剩5.4本书。', '因此，一共需要5.4天。', '答：不是4.5天。', '所以不等于4.5。', '答案是4.5或5.4。',
            '答案可能是4.5也可能是5.4。', '不知道，请看第4.5页。', '答：大于4.5。', '答：不到4.5个。', '无法计算，第4.5题。', '答：5.4只。',
         ]),
        ('\\frac{3}{4}',
         [
            '所以概率是$\\frac{3}{4}$。', '所以概率为四分之三。', '答：还剩下$\\frac{3}{4}$。', '答：占全部的3/4。',
            '故答案为：$\\frac{3}{4}$．', '所以，$P=\\frac{3}{4}$',
         ],
         [
            '所以概率为$\\frac{4}{3}$。', '答：占全部的4/3。',
         ]),
        ('\\frac{2}{5}',
         [
            '所以概率是五分之二。', '答：占五分之二。', '答案是五分之二。', '所以是百分之四十。',
         ],
         [
            '所以概率是二分之五。',
         ]),
    ],
    'quotation marks': [
        ('17',
         [
            'The answer is "17".', '\\boxed{"17"}', 'So, "17" is the answer.', "The answer is '17'.",
            "\\boxed{'17'}", "So, '17' is the answer.", 'The answer is “17”.', '\\boxed{“17”}',
            'So, “17” is the answer.', 'The answer is ‘17’.', '\\boxed{‘17’}',
            'So, ‘17’ is the answer.', 'The answer is 「17」.', '\\boxed{「17」}',
            'So, 「17」 is the answer.', 'The answer is 『17』.', '\\boxed{『17』}',
            'So, 『17』 is the answer.', 'The answer is «17».', '\\boxed{«17»}',
            'So, «17» is the answer.', 'The answer is „17”.', '\\boxed{„17”}',
            'So, „17” is the answer.', "The answer is ``17''.", "\\boxed{``17''}",
            "So, ``17'' is the answer.", 'The answer is `17`.', '\\boxed{`17`}',
            'So, `17` is the answer.', 'The answer is 《17》.', '\\boxed{《17》}',
            'So, 《17》 is the answer.', 'The answer is ”17”.', '\\boxed{”17”}',
            'So, ”17” is the answer.', 'The answer is ＂17＂.', '\\boxed{＂17＂}',
            'So, ＂17＂ is the answer.',
         ],
         [
            'The answer is "18".', '\\boxed{"18"}', "The answer is '18'.", "\\boxed{'18'}",
            'The answer is “18”.', '\\boxed{“18”}', 'The answer is ‘18’.', '\\boxed{‘18’}',
            'The answer is 「18」.', '\\boxed{「18」}', 'The answer is 『18』.', '\\boxed{『18』}',
            'The answer is «18».', '\\boxed{«18»}', 'The answer is „18”.', '\\boxed{„18”}',
            "The answer is ``18''.", "\\boxed{``18''}", 'The answer is `18`.', '\\boxed{`18`}',
            'The answer is 《18》.', '\\boxed{《18》}', 'The answer is ”18”.', '\\boxed{”18”}',
            'The answer is ＂18＂.', '\\boxed{＂18＂}',
         ]),
        ('3/5',
         [
            'The answer is "3/5".', '\\boxed{"3/5"}', 'So, "3/5" is the answer.',
            "The answer is '3/5'.", "\\boxed{'3/5'}", "So, '3/5' is the answer.",
            'The answer is “3/5”.', '\\boxed{“3/5”}', 'So, “3/5” is the answer.',
            'The answer is ‘3/5’.', '\\boxed{‘3/5’}', 'So, ‘3/5’ is the answer.',
            'The answer is 「3/5」.', '\\boxed{「3/5」}', 'So, 「3/5」 is the answer.',
            'The answer is 『3/5』.', '\\boxed{『3/5』}', 'So, 『3/5』 is the answer.',
            'The answer is «3/5».', '\\boxed{«3/5»}', 'So, «3/5» is the answer.',
            'The answer is „3/5”.', '\\boxed{„3/5”}', 'So, „3/5” is the answer.',
            "The answer is ``3/5''.", "\\boxed{``3/5''}", "So, ``3/5'' is the answer.",
            'The answer is `3/5`.', '\\boxed{`3/5`}', 'So, `3/5` is the answer.',
            'The answer is 《3/5》.', '\\boxed{《3/5》}', 'So, 《3/5》 is the answer.',
            'The answer is ”3/5”.', '\\boxed{”3/5”}', 'So, ”3/5” is the answer.',
            'The answer is ＂3/5＂.', '\\boxed{＂3/5＂}', 'So, ＂3/5＂ is the answer.',
         ],
         [
            'The answer is "5/3".', '\\boxed{"5/3"}', "The answer is '5/3'.", "\\boxed{'5/3'}",
            'The answer is “5/3”.', '\\boxed{“5/3”}', 'The answer is ‘5/3’.', '\\boxed{‘5/3’}',
            'The answer is 「5/3」.', '\\boxed{「5/3」}', 'The answer is 『5/3』.', '\\boxed{『5/3』}',
            'The answer is «5/3».', '\\boxed{«5/3»}', 'The answer is „5/3”.', '\\boxed{„5/3”}',
            "The answer is ``5/3''.", "\\boxed{``5/3''}", 'The answer is `5/3`.', '\\boxed{`5/3`}',
            'The answer is 《5/3》.', '\\boxed{《5/3》}', 'The answer is ”5/3”.', '\\boxed{”5/3”}',
            'The answer is ＂5/3＂.', '\\boxed{＂5/3＂}',
         ]),
        ('\\text{blue}',
         [
            '\\boxed{"blue"}', "\\boxed{'blue'}", '\\boxed{blue}', '\\boxed{\\text{“blue”}}',
            "The answer is 'blue'.", 'The answer is blue.', 'The answer is **blue**.',
            '\\boxed{\\textit{Blue}}', 'Answer: Blue', '\\boxed{\\mbox{blue}}',
         ],
         [
            '\\boxed{"red"}', 'The answer is not blue.', '\\boxed{\\text{blue or red}}',
         ]),
    ],
    'displays': [
        ('48',
         [
            'Hence\n\\[\n48.\n\\]', 'The final answer is\n$$\n48\n$$\n',
            'So the value is\n\\begin{equation*}\n48\n\\end{equation*}',
            '\\[\n\\begin{aligned}\ny &= 1+2\\\\\n&= 48\n\\end{aligned}\n\\]',
            'Thus:\n\\begin{align*}\ny &= 1+2\\\\\n&= 48.\n\\end{align*}\n',
            '**Answer:**\n\\[\n48\n\\]', 'Therefore, the answer is\n\n\\[ 48 \\]\n\nand we are done.',
            'Thus we have $$ 48 $$', 'The sum is:\n\n$$48$$',
            '\\begin{gather*}\ny = 48\n\\end{gather*}', 'Answer: \\[ 48 \\]',
            'Therefore\n\\[\ny = 1 + 2 = 48.\n\\]\nThis completes the solution.',
         ],
         [
            'Hence\n\\[\n49.\n\\]', 'The final answer is\n$$\n49\n$$\n',
            '\\[\n\\begin{aligned}\ny &= 48\\\\\n&= 49\n\\end{aligned}\n\\]', 'The sum is:\n\n$$49$$',
            'The answer is not\n\\[ 48 \\]', 'First\n$$\n48\n$$\nThen\n$$\n49\n$$',
         ]),
        ('\\frac{5}{8}',
         [
            'Hence\n\\[\n\\frac{5}{8}.\n\\]', 'The final answer is\n$$\n\\frac{5}{8}\n$$\n',
            'So the value is\n\\begin{equation*}\n\\frac{5}{8}\n\\end{equation*}',
            '\\[\n\\begin{aligned}\ny &= 1+2\\\\\n&= \\frac{5}{8}\n\\end{aligned}\n\\]',
            'Thus:\n\\begin{align*}\ny &= 1+2\\\\\n&= \\frac{5}{8}.\n\\end{align*}\n',
            '**Answer:**\n\\[\n\\frac{5}{8}\n\\]',
            'Therefore, the answer is\n\n\\[ \\frac{5}{8} \\]\n\nand we are done.',
            'Thus we have $$ \\frac{5}{8} $$', 'The sum is:\n\n$$\\frac{5}{8}$$',
            '\\begin{gather*}\ny = \\frac{5}{8}\n\\end{gather*}', 'Answer: \\[ \\frac{5}{8} \\]',
            'Therefore\n\\[\ny = 1 + 2 = \\frac{5}{8}.\n\\]\nThis completes the solution.',
         ],
         [
            'Hence\n\\[\n\\frac{8}{5}.\n\\]', 'The final answer is\n$$\n\\frac{8}{5}\n$$\n',
            '\\[\n\\begin{aligned}\ny &= \\frac{5}{8}\\\\\n&= \\frac{8}{5}\n\\end{aligned}\n\\]',
            'The sum is:\n\n$$\\frac{8}{5}$$', 'The answer is not\n\\[ \\frac{5}{8} \\]',
            'First\n$$\n\\frac{5}{8}\n$$\nThen\n$$\n\\frac{8}{5}\n$$',
         ]),
        ('x+3',
         [
            'Hence\n\\[\nx+3.\n\\]', 'The final answer is\n$$\nx+3\n$$\n',
            'So the value is\n\\begin{equation*}\nx+3\n\\end{equation*}',
            '\\[\n\\begin{aligned}\ny &= 1+2\\\\\n&= x+3\n\\end{aligned}\n\\]',
            'Thus:\n\\begin{align*}\ny &= 1+2\\\\\n&= x+3.\n\\end{align*}\n',
            '**Answer:**\n\\[\nx+3\n\\]',
            'Therefore, the answer is\n\n\\[ x+3 \\]\n\nand we are done.', 'Thus we have $$ x+3 $$',
            'The sum is:\n\n$$x+3$$', '\\begin{gather*}\ny = x+3\n\\end{gather*}',
            'Answer: \\[ x+3 \\]',
         ],
         [
            'Hence\n\\[\nx-3.\n\\]', 'The final answer is\n$$\nx-3\n$$\n',
            '\\[\n\\begin{aligned}\ny &= x+3\\\\\n&= x-3\n\\end{aligned}\n\\]',
            'The sum is:\n\n$$x-3$$', 'The answer is not\n\\[ x+3 \\]',
            'First\n$$\nx+3\n$$\nThen\n$$\nx-3\n$$',
         ]),
    ],
    'letters': [
        ('B',
         [
            '\\boxed{\\text{Option }B}', '\\boxed{\\text{option (B)}}', '\\boxed{Answer B}',
            '\\boxed{\\text{Answer } B}', '\\boxed{(B)}', '\\boxed{B)}', '\\boxed{\\textbf{(B) } 14}',
            'B is the correct choice.', 'The right answer is B.', "I'd choose B.", 'My choice is B.',
            'The answer is (B) 14.', '**B**', '**(B)**', 'Answer: (B) because the others fail.', '故选B',
            '故选 B．', '答案选B。', '因此选择B项。', '正确选项是B。', '\\boxed{\\mathrm{B}}',
            '\\boxed{\\text{The correct option is B}}', '\\boxed{\\text{B.}}', 'So, B is right.',
            'The answer is option B: 14.', '\\boxed{\\text{Choice B}}',
            'The correct option is therefore **B**.', 'Option B is correct.', 'Thus the answer is B.',
         ],
         [
            '\\boxed{B, C}', '\\boxed{\\text{B or C}}', '\\boxed{\\text{B and C}}', '\\boxed{C}',
            '\\boxed{\\text{Option C}}', 'The answer is C, not B.', 'The answer is not B.',
            'B is wrong.', 'Not B.', 'I would choose C over B.', 'Either B or C.',
            '\\boxed{\\text{C: B-type}}', 'Option B is not correct.', 'All of B, C.',
            '\\boxed{\\text{not B}}', 'The answer is B or C.', 'Both B and C are correct.',
         ]),
        ('E',
         [
            '\\boxed{\\text{Option }E}', '\\boxed{\\text{option (E)}}', '\\boxed{Answer E}',
            '\\boxed{\\text{Answer } E}', '\\boxed{(E)}', '\\boxed{E)}', '\\boxed{\\textbf{(E) } 14}',
            'E is the correct choice.', 'The right answer is E.', "I'd choose E.", 'My choice is E.',
            'The answer is (E) 14.', '**E**', '**(E)**', 'Answer: (E) because the others fail.', '故选E',
            '故选 E．', '答案选E。', '因此选择E项。', '正确选项是E。', '\\boxed{\\mathrm{E}}',
            '\\boxed{\\text{The correct option is E}}', '\\boxed{\\text{E.}}', 'So, E is right.',
            'The answer is option E: 14.', '\\boxed{\\text{Choice E}}',
            'The correct option is therefore **E**.', 'Option E is correct.', 'Thus the answer is E.',
         ],
         [
            '\\boxed{E, A}', '\\boxed{\\text{E or A}}', '\\boxed{\\text{E and A}}', '\\boxed{A}',
            '\\boxed{\\text{Option A}}', 'The answer is A, not E.', 'The answer is not E.',
            'E is wrong.', 'Not E.', 'I would choose A over E.', 'Either E or A.',
            '\\boxed{\\text{A: E-type}}', 'Option E is not correct.', 'All of E, A.',
            '\\boxed{\\text{not E}}', 'The answer is E or A.', 'Both E and A are correct.',
         ]),
    ],
    'two forms of one object': [
        ('a=2, b=-1',
         [
            '\\boxed{(2,-1)}', '\\boxed{a=2,\\ b=-1}', '\\boxed{b=-1, a=2}',
            '\\boxed{a = 2 \\text{ and } b = -1}',
         ],
         [
            '\\boxed{a=-1, b=2}', '\\boxed{(-1,2)}', '\\boxed{a=2,b=1}', '\\boxed{2}', '\\boxed{a=2}',
         ]),
        ('(3, -4)',
         [
            '\\boxed{x=3, y=-4}', '\\boxed{x = 3 \\text{ and } y = -4}', '\\boxed{(x,y)=(3,-4)}',
            '\\boxed{(3,-4)}',
         ],
         [
            '\\boxed{(-4,3)}', '\\boxed{x=-4, y=3}', '\\boxed{x=3}', '\\boxed{[3,-4]}',
            '\\boxed{\\{3,-4\\}}',
         ]),
        ('x=1,y=2,z=3',
         [
            '\\boxed{(1,2,3)}', '\\boxed{(x,y,z)=(1,2,3)}',
         ],
         [
            '\\boxed{(1,3,2)}', '\\boxed{(3,2,1)}', '\\boxed{1,2}',
         ]),
        ('\\mathbb{R}\\setminus\\{3\\}',
         [
            '\\boxed{x\\neq 3}', '\\boxed{(-\\infty,3)\\cup(3,\\infty)}',
            '\\boxed{\\{x\\in\\mathbb{R}\\mid x\\ne3\\}}', '\\boxed{x \\ne 3}',
            '\\boxed{\\mathbb{R}-\\{3\\}}', '\\boxed{\\text{all real numbers except }3}',
            '\\boxed{x\\in\\mathbb{R}, x\\neq 3}',
         ],
         [
            '\\boxed{x\\neq -3}', '\\boxed{\\mathbb{R}}', '\\boxed{(-\\infty,3)}', '\\boxed{x=3}',
            '\\boxed{\\{3\\}}', '\\boxed{(-\\infty,3]\\cup[3,\\infty)}',
         ]),
        ('(-\\infty,-1)\\cup(1,\\infty)',
         [
            '\\boxed{|x|>1}', '\\boxed{x<-1 \\text{ or } x>1}',
            '\\boxed{(1,\\infty)\\cup(-\\infty,-1)}',
         ],
         [
            '\\boxed{|x|<1}', '\\boxed{|x|\\ge1}', '\\boxed{(-1,1)}', '\\boxed{x>1}',
         ]),
        ('-4\\le x\\le 4',
         [
            '\\boxed{|x|\\le4}', '\\boxed{[-4,4]}', '\\boxed{x\\in[-4,4]}', '\\boxed{4\\ge x\\ge-4}',
            '\\boxed{\\{x:|x|\\leq4\\}}',
         ],
         [
            '\\boxed{|x|<4}', '\\boxed{(-4,4)}', '\\boxed{[-4,4)}', '\\boxed{|x|\\ge 4}',
         ]),
        ('f(x)=3x-1',
         [
            '\\boxed{3x-1}', '\\boxed{f(x)=-1+3x}',
            '\\boxed{f(x)=3x-1 \\text{ for all } x\\in\\mathbb{R}}',
            '\\boxed{f(x) = 3x - 1, \\quad \\forall x}', '\\boxed{f(x)=3x-1\\text{ for every real }x}',
            '\\boxed{f(x)=3x-1}',
         ],
         [
            '\\boxed{f(x)=3x+1}', '\\boxed{3x}', '\\boxed{f(x)=3x-1 \\text{ for } x>0}',
         ]),
        ('3x+2y-6=0',
         [
            '\\boxed{y=-\\frac32x+3}', '\\boxed{3x+2y=6}', '\\boxed{2y=6-3x}', '\\boxed{6x+4y-12=0}',
            'The equation of the line is $3x+2y=6$.', 'The line is y = -1.5x + 3.',
            'So the line is y = 3 - 1.5x.', 'The equation is 3x + 2y = 6.',
            'Thus the line has equation $y = -\\frac{3}{2}x + 3$.',
         ],
         [
            '\\boxed{3x+2y+6=0}', '\\boxed{3x-2y-6=0}', '\\boxed{y=\\frac32x+3}', '\\boxed{6}',
            'The line is y = 1.5x + 3.', 'The line is y = 3.', 'The line passes through (0, 3).',
         ]),
        ('2x-y+9=0',
         [
            'The line is y = 2x + 9.', 'So, the line is 2x - y + 9 = 0.',
            'Hence the equation of the line is y = 2x + 9', 'The answer is y = 2x + 9.',
            'The tangent line is $y=2x+9$.',
         ],
         [
            'The line is y = 2x - 9.', 'The line is y = -2x + 9.',
            'The slope is 2 and the intercept is 9.',
         ]),
        ('\\begin{pmatrix}2&0\\\\-1&5\\end{pmatrix}',
         [
            '\\boxed{\\begin{bmatrix}2&0\\\\-1&5\\end{bmatrix}}', '\\boxed{[[2,0],[-1,5]]}',
            '\\boxed{\\left[\\begin{array}{cc}2&0\\\\-1&5\\end{array}\\right]}',
            '\\boxed{\\begin{pmatrix}2 & 0 \\cr -1 & 5\\end{pmatrix}}',
         ],
         [
            '\\boxed{[[2,-1],[0,5]]}', '\\boxed{\\begin{pmatrix}2&0\\\\-1&-5\\end{pmatrix}}',
            '\\boxed{[[2,0,-1,5]]}', '\\boxed{2,0,-1,5}',
         ]),
        ('\\begin{pmatrix}3\\\\-7\\end{pmatrix}',
         [
            '\\boxed{\\begin{bmatrix}3\\\\-7\\end{bmatrix}}',
            '\\boxed{\\begin{pmatrix} 3 \\\\ -7 \\end{pmatrix}}',
         ],
         [
            '\\boxed{\\begin{pmatrix}-7\\\\3\\end{pmatrix}}',
            '\\boxed{\\begin{pmatrix}3\\\\7\\end{pmatrix}}',
         ]),
    ],
    'numbers as written': [
        ('3.1\\times10^{7}',
         [
            '\\boxed{31000000}', '\\boxed{3.1 x 10^7}', '\\boxed{3.1e7}', '\\boxed{31{,}000{,}000}',
            '\\boxed{3.1 \\cdot 10^7}', '\\boxed{3.1×10⁷}', '\\boxed{3.1*10^7}',
            '\\boxed{31 \\times 10^6}', '\\boxed{31 million}', '\\boxed{31,000,000}',
         ],
         [
            '\\boxed{3.1\\times10^{8}}', '\\boxed{3100000}', '\\boxed{3.1}', '\\boxed{3.1 x 10^6}',
            '\\boxed{310000000}',
         ]),
        ('6.02\\times10^{23}',
         [
            'The answer is 6.02 x 10^23.', 'The number is 6.02 × 10^23.',
            'The answer is $6.02\\times 10^{23}$ molecules.', 'The answer is 6.02*10^23',
            'Answer: 6.02e23', 'There are 6.02 × 10²³ molecules.',
         ],
         [
            'The answer is 6.02 x 10^22.', 'The answer is 6.02.', 'The answer is 10^23.',
         ]),
        ('1250000',
         [
            '\\boxed{1 250 000}', '\\boxed{1\\,250\\,000}', '\\boxed{1{,}250{,}000}',
            '\\boxed{1,250,000}', '\\boxed{1.25 million}', '\\boxed{1.25\\times10^6}',
            '\\boxed{1~250~000}', '\\boxed{1\\;250\\;000}', '\\boxed{125\\text{万}}',
            'The total is 1 250 000.', 'The total is 1,250,000 people.',
            'The answer is $1\\,250\\,000$.', 'So there are 1.25 million people.',
         ],
         [
            '\\boxed{1 250}', '\\boxed{1250}', '\\boxed{12 50000}', '\\boxed{1.25}',
            '\\boxed{1,25,000}', 'The total is 1 250.', 'The total is 250 000.',
         ]),
        ('3 \\text{ hours } 45 \\text{ minutes}',
         [
            '\\boxed{3.75 \\text{ hours}}', '\\boxed{225 \\text{ minutes}}',
            '\\boxed{3 hours 45 minutes}', '\\boxed{3 h 45 min}',
            '\\boxed{3 \\text{ hr } 45 \\text{ min}}', '\\boxed{3\\frac34\\text{ hours}}',
            '\\boxed{3\\text{ hours and }45\\text{ minutes}}',
         ],
         [
            '\\boxed{3.45 \\text{ hours}}', '\\boxed{3 \\text{ hours } 40 \\text{ minutes}}',
            '\\boxed{345}', '\\boxed{225}', '\\boxed{45 \\text{ minutes}}',
         ]),
        ('6 \\text{ feet } 2 \\text{ inches}',
         [
            '\\boxed{6 ft 2 in}', '\\boxed{74 \\text{ inches}}', '\\boxed{6 feet 2 inches}',
            '\\boxed{6 feet, 2 inches}',
         ],
         [
            '\\boxed{2 feet 6 inches}', '\\boxed{62 \\text{ inches}}', '\\boxed{6.2 \\text{ feet}}',
         ]),
        ('2 \\text{ weeks } 3 \\text{ days}',
         [
            '\\boxed{17 \\text{ days}}', '\\boxed{2 weeks and 3 days}',
         ],
         [
            '\\boxed{3 weeks 2 days}', '\\boxed{23 days}',
         ]),
        ('4 \\text{ kg } 500 \\text{ g}',
         [
            '\\boxed{4.5 \\text{ kg}}', '\\boxed{4500 \\text{ g}}', '\\boxed{4.5kg}',
         ],
         [
            '\\boxed{4.05 kg}', '\\boxed{450 g}',
         ]),
        ('2时30分',
         [
            '\\boxed{2小时30分钟}', '\\boxed{2.5小时}', '\\boxed{150分钟}',
         ],
         [
            '\\boxed{2.3小时}', '\\boxed{30分}',
         ]),
        ('3元5角',
         [
            '\\boxed{3.5元}', '\\boxed{35角}', '\\boxed{3.50元}', '答：一共3元5角。', '答：一共3.5元。',
         ],
         [
            '\\boxed{5元3角}', '\\boxed{3.05元}', '答：一共5元3角。', '答：一共3元。',
         ]),
        ('0.000045',
         [
            '\\boxed{4.5\\times10^{-5}}', '\\boxed{4.5e-5}', '\\boxed{4.5 x 10^{-5}}',
            '\\boxed{4.5 x 10^-5}',
         ],
         [
            '\\boxed{4.5\\times10^{-4}}', '\\boxed{4.5\\times10^{5}}',
         ]),
        ('45\\%',
         [
            '\\boxed{0.45}', '\\boxed{45}', '\\boxed{\\frac{9}{20}}', '\\boxed{45 percent}',
            '\\boxed{45\\text{ percent}}',
         ],
         [
            '\\boxed{4.5\\%}', '\\boxed{0.045}', '\\boxed{0.45\\%}',
         ]),
        ('\\$12.50',
         [
            '\\boxed{12.5}', '\\boxed{\\$12.5}', '\\boxed{12.50}', '\\boxed{12.50 dollars}',
            '\\boxed{\\text{\\$}12.50}', '\\boxed{\\$12.50}',
         ],
         [
            '\\boxed{\\$1.25}', '\\boxed{\\$12.05}', '\\boxed{125}',
         ]),
        ('2\\frac{3}{4}',
         [
            '\\boxed{2.75}', '\\boxed{\\frac{11}{4}}', '\\boxed{2 3/4}', '\\boxed{11/4}',
         ],
         [
            '\\boxed{\\frac{6}{4}}', '\\boxed{2\\cdot\\frac34}', '\\boxed{23/4}',
         ]),
        ('0.\\overline{27}',
         [
            '\\boxed{\\frac{3}{11}}', '\\boxed{0.\\overline{27}}', '\\boxed{0.\\dot{2}\\dot{7}}',
         ],
         [
            '\\boxed{0.27}', '\\boxed{\\frac{27}{100}}',
         ]),
    ],
    'gold sentences': [
        ('We multiply 6 by 7 to get 42, so the answer is 42.',
         [
            '\\boxed{42}', 'The answer is 42.',
         ],
         [
            '\\boxed{6}', '\\boxed{7}', '\\boxed{43}',
            'We multiply 6 by 7 to get 42, so the answer is 43.',
         ]),
        ('Because 8*8=64, the area is 64.',
         [
            '\\boxed{64}', '64',
         ],
         [
            '\\boxed{8}',
         ]),
        ('He buys 2 + 9 = 11 apples. The answer is 11.',
         [
            '\\boxed{11}',
         ],
         [
            '\\boxed{2}', '\\boxed{9}',
         ]),
        ('The slope is 3, hence the line is $y=3x+1$.',
         [
            '\\boxed{y=3x+1}',
         ],
         [
            '\\boxed{3}',
         ]),
        ('因为3+4=7，所以一共有7个。',
         [
            '\\boxed{7}', '答：7个',
         ],
         [
            '\\boxed{3}', '\\boxed{4}',
         ]),
        ('The answer is $\\frac{2}{3}$.',
         [
            '\\boxed{2/3}',
         ],
         [
            '\\boxed{3/2}',
         ]),
        ('x = 6',
         [
            '\\boxed{6}', '\\boxed{x=6}',
         ],
         [
            '\\boxed{-6}',
         ]),
        ('All integers greater than 3 satisfy it, except 10.',
         [],
         [
            '\\boxed{3}', '\\boxed{10}',
         ]),
        ('Let x be the number. Then 2x = 10 and x = 5.',
         [
            '\\boxed{5}',
         ],
         [
            '\\boxed{10}', '\\boxed{2}',
         ]),
        ('The probability is 1/4 because there are 4 suits.',
         [
            '\\boxed{1/4}',
         ],
         [
            '\\boxed{4}',
         ]),
    ],
    'gold texts that are none': [
        ('nan',
         [],
         [
            '\\boxed{nan}', 'nan', 'The answer is nan.', '\\boxed{0}', '',
         ]),
        ('NaN',
         [],
         [
            '\\boxed{NaN}', 'NaN', 'The answer is NaN.', '\\boxed{0}', '',
         ]),
        ('None',
         [],
         [
            '\\boxed{None}', 'None', 'The answer is None.', '\\boxed{0}', '',
         ]),
        ('N/A',
         [],
         [
            '\\boxed{N/A}', 'N/A', 'The answer is N/A.', '\\boxed{0}', '',
         ]),
        ('null',
         [],
         [
            '\\boxed{null}', 'null', 'The answer is null.', '\\boxed{0}', '',
         ]),
        ('NULL',
         [],
         [
            '\\boxed{NULL}', 'NULL', 'The answer is NULL.', '\\boxed{0}', '',
         ]),
        ('n/a',
         [],
         [
            '\\boxed{n/a}', 'n/a', 'The answer is n/a.', '\\boxed{0}', '',
         ]),
        ('NA',
         [],
         [
            '\\boxed{NA}', 'NA', 'The answer is NA.', '\\boxed{0}', '',
         ]),
        ('<NA>',
         [],
         [
            '\\boxed{<NA>}', '<NA>', 'The answer is <NA>.', '\\boxed{0}', '',
         ]),
        ('unknown',
         [],
         [
            '\\boxed{unknown}', 'unknown', 'The answer is unknown.', '\\boxed{0}', '',
         ]),
        ('?',
         [],
         [
            '\\boxed{?}', '?', 'The answer is ?.', '\\boxed{0}', '',
         ]),
        ('-',
         [],
         [
            '\\boxed{-}', '-', 'The answer is -.', '\\boxed{0}', '',
         ]),
        ('TBD',
         [],
         [
            '\\boxed{TBD}', 'TBD', 'The answer is TBD.', '\\boxed{0}', '',
         ]),
        (' ',
         [],
         [
            '\\boxed{ }', ' ', 'The answer is  .', '\\boxed{0}', '',
         ]),
        ('',
         [],
         [
            '\\boxed{}', '', 'The answer is .', '\\boxed{0}',
         ]),
        ('\\text{None}',
         [
            '\\boxed{\\text{None}}', '\\boxed{none}',
         ],
         [
            '\\boxed{0}',
         ]),
        ('\\emptyset',
         [
            '\\boxed{\\varnothing}', '\\boxed{\\text{no solution}}', '\\boxed{\\{\\}}',
            '\\boxed{\\emptyset}', '\\boxed{\\text{No solutions}}',
         ],
         [
            '\\boxed{0}', '\\boxed{\\{0\\}}', '\\boxed{\\{\\emptyset\\}}',
         ]),
    ],
    'numbers that answer nothing': [
        ('3',
         [],
         [
            'The answer is bar3baz', 'The answer is utf8_3.txt', 'Run x3.py',
            'The answer is img-3.png', 'By Theorem 3 we are done.', 'See Figure 3.',
            'The answer depends on case 3.', "I'm not sure, but see chapter 3.",
            'The answer is given in (3).', 'As shown in equation (3), it holds.', 'The answer is MP3',
            'It uses HTML3.', 'Use H3O.', 'answer3', 'The answer: a3', 'The answer is 3rd',
            "I think it's the 3rd one.", 'The answer was computed on 3/4/2020.', 'The answer is 3D',
            'See [3].', 'This is from ref. [3].', 'The answer is in row 3.',
            'I refuse to answer question 3.', 'It is problem 3 that I cannot solve.',
            'The figure 3 appears above, but no answer can be given.', 'https://a.b/3',
            'The answer is `foo(3)`.', 'The answer is a[3].', 'The answer is x_3.', 'C:\\dir\\3',
            'version 3.0', 'The answer is approximately unknown (3?).',
            'We used 3 methods, none worked.', 'After 3 attempts I give up.', 'At 3:00 I stopped.',
            'There were 3 attempts, but there is no answer.', 'The answer is f3.', '#3', 'No. 3',
            'Answer: see 3', "I can't determine it; 3 is just a guess.", '答案见图3。', '参见例3。',
            '我不会，第3题太难。', '答案在第3章。', '由公式(3)可得结论。', '答案取决于步骤3。',
         ]),
    ],
    'the last line decides': [
        ('12',
         [],
         [
            'The answer is 12.\nActually, it is 13.', 'So x = 12.\nBut that is wrong; x = 14.',
            'The answer is 12.\nCorrection: 13', 'Answer: 12\nAnswer: 13',
            'So she pays 12.\nShe gets 5 back.', 'Thus the area is 12.\nThe perimeter is 14.',
            "The answer is 12. No, wait, it's 15.", 'Hence 12.\nA: 11', '#### 12\n#### 13',
            'The first answer is 12.\nThe second answer is 20.',
            'The answer for part (a) is 12.\nThe total is 20.', 'So the cost is 12.\nFinal: 24',
            'The answer is 12. Doubling it gives 24.', '所以答案是12。\n再加3，一共是15。', '答案是12。\n不对，是13。',
            'Therefore 12.\n\nTotal: 36', 'So, 12 + 12 = 24.',
            'Therefore half is 12.\nThe whole is 24.',
         ]),
        ('13',
         [
            'The answer is 12.\nActually, it is 13.', 'So x = 12.\nBut that is wrong; x = 13.',
            'The answer is 12.\nCorrection: 13', 'Answer: 12\nAnswer: 13', '#### 12\n#### 13',
            'So the cost is 12.\nFinal: 13', '答案是12。\n不对，是13。', "The answer is 12. No, wait, it's 13.",
            'Thus the perimeter is 12.\nA: 13', 'So half is 12.\nThe answer is 13.',
         ],
         []),
    ],
    'boxes side by side': [
        ('9',
         [],
         [
            '$\\boxed{4} \\quad\\text{or}\\quad \\boxed{9}$',
            '$\\boxed{4}\\;\\text{and}\\;\\boxed{9}$', '$\\boxed{4}\\quad\\boxed{9}$',
            '$\\boxed{4}\\ \\ \\boxed{9}$', '$\\boxed{4}&\\qquad \\boxed{9}$',
            '$\\boxed{4}; \\boxed{9}$', '$\\boxed{4} while \\boxed{9}$',
            '$\\boxed{4} (first), \\boxed{9}$', '$\\boxed{4} for n even and \\boxed{9}$',
            '$\\boxed{4} resp. \\boxed{9}$', '$\\boxed{4}$, $\\boxed{9}$',
            '$\\boxed{4}$ as well as $\\boxed{9}$', '$\\boxed{4}$; $\\boxed{9}$',
            '$\\boxed{4}\n- \\boxed{9}$', '$\\boxed{4} | \\boxed{9}$', '$\\boxed{4}\\\\\\boxed{9}$',
            '$\\boxed{4}\\text{ (case 1), }\\boxed{9}$', '$\\boxed{4}$\\quad$\\boxed{9}$',
            '$\\boxed{4} — \\boxed{9}$', '$\\boxed{4} vs \\boxed{9}$',
         ]),
        ('4',
         [],
         [
            '$\\boxed{4} \\quad\\text{or}\\quad \\boxed{9}$',
            '$\\boxed{4}\\;\\text{and}\\;\\boxed{9}$', '$\\boxed{4}\\quad\\boxed{9}$',
            '$\\boxed{4}\\ \\ \\boxed{9}$', '$\\boxed{4}&\\qquad \\boxed{9}$',
            '$\\boxed{4}; \\boxed{9}$', '$\\boxed{4} while \\boxed{9}$',
            '$\\boxed{4} (first), \\boxed{9}$', '$\\boxed{4} for n even and \\boxed{9}$',
            '$\\boxed{4} resp. \\boxed{9}$', '$\\boxed{4}$, $\\boxed{9}$',
            '$\\boxed{4}$ as well as $\\boxed{9}$', '$\\boxed{4}$; $\\boxed{9}$',
            '$\\boxed{4}\n- \\boxed{9}$', '$\\boxed{4} | \\boxed{9}$', '$\\boxed{4}\\\\\\boxed{9}$',
            '$\\boxed{4}\\text{ (case 1), }\\boxed{9}$', '$\\boxed{4}$\\quad$\\boxed{9}$',
            '$\\boxed{4} — \\boxed{9}$', '$\\boxed{4} vs \\boxed{9}$',
         ]),
        ('4, 9',
         [
            '$\\boxed{4}, \\boxed{9}$', '$\\boxed{4} and \\boxed{9}$', '$\\boxed{4}$ and $\\boxed{9}$',
            '$\\boxed{4}\\quad\\text{and}\\quad \\boxed{9}$', '$\\boxed{4}$, $\\boxed{9}$',
            '$\\boxed{4}; \\boxed{9}$', '$\\boxed{4}, \\quad \\boxed{9}$',
            '$\\boxed{4}\\text{ and }\\boxed{9}$', '$\\boxed{4} \\text{ , and } \\boxed{9}$',
         ],
         []),
        ('\\{9,4\\}',
         [
            '$\\boxed{4}, \\boxed{9}$', '$\\boxed{4} and \\boxed{9}$', '$\\boxed{4}$ and $\\boxed{9}$',
            '$\\boxed{4}\\quad\\text{and}\\quad \\boxed{9}$', '$\\boxed{4}$, $\\boxed{9}$',
            '$\\boxed{4}; \\boxed{9}$', '$\\boxed{4}, \\quad \\boxed{9}$',
            '$\\boxed{4}\\text{ and }\\boxed{9}$', '$\\boxed{4} \\text{ , and } \\boxed{9}$',
         ],
         []),
        ('4, 8',
         [],
         [
            '$\\boxed{4}, \\boxed{9}$', '$\\boxed{4} and \\boxed{9}$', '$\\boxed{4}$ and $\\boxed{9}$',
            '$\\boxed{4}\\quad\\text{and}\\quad \\boxed{9}$', '$\\boxed{4}$, $\\boxed{9}$',
            '$\\boxed{4}; \\boxed{9}$', '$\\boxed{4}, \\quad \\boxed{9}$',
            '$\\boxed{4}\\text{ and }\\boxed{9}$', '$\\boxed{4} \\text{ , and } \\boxed{9}$',
         ]),
    ],
    'gold texts with boxes': [
        ('\\boxed{5} and \\boxed{11}',
         [
            '\\boxed{5,11}', '\\boxed{11}, \\boxed{5}', '\\boxed{5} and \\boxed{11}',
            '\\boxed{5 \\text{ and } 11}',
         ],
         [
            '\\boxed{11}', '\\boxed{5}', '\\boxed{5,12}',
         ]),
        ('$x=\\boxed{5}$, $y=\\boxed{11}$',
         [
            '\\boxed{5},\\boxed{11}', '\\boxed{5, 11}',
         ],
         [
            '\\boxed{11}',
         ]),
    ],
    'names of formulas': [
        ('k',
         [],
         [
            'The largest $k$ is 7.', 'The smallest value of $k$ is 7.', 'The largest $k$ is 15.',
            'The smallest value of $k$ is 15.',
         ]),
        ('7',
         [
            'The largest $k$ is 7.', 'The value of $m+n$ is 7.', 'The number of $n$-gons is 7.',
            'So the area of triangle $ABC$ is 7.', 'Hence the length of $\\overline{AB}$ is 7.',
            'The remainder when $N$ is divided by $1000$ is 7.', 'The value of $f(2)$ is 7.',
            'Thus $k$ = 7.', 'The measure of $\\angle ABC$ is 7 degrees.',
            'Therefore the sum $a+b+c$ equals 7.', 'The degree of $P(x)$ is 7.',
         ],
         [
            'The largest $k$ is 8.', 'The remainder when $N$ is divided by $7$ is 1000.',
            'The value of $f(7)$ is 99.',
         ]),
        ('15',
         [
            'The largest $k$ is 15.', 'The value of $m+n$ is 15.', 'The number of $n$-gons is 15.',
            'So the area of triangle $ABC$ is 15.', 'Hence the length of $\\overline{AB}$ is 15.',
            'The remainder when $N$ is divided by $1000$ is 15.', 'The value of $f(2)$ is 15.',
            'Thus $k$ = 15.', 'The measure of $\\angle ABC$ is 15 degrees.',
            'Therefore the sum $a+b+c$ equals 15.', 'The degree of $P(x)$ is 15.',
         ],
         [
            'The largest $k$ is 16.', 'The remainder when $N$ is divided by $15$ is 1000.',
            'The value of $f(15)$ is 99.',
         ]),
    ],
    'labelled lines': [
        ('36',
         [
            'Each has <<6*6=36>>36.\nA: 36', 'x or y, so <<30+6=36>>36 remain.\nA: 36',
            'Thus it is 12.\nA: 36', 'Half or so.\nA:36', 'A : 36', 'A: 36.', 'A: $36', 'A: **36**',
            'A: 36 apples', 'Q: how many?\nA: 36', 'So 40-4=36 apples.\nA: 36 apples.',
            '\nA: \\(36\\)', 'A：36', 'Ans: 36', 'ANS: 36', 'Ans = 36', 'Answer = 36', 'The Answer: 36',
            '**A:** 36', 'Final result: 36', 'Result: 36', 'Solution: 36', '=> 36', '= 36', '∴ 36',
            'Therefore: 36', 'So: 36', 'Total: 36', 'Output: 36',
         ],
         [
            'A: 37', 'A: 3 6', 'A: 36 or 37', 'A: not 36', 'A: more than 36', 'A: 36x',
            'Q: 36?\nA: 35', "A: I don't know",
         ]),
    ],
    'formulas in the last sentence': [
        ('19',
         [
            'The area of triangle $DEF$ is 19.', 'The number of solutions to $x^2=1$ mod $p$ is 19.',
            'Since $n=5$, the sum is 19.', 'Thus $x+y$ is 19.', 'There are 19 ways to choose $k$.',
            'If $x=2$ then the value is 19.', 'We get 19 as the value of $f(3)$.',
         ],
         [
            'The area of triangle $DEF$ is 18.', 'There are 18 ways to choose $19$.',
         ]),
    ],
    'labels without a colon': [
        ('7',
         [
            'Answer $7$.', 'Answer 7.', 'Answer\n7', 'Answer:\n\n7', '$$7$$', '\\[7\\]',
            'The result\n$$\n7\n$$', 'The sum is $$7$$.', 'Answer is 7', 'Ans 7', 'ANSWER 7',
            'Final answer 7', 'The answer\n\n$7$', 'Answer: $$ 7 $$', 'answer=7', 'Answer -> 7',
            'Answer ⇒ 7',
         ],
         [
            'Answer $8$.', 'Answer 8', '$$\n8\n$$', 'Answer 7 or 8', 'Answer not 7',
            '$$\n7\n$$\n$$\n8\n$$',
         ]),
    ],
    'x is the answer': [
        ('x > 3',
         [
            'Hence $x > 3$ is the solution.', 'Therefore, $x>3$ is our answer.',
            'The solution is x > 3.', 'So $x \\gt 3$.', 'The solution set is $x>3$.', 'Answer: x > 3',
            'The inequality holds for $x > 3$.', 'The answer is $(3,\\infty)$.',
         ],
         [
            'Hence $x \\ge 3$ is the solution.', 'Hence $x < 3$ is the answer.',
            'The solution is x > 4.', 'Hence $x>3$ is not the answer.',
         ]),
        ('11',
         [
            'Therefore $11$ is the answer.', 'Hence 11 is the final answer.', 'So 11 is our answer.',
            '$11$ is the correct answer.', '11 is the solution.', 'Thus, 11 is the desired result.',
            '11 is the required number.',
         ],
         [
            'Therefore $12$ is the answer.', '11 is not the answer.', '11 is the wrong answer.',
            '11 is an incorrect answer.', '11 is almost the answer.',
         ]),
    ],
    'lists of boxes': [
        ('(1,4),(2,5)',
         [
            '$\\boxed{(1,4)} \\quad \\text{and} \\quad \\boxed{(2,5)}$', '$\\boxed{(1,4),(2,5)}$',
            '$\\boxed{(2,5)}$ and $\\boxed{(1,4)}$', '\\boxed{\\{(1,4),(2,5)\\}}',
            '$\\boxed{(1,4) \\text{ and } (2,5)}$',
         ],
         [
            '$\\boxed{(1,4)}$', '$\\boxed{(4,1)} \\text{ and } \\boxed{(2,5)}$',
            '$\\boxed{(1,4)} \\text{ or } \\boxed{(2,5)}$',
         ]),
    ],
    'statements after a box': [
        ('30',
         [
            'Half is $\\boxed{15}$.\nThe final answer is $30$.',
            '\\boxed{15} pens each.\n**Final Answer: 30**', '\\boxed{15}\n#### 30',
            '\\boxed{15}\nAnswer: 30', '\\boxed{15} so the answer is 30.',
            'First \\boxed{15}. Then \\boxed{30}.', '\\boxed{30}. The answer is even.',
            '\\boxed{30}. The answer is correct.', '\\boxed{30}\nThe final answer is \\boxed{30}.',
         ],
         [
            'Half is $\\boxed{30}$.\nThe final answer is $15$.',
            '\\boxed{30} pens each.\n**Final Answer: 60**', '\\boxed{30}\n#### 60',
            'First \\boxed{30}. Then \\boxed{15}.',
         ]),
    ],
    'marks and units': [
        ('80',
         [
            'Sum: **80**', '####: 80', '#### **80**', 'Answer: 80<|endoftext|>',
            'Answer: 80<|im_end|>', 'Answer: 80</s>', 'Answer: 80<|eot_id|>',
            'Answer: 80<end_of_turn>', 'Answer: 80<｜end▁of▁sentence｜>', 'The result gives 80m².',
            'The area is 80 cm^2.', 'The area is 80 m<sup>2</sup>.', 'The speed is 80 km/h.',
            'It costs €80.', 'It costs 80€.', 'It costs £80.', 'It costs ¥80.', 'The total is $80.00.',
            '\\boxed{80 \\textbf{ meters}}', '\\boxed{80\\ \\mathrm{m}}', '\\boxed{80\\,\\text{cm}^3}',
            '\\boxed{80 ~\\text{m/s}}', '\\boxed{80\\text{ mph}}', 'The angle is 80°.',
            'The angle is 80^\\circ.', 'The temperature is 80°C.', 'It is 80%.',
         ],
         [
            'Sum: **81**', '####: 81', 'Answer: 81<|endoftext|>', 'The area is 180 m².',
         ]),
        ('\\frac{5}{4}',
         [
            '\\boxed{\\frac{5}{4}\\textbf{ meters}}', '\\boxed{\\frac54\\text{ m}}',
            '\\boxed{\\dfrac{5}{4}}', '\\boxed{1.25}', '\\boxed{\\frac{5}{4}\\ \\text{hours}}',
            '\\boxed{1\\frac14}', '\\boxed{5/4}',
         ],
         [
            '\\boxed{\\frac{4}{5}}', '\\boxed{\\frac{5}{4}\\text{ or }1}',
         ]),
    ],
    'reading': [
        ('\\frac{2\\pm\\sqrt{7}}{3}',
         [
            '\\boxed{\\frac{2 \\pm \\sqrt{7}}{3}}',
            '\\boxed{\\frac{2+\\sqrt7}{3},\\frac{2-\\sqrt7}{3}}', '\\boxed{x=\\frac{2\\pm\\sqrt7}{3}}',
            '\\boxed{\\frac23\\pm\\frac{\\sqrt7}{3}}',
            '\\boxed{\\frac{2-\\sqrt{7}}{3}\\text{ and }\\frac{2+\\sqrt{7}}{3}}',
            '\\boxed{\\left\\{\\frac{2\\pm\\sqrt7}3\\right\\}}',
         ],
         [
            '\\boxed{\\frac{2+\\sqrt7}{3}}', '\\boxed{\\frac{2\\pm\\sqrt5}{3}}',
            '\\boxed{\\frac{-2\\pm\\sqrt7}{3}}',
         ]),
        ('|AB|=6',
         [
            '\\boxed{6}', '\\boxed{|AB|=6}', '\\boxed{AB=6}', '\\boxed{|AB| = 6}',
         ],
         [
            '\\boxed{-6}', '\\boxed{|AB|=5}', '\\boxed{7}',
         ]),
        ('f(3)=10',
         [
            '\\boxed{10}', '\\boxed{f(3)=10}', '\\boxed{f(3) = 10}',
         ],
         [
            '\\boxed{3}', '\\boxed{f(3)=11}', '\\boxed{f(10)=3}',
         ]),
        ('\\sin B=\\frac35',
         [
            '\\boxed{\\frac35}', '\\boxed{0.6}', '\\boxed{\\sin B = 0.6}',
         ],
         [
            '\\boxed{\\frac45}', '\\boxed{\\frac53}',
         ]),
        ('\\frac{PQ}{RS}=\\frac{1}{3}',
         [
            '\\boxed{\\frac13}', '\\boxed{1/3}',
         ],
         [
            '\\boxed{3}', '\\boxed{\\frac23}',
         ]),
        ('a_{10}=55',
         [
            '\\boxed{55}', '\\boxed{a_{10}=55}',
         ],
         [
            '\\boxed{10}', '\\boxed{54}',
         ]),
        ('S_{\\triangle ABC}=12',
         [
            '\\boxed{12}',
         ],
         [
            '\\boxed{13}',
         ]),
        ('P(A)=\\frac{3}{8}',
         [
            '\\boxed{\\frac38}', '\\boxed{0.375}',
         ],
         [
            '\\boxed{\\frac58}',
         ]),
        ('AB=5\\sqrt2',
         [
            '\\boxed{5\\sqrt{2}}', '\\boxed{\\sqrt{50}}',
         ],
         [
            '\\boxed{5}', '\\boxed{2\\sqrt5}',
         ]),
        ('\\angle ABC=40^\\circ',
         [
            '\\boxed{40}', '\\boxed{40^\\circ}', '\\boxed{40 degrees}',
         ],
         [
            '\\boxed{50^\\circ}',
         ]),
        ('(a+b)^2=a^2+2ab+b^2',
         [
            '\\boxed{(a+b)^2=a^2+2ab+b^2}', '\\boxed{a^2+2ab+b^2=(a+b)^2}',
         ],
         [
            '\\boxed{(a-b)^2=a^2-2ab+b^2}', '\\boxed{a^2+b^2}',
         ]),
        ('x \\neq -2',
         [
            '\\boxed{x != -2}', '\\boxed{x\\ne-2}', '\\boxed{x ≠ -2}', '\\boxed{x\\not=-2}',
         ],
         [
            '\\boxed{x \\neq 2}', '\\boxed{x=-2}',
         ]),
        ('\\{2,4,8\\}',
         [
            '\\boxed{{2,4,8}}', '\\boxed{2,4,8}', '\\boxed{\\{8,4,2\\}}',
            '\\boxed{\\lbrace 2,4,8\\rbrace}',
         ],
         [
            '\\boxed{{2,4}}', '\\boxed{(2,4,8)}',
         ]),
        ('3500',
         [
            '\\boxed{3 500}', '\\boxed{3~500}', '\\boxed{3\\,500}', '\\boxed{3,500}',
            '\\boxed{3500.0}', '\\boxed{3500.00}', 'The total is 3 500.', 'The total is 3~500.',
            'The total is 3,500 dollars.', 'So it costs $3,500.', 'We need 3 500 kg.',
         ],
         [
            '\\boxed{3 50}', '\\boxed{35 00}', '\\boxed{3.5}', '\\boxed{3,50}', 'The total is 3 501.',
            'The total is 500.', 'The total is 3.',
         ]),
        ('\\sqrt[3]{x^4}',
         [
            '\\boxed{x^{4/3}}', '\\boxed{x\\sqrt[3]{x}}',
         ],
         [
            '\\boxed{x^{3/4}}',
         ]),
        ('y=\\sin x',
         [
            '\\boxed{\\sin x}', '\\boxed{y = \\sin(x)}',
         ],
         [
            '\\boxed{\\cos x}', '\\boxed{y=\\sin 2x}',
         ]),
        ('12\\text{ cm}^2',
         [
            '\\boxed{12}', '\\boxed{12\\text{ cm}^2}', '\\boxed{12 cm^2}',
            '\\boxed{12\\,\\mathrm{cm}^2}', '\\boxed{12 square centimeters}',
            '\\boxed{12\\text{ sq cm}}',
         ],
         [
            '\\boxed{12\\text{ cm}}', '\\boxed{12\\text{ m}^2}', '\\boxed{13}',
         ]),
    ],
    'texts': [
        ('x=3 是方程的解',
         [
            '\\boxed{x=3 是方程的解}', '\\boxed{x=3  是方程的解}',
         ],
         [
            '\\boxed{x=5 是方程的解}',
         ]),
        ('\\frac{x^2}{4}+\\frac{y^2}{3}=1 (x>0)',
         [
            '\\boxed{\\frac{x^2}{4}+\\frac{y^2}{3}=1 (x>0)}',
            '\\boxed{\\frac{x^2}{4}+\\frac{y^2}{3}=1  (x>0)}',
         ],
         [
            '\\boxed{\\frac{x^2}{4}+\\frac{y^2}{5}=1 (x>0)}',
         ]),
        ('\\text{when }n\\text{ is even}',
         [
            '\\boxed{\\text{when }n\\text{ is even}}', '\\boxed{\\text{when  }n\\text{  is  even}}',
         ],
         [
            '\\boxed{\\text{when }n\\text{ is odd}}',
         ]),
        ('f \\circ g = g \\circ f',
         [
            '\\boxed{f \\circ g = g \\circ f}', '\\boxed{f  \\circ  g  =  g  \\circ  f}',
         ],
         [
            '\\boxed{f \\circ g = f}',
         ]),
    ],
    'bounds and fragments': [
        ('12',
         [],
         [
            'The answer is $\\ge 12$.', 'The answer is $\\le 12$.', 'The answer is $> 12$.',
            'Answer: $\\geq 12$', '\\boxed{\\ge 12}', '\\boxed{>12}', '\\boxed{x\\ge12}',
            '\\boxed{\\approx 12.1}', '\\boxed{12+}', '\\boxed{12-}', '\\boxed{12/}', '\\boxed{12=}',
            '\\boxed{=}', '\\boxed{12^}', '\\boxed{\\frac{12}}', '\\boxed{12\\pm1}', '\\boxed{\\pm12}',
            '\\boxed{12 \\ldots}', '\\boxed{12,...}', '\\boxed{...12}', '\\boxed{12\\text{?}}',
            '\\boxed{12?}', '\\boxed{12!}', '\\boxed{12i}', '\\boxed{12x}', '\\boxed{\\sum 12}',
            '\\boxed{\\int 12}', '\\boxed{\\lim 12}', '\\boxed{12\\in A}', '\\boxed{\\neq12}',
            '\\boxed{\\text{not }12}', '\\boxed{12\\text{ or }13}', '\\boxed{12\\text{ or more}}',
            '\\boxed{1{2}3}', '\\boxed{12\\%\\text{ of }50}', '\\boxed{12_3}',
         ]),
    ],
    'equations in words': [
        ('10',
         [
            'Then x = 10.', 'Hence a + b = 10.', 'So m+n = 10.',
         ],
         [
            'Then 2x = 10.', 'So 3x + 2 = 10.', 'Then x - 4 = 10.', 'We get x^2 = 10.',
            'Thus 2a + b = 10.', 'Since x = 10, we are done? No.',
         ]),
        ('5',
         [
            'Then 2x = 10, so x = 5.', 'Then 2x = 10 and x = 5.', '2x = 10\nx = 5',
         ],
         []),
    ],
    'counts': [
        ('84',
         [
            'There are 84 ways to choose 3 of the 9 people.',
            'Thus there are 84 ways to pick 3 of them.', 'There are exactly 84 numbers less than 100.',
            'So there are 84 integers between 1 and 500.',
            'Therefore, there are $84$ subsets of size $3$.', 'There are 84 cats and dogs in total.',
            'There are 80 + 4 = 84 of them.', 'There are 42 pairs, so 84 socks.',
            'There are 42 pairs, which makes 84 socks.',
         ],
         [
            'There are 83 ways to choose 84 of them.', 'There are 84 boys and 20 girls.',
            'There are 20 boys and 84 girls.', 'There are 84 or 85 ways.',
            'There are at least 84 ways.',
         ]),
    ],
    'reasons': [
        ('12',
         [
            'The total is 12 because 5 + 7 = 12.', 'The perimeter is 12 since each side is 3.',
            'She has 12 apples, because 4 * 3 = 12.', 'So there are 12, as 24/2 = 12.',
            'The length is 12, since 5^2+... is known.',
         ],
         [
            'The total is 11 because she has 12 bags.',
            'The probability is 1/4 since there are 12 cards.',
         ]),
    ],
    'powers of ten': [
        ('4.7\\times10^{9}',
         [
            'The distance is 4.7 × 10^9 km.', 'So the population is 4.7 x 10^9.',
            'It is $4.7 \\times 10^9$.', 'The total is 4.7 * 10^9.', 'The answer is 4.7×10⁹.',
            'There are 4.7 billion of them.', 'The population is 4.7 billion people.',
         ],
         [
            'The distance is 4.7 × 10^8 km.', 'The total is 10^9.', 'The total is 4.7.',
            'It is 4.7 million.',
         ]),
        ('3\\times10^{-4}',
         [
            'The answer is 3 × 10^{-4}.', 'The probability is 3 x 10^-4.', 'It equals 3×10⁻⁴.',
         ],
         [
            'The answer is 3 × 10^4.',
         ]),
    ],
    'corrections': [
        ('13',
         [
            'So x = 12. Wait, that is wrong: x = 13.',
            'x = 12. That is incorrect; the correct value is 13.',
         ],
         [
            'x = 13. That is wrong.', 'It is 13. That is incorrect; we need more data.',
            'It is 12. That is wrong because 13 is prime.',
         ]),
    ],
    'quoted lines': [
        ('7',
         [
            '> The answer is 7.', '> **7**', '> Answer: 7',
         ],
         [
            '> 7', 'x > 7', 'Answer: > 7',
         ]),
    ],
    'units': [
        ('7',
         [
            'The angle is 7^{\\circ}.', 'It is 7 cm^{2}.', 'It is 7\\%.',
         ],
         [
            'It is 7^2.', 'It is 7^{x}.', 'It is $7^2$.',
         ]),
        ('15\\text{ m/s}',
         [
            '\\boxed{15}', '\\boxed{15 m/s}', '\\boxed{15\\,\\mathrm{m/s}}',
            '\\boxed{15\\text{ meters per second}}',
         ],
         [
            '\\boxed{15\\text{ km/h}}', '\\boxed{16}', '\\boxed{15\\text{ m}}',
         ]),
        ('3\\text{ hours}',
         [
            '\\boxed{3}', '\\boxed{3 h}', '\\boxed{3\\text{ hr}}', '\\boxed{3\\text{ hours}}',
         ],
         [
            '\\boxed{3\\text{ minutes}}', '\\boxed{3\\text{ days}}', '\\boxed{180}',
         ]),
        ('25\\text{ cents}',
         [
            '\\boxed{25}', '\\boxed{25\\text{ cents}}',
         ],
         [
            '\\boxed{25\\text{ dollars}}',
         ]),
        ('72^\\circ',
         [
            '\\boxed{72}', '\\boxed{72^\\circ}', '\\boxed{72 degrees}', '\\boxed{72^{\\circ}}',
         ],
         [
            '\\boxed{72\\text{ radians}}', '\\boxed{73}', '\\boxed{72\\%}',
         ]),
        ('\\frac{\\pi}{3}',
         [
            '\\boxed{\\frac{\\pi}{3}}', '\\boxed{\\pi/3}', '\\boxed{\\frac{1}{3}\\pi}',
         ],
         [
            '\\boxed{60}', '\\boxed{\\frac{\\pi}{6}}',
         ]),
        ('100',
         [
            '\\boxed{100\\text{ students}}', '\\boxed{100 people}', '\\boxed{100\\text{ square feet}}',
            '\\boxed{100\\ \\text{ways}}', '\\boxed{100~\\text{cm}}', '\\boxed{\\text{100 ways}}',
         ],
         [
            '\\boxed{100\\text{ thousand}}', '\\boxed{100\\text{ or }101}',
            '\\boxed{100\\%\\text{ of }2}',
         ]),
    ],
    'ellipses': [
        ('1,2,3',
         [
            '\\boxed{1,2,3}', '\\boxed{1, 2, 3.}',
         ],
         [
            '\\boxed{1,2,3,...}', '\\boxed{1,2,3,\\ldots}', '\\boxed{1,2,…}',
         ]),
        ('12',
         [
            '\\boxed{12.}', '\\boxed{12 .}', '\\boxed{12;}',
         ],
         [
            '\\boxed{12,…}', '\\boxed{12,\\ldots}', '\\boxed{12\\ldots}', '\\boxed{12\\cdots}',
            '\\boxed{12\\text{!?}}', '\\boxed{12\\text{?}}',
         ]),
    ],
    'points': [
        ('(1,5),(2,6)',
         [
            '\\boxed{x=1,y=5;x=2,y=6}', '\\boxed{x=1,y=5 \\text{ or } x=2,y=6}',
            '\\boxed{(x,y)=(1,5),(2,6)}', '\\boxed{(2,6),(1,5),(1,5)}', '\\boxed{\\{(1,5),(2,6)\\}}',
         ],
         [
            '\\boxed{x=1,y=5;x=2,y=7}', '\\boxed{x=5,y=1;x=6,y=2}', '\\boxed{(1,5),(2,6),(3,7)}',
            '\\boxed{(1,5),(1,5)}', '\\boxed{(y,x)=(1,5),(2,6)}',
         ]),
        ('(2,-1,0)',
         [
            '\\boxed{(2,-1,0)}', '\\boxed{\\left(2,-1,0\\right)}', '\\boxed{(x,y,z)=(2,-1,0)}',
         ],
         [
            '\\boxed{(2,-1)}', '\\boxed{(-1,2,0)}', '\\boxed{2,-1,0,0}', '\\boxed{[2,-1,0]}',
         ]),
    ],
    'repeated solutions': [
        ('1,2',
         [
            '\\boxed{1,2,2}', '\\boxed{2,1,1}',
         ],
         [
            '\\boxed{1,1}', '\\boxed{2,2,2}', '\\boxed{1,2,3}',
         ]),
        ('1,1,2',
         [
            '\\boxed{1,1,2}', '\\boxed{2,1,1}',
         ],
         [
            '\\boxed{1,2}', '\\boxed{1,2,2}',
         ]),
    ],
    'chains': [
        ('x=7',
         [
            '\\boxed{x=3+4=7}', '\\boxed{x = 1+2+4 = 7}', '\\boxed{x = 8 = 7}',
         ],
         [
            '\\boxed{x=7=8}', '\\boxed{x = 3+4 = 8}',
         ]),
    ],
    'commands escaped twice': [
        ('\\frac{3}{7}',
         [
            '\\boxed{\\\\frac{3}{7}}', '\\boxed{\\\\dfrac{3}{7}}',
         ],
         [
            '\\boxed{\\\\frac{7}{3}}',
         ]),
    ],
    'lengths': [
        ('BC=4',
         [
            '\\boxed{|BC|=4}', '\\boxed{\\overline{BC}=4}', '\\boxed{4}', '\\boxed{BC=4}',
         ],
         [
            '\\boxed{AC=4}', '\\boxed{BC=5}', '\\boxed{5}',
         ]),
    ],
    'matrices': [
        ('\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}',
         [
            '\\boxed{\\left[\\begin{array}{cc}1&2\\\\3&4\\end{array}\\right]}',
            '\\boxed{\\left(\\begin{array}{cc}1&2\\\\3&4\\end{array}\\right)}',
            '\\boxed{\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}}',
         ],
         [
            '\\boxed{\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}}',
         ]),
    ],
    'known faults of other checkers': [
        ('4x-2y+13=0',
         [
            '\\boxed{4x-2y+13=0}', '\\boxed{y=2x+6.5}',
         ],
         [
            '\\boxed{4x+3y+14=0}', '\\boxed{4x-2y=13}',
         ]),
        ('\\frac{1}{3004!}',
         [
            '\\boxed{\\frac{1}{3004!}}',
         ],
         [
            '\\boxed{\\frac{1}{3006!}}',
         ]),
        ('m=2, 5, 9',
         [
            '\\boxed{m=2,5,9}', '\\boxed{2,5,9}',
         ],
         [
            '\\boxed{m=1,5,9}', '\\boxed{2,5}', '\\boxed{m=2,5,10}',
         ]),
        ('D=(0,3)',
         [
            '\\boxed{(0,3)}', '\\boxed{D=(0,3)}',
         ],
         [
            '\\boxed{D=(0,3.5)}', '\\boxed{(0,4)}',
         ]),
        ('17, 46, \\text{ and } 92',
         [
            '\\boxed{17,46,92}', '\\boxed{17, 46 and 92}',
         ],
         [
            '\\boxed{21, 46, and 92}', '\\boxed{92}',
         ]),
        ('\\frac{2^{1005}+1}{3\\cdot2^{1006}}',
         [
            '\\boxed{\\frac{1+2^{1005}}{3\\cdot2^{1006}}}',
         ],
         [
            '\\boxed{\\frac{1}{3\\cdot2^{1006}}}', '\\boxed{\\frac16}',
         ]),
        ('\\pm 1921',
         [
            '\\boxed{\\pm1921}', '\\boxed{1921,-1921}',
         ],
         [
            '\\boxed{1921}', '\\boxed{-1921}',
         ]),
        ('11:00',
         [
            '\\boxed{11:00}',
         ],
         [
            '\\boxed{1:00}', '\\boxed{11}', '\\boxed{11:30}',
         ]),
        ('1,2,\\ldots,n',
         [
            '\\boxed{1,2,\\ldots,n}', '\\boxed{1, 2, \\ldots , n}',
         ],
         [
            '\\boxed{1,3,5,\\ldots,2n-1}', '\\boxed{1,2,n}', '\\boxed{n}',
         ]),
        ('1 \\pm \\sqrt{17}',
         [
            '\\boxed{1+\\sqrt{17}, 1-\\sqrt{17}}',
         ],
         [
            '\\boxed{1+\\sqrt{17}}',
         ]),
        ('12',
         [],
         [
            '\\boxed{12^{\\text{th}} \\text{ or } 13}',
         ]),
        ('\\text{(C)}',
         [
            '\\boxed{C}', '\\boxed{(C)}',
         ],
         [
            '\\boxed{D}',
         ]),
        ('864 \\mbox{ inches}^2',
         [
            '\\boxed{864}', '\\boxed{864\\text{ in}^2}',
         ],
         [
            '\\boxed{864\\text{ in}}', '\\boxed{865}',
         ]),
        ('\\frac{9+7a}{20}',
         [
            '\\boxed{\\dfrac{7a+9}{20}}',
         ],
         [
            '\\boxed{\\frac{7a-9}{20}}',
         ]),
        ('4',
         [],
         [
            '\\boxed{4\\sqrt(2)}', '\\boxed{4\\sqrt2}',
         ]),
        ('\\tan^2(y)+1',
         [
            '\\boxed{\\sec^2(y)}', '\\boxed{\\sec^2 y}',
         ],
         [
            '\\boxed{\\sec^2(x)}', '\\boxed{\\sec(y)}',
         ]),
        ('34x+45y-20z+100=0',
         [
            '\\boxed{-34x-45y+20z-100=0}',
         ],
         [
            '\\boxed{34x+45y-20z-100=0}',
         ]),
        ('9500',
         [
            '\\boxed{$9{,}500}', '\\boxed{\\$9{,}500}', '\\boxed{9,500}', '\\boxed{\\$9,500.00}',
         ],
         [
            '\\boxed{500}', '\\boxed{9.5}',
         ]),
    ],
    'sentences of word problems': [
        ('72',
         [
            'The total is 72 clips, altogether.', 'The answer is 72, which is the total.',
            'The answer is 72, in total, so the farmer earns that much.',
            "The answer is 72. Then I'm done.", 'The total comes to 72 dollars, she said.',
            "In total that's 72.", 'Altogether, Natalia sold 72 clips, in April and May.',
            'She sold 72 clips (48 in April and 24 in May).', 'The final value is 72.00.',
            'That makes 72 in all.',
         ],
         [
            'The total is 71 clips, altogether.',
            'She sold 48 clips in April and 24 in May, a total of 73.',
            'The answer is 27, which is the total.', '#### 72\n\nQ: How many?\nA: #### 5',
         ]),
    ],
    'layouts of a final answer': [
        ('73',
         [
            'Thus, the number of residents who own all four is **73**.\n\n---\n\n✅ Final Answer: **73**',
            '**Final Answer**\n\n$$\\boxed{73}$$', 'Final Answer: 73 ✅', '### Answer: 73',
            '---\n**73**', 'Answer:\n```\n73\n```', 'The answer is:\n\n- 73',
            '1. First 70.\n2. Then 3.\n3. So 73.', '<answer>\n73\n</answer>',
            '<answer>The answer is 73.</answer>', '<answer>\\boxed{73}</answer>',
            '\\text{Final Answer: } 73', '$\\text{The answer is } 73$', 'The answer is $\\text{73}$.',
         ],
         [
            '<answer>74</answer> 73', '✅ Final Answer: **74**', 'Final answer: 73?? or 74',
         ]),
        ('45',
         [
            '| total | 45 |\n\nThe answer is 45.', '- Total: 45', '* Answer: 45',
            '1) The answer is 45', '(Answer: 45)', '[Answer: 45]', '{"answer": 45}', 'answer: "45"',
            '<p>The answer is 45</p>', 'The answer is<br>45', 'Answer:\t45', 'ANSWER IS 45',
            'So the answer is\n45', 'So the answer is\n\n45.\n', 'The answer is $45$ .',
            'The answer is 45 .', 'The answer is:45', 'The answer is 45', 'Final Answer: \\(45\\).',
            'Final Answer: \\[45\\]', 'Therefore the final answer is $\\boxed{45}$', 'Thus $$x=45.$$',
            '$x=45$.', 'x=45', 'x = 45 .', '= 45', '45', '$45$', '\\(45\\)', '**45**.',
            'The answer is 45! Great.', 'The answer is forty-five.', 'The answer is (45).',
            'The answer is [45].', 'Answer: (45)', 'The answer is 45 (forty-five).',
            'The answer, therefore, is 45.', 'The answer I get is 45.', 'My final answer: 45',
            'I get 45.', 'I got 45.', "It's 45.", 'That gives us 45.', 'This leaves 45.',
            'We have 45 left.', 'Hence, 45.', 'So 45 it is.', 'So, the answer must be 45.',
            'The correct answer should be 45.', 'The required value is therefore 45.', 'Sum = 45',
            'Total: $45', 'Total cost = $45.00', 'Cost: 45 dollars', 'Janet makes $45 a day.',
            'They need 45 more minutes.', '45 apples are left.', '45 is what remains.',
            'Only 45 remain.', 'She is 45 years old.', 'In 5 years, she will be 45.',
            'After 3 hours, 45 are left.', 'Of the 100, 45 are red.', '45 out of 100 are red.',
         ],
         [
            '- Total: 46', 'The answer is 45.5', 'The answer is 4.5', 'The answer is 450',
            'The answer is -45', 'The answer is 45/2', 'The answer is 45^2', 'The answer is 45+1',
            'The answer is 2*45', 'The answer is between 45 and 46', 'The answer is 45 to 50',
            'The answer is 45-50', 'The answer is 45, 46', 'The answer is around 45 or 46',
            'It is not 45.', '45 is too big.', 'Is it 45?', 'Could it be 45?',
            "If it were 45, it'd be odd.", "The answer isn't 45.", "The answer can't be 45.",
            'The answer cannot be 45.', 'The answer is less than 45.', 'The answer exceeds 45.',
            'The answer is < 45', 'The answer is ≤ 45', 'The answer is 45 or fewer',
            'The answer is up to 45', 'The answer is about step 45', 'I guess 45 is wrong',
            'It would be 45 if x were 3.', 'Suppose the answer is 45? Then no.',
         ]),
    ],
    'languages': [
        ('38',
         [
            'La réponse est 38.', 'Donc x = 38.', 'Il reste donc 38 euros.', 'Réponse finale : 38',
            'Die Antwort ist 38.', 'Also ist x = 38.', 'Es bleiben also 38 Euro übrig.',
            'Endergebnis: 38', 'La respuesta es 38.', 'Entonces x = 38.',
            'Por lo tanto quedan 38 euros.', 'Respuesta final: 38', 'La risposta è 38.',
            'Quindi x = 38.', 'Quindi restano 38 euro.', 'Risposta finale: 38', 'A resposta é 38.',
            'Portanto x = 38.', 'Logo restam 38 reais.', 'Resposta final: 38', 'Ответ: 38.',
            'Значит, x = 38.', 'Следовательно, осталось 38 рублей.', 'Окончательный ответ: 38',
            '答えは38です。', 'よって x = 38。', 'したがって、残りは38円です。', '最終的な答え：38', '답은 38입니다.', '따라서 x = 38.',
            '그러므로 남은 것은 38개입니다.', '최종 답: 38', 'Het antwoord is 38.', 'Dus x = 38.',
            'Er blijven dus 38 euro over.', 'Eindantwoord: 38',
         ],
         [
            "La réponse n'est pas 38.", 'Je ne sais pas, voir page 38.', 'La réponse est 39.',
            'Donc x = 39.', 'Il reste donc 39 euros.', 'Réponse finale : 39',
            'Die Antwort ist nicht 38.', 'Ich weiß es nicht, siehe Seite 38.', 'Die Antwort ist 39.',
            'Also ist x = 39.', 'Es bleiben also 39 Euro übrig.', 'Endergebnis: 39',
            'La respuesta no es 38.', 'No lo sé, véase la página 38.', 'La respuesta es 39.',
            'Entonces x = 39.', 'Por lo tanto quedan 39 euros.', 'Respuesta final: 39',
            'La risposta non è 38.', 'Non lo so, vedi pagina 38.', 'La risposta è 39.',
            'Quindi x = 39.', 'Quindi restano 39 euro.', 'Risposta finale: 39', 'A resposta não é 38.',
            'Não sei, ver página 38.', 'A resposta é 39.', 'Portanto x = 39.', 'Logo restam 39 reais.',
            'Resposta final: 39', 'Ответ не 38.', 'Не знаю, см. страницу 38.', 'Ответ: 39.',
            'Значит, x = 39.', 'Следовательно, осталось 39 рублей.', 'Окончательный ответ: 39',
            '答えは38ではありません。', 'わかりません。38ページを参照。', '答えは39です。', 'よって x = 39。', 'したがって、残りは39円です。',
            '最終的な答え：39', '답은 38이 아닙니다.', '모르겠습니다. 38페이지 참조.', '답은 39입니다.', '따라서 x = 39.',
            '그러므로 남은 것은 39개입니다.', '최종 답: 39', 'Het antwoord is niet 38.',
            'Ik weet het niet, zie pagina 38.', 'Het antwoord is 39.', 'Dus x = 39.',
            'Er blijven dus 39 euro over.', 'Eindantwoord: 39',
         ]),
        ('1204',
         [
            'La réponse est 1204.', 'Donc x = 1204.', 'Il reste donc 1204 euros.',
            'Réponse finale : 1204', 'Die Antwort ist 1204.', 'Also ist x = 1204.',
            'Es bleiben also 1204 Euro übrig.', 'Endergebnis: 1204', 'La respuesta es 1204.',
            'Entonces x = 1204.', 'Por lo tanto quedan 1204 euros.', 'Respuesta final: 1204',
            'La risposta è 1204.', 'Quindi x = 1204.', 'Quindi restano 1204 euro.',
            'Risposta finale: 1204', 'A resposta é 1204.', 'Portanto x = 1204.',
            'Logo restam 1204 reais.', 'Resposta final: 1204', 'Ответ: 1204.', 'Значит, x = 1204.',
            'Следовательно, осталось 1204 рублей.', 'Окончательный ответ: 1204', '答えは1204です。',
            'よって x = 1204。', 'したがって、残りは1204円です。', '最終的な答え：1204', '답은 1204입니다.', '따라서 x = 1204.',
            '그러므로 남은 것은 1204개입니다.', '최종 답: 1204', 'Het antwoord is 1204.', 'Dus x = 1204.',
            'Er blijven dus 1204 euro over.', 'Eindantwoord: 1204',
         ],
         [
            "La réponse n'est pas 1204.", 'Je ne sais pas, voir page 1204.', 'La réponse est 1205.',
            'Donc x = 1205.', 'Il reste donc 1205 euros.', 'Réponse finale : 1205',
            'Die Antwort ist nicht 1204.', 'Ich weiß es nicht, siehe Seite 1204.',
            'Die Antwort ist 1205.', 'Also ist x = 1205.', 'Es bleiben also 1205 Euro übrig.',
            'Endergebnis: 1205', 'La respuesta no es 1204.', 'No lo sé, véase la página 1204.',
            'La respuesta es 1205.', 'Entonces x = 1205.', 'Por lo tanto quedan 1205 euros.',
            'Respuesta final: 1205', 'La risposta non è 1204.', 'Non lo so, vedi pagina 1204.',
            'La risposta è 1205.', 'Quindi x = 1205.', 'Quindi restano 1205 euro.',
            'Risposta finale: 1205', 'A resposta não é 1204.', 'Não sei, ver página 1204.',
            'A resposta é 1205.', 'Portanto x = 1205.', 'Logo restam 1205 reais.',
            'Resposta final: 1205', 'Ответ не 1204.', 'Не знаю, см. страницу 1204.', 'Ответ: 1205.',
            'Значит, x = 1205.', 'Следовательно, осталось 1205 рублей.', 'Окончательный ответ: 1205',
            '答えは1204ではありません。', 'わかりません。1204ページを参照。', '答えは1205です。', 'よって x = 1205。',
            'したがって、残りは1205円です。', '最終的な答え：1205', '답은 1204이 아닙니다.', '모르겠습니다. 1204페이지 참조.', '답은 1205입니다.',
            '따라서 x = 1205.', '그러므로 남은 것은 1205개입니다.', '최종 답: 1205', 'Het antwoord is niet 1204.',
            'Ik weet het niet, zie pagina 1204.', 'Het antwoord is 1205.', 'Dus x = 1205.',
            'Er blijven dus 1205 euro over.', 'Eindantwoord: 1205',
         ]),
    ],
    'hedging': [
        ('6',
         [],
         [
            '6 or 7', '\\boxed{6 or 7}', '\\boxed{6, 7}', '\\boxed{6/7}', 'The answer is 6, or 7.',
            'Either 6 or 7.', 'The answer could be 6 or 7.', 'It is 6 (or 7).', '6? 7?',
            "I'd say 6, maybe 7.", 'The answer is 7 or 6.', 'Answer: 6 / 7', 'Answer: 6; 7',
            'Answer: 6 and 7', '\\boxed{6} \\boxed{7}', '\\boxed{7} \\boxed{6}',
            '\\boxed{6}\\boxed{7}', '<answer>6</answer><answer>7</answer>', '<answer>6 or 7</answer>',
            'The answer is 6. Or 7.', 'Answer: 6\nor\nAnswer: 7', '6\n7', '- 6\n- 7',
            '\\boxed{6}, alternatively \\boxed{7}', '\\boxed{\\{6,7\\}}', '\\boxed{6\\lor7}',
            '\\boxed{6|7}', '\\boxed{[6,7]}', '\\boxed{6\\text{-}7}', '\\boxed{6-7}',
            '\\boxed{6\\ldots7}', '\\boxed{6\\to7}', '\\boxed{67}', '\\boxed{6 7}', '\\boxed{x=6,7}',
            '\\boxed{6=7}', '\\boxed{7=6}', '\\boxed{6\\neq7}', '\\boxed{6<7}',
            '\\boxed{\\min(6,7),7}', '\\boxed{6\\text{ if lucky}}', '\\boxed{6\\ (7)}',
         ]),
    ],
    'numbers': [
        ('\\frac{22}{7}',
         [
            '\\boxed{22/7}', '\\boxed{3\\frac17}', '\\boxed{3\\frac{1}{7}}', '\\boxed{\\tfrac{22}7}',
            '\\boxed{\\frac{44}{14}}',
         ],
         [
            '\\boxed{3.14}', '\\boxed{3.142857}', '\\boxed{\\pi}', '\\boxed{\\frac{7}{22}}',
         ]),
        ('-\\frac{5}{6}',
         [
            '\\boxed{\\frac{-5}{6}}', '\\boxed{\\frac{5}{-6}}', '\\boxed{-5/6}',
            '\\boxed{-0.8\\overline{3}}',
         ],
         [
            '\\boxed{\\frac56}', '\\boxed{-\\frac65}', '\\boxed{-0.83}',
         ]),
        ('0.125',
         [
            '\\boxed{\\frac18}', '\\boxed{12.5\\%}', '\\boxed{.125}', '\\boxed{1/8}',
            '\\boxed{0.1250}',
         ],
         [
            '\\boxed{0.12}', '\\boxed{1.25\\%}', '\\boxed{125}',
         ]),
        ('1{,}234{,}567',
         [
            '\\boxed{1234567}', '\\boxed{1,234,567}', '\\boxed{1 234 567}',
         ],
         [
            '\\boxed{1234}', '\\boxed{1.234567}', '\\boxed{1,234}',
         ]),
        ('2^{10}',
         [
            '\\boxed{1024}', '\\boxed{2^{10}}', '\\boxed{1,024}', '\\boxed{4^5}',
         ],
         [
            '\\boxed{20}', '\\boxed{2^{11}}', '\\boxed{1000}',
         ]),
        ('\\sqrt[3]{54}',
         [
            '\\boxed{3\\sqrt[3]{2}}', '\\boxed{54^{1/3}}',
         ],
         [
            '\\boxed{3\\sqrt2}', '\\boxed{3.78}', '\\boxed{3\\sqrt[3]{3}}',
         ]),
        ('2+\\sqrt3',
         [
            '\\boxed{\\sqrt3+2}', '\\boxed{\\frac{1}{2-\\sqrt3}}', '\\boxed{\\sqrt{7+4\\sqrt3}}',
         ],
         [
            '\\boxed{2-\\sqrt3}', '\\boxed{3.732}', '\\boxed{2\\sqrt3}',
         ]),
        ('i\\sqrt{5}',
         [
            '\\boxed{\\sqrt{5}i}', '\\boxed{\\sqrt{-5}}',
         ],
         [
            '\\boxed{\\sqrt5}', '\\boxed{-i\\sqrt5}',
         ]),
        ('\\cos 36^\\circ',
         [
            '\\boxed{\\frac{1+\\sqrt5}{4}}', '\\boxed{\\sin 54^\\circ}',
         ],
         [
            '\\boxed{\\cos 54^\\circ}', '\\boxed{0.809}',
         ]),
        ('\\ln 8',
         [
            '\\boxed{3\\ln 2}', '\\boxed{\\log_e 8}',
         ],
         [
            '\\boxed{2\\ln 3}', '\\boxed{\\log_{10} 8}',
         ]),
    ],
    'expressions': [
        ('2x^2-3x+1',
         [
            '\\boxed{1-3x+2x^2}', '\\boxed{(2x-1)(x-1)}', '\\boxed{y=2x^2-3x+1}',
         ],
         [
            '\\boxed{2x^2+3x+1}', '\\boxed{2x^2-3x}', '\\boxed{(2x+1)(x-1)}',
         ]),
        ('\\frac{x+1}{x-1}',
         [
            '\\boxed{1+\\frac{2}{x-1}}', '\\boxed{\\frac{-x-1}{1-x}}',
         ],
         [
            '\\boxed{\\frac{x-1}{x+1}}', '\\boxed{1}',
         ]),
        ('n(n+1)/2',
         [
            '\\boxed{\\frac{n^2+n}{2}}', '\\boxed{\\binom{n+1}{2}}', '\\boxed{\\frac{n(n+1)}2}',
         ],
         [
            '\\boxed{\\frac{n(n-1)}2}', '\\boxed{\\binom n2}', '\\boxed{n^2/2}',
         ]),
        ('2^{n+1}-2',
         [
            '\\boxed{2(2^n-1)}', '\\boxed{2\\cdot2^n-2}',
         ],
         [
            '\\boxed{2^{n+1}-1}', '\\boxed{2^n}',
         ]),
        ('(-1)^n n!',
         [
            '\\boxed{n!(-1)^n}', '\\boxed{(-1)^{n}\\cdot n!}',
         ],
         [
            '\\boxed{n!}', '\\boxed{(-1)^{n+1}n!}',
         ]),
        ('\\sin^2\\theta',
         [
            '\\boxed{1-\\cos^2\\theta}', '\\boxed{(\\sin\\theta)^2}',
         ],
         [
            '\\boxed{\\cos^2\\theta}', '\\boxed{\\sin\\theta^2}',
         ]),
        ('e^{2x}',
         [
            '\\boxed{(e^x)^2}', '\\boxed{\\exp(2x)}', '\\boxed{\\mathrm{e}^{2x}}',
         ],
         [
            '\\boxed{e^{x^2}}', '\\boxed{2e^x}',
         ]),
    ],
    'inequalities': [
        ('x\\ge -3',
         [
            '\\boxed{[-3,\\infty)}', '\\boxed{-3\\le x}', '\\boxed{x\\geqslant-3}',
            '\\boxed{\\{x|x\\ge-3\\}}', '\\boxed{x\\in[-3,+\\infty)}',
         ],
         [
            '\\boxed{x>-3}', '\\boxed{(-3,\\infty)}', '\\boxed{x\\le-3}', '\\boxed{-3}',
         ]),
        ('2<x\\le 5',
         [
            '\\boxed{(2,5]}', '\\boxed{x\\in(2,5]}', '\\boxed{5\\ge x>2}',
         ],
         [
            '\\boxed{[2,5]}', '\\boxed{(2,5)}', '\\boxed{2\\le x\\le5}',
         ]),
    ],
    'sets': [
        ('\\{-1,0,1\\}',
         [
            '\\boxed{-1,0,1}', '\\boxed{\\{0,1,-1\\}}', '\\boxed{x=-1,0,1}',
            '\\boxed{x\\in\\{-1,0,1\\}}',
         ],
         [
            '\\boxed{\\{0,1\\}}', '\\boxed{[-1,1]}', '\\boxed{\\{-1,1\\}}',
         ]),
    ],
    'rates': [
        ('60\\text{ km/h}',
         [
            '\\boxed{60 km/h}', '\\boxed{60\\text{ kilometers per hour}}',
            '\\boxed{60\\,\\mathrm{km/h}}', '\\boxed{60}', '\\boxed{60 kmh}',
         ],
         [
            '\\boxed{60 m/s}', '\\boxed{60\\text{ mph}}', '\\boxed{60\\text{ km}}',
            '\\boxed{60\\text{ miles per hour}}',
         ]),
        ('2\\text{ m/s}^2',
         [
            '\\boxed{2\\text{ m/s}^2}', '\\boxed{2 m/s^2}', '\\boxed{2}',
         ],
         [
            '\\boxed{2\\text{ m/s}}', '\\boxed{2\\text{ km/h}^2}',
         ]),
        ('\\frac{m}{s}',
         [
            '\\boxed{m/s}',
         ],
         [
            '\\boxed{s/m}',
         ]),
        ('5m/s',
         [
            '\\boxed{5m/s}',
         ],
         []),
        ('8\\text{ widgets per hour}',
         [
            '\\boxed{8}', '\\boxed{8\\text{ widgets/hour}}',
         ],
         [
            '\\boxed{8\\text{ widgets per minute}}',
         ]),
    ],
    'suppositions': [
        ('5',
         [
            'If x = 3, then the total is 5.', 'If we add both, we get 5.',
            'Assuming no loss, the answer is 5.', 'Suppose x = 2. Then the total is 5.',
         ],
         [
            'If the answer is 5, then x = 4.', 'If the answer were 5, we would be done.',
            'Suppose the answer is 5.', '如果答案是5，那么x=4。', 'The answer is 4 if not 5.',
         ]),
    ],
    'introductions': [
        ('9',
         [
            'In 2 hours, he walks 9 miles.', 'With 3 friends, she has 9 cookies.',
            'For $n=4$, there are 9.', 'Given 4 boxes, 9 remain.', 'After 5 days, the total is 9.',
            'By adding 4 and 5, we get 9.', 'On day 3, she has 9.',
         ],
         [
            'In 9 hours, he walks 2 miles.', 'After 9 days, the total is 5.',
         ]),
    ],
}  # fmt: skip
