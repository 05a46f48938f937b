"""The Python that computes and draws the same, to copy."""

from __future__ import annotations

from tl_scopes.app.request import Request, View, token
from tl_scopes.app.settings import Settings


def python(request: Request, view: View, settings: Settings) -> str:
    """A script that makes what the page shows: `found`, and the files it offers for download.

    Texts are Python literals, whatever they hold.
    """
    target, versus = token("target", request.target), token("versus", request.versus)
    scope = {
        "semantic": f"SemanticScope({'' if target is None else repr(target)})",
        "logit-difference": f"LogitDifferenceScope({target!r}, {versus!r})",
        "fisher": f"FisherScope(rank={request.rank})",
        "temperature": "TemperatureScope()",
    }[request.scope]
    arguments = [
        "model",
        repr(request.prompt),
        f"ts.{scope}",
        f"sites={request.to_sites()!r}",
        *([f"position={request.position}"] if request.position != -1 else []),
    ]
    drawn = "".join(f", {name}={value!r}" for name, value in view.options().items())
    options = drawn.removeprefix(", ")
    site = f"site={view.site!r}, " if view.site else ""
    return "\n".join(
        [
            "import tl_scopes as ts",
            "",
            f"model = ts.models.load({_loaded(request.model, settings)})",
            "found = ts.attribute(",
            *(f"    {argument}," for argument in arguments),
            ")",
            f"found.print({site}{options})".replace(", )", ")"),
            f'found.to_html("scope.html"{drawn})',
            f'found.plot({options}).savefig("scope.png", dpi=150)',
            "",
        ]
    )


def _loaded(name: str, settings: Settings) -> str:
    parts = [repr(name)]
    if settings.backend != "auto":
        parts.append(f"backend={settings.backend!r}")
    if settings.dtype != "float32":
        parts.append(f"dtype={settings.dtype!r}")
    if settings.device is not None:
        parts.append(f"device={settings.device!r}")
    return ", ".join(parts)
