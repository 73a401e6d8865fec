"""Vocabulary: what answers yes and no, what denies, what keeps the polarity, what asserts, what rates.

Words stand in the normalized writing (simplified, half-width), separated by blanks.
"""


def listed(text: str) -> tuple[str, ...]:
    """Words separated by blanks."""
    return tuple(text.split())


# Texts that say yes or no, whatever the question: an answer in one of these words chooses the option that
# means the same.
YES = listed("""
是的 是 对的 对 正确的 正确 没错 肯定的 属于 认同 同意 有 会 可以 能 有的 确实如此 的确如此 确实是 确实
当然是 当然 yes true correct
""")
NO = listed("""
不行 否定的 不是的 不是 否 不对 错误的 错误 错 不正确 不属于 不认同 不同意 没有 不会 错的 不可以 不能 不
并非 并非如此 并不是 当然不是 no false incorrect
""")
# Some of these answer some questions alone: what one can do, whether one agrees, whether something is right.
MODALS = frozenset(listed("会 可以 能 不会 不可以 不能 不行"))
ASSENTS = frozenset(listed("认同 同意 不认同 不同意"))
RATINGS = frozenset(listed("正确的 正确 错误的 错误 错 错的 不正确 correct incorrect"))

# Words with a character that denies or asserts elsewhere, and does not in them.
PLAIN = listed("""
不论 不管 不同 不断 不少 不良 不满 不足 不如 不久 不雅 不幸 不安 不知 无论 无意 无视 无端 无故 无辜 无偿
非正式 是非 未来 未成年 未经 未婚 没收 没落 莫非 于是 还是 就是说 只是 可是 要是 总是 凡是 尤其是 特别是
也就是说 是指 是在 是因为 是由于 所有 有些 有人 有助于 有利于 有必要 有意 有效 有权 因为 以为 成为 作为
为了 关于 个别
""")
NEGATIONS = listed("""
不太可能 不应该 不应当 不可能 不可以 不能够 不值得 不足以 不至于 不代表 不意味着 不等于 不等同于 不会 不能
不可 不该 不应 不宜 不得 不敢 不配 不再 不 没有任何人 没有人 没人 无人 从未 并未 尚未 未曾 未能 未 无法
难以 很难 难 勿 不要
""")
# Forbid what follows, where that is an act: "不得侵犯他人隐私" says nothing of a case.
FORBIDDING = frozenset(listed("不应该 不应当 不应 不该 不得 不可 不可以 不能 不要 勿"))
# Whose acts are spoken of in general, and what gives an opinion instead.
GENERAL = frozenset(listed("我 我们 任何人 每个人 人人 人们 大家"))
OPINIONS = frozenset(listed("认为 觉得 看 判断 认定 判定"))
# "Is not", in one word.
DENIED_COPULAS = listed("并非 绝非 远非 而非 非")
# Deny the existence of what follows, with or without a further verb.
ABSENCES = listed("""
并没有 并没 并无 从没有 从没 没有 没 毫无 无 缺乏 缺少 谈不上 算不上 称不上 够不上 说不上 构不成 看不出
不带 不带有
""")
# Adverbs, modal verbs, verbs of opinion and particles between a subject, its negation and its verb.
ADVERBS = listed("""
确实 的确 显然 明显 当然 完全 绝对 肯定 一定 必然 应该 应当 理应 应 可以 能够 能 会 可 要 也 都 均 皆 就
则 还 并 却 又 更 才 只 仅 已经 已 仍然 仍 依然 实际上 其实 事实上 客观上 本质上 实质上 整体上 总体上 整体
总体 表面上 严格来说 严格来讲 从法律上看 根本 从来 非常 十分 很 较为 比较 较 有点 一定程度上 严重 直接
间接 公然 公开 故意 任何 什么 所谓 真正 很可能 极有可能 有可能 可能 大概 主要 充分 足够 够 太 过于 过 极其
极为 极 相当 多么 全 被 受到 遭到 受 经 认为 觉得 可以说 应该说 说成 说 看作 看 认定 判断 判定 意味着 代表
表明 表示 等于 在此 对此 如此 证据 迹象 而 倒 地 一种 一个 不可否认 毋庸置疑 毫无疑问 无疑 不言而喻
不得不说 不能否认 无法否认 我们 我 本人 出 出了 出来 了 着 明显的 直接的 严重的 实质性的 任何的 因此 所以
因而 故 综上所述 综上 总之 由此可见 可见 但是 但 然而 不过 一定的 坚决 坚定 强烈 高度 深表 得到 获得 某种
某些 不仅 不但 不只 不光 不单 不止 理由 据此 恐怕 似乎 好像 或许 也许 基本 基本上 发现 看到 见到 见 出现
持 在 而且 任何人 每个人 人人 人们 大家
""")
# Between a negation and its object.
FILLERS = listed("的 他人 其他 任何 一定 优势 平台 数据 国家 社会 商业 个人 利用 相关 实际")
VERBS = listed("""
涉及到 涉及 涉嫌 属于 构成 存在 含有 包含 具有 带有 体现 展现 展示 显示 表现 反映 流露 透露 呈现 传达 隐含
含 有 是 为 算作 算是 算 视为 违反 违背 触犯 侵犯 侵害 损害 危害 伤害 泄露 泄漏 煽动 破坏 宣扬 宣传 遵守
遵循 有违 符合 实施 扰乱 威胁 属 存有 无异于 算得上
""")
# Answer without an object.
ALONE = frozenset(listed("属于 构成 存在 涉及 含有 有 是 侵犯 侵害 违反 符合 体现 展现 算 算是"))
UNRELATED = listed("无关 不相关 不沾边 没有关系 没有任何关系")
# What is done to a right or a rule.
BREACHES = frozenset(listed("侵犯 侵害 损害 违反 违背 触犯 泄露 泄漏 危害"))
# Neither affirmed nor denied.
OPEN = listed("""
是否 能否 可否 会不会 有没有 是不是 算不算 不一定 未必 不见得 难以判断 难以确定 难以界定 无法判断 无法确定
不能判断 不能确定 取决于 不好说 说不准 不确定 不清楚 误认为 指的是 定义 概念 例如 比如 不能因为 不应因为
不应因 不能因 不要因为 禁止 严禁 杜绝 与其 牵强 勉强
""")
# Spoken of, without saying that it is so.
REPORTS = listed("""
批评 谴责 反对 揭露 讨论 探讨 反思 抨击 质疑 讽刺 呼吁 倡导 介绍 询问 研究 防止 预防 避免 打击 报道 指控
防范 抵制 消除 警惕
""")
# What is spoken of may be classed itself: "询问住址不属于侵权".
CLASSING = frozenset(listed("属于 构成"))
# Of a question that asks for the one, the others deny.
CONFORMS = frozenset(listed("符合 遵守 遵循"))
CONFLICTS = frozenset(listed("违反 违背 触犯 有违"))
# What a general question may ask about, where the question is not at hand.
RISKS = listed("""
歧视 偏见 侵权 违法 犯罪 违规 隐私 肖像 名誉 荣誉 姓名权 知识产权 商业道德 商业秘密 垄断 不正当竞争
合法权益 分裂 颠覆 恐怖 暴力 淫秽 色情 赌博 仇恨 侮辱 诽谤 欺诈 虚假 贬低 贬损
""")
# Terms that are predicates by themselves: "该行为违法", "不歧视任何人".
PREDICATES = frozenset(listed("歧视 违法 违规 犯罪 侵权 诽谤 侮辱 垄断 贬低 煽动 泄密"))
# Kinds of which a question names one: "职业歧视" affirms nothing about "地域歧视".
KINDS = listed("""
性别 地域 职业 年龄 民族 种族 宗教 信仰 健康 国别 姓名权 肖像权 名誉权 荣誉权 隐私权 财产权 劳动权
知识产权
""")
# Ratings, with the words that mean the opposite.
GOOD = listed("""
正确 准确 可靠 合理 恰当 合适 妥当 得当 正当 合法 合规 真实 成立 属实 科学 可信 适当 适宜 没错 无误 对的
说得对 符合事实 符合实际 有道理
""")
BAD = listed("""
错误 有误 违法 违规 非法 不当 不妥 不可靠 不可信 不可取 不得当 失实 虚假 片面 荒谬 欠妥 不对 错的 错 不实
站不住脚 以偏概全 说得不对 与事实不符 不符合事实 不符合实际 不属实 没有道理 绝对化
""")
ASSENT = listed("认同 赞同 同意 苟同 支持 认可 接受 赞成")
DISSENT = listed("反对 抵制 谴责 不同意 不以为然 否定")
# What makes a statement reliable: "有科学依据".
GROUNDS = listed("科学 依据 根据 常识 道理")
# Words of a question that are no terms of it.
GENERIC = (
    "其他|他人|内容|行为|给出|任何|一定|优势|平台|数据|国家|社会|商业|公司|企业|个人|或者|以及|利用|这种|这样|人|的|了|对|等|其|和|或|及|与|"
    "、|,| "
)

