(() => {
"use strict";
const DAY = 86400;
const find = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const data = JSON.parse(find("#data").textContent);
const keyOf = new Map(data.keys.map(one => [one.key, one]));
const hidden = new Set();  // camera keys that are switched off
const state = {night: "", time: "elapsed", flagged: true, errors: true};

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== "") element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// ---------------------------------------------------------------- numbers

function buffer(text) {
  const raw = atob(text), out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out.buffer;
}
const floats = text => text === undefined ? null : new Float32Array(buffer(text));
const words = text => text === undefined ? null : new Uint32Array(buffer(text));

function number(value, digits = 5) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-4)) return value.toExponential(digits - 1).replace("e+", "e");
  return String(Number(value.toPrecision(digits)));
}

const SUPERSCRIPT = {"-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹"};
const power = exponent => "10" + [...String(exponent)].map(one => SUPERSCRIPT[one]).join("");

function utc(mjd) {
  const date = new Date((mjd - 40587) * DAY * 1000);
  return Number.isFinite(date.getTime()) ? date.toISOString().replace("T", " ").replace("Z", "") : "–";
}

function step(span, count) {
  const rough = span / count, decade = 10 ** Math.floor(Math.log10(rough));
  for (const factor of [1, 2, 5, 10]) if (factor * decade >= rough * 0.999) return factor * decade;
  return 10 * decade;
}

function ticks(low, high, count) {
  if (!(high > low)) return {values: [], step: 1};
  const width = step(high - low, count), values = [];
  for (let i = Math.ceil(low / width - 1e-9); i * width <= high + 1e-9 * width; i++) values.push(i * width);
  return {values, step: width};
}

const decimals = width => Math.min(8, Math.max(0, -Math.floor(Math.log10(width) + 1e-9)));

function logTicks(low, high) {
  const values = [], first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const factors = last - first > 3 ? [1] : Math.log10(high / low) > 1.2 ? [1, 3] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8];
  for (let e = first; e <= last; e++) for (const factor of factors) {
    const value = factor * 10 ** e;
    if (value >= low * 0.9999 && value <= high * 1.0001) values.push(value);
  }
  return values;
}
function logText(value) {
  const exponent = Math.floor(Math.log10(value) + 1e-9);
  if (exponent >= -2 && exponent <= 3) return String(Number(value.toPrecision(3)));
  const factor = Number((value / 10 ** exponent).toPrecision(2));
  return factor === 1 ? power(exponent) : factor + "·" + power(exponent);
}

function percentile(sorted, share) {
  const at = share * (sorted.length - 1), low = Math.floor(at);
  return sorted[low] + (at - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}

// limits that show the bulk of the values: what lies beyond three times the 2 to 98 % range is left outside and counted
function limits(values, log, least = 0) {
  const known = Float64Array.from(values.filter(one => Number.isFinite(one) && (!log || one > 0))).sort();
  if (!known.length) return null;
  let low = known[0], high = known[known.length - 1];
  if (log) return [low / 1.6, high * 1.6];
  const inner = [percentile(known, 0.02), percentile(known, 0.98)], reach = 3 * (inner[1] - inner[0]);
  if (reach > 0 && known.length > 4) {
    low = known.find(one => one >= inner[0] - reach);
    high = known.findLast(one => one <= inner[1] + reach);
  }
  const room = Math.max(1.3 * least, high > low ? 0.08 * (high - low) : Math.abs(high) * 0.05 || 1);
  return [low - room, high + room];
}

// ---------------------------------------------------------------- axes that several plots share

// nights one after another, without the gaps between them
class TimeAxis {
  constructor() { this.figures = []; this.view = null; this.stamp = 0; this.spans = new Map(); }
  add(night, start, end) {
    const known = this.spans.get(night);
    this.spans.set(night, known ? [Math.min(known[0], start), Math.max(known[1], end)] : [start, end]);
  }
  layout() {
    const names = [...this.spans.keys()].sort().filter(one => !state.night || one === state.night);
    const length = names.reduce((sum, one) => sum + this.spans.get(one)[1] - this.spans.get(one)[0], 0) || 1e-4;
    const gap = 0.03 * length;
    this.nights = [];
    let at = 0;
    for (const night of names) {
      const [start, end] = this.spans.get(night);
      this.nights.push({night, start, end, at, length: end - start});
      at += end - start + gap;
    }
    const room = 0.015 * length;
    this.full = [-room, Math.max(at - gap, 0) + room];
    this.byName = new Map(this.nights.map(one => [one.night, one]));
    this.origin = names.length ? Math.floor(this.spans.get(names[0])[0]) : 0;
    const longest = Math.max(...this.nights.map(one => one.length), 0) * DAY;
    this.unit = longest < 900 ? ["s", 1] : longest < 3 * 3600 ? ["min", 60] : ["h", 3600];
    this.view = null;
    this.stamp++;
  }
  get range() { return this.view || this.full || [0, 1]; }
  place(night, time) { const one = this.byName.get(night); return one ? one.at + time - one.start : NaN; }
  show(view) {
    if (view) {
      const [low, high] = this.full, least = (high - low) * 1e-6;
      view = [Math.max(low, view[0]), Math.min(high, view[1])];
      if (view[1] - view[0] < least) return;
      if (view[0] <= low && view[1] >= high) view = null;
    }
    this.view = view;
    for (const figure of this.figures) { figure.yView = view ? figure.yView : null; figure.draw(); }
  }
  label(scale) {
    if (state.time === "mjd") return `${scale} − ${this.origin} [d]`;
    if (this.nights.length === 1) return `Time since ${scale} ${this.nights[0].start.toFixed(6)} [${this.unit[0]}]`;
    return `Time since the first frame of each night [${this.unit[0]}]`;
  }
  ticks(toPixel, width) {
    const [low, high] = this.range, found = [];
    const scale = state.time === "mjd" ? 1 : DAY / this.unit[1];
    for (const one of this.nights) {
      const a = Math.max(low, one.at), b = Math.min(high, one.at + one.length);
      if (b < a) continue;
      const base = state.time === "mjd" ? one.start - this.origin : 0;
      const share = Math.max(1, Math.round((toPixel(b) - toPixel(a)) / (state.time === "mjd" ? 95 : 70)));
      const marks = ticks((a - one.at + base) * scale, (b - one.at + base) * scale, share);
      let last = found.length ? found[found.length - 1].pixel : -1e9;
      for (const value of marks.values) {
        const pixel = toPixel(one.at + value / scale - base);
        const text = value.toFixed(decimals(marks.step));
        if (pixel - last < 9 + 6.5 * text.length) continue;
        found.push({pixel, text});
        last = pixel;
      }
    }
    return found;
  }
}

class PlainAxis {
  constructor(label, log) { this.figures = []; this.view = null; this.text = label; this.log = log; this.stamp = 0; this.full = [0, 1]; }
  get range() { return this.view || this.full; }
  show(view) {
    if (view && (view[1] - view[0] < 1e-9 || (view[0] <= this.full[0] && view[1] >= this.full[1]))) view = null;
    if (view) view = [Math.max(view[0], this.full[0]), Math.min(view[1], this.full[1])];
    this.view = view;
    for (const figure of this.figures) { figure.yView = view ? figure.yView : null; figure.draw(); }
  }
  label() { return this.text; }
  ticks(toPixel, width) {
    const [low, high] = this.range;
    if (this.log) {
      let last = -1e9;
      return logTicks(10 ** low, 10 ** high).map(value => ({pixel: toPixel(Math.log10(value)), text: logText(value)}))
        .filter(one => { const keep = one.pixel - last > 16 + 6 * one.text.length; if (keep) last = one.pixel; return keep; });
    }
    const marks = ticks(low, high, Math.max(2, Math.round(width / 80)));
    return marks.values.map(value => ({pixel: toPixel(value), text: value.toFixed(decimals(marks.step))}));
  }
}

// ---------------------------------------------------------------- drawing

const colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ground", "line", "text", "soft", "grid", "k0", "k1", "k2", "k3", "k4", "k5"])
    colours[name] = style.getPropertyValue("--" + name).trim();
}

