// Which of the two pages this is.
import { ask, el } from "./dom.js";

const app = document.getElementById("app");
try {
  const session = await ask("session");
  const { start } = await import(session.mode === "study" ? "./study.js" : "./review.js");
  await start(app, session);
} catch (error) {
  app.replaceChildren(el("p", { class: "loading", role: "alert" }, error.message));
  throw error;
}
