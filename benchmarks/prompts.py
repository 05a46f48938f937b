"""Prompts of any length, made of text: a random prompt's flat prediction is nobody's use of the package."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PASSAGE = """The old harbour town had always lived from the sea, and the sea had always taken its share.
Every spring the fishermen painted their boats in red and green, and every autumn fewer of them came back
than had gone out. In the tavern above the quay the men spoke of weather, prices and the new lighthouse,
which the government in the capital had promised for eleven years and which nobody expected to see. Then,
on a grey Tuesday in March, a ship with engineers and bricks arrived, and the mayor, who had not been told,
put on his best coat and walked down to the pier to ask what they wanted. They wanted, they said, to build
a lighthouse. The mayor thought about it for a while. He had three sons at sea and a wife who counted the
candles, and he knew that whoever carried the first stone up the cliff would be remembered for it. So he
took off the coat, asked for a pair of gloves, and by the evening the whole town stood in a line between
the harbour and the top of the hill, passing bricks from hand to hand and singing."""


def tokens(model: Any, length: int) -> Tensor:
    """The passage over and over, cut to `length` ids with the model's own BOS: [1, length]."""
    ids = model.to_tokens(PASSAGE.replace("\n", " "), truncate=False)[0]
    bos, text = ids[:1], ids[1:]
    return torch.cat([bos, text.repeat(length // len(text) + 1)])[:length][None]


def batch(model: Any, n: int, shortest: int, longest: int, seed: int = 0) -> list[list[int]]:
    """`n` pieces of the passage, of lengths drawn between the two, as lists of ids with BOS."""
    generator = torch.Generator().manual_seed(seed)
    ids = tokens(model, 4 * longest)[0].tolist()
    lengths = torch.randint(shortest, longest + 1, (n,), generator=generator).tolist()
    starts = torch.randint(1, 3 * longest, (n,), generator=generator).tolist()
    return [ids[:1] + ids[start : start + length - 1] for start, length in zip(starts, lengths)]


# Nouns that are one token each, with a space before them, in both bundled vocabularies.
NOUNS = """apple basket bottle bridge button camera candle carpet castle circle cloud coffee cotton desert
diamond doctor dragon engine flower forest garden guitar hammer island jacket kitchen ladder letter magnet market
mirror monkey music needle ocean orange paper pillow planet pocket potato prison puzzle rabbit river rocket saddle
school shadow shirt shoulder signal silver soldier spider statue stone sugar summer table temple tiger train tunnel
turkey valley velvet violin wallet water weapon whale wheat window winter wolf yellow zebra""".split()


def repeated(n: int, words: int = 12, seed: int = 0) -> list[tuple[str, str]]:
    """`n` lists of random nouns said twice, the second time without the last one, which is the target."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(n):
        chosen = [
            NOUNS[i] for i in torch.randperm(len(NOUNS), generator=generator)[:words].tolist()
        ]
        said = "".join(f" {word}" for word in chosen)
        made.append((said + said.rpartition(" ")[0], f" {chosen[-1]}"))
    return made