function marker(context, kind, x, y, r) {
  context.beginPath();
  switch (kind % 6) {
    case 0: context.arc(x, y, r, 0, 2 * Math.PI); break;
    case 1: context.rect(x - 0.88 * r, y - 0.88 * r, 1.76 * r, 1.76 * r); break;
    case 2: context.moveTo(x, y - 1.2 * r); context.lineTo(x + 1.1 * r, y + 0.8 * r); context.lineTo(x - 1.1 * r, y + 0.8 * r); context.closePath(); break;
    case 3: context.moveTo(x, y - 1.3 * r); context.lineTo(x + 1.1 * r, y); context.lineTo(x, y + 1.3 * r); context.lineTo(x - 1.1 * r, y); context.closePath(); break;
    case 4: context.moveTo(x, y + 1.2 * r); context.lineTo(x + 1.1 * r, y - 0.8 * r); context.lineTo(x - 1.1 * r, y - 0.8 * r); context.closePath(); break;
    default: context.rect(x - 0.45 * r, y - 1.2 * r, 0.9 * r, 2.4 * r);
  }
}

const figures = [];
const MARGIN = {left: 66, right: 12, top: 10, bottom: 40};

// One plot. A series is {colour, marker, style: "points" | "line", key?, segments: [{night?, x, y, low, high, error,
// flags, n, names?}]}; colours are names of the style sheet.
class Figure {
  constructor(box, axis, about) {
    Object.assign(this, {axis, series: [], yView: null, log: false, height: 220, unit: "", scale: ""}, about);
    axis.figures.push(this);
    figures.push(this);
    this.element = make("figure");
    const head = make("div", "", {class: "head"});
    this.titleElement = make("span", this.title, {class: "title"});
    const tools = make("div", "", {class: "tools", role: "group", "aria-label": `Zoom of ${this.title}`});
    for (const [text, name, act] of [["+", "Zoom in", () => this.zoom(0.5)], ["−", "Zoom out", () => this.zoom(2)], ["all", "Show all", () => this.reset()]]) {
      const button = make("button", text, {type: "button", "aria-label": name});
      button.addEventListener("click", act);
      tools.append(button);
    }
    head.append(this.titleElement, tools);
    this.holder = make("div", "", {class: "canvas"});
    this.canvas = make("canvas", "", {tabindex: "0", role: "img"});
    this.holder.append(this.canvas);
    this.legend = make("ul", "", {class: "legend"});
    this.element.append(head, this.holder, this.legend);
    box.append(this.element);
    this.listen();
    new ResizeObserver(() => { if (this.holder.clientWidth !== this.width) this.draw(); }).observe(this.holder);
  }

  setTitle(title) { this.title = title; this.titleElement.textContent = title; }

  // ------------------------------------------------ geometry
  toX(u) { const [a, b] = this.axis.range; return MARGIN.left + (u - a) / (b - a) * this.plotWidth; }
  toY(v) { const [a, b] = this.yRange; return MARGIN.top + (b - (this.log ? Math.log10(v) : v)) / (b - a) * this.plotHeight; }
  fromX(pixel) { const [a, b] = this.axis.range; return a + (pixel - MARGIN.left) / this.plotWidth * (b - a); }
  fromY(pixel) { const [a, b] = this.yRange; return b - (pixel - MARGIN.top) / this.plotHeight * (b - a); }

  // where the points of a segment are along the axis
  along(segment) {
    if (segment.stamp === this.axis.stamp && segment.u) return segment.u;
    const u = new Float64Array(segment.x.length);
    if (segment.night !== undefined) {
      const shift = this.axis.place(segment.night, segment.zero);
      for (let i = 0; i < u.length; i++) u[i] = shift + segment.x[i] * data.tick / DAY;
    } else for (let i = 0; i < u.length; i++) u[i] = this.axis.log ? Math.log10(segment.x[i]) : segment.x[i];
    segment.u = u;
    segment.stamp = this.axis.stamp;
    return u;
  }

  get shown() { return this.series.filter(one => !one.off && !(one.key && hidden.has(one.key))); }

  chooseY() {
    if (this.yView) { this.yRange = this.yView; return; }
    const [a, b] = this.axis.range, values = [], errors = [];
    for (const one of this.shown) for (const segment of one.segments) {
      const u = this.along(segment);
      for (let i = 0; i < u.length; i++) {
        if (!(u[i] >= a && u[i] <= b) || (!state.flagged && segment.flags && segment.flags[i])) continue;
        values.push(segment.y[i]);
        if (segment.low) values.push(segment.low[i], segment.high[i]);
        else if (segment.error && state.errors && Number.isFinite(segment.error[i])) errors.push(segment.error[i]);
      }
    }
    let found = limits(values, this.log, errors.length ? errors.sort((p, q) => p - q)[errors.length >> 1] : 0);
    if (found && this.log) found = found.map(Math.log10);
    this.yRange = found || [0, 1];
  }

