"""Twelve prompts of different kinds, which no one prompt can stand for, and what their ratios come to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import prompts

_YEARS, _CATCH = range(1896, 1910), (31, 29, 34, 18, 26, 40, 22, 37, 25, 19, 33, 28, 16, 21)
TEXTS = {
    "prose": prompts.PASSAGE,
    "prose, early": prompts.PASSAGE[:600],
    "prose, middle": prompts.PASSAGE[:910],
    "first words": "Once upon a time",
    "code": """def merge(a, b):
    \"\"\"Merge two sorted lists into one.\"\"\"
    out, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if a[i] <= b[j]:
            out.append(a[i])
            i += 1
        else:
            out.append(b[j])
            j += 1
    return out + a[i:] + b[j:]


def sort(items):
    if len(items) < 2:
        return items
    middle =""",
    "table": "year,town,boats\n"
    + "".join(f"{year},Harwick,{boats}\n" for year, boats in zip(_YEARS, _CATCH))
    + "1910,Harwick,",
    "list": """For the journey we need:
- two lamps and oil for a week
- a rope of forty feet
- bread, salt and dried fish
- warm coats for the children
- needles, thread and a pair of scissors
- the map that hangs in the hall
- three blankets each
- a kettle, and the small pan
- matches, kept dry
- boots with new soles
- paper and a pencil
- coins, but no more than we can hide
- soap, and a comb for every one of us
- a candle
- a knife and a whetstone
- the letter from your uncle
-""",
    "dialogue": """"Who built it?" asked the mayor.
"Nobody yet," she said.
"And who will?"
"You will, if you take off that coat."
He laughed. "I have never carried a stone in my life."
"Then it is time. How many sons have you at sea?"
"Three."
"And how do they find the harbour at night?"
"The candles," he said. "My wife puts candles in the window."
"How many?"
"As many as we can pay for."
"And when there is fog?"
He did not answer. After a while he asked: "How long will it take?"
\"""",
    "question": """Question: Which planet is nearest to the sun?
Answer: Mercury.
Question: Which metal is liquid at room temperature?
Answer: Mercury.
Question: Who wrote Hamlet?
Answer: William Shakespeare.
Question: What is the capital of Portugal?
Answer: Lisbon.
Question: How many legs does a spider have?
Answer: Eight.
Question: Which gas do plants take from the air?
Answer: Carbon dioxide.
Question: In which year did the First World War begin?
Answer: 1914.
Question: Which is the longest river in Africa?
Answer:""",
    "German": """Der alte Hafen hatte immer vom Meer gelebt, und das Meer hatte sich immer seinen Teil genommen.
In jedem Frühling strichen die Fischer ihre Boote rot und grün, und in jedem Herbst kamen weniger von ihnen
zurück, als ausgefahren waren. In der Schenke über dem Kai sprachen die Männer vom Wetter, von den Preisen
und vom neuen Leuchtturm, den die Regierung in der Hauptstadt seit elf Jahren versprochen hatte und den niemand
mehr zu sehen erwartete. Dann, an einem grauen Dienstag im März, kam ein Schiff mit Ingenieuren und Ziegeln
an, und der Bürgermeister, dem niemand etwas gesagt hatte, zog seinen""",
}
# Percentile of the ratio over the passages, and what it may be.
MOST = {50: 2.3, 90: 3.0}
LABEL = "fisher 4: "


def tokens(model: Any, length: int) -> dict[str, Tensor]:
    """Each passage as ids with the model's own BOS, [1, length]: the end of its text, or all of it where
    that is its kind. The last two are nouns and ids drawn at random."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(prompts.NOUNS), (length,), generator=generator).tolist()
    texts = TEXTS | {"nouns": " ".join(prompts.NOUNS[i] for i in drawn)}
    found = {}
    for what, text in texts.items():
        ids = model.to_tokens(text, truncate=False)[0]
        found[what] = torch.cat([ids[:1], ids[1:][1 - length :]])[None]
    found["random ids"] = torch.randint(model.cfg.d_vocab, (1, length), generator=generator)
    return found


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the rows of passages among `rows`, if there are any, the percentiles that are bound."""
    each = [row for row in rows if row["what"].startswith(LABEL)]
    shared = ("model", "class", "over")
    found = []
    for percentile, most in MOST.items() if each else ():
        ratios = [row["ratio"] for row in each]
        ratio = float(np.percentile(ratios, percentile))
        row = {key: each[0][key] for key in shared} | {
            "what": f"{LABEL}percentile {percentile} of {len(each)} passages",
            "tokens": max(row["tokens"] for row in each),
            "ratio": ratio,
            "lowest": min(ratios),
            "highest": max(ratios),
            "bound": f"<= {most:g}",
            "met": ratio <= most,
        }
        found.append(row)
    return found
