# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From tokens to circuits
#
# A list of words is read out twice. The second time it stops in the middle, and the model knows
# what comes next, because it has seen it once. **Which parts of the model carry the word from there
# to here?** You ask twice, by looking at attention and by following gradients, and get two
# different answers. Then you switch heads off, and see what even that does not tell.
#
# You need the first tutorial, and to know that a transformer layer has attention heads: here 18
# layers with 4 heads each. `L11H2` is head 2 of layer 11, both counted from 0. Where it says
# **Predict**, write your answer down before you go on. It takes about two minutes.

# %%
import functools

import matplotlib.pyplot as plt
import torch
from scipy.stats import spearmanr

import tl_scopes as ts
from tl_scopes import circuits, models

model = models.load(progress=False)  # Gemma-3 270M
n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads

prompt = " lamp horse seven blue ocean Peter glass train winter bread lamp horse seven blue ocean"
tokens = model.to_str_tokens(prompt)
ocean, peter, last = 5, 6, 15
answer = model.to_single_token(" Peter")
assert (tokens[ocean], tokens[peter], tokens[last]) == (" ocean", " Peter", " ocean")

# %% [markdown]
# ## 1. The task
#
# **Predict.** After the second *ocean* the model should say *Peter*. Which words of the prompt will
# the score of *Peter* depend on? And, harder: a head can only mix what stands at two positions. At
# the second *ocean* nothing is known of *Peter*, and at the first *Peter* nothing is known of the
# second *ocean*. Draw how two heads in different layers could do it together.

# %%
scope = ts.SemanticScope(" Peter")
found = ts.attribute(model, prompt, scope)

best = found.prediction[0]
print(f"{best.text!r}: {best.probability:.0%}")
assert best.text == " Peter" and 0.4 < best.probability < 0.5
found

# %% [markdown]
# *Peter* leads, then *glass*, then the *ocean* at the end. The first *ocean*, without which nobody
# could know, is only average: the score says how much a token can do when it is nudged, and a word
# that serves as a signpost is not much moved by a nudge.

# %%
order = [i for i, _, _ in found.top(len(tokens), include_bos=False)]
assert order[:3] == [peter, 7, last]
assert 0.7 < found.scores[0, ocean] / found.scores[0, 1:].mean() < 1.3

# %% [markdown]
# The known answer to the puzzle is an *induction circuit*, [found in 2021 and
# 2022](https://arxiv.org/abs/2209.11895). An early **previous-token head** copies *ocean* from the
# position before *Peter* to the position of *Peter*, which now carries the mark "I come after
# *ocean*". A later **induction head** sits at the second *ocean*, looks for that mark, finds
# *Peter*, and copies it.
#
# ## 2. Looking for it
#
# The usual way to find such heads: say 40 random tokens twice, so that nothing but repetition can
# help, and see where heads look. An induction head looks at the token after the earlier copy of the
# one it stands on, a previous-token head one step back.

# %%


def attention(text, hooks=()):
    """Attention [layer, head, query, key] and the last logits of a run with hooks."""
    with torch.no_grad(), model.hooks(fwd_hooks=list(hooks)):
        logits, cache = model.run_with_cache(
            text, names_filter=lambda name: name.endswith("hook_pattern")
        )
    layers = [cache[f"blocks.{layer}.attn.hook_pattern"][0] for layer in range(n_layers)]
    return torch.stack(layers), logits[0, -1]


n = 40
drawn = torch.randint(1000, 200_000, (n,), generator=torch.Generator().manual_seed(0))
twice = torch.cat([torch.tensor([model.tokenizer.bos_token_id]), drawn, drawn])[None]
patterns, _ = attention(twice)

second = torch.arange(n + 1, 2 * n + 1)
induction = patterns[:, :, second, second - n + 1].mean(-1)
every = torch.arange(2, 2 * n + 1)
previous = patterns[:, :, every, every - 1].mean(-1)


def label(layer, head):
    return f"L{layer}H{head}"


def ranked(grid, k=5):
    """The k heads with the highest values."""
    values, places = grid.flatten().topk(k)
    heads = [label(*divmod(place, n_heads)) for place in places.tolist()]
    return {head: round(value, 2) for head, value in zip(heads, values.tolist())}


