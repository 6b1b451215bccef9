// One picture: brought here, explained, covered in part, and set beside the images of an index.
import { ask, dataUri, note } from "./ask.js";
import { takePicture } from "./camera.js";
import { Near } from "./near.js";
import { Shown } from "./shown.js";

const by = (id) => document.getElementById(id);
const [app, mat, panel, file] = ["app", "mat", "panel", "file"].map(by);
let about;
let near;
let asking;

async function start() {
  about = await ask("page-data");
  by("model").textContent = about.id;
  near = new Near(by("near"), about);
  for (const picker of [file, by("shot")]) picker.onchange = () => {
    bring(picker.files[0]);
    picker.value = "";
  };
  by("second").onchange = () => {
    near.toFile(by("second").files[0]);
    by("second").value = "";
  };
  by("choose").onclick = () => file.click();
  by("camera").onclick = () => takePicture(bring, () => by("shot").click());
  document.addEventListener("paste", (event) => {
    const found = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (found) bring(found);
    else if (event.clipboardData) note("There is no picture on the clipboard.", true);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    const [found] = event.dataTransfer.files;
    if (found) bring(found);
    else note("That is no file. Save the picture first, or copy it and paste it here.", true);
  });
  document.body.dataset.ready = "";
}

/** Explain a file; what was asked about the one before it is given up. */
async function bring(found) {
  if (!found) return;
  asking?.abort();
  const mine = (asking = new AbortController());
  if (found.size > about.max_body) return note(`The picture has ${mega(found.size)} MB; this server takes ${mega(about.max_body)} MB.`, true);
  app.className = "busy";
  // From further down, where the images of the index are.
  if (by("stage").getBoundingClientRect().bottom < 0) scrollTo({ top: 0 });
  try {
    const { data } = await ask("v1/explain", {
      body: found, type: found.type || "application/octet-stream", signal: mine.signal,
      busy: (seconds) => note(`The server is busy; asking again in ${seconds} s.`),
    });
    const shown = new Shown(about, data[0], URL.createObjectURL(found), () => dataUri(found));
    document.querySelector("#mat img") && URL.revokeObjectURL(document.querySelector("#mat img").src);
    mat.replaceChildren(shown.picture);
    panel.replaceChildren(shown.panel);
    for (const part of [mat, panel]) part.hidden = false;
    app.className = "found";
    near.from(data[0].des, shown.address);
  } catch (error) {
    if (error.name === "AbortError") return;
    app.className = mat.hidden ? "empty" : "found";
    note(error.message, true);
  }
}

const mega = (bytes) => (bytes / 2 ** 20).toFixed(1);

start().catch((error) => note(error.message, true));
