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
# different answers. Then you switch heads off and see who was right.
#
# You need the first tutorial, and to know that a transformer layer has attention heads: here 18
# layers with 4 heads each. `L11H2` is head 2 of layer 11, both counted from 0. Where it says
# **Predict**, write your answer down before you go on. It takes about two minutes.

# %%
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
order = [i for i, _, _ in found.top(16) if i]  # <bos>, which stands at 0, aside
assert order[:3] == [peter, 7, last] and order.index(ocean) > 4

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


def attention(text, zeroed=()):
    """Attention [layer, head, query, key] and the last logits, with some heads switched off."""

    def switch_off(head):
        def hook(z, hook):
            z = z.clone()
            z[:, :, head] = 0
            return z

        return hook

    off = [(f"blocks.{layer}.attn.hook_z", switch_off(head)) for layer, head in zeroed]
    with torch.no_grad(), model.hooks(fwd_hooks=off):
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


def label(place):
    return f"L{place // n_heads}H{place % n_heads}"


def ranked(grid, k=5):
    """The k heads with the highest values."""
    values, places = grid.flatten().topk(k)
    return {label(place): round(value, 2) for place, value in zip(places.tolist(), values.tolist())}


def grids(**named):
    """Maps of all heads, side by side."""
    figure, axes = plt.subplots(
        1, len(named), figsize=(3.2 * len(named), 4.2), layout="constrained"
    )
    for ax, (title, grid) in zip(axes, named.items()):
        shown = ax.imshow(grid, cmap="viridis", aspect="auto", vmin=0)
        ax.set(title=title, xlabel="head", xticks=range(n_heads), yticks=range(0, n_layers, 3))
        figure.colorbar(shown, ax=ax)
    axes[0].set_ylabel("layer")
    plt.close(figure)
    return figure


print("look at what came next last time:", ranked(induction))
print("look one back:                   ", ranked(previous))
grids(**{"induction": induction, "previous token": previous})

# %% [markdown]
# *Share of attention on the token after the earlier copy (left), and on the token before (right).*
#
# The best induction head is L5H1, with 87% of its attention where it should be; L11H2 comes next.
# The best previous-token heads are L2H3 and L4H1.
#
# **Predict.** Switch off L5H1, and by how many logits does *Peter* fall? And L11H2? (The model
# gives *Peter* 44% now. A fall of 3 divides the odds by 20.)

# %%
assert list(ranked(induction, 2)) == ["L5H1", "L11H2"] and induction[5, 1] > 0.8
assert list(ranked(previous, 2)) == ["L2H3", "L4H1"] and previous[2, 3] > 0.6
assert previous[6, 1] < 0.2

# %% [markdown]
# ## 3. Following the influence
#
# Attention says where a head looks, not what comes of it. A scope says what moves the logit of
# *Peter*, not by which way. `head_paths` puts the two together: it cuts the influence of each token
# into what passes through the output of each head and what does not. One backward pass leads from
# the logit to all heads, one more from each head on to all tokens.

# %%
paths = circuits.head_paths(model, prompt, scope, split=True)

print("from the first Peter:     ", paths.top(5, source=peter))
print("from the ocean before it: ", paths.top(5, source=ocean))
paths.plot(source=peter)

# %% [markdown]
# From *Peter*, most passes through L11H2, closely followed by L17H2. L5H1, which looks at nothing
# but *Peter*, is not among the first ten. From *ocean*, the first two are L6H1 and L4H1.
#
# So the two ways of looking disagree. Here is all of it, head by head:

# %%
names = [name for name, _ in paths.top(72, source=peter)]
assert names[0] == "L11H2" and names[1] == "L17H2" and names.index("L5H1") >= 10
assert [name for name, _ in paths.top(2, source=ocean)] == ["L6H1", "L4H1"]


def scatter(x, y, named, xlabel, ylabel):
    """One dot a head, some of them named."""
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    ax.scatter(x.flatten(), y.flatten(), s=16, color="0.6")
    for layer, head in named:
        ax.scatter(x[layer, head], y[layer, head], s=24, color="tab:blue")
        at = (float(x[layer, head]), float(y[layer, head]))
        below = (layer, head) == (17, 2)  # its neighbour's label is above
        ax.annotate(
            f"L{layer}H{head}", at, textcoords="offset points", xytext=(5, -11 if below else 4)
        )
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.margins(0.12)
    ax.spines[["top", "right"]].set_visible(False)
    plt.close(figure)
    return figure


lookers = [(5, 1), (5, 2), (11, 2), (13, 3), (17, 2)]
scatter(
    induction,
    paths.norms[..., peter],
    [*lookers, (11, 1)],
    "attention on what came next (random tokens)",
    "influence of Peter through the head",
)

