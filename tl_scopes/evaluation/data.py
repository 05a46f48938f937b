"""Prompts from text, JSON, JSON lines, parquet, a saved Hugging Face dataset, or the hub."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_scopes.adapter.chat import BESIDE
from tl_scopes.adapter.refusals import is_conversation
from tl_scopes.errors import DataError, check_whole
from tl_scopes.models.quiet import local_only_if_unreachable, undisturbed

if TYPE_CHECKING:
    import pyarrow as pa

# Where prompts stand unless a column is named: text first, then token ids, then conversations.
COLUMNS = ("text", "tokens", "input_ids", "messages")
MASK = "attention_mask"
_KINDS = (".txt", ".json", ".jsonl", ".ndjson", ".parquet")
_ALLOWED = (
    "allowed: a .txt file (one prompt a line), .json (a list), .jsonl (one a line), .parquet, a folder "
    "that datasets.save_to_disk wrote, or the name of a data set on the Hugging Face hub"
)
_KINDS_OF_PROMPTS = "a text, a list of token ids or of messages"


@dataclass(frozen=True)
class DataSet:
    """Prompts and where they are from.

    `prompts`: texts, or lists of token ids, these with their attention mask where there is one
    (`{"input_ids": [...], "attention_mask": [...]}`), or lists of messages, these with their tools
    where there are some (`{"messages": [...], "tools": [...]}`). `source`: the file or name. `first`: the place of
    `prompts[0]` in the source, from 0, so that rows of different slices can be put together.
    `continuations`: a text, or token ids, that follow each prompt and are measured; None: none are.
    """

    prompts: Sequence[Any]
    source: str = "a list of prompts"
    first: int = 0
    continuations: Sequence[Any] | None = None

    def __len__(self) -> int:
        return len(self.prompts)


def read(
    source: str | Path,
    *,
    column: str | None = None,
    config: str | None = None,
    split: str | None = None,
    n: int | None = None,
    skip: int = 0,
    continuations: str | None = None,
) -> DataSet:
    """The prompts of a file, of a saved dataset or of one on the hub.

    Args:
        source: a `.txt` file in UTF-8 (one prompt a line, blank lines left out), `.json` (a list),
            `.jsonl` (one value a line), `.parquet`, a folder that `Dataset.save_to_disk` wrote or
            that `datasets.load_dataset` reads, or the name of a data set on the Hugging Face hub.
            JSON values are texts, lists of token ids, lists of messages (`{"role", "content"}`), or
            objects that hold one of these under `column`.
        column: where the prompts stand: texts, lists of token ids, or lists of messages. Default:
            `text`, else `tokens`, else `input_ids`, else `messages`. An `attention_mask` beside ids
            says which of them are padding; `tools`, `chat_template` and `chat_template_kwargs` beside
            messages are given to the chat template.
        config: the configuration of a data set on the hub, where it has several.
        split: of a saved or hub data set; may be left out where there is one.
        n: how many to take; None: all.
        skip: how many to leave out before.
        continuations: the column of what follows each prompt, texts or lists of token ids, whose
            log-probability is measured then.

    Raises:
        DataError: nothing is there, it cannot be read, or it lacks the column or split; the message
            says which ones there are, and which line is wrong.

    Examples:
        >>> evaluation.read("passages.jsonl", column="passage", n=100).prompts[0]
    """
    check_whole("n", n, 1, also=[None], error=DataError)
    check_whole("skip", skip, 0, error=DataError)
    text, path = str(source), Path(source).expanduser()
    wanted = slice(skip, None if n is None else skip + n)
    try:
        if path.is_file() and (config is not None or split is not None):
            raise DataError(
                f"{text} is a file, which has neither configurations nor splits: drop them"
            )

        def taken(name: str | None) -> list[Any]:
            if path.is_file():
                return _file(path, name, wanted)
            return _dataset(text, path, name, config, split, wanted)

        prompts = taken(column)
        after = None if continuations is None else taken(continuations)
    except OSError as error:
        raise DataError(f"{text} cannot be read ({error.strerror or error}): check it") from error
    if not prompts:
        what = f"no prompts after the first {skip}: lower skip" if skip else "no prompts: fill it"
        raise DataError(f"{text} has {what}")
    return DataSet(prompts, text, skip, after)


def _file(path: Path, column: str | None, wanted: slice) -> list[Any]:
    kind = path.suffix.lower()
    if kind not in _KINDS:
        raise DataError(f"{path} ends in {kind or 'nothing'!r}; {_ALLOWED}")
    if kind == ".parquet":
        return _parquet(path, column, wanted)
    if kind == ".txt":
        if column is not None:
            raise DataError(f"{path} is a text file, which has no columns: drop column {column!r}")
        lines = (line for _, line in _lines(path) if line.strip())
        return list(itertools.islice(lines, wanted.start, wanted.stop))
    if kind == ".json":
        where = f"item {{}} of {path}"
        values = _json(_decoded(path.read_bytes(), str(path)), str(path))
        if not isinstance(values, list):
            raise DataError(
                f"{path} holds a JSON {type(values).__name__}; give a list of texts or objects"
                + (f" (its keys are {_listed(values)})" if isinstance(values, dict) else "")
            )
        numbered: Iterable[tuple[int, Any]] = enumerate(values)
    else:
        where = f"line {{}} of {path}"
        numbered = ((i, _json(line, where.format(i))) for i, line in _lines(path) if line.strip())
    taken = itertools.islice(numbered, wanted.start, wanted.stop)
    return [_value(value, column, where.format(i)) for i, value in taken]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered from 1. Not `splitlines`: a prompt may hold other separators, such as U+2028."""
    with path.open("rb") as file:
        for i, line in enumerate(file, 1):
            text = _decoded(line, f"line {i} of {path}")
            yield i, text.removesuffix("\n").removesuffix("\r")


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not UTF-8 ({error.reason} at byte {error.start}): convert the file first"
        ) from None


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}): correct it") from None


