"use strict";

const element = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

const stage = element("stage");
const divider = element("divider");
const layers = [element("left-layer"), element("right-layer")];
const selects = [element("left"), element("right")];
const zoomButtons = [...document.querySelectorAll("[data-zoom]")];
const pane = document.querySelector(".scroll");
const body = document.querySelector("#items tbody");
const inRunOrder = [...body.rows];
const headings = [...document.querySelectorAll("#items thead th")];

let current = null; // row of the item shown
let images = []; // its images, inert in their template
let wanted = []; // labels chosen left and right, kept from item to item
let latest = null; // what was last asked to be on the stage
let size = null; // width and height of the images, in image pixels
let split = 0.5; // the divider's place along the visible part of the image, 0 to 1
let placed = null; // the image's corner in the stage and its scale, in CSS pixels
// Zoom is in screen pixels per image pixel; x and y are the image point in the middle of the stage.
const view = { fit: true, zoom: 1, x: 0, y: 0 };

function fitZoom() {
  const room = Math.min(stage.clientWidth / size.width, stage.clientHeight / size.height);
  const zoom = room * devicePixelRatio;
  return zoom >= 2 ? Math.floor(zoom) : zoom; // an enlarged pixel is as large as its neighbour
}

// Where an image of `extent` CSS pixels starts in `room`: centred, or without a gap at the edges.
function start(room, extent, centre) {
  const free = extent <= room ? (room - extent) / 2 : clamp(room / 2 - centre, room - extent, 0);
  return Math.round(free * devicePixelRatio) / devicePixelRatio;
}

function draw() {
  if (!size) return;
  const [width, height] = [stage.clientWidth, stage.clientHeight];
  if (view.fit) view.zoom = fitZoom();
  const scale = view.zoom / devicePixelRatio;
  const extent = { x: size.width * scale, y: size.height * scale };
  const x = start(width, extent.x, view.x * scale);
  const y = start(height, extent.y, view.y * scale);
  placed = { x, y, scale };
  view.x = (width / 2 - x) / scale;
  view.y = (height / 2 - y) / scale;

  const seen = { left: Math.max(x, 0), right: Math.min(x + extent.x, width) };
  const at = seen.left + split * (seen.right - seen.left);
  for (const image of stage.querySelectorAll("img")) {
    image.style.width = `${extent.x}px`;
    image.style.height = `${extent.y}px`;
    image.style.transform = `translate(${x}px, ${y}px)`;
  }
  layers[0].style.clipPath = `inset(0 ${width - at}px 0 0)`;
  divider.style.left = `${at}px`;
  divider.style.top = `${Math.max(y, 0)}px`;
  divider.style.height = `${Math.min(y + extent.y, height) - Math.max(y, 0)}px`;
  const percent = Math.round(split * 100);
  divider.ariaValueNow = percent;
  divider.ariaValueText = `${percent} % ${selects[0].selectedOptions[0].text}`;

  stage.classList.toggle("pixelated", view.zoom >= 2);
  stage.classList.toggle("pannable", pannable());
  for (const button of zoomButtons) {
    const zoom = button.dataset.zoom;
    button.ariaPressed = zoom === "fit" ? view.fit : !view.fit && view.zoom === Number(zoom);
  }
  const note = element(current.dataset.images).dataset.note;
  element("facts").textContent = `${size.width} × ${size.height} px` + (note && ` – ${note}`);
  element("shown").textContent = `shown at ${Math.round(view.zoom * 100)} %`;
}

function pannable() {
  const [width, height] = [size.width * placed.scale, size.height * placed.scale];
  return width > stage.clientWidth + 0.5 || height > stage.clientHeight + 0.5; // fit rounds
}

function setSplit(value) {
  split = clamp(value, 0, 1);
  draw();
}