  // ------------------------------------------------ draw
  draw() {
    this.width = this.holder.clientWidth;
    if (!this.width || !this.axis.range) return;
    const ratio = window.devicePixelRatio || 1, context = this.canvas.getContext("2d");
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.canvas.style.height = this.height + "px";
    this.plotWidth = this.width - MARGIN.left - MARGIN.right;
    this.plotHeight = this.height - MARGIN.top - MARGIN.bottom;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = colours.ground;
    context.fillRect(0, 0, this.width, this.height);
    context.font = "12px system-ui, sans-serif";
    this.chooseY();
    this.drawAxes(context);
    context.save();
    context.beginPath();
    context.rect(MARGIN.left, MARGIN.top, this.plotWidth, this.plotHeight);
    context.clip();
    this.outside = 0;
    this.nShown = 0;
    for (const one of this.shown) this.drawSeries(context, one);
    context.restore();
    this.sayOutside(context);
    this.describe();
  }

  drawAxes(context) {
    const left = MARGIN.left, right = this.width - MARGIN.right, top = MARGIN.top, bottom = this.height - MARGIN.bottom;
    const [low, high] = this.yRange;
    context.lineWidth = 1;
    context.textBaseline = "middle";
    context.textAlign = "right";
    let marks, shift = 0;
    if (this.log) marks = logTicks(10 ** low, 10 ** high).map(value => [this.toY(value), logText(value)]);
    else {
      const wanted = Math.max(2, Math.round(this.plotHeight / 42));
      let found = ticks(low, high, wanted);
      if (found.values.length < 2) found = ticks(low, high, 2 * wanted);
      const largest = Math.max(Math.abs(low), Math.abs(high));
      shift = largest >= 1e5 || largest < 1e-3 ? Math.floor(Math.log10(largest)) : 0;
      marks = found.values.map(value => [this.toY(value), (value / 10 ** shift).toFixed(decimals(found.step / 10 ** shift)).replace("-", "−")]);
    }
    let last = 1e9;
    for (const [y, text] of marks) {
      context.strokeStyle = colours.grid;
      context.beginPath(); context.moveTo(left, y); context.lineTo(right, y); context.stroke();
      if (Math.abs(y - last) < 14) continue;
      last = y;
      context.fillStyle = colours.soft;
      context.fillText(text, left - 6, y);
    }
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const {pixel, text} of this.axis.ticks(u => this.toX(u), this.plotWidth)) {
      if (pixel < left - 1 || pixel > right + 1) continue;
      context.strokeStyle = colours.grid;
      context.beginPath(); context.moveTo(pixel, top); context.lineTo(pixel, bottom); context.stroke();
      context.fillStyle = colours.soft;
      context.fillText(text, Math.min(pixel, right - 3 * text.length), bottom + 5);
    }
    this.drawNights(context, top, bottom, left, right);
    context.strokeStyle = colours.line;
    context.strokeRect(left, top, right - left, bottom - top);
    context.fillStyle = colours.text;
    context.textAlign = "center";
    context.textBaseline = "bottom";
    context.fillText(this.axis.label(this.scale), (left + right) / 2, this.height - 2);
    context.save();
    context.translate(2, (top + bottom) / 2);
    context.rotate(-Math.PI / 2);
    context.textBaseline = "top";
    const unit = [shift ? power(shift) : "", this.unit].filter(Boolean).join(" ");
    context.fillText(this.label + (unit ? ` [${unit}]` : ""), 0, 0);
    context.restore();
  }

  // a line between nights, and their dates where there is room
  drawNights(context, top, bottom, left, right) {
    const nights = this.axis.nights;
    if (!nights || nights.length < 2) return;
    context.save();
    context.setLineDash([3, 3]);
    context.strokeStyle = colours.soft;
    context.textAlign = "left";
    context.textBaseline = "top";
    let free = -1e9;
    nights.forEach((one, i) => {
      const a = this.toX(one.at), b = this.toX(one.at + one.length);
      if (i) {
        const x = (a + this.toX(nights[i - 1].at + nights[i - 1].length)) / 2;
        if (x > left && x < right) { context.beginPath(); context.moveTo(x, top); context.lineTo(x, bottom); context.stroke(); }
      }
      const x = Math.max(a, left + 3);
      if (b > left && x < right - 60 && x > free) {
        context.fillStyle = colours.soft;
        context.fillText(one.night, x, top + 3);
        free = x + 72;
      }
    });
    context.restore();
  }

  drawSeries(context, one) {
    const colour = colours[one.colour];
    context.strokeStyle = context.fillStyle = colour;
    if (one.style === "line") return this.drawLine(context, one);
    const [a, b] = this.axis.range, top = MARGIN.top, bottom = top + this.plotHeight;
    let inView = 0;
    for (const segment of one.segments) {
      const u = this.along(segment);
      for (let i = 0; i < u.length; i++) if (u[i] >= a && u[i] <= b && Number.isFinite(segment.y[i])) inView++;
    }
    const r = one.size || (inView > 2500 ? 1.2 : inView > 700 ? 1.8 : inView > 150 ? 2.5 : 3.2);
    for (const segment of one.segments) {
      const u = this.along(segment), y = segment.y, n = u.length;
      segment.px = new Float32Array(n).fill(NaN);
      segment.py = new Float32Array(n).fill(NaN);
      const bars = segment.low ? [segment.low, segment.high]
        : state.errors && segment.error ? [y.map((v, i) => v - segment.error[i]), y.map((v, i) => v + segment.error[i])] : null;
      if (bars) {
        context.globalAlpha = inView > 2 * this.plotWidth ? 0.15 : inView > 700 ? 0.3 : 0.5;
        context.lineWidth = 1;
        context.beginPath();
        for (let i = 0; i < n; i++) {
          if (!(u[i] >= a && u[i] <= b) || (!state.flagged && segment.flags && segment.flags[i])) continue;
          const low = this.toY(this.log ? Math.max(bars[0][i], 1e-30) : bars[0][i]), high = this.toY(bars[1][i]);
          if (!(low > high + 0.5)) continue;
          const x = this.toX(u[i]);
          context.moveTo(x, Math.min(low, bottom + 5)); context.lineTo(x, Math.max(high, top - 5));
        }
        context.stroke();
        context.globalAlpha = 1;
      }
      for (let i = 0; i < n; i++) {
        if (!(u[i] >= a && u[i] <= b) || !Number.isFinite(y[i]) || (this.log && y[i] <= 0)) continue;
        const isFlagged = segment.flags && segment.flags[i];
        if (isFlagged && !state.flagged) continue;
        const px = this.toX(u[i]), py = this.toY(y[i]);
        this.nShown++;
        if (py < top - 1 || py > bottom + 1) { this.outside++; continue; }
        segment.px[i] = px;
        segment.py[i] = py;
        if (r < 1.5 && !isFlagged) { context.fillRect(px - r, py - r, 2 * r, 2 * r); continue; }
        marker(context, one.marker, px, py, r);
        if (isFlagged || one.hollow) {
          context.fillStyle = colours.ground;
          context.fill();
          context.fillStyle = colour;
          context.lineWidth = 1.2;
          context.stroke();
        } else context.fill();
      }
    }
  }

  drawLine(context, one) {
    context.lineWidth = one.width || 1.6;
    context.setLineDash(one.dash || []);
    for (const segment of one.segments) {
      const u = this.along(segment);
      let open = false;
      context.beginPath();
      for (let i = 0; i < u.length; i++) {
        const v = segment.y[i];
        if (!Number.isFinite(v) || v === null || (this.log && v <= 0) || !Number.isFinite(u[i])) { open = false; continue; }
        const x = this.toX(u[i]), y = Math.max(-1e4, Math.min(1e4, this.toY(v)));
        if (open) context.lineTo(x, y); else context.moveTo(x, y);
        open = true;
      }
      context.stroke();
    }
    context.setLineDash([]);
  }

  sayOutside(context) {
    if (!this.outside || this.yView) return;
    const text = `${this.outside} point${this.outside > 1 ? "s" : ""} outside`;
    context.textAlign = "right";
    context.textBaseline = "bottom";
    const x = this.width - MARGIN.right - 5, y = this.height - MARGIN.bottom - 4;
    context.fillStyle = colours.ground;
    context.globalAlpha = 0.8;
    context.fillRect(x - context.measureText(text).width - 3, y - 15, context.measureText(text).width + 6, 16);
    context.globalAlpha = 1;
    context.fillStyle = colours.soft;
    context.fillText(text, x, y);
  }

  describe() {
    const [a, b] = this.axis.range, [c, d] = this.yRange;
    Object.assign(this.canvas.dataset, {xMin: a, xMax: b, yMin: c, yMax: d, points: this.nShown});
    const y = this.log ? [10 ** c, 10 ** d] : [c, d];
    this.canvas.setAttribute("aria-label", `${this.title}: ${this.nShown} points, ${this.label} from ${number(y[0])} to ${number(y[1])} ${this.unit}. Keys + and − zoom, arrows move, 0 shows all.`);
    this.legend.hidden = this.legend.children.length < 2;
  }

  // ------------------------------------------------ zoom
  zoom(factor, centre) {
    const [a, b] = this.axis.range, at = centre === undefined ? (a + b) / 2 : centre;
    this.axis.show([at + (a - at) * factor, at + (b - at) * factor]);
  }
  move(share) {
    const [a, b] = this.axis.range, [low, high] = this.axis.full;
    const by = Math.max(low - a, Math.min(high - b, share * (b - a)));
    if (by) this.axis.show([a + by, b + by]);
  }
  reset() { this.yView = null; this.axis.show(null); }

  listen() {
    const canvas = this.canvas, pointers = new Map();
    let begun = null, box = null, spread = null;
    const place = event => { const frame = canvas.getBoundingClientRect(); return [event.clientX - frame.left, event.clientY - frame.top]; };
    const end = () => { begun = null; if (box) { box.remove(); box = null; } };
    canvas.addEventListener("pointerdown", event => {
      if (event.button) return;
      pointers.set(event.pointerId, place(event));
      if (pointers.size === 2) { end(); spread = this.spreadOf(pointers); return; }
      begun = place(event);
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", event => {
      const at = place(event);
      if (pointers.has(event.pointerId)) pointers.set(event.pointerId, at);
      if (pointers.size === 2 && spread) { this.pinch(spread, this.spreadOf(pointers)); spread = this.spreadOf(pointers); return; }
      if (!begun) { this.point(event, at); return; }
      if (!box && Math.hypot(at[0] - begun[0], at[1] - begun[1]) > 5) { box = make("div", "", {class: "selection"}); this.holder.append(box); tip.hidden = true; }
      if (box) this.stretch(box, begun, at, event.pointerType === "touch");
    });
    canvas.addEventListener("pointerup", event => {
      pointers.delete(event.pointerId);
      if (pointers.size < 2) spread = null;
      if (begun && box) this.select(begun, place(event), event.pointerType === "touch");
      else if (begun) this.point(event, place(event));
      end();
    });
    canvas.addEventListener("pointercancel", event => { pointers.delete(event.pointerId); spread = null; end(); });
    canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
    canvas.addEventListener("dblclick", () => this.reset());
    canvas.addEventListener("wheel", event => {
      if (!event.shiftKey && !event.ctrlKey && !event.metaKey) return;  // the page scrolls
      event.preventDefault();
      const by = event.deltaY || event.deltaX;
      this.zoom(Math.exp(Math.max(-1, Math.min(1, by / 300))), this.fromX(place(event)[0]));
    }, {passive: false});
    canvas.addEventListener("keydown", event => {
      const act = {"+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2), ArrowLeft: () => this.move(-0.2),
        ArrowRight: () => this.move(0.2), 0: () => this.reset(), Escape: () => this.reset()}[event.key];
      if (act && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); act(); }
    });
  }

  spreadOf(pointers) { const [p, q] = [...pointers.values()]; return {middle: (p[0] + q[0]) / 2, size: Math.max(20, Math.abs(p[0] - q[0]))}; }
  pinch(before, now) { this.zoom(before.size / now.size, this.fromX((before.middle + now.middle) / 2)); }

  // a box that is hardly as high as wide means a range of the horizontal axis
  corners(from, to, isTouch) {
    const right = MARGIN.left + this.plotWidth, bottom = MARGIN.top + this.plotHeight;
    const inside = ([x, y]) => [Math.min(right, Math.max(MARGIN.left, x)), Math.min(bottom, Math.max(MARGIN.top, y))];
    const [p, q] = [inside(from), inside(to)];
    const isBox = !isTouch && Math.abs(p[1] - q[1]) > 0.15 * this.plotHeight;
    return {x: [Math.min(p[0], q[0]), Math.max(p[0], q[0])], y: isBox ? [Math.min(p[1], q[1]), Math.max(p[1], q[1])] : null};
  }
  stretch(box, from, to, isTouch) {
    const {x, y} = this.corners(from, to, isTouch), rows = y || [MARGIN.top, MARGIN.top + this.plotHeight];
    Object.assign(box.style, {left: x[0] + "px", width: x[1] - x[0] + "px", top: rows[0] + "px", height: rows[1] - rows[0] + "px"});
  }
  select(from, to, isTouch) {
    const {x, y} = this.corners(from, to, isTouch);
    if (x[1] - x[0] < 8 && !y) return;
    const rows = y && [this.fromY(y[1]), this.fromY(y[0])];
    const columns = x[1] - x[0] < 8 ? null : [this.fromX(x[0]), this.fromX(x[1])];
    if (rows) this.yView = rows;
    if (columns) {
      const all = this.axis.full;
      // the vertical zoom is that of this plot alone
      this.axis.show([Math.max(columns[0], all[0] + 1e-12), Math.min(columns[1], all[1] - 1e-12)]);
      if (rows) { this.yView = rows; this.draw(); }
    } else this.draw();
  }

  // ------------------------------------------------ what is under the pointer
  point(event, [x, y]) {
    let best = null, least = 15 ** 2;
    for (const one of this.shown) for (const segment of one.segments) {
      if (!segment.px) continue;
      for (let i = 0; i < segment.px.length; i++) {
        const away = (segment.px[i] - x) ** 2 + (segment.py[i] - y) ** 2;
        if (away < least) { least = away; best = [one, segment, i]; }
      }
    }
    if (!best) { tip.hidden = true; return; }
    tip.textContent = this.sentence(...best);
    tip.hidden = false;
    const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 6);
    const top = event.clientY + 16 + tip.offsetHeight > window.innerHeight ? event.clientY - tip.offsetHeight - 10 : event.clientY + 16;
    Object.assign(tip.style, {left: Math.max(4, left) + "px", top: top + "px"});
  }

  sentence(one, segment, i) {
    const unit = this.unit ? " " + this.unit : "", error = segment.error ? ` ± ${number(segment.error[i], 2)}` : "";
    const lines = [one.name || "", `${this.label} ${number(segment.y[i])}${error}${unit}`];
    if (segment.names) lines[0] = `${one.name}: ${segment.names[i]}`;
    if (segment.night !== undefined) {
      const time = segment.zero + segment.x[i] * data.tick / DAY;
      lines.push(`${this.scale} ${time.toFixed(7)}`);
      if (this.scale.includes("UTC")) lines.push(`UTC ${utc(time)}`);
      if (segment.n > 1) lines.push(`${segment.n} frames, ${number(segment.low[i])} to ${number(segment.high[i])}${unit}`);
    } else lines.push(`${this.axis.label().replace(/ \[.*/, "")} ${number(segment.x[i])}`);
    if (segment.flags && segment.flags[i]) lines.push("flags: " + this.flagNames.filter(([bit]) => segment.flags[i] & bit).map(([, name]) => name).join(", "));
    return lines.filter(Boolean).join("\n");
  }

  // ------------------------------------------------ legend: a button a series
  setLegend() {
    this.legend.replaceChildren();
    for (const one of this.series) {
      const item = make("li"), swatch = make("canvas", "", {width: 52, height: 24, "aria-hidden": "true"});
      item.append(swatch, document.createTextNode(one.name || ""));
      this.legend.append(item);
      one.swatch = swatch;
    }
    this.drawLegend();
  }
  drawLegend() { for (const one of this.series) if (one.swatch) drawSwatch(one.swatch, one); }
}

