// Fetches the page anew and swaps its <main>, so that nothing flashes and what the reader unfolded stays unfolded.
"use strict";
const seconds = Number(document.currentScript.dataset.seconds);

async function refresh() {
  const stale = document.getElementById("stale");
  try {
    const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(seconds * 1000) });
    if (!answer.ok) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelector("main");
    for (const open of document.querySelectorAll("details[open]")) {
      const same = fresh.querySelector(`#${CSS.escape(open.id)}`);
      if (same) same.open = true;
    }
    const focused = document.activeElement?.closest("details")?.id;
    document.querySelector("main").replaceWith(fresh);
    if (focused) document.getElementById(focused)?.querySelector("summary").focus({ preventScroll: true });
    stale.hidden = true;
  } catch {
    stale.hidden = false;
  }
  setTimeout(refresh, seconds * 1000);
}

setTimeout(refresh, seconds * 1000);