whole, intact = attention(prompt)
print("look at what came next last time:", ranked(induction))
print("look one back:                   ", ranked(previous))
print("in our list, look at Peter:      ", ranked(whole[..., last, peter], 6))

# %% [markdown]
# The best induction head by its looks is L5H1, with 87% of its attention where it should be; L11H2
# comes next. In our list L5H1 and its neighbours L5H3 and L5H2 look at *Peter* with 81%, 70% and
# 61%, L11H2 with 42%. The best previous-token heads are L2H3 and L4H1, and the third is L10H1.
#
# **Predict.** Switch off L5H1, and by how many logits does *Peter* fall? And L11H2? (The model
# gives *Peter* 44% now. A fall of 3 divides the odds by 20.)

# %%
assert list(ranked(induction, 2)) == ["L5H1", "L11H2"] and 0.82 < induction[5, 1] < 0.92
assert list(ranked(previous, 3)) == ["L2H3", "L4H1", "L10H1"]
here = ranked(whole[..., last, peter], 4)
assert list(here) == ["L5H1", "L5H3", "L5H2", "L11H2"]
assert all(abs(a - b) < 0.04 for a, b in zip(here.values(), (0.81, 0.70, 0.61, 0.42)))

# %% [markdown]
# ## 3. Following the influence
#
# Attention says where a head looks, not what comes of it. A scope says what moves the logit of
# *Peter*, not by which way. `head_paths` puts the two together: for each layer it cuts the influence
# of a token into what passes through the output of each head and what passes by. One backward pass
# leads from the logit to all heads, one more from each head on to all tokens. (A way through layer 5
# may go on through layer 11 and then counts in both: do not add up layers.)

# %%
paths = circuits.head_paths(model, prompt, scope)

print("from the first Peter:     ", paths.top(5, source=peter))
print("from the ocean before it: ", paths.top(5, source=ocean))
paths.plot(source=peter)

# %% [markdown]
# From *Peter*, most passes through L11H2 and L17H2, nearly alike. Through L5H1, which looks at
# *Peter* twice as much as L11H2 does, passes a quarter of that. From *ocean*, the first two are L6H1
# and L4H1. So the two ways of looking disagree.

# %%
through = paths.norms[..., peter]
assert ranked(through, 2).keys() == {"L11H2", "L17H2"}
assert 0.18 < through[5, 1] / through[11, 2] < 0.32
assert [name for name, _ in paths.top(2, source=ocean)] == ["L6H1", "L4H1"]

# %% [markdown]
# ## 4. Switching heads off
#
# Now the test. `verify` sets the output of a head to zero, runs the model, and notes what happens
# to the logit of *Peter*; it does so for all 72 heads, one at a time. Beside each measured change it
# keeps the one that the gradient predicted.

# %%
checked = circuits.verify(model, prompt, paths, by="head", top=10, random=62, steps=(0.1, 1.0))

every_head = [label(layer, head) for layer in range(n_layers) for head in range(n_heads)]
table = checked.to_frame().set_index("labels").loc[every_head]
measured, predicted = (
    torch.tensor(table[column].to_numpy()).view(n_layers, n_heads)
    for column in ("measured", "predicted")
)
print("fall without:", ranked(-measured))
print("rise without:", ranked(measured))

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.scatter(induction, measured, s=16, color="0.6")
for place in [(5, 1), (5, 2), (11, 2), (13, 3), (17, 2), (4, 1)]:
    at = float(induction[place]), float(measured[place])
    ax.scatter(*at, s=24, color="tab:blue")
    rise = -13 if place in [(17, 2), (4, 1)] else 5  # no room above these two
    ax.annotate(label(*place), at, textcoords="offset points", xytext=(0, rise), ha="center")
ax.set(xlabel="attention on what came next (random tokens)", ylabel="change of the logit")
ax.margins(0.12)
ax.spines[["top", "right"]].set_visible(False)
plt.close(figure)
figure

# %% [markdown]
# Without L11H2, *Peter* loses 8.9 logits: the model no longer knows the answer. No other head alone
# costs a third of that. L13H3 and L17H2, which look at *Peter* too (35% and 17%), work *against* it:
# without either the logit rises by about 2. They lead the picture of section 3 as well, for it draws
# lengths, which have no sign.
#
# And without L5H1 nothing happens at all. Does nobody listen to it? **Predict**: L5H1 and L5H2 can
# each be taken away without harm. What if both go? And what if L5H1 is not set to zero, but to the
# mean of what it writes over the prompt?