function drawSwatch(canvas, one) {
  const context = canvas.getContext("2d");
  context.setTransform(2, 0, 0, 2, 0, 0);
  context.clearRect(0, 0, 30, 14);
  context.strokeStyle = context.fillStyle = colours[one.colour];
  if (one.style === "line") {
    context.lineWidth = one.width || 1.6;
    context.setLineDash(one.dash || []);
    context.beginPath(); context.moveTo(0, 6); context.lineTo(26, 6); context.stroke();
  } else {
    marker(context, one.marker, 13, 6, 4);
    if (one.hollow) context.stroke(); else context.fill();
  }
}

const tip = find("#tip");
function redraw() { readColours(); paintKeys(); for (const figure of figures) { figure.draw(); figure.drawLegend(); } }

// ---------------------------------------------------------------- what is drawn

function timeSegment(entry, column) {
  const flags = words(column.f) || (entry.flags ? words(entry.flags) : null);
  return {night: entry.night, zero: entry.zero, x: words(entry.t), n: entry.n, y: floats(column.m), low: floats(column.l),
    high: floats(column.h), error: floats(column.e), flags};
}
function span(axis, entry) {
  const t = words(entry.t);
  let last = 0;
  for (const one of t) if (one > last) last = one;
  axis.add(entry.night, entry.zero, entry.zero + last * data.tick / DAY);
}
const styleOf = key => { const one = keyOf.get(key); return {key, name: key, colour: "k" + one.colour, marker: one.marker}; };

