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
# # Who makes it sure?
#
# A model can know the right word and be timid, or not know it and be bold. **Are there neurons that
# set how sure it is, whatever it says?** [Stolfo and others](https://arxiv.org/abs/2406.16254) found
# two kinds in larger models. *Entropy neurons* write where the unembedding does not look, and act
# all the same, through the final norm. *Token-frequency neurons* push towards the frequent words,
# or away from them. Here you look for both in a small model, from two sides that know nothing of
# each other: from the weights alone, and from effects on a hundred prompts. Then you switch neurons
# off. Not all that looks right survives.
#
# You need tutorial 1, and to know that an MLP has neurons, each of which writes one vector into the
# residual stream: `L29N5` is neuron 5 of layer 29. Where it says **Predict**, write your answer
# down before you go on. It takes about three minutes.

# %%
import functools

import matplotlib.pyplot as plt
import torch

import tl_scopes as ts
from tl_scopes import circuits, models

model = models.load("smollm2-135m-instruct", progress=False)  # 30 layers of 1,536 neurons
text = """
The old man took his boat out to check the / She opened the letter, read it twice and / The
capital of France is the city of / Water boils at one hundred degrees / My sister is a doctor, and
my brother is a / He locked the door and put the key in his / In 1969 the first man walked on the
/ The train to Vienna leaves at / They planted apple trees behind the / A triangle has three
sides, a square has / The cat slept all day on the / Before you cross the street, look / The king
had no sons, so his / The opposite of hot is / It was raining, and nobody had an / The teacher
wrote the word on the / Bees make / The museum is closed on / He was hungry, so he made himself a
/ To open the file, click on the / The moon goes around the / She plays the violin and he plays
the / Thank you very much for your / The largest ocean on Earth is the / When the lights went out,
the children / You need flour, eggs, milk and / The team lost the game by one / Paris, London,
Berlin, / The doctor told him to drink more / In winter the lake is covered with / Her favourite
colour is / The police found the stolen car in / One, two, three, four, / The bridge was built by
the / He speaks German, French and / The baby began to / The shop sells bread, cakes and / After
dinner they washed the / The prime minister said on Monday that / An apple a day keeps the / The
bird flew out of the / For more information, please / The price of oil rose by / She wrote her
first book in / The dog ran after the / Once upon a time there was a / The knife is on the / Most
of the students passed the / In the middle of the night he heard a / The roof of the house is made
of / To be or not to be, that is the / The farmer sold his cows and bought a / Scientists have
found a new / The sun rises in the / He forgot to pay the / The film was so long that we / Romeo
and / The square root of nine is / They walked along the river until they / The company was
founded in / The soup is too / I have never been to / The plane landed safely at the / The secret
was known only to the / Roses are red, violets are / On the table stood a bottle of / The first
president of the United States was / The army crossed the border and / Please turn off the / He
painted the fence / The mountain is covered with / The judge sent him to / She smiled, took his
hand and / The heart pumps / There are seven days in a / He broke his arm when he fell from the /
The market was full of / The best way to learn a language is to / The clock struck / They named
their daughter / The Nile is the longest river in / In my opinion, the / The hotel has a swimming
pool and a / At the end of the war, the city was / The letter was signed by / If it rains
tomorrow, we will / The ship sank near the coast of / He could not see anything without his / The
winner gets a prize of / Plants need light and / The queen wore a long / As soon as he arrived, he
/ The meeting was moved from Tuesday to / A year has twelve / The wolf looked at the sheep and /
We spent our holidays in / The fire was put out by the / It is illegal to / Her grandmother taught
her how to / The answer to your question is
"""
prompts = [" ".join(prompt.split()) for prompt in text.split("/")]
assert len(set(prompts)) == 100

# %% [markdown]
# ## 1. Who could?
#
# Logits are products of the final state `y` with the columns of `W_U`. Double the length of `y` and
# each logit doubles: the order of the words stays, and the model is surer. So tutorials 1 and 2 took
# the length of `y` for confidence, and `TemperatureScope` explains it.

# %%
boat = prompts[0]
sure = ts.attribute(model, boat, ts.TemperatureScope())
sure

# %% [markdown]
# But `y` comes out of the final norm, which divides the stream by its own size. `components` tells
# for everything that is written into the stream (the embedding, each attention, each MLP) what it
# does to the length of `y`, to first order. `frozen="norms"` makes believe that norms divide by a
# constant.
#
# **Predict.** Add up the direct effects of all that is written, once with norms held constant, once
# with norms that move. What are the two sums?