# %%
assert -9.4 < measured[11, 2] < -8.4 and ranked(-measured, 2).keys() == {"L11H2", "L4H1"}
assert ranked(-measured, 2)["L4H1"] < -measured[11, 2] / 3.3
assert 1.6 < measured[13, 3] < 2.5 and 1.4 < measured[17, 2] < 2.2
assert 0.30 < whole[13, 3, last, peter] < 0.40 and 0.13 < whole[17, 2, last, peter] < 0.21


def without(*heads, by="zero"):
    """Hooks that put zero, or its mean over the text (<bos> left out), for a head's output."""

    def replace(head):
        def hook(z, hook):
            z = z.clone()
            z[:, :, head] = 0 if by == "zero" else z[:, 1:, head].mean(1, keepdim=True)
            return z

        return hook

    return [(f"blocks.{layer}.attn.hook_z", replace(head)) for layer, head in heads]


@functools.cache
def untouched(text):
    return attention(text)


def effect(heads, by="zero", text=prompt, target=" Peter"):
    """What taking heads away does to the target's logit, and L11H2's attention to it after that."""
    at, wanted = model.to_str_tokens(text).index(target), model.to_single_token(target)
    _, before = untouched(text)
    seen, after = attention(text, without(*heads, by=by))
    return float((after - before)[wanted]), float(seen[11, 2, -1, at])


trials = {
    "L5H1": effect([(5, 1)]),
    "L5H1 to its mean": effect([(5, 1)], by="mean"),
    "L5H2": effect([(5, 2)]),
    "L5H1, L5H2": effect([(5, 1), (5, 2)]),
    "both to their means": effect([(5, 1), (5, 2)], by="mean"),
    "L5H1, L5H2, L5H3": effect([(5, 1), (5, 2), (5, 3)]),
    "all of layer 5": effect([(5, head) for head in range(n_heads)]),
}
for name, (fall, look) in trials.items():
    print(f"{name:>19}: {fall:+.2f} logits, L11H2 looks at Peter with {look:.0%}")

# %% [markdown]
# Each alone costs next to nothing. Both together cost 7.7 logits with zero and none with the mean,
# three heads 1.5, and without the whole layer the logit even *rises*, by 2. So no such number is
# "what L5H1 does". Two things are known to spoil it. Heads with like work can stand in for each
# other (*backup heads*). And zero is far from what the model is used to: Gemma-3 has a norm after
# attention, which gives whatever the other heads of the layer have left the full size again. **No
# effect of one ablation is no proof of no role**, and a large one is no measure of it. One trace is
# there in every trial of one head: L11H2 looks at *Peter* with about 30%, no longer 42%.

# %%
for name in ("L5H1", "L5H1 to its mean", "L5H2"):
    assert abs(trials[name][0]) < 0.4 and 0.25 < trials[name][1] < 0.35
assert -8.5 < trials["L5H1, L5H2"][0] < -6.8 and trials["L5H1, L5H2"][1] < 0.1
assert abs(trials["both to their means"][0]) < 0.6
assert -2.1 < trials["L5H1, L5H2, L5H3"][0] < -0.9 and 1.5 < trials["all of layer 5"][0] < 2.8
assert "blocks.5.ln1_post.hook_out" in model.hook_dict  # the norm after attention

# %% [markdown]
# How well do the lists of sections 2 and 3 foretell the measured changes, over all 72 heads?

# %%
size = measured.abs().flatten()
guesses = {
    "attention": induction.flatten(),
    "influence of all tokens": paths.norms.sum(-1).flatten(),
    "predicted change": predicted.abs().flatten(),
}
rank = {name: spearmanr(guess, size).statistic for name, guess in guesses.items()}
for name, value in rank.items():
    print(f"rank correlation with what ablation does, {name}: {value:.2f}")

resamples = torch.randint(len(size), (1000, len(size)), generator=torch.Generator().manual_seed(0))
gains = [
    spearmanr(guesses["influence of all tokens"][i], size[i]).statistic
    - spearmanr(guesses["attention"][i], size[i]).statistic
    for i in resamples
]
low, high = torch.tensor(gains).quantile(torch.tensor([0.025, 0.975], dtype=torch.double))
print(f"influence of all tokens less attention: 95% interval {low:.2f} to {high:.2f}")

