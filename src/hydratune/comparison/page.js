"use strict";
const $ = id => document.getElementById(id);
const unpack = async id => {
  const bytes = Uint8Array.from(atob($(id).textContent), c => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};
const colour = name => {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
};
const option = (value, text) => Object.assign(document.createElement("option"), { value, textContent: text });
const short = key => data.short[key] ?? key;
const number = value => typeof value === "number" && Number.isFinite(value);
const shown = value => (value === null || value === undefined ? "-" : number(value) ? String(+value.toPrecision(5)) : String(value));

let data, kept; // kept: the indices of the runs that the selections and the filter keep
const label = run => `${run.name}${run.place ? ` (#${run.place})` : ""}`;
const describe = run => `${label(run)}: ${data.settings.map(key => `${short(key)}=${run.cells[key]}`).join(", ")}`;
const valueOf = (run, key) => (key === data.objective.key ? run.objective : key in run.settings ? run.settings[key] : run.measured[key]);

function layout(more) {
  const axis = { exponentformat: "power", gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("--ink"), family: "system-ui, sans-serif", size: 13 },
    margin: { l: 60, r: 20, t: 20, b: 50 }, showlegend: false, hovermode: "closest", ...more,
    xaxis: { ...axis, ...(more.xaxis || {}) }, yaxis: { ...axis, ...(more.yaxis || {}) },
  };
}
const options = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
const draw = (id, traces, more, bar = true) => Plotly.react($(id), traces, layout(more), { ...options, ...(bar ? {} : { displayModeBar: false }) });

// ------------------------------------------------------------------------------------------------------------- the table
function sortTable(heading) {
  const column = [...heading.parentNode.children].indexOf(heading), body = $("runs").tBodies[0];
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = row => {
    const cell = row.children[column], text = cell.dataset.value ?? cell.textContent.trim();
    const value = text === "" || text === "-" ? NaN : Number(text);
    return Number.isNaN(value) ? (text === "" || text === "-" ? null : text) : value;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
  const rows = [...body.rows].map(row => [key(row), row]);
  rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : down ? compare(b, a) : compare(a, b)));
  body.append(...rows.map(([, row]) => row));
}

function refresh() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean), brushed = brushes();
  kept = new Set();
  for (const row of $("runs").tBodies[0].rows) {
    const index = Number(row.dataset.run), run = data.runs[index];
    const text = row.textContent.toLowerCase(), exact = data.settings.flatMap(key => [short(key), key].map(name => `${name}=${run.cells[key]}`.toLowerCase()));
    const stays = words.every(word => (word.includes("=") ? exact.some(one => one === word || one.endsWith(`.${word}`)) : text.includes(word))) && brushed.every(test => test(run));
    row.hidden = !stays;
    if (stays) kept.add(index);
  }
  $("count").textContent = `${kept.size} of ${data.runs.length} runs`;
  if (seen.has("curves")) curves();
}

// ---------------------------------------------------------------------------------------------------- parallel coordinates
let dimensions = [];
function dimension(key, title) {
  const values = data.runs.filter(run => number(run.objective)).map(run => valueOf(run, key)), known = values.filter(v => v !== null && v !== undefined);
  if (known.length === values.length && known.every(number)) {
    const low = Math.min(...known), high = Math.max(...known), different = [...new Set(known)].sort((a, b) => a - b);
    const log = low > 0 && high / low >= 10, place = log ? Math.log10 : v => v;
    const ticks = different.length <= 8 ? { tickvals: different.map(place), ticktext: different.map(shown) }
      : log ? { tickvals: [0, 1, 2, 3, 4].map(i => place(low) + i * (place(high) - place(low)) / 4) } : {};
    if (log && !ticks.ticktext) ticks.ticktext = ticks.tickvals.map(v => (10 ** v).toPrecision(2));
    return { key, title, place: run => { const v = valueOf(run, key); return number(v) ? place(v) : null; }, ...ticks };
  }
  const text = run => run.cells[key] ?? shown(valueOf(run, key));
  const names = [...new Set(data.runs.map(text))];
  return { key, title, place: run => names.indexOf(text(run)), tickvals: names.map((_, i) => i), ticktext: names };
}

