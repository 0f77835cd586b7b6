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
  const width = 640, base = 140, most = Math.max(...counts);
  const step = width / counts.length;
  const bars = counts.map((count, at) => {
    const tall = count ? Math.max(1, (count / most) * base) : 0;
    const label = `${edges[at]} to ${edges[at + 1]}: ${plural(count, "vector")}`;
    return element("rect", { x: at * step + 0.5, y: base - tall, width: Math.max(1, step - 1), height: tall }, element("title", {}, label));
  });
  const axis = element("line", { x1: 0, x2: width, y1: base, y2: base });
  const ends = [edges[0], edges[edges.length - 1]].map(String);
  const label = `Histogram of the norms, from ${ends[0]} to ${ends[1]}, with ${plural(most, "vector")} in the tallest bar`;
  return element(
    "figure",
    {},
    element("div", { class: "quiet" }, `${plural(most, "vector")} in the tallest bar`),
    element("svg", { viewBox: `0 0 ${width} ${base + 1}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, ...bars, axis),
    element("div", { class: "axis quiet" }, element("span", {}, ends[0]), element("span", {}, "L2 norm"), element("span", {}, ends[1])),
  );
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
