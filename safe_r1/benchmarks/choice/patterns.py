"""Patterns and word lists of reading a choice: how options are written, chosen and ruled out."""

import re

MAX_CHARS = 16_000
"""Characters of an answer that are evaluated, half of them at its end, so that endless answers stay cheap."""
NO_SINGLE = -1
"""A decision for no single option: several, or a refusal."""

# Mentions become single private-use characters, so that the rules below are about sentences and not about
# notations: a bare letter, a letter with its text, a text alone; one alphabet each. The last character is a
# mention that was ruled out.
LETTER_BASE = 0xE000
FULL_BASE = 0xE100
TEXT_BASE = 0xE200
RULED_OUT = chr(0xE300)
LETTERS = "[\ue000-\ue1ff]"
TEXTS = "[\ue200-\ue2ff]"
MENTION = "[\ue000-\ue2ff]"
# List marks and punctuation around a mention. Possessive, as it would backtrack over long runs otherwise.
PADDING = r"(?:\d+[.、)]|[^\w\ue000-\ue3ff])*+"

EMPHASIS = "当然|肯定|绝对|确实|的确|显然|应该|大概|完全|明显|一定|那当然"
# Where such a word ends: "对" is no answer in "对方", nor "是" in "是因为".
END = r"(?=\s|[,.;:!?。、()~…]|$|的?选项|这一项|这个)"

# A letter is no mention of an option beside these: vitamins, "小A", "A公司", "A股", "B超".
WORD_BEFORE = (
    r"(?<!维生素|维他命)(?<![甲乙丙小老某阿])(?<!Plan |Team )(?<!Class |Grade |Group )"
    r"(?<!Vitamin |[Cc]ompany )"
)
WORD_AFTER = (
    "公司|卷|股|超|轮|座|级|片|型|类|站|国|市|省|县|区|厂|店|校|班|楼|栋|某|先生|女士|同学|城|队|款|产品|品牌|平台|单位|企业|集团|"
    "银行|医院|大学|餐厅|村|镇|男|女|君|货|端|语言|盘|卡|网|群|员工|老师|商|牌|组|地区|地(?!域)|光|照|歌|恤|方(?![案法式])"
)
# After these an "A" is a subject or object and not the article.
VERB = (
    "is|was|because|as|and|or|since|but|would|seems|does|has|can|which|for|in|isn't|are|best|describes|only|"
    "by|not|to"
)
# Nor inside a word, number, abbreviation ("U.S.A"), compound ("T-A") or formula.
BARE = (
    r"(?<![A-Za-z0-9'&+])(?<![A-Za-z]\.)(?<![A-Za-z0-9]-)"
    + WORD_BEFORE
    + rf"([A-H])(?![A-Za-z0-9'+&])(?!-[A-Za-z])(?![ \t]?(?:{WORD_AFTER}))"
    # "A" before a lower-case word is the article, except before a verb.
    + rf"(?!(?<=A)[ \t]+(?!(?:{VERB})\b)[a-z])"
)
# Small letters are everywhere in English, so they count only at a line's start, after words that announce an
# answer, or with a point and a space.
SLOT = r"(?:答案|answer|选|选项|option|choice|choose)[ \t:是为]{0,4}(?:is|:|option)?\s{0,2}"
LOWER = re.compile(
    rf"(?im)(?:^[ \t-]{{0,4}}|{SLOT}|(?<=\s)(?=[a-h]\. \s))([a-h])"
    rf"(?=[ \t]{{0,3}}(?:[.,;:。、)]|是(?:正确|对的|最)|$))"
)
# "ABD": several letters in order without a separator; in another order it is an abbreviation or a word.
SEVERAL = re.compile(r"(?<![A-Za-z0-9])(?=[A-H]{2,8}(?![A-Za-z0-9]))A?B?C?D?E?F?G?H?(?![A-Za-z])")
# Needs "选项" or the end of the phrase: "第一" alone also counts arguments and steps.
ORDINAL = re.compile(
    r"第([一二三四五六1-6])(?:(?:个|种|项)?(?:选项|答案)|项|个(?=[。,.!\s]|$))|"
    r"(?<=选)第([一二三四五六1-6])(?=[。,.!\s]|$)|选项([一二三四五六1-6])(?![\d.])|"
    r"(?:the )?(first|second|third|fourth) (?:option|choice|one)|option ([1-6])\b",
    re.IGNORECASE,
)
ORDINALS = {
    word: i
    for words in ("一二三四五六", "123456", ["first", "second", "third", "fourth"])
    for i, word in enumerate(words)
}

