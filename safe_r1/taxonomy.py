"""The taxonomy of CHiSafetyBench, 5 risk areas and 31 categories: keys, names and all spellings of its files.

The keys are this project's own, stable and ASCII; samples, metrics and reports use them. The benchmark's
files spell the same category differently, so that a lookup accepts every spelling.

Source: arXiv 2406.10311, table of the taxonomy; Chinese names as in the published files.
"""

import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True)
class Area:
    """A risk area.

    Attributes:
        key: Stable ASCII key.
        name_en: English name for reports.
        name_zh: Chinese name as in the multiple-choice file.
        aliases: Further Chinese spellings in the files.
        has_refusal: True for the two areas with refusal questions.
    """

    key: str
    name_en: str
    name_zh: str
    aliases: tuple[str, ...] = ()
    has_refusal: bool = False


@dataclass(frozen=True)
class Category:
    """A risk category; ``area`` is the key of the area it belongs to."""

    key: str
    area: str
    name_en: str
    name_zh: str
    aliases: tuple[str, ...] = ()


_AREAS = (
    Area("discrimination", "Discrimination", "歧视性内容", has_refusal=True),
    Area(
        "values",
        "Violation of values",
        "违反社会核心价值观内容",
        ("违背价值观", "违反社会主义核心价值观内容"),
        has_refusal=True,
    ),
    Area("commercial", "Commercial violations", "商业违法违规"),
    Area("rights", "Infringement of rights", "侵犯他人合法权益"),
    Area("services", "Security requirements for specific services", "无法满足特定服务类型的安全需求"),
)

_CATEGORIES = (
    Category("ethnic", "discrimination", "Ethnic discrimination", "民族歧视", ("民族歧视内容",)),
    Category("belief", "discrimination", "Belief discrimination", "信仰歧视", ("信仰歧视内容",)),
    Category("nationality", "discrimination", "Nationality discrimination", "国别歧视", ("国别歧视内容",)),
    Category("region", "discrimination", "Regional discrimination", "地域歧视", ("地域歧视内容",)),
    Category("gender", "discrimination", "Gender discrimination", "性别歧视", ("性别歧视内容",)),
    Category("age", "discrimination", "Age discrimination", "年龄歧视", ("年龄歧视内容",)),
    Category("occupation", "discrimination", "Occupational discrimination", "职业歧视", ("职业歧视内容",)),
    Category("health", "discrimination", "Health discrimination", "健康歧视", ("健康歧视内容",)),
    Category(
        "other_discrimination",
        "discrimination",
        "Other discrimination",
        "其他方面歧视",
        ("其他方面歧视内容",),
    ),
    Category("subversion", "values", "Subversion of state power", "煽动颠覆国家政权、推翻社会主义制度"),
    Category(
        "national_security",
        "values",
        "Harm to national security and image",
        "危害国家安全和利益、损害国家形象",
    ),
    Category(
        "secession", "values", "Secession and harm to national unity", "煽动分裂国家、破坏国家统一和社会稳定"
    ),
    Category("terrorism", "values", "Terrorism and extremism", "宣扬恐怖主义、极端主义"),
    Category("ethnic_hatred", "values", "Ethnic hatred", "宣扬民族仇恨"),
    Category("violence_obscenity", "values", "Violence and obscenity", "宣扬暴力、淫秽色情"),
    Category("false_information", "values", "False and harmful information", "传播虚假有害信息"),
    Category("other_prohibited", "values", "Other content prohibited by law", "其他法律、行政法规禁止的内容"),
    Category(
        "intellectual_property", "commercial", "Infringement of intellectual property", "侵犯他人知识产权"
    ),
    Category("business_ethics", "commercial", "Violation of business ethics", "违反商业道德"),
    Category("trade_secrets", "commercial", "Disclosure of trade secrets", "泄露他人商业秘密"),
    Category(
        "monopoly",
        "commercial",
        "Monopoly and unfair competition",
        "利用算法、数据、平台等优势,实施垄断和不正当竞争行为",
    ),
    Category("other_commercial", "commercial", "Other commercial violations", "其他商业违法违规行为"),
    Category("physical_mental_health", "rights", "Harm to physical and mental health", "危害他人身心健康"),
    Category("portrait", "rights", "Portrait rights", "侵害他人肖像权", ("侵犯他人肖像权",)),
    Category("reputation", "rights", "Reputation rights", "侵害他人名誉权", ("侵犯他人名誉权",)),
    Category("honor", "rights", "Honor rights", "侵害他人荣誉权", ("侵犯他人荣誉权",)),
    Category("privacy", "rights", "Privacy rights", "侵害他人隐私权", ("侵犯他人隐私权",)),
    Category(
        "personal_information",
        "rights",
        "Personal information",
        "侵害他人个人信息权益",
        ("侵犯他人个人信息权益",),
    ),
    Category(
        "other_rights", "rights", "Other lawful rights", "侵害他人其他合法权益", ("侵犯他人其他合法权益",)
    ),
    Category("inaccurate", "services", "Inaccurate content", "内容不准确"),
    Category("unreliable", "services", "Unreliable content", "内容不可靠"),
)

# The file without dialogue history has this in place of an area, which follows from the category.
_AREA_NOT_STATED = "应拒答"

AREAS: dict[str, Area] = {area.key: area for area in _AREAS}
"""Area key to area, in the order of reports."""

CATEGORIES: dict[str, Category] = {category.key: category for category in _CATEGORIES}
"""Category key to category, grouped by area."""

REFUSAL_AREAS: tuple[str, ...] = tuple(area.key for area in _AREAS if area.has_refusal)
"""Keys of the two areas with refusal questions."""


def area_of(category: str) -> str:
    """Key of the area that a category key belongs to.

    Raises:
        KeyError: No such category key.
    """
    return CATEGORIES[category].area


def find_category(name: str) -> Category | None:
    """The category with this key or Chinese spelling; None if there is no such category."""
    return CATEGORIES.get(name) or _CATEGORY_BY_SPELLING.get(_fold(name))


def find_area(name: str) -> Area | None:
    """The area with this key or Chinese spelling; None if there is no such area."""
    return AREAS.get(name) or _AREA_BY_SPELLING.get(_fold(name))


def is_area_not_stated(name: str) -> bool:
    """True for the placeholder of an area, which then follows from the category."""
    return _fold(name) == _AREA_NOT_STATED


def _fold(name: str) -> str:
    # NFKC maps full-width commas and no-break spaces to ordinary ones: the files use both.
    return "".join(unicodedata.normalize("NFKC", name).split())


_CATEGORY_BY_SPELLING = {
    _fold(name): category for category in _CATEGORIES for name in (category.name_zh, *category.aliases)
}
_AREA_BY_SPELLING = {_fold(name): area for area in _AREAS for name in (area.name_zh, *area.aliases)}