# %%
sums = {}
for frozen in ("norms", None):
    parts = circuits.components(model, boat, ts.TemperatureScope(), by="mlp", frozen=frozen)
    sums[frozen] = float(parts.summed("direct").sum())
    print(f"frozen={frozen!r}: {sums[frozen]:.3f}")
caught = {}
catch = model.unembed.register_forward_pre_hook(lambda _, x: caught.update(y=x[0][0, -1]))
with torch.no_grad(), catch:
    model(boat)
length = float(caught["y"].norm())
print(f"length of y: {length:.3f}")

# %% [markdown]
# Held, the parts add up to the whole length. With a norm that moves they add up to nothing: if all
# that is written doubles, the norm halves it again. **Confidence is a budget.** Whoever writes more
# leaves less for the others. That opens a way to make the model less sure without a word of one's
# own: write something that no word is read from, and let the norm shrink all the rest.

# %%
assert abs(sums["norms"] / length - 1) < 1e-3 and abs(sums[None]) < 1e-3 * length

# %% [markdown]
# ## 2. Who is built for it?
#
# First side: the weights. No prompt is needed to see where the unembedding does not look. Take all
# directions that a neuron of the last layer may write in, and sort them by how much the logits of
# all words differ when the stream moves along them (words that all rise by the same change no
# probability). The last 2% of the directions, 12 of 576, are those that it sees least. Of each
# neuron: which share of its write lies there?
#
# **Predict.** A random write has a share of 0.02. How many of the 1,536 neurons have more than 0.5?


# %%
def gain(norm, width):
    """What a norm multiplies each direction by, for an input of length sqrt(width)."""
    return norm(1e3 * torch.eye(width)).diag() / width**0.5


@torch.no_grad()
def written(model):
    """What each neuron of the last layer writes, before the final norm's scale: [d_mlp, d_model]."""
    block, d = model.blocks[-1], model.cfg.d_model
    W = block.mlp.W_out.detach()
    return W * gain(block.ln2_post, d) if hasattr(block, "ln2_post") else W  # Gemma has one more


@torch.no_grad()
def hidden_shares(model, share=0.02):
    """Share of each write that lies in the directions that the unembedding sees least."""
    d, W_U, g = model.cfg.d_model, model.W_U, gain(model.ln_final, model.cfg.d_model)
    mean = W_U.mean(1)
    seen = W_U @ W_U.T - W_U.shape[1] * torch.outer(mean, mean)  # less what all words share
    _, directions = torch.linalg.eigh(seen * torch.outer(g, g))  # the least seen first
    writes = torch.nn.functional.normalize(written(model), dim=1)
    return (writes @ directions[:, : round(share * d)]).square().sum(1)


hidden = hidden_shares(model)
print(
    "most hidden:",
    {f"L29N{i}": round(float(hidden[i]), 2) for i in hidden.topk(6).indices.tolist()},
)
print("over 0.5:", int((hidden > 0.5).sum()), " median:", round(float(hidden.median()), 3))

# %%
assert hidden.topk(6).indices.tolist() == [830, 1022, 1292, 684, 999, 1272]
assert 12 <= (hidden > 0.5).sum() <= 24 and hidden.median() < 0.05

# %% [markdown]
# A handful: most write nearly nothing there, and 18 most of what they write. To write where nobody
# reads looks like a waste.
#
# ## 3. Who does it?
#
# Second side: effects. `components(by="neuron")` tells what each neuron did to the length of `y`. It
# compares with a neuron at zero. Better is a neuron at its own mean, for one that always writes the
# same makes no prompt surer than another. First-order effects are linear in what is written, so
# those of the last layer, which act at the last token alone, only have to be multiplied. We average
# their size over the hundred prompts.
#
# **Predict.** Is the neuron with the largest effect a hidden writer? Are the three most hidden among
# the first ten?


