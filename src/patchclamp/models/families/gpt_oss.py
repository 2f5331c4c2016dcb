"""GPT-OSS: mixture of experts, attention sinks, alternating sliding windows."""

from patchclamp.models.families.mixtral import FAMILY as MIXTRAL

FAMILY = MIXTRAL.derive("gpt_oss")
