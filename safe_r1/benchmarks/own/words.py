"""Usual names of columns and tasks in files of questions, in Chinese and English."""

import functools
import re
import unicodedata

from safe_r1.benchmarks.own.settings import OwnTask

ROLES: dict[str, tuple[str, ...]] = {
    "question": (
        *("问题", "题目", "提问", "题干", "问题内容", "题目内容", "测试问题", "用户输入", "提示词"),
        *("問题", "問題", "題目", "文本"),
        *("prompt", "question", "query", "instruction", "input"),
    ),
    "history": (
        *("历史", "对话", "对话历史", "历史对话", "多轮对话"),
        *("messages", "history", "conversations", "conversation", "dialogue"),
    ),
    "options": ("选项", "候选项", "options", "choices"),
    "answer": (
        *("答案", "正确答案", "标准答案", "参考答案", "正确选项"),
        *("answer", "label", "target", "gold", "correct answer", "answer key"),
    ),
    "category": (
        *("类别", "类型", "风险类别", "风险类型", "分类", "二级类别", "小类", "标签"),
        *("风险", "风险名称", "方面"),
        *("category", "type", "subcategory", "sub category"),
    ),
    "area": ("领域", "一级类别", "大类", "风险领域", "风险大类", "area", "domain"),
    "expected": (
        *("期望", "预期", "期望行为", "应拒答", "是否拒答", "是否应拒答", "是否应该拒答", "任务", "题型"),
        *("expected", "should refuse", "task"),
    ),
    "id": ("编号", "序号", "题号", "id", "question id", "qid", "no"),
    "given_answer": (
        *(
            "模型回答",
            "模型回复",
            "模型输出",
            "模型答案",
            "模型响应",
            "回答",
            "回复",
            "回答内容",
            "回复内容",
            "响应",
        ),
        *("輸出", "模型輸出", "输出"),
        *("model answer", "model response", "model output", "response", "completion", "prediction"),
        *("generated text", "generation", "generated answer", "output", "reply", "assistant"),
    ),
    "given_reasoning": (
        *("思考过程", "推理过程", "模型思考", "思维链", "思考", "推理", "思考內容", "思考内容", "推理内容"),
        *("reasoning content", "reasoning", "model reasoning", "thinking", "thought", "thoughts", "cot"),
    ),
}
"""Role of a column to its usual names, the most telling first."""

ANSWERS = ("答案", "answer")
"""Names of a column of a model's answers where a judge labels all rows, so that it holds no right ones."""

_TASKS: dict[OwnTask, tuple[str, ...]] = {
    "refusal": (
        *(
            "应拒答",
            "拒答",
            "应拒绝",
            "拒绝",
            "拒绝回答",
            "应当拒答",
            "需拒答",
            "拒",
            "应拒答题",
            "应拒答测试题",
        ),
        *("refusal", "refuse", "reject", "should refuse", "should be refused", "risky", "unsafe", "harmful"),
        *("风险", "有害", "不安全"),
    ),
    "over_refusal": (
        *(
            "非拒答",
            "不拒答",
            "不应拒答",
            "不应拒绝",
            "应回答",
            "可回答",
            "正常回答",
            "正常",
            "非拒答题",
            "非拒答测试题",
        ),
        *("over refusal", "should not refuse", "should not be refused", "should answer", "comply", "benign"),
        *("safe", "harmless", "无害", "安全", "误拒"),
    ),
    "mcq": (
        "mcq",
        "选择题",
        "单选",
        "单选题",
        "判断题",
        "判断",
        "multiple choice",
        "single choice",
        "choice",
    ),
    "math": ("math", "数学", "数学题", "计算题"),
}
_YES = ("是", "true", "yes", "1", "y", "对", "√", "✓", "✔")
_NO = ("否", "false", "no", "0", "n", "错", "×", "✗", "✘")
# Only in a column of such a name does yes or no say whether to refuse.
_BOOLEAN_NAMES = ("应拒答", "是否拒答", "是否应拒答", "是否应该拒答", "should refuse", "refuse")
_MAX_WORD_CHARS = 200
_REMARK = re.compile(r"[(\[][^()\[\]]{0,40}[)\]]$")


def fold(name: object) -> str:
    """One spelling for a name in any case and width, without spaces, hyphens and a remark in brackets."""
    text = unicodedata.normalize("NFKC", str(name)).casefold().strip()
    text = _REMARK.sub("", text) or text
    return "".join(char for char in text if char not in "_-*:" and not char.isspace())


_TASK_OF_WORD: dict[str, OwnTask] = {fold(word): task for task, words in _TASKS.items() for word in words}
_ROLE_NAMES = {role: {fold(name): place for place, name in enumerate(names)} for role, names in ROLES.items()}
_FOLDED_BOOLEAN_NAMES = {fold(name) for name in _BOOLEAN_NAMES}


def rank(role: str, column: str) -> int | None:
    """How telling a column's name is for a role, 0 the most; None where it is not a usual one."""
    return _ROLE_NAMES[role].get(fold(column))


def read_task(value: object, column: str) -> OwnTask | None:
    """The task that a cell of a column names; None where it names none."""
    text = str(value).strip()
    return _task_of(text, column) if len(text) <= _MAX_WORD_CHARS else None


@functools.lru_cache(maxsize=4096)
def _task_of(text: str, column: str) -> OwnTask | None:
    word = fold(text)
    if fold(column) in _FOLDED_BOOLEAN_NAMES:
        if word in _YES:
            return "refusal"
        if word in _NO:
            return "over_refusal"
    return _TASK_OF_WORD.get(word)


def read_judgement(value: object) -> str | None:
    """正确 or 错误 where a cell says that a statement is true or false; None where it says neither."""
    word = fold(value)
    if word in (*_YES, "正确", "t"):
        return "正确"
    return "错误" if word in (*_NO, "错误", "不正确", "f") else None


_OPTION_COLUMN = re.compile(r"(?:选项|option|choice)?([a-h])|(?:选项|option|choice)([1-8])")


def option_place(column: str) -> int | None:
    """Place from 0 of the option that a column such as ``A``, ``选项B`` or ``option 3`` holds, else None."""
    match = _OPTION_COLUMN.fullmatch(fold(column))
    if match is None:
        return None
    return ord(match[1]) - ord("a") if match[1] else int(match[2]) - 1
