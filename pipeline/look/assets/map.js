// The map of vectors: a canvas with the picture under the pointer.

const MOST_TILES = 100;
const TILE = 44; // pixels

function image_of(index) {
  if (!data.thumbnails[index]) return null;
  const out = new Image();
  out.src = source(index);
  return out;
}

function show_map() {
  const { points, steps, method } = data.map;
  const label = data.label;
  const canvas = element("canvas", { tabindex: 0, role: "img", "aria-describedby": "map-help" });
  const tip = element("div", { class: "tip", hidden: "" });
  // A few pictures are shown themselves, many as dots.
  const tiles = points.length > MOST_TILES ? [] : points.map((_, index) => image_of(index));
  const view = { zoom: 1, x: 0.5, y: 0.5 }; // what is in the middle
  let chosen = -1, only = null, drag = null;

  const colour = (index) => (label.of[index] < 0 ? OTHER : COLOURS[label.of[index]]);
  const at = (index) => {
    const side = Math.min(canvas.clientWidth, canvas.clientHeight) - 40;
    const place = (value, middle, size) => (value / steps - middle) * side * view.zoom + size / 2;
    return [place(points[index][0], view.x, canvas.clientWidth), place(points[index][1], view.y, canvas.clientHeight)];
  };

  function draw() {
    const scale = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const radius = points.length > 1000 ? 2.5 : points.length > 100 ? 4 : 6;
    points.forEach((_, index) => {
      const [x, y] = at(index);
      pen.globalAlpha = only === null || label.of[index] === only ? 0.85 : 0.12;
      pen.fillStyle = colour(index);
      if (tiles[index] && tiles[index].complete) {
        const [width, height] = fitted(index, TILE);
        pen.fillRect(x - width / 2 - 2, y - height / 2 - 2, width + 4, height + 4);
        pen.drawImage(tiles[index], x - width / 2, y - height / 2, width, height);
        return;
      }
      pen.beginPath();
      pen.arc(x, y, radius, 0, 7);
      pen.fill();
    });
    pen.globalAlpha = 1;
    tip.hidden = chosen < 0;
    if (chosen < 0) return;
    const [x, y] = at(chosen);
    pen.strokeStyle = getComputedStyle(canvas).color;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(x, y, tiles[chosen] ? TILE * 0.72 : radius + 4, 0, 7);
    pen.stroke();
    const gap = tiles[chosen] ? 38 : 14;
    const left = x + gap + tip.offsetWidth > canvas.clientWidth ? x - gap - tip.offsetWidth : x + gap;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${Math.max(0, Math.min(y - 20, canvas.clientHeight - tip.offsetHeight))}px`;
  }

  function choose(index) {
    if (index === chosen) return;
    chosen = index;
    if (index >= 0) {
      const value = label.feature && data.passed.includes(label.feature) ? data.values[index][data.passed.indexOf(label.feature)] : null;
      tip.hidden = false;
      tip.replaceChildren(frame(index), element("div", { class: "key" }, data.keys[index]), ...(value === null ? [] : [element("div", {}, value)]));
    }
    draw();
  }

  function nearest(x, y, within, cost = (dx, dy) => dx * dx + dy * dy) {
    let best = -1, least = within * within;
    points.forEach((_, index) => {
      const [px, py] = at(index);
      const far = only === null || label.of[index] === only ? cost(px - x, py - y) : Infinity;
      if (far < least) [best, least] = [index, far];
    });
    return best;
  }

  function zoom(factor) {
    view.zoom = Math.min(40, Math.max(1, view.zoom * factor));
    if (chosen >= 0) [view.x, view.y] = points[chosen].map((value) => value / steps);
    if (view.zoom === 1) [view.x, view.y] = [0.5, 0.5];
    draw();
  }

  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.offsetX, y: event.offsetY, moved: false };
    if (event.pointerType === "mouse") canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag && event.pointerType === "mouse") {
      const side = (Math.min(canvas.clientWidth, canvas.clientHeight) - 40) * view.zoom;
      const [dx, dy] = [event.offsetX - drag.x, event.offsetY - drag.y];
      if (drag.moved || Math.hypot(dx, dy) > 4) {
        view.x -= dx / side;
        view.y -= dy / side;
        drag = { x: event.offsetX, y: event.offsetY, moved: true };
        draw();
      }
    } else choose(nearest(event.offsetX, event.offsetY, 24));
  });
  canvas.addEventListener("pointerup", (event) => {
    const moved = drag && drag.moved;
    drag = null;
    if (moved) return;
    const index = nearest(event.offsetX, event.offsetY, 24);
    // A finger has no hovering: its first tap shows the picture, its second one opens it.
    if (index >= 0 && (event.pointerType === "mouse" || index === chosen)) open_picture(index);
    else choose(index);
  });
  canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && choose(-1));
  canvas.addEventListener("pointercancel", () => (drag = null));
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way) {
      const [x, y] = chosen < 0 ? [canvas.clientWidth / 2, canvas.clientHeight / 2] : at(chosen);
      const ahead = (dx, dy) => {
        const along = dx * way[0] + dy * way[1], across = dx * way[1] - dy * way[0];
        return along > 0.01 ? along * along + 4 * across * across : Infinity;
      };
      const next = chosen < 0 ? nearest(x, y, 1e6) : nearest(x, y, 1e6, ahead);
      if (next >= 0) choose(next);
    } else if (event.key === "Enter" && chosen >= 0) open_picture(chosen);
    else if (event.key === "+" || event.key === "=") zoom(1.6);
    else if (event.key === "-") zoom(1 / 1.6);
    else if (event.key === "Escape") choose(-1);
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("blur", () => choose(-1));
  Promise.allSettled(tiles.map((tile) => tile && tile.decode())).then(() => {
    draw();
    canvas.dataset.ready = "";
  });
  new ResizeObserver(draw).observe(canvas);

  const legend = element("ul", { class: "legend" });
  const entry = (name, count, group) => {
    const dot = element("span", { class: "dot" });
    dot.style.background = group < 0 ? OTHER : COLOURS[group];
    const press = () => {
      only = only === group ? null : group;
      legend.querySelectorAll("button").forEach((other) => other.setAttribute("aria-pressed", String(other === button && only !== null)));
      draw();
    };
    const button = element("button", { class: "plain", type: "button", "aria-pressed": "false", onclick: press }, dot, element("span", { class: "name" }, name), element("span", { class: "quiet" }, number(count)));
    legend.append(element("li", {}, button));
  };
  label.names.forEach((name, group) => entry(name, label.counts[group], group));
  const rest = label.of.filter((group) => group < 0).length;
  if (label.feature && rest) entry(label.others ? `${label.others} others` : "none", rest, -1);

  const button = (name, text, action) => element("button", { class: "plain", type: "button", "aria-label": name, onclick: action }, text);
  section(
    "map",
    "Map",
    element("p", {}, `${plural(points.length, "vector")}, normalized; ${method}. ` + (label.feature ? `Colours: ${label.feature}.` : "Neither a passed-through feature nor the folders sort the pictures into groups, so there are no colours.")),
    legend,
    element("div", { class: "map" }, canvas, tip),
    element("div", { class: "tools" }, button("Zoom in", "+", () => zoom(1.6)), button("Zoom out", "−", () => zoom(1 / 1.6)), button("Show all", "Show all", () => zoom(0))),
    element("p", { class: "quiet", id: "map-help" }, "Point at a picture, click it for its neighbours. With the keyboard: arrows to move, Enter to open, + and − to zoom."),
  );
  canvas.setAttribute("aria-label", `Map of ${plural(points.length, "vector")}`);
}

show_run();
show_failures();
show_pictures();
show_map();
show_vectors();
show_duplicates();
follow();
