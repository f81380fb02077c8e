// Draws the charts, those in view first, and anew when the model or the theme changes.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const NARROW = 600; // pixels
const dark = matchMedia("(prefers-color-scheme: dark)");

function theme(room) {
  const style = getComputedStyle(document.documentElement);
  const [text, soft, line] = ["--text", "--soft", "--line"].map((name) => style.getPropertyValue(name).trim());
  const labels = { labelColor: text, titleColor: soft };
  return {
    ...DATA.config,
    background: null,
    font: style.fontFamily,
    axis: { ...DATA.config.axis, ...labels, gridColor: line },
    legend: { ...DATA.config.legend, ...labels, symbolBaseFillColor: soft, columns: room < NARROW ? 1 : 4 },
    title: { ...DATA.config.title, color: text },
    text: { ...DATA.config.text, color: text },
  };
}

// On a phone: what lies side by side goes below each other, each with its names; what is wide becomes as wide as the room.
function fitted(spec, room, beside) {
  if (!spec || room >= NARROW) return spec;
  if (!spec.hconcat) return { ...spec, width: room - beside };
  const { hconcat, ...rest } = JSON.parse(JSON.stringify(spec).replaceAll('"labels":false', '"labels":true'));
  return { ...rest, vconcat: hconcat };
}

async function draw(figure) {
  const suite = document.querySelector("input[name=suite]:checked").value;
  const chart = DATA.charts[figure.dataset.chart]?.[suite] ?? {};
  const model = document.querySelector("input[name=model]:checked").value;
  const beside = chart.all ? 90 : 190; // pixels that the labels of the vertical axis take: numbers, or names of methods
  const spec = fitted(chart[model] ?? chart.all, figure.clientWidth, beside);
  if (figure.view) figure.view.finalize();
  figure.replaceChildren();
  if (!spec) {
    figure.textContent = "Nothing to show for this model.";
    return;
  }
  // ast: expressions are interpreted, so that the page's policy can forbid eval.
  const tooltip = { theme: dark.matches ? "dark" : "light" };
  const options = { actions: false, renderer: "svg", ast: true, config: theme(figure.clientWidth), tooltip };
  const place = figure.appendChild(document.createElement("div"));
  figure.view = await vegaEmbed(place, spec, options);
}

const figures = [...document.querySelectorAll("figure[data-chart]")];
const waiting = new Set();

function drawNow(figure) {
  waiting.delete(figure);
  near.unobserve(figure);
  return draw(figure);
}

const near = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => drawNow(entry.target)),
  { rootMargin: "600px" },
);

// What is out of view is drawn, too, when there is nothing else to do: a page may be printed.
const whenIdle = window.requestIdleCallback ?? ((callback) => setTimeout(callback, 200));
const drawRest = () =>
  whenIdle(async () => {
    const [figure] = waiting;
    if (!figure) return;
    await drawNow(figure);
    drawRest();
  });

function redraw(which) {
  for (const figure of which) {
    waiting.add(figure);
    near.observe(figure);
  }
  drawRest();
}

redraw(figures);
dark.addEventListener("change", () => redraw(figures));
const ofModel = figures.filter((figure) => !figure.closest("#size"));
document.querySelector(".suites").addEventListener("change", () => redraw(figures));
document.querySelector(".of-model").addEventListener("change", () => redraw(ofModel));
