const tip = document.getElementById("tip");
const ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+-";
const pictures = [...document.querySelectorAll("svg.cells")];
const CHARACTER = 6.2;

function put(element, values) {
  for (const [name, value] of Object.entries(values)) element.setAttribute(name, value);
}

/* Where everything stands. turn: layers run "down", "up" or "right". Aligned pictures share the sizes that make lines meet. */
const labels = (svg, kind) => [...svg.querySelectorAll("text." + kind)];
const room = (texts) => 8 + CHARACTER * Math.max(0, ...texts.map((text) => text.textContent.length));
const turned = (svg, turn) => turn === "right" && svg.dataset.turns === "1";

function margin(svg, turn, wide) {
  const [side, below] = turned(svg, turn) ? ["column", "row"] : ["row", "column"];
  const slanted = room(labels(svg, below)) > wide + 6;
  return Math.max(room(labels(svg, side)), slanted ? 0.5 * room(labels(svg, below)) - wide / 2 : 0);
}

function layOut(svg, turn) {
  const group = svg.closest(".aligned");
  const together = group ? [...group.querySelectorAll("svg.cells")] : [svg];
  const flat = turned(svg, turn), up = turn === "up" && svg.dataset.turns === "1";
  const common = flat || (group && group.classList.contains("stacked"));
  const wide = common ? Math.max(...together.map((other) => +other.dataset.wide)) : +svg.dataset.wide;
  const high = Math.max(...together.map((other) => +other.dataset.high));
  const rows = labels(svg, "row"), columns = labels(svg, "column"), above = labels(svg, "above");
  const [side, below] = flat ? [columns, rows] : [rows, columns];
  const slanted = room(below) > wide + 6;
  const left = common ? Math.max(...together.map((other) => margin(other, turn, wide))) : margin(svg, turn, wide);
  const top = !flat && together.some((other) => labels(other, "above").length) ? 18 : 6;
  const across = wide * (flat ? rows.length : columns.length);
  const down = high * (flat ? columns.length : rows.length);
  const place = (r, c) => (flat ? [r, c] : [c, up ? rows.length - 1 - r : r]);
  put(svg, {
    width: left + across + (flat && above.length ? room(above) : 10),
    height: top + down + (slanted ? 8 + 0.87 * room(below) : 18),
  });
  for (const cell of svg.querySelectorAll("g[data-tip]")) {
    const [x, y] = place(+cell.dataset.r, +cell.dataset.c);
    put(cell, { transform: `translate(${left + x * wide} ${top + y * high})` });
    put(cell.firstChild, { width: wide - 0.5, height: high - 0.5 });
    if (cell.children[1]) put(cell.children[1], { x: wide / 2, y: high - 4, "text-anchor": "middle" });
  }
  for (const [texts, kind] of [[side, "side"], [below, "below"]]) {
    for (const text of texts) {
      const [x, y] = place(+(text.dataset.r || 0), +(text.dataset.c || 0));
      if (kind === "side") {
        put(text, { x: left - 4, y: top + (y + 0.5) * high + 3.5, "text-anchor": "end", transform: "" });
      } else {
        const at = left + (x + 0.5) * wide, under = top + down + 12;
        put(text, slanted
          ? { x: at + 3, y: under, "text-anchor": "end", transform: `rotate(-60 ${at + 3} ${under})` }
          : { x: at, y: under, "text-anchor": "middle", transform: "" });
      }
    }
  }
  for (const text of above) {
    const [x, y] = place(0, +text.dataset.c);
    put(text, flat
      ? { x: left + across + 4, y: top + (y + 0.5) * high + 3.5, "text-anchor": "start" }
      : { x: left + (x + 0.5) * wide, y: top - 6, "text-anchor": "middle" });
  }
}

function ink(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 ? "#000" : "#fff";
}