assert abs(rank["attention"]) < 0.15
assert 0.3 < rank["influence of all tokens"] < 0.5 and 0.55 < rank["predicted change"] < 0.75
assert 0.01 < low < 0.13 and 0.58 < high < 0.72

# %% [markdown]
# Attention ranks the heads no better than chance; but ours looks for one role only, and has no reason
# to put a previous-token head anywhere. Influence does better, by 0.06 to 0.65 (heads drawn anew,
# 95% of the time), and not well: 0.4 is a hint. The change that the gradient predicts for this very
# ablation does best, with 0.65. Enough to pick a few heads to ablate, not enough to skip the
# ablation, and you have just seen how much one ablation can hide.

# %% [markdown]
# ## 5. Who tells L11H2 where to look?
#
# **Predict.** Of L2H3, L4H1, L10H1 and L6H1, which does L11H2 need? The first three look one token
# back. L4H1 and L6H1 are what influence from *ocean* passes through. Watch the attention of L11H2
# from the last position to *Peter* while each is switched off, by zero and by mean.

# %%
suspects = {"L2H3": [(2, 3)], "L4H1": [(4, 1)], "L10H1": [(10, 1)], "L6H1": [(6, 1)]}
suspects["L4H1, L10H1"] = suspects["L4H1"] + suspects["L10H1"]
looks = {}
for name, heads in suspects.items():
    for by in ("zero", "mean"):
        _, looks[name, by] = effect(heads, by)
        print(f"L11H2 looks at Peter, {name} off by {by}: {looks[name, by]:.0%}")

for by in ("zero", "mean"):
    assert 0.34 < looks["L2H3", by] < 0.43  # the best previous-token head is not needed
    assert 0.13 < looks["L4H1", by] < 0.21 and 0.09 < looks["L10H1", by] < 0.18
    assert 0.04 < looks["L4H1, L10H1", by] < 0.095
    assert looks["L6H1", by] > looks["L4H1", by] + 0.05
assert 0.22 < looks["L6H1", "zero"] < 0.33 < looks["L6H1", "mean"]
assert paths.norms[10, 1, ocean] < paths.norms[..., ocean].median()

# %% [markdown]
# Without L4H1, which is in both lists, less than half of the 42% is left; without L10H1 about a
# third; without both a sixth. L10H1 was third by its looks, but influence from *ocean* puts it in
# the lower half of all heads: a list made from gradients is not complete. Nor is one made from
# looks right, for L2H3 is its first and is not needed. L6H1 counts with zero and much less with the
# mean: leave it open.

# %% [markdown]
# ## 6. The route
#
# Which way does it go, layer by layer? `flow_path` follows the influence through the positions:
# what enters a position leaves it, so the widths add up (blue ones add, red ones take away).
#
# **Predict.** The circuit says: *ocean* goes to the place of *Peter* early, and *Peter* goes to the
# last place late. At which layers?

# %%
route = circuits.flow_path(model, prompt, scope, [2, 5, 7, 10, 11, 12, 18], source=ocean)
share = dict(zip(route.sites, route.nodes / route.total))
for site, row in share.items():
    print(f"{site:>9}: {row[peter]:4.0%} on Peter, {row[last]:4.0%} on the last")
route.plot()

# %% [markdown]
# *What the first* ocean *does to the logit of* Peter*.* At `resid(5)` half of it sits on *Peter*, just
# after L4H1. From `resid(7)` to `resid(11)` next to nothing is left there, in sum, and two fifths are
# on the last position. So is the place found in layers 5 and 6, and L11H2 told where to look by what
# stands at the last position? Then what has L10H1 to do, four layers later?

# %%
assert share["resid(2)"][peter] < 0.1 and 0.4 < share["resid(5)"][peter] < 0.6
for site in ("resid(7)", "resid(10)", "resid(11)"):
    assert abs(share[site][peter]) < 0.05 and 0.35 < share[site][last] < 0.53
bands = route.edges[route.sites.index("resid(11)"), :, peter] / route.total
assert -0.12 < bands[last] < -0.02 and 0.03 < bands[peter] < 0.14  # the red one and the blue one