# %% [markdown]
# **What does a head take from a token: its content, or directions where to look?** A head's output
# is a mixture of *values*, weighted by an attention *pattern*. `split=True` says by which of the
# two a token acts. **Predict** for *Peter* and L11H2, the copier.

# %%
for layer, head in [(11, 2), (13, 3), (17, 2)]:
    by_value, by_pattern = (
        float(part[layer, head, peter]) for part in (paths.value_norms, paths.pattern_norms)
    )
    print(f"Peter through L{layer}H{head}: {by_value:.2f} by value, {by_pattern:.2f} by pattern")

value, pattern = paths.value_norms[..., peter], paths.pattern_norms[..., peter]
assert value[11, 2] > 4 * pattern[11, 2]  # content: this is what copying looks like
assert pattern[17, 2] > 1.5 * value[17, 2]  # mostly whether it is looked at

# %% [markdown]
# ## 4. Switching heads off
#
# Now the test. `verify` sets the output of a head to zero, runs the model, and notes what happens
# to the logit of *Peter*; it does so for all 72 heads. Beside each measured change it keeps the one
# that the gradient predicted.

# %%
checked = circuits.verify(model, prompt, paths, by="head", top=10, random=62, steps=(0.1, 1.0))


def grid(values):
    """Numbers in the order of the check as a grid [layer, head]."""
    out = torch.zeros(n_layers, n_heads)
    for name, value in zip(checked.labels, values.tolist()):
        layer, head = name[1:].split("H")
        out[int(layer), int(head)] = value
    return out


measured, predicted = grid(checked.measured), grid(checked.predicted)
for layer, head in [*lookers, (4, 1), (6, 1), (2, 3)]:
    print(f"without L{layer}H{head}: {measured[layer, head]:+.2f} logits")

scatter(
    induction,
    measured,
    [*lookers, (4, 1)],
    "attention on what came next (random tokens)",
    "change of the logit without the head",
)

# %% [markdown]
# Without L11H2, *Peter* loses 8.9 logits: the model no longer knows the answer. No other head costs
# more than a quarter of that. Without L5H1 nothing happens at all. **The head that looks most like
# an induction head is not the one that the answer hangs on.** Attention says where a head looks,
# and not whether anybody listens. The path picture had L11H2 first.
#
# And two of the heads that look at *Peter*, L13H3 and L17H2, work *against* it: without them the
# logit rises by about 2. They too lead the picture of section 3, for it draws lengths, which have
# no sign.

# %%
assert measured[11, 2] < -7 and ranked(-measured, 2).keys() == {"L11H2", "L4H1"}
assert ranked(-measured, 2)["L4H1"] < -measured[11, 2] / 3.5
assert abs(measured[5, 1]) < 0.3
assert measured[13, 3] > 1.4 and measured[17, 2] > 1.2
rank = {
    "attention": spearmanr(induction.flatten(), measured.abs().flatten()).statistic,
    "influence of Peter": spearmanr(
        paths.norms[..., peter].flatten(), measured.abs().flatten()
    ).statistic,
    "influence of all tokens": checked.rank_agreement.value,
}
for name, value in rank.items():
    print(f"rank correlation with what ablation does, {name}: {value:.2f}")

assert abs(rank["attention"]) < 0.2 and rank["influence of Peter"] > 0.25
assert 0.3 < rank["influence of all tokens"] < 0.5

# %% [markdown]
# Attention ranks the heads no better than chance. Influence does better, and not well: over 72
# heads
# 0.4 is a hint, no more. It is enough to
# pick a few heads to ablate, and not enough to skip the ablation.

# %% [markdown]
# ## 5. Who tells L11H2 where to look?
#
# **Predict.** Of L2H3, L4H1 and L6H1, which does L11H2 need? The first two look one token back. The
# last two are what influence from *ocean* passes through. Watch the attention of L11H2 from the
# last position to *Peter* while each is switched off.

# %%
answer = model.to_single_token(" Peter")
whole, logits = attention(prompt)
looks = {"nothing": float(whole[11, 2, last, peter])}
for layer, head in [(2, 3), (4, 1), (6, 1), (10, 1)]:
    without, _ = attention(prompt, [(layer, head)])
    looks[f"L{layer}H{head}"] = float(without[11, 2, last, peter])
for name, share in looks.items():
    print(f"L11H2 looks at Peter, {name} switched off: {share:.0%}")

assert 0.38 < looks["nothing"] < 0.47
assert looks["L2H3"] > 0.35  # the best previous-token head is not needed
assert looks["L4H1"] < 0.23 and looks["L6H1"] < 0.33  # those that influence names are
assert looks["L10H1"] < 0.18 and paths.norms[10, 1, ocean] < paths.norms[..., ocean].median()

