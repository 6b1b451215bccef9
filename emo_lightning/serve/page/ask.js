// Requests to this server, in its own words where they fail.

const PATIENCE = 5;
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

/** Ask `path`, relative to this page; a server that is busy is asked again when it says so. */
export async function ask(path, { body, type = "application/json", signal, busy } = {}) {
  for (let attempt = 1; ; attempt++) {
    let response;
    try {
      response = await fetch(path, body === undefined ? { signal } : { method: "POST", headers: { "Content-Type": type }, body, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer. Is `emo serve` still running?");
    }
    if (response.status === 503 && attempt < PATIENCE) {
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      busy?.(seconds);
      await pause(seconds);
      continue;
    }
    const found = await response.json().catch(() => null);
    if (!response.ok) throw new Error(found?.error?.message ?? `The server answers ${response.status}.`);
    return found;
  }
}

export const askJson = (path, value, options = {}) => ask(path, { ...options, body: JSON.stringify(value) });

/** A file as a `data:` URI. */
export function dataUri(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
}

let hiding;
export function note(text, bad = false) {
  const line = document.getElementById("note");
  line.textContent = text;
  line.className = bad ? "shown bad" : "shown";
  clearTimeout(hiding);
  hiding = setTimeout(() => (line.className = ""), bad ? 12000 : 4000);
}
