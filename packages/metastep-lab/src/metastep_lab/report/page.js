"use strict";
// Draws plots when they come near the window. Without this script, in print, and where a plot fails,
// there are pictures.

const dark = matchMedia("(prefers-color-scheme: dark)");
const touch = matchMedia("(pointer: coarse)");
const opened = [];
let library;

function element(kind, attributes = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// A browser with scripts takes what is inside `noscript` for text.
function showPicture(figure) {
  const hidden = figure.querySelector("noscript");
  if (hidden) hidden.outerHTML = hidden.textContent;
}

async function unpack(script) {
  const bytes = Uint8Array.from(atob(script.textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function load() {
  const code = await unpack(document.getElementById("bokeh"));
  document.head.append(element("script", {}, code));
  Bokeh.set_log_level("warn");
  return Bokeh;
}

// Names of Bokeh's objects count from one in each figure; on a page they must differ.
let figures = 0;
const apart = (json) => json.replace(/("(?:root_)?id":)"p(\d+)"/g, `$1"f${figures}-$2"`);

async function open(figure) {
  const place = figure.querySelector(".plot");
  const json = await unpack(place.querySelector("script"));
  const bokeh = await (library ??= load());
  figures += 1;
  const content = JSON.parse(apart(json));
  const panels = element("div", { class: "panels", style: `--columns: ${content.columns}` });
  const text = { class: "panels-text", role: "img", "aria-label": place.dataset.text };
  const views = [];
  place.append(element("div", text, panels));
  place.hidden = false;
  for (const panel of content.panels) {
    const canvas = element("div");
    panels.append(element("div", {}, element("div", { class: "panel-title" }, panel.title), canvas));
    const [view] = (await bokeh.embed.embed_item(panel.item, canvas)).roots;
    views.push(view);
    const title = content.panels.length > 1 ? panel.title : "";
    if (panel.legend.entries.length) place.append(legend(panel.legend, [view], title));
  }
  if (content.legend.entries.length) place.append(legend(content.legend, views, ""));
  place.append(controls(figure, views));
  const plots = views.map((view) => new Plot(view.model));
  plots.forEach((plot) => plot.paint());
  opened.push(...plots);
  figure.classList.add("live");
}

// One button for each entry: it hides and shows what carries its label.
function legend(content, views, panel) {
  const title = [panel, content.title].filter(Boolean).join(", ");
  const buttons = content.entries.map((entry) => {
    const button = element("button", { type: "button", "aria-pressed": "true" });
    button.append(sample(entry), entry.label);
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", shown);
      for (const view of views)
        for (const renderer of view.model.renderers)
          if (renderer.name === entry.label) renderer.visible = shown;
    });
    return button;
  });
  const name = element("span", { class: "legend-title" }, title);
  const attributes = { class: "legend", role: "group", "aria-label": `Legend ${title}`.trim() };
  return element("div", attributes, ...(title ? [name] : []), ...buttons);
}

// Markers by Bokeh's names, around the middle of a sample.
const MARKERS = {
  circle: "M11.5 6a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z",
  square: "M11.8 2.8h6.4v6.4h-6.4z",
  triangle: "M15 1.8l4 7.4h-8z",
  inverted_triangle: "M15 10.2l4 -7.4h-8z",
  diamond: "M15 1.2l3.2 4.8l-3.2 4.8l-3.2 -4.8z",
  plus: "M13.8 1.8h2.4v3h3v2.4h-3v3h-2.4v-3h-3v-2.4h3z",
  star: "M15 1l1.2 3.4l3.6 .1l-2.9 2.2l1 3.5l-2.9 -2l-2.9 2l1 -3.5l-2.9 -2.2l3.6 -.1z",
  cross: "M15 1.5v9M10.5 6h9",
  x: "M11.5 2.5l7 7M18.5 2.5l-7 7",
  dash: "M11 6h8",
};

function sample(entry) {
  const color = entry.color === "#000000" ? "currentColor" : entry.color;
  const shape = (kind, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const box = shape("svg", { width: 30, height: 12, "aria-hidden": "true" });
  if (entry.dash) {
    const dashes = { "stroke-width": 2.4, "stroke-dasharray": entry.dash.join(" ") };
    box.append(shape("path", { d: "M0 6H30", stroke: color, ...dashes }));
  }
  const outline = MARKERS[entry.marker];
  if (outline) {
    const fill = entry.hollow ? "none" : color;
    box.append(shape("path", { d: outline, stroke: color, "stroke-width": 1.3, fill }));
  }
  if (!box.children.length)
    box.append(shape("rect", { x: 6, y: 1, width: 18, height: 10, fill: color, opacity: 0.6 }));
  return box;
}

function controls(figure, views) {
  const act = (kind) => () => {
    for (const view of views)
      for (const tool of view.model.toolbar.tools) if (tool.type === kind) tool.do.emit();
  };
  const button = (text, action) => {
    const made = element("button", { type: "button" }, text);
    made.addEventListener("click", action);
    return made;
  };
  const how = touch.matches ? "Tap a point to read its values." : "Drag to zoom, point to read values.";
  const picture = button("Show the picture", () => {
    showPicture(figure);
    const still = figure.classList.toggle("still");
    picture.textContent = still ? "Show the plot" : "Show the picture";
  });
  return element(
    "div", { class: "controls" },
    element("span", { class: "how" }, how),
    button("Zoom in", act("ZoomInTool")), button("Zoom out", act("ZoomOutTool")),
    button("Reset", act("ResetTool")), picture,
  );
}

// Between half a decade and two of them Bokeh's logarithmic ticks crowd at the upper end, and its
// labels round what is no power of ten.
function spreadTicks({ ticker, formatter }) {
  const power = (tick) => Math.abs(Math.log10(tick) - Math.round(Math.log10(tick))) < 1e-9;
  const exponents = (ticks) => ticks.map((tick) => Math.round(Math.log10(tick)));
  formatter._exponents = (ticks) => (ticks.every(power) ? exponents(ticks) : null);
  formatter.basic_formatter.doFormat = (ticks) =>
    ticks.map((tick) => String(Number(tick.toPrecision(6))));
  const own = ticker.get_ticks_no_defaults;
  ticker.get_ticks_no_defaults = (low, high, ...rest) => {
    const decades = Math.log10(high / low);
    if (!(decades > 0.5 && decades < 2)) return own.call(ticker, low, high, ...rest);
    const steps = decades > 1 ? [1, 2, 5] : [1, 2, 3, 5, 7];
    const major = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      major.push(...steps.map((step) => Number(`${step}e${power}`)));
    return { major: major.filter((tick) => low <= tick && tick <= high), minor: [] };
  };
}

class Plot {
  constructor(model) {
    this.model = model;
    for (const axis of [...model.below, ...model.left])
      if (axis.ticker.type === "LogTicker") spreadTicks(axis);
    this.black = [];
    for (const { glyph } of model.renderers)
      for (const name of ["line_color", "fill_color", "hatch_color"])
        if (glyph[name]?.value === "#000000") this.black.push([glyph, name]);
    // Dragging would keep a finger from scrolling the page.
    if (touch.matches) model.toolbar.active_drag = null;
  }

  // The colors of the page, light or dark.
  paint() {
    const style = getComputedStyle(document.documentElement);
    const [text, soft, line] = ["--text", "--soft", "--line"].map((name) => style.getPropertyValue(name));
    const { model } = this;
    for (const axis of [...model.below, ...model.left])
      axis.setv({
        axis_label_text_color: text, major_label_text_color: text, axis_line_color: soft,
        major_tick_line_color: soft, minor_tick_line_color: soft,
      });
    for (const grid of model.center) if (grid.type === "Grid") grid.grid_line_color = line;
    for (const [glyph, name] of this.black) glyph[name] = { value: text };
  }
}

dark.addEventListener("change", () => opened.forEach((plot) => plot.paint()));

addEventListener("beforeprint", () => document.querySelectorAll("figure").forEach(showPicture));

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries)
    if (isIntersecting) {
      watcher.unobserve(target);
      open(target).catch((error) => {
        target.querySelector(".plot").hidden = true;
        showPicture(target);
        console.error(error);
      });
    }
}, { rootMargin: "600px" });
for (const place of document.querySelectorAll(".plot")) watcher.observe(place.closest("figure"));