const timeAxes = [];
function timeAxis(entries) {
  const axis = new TimeAxis();
  for (const entry of entries) span(axis, entry);
  axis.layout();
  timeAxes.push(axis);
  return axis;
}

// light curves of a target in all cameras over each other, periodogram and fold, fit
function drawTargets() {
  if (!find("#target")) return;
  const axis = timeAxis(data.relative.flatMap(one => one.nights));
  for (const article of all("#target article")) {
    const name = article.dataset.name, box = kind => find(`[data-plot="${kind}"]`, article);
    const curves = data.relative.filter(one => one.name === name);
    const figure = new Figure(box("overlay"), axis, {title: `${name}: all cameras`, label: "Flux / median", height: 300, scale: curves[0].scale, flagNames: data.flags.source});
    figure.series = curves.map(one => {
      const segments = one.nights.map(entry => timeSegment(entry, entry.column));
      divide(segments);
      return {...styleOf(one.key), segments};
    });
    figure.setLegend();
    if (box("period")) drawPeriod(box("period"), data.periods.find(one => one.name === name));
    if (box("fit")) drawFit(box("fit"), data.fits.find(one => one.name === name));
  }
}

function drawPeriod(box, one) {
  const spectrum = new PlainAxis("Frequency [Hz]", true), phases = new PlainAxis("Phase", false);
  spectrum.full = [Math.log10(one.frequency[0]), Math.log10(one.frequency[one.frequency.length - 1])];
  phases.full = [0, 2];
  const power = new Figure(box, spectrum, {title: "Periodogram", label: "Power (share of the scatter)", height: 240, flagNames: []});
  power.series = [{name: "all cameras", colour: "k5", style: "line", width: 1.2, segments: [{x: one.frequency, y: one.power}]}];
  const fold = new Figure(box, phases, {title: "Folded on the period", label: "Flux / median", height: 240, flagNames: []});
  fold.series = Object.entries(one.folded).map(([key, own]) => ({...styleOf(key), segments: [{x: own.phase, y: own.flux, error: own.error}]}));
  fold.setLegend();
}

