// Tooltips with true scores, and numbers that follow the row that circuitsvis shows.
// `scope` holds the data; everything is written as text, never as markup.
const root = document.getElementById(scope.id);
const mount = document.getElementById(scope.id + "-tokens");
const tip = root.querySelector(".tls-tip");
root.querySelectorAll(".tls-hint").forEach((e) => (e.hidden = false)); // what it says takes a script
const map = root.querySelector(".tls-heat img");
const selectors = () => [...(mount.querySelector(":scope > div > div")?.children ?? [])];
const shown = () =>
  scope.rows.length === 1 ? 0 : Math.max(0, selectors().findIndex((e) => e.style.backgroundColor === "black"));

// circuitsvis writes white on grounds that are too light for it. Black or white, whichever has more
// contrast (WCAG 2.2): on a light page, and where page_dark.css turns ground and text over. Done once for each
// ground: what is set here calls the observer below again.
const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
function ink() {
  for (const e of mount.querySelectorAll(".colored-tokens > span > span")) {
    const ground = e.style.backgroundColor;
    if (e.dataset.ground === ground) continue;
    e.dataset.ground = ground;
    const [r, g, b] = ground.match(/\d+/g).map((c) => linear(c / 255));
    const luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b;
    e.style.setProperty("--on-light", luminance > 0.18 ? "#000" : "#fff");
    e.style.setProperty("--on-dark", luminance > 0.33 ? "#000" : "#fff");
  }
}

function tell(event, row, position) {
  const { label, scores, errors, read, plain } = scope.rows[row];
  const parts = [
    ["strong", scope.tokens[position]],
    ["span", scope.places[position]],
    ["b", scores[position] + (errors && position <= read ? ` ± ${errors[position]}` : "")],
    ["span", scope.units],
  ];
  if (scope.rows.length > 1) parts.push(["span", `at ${label}`]);
  if (position > read) parts.push(["span", "after the read position: cannot matter"]);
  else if (plain.includes(position)) parts.push(["span", "left out of the colours"]);
  tip.replaceChildren(
    ...parts.map(([tag, text]) => Object.assign(document.createElement(tag), { textContent: text })),
  );
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(event.clientX + 12, innerWidth - box.width - 8)) + "px";
  const below = event.clientY + 20;
  tip.style.top = (below + box.height > innerHeight ? event.clientY - box.height - 12 : below) + "px";
}

mount.addEventListener("mousemove", (event) => {
  const token = event.target.closest(".colored-tokens > span");
  if (!token) return void (tip.hidden = true);
  const all = [...token.parentElement.children].filter((e) => e.tagName === "SPAN");
  tell(event, shown(), all.indexOf(token));
});
mount.addEventListener("mouseleave", () => (tip.hidden = true));

function cell(event) {
  const box = map.getBoundingClientRect();
  const at = (offset, size, count) => Math.min(count - 1, Math.max(0, Math.floor((offset / size) * count)));
  return [
    at(event.clientY - box.top, box.height, scope.rows.length),
    at(event.clientX - box.left, box.width, scope.tokens.length),
  ];
}
map?.addEventListener("mousemove", (event) => tell(event, ...cell(event)));
map?.addEventListener("mouseleave", () => (tip.hidden = true));
map?.addEventListener("click", (event) => selectors()[cell(event)[0]]?.click());

let started = scope.first === 0;
function follow() {
  ink();
  if (!started && selectors()[scope.first]) {
    started = true;
    selectors()[scope.first].click(); // the component itself always begins with row 0
    return;
  }
  const k = shown();
  const row = scope.rows[k];
  root.querySelectorAll(".tls-rows > span").forEach((e, i) => e.classList.toggle("tls-on", i === k));
  const ticks = root.querySelector(".tls-ticks");
  ticks.replaceChildren(
    ...row.ticks.map(([at, text]) => {
      const tick = Object.assign(document.createElement("span"), { textContent: text });
      tick.style.left = 100 * at + "%";
      return tick;
    }),
  );
}
new MutationObserver(follow).observe(mount, { subtree: true, childList: true, attributes: true, attributeFilter: ["style"] });
follow();
