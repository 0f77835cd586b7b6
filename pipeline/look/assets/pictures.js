// The contact sheet, a picture with its neighbours, and duplicates.

const SHOWN = matchMedia("(max-width: 40rem)").matches ? 36 : 96;

function show_pictures() {
  const holder = element("div");
  const status = element("p", { class: "quiet", role: "status" });
  const find = element("input", { type: "search", placeholder: "Find a key or value", "aria-label": "Find a picture by its key or values" });
  const texts = data.keys.map((key, at) => [key, ...data.values[at]].join("\n").toLowerCase());
  const draw = () => {
    const words = find.value.toLowerCase();
    const matches = [];
    for (let at = 0; at < data.sampled; at++) if (texts[at].includes(words)) matches.push(at);
    const count = Math.min(SHOWN, matches.length);
    const spread = Array.from({ length: count }, (_, at) => matches[Math.floor((at * matches.length) / count)]);
    holder.replaceChildren(sheet(spread));
    status.textContent = count < matches.length ? `${number(count)} of ${number(matches.length)}, evenly spread` : plural(count, "picture");
  };
  find.addEventListener("input", draw);
  section("pictures", "Pictures", element("div", { class: "tools" }, find), status, holder);
  draw();
}

const dialog = document.querySelector("dialog");
let shown = -1;

function show_picture(index) {
  shown = index;
  const turn = (step) => open_picture((index + step + data.keys.length) % data.keys.length);
  dialog.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) turn(step);
  };
  const facts = [["Size", data.sizes[index].join(" × ") + " pixels"]];
  data.passed.forEach((name, at) => facts.push([name, data.values[index][at]]));
  const list = element("dl");
  for (const [name, value] of facts) list.append(element("dt", {}, name), element("dd", {}, value));
  const near = data.neighbours[index];
  const among = data.keys.length < data.features ? `among the ${number(data.keys.length)} pictures of this page` : "among all pictures";
  dialog.replaceChildren(
    element(
      "div",
      { class: "head" },
      element("h2", { id: "picture-key" }, data.keys[index]),
      element(
        "div",
        { class: "tools" },
        element("button", { class: "plain", type: "button", "aria-label": "Previous picture", onclick: () => turn(-1) }, "←"),
        element("button", { class: "plain", type: "button", "aria-label": "Next picture", onclick: () => turn(1) }, "→"),
        element("button", { class: "plain", type: "button", "aria-label": "Close", onclick: close_picture }, "✕"),
      ),
    ),
    element("div", { class: "detail" }, frame(index), list),
    element("h3", {}, near.length ? `Nearest by cosine similarity, ${among}` : "There is no other picture to compare with"),
    sheet(near, data.cosines[index], true),
  );
  if (!dialog.open) dialog.showModal();
  dialog.focus(); // the button that had it is gone
  dialog.scrollTop = 0;
}

function close_picture() {
  forget_picture();
  dialog.close();
}

// Takes the picture that was shown last out of the address.
function forget_picture() {
  if (location.hash === `#picture-${shown}`) history.replaceState(null, "", location.pathname + location.search);
}

function follow() {
  const match = /^#picture-(\d+)$/.exec(location.hash);
  if (match && Number(match[1]) < data.keys.length) show_picture(Number(match[1]));
  else if (dialog.open) close_picture();
}

function show_groups(groups, what) {
  const shown = groups.map(([indices, size]) =>
    element("div", { class: "group" }, element("div", {}, `${number(size)} ${what}${size > indices.length ? `, the first ${indices.length}` : ""}`), sheet(indices, null, true)),
  );
  return element("div", { class: "groups" }, ...shown);
}

function show_duplicates() {
  const { exact, near } = data;
  const compared = exact.share < 1 ? ` in a sample of ${percent(exact.share)} of all images` : "";
  const many = (kind) => `${plural(kind.total, "group")}, ${plural(kind.superfluous, "picture")} more than needed`;
  const rest = (kind) => (kind.total > kind.groups.length ? [element("p", { class: "quiet" }, `The largest ${kind.groups.length} groups are shown.`)] : []);
  const among = data.sampled < data.features ? `, among the ${number(data.sampled)} pictures of the sample only` : "";
  section(
    "duplicates",
    "Duplicates",
    element("h3", {}, "Exact: the same bytes"),
    element("p", {}, (exact.total ? many(exact) : "None") + compared + "."),
    ...rest(exact),
    show_groups(exact.groups, "times the same image"),
    element("h3", {}, `Near: connected by cosine similarities of at least ${near.threshold}`),
    element("p", {}, (near.total ? many(near) : "None") + among + "."),
    ...rest(near),
    show_groups(near.groups, "pictures"),
  );
}

// After Escape. The event comes late: another picture may have been asked for.
dialog.addEventListener("close", () => dialog.open || forget_picture());
dialog.addEventListener("click", (event) => event.target === dialog && close_picture());
window.addEventListener("hashchange", follow);