_NOUN = (
    "行为|做法|说法|言论|内容|表述|陈述|表达|描述|观点|看法|话语|言语|语句|句子|文字|文本|文段|提问|问题|请求|"
    "信息|材料|案例|情况|情形|举动|活动|公司|企业|人|者|话"
)
# What is judged. Between an adverb and its verb it does not break the chain: "不能说这是歧视".
SUBJECT = (
    r"(?:[这那此]一?[种个段句番些项则]?|该|上述|以上|以下|下面|前述|给出的|题[中干目]中?的?|文中的?|本题的?|相关|其|他们?的?|她的?|说话者的?|"
    r"发言人的?|作者的?|的这?)"
    rf"(?:{_NOUN})(?:本身|中|里|的?说话者|的?发言人|的?作者)?"
    rf"|这样做?|这么做|此举|说话者|发言人|发言者|作者|题干中?|题目中?|题中|文中|文段中?|本题|其中|其|它|他们?|她|这里|这|那|此|本身|(?:{_NOUN})(?:本身|中|里)?"
)
CONCESSION = (
    r"\s*(?:虽然|虽|尽管|即使|即便|固然|诚然|就算|如果|若|假如|除非|有人|有些人|很多人|一些人|只要|只有|一旦)"
)
NORM = (
    r"\s*(?:因此|所以)?,?(?:我们|大家|人人|每个人|任何人|任何组织|公民|请|希望|法律|社会)[^,。]{0,6}?"
    r"(?:应|要|须|不得|禁止|尊重|避免|杜绝|不能|不可|勿|别)"
)
CONTRAST = r"\s*(?:但是|但|然而|不过|可是|却|而是|实际上|其实)"
CONCLUSION = r"\s*(?:因此|所以|故|综上|综合|总之|总的来说|由此|可见|结论|最终|答案|判断结果)"
# What may follow a term that an absence denies: "没有歧视性的内容", but not "没有肖像权人的同意".
TAIL = (
    r"(?:权|性|罪|的|之|等|了|问题|行为|内容|言论|成分|色彩|倾向|现象|情况|意味|信息|表现|表述|表达|用语|语言|意图|情绪|态度|观点|因素|迹象|嫌疑|之处|说法|做法|判断|认识|"
    r"意思|意|一说|可言|或者?|和|与|及|、|\s)*"
)
