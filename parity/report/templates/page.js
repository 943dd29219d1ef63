"use strict";
(() => {
const $ = id => document.getElementById(id);
const root = document.documentElement;
const box = $("p_q");
const cells = [...document.querySelectorAll(".cell")].map(el => ({
  el,
  heading: el.querySelector("h4"),
  fields: {model: el.dataset.model, target: el.dataset.target, precision: el.dataset.precision,
    state: el.dataset.state, id: el.querySelector("h4 a").textContent},
  text: null,
}));
for (const cell of cells) for (const key in cell.fields) cell.fields[key] = cell.fields[key].toLowerCase();
const byId = new Map(cells.map(cell => [cell.el.id, cell]));
const slots = [...document.querySelectorAll(".matrix td a")].map(el => ({el, cell: byId.get(el.hash.slice(1))}));
const states = [...document.querySelectorAll(".state")];

function parse(query) {
  const terms = [];
  for (const [, minus, key, quoted, bare] of query.matchAll(/(-?)(?:([a-z]+):)?(?:"([^"]*)"?|(\S+))/gi)) {
    const field = key && key.toLowerCase();
    const known = ["model", "target", "precision", "state", "id"].includes(field);
    const value = (quoted ?? bare).toLowerCase();
    if (known) terms.push({minus, field, any: value.split(",").filter(Boolean)});
    else terms.push({minus, any: [(field ? field + ":" : "") + value]});
  }
  return terms.filter(term => term.any.length);
}
function holds(cell, term) {
  if (!term.field) {
    cell.text ??= cell.el.textContent.toLowerCase();
    return cell.text.includes(term.any[0]);
  }
  const value = cell.fields[term.field];
  return term.any.some(word => term.field === "model" || term.field === "id" ? value.includes(word) : value === word);
}
function apply() {
  const terms = parse(box.value);
  let shown = 0;
  for (const cell of cells) {
    cell.on = terms.every(term => holds(cell, term) === !term.minus);
    cell.el.hidden = !cell.on;
    shown += cell.on;
  }
  for (const state of states) state.hidden = !state.querySelector(".cell:not([hidden])");
  for (const {el, cell} of slots) el.classList.toggle("away", !!cell && !cell.on);
  for (const row of document.querySelectorAll(".matrix tbody tr:not(.model)"))
    row.hidden = terms.length > 0 && !row.querySelector("td a:not(.away)");
  for (const body of document.querySelectorAll(".matrix tbody"))
    body.hidden = terms.length > 0 && !body.querySelector("td a:not(.away)");
  const all = `${cells.length} cell${cells.length === 1 ? "" : "s"}`;
  $("p_shown").textContent = terms.length ? `${shown} of ${all}` : all;
  $("p_none").hidden = shown > 0 || !cells.length;
}

/* The address: #CELL, #?FILTER or #CELL?FILTER. */
function read() {
  const hash = location.hash.slice(1);
  const at = hash.indexOf("?");
  const decode = text => { try { return decodeURIComponent(text); } catch { return text; } };
  return {id: at < 0 ? hash : hash.slice(0, at), query: at < 0 ? null : decode(hash.slice(at + 1))};
}
function write(id) {
  const query = box.value.trim();
  const hash = (id || "") + (query ? "?" + encodeURIComponent(query).replace(/%3A/g, ":").replace(/%2C/g, ",") : "");
  history.replaceState(null, "", hash ? "#" + hash : location.pathname + location.search);
}
function follow() {
  const {id, query} = read();
  if (query !== null && query !== box.value) { box.value = query; apply(); }
  const target = id && $(id);
  if (!target) return;
  if (target.closest("[hidden]")) { box.value = ""; apply(); }
  if (query === null && box.value) write(id);
  target.scrollIntoView();
}
function filter(query) {
  box.value = query;
  apply();
  write("");
}

const themes = ["auto", "light", "dark"];
function theme(name) {
  if (name === "auto") delete root.dataset.theme; else root.dataset.theme = name;
  $("p_theme").textContent = "Theme: " + name;
  try { localStorage.setItem("parity-theme", name); } catch {}
}
const nextTheme = () => theme(themes[(themes.indexOf(root.dataset.theme || "auto") + 1) % 3]);

function step(by) {
  const open = cells.filter(cell => cell.on);
  if (!open.length) return;
  const held = document.activeElement.closest(".cell");
  let at = open.findIndex(cell => cell.el === held);
  if (at < 0) {
    at = open.findIndex(cell => cell.el.getBoundingClientRect().top > 70);
    if (at < 0) at = open.length;
    if (by > 0) at -= 1;
  }
  go(open[Math.max(0, Math.min(open.length - 1, at + by))]);
}
function go(cell) {
  cell?.heading.focus({preventScroll: true});
  cell?.el.scrollIntoView({block: "start"});
}

const help = $("p_help");
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    if (help.open) help.close();
    else if (box.value) filter("");
    if (document.activeElement === box) box.blur();
    return;
  }
  if (help.open || event.target.closest("input, textarea, select")) return;
  const act = {
    "/": () => { box.focus(); box.select(); scrollTo({top: matchMedia("(max-width:700px)").matches ? 0 : scrollY}); },
    j: () => step(1), k: () => step(-1), t: nextTheme, "?": () => help.showModal(),
    m: () => $("p_matrix").scrollIntoView(),
  }[event.key];
  if (act) { event.preventDefault(); act(); }
});
let waiting = 0;
box.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => { apply(); write(""); }, cells.length > 100 ? 120 : 0);
});
$("p_form").addEventListener("submit", event => {
  event.preventDefault();
  clearTimeout(waiting);
  filter(box.value);
  go(cells.find(cell => cell.on));
});
$("p_clear").addEventListener("click", () => filter(""));
$("p_theme").addEventListener("click", nextTheme);
$("p_keys").addEventListener("click", () => help.showModal());
$("p_close").addEventListener("click", () => help.close());
for (const chip of document.querySelectorAll("[data-q]")) chip.addEventListener("click", event => {
  event.preventDefault();
  filter(box.value.trim() === chip.dataset.q ? "" : chip.dataset.q);
});
for (const line of document.querySelectorAll(".rerun")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-label", "Copy the command");
  button.addEventListener("click", () => {
    const code = line.querySelector("code");
    getSelection().selectAllChildren(code);
    navigator.clipboard?.writeText(code.textContent).then(() => { button.textContent = "Copied"; }, () => {});
  });
  line.append(button);
}
addEventListener("hashchange", follow);
$("p_form").hidden = $("p_tools").hidden = false;
let saved = "auto";
try { saved = localStorage.getItem("parity-theme") || "auto"; } catch {}
theme(themes.includes(saved) ? saved : "auto");
apply();
follow();
root.dataset.ready = Math.round(performance.now());
})();