def _value(value: Any, column: str | None, where: str) -> Any:
    if isinstance(value, dict):
        place = _choose(list(value), column, where)
        return _whole(value[place], {name: value[name] for name in _beside(place, list(value))})
    if _is_prompt(value) and column is None:
        return value
    what = f"holds a {type(value).__name__}" + (f", and no {column!r}" if column else "")
    raise DataError(f"{where} {what}; allowed: {_KINDS_OF_PROMPTS}, or an object that holds one")


def _is_prompt(value: Any) -> bool:
    ids = isinstance(value, list) and all(isinstance(i, int) for i in value)
    return isinstance(value, str) or ids or is_conversation(value)


def _choose(names: Sequence[str], column: str | None, where: str) -> str:
    """The column to read. Raises `DataError`, which names those there are."""
    if column is None:
        usual = next((name for name in COLUMNS if name in names), None)
        if usual is not None:
            return usual
    elif column in names:
        return column
    lacks = f"column {column!r}" if column else "column " + " or ".join(map(repr, COLUMNS))
    raise DataError(
        f"{where} has no {lacks}; it has {_listed(names)}: choose one (--column)"
        + (". A conversation is a list of messages: put them into one" if "role" in names else "")
    )


def _beside(column: str, names: Sequence[str]) -> list[str]:
    """The columns that say more of what stands in `column`: padding of ids, tools of messages."""
    of_others = column != "input_ids" and "input_ids" in names
    return [
        name for name in (*BESIDE, *((MASK,) * (not of_others))) if name in names and name != column
    ]


def _whole(prompt: Any, beside: Mapping[str, Any]) -> Any:
    """A prompt with what stands beside it and is for its kind."""
    if is_conversation(prompt):
        more = {name: beside[name] for name in BESIDE if beside.get(name) is not None}
        return {"messages": prompt, **more} if more and not isinstance(prompt, Mapping) else prompt
    if isinstance(prompt, list) and beside.get(MASK) is not None:
        return {"input_ids": prompt, MASK: beside[MASK]}
    return prompt


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _rows(
    names: Sequence[str],
    take: Callable[[list[str]], pa.Table],
    column: str | None,
    wanted: slice,
    where: str,
) -> list[Any]:
    """The prompts of a table whose columns are `names`; `take` gives some of them.

    A null is left for the run to record; a whole column of something else is a mistake.
    """
    place = _choose(names, column, where)
    others = _beside(place, names)
    table = take([place, *others])
    values, *more = (table[name][wanted].to_pylist() for name in (place, *others))
    for value in values:
        if value is not None and not _is_prompt(value):
            raise DataError(
                f"column {place!r} of {where} holds a {type(value).__name__}; allowed: {_KINDS_OF_PROMPTS}"
                + (f" (its keys are {_listed(value)})" if isinstance(value, Mapping) else "")
            )
    return [_whole(value, dict(zip(others, beside))) for value, *beside in zip(values, *more)]


def _parquet(path: Path, column: str | None, wanted: slice) -> list[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            return _rows(file.schema_arrow.names, file.read, column, wanted, str(path))
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a whole parquet file ({error}): write it again") from error


def _dataset(
    text: str,
    path: Path,
    column: str | None,
    config: str | None,
    split: str | None,
    wanted: slice,
) -> list[Any]:
    local = path.is_dir()
    if not local and (path.suffix.lower() in _KINDS or text.startswith((".", "~", "/"))):
        raise DataError(f"there is no file or folder {text}; {_ALLOWED}")
    # Its own bars show what is fetched; what it prints and logs would spoil the output.
    with undisturbed(show_progress_bars=not local), local_only_if_unreachable():
        import datasets

        saved = local and any((path / f).is_file() for f in ("state.json", "dataset_dict.json"))
        try:
            if saved:
                data: Any = datasets.load_from_disk(str(path))
            else:
                name = str(path) if local else text
                data = datasets.load_dataset(name, config, split=split)
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            what = "this folder" if local else "the name of a data set on the hub"
            raise DataError(
                f"{text} cannot be loaded as {what} ({' '.join(reason)[:300]}): check the name, its "
                f"config and split, and the network; {_ALLOWED}"
            ) from error
        if isinstance(data, Mapping):
            if split is None and len(data) == 1:
                (split,) = data
            if split not in data:
                raise DataError(
                    f"{text} has the splits {_listed(data)}, "
                    + (f"not {split!r}" if split else "and none was asked for")
                    + ": choose one (--split)"
                )
            data = data[split]
        elif saved and split is not None and str(data.split) != split:
            raise DataError(f"{text} has no splits, but split={split!r} was asked for: drop it")

        def take(columns: list[str]) -> pa.Table:
            return data.select_columns(columns).with_format("arrow")[wanted]

        return _rows(data.column_names, take, column, slice(None), text)
