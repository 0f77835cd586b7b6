// What ran, what failed, and figures of the vectors.

document.querySelector("h1").append(document.title);
document.querySelector(".lead").append(
  `${plural(data.features, "picture")}` + (data.sampled < data.features ? `, of which ${number(data.sampled)}, evenly spread, are shown` : ""),
);
data.notes.forEach((note) => {
  const warning = note.startsWith("The weights are untrained");
  document.querySelector("main").append(element("p", { class: warning ? "note warning" : "note", ...(warning && { role: "alert" }) }, note));
});

function show_run() {
  const list = element("dl");
  for (const [name, value] of data.facts) list.append(element("dt", {}, name), element("dd", {}, value));
  section("run", "What ran", list);
}

function show_failures() {
  if (!data.failures.length) return section("failures", "Failures", element("p", {}, "None."));
  const rows = data.failures.map((failure) => {
    const examples = failure.examples.map(([key, message]) =>
      element("li", {}, element("span", { class: "key" }, key), element("div", { class: "quiet" }, message)),
    );
    return element(
      "tr",
      {},
      element("td", {}, element("code", {}, failure.code)),
      element("td", { class: "number" }, number(failure.count)),
      element("td", {}, failure.meaning, element("div", {}, element("strong", {}, "→ "), failure.remedy)),
      element("td", {}, element("ul", { class: "examples" }, ...examples)),
    );
  });
  const head = element("tr", {}, ...["Code", "Count", "Meaning, and what to do", "Examples"].map((name) => element("th", {}, name)));
  const table = element("table", { class: "failures" }, element("thead", {}, head), element("tbody", {}, ...rows));
  section("failures", "Failures", element("div", { class: "table" }, table));
}

function histogram({ edges, counts }) {
  const width = 640, height = 170, base = 140, most = Math.max(...counts);
  const step = width / counts.length;
  const bars = counts.map((count, at) => {
    const tall = count ? Math.max(1, (count / most) * (base - 18)) : 0;
    const label = `${edges[at]} to ${edges[at + 1]}: ${plural(count, "vector")}`;
    return element("rect", { x: at * step + 0.5, y: base - tall, width: Math.max(1, step - 1), height: tall }, element("title", {}, label));
  });
  const low = element("text", { x: 0, y: base + 18 }, String(edges[0]));
  const high = element("text", { x: width, y: base + 18, "text-anchor": "end" }, String(edges[edges.length - 1]));
  const middle = element("text", { x: width / 2, y: base + 18, "text-anchor": "middle" }, "L2 norm");
  const top = element("text", { x: 0, y: 12 }, `${plural(most, "vector")} in the tallest bar`);
  const axis = element("line", { x1: 0, x2: width, y1: base, y2: base });
  const label = `Histogram of the norms, from ${edges[0]} to ${edges[edges.length - 1]}`;
  return element("svg", { class: "histogram", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, ...bars, axis, low, middle, high, top);
}

function listed({ count, first }) {
  if (!count) return "none";
  return `${number(count)}: ${first.join(", ")}${count > first.length ? ", …" : ""}`;
}

function show_vectors() {
  const { count, dead, saturated, zeros } = data.dimensions;
  const of = data.norms.of < data.features ? `, of ${number(data.norms.of)} evenly spread ones` : "";
  section(
    "vectors",
    "Vectors",
    element("p", {}, `Norms of ${plural(data.features, "vector")} of ${number(count)} dimensions${of}. The vectors are not normalized.`),
    histogram(data.norms),
    element(
      "dl",
      {},
      element("dt", {}, "Dead dimensions"),
      element("dd", {}, listed(dead), element("div", { class: "quiet" }, "0 in every vector")),
      element("dt", {}, "Saturated dimensions"),
      element("dd", {}, listed(saturated), element("div", { class: "quiet" }, "not 0, but their standard deviation is below 1 % of their mean: nearly the same in every vector")),
      element("dt", {}, "Zeros"),
      element("dd", {}, `${percent(zeros)} of all values`),
    ),
  );
}