# %%
@torch.no_grad()
def before_the_end(model):
    """Of each prompt's last token: the final stream and the last layer's activations; of these mean
    and spread over all tokens but the first; and every final state."""
    ids = [model.to_tokens(prompt)[0] for prompt in prompts]
    rows = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)  # what comes later is not seen
    last = torch.tensor([len(row) - 1 for row in ids])
    real = torch.arange(rows.shape[1]) <= last[:, None]
    real[:, 0] = False
    kept, end = {}, f"blocks.{model.cfg.n_layers - 1}"

    def stop(_, inputs):
        kept["y"] = inputs[0]
        return (inputs[0][:, -1:],)  # to unembed every position costs more than all the rest

    def keep(name):
        return f"{end}.{name}", lambda x, hook: kept.update({name: x})

    hooks = [keep("mlp.hook_post"), keep("hook_resid_post")]
    with model.unembed.register_forward_pre_hook(stop), model.hooks(fwd_hooks=hooks):
        model(rows)
    acts, at = kept["mlp.hook_post"], (torch.arange(len(rows)), last)
    spread = acts[real].std(0)
    return kept["hook_resid_post"][at], acts[at], acts[real].mean(0), spread, kept["y"][real]


def effects(texts, scope, **options):
    """First-order effects of all neurons against zero, [prompt, layer, neuron]. Of all tokens but the
    first, where models park attention, and a few neurons write enormous numbers."""
    found = []
    for prompt in texts:
        parts = circuits.components(model, prompt, scope, by="neuron", **options)
        rows = [i for i, kind in enumerate(parts.kinds) if kind == "neuron"]
        found.append(parts.total[rows, 1:].sum(1))
    return torch.stack(found).unflatten(1, (model.cfg.n_layers, -1))


def against_mean(acts, mean):
    """What makes of an effect against zero one against the mean: (write - mean write) / write. Zero for
    a neuron that writes nothing, of which the effect against zero tells nothing."""
    return torch.where(acts == 0, 0.0, 1 - mean / acts)


def leaders(sizes, k=6):
    """The k largest of the last layers, [layer, neuron]."""
    values, places = sizes.flatten().topk(k)
    names = [divmod(place, sizes.shape[1]) for place in places.tolist()]
    first = model.cfg.n_layers - len(sizes)
    return {f"L{first + layer}N{i}": round(float(x), 2) for (layer, i), x in zip(names, values)}


_, acts, mean, spread, _ = before_the_end(model)
lever = against_mean(acts, mean)
against_zero = effects(prompts, ts.TemperatureScope())
sizes = (against_zero[:, -1] * lever).abs().mean(0)
print(leaders(sizes[None], 12))

names = [830, 1022, 1438, 1292, 684, 999]
figure, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
ax.scatter(hidden, sizes, s=10, color="0.7")
for i in names:
    ax.scatter(hidden[i], sizes[i], s=28, color="tab:blue")
    at = {999: (-16, 7), 1292: (6, 7)}.get(i, (0, 7))  # two lie close together
    ax.annotate(i, (hidden[i], sizes[i]), textcoords="offset points", xytext=at, ha="center")
ax.set(xlabel="share of the write that is hidden", ylabel="mean effect on the length of y")
ax.margins(0.08)
ax.spines[["top", "right"]].set_visible(False)
plt.close(figure)
figure

# %%
order = sizes.argsort(descending=True).tolist()
print({i: order.index(i) + 1 for i in names})
assert order[:2] == [232, 1479] and order.index(830) in (2, 3)
assert order.index(1022) < 15 and order.index(1438) < 20
assert all(30 < order.index(i) < 150 for i in (1292, 684, 999))

# %% [markdown]
# *A dot is a neuron of the last layer.* L29N830, the most hidden of all, has the third largest effect;
# L29N1022, the second, the tenth; L29N1438 the fourteenth, of 1,536. Two sides that share no number
# point at the same neurons. (On longer texts L29N830 comes first, of all 46,080 neurons: the docs'
# page on circuits has the table.) But the first two of the list are no great hiders, and the other
# three in blue do little.
#
# ## 4. By which way?
#
# A length is not yet a bet. So now explain the *entropy* of the prediction, in nats: a `FunctionScope`
# takes any function of the logits. A neuron can move it in two ways: by direction, writing what
# favours some words, or through the scale, writing what lengthens or shortens the stream. Ask with
# norms that move and with norms held: what is left goes by direction, and the difference went
# through the scale. Every second prompt will do.
#
# **Predict.** Of which neurons is next to nothing left?

# %%


def entropy_of(logits):
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum()


