// What is chosen colours what came before it. `scope` holds the data; everything is written as text, never as markup.
const root = document.getElementById(scope.id);
const find = (query) => root.querySelector(query);
const all = (query) => [...root.querySelectorAll(query)];
const [box, tip, map, slider] = [".tls-answer", ".tls-tip", ".tls-heat img", ".tls-site input"].map(find);
const chips = all(".tls-t"); // one a token; one more where what comes after the last was read
const places = new Map(chips.map((chip, t) => [chip, t]));
const choices = chips.map((_, t) => t).filter((t) => scope.reads[t].length);
let cells = 0;
const starts = scope.rows.map(({ at }) => (cells += at + 1) - at - 1);
const each = Array.from(scope.rows.keys());
const held = new Map(); // the scores of sites that were shown
const stored = (kind, s) => {
  if (!held.has(kind + s)) held.set(kind + s, unpack(scope[kind][s]));
  return held.get(kind + s);
};

let site = 0; // what is shown: the site,
let kept = null; // the choices from one to another,
let pointed = null; // or the one that is pointed at while none is kept
let anchor = 0;

const span = () => kept ?? (pointed === null ? null : [pointed, pointed]);
const tokensOf = (range) => choices.slice(Math.min(...range), Math.max(...range) + 1);
const rowsOf = (range) => {
  if (!range) return scope.how || each.length === 1 ? each : [each.length - 1];
  const rows = tokensOf(range).flatMap((t) => scope.reads[t]);
  return scope.how ? rows : rows.slice(-1);
};
const single = (kind, s, row, t) => {
  const { sizes, bits } = stored(kind, s);
  return t > scope.rows[row].at ? 0 : half[bits[starts[row] + t]] * sizes[row];
};

// Scores of several reads joined, and which tokens have colours.
function joined(rows, s = site) {
  const { sizes, bits } = stored("scores", s);
  const [scores, seen, squares] = [new Float64Array(n), new Uint8Array(n), scope.how === "norm" && rows.length > 1];
  let last = 0;
  for (const row of rows) {
    const [start, size, at] = [starts[row], sizes[row], scope.rows[row].at];
    last = Math.max(last, at);
    const end = scope.read ? at : at - 1; // the last that has a colour
    for (let t = 0; t <= (rows.length > 1 ? end : at); t++) {
      const score = half[bits[start + t]] * size;
      scores[t] += squares ? score * score : score;
    }
    seen.fill(1, 0, Math.max(end + 1, 0));
  }
  if (scope.bos) seen[0] = 0;
  return { scores: squares ? scores.map(Math.sqrt) : scores, seen, last };
}

const shared = new Map(); // one for all, where that was asked for
function scaleOf(rows, filled) {
  if (!scope.common || rows.length > 1) return fit(filled);
  const key = scope.kind === "read" ? site : -1;
  if (!shared.has(key)) {
    const parts = key < 0 ? scope.sites.map((_, s) => joined([0], s)) : each.map((row) => joined([row]));
    shared.set(key, fit(...parts));
  }
  return shared.get(key);
}
const make = (tag, kind, ...inner) => {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  made.append(...inner);
  return made;
};
const quote = (text) => make("bdi", "tls-token", text.length > 60 ? `${text.slice(0, 30)} … ${text.slice(-24)}` : text);
const total = (rows) => {
  const values = rows.map((row) => scope.rows[row].chosen);
  return values.includes(null) ? null : values.reduce((a, b) => a + b, 0);
};

const shown = []; // of each token, so that only what changes is touched

function draw() {
  const [range, pointing] = [span(), scope.kind === "read"];
  const rows = rowsOf(range);
  const [chosen, used] = [new Set(range ? tokensOf(range) : []), new Set(rows)];
  const filled = joined(rows);
  const { scores, seen, last } = filled;
  const scale = scaleOf(rows, filled);
  chips.forEach((chip, t) => {
    const look = t < n && seen[t] ? shade(scores[t], scale) + 255 : 255;
    const later = t > last && !scope.reads[t].some((row) => used.has(row));
    const kinds = [chosen.has(t), later, t <= last && t < n && !seen[t]];
    const state = look + kinds.join();
    if (shown[t] === state) return;
    shown[t] = state;
    if (t < n) chip.style.cssText = looks[look];
    ["tls-chosen", "tls-later", "tls-plain"].forEach((kind, i) => chip.classList.toggle(kind, kinds[i]));
    if (scope.reads[t].length) chip.setAttribute("aria-pressed", kinds[0]);
  });
  find(".tls-ticks").replaceChildren(
    ...ticks(scale).map(([at, text]) => {
      const tick = make("span", "", text);
      tick.style.left = `${100 * at}%`;
      return tick;
    }),
  );
  const on = (i) => (pointing ? range && rows.includes(i) : i === site);
  all(".tls-rows > span").forEach((label, i) => label.classList.toggle("tls-on", Boolean(on(i))));
  tellSide(rows, range, scores, seen, scale);
  if (pointing) tellStatus(rows, range);
}