// Zooms so that the image point under (x, y) of the stage stays there.
function zoomAt(zoom, x, y) {
  const scale = zoom / devicePixelRatio;
  view.x = (x - placed.x) / placed.scale - (x - stage.clientWidth / 2) / scale;
  view.y = (y - placed.y) / placed.scale - (y - stage.clientHeight / 2) / scale;
  view.zoom = zoom;
  view.fit = false;
  draw();
}

function zoomBy(factor, x, y) {
  const fit = fitZoom();
  const zoom = clamp(view.zoom * factor, Math.min(fit, 1), Math.max(fit, 32));
  if (zoom === view.zoom) return false;
  zoomAt(zoom, x, y);
  if (zoom === fit) {
    view.fit = true;
    draw();
  }
  return true;
}

function setZoom(zoom) {
  if (!size) return;
  if (zoom !== "fit") return zoomAt(Number(zoom), stage.clientWidth / 2, stage.clientHeight / 2);
  view.fit = true;
  draw();
}

// Puts the two chosen images on the stage once both are decoded, so that nothing flickers.
async function compare() {
  const ticket = (latest = {});
  const pair = selects.map((select) => document.importNode(images[select.selectedIndex]));
  await Promise.all(pair.map((image) => image.decode()));
  if (ticket !== latest) return;
  const [{ width, height }] = pair;
  if (!size || size.width !== width || size.height !== height) view.fit = true;
  size = { width, height };
  pair.forEach((image, side) => layers[side].replaceChildren(image));
  divider.hidden = images.length < 2;
  draw();
}

// Scrolls the table's own pane, never the page, and not under the sticky heading or mean.
function reveal(row) {
  const table = element("items");
  const above = row.offsetTop - table.tHead.offsetHeight;
  const below = row.offsetTop + row.offsetHeight + (table.tFoot?.offsetHeight ?? 0) - pane.clientHeight;
  pane.scrollTop = clamp(pane.scrollTop, below, above);
}

function show(row) {
  current?.removeAttribute("aria-current");
  current = row;
  row.setAttribute("aria-current", "true");
  reveal(row);
  const template = element(row.dataset.images);
  images = [...template.content.children];

  const rows = [...body.rows];
  const index = rows.indexOf(row);
  element("position").textContent = `${index + 1} of ${rows.length}`;
  element("name").textContent = row.querySelector(".name").textContent;
  element("previous").disabled = index === 0;
  element("next").disabled = index === rows.length - 1;

  selects.forEach((select, side) => {
    select.replaceChildren(...images.map((image) => new Option(image.alt)));
    const kept = images.findIndex((image) => image.alt === wanted[side]);
    select.selectedIndex = kept >= 0 ? kept : Math.min(side, images.length - 1);
    select.disabled = images.length < 2;
  });
  const empty = images.length === 0;
  element("controls").classList.toggle("idle", empty);
  const message = element("message");
  message.hidden = !empty;
  message.textContent = template.dataset.error || "No images were kept for this item.";
  message.classList.toggle("failed", template.dataset.error !== "");
  if (!empty) return compare();
  latest = size = null;
  layers.forEach((layer) => layer.replaceChildren());
  divider.hidden = true;
  stage.classList.remove("pannable");
  element("facts").textContent = template.dataset.note;
  element("shown").textContent = "";
}

function step(by) {
  const rows = [...body.rows];
  const row = rows[rows.indexOf(current) + by];
  if (row) show(row);
}

// Ascending, descending, then the order of the run again; what has no value stays last.
function sortBy(column) {
  const heading = headings[column];
  const after = { null: "ascending", ascending: "descending", descending: null };
  const next = after[heading.getAttribute("aria-sort")];
  headings.forEach((other) => other.removeAttribute("aria-sort"));
  const sign = next === "descending" ? -1 : 1;
  const key = (row) => row.cells[column]?.dataset.key ?? "";
  const compareRows = (a, b) => {
    const [p, q] = [key(a), key(b)];
    if (p === "" || q === "") return (p === "") - (q === "");
    const difference = p - q;
    return sign * (Number.isNaN(difference) ? p.localeCompare(q, undefined, { numeric: true }) : difference);
  };
  if (next) heading.setAttribute("aria-sort", next);
  body.append(...(next ? [...inRunOrder].sort(compareRows) : inRunOrder));
  if (current) show(current);
}

