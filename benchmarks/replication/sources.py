"""Passages to evaluate on: the project's own, a file, or the two data sets of the paper from the hub."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_scopes.errors import DataError
from tl_scopes.evaluation import DataSet, read

OWN = Path(__file__).with_name("passages.jsonl")
HELP = (
    "NAME=SOURCE, once for each data set: a file of texts (.json list, .jsonl, .txt, .parquet) or a name on "
    "the Hugging Face hub. Default: the twenty passages that the project ships. The paper's are not shipped: "
    "LAMBADA (EleutherAI/lambada_openai, test split, CC BY 4.0) and IWSLT 2017 German-English "
    "(IWSLT/iwslt2017, CC BY-NC-ND 4.0). Given by these two names, passages are chosen as the paper describes: "
    "LAMBADA shuffled with seed 42, those of 50 words or more; IWSLT training pairs with 20 English words or "
    "more, as 'German: ... English: ...', in order; marks after the last word cut off."
)


@dataclass(frozen=True)
class Recipe:
    """How the paper makes passages of the records of a data set on the hub."""

    load: Mapping[str, Any]
    passages: Callable[[Iterable[Mapping[str, Any]]], list[str]]


def named(option: str, n: int) -> tuple[str, DataSet]:
    """What `--data NAME=SOURCE` asks for. Raises `DataError`."""
    name, sign, source = option.partition("=")
    if not sign or not source or not re.fullmatch(r"[\w.-]*\w", name):
        raise DataError(
            f"--data {option} cannot be used; allowed: NAME=SOURCE, such as lambada=lambada.json, where "
            "NAME (letters, digits, . _ -) is what the report calls it"
        )
    if source in HUB and not Path(source).exists():
        texts = HUB[source].passages(_records(source, HUB[source].load))
        return name, DataSet(texts[:n], source)
    return name, read(source, n=n)


def _records(source: str, load: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    try:
        import datasets

        return datasets.load_dataset(source, **load)
    except Exception as error:
        raise DataError(
            f"{source} cannot be loaded from the hub ({error}): check the network, or give a file"
        ) from error


def lambada(records: Iterable[Mapping[str, Any]]) -> list[str]:
    texts = [record["text"] for record in records]
    random.Random(42).shuffle(texts)
    return [_last_word_last(text) for text in texts if len(text.split()) >= 50]


def iwslt(records: Iterable[Mapping[str, Any]]) -> list[str]:
    found = []
    for record in records:
        german, english = (_plain(record["translation"][key]) for key in ("de", "en"))
        english = _last_word_last(english)
        if german and len(english.split()) >= 20:
            found.append(f"German: {german} English: {english}")
    return found


def _plain(text: str) -> str:
    return re.sub(r"<[^>]*>", "", text).strip()


def _last_word_last(text: str) -> str:
    return re.sub(r"\W+$", "", text)


HUB = {
    "EleutherAI/lambada_openai": Recipe({"name": "en", "split": "test"}, lambada),
    # A data set with a loading script, which current versions of datasets refuse; the hub's own
    # conversion of it stands under this revision.
    "IWSLT/iwslt2017": Recipe(
        {"name": "iwslt2017-de-en", "split": "train", "revision": "refs/convert/parquet"}, iwslt
    ),
}
