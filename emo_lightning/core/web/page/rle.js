// COCO run-length encoding → pixels, as pycocotools writes it.

/** Lengths of the runs (outside, inside, outside, …) of compressed counts. */
export function runs(counts) {
  const lengths = [];
  let place = 0;
  while (place < counts.length) {
    let value = 0;
    let shift = 0;
    let more = true;
    while (more) {
      const bits = counts.charCodeAt(place++) - 48;
      value |= (bits & 0x1f) << shift;
      shift += 5;
      more = (bits & 0x20) !== 0;
      if (!more && bits & 0x10) value |= -1 << shift;
    }
    // From the fourth run on, only the difference to the one before the last is written.
    if (lengths.length > 2) value += lengths.at(-2);
    lengths.push(value);
  }
  return lengths;
}

/** Mask as bytes 0/1, row by row; counts go down the columns. Runs that are not of this picture end it: a page must not draw for ever. */
export function decode({ size: [height, width], counts }) {
  const mask = new Uint8Array(width * height);
  let at = 0;
  let inside = 0;
  for (const length of runs(counts)) {
    if (length < 0 || at + length > mask.length) break;
    if (inside) for (let i = at; i < at + length; i++) mask[(i % height) * width + Math.floor(i / height)] = 1;
    at += length;
    inside ^= 1;
  }
  return mask;
}