function drawFit(box, fit) {
  for (const own of fit.series) {
    const axis = new PlainAxis(`Hours since BJD (TDB) ${own.zero.toFixed(1)}`, false);
    const low = Math.min(...own.hours), high = Math.max(...own.hours), room = 0.02 * (high - low) || 0.1;
    axis.full = [low - room, high + room];
    const about = {height: 240, flagNames: ["not fitted"].map(name => [1, name])}, flags = own.fitted.map(used => used ? 0 : 1);
    const figure = new Figure(box, axis, {...about, title: `Fit: ${own.key} ${own.night}`, label: "Flux / baseline"});
    figure.series = [{...styleOf(own.key), segments: [{x: own.hours, y: own.flux, error: own.error, flags}]},
      {name: fit.shape, key: own.key, colour: "text", style: "line", width: 2, segments: [{x: own.hours, y: own.model}]}];
    figure.setLegend();
    const left = new Figure(box, axis, {...about, title: `What is left: ${own.key} ${own.night}`, label: "Flux - model", unit: "%"});
    left.series = [{...styleOf(own.key), segments: [{x: own.hours, y: own.flux.map((v, i) => 100 * (v - own.model[i])), error: own.error.map(v => 100 * v), flags}]}];
  }
}

function drawConditions() {
  const box = find("#conditions-plots");
  if (!box) return;
  const axis = timeAxis(data.conditions);
  for (const panel of data.panels) {
    const figure = new Figure(box, axis, {title: panel.heading, label: panel.label, unit: panel.unit, height: 205, scale: "MJD (UTC)", flagNames: data.flags.frame});
    figure.series = data.keys.map(one => ({...styleOf(one.key), segments: data.conditions
      .filter(entry => entry.key === one.key && entry.columns[panel.name])
      .map(entry => timeSegment(entry, entry.columns[panel.name]))})).filter(one => one.segments.length);
    if (panel.name === "transparency") {
      for (const one of data.keys) {
        const segments = data.conditions.filter(entry => entry.key === one.key && entry.columns.clear_transparency)
          .map(entry => ({...timeSegment(entry, entry.columns.clear_transparency), flags: null, low: null, high: null}));
        if (segments.length) figure.series.push({...styleOf(one.key), style: "line", width: 1.2, dash: [5, 3], name: "clear sky, " + one.key, segments});
      }
      figure.setLegend();
    }
  }
}

function drawRelative() {
  const chooser = find("#relative-name"), box = find("#relative-plots");
  if (!chooser) return;
  const names = [...new Set(data.relative.map(one => one.name))];
  for (const name of names) chooser.append(make("option", name, {value: name}));
  const axis = timeAxis(data.relative.flatMap(one => one.nights));
  const made = new Map();
  const show = () => {
    for (const [key, figure] of made) figure.element.hidden = !data.relative.some(one => one.key === key && one.name === chooser.value);
    for (const one of data.relative.filter(entry => entry.name === chooser.value)) {
      if (!made.has(one.key)) made.set(one.key, new Figure(box, axis, {title: "", label: "Relative flux", unit: "", height: 260, flagNames: data.flags.source}));
      const figure = made.get(one.key);
      figure.setTitle(`${one.key}: source ${one.target} relative to its comparisons`);
      figure.scale = one.scale;
      figure.series = [{...styleOf(one.key), segments: one.nights.map(entry => timeSegment(entry, entry.column))}];
      figure.yView = null;
      figure.element.hidden = hidden.has(one.key);
      figure.draw();
    }
  };
  chooser.addEventListener("change", show);
  shows.push(show);
  show();
}

function drawCurves() {
  const chooser = find("#curve-source"), labels = find("#curve-label"), norm = find("#curve-norm"), box = find("#curve-plots");
  if (!chooser) return;
  const targets = new Set(data.relative.map(one => one.target));
  const numbers = [...new Set(data.curves.flatMap(one => one.sources))].sort((a, b) => a - b);
  for (const one of numbers) chooser.append(make("option", targets.has(one) ? `${one} (target)` : one, {value: one}));
  if (targets.size) chooser.value = [...targets][0];
  for (const label of new Set(data.curves.map(one => one.label))) labels.append(make("option", label, {value: label}));
  const axis = timeAxis(data.curves.flatMap(one => one.nights));
  const made = new Map();
  const show = () => {
    const source = Number(chooser.value);
    for (const key of data.keys.map(one => one.key)) {
      const one = data.curves.find(entry => entry.key === key && entry.label === labels.value && entry.sources.includes(source));
      if (one && !made.has(key)) made.set(key, new Figure(box, axis, {title: "", label: "Flux", height: 220, flagNames: data.flags.source}));
      const figure = made.get(key);
      if (!figure) continue;
      figure.element.hidden = !one || hidden.has(key);
      if (!one) continue;
      const at = one.sources.indexOf(source), segments = one.nights.map(entry => timeSegment(entry, entry.columns[at]));
      if (norm.checked) divide(segments);
      figure.setTitle(`${key}: source ${source}, ${one.label}`);
      figure.label = norm.checked ? "Flux / median" : "Flux";
      figure.unit = norm.checked ? "" : "e⁻ per exposure";
      figure.scale = one.scale;
      figure.series = [{...styleOf(key), segments}];
      figure.yView = null;
      figure.draw();
    }
  };
  for (const one of [chooser, labels, norm]) one.addEventListener("change", show);
  shows.push(show);
  show();
  for (const link of all("a[data-source]")) link.addEventListener("click", () => {
    if (!numbers.includes(Number(link.dataset.source))) return;
    chooser.value = link.dataset.source;
    hidden.delete(link.dataset.key);
    paintKeys();
    show();
  });
}

