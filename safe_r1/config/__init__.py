"""The settings that several jobs share, each with its default on its field and nowhere else."""

from safe_r1.config.endpoint import EndpointConfig as EndpointConfig
from safe_r1.config.endpoint import Headers as Headers
from safe_r1.config.engine import EngineConfig as EngineConfig
from safe_r1.config.engine import GenerationConfig as GenerationConfig
from safe_r1.config.engine import NonEmpty as NonEmpty
from safe_r1.config.engine import TagPair as TagPair
from safe_r1.config.evaluate import EvaluateConfig as EvaluateConfig
from safe_r1.config.evaluate import ExportFormat as ExportFormat
from safe_r1.config.evaluate import ReportConfig as ReportConfig
from safe_r1.config.evaluate import TrackerName as TrackerName
from safe_r1.config.evaluate import split_names as split_names
from safe_r1.config.judge import JudgeConfig as JudgeConfig
from safe_r1.config.judge import JudgeRule as JudgeRule
