"""THE PAPER: one file per section, each a strict configuration and a ``run``."""

from r1kit.stages.alignment_rl import AlignmentRL
from r1kit.stages.augment import Augment
from r1kit.stages.choose import Choose
from r1kit.stages.cold_start import ColdStart
from r1kit.stages.curate import Curate
from r1kit.stages.distill import Distill
from r1kit.stages.dpo import DPO
from r1kit.stages.evaluate import Evaluate
from r1kit.stages.label import LabelPairs
from r1kit.stages.mixture import ComposeMixture
from r1kit.stages.pretrain import Pretrain
from r1kit.stages.r1_zero import R1Zero
from r1kit.stages.reasoning_rl import ReasoningRL
from r1kit.stages.rejection_sampling import RejectionSampling
from r1kit.stages.reward_models import RewardModels
from r1kit.stages.sft import SFT
from r1kit.stages.stage import Stage
from r1kit.stages.unit_tests import UnitTests

STAGES: dict[str, type[Stage]] = {
    "curate": Curate,
    "pretrain": Pretrain,
    "r1_zero": R1Zero,
    "cold_start": ColdStart,
    "reasoning_rl": ReasoningRL,
    "rejection_sampling": RejectionSampling,
    "sft": SFT,
    "label": LabelPairs,
    "reward_models": RewardModels,
    "dpo": DPO,
    "alignment_rl": AlignmentRL,
    "distill": Distill,
    "evaluate": Evaluate,
    "unit_tests": UnitTests,
    "augment": Augment,
    "choose": Choose,
    "mixture": ComposeMixture,
}
