// Outputs of the baseline and of a quantized checkpoint side by side. Texts arrive as HTML that was escaped when the
// pieces were written; whatever else is shown is set as text.
"use strict";
{
  const form = document.querySelector(".filters");
  const list = document.querySelector(".list");
  const message = document.querySelector(".message");
  const [questionPane, ...outputPanes] = document.querySelectorAll(".pair article");
  const field = (name) => form.elements[name];

  const KEPT = 60; // pieces in memory
  const arriving = new Map();
  const pieces = new Map();

  window.receive = (name, packed) => {
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const text = new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
    arriving.get(name)(text);
    arriving.delete(name);
  };

  function load(name) {
    if (!pieces.has(name)) {
      pieces.set(name, new Promise((resolve, reject) => {
        arriving.set(name, resolve);
        const script = document.createElement("script");
        script.src = `explorer/files/${name.split("/").map(encodeURIComponent).join("/")}.js`;
        script.onload = () => script.remove();
        script.onerror = () => reject(new Error(`${script.getAttribute("src")} is missing: it belongs beside this page.`));
        document.head.append(script);
      }));
      if (pieces.size > KEPT) pieces.delete(pieces.keys().next().value);
    }
    return pieces.get(name);
  }

  const element = (tag, text = "", className = "") => Object.assign(document.createElement(tag), { textContent: text, className });
  const options = (select, entries) => {
    const before = select.value;
    select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
    if (entries.some(([value]) => value === before)) select.value = before;
  };

  const SHOW = {
    lost: ["right before, wrong after", (a, b) => a && !b],
    gained: ["wrong before, right after", (a, b) => !a && b],
    right: ["right in both", (a, b) => a && b],
    wrong: ["wrong in both", (a, b) => !a && !b],
    all: ["all", () => true],
  };

  let cell = null; // { questions, seeds, before, after } of what is chosen; null while it is loaded
  let shown = []; // positions of samples listed: question × seeds + seed
  let chosen = -1;
  let turns = 0; // of what is being loaded: what arrives late is dropped

  async function guarded(work) {
    const mine = ++turns;
    try {
      await work(() => mine === turns);
    } catch (error) {
      if (mine === turns) message.textContent = error.message;
    }
  }

  const choose = (sample) => guarded(async (current) => {
    chosen = sample;
    for (const row of list.children) row.setAttribute("aria-selected", Number(row.dataset.sample) === sample);
    list.setAttribute("aria-activedescendant", sample < 0 ? "" : `sample-${sample}`);
    if (sample < 0) {
      for (const pane of [questionPane, ...outputPanes]) pane.replaceChildren();
      return;
    }
    const sides = [cell.before, cell.after];
    const [index, turn] = [Math.floor(sample / cell.seeds.length), sample % cell.seeds.length];
    const [question, seed] = [cell.questions[index], cell.seeds[turn]];
    const texts = await Promise.all(sides.map(async (side) => {
      const piece = side.starts.findLastIndex((start) => start <= index);
      const content = await load(`outputs/${side.name}/${piece}`);
      return content[index - side.starts[piece]][turn];
    }));
    if (!current()) return;
    showQuestion(question, seed);
    sides.forEach((side, i) => showOutput(outputPanes[i], side, sample, texts[i]));
    markDifference();
    const link = new URLSearchParams({ ...Object.fromEntries(new FormData(form)), question: question.id, seed });
    history.replaceState(null, "", `#outputs?${link}`);
  });

  function showQuestion(question, seed) {
    const facts = [question.id, question.level && `level ${question.level}`, question.subject, `seed ${seed}`];
    const text = element("div", "", "text");
    text.innerHTML = question.text;
    const gold = element("small", "right answer ");
    gold.append(element("span"));
    gold.lastChild.innerHTML = question.gold;
    questionPane.replaceChildren(element("small", facts.filter(Boolean).join(" · ")), text, gold);
  }

  function showOutput(pane, side, sample, html) {
    const right = side.right[sample];
    const notes = [
      side.extracted[sample] === null ? "no answer" : `answer ${side.extracted[sample]}`,
      `${side.output_tokens[sample].toLocaleString("en")} tokens`,
      side.finish_reason[sample] === "length" && "cut off at the limit",
      !["ok", "no_answer"].includes(side.status[sample]) && side.status[sample],
      side.correct[sample] !== side.correct_final[sample] && (side.correct[sample] ? "right only by the study's rule" : "wrong only by the study's rule"),
    ];
    const head = element("header");
    head.append(element("b", side.method), " ", element("span", right ? "✓ right" : "✗ wrong", right ? "right" : "wrong"));
    head.append(element("small", notes.filter(Boolean).join(" · ")));
    const body = element("div");
    body.innerHTML = html;
    pane.replaceChildren(head, body);
    pane.scrollTop = 0;
  }

  // Marks where the two outputs part.
  function markDifference() {
    const walkers = outputPanes.map((pane) => document.createTreeWalker(pane.lastChild, NodeFilter.SHOW_TEXT));
    for (;;) {
      const [a, b] = walkers.map((walker) => walker.nextNode());
      if (a && b && a.data === b.data) continue;
      let at = 0;
      while (a && b && at < a.length && a.data[at] === b.data[at]) at++;
      for (const node of [a, b]) {
        if (!node || at >= node.length || node.parentElement.closest("math")) continue;
        const range = document.createRange();
        range.setStart(node, at);
        range.setEnd(node, at + node.data.slice(at).match(/^\s*\S{0,12}/)[0].length);
        const mark = element("mark");
        mark.title = "the outputs part here";
        range.surroundContents(mark);
      }
      return;
    }
  }

  function fill() {
    const count = cell.before.right.length;
    const level = field("level").value;
    const find = field("find").value.toLowerCase();
    const matching = [];
    for (let sample = 0; sample < count; sample++) {
      const question = cell.questions[Math.floor(sample / cell.seeds.length)];
      if (level && question.level !== level) continue;
      if (find && !`${question.id} ${question.text.replace(/<[^>]*>/g, "")}`.toLowerCase().includes(find)) continue;
      matching.push(sample);
    }
    const of = (name) => matching.filter((sample) => SHOW[name][1](cell.before.right[sample], cell.after.right[sample]));
    options(field("show"), Object.keys(SHOW).map((name) => [name, `${SHOW[name][0]} (${of(name).length.toLocaleString("en")})`]));
    shown = of(field("show").value);
    list.replaceChildren(...shown.map((sample) => {
      const row = element("div");
      row.id = `sample-${sample}`;
      row.dataset.sample = sample;
      row.setAttribute("role", "option");
      row.append(element("span", cell.questions[Math.floor(sample / cell.seeds.length)].id), element("small", `seed ${cell.seeds[sample % cell.seeds.length]}`));
      for (const side of [cell.before, cell.after]) {
        const right = side.right[sample];
        const mark = element("span", right ? "✓" : "✗", right ? "right" : "wrong");
        mark.setAttribute("aria-label", right ? "right" : "wrong");
        row.append(mark);
      }
      return row;
    }));
    list.scrollTop = 0;
    message.textContent = `${shown.length.toLocaleString("en")} of ${count.toLocaleString("en")} answers`;
    return choose(shown[0] ?? -1);
  }

  const refresh = () => guarded(async (current) => {
    const [model, method, suite, benchmark] = ["model", "method", "suite", "benchmark"].map((name) => field(name).value);
    message.textContent = "loading …";
    cell = null;
    const side = async (of) => {
      const name = `${model}/${of}/${suite}/${benchmark}`;
      return { name, method: of, ...(await load(`verdicts/${name}`)) };
    };
    const [questions, before, after] = await Promise.all([load(`questions/${suite}/${benchmark}`), side("none/full"), side(method)]);
    if (!current()) return;
    cell = { questions, before, after, seeds: before.seeds };
    const levels = [...new Set(questions.map((question) => question.level))].sort(new Intl.Collator("en", { numeric: true }).compare);
    options(field("level"), [["", "all"], ...levels.filter(Boolean).map((level) => [level, level])]);
    await fill();
  });

  function methods() {
    options(field("method"), DATA.methods[field("model").value].map((method) => [method, method]));
  }

  function benchmarks() {
    options(field("benchmark"), DATA.benchmarks[field("suite").value].map((benchmark) => [benchmark, benchmark]));
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", ({ target }) => {
    if (target.name === "model") methods();
    if (target.name === "suite") benchmarks();
    if (["model", "method", "suite", "benchmark"].includes(target.name)) refresh();
    else if (cell) fill();
  });
  field("find").addEventListener("input", () => cell && fill());
  list.addEventListener("click", ({ target }) => {
    const row = target.closest("[data-sample]");
    if (row && cell) choose(Number(row.dataset.sample));
  });
  list.addEventListener("keydown", (event) => {
    const last = shown.length - 1;
    const at = shown.indexOf(chosen);
    const to = { ArrowDown: Math.min(at + 1, last), ArrowUp: Math.max(at - 1, 0), Home: 0, End: last }[event.key];
    if (to === undefined || last < 0 || !cell) return;
    event.preventDefault();
    list.children[to].scrollIntoView({ block: "nearest" });
    choose(shown[to]);
  });

  async function start() {
    const link = location.hash.split("?")[1];
    const wanted = new URLSearchParams(link ?? DATA.start);
    const take = (name) => {
      if ([...field(name).options].some((option) => option.value === wanted.get(name))) field(name).value = wanted.get(name);
    };
    options(field("model"), Object.keys(DATA.methods).map((model) => [model, model]));
    take("model");
    methods();
    take("method");
    options(field("suite"), Object.keys(DATA.benchmarks).map((suite) => [suite, suite]));
    take("suite");
    benchmarks();
    take("benchmark");
    options(field("show"), Object.keys(SHOW).map((name) => [name, SHOW[name][0]]));
    take("show");
    await refresh();
    const index = cell?.questions.findIndex((question) => question.id === wanted.get("question")) ?? -1;
    const sample = index * cell?.seeds.length + cell?.seeds.indexOf(Number(wanted.get("seed")));
    if (shown.includes(sample)) await choose(sample);
    if (link) document.getElementById("outputs").scrollIntoView();
  }

  // Nothing is loaded before somebody comes here.
  new IntersectionObserver((entries, observer) => {
    if (entries.some((entry) => entry.isIntersecting)) {
      observer.disconnect();
      start();
    }
  }, { rootMargin: "600px" }).observe(document.getElementById("outputs"));
  if (location.hash.startsWith("#outputs?")) document.getElementById("outputs").scrollIntoView();
}
