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
  const text = button.parentElement.querySelector("pre");
  try {
    await navigator.clipboard.writeText(text.textContent);
    const use = button.querySelector("use");
    const [label, href] = [button.getAttribute("aria-label"), use.getAttribute("href")];
    if (label === "Copied") return;
    button.setAttribute("aria-label", "Copied");
    use.setAttribute("href", href.replace("#copy", "#check"));
    setTimeout(() => {
      button.setAttribute("aria-label", label);
      use.setAttribute("href", href);
    }, 2000);
  } catch {
    getSelection().selectAllChildren(text); // where the browser gives no clipboard: selected, ready to copy by hand
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

// a secret that is shown once does not come back with the back button

addEventListener("pagehide", () => {
  for (const each of document.querySelectorAll("[data-shown-once]"))
    each.textContent = "It was shown once. If you did not keep it, revoke it and make another one.";
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

// the log: stay at its end until the reader scrolls up, and again once they are back there

const log = document.getElementById("log");

if (log) {
  const CHUNKS_KEPT = 250; // of 200 lines; older ones leave the page while it follows, and can be loaded again
  const lines = document.getElementById("log-lines");
  const button = document.querySelector("[data-follow]");
  let following = log.classList.contains("is-following");
  let lastTop = 0;
  let lastHeight = 0;
  let pressed = false; // a hand is on the bar or draws a selection
  let meant = -Infinity; // when the reader last did something that can scroll

  const left = () => log.scrollHeight - log.clientHeight - log.scrollTop;
  const note = () => {
    lastTop = log.scrollTop;
    lastHeight = log.scrollHeight;
    log.classList.toggle("is-at-end", left() < 4);
  };
  const pin = () => {
    if (!following || pressed) return;
    log.scrollTop = log.scrollHeight;
    note();
  };
  const set = (on) => {
    following = on && Boolean(button);
    log.classList.toggle("is-following", following);
    button?.setAttribute("aria-pressed", String(following));
    if (following) {
      trim();
      pin();
    }
    note();
  };
  log.classList.add("is-scripted"); // from here on the end is kept by scrolling, not by a reversed column
  pin();

  new ResizeObserver(pin).observe(log.firstElementChild);
  new ResizeObserver(pin).observe(log);

  for (const kind of ["wheel", "touchmove", "keydown"])
    log.addEventListener(kind, () => { meant = performance.now(); }, { passive: true });
  log.addEventListener("pointerdown", () => { pressed = true; });
  for (const kind of ["pointerup", "pointercancel"])
    addEventListener(kind, () => {
      if (!pressed) return;
      pressed = false;
      if (following && (left() > 4 || log.contains(getSelection().anchorNode) && String(getSelection()))) set(false);
    });

  log.addEventListener("scroll", () => {
    const top = log.scrollTop;
    const byHand = pressed || performance.now() - meant < 1000 || log.scrollHeight === lastHeight;
    if (byHand && following && top < lastTop && left() > 4) set(false);
    else if (byHand && !following && top > lastTop && left() < 4) set(true);
    note();
  }, { passive: true });
  button?.addEventListener("click", () => set(!following));

  // lines put in above must not move the line that is being read
  let held = null;
  document.addEventListener("htmx:before:swap", (event) => {
    const more = event.target.closest?.("#more-above");
    const next = more?.nextElementSibling;
    held = next && { next, at: next.getBoundingClientRect().top };
  });
  document.addEventListener("htmx:before:swap", (event) => {
    if (event.target.closest?.(".log-more")) requestAnimationFrame(() => log.focus({ preventScroll: true }));
  });
  new MutationObserver(() => {
    if (held?.next.isConnected) {
      const shift = held.next.getBoundingClientRect().top - held.at;
      if (shift) log.scrollTop += shift;
    }
    held = null;
    if (following) trim();
  }).observe(lines, { childList: true });

  function trim() {
    const chunks = lines.querySelectorAll(":scope > .log-chunk");
    if (chunks.length <= CHUNKS_KEPT * 1.2) return;
    for (const chunk of [...chunks].slice(0, chunks.length - CHUNKS_KEPT)) chunk.remove();
    document.getElementById("more-above")?.remove();
    const link = moreAbove(lines.querySelector(".log-chunk > ol").start);
    lines.prepend(link);
    htmx.process(link);
  }

  // as jobs/_more_above.html
  function moreAbove(line) {
    const address = (path, query) => {
      const url = new URL(path, location.href);
      for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
      return url.pathname + url.search;
    };
    const paragraph = document.createElement("p");
    paragraph.className = "log-more";
    paragraph.id = "more-above";
    const link = document.createElement("a");
    link.className = "btn btn-s";
    link.href = `${address(log.dataset.page, { line: line - 1 })}#L${line - 1}`;
    link.setAttribute("hx-get", address(log.dataset.lines, { above: line }));
    link.setAttribute("hx-target", "#more-above");
    link.setAttribute("hx-swap", "outerHTML");
    link.textContent = `${(line - 1).toLocaleString("en")} earlier lines: show more`;
    paragraph.append(link);
    return paragraph;
  }

  const wrap = document.querySelector("[data-wrap]");
  wrap?.addEventListener("click", () => {
    const on = log.classList.toggle("is-nowrap");
    wrap.setAttribute("aria-pressed", String(!on));
    pin();
  });

  // a click on a line's number makes the address point at the line
  log.addEventListener("click", (event) => {
    const line = event.target.closest("li[id]");
    const gutter = line && parseFloat(getComputedStyle(line).paddingInlineStart);
    if (!line || event.clientX - line.getBoundingClientRect().left > gutter || String(getSelection())) return;
    const address = new URL(location.href);
    address.searchParams.set("line", line.id.slice(1));
    address.hash = line.id;
    set(false);
    history.replaceState(history.state, "", address);
    log.querySelector(".is-hit")?.classList.remove("is-hit");
    line.classList.add("is-hit");
  });

  // the line in question in the middle of the log, whatever the address's own jump does
  const hit = log.querySelector(".is-hit");
  const show = () => {
    if (!hit) return;
    const from = hit.getBoundingClientRect().top - log.getBoundingClientRect().top;
    log.scrollTop += from - log.clientHeight / 3;
  };
  show();
  addEventListener("load", () => requestAnimationFrame(show));

  // the tab says how the job stands
  const head = document.getElementById("job-head");
  new MutationObserver(() => {
    const state = head.querySelector(".state-badge")?.textContent.trim().toLowerCase();
    const title = document.title.replace(/, \w+ · /, `, ${state} · `);
    if (state && title !== document.title) document.title = title;
  }).observe(head, { childList: true, subtree: true, characterData: true });
}

// where tabs or ranks do not all fit, the one in question is in sight

document.querySelector(":is(.tabs, .ranks) [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });

// the launch form: its own buttons work at once; the server then draws limits and summary anew

const launch = document.getElementById("launch");

if (launch) {
  const redraw = (field) => field.dispatchEvent(new Event("change", { bubbles: true }));
  const fields = () => [...launch.querySelectorAll("input, textarea, select")].filter((field) => field.id);
  const state = (field) => (field.type === "radio" ? String(field.checked) : field.value);

  // what a button was when the pointer went down: the form may be drawn anew before it comes up, and + become Remove
  let down = {};
  launch.addEventListener("pointerdown", (event) => {
    const step = event.target.closest("button[name=step]");
    down = { step, wish: step?.value };
  });
  launch.addEventListener("click", (event) => {
    const step = event.target.closest("button[name=step]");
    if (!step) return;
    event.preventDefault();
    const wish = event.detail && down.step === step ? down.wish : step.value;
    const [, name, by] = wish.match(/^(gpus|nodes)([+-]1)$/) ?? [];
    if (name) {
      const field = document.getElementById(name);
      field.value = Math.max(Number(field.min), (parseInt(field.value, 10) || 0) + Number(by));
      redraw(field);
      return;
    }
    const row = step.closest("li");
    const first = row.querySelector("input");
    if (wish === "add-env") {
      launch.dataset.focus = "last-variable";
      if (!first.value) first.focus();
    } else {
      for (const input of row.querySelectorAll("input")) input.value = "";
      (row.nextElementSibling ?? row).querySelector("input").focus();
      launch.dataset.focus = first.id; // the next row moves up to here
    }
    redraw(first);
  });

  // A morph leaves alone what was typed into a field. The server's value must win there, unless more was typed since.
  let sent = new Map();
  let kept = new Map();
  launch.addEventListener("htmx:before:request", () => {
    sent = new Map(fields().map((field) => [field.id, state(field)]));
  });
  // While the pointer presses Launch nothing is drawn anew: the button might move away from it, and the click be lost.
  let pressed = false;
  let missed = false;
  launch.addEventListener("pointerdown", (event) => {
    pressed = Boolean(event.target.closest("button:not([name=step])"));
  });
  for (const end of ["pointerup", "pointercancel"]) {
    addEventListener(end, () => {
      pressed = false;
      // after the click, if it is one
      setTimeout(() => {
        if (missed) redraw(fields()[0]);
        missed = false;
      });
    });
  }
  launch.addEventListener("submit", () => {
    missed = false;
  });
  launch.addEventListener("htmx:before:swap", (event) => {
    if (pressed) {
      missed = true;
      event.preventDefault();
      return;
    }
    kept = new Map(fields().filter((field) => sent.get(field.id) !== state(field)).map((field) => [field.id, state(field)]));
  });
  launch.addEventListener("htmx:after:swap", () => {
    for (const field of fields()) {
      const typed = kept.get(field.id);
      if (field.type === "radio") field.checked = typed === undefined ? field.defaultChecked : typed === "true";
      else if (field.tagName === "SELECT") {
        const drawn = [...field.options].find((option) => option.defaultSelected) ?? field.options[0];
        field.value = typed ?? drawn.value;
      } else if (field.value !== (typed ?? field.defaultValue)) field.value = typed ?? field.defaultValue;
    }
    const focus = launch.dataset.focus;
    delete launch.dataset.focus;
    if (focus === "last-variable") launch.querySelector(".rows > li:last-child input").focus();
    else if (focus) document.getElementById(focus)?.focus();
  });
}

// a poll that gets no answer says so, and goes on

document.addEventListener("htmx:error", () => say("The portal does not answer. This page tries again."));
document.addEventListener("htmx:response:error", (event) => {
  if (event.detail.ctx.response.status >= 500) say("The portal does not answer. This page tries again.");
});
document.addEventListener("htmx:after:request", (event) => {
  if (event.detail.ctx.response.status < 400) say("");
});

function say(text) {
  const toast = document.getElementById("news");
  if (toast && toast.textContent !== text) toast.textContent = text;
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

if (!("command" in HTMLButtonElement.prototype))
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[commandfor]");
    if (button) document.getElementById(button.getAttribute("commandfor")).close();
  });

// relative times go on while the page is open; the server writes them the same way

const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

function spoken(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const at = UNITS.findIndex(([unit, size]) => whole >= (unit === "d" ? 2 * size : size));
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
