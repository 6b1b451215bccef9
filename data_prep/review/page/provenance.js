// Who said what of a record, foldable.
import { el } from "./dom.js";

const list = (rows) => el("dl", {}, rows.filter(([, value]) => value !== null && value !== undefined && value !== "")
  .map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
const plain = (value) => (value && typeof value === "object" ? Object.entries(value).map(([k, v]) => `${k}: ${plain(v)}`).join(", ") : String(value));
const percent = (value) => `${Math.round(100 * value)} %`;

function opinion({ annotator, model, reply, failed }) {
  const title = el("p", {}, el("b", {}, annotator), el("span", { class: "soft" }, ` · ${model}`));
  if (failed) return el("div", { class: "said" }, title, el("p", { class: "soft" }, failed));
  if (!reply) return null;
  const triplet = reply.subject ? `${reply.background} · ${reply.attribute} · ${reply.subject}` : null;
  const intensity = reply.intensity ? `, intensity ${reply.intensity}` : "";
  return el("div", { class: "said" }, title, el("p", {}, `${reply.emotion} (${percent(reply.confidence)})${intensity}`),
    triplet && el("p", {}, triplet), reply.description && el("p", { class: "soft" }, reply.description));
}

function inspection(round, place) {
  const steps = [["scene", round.scene], ["description", round.description_check], ["triplet", round.triplet_check], ["emotion", round.emotion_check],
    ["asks for", round.instructions]];
  return el("div", { class: "said" }, el("p", {}, el("b", {}, `Inspection ${place + 1} `), el("span", { class: `chip ${round.verdict}` }, round.verdict),
    el("span", { class: "soft" }, ` sees ${round.emotion}, ${round.intensity_level}`)), list(steps));
}

export function provenance({ record }, open) {
  const from = record.provenance;
  const said = from.said ?? [];
  const rounds = [...new Set(said.map((row) => row.round))].sort((a, b) => a - b);
  const pool = from.pool && `margin ${from.pool.margin.toFixed(2)}, ${percent(from.pool.agreement)} of the weight agrees${from.pool.contested ? ", contested" : ""}`;
  return el("details", { open, id: "provenance" }, el("summary", {}, "Who said what"),
    rounds.map((round) => {
      const opinions = said.filter((row) => row.round === round).map(opinion).filter(Boolean);
      return opinions.length ? [el("h2", {}, round ? `After revision ${round}` : "Annotators"), opinions] : [];
    }),
    from.critic?.length ? [el("h2", {}, "Critic"), from.critic.map(inspection)] : [],
    el("h2", {}, "Record"),
    list([["pool", pool], ["source says", from.source_labels && plain(from.source_labels)], ["origin", from.origin], ["licence", from.licence]]));
}