# %% [markdown]
# A gradient is no proof of a route either. *Patching* is a test: run the prompt with *table* for the
# first *ocean*, and bring the stream of that run, at one layer and one position, into the run of the
# true prompt. If that harms, something that counts was there.

# %%
with torch.no_grad():
    _, streams = model.run_with_cache(
        prompt.replace(" ocean", " table", 1),
        names_filter=lambda name: name.endswith("hook_resid_pre"),
    )


def patch(layer, positions):
    site = f"blocks.{layer}.hook_resid_pre"

    def hook(x, hook):
        x = x.clone()
        x[:, positions] = streams[site][:, positions]
        return x

    return [(site, hook)]


spots = {"ocean": [ocean], "Peter": [peter], "last": [last], "Peter and last": [peter, last]}
layers = list(range(4, 13))
new, other = attention(prompt.replace(" ocean", " table", 1))
in_all, mark_in_all = float((other - intact)[answer]), float(new[11, 2, last, peter])
harm, mark = {}, {}
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for (name, positions), line in zip(spots.items(), ("s-", "o-", "^-", "D--")):
    runs = [attention(prompt, patch(layer, positions)) for layer in layers]
    harm[name] = {k: float((logits - intact)[answer]) for k, (_, logits) in zip(layers, runs)}
    mark[name] = {k: float(seen[11, 2, last, peter]) for k, (seen, _) in zip(layers, runs)}
    for ax, values in zip(axes, (harm, mark)):
        colour = {"ocean": "0.6", "Peter": "tab:blue", "last": "tab:orange"}.get(name, "black")
        ax.plot(layers, values[name].values(), line, color=colour, markersize=5, label=name)
axes[0].set_title("change of the logit")
axes[1].set_title("L11H2 looks at Peter")
for ax, level in zip(axes, (in_all, mark_in_all)):
    ax.axhline(level, color="0.7", linestyle=":", label="table, unpatched")
    ax.set(xlabel="patched at resid(...)", xticks=layers)
    ax.spines[["top", "right"]].set_visible(False)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
plt.close(figure)
figure

# %% [markdown]
# *Left: harm. Right: what is left of L11H2's 42% (`resid(12)` comes after L11H2).* Read the blue line:
#
# 1. At `resid(5)` the place of *Peter* holds a mark, just after L4H1. At `resid(6)` it no longer
#    matters, and the last position does. Only attention moves things between positions, so heads of
#    layer 5 have read it: their looks did not lie. This is the route that `flow_path` draws.
# 2. From `resid(6)` to `resid(10)` *Peter* holds nothing again. At `resid(11)` it does, and *ocean*,
#    which has mattered all along, no longer does: heads of layer 10 write the mark a second time, and
#    here L11H2 reads it. L10H1 is the candidate. In the gradient's picture this route, the one of
#    section 1, is a thin red band from *Peter* to the end, and nearly cancels with a blue one.
# 3. At `resid(12)` all of the harm is at the last position: L11H2 has fetched the word.
#
# *Peter* and the last position together cost more than *table* does unpatched: such effects do not
# add up. But on this prompt there are **two routes**, and `flow_path` brings out one of them.

# %%
assert -4.6 < in_all < -3.4 and mark_in_all < 0.1
assert harm["Peter"][5] < -0.4 and mark["Peter"][5] < 0.33
assert all(abs(harm["Peter"][k]) < 0.3 and mark["Peter"][k] > 0.36 for k in range(6, 11))
assert abs(harm["last"][5]) < 0.3 and harm["last"][6] < -0.7
assert all(harm["ocean"][k] < -0.4 and mark["ocean"][k] < 0.25 for k in range(5, 11))
assert harm["Peter"][11] < -1 and mark["Peter"][11] < 0.18 and abs(harm["ocean"][11]) < 0.4
assert harm["Peter and last"][11] < in_all - 1.5
assert harm["last"][12] < in_all - 0.5 and abs(harm["Peter"][12]) < 0.3

# %% [markdown]
# ## 7. One prompt is an anecdote
#
# Four more lists, with other words, and each head replaced by zero and by its mean. **Predict**:
# which of the findings above will stand?

