// One site of an attribution: coloured tokens, legend, predicted next tokens. Every text that came
// with the data becomes a text node, so that no token is ever markup.
const make = (kind, className, ...children) => {
  const element = document.createElement(kind);
  if (className) element.className = className;
  element.append(...children);
  return element;
};

const token = (pieces) =>
  pieces.map(([text, mark]) => (mark ? make("i", "", text) : document.createTextNode(text)));

// Both pages' colours, for the style sheet to choose from.
const paint = (element, names, { light, dark }) =>
  names.forEach((name, i) => {
    element.style.setProperty(`--light-${name}`, light[i]);
    element.style.setProperty(`--dark-${name}`, dark[i]);
  });

const isDark = (host) => {
  const probe = host.appendChild(make("span", "probe"));
  const [r, g, b] = getComputedStyle(probe).backgroundColor.match(/[\d.]+/g).map(Number);
  probe.remove();
  return 0.299 * r + 0.587 * g + 0.114 * b < 128;
};

const rows = (heading, items, name) => {
  const list = make("ol", name);
  for (const item of items) {
    const bar = make("b");
    bar.style.width = `${100 * Math.min(item.share, 1)}%`;
    const row = make(
      "li", item.target ? "target" : "",
      make("span", "token", ...token(item.pieces)), make("span", "share", bar),
      make("span", "number", item.text),
    );
    list.append(row);
  }
  return make("section", "", make("h3", "", heading), list);
};

const legend = (data) => {
  const bar = make("div", "bar");
  bar.style.setProperty("--light", data.light.join(","));
  bar.style.setProperty("--dark", data.dark.join(","));
  const ticks = make("div", "ticks");
  for (const { at, text } of data.ticks) {
    const tick = make("span", at <= 0 ? "first" : at >= 1 ? "last" : "", text);
    tick.style.left = `${100 * at}%`;
    ticks.append(tick);
  }
  const notes = data.notes.map((note) => make("p", "", note));
  return make("div", "legend", make("p", "units", data.units), bar, ticks, ...notes);
};

const rgb = (css) => [1, 3, 5].map((i) => parseInt(css.slice(i, i + 2), 16));

// Every site by every token: a pixel each, which the style sheet makes larger.
const heat = (data, choose, tell, hide) => {
  const { sites, rows, chosen } = data.map;
  const canvas = make("canvas");
  canvas.width = data.tokens.length;
  canvas.height = sites.length;
  const draw = (ramp) => {
    const colours = ramp.map(rgb);
    const pixels = new ImageData(canvas.width, canvas.height);
    rows.flat().forEach((step, i) => pixels.data.set([...colours[step], 255], 4 * i));
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  };
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const part = (x, start, size, n) => Math.min(Math.max(Math.floor(((x - start) / size) * n), 0), n - 1);
    return [
      part(event.clientY, box.top, box.height, sites.length),
      part(event.clientX, box.left, box.width, data.tokens.length),
    ];
  };
  canvas.onclick = (event) => choose(sites[at(event)[0]]);
  canvas.onmousemove = (event) => tell(event, ...at(event));
  canvas.onmouseleave = hide;
  const mark = make("div", "mark");
  mark.style.top = `${(100 * chosen) / sites.length}%`;
  mark.style.height = `${100 / sites.length}%`;
  const frame = make("div", "frame", canvas, mark);
  frame.style.setProperty("--cells", data.tokens.length);
  frame.style.setProperty("--rows", sites.length);
  const ends = make("div", "ends", make("span", "", sites[0]), make("span", "", sites.at(-1)));
  const hint = `All ${sites.length} sites by all tokens, each site by its own largest score; click one to choose it`;
  return { element: make("div", "map", make("p", "", hint), make("div", "plan", ends, frame)), draw };
};

export default function ({ parentElement, data, setTriggerValue }) {
  const old = parentElement.querySelector(".scope");
  const hadFocus = old?.contains(old.getRootNode().activeElement);
  const tip = make("div", "tip");
  tip.hidden = true;
  const text = make("div", "tokens");
  text.setAttribute("role", "group");
  text.setAttribute("aria-label", "Tokens of the prompt; choose one to read the prediction after it");
  const chips = data.tokens.map((entry, t) => {
    const chip = make("button", "", ...token(entry.pieces));
    chip.type = "button";
    chip.dataset.at = t;
    paint(chip, ["paper", "ink"], entry);
    chip.tabIndex = t === data.read ? 0 : -1;
    chip.setAttribute("aria-pressed", t === data.read);
    const holder = make("span", entry.later ? "later" : entry.plain ? "plain" : "", chip);
    if (t === data.read) holder.classList.add("read");
    text.append(holder, ...(entry.breaks ? [make("br")] : []));
    return chip;
  });

  const point = (event) => {
    const chip = event.target.closest?.("button");
    if (!chip) return hide();
    const t = Number(chip.dataset.at);
    const entry = data.tokens[t];
    const later = entry.later ? "after the read position: cannot matter" : `${entry.score} ${data.units}`;
    say(chip.getBoundingClientRect(), t, later);
  };
  const say = (box, t, line) => {
    const { pieces, id } = data.tokens[t];
    tip.replaceChildren(
      make("b", "", ...token(pieces)), make("span", "", `position ${t}, id ${id}`), make("span", "value", line),
    );
    tip.hidden = false;
    const left = Math.min(box.left, innerWidth - tip.offsetWidth - 12);
    const below = box.bottom + 8 + tip.offsetHeight < innerHeight;
    tip.style.left = `${Math.max(left, 8)}px`;
    tip.style.top = `${below ? box.bottom + 8 : box.top - tip.offsetHeight - 8}px`;
  };
  const hide = () => (tip.hidden = true);
  text.onmouseover = point;
  text.onmouseleave = hide;
  text.onclick = (event) => {
    const chip = event.target.closest("button");
    if (chip) setTriggerValue("read", Number(chip.dataset.at));
  };
  text.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    const at = Number(event.target.dataset.at) + step;
    chips[Math.min(Math.max(at, 0), chips.length - 1)].focus();
  };
  text.addEventListener("focusin", point);
  text.addEventListener("focusout", hide);

  const aside = make(
    "aside", "", rows(data.heading, data.next, "next"), rows("Strongest tokens", data.strongest, "strongest"),
  );
  const scope = make(
    "div", "scope",
    make("h2", "", data.title), make("p", "subtitle", data.subtitle),
    make("div", "body", make("div", "main", text, legend(data)), aside),
    make("footer", "", data.source), tip,
  );
  const map = data.map && heat(
    data,
    (site) => setTriggerValue("site", site),
    ({ clientX, clientY }, s, t) => say({ left: clientX + 12, top: clientY, bottom: clientY + 8 }, t, data.map.sites[s]),
    hide,
  );
  if (map) scope.querySelector(".main").append(map.element);
  old?.remove();
  parentElement.append(scope);
  let dark = null;
  const follow = () => {
    if (!scope.isConnected || dark === (dark = isDark(scope))) return;
    scope.classList.toggle("dark", dark);
    map?.draw(dark ? data.map.dark : data.map.light);
  };
  follow();
  // The theme's colours are custom properties of an element around this one.
  const timer = setInterval(follow, 1000);
  if (hadFocus) chips[data.read].focus({ preventScroll: true });
  return () => clearInterval(timer);
}
