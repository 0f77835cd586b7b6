"use strict";
// All text reaches the page as text nodes: nothing in the data is ever parsed as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#4e79a7", "#f28e2b", "#e15759", "#59a14f", "#b07aa1", "#76b7b2", "#edc948", "#ff9da7", "#9c755f", "#b6992d"];
const OTHER = "#8d939c";

function element(name, properties = {}, ...children) {
  const svg = ["svg", "rect", "line", "title"].includes(name);
  const out = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) out.addEventListener(key.slice(2), value);
    else out.setAttribute(key, value);
  }
  out.append(...children.filter((child) => child !== null));
  return out;
}

function section(id, title, ...children) {
  const heading = element("h2", {}, title);
  document.querySelector("main").append(element("section", { id }, heading, ...children));
  document.querySelector("nav").append(element("a", { href: `#${id}` }, title));
}

function number(value) {
  return value.toLocaleString("en");
}

function plural(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}

// A picture in its own shape, fitted into a square; its key where it cannot be read any more.
function frame(index) {
  if (!data.thumbnails[index]) {
    return element("div", { class: "frame empty" }, element("span", { class: "key" }, data.keys[index]));
  }
  const image = element("img", { src: source(index), alt: "", decoding: "async" });
  const [width, height] = fitted(index, 100);
  image.style.width = `${width}%`;
  image.style.height = `${height}%`;
  return element("div", { class: "frame" }, image);
}

function source(index) {
  return `data:image/webp;base64,${data.thumbnails[index]}`;
}

// Width and height of a picture whose longer side is `side`.
function fitted(index, side) {
  const largest = Math.max(...data.sizes[index]);
  return data.sizes[index].map((size) => Math.max(side / 25, (side * size) / largest));
}

// The ends of the keys: their last parts, or the last two where some of those are the same.
const ends = (parts) => data.keys.map((key) => key.split("/").slice(-parts).join("/") || key);
const names = new Set(ends(1)).size < new Set(data.keys).size ? ends(2) : ends(1);

function picture(index, cosine = null) {
  const key = data.keys[index];
  return element(
    "button",
    { class: "picture", type: "button", title: key, "data-picture": index, onclick: () => open_picture(index) },
    frame(index),
    cosine === null ? null : element("span", { class: "cosine" }, cosine.toFixed(3)),
    element("span", { class: "name" }, element("bdi", {}, names[index])),
  );
}

function sheet(indices, cosines = null, small = false) {
  const out = element("div", { class: small ? "sheet small" : "sheet" });
  out.append(...indices.map((index, at) => picture(index, cosines && cosines[at])));
  return out;
}

function open_picture(index) {
  location.hash = `picture-${index}`;
}