function paint(svg, shade) {
  const columns = svg.querySelectorAll("text.column").length;
  for (const cell of svg.querySelectorAll("g[data-tip]")) {
    const step = ALPHABET.indexOf(shade.cells[+cell.dataset.r * columns + +cell.dataset.c]);
    const colour = step < 0 ? "#b5b9be" : shade.colours[step];
    cell.firstChild.style.fill = colour;
    cell.firstChild.style.stroke = cell.classList.contains("hit") ? ink(colour) : "";
    if (cell.children[1]) cell.children[1].style.fill = ink(colour);
  }
  const key = svg.closest(".panel").querySelector(".key .bar");
  key.innerHTML = "<span></span> <i></i> <span></span> <em></em>";
  const bar = key.querySelector("i");
  key.children[0].textContent = shade.low;
  key.children[2].textContent = shade.high;
  bar.style.background = `linear-gradient(to right, ${shade.colours.filter((_, i) => i % 7 === 0).join(", ")})`;
  if (shade.mark) {
    const line = document.createElement("b");
    line.style.left = 100 * shade.mark[0] + "%";
    bar.append(line);
    key.querySelector("em").textContent = shade.mark[1];
  }
}

function choice(names, label, chosen) {
  const box = document.createElement("label"), select = document.createElement("select");
  box.append(label + " ", select);
  names.forEach((name, i) => select.add(new Option(name, i)));
  select.addEventListener("change", () => chosen(+select.value));
  return box;
}

for (const svg of pictures) {
  const shades = JSON.parse(svg.dataset.shades);
  const key = svg.closest(".panel").querySelector(".key");
  const bar = document.createElement("span");
  bar.className = "bar";
  if (shades.length > 1) key.append(choice(shades.map((s) => s.name), "colour:", (i) => paint(svg, shades[i])));
  key.append(bar);
  paint(svg, shades[0]);
  svg.at = new Map([...svg.querySelectorAll("g[data-tip]")].map((cell) => [cell.dataset.r + "," + cell.dataset.c, cell]));
  svg.row = new Map([...svg.querySelectorAll("text.row")].map((text) => [text.textContent, text.dataset.r]));
}

/* The orientation of all pictures of layers; the address keeps it, so that a link shows what its sender saw. */
const TURNS = ["down", "up", "right"];
function turn(how) {
  pictures.forEach((svg) => layOut(svg, how));
  document.body.classList.toggle("right", how === "right");
  document.querySelectorAll("#turn button").forEach((button, i) => button.setAttribute("aria-pressed", TURNS[i] === how));
}
const asked = location.hash.replace("#layers=", "");
if (pictures.some((svg) => svg.dataset.turns === "1")) {
  const bar = document.createElement("nav");
  bar.id = "turn";
  bar.append("layers: ");
  for (const [how, name] of [["down", "top to bottom"], ["up", "bottom to top"], ["right", "left to right"]]) {
    const button = document.createElement("button");
    button.textContent = name;
    button.addEventListener("click", () => { location.hash = "layers=" + how; turn(how); });
    bar.append(button);
  }
  document.querySelector("header").append(bar);
}
turn(TURNS.includes(asked) ? asked : "down");

/* Numbers under the mouse; the same layer and token is marked in every picture of the same tokens. */
let marked = [];
document.addEventListener("mousemove", (event) => {
  const cell = event.target.closest ? event.target.closest("[data-tip]") : null;
  marked.forEach((other) => other.classList.remove("same"));
  marked = [];
  if (!cell) { tip.hidden = true; return; }
  const own = cell.closest("svg.cells");
  if (own) {
    const name = own.querySelectorAll("text.row")[+cell.dataset.r].textContent;
    for (const svg of pictures.filter((other) => other.dataset.link === own.dataset.link)) {
      const other = svg.at.get(svg.row.get(name) + "," + cell.dataset.c);
      if (other) { other.classList.add("same"); marked.push(other); }
    }
  }
  tip.textContent = cell.getAttribute("data-tip");
  tip.hidden = false;
  const wide = tip.offsetWidth, right = event.clientX + 14 + wide > window.innerWidth;
  tip.style.left = (right ? event.clientX - wide - 10 : event.clientX + 14) + "px";
  tip.style.top = Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 4) + "px";
});