entropy = ts.FunctionScope(entropy_of, label="entropy")
some, levers = prompts[::2], lever[::2]
free = effects(some, entropy)[:, -1] * levers
direction = effects(some, entropy, frozen="norms")[:, -1] * levers
scale = free - direction
nats, by_direction, by_scale = (x.abs().mean(0) for x in (free, direction, scale))

figure, ax = plt.subplots(figsize=(5.5, 4), layout="constrained")
ax.scatter(by_direction, by_scale, s=10, color="0.7")
top = float(max(by_direction.max(), by_scale.max()))
ax.plot([0, top], [0, top], color="0.8", linewidth=1)
for i in [*names[:4], 1233, 232, 511]:
    ax.scatter(by_direction[i], by_scale[i], s=28, color="tab:blue")
    at = (-24 if i == 830 else 6, 3)  # 1022 lies close by
    ax.annotate(i, (by_direction[i], by_scale[i]), textcoords="offset points", xytext=at)
ax.set(xlabel="by direction (norms held), nats", ylabel="through the scale, nats")
ax.spines[["top", "right"]].set_visible(False)
plt.close(figure)
figure

# %%
print("largest:", leaders(nats[None]))
raised = free * (acts - mean)[::2] > 0  # does a larger activation raise the entropy?
one_way = {i: float(raised[:, i].float().mean()) for i in [*names, 1233, 232, 511, 709]}
print("raises the entropy in this share of prompts:", {i: round(x, 2) for i, x in one_way.items()})

# %%
for i in (830, 1022, 1438):
    assert by_scale[i] > 3 * by_direction[i] and by_scale[i] > 0.07
assert (one_way[830], one_way[1022], one_way[1438]) == (1, 0, 1)
assert all(0.05 < one_way[i] < 0.95 for i in (1292, 684, 999, 1233, 232, 511, 709))
assert int(nats.argmax()) == 511 and by_direction[511] > 2 * by_scale[511]

# %% [markdown]
# Three stand apart at the upper left, and all three are hidden writers: L29N830, L29N1022 and
# L29N1438. Four fifths of what they do, and more, goes through the scale. And of those that we look at
# they alone have one sign: more of L29N830 or L29N1438 raises the entropy in every prompt, more of
# L29N1022 lowers it in every prompt. A longer stream always makes the model less sure.
#
# Most of all moves L29N511, by direction. And had we asked `TemperatureScope` for the ways, it would
# have misled us: the length of `y` also counts what the unembedding does not see.
#
# ## 5. Switch them off
#
# First-order effects are promises. Hold a neuron at its mean, and measure the entropy. Nothing
# follows the last layer but the norm, so this can be done by hand, and exactly: once with a norm
# that moves, once with its scale kept.
#
# Controls: for each neuron the ten others of its layer whose activation varies most like its own,
# and whose write is most nearly as long.
#
# We said before we looked what counts as an **entropy neuron**: it moves the entropy more than its
# controls (the 95% interval of the difference, with prompts drawn anew, lies above zero), *and* more
# through the scale than by direction (likewise).
#
# **Predict.** The six neurons of the first picture, and four that had large effects in the second:
# which will pass?


# %%
class Silenced:
    """What changes in all predictions when one neuron of the last layer is held at its mean."""

    def __init__(self, model, words=True):
        self.model, block = model, model.blocks[-1]
        self.x, self.acts, self.mean, self.spread, every_y = before_the_end(model)
        self.W, self.lengths = block.mlp.W_out.detach(), written(model).norm(dim=1)
        self.post = getattr(block, "ln2_post", lambda out: out)
        self.log_q = torch.zeros(model.cfg.d_vocab)
        if words:  # for section 6: how likely each word is, over all predictions
            with torch.no_grad():
                likely = [(y @ model.W_U).softmax(-1).sum(0) for y in every_y.split(100)]
            self.log_q = (sum(likely) / len(every_y)).log()
        self.start = self.measure(self.y(self.x))
        self.without = functools.cache(self.without)  # neurons share controls

    @torch.no_grad()
    def y(self, x):
        return self.model.ln_final(x)

    @torch.no_grad()
    def measure(self, y):
        """Entropies, and KL(p, q) to the mean of all predictions: [2, prompt], in nats."""
        log_p = (y @ self.model.W_U).log_softmax(-1)
        p = log_p.exp()
        entropy = -(p * log_p).sum(-1)
        return torch.stack([entropy, -entropy - p @ self.log_q])

    @torch.no_grad()
    def stream(self, i, value):
        """The final stream with neuron i at a value."""
        out = self.acts @ self.W
        other = out + (value - self.acts[:, i])[:, None] * self.W[i]
        return self.x + self.post(other) - self.post(out)

    def without(self, i):
        """Changes when neuron i is held at its mean."""
        return self.measure(self.y(self.stream(i, self.mean[i]))) - self.start

    def with_scale_kept(self, i):
        """The same, with the scale of the final norm as it was."""
        x = self.stream(i, self.mean[i])
        longer = x.norm(dim=1, keepdim=True) / self.x.norm(dim=1, keepdim=True)
        return self.measure(self.y(x) * longer) - self.start

    def controls(self, i, others, k=10):
        """The k neurons most like neuron i that are none of the others."""
        like = torch.stack([self.spread.clamp(min=1e-9), self.lengths]).log()
        far = (like - like[:, [i]]).square().sum(0)
        far[[i, *others]] = torch.inf
        return far.topk(k, largest=False).indices.tolist()


