"""What the metrics of an evaluation mean, and which way is better: the words of every table and figure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """`label` for tables, `better` ("higher", "lower", "" for neither), `unit` ("" for none), and
    one line of `meaning`."""

    label: str
    better: str
    unit: str
    meaning: str

    @property
    def direction(self) -> int:
        """1 where higher is better, -1 where lower is, 0 for neither."""
        return {"higher": 1, "lower": -1}.get(self.better, 0)


_TOP = "the tokens with the highest scores are replaced"
_REST = "all but the tokens with the highest scores are replaced"
_FELL = "fall of the log-probability of the measured token, or continuation, when"
_MOVED = (
    "KL(intact || replaced) of the next-token distribution, or its sum over a continuation's, when"
)
_FLIPPED = "share of prompts whose top prediction, or any of a continuation's, changes when"
_AREA = "over the shares of tokens: the area under it, or with area='mean' its mean"
_PLACE = "less that of other prompts' rankings, whose tokens stand in the same places, so that more is better"
_LOO = "the scores and those of leave-one-out (each token replaced alone)"

METRICS = {
    "aopc_comprehensiveness": Metric(
        "AOPC comprehensiveness", "higher", "nats", f"comprehensiveness {_AREA}"
    ),
    "aopc_sufficiency": Metric("AOPC sufficiency", "lower", "nats", f"sufficiency {_AREA}"),
    "aopc_comprehensiveness_gain": Metric(
        "AOPC comprehensiveness, gain over place", "higher", "nats", f"AOPC comprehensiveness {_PLACE}"
    ),
    "aopc_sufficiency_gain": Metric(
        "AOPC sufficiency, gain over place", "higher", "nats", f"AOPC sufficiency {_PLACE}"
    ),
    "loo_spearman": Metric(
        "LOO Spearman", "higher", "", f"Spearman's rank correlation of {_LOO}"
    ),
    "loo_kendall": Metric("LOO Kendall", "higher", "", f"Kendall's tau-b of {_LOO}"),
    "loo_jaccard": Metric(
        "LOO Jaccard", "higher", "",
        f"tokens among the top k of both, over those of either, for {_LOO}",
    ),
    "loo_top_rank": Metric(
        "LOO top rank", "lower", "share",
        "share of tokens that leave-one-out ranks above the token with the highest score",
    ),
    "comprehensiveness": Metric("comprehensiveness", "higher", "nats", f"{_FELL} {_TOP}"),
    "sufficiency": Metric("sufficiency", "lower", "nats", f"{_FELL} {_REST}"),
    "comprehensiveness_kl": Metric("comprehensiveness (KL)", "higher", "nats", f"{_MOVED} {_TOP}"),
    "sufficiency_kl": Metric("sufficiency (KL)", "lower", "nats", f"{_MOVED} {_REST}"),
    "comprehensiveness_flip": Metric(
        "comprehensiveness (flips)", "higher", "share", f"{_FLIPPED} {_TOP}"
    ),
    "sufficiency_flip": Metric("sufficiency (flips)", "lower", "share", f"{_FLIPPED} {_REST}"),
    # Of a prompt, whatever the method.
    "log_prob": Metric("log-probability", "", "nats", "of the measured token, or continuation, nothing replaced"),
    "correct": Metric("correct", "", "share", "whether what follows is what is predicted"),
}  # fmt: skip

AOPC = ("aopc_comprehensiveness", "aopc_sufficiency")
GAINS = tuple(f"{name}_gain" for name in AOPC)
LOO = ("loo_spearman", "loo_kendall", "loo_jaccard", "loo_top_rank")
MAIN = AOPC + GAINS + LOO
# By share of tokens, in three measures.
CURVES = {
    "curves": ("comprehensiveness", "sufficiency"),
    "kl": ("comprehensiveness_kl", "sufficiency_kl"),
    "flip": ("comprehensiveness_flip", "sufficiency_flip"),
}


def metric(name: str) -> Metric:
    """What `METRICS` says of `name`; of an unknown one, that nothing is known."""
    return METRICS.get(name, Metric(name, "", "", ""))