function tellStatus(rows, range) {
  const log = total(rows);
  const likely = log === null ? "" : `: log-probability ${number(log)} nats`;
  const row = scope.rows[rows[0]];
  const counted = `${rows.length} token${rows.length > 1 ? "s" : ""}`;
  if (!range && scope.how) return find(".tls-status").replaceChildren(`${scope.whole}, ${counted}${likely}.`);
  const tokens = range ? tokensOf(range) : choices.slice(-1);
  const text = tokens.map((t) => scope.tokens[t] ?? "what comes next").join("");
  const parts = rows.length > 1
    ? [`, ${counted}${likely}${log === null ? "" : `, ${number(log / rows.length)} each`}.`]
    : [`, read at ${row.read[0]} `, quote(row.read[1]), log === null ? "." : `: probability ${percent(Math.exp(log))}.`];
  find(".tls-status").replaceChildren(quote(text), ...parts);
}

function list(entries) {
  return make("ol", "", ...entries.map(([text, share, value, mark]) => {
    const bar = make("b");
    bar.style.width = `${100 * share}%`;
    return make("li", mark ? "tls-target" : "", make("bdi", "tls-token", text), make("span", "tls-prob", bar), make("span", "", value));
  }));
}
function tellSide(rows, range, scores, seen, scale) {
  const order = [...scores.keys()].filter((t) => seen[t] && scores[t]);
  order.sort((a, b) => Math.abs(scores[b]) - Math.abs(scores[a]));
  const strongest = order.slice(0, 8).map((t) => [
    scope.tokens[t], Math.abs(shade(scores[t], scale)) / 255, number(scores[t]),
  ]);
  const parts = [make("h2", "", "Moved most by"), list(strongest)];
  const row = scope.rows[rows[0]];
  if (scope.kind === "read" && rows.length === 1) {
    const best = Math.max(...row.top.map(([, p]) => p));
    if (row.top.length) {
      const after = make("small", "", `after ${row.read[0]} `, quote(row.read[1]));
      parts.push(make("h2", "", "Predicted next ", after));
      parts.push(list(row.top.map(([text, p, follows]) => [text, p / best, percent(p), follows])));
      if (row.top.some((candidate) => candidate[2])) parts.push(make("p", "", make("em", "tls-key", "◆"), " follows in the text"));
    }
    if (row.target !== null) parts.push(make("p", "", "explained: ", quote(row.target)));
    parts.push(...row.about.map((line) => make("p", "", line)));
  }
  const side = find(".tls-side");
  side.replaceChildren(...parts);
  side.style.minHeight = `${side.offsetHeight}px`; // what is below does not jump while a pointer moves
}

