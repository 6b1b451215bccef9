// A picture by the camera: through the browser where it allows that, else through the phone's own camera.
import { el } from "./elements.js";

/** Calls `taken(file)` with a picture; `otherwise()` where this browser gives no camera to this address. */
export async function takePicture(taken, otherwise) {
  if (!navigator.mediaDevices?.getUserMedia) return otherwise();
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
  } catch {
    return otherwise();
  }
  const video = el("video", { autoplay: true, muted: true, playsInline: true, "aria-label": "What the camera sees" });
  video.srcObject = stream;
  const shoot = el("button", { class: "main", type: "button", disabled: true }, "Take it");
  const cancel = el("button", { type: "button" }, "Cancel");
  const box = el("dialog", { class: "camera", "aria-label": "Camera" }, video, el("div", { class: "actions" }, shoot, cancel));
  cancel.onclick = () => box.close();
  box.onclose = () => {
    stream.getTracks().forEach((track) => track.stop());
    box.remove();
  };
  shoot.onclick = async () => {
    const canvas = el("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
    box.close();
    taken(new File([blob], "camera.jpg", { type: "image/jpeg" }));
  };
  video.onloadeddata = () => {
    shoot.disabled = false;
    shoot.focus();
  };
  document.body.append(box);
  return box.showModal();
}