function parallel() {
  const finished = data.runs.filter(run => number(run.objective));
  const main = data.metrics.filter(m => finished.every(run => number(valueOf(run, m.key)))).slice(0, 1).map(m => [m.key, m.title]);
  const wanted = [...data.settings.map(key => [key, short(key)]), ...main, [data.objective.key, data.objective.title]];
  dimensions = wanted.slice(-14).map(([key, title]) => dimension(key, title));
  const runs = finished;
  if (runs.length < 2) { $("parallel").hidden = true; return; }
  const before = $("parallel-plot").data?.[0]?.dimensions ?? [];
  const trace = {
    type: "parcoords", line: { color: runs.map(run => (data.objective.lower ? -1 : 1) * run.objective), colorscale: "Viridis" },
    labelfont: { color: colour("--ink") }, tickfont: { color: colour("--ink") }, rangefont: { color: "rgba(0,0,0,0)" },
    dimensions: dimensions.map((d, i) => ({
      label: d.title, values: runs.map(d.place), ...(d.tickvals ? { tickvals: d.tickvals, ticktext: d.ticktext } : {}),
      ...(before[i]?.constraintrange ? { constraintrange: before[i].constraintrange } : {}),
    })),
  };
  draw("parallel-plot", [trace], { margin: { l: 60, r: 60, t: 50, b: 30 } }, false);
  if (!$("parallel-plot").dataset.wired) {
    $("parallel-plot").dataset.wired = "yes";
    $("parallel-plot").on("plotly_restyle", refresh);
  }
}

function brushes() {
  const now = $("parallel-plot").data?.[0]?.dimensions ?? [];
  return dimensions.flatMap((d, i) => {
    const range = now[i]?.constraintrange;
    if (!range || !range.length) return [];
    const parts = Array.isArray(range[0]) ? range : [range];
    return [run => { const v = d.place(run); return v !== null && parts.some(([a, b]) => v >= a && v <= b); }];
  });
}

// --------------------------------------------------------------------------------------------------------- curves, scatters
function curves() {
  const kind = $("curve-kind").value, many = kept.size > 12;
  const traces = data.runs.flatMap((run, i) => {
    const points = run.curve[kind];
    if (!kept.has(i) || !points.length) return [];
    return [{
      x: points.map(p => p[0]), y: points.map(p => p[1]), name: label(run), mode: points.length > 1 ? "lines" : "markers", type: "scatter",
      opacity: run.best || !many ? 1 : 0.45, line: run.best ? { color: colour("--best"), width: 3.5 } : { width: many ? 1 : 1.8 },
      text: describe(run), hovertemplate: "%{text}<br>step %{x}: %{y:.4f}<extra></extra>",
    }];
  });
  $("curve-note").textContent = traces.length ? "" : kept.size ? `None of these runs logged a ${kind === "val" ? "validation" : "training"} loss.` : "The filter and the selections exclude every run.";
  $("curve-plot").hidden = !traces.length;
  traces.sort((a, b) => (a.line.width ?? 0) - (b.line.width ?? 0)); // the best on top
  draw("curve-plot", traces, { xaxis: { title: { text: "optimizer step" } }, yaxis: { title: { text: `${kind === "val" ? "validation" : "training"} loss` }, type: $("curve-log").checked ? "log" : "linear" } });
}

function cloud(id, x, y, more = []) {
  const runs = data.runs.filter(run => number(run.objective) && valueOf(run, x) !== null && valueOf(run, x) !== undefined && number(valueOf(run, y)));
  const xs = runs.map(run => valueOf(run, x)), numbers = xs.every(number), low = Math.min(...xs), high = Math.max(...xs);
  const bars = runs.map(run => run.intervals[y]), ys = runs.map(run => valueOf(run, y));
  const titleOf = key => data.metrics.find(m => m.key === key)?.title ?? (key === data.objective.key ? data.objective.title : key);
  const trace = {
    x: numbers ? xs : runs.map(run => run.cells[x] ?? shown(valueOf(run, x))), y: ys, mode: "markers", type: "scatter", text: runs.map(describe), hovertemplate: "%{text}<br>%{x}; %{y}<extra></extra>",
    marker: { size: 9, color: runs.map(run => (run.best ? colour("--best") : colour("--accent"))), opacity: 0.85 },
    ...(bars.some(Boolean) && runs.length <= 60 ? { error_y: { type: "data", symmetric: false, thickness: 1, color: colour("--soft"),
      array: bars.map((b, i) => (b ? b[1] - ys[i] : 0)), arrayminus: bars.map((b, i) => (b ? ys[i] - b[0] : 0)) } } : {}),
  };
  const log = numbers && x in (data.runs[0]?.settings ?? {}) && low > 0 && high / low >= 10;
  draw(id, [...more, trace], { xaxis: { title: { text: titleOf(x) }, type: log ? "log" : numbers ? "linear" : "category" }, yaxis: { title: { text: titleOf(y) } } });
}

