"""What every result can do: be drawn, be tabled, be written to a file and be read again."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch import Tensor

from tl_scopes.errors import ResultFileError
from tl_scopes.results.fields import check_fields
from tl_scopes.results.records import KINDS
from tl_scopes.results.storage import plain, read_file, rebuilt, write_file

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_R = TypeVar("_R", bound="Result")


def render() -> Any:
    """`tl_scopes.render`: the one door from results to pictures, opened when something is drawn."""
    return import_module("tl_scopes.render")


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The base of all results. A result is plain data: tensors, texts, numbers and records.

    `earlier_names`: what older versions of the package called this kind in their files.
    """

    earlier_names: ClassVar[tuple[str, ...]] = ()

    def plot(self, **options: Any) -> Figure:
        """Draw a matplotlib figure. Options: see `tl_scopes.render.figure`.

        Examples:
            >>> result.plot().savefig("result.pdf")
        """
        return render().figure(self, **options)

    def to_html(self, path: str | Path | None = None, **options: Any) -> str:
        """Make one self-contained HTML page, and write it to `path` if given.

        Options: see `tl_scopes.render.html`.

            >>> result.to_html("result.html")
        """
        return render().html(self, path, **options)

    def show(self, **options: Any) -> Any:
        """Make the notebook output. Options: see `tl_scopes.render.html`.

        Examples:
            >>> attribution.show(scale="log")  # as the last line of a cell
        """
        return render().notebook(self, **options)

    def print(self, **options: Any) -> None:
        """Print to the terminal. Options: see `tl_scopes.render.terminal`.

        Examples:
            >>> result.print()
        """
        render().terminal(self, **options)

    def to_frame(self) -> pd.DataFrame:
        """Make a long-form pandas table: one row a number, with columns that say what it is of.

        Examples:
            >>> result.to_frame().to_csv("result.csv")
        """
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return self.show().data

    def save(self, path: str | Path) -> Path:
        """Write to one safetensors file (never pickle): it appears whole or not at all.

        Returns the path. Raises `ResultFileError` where the result holds what no file can, and
        `OutputFileError` or `OSError` where no file can be written.

            >>> attribution.save("paris.safetensors")
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {k: v for k, v in values.items() if isinstance(v, Tensor)}
        payload = {k: plain(v) for k, v in values.items() if k not in tensors}
        return write_file(path, type(self).__name__, tensors, payload)

    @classmethod
    def load(cls: type[_R], path: str | Path) -> _R:
        """Read what `save` wrote, in this version or an older one.

        Raises `ResultFileError` for a file that was changed or cut short, any other file, and fields
        that do not fit each other.

            >>> ts.Attribution.load("paris.safetensors").top(3)
        """
        tensors, payload = read_file(path, cls.__name__, *cls.earlier_names)
        try:
            result = cls(**tensors, **{k: rebuilt(v, KINDS) for k, v in payload.items()})
            check_fields(result)
            return result
        except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            raise ResultFileError(
                f"{path} does not describe a whole {cls.__name__} ({error}): save it again"
            ) from error