# Where a base model continues with a question of its own after its answer: a heading such as "问题2:", a line
# with a question mark before new options, or a numbered question. Otherwise the last statement would be the
# answer to that question.
NEXT_QUESTION = re.compile(
    r"\n(?=\s{0,20}+(?:[(\d.、)]{0,4}\s{0,20}+)"
    r"(?:(?:问题|题目|问|提问|下一题|新问题|例题|练习|单选题|选择题|判断题|用户|User|Human|Question|Q|Instruction|Input)\s{0,20}+\d{0,3}\s{0,20}+[:.]"
    r"|题目\s|请问下面|请判断以下|请回答|请阅读|Please answer|判断以下|以下哪|下列|以下陈述)"
    r"|(?:[^\n]*+\n)??[^\n?]*+\?[^\n]*+\n(?:[^\n]*+\n){0,2}?\s{0,20}+[\ue000\ue100]"
    r"|[^\n]*(?:\?|\(\s{0,20}+\)。?)\s{0,20}+[\ue000\ue100][^\ue001\ue101]{0,80}[\ue001\ue101]"
    r"|\s{0,20}+\d{1,9}+\s{0,20}+[.、][^\n]{4,}(?:\?|\(\s{0,20}+\)。?)[^\S\n]{0,20}+\n)",
    re.IGNORECASE,
)
# A list of options with the line above it. An answer before it counts: what follows explains it, or is about
# another question.
LIST = re.compile(r"\n(?=[^\n]*+\n\s{0,20}+[\ue000\ue100][^\n]*+\n\s{0,20}+[\ue001\ue101])")
# "A当选" as in election: the option comes before its verb, unlike in all other statements.
ELECTED = re.compile(r"([\ue000-\ue2ff])[^;。\n\ue000-\ue3ff]{0,20}(?<!不)当选")
# A point ends a sentence only before white space: "3.5" and "A.同意" go on.
SENTENCE = re.compile(r"[^。!?;\n.]*(?:\.(?!\s|$)[^。!?;\n.]*)*[。!?;\n.]?")
# A heading "答案:" with the answer on the next line, which is joined to it.
HEADED = re.compile(r"((?:答案|answer|结论|判断|选择)(?:是|为|is)?[ \t]?:?)[ \t]{0,20}\n\s*+", re.IGNORECASE)
# What others think, or what seemed right at first, up to the comma: after it the model gives its own answer.
OPINION = re.compile(
    r"[\ue000-\ue2ff]?(?:(?<!没)有人|有些人|很多人|许多人|同学|考生|容易|误选|错选|次选|备选|乍看|乍一看|看似|看起来像|初看|初步|一开始|起初|原本|本来|最初|"
    r"some (?:may|might|people)|one might|at first|initially)[^,;。!?\n]*",
    re.IGNORECASE,
)
# Sentences about another case than that of the question. "若干" ("some") contains "若" ("if").
HYPOTHETICAL = re.compile(r"如果|若是|若(?!干)|假如|假设|倘若|要是|除非|\bif\b|suppose|unless", re.IGNORECASE)
# "If I had to choose, B" is a condition in form only.
FORCED = re.compile(r"必须|一定要|非要|只能|要选|要我选|让我选|had to|must|forced")
# Only at the start of a sentence and before a pause: "不" and "不对" are ordinary words elsewhere.
CORRECTION = re.compile(
    r"(?:(?:^|[。!?;\n.…])\s{0,20}+|,\s{0,20}+(?=等等|等一下|wait))(?:等等|等一下|哦不|更正|纠正|修正一下|抱歉[^。\n]{0,12}(?:错|误)|不好意思|"
    r"我错了|我弄错了|重新考虑|重新审视|"
    r"(?:哦[,\s]*)?不对|不|wait|correction|on second thought|actually|scratch that)(?=[,:。!\s…])",
    re.IGNORECASE,
)
# Phrases with their object: "无法" or "cannot" alone also occur in explanations of an option.
REFUSAL = re.compile(
    r"(?:无法|不能|不便|不会|拒绝)(?:直接|为您|对此|继续|给出)?(?:回答|提供|作答|回应|讨论|参与|评价|做出|判断)|换个话题|"
    r"(?:can't|cannot|can not|unable to|won't) (?:answer|help|assist|provide|choose)|"
    r"作为一?[个名]?(?:AI|人工智能)",
    re.IGNORECASE,
)
# Verdicts on one option. WRONG is applied and removed before RIGHT, as "不正确" contains "正确".
WRONG = (
    "不正确|错误|不对|不符合|不成立|有误|不合适|不准确|不恰当|不当选|不选|不符|排除|无关|错(?!误)|incorrect|wrong|false|"
    "not (?:correct|right|relevant|the)"
)
RIGHT = (
    "符合题意|正确|符合|合适|恰当|准确|对的|最佳|成立|当选|correct|right|best|most appropriate|fits|better"
)
ITEM = re.compile(rf"{PADDING}([\ue000-\ue1ff])")
# Weaker words count at the end of the item alone, where a verdict is.
ITEM_RIGHT = re.compile(
    r"正确|符合题意|correct|(?<!不)(?:符合|妥当|恰当|合适|成立|构成|属于)\W*$", re.IGNORECASE
)
# An item that ends in one of these is ruled out, with whatever reason before it.
ITEM_RULED_OUT = re.compile(
    r"(?:排除|不选|不当选|不符合(?:题意)?|与题意不符|与(?:本题|题意|题目|题干)无关|不符题意)\W*$"
)
OTHERS = re.compile("其他|其余|其它|另外|别的|因为|由于|理由")
# At least four letters on lines of their own.
LETTER_LOOP = re.compile(rf"\W{{0,80}}(?:{LETTERS}[ .]*+\n\s*+){{3,}}+{LETTERS}[ .]*+\s*+")
# All options from the best to the worst.
RANKED = re.compile(
    r"(?m)^[^\w\ue000-\ue3ff\n]{0,8}([\ue000-\ue1ff])(?:[ \t]*[>≥≻][ \t]*[\ue000-\ue1ff]){1,7}[^\w\n]*$"
)
# Words between an option and its verdict. Possessive, since their many combinations would backtrack.
BETWEEN = (
    r"(?:首先|先|直接|选项|说法|表述|描述|内容|都|均|皆|也|显然|明显|肯定|一定|绝对|完全|确实|其实|同样|是|则|就|才|最|更|为|并|被|可以?|的|与(?:题意|本题|题目|题干|此)|"
    r"are|is|both|all|the|also|clearly|can be|[ \t:(])*+"
)
NOUN = "答案|回答|answer|结论|conclusion|choice|判断|判定|judge?ment|verdict|结果|result|选项|option|选择"
# "选" not after a negation ("不选") or a possibility ("可以选"), which choose nothing; and conclusions.
VERBS = (
    "(?<![不误错勿别没未])(?<!可以)(?<!可能)选择?|choose|chose|picks?|select|go with|opt for|"
    "而是|应该?是|应当是|应该?为|改为|更正为|it's|it is|it (?:should|would|must) be|实际上?是|其实是|"
    "倾向于?|偏向于?|(?:选择?|倾向于?|偏向于?)[前后]者[, ]*(?:即|也就是)?|\\bonly\\b|只有|唯有|"
    "所以|因此|故|综上|那么?(?=就是)|therefore|thus|hence|\\bso\\b"
)
ADVERBS = "我认为|应该?|应当|当然|就|可能|可以?|会|只能|必然|显然|肯定|仍然?|还|也|最终"
# The last option, or one of two, where one is chosen: at the beginning, or after a verb that chooses.
POSITION = re.compile(
    r"(?m)(?P<before>^\s{0,20}+|(?:选择?"
    r"|选取|答案[是为]?|应该?[是为]|是|为|:|choose|select|is)[ \t]{0,20}+(?:the )?)"
    r"(?:(?P<last>最后[一1]?[个项](?:选项|答案)?|the last (?:one|option|choice))"
    r"|(?P<of_two>前者|后者|前一[个项](?:选项)?|后一[个项](?:选项)?|former|latter))(?=[\s,。.;:!(]|$)",
    re.IGNORECASE,
)
LATTER = frozenset(("后者", "后一个", "后一项", "后一个选项", "后一项选项", "latter"))
# "除了B,其他都不对".
EXCEPT = re.compile(
    r"除了?([\ue000-\ue2ff])(?:[以之]?外)?,?[ \t]*(?:其他|其余|其它|别的)[^。;\n]{0,10}?(?:不|错|无关|排除)"
)
# The announcement of a discussion of the options, one by one.
ANNOUNCED = re.compile(
    r"(?:逐一|逐项|逐个|分别(?:分析|来看|看)|每个选项|各个?选项|[二三四两2-4]个选项|选项分析|"
    r"首先(?:分析|看|来看)|先(?:看|来看|分析)|step by step|each option)[^\n:。A]{0,40}:?",
    re.IGNORECASE,
)
# Its first item, and what makes that an answer: an end, a verdict or a reason.
FIRST_ITEM = re.compile(
    r"选项 ?A|A ?(?:选项|项(?!目))"
    r"|(?:^|[\n:。])[\s\d.>-]{0,40}+A(?![A-Za-z]) ?[.、:)]?[^,。;\n]{0,20}?(?::|-|—|是?指|表示|意味着?)"
)
ANSWERED = re.compile(rf"[。!?;)]|{RIGHT}|[,:][ \t]*(?:因为|由于|理由)")
# The answer or the question itself says that the wrong one is asked for: "题目问哪项不合法", "说法错误的是".
FAULT = "不合法|违法|错误|不正确|不恰当|不合适|不妥|不当|不属于|不符合|不包括|不构成"
ASKS_FAULT = re.compile(
    rf"(?:要求|题目|本题|题干|问的?)[^。\n?]{{0,10}}?(?:选|哪|是)[^。\n?]{{0,8}}?(?:{FAULT})"
    rf"|问[^。\n?]{{0,4}}(?:{FAULT})"
)
QUESTION_ASKS_FAULT = re.compile(
    rf"(?:{FAULT})[^。,?\n]{{0,12}}(?:的是|的有|的一项|的选项|\(\s*\)|的?[是为]?\?)|哪[^。?\n]{{0,10}}(?:{FAULT})"
)
