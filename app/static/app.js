// Comfort only: every page works without this file. No inline handlers anywhere, the content policy forbids them.
"use strict";

const csrf = document.querySelector("meta[name=csrf-token]")?.content;

// htmx

document.addEventListener("htmx:config:request", (event) => {
  if (csrf) event.detail.ctx.request.headers["X-CSRFToken"] = csrf;
});

// copy buttons

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const text = button.parentElement.querySelector("pre").textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.setAttribute("aria-label", "Copied");
    button.classList.add("is-good");
  } catch {
    const range = document.createRange();
    range.selectNodeContents(button.parentElement.querySelector("pre"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  }
});

// a form that was sent is not sent again by a second click

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "post") return;
  if (form.dataset.sent && !event.submitter?.hasAttribute("formaction")) {
    event.preventDefault();
    return;
  }
  if (event.submitter?.hasAttribute("formaction")) return;
  form.dataset.sent = "1";
  event.submitter?.setAttribute("aria-busy", "true");
});

addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
  for (const busy of document.querySelectorAll("[aria-busy]")) busy.removeAttribute("aria-busy");
});

// menus close on a click elsewhere and on Escape

document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]"))
    if (!menu.contains(event.target)) menu.open = false;
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape")
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
});

// a filter is used as soon as it is chosen

document.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-submit-on-change]");
  if (form && event.target.matches("select, [type=radio]")) form.requestSubmit();
});

// the log: follow its end until the reader scrolls up

const log = document.getElementById("log");

if (log) {
  const follow = document.querySelector("[data-follow]");
  const set = (on) => {
    const top = log.scrollTop;
    const height = log.scrollHeight - log.clientHeight;
    const was = log.classList.contains("is-following");
    log.classList.toggle("is-following", on);
    // a reversed column counts from its end: keep the place in sight when the direction changes
    if (was && !on) log.scrollTop = height + top;
    if (!was && on) log.scrollTop = 0;
    follow?.setAttribute("aria-pressed", String(on));
  };
  const atEnd = () =>
    log.classList.contains("is-following")
      ? log.scrollTop > -4
      : log.scrollHeight - log.clientHeight - log.scrollTop < 4;
  log.addEventListener("wheel", (event) => {
    if (event.deltaY < 0 && log.classList.contains("is-following") && log.scrollHeight > log.clientHeight) set(false);
  }, { passive: true });
  log.addEventListener("touchmove", () => { if (!atEnd()) set(false); }, { passive: true });
  log.addEventListener("keydown", (event) => {
    if (["ArrowUp", "PageUp", "Home"].includes(event.key) && log.classList.contains("is-following")) set(false);
    if (event.key === "End") set(true);
  });
  log.addEventListener("mousedown", () => {
    // dragging the bar, or selecting text, is reading
    addEventListener("mouseup", () => { if (!atEnd() || String(getSelection())) set(false); }, { once: true });
  });
  follow?.addEventListener("click", () => set(!log.classList.contains("is-following")));

  const wrap = document.querySelector("[data-wrap]");
  wrap?.addEventListener("click", () => {
    const on = log.classList.toggle("is-nowrap");
    wrap.setAttribute("aria-pressed", String(!on));
  });

  // a click on a line's number makes the address point at the line
  log.addEventListener("click", (event) => {
    const line = event.target.closest("li[id]");
    if (!line || event.offsetX > 60 || event.target !== line || String(getSelection())) return;
    const address = new URL(location.href);
    address.searchParams.set("line", line.id.slice(1));
    address.hash = line.id;
    set(false);
    history.replaceState(null, "", address);
    log.querySelector(".is-hit")?.classList.remove("is-hit");
    line.classList.add("is-hit");
  });

  const hit = log.querySelector(".is-hit");
  if (hit) hit.scrollIntoView({ block: "center" });
}

// the job list and the launch form by keyboard

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select, [contenteditable], dialog")) return;
  if (event.key === "/") {
    const search = document.querySelector("input[type=search]");
    if (search) {
      event.preventDefault();
      search.focus();
    }
  }
  if (event.key === "n") document.querySelector("[data-new-job]")?.click();
});

// the question before a stop, as a dialog; without this file the link leads to a page with the same question

document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-dialog]");
  const dialog = link && document.getElementById(link.dataset.dialog);
  if (!dialog) return;
  event.preventDefault();
  dialog.showModal();
});

// relative times go on while the page is open; the server writes them the same way

const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

function spoken(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const at = UNITS.findIndex(([, size]) => whole >= size);
  if (at < 0) return "0\u00a0s";
  const [unit, size] = UNITS[at];
  let text = `${Math.floor(whole / size)}\u00a0${unit}`;
  const next = UNITS[at + 1];
  const rest = next && Math.floor((whole % size) / next[1]);
  if (rest && !(unit === "min" && whole >= 600)) text += `\u00a0${rest}\u00a0${next[0]}`;
  return text;
}

setInterval(() => {
  if (document.hidden) return;
  for (const time of document.querySelectorAll("time[data-tail]")) {
    const seconds = (Date.now() - Date.parse(time.dateTime)) / 1000;
    if (seconds < 0) continue;
    const unit = [86400, 3600, 60].find((size) => seconds >= size);
    const ago = time.dataset.tail !== "";
    const rounded = ago && unit && seconds >= 10 * unit ? Math.floor(seconds / unit) * unit : seconds;
    const text = ago && seconds < 5 ? "just now" : spoken(rounded) + time.dataset.tail;
    if (time.textContent !== text) time.textContent = text;
  }
}, 1000);