function front() {
  const x = $("front-x").value, y = $("front-y").value;
  const lower = key => (key === data.objective.key ? data.objective.lower : data.metrics.find(m => m.key === key)?.lower ?? true);
  const points = data.runs.filter(run => number(run.objective) && number(valueOf(run, x)) && number(valueOf(run, y)))
    .map(run => ({ run, a: (lower(x) ? 1 : -1) * valueOf(run, x), b: (lower(y) ? 1 : -1) * valueOf(run, y) })).sort((p, q) => p.a - q.a || p.b - q.b);
  const unbeaten = [];
  for (const point of points) if (!unbeaten.length || point.b < unbeaten.at(-1).b) unbeaten.push(point);
  const line = { x: unbeaten.map(p => valueOf(p.run, x)), y: unbeaten.map(p => valueOf(p.run, y)), mode: "lines", type: "scatter", hoverinfo: "skip",
    line: { shape: "linear", color: colour("--soft"), dash: "dot" } };
  cloud("front-plot", x, y, x === y ? [] : [line]);
  $("front-note").textContent = unbeaten.length ? `Pareto front: ${unbeaten.slice(0, 12).map(p => label(p.run)).join(", ")}.` : "";
}

// -------------------------------------------------------------------------------------------------- two runs, and their answers
function difference() {
  const [a, b] = ["diff-a", "diff-b"].map(id => data.runs[Number($(id).value)]), body = $("diff-table").tBodies[0];
  body.replaceChildren();
  const add = (name, first, second) => {
    if (shown(first) === shown(second)) return;
    const row = body.insertRow();
    for (const text of [name, shown(first), shown(second)]) row.insertCell().textContent = text;
  };
  for (const key of data.settings) add(key, a.settings[key], b.settings[key]);
  add(data.objective.title, a.objective, b.objective);
  for (const metric of data.metrics) add(metric.title, a.measured[metric.key], b.measured[metric.key]);
  add("state", a.state, b.state);
  if (!body.rows.length) body.insertRow().insertCell().textContent = "nothing that varies in this comparison";
}

function words(text) { return text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? []; }
function marked(text, reference) { // the words of text that reference does not contain are marked
  const a = words(reference).slice(0, 600), b = words(text).slice(0, 600), rest = words(text).slice(600).join("");
  const table = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--)
    table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
  const pre = document.createElement("pre");
  const add = (kind, word) => {
    if (pre.lastChild?.nodeName.toLowerCase() === kind) pre.lastChild.textContent += word;
    else pre.append(kind === "#text" ? document.createTextNode(word) : Object.assign(document.createElement(kind), { textContent: word }));
  };
  let i = 0, j = 0;
  while (j < b.length) {
    if (i < a.length && a[i] === b[j]) { add("#text", b[j]); i++; j++; }
    else if (i < a.length && table[i + 1][j] >= table[i][j + 1]) i++;
    else { add("ins", b[j]); j++; }
  }
  pre.append(rest);
  return pre;
}