# %% [markdown]
# L4H1, which both lists held, more than halves it; L6H1 is no previous-token head by its looks, and
# it counts. L2H3, first by its looks, is not needed. And there is one that gradients missed:
# without L10H1 the attention falls to a third, and influence from *ocean* puts it in the lower half
# of all heads. A list of heads made from gradients is not complete.

# %% [markdown]
# ## 6. The route
#
# Which way does it go, layer by layer? `flow_path` follows the influence through the positions:
# what enters a position leaves it, so the widths add up.
#
# **Predict.** The circuit says: *ocean* goes to the place of *Peter* early, and *Peter* goes to the
# last place late. At which layers?

# %%
stops = [2, 5, 7, 10, 12, 14, 18]
from_ocean, from_peter = (
    circuits.flow_path(model, prompt, scope, stops, source=source) for source in (ocean, peter)
)
for name, route in (("ocean", from_ocean), ("Peter", from_peter)):
    for site, row in zip(route.sites, route.nodes / route.total):
        print(f"from {name} at {site:>9}: {row[peter]:4.0%} on Peter, {row[last]:4.0%} on the last")
from_ocean.plot()

# %%
from_peter.plot()

# %% [markdown]
# *The first picture: what the first* ocean *does to the logit of* Peter*. The second: what the
# first* Peter *does.*
#
# At `resid(5)` half of what *ocean* does sits on *Peter*: L4H1 has just put it there. At `resid(7)`
# none is left there and two fifths are on the last position: heads of layers 5 and 6 have read the
# mark. What *Peter* itself does stays in its place until `resid(10)`, and by `resid(12)` a third
# has jumped to the end, where L11H2 brought it. So the drawing of section 1 holds, with a
# correction: finding the place and fetching the word are the work of different layers, 5 and 6 for
# one, 11 for the other.

# %%
share = {
    (name, site): route.nodes[route.sites.index(site)] / route.total
    for name, route in (("ocean", from_ocean), ("Peter", from_peter))
    for site in route.sites
}
assert share["ocean", "resid(2)"][peter] < 0.1 < 0.4 < share["ocean", "resid(5)"][peter]
assert abs(share["ocean", "resid(7)"][peter]) < 0.05 and share["ocean", "resid(7)"][last] > 0.35
assert share["Peter", "resid(10)"][last] < 0.12 and share["Peter", "resid(10)"][peter] > 0.7
assert share["Peter", "resid(12)"][last] > 0.3

# %% [markdown]
# ## 7. One prompt is an anecdote
#
# Four more lists, with other words. **Predict**: will it be the same head?

# %%
nouns = """basket bottle bridge camera candle castle circle coffee cotton desert doctor engine
flower forest garden guitar hammer island jacket kitchen letter market mirror monkey music needle
orange paper pillow planet pocket prison rabbit river shadow shirt silver spider stone
sugar""".split()
heads = [(11, 2), (4, 1), (10, 1), (6, 1), (2, 3), (5, 1), (13, 3), (17, 2)]
changes = torch.zeros(4, len(heads))
for i in range(4):
    said = "".join(f" {word}" for word in nouns[10 * i : 10 * i + 10])
    gone = said.rpartition(" ")[2]
    wanted = model.to_single_token(f" {gone}")
    text = said + said.removesuffix(f" {gone}")
    _, intact = attention(text)
    print(f"{gone}: {intact.softmax(-1)[wanted]:.0%}")
    for j, head in enumerate(heads):
        changes[i, j] = attention(text, [head])[1][wanted] - intact[wanted]

figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
ax.axhline(0, color="0.7", linewidth=1)
ax.plot(changes.T, "o", color="0.6", markersize=5)
ax.plot(changes.mean(0), "_", color="tab:blue", markersize=26, markeredgewidth=2)
ax.set(xticks=range(len(heads)), xticklabels=[f"L{a}H{b}" for a, b in heads])
ax.set(ylabel="change of the answer's logit")
ax.spines[["top", "right"]].set_visible(False)
plt.close(figure)
figure

# %% [markdown]
# *Each dot is a list of words, each bar the mean.* In all four the answer hangs on L11H2, L4H1 and
# L10H1 are needed too, and L13H3 and L17H2 push against it. L5H1 has a part in some lists and in
# others none.

# %%
low = dict(zip(heads, changes.T))
assert low[11, 2].max() < -6
assert low[4, 1].max() < -0.5 and low[10, 1].max() < -0.5
assert low[5, 1].min() < -0.3 and low[5, 1].max() > -0.2
assert low[13, 3].min() > 0.3 and low[17, 2].min() > 0.3

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
# L17H2 does a third more than was promised. L11H2 falls off a cliff: with a fifth of it left, less
# than a third of the damage is done. *Peter* is so well ahead that the rest of the network makes up
# for most of the loss, until nothing is left to work with. L6H1 starts out without effect and ends
# at −1.2: the gradient has the wrong sign.