function divide(segments) {
  const known = segments.flatMap(one => [...one.y].filter(Number.isFinite)).sort((a, b) => a - b);
  const middle = known[known.length >> 1];
  if (!(middle > 0)) return;
  for (const one of segments) for (const name of ["y", "low", "high", "error"]) if (one[name]) one[name] = one[name].map(v => v / middle);
}

const COMPONENTS = [["source", "source", "k0", [6, 3]], ["sky", "sky", "k4", [2, 2]], ["dark", "dark current", "k3", [8, 3, 2, 3]], ["read", "read-out", "k1", [1, 3]],
  ["scintillation", "scintillation", "k2", [4, 2, 1, 2]], ["total", "total", "text", []], ["common", "and what is common to all", "text", [6, 4]]];

function drawNoise() {
  const box = find("#noise-plots");
  if (!box) return;
  for (const one of data.noise) {
    if (!one.flux.length) { box.append(make("p", `${one.key} ${one.label}: no source has a flux and a scatter.`, {class: "note"})); continue; }
    const axis = new PlainAxis("Median flux [e⁻ per exposure]", true), style = styleOf(one.key), x = one.flux.map(Number);
    const around = [...x, ...(one.model.flux || [])].map(Math.log10).filter(Number.isFinite);
    axis.full = [Math.min(...around) - 0.05, Math.max(...around) + 0.05];
    const figure = new Figure(box, axis, {title: `${one.key}, ${one.label}`, label: "Scatter / flux", log: true, height: 320, flagNames: []});
    const nan = list => list.map(value => value === null ? NaN : value);
    const names = one.source.map(n => "source " + n);
    figure.series = COMPONENTS.filter(([name]) => one.model[name] && one.model[name].some(v => v > 0)).map(([name, text, colour, dash]) =>
      ({name: text, colour, dash, style: "line", width: name === "total" ? 2 : 1.4, segments: [{x: one.model.flux, y: nan(one.model[name])}]}));
    figure.series.push({name: "median error", colour: "soft", marker: 1, hollow: true, size: x.length > 60 ? 2 : 3.6, segments: [{x, y: nan(one.error), names}]});
    figure.series.push({...style, key: undefined, name: "measured scatter", size: x.length > 60 ? 2.4 : 3.6, segments: [{x, y: nan(one.scatter), names}]});
    // faint components would squeeze what was measured
    figure.chooseY = function () {
      if (this.yView) { this.yRange = this.yView; return; }
      const seen = [one.scatter, one.error, one.model.total || []].flat().filter(v => v > 0);
      this.yRange = [Math.log10(Math.min(...seen)) - 0.6, Math.log10(Math.max(...seen)) + 0.2];
    };
    figure.setLegend();
    figure.draw();
  }
}

function drawProfiles() {
  const box = find("#profile-plots");
  if (!box) return;
  for (const {key} of data.keys) {
    const nights = data.profiles.filter(one => one.key === key);
    if (!nights.length) continue;
    const axis = new PlainAxis("Elliptical radius [σ of the stars]", false);
    axis.full = [0, Math.max(...nights.flatMap(one => one.radius)) * 1.02];
    const figure = new Figure(box, axis, {title: key, label: "Light", unit: "σ⁻²", log: true, height: 280, flagNames: []});
    const positive = v => v > 0 ? v : NaN;
    nights.forEach((one, i) => {
      const colour = "k" + (nights.length === 1 ? keyOf.get(key).colour : i % 6), error = one.measured_err.map(v => v === null ? NaN : v);
      figure.series.push({name: `${one.night}, fitted`, colour, style: "line", segments: [{x: one.radius, y: one.profile.map(positive)}]});
      figure.series.push({name: `${one.night}, measured`, colour, marker: i, size: 2.4, segments: [{x: one.radius, y: one.measured.map(positive), error}]});
    });
    const seen = nights.flatMap(one => one.profile).filter(v => v > 0);
    figure.chooseY = function () {
      this.yRange = this.yView || [Math.max(-7, Math.log10(Math.min(...seen)) - 0.4), Math.log10(Math.max(...seen)) + 0.3];
    };
    if (nights.length < 9) figure.setLegend();
    figure.draw();
  }
}

// ---------------------------------------------------------------- controls

const shows = [];

function paintKeys() {
  for (const box of all("canvas.key")) { const one = keyOf.get(box.dataset.key); if (one) drawSwatchOf(box, one); }
  for (const box of all("#keys input")) box.checked = !hidden.has(box.value);
}
function drawSwatchOf(canvas, one) {
  const context = canvas.getContext("2d");
  context.setTransform(2, 0, 0, 2, 0, 0);
  context.clearRect(0, 0, 12, 12);
  context.fillStyle = colours["k" + one.colour];
  marker(context, one.marker, 6, 6, 4.5);
  context.fill();
}
function swatch(key) { return make("canvas", "", {class: "key", width: 24, height: 24, "data-key": key, "aria-hidden": "true"}); }

function setControls() {
  for (const place of all("span.key")) place.replaceWith(swatch(place.dataset.key));
  const nights = [...new Set([...data.conditions, ...data.curves.flatMap(one => one.nights), ...data.relative.flatMap(one => one.nights)].map(one => one.night))].sort();
  if (!nights.length) return;
  find("#controls").hidden = false;
  const chooser = find("#night");
  if (nights.length > 1) chooser.append(make("option", `all ${nights.length}, without gaps`, {value: ""}));
  for (const night of nights) chooser.append(make("option", night, {value: night}));
  state.night = chooser.value;
  chooser.addEventListener("change", () => {
    state.night = chooser.value;
    for (const axis of timeAxes) axis.layout();
    for (const figure of figures) if (figure.axis instanceof TimeAxis) { figure.yView = null; figure.draw(); }
  });
  for (const radio of all('input[name="time"]')) radio.addEventListener("change", () => { state.time = radio.value; redraw(); });
  for (const name of ["flagged", "errors"]) find("#" + name).addEventListener("change", event => { state[name] = event.target.checked; redraw(); });
  for (const {key} of data.keys) {
    const label = make("label"), box = make("input", "", {type: "checkbox", value: key});
    box.checked = true;
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(key); else hidden.add(key);
      for (const show of shows) show();
      redraw();
    });
    label.append(box, " ", swatch(key), key);
    find("#keys").append(label);
  }
  if (data.keys.length < 2) find("#keys").hidden = true;
}