def interval(values, draws=2000):
    """95%: the mean over prompts, these drawn anew."""
    g = torch.Generator().manual_seed(0)
    drawn = values[torch.randint(len(values), (draws, len(values)), generator=g)].mean(1)
    return drawn.quantile(torch.tensor([0.025, 0.975])).tolist()


off = Silenced(model)
with torch.no_grad():  # by hand it must be what a hook does

    def silence(acts, hook):
        acts = acts.clone()
        acts[..., 830] = off.mean[830]
        return acts

    with model.hooks(fwd_hooks=[("blocks.29.mlp.hook_post", silence)]):
        hooked = model(boat)[0, -1].log_softmax(-1)
hooked_entropy = -(hooked.exp() * hooked).sum()
assert abs(float(hooked_entropy - off.start[0, 0] - off.without(830)[0, 0])) < 1e-3

tested = [*names, 1233, 232, 511, 709]
table = {}
for i in tested:
    whole, kept = off.without(i)[0], off.with_scale_kept(i)[0]
    controls = torch.stack([off.without(j)[0] for j in off.controls(i, tested)])
    more = interval(whole.abs() - controls.abs().mean(0))
    scale = interval((whole - kept).abs() - kept.abs())
    table[i] = {"size": whole.abs(), "kept": kept.abs(), "controls": controls.abs().mean(1)}
    table[i] |= {"more": more, "scale": scale, "passes": more[0] > 0 and scale[0] > 0}
    print(
        f"L29N{i:<4} {whole.abs().mean():.3f} nats, over controls by {more[0]:+.3f} to {more[1]:+.3f}, "
        f"scale over direction by {scale[0]:+.3f} to {scale[1]:+.3f}"
        f"{': passes' if table[i]['passes'] else ''}"
    )

# %%
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for row, i in enumerate(tested):
    found = table[i]
    ax.plot(found["controls"], [row] * 10, "o", color="0.8", markersize=4)
    ax.plot(interval(found["size"]), [row, row], color="tab:blue", linewidth=1.5)
    ax.plot(found["size"].mean(), row, "o", color="tab:blue")
    ax.plot(found["kept"].mean(), row, "d", color="tab:orange")
ax.plot([], [], "o", color="tab:blue", label="neuron, with its interval")
ax.plot([], [], "d", color="tab:orange", label="with the scale kept")
ax.plot([], [], "o", color="0.8", markersize=4, label="ten controls")
ax.set(yticks=range(len(tested)), yticklabels=[f"L29N{i}" for i in tested])
ax.invert_yaxis()
ax.set_xlabel("mean size of the change of entropy (nats)")
figure.legend(loc="outside upper center", ncols=3, frameon=False)
ax.spines[["top", "right"]].set_visible(False)
plt.close(figure)
figure

# %%
assert [i for i in tested if table[i]["passes"]] == [830, 1022, 1438, 1233]
for i in (830, 1022, 1438):
    assert table[i]["kept"].mean() < 0.3 * table[i]["size"].mean() and table[i]["more"][0] > 0.02
for i in (1292, 684, 999):
    assert table[i]["more"][1] < 0.01 and table[i]["size"].mean() < 0.04
assert table[1233]["scale"][0] < 0.02
assert table[511]["size"].mean() > 1.3 * max(
    table[i]["size"].mean() for i in tested if table[i]["passes"]
)
assert table[511]["scale"][1] < 0 and table[709]["scale"][1] < 0
assert table[232]["scale"][0] < 0 < table[232]["more"][0]