const pointers = new Map();
let drag = null; // what a single pointer moves: "split", with its distance from the divider, or "pan"
const inStage = (event) => {
  const box = stage.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
};
const moveSplit = (x) => {
  const left = Math.max(placed.x, 0);
  const right = Math.min(placed.x + size.width * placed.scale, stage.clientWidth);
  setSplit((x - left) / (right - left));
};

stage.addEventListener("pointerdown", (event) => {
  if (!size || event.button !== 0) return;
  const at = inStage(event);
  pointers.set(event.pointerId, at);
  stage.setPointerCapture(event.pointerId);
  const taken = event.target === divider;
  // The divider jumps to a mouse. A finger, which may be about to scroll or pinch, pushes it from afar.
  const away = taken || event.pointerType === "touch" ? at.x - parseFloat(divider.style.left) : 0;
  drag = taken || !pannable() ? { split: away } : { pan: true };
  stage.classList.toggle("panning", "pan" in drag);
  if ("split" in drag) moveSplit(at.x - away);
});
stage.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before || !size) return;
  const at = inStage(event);
  pointers.set(event.pointerId, at);
  if (pointers.size === 1) {
    if ("split" in drag) return moveSplit(at.x - drag.split);
  } else {
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
    const distance = (a) => Math.hypot(a.x - other.x, a.y - other.y);
    zoomBy(distance(at) / Math.max(distance(before), 1), (at.x + other.x) / 2, (at.y + other.y) / 2);
  }
  const share = pointers.size; // of two fingers each moves the image by half
  view.x -= (at.x - before.x) / placed.scale / share;
  view.y -= (at.y - before.y) / placed.scale / share;
  draw();
});
for (const type of ["pointerup", "pointercancel"]) {
  stage.addEventListener(type, (event) => {
    pointers.delete(event.pointerId);
    drag = { pan: true }; // a finger left over from a pinch pans
    stage.classList.remove("panning");
  });
}
stage.addEventListener("dragstart", (event) => event.preventDefault());
stage.addEventListener(
  "wheel",
  (event) => {
    if (!size) return;
    const unit = event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? 1 : 32;
    const at = inStage(event);
    const factor = 2 ** ((-event.deltaY * unit) / (event.ctrlKey ? 60 : 240));
    if (zoomBy(factor, at.x, at.y)) event.preventDefault(); // at the limit the page scrolls
  },
  { passive: false },
);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  const far = event.shiftKey ? 0.1 : 0.01;
  const actions = {
    ArrowLeft: () => setSplit(split - far),
    ArrowRight: () => setSplit(split + far),
    ArrowUp: () => step(-1),
    ArrowDown: () => step(1),
    0: () => setZoom("fit"),
  };
  for (const zoom of [1, 2, 4, 8]) actions[zoom] = () => setZoom(zoom);
  if (event.target === divider) Object.assign(actions, { Home: () => setSplit(0), End: () => setSplit(1) });
  if (!Object.hasOwn(actions, event.key)) return;
  event.preventDefault();
  actions[event.key]();
});

zoomButtons.forEach((button) => button.addEventListener("click", () => setZoom(button.dataset.zoom)));
selects.forEach((select, side) =>
  select.addEventListener("change", () => {
    wanted[side] = select.value;
    compare();
  }),
);
headings.forEach((heading, column) => heading.addEventListener("click", () => sortBy(column)));
body.addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (!row) return;
  show(row);
  stage.scrollIntoView({ block: "nearest" }); // on a narrow page it may be out of sight
});
element("previous").addEventListener("click", () => step(-1));
element("next").addEventListener("click", () => step(1));
new ResizeObserver(draw).observe(stage);

if (inRunOrder.length > 0) show(inRunOrder[0]);