function setTables() {
  const value = cell => { const text = cell.dataset.v || cell.textContent.trim(); const n = Number(text.replace("−", "-")); return Number.isNaN(n) ? -Infinity : n; };
  for (const table of all("table.sortable")) {
    const heads = all("thead th", table), body = find("tbody", table);
    heads.forEach((head, column) => find("button", head).addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending" && (column > 0 || head.getAttribute("aria-sort") === "ascending");
      heads.forEach(one => one.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map(row => [value(row.cells[column]), row]);
      rows.sort((a, b) => (down ? b[0] - a[0] : a[0] - b[0]) || 0);
      body.append(...rows.map(([, row]) => row));
    }));
    const field = find('input[type="search"]', table.closest("details"));
    field.addEventListener("input", () => {
      const wanted = field.value.trim().toLowerCase();
      for (const row of body.rows) row.hidden = wanted !== "" && !row.dataset.find.split(" ").some(word => /^\d+$/.test(wanted) ? word === wanted : word.startsWith(wanted));
    });
  }
}

// finding charts: the part of the image that is seen
function setCharts() {
  for (const svg of all(".chart-svg")) {
    const nx = Number(svg.dataset.nx), ny = Number(svg.dataset.ny), holder = svg.parentElement;
    let view = [-0.5, -0.5, nx, ny], begun = null, box = null;
    const show = next => {
      const width = Math.min(nx, Math.max(12, next[2])), height = width * ny / nx;
      view = [Math.min(nx - 0.5 - width, Math.max(-0.5, next[0])), Math.min(ny - 0.5 - height, Math.max(-0.5, next[1])), width, height];
      svg.setAttribute("viewBox", view.join(" "));
      size();
    };
    const size = () => {
      // image pixels to one of the screen: the image may be narrower than its frame
      const scale = Math.max(view[2] / (svg.clientWidth || nx), view[3] / (svg.clientHeight || ny));
      svg.style.fontSize = 12 * scale + "px";
      const r = Math.min(Number(svg.dataset.radius), Math.max(9 * scale, Number(svg.dataset.radius) * view[2] / nx));
      for (const circle of all("circle", svg)) circle.setAttribute("r", r);
      // of a crowded field the brightest have numbers, the others when there is room for them
      const most = svg.clientWidth / 12 * (nx / view[2]) ** 2;
      all("a", svg).forEach((link, i) => { const text = find("text", link); if (text) text.style.display = i < most || link.classList.contains("target") ? "" : "none"; });
    };
    const zoom = (factor, [x, y] = [view[0] + view[2] / 2, view[1] + view[3] / 2]) =>
      show([x + (view[0] - x) * factor, y + (view[1] - y) * factor, view[2] * factor, view[3] * factor]);
    const place = event => { const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()); return [at.x, at.y]; };
    const act = {in: () => zoom(0.5), out: () => zoom(2), all: () => show([-0.5, -0.5, nx, ny])};
    for (const button of all("[data-zoom]", holder)) button.addEventListener("click", act[button.dataset.zoom]);
    svg.addEventListener("dblclick", act.all);
    svg.addEventListener("wheel", event => {
      if (!event.shiftKey && !event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoom(Math.exp(Math.max(-1, Math.min(1, (event.deltaY || event.deltaX) / 300))), place(event));
    }, {passive: false});
    svg.addEventListener("pointerdown", event => { if (!event.button && event.pointerType !== "touch" && !event.target.closest("a")) begun = [event, place(event)]; });
    svg.addEventListener("pointermove", event => {
      if (!begun) return;
      const frame = holder.getBoundingClientRect(), x = [begun[0].clientX, event.clientX].sort((a, b) => a - b), y = [begun[0].clientY, event.clientY].sort((a, b) => a - b);
      if (!box) { box = make("div", "", {class: "selection"}); holder.append(box); }
      Object.assign(box.style, {left: x[0] - frame.left + "px", width: x[1] - x[0] + "px", top: y[0] - frame.top + "px", height: y[1] - y[0] + "px"});
    });
    window.addEventListener("pointerup", event => {
      if (begun && box && Math.abs(event.clientX - begun[0].clientX) > 8) {
        const to = place(event), from = begun[1], width = Math.max(Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1]) * nx / ny);
        const middle = [(to[0] + from[0]) / 2, (to[1] + from[1]) / 2];
        show([middle[0] - width / 2, middle[1] - width * ny / nx / 2, width, 0]);
      }
      begun = null;
      if (box) { box.remove(); box = null; }
    });
    svg.addEventListener("keydown", event => {
      const key = {"+": act.in, "=": act.in, "-": act.out, 0: act.all, ArrowLeft: () => show([view[0] - 0.2 * view[2], view[1], view[2], 0]),
        ArrowRight: () => show([view[0] + 0.2 * view[2], view[1], view[2], 0]), ArrowUp: () => show([view[0], view[1] - 0.2 * view[3], view[2], 0]),
        ArrowDown: () => show([view[0], view[1] + 0.2 * view[3], view[2], 0])}[event.key];
      if (key && !event.ctrlKey && !event.metaKey) { event.preventDefault(); key(); }
    });
    new ResizeObserver(size).observe(svg);
    size();
  }
}

// ---------------------------------------------------------------- begin

readColours();
setControls();
drawTargets();
drawConditions();
drawRelative();
drawCurves();
drawNoise();
drawProfiles();
setTables();
setCharts();
redraw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
// on paper the page is light, with every table open
const closed = [];
window.addEventListener("beforeprint", () => {
  for (const one of all("details:not([open])")) if (!find("pre", one)) { one.open = true; closed.push(one); }
  document.documentElement.classList.add("printing");
  redraw();
});
window.addEventListener("afterprint", () => {
  for (const one of closed.splice(0)) one.open = false;
  document.documentElement.classList.remove("printing");
  redraw();
});
document.documentElement.dataset.ready = "yes";
})();
