"""Fisher rank 4 over a bare forward pass on twelve prompts of different kinds, which no one prompt can stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import tl_scopes as ts
from benchmarks import measure, prompts

_CODE = "def merge(a, b):\n    out, i, j = [], 0, 0\n    while i < len(a) and j < len(b):\n        if a[i]"
TEXTS = {
    "prose": prompts.PASSAGE,
    "prose, middle": prompts.PASSAGE[400:],
    "prose, end": prompts.PASSAGE[-420:],
    "first words": "Once upon a time",
    "code": _CODE + " <= b[j]:\n            out.append(a[i])\n            i += 1\n        else:\n",
    "table": "year,town,boats\n1901,Harwick,31\n1902,Harwick,29\n1903,Harwick,26\n1904,Harwick,",
    "list": "For the journey we need:\n- two lamps\n- a rope\n- bread and salt\n- warm coats\n-",
    "dialogue": '"Who built it?" asked the mayor.\n"Nobody yet," she said.\n"And who will?"\n"',
    "question": "Question: Which planet is nearest to the sun?\nAnswer: Mercury.\nQuestion: Which is",
    "German": "Der alte Hafen hatte immer vom Meer gelebt, und das Meer hatte sich immer",
    "nouns": " ".join(prompts.NOUNS),
}


def run(model: Any, length: int = 128, rounds: int = 5) -> dict[str, Any]:
    """Median and 90th percentile of the ratio over the prompts, and each with its prediction's
    entropy in nats. Prompts are cut to `length`; the twelfth is ids drawn at random."""
    generator = torch.Generator().manual_seed(0)
    listed = {k: model.to_tokens(v, truncate=False)[:, :length] for k, v in TEXTS.items()}
    listed["random ids"] = torch.randint(model.cfg.d_vocab, (1, length), generator=generator)
    rows = []
    for what, ids in listed.items():

        def bare(ids: torch.Tensor = ids) -> torch.Tensor:
            with torch.no_grad():
                return model(ids)[0, -1]

        log_p = bare().float().log_softmax(-1)
        timing = measure.interleaved(
            lambda ids=ids: ts.attribute(model, ids, ts.FisherScope(rank=4)),
            bare,
            rounds,
            60,
            warm=True,
        )
        entropy = -float((log_p.exp() * log_p).nansum())
        row = {"what": what, "tokens": ids.shape[1], "entropy": entropy, "ratio": timing.ratio}
        rows.append(row)
    ratios = [row["ratio"] for row in rows]
    return {
        "median": float(np.median(ratios)),
        "90th percentile": float(np.percentile(ratios, 90)),
        "passages": rows,
    }