# %% [markdown]
# *A row is a neuron; grey are its ten controls.* Four pass: L29N830, L29N1022, L29N1438 and, by a
# hair, L29N1233. With the scale kept, the first three lose three quarters of their effect and more.
# So they make the model more or less sure, and say next to nothing.
#
# What does not hold:
#
# - *Hidden writers regulate confidence.* Three of the five most hidden do less than their controls, or
#   as little. To write where nobody reads is not enough; one must write much, and vary.
# - *Whoever moves the confidence most is an entropy neuron.* L29N511 does more than any of the
#   four, by direction: its words are its own. So does L29N709, as much as the best of them.
# - *A large effect through the scale makes one.* L29N232 has it, and as large a one by direction.
#
# ## 6. The other kind
#
# Which words are frequent? The mean of all predictions, at every token of the hundred prompts, is a
# rough answer. A **token-frequency neuron** adds to the logits a pattern that goes with the logarithm
# of these frequencies. Take the three neurons whose pattern goes with it most.
#
# What counts was said before, too: without the neuron, the distance of the predictions from the mean
# prediction, KL in nats, changes more than without its controls, and more by direction than through
# the scale.
#
# **Predict.** Do the three pass? Does L29N830?

# %%
with torch.no_grad():
    frequent = off.log_q - off.log_q.mean()
    pushed = (written(model) * gain(model.ln_final, model.cfg.d_model)) @ model.W_U
    pushed -= pushed.mean(1, keepdim=True)
    alike = pushed @ frequent / (pushed.norm(dim=1) * frequent.norm())
    del pushed
frequency = alike.abs().topk(3).indices.tolist()
print({f"L29N{i}": round(float(alike[i]), 2) for i in frequency})
toward = {}
for i in [*frequency, 830]:
    whole, kept = off.without(i)[1], off.with_scale_kept(i)[1]
    controls = torch.stack([off.without(j)[1] for j in off.controls(i, frequency)])
    toward[i] = {
        "more": interval(whole.abs() - controls.abs().mean(0)),
        "direction": interval(kept.abs() - (whole - kept).abs()),
    }
    print(
        f"L29N{i}: pattern {alike[i]:+.2f}, {whole.abs().mean():.3f} nats, over controls by "
        "{:+.3f} to {:+.3f}; ".format(*toward[i]["more"])
        + "direction over scale by {:+.3f} to {:+.3f}".format(*toward[i]["direction"])
    )

# %%
assert frequency == [471, 645, 1413] and alike[frequency].abs().min() > 0.55
for i in frequency:
    assert toward[i]["more"][0] > 0.01 and toward[i]["direction"][0] > 0.01
assert toward[830]["more"][0] < 0

# %% [markdown]
# All three pass, by direction alone: with the scale kept nothing changes. Their effects are small,
# 0.03 to 0.05 nats, but so seldom do these neurons move that their controls do almost nothing.
# The entropy neuron L29N830 does not pass: it moves predictions no more along this line than its
# controls.
#
# ## 7. Another model
#
# Gemma-3 270M has 18 layers of 2,048 neurons, and one more norm, after each MLP. The same questions,
# with effects over every fourth prompt and four controls.
#
# **Predict.** Will its most hidden writers be those with large effects on the length? Will they pass?

# %%
model = models.load(progress=False)  # Gemma-3 270M: 18 layers of 2,048 neurons
gemma_hidden = hidden_shares(model)
print(leaders(gemma_hidden[None]))
quiet = Silenced(model, words=False)
gemma_lever = against_mean(quiet.acts, quiet.mean)[::4]
gemma_sizes = (effects(prompts[::4], ts.TemperatureScope())[:, -1] * gemma_lever).abs().mean(0)
print(leaders(gemma_sizes[None]))

# %%
three = [1650, 1026, 2024]
passes = {}
for i in three:
    whole, kept = quiet.without(i)[0], quiet.with_scale_kept(i)[0]
    controls = torch.stack([quiet.without(j)[0] for j in quiet.controls(i, three, k=4)])
    more = interval(whole.abs() - controls.abs().mean(0))
    scale = interval((whole - kept).abs() - kept.abs())
    passes[i] = more[0] > 0 and scale[0] > 0
    print(
        f"L17N{i} {whole.abs().mean():.3f} nats, over controls by {more[0]:+.3f} to {more[1]:+.3f}, "
        f"scale over direction by {scale[0]:+.3f} to {scale[1]:+.3f}{': passes' if passes[i] else ''}"
    )

