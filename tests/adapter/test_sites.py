"""Names of sites: what is accepted, in which order, and what is said of the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_scopes.adapter.sites import Site, embed_site, parse_site, parse_sites, resid_site
from tl_scopes.errors import ScopesError, SiteError

HOOKS = [
    "hook_embed",
    *(
        f"blocks.{layer}.{name}"
        for layer in range(3)
        for name in ("hook_resid_pre", "hook_resid_post", "attn.hook_z")
    ),
    "ln_final.hook_normalized",
]


def labels(request, n_layers: int = 3) -> list[str]:
    return [site.label for site in parse_sites(request, n_layers, HOOKS)]


@pytest.mark.parametrize(
    "request_, expected",
    [
        ("embed", ["embed"]),
        ("all", ["embed", "resid(0)", "resid(1)", "resid(2)", "resid(3)"]),
        (0, ["resid(0)"]),
        (3, ["resid(3)"]),
        (-1, ["resid(3)"]),
        (-4, ["resid(0)"]),
        ("resid(2)", ["resid(2)"]),
        ("resid(-1)", ["resid(3)"]),
        ([2, "embed", 0], ["resid(2)", "embed", "resid(0)"]),
        ((1, -3, "resid(1)"), ["resid(1)"]),
        (["all", "embed", 1], ["embed", "resid(0)", "resid(1)", "resid(2)", "resid(3)"]),
        ("blocks.1.attn.hook_z", ["blocks.1.attn.hook_z"]),
        ("blocks.1.attn.hook_z[1]", ["blocks.1.attn.hook_z[1]"]),
        (["blocks.0.hook_resid_pre", 0], ["blocks.0.hook_resid_pre", "resid(0)"]),
    ],
)
def test_requests(request_, expected):
    assert labels(request_) == expected


def test_sites_know_their_hooks():
    assert embed_site() == Site("embed", "hook_embed")
    assert [resid_site(layer, 2).hook for layer in range(3)] == [
        "blocks.0.hook_resid_pre",
        "blocks.1.hook_resid_pre",
        "blocks.1.hook_resid_post",
    ]
    site = parse_site("blocks.1.attn.hook_z[1]", 3, HOOKS)
    assert (site.hook, site.component) == ("blocks.1.attn.hook_z", (1,))
    assert parse_site("blocks.1.attn.hook_z[1][12]", 3, HOOKS).component == (1, 12)
    every = parse_site("blocks.1.attn.hook_z", 3, HOOKS).components((1, 4))
    assert every[3] == ("blocks.1.attn.hook_z[0][3]", (0, 3))
    assert site.is_named and not site.is_embed
    assert embed_site().is_embed and not embed_site().is_named
    assert parse_site("hook_embed", 3, HOOKS).is_named


@pytest.mark.wrong_types
@pytest.mark.parametrize("wrong", [True, 1.0, None, ["embed", 2.5], [[0]], {"embed": 1}.items()])
def test_other_types_are_refused(wrong):
    with pytest.raises(SiteError, match="string or an int"):
        parse_sites([wrong] if wrong is None or isinstance(wrong, float) else wrong, 3, HOOKS)


@pytest.mark.parametrize("wrong", [4, -5, "resid(4)", "resid(-5)", [0, 99]])
def test_layers_out_of_range_say_which_exist(wrong):
    with pytest.raises(SiteError, match=r"out of range.*3 blocks.*resid\(0\) to resid\(3\)"):
        parse_sites(wrong, 3, HOOKS)


@pytest.mark.parametrize(
    "wrong, near",
    [
        ("blocks.1.attn.hook_zz", "blocks.1.attn.hook_z"),
        ("embeds", "embed"),
        ("resid(1", "resid(1)"),
        ("blocks.9.attn.hook_z[0]", "attn.hook_z"),
        ("ln_final.hook_normalised", "ln_final.hook_normalized"),
    ],
)
def test_unknown_names_get_the_nearest(wrong, near):
    with pytest.raises(SiteError) as error:
        parse_sites(wrong, 3, HOOKS)
    message = str(error.value)
    assert (
        repr(wrong) in message and near in message and "nearest" in message and "0 to 3" in message
    )


def test_no_site_at_all():
    with pytest.raises(SiteError, match="no site was given"):
        parse_sites([], 3, HOOKS)


@given(st.text(max_size=30))
def test_any_text_is_a_site_or_a_named_error(text):
    try:
        assert labels(text)
    except ScopesError as error:
        assert repr(text) in str(error) or "out of range" in str(error)


@given(
    st.lists(st.one_of(st.integers(-4, 3), st.sampled_from(["embed", "all", *HOOKS])), min_size=1)
)
def test_order_is_kept_and_nothing_comes_twice(request_):
    found = labels(request_)
    assert len(found) == len(set(found))
    assert found[0] == labels([request_[0]])[0]
    assert set(found) == {label for item in request_ for label in labels([item])}