// Beside the pointer: `t` as a source of `rows`, and how likely it was itself.
function tell(event, t, rows, s = site) {
  const { scores, seen, last } = joined(rows, s);
  const error = rows.length === 1 && scope.errors && t <= last ? ` ± ${number(single("errors", s, rows[0], t))}` : "";
  const parts = [["strong", scope.tokens[t] ?? "what comes next"]];
  if (t < n) parts.push(["span", scope.places[t]]);
  if (t <= last) {
    parts.push(["b", number(scores[t]) + error], ["span", scope.units]);
    const moved = choices.find((choice) => scope.reads[choice].includes(rows[0]));
    if (rows.length === 1 && moved !== undefined) parts.push(["span", "for ", quote(scope.tokens[moved] ?? "what comes next")]);
    if (!seen[t]) parts.push(["span", "left out of the colours"]);
  } else if (!scope.reads[t].some((row) => rows.includes(row))) {
    parts.push(["span", "after what is read: cannot matter"]);
  }
  const log = scope.reads[t].length ? total(scope.reads[t]) : null;
  if (log !== null) parts.push(["span", `probability ${percent(Math.exp(log))}`]);
  if (scope.reads[t].length === 1) {
    const others = scope.rows[scope.reads[t][0]].top.filter((candidate) => !candidate[2]).slice(0, 3);
    if (others.length) parts.push(["span", log === null ? "likely: " : "others: ", ...others.flatMap(([text, p]) => [quote(text), ` ${percent(p)}  `])]);
  }
  tip.replaceChildren(...parts.map(([tag, ...inner]) => make(tag, "", ...inner)));
  tip.hidden = false;
  const size = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, innerWidth - size.width - 8))}px`;
  const below = event.clientY + 20;
  tip.style.top = `${below + size.height > innerHeight ? event.clientY - size.height - 12 : below}px`;
}

let stop = chips[choices[0]]; // of the tab key
function choose(range, focus = true) {
  [kept, pointed] = [range, null];
  draw();
  if (!range || !focus) return;
  stop.tabIndex = -1;
  stop = chips[choices[range[1]]];
  stop.tabIndex = 0;
  stop.focus();
}
const take = (i, more) => {
  if (!more || !scope.how) anchor = i;
  choose([anchor, i]);
};

let dragging = false;
const tokenOf = (element) => places.get(element?.closest?.(".tls-t"));
box.addEventListener("pointerdown", (event) => {
  const t = tokenOf(event.target);
  const i = choices.indexOf(t);
  if (t === undefined && kept) choose(null);
  if (i < 0 || event.button) return;
  event.preventDefault();
  dragging = true;
  if (kept && kept[0] === i && kept[1] === i && !event.shiftKey) {
    dragging = false;
    choose(null);
  } else take(i, event.shiftKey && kept);
});
box.addEventListener("pointermove", (event) => {
  const t = tokenOf(document.elementFromPoint(event.clientX, event.clientY));
  if (t === undefined) return void (tip.hidden = true);
  const i = choices.indexOf(t);
  if (dragging && scope.how) {
    const to = i < 0 ? Math.max(0, choices.findLastIndex((c) => c <= t)) : i;
    if (to !== kept?.[1]) take(to, true);
  } else if (!kept && pointed !== (i < 0 ? null : i)) {
    pointed = i < 0 ? null : i;
    draw();
  }
  tell(event, t, rowsOf(span()));
});
addEventListener("pointerup", () => (dragging = false));
addEventListener("pointercancel", () => (dragging = false));
box.addEventListener("pointerleave", () => {
  tip.hidden = true;
  if (pointed === null) return;
  pointed = null;
  if (!kept) draw();
});
box.addEventListener("focusin", (event) => {
  const i = choices.indexOf(tokenOf(event.target));
  if (!kept && i >= 0 && event.target.matches(":focus-visible")) take(i, false);
});
// The token above or below, by where it stands.
function beside(i, step) {
  const here = chips[choices[i]].getBoundingClientRect();
  let [best, found, line] = [Infinity, i, null];
  for (let k = i + step; choices[k] !== undefined; k += step) {
    const there = chips[choices[k]].getBoundingClientRect();
    if (Math.abs(there.top - here.top) < here.height / 2) continue;
    line ??= there.top;
    if (Math.abs(there.top - line) > here.height / 2) break;
    if (Math.abs(there.left - here.left) < best) [best, found] = [Math.abs(there.left - here.left), k];
  }
  return found;
}
box.addEventListener("keydown", (event) => {
  const i = choices.indexOf(tokenOf(event.target));
  if (event.ctrlKey || event.altKey || event.metaKey || i < 0) return;
  const moves = {
    ArrowRight: () => i + 1, ArrowLeft: () => i - 1, Home: () => 0, End: () => choices.length - 1,
    ArrowDown: () => beside(i, 1), ArrowUp: () => beside(i, -1), Enter: () => i, " ": () => i,
  };
  if (event.key === "Escape") choose(null);
  else if (moves[event.key]) take(Math.min(Math.max(moves[event.key](), 0), choices.length - 1), event.shiftKey && kept);
  else return;
  tip.hidden = true;
  event.preventDefault();
});

// The map of every read at the site that is shown.
function paint() {
  const canvas = Object.assign(document.createElement("canvas"), { width: n, height: each.length });
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(n, each.length);
  const limits = all(".tls-max > span");
  for (const row of each) {
    const filled = joined([row]);
    const { scores, seen, last } = filled;
    const scale = scaleOf([row], filled);
    if (limits[row]) limits[row].textContent = seen.includes(1) ? number(scale.limit) : "–";
    for (let t = 0; t < n; t++) {
      const at = 6 * (seen[t] ? shade(scores[t], scale) + 255 : 255);
      const rgb = [0, 2, 4].map((part) => parseInt(scope.ramp.slice(at + part, at + part + 2), 16));
      image.data.set([...rgb, seen[t] || t > last ? 255 : 0], 4 * (row * n + t));
    }
  }
  pen.putImageData(image, 0, 0);
  map.src = canvas.toDataURL();
}
function show(s) {
  site = s;
  slider.value = s;
  find(".tls-site output").textContent = scope.sites[s];
  draw();
  if (map && scope.kind === "read") paint();
}
slider?.addEventListener("input", () => show(Number(slider.value)));
const cell = (event) => {
  const area = map.getBoundingClientRect();
  const at = (offset, size, count) => Math.min(count - 1, Math.max(0, Math.floor((offset / size) * count)));
  const rows = scope.kind === "read" ? each.length : scope.sites.length;
  return [at(event.clientY - area.top, area.height, rows), at(event.clientX - area.left, area.width, n)];
};
map?.addEventListener("mousemove", (event) => {
  const [row, t] = cell(event);
  if (scope.kind === "read") tell(event, t, [row]);
  else tell(event, t, [0], row);
});
map?.addEventListener("mouseleave", () => (tip.hidden = true));
map?.addEventListener("click", (event) => {
  const [row] = cell(event);
  if (scope.kind !== "read") return show(row);
  anchor = choices.findIndex((t) => scope.reads[t].includes(row));
  choose([anchor, anchor], false);
});

chips.forEach((chip) => chip.removeAttribute("title")); // two tooltips would lie over each other
choices.forEach((t, i) => {
  chips[t].setAttribute("role", "button");
  chips[t].tabIndex = i ? -1 : 0;
});
all(".tls-hint, .tls-site input").forEach((element) => (element.hidden = false)); // what they say takes a script
draw();