const chosen = () => [...$("answer-runs").querySelectorAll("input:checked")].map(box => Number(box.value));
function rowsToShow() {
  const columns = chosen(), select = $("answer-row"), before = select.value;
  const rows = data.rows.map((row, i) => i).filter(i => !$("answer-differ").checked || new Set(columns.map(c => data.rows[i].answers[c])).size > 1);
  select.replaceChildren(...rows.map(i => option(i, `${i + 1}: ${data.rows[i].id}`)));
  if (before !== "" && rows.includes(Number(before))) select.value = before;
  $("answer-note").textContent = `${rows.length} of ${data.rows.length} rows${data.omitted_rows ? ` (${data.omitted_rows} more are in predictions.jsonl)` : ""}; words that the reference does not contain are marked.`;
  answers();
}
function answers() {
  const row = data.rows[Number($("answer-row").value)], view = $("answer-view");
  view.replaceChildren();
  if (!row || $("answer-row").value === "") return;
  const card = (title, content) => {
    const box = Object.assign(document.createElement("div"), { className: "card" });
    box.append(Object.assign(document.createElement("h3"), { textContent: title }), content);
    return box;
  };
  const plain = text => Object.assign(document.createElement("pre"), { textContent: text });
  const cards = Object.assign(document.createElement("div"), { className: "cards" });
  cards.append(card("request", plain(row.request)), card("reference", plain(row.reference)));
  for (const column of chosen()) {
    const answer = row.answers[column];
    cards.append(card(describe(data.runs[data.answering[column]]), answer === null ? plain("(no answer)") : marked(answer, row.reference)));
  }
  view.append(cards);
}

// ------------------------------------------------------------------------------------------------------------------- all of it
// A plot is drawn when it becomes visible, or when the page is printed.
const pictures = { effects: settings, parallel: parallel, curves: curves, scatter: front };
const seen = new Set();
function settings() { if ($("setting-x")) cloud("setting-plot", $("setting-x").value, $("setting-y").value); }
function everything() { for (const id of seen) pictures[id](); }
function watch() {
  const watcher = new IntersectionObserver(entries => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      seen.add(target.id);
      pictures[target.id]();
    }
  }, { rootMargin: "300px" });
  for (const id of Object.keys(pictures)) watcher.observe($(id));
  addEventListener("beforeprint", () => { for (const id of Object.keys(pictures)) if (!seen.has(id)) { seen.add(id); pictures[id](); } });
}

async function main() {
  data = JSON.parse(await unpack("data"));
  const script = document.createElement("script");
  script.textContent = await unpack("plotly");
  document.head.append(script);
  kept = new Set(data.runs.keys());
  const metrics = [[data.objective.key, data.objective.title], ...data.metrics.map(m => [m.key, m.title])];
  if ($("setting-x")) {
    $("setting-x").append(...data.settings.map(key => option(key, key)));
    $("setting-y").append(...metrics.map(([key, title]) => option(key, title)));
    for (const id of ["setting-x", "setting-y"]) $(id).onchange = settings;
  }
  for (const id of ["front-x", "front-y"]) { $(id).append(...metrics.map(([key, title]) => option(key, title))); $(id).onchange = front; }
  $("front-x").value = data.fronts[0]?.x ?? metrics.at(-1)[0];
  $("front-y").value = data.fronts[0]?.y ?? data.objective.key;
  for (const id of ["diff-a", "diff-b"]) { $(id).append(...data.runs.map((run, i) => option(i, describe(run)))); $(id).onchange = difference; }
  if (data.runs.length > 1) $("diff-b").value = 1;
  data.answering.forEach((index, column) => {
    const box = Object.assign(document.createElement("input"), { type: "checkbox", value: column, checked: column < 3, onchange: rowsToShow });
    const tag = document.createElement("label");
    tag.append(box, ` ${label(data.runs[index])}`);
    $("answer-runs").append(tag);
  });
  if (!data.rows.length) $("answers").hidden = true;
  for (const heading of $("runs").tHead.rows[0].cells) heading.onclick = () => sortTable(heading);
  $("filter").oninput = refresh;
  $("curve-kind").onchange = $("curve-log").onchange = curves;
  $("answer-differ").onchange = rowsToShow;
  $("answer-row").onchange = answers;
  $("answer-next").onclick = () => { const s = $("answer-row"); s.selectedIndex = (s.selectedIndex + 1) % s.options.length; answers(); };
  $("unbrush").onclick = () => { Plotly.restyle($("parallel-plot"), Object.fromEntries(dimensions.map((_, i) => [`dimensions[${i}].constraintrange`, null]))); };
  watch(); difference(); rowsToShow();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", everything);
  document.documentElement.dataset.ready = Math.round(performance.now());
}
main().catch(error => {
  const note = Object.assign(document.createElement("p"), { className: "note", textContent: `The pictures cannot be drawn in this browser (${error.message}); a browser of 2023 or later is needed.` });
  document.body.prepend(note);
});