# %%
nouns = """basket bottle bridge camera candle castle circle coffee cotton desert doctor engine
flower forest garden guitar hammer island jacket kitchen letter market mirror monkey music needle
orange paper pillow planet pocket prison rabbit river shadow shirt silver spider stone
sugar""".split()
texts = {" Peter": prompt}
for i in range(0, 40, 10):
    said = "".join(f" {word}" for word in nouns[i : i + 10])
    gone = said[said.rindex(" ") :]
    texts[gone] = said + said.removesuffix(gone)
groups = {
    "L11H2": [(11, 2)],
    "L4H1": [(4, 1)],
    "L10H1": [(10, 1)],
    "L4H1,\nL10H1": [(4, 1), (10, 1)],
    "L5H1": [(5, 1)],
    "L5H1,\nL5H2": [(5, 1), (5, 2)],
    "L13H3": [(13, 3)],
    "L17H2": [(17, 2)],
}
change = {(name, by): [] for name in groups for by in ("zero", "mean")}
still = {key: [] for key in change}
for gone, text in texts.items():
    _, start = effect([], text=text, target=gone)
    for name, by in change:
        fall, look = effect(groups[name], by, text, gone)
        change[name, by].append(fall)
        still[name, by].append(look / start)  # what is left of L11H2's attention

figure, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
ax.axhline(0, color="0.7", linewidth=1)
for by, shift, colour in (("zero", -0.13, "0.55"), ("mean", 0.13, "tab:blue")):
    for j, name in enumerate(groups):
        ax.plot([j + shift] * len(texts), change[name, by], "o", color=colour, markersize=5)
    ax.plot([], [], "o", color=colour, label=f"by {by}")
ax.set(xticks=range(len(groups)), xticklabels=groups, ylabel="change of the answer's logit")
ax.legend(frameon=False, loc="lower right")
ax.spines[["top", "right"]].set_visible(False)
plt.close(figure)
figure

# %% [markdown]
# *Each dot is a list of words.* What stands in all five, with both replacements: the answer hangs on
# L11H2 more than on any other head here. L4H1 and L10H1 are needed, and without both L11H2 keeps at
# most a quarter of its attention to the answer. L13H3 and L17H2 push against it.
#
# What does not: to lose L5H1 alone costs up to 1.6 logits with the mean, and may even help with zero.
# In every list, though, L11H2 looks at the answer less without it. L5H1 and L5H2 together cost 3 to 8
# logits with zero, and with the mean anything from nothing to 3. They have a part; its size we do
# not know. And of the heads that are not in this picture, one zero on one prompt is all we know.

# %%
for by in ("zero", "mean"):
    for name in ("L4H1", "L10H1", "L5H1", "L13H3", "L17H2"):
        assert all(a < b - 0.5 for a, b in zip(change["L11H2", by], change[name, by]))
    assert max(change["L11H2", by]) < -2 and min(change["L11H2", by]) > -16
    assert max(change["L4H1", by]) < -0.5 and max(change["L10H1", by]) < -0.6
    assert max(still["L4H1,\nL10H1", by]) < 0.27
    assert min(change["L13H3", by]) > 0.3 and min(change["L17H2", by]) > 0.3
    assert max(still["L5H1", by]) < 0.95
assert min(change["L5H1", "zero"]) < -0.4 and max(change["L5H1", "zero"]) > 0.4
assert -1.9 < min(change["L5H1", "mean"]) < -1.3 and max(change["L5H1", "mean"]) < 0.2
assert -9.5 < min(change["L5H1,\nL5H2", "zero"]) < max(change["L5H1,\nL5H2", "zero"]) < -2.4
assert min(change["L5H1,\nL5H2", "mean"]) > -3.6 and max(change["L5H1,\nL5H2", "mean"]) > -0.2

# %% [markdown]
# ## 8. What first order gets wrong
#
# A gradient predicts what a small step does. Switching a head off is a large one.
#
# **Predict.** For L11H2 the gradient says a fall of 0.9, the ablation 8.9. If you turn the head
# down slowly, where does the logit fall: evenly, at the start, or at the end?

# %%
steps = [0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0]
top = circuits.verify(model, prompt, paths, by="head", top=3, random=0, steps=steps)

figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for ax, name in zip(axes, top.labels):
    row = top.labels.index(name)
    ax.plot([0, *steps], [0, *top.step_measured[:, row].tolist()], color="tab:blue")
    ax.plot([0, 1], [0, float(top.predicted[row])], "--", color="0.5")
    ax.set(title=name, xlabel="share of the head taken away")
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("change of the logit")
plt.close(figure)
figure

