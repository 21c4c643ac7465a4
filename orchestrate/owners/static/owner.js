// How far a VM has come on its way back, told anew every second. Without this script the page reloads itself.
"use strict";

(() => {
  const progress = document.getElementById("progress");
  if (!progress || !progress.dataset.state) return;
  const address = `${location.pathname.split("/").pop()}/state`;

  async function look() {
    try {
      const answer = await fetch(address, { cache: "no-store", credentials: "omit" });
      if (answer.ok) {
        const told = await answer.json();
        if (told.line && told.line !== progress.textContent) progress.textContent = told.line;
        if (told.ended) return location.reload();
      }
    } catch {
      // The server may be starting anew: the next look tells.
    }
    setTimeout(look, 1000);
  }

  setTimeout(look, 1000);
})();
