// Draws the charts when they come into view, and anew when the model, the theme or nothing but the data changes.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");

function theme() {
  const style = getComputedStyle(document.documentElement);
  const [text, soft, line] = ["--text", "--soft", "--line"].map((name) => style.getPropertyValue(name).trim());
  const labels = { labelColor: text, titleColor: soft };
  return {
    ...DATA.config,
    background: null,
    font: style.fontFamily,
    axis: { ...DATA.config.axis, ...labels, gridColor: line, domainColor: line, tickColor: line },
    legend: { ...DATA.config.legend, ...labels },
    header: { ...DATA.config.header, ...labels },
    text: { ...DATA.config.text, color: text },
  };
}

async function draw(figure) {
  const chart = DATA.charts[figure.dataset.chart];
  const model = document.querySelector("input[name=model]:checked").value;
  const spec = chart[model] ?? chart.all;
  if (figure.view) figure.view.finalize();
  figure.replaceChildren();
  if (!spec) {
    figure.textContent = "Nothing to show for this model.";
    return;
  }
  // ast: expressions are interpreted, so that the page's policy can forbid eval.
  const options = { actions: false, renderer: "svg", ast: true, config: theme(), tooltip: { theme: dark.matches ? "dark" : "light" } };
  figure.view = await vegaEmbed(figure, spec, options);
}

const figures = [...document.querySelectorAll("figure[data-chart]")];
const near = new IntersectionObserver(
  (entries) => {
    for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
      near.unobserve(target);
      draw(target);
    }
  },
  { rootMargin: "600px" },
);
const redraw = (which) => which.forEach((figure) => near.observe(figure));
redraw(figures);
dark.addEventListener("change", () => redraw(figures));
document.querySelector(".models").addEventListener("change", () => redraw(figures.filter((figure) => !DATA.charts[figure.dataset.chart].all)));