# %%
assert gemma_hidden.topk(3).indices.tolist() == three
assert set(gemma_sizes.topk(3).indices.tolist()) == set(three)
assert passes == {1650: True, 1026: True, 2024: False}

# %% [markdown]
# The three most hidden writers have the three largest effects on the length. L17N1026 and L17N1650 pass.
# L17N2024 moves the length as much as the first of them, and the entropy no more than its controls:
# **the length of `y` is not confidence.** It counts what no word is read from, and an entropy
# neuron has to be told from such a one by ablation. (L17N1026 writes twice as much as its controls: a
# better match does not exist.)
#
# So what makes a small model sure? Many neurons, mostly by favouring words. A few in the last layer
# do it without: built for it by their weights, seen in their effects, and confirmed when they are
# silenced. None of the three views is enough alone.
#
# ## Exercises
#
# ### Exercise 1: zero for the mean
#
# `against_zero` of section 3 has the effects of all 46,080 neurons against a neuron at zero. Who
# leads, and why not here?

# %% [markdown]
# <details><summary>Solution</summary>
#
# L28N1095, by far. It is always on: about 40 at every token but the first. Against zero it does a lot,
# but it does the same everywhere, and makes no prompt surer than another. Against its mean little is
# left. Zero asks *what would the model be without it?*, the mean *what does it decide?*
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
model = models.load("smollm2-135m-instruct", progress=False)
print(leaders(against_zero.abs().mean(0)))
with torch.no_grad():
    _, cache = model.run_with_cache(boat, names_filter="blocks.28.mlp.hook_post")
always = cache["blocks.28.mlp.hook_post"][0, 1:, 1095]
print(always)

first, second = leaders(against_zero.abs().mean(0), 2).values()
assert list(leaders(against_zero.abs().mean(0), 1)) == ["L28N1095"] and first > 2 * second
assert always.min() > 25 and always.max() < 65

# %% [markdown]
# ### Exercise 2: turn it up
#
# Set L29N830 to its mean plus three spreads, and to its mean less three (`off.stream(830, value)`,
# then `off.measure(off.y(...))`). In how many prompts is the entropy higher after the first? In how many
# is the first word the same? Ask the same of L29N511.

# %% [markdown]
# <details><summary>Solution</summary>
#
# Turning up L29N830 raises the entropy in all prompts, by 0.9 nats in the mean, and in seven of eight
# the first word stays. Turning L29N511 mostly lowers it, and in three of five prompts the model
# says something else.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
higher, same = {}, {}
for i in (830, 511):
    ends = [off.y(off.stream(i, mean[i] + turn * spread[i])) for turn in (-3, 3)]
    low, high = (off.measure(y)[0] for y in ends)
    with torch.no_grad():
        a, b = ((y @ off.model.W_U).argmax(-1) for y in ends)
    higher[i], same[i] = float((high > low).float().mean()), float((a == b).float().mean())
    rise = float((high - low).mean())
    print(f"L29N{i}: {rise:+.2f} nats, higher in {higher[i]:.0%}, same word in {same[i]:.0%}")

assert higher[830] == 1 and same[830] > 0.8
assert higher[511] < 0.2 and same[511] < 0.5

# %% [markdown]
# ### Exercise 3: was 2% luck?
#
# Section 2 called the last 2% of the directions hidden. Take 1%, 5% and 10%. Are the same two
# neurons in front?

# %% [markdown]
# <details><summary>Solution</summary>
#
# Nearly. L29N830 is the first with 1%, 2% and 5%; L29N1022 is the second or third. With 10% four
# neurons are as good as equal. What is hidden is a matter of degree.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
for share in (0.01, 0.05, 0.1):
    ranked = list(leaders(hidden_shares(model, share)[None]))
    print(share, ranked)
    assert {"L29N830", "L29N1022"} <= set(ranked[:4]) and (ranked[0] == "L29N830") == (share < 0.1)

# %% [markdown]
# ## Next
#
# - The docs' page on circuits has the same over longer texts, and all neurons of both models.
# - `components(by="head")` asks which heads make it sure.