# %%
curve = dict(zip(top.labels, top.step_measured.T))
assert set(curve) == {"L17H2", "L11H2", "L6H1"}
assert abs(curve["L17H2"][-1] / predicted[17, 2] - 1) < 0.5
assert (
    curve["L11H2"][-1] < 7 * predicted[11, 2]
    and curve["L11H2"][steps.index(0.8)] > curve["L11H2"][-1] / 2.5
)
assert predicted[6, 1] > 0 and measured[6, 1] < -0.9
checked.plot()

# %%
big = measured.abs() > 0.5
wrong = [
    label(place) for place in (big & (measured * predicted < 0)).flatten().nonzero()[:, 0].tolist()
]
print(f"{int(big.sum())} heads change the logit by more than 0.5; wrong sign: {wrong}")
print(f"rank correlation of predicted and measured: {checked.prediction_agreement.value:.2f}")

assert {"L4H1", "L6H1"} <= set(wrong) and len(wrong) <= 5 and int(big.sum()) > 20
assert checked.prediction_agreement.value > 0.75

# %% [markdown]
# Of the heads that matter, nearly all have the right sign, and the ranks agree at 0.86. What is off
# is the **sizes, and most where heads matter most**. The heads whose signs are wrong include the
# two that make the mark and read it: their work is to move attention, and attention is a switch
# that a small step does not throw.
#
# So: gradients to find candidates, in seconds and for all heads at once. Ablation to believe them.

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: a gentler ablation
#
# Zero is a strange value for a head; perhaps the damage is the zero's. Let `intervention="mean"`
# replace each head's output by its mean over the prompt. How much of the 8.9 is left?

# %% [markdown]
# <details><summary>Solution</summary>
#
# About 2.5 logits. L11H2 is still the head that costs most, but more than half of the damage came
# from zero being unlike anything that the rest of the model is used to. The order of magnitude of
# an ablation depends on what you put in the place of what you take.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
gentle = circuits.verify(
    model, prompt, paths, by="head", intervention="mean", top=10, random=62, steps=(1.0,)
)
print(gentle.top(4))

assert gentle.top(1)[0][0] == "L11H2" and -3.2 < gentle.top(1)[0][2] < -1.8

# %% [markdown]
# ### Exercise 2: who makes the model sure?
#
# Ask the same of the model's confidence. `circuits.components(model, prompt, ts.TemperatureScope(),
# baseline="mean")` scores all heads in one backward pass. Is it the same head? Which heads make the
# model *less* sure?

# %% [markdown]
# <details><summary>Solution</summary>
#
# The same head: L11H2 leads, and with the sign of a head that makes the prediction sharper. L13H3,
# which works against *Peter*, makes it flatter. The scope did not know the target.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
sure = circuits.components(model, prompt, ts.TemperatureScope(), baseline="mean")
print(sure.top(6, "head"))

assert sure.top(1, "head")[0][0] == "L11H2" and sure.top(1, "head")[0][1] > 2
assert dict(sure.top(10, "head"))["L13H3"] < -1

# %% [markdown]
# ### Exercise 3: break the mark
#
# Change the last word from *ocean* to *river*, and then to *table*. **Predict** what L11H2 looks
# at, and what becomes of *Peter*. Does a word of similar meaning do?

# %% [markdown]
# <details><summary>Solution</summary>
#
# Attention on *Peter* falls from 42% to 17% for *river* and to 6% for *table*, its probability from
# 44% to 1% and 0.1%. The mark is matched by meaning a little, not only by the exact word: *river*
# still finds *Peter* better than *table* does.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
stem = prompt.removesuffix(" ocean")
result = {}
for word in (" ocean", " river", " table"):
    seen, out = attention(stem + word)
    result[word] = float(seen[11, 2, last, peter]), float(out.softmax(-1)[answer])
    print(f"{word}: looks {result[word][0]:.0%}, probability {result[word][1]:.1%}")

assert result[" ocean"][0] > 2 * result[" river"][0] > 3 * result[" table"][0]
assert result[" ocean"][1] > 10 * result[" river"][1] > 30 * result[" table"][1]

# %% [markdown]
# ## Next
#
# - `circuits.verify(..., by="token")` tests scores of tokens in the same way.
# - `paths.to_networkx()` and `from_peter.to_json()` hand the graph on to your own tools.
# - `06_can_you_believe_it`: what else to check before you believe a map.