# %% [markdown]
# *Blue: measured. Dashed: what the gradient promises. Mind the scales.*
#
# L17H2 does 1.8 where 1.3 was promised. L11H2 falls off a cliff: with a fifth of it left, a third of
# the damage is done, and the last fifth does the rest. L6H1 starts out without effect and ends at
# −1.2, where the gradient promises +0.1: the wrong sign. Why, these curves do not say.

# %%
curve = dict(zip(top.labels, top.step_measured.T))
assert set(curve) == {"L17H2", "L11H2", "L6H1"}
assert 1.4 < curve["L17H2"][-1] < 2.2 and 1.1 < predicted[17, 2] < 1.5
assert -1.1 < predicted[11, 2] < -0.7
assert 0.25 < curve["L11H2"][steps.index(0.8)] / curve["L11H2"][-1] < 0.4
assert -1.5 < curve["L6H1"][-1] < -0.95 and 0.03 < predicted[6, 1] < 0.15
checked.plot()

# %%
big = measured.abs() > 0.5
wrong = [label(*place) for place in (big & (measured * predicted < 0)).nonzero().tolist()]
print(f"{int(big.sum())} heads change the logit by more than 0.5; wrong sign: {wrong}")
print(f"rank correlation of predicted and measured: {checked.prediction_agreement.value:.2f}")

assert {"L4H1", "L6H1"} <= set(wrong) and len(wrong) <= 5 and 22 <= big.sum() <= 30
assert 0.8 < checked.prediction_agreement.value < 0.9

# %% [markdown]
# Of the heads that matter, nearly all have the right sign, and the ranks agree at 0.86. What is off
# is the **sizes, and most where heads matter most**.
#
# Part of what a head does is that attention and norms after it answer. `frozen="both"` holds the
# attention patterns and the scales of the norms as they are. **Predict**: does the gradient get
# better? (`components` gives the first-order effect of every head in one backward pass; to take a
# head away is to subtract it.)

# %%
held = -circuits.components(model, prompt, scope, frozen="both").head_grid()
for place in [(11, 2), (4, 1), (6, 1), (13, 3)]:
    print(
        f"{label(*place):>5}: promised {predicted[place]:+.2f}, held {held[place]:+.2f}, "
        f"measured {measured[place]:+.2f}"
    )
held_rank = spearmanr(held.flatten(), measured.flatten()).statistic
print(f"rank correlation with what is measured, all held: {held_rank:.2f}")

assert -12 < held[11, 2] < -9.3 and 3.9 < held[13, 3] < 5.5
assert -1.7 < held[4, 1] < -0.9 and -2.5 < held[6, 1] < -1.5
assert 0.33 < held_rank < 0.53

# %% [markdown]
# For L11H2 it promises −10.6, near the −8.9, and the signs of L4H1 and L6H1 come right. It looks
# like the cure, and is not: over all heads the ranks agree at 0.43, half as well as before, and L13H3 is
# promised more than twice what it does. Do not choose a method by the three heads that you like.
#
# So: gradients to find candidates, in seconds and for all heads at once. Ablation, by more than one
# replacement and of more than one head, to believe them; patching to believe a route.

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: a gentler ablation?
#
# Zero is a strange value for a head; perhaps the damage is the zero's. Let `intervention="mean"`
# replace the output of L11H2 by its mean over the prompt. How much of the 8.9 is left? Then let
# `intervention="corrupt"` put there what the head writes when *Peter* is *stone*, or *table*
# (`corrupted=` takes that prompt). Why do the answers differ?

# %% [markdown]
# <details><summary>Solution</summary>
#
# 2.5 logits with the mean, 7.9 and 6.5 with the other words. So zero was not to blame. The mean is
# gentle because it takes less away: it holds a third of what the head writes at the last place.
# The size of an ablation depends on what you put in the place of what you take.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
options = {"mean": {"intervention": "mean"}}
for word in (" stone", " table"):
    options[word] = {"intervention": "corrupt", "corrupted": prompt.replace(" Peter", word)}
