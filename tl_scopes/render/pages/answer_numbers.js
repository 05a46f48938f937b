// From packed scores to colours, ticks and numbers written out, as in colours.py. `scope` holds the data.
const n = scope.tokens.length;
// Half floats, by their bits.
const half = Float64Array.from({ length: 65536 }, (_, bits) => {
  const [sign, power, rest] = [bits & 32768 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  return sign * (power ? (1 + rest / 1024) * 2 ** (power - 15) : rest * 2 ** -24);
});
const unpack = (stored) => {
  const text = atob(stored.data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return { sizes: stored.sizes, bits: new Uint16Array(bytes.buffer) };
};

// As `Scale` in colours.py: the one that what `joined` returned fills.
function fit(...filled) {
  let [limit, least, signed] = [0, Infinity, false];
  for (const { scores, seen } of filled) {
    for (let t = 0; t < n; t++) {
      const size = seen[t] ? Math.abs(scores[t]) : 0;
      if (!size) continue;
      limit = Math.max(limit, size);
      least = Math.min(least, size);
      if (scores[t] < 0) signed = true;
    }
  }
  const spread = Math.ceil(Math.log10(limit) - Math.log10(least) + 1e-9);
  return { limit, decades: scope.log && limit ? Math.min(Math.max(spread, 1), 4) : 0, signed };
}
function shade(score, { limit, decades }) {
  if (!limit) return 0;
  const share = Math.min(Math.abs(score) / limit, 1);
  const value = decades ? (share <= 10 ** -decades ? 0 : 1 + Math.log10(share) / decades) : share;
  return Math.round(value * 255) * Math.sign(score);
}
function ticks({ limit, decades, signed }) {
  if (!limit) return [];
  const up = decades && !signed
    ? Array.from({ length: decades + 1 }, (_, i) => [i / decades, limit / 10 ** (decades - i)])
    : decades || signed ? [[1, limit]] : [[0.5, limit / 2], [1, limit]];
  const zero = decades ? (signed ? [[0, `±${number(limit / 10 ** decades)}`]] : []) : [[0, "0"]];
  const marks = [...(signed ? [[-1, -limit]] : []), ...zero, ...up];
  return marks.map(([at, x], i) => [
    scope.signed ? (at + 1) / 2 : at,
    typeof x === "string" ? x : `${decades && !signed && !i ? "≤ " : ""}${number(x)}`,
  ]);
}

const number = (x) => {
  if (!x) return "0";
  if (Math.abs(x) >= 1e-3 && Math.abs(x) < 1e5) return String(Number(x.toPrecision(3)));
  const [mantissa, power] = x.toExponential(2).split("e");
  return `${Number(mantissa)}e${Number(power)}`;
};
const percent = (share) => (share > 0 && share < 0.001 ? "<0.1%" : `${(100 * share).toFixed(1)}%`);

// Black or white on a ground, as in page.js.
const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
const looks = Array.from({ length: 511 }, (_, i) => {
  const hex = scope.ramp.slice(6 * i, 6 * i + 6);
  const [r, g, b] = [0, 2, 4].map((at) => linear(parseInt(hex.slice(at, at + 2), 16) / 255));
  const luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b;
  const [light, dark] = [luminance > 0.18 ? "#000" : "#fff", luminance > 0.33 ? "#000" : "#fff"];
  return `background-color:#${hex};color:${light};--on-light:${light};--on-dark:${dark}`;
});