left = {}
for name, option in options.items():
    check = circuits.verify(
        model, prompt, paths, by="head", top=3, random=0, steps=(1.0,), **option
    )
    left[name] = float(check.measured[check.labels.index("L11H2")])
    print(f"L11H2 replaced by {name.strip()}: {left[name]:+.2f}")

hook_z = "blocks.11.attn.hook_z"
with torch.no_grad():
    _, cache = model.run_with_cache(prompt, names_filter=lambda name: name == hook_z)
z = cache[hook_z][0, :, 2]
kept = float(z[1:].mean(0) @ z[last] / (z[last] @ z[last]))
print(f"the mean holds {kept:.0%} of what L11H2 writes at the last place")

assert -2.9 < left["mean"] < -2.1 and 0.25 < kept < 0.4
assert -8.6 < left[" stone"] < -7.2 and -7.2 < left[" table"] < -5.8

# %% [markdown]
# ### Exercise 2: who makes the model sure?
#
# Ask the same of the model's confidence. `circuits.components(model, prompt, ts.TemperatureScope(),
# baseline="mean")` scores all heads in one backward pass. Is it the same head? Which heads make the
# model *less* sure, and do they hold *Peter* back?

# %% [markdown]
# <details><summary>Solution</summary>
#
# The same head: L11H2 leads, and with the sign of a head that makes `y` longer. The scope did not
# know the target. Among those that make it shorter are L5H1, L4H1 and L13H3, and ablation by the
# mean agrees; of L5H3 it does not. But "sure" here is the length of `y`, not the probability of
# *Peter*: without L13H3 `y` grows and *Peter* rises, without L4H1 `y` grows and *Peter* falls from
# 44% to 8%.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
sure = circuits.components(model, prompt, ts.TemperatureScope(), baseline="mean")
tested = circuits.verify(
    model, prompt, sure, by="head", intervention="mean", top=6, random=0, steps=(1.0,)
)
print(tested.to_frame()[["labels", "predicted", "measured"]])
likely = {
    place: float(attention(prompt, without(place, by="mean"))[1].softmax(-1)[answer])
    for place in [(4, 1), (13, 3)]
}
print("Peter without L4H1, L13H3:", [f"{value:.0%}" for value in likely.values()])

length = dict(zip(tested.labels, tested.measured.tolist()))
assert sure.top(1, "head")[0][0] == "L11H2" and 3 < sure.top(1, "head")[0][1] < 4.5
assert all(dict(sure.top(6, "head"))[name] < -1.4 for name in ("L5H1", "L4H1", "L13H3", "L5H3"))
assert abs(length["L5H3"]) < 0.5
assert length["L11H2"] < -4 and all(1.3 < length[name] < 3.2 for name in ("L5H1", "L4H1", "L13H3"))
assert 0.04 < likely[4, 1] < 0.13 and 0.6 < likely[13, 3] < 0.8

# %% [markdown]
# ### Exercise 3: break the mark
#
# Change the last word from *ocean* to a word of similar meaning, then to one far from it; take five
# of each. **Predict** what L11H2 looks at. Does a similar word do?

# %% [markdown]
# <details><summary>Solution</summary>
#
# Attention on *Peter* falls from 42% to between 17% and 29% for *river*, *sea*, *lake*, *coast* and
# *island*, and to between 5% and 11% for *table*, *chair*, *hammer*, *paper* and *music*. The mark is
# matched by meaning too, not only by the exact word: all five near words find *Peter* better than
# any of the far ones. Ten words are few, and this is attention, not yet the answer.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
stem = prompt.removesuffix(" ocean")
found_by = {}
for word in "ocean river sea lake coast island table chair hammer paper music".split():
    seen, logits = attention(f"{stem} {word}")
    found_by[word] = float(seen[11, 2, last, peter])
    print(f"{word}: looks {found_by[word]:.0%}, probability {logits.softmax(-1)[answer]:.1%}")

near, far = list(found_by.values())[1:6], list(found_by.values())[6:]
assert 0.14 < min(near) < max(near) < 0.33 and 0.03 < min(far) < max(far) < 0.13

# %% [markdown]
# ## Next
#
# - `circuits.verify(..., by="token")` tests scores of tokens in the same way.
# - `paths.to_networkx()` and `route.to_json()` hand the graph on to your own tools.
# - [06_can_you_believe_it](06_can_you_believe_it.ipynb): what else to check before you believe a map.
